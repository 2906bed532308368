"""How sure the model says it is, from its scores: one number per row and measure.

Blind to a model that is sure and wrong. A row's numbers never depend on the rows beside it, to the last bit, so a
stream cut into other batches after a crash counts the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from detectors.core import Batch, Column, Floats, Kind, number

Measure = Literal["confidence", "least_confidence", "margin", "ratio", "entropy"]

MEASURES: tuple[Measure, ...] = ("confidence", "least_confidence", "margin", "ratio", "entropy")


def has_logits(scores: Floats) -> bool:
    """Whether reference rows (n, classes) hold decision values rather than chances: any of them is negative."""
    return bool((scores < 0).any())


def chances(scores: Floats, logits: bool) -> Floats:
    """Rows of scores (n, classes) as rows of chances that sum to 1 (n, max(classes, 2)); NaN rows = missing.

    Logits go through a softmax; other scores are divided by their sum. A lone score is the chance, or the logit, of one
    of two classes. A row is missing when one of its scores is NaN or infinite, when its scores are no chances
    (negative, all 0, or a lone one above 1), or when there is no class at all.

    >>> chances(np.array([[3.0, 1.0], [0.25, np.nan]]), logits=False).tolist()
    [[0.75, 0.25], [nan, nan]]
    """
    n, classes = scores.shape
    if classes == 0:
        return np.full((n, 2), np.nan)
    if classes == 1:
        scores = np.hstack([np.zeros((n, 1)) if logits else 1.0 - scores, scores])
    if logits:
        scores = np.where(np.isfinite(scores).all(axis=1, keepdims=True), scores, np.nan)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.einsum("ij->i", scores)
    bad = ~((total >= np.finfo(np.float64).tiny) & (total < np.inf))  # NaN and inf carry over into the sum
    if n and not scores.min() >= 0:
        bad |= (scores < 0).any(axis=1)
    total[bad] = np.nan
    return np.asarray(scores / total[:, None])


def entropies(shares: Floats) -> Floats:
    """Entropy in nats (n,) of rows of chances (n, classes), NaN missing (Shannon 1948).

    >>> entropies(np.array([[0.5, 0.5], [1.0, 0.0]])).round(3).tolist()
    [0.693, 0.0]
    """
    logs = np.log(np.maximum(shares, np.finfo(np.float64).tiny))  # 0 log 0 is 0
    return np.asarray(np.abs(np.einsum("ij,ij->i", shares, logs)))


class Uncertainty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uncertainty"):
    """Uncertainty from column `scores`, a number column per measure.

    With p1 and p2 the two largest chances of a row: `confidence` p1, `least_confidence` 1 - p1, `margin` p1 - p2,
    `ratio` p2 / p1, `entropy` from 0 to 1 (in nats, divided by the log of the number of classes). Confidence and
    margin fall with doubt, the others rise. Scores need not sum to 1, see `chances`; they are logits when the reference
    had a negative one. A row with another number of classes than the reference is missing. One pass serves all
    measures: 0.3 us an event with 10 classes in batches of 250.
    """

    measures: Annotated[
        tuple[Measure, ...], msgspec.Meta(description="Columns to derive from `scores`.", min_length=1)
    ] = MEASURES

    def fit(self, rows: Batch) -> Any:
        scores = rows.get("scores")
        if scores is None or scores.kind is not Kind.VECTOR or scores.missing().all():
            return None
        return {"classes": scores.values.shape[1], "logits": has_logits(scores.values)}

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        scores = rows.get("scores")
        if scores is None or scores.kind is not Kind.VECTOR:
            return {}
        n, classes = scores.values.shape
        if not n or (fitted is not None and classes != fitted["classes"]):
            return {name: number(np.full(n, np.nan)) for name in self.measures}
        shares = chances(scores.values, fitted is not None and fitted["logits"])
        ordered = np.sort(shares, axis=1)
        first, second = ordered[:, -1], ordered[:, -2]
        values: dict[Measure, Floats] = {
            "confidence": first,
            "least_confidence": 1.0 - first,
            "margin": first - second,
            "ratio": second / first,
        }
        if "entropy" in self.measures:
            values["entropy"] = np.minimum(entropies(shares) / np.log(shares.shape[1]), 1.0)
        return {name: number(values[name]) for name in self.measures}
