"""The default check: one promise for the whole model, kept whoever looks whenever.

What is promised is an expected time to a false alarm, in events or in event time, over all columns of the model
together (`detectors.evidence.model`). What passes with a row is an event, or its part of the seconds since the last
window; so the rows sampled from a busy window stand for all of its rows.

After an alarm an incident is open for each column that moved: it is found again in every window for as long as the
column differs from the reference, however the evidence, which learns the new regime, thinks about it. So an alert stays
open exactly as long as the change lasts, a further change is a further alarm, and a lasting one is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from math import log
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec.structs import replace

from detectors import cause
from detectors.checks.incident import Counter, Incident, ranked, told
from detectors.core import Finding, Floats, Role, Scores
from detectors.encode import restored
from detectors.evidence import calibrate, model
from detectors.evidence.model import ROW, Alarm, Watched
from detectors.profile import Profile, Sample
from detectors.reference import Reference
from detectors.units import Seconds, seconds_text

DAY = 86_400.0
LEAST = 1.0  # seconds that pass with a window at least, or where event times stand still nothing would ever be found
REPLAYED = 2_048  # newest rows of the reference, on half of which the promise is tried out
PAUSE = 3600.0  # and at most: of the months since a reference file's last row, or of a stop, nothing was watched

Patterns = tuple[str, ...]


class Memory(msgspec.Struct, frozen=True):
    """What the check remembers."""

    model: Any  # `detectors.evidence.model.Memory`
    incidents: dict[str, Incident]  # open ones, the likeliest cause first
    clock: float  # event time of the last row
    derived: list[str]  # columns that a scorer made of others
    replayed: calibrate.Replay | None = None  # what the promise came to on the reference, where it is approximate
    recent: cause.Recent | None = None  # the newest rows, which an alarm is explained by
    tell: int = 0  # rows of the model from which open incidents are told anew; 0 = what is kept says no more


class EDetector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="e_detector"):
    """At most one false alarm per `time`, or per so many `events`, for all columns of the model together.

    E-detectors (Shin, Ramdas, Rinaldo 2022) on sequential ranks (Vovk et al. 2005), betting on shifts, spreads, atoms
    and any lasting shape, and on broken ties between columns. The promise is exact while rows are exchangeable,
    whatever their laws, their dependence on each other and the size of the reference; nothing is tuned. At a promise of
    10,000 events a shift of 1, 0.5 and 0.25 deviations of a lone column is found after about 22, 56 and 210 rows; among
    60 columns it takes half as many again. Blind to a change that lasts less than some rows, and to text and vectors
    but for the number columns that scorers make of them.
    """

    time: Annotated[
        Seconds,
        msgspec.Meta(
            gt=0,
            description="Event time for which at most one false alarm is promised. A month: rare enough that each is "
            "worth a look, and a tenth of it would find changes only a fifth sooner.",
        ),
    ] = 30 * DAY
    events: Annotated[
        int, msgspec.Meta(ge=0, description="The promise in events instead of time; 0 = it is in `time`.")
    ] = 0
    tolerance: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            lt=1,
            description="A slow departure from the reference within this is none, 2 P(new > old) - 1; 0.05 is a shift "
            "by 0.09 deviations.",
        ),
    ] = 0.05
    higher: Annotated[Patterns, msgspec.Meta(description="Columns of which only a rise counts.")] = (
        "entropy", "disagreement", "vote_entropy", "members_disagree", "bald", "novelty", "error", "latency",
        "unseen_words", "versions_disagree",
    )  # fmt: skip
    lower: Annotated[Patterns, msgspec.Meta(description="Columns of which only a fall counts.")] = (
        "confidence", "consensus", "margin",
    )  # fmt: skip
    weights: Annotated[
        Mapping[str, float],
        msgspec.Meta(description="Share of the promise by column pattern, relative to 1 for a column not named here."),
    ] = {}

    @property
    def promise(self) -> float:
        """In what passes with rows: events or seconds."""
        return float(self.events or self.time)

    def approximate(self, memory: Any) -> tuple[str, ...]:
        """Columns of which the promise is approximate; without any it is exact while rows are exchangeable."""
        return model.approximate(_read(memory).model)

    def replayed(self, memory: Any) -> calibrate.Replay | None:
        """What the promise came to on the reference's own rows; None where it is exact, or the rows are few."""
        return _read(memory).replayed

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        """Where columns have memory it takes half as long again, for the replay: 1 s for 20 columns."""
        watched = [Watched(name, self._weight(name), self._side(name)) for name in columns]

        def on(rows: Sample) -> model.Memory:
            return model.start(replace(reference, rows=rows), watched, self.tolerance)

        memory, replayed = on(reference.rows), None
        if model.approximate(memory):
            rows = reference.rows.take(slice(-REPLAYED, None))
            step = partial(model.step, promise=self.promise)
            replayed = calibrate.replay(rows, self.promise, on, step, events=bool(self.events))
        derived = [name for name in columns if reference.role(name) is Role.DERIVED]
        return Memory(memory, {}, reference.profile.last, derived, replayed)

    def _side(self, name: str) -> int:
        return int(_any(self.higher, name)) - int(_any(self.lower, name))

    def _weight(self, name: str) -> float:
        return next((weight for pattern, weight in self.weights.items() if fnmatchcase(name, pattern)), 1.0)

    def step_rows(self, memory: Memory, rows: Sample, time: Floats | None = None) -> tuple[Memory, list[Alarm]]:
        """The memory after rows in their order, and the alarms among them. `time` (n,) is what passes with each row.

        Left out, it is 1 where the promise counts events, else the seconds since the row before.
        """
        if not len(rows.keys):
            return memory, []
        if time is None:
            time = np.ones(len(rows.times)) if self.events else np.diff(rows.times, prepend=memory.clock).clip(0)
        held, alarms = model.step(memory.model, rows, time, self.promise)
        clock = max(memory.clock, float(rows.times[-1]))
        return replace(memory, model=held, clock=clock, recent=cause.keep(memory.recent, rows)), alarms

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Memory, Scores]:
        memory = _read(memory)
        sample = current.sample
        rows = sample.take(np.lexsort((sample.keys, sample.times)))
        n = len(rows.keys)
        passed = current.rows if self.events else min(max(current.last - memory.clock, LEAST), PAUSE)
        memory, alarms = self.step_rows(memory, rows, np.full(n, passed / max(n, 1)))
        counter = Counter(reference, memory.model.joint)
        incidents = {name: held.followed(*counter(name, current)) for name, held in memory.incidents.items()}
        back = [name for name, held in incidents.items() if held.is_back()]
        for name in back:
            del incidents[name]
        # With the last incident all columns begin anew: those that moved too little to be told of have counted the rows
        # of the disturbance as usual ones, and its end would be a change to them.
        begun = back if incidents else memory.model.columns
        held = model.refit(memory.model, begun, reference.sample, self.tolerance) if back else memory.model
        memory = replace(memory, model=held, incidents=incidents)
        raised = {name for alarm in alarms for name in alarm.shares}
        if raised - incidents.keys() or (incidents and 0 < memory.tell <= held.rows):
            found = self._explained(memory, reference, {*incidents, *raised})
            memory = self._opened(memory, alarms, found, rows.times, current, counter)
            memory = self._told(memory, found, current, reference)
        else:
            memory = self._opened(memory, alarms, None, rows.times, current, counter)
        names = tuple(held.columns[:-1])
        scores = held.evidence[:-1] / self.promise
        for i, name in enumerate(names):
            if name in memory.incidents:
                scores[i] = memory.incidents[name].evidence
        return memory, Scores(names, scores, list(self._findings(memory)))

    def _explained(self, memory: Memory, reference: Profile, also: set[str]) -> cause.Cause | None:
        if memory.recent is None:
            return None
        return cause.explain(memory.recent, reference.sample, reference.layout, memory.model.joint, also)

    def _opened(
        self,
        memory: Memory,
        alarms: Sequence[Alarm],
        found: cause.Cause | None,
        times: Floats,
        current: Profile,
        counter: Counter,
    ) -> Memory:
        """An incident for each column that the evidence and the cause name; what is open already begins anew."""
        incidents = dict(memory.incidents)
        for alarm in alarms:
            since = float(times[alarm.row]) if found is None else min(float(times[alarm.row]), found.since)
            took = alarm.took * max(current.rows / len(times), 1.0)
            for name in self._moved(alarm, found, memory):
                counts, rows = counter(name, current)
                was, _ = counter(name, counter.reference)
                fresh = Incident(since, alarm.evidence, alarm.shares.get(name, 0.0), took, counts, rows, was)
                if name in incidents:
                    before = incidents[name]
                    fresh = replace(fresh, since=before.since, text=before.text, facts=before.facts)
                incidents[name] = fresh
        return replace(memory, incidents=incidents)

    def _told(self, memory: Memory, found: cause.Cause | None, current: Profile, reference: Profile) -> Memory:
        """Incidents ranked, and told by the rows since; again after twice as many, up to those that are kept."""
        if found is None or memory.recent is None:
            return replace(memory, tell=memory.model.rows + 1)
        incidents = {name: memory.incidents[name] for name in ranked(memory.incidents, found, memory.derived)}
        incidents = told(incidents, found, memory.recent, current, reference)
        tell = memory.model.rows + found.rows if found.rows < cause.KEPT else 0
        return replace(memory, incidents=incidents, tell=tell)

    def _moved(self, alarm: Alarm, found: cause.Cause | None, memory: Memory) -> set[str]:
        """Columns of an alarm: those that hold the evidence, and those that the cause names, on the side that counts.

        That the row does not go together is no news where a column moved by itself.
        """
        names = set(alarm.shares)
        if found is None:
            return names
        plain = log(len(found.ranking)) + cause.MOVED
        torn = any(move.torn for move in found.moves)
        for move in found.moves:
            if move.torn:
                names.add(ROW)
            elif move.column in memory.model.columns and self._side(move.column) * move.effect >= 0:
                names.add(move.column)
                if move.evidence > plain and not torn:
                    names.discard(ROW)
        return names

    def _findings(self, memory: Memory) -> Iterator[Finding]:
        slow, replayed = model.approximate(memory.model), memory.replayed
        kept = f"approximate, as {len(slow)} columns have memory" if slow else "exact while rows are exchangeable"
        tried: dict[str, float | str] = {}
        if replayed is not None:
            kept += f": {replayed.text}"
            tried = {"replay_alarms": float(replayed.alarms), "replay_promised": replayed.promised}
        for name, incident in memory.incidents.items():
            asked = f"{incident.evidence:.3g} times what one false alarm per {self._promised()} asks for, {kept}"
            text = f"{incident.text or f'{name} moved'}{'; the' if '. ' in incident.text else '. The'} "
            facts = {**incident.facts, "evidence": incident.share * self.promise, "promise": self.promise, **tried}
            yield Finding(
                name, incident.evidence, 1.0, f"{text}model's evidence reached {asked}.", None, incident.apart,
                "share of rows", facts,
            )  # fmt: skip

    def _promised(self) -> str:
        if self.events:
            return f"{self.events:,} events"
        return f"{self.time / DAY:.3g} days" if self.time > DAY else seconds_text(self.time)


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _read(memory: Any) -> Memory:
    """The memory as it was, also where it comes out of a checkpoint."""
    found = memory if isinstance(memory, Memory) else restored(memory, Memory)
    return replace(found, model=model.read(found.model))
