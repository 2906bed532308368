"""Did the traffic itself change: a spike, a slump, or silence, against the windows just before.

Counts of windows are rarely Poisson: their own spread is measured. A window's count x is judged as 2 sqrt(x + 3/8),
which has a variance of 1 for Poisson counts of any size (Anscombe 1948), against the median of the windows before, in
units of their spread and never less than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from detectors.core import Finding, Floats, Scores
from detectors.profile import Profile
from detectors.reference import Reference


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="volume"):
    """Rows of a base window against the base windows before it; the columns and the reference play no part.

    Memory: the row counts of the last `windows` base windows. A silent window is not remembered, so silence stays found
    for as long as it lasts; any other lasting change is the new normal once it fills half of the memory. Score: factor
    between the count and the usual one, 1 or more either way. Blind to a creep over longer than the memory, and to the
    time of day.
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

    def start(self, reference: Reference, columns: Sequence[str]) -> list[int]:
        return []

    def step(
        self, memory: Sequence[int], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[list[int], Scores]:
        scores = Scores(("",), np.full(1, np.nan))
        if len(memory) >= min(self.warm_up, self.windows):
            scores = self._judged(current.rows, np.array(memory, np.float64))
        kept = [*memory, current.rows] if current.rows else list(memory)
        return kept[-self.windows :], scores

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
