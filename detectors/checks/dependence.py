"""How many independent rows a window is worth: neighbours in time are alike, and a test that counts them all is fooled.

A day of 48 half-hours with the same answer is no wonder where yesterday's 48 had the same too.
"""

from __future__ import annotations

import numpy as np

from detectors.core import Floats
from detectors.profile import Profile

BLOCKS = 8  # stretches of the reference as long as the window, at least, to tell what they have in common
ROWS = 20  # sampled rows of a stretch on average: fewer have little in common that could be measured


def worth(current: Profile, reference: Profile, values: Floats) -> Floats:
    """Rows of the window that count as one, per column (columns,): Kish's design effect (1965), 1 where rows are free.

    `values` (sampled rows of the reference, columns), NaN = missing. The reference's sample is cut into stretches as
    long as the window, longer where they would be nearly empty; what rows of one stretch have in common (intraclass
    correlation, one-way analysis of variance) makes each further row worth less. 1 where the reference has no times, or
    is shorter than eight windows, or where three standard errors could explain it. Blind to likeness over less than the
    gaps of a thin sample.
    """
    none = np.ones(values.shape[1])
    times = reference.sample.times
    span = (current.last - current.first) * (current.rows + 1) / max(current.rows, 1)
    if not len(times) or not 0 < span < np.inf or (times.max() - times.min()) < BLOCKS * span:
        return none
    since = times - times.min()
    blocks = np.floor(since / max(span, since.max() * ROWS / len(since)))
    _, block = np.unique(blocks, return_inverse=True)
    return np.array([_effect(values[:, i], block, current.rows) for i in range(values.shape[1])])


def _effect(values: Floats, block: np.ndarray[tuple[int], np.dtype[np.intp]], rows: int) -> float:
    known = ~np.isnan(values)
    values, block = values[known], block[known]
    sizes = np.bincount(block)
    there = sizes > 0
    sizes = sizes[there]
    n, k = values.size, sizes.size
    if k < BLOCKS or n < 2 * k:
        return 1.0
    values = values - values.mean()
    between = float((np.bincount(block, values)[there] ** 2 / sizes).sum())
    within = float(values @ values) - between
    size = (n - float((sizes**2).sum()) / n) / (k - 1)
    mean_between, mean_within = between / (k - 1), within / (n - k)
    if not mean_between > mean_within >= 0:
        return 1.0
    alike = (mean_between - mean_within) / (mean_between + (size - 1) * mean_within)
    by_chance = 3 * np.sqrt(2 / (k * size * (size - 1)))
    return float(1 + (rows - 1) * alike) if alike > by_chance else 1.0
