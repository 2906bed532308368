"""The judge's side of two live versions: counts how they differ, has disagreements labelled, says what it comes to.

What a reader would get wrong: the outcome is a finding. driftd moves no traffic; `promote`, `hold` and `roll back` are
said in an alert, and whoever routes the traffic acts. The labels drawn here are of disagreements alone and say nothing
of the model's accuracy, so they never reach its estimate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from alerting.alert import Look, Severity, Symptom
from alerting.labeling import task as labeling
from alerting.labeling.task import Part, Returned
from detectors.compare import Gap, Outcome, Paired, Split, Weighed, kappa, quantile_bounds, share_bounds
from detectors.core import Floats
from detectors.draw import Draw
from detectors.profile import CELLS, Profile
from monitor.decode.columns import word
from monitor.scopes import VERSION, Slice
from monitor.snapshot import ComparisonView, SliceGapView
from monitor.versions import OFFERED, OTHER, Disagreement, Met

CHECK = "versions"  # name of the check whose alert says what a comparison comes to
PENDING = 5_000  # disagreements that labels are waited for, and labels kept; the oldest go
PAIRS = 1_000  # pairs of classes counted; customers likewise
_FAILED = frozenset({"error", "failed", "failure", "timeout", "exception", "unavailable"})
_PARTS = frozenset({Part.PROBABILITY, Part.TAKE_ALL})  # parts of a draw that together stand for all rows


class CompareOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two versions of the model, compared while both are live. Both are watched on their own as well."""

    stable: Annotated[str, Meta(min_length=1, description="The version in service, as events name it.")]
    candidate: Annotated[str, Meta(min_length=1, description="The version that may take its place.")]
    mode: Annotated[
        Literal["shadow", "canary", "blue_green"],
        Meta(
            description="`shadow`: both answer the same events, and their disagreements are labelled. `canary` and "
            "`blue_green` share the traffic, each event at random to one: the labels of ordinary sampling tell."
        ),
    ] = "shadow"
    per_hour: Annotated[
        float, Meta(ge=0, description="Disagreements labelled an hour of event time, beside the sampling's budget.")
    ] = 20.0
    alpha: Annotated[
        float, Meta(gt=0, lt=0.5, description="Chance of a false word on the accuracy, over all looks together.")
    ] = 0.05
    margin: Annotated[
        float, Meta(ge=0, le=1, description="Loss of accuracy that a candidate may have and yet be promoted.")
    ] = 0.005
    flips: Annotated[
        float, Meta(ge=0, le=1, description="Share of answers that may turn from right to wrong in a promotion.")
    ] = 0.01
    protected: Annotated[
        tuple[str, ...],
        Meta(
            description="Names among the model's `slices`, in each of which the candidate must be known to be better, "
            "or to lose less than `slice_margin`, before it is promoted. A slice without events holds it.",
            max_length=32,
        ),
    ] = ()
    slice_margin: Annotated[
        float, Meta(ge=0, le=1, description="Loss of accuracy in a protected slice that holds a promotion.")
    ] = 0.02
    quantile: Annotated[float, Meta(gt=0, lt=1, description="Of the latency, that is guarded.")] = 0.95
    slower: Annotated[float, Meta(ge=1, description="Times as slow as the candidate may be at that quantile.")] = 1.25
    errors: Annotated[
        float, Meta(ge=0, le=1, description="Share of failed answers that the candidate may have more.")
    ] = 0.01


class _Judged(msgspec.Struct, frozen=True, array_like=True):
    """A label of a disagreement, or in split traffic of any event."""

    version: str
    weight: float
    right: bool
    other: bool = False  # whether the candidate was, of a disagreement
    slices: tuple[str, ...] = ()  # protected ones that the event belongs to


class _Guarded(msgspec.Struct):
    """What is counted of a version's rows beside its answers."""

    failed: int = 0
    known: int = 0  # rows that say how they ended
    latency: NDArray[np.int64] = msgspec.field(default_factory=lambda: np.zeros(CELLS, np.int64))


class State(msgspec.Struct):
    """Plain data, saved with the judge's checkpoint."""

    pair: tuple[str, str] = ("", "")  # that all of it is about
    paired: Paired = Paired()
    classes: dict[str, dict[str, int]] = {}  # by the stable version's class, then by the candidate's
    customers: dict[str, tuple[int, int]] = {}  # compared, disagreed
    slices: dict[str, tuple[int, int]] = {}  # the same of each protected one
    waiting: Draw | None = None
    disagreed: int = 0  # among those it was drawn from
    since: float = 0.0
    tokens: float = 0.0
    last: float | None = None  # event time of the last window
    pending: dict[str, tuple[str, str]] = {}  # by task: what the stable version answered, and the candidate
    among: dict[str, tuple[str, ...]] = {}  # protected slices of pending ones that belong to any
    labels: dict[str, _Judged] = {}  # by task
    forgotten: int = 0  # labels beyond `PENDING`
    guards: dict[str, _Guarded] = {}
    layout: str = ""  # that latencies are counted on


class Comparison:
    """One comparison of one model. Anew when the configured versions change."""

    def __init__(self, model: str, dataset: str, options: CompareOptions, protected: Mapping[str, Slice] = {}) -> None:
        self._model, self._dataset, self._options, self._protected = model, dataset, options, protected
        self.state = State(pair=(options.stable, options.candidate))
        self._edges: Floats | None = None  # of the cells of latency

    def resume(self, state: State) -> None:
        """Goes on from a checkpoint, unless it is about other versions."""
        if state.pair == self.state.pair:
            self.state = state

    @property
    def kappa(self) -> float:
        """Agreement of the two beyond chance; NaN while they answered no class together."""
        table = {(a, b): n for a, row in self.state.classes.items() for b, n in row.items()}
        return kappa(table)

    @property
    def flips(self) -> float | None:
        """Share of answers that turned from right to wrong; None while it is not known."""
        flips = self._evidence()[0].negative_flips
        return None if math.isnan(flips) else flips

    @property
    def look_name(self) -> Look:
        """Under which its outcome is told."""
        return Look(self._model, CHECK, f"{VERSION}{self._options.candidate}")

    # -- what comes

    def take_met(self, met: Iterable[Met]) -> None:
        """How answers to the same events differed, in a lane's closed windows."""
        for one in met:
            if {one.first, one.second} == {*self.state.pair}:
                self._take_meeting(one, turned=one.first != self._options.stable)

    def _take_meeting(self, met: Met, *, turned: bool) -> None:
        state = self.state
        state.paired += Paired(compared=met.compared, disagreed=met.disagreed)
        for a, row in met.classes.items():
            for b, count in row.items():
                stable, candidate = (b, a) if turned else (a, b)
                counts = state.classes.setdefault(stable, {})
                if candidate in counts or sum(map(len, state.classes.values())) < PAIRS:
                    counts[candidate] = counts.get(candidate, 0) + count
        for customer, (compared, disagreed) in met.customers.items():
            name = customer if customer in state.customers or len(state.customers) < PAIRS else OTHER
            n, d = state.customers.get(name, (0, 0))
            state.customers[name] = (n + compared, d + disagreed)
        for name, (compared, disagreed) in met.slices.items():
            n, d = state.slices.get(name, (0, 0))
            state.slices[name] = (n + compared, d + disagreed)
        if self._options.mode == "shadow" and met.draw.seen:
            draw = met.draw
            if turned:
                rows = [replace(row, first=row.second, second=row.first) for row in map(_disagreement, draw.rows)]
                draw = replace(draw, rows=rows)
            if state.waiting is None:
                state.waiting = Draw(OFFERED)
            state.waiting.merge(draw)
            state.disagreed += met.disagreed

    def take_labels(self, returned: Iterable[Returned]) -> None:
        """Final labels. One that comes again replaces what it said before."""
        labels, shadow = self.state.labels, self._options.mode == "shadow"
        for one in returned:
            truth = word(one.label)
            if truth is None:
                continue
            if shadow and one.task in self.state.pending:
                stable, candidate = self.state.pending[one.task]
                labels[one.task] = _Judged(
                    self._options.stable, 1.0, truth == stable, truth == candidate, self.state.among.get(one.task, ())
                )
            elif not shadow and one.version in self.state.pair and one.part in _PARTS and one.monitoring and one.pi:
                right, inputs = truth == word(one.answer), {named.name: named.value for named in one.inputs}
                slices = tuple(name for name, s in self._protected.items() if s.holds(inputs.get(s.column)))
                labels[one.task] = _Judged(one.version, one.stands_for / one.pi, right, slices=slices)
        while len(labels) > PENDING:
            del labels[next(iter(labels))]
            self.state.forgotten += 1

    def take(self, end: float, seconds: float, profiles: Mapping[str, Profile]) -> labeling.Draw | None:
        """A judged window up to `end`, with profiles by scope; disagreements to be labelled now, if any."""
        for version in self.state.pair:
            profile = profiles.get(f"{VERSION}{version}")
            if profile is not None:
                self._guard(version, profile)
        state, options = self.state, self._options
        passed = seconds if state.last is None else end - state.last
        state.last = end
        if options.mode != "shadow":
            return None
        state.tokens = min(state.tokens + passed * options.per_hour / 3600.0, max(options.per_hour, 1.0))
        n = min(int(state.tokens + 1e-9), 0 if state.waiting is None else len(state.waiting))
        if state.waiting is None or not n:
            return None
        drawn, state.waiting = state.waiting.first(n), None
        made = self._tasks(drawn, end)
        state.tokens -= n
        state.disagreed, state.since = 0, end
        for task, row in zip(made.tasks, map(_disagreement, drawn.rows), strict=False):
            state.pending[task.id] = (row.first, row.second)
            if row.slices:
                state.among[task.id] = tuple(row.slices)
        while len(state.pending) > PENDING:
            gone = next(iter(state.pending))
            del state.pending[gone]
            state.among.pop(gone, None)
        return made

    def _tasks(self, drawn: Draw, end: float) -> labeling.Draw:
        options, state = self._options, self.state
        name = f"{self._dataset}|{self._model}|{state.since!r}|{end!r}|{options.stable}|{options.candidate}"
        batch = labeling.LabelBatch(
            id=hashlib.sha256(name.encode()).hexdigest()[:32],
            model=labeling.ModelRef(self._model, options.candidate),
            N=state.disagreed,
            n=len(drawn),
            start=state.since,
            end=end,
            dataset=self._dataset,
        )
        pi = len(drawn) / max(state.disagreed, 1)
        tasks = []
        for rank, row in enumerate(map(_disagreement, drawn.rows[: len(drawn)])):
            task = labeling.LabelTask(
                id=labeling.task_id(self._dataset, self._model, row.id),
                dataset=self._dataset,
                date=labeling.drawn_at(end),
                event=labeling.EventRef(row.id, offset=row.offset, time=row.time),
                model=labeling.ModelRef(self._model, options.stable),
                prediction=labeling.Prediction(
                    row.first, others=(labeling.OtherAnswer(options.candidate, row.second),)
                ),
                select=labeling.Select(
                    part=Part.DISAGREEMENT, strategy="disagreement", batch=batch.id, pi=min(pi, 1.0), rank=rank,
                    monitoring=False,
                ),
                reason=f"versions {options.stable} and {options.candidate} answer differently",
                inputs=tuple(labeling.Named(name, value) for name, value in row.inputs),
                uri=row.uri,
            )  # fmt: skip
            tasks.append(labeling.bounded(task))
        return labeling.Draw(batch, tuple(tasks))

    def _guard(self, version: str, profile: Profile) -> None:
        state, layout = self.state, profile.layout
        if state.layout != layout.id:  # another reference has other cells
            state.guards, state.layout, self._edges = {}, layout.id, None
        counts = state.guards.setdefault(version, _Guarded())
        if "latency" in layout.numbers:
            place = layout.numbers.index("latency")
            self._edges = layout.edges[place]
            counts.latency = counts.latency + profile.cells[place]
        if "status" in layout.categories:
            place = layout.categories.index("status")
            words = dict(zip(layout.words[place], profile.word_counts("status").tolist(), strict=True))
            for name, n in (words | profile.unseen_words[place]).items():
                counts.known += n
                counts.failed += n * _failed(name)

    # -- what it comes to

    @property
    def view(self) -> ComparisonView:
        """How the comparison stands."""
        paired, gap = self._evidence()
        breach, slices = self._breach(), self._slices()
        outcome, why = self._outcome(paired, gap, breach, slices)
        state, options = self.state, self._options
        moved = sorted(((n, a, b) for a, row in state.classes.items() for b, n in row.items() if a != b), reverse=True)
        customers = sorted(((d / n, name) for name, (n, d) in state.customers.items() if n), reverse=True)
        return ComparisonView(
            stable=options.stable,
            candidate=options.candidate,
            mode=options.mode,
            outcome=outcome.value,
            why=why,
            compared=paired.compared,
            churn=paired.disagreed / paired.compared if paired.compared else math.nan,
            labels=len(state.labels),
            gap=gap.value,
            low=gap.low,
            high=gap.high,
            flips=paired.negative_flips,
            moved=tuple((a, b, n) for n, a, b in moved[:10]),
            customers=tuple((name, share) for share, name in customers[:10]),
            slices=slices,
        )

    def look(self, end: float) -> list[Symptom]:
        """What is to be told: nothing while it is to hold."""
        view = self.view
        if view.outcome == Outcome.HOLD:
            return []
        worse = view.outcome == Outcome.ROLL_BACK
        text = f"{view.outcome.capitalize()} version {view.candidate}, beside {view.stable}: {view.why}"
        numbers = {"gap": view.gap, "low": view.low, "high": view.high, "churn": view.churn}
        facts: dict[str, float | str] = {name: value for name, value in numbers.items() if not math.isnan(value)}
        facts |= {"outcome": view.outcome, "labels": float(view.labels)}
        severity = Severity.CRITICAL if worse else Severity.INFO
        return [
            Symptom(
                self._model, CHECK, "", end, end, view.gap, 0.0, text, severity, facts, f"{VERSION}{view.candidate}"
            )
        ]

    def _evidence(self) -> tuple[Paired, Gap]:
        return self._held_against(self.state.paired, self.state.labels.values())

    def _slices(self) -> tuple[SliceGapView, ...]:
        """Each protected slice as all rows are: its own events, its own labels."""
        found, margin = [], self._options.slice_margin
        for name in self._protected:
            compared, disagreed = self.state.slices.get(name, (0, 0))
            labels = [one for one in self.state.labels.values() if name in one.slices]
            _, gap = self._held_against(Paired(compared, disagreed), labels)
            found.append(SliceGapView(name, compared, len(labels), gap.value, gap.low, gap.high, gap.no_worse(margin)))
        return tuple(found)

    def _held_against(self, paired: Paired, labels: Iterable[_Judged]) -> tuple[Paired, Gap]:
        options = self._options
        if options.mode == "shadow":
            told = [(one.right, one.other) for one in labels]
            paired = replace(
                paired,
                wins=told.count((False, True)),
                losses=told.count((True, False)),
                neither=told.count((False, False)),
            )
            return paired, paired.gap(options.alpha)
        sums = {version: Weighed() for version in self.state.pair}
        for one in labels:
            sums[one.version] = sums[one.version].add(one.weight, right=one.right)
        return paired, Split(sums[options.stable], sums[options.candidate]).gap(options.alpha)

    def _outcome(self, paired: Paired, gap: Gap, breach: str, slices: Iterable[SliceGapView]) -> tuple[Outcome, str]:
        options = self._options
        about = "" if math.isnan(gap.value) else f"{gap.value:+.1%}, "
        said = f"accuracy {about}between {gap.low:+.1%} and {gap.high:+.1%} by {len(self.state.labels)} labels"
        if breach:
            return Outcome.ROLL_BACK, breach
        if gap.decided < 0:
            return Outcome.ROLL_BACK, f"it is worse: {said}."
        if not gap.no_worse(options.margin):
            return Outcome.HOLD, f"not known yet: {said}."
        for one in slices:
            if not one.spared:
                loses = "loses" if one.high < -options.slice_margin else "may lose"
                by = f"between {one.low:+.1%} and {one.high:+.1%} by {one.labels} labels"
                return Outcome.HOLD, f"slice {one.name} {loses} {options.slice_margin:.1%} or more, {by}: {said}."
        if paired.negative_flips > options.flips:
            return (
                Outcome.HOLD,
                f"{paired.negative_flips:.1%} of the answers turn wrong, over {options.flips:.1%}: {said}.",
            )
        return Outcome.PROMOTE, f"it is {'better' if gap.decided else 'no worse'}: {said}."

    def _breach(self) -> str:
        """A guardrail that the candidate breaks; empty where none. Latency and failures share `alpha`."""
        options = self._options
        stable, candidate = (self.state.guards.get(version) for version in self.state.pair)
        if stable is None or candidate is None:
            return ""
        alpha = options.alpha / 4.0
        least = share_bounds(candidate.failed, candidate.known, alpha)[0]
        most = share_bounds(stable.failed, stable.known, alpha)[1]
        if least > most + options.errors:
            return f"at least {least:.1%} of its answers fail, of the other's at most {most:.1%}."
        if self._edges is None:
            return ""
        floor = quantile_bounds(candidate.latency, self._edges, options.quantile, alpha)[0]
        ceiling = quantile_bounds(stable.latency, self._edges, options.quantile, alpha)[1]
        if floor > options.slower * ceiling:
            return (
                f"its latency at {options.quantile:.0%} is {floor:.3g} s at least, the other's {ceiling:.3g} s at most."
            )
        return ""


def _failed(status: str) -> bool:
    """Whether a status says that there was no good answer: an HTTP code from 400 on, or a word for it."""
    return int(status) >= 400 if status.isdecimal() else status.lower() in _FAILED


def _disagreement(row: Any) -> Disagreement:
    """A row of a draw, as it was kept or as it came over the exchange."""
    return row if isinstance(row, Disagreement) else msgspec.convert(row, Disagreement)
