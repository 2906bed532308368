"""What a promise comes to on a model's own quiet rows: the replay that is shown beside it.

For columns with memory the promise rests on a model of their tails, so it is approximate; the replay says how near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from detectors.core import Floats
from detectors.profile import Sample

T = TypeVar("T")

LEAST = 200  # rows of either half; fewer would say nothing


class Replay(msgspec.Struct, frozen=True):
    """Alarms on the newer half of the reference, by a check fitted on the older half."""

    rows: int
    alarms: int
    promised: float  # alarms that the promise allows in these rows

    @property
    def text(self) -> str:
        """In words, to be gone on with.

        >>> Replay(2048, 0, 0.2048).text
        'on 2,048 quiet rows of the reference it alarmed 0 times where the promise allows 0.2'
        """
        times = "once" if self.alarms == 1 else f"{self.alarms:,} times"
        allowed = f"the promise allows {self.promised:.2g}"
        return f"on {self.rows:,} quiet rows of the reference it alarmed {times} where {allowed}"


def replay(
    rows: Sample,
    promise: float,
    start: Callable[[Sample], T],
    step: Callable[[T, Sample, Floats], tuple[T, Sequence[object]]],
    *,
    events: bool,
) -> Replay | None:
    """The record of a check on reference rows in the order they came; None where they are under 400.

    `start` gives the check's memory from rows, `step` the memory after rows and the alarms among them; `promise` counts
    rows where `events`, else seconds. Each half is fitted and judged by itself, so the record is of a check that knows
    half as much: it errs towards too many alarms. A promise far longer than the reference can be refuted by it and not
    confirmed: no alarm in n rows says no more than under 3 in n (the rule of three, Hanley, Lippman-Hand 1983).
    Raising the bar until the replay is as quiet as promised was tried: quiet real streams alarmed as often as before,
    and a sixth of the changes found was lost.
    """
    half = len(rows.keys) // 2
    if half < LEAST:
        return None
    older, newer = rows.take(slice(half)), rows.take(slice(half, None))
    passed = np.ones(len(newer.keys)) if events else np.diff(newer.times, prepend=older.times[-1]).clip(0)
    _, alarms = step(start(older), newer, passed)
    return Replay(len(newer.keys), len(alarms), float(passed.sum()) / promise)
