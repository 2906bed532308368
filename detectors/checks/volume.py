"""Did the traffic itself change: a spike, a slump, or silence, against the windows just before and the time of day.

Counts of windows are rarely Poisson: their own spread is measured. A window's count x is judged as 2 sqrt(x + 3/8),
which has a variance of 1 for Poisson counts of any size (Anscombe 1948), against the median of the windows before, in
units of their spread and never less than 1. Where the reference's times show when traffic comes, a window is held
against what the windows before it would have been at its hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from detectors.core import Finding, Floats, Scores
from detectors.encode import restored
from detectors.profile import Profile
from detectors.reference import Reference

HOUR, DAY = 3600.0, 86400.0
NIGHTS, WEEKS = 2, 2  # days and weeks that a reference spans, to say what is usual of an hour and of a weekday
PRIOR = 5.0  # rows added to each hour and weekday: one that the reference's sample missed is quiet, not dead
CROWDED = 1 / 3  # of all rows in one hour: then times are dates


class _Traffic(msgspec.Struct):
    """Rows of the last windows, each over the usual of its hour; that usual; and where in time the windows are."""

    counts: list[float]
    hours: list[float]  # of the day, UTC, relative to the mean
    days: list[float]  # of the week from Monday, relative to the mean
    at: float = np.nan  # middle of the last window with rows
    ago: int = 0  # windows since
    length: float = np.nan  # of a window, in seconds

    def usual(self, time: float) -> float:
        """Relative traffic at a time, 1 on average; between the middles of two hours along a line."""
        if not np.isfinite(time):
            return 1.0
        middles = (np.arange(-1, 25) + 0.5) * HOUR
        hour = float(np.interp(time % DAY, middles, [self.hours[-1], *self.hours, self.hours[0]]))
        return hour * self.days[int(time // DAY + 3) % 7]  # the epoch was a Thursday


def _relative(places: Floats, size: int) -> list[float]:
    counts = np.bincount(places.astype(np.int64), minlength=size) + PRIOR
    relative: list[float] = (counts / counts.mean()).tolist()
    return relative


def _season(times: Floats) -> tuple[list[float], list[float]]:
    """Relative traffic by hour and by weekday, of whole days and whole weeks; all 1 where times do not tell it."""
    hours, days = [1.0] * 24, [1.0] * 7
    start = times.min(initial=np.inf)
    whole = (times.max(initial=-np.inf) - start) // DAY
    if whole >= NIGHTS:
        hour = times[times < start + whole * DAY] % DAY // HOUR
        if np.bincount(hour.astype(np.int64)).max() <= CROWDED * hour.size:
            hours = _relative(hour, 24)
    if whole >= 7 * WEEKS:
        weeks = times[times < start + whole // 7 * 7 * DAY]
        days = _relative((weeks // DAY + 3) % 7, 7)
    return hours, days


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="volume"):
    """Rows of a base window against the base windows before it, at its hour; the columns play no part.

    Hour of the day and day of the week are learned from the times of the reference's rows, the hour from two days of
    them on and the weekday from two weeks; less, or dates alone, teach nothing. Memory: the rows of the last `windows`
    base windows. A silent window is not remembered, so silence stays found for as long as it lasts; any other lasting
    change is the new normal once it fills half of the memory. Score: factor between the count and the usual one, 1 or
    more either way. Blind to a creep over longer than the memory, and to holidays, which it calls a slump.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=1, description="Found beyond this many times the usual rows, or below its inverse.")
    ] = 3.0
    deviations: Annotated[
        float, msgspec.Meta(gt=0, description="And when this many standard deviations off, see the module.")
    ] = 5.0
    windows: Annotated[
        int, msgspec.Meta(ge=4, le=10_000, description="Base windows remembered; 60 are ten minutes.")
    ] = 60
    warm_up: Annotated[int, msgspec.Meta(ge=3, description="Base windows seen before the first is judged.")] = 12

    def start(self, reference: Reference, columns: Sequence[str]) -> _Traffic:
        hours, days = _season(reference.profile.sample.times)
        return _Traffic([], hours, days)

    def step(
        self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[_Traffic, Scores]:
        memory = restored(memory, _Traffic)
        at, ago, length = memory.at, memory.ago + 1, memory.length
        if np.isfinite(current.first):
            middle = (current.first + current.last) / 2
            if middle > at:
                length = (middle - at) / ago
            at, ago = middle, 0
        time = at + ago * length if ago else at
        scores = Scores(("",), np.full(1, np.nan))
        if len(memory.counts) >= min(self.warm_up, self.windows):
            before = np.array(memory.counts)
            # shops open and close within the hour: any traffic between that of half an hour before and after is usual
            around = [memory.usual(time + gap) for gap in (-HOUR / 2, HOUR / 2)]
            usual = np.clip(current.rows / np.median(before), min(around), max(around))
            scores = self._judged(current.rows, before * usual)
        usual = memory.usual(time)
        counts = [*memory.counts, current.rows / usual] if current.rows else memory.counts
        return msgspec.structs.replace(memory, counts=counts[-self.windows :], at=at, ago=ago, length=length), scores

    def _judged(self, rows: int, before: Floats) -> Scores:
        steady = 2 * np.sqrt(before + 0.375)
        middle = float(np.median(steady))
        # 1.4826: median absolute deviation to standard deviation of a normal law
        spread = max(1.0, 1.4826 * float(np.median(np.abs(steady - middle))))
        off = float(2 * np.sqrt(rows + 0.375) - middle) / spread
        usual = float(np.median(before))
        # half a row more on both sides lets silence have a factor
        factor = max((rows + 0.5) / (usual + 0.5), (usual + 0.5) / (rows + 0.5))
        scores = Scores(("",), np.array([factor]))
        if factor > self.limit and abs(off) > self.deviations:
            what = "stopped" if not rows else "jumped" if off > 0 else "slumped"
            text = (
                f"Traffic {what}: {rows:,} rows in this window, where {usual:,.0f} were usual. "
                f"That is {abs(off):.3g} standard deviations off, over {before.size} windows before it."
            )
            facts: dict[str, float | str] = {"rows": float(rows), "usual": usual, "deviations": off}
            scores.findings.append(Finding("", factor, self.limit, text, None, factor, "times", facts))
        return scores
