"""Late labels meet the predictions they are of, and become rows of their own: error, loss, lag.

A lane keeps its newest predictions, lowest hash of the id first, so that what is kept of a busy stream is a fair sample
of it and both sides agree on it without asking. A label finds its prediction when it came by the same partition number,
as it does where both topics are keyed alike; any other is counted as unknown. What a reader would get wrong: labels are
joined when a window closes, by the order of the records alone, never when they happen to be polled; so a lane read
again after a crash joins the same labels to the same rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from detectors.core import Batch, Column, ColumnSpec, Floats, Ints, Kind, Role, keys_of
from detectors.reference import Reference
from detectors.units import Seconds
from monitor.decode.columns import called, word
from monitor.event import Event, Label

SCHEMA = tuple(
    ColumnSpec(name, Kind.FLAG if name == "error" else Kind.NUMBER, Role.OUTPUT)
    for name in ("error", "loss", "lag", "rank", "surprise", "tilt")
)
HOUR = 3600.0
_WAITS = 600.0  # seconds of event time that a label waits for its prediction, whose topic may be behind
_RANKED = 512  # kept rows that a confidence is ranked among: its rank is known to 2 points
_LARGEST = 5.0  # of a loss: a chance of 0.7 %, or five standard deviations
_ALL = (1 << 64) - 1
_ROW = np.dtype(
    [
        ("key", "u8"), ("time", "f8"),
        ("answer", "u8"), ("truth", "u8"),  # hashes of the words, 0 = none
        ("value", "f4"), ("target", "f4"), ("confidence", "f4"), ("expected", "f4"),
        ("side", "i4"),  # of two classes: 1 the second was answered, -1 the first, 0 there are more
    ]
)  # fmt: skip


class LabelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Late labels, watched as a model named `<name>.labels`."""

    keep: Annotated[
        int,
        Meta(
            ge=100,
            le=1_000_000,
            description="Predictions kept a partition to meet their labels, 52 bytes each in memory and checkpoint. "
            "Where more are on their way, a fair share of the ids is.",
        ),
    ] = 10_000
    expire: Annotated[Seconds, Meta(gt=0, description="Age at which a prediction waits no longer.")] = 7 * 86_400.0
    learn: Annotated[int, Meta(ge=100, description="Labels that the reference of error and loss is learned from.")] = (
        1000
    )


def outcomes_of(model: str) -> str:
    """Name under which the outcomes of a model's labels are watched."""
    return f"{model}.labels" if model else "labels"


class Hour(msgspec.Struct, frozen=True, array_like=True):
    """Kept predictions of an hour of event time, a fair share of all, and what is known of them by now, corrections
    included. Of a lane, or added up over lanes."""

    rows: int = 0
    labelled: int = 0
    wrong: int = 0

    def __add__(self, other: Hour) -> Hour:
        return Hour(self.rows + other.rows, self.labelled + other.labelled, self.wrong + other.wrong)


class _Held(msgspec.Struct, array_like=True):
    """A label that is not joined yet."""

    id: str
    label: Any
    value: Any
    stamp: float  # event time of the lane when it came


class _Saved(msgspec.Struct, frozen=True):
    rows: Any
    limit: int
    newest: float
    held: list[_Held]
    fresh: bool
    touched: set[int]
    counts: dict[str, int]


class Outcomes:
    """Predictions of a model in a lane, and the labels that came for them.

    Labels are counted by what became of them: joined, repeated (the same again), corrected (another
    one: the kept row is set right, what was judged stays), unknown (no prediction is kept under this id), thinned (its
    id is beyond the share that is kept), lost (more waited than predictions may be kept); and `expired`, predictions
    that no label came for.
    """

    def __init__(
        self,
        options: LabelOptions,
        reference: Callable[[], Reference | None],
        names: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._options = options
        self._reference = reference  # the model's, None while it is being learned
        self._names = names  # of classes that are told by their place
        self._rows = np.zeros(0, _ROW)  # ascending by key
        self._limit = _ALL  # keys under it are kept
        self._newest = -math.inf
        self._held: list[_Held] = []
        self._counts: Counter[str] = Counter()
        self._fresh = False
        self._touched: set[int] = set()  # hours of which labels came

    @property
    def fresh(self) -> bool:
        """Whether labels came since the last were joined."""
        return self._fresh

    def take_counts(self) -> dict[str, int]:
        """What became of labels since the last call."""
        taken, self._counts = self._counts, Counter()
        return +taken

    def take_hours(self) -> dict[int, Hour]:
        """Hours of event time for whose rows labels were joined or corrected since the last call, as they are now."""
        hours = np.floor(self._rows["time"] / HOUR)
        touched, self._touched = self._touched, set()
        found = {}
        for hour in sorted(touched):
            rows = self._rows[hours == hour]
            known = rows[(rows["truth"] != 0) & (rows["answer"] != 0)]
            found[hour] = Hour(len(rows), len(known), int((known["truth"] != known["answer"]).sum()))
        return found

    def hold(self, labels: Sequence[Label], stamps: Floats) -> None:
        """Takes labels in, each with the lane's event time at its place among the records."""
        self._fresh = True
        room = max(self._options.keep - len(self._held), 0)
        self._counts["lost"] += len(labels[room:])
        self._held += [
            _Held(label.id, label.label, label.value, stamp)
            for label, stamp in zip(labels[:room], stamps.tolist(), strict=False)
        ]

    def keep(self, rows: Batch) -> None:
        """Keeps scored rows. A row that is kept already stays as it was."""
        if not len(rows) or (rows.get("label") is None and rows.get("value") is None):
            return
        self._newest = max(self._newest, float(rows.times.max()))
        some = np.flatnonzero(rows.keys < np.uint64(self._limit))
        some = some[np.unique(rows.keys[some], return_index=True)[1]]  # ascending by key, each once
        places = np.searchsorted(self._rows["key"], rows.keys[some])
        some = some[np.append(self._rows["key"], np.uint64(0))[places] != rows.keys[some]]
        if some.size:
            new = self._kept(rows, some)
            self._rows = np.insert(self._rows, np.searchsorted(self._rows["key"], new["key"]), new)
        stale = self._rows["time"] < self._newest - self._options.expire
        if stale.any():
            unlabelled = (self._rows["truth"] == 0) & np.isnan(self._rows["target"])
            self._counts["expired"] += int((stale & unlabelled).sum())
            self._rows = self._rows[~stale]
        if len(self._rows) > self._options.keep:
            self._limit = int(self._rows["key"][self._options.keep])
            self._rows = self._rows[: self._options.keep].copy()
        elif len(self._rows) < self._options.keep // 2:
            self._limit = min(2 * self._limit, _ALL)

    def _kept(self, rows: Batch, some: Ints) -> NDArray[Any]:
        """Rows of the batch as they are kept."""
        new = np.zeros(some.size, _ROW)
        new["key"], new["time"], new["target"] = rows.keys[some], rows.times[some], np.nan
        for name, column in (("value", "value"), ("confidence", "confidence"), ("expected", "expected_correct")):
            found = rows.get(column)
            new[name] = np.nan if found is None or found.kind is not Kind.NUMBER else found.values[some]
        answers = rows.get("label")
        if answers is not None and answers.kind is Kind.CATEGORY:
            new["answer"] = hashes_of(answers.take(some))
            new["side"] = np.where(new["answer"] == 0, 0, self._side(new["answer"]))
        return new

    def join(self, until: float, since: float) -> list[Event]:
        """Rows of the labels that came before event time `until` and found their prediction, in the order they came.

        A row's time is when its label came, or `since` where that is later: the window of then is closed.
        """
        due = [held for held in self._held if held.stamp < until]
        self._fresh = len(due) < len(self._held)
        if not due:
            return []
        keys = keys_of([held.id for held in due])
        places = np.searchsorted(self._rows["key"], keys)
        found = np.append(self._rows["key"], np.uint64(0))[places] == keys
        found &= places < len(self._rows)
        kept, events = [held for held in self._held if held.stamp >= until], []
        confidences = self._ranked()
        for held, key, place, known in zip(due, keys.tolist(), places.tolist(), found.tolist(), strict=True):
            if known:
                event = self._outcome(held, self._rows[place], max(held.stamp, since), confidences)
                if event is not None:
                    events.append(event)
            elif key >= self._limit:
                self._counts["thinned"] += 1
            elif held.stamp >= self._newest - _WAITS:
                kept.append(held)
            else:
                self._counts["unknown"] += 1
        self._held = kept
        return events

    def _outcome(self, held: _Held, row: Any, at: float, confidences: Floats) -> Event | None:
        truth, target = _hash(called(word(held.label), self._names())), _number(held.value)
        old, old_target = int(row["truth"]), float(row["target"])
        if not truth and math.isnan(target):
            self._counts["unknown"] += 1
            return None
        if old or not math.isnan(old_target):
            same = truth == old and (np.float32(target) == row["target"] or math.isnan(target))
            self._counts["repeated" if same else "corrected"] += 1
            if same:
                return None
            row["truth"], row["target"] = truth, target
            self._touched.add(math.floor(row["time"] / HOUR))
            return None
        row["truth"], row["target"] = truth, target
        self._touched.add(math.floor(row["time"] / HOUR))
        self._counts["joined"] += 1
        right = math.nan if not truth or not row["answer"] else float(truth == row["answer"])
        surprise = right - float(row["expected"])
        side = int(row["side"])
        said = {
            "error": 1.0 - right,
            "loss": self._loss(row, right),
            "lag": max(at - float(row["time"]), 0.0),
            "rank": _rank(confidences, float(row["confidence"])),
            "surprise": surprise,
            "tilt": surprise * side if side else math.nan,
        }
        return Event(id=held.id, time=at, extra={name: v for name, v in said.items() if not math.isnan(v)})

    def _loss(self, row: Any, right: float) -> float:
        """Log loss of being right by the stated confidence, or the distance in standard deviations of the reference."""
        confidence, value, target = float(row["confidence"]), float(row["value"]), float(row["target"])
        if not math.isnan(right) and not math.isnan(confidence):
            chance = confidence if right else 1.0 - confidence
            return min(-math.log(max(chance, 1e-9)), _LARGEST)
        spread = spread_of(self._reference())
        return min(abs(value - target) / spread, _LARGEST) if spread > 0 else math.nan

    def _ranked(self) -> Floats:
        """Confidences of a fair sample of the kept rows, ascending."""
        some = self._rows["confidence"][:_RANKED].astype(np.float64)
        return np.sort(some[~np.isnan(some)])

    def _side(self, answers: Any) -> Any:
        """Of two classes 1 where the second was answered and -1 elsewhere; 0 where there are more."""
        reference = self._reference()
        fitted = None if reference is None else reference.fitted.get("outcome")
        classes = [] if fitted is None else fitted["words"]
        return np.where(answers == _hash(classes[1]), 1, -1) if len(classes) == 2 else 0

    def state(self) -> Any:
        """All of it as plain data."""
        return _Saved(
            self._rows.view(np.uint8), self._limit, self._newest, self._held, self._fresh, self._touched,
            dict(self._counts),
        )  # fmt: skip

    def restore(self, state: Any) -> None:
        """Goes on from a state. msgspec.ValidationError when it was none."""
        saved = msgspec.convert(state, _Saved)
        self._rows = saved.rows.view(_ROW)
        self._limit, self._newest, self._held = saved.limit, saved.newest, saved.held
        self._fresh, self._touched, self._counts = saved.fresh, saved.touched, Counter(saved.counts)


def hashes_of(column: Column) -> NDArray[np.uint64]:
    """Hashes of a category column's words row by row (n,), 0 = missing."""
    words = np.array([_hash(word) for word in column.words] + [0], np.uint64)  # the last serves code -1
    return np.asarray(words[column.values])


def spread_of(reference: Reference | None) -> float:
    """Standard deviation of the reference's answers, NaN where they are no numbers."""
    if reference is None or "value" not in reference.layout.numbers:
        return math.nan
    return math.sqrt(reference.profile.variance[reference.layout.numbers.index("value")])


def _hash(text: str | None) -> int:
    return 0 if text is None else xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) or 1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _rank(ordered: Floats, value: float) -> float:
    """Share of `ordered` under the value, equal ones half; NaN where they are too few to tell.

    >>> _rank(np.arange(100.0), 25.0)
    0.255
    """
    if len(ordered) < 50 or math.isnan(value):
        return math.nan
    return float(np.searchsorted(ordered, value, "left") + np.searchsorted(ordered, value, "right")) / (
        2 * len(ordered)
    )
