"""What ingest counts rows on: the reference of each model, and while another takes its place, both.

See `monitor.references` for why a window has its own. A window keeps the gauges that it was begun with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from detectors.core import Batch, Scorer
from detectors.encode import Undecodable
from detectors.profile import Profile
from detectors.reference import Reference, scored
from monitor.classes import names_of, schema_of
from monitor.event import Schema
from monitor.exchange import Counted
from monitor.references import References
from monitor.sampling import Offer, SamplingOptions
from monitor.scopes import Scopes

Turn = tuple[str, int]  # a reference's version, and the first window counted on it as well


class Model(Protocol):
    """What counting has to know of a configured model."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Sequence[str]: ...
    def scorers(self, schema: Schema) -> Mapping[str, Scorer]: ...
    @property
    def scopes(self) -> Scopes: ...
    @property
    def sampling(self) -> SamplingOptions | None: ...


class Gauge(NamedTuple):
    """A reference, what derives the columns that it has, and what offers rows to labelers by it."""

    reference: Reference
    schema: Schema  # by which events are read to be counted on it
    scorers: Mapping[str, Scorer]
    offer: Offer | None

    def scored(self, rows: Batch) -> Batch:
        """The rows with the scorers' columns."""
        return scored(rows, self.scorers, self.reference.fitted)


class Tally:
    """The rows of a window counted on one gauge: all of them, and those of each scope."""

    __slots__ = ("gauge", "profile", "scopes")

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self.profile = Profile(gauge.reference.layout)
        self.scopes: dict[str, Profile] = {}

    def count(self, rows: Batch, scopes: Scopes) -> int:
        """Takes in scored rows; how many belong to versions beyond the bound."""
        self.profile.update(rows)
        return scopes.count(rows, self.gauge.reference.layout, self.scopes) if scopes else 0

    def encode(self) -> Counted:
        """As it goes to the judge, and into a checkpoint."""
        scopes = {name: part.encode() for name, part in self.scopes.items()}
        return Counted(self.gauge.reference.version, self.profile.encode(), scopes)

    @classmethod
    def decode(cls, gauge: Gauge, counted: Counted) -> Tally:
        """Back. Undecodable when it was counted on another layout."""
        tally, layout = cls(gauge), gauge.reference.layout
        tally.profile = Profile.decode(layout, counted.profile)
        tally.scopes = {name: Profile.decode(layout.valued, part) for name, part in counted.scopes.items()}
        return tally


class Gauges:
    """Of all models of an ingest, as the judge last said. `find` gives a model's reference, None while it is learned;
    `references` those that follow on it, where any may."""

    def __init__(
        self, models: Mapping[str, Model], find: Callable[[str], Reference | None], references: References | None
    ) -> None:
        self._models, self._find, self._references = models, find, references
        self._current: dict[str, Gauge] = {}
        self._before: dict[str, tuple[int, Gauge]] = {}  # with the first window that is not counted on it
        self._next: dict[str, Gauge] = {}
        self.wanted: set[str] = set()  # models whose events are asked for as they came
        self._changes = 0

    @property
    def outdated(self) -> bool:
        """Whether something was said since the last look, by this process."""
        return self._references is not None and self._references.changes != self._changes

    def look(self) -> None:
        """Takes up what was said since the last look."""
        if self._references is not None:
            self._changes = self._references.changes
        for model in self._models:
            if model not in self._current:
                found = self._find(model)
                if found is not None:
                    self._current[model] = self._gauge(model, found)
            if model in self._current and self._references is not None:
                self._look_again(model, self._references)

    def _look_again(self, model: str, references: References) -> None:
        said = references.standing(model)
        (self.wanted.add if said.wanted else self.wanted.discard)(model)
        if said.current and said.current != self._current[model].reference.version:
            self._turn(model, said.current, said.since)
        if said.before and model not in self._before:
            last = self._of(model, said.before[0])
            if last is not None:
                self._before[model] = said.since, last
        if not said.next:
            self._next.pop(model, None)
        elif self.coming(model) != said.next and said.next != self._current[model].reference.version:
            coming = self._of(model, said.next)
            if coming is not None:
                self._next[model] = coming

    def _turn(self, model: str, version: str, since: int) -> None:
        turned = self._of(model, version)
        if turned is not None:
            self._before[model] = since, self._current[model]
            self._current[model] = turned

    def _of(self, model: str, version: str) -> Gauge | None:
        known = (self._current.get(model), self._next.get(model), self._before.get(model, (0, None))[1])
        held = next((gauge for gauge in known if gauge is not None and gauge.reference.version == version), None)
        if held is not None or self._references is None:
            return held
        found = self._references.version(model, version)
        return None if found is None else self._gauge(model, found)

    def _gauge(self, model: str, reference: Reference) -> Gauge:
        plan = self._models[model]
        offer = None if plan.sampling is None else Offer(plan.sampling, reference)
        schema = schema_of(plan.name, reference, plan.classes)
        return Gauge(reference, schema, plan.scorers(reference.schema), offer)

    def reference(self, model: str) -> Reference | None:
        """What the model is judged by; None while it is being learned."""
        current = self._current.get(model)
        return None if current is None else current.reference

    def schema(self, model: str) -> Schema | None:
        """By which the model's events are read: of what takes the place of its reference as soon as rows are counted on
        it, for a new version's answers may be of another length. None while its reference is being learned."""
        gauge = self._next.get(model) or self._current.get(model)
        return None if gauge is None else gauge.schema

    def names(self, model: str) -> Sequence[str]:
        """What the model's answers are called that are places in its scores."""
        return names_of(self.schema(model) or ())

    def schemas(self) -> Mapping[str, Schema]:
        """Of the models whose rows need not come as events."""
        known = {name: self.schema(name) for name in self._current if name not in self.wanted}
        return {name: schema for name, schema in known.items() if schema is not None}

    def coming(self, model: str) -> str:
        """Version of the reference that rows are to be counted on as well; empty where there is none."""
        return self._next[model].reference.version if model in self._next else ""

    def tallies(self, model: str, window: int, turn: Turn | None) -> list[Tally]:
        """What the rows of a window that begins now are counted in, of a lane that has begun to `turn`."""
        since, before = self._before.get(model, (window, None))
        if before is not None and window < since:
            return [Tally(before)]
        gauges = [self._current[model]]
        if model in self._next and turn is not None and turn[0] == self.coming(model) and window >= turn[1]:
            gauges.append(self._next[model])
        return [Tally(gauge) for gauge in gauges]

    def restored(self, model: str, counted: Counted) -> Tally | None:
        """What a checkpoint kept; None when its reference is not there any more."""
        gauge = self._of(model, counted.reference)
        try:
            return None if gauge is None else Tally.decode(gauge, counted)
        except Undecodable:
            return None
