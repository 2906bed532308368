"""What the daemon told of the story, act by act: news as it comes, and the reckoning at the end.

Knows the daemon by its public `/status` alone, as any user would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from monitor.demo.acts import ACTS, SETTLE, Sign, act_at, starts, starts_between


class Ruled(msgspec.Struct, frozen=True):
    """The last verdict on an alert, as `/status` shows it."""

    id: str
    ruling: str
    confirms: str = ""


class OpenAlert(msgspec.Struct, frozen=True):
    """An alert as `/status` shows it."""

    key: str
    check: str
    column: str
    since: float  # UTC seconds of event time
    text: str
    leader: str = ""
    inhibited: str = ""
    verdict: Ruled | None = None


class Score(msgspec.Struct, frozen=True):
    """The last look of a check at a column, as `/status` shows it."""

    found: bool


class Estimate(msgspec.Struct, frozen=True):
    """The model's accuracy by its labels, as `/status` shows it."""

    value: float
    low: float  # of the 90 % interval
    high: float


class Request(msgspec.Struct, frozen=True):
    """A request to retrain, as `/status` shows it."""

    id: str
    status: str
    new_version: str = ""
    before: float | None = None  # accuracy by labels; None: not known
    after: float | None = None


class Renewal(msgspec.Struct, frozen=True):
    """What alerts and labels led to, as `/status` shows it."""

    requests: tuple[Request, ...] = ()  # newest first


class Labelled(msgspec.Struct, frozen=True):
    """What labels say of the model, as `/status` shows it."""

    tracked: Estimate | None = None
    end: float | None = None  # UTC seconds of event time, of the span that `tracked` is of


class ModelStatus(msgspec.Struct, frozen=True):
    """What the story needs of a model in `/status`."""

    model: str
    events: int = 0
    windows: int = 0
    window_end: float | None = None  # event time up to which was judged; None before the first window
    scores: tuple[Score, ...] = ()
    alerts: tuple[OpenAlert, ...] = ()
    label_tasks: int = 0
    labelled: Labelled | None = None
    renewal: Renewal | None = None

    @property
    def requests(self) -> tuple[Request, ...]:
        """To retrain, newest first."""
        return () if self.renewal is None else self.renewal.requests

    @property
    def findings(self) -> int:
        """Columns found different in the last look of each check."""
        return sum(score.found for score in self.scores)


class Standing(msgspec.Struct, frozen=True):
    """How far the daemon has come."""

    lag_records: float = 0.0  # events taken in and not read
    backlog: int = 0  # messages not judged: a window each, about


class Status(msgspec.Struct, frozen=True):
    """What the story needs of `/status`; everything else there is passed over."""

    models: tuple[ModelStatus, ...] = ()
    daemon: Standing = Standing()


class Turn(Enum):
    """What became of an alert."""

    OPENED = "opened"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class News:
    """Alerts of one check: those that opened since the last look, or all that it had told of and that are over."""

    turn: Turn
    alerts: tuple[OpenAlert, ...]
    first: bool = True  # nothing of this check was open before


@dataclass(slots=True)
class Noticed:
    """An act played to its end or so far: what told of each of its signs, and what nobody could expect."""

    act: int
    began: float  # UTC seconds of event time
    first: dict[Sign, OpenAlert] = field(default_factory=dict)
    unexpected: list[OpenAlert] = field(default_factory=list)  # in calm acts only

    @property
    def missed(self) -> tuple[Sign, ...]:
        return tuple(sign for sign in ACTS[self.act].signs if sign not in self.first)

    @property
    def well(self) -> bool:
        """All that had to be noticed was, and calm was calm."""
        return not self.missed and not self.unexpected


class Diary:
    """Keeps the story of one run that began at event time `start`, UTC seconds."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._open: dict[str, OpenAlert] = {}
        self._told: dict[str, dict[str, OpenAlert]] = {}  # by check, then key; forgotten when all of the check is over
        self._acts: dict[float, Noticed] = {}  # by seconds since the story's start

    def read(self, model: ModelStatus) -> list[News]:
        """Takes a look's alerts down; returns what is worth telling.

        A column near its limit opens and resolves again and again; it is told once, and that it is over when all of
        its check is.
        """
        before, self._open = self._open, {alert.key: alert for alert in model.alerts}
        for key, alert in self._open.items():
            # one that resolved and opened again between two looks is another: `since` tells
            if key not in before or before[key].since != alert.since:
                self._attribute(alert)
        return [*self._opened(), *self._resolved()]

    def _opened(self) -> Iterator[News]:
        for check in dict.fromkeys(alert.check for alert in self._open.values()):
            told = self._told.setdefault(check, {})
            new = {key: a for key, a in self._open.items() if a.check == check and key not in told}
            if new:
                yield News(Turn.OPENED, tuple(new.values()), first=not told)
                told.update(new)

    def _resolved(self) -> Iterator[News]:
        for check in sorted(self._told.keys() - {alert.check for alert in self._open.values()}):
            yield News(Turn.RESOLVED, tuple(self._told.pop(check).values()))

    def acts(self, until: float) -> list[Noticed]:
        """Every act that began before `until`, seconds since the story's start, in order."""
        starts = starts_between(0.0, until)
        return [self._acts.get(start, Noticed(act_at(start), self._start + start)) for start in starts]

    def _attribute(self, alert: OpenAlert) -> None:
        second = alert.since - self._start
        start, act = _began(second)
        if ACTS[act].calm and second - start <= SETTLE and start > 0:
            start, act = _began(start - 1.0)  # spans of the act before still hold its events
        told = self._acts.setdefault(start, Noticed(act, self._start + start))
        if ACTS[act].calm:
            told.unexpected.append(alert)
        for sign in ACTS[act].signs:
            if sign.shown_by(alert.check, alert.column):
                told.first.setdefault(sign, alert)


def _began(second: float) -> tuple[float, int]:
    """Start of the act that plays at this second, and its index."""
    act = act_at(max(second, 0.0))
    return list(starts())[act], act
