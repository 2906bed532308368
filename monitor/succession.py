"""The judge's side of a new reference: events are asked for, it is built of them, and takes the old one's place.

All of it follows from the messages of the exchange. What is said to the outside, by `References.stand`, is said again
after a crash and is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from alerting.alert import rfc3339
from alerting.verdicts import Learn
from detectors.core import Scorer
from detectors.reference import Reference, build_from
from monitor.classes import named
from monitor.decode.columns import infer, to_batch
from monitor.event import Event, Schema
from monitor.exchange import Partial
from monitor.references import References, Standing

log = logging.getLogger(__name__)

KEPT = 4  # references judged by before that are kept: a checkpoint may be older than the last of them


class Model(Protocol):
    """What building a reference has to know of a configured model."""

    @property
    def name(self) -> str: ...
    @property
    def learn(self) -> int: ...
    @property
    def declared(self) -> Schema | None: ...
    @property
    def classes(self) -> Sequence[str]: ...
    def scorers(self, schema: Schema) -> Mapping[str, Scorer]: ...


class Heir(msgspec.Struct):
    """A reference that is to be, or may be, judged by next. Plain data, saved with the judge's checkpoint."""

    why: str  # in words
    taken: bool  # whether it is to be judged by; otherwise it is only made
    of: str = ""  # version of the model whose events alone it is built of; empty: all
    events: list[Event] = []  # so far
    version: str = ""  # once it is built


class Succession(msgspec.Struct):
    """Of a model: what is to come, and what was. Plain data, saved with the judge's checkpoint."""

    heir: Heir | None = None
    current: str = ""  # as in `Standing`
    since: int = 0
    before: tuple[str, ...] = ()
    file: str = ""
    serial: int = 0


def reference_of(plan: Model, events: Sequence[Event], source: str) -> Reference:
    """A reference of events as they came."""
    schema = named(plan.declared or infer(events), plan.classes)
    rows = to_batch(events, schema)
    return build_from(
        plan.name,
        rows,
        plan.scorers(schema),
        roles={spec.name: spec.role for spec in schema},
        source=source,
        created=float(rows.times.max()),
    )


class Successor:
    """Brings a model from one reference to the next. `key` is the name that the model's messages bear."""

    def __init__(self, key: str, plan: Model, references: References) -> None:
        self._key, self._plan, self._references = key, plan, references
        self.state = Succession()

    @property
    def awaited(self) -> str:
        """The version of the model that is to be judged by a reference of its own, once there is one; empty: none."""
        heir = self.state.heir
        return heir.of if heir is not None and heir.taken else ""

    def begin(self, why: str, *, of: str = "") -> None:
        """Asks for events to build another from, and to judge by it; what was begun before is given up."""
        self.state.heir = Heir(why, taken=True, of=of)
        self._say()

    def heed(self, learn: Learn, why: str) -> None:
        """Does as a verdict asks."""
        state = self.state
        match learn:
            case Learn.PREPARE:
                state.heir = Heir(why, taken=False)
            case Learn.TAKE:
                state.heir = state.heir or Heir(why, taken=True)
                state.heir.taken = True
            case Learn.DROP:
                state.heir = None
            case Learn.RETURN:  # one that has not taken its place yet is only given up
                back = state.before[0] if state.before and state.heir is None else ""
                state.heir = Heir(why, taken=True, version=back) if back else None
        self._say()

    def gather(self, partials: Iterable[Partial]) -> None:
        """Takes the events that came; builds the reference as soon as there are as many as the model learns from."""
        heir = self.state.heir
        if heir is None or heir.version:
            return
        wanted = [event for p in partials for event in p.raw if not heir.of or event.version == heir.of]
        heir.events += wanted
        if len(heir.events) < self._plan.learn:
            return
        events, heir.events = heir.events, []
        first = rfc3339(min(event.time for event in events))
        reference = reference_of(self._plan, events, f"{len(events)} events from {first} on: {heir.why}")
        log.info("model %s: built a reference of %s", self._plan.name, reference.source)
        self._references.keep(self._key, reference)
        heir.version = reference.version
        self._say()

    def due(
        self, turns: Collection[tuple[str, int] | None], pending: Mapping[int, Mapping[str, Sequence[Partial]]]
    ) -> int | None:
        """The first window that can be judged by what is next: counted on it by every lane; None while there is none.

        `turns`: of each lane that still goes on, which reference it counts on as well, and from which window on.
        """
        heir = self.state.heir
        if heir is None or not heir.taken or not heir.version:
            return None
        begun = [turn[1] for turn in turns if turn is not None and turn[0] == heir.version]
        if len(begun) < len(turns):
            return None
        lacking = [
            number + 1
            for number, lanes in pending.items()
            if not all(_counted(partial, heir.version) for some in lanes.values() for partial in some)
        ]
        return max([*begun, *lacking], default=0)

    def turn(self, window: int, current: Reference) -> Reference | None:
        """From this window on the next is judged by; None when it cannot be read, and the one there is stays."""
        heir = self.state.heir
        assert heir is not None
        reference = self._references.version(self._key, heir.version)
        if reference is None:
            log.warning("model %s: the reference to be judged by next is gone; the one there is stays", self._plan.name)
            self.state.heir = None
            self._say()
            return None
        self._references.keep(self._key, current)
        state = self.state
        state.heir, state.current, state.since = None, reference.version, window
        state.before = (current.version, *state.before)[:KEPT]
        state.file = state.file or current.version
        self._say()
        log.info("model %s: judged by %s from window %d on", self._plan.name, reference.source, window)
        return reference

    def judged_by(self, version: str, current: Reference | None) -> Reference | None:
        """After a crash: what the checkpoint was judged by, where another has taken its place since.

        None where it has not; then what is to come is given up if it does not belong to what is judged by now.
        """
        if current is not None and version == current.version:
            return None
        said = self._references.standing(self._key)
        if current is not None and said.current == current.version and version in said.before:
            return self._references.version(self._key, version)
        self.state = Succession()
        return None

    def _say(self) -> None:
        state, heir = self.state, self.state.heir
        state.serial += 1
        made = "" if heir is None else heir.version
        said = Standing(
            state.serial,
            state.current,
            state.since,
            state.before,
            next=made if heir is not None and heir.taken else "",
            made=made,
            wanted=heir is not None and not made,
            file=state.file,
        )
        self._references.stand(self._key, said)


def _counted(partial: Partial, version: str) -> bool:
    return not partial.counts or any(counted.reference == version for counted in partial.counts)
