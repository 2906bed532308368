"""Did a number column come to be in another unit: `detectors.checks.naming`, asked of each column that moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from detectors.checks.naming import name_change
from detectors.checks.shift import Ks
from detectors.checks.verdict import Alpha, Measured, MinRows, Over, Rule, Words, verdict
from detectors.core import Scores
from detectors.profile import Profile


class Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="unit"):
    """A number column that reads like another unit, scale, sign or logarithm, or lies on one line with what it was.

    Score: the share of its rows that were converted. p is that of `ks`, on whose word a column is looked at (2 ms).
    The checks that find a column moved tell its conversion as well: this one is for those who want nothing else told.
    Blind to what `name_change` refuses, to conversions that leave under 0.1 % between the laws, and to categories.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="Found when over this share of the rows was converted.")
    ] = 0.1
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 50

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        moved = Ks(limit=0.0, alpha=self.alpha, correction=self.correction, min_rows=self.min_rows)
        scores = moved.check(current, reference, columns)
        names = scores.columns
        found = [finding.column for finding in scores.findings]
        told = {name: naming for name in found if (naming := name_change(current, reference, name)) is not None}
        share = np.array([told[name].share if name in told else 0.0 for name in names])
        at = [current.layout.numbers.index(name) for name in names]

        def say(i: int) -> Words:
            return Words(told[names[i]].text, told[names[i]].facts)

        measured = Measured(names, share, scores.p_value, current.counts[at], reference.counts[at])
        return verdict(Rule.of(self), measured, say, "Converted", "share")
