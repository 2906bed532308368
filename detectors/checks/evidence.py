"""The default check: one promise for the whole model, kept whoever looks whenever.

Every watched column has one or more streams of evidence (`detectors.evidence`); the model's evidence is their weighted
sum, and reaching the promise is an alarm. What passes with a row is an event, or its part of the seconds since the last
window; so the rows sampled from a busy window stand for all of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.checks.verdict import moved_number
from detectors.core import Finding, Floats, Ints, Scores
from detectors.draw import uniforms
from detectors.encode import restored
from detectors.evidence import Evidence
from detectors.evidence.merge import attributed
from detectors.evidence.ranks import Ranks, Seen
from detectors.profile import Profile, Sample
from detectors.reference import Reference
from detectors.units import Seconds

DAY = 86_400.0
TIES = 0x7135  # seed of the numbers that break ties: other bits than the row sample and the label draw use


class Part(msgspec.Struct, frozen=True):
    """Streams of one engine."""

    at: NDArray[np.int64]  # (streams,) position in the rows' numbers or codes
    of: NDArray[np.int64]  # (streams,) the watched column
    weight: NDArray[np.float64]  # (streams,); over all parts they sum to 1
    state: Any


class Memory(msgspec.Struct, frozen=True):
    """What the check remembers."""

    columns: list[str]
    parts: dict[str, Part]
    evidence: NDArray[np.float64]  # (columns,) weighted, after the last row; its sum is the model's
    clock: float  # event time of the last row


class Alarm(NamedTuple):
    """The model's evidence reached the promise."""

    row: int  # of the rows given
    evidence: dict[str, float]  # weighted, of the columns that moved, the most first; the promise is 1

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.evidence)


class _Engine(NamedTuple):
    """How a part of the evidence is made: from which matrix of the rows, by what, remembered how, at what share."""

    rows: Callable[[Sample, Ints], Floats]
    evidence: Evidence
    state: type
    share: float


_ENGINES: Mapping[str, _Engine] = {
    "ranks": _Engine(lambda rows, at: rows.numbers[:, at], Ranks(), Seen, 0.85),
}


class EDetector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="e_detector"):
    """At most one false alarm per `time`, or per so many `events`, for all columns of the model together.

    E-detectors (Shin, Ramdas, Rinaldo 2022) on sequential ranks; exact where rows are exchangeable.
    """

    time: Annotated[
        Seconds, msgspec.Meta(gt=0, description="Event time for which at most one false alarm is promised.")
    ] = 30 * DAY
    events: Annotated[
        int, msgspec.Meta(ge=0, description="The promise in events instead; 0 = it is given in `time`.")
    ] = 0

    @property
    def promise(self) -> float:
        """In the unit that passes with rows: events or seconds."""
        return float(self.events or self.time)

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        layout = reference.layout
        watched = [name for name in columns if name in layout.numbers]
        where = {name: i for i, name in enumerate(layout.numbers)}
        at = np.array([where[name] for name in watched], np.int64)
        engine = _ENGINES["ranks"]
        part = Part(
            at,
            np.arange(at.size),
            np.full(at.size, 1 / max(at.size, 1)),
            engine.evidence.fit(engine.rows(reference.rows, at)),
        )
        return Memory(watched, {"ranks": part}, np.zeros(at.size), reference.profile.last)

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Memory, Scores]:
        memory = _read(memory)
        sample = current.sample
        n = len(sample.keys)
        passed = current.rows if self.events else max(current.last - memory.clock, 0.0)
        order = np.lexsort((sample.keys, sample.times))
        memory, alarms = self.step_rows(memory, _taken(sample, order), np.full(n, passed / max(n, 1)))
        findings = []
        for alarm in alarms:
            for name, evidence in alarm.evidence.items():
                words = moved_number(current, reference, current.layout.numbers.index(name))
                findings.append(Finding(name, evidence, 1.0, words.text + ".", facts=dict(words.facts)))
        return memory, Scores(tuple(memory.columns), memory.evidence / self.promise, findings)

    def step_rows(self, memory: Memory, rows: Sample, time: Floats | None = None) -> tuple[Memory, list[Alarm]]:
        """The memory after rows in their order, and the alarms among them. `time` (n,) is what passes with each row.

        Left out, it is 1 where the promise counts events, else the seconds since the row before.
        """
        if time is None:
            time = np.ones(len(rows.times)) if self.events else np.diff(rows.times, prepend=memory.clock).clip(0)
        alarms: list[Alarm] = []
        start = 0
        while start < len(rows.keys):
            rest = _taken(rows, slice(start, None))
            after, evidence = _stepped(memory, rest, time[start:])
            reached = evidence.sum(axis=1) >= self.promise
            if not reached.any():
                memory = after
                break
            row = int(reached.argmax())
            if row + 1 < len(reached):
                after, _ = _stepped(memory, _taken(rest, slice(row + 1)), time[start : start + row + 1])
            share = evidence[row] / self.promise
            moved = attributed(share, np.ones(share.size), 1.0)
            moved[share.argmax()] = True
            ranked = [i for i in np.argsort(-share).tolist() if moved[i]]
            alarms.append(Alarm(start + row, {memory.columns[i]: float(share[i]) for i in ranked}))
            memory = _restarted(after, moved)
            start += row + 1
        return memory, alarms


def _taken(rows: Sample, which: Any) -> Sample:
    return Sample(rows.keys[which], rows.times[which], rows.numbers[which], rows.codes[which])


def _read(memory: Any) -> Memory:
    """The memory as it was, also where it comes from a checkpoint."""
    if isinstance(memory, Memory):
        return memory
    found = restored(memory, Memory)
    return msgspec.structs.replace(
        found,
        parts={
            name: msgspec.structs.replace(part, state=restored(part.state, _ENGINES[name].state))
            for name, part in found.parts.items()
        },
    )


def _stepped(memory: Memory, rows: Sample, time: Floats) -> tuple[Memory, Floats]:
    """The memory after the rows, and the weighted evidence (n, columns) after each."""
    n, columns = len(rows.keys), len(memory.columns)
    luck = uniforms(rows.keys, TIES)[:, None]
    found = np.zeros((n, columns))
    parts = {}
    for name, part in memory.parts.items():
        engine = _ENGINES[name]
        # one number a row serves all streams: evidence may depend on other evidence
        ties = np.broadcast_to(luck, (n, part.at.size))
        state, evidence = engine.evidence.step(part.state, engine.rows(rows, part.at), ties, time)
        parts[name] = msgspec.structs.replace(part, state=state)
        np.add.at(found.T, part.of, (evidence * part.weight).T)
    clock = max(memory.clock, float(rows.times.max()))
    return Memory(memory.columns, parts, found[-1], clock), found


def _restarted(memory: Memory, moved: NDArray[np.bool_]) -> Memory:
    """All evidence thrown away, and what moved learned anew."""
    parts = {}
    for name, part in memory.parts.items():
        engine = _ENGINES[name].evidence
        state = engine.restart(part.state, np.arange(part.at.size))
        state = engine.relearn(state, np.flatnonzero(moved[part.of]))
        parts[name] = msgspec.structs.replace(part, state=state)
    return msgspec.structs.replace(memory, parts=parts, evidence=np.zeros(len(memory.columns)))
