"""The training department: takes the daemon's requests to retrain, fetches what people labelled, trains, and says so.

Written as any receiver would be that knows the documented body and the signature of Standard Webhooks; nothing here is
the daemon's own code. A request that comes again is answered and not trained again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from monitor.demo.api import Api, Refused
from monitor.demo.committee import Committee

_log = logging.getLogger(__name__)

_OLDEST = 300.0  # seconds of a signature; a request that was recorded is not taken later
_LARGEST = 1 << 20  # bytes of a request

Train = Callable[[Mapping[str, str]], tuple[Committee, float]]
Adopt = Callable[[Committee, str], None]


class Keys(msgspec.Struct, frozen=True):
    """What the trainer must know of the daemon."""

    token: str
    secret: str  # of the signatures, whsec_ and base64

    def __repr__(self) -> str:
        return "Keys()"


class LabelSet(msgspec.Struct, frozen=True):
    """What a request says of a set of labels."""

    uri: str


class Data(msgspec.Struct, frozen=True):
    """The sets of labels that a request names."""

    train: LabelSet


class Asked(msgspec.Struct, frozen=True):
    """What the trainer reads of a request; everything else there is passed over."""

    request_id: str
    current_version: str
    status: str
    data: Data


class Labelled(msgspec.Struct, frozen=True):
    """What the trainer reads of a line of a label set."""

    event: str
    label: str


class Trainer:
    """Answers requests on a port of this machine while it is entered; trains one after the other on a thread."""

    def __init__(self, train: Train, adopt: Adopt, url: str, port: int, keys: Keys) -> None:
        self._train, self._adopt = train, adopt
        self._daemon = Api(urlsplit(url).netloc, keys.token)
        self._secret = keys.secret
        self._asked: queue.Queue[Asked | None] = queue.Queue()
        self._known: set[str] = set()
        self._ready: queue.Queue[tuple[Committee, str]] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._server.serve_forever, self._train_all)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._asked.put(None)

    def deploy(self) -> None:
        """Puts the version that was trained last into service. Called between two bursts."""
        while not self._ready.empty():
            self._adopt(*self._ready.get())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take, secret = self._take, self._secret

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), _LARGEST))
                status = 401
                if signed(secret, body, dict(self.headers.items()), time.time()):
                    status = take(body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        return Handler

    def _take(self, body: bytes) -> int:
        try:
            asked = msgspec.json.decode(body, type=Asked)
        except msgspec.MsgspecError:
            return 400
        if asked.status == "sent" and asked.request_id not in self._known:
            self._known.add(asked.request_id)
            self._asked.put(asked)
        return 202

    def _train_all(self) -> None:
        while (asked := self._asked.get()) is not None:
            version = str(int(asked.current_version) + 1)
            began = time.monotonic()
            try:
                self._say(asked, {"step": "started", "run": f"shelf-{version}"})
                found = self._fetch(asked.data.train.uri)
                committee, score = self._train({row.event: row.label for row in found})
            except (OSError, ValueError, Refused) as error:
                _log.exception("training failed")
                self._say(asked, {"step": "failed", "why": str(error)})
                continue
            self._say(
                asked,
                {"step": "finished", "version": version, "score": score, "seconds": time.monotonic() - began},
            )
            self._ready.put((committee, version))

    def _fetch(self, uri: str) -> list[Labelled]:
        lines = self._daemon.ask("GET", urlsplit(uri).path)
        return [msgspec.json.decode(line, type=Labelled) for line in lines.splitlines()]

    def _say(self, asked: Asked, word: Mapping[str, Any]) -> None:
        self._daemon.ask("POST", f"/v1/retraining/{asked.request_id}", word)


def signed(secret: str, body: bytes, headers: Mapping[str, str], now: float) -> bool:
    """Whether a post was signed with the secret, as Standard Webhooks has it, not long ago."""
    given = {name.lower(): value for name, value in headers.items()}
    name, at = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(now - int(at)) > _OLDEST:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.digest(key, b".".join((name.encode(), at.encode(), body)), hashlib.sha256))
    found = given.get("webhook-signature", "").split()
    return any(hmac.compare_digest(one.encode(), b"v1," + wanted) for one in found)
