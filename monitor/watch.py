"""A scope being watched: what is counted of it, held against its reference by its checks, and remembered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from alerting.alert import Severity
from detectors.core import Detector, Scores, Sequential
from detectors.profile import Profile
from detectors.reference import Reference
from monitor.history import History, Kept


class Check(msgspec.Struct, frozen=True):
    """A detector, on which columns, over how long, against what."""

    name: str  # unique within the model; part of an alert's identity
    detector: Detector | Sequential
    columns: tuple[str, ...] = ("*",)  # names or patterns
    windows: int = 1  # base windows looked at together
    against: str = "reference"  # | "previous": the windows before
    severity: Severity = Severity.WARNING

    @property
    def every(self) -> int:
        """A long span is looked at ten times within its length: oftener costs and shows nothing new."""
        return max(1, self.windows // 10)

    @property
    def limit(self) -> float:
        """Score from which on it finds something; NaN where the detector has no single one."""
        return float(getattr(self.detector, "limit", math.nan))


class SavedWatch(msgspec.Struct, frozen=True):
    """What of a watched scope a restart needs."""

    seen: int
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
        self._checks = checks
        self._memories: dict[str, Any] = {}
        spans = [c.windows * (2 if c.against == "previous" else 1) for c in checks]
        self._history = History(reference.layout, max(spans, default=1))
        names = reference.layout.columns
        self._columns = {c.name: tuple(n for n in names if any(fnmatchcase(n, p) for p in c.columns)) for c in checks}

    def take(self, window: int, profile: Profile) -> Iterator[tuple[Check, Scores]]:
        """Takes in a window newer than all before, with rows or without; what each check that is due says."""
        self._history.push(window, profile)
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
            yield check, scores

    def _run(self, check: Check, current: Profile, against: Profile) -> Scores:
        detector, columns = check.detector, self._columns[check.name]
        if not isinstance(detector, Sequential):
            return detector.check(current, against, columns)
        if check.name not in self._memories:
            self._memories[check.name] = detector.start(self.reference, columns)
        self._memories[check.name], scores = detector.step(self._memories[check.name], current, against, columns)
        return scores

    def save(self) -> SavedWatch:
        """For `restore` on a watch of the same scope, checks and reference."""
        return SavedWatch(self.seen, self._memories, self._history.save())

    def restore(self, saved: SavedWatch) -> int:
        """Goes on from there; how many windows of the history could not be read."""
        self.seen, self._memories = saved.seen, saved.memories
        return self._history.restore(saved.history)
