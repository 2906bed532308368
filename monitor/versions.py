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
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Batch, Column, ColumnSpec, Kind, Mask, Role
from detectors.draw import Draw
from detectors.reference import Reference
from monitor.event import Event
from monitor.labels import hashes_of, spread_of
from monitor.sampling import INPUTS, addresses, inputs_shown
from monitor.scopes import Slice

SCHEMA = (ColumnSpec("versions_disagree", Kind.FLAG, Role.OUTPUT),)
KEEP = 10_000  # answers kept a partition, 48 bytes each in memory and checkpoint; as many of each open window
WORDS = 2_000  # versions, classes and customers known by name; what comes later is `OTHER`
MEETINGS = 4  # pairs of versions told of, of each closed window
PAIRS = 400  # pairs of classes counted of each, and customers
OFFERED = 50  # disagreements offered for labeling, of each
SHOWN = 500  # events kept with their inputs, of lowest hash: those that labelers may be asked about
COUNTED = 8  # versions of a window whose rows are counted: enough to tell which one is in service
OTHER = "__other__"
WAIT = 600.0  # seconds of event time that an answer waits for those of other versions
TOLERANCE = 0.25  # standard deviations of the reference's answers; numbers further apart disagree
LEARN = 1000  # comparisons that the reference of disagreement is learned from
_ROW = np.dtype(
    [
        ("key", "u8"), ("time", "f8"),
        ("version", "u8"), ("answer", "u8"), ("user", "u8"),  # hashes of the words, 0 = none
        ("value", "f8"),
    ]
)  # fmt: skip
# with a bit for each protected slice
_SLICED = np.dtype([*((name, _ROW[name]) for name in _ROW.names or ()), ("slices", "u4")])


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


class Disagreement(msgspec.Struct, frozen=True, array_like=True):
    """An event that two versions answered with different classes, these in the order of the meeting's versions."""

    id: str
    time: float
    offset: int
    first: str
    second: str
    inputs: list[tuple[str, str | float | bool]]
    uri: str
    slices: list[str] = []  # protected ones that it belongs to


class _Seen(msgspec.Struct, frozen=True, array_like=True):
    """What a labeler is shown of an event."""

    id: str
    offset: int
    inputs: list[tuple[str, str | float | bool]]
    uri: str


class Met(msgspec.Struct, frozen=True):
    """Answers of two versions to the same events, in the windows just closed. Versions in the order of their names."""

    first: str
    second: str
    compared: int
    disagreed: int
    classes: dict[str, dict[str, int]]  # events by the class that the first answered, and by that of the second
    customers: dict[str, tuple[int, int]]  # compared, disagreed
    draw: Draw  # disagreements about classes among the events that are kept to be shown, the ids of lowest hash
    slices: dict[str, tuple[int, int]] = {}  # compared, disagreed, of each protected one


class _Saved(msgspec.Struct, frozen=True):
    rows: Any
    newest: float
    held: dict[int, Any]
    counts: dict[str, int]
    words: dict[int, str] = {}
    met: list[Met] = []
    seen: dict[int, _Seen] = {}
    slices: tuple[str, ...] = ()  # what the bits of the rows are of


class Versions:
    """Answers of a model's versions in a lane; `window` is the base window's length in seconds.

    What is compared is counted in the `protected` slices as well. An event belongs to one when either answer's row
    does: a shadow may leave out what the other said of the event.

    Answers are counted by what became of them: compared (with an earlier one), repeated (the version had answered
    already), incomparable (one is a class, the other a
    number, or numbers in the reference do not vary), alone (no other version answered in time), dropped (beyond
    the share that is kept). An answer without a version is left out.
    """

    def __init__(
        self, window: float, reference: Callable[[], Reference | None], protected: Mapping[str, Slice] = {}
    ) -> None:
        self._window = window
        self._protected = protected  # at most 32
        self._kind = _SLICED if protected else _ROW
        self._reference = reference  # the model's, None while it is being learned
        self._rows = np.zeros(0, self._kind)  # of closed windows; ascending by key, an id's first answer first
        self._newest = -math.inf
        self._held: dict[int, NDArray[Any]] = {}  # by window, until it closes
        self._counts: Counter[str] = Counter()
        self._words: dict[int, str] = {}  # by hash
        self._met: list[Met] = []
        self._seen: dict[int, _Seen] = {}  # by key

    def take_met(self) -> list[Met]:
        """Which versions' answers met since the last call, and how they differed."""
        taken, self._met = self._met, []
        return taken

    def take_counts(self) -> dict[str, int]:
        """What became of answers since the last call."""
        taken, self._counts = self._counts, Counter()
        return +taken

    def keep(self, rows: Batch) -> None:
        """Keeps scored rows of one window."""
        version, label, value = rows.get("version"), rows.get("label"), rows.get("value")
        if not len(rows) or version is None or version.kind is not Kind.CATEGORY:
            return
        new = np.zeros(len(rows), self._kind)
        new["key"], new["time"], new["version"], new["value"] = rows.keys, rows.times, self._named(version), np.nan
        if label is not None and label.kind is Kind.CATEGORY:
            new["answer"] = self._named(label)
        user = rows.get("user")
        if user is not None and user.kind is Kind.CATEGORY:
            new["user"] = self._named(user)
        if value is not None and value.kind is Kind.NUMBER:
            new["value"] = value.values
        for bit, part in enumerate(self._protected.values()):
            new["slices"] |= part.rows(rows).astype(np.uint32) << np.uint32(bit)
        new = new[(new["version"] != 0) & ((new["answer"] != 0) | ~np.isnan(new["value"]))]
        self._show(rows)
        number = math.floor(float(rows.times[0]) / self._window)
        self._held[number] = self._lowest(np.concatenate([self._held.get(number, self._rows[:0]), new]))

    def _show(self, rows: Batch) -> None:
        """Keeps what labelers may be shown of the events of lowest key."""
        reference = self._reference()
        if reference is None:
            return
        names = [spec.name for spec in reference.schema if spec.role is Role.INPUT][:INPUTS]
        highest = max(self._seen, default=0)
        new: dict[int, int] = {}
        for i in np.argsort(rows.keys, kind="stable")[:SHOWN].tolist():
            key = int(rows.keys[i])
            if len(self._seen) + len(new) >= SHOWN and key > highest:
                break
            if key not in self._seen:
                new.setdefault(key, i)
        some = rows.take(list(new.values()))
        parts = map(str, some.ids), some.offsets.tolist(), inputs_shown(some, names), addresses(some)
        self._seen |= {key: _Seen(*part) for key, part in zip(new, zip(*parts, strict=True), strict=True)}
        for key in sorted(self._seen)[SHOWN:]:
            del self._seen[key]

    def _named(self, column: Column) -> NDArray[np.uint64]:
        """Hashes of the words, which are remembered."""
        hashes = hashes_of(column)
        for code, row in zip(*(part.tolist() for part in np.unique(column.values, return_index=True)), strict=True):
            if code >= 0 and len(self._words) < WORDS:
                self._words.setdefault(int(hashes[row]), column.words[code])
        return hashes

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
        for key in self._seen.keys() & set(first["key"][stale].tolist()):
            del self._seen[key]
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
        rows, first, differ = rows[comparable], first[comparable], differ[comparable]
        self._meet(rows, first, differ)
        order = np.lexsort((rows["version"], rows["key"], rows["time"]))
        said = (rows[order][["key", "version", "time"]].tolist(), differ[order].tolist())
        return [
            Event(id=f"{key:016x}.{version:016x}", time=max(time, since), extra={"versions_disagree": float(disagree)})
            for (key, version, time), disagree in zip(*said, strict=True)
        ]

    def _meet(self, rows: NDArray[Any], others: NDArray[Any], differ: Mask) -> None:
        """Counts the compared answers by their two versions."""
        names = [[self._words.get(version, OTHER) for version in part["version"].tolist()] for part in (rows, others)]
        turned = np.array([a > b for a, b in zip(*names, strict=True)], np.bool_)
        first, second = np.where(turned, others, rows), np.where(turned, rows, others)
        pairs = [_sorted(a, b) for a, b in zip(*names, strict=True)]
        counts = Counter(pairs)
        told = sorted(counts, key=lambda pair: (-counts[pair], pair))[:MEETINGS]
        which = np.array([told.index(pair) if pair in told else -1 for pair in pairs], np.int64)
        for number, (a, b) in enumerate(told):
            mine = np.flatnonzero(which == number)
            self._met.append(self._meeting(a, b, first[mine], second[mine], differ[mine]))

    def _meeting(self, a: str, b: str, first: NDArray[Any], second: NDArray[Any], differ: Mask) -> Met:
        word = self._words.get
        by_class: dict[str, dict[str, int]] = {}
        classes = Counter(zip(first["answer"].tolist(), second["answer"].tolist(), strict=True))
        for (x, y), count in sorted(classes.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS]:
            if x and y:
                row = by_class.setdefault(word(x, OTHER), {})
                row[word(y, OTHER)] = row.get(word(y, OTHER), 0) + count
        compared, disagreed = Counter(first["user"].tolist()), Counter(first["user"][differ].tolist())
        customers = {word(user, OTHER): (n, disagreed[user]) for user, n in compared.most_common(PAIRS) if user}
        parts = {
            name: (first["slices"] | second["slices"]) >> np.uint32(bit) & np.uint32(1) > 0
            for bit, name in enumerate(self._protected)
        }
        slices = {name: (int(part.sum()), int((part & differ).sum())) for name, part in parts.items()}
        shown = np.fromiter((key in self._seen for key in first["key"].tolist()), np.bool_, len(first))
        offered = np.flatnonzero(differ & shown & (first["answer"] != 0) & (second["answer"] != 0))
        draw = Draw(OFFERED)

        def kept(i: int) -> Disagreement:
            x, y = first[offered[i]], second[offered[i]]
            seen = self._seen[int(x["key"])]
            answers = word(int(x["answer"]), OTHER), word(int(y["answer"]), OTHER)
            theirs = [name for name, part in parts.items() if part[offered[i]]]
            return Disagreement(seen.id, float(x["time"]), seen.offset, *answers, seen.inputs, seen.uri, theirs)

        draw.update(first["key"][offered], np.ones(offered.size), lambda which: map(kept, which))
        return Met(a, b, len(first), int(differ.sum()), by_class, customers, draw, slices)

    def state(self) -> Any:
        """All of it as plain data."""
        held = {number: rows.view(np.uint8) for number, rows in self._held.items()}
        return _Saved(
            self._rows.view(np.uint8), self._newest, held, dict(self._counts), self._words, self._met, self._seen,
            tuple(self._protected),
        )  # fmt: skip

    def restore(self, state: Any) -> None:
        """Goes on from a state. msgspec.ValidationError when it was none."""
        saved = msgspec.convert(state, _Saved)
        self._rows, self._newest = self._restored(saved.rows, saved.slices), saved.newest
        self._held = {number: self._restored(rows, saved.slices) for number, rows in saved.held.items()}
        self._counts = Counter(saved.counts)
        self._words, self._met, self._seen = saved.words, saved.met, saved.seen

    def _restored(self, saved: NDArray[np.uint8], slices: tuple[str, ...]) -> NDArray[Any]:
        """Saved rows as they are kept now. Bits of other slices than are protected now are forgotten."""
        old = saved.view(_SLICED if slices else _ROW)
        if slices == tuple(self._protected):
            return old
        rows = np.zeros(len(old), self._kind)
        for name in _ROW.names or ():
            rows[name] = old[name]
        return rows


def _sorted(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)


def _again(rows: NDArray[Any]) -> Mask:
    """Rows before which there is one of the same id and version (n,)."""
    order = np.lexsort((rows["version"], rows["key"]))  # stable: of equal ones the first stays in front
    ordered = rows[order]
    found = np.zeros(len(rows), np.bool_)
    same = (ordered["key"][1:] == ordered["key"][:-1]) & (ordered["version"][1:] == ordered["version"][:-1])
    found[order[1:]] = same
    return found
