"""Did the level of a column leave its reference: uncertainty spike, disagreement, novelty, latency, error.

Against the training reference or the preceding span alike. What these see, the distances of `shift` see too, later and
without a direction; a level has a side, so "entropy rose" is asked and "entropy fell" is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from detectors.checks.dependence import worth
from detectors.checks.tails import binomial_tail, normal_tail, upper_share
from detectors.checks.verdict import Alpha, Measured, MinRows, Over, Rule, Words, chosen, value_text, verdict
from detectors.core import Floats, Scores
from detectors.profile import ROUNDING, Profile

Side = Annotated[
    Literal["up", "down", "both"], msgspec.Meta(description="Which way a change is a finding; `both` takes either.")
]


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="level"):
    """The mean of a number, flag or derived column moved. Score: by how much, in the asked direction.

    p is of a z-test with the larger of both variances, so a spread that grew does not pass for a level, and with rows
    that are alike because they are neighbours counted for fewer (`dependence.worth`); it is approximate under some 30
    rows or where few values carry the mean. Blind to changes that keep the mean.
    """

    limit: Annotated[float, msgspec.Meta(ge=0, description="Found when the mean moved by more, in `unit`.")] = 0.5
    side: Side = "up"
    unit: Annotated[
        Literal["deviations", "relative", "absolute"],
        msgspec.Meta(
            description="`deviations`: standard deviations of the reference's rows; `relative`: share of the "
            "reference's mean; `absolute`: the column's own unit."
        ),
    ] = "deviations"
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 30

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        f, names = chosen(current.layout.numbers, columns)
        now, was = current.cells[f].sum(axis=1), reference.cells[f].sum(axis=1)
        after, before = current.mean[f], reference.mean[f]
        spread, spread_before = np.nan_to_num(current.variance[f]), np.nan_to_num(reference.variance[f])
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = after - before
            moved = np.where(np.abs(moved) > ROUNDING * np.maximum(np.abs(after), np.abs(before)), moved, moved * 0)
            crowd = np.ones(f.size)
            far = np.abs(moved) > self.limit * np.sqrt(spread_before) if self.unit == "deviations" else moved != 0
            if far.any():  # elsewhere it can find nothing
                crowd[far] = worth(current, reference, reference.sample.numbers[:, f[far]])
            error = np.sqrt(crowd * (np.maximum(spread, spread_before) / now + spread_before / was))
            z = np.where(error > 0, moved / error, np.sign(moved) * np.inf)
            z = np.where(moved == 0, 0.0, z)
            if self.unit == "deviations":
                # a reference without spread lends none; then that of all rows together
                share = now / (now + was)
                mixed = np.sqrt(share * spread + share * (1 - share) * moved**2)
                moved = np.where(moved == 0, 0.0, moved / np.where(spread_before > 0, np.sqrt(spread_before), mixed))
            elif self.unit == "relative":
                moved = np.where(before != 0, moved / np.abs(before), np.nan)

        def say(i: int) -> Words:
            way = "rose" if after[i] > before[i] else "fell"
            text = f"{names[i]} {way}: its mean went from {value_text(before[i])} to {value_text(after[i])}"
            return Words(text, {"statistic": "mean", "before": float(before[i]), "after": float(after[i])})

        unit = {"deviations": "standard deviations", "relative": "share", "absolute": ""}[self.unit]
        return verdict(Rule.of(self), Measured(names, *self._sided(moved, z), now, was), say, "Change", unit)

    def _sided(self, moved: Floats, z: Floats) -> tuple[Floats, Floats]:
        if self.side == "both":
            return np.abs(moved), 2 * normal_tail(np.abs(z))
        sign = 1.0 if self.side == "up" else -1.0
        return sign * moved, normal_tail(sign * z)


class Quantile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="quantile"):
    """A high quantile rose by a factor, as the 95 % quantile of a latency. Score: quantile now over quantile before.

    p is the binomial chance of as many values over the reference's quantile, so no law of the values is assumed.
    Measured where the reference's quantile is over 0; 0.1 ms a column, so name the columns. Blind to what stays under
    the quantile.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=1, description="Found when the quantile is over this many times the old.")
    ] = 1.5
    q: Annotated[float, msgspec.Meta(gt=0, lt=1, description="Which quantile.")] = 0.95
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        f, names = chosen(current.layout.numbers, columns)
        after, before = (np.array([p.quantile(name, self.q) for name in names]) for p in (current, reference))
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.where(before > 0, after / before, np.nan)
        under, under_before = (np.cumsum(p.cells[f], axis=1) for p in (current, reference))
        now, was = under[:, -1], under_before[:, -1]
        # the first edge that leaves no more than 1 - q of the reference's values above it
        edge = (under_before >= self.q * was[:, None]).argmax(axis=1)
        rows = np.arange(f.size)
        most = upper_share(was - under_before[rows, edge], was)
        p_value = binomial_tail(now - under[rows, edge], now, most)

        def say(i: int) -> Words:
            mark = f"{100 * self.q:g} % quantile"
            text = f"{names[i]} rose: its {mark} went from {value_text(before[i])} to {value_text(after[i])}"
            return Words(text, {"statistic": mark, "before": float(before[i]), "after": float(after[i])})

        return verdict(Rule.of(self), Measured(names, score, p_value, now, was), say, "Factor", "")
