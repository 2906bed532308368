"""Answers of several live versions to one event meet, and become rows of their own: do they disagree, or not.

A shadow or a canary answers the same event under the same id, with another `version`. Each answer after the first is
compared with the first, whichever version gave it. What comes of it is watched as a model named `<name>.versions`, not
as columns of the model: a second version mostly begins long after the model's reference was built, and the answers that
it is compared on were counted as events of the model when they came. What a reader would get wrong: answers are
compared when their window closes, and of a busy stream those with the lowest hash of the id, so what is compared
depends on the records alone, not on how they were polled, and both sides keep the same fair share without asking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Batch, ColumnSpec, Kind, Mask, Role
from detectors.reference import Reference
from monitor.event import Event
from monitor.labels import hashes_of, spread_of

SCHEMA = (ColumnSpec("versions_disagree", Kind.FLAG, Role.OUTPUT),)
KEEP = 10_000  # answers kept a partition, 40 bytes each in memory and checkpoint; as many of each open window
COUNTED = 8  # versions of a window whose rows are counted: enough to tell which one is in service
WAIT = 600.0  # seconds of event time that an answer waits for those of other versions
TOLERANCE = 0.25  # standard deviations of the reference's answers; numbers further apart disagree
LEARN = 1000  # comparisons that the reference of disagreement is learned from
_ROW = np.dtype([("key", "u8"), ("time", "f8"), ("version", "u8"), ("answer", "u8"), ("value", "f8")])


def versions_of(model: str) -> str:
    """Name under which the disagreement of a model's versions is watched."""
    return f"{model}.versions" if model else "versions"


def count_versions(rows: Batch, into: dict[str, int]) -> None:
    """Adds the rows of each version, of at most `COUNTED` versions."""
    version = rows.get("version")
    if version is None or version.kind is not Kind.CATEGORY:
        return
    counts = np.bincount(version.values[version.values >= 0], minlength=len(version.words))
    for code in np.flatnonzero(counts).tolist():
        name = version.words[code]
        if name in into or len(into) < COUNTED:
            into[name] = into.get(name, 0) + int(counts[code])


class _Saved(msgspec.Struct, frozen=True):
    rows: Any
    newest: float
    held: dict[int, Any]
    counts: dict[str, int]


class Versions:
    """Answers of a model's versions in a lane; `window` is the base window's length in seconds.

    Answers are counted by what became of them: compared (with an earlier one), repeated (the version had answered
    already), incomparable (one is a class, the other a
    number, or numbers in the reference do not vary), alone (no other version answered in time), dropped (beyond
    the share that is kept). An answer without a version is left out.
    """

    def __init__(self, window: float, reference: Callable[[], Reference | None]) -> None:
        self._window = window
        self._reference = reference  # the model's, None while it is being learned
        self._rows = np.zeros(0, _ROW)  # of closed windows; ascending by key, an id's first answer first
        self._newest = -math.inf
        self._held: dict[int, NDArray[Any]] = {}  # by window, until it closes
        self._counts: Counter[str] = Counter()

    def take_counts(self) -> dict[str, int]:
        """What became of answers since the last call."""
        taken, self._counts = self._counts, Counter()
        return +taken

    def keep(self, rows: Batch) -> None:
        """Keeps scored rows of one window."""
        version, label, value = rows.get("version"), rows.get("label"), rows.get("value")
        if not len(rows) or version is None or version.kind is not Kind.CATEGORY:
            return
        new = np.zeros(len(rows), _ROW)
        new["key"], new["time"], new["version"], new["value"] = rows.keys, rows.times, hashes_of(version), np.nan
        if label is not None and label.kind is Kind.CATEGORY:
            new["answer"] = hashes_of(label)
        if value is not None and value.kind is Kind.NUMBER:
            new["value"] = value.values
        new = new[(new["version"] != 0) & ((new["answer"] != 0) | ~np.isnan(new["value"]))]
        number = math.floor(float(rows.times[0]) / self._window)
        self._held[number] = self._lowest(np.concatenate([self._held.get(number, self._rows[:0]), new]))

    def _lowest(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Of too many answers those with the lowest keys; an id's stay in their order."""
        if len(rows) <= KEEP:
            return rows
        self._counts["dropped"] += len(rows) - KEEP
        return rows[np.argsort(rows["key"], kind="stable")[:KEEP]]

    def join(self, until: float, since: float) -> list[Event]:
        """A row for each answer of the windows that end by `until` to an event that another version answered before.

        A row's time is that of its answer, or `since` where that is later: the window of then is closed. The answer
        that an id's others are held against is its first one by event time; of those in windows closed before.
        """
        due = sorted(number for number in self._held if number * self._window < until)
        if not due:
            return []
        new = np.concatenate([self._held.pop(number) for number in due])
        rows = np.concatenate([self._rows, new[np.argsort(new["time"], kind="stable")]])
        order = np.argsort(rows["key"], kind="stable")  # of an id what was known before, then by time
        rows, known = rows[order], order < len(self._rows)
        again = _again(rows)
        self._counts["repeated"] += int(again.sum())
        rows, known = rows[~again], known[~again]
        begins = np.flatnonzero(np.append(True, rows["key"][1:] != rows["key"][:-1])[: len(rows)])
        answered = np.diff(np.append(begins, len(rows)))  # of each id, how many versions did
        first = np.repeat(rows[begins], answered)
        later = ~known
        later[begins] = False
        compared = self._compared(rows[later], first[later], since)
        self._newest = max(self._newest, float(rows["time"].max(initial=-math.inf)))
        stale = first["time"] < self._newest - WAIT  # an id goes as a whole
        self._counts["alone"] += int((answered[stale[begins]] == 1).sum())
        rows = rows[~stale]
        self._counts["dropped"] += max(len(rows) - KEEP, 0)
        self._rows = rows[:KEEP].copy()
        return compared

    def _compared(self, rows: NDArray[Any], first: NDArray[Any], since: float) -> list[Event]:
        classes = (rows["answer"] != 0) & (first["answer"] != 0)
        gaps = np.abs(rows["value"] - first["value"]) / (spread_of(self._reference()) or math.nan)
        differ = np.where(classes, rows["answer"] != first["answer"], gaps > TOLERANCE)
        comparable = classes | ~np.isnan(gaps)
        self._counts["compared"] += int(comparable.sum())
        self._counts["incomparable"] += int((~comparable).sum())
        rows, differ = rows[comparable], differ[comparable]
        order = np.lexsort((rows["version"], rows["key"], rows["time"]))
        said = (rows[order][["key", "version", "time"]].tolist(), differ[order].tolist())
        return [
            Event(id=f"{key:016x}.{version:016x}", time=max(time, since), extra={"versions_disagree": float(disagree)})
            for (key, version, time), disagree in zip(*said, strict=True)
        ]

    def state(self) -> Any:
        """All of it as plain data."""
        held = {number: rows.view(np.uint8) for number, rows in self._held.items()}
        return _Saved(self._rows.view(np.uint8), self._newest, held, dict(self._counts))

    def restore(self, state: Any) -> None:
        """Goes on from a state. msgspec.ValidationError when it was none."""
        saved = msgspec.convert(state, _Saved)
        self._rows, self._newest = saved.rows.view(_ROW), saved.newest
        self._held = {number: rows.view(_ROW) for number, rows in saved.held.items()}
        self._counts = Counter(saved.counts)


def _again(rows: NDArray[Any]) -> Mask:
    """Rows before which there is one of the same id and version (n,)."""
    order = np.lexsort((rows["version"], rows["key"]))  # stable: of equal ones the first stays in front
    ordered = rows[order]
    found = np.zeros(len(rows), np.bool_)
    same = (ordered["key"][1:] == ordered["key"][:-1]) & (ordered["version"][1:] == ordered["version"][:-1])
    found[order[1:]] = same
    return found
