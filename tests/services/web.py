"""HTTP over loopback: asking the servers that speak it, and a receiver that remembers what it was told."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.request import Request, urlopen

from tests.services.process import wait_until


def ask(url: str, body: object = None, method: str | None = None) -> bytes:
    """The answer to a request; `body` is sent as JSON. Raises HTTPError on a refusal, URLError when nobody listens."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"content-type": "application/json"}, method=method)
    with urlopen(request, timeout=10) as answer:
        said: bytes = answer.read()
        return said


@dataclass(frozen=True)
class Call:
    """One request as it came in: what, when (monotonic seconds), header names in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    time: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What to say to one request, after `delay` seconds."""

    status: int = 200
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    delay: float = 0


class Receiver:
    """An HTTP server that keeps every call and answers with `answers` in turn, then with 200."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: deque[Answer] = deque()
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the caller gave up waiting, as some tests want
                    self.close_connection = True

            def _take(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                receiver.calls.append(Call(self.command, self.path, headers, body, time.monotonic()))
                answer = receiver.answers.popleft() if receiver.answers else Answer()
                receiver._closing.wait(answer.delay)
                self.send_response(answer.status)
                for name, value in (answer.headers or {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _take  # noqa: N815 - names that http.server looks for

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name it has there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def wait(self, count: int, seconds: float = 20) -> list[Call]:
        """The calls, once there are at least `count`; raises TimeoutError."""
        wait_until(lambda: len(self.calls) >= count, seconds, f"{count} calls (so far {len(self.calls)})")
        return self.calls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
