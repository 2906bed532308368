"""How thick the layer of rules over the model is: how many answers they change, and how many fire on an event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from detectors.checks.tails import normal_tail
from detectors.checks.verdict import Alpha, Measured, MinRows, Over, Rule, Words, chosen, share_text, verdict
from detectors.core import Scores
from detectors.profile import Profile
from detectors.scorers.rules import CHANGED, FIRED


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rules"):
    """Rules change more of the answers, or fire more often on an event, than they may or than they did.

    Reads the columns of the scorer `rules`. Score: the larger of the use of the absolute limit and of the allowed rise,
    over 1 when either is passed. p is of a z-test that the limit is truly passed, so a share that hovers at its limit
    does not flap. Blind to which rule fires (see `chi_square` on `rule`) and to what an answer was before.
    """

    most_changed: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="Highest share of answers that rules may change.")
    ] = 0.5
    most_fired: Annotated[float, msgspec.Meta(gt=0, description="Highest number of rules that fire on an event.")] = 3.0
    rise: Annotated[
        float,
        msgspec.Meta(gt=0, description="By how much either may rise over the reference: a share, or rules an event."),
    ] = 0.1
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 50

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        f, names = chosen(current.layout.numbers, [name for name in columns if name in (CHANGED, FIRED)])
        after, before = current.mean[f], reference.mean[f]
        now, was = current.counts[f], reference.counts[f]
        most = np.array([self.most_changed if name == CHANGED else self.most_fired for name in names])
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.sqrt(np.nan_to_num(current.variance[f]) / now)
            error_rise = np.sqrt(error**2 + np.nan_to_num(reference.variance[f]) / was)
            use, use_rise = after / most, (after - before) / self.rise
            # a layer that was as thick in the reference is known to be so: there only its rise counts
            use = np.where(before > most, 0.0, use)
            z = np.where(use > use_rise, (after - most) / error, (after - before - self.rise) / error_rise)
        p_value = np.where(np.isnan(z), np.where(np.maximum(use, use_rise) > 1, 0.0, 1.0), normal_tail(z))

        def say(i: int) -> Words:
            if names[i] == CHANGED:
                text = f"Rules change {share_text(after[i])} of the answers, before {share_text(before[i])}"
            else:
                text = f"{after[i]:.3g} rules fire on an event, before {before[i]:.3g}"
            return Words(text, {"before": float(before[i]), "after": float(after[i]), "most": float(most[i])})

        rule = Rule(1.0, self.min_rows, self.alpha, self.correction)
        measured = Measured(names, np.maximum(use, use_rise), p_value, now, was)
        return verdict(rule, measured, say, "Use of the limit", "times")
