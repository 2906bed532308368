"""One promise for many columns: whose the evidence is.

The weighted mean of e-detectors is an e-detector whatever the dependence between them (Shin, Ramdas, Rinaldo 2022), so
the model's evidence is `evidence @ weights` and one threshold on it covers columns, slices and pairs alike. A column
of weight w pays log(1 / w) for the company: 4.1 nats among 60, where the promise of 10,000 itself asks 9.2.
"""

from __future__ import annotations

import numpy as np

from detectors.core import Floats, Mask


def attributed(evidence: Floats, weights: Floats, level: float) -> Mask:
    """Which of the columns (columns,) have moved, by weighted e-BH (Wang, Ramdas 2022).

    The k with the most weighted evidence, k the largest number for which each of them has weight x evidence >= level /
    k. With e-values and level = 1 / a, the share of unmoved ones among those named is at most a on average, under any
    dependence. An e-detector is an e-value but for the time that has passed: at the promise as level it is a screening
    for the open incident (Dandapanthula, Ramdas 2025). NaN is no evidence. Blind to what only the sum shows: where
    many weak columns raise an alarm together, none need be named.

    >>> attributed(np.array([90.0, 70.0, 20.0, 3.0]), np.full(4, 0.25), level=30.0).tolist()
    [True, True, False, False]
    """
    weighted = np.nan_to_num(evidence * weights, nan=0.0)
    order = np.argsort(-weighted, kind="stable")
    enough = weighted[order] * np.arange(1, order.size + 1) >= level
    named = np.zeros(order.size, np.bool_)
    named[order[: int(np.flatnonzero(enough)[-1]) + 1 if enough.any() else 0]] = True
    return named
