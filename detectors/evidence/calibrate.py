"""What a promise comes to on a model's own quiet rows: the replay that is shown beside it.

For columns with memory the promise rests on a model of their tails, so it is approximate; the replay says how near.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from detectors.core import Floats
from detectors.profile import Sample
from detectors.reference import Reference

LEAST = 200  # rows of either half; fewer would say nothing


class Promised(Protocol):
    """A check of at most one false alarm per `promise`, in seconds, or in events where `events` is not 0."""

    @property
    def promise(self) -> float: ...

    @property
    def events(self) -> int: ...

    def start(self, reference: Reference, columns: Sequence[str]) -> Any: ...

    def step_rows(self, memory: Any, rows: Sample, time: Floats | None = None) -> tuple[Any, Sequence[object]]: ...


class Replay(NamedTuple):
    """Alarms on the newer half of the reference, by a check started on the older half."""

    rows: int
    alarms: int
    promised: float  # alarms that the promise allows in these rows

    @property
    def text(self) -> str:
        """In a sentence for alerts.

        >>> Replay(2048, 0, 0.2048).text
        'Replayed on 2,048 quiet rows of the reference it alarmed 0 times; the promise allows 0.2.'
        """
        return (
            f"Replayed on {self.rows:,} quiet rows of the reference it alarmed {self.alarms:,} "
            f"time{'' if self.alarms == 1 else 's'}; the promise allows {self.promised:.2g}."
        )


def replay(check: Promised, reference: Reference, columns: Sequence[str]) -> Replay | None:
    """The check's record on the reference itself; None where that has under 400 rows in order.

    Each half is fitted and judged by itself, so the record is of a check that knows half as much: it errs towards too
    many alarms. A promise far longer than the reference can be refuted by it and not confirmed: no alarm in n rows says
    no more than under 3 in n (the rule of three, Hanley, Lippman-Hand 1983). Raising the bar until the replay is as
    quiet as promised was tried: real streams alarmed as often as before, and a fifth of the changes was lost.
    """
    rows = reference.rows
    half = len(rows.keys) // 2
    if half < LEAST:
        return None
    older, newer = _part(rows, slice(half)), _part(rows, slice(half, None))
    memory = check.start(msgspec.structs.replace(reference, rows=older), columns)
    passed = np.ones(len(newer.keys)) if check.events else np.diff(newer.times, prepend=older.times[-1]).clip(0)
    _, alarms = check.step_rows(memory, newer, passed)
    return Replay(len(newer.keys), len(alarms), float(passed.sum()) / check.promise)


def _part(rows: Sample, which: slice) -> Sample:
    return Sample(rows.keys[which], rows.times[which], rows.numbers[which], rows.codes[which])
