"""Tests that remember: a change too small for any one window adds up over windows.

Each base window gives one number a column: its mean, as a distance from the reference's mean in the reference's
standard deviations. Windows with under `min_rows` values are left out. Neither test promises a run length; see `limit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Annotated

import msgspec
import numpy as np

from detectors.checks.verdict import MinRows, chosen, value_text
from detectors.core import Finding, Floats, Ints, Scores
from detectors.profile import Profile
from detectors.reference import Reference

Memory = dict[str, list[float]]  # by column; what the numbers are, each test says


def _standard_means(current: Profile, reference: Profile, f: Ints, min_rows: int) -> Floats:
    """Mean of each number column in the reference's deviations (columns,); NaN where too few values or no spread."""
    deviation = np.sqrt(reference.variance[f])
    enough = (current.cells[f].sum(axis=1) >= min_rows) & (deviation > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(enough, (current.mean[f] - reference.mean[f]) / deviation, np.nan)


class Adwin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="adwin"):
    """Adaptive windowing on window means (Bifet, Gavalda 2007), river's implementation.

    Keeps the means since the last alarm and alarms where two parts of them differ by more than chance allows, whatever
    the size of the change. After 60 calm windows of 20 to 1,000 rows it saw a shift of 1 deviation after 9 or 10
    windows, 0.5 after 12 to 16, 0.25 after 18 to 60 and 0.1 not at all. Blind to changes of spread and shape. Score:
    distance of the last mean from all remembered; of a finding, between the two levels that fit the means best.

    Memory: up to `windows` means a column, oldest half dropped when full. river's own state cannot be saved without
    pickling, so it is made again from the means at each step (0.2 us a mean): a restart changes nothing.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=0, description="An alarm over a smaller change, in deviations, is no finding.")
    ] = 0.1
    delta: Annotated[
        float, msgspec.Meta(gt=0, lt=1, description="Chance of a false cut, shared out evenly among the columns.")
    ] = 0.002
    windows: Annotated[int, msgspec.Meta(ge=20, le=10_000, description="Means remembered; 360 are an hour.")] = 360
    min_rows: MinRows = 20

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Sequence[float]], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        # river.drift pulls in scikit-learn (92 MB); the compiled half that does the work needs 1 MB. The tests hold it
        # against `river.drift.ADWIN`.
        from river._river_rust.drift import AdaptiveWindowing

        f, names = chosen(current.layout.numbers, columns)
        means = _standard_means(current, reference, f, self.min_rows)
        scores = Scores(names, np.full(f.size, np.nan))
        kept: Memory = {}
        # ADWIN takes values of range 1; so the mean of the smallest window admitted gets a deviation of 1
        scale = sqrt(self.min_rows)
        for i in range(f.size):
            held = list(memory.get(names[i], ()))
            kept[names[i]] = held
            if np.isnan(means[i]):
                continue
            if len(held) >= self.windows:
                del held[: self.windows // 2]
            held.append(float(means[i]))
            scores.score[i] = abs(held[-1] - fmean(held))
            window = AdaptiveWindowing(self.delta / f.size, 1, 5, 5, 10)
            cuts = [window.update(scale * mean) for mean in held]
            # a history cut short may show its change earlier than the whole did: any alarm counts
            if any(cuts):
                cut = _cut(np.array(held))
                before, after = fmean(held[:cut]), fmean(held[cut:])
                kept[names[i]] = []
                scores.score[i] = abs(after - before)
                if scores.score[i] > self.limit:
                    scores.findings.append(
                        self._finding(names[i], before, after, len(held), len(held) - cut, reference, f[i])
                    )
        return kept, scores

    def _finding(
        self, name: str, before: float, after: float, held: int, recent: int, reference: Profile, f: int
    ) -> Finding:
        mean, deviation = float(reference.mean[f]), float(np.sqrt(reference.variance[f]))
        old, new, size = mean + before * deviation, mean + after * deviation, abs(after - before)
        text = (
            f"{name} changed its level: the mean of its last {recent} windows is {value_text(new)}, of the "
            f"{held - recent} before {value_text(old)}. Change {size:.3g} standard deviations, limit {self.limit:g}, "
            f"chance of a false cut {self.delta:g}."
        )
        facts: dict[str, float | str] = {"before": old, "after": new, "windows": float(recent)}
        return Finding(name, size, self.limit, text, None, size, "standard deviations", facts)


def _cut(means: Floats) -> int:
    """Where the means fall best into two levels (least squares): river only says that they do."""
    first = np.arange(1, means.size)
    rest = means.size - first
    reached = np.cumsum(means)
    apart = reached[:-1] / first - (reached[-1] - reached[:-1]) / rest
    return int((apart**2 * first * rest).argmax()) + 1


class PageHinkley(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="page_hinkley"):
    """Page-Hinkley test on window means (Page 1954; Hinkley 1971): how far they strayed from their running mean.

    The same alarms as `river.drift.PageHinkley`, which the tests hold it against, but over all columns at once and with
    a memory of six numbers a column. Quick on lasting shifts larger than `tolerance`; blind to smaller ones, to spread
    and to shape. Score: the summed excess, in deviations times windows.
    """

    limit: Annotated[
        float, msgspec.Meta(gt=0, description="Found at this summed excess: 3 is a shift of 0.5 in 9 windows.")
    ] = 3.0
    tolerance: Annotated[
        float, msgspec.Meta(ge=0, description="Deviations that a window may stray without adding to the sum.")
    ] = 0.1
    warm_up: Annotated[int, msgspec.Meta(ge=1, description="Windows seen before the first alarm.")] = 30
    forgetting: Annotated[float, msgspec.Meta(gt=0, le=1, description="Factor on the sums each window.")] = 0.9999
    min_rows: MinRows = 20

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Sequence[float]], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        f, names = chosen(current.layout.numbers, columns)
        means = _standard_means(current, reference, f, self.min_rows)
        state = np.array([memory.get(name, _FRESH) for name in names]).reshape(f.size, len(_FRESH))
        seen, mean, up, down, lowest, highest = state.T
        seen = seen + 1
        mean = mean + (means - mean) / seen
        stray = means - mean
        up = self.forgetting * up + stray - self.tolerance
        down = self.forgetting * down + stray + self.tolerance
        lowest, highest = np.minimum(lowest, up), np.maximum(highest, down)
        excess = np.maximum(up - lowest, highest - down)
        alarm = (seen >= self.warm_up) & (excess > self.limit)
        stepped = np.stack([seen, mean, up, down, lowest, highest], axis=1)
        stepped[alarm] = _FRESH
        kept = np.where(np.isnan(means)[:, None], state, stepped)
        findings = [
            self._finding(names[i], excess[i], mean[i], means[i], int(seen[i]), reference, f[i])
            for i in np.flatnonzero(alarm).tolist()
        ]
        return dict(zip(names, kept.tolist(), strict=True)), Scores(names, excess, findings)

    def _finding(
        self, name: str, excess: float, mean: float, last: float, seen: int, reference: Profile, f: int
    ) -> Finding:
        centre, deviation = float(reference.mean[f]), float(np.sqrt(reference.variance[f]))
        old, new, size = centre + mean * deviation, centre + last * deviation, abs(float(last - mean))
        text = (
            f"{name} strayed from its level: the last window's mean is {value_text(new)}, that of all {seen} windows "
            f"{value_text(old)}. Summed excess {excess:.3g} standard deviations, limit {self.limit:g}."
        )
        facts: dict[str, float | str] = {"before": float(old), "after": float(new), "windows": float(seen)}
        return Finding(name, float(excess), self.limit, text, None, size, "standard deviations", facts)


_FRESH = (0.0, 0.0, 0.0, 0.0, float("inf"), float("-inf"))  # seen, mean, up, down, lowest, highest
