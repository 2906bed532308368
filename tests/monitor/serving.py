"""The HTTP server on a real socket, before a daemon that is no more than values and a log."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from alerting.alert import Alert
from alerting.deliver import Circuit, Condition
from alerting.labeling.queue import Progress
from alerting.retraining import Request
from monitor.api.endpoint import Endpoint
from monitor.exchange import Told
from monitor.explain import Held
from monitor.intake import Received
from monitor.log import Full, MemoryLog
from monitor.metrics import Meters
from monitor.people import People, Person
from monitor.snapshot import Snapshot
from monitor.web import Web, WebOptions


class Standing:
    """A daemon as the server sees it: values to show, and a log to append to."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.shown = snapshot or Snapshot()
        self.open: list[Alert] = []
        self.asked: list[Request] = []
        self.labeling: list[Progress] = []
        self.full = False
        self.log = MemoryLog(100_000)
        self.silent: dict[str, float] = {"ingest": 0.1}
        self.waiting: list[str] = []
        self.told: list[Told] = []
        self.models: dict[str, Held] = {}

    def snapshot(self) -> Snapshot:
        return self.shown

    def alerts(self) -> Sequence[Alert]:
        return self.open

    def requests(self) -> Sequence[Request]:
        return self.asked

    def progress(self) -> Sequence[Progress]:
        return self.labeling

    def held(self) -> Mapping[str, Held]:
        return self.models

    def exchange_name(self, model: str) -> str | None:
        return None if model == "gone" else model

    def silences(self) -> Mapping[str, float]:
        return self.silent

    def destinations(self) -> Mapping[str, Condition]:
        return {"hook": Condition(attempts=3, failures=2, circuit=Circuit.OPEN, last_error="host:80: 503")}

    @property
    def backlog(self) -> int:
        return 0

    def not_ready(self) -> Sequence[str]:
        return self.waiting

    def take(self, received: Sequence[Received]) -> None:
        self.log.append([record.body for record in received])

    def tell(self, told: Sequence[Told]) -> None:
        if self.full:
            raise Full("the exchange is full")
        self.told += told

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.log.read(0)]


class Client:
    def __init__(self, port: int, daemon: Standing, meters: Meters) -> None:
        self.port, self.daemon, self.meters = port, daemon, meters

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(self, body: bytes, path: str = "/v1/events", **headers: str) -> int:
        return self.ask("POST", path, body, **{"content_type": "application/json", **headers})[0]

    def said(self, method: str, path: str, said: Any = None, token: str = "", **headers: str) -> tuple[int, Any]:
        """The status and what was answered, as JSON; `said` is sent as JSON."""
        given = {"authorization": f"Bearer {token}"} if token else {}
        body = b"" if said is None else json.dumps(said).encode()
        media = {} if said is None else {"content_type": "application/json"}
        status, _, answer = self.ask(method, path, body, **{**media, **given, **headers})
        return status, json.loads(answer) if answer else None


@contextmanager
def serving(
    options: WebOptions | None = None,
    daemon: Standing | None = None,
    *,
    people: Sequence[Person] = (),
    acts: Callable[[Standing], Sequence[Endpoint]] = lambda _: (),
    intake: bool = True,
) -> Iterator[Client]:
    """The server, until the end of the block."""
    daemon = daemon or Standing()
    meters = Meters(daemon.snapshot, silences=daemon.silences)
    chosen = options or WebOptions(port=0, max_body=4096)
    web = Web(chosen, daemon, meters, People(people), acts(daemon), intake=intake)
    web.start()
    try:
        yield Client(web.port, daemon, meters)
    finally:
        web.stop()
