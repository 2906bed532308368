"""One POST over HTTP: bounded in time and size, redirects not followed, its failure told as `Undelivered`."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from alerting.deliver import Undelivered

_READ = 2_000  # bytes of an answer that are looked at, for the words of a refusal

# The address, the credentials or the load are wrong, not the payload: everything for this destination has to wait.
_TROUBLE = {401, 403, 404, 405, 407, 408, 409, 410, 421, 425, 429}


class Endpoint:
    """Where to post. `url` and `headers` may hold secrets; `name`, the host, stands for them in every message."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float, ca: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL of a sink starts with http:// or https:// and names a host")
        self.name = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "driftd", **headers}
        if parts.username is not None:
            pair = f"{parts.username}:{parts.password or ''}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        # Any longer word of them may be one, such as a token in the path of a webhook.
        hidden = re.findall(r"[^\s/?&=:,;]{7,}", " ".join((url, *headers.values())))
        self._secrets = re.compile("|".join(map(re.escape, sorted(hidden, key=len, reverse=True))) or r"\b\B")
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=ca or None) if parts.scheme == "https" else None

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Post and have it accepted (2xx) within the timeout, or raise `Undelivered`."""
        connection = self._connection()
        try:
            connection.connect()
            # The socket's timeout starts anew with every byte received; this one is for the whole exchange.
            late = threading.Event()
            watchdog = threading.Timer(self._timeout, _hang_up, [connection.sock, late])
            watchdog.daemon = True
            watchdog.start()
            try:
                connection.request("POST", self._path, body, {**self._headers, **(headers or {})})
                with connection.getresponse() as answer:
                    words = answer.read(_READ) if answer.status >= 300 else b""
            finally:
                watchdog.cancel()
                if late.is_set():  # headers that were cut off look complete to http.client
                    raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            raise Undelivered(f"{self.name}: {_cause(error)}", retry=True) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise self._refusal(answer.status, answer.reason, words, answer.headers.get("Retry-After"))

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)

    def _refusal(self, status: int, reason: str, words: bytes, after: str | None) -> Undelivered:
        text = f"{self.name}: {status} {reason}"
        if status < 400:
            return Undelivered(f"{text}; redirects are not followed, configure the final address", retry=True)
        retry = status >= 500 or status in _TROUBLE
        if not retry and words:
            # A refusal says what is wrong with the payload; some servers repeat the path or a header too.
            said = self._secrets.sub("...", words.decode("utf-8", "replace"))
            text = f"{text}: {' '.join(said.split())[:200]}"
        return Undelivered(text, retry=retry, after=_seconds(after))


def _hang_up(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # gone already


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "host name not found"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, http.client.HTTPException | ConnectionError):
        return "connection closed before an answer came"
    return str(error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__


def _seconds(after: str | None) -> float | None:
    """Retry-After: a number of seconds or a date; None where absent or nonsense."""
    if not after:
        return None
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return None
