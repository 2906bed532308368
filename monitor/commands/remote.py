"""The running daemon that a command speaks with."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from monitor.commands.terminal import configured, fail, load

_TIMEOUT = 30.0  # seconds for one answer
_LARGEST = 256 << 20  # bytes of an answer
_REFUSED = 300  # and every status above: a redirect is not followed, for the token is for this daemon alone


def remote(parser: argparse.ArgumentParser) -> None:
    """Gives a command the options that say which daemon it is about."""
    configured(parser, needed=False)
    parser.add_argument(
        "--url",
        default=os.environ.get("DRIFTD_URL", ""),
        help="the daemon's address, such as https://driftd.example.org; default $DRIFTD_URL, then the configuration's. "
        "The token is $DRIFTD_TOKEN, or on the daemon's own machine the one in its state's directory",
    )


class Remote:
    """A running daemon. Whatever goes wrong ends the program with exit code 1 and its reason."""

    def __init__(self, given: argparse.Namespace) -> None:
        token = os.environ.get("DRIFTD_TOKEN")
        self._url = given.url
        if not self._url or token is None:
            config = load(given.config)
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.web.host, config.web.host)  # noqa: S104 not bound to
            self._url = self._url or f"http://{f'[{host}]' if ':' in host else host}:{config.web.port}"
            token = _kept(Path(config.state.path)) if token is None else token
        self._token = token

    def get(self, path: str, **query: str) -> Any:
        """What is asked for, as JSON."""
        return json.loads(self._ask("GET", _with(path, query)))

    def post(self, path: str, said: Any) -> Any:
        """The answer to an act, as JSON; None where there is none."""
        return json.loads(self.fetch(path, said) or b"null")

    def fetch(self, path: str, said: Any) -> bytes:
        """The answer to an act, as it is."""
        return self._ask("POST", path, json.dumps(said).encode(), "application/json")

    def send(self, path: str, data: bytes, **query: str) -> Any:
        """The answer to a file, as JSON."""
        return json.loads(self._ask("POST", _with(path, query), data, "application/octet-stream"))

    def _ask(self, method: str, path: str, body: bytes | None = None, media: str = "") -> bytes:
        parts = urlsplit(self._url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if parts.scheme not in kinds or not parts.hostname:
            fail(f"{self._url} is no address of a daemon; wanted is one such as http://127.0.0.1:9464", 2)
        headers = {"Accept": "application/json"}
        if body is not None:
            # sent again by whoever runs the command again is another act; a proxy's own repeat is the same
            headers |= {"Content-Type": media, "Idempotency-Key": secrets.token_hex(16)}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_TIMEOUT)
            connection.request(method, parts.path.rstrip("/") + path, body, headers)
            answer = connection.getresponse()
            said: bytes = answer.read(_LARGEST)
            connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            fail(f"{self._url} does not answer: {error}. Does the daemon run there?")
        if answer.status >= _REFUSED:
            fail(_reason(answer.status, said))
        return said


def quoted(part: str) -> str:
    """A part of a path, whatever letters it has."""
    return quote(part, safe="")


def _with(path: str, query: Mapping[str, str]) -> str:
    """The path with what of the query is not empty."""
    asked = {name: value for name, value in query.items() if value}
    return path + (f"?{urlencode(asked)}" if asked else "")


def _kept(state: Path) -> str:
    """The token that the daemon keeps for its own machine; none where there is none."""
    from monitor.people import read_token

    try:
        return read_token(state) or ""
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}. Run this as the daemon's user, or set DRIFTD_TOKEN")


def _reason(status: int, said: bytes) -> str:
    try:
        detail = str(json.loads(said)["detail"])
    except (ValueError, TypeError, KeyError):
        detail = http.client.responses.get(status, "")
    hint = "; set DRIFTD_TOKEN" if status == http.client.UNAUTHORIZED else ""
    return f"refused ({status}): {detail}{hint}"
