"""One promise for many columns: whose the evidence is, and what many alarms in a row are worth.

The weighted mean of e-detectors is an e-detector whatever the dependence between them (Shin, Ramdas, Rinaldo 2022), so
the model's evidence is `evidence @ weights` and one threshold on it covers columns, slices and pairs alike. A column
of weight w pays log(1 / w) for the company: 4.1 nats among 60, where the promise of 10,000 itself asks 9.2.
"""

from __future__ import annotations

from math import log

import msgspec
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


class Lond(msgspec.Struct, frozen=True):
    """What e-LOND remembers of the hypotheses so far: how many were tested, how many of them found."""

    tested: int = 0
    found: int = 0

    def level(self, alpha: float) -> float:
        """The chance that the next hypothesis may take.

        >>> round(Lond().level(0.05), 4), round(Lond(tested=10, found=3).level(0.05), 4)
        (0.0185, 0.0017)
        """
        t = self.tested + 1
        # shares that telescope: 1/ln(2) - 1/ln(3) + 1/ln(3) - ... = 1/ln(2); the t-th falls as 1 / (t log^2 t)
        return alpha * (self.found + 1) * log(2) * (1 / log(t + 1) - 1 / log(t + 2))

    def step(self, e_value: float, alpha: float) -> tuple[Lond, bool]:
        """After one more hypothesis, and whether it is found: false ones are at most `alpha` of those found.

        e-LOND (Xu, Ramdas 2024): at any time the expected share of false ones among those found so far is at most
        alpha, however the e-values depend on each other and on what was found before. Each found one earns the next
        a higher level; a long calm costs: after 1,000 tests without one the level is 1e-5 alpha.

        >>> Lond().step(100.0, 0.05), Lond().step(10.0, 0.05)
        ((Lond(tested=1, found=1), True), (Lond(tested=1, found=0), False))
        """
        found = e_value >= 1 / self.level(alpha)
        return Lond(self.tested + 1, self.found + found), bool(found)
