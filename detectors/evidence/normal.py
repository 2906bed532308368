"""Numbers as normal scores: the same scale for every column, which no unit, tail or outlier can bend."""

from __future__ import annotations

from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats

KNOTS = 64  # where the scores are kept; between them they are interpolated, so the grid itself hides nothing
_NORMAL = NormalDist()


class NormalScores(msgspec.Struct, frozen=True):
    """What `fit` learned; plain data, 1 KB a column."""

    knots: NDArray[np.float64]  # (columns, KNOTS) ascending, padded by its last
    levels: NDArray[np.float64]  # (columns, KNOTS) score at each knot

    def of(self, numbers: Floats) -> Floats:
        """Scores (n, columns) of rows: mean 0 and variance 1 over the rows fitted on, 0 for a constant column.

        NaN stays NaN; a value outside the fitted range has the score of its end.
        """
        out = np.empty(numbers.shape)
        for f, (knots, levels) in enumerate(zip(self.knots, self.levels, strict=True)):
            out[:, f] = np.interp(numbers[:, f], knots, levels)
        return out


def fit(numbers: Floats) -> NormalScores:
    """The scores of number columns (m, columns), NaN = missing: the normal quantile of each value's mid-rank.

    >>> fit(np.array([[1.0], [2.0], [2.0], [900.0]])).of(np.array([[1.0], [2.0], [1e6], [np.nan]])).round(3).tolist()
    [[-1.414], [0.0], [1.414], [nan]]
    """
    knots = np.zeros((numbers.shape[1], KNOTS))
    levels = np.zeros_like(knots)
    for f in range(numbers.shape[1]):
        known = np.sort(numbers[~np.isnan(numbers[:, f]), f])
        if known.size:
            knots[f], levels[f] = _fit_column(known)
    return NormalScores(knots, levels)


def _fit_column(ordered: Floats) -> tuple[Floats, Floats]:
    n = ordered.size
    distinct, first, each = np.unique(ordered, return_index=True, return_counts=True)
    at = np.arange(distinct.size)
    rank = (first + each / 2) / n  # of the middle of the value's ties, 0 to 1
    if distinct.size > KNOTS:
        at = np.unique(rank.searchsorted(np.linspace(rank[0], rank[-1], KNOTS)))
    score = np.array([_NORMAL.inv_cdf(u) for u in np.clip(rank[at], 0.5 / n, 1 - 0.5 / n).tolist()])
    every = np.interp(distinct, distinct[at], score)
    mean = every @ each / n
    spread = np.sqrt((every - mean) ** 2 @ each / n)
    score = (score - mean) / spread if spread > 0 else np.zeros(score.size)
    pad = (0, KNOTS - at.size)
    return np.pad(distinct[at], pad, mode="edge"), np.pad(score, pad, mode="edge")


def log_bayes(square: Floats, n: Floats) -> Floats:
    """Nats for a mean of `n` standard values that has moved, against one that has not; `square` = n x mean^2.

    Moves are expected of about half a deviation (normal prior, Jeffreys 1961). Few values can say little either way.

    >>> log_bayes(np.array([0.0, 9.0]), np.array([100.0, 100.0])).round(2).tolist()
    [-1.63, 2.7]
    """
    gain = 0.25 * n
    return np.asarray(0.5 * square * gain / (1 + gain) - 0.5 * np.log1p(gain))
