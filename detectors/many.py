"""Testing many columns at once: p-values adjusted so that one limit holds for the whole look.

An adjusted p-value is the smallest level at which its column would still be found; comparing it with `alpha` is the
whole procedure. NaN = not measured: it stays NaN and does not count as a test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from detectors.core import Floats

Correction = Literal["none", "bonferroni", "holm", "bh", "by"]


def adjusted(p_values: Floats, correction: Correction) -> Floats:
    """Adjusted p-values (n,), in the order given.

    `bonferroni` and `holm` keep the chance of even one false finding under alpha, whatever hangs together with what;
    Holm is never weaker. `bh` keeps the expected share of false ones among the findings under alpha when columns are
    independent or move together, `by` always, at the price of a factor of about log n.

    Dunn (1961); Holm (1979); Benjamini, Hochberg (1995); Benjamini, Yekutieli (2001).

    >>> p = np.array([0.01, 0.04, np.nan, 0.03])
    >>> for correction in ("none", "bonferroni", "holm", "bh", "by"):
    ...     print(correction, adjusted(p, correction).round(4).tolist())
    none [0.01, 0.04, nan, 0.03]
    bonferroni [0.03, 0.12, nan, 0.09]
    holm [0.03, 0.06, nan, 0.06]
    bh [0.03, 0.04, nan, 0.04]
    by [0.055, 0.0733, nan, 0.0733]
    """
    out = np.full(p_values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    if tested.size:
        order = tested[np.argsort(p_values[tested], kind="stable")]
        out[order] = np.minimum(_ASCENDING[correction](p_values[order]), 1.0)
    return out


def _holm(p: Floats) -> Floats:
    return np.maximum.accumulate(p * np.arange(p.size, 0, -1))


def _bh(p: Floats) -> Floats:
    return np.minimum.accumulate((p * (p.size / np.arange(1, p.size + 1)))[::-1])[::-1]


def _by(p: Floats) -> Floats:
    return np.asarray(_bh(p) * (1.0 / np.arange(1, p.size + 1)).sum())


_ASCENDING: dict[Correction, Callable[[Floats], Floats]] = {
    "none": lambda p: p,
    "bonferroni": lambda p: p * p.size,
    "holm": _holm,
    "bh": _bh,
    "by": _by,
}
