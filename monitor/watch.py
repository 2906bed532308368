"""A scope being watched: what is counted of it, held against its reference by its checks, and remembered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from alerting.alert import Severity
from detectors.checks.conversion import Unit
from detectors.checks.duplicates import Duplicates
from detectors.checks.evidence import EDetector
from detectors.checks.quality import Constant, Missing, Schema, WrongType
from detectors.checks.stuck import Stuck
from detectors.checks.volume import Volume
from detectors.checks.window import WholeWindow
from detectors.core import Detector, Scores, Sequential
from detectors.encode import Undecodable
from detectors.evidence.calibrate import Replay
from detectors.profile import Profile
from detectors.reference import Reference
from monitor.history import History, Kept

# What a detector raises that is given the memory of another version: `Undecodable`, or what comes of taking it for its
# own. A memory is tried by the step itself, so no detector needs a second description of what it remembers.
_STRANGE = (ValueError, TypeError, LookupError, AttributeError)
_BROKEN = (Missing, WrongType, Schema, Constant, Stuck, Volume, Duplicates, Unit)


class Check(msgspec.Struct, frozen=True):
    """A detector, on which columns, over how long, against what."""

    name: str  # unique within the model; part of an alert's identity
    detector: Detector | Sequential
    columns: tuple[str, ...] = ("*",)  # names or patterns
    windows: int = 1  # base windows looked at together
    against: str = "reference"  # | "previous": the windows before
    severity: Severity = Severity.WARNING
    share: float = 1.0  # of the model's one promise; the detector's own is the model's over its share

    @property
    def every(self) -> int:
        """A long span is looked at ten times within its length: oftener costs and shows nothing new."""
        return max(1, self.windows // 10)

    @property
    def broken(self) -> bool:
        """Whether what it finds are broken data, and not a world that changed."""
        return isinstance(self.detector, _BROKEN)

    @property
    def limit(self) -> float:
        """Score from which on it finds something; NaN where the detector has no single one."""
        return float(getattr(self.detector, "limit", math.nan))


class Tally(msgspec.Struct):
    """What has been judged since the watch began, and how often each check began to find something."""

    windows: int = 0
    rows: int = 0
    alarms: dict[str, int] = {}
    finding: list[str] = []  # checks whose last look found something: what they go on finding is no new alarm


class Promise(msgspec.Struct, frozen=True):
    """What a check promises of its false alarms, beside what came."""

    check: str
    unit: str  # "seconds" of event time, or "events"
    length: float  # in which there is at most one false alarm of the model
    passed: float  # judged so far, times the share of the promise that it was judged at
    alarms: int
    approximate: tuple[str, ...] = ()  # columns with memory or season, for which it is no more than approximate
    replayed: Replay | None = None  # what it came to on the reference, where it is approximate


class SavedWatch(msgspec.Struct, frozen=True):
    """What of a watched scope a restart needs."""

    seen: int
    tally: Tally
    memories: dict[str, Any]
    history: list[Kept]


class Watch:
    """A model, or a part of its rows, under its checks. Fed one base window after the other."""

    def __init__(self, scope: str, checks: Sequence[Check], reference: Reference) -> None:
        self.scope = scope
        self.reference = reference
        self.seen = -1  # the last window that had rows
        self.last: Profile | None = None  # of that window
        self.scores: dict[str, tuple[float, Scores]] = {}  # by check: its limit, and its last look
        self.forgotten: dict[str, str] = {}  # checks that began anew in the last window, and why
        self._checks = checks
        self._tally = Tally()
        self._memories: dict[str, Any] = {}
        self._untried: set[str] = set()  # memories out of a checkpoint that no step has read yet
        spans = [c.windows * (2 if c.against == "previous" else 1) for c in checks]
        self._history = History(reference.layout, max(spans, default=1))
        names = reference.layout.columns
        self._columns = {c.name: tuple(n for n in names if any(fnmatchcase(n, p) for p in c.columns)) for c in checks}

    def take(self, window: int, profile: Profile) -> Iterator[tuple[Check, Scores]]:
        """Takes in a window newer than all before, with rows or without; what each check that is due says."""
        self._history.push(window, profile)
        self.forgotten = {}
        self._tally.windows += 1
        self._tally.rows += profile.rows
        if profile.rows:
            self.seen, self.last = window, profile
        spans: dict[tuple[int, int], Profile] = {(window, 1): profile}

        def over(last: int, windows: int) -> Profile:
            if (last, windows) not in spans:
                spans[last, windows] = self._history.over(last, windows)
            return spans[last, windows]

        for check in self._checks:
            if (window + 1) % check.every:
                continue
            against = self.reference.profile
            if check.against == "previous":
                against = over(window - check.windows, check.windows)
            scores = self._run(check, over(window, check.windows), against)
            self.scores[check.name] = (check.limit, scores)
            self._count_alarm(check.name, found=bool(scores.findings))
            yield check, scores

    def _run(self, check: Check, current: Profile, against: Profile) -> Scores:
        detector, columns = check.detector, self._columns[check.name]
        if not isinstance(detector, Sequential):
            return detector.check(current, against, columns)

        def step(memory: Any) -> Scores:
            self._memories[check.name], scores = detector.step(memory, current, against, columns)
            self._untried.discard(check.name)
            return scores

        if check.name in self._memories:
            try:
                return step(self._memories[check.name])
            except _STRANGE as error:
                if check.name not in self._untried:
                    raise
                self.forgotten[check.name] = f"{type(error).__name__}: {error}"
        return step(detector.start(self.reference, columns))

    def _count_alarm(self, check: str, *, found: bool) -> None:
        tally = self._tally
        if found and check not in tally.finding:
            tally.alarms[check] = tally.alarms.get(check, 0) + 1
            tally.finding.append(check)
        elif not found and check in tally.finding:
            tally.finding.remove(check)

    def promises(self, window: float) -> list[Promise]:
        """Of those checks that make one. `window` is a base window's length in seconds."""
        tally = self._tally
        return [
            Promise(
                check.name,
                "events" if check.detector.events else "seconds",
                round(check.detector.promise * check.share, 3),  # as it was configured, but for rounding
                check.share * (tally.rows if check.detector.events else tally.windows * window),
                tally.alarms.get(check.name, 0),
                *self._exactness(check.name, check.detector),
            )
            for check in self._checks
            if isinstance(check.detector, EDetector | WholeWindow)
        ]

    def _exactness(self, check: str, detector: EDetector | WholeWindow) -> tuple[tuple[str, ...], Replay | None]:
        """The columns for which the promise is approximate, and what it came to on the reference."""
        if check not in self._memories or isinstance(detector, WholeWindow):
            return (), None
        memory = self._memories[check]
        try:
            return detector.approximate(memory), detector.replayed(memory)
        except Undecodable:  # it begins anew with the next window
            return (), None

    def save(self) -> SavedWatch:
        """For `restore` on a watch of the same scope, checks and reference."""
        return SavedWatch(self.seen, self._tally, self._memories, self._history.save())

    def restore(self, saved: SavedWatch) -> int:
        """Goes on from there; how many windows of the history could not be read.

        A memory that its check cannot read shows when the check next steps, which begins it anew (`forgotten`).
        """
        self.seen, self._tally, self._memories = saved.seen, saved.tally, saved.memories
        self._untried = set(saved.memories)
        return self._history.restore(saved.history)
