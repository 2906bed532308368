"""The model's performance: estimated while no labels are there, and whether the estimate deserves belief once they are.

Neither is the way to see an error rate rise: labels that came are the column `error`, and any check takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from detectors.checks.tails import normal_tail
from detectors.checks.verdict import Alpha, Measured, MinRows, Over, Rule, Words, chosen, share_text, verdict
from detectors.core import Finding, Floats, Scores
from detectors.performance import Estimate, estimates
from detectors.profile import Profile
from detectors.reference import Reference
from detectors.scorers.outcome import table_of
from detectors.shares import shares

UNKNOWN = 0.05  # of the rows more than in the reference without an expectation: the estimate is of the others only
_STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])  # bets against gaps of some 0.01 to 0.5: each within 20 % of its best
_CENTRES = {"surprise": 0.0, "tilt": 0.0, "rank": 0.5}
_SAYS = {
    ("surprise", True): "answers are right in {} more of the rows than their calibration says",
    ("surprise", False): "answers are right in {} fewer of the rows than their calibration says",
    ("tilt", True): "the second class is the truth in {} more of the rows than the calibration says",
    ("tilt", False): "the second class is the truth in {} fewer of the rows than the calibration says",
    ("rank", True): "labels come for surer rows than most: the model's confidence ranks {} over the middle",
    ("rank", False): "labels come for less sure rows than most: the model's confidence ranks {} under the middle",
}
_PIECE = 256  # rows at once: 0.2 to the power of 256 is still a number
_RECENT = 1000  # rows that the mean told is mostly of
_CAP = 1000.0  # times the promise: evidence beyond says nothing more, and would outlast the return to calm


class Performance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="performance"):
    """Accuracy and its kin estimated without labels (CBPE); found when the estimated accuracy fell.

    Reads column `expected_correct` of the `outcome` scorer. The score is the fall of its mean against the reference, p
    of a z-test: both are of the mix of rows, so they see a fall long before labels could. Beside it every measure with
    a 95 % interval, see `detectors.performance`; named doubtful where over 5 % of the rows are unlike all labelled ones
    in answer or score; and each class's share of the truths (`detectors.shares`). Blind to concept drift, which
    `calibration` watches as labels come.
    """

    limit: Annotated[float, msgspec.Meta(ge=0, lt=1, description="Found when the accuracy fell by more.")] = 0.02
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 30

    def start(self, reference: Reference, columns: Sequence[str]) -> Any:
        held = (f for f in reference.fitted.values() if isinstance(f, dict) and "table" in f)
        return next(held, None)

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Any, Scores]:
        f, names = chosen(current.layout.numbers, [name for name in columns if name == "expected_correct"])
        now, was = current.cells[f].sum(axis=1), reference.cells[f].sum(axis=1)
        after, before = current.mean[f], reference.mean[f]
        with np.errstate(divide="ignore", invalid="ignore"):
            fall = before - after
            error = np.sqrt(np.nan_to_num(current.variance[f]) / now + np.nan_to_num(reference.variance[f]) / was)
            chance = normal_tail(np.where(error > 0, fall / error, np.where(fall > 0, np.inf, 0.0)))
        found: list[Estimate] = []
        if memory is not None and f.size and now[0] >= self.min_rows:
            table = table_of(memory)
            places = np.searchsorted(current.layout.edges[f[0]], table.expected, "left")
            unknown = float(current.missing_share[f[0]] - reference.missing_share[f[0]])
            doubt = f"{share_text(unknown)} of the rows are unlike all labelled ones" if unknown > UNKNOWN else ""
            rows = current.cells[f[0]][places]
            found = estimates(table, rows, doubt) + shares(table, rows, doubt)

        def say(i: int) -> Words:
            told = f", labels would say {share_text(found[0].low)} to {share_text(found[0].high)}" if found else ""
            moved = f"{share_text(before[i])} to {share_text(after[i])}"
            text = f"the accuracy estimated without labels fell from {moved}{told}"
            return Words(text, {"statistic": "mean", "before": float(before[i]), "after": float(after[i])})

        scores = verdict(Rule.of(self), Measured(names, fall, chance, now, was), say, "Fall", "share")
        scores.estimates = found
        return memory, scores


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="calibration"):
    """Late labels say what was expected of them: bets that they do not, won as evidence.

    Reads those columns of joined labels whose mean is known beforehand. `surprise`: right or not, less the chance of it
    that was expected, 0 while the calibration holds. `tilt`: the same for the second of two classes, so that it does
    not cancel out between answers. `rank`: place of a labelled row's confidence among those of all rows, 0.5 while
    labels come for rows like all. While a mean, given the past, is within `tolerance` of that, at least `promise` rows
    pass on average until a finding, whoever looks whenever: Shiryaev-Roberts sums over fixed bets, an e-detector (Shin,
    Ramdas, Rinaldo 2022; bets of Waudby-Smith, Ramdas 2024; for a deployed model Podkopaev, Ramdas 2022). Steps over a
    window's sampled rows. Blind to gaps that cancel out. The tolerance has to be wider than the error of the reference
    that the chances come from: 0.02 asks for 2,000 labelled rows.
    """

    tolerance: Annotated[float, msgspec.Meta(ge=0, lt=0.5, description="A mean this far off is as good.")] = 0.02
    promise: Annotated[
        float, msgspec.Meta(gt=1, description="Rows until a false finding, on average over calm, at least.")
    ] = 10_000.0

    def start(self, reference: Reference, columns: Sequence[str]) -> Any:
        return {}

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Any, Scores]:
        f, names = chosen(current.layout.numbers, [name for name in columns if name in _CENTRES])
        rows = current.sample.numbers[np.lexsort((current.sample.keys, current.sample.times))][:, f]
        after: dict[str, Any] = {}
        for i, name in enumerate(names):
            held = memory.get(name, {"bets": np.zeros((2, _STAKES.size)), "rows": 0, "mean": 0.0})
            values = rows[~np.isnan(rows[:, i]), i]
            for first in range(0, len(values), _PIECE):
                held = self._bet(held, values[first : first + _PIECE] - _CENTRES[name])
            after[name] = held
        # if one of n exceeds n times the limit, their mean, which is an e-detector too, exceeds the limit
        score = np.array([after[name]["bets"].mean() / len(names) for name in names])
        findings = [
            self._finding(name, evidence, after[name])
            for name, evidence in zip(names, score.tolist(), strict=True)
            if evidence > self.promise
        ]
        return after, Scores(names, np.where([after[n]["rows"] > 0 for n in names], score, np.nan), findings)

    def _bet(self, held: Any, gaps: Floats) -> Any:
        """The sums after the rows: M <- (M + 1) (1 + stake (+-gap - tolerance)), in closed form over all of them."""
        stakes = _STAKES / (1 + self.tolerance)
        won = np.stack([gaps, -gaps]).clip(-1.0, 1.0) - self.tolerance  # (2, rows)
        grown = np.cumsum(np.log1p(stakes[:, None] * won[:, None, :]), axis=2)  # (2, stakes, rows)
        before = np.concatenate([np.zeros((*grown.shape[:2], 1)), grown[..., :-1]], axis=2)
        bets = np.exp(grown[..., -1]) * (held["bets"] + np.exp(-before).sum(axis=2))
        rows = min(held["rows"] + gaps.size, _RECENT)
        mean = held["mean"] + gaps.size / rows * (float(gaps.mean()) - held["mean"])
        return {"bets": np.minimum(bets, _CAP * self.promise), "rows": rows, "mean": mean}

    def _finding(self, name: str, evidence: float, held: Any) -> Finding:
        gap = held["mean"]
        text = (
            f"{_SAYS[name, gap > 0].format(share_text(abs(gap)))}, over some {held['rows']:,} labels. Evidence "
            f"{evidence:.3g}, limit {self.promise:.3g}: by chance it comes so far once in as many labels."
        )
        return Finding(name, evidence, self.promise, text, None, gap, "share", {"rows": float(held["rows"])})
