"""One POST over HTTP: to an address that was looked at, bounded in time and size, redirects not followed.

Its failure is told as `Undelivered`. Beside the looking up of the name, which the system bounds, the whole exchange
has one timeout.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from alerting.connection import Resolve, cause, checked_host, connect, limited, lookup
from alerting.deliver import Undelivered

_READ = 8_000  # bytes of an answer that are looked at: the words of a refusal, or what a caller asks to read

# The address, the credentials or the load are wrong, not the payload: everything for this destination has to wait.
_TROUBLE = {401, 403, 404, 405, 407, 408, 409, 410, 421, 425, 429}


class Endpoint:
    """Where to post. `url` and `headers` may hold secrets; `name`, the host, stands for them in every message.

    `hidden` are secrets that a body holds; `accepted` are statuses that are as good as 2xx; `private` false refuses
    private addresses and loopback, too (see `alerting.connection.objection`). ValueError for a URL without a host or
    to where nothing may be sent, OSError for a CA file that cannot be read.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
        ca: str = "",
        *,
        hidden: Collection[str] = (),
        accepted: Collection[int] = (),
        private: bool = True,
        resolve: Resolve = lookup,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL of a sink starts with http:// or https:// and names a host")
        self._host = checked_host(parts.hostname, private=private)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._private, self._resolve = private, resolve
        self.name = f"{self._host}:{self._port}"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "driftd", **headers}
        if parts.username is not None:
            self._headers |= basic(parts.username, parts.password or "")
        # Any longer word of them may be one, such as a token in the path of a webhook.
        words = {*hidden, *re.findall(r"[^\s/?&=:,;]{7,}", " ".join((url, *headers.values())))} - {""}
        self._secrets = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"\b\B")
        self._timeout, self._accepted = timeout, accepted
        self._tls = ssl.create_default_context(cafile=ca or None) if parts.scheme == "https" else None

    def post(self, body: bytes, headers: Mapping[str, str] | None = None, *, read: bool = False) -> bytes:
        """Post and have it accepted (2xx) within the timeout, or raise `Undelivered`.

        With `read` it returns the answer's first 8,000 bytes, which else are not waited for.
        """
        return self.ask("POST", self._path, body, headers, largest=_READ if read else 0)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        *,
        largest: int,
        accepted: Collection[int] = (),
    ) -> bytes:
        """Any request to a path of the same server; the first `largest` bytes of what it answers. Raises as `post`.
        `accepted` are statuses that are as good as 2xx this once."""
        deadline = time.monotonic() + self._timeout
        try:
            plain = connect(self._host, self._port, self._timeout, private=self._private, resolve=self._resolve)
            # Given its socket, the connection looks up no name again; the Host header and TLS still have the name.
            connection = self._connection()
            connection.sock = stream = self._wrapped(plain)
            with closing(connection), limited(lambda: stream, deadline - time.monotonic()):
                if isinstance(stream, ssl.SSLSocket):
                    stream.do_handshake()
                connection.request(method, path, body, {**self._headers, **(headers or {})})
                with connection.getresponse() as answer:
                    words = answer.read(_READ if answer.status >= 300 else largest)
        except (OSError, http.client.HTTPException) as error:
            raise Undelivered(f"{self.name}: {cause(error)}", retry=True) from error
        if answer.status >= 300 and answer.status not in (*self._accepted, *accepted):
            raise self._refusal(answer.status, answer.reason, words, answer.headers.get("Retry-After"))
        return words

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPConnection if self._tls is None else http.client.HTTPSConnection
        return kind(self._host, self._port, timeout=self._timeout)

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        if self._tls is None:
            return plain
        return self._tls.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)

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


def basic(user: str, password: str) -> dict[str, str]:
    """The header by which a user proves to be one."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


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
