"""The people of the story: one is on call and rules on alerts, three say what pictures show. Through the HTTP API."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

import msgspec

from monitor.demo.acts import ACTS
from monitor.demo.api import Api, Refused
from monitor.demo.diary import ModelStatus, OpenAlert

LABELERS = 3
_IDLE = 0.3  # seconds a labeler waits who finds no work


class Truth(msgspec.Struct, frozen=True):
    """What a picture shows, and what the model said of it."""

    id: str
    time: float
    version: str
    answer: str
    truth: str


class Truths:
    """What the model server writes down for the story's people alone. Any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._lock = threading.Lock()
        self._decoder = msgspec.json.Decoder(Truth)
        self._found: dict[str, Truth] = {}

    def label(self, event: str) -> str | None:
        """What the event's picture shows; None while nobody knows."""
        with self._lock:
            if event not in self._found:
                self._read_on()
            found = self._found.get(event)
            return found.truth if found else None

    def accuracy(self, since: float, until: float) -> float:
        """Share of right answers in a span of event time; NaN where there is none."""
        with self._lock:
            self._read_on()
            right = [t.answer == t.truth for t in self._found.values() if since <= t.time < until]
        return sum(right) / len(right) if right else float("nan")

    def _read_on(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        for line in whole.splitlines():
            truth = self._decoder.decode(line)
            self._found[truth.id] = truth


class Deed(NamedTuple):
    """What the person on call did, as they would type it."""

    command: str
    answer: str


class OnCall:
    """Rules on every alert that leads, some seconds after it opened: whoever watches may come first.

    An intended change is said twice, as the daemon asks for it.
    """

    def __init__(self, api: Api, patience: float) -> None:
        self._api = api
        self._patience = patience
        self._seen: dict[tuple[str, float], float] = {}  # alerts by key and start: when first seen, by the clock
        self._ruled: set[tuple[str, float]] = set()
        self.intended: str = ""  # id of the verdict that was confirmed

    def look(self, model: ModelStatus, act: int) -> list[Deed]:
        """What there was to do, and was done."""
        done = []
        now = time.monotonic()
        for alert in model.alerts:
            if alert.leader or alert.inhibited:
                continue
            this, ruled = (alert.key, alert.since), alert.verdict
            since = self._seen.setdefault(this, now)
            if ruled is None and this not in self._ruled and now - since >= self._patience and not ACTS[act].calm:
                self._ruled.add(this)
                done.append(self._rule(alert, act))
            elif ruled is not None and ruled.ruling == "intended" and not (ruled.confirms or self.intended):
                done.append(self._say(alert, "intended", "They are here to stay; said twice.", ruled.id))
                self.intended = ruled.id
        return [deed for deed in done if deed is not None]

    def _rule(self, alert: OpenAlert, act: int) -> Deed | None:
        if ACTS[act].scene.lost:
            return self._say(alert, "unintended", "A client stopped sending a feature.")
        if ACTS[act].scene.new:
            return None if self.intended else self._say(alert, "intended", "New products are on the shelf.")
        return self._say(alert, "unintended", "The camera's update changed its gain.")

    def _say(self, alert: OpenAlert, ruling: str, why: str, confirms: str = "") -> Deed:
        said = {"ruling": ruling, "why": why} | ({"confirms": confirms} if confirms else {})
        command = f"driftd verdict {alert.key} {ruling} --why '{why}'" + (f" --confirm {confirms}" if confirms else "")
        try:
            self._api.ask("POST", f"/v1/alerts/{quote(alert.key, safe='')}/verdict", said)
        except (OSError, Refused) as error:
            return Deed(command, str(error))
        return Deed(command, "taken")


class Leased(msgspec.Struct, frozen=True):
    """What a labeler reads of a task, and the token that proves whose it is."""

    task: str
    event: str
    token: str


class Labelers:
    """Three people who work the queue while there is work, as long as they are entered."""

    def __init__(self, apis: list[Api], truths: Truths) -> None:
        self._truths = truths
        self._stop = threading.Event()
        self._done: deque[str] = deque()
        self._threads = [threading.Thread(target=self._work, args=(api,), daemon=True) for api in apis]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15.0)

    @property
    def labels(self) -> int:
        """Given so far."""
        return len(self._done)

    def _work(self, api: Api) -> None:
        while not self._stop.is_set():
            try:
                worked = self._label(api)
            except (OSError, Refused):  # the daemon is starting, or going
                worked = False
            if not worked:
                self._stop.wait(_IDLE)

    def _label(self, api: Api) -> bool:
        """One task, if there is any."""
        body = api.ask("POST", "/v1/labels/next", {})
        if not body:
            return False
        leased = msgspec.json.decode(body, type=Leased)
        label = self._truths.label(leased.event)
        path = f"/v1/labels/{leased.task}"
        if label is None:
            api.ask("POST", f"{path}/skip", {"token": leased.token, "reason": "no such picture"})
        else:
            api.ask("POST", f"{path}/submit", {"token": leased.token, "label": label})
            self._done.append(leased.task)
        return True
