"""How good a model is, as the labels that come back of its draws have it: span by span, and tracked between them.

What a reader would get wrong: these labels never go through the join of late labels, since doubtful answers are asked
for first; each carries how likely it was to be asked for, and its batch the sums of all rows. A span of event time is
settled once, in order, when its labels are in or have had their time; what is said of younger spans is as known so far.
All of it is a function of draws, labels and window ends, so a replay comes to the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from alerting.alert import Severity, Symptom
from alerting.labeling.task import Draw, LabelingStatus, LabelTask, Named, Part, Returned, Value
from alerting.policy import Drop
from alerting.retraining import Measured
from detectors.checks.verdict import share_text
from detectors.core import Batch, Finding, Floats, Mask, category, from_columns, number
from detectors.estimate import Estimate, Labelled, Track, Tuning, estimate, inclusion, picked, share
from detectors.failing import Search
from detectors.falling import Falling
from detectors.performance import difference_of_confidences
from detectors.reference import Reference
from detectors.scorers.outcome import table_of
from detectors.units import Seconds
from monitor.decode.columns import word
from monitor.scopes import SLICE, VERSION, Slice
from monitor.snapshot import LabelledView, MeasureView

CHECK = "labeled_accuracy"
KEPT = 24  # settled spans kept for what one span has too few labels for: classes, slices
ROWS = 4_000  # asked-for events held; the oldest span is let go beyond
INPUTS, LONGEST = 20, 40  # kept of a labelled event, for slices; characters of a name and of a text
CLASSES = 20  # told apart, those of most labels
ENOUGH = 100.0  # effective labels that say how good a version was at first
FEWEST = 3.0  # effective labels of a class in a span that say anything of its recall
UNCALIBRATED = 0.1  # standard deviation by which a model's own confidence is off
GAP = 24  # spans without a draw make the track less sure; more of them no less
OTHER = "__other__"
NOTHING = 0.5  # is expected where the model tells no confidence


class AccuracyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model's performance by the labels of its draws."""

    span: Annotated[Seconds, Meta(gt=0, description="Event time that one estimate is of.")] = 3600.0
    patience: Annotated[
        Seconds,
        Meta(ge=0, description="Event time after a span in which labels may come before it is settled without them."),
    ] = 43_200.0
    margin: Annotated[
        float, Meta(ge=0, lt=1, description="A fall by so much is as good; of errors of numbers, a rise by this share.")
    ] = 0.02
    promise: Annotated[float, Meta(gt=1, description="Spans until a false alarm, on average over calm, at least.")] = (
        1000.0
    )
    severity: Annotated[Severity, Meta(description="Of its alerts.")] = Severity.WARNING


class _Row(msgspec.Struct, array_like=True):
    """An event that was asked for."""

    task: str
    answer: Value
    version: str
    part: str
    size: float
    key: float
    copies: int
    expected: float | None
    reserve: bool  # asked for only if the queue runs dry
    label: Value = None
    rev: int = -1  # of the task when it said so; under 0: nobody has
    inputs: dict[str, Value] = {}
    others: dict[str, Value] = {}  # answers of other versions

    @property
    def known(self) -> bool:
        return self.label is not None and self.answer is not None


class _Batch(msgspec.Struct):
    """A draw: what it asked for, and the sums of what this was drawn from."""

    rows: int
    expected: float | None  # mean of what was expected of them
    confidence: float | None
    drawn: list[_Row]  # by chance, in the order of their keys
    following: float | None  # the key after the last; None: not told, as the last ones wait in reserve
    certain: list[_Row]

    @property
    def ranked(self) -> list[_Row]:
        """The rows whose chance is known: the last one in reserve has no key after it."""
        return self.drawn if self.following is not None else self.drawn[:-1]

    @property
    def threshold(self) -> float:
        """Key of the first row that is not among `ranked`."""
        if self.following is not None:
            return self.following
        return self.drawn[-1].key if self.drawn else math.inf

    @property
    def sizes(self) -> Floats:
        return np.array([row.size for row in self.ranked])

    @property
    def keys(self) -> Floats:
        return np.array([row.key for row in self.ranked])

    @property
    def back(self) -> Mask:
        return np.array([row.known for row in self.ranked], np.bool_)


class _Span(msgspec.Struct):
    number: int
    batches: list[_Batch] = []
    reference: str = ""  # version of the one that the newest batch's expectations come from; empty: not noted

    @property
    def asked(self) -> Iterator[_Row]:
        for batch in self.batches:
            yield from batch.drawn
            yield from batch.certain


class _Known(msgspec.Struct, frozen=True):
    """Rows with a label, and what they say of the others."""

    batch: Labelled
    rows: list[_Row]
    answers: list[str]  # as words, of shares
    truths: list[str]

    def merged(self, other: _Known) -> _Known:
        return _Known(
            self.batch.merged(other.batch),
            self.rows + other.rows,
            self.answers + other.answers,
            self.truths + other.truths,
        )


class _Mind(msgspec.Struct, frozen=True):
    """What the spans so far taught."""

    number: int | None = None  # of the last of them
    version: str = ""  # that answered most of it
    tuning: Tuning = Tuning()
    track: Track = Track()
    reference: str = ""  # by which it was judged


class _Said(msgspec.Struct, frozen=True):
    """A span, as its labels have it."""

    end: float  # event time
    labels: Estimate | None  # by its own labels alone; None: there are none, or they are refused
    tracked: Estimate
    expected: float  # NaN: nothing is
    confidence: float
    asked: int
    refused: str = ""


class State(msgspec.Struct):
    """Plain data, saved with the judge's checkpoint."""

    mind: _Mind = _Mind()  # of settled spans
    spans: list[_Span] = []  # in order
    first: _Known | None = None  # labels since the version came, up to `ENOUGH`
    falling: dict[str, Falling] = {}  # by class, "" for all
    last: _Said | None = None  # settled
    labels: int = 0  # that came
    search: Search = Search()  # for slices that fail
    late: int = 0  # of them after their span was settled: they count for classes and slices only
    unknown: int = 0  # of events that are not held any more


class Accuracy:
    """The judge's side for one model."""

    def __init__(self, model: str, options: AccuracyOptions, slices: Mapping[str, Slice] = {}) -> None:
        self._model = model
        self._options = options
        self._slices = slices
        self._reference = ""  # version of the one that is judged by
        self._before: tuple[float, float] | None = None  # accuracy and mean confidence of it
        self._state = State()
        self._rows: dict[str, tuple[int, _Row]] = {}  # by task, with the number of its span
        self._found: list[Finding] | None = None
        self._known: dict[int, tuple[_Known | None, str]] = {}  # by span; what changes is worked out anew
        self._view: LabelledView | None = None

    def judge_by(self, reference: Reference) -> None:
        """What is expected of answers comes from this reference: calibrated where its rows have truths."""
        state, layout = self._state, reference.layout
        self._reference = reference.version
        fitted = next((f for f in reference.fitted.values() if isinstance(f, dict) and "table" in f), None)
        if fitted is None:
            self._before = None
            if not state.mind.track.batches:
                state.mind = replace(state.mind, track=Track(variance=UNCALIBRATED**2))
        elif "confidence" in layout.numbers:
            table = table_of(fitted)
            right = float(table.truths[np.arange(len(table.right)), table.right].sum() / table.truths.sum())
            self._before = right, float(reference.profile.mean[layout.numbers.index("confidence")])

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state, self._view, self._known = state, None, {}
        self._rows = {row.task: (span.number, row) for span in state.spans for row in span.asked}

    # -- what comes

    def drawn(self, draw: Draw) -> None:
        """A draw that was made. One whose span is settled is not taken up."""
        state = self._state
        number = math.floor(draw.batch.end / self._options.span)
        if self._is_settled(number):
            return
        span = next((span for span in state.spans if span.number == number), None)
        if span is None:
            span = _Span(number)
            state.spans = sorted([*state.spans, span], key=lambda span: span.number)
        span.batches.append(_batch(draw))
        span.reference = self._reference
        self._known.pop(number, None)
        self._rows.update((row.task, (number, row)) for row in span.asked)
        while len(self._rows) > ROWS and len(state.spans) > 1:
            self._let_go(state.spans[0])
        self._view = None

    def take(self, returned: Sequence[Returned]) -> None:
        """Labels that are final. One that comes again with a higher revision replaces what it said."""
        state = self._state
        for one in returned:
            if one.task not in self._rows:
                state.unknown += 1
                continue
            number, row = self._rows[one.task]
            if one.rev <= row.rev:
                continue
            state.labels += row.rev < 0
            state.late += self._is_settled(number)
            row.label, row.rev = one.label, one.rev
            self._known.pop(number, None)
            row.inputs = self._kept(one.inputs)
            row.others = {other.version: other.label for other in one.others}
        self._view = None

    def _kept(self, inputs: Sequence[Named]) -> dict[str, Value]:
        """Those that declared slices ask for, and the first of the others."""
        asked = {one.column for one in self._slices.values()}
        first = sorted(inputs, key=lambda named: named.name not in asked)[:INPUTS]
        return {named.name[:LONGEST]: _held(named.value) for named in first}

    def lift(self, rows: Sequence[Sequence[tuple[str, Value]]], most: float) -> tuple[Floats, float]:
        """How much more than others rows are worth a label, by their inputs: for lying in a slice that was found to
        fail by the labels so far. As `detectors.failing.Search.lift`."""
        found = [{name[:LONGEST]: _held(value) for name, value in row} for row in rows]
        return self._state.search.lift(found, most)

    def pass_time(self, now: float) -> None:
        """Event time has come to `now`: settles the spans that are due, oldest first."""
        state, options = self._state, self._options
        for span in [span for span in state.spans if not self._is_settled(span.number)]:
            end = (span.number + 1) * options.span
            complete = all(row.rev >= 0 or row.reserve for row in span.asked)
            if now < end or not (complete or now >= end + options.patience):
                break
            self._settle(span)
        while len(state.spans) > KEPT and self._is_settled(state.spans[0].number):
            self._let_go(state.spans[0])

    def look(self, now: float, moved: Sequence[str]) -> list[Symptom] | None:
        """What the spans settled since the last look show, told beside the inputs that moved; None: there were none."""
        found, self._found = self._found, None
        if found is None:
            return None
        start = (self._state.mind.number or 0) * self._options.span
        return [
            Symptom(
                model=self._model, check=CHECK, column=finding.column, start=start, end=now, score=finding.score,
                limit=finding.limit, text=f"{finding.text} {concept(moved)}", severity=self._options.severity,
                facts=finding.facts | {"effect": finding.effect or 0.0, "beside": concept(moved)},
            )
            for finding in found
        ]  # fmt: skip

    # -- spans

    def _is_settled(self, number: int) -> bool:
        last = self._state.mind.number
        return last is not None and number <= last

    def _labels(self, span: _Span) -> tuple[_Known | None, str]:
        """The labelled rows of a span; or none, and why they give no estimate."""
        if span.number not in self._known:
            self._known[span.number] = _known(span)
        return self._known[span.number]

    def _together(self, spans: Sequence[_Span]) -> _Known | None:
        """The labelled rows of several spans."""
        parts = [known for span in spans if (known := self._labels(span)[0]) is not None]
        return reduce(_Known.merged, parts) if parts else None

    def _let_go(self, span: _Span) -> None:
        if not self._is_settled(span.number):
            self._settle(span)
        self._state.spans.remove(span)
        self._known.pop(span.number, None)
        for row in span.asked:
            del self._rows[row.task]
        self._view = None

    def _settle(self, span: _Span) -> None:
        state = self._state
        before, known = state.mind.version, self._labels(span)[0]
        state.mind, state.last = self._follow(state.mind, span)
        if state.mind.version != before:
            state.first, state.falling = None, {}
        self._found = self._found or []
        if known is not None:
            self._found = self._compare(known)
            # what one span has too few labels for, the first spans together have
            some = (
                known
                if state.search.conditions
                else self._together(state.spans[: state.spans.index(span) + 1]) or known
            )
            state.search = state.search.after([row.inputs for row in some.rows], _errors(some), some.batch.weight)
            if state.first is None or state.first.batch.effective < ENOUGH:
                state.first = known if state.first is None else state.first.merged(known)
        self._view = None

    def _follow(self, mind: _Mind, span: _Span) -> tuple[_Mind, _Said]:
        """One span later."""
        known, refused = self._labels(span)
        version = _version(span) or mind.version
        tuning, track = mind.tuning, mind.track
        for _ in range(0 if mind.number is None else min(span.number - mind.number - 1, GAP)):
            track = track.idle()
        reference = span.reference or mind.reference
        expected = _over(span, "expected")
        if (mind.version and version != mind.version) or (mind.reference and reference != mind.reference):
            track = track.renewed(halved=tuning.shares and not math.isnan(expected))
        alone = None
        if known is None:
            track = track.idle()
        else:
            if not track.batches and _numeric(known.rows):  # a loss, whose unit and variance only labels tell
                tuning = _untuned(shares=False)
                track = Track(unit=math.sqrt(max(float(np.mean(known.batch.outcome**2)), 1e-300)), variance=1.0)
            alone = estimate(known.batch, tuning)
            track = track.after(known.batch, tuning)
        base = (NOTHING if math.isnan(expected) else expected) if tuning.shares else 0.0
        said = _Said(
            end=(span.number + 1) * self._options.span,
            labels=alone,
            tracked=track.estimate(base, tuning),
            expected=expected,
            confidence=_over(span, "confidence"),
            asked=sum(1 for _ in span.asked),
            refused=refused,
        )
        after = tuning if known is None else tuning.after(known.batch)
        return _Mind(span.number, version, after, track, reference), said

    # -- what they show

    def _compare(self, known: _Known) -> list[Finding]:
        """Evidence that the model answers worse than when its version came."""
        state, options = self._state, self._options
        first = state.first
        if first is None or first.batch.effective < ENOUGH:
            return []
        shares = state.mind.tuning.shares
        told = {"": (estimate(first.batch, _untuned(shares)), estimate(known.batch, state.mind.tuning))}
        if shares:
            told |= {of: (_recall(first, of), _recall(known, of)) for of in _classes(first)}
        limit = options.promise * len(told)  # of several, none is more than their mean times their number
        found = []
        for of, (was, now) in told.items():
            if not math.isfinite(now.error) or now.error <= 0 or (of and now.effective < FEWEST):
                continue
            short = was.low - options.margin - now.value if shares else now.value - was.high * (1 + options.margin)
            falling = state.falling.get(of, Falling()).after(short / now.error, limit)
            state.falling[of] = falling
            if falling.evidence > limit:
                found.append(_finding(of, was, now, falling.evidence, limit, shares))
        return found

    @property
    def view(self) -> LabelledView:
        """All that is known by now, spans that are not settled included."""
        if self._view is None:
            self._view = self._look_over()
        return self._view

    def _look_over(self) -> LabelledView:
        state, mind = self._state, self._state.mind
        newest = labelled = state.last
        for span in state.spans:
            if not self._is_settled(span.number):
                mind, newest = self._follow(mind, span)
                labelled = newest if newest.labels is not None or newest.refused else labelled
        known = self._together(state.spans)
        shares = mind.tuning.shares
        enough = state.first is not None and state.first.batch.effective >= ENOUGH
        first = estimate(state.first.batch, _untuned(shares)) if enough and state.first is not None else None
        doc = math.nan
        if self._before is not None and newest is not None:
            doc = difference_of_confidences(*self._before, newest.confidence)
        return LabelledView(
            measure="accuracy" if shares else "mae",
            version=mind.version,
            end=math.nan if newest is None else newest.end,
            tracked=None if newest is None or not mind.track.batches else newest.tracked,
            cbpe=newest.expected if newest is not None else math.nan,
            doc=doc,
            labelled_end=math.nan if labelled is None else labelled.end,
            labels=None if labelled is None else labelled.labels,
            refused="" if labelled is None else labelled.refused,
            first=first,
            measures=() if known is None else tuple(_measures(known, shares, self._slices)),
            confusion=() if known is None or not shares else tuple(_confusion(known)),
            failing=tuple(state.search.found()),
            asked=len(self._rows),
            returned=state.labels,
            late=state.late,
            unknown=state.unknown,
        )

    def drop(self) -> Drop | None:
        """How far the accuracy is from what it was when the version came; None while there are too few labels."""
        view = self.view
        if view.first is None or view.tracked is None or view.measure != "accuracy":
            return None
        return Drop(view.first.value, view.tracked.value, view.tracked.error)

    def measured(self) -> dict[str, Measured]:
        """Measures as a retraining request carries them, such as `accuracy` or `recall of cat`."""
        view = self.view
        named = {} if view.tracked is None else {view.measure: view.tracked}
        named |= {f"{m.name} of {m.of}" if m.of else m.name: m.estimate for m in view.measures}
        return {name: Measured(e.value, e.low, e.high, e.effective) for name, e in named.items()}

    def fell(self) -> tuple[str, ...]:
        """Classes whose recall fell, and slices that fail."""
        limit = self._options.promise * len(self._state.falling)
        classes = sorted(of for of, falling in self._state.falling.items() if of and falling.evidence > limit)
        return (*classes, *(" and ".join(one.conditions) for one in self.view.failing))


def concept(moved: Sequence[str]) -> str:
    """What errors that moved mean beside the inputs that did."""
    if moved:
        return f"Inputs moved as well ({', '.join(moved[:3])}): the rows are not those of before."
    return "No input moved: the same inputs have other answers than before, which is concept drift."


# -- rows


def _batch(draw: Draw) -> _Batch:
    """What is kept of a draw. Rows of a plain top-k, and of versions' disagreements, say nothing of the others."""
    batch = draw.batch
    chance = [task for task in draw.tasks if task.select.part == Part.PROBABILITY and task.select.monitoring]
    certain = [task for task in draw.tasks if task.select.part in (Part.TAKE_ALL, Part.RULE, Part.FEEDBACK)]
    drawn = sorted(map(_row, chance), key=lambda row: row.key)
    following = None if batch.reserve else math.inf if batch.tau is None else batch.tau
    sums = batch.sums
    return _Batch(
        batch.N, _mean(sums, "expected"), _mean(sums, "confidence"), drawn, following, list(map(_row, certain))
    )


def _row(task: LabelTask) -> _Row:
    select = task.select
    size = 1.0 if select.size is None else select.size
    return _Row(
        task.id, task.prediction.label, task.model.version, select.part, size,
        math.inf if select.key is None else select.key, task.stands_for, select.expected,
        task.labeling_status is LabelingStatus.IN_RESERVE,
    )  # fmt: skip


def _known(span: _Span) -> tuple[_Known | None, str]:
    if picked([(batch.sizes, batch.back) for batch in span.batches]):
        return None, "labels came back for the doubtful or the sure ones first, not by rank: they speak for no others"
    parts = [known for batch in span.batches if (known := _of_batch(batch)) is not None]
    return (reduce(_Known.merged, parts) if parts else None), ""


def _of_batch(batch: _Batch) -> _Known | None:
    drawn = [row for row in batch.ranked if row.known]
    certain = [row for row in batch.certain if row.known]
    if not drawn and sum(row.copies for row in certain) < batch.rows:
        return None  # rows taken for certain speak for themselves alone
    rows = drawn + certain
    losses = _numeric(rows)
    mean = 0.0 if losses else NOTHING if batch.expected is None else batch.expected
    labelled = Labelled(
        rows=batch.rows,
        expected=mean * batch.rows,
        outcome=np.array([_outcome(row) for row in rows]),
        expectation=np.array([mean if losses or row.expected is None else row.expected for row in rows]),
        inclusion=np.concatenate(
            [inclusion(batch.sizes, batch.keys, batch.threshold, batch.back), np.ones(len(certain))]
        ),
        copies=np.array([float(row.copies) for row in rows]),
        unknown=sum(row.copies for row in batch.certain if not row.known),
    )
    return _Known(labelled, rows, [word(row.answer) or "" for row in rows], [word(row.label) or "" for row in rows])


def _errors(known: _Known) -> Floats:
    """Share of wrong answers, or the loss (n,)."""
    return known.batch.outcome if _numeric(known.rows) else 1.0 - known.batch.outcome


def _numeric(rows: Sequence[_Row]) -> bool:
    """Whether answers are numbers, whose outcome is a distance. A class that is sent as a whole number is a word."""
    return any(isinstance(row.answer, float) for row in rows)


def _outcome(row: _Row) -> float:
    if isinstance(row.answer, float):
        return abs(row.answer - row.label) if isinstance(row.label, int | float) else math.nan
    return float(word(row.answer) == word(row.label))


def _untuned(shares: bool) -> Tuning:
    return Tuning() if shares else Tuning(shares=False, seen=0.0)


def _mean(sums: Mapping[str, float | None], name: str) -> float | None:
    """Mean of what a batch has the sum of."""
    n, total = sums.get("n"), sums.get(name)
    return None if not n or total is None else total / n


def _over(span: _Span, name: str) -> float:
    """Mean over a span's rows of what its batches have means of; NaN where none has."""
    held = [(batch.rows, mean) for batch in span.batches if (mean := getattr(batch, name)) is not None]
    rows = sum(n for n, _ in held)
    return math.fsum(n * mean for n, mean in held) / rows if rows else math.nan


def _version(span: _Span) -> str:
    """That most of the asked-for events are of."""
    counts = Counter(row.version for row in span.asked)
    return max(counts, key=lambda version: (counts[version], version), default="")


def _held(value: Value) -> Value:
    return value[:LONGEST] if isinstance(value, str) else value


# -- measures


def _classes(known: _Known) -> list[str]:
    """Those of most labels."""
    counts = Counter(known.truths)
    return sorted(sorted(counts, key=lambda of: (-counts[of], of))[:CLASSES])


def _is(words: Sequence[str], of: str) -> Mask:
    return np.array([one == of for one in words], np.bool_)


def _recall(known: _Known, of: str) -> Estimate:
    return share(known.batch, _is(known.truths, of), _is(known.answers, of))


def _measures(known: _Known, shares: bool, slices: Mapping[str, Slice]) -> Iterator[MeasureView]:
    if not shares:
        squares = estimate(replace(known.batch, outcome=known.batch.outcome**2), _untuned(shares=False))
        value, low, high = (math.sqrt(max(x, 0.0)) for x in (squares.value, squares.low, squares.high))
        error = squares.error / (2 * value) if value else math.inf
        yield MeasureView("rmse", "", Estimate(value, error, low, high, squares.labels, squares.effective))
        return
    for of in _classes(known):
        answered, truly = _is(known.answers, of), _is(known.truths, of)
        yield MeasureView("precision", of, share(known.batch, answered, truly))
        yield MeasureView("recall", of, share(known.batch, truly, answered))
        both = share(known.batch, answered | truly, answered & truly)
        value, low, high = (2 * x / (1 + x) for x in (both.value, both.low, both.high))
        f1 = replace(both, value=value, low=low, high=high, error=2 * both.error / (1 + both.value) ** 2)
        yield MeasureView("f1", of, f1)
    for version in sorted({version for row in known.rows for version in row.others}):
        of_it = np.array([version in row.others for row in known.rows])
        right = np.array([word(row.others.get(version)) == word(row.label) for row in known.rows])
        yield MeasureView("accuracy", f"{VERSION}{version}", share(known.batch, of_it, right))
    right = known.batch.outcome > 0
    for name, one in slices.items():
        of_it = one.rows(_column(one.column, known.rows))
        yield MeasureView("accuracy", f"{SLICE}{name}", share(known.batch, of_it, right))


def _column(name: str, rows: Sequence[_Row]) -> Batch:
    """An input of all rows, as a slice looks at it."""
    values = [row.inputs.get(name) for row in rows]
    if any(isinstance(value, str) for value in values):
        return from_columns({name: category([word(value) for value in values])})
    return from_columns({name: number([math.nan if v is None else float(v) for v in values])})


def _confusion(known: _Known) -> Iterator[tuple[str, str, float]]:
    """Answer, truth and the share of all rows, of the classes told apart."""
    weight, told = known.batch.weight, set(_classes(known))
    cells: Counter[tuple[str, str]] = Counter()
    for answer, truth, one in zip(known.answers, known.truths, weight.tolist(), strict=True):
        cells[answer if answer in told else OTHER, truth if truth in told else OTHER] += one
    total = float(weight.sum())
    for (answer, truth), one in sorted(cells.items()):
        yield answer, truth, one / total


def _finding(of: str, was: Estimate, now: Estimate, evidence: float, limit: float, shares: bool) -> Finding:
    def said(e: Estimate) -> str:
        value, low, high = (share_text(x) if shares else f"{x:.4g}" for x in (e.value, e.low, e.high))
        return f"{value} ({low} to {high})"

    what = f"the recall of {of}" if of else "the accuracy" if shares else "the mean error"
    moved = "fell" if shares else "rose"
    text = (
        f"{what} by labels {moved} from {said(was)} when the version came to {said(now)} in the "
        f"last span, {now.labels} labels. Evidence {evidence:.3g}, limit {limit:.3g}: by chance it comes so far once "
        f"in as many spans."
    )
    facts: dict[str, float | str] = {"before": was.value, "after": now.value, "labels": float(now.labels)}
    return Finding(f"recall.{of}" if of else "", evidence, limit, text, None, now.value - was.value, "share", facts)
