"""Chances that a difference arises although nothing has changed: upper tails of the laws that the checks rest on.

Everything takes and gives arrays (columns,); NaN in, NaN out. Written here because scipy would add 74 MB to a daemon
that needs four functions of it; the tests hold them against scipy.
"""

from __future__ import annotations

from math import erfc, lgamma

import numpy as np

from detectors.core import Floats, Ints


def _erfc(x: Floats) -> Floats:
    # numpy has none; math's is exact and 60 columns cost 4 us
    return np.fromiter(map(erfc, x.tolist()), np.float64, x.size)


def normal_tail(z: Floats) -> Floats:
    """P(Z >= z) of the standard normal law.

    >>> normal_tail(np.array([0.0, 1.959964])).round(4).tolist()
    [0.5, 0.025]
    """
    return 0.5 * _erfc(np.asarray(z) / np.sqrt(2.0))


def chi_square_tail(x: Floats, freedom: Ints) -> Floats:
    """P(X >= x) of the chi-square law with whole degrees of freedom; NaN where there are none.

    The finite sums of Abramowitz and Stegun (1964) 26.4.4 and 26.4.5: exact, and `max(freedom) / 2` terms a column.

    >>> chi_square_tail(np.array([3.841459, 18.307038]), np.array([1, 10])).round(4).tolist()
    [0.05, 0.05]
    """
    if not x.size:
        return np.zeros(0)
    half = np.maximum(x, 1e-300)[:, None] / 2
    odd = freedom % 2
    terms = np.arange(max(int(freedom.max()) // 2, 1))
    # log Gamma(j + 1) and log Gamma(j + 3/2)
    log_gamma = np.stack(
        [np.cumsum(np.log(np.maximum(terms, 1))), lgamma(1.5) + np.cumsum(np.log(np.where(terms, terms + 0.5, 1.0)))]
    )
    log_terms = (terms + odd[:, None] / 2) * np.log(half) - half - log_gamma[odd]
    summed = np.where(terms < (freedom // 2)[:, None], np.exp(log_terms), 0.0).sum(axis=1)
    tail = summed + np.where(odd, _erfc(np.sqrt(half[:, 0])), 0.0)
    return np.where(freedom > 0, np.minimum(tail, 1.0), np.nan)


def kolmogorov_tail(gap: Floats, rows: Floats) -> Floats:
    """P(D >= gap) of the largest gap between two empirical distributions of n and m rows, `rows` = n m / (n + m).

    Kolmogorov's limit law (1933) with the finite-sample argument of Stephens (1970): within 2 % of the exact tail down
    to 0.001 from `rows` = 50 on, and 5 % from 500 on further down. Too large where values are tied.

    >>> kolmogorov_tail(np.array([0.0607]), np.array([500.0])).round(3).tolist()
    [0.048]
    """
    root = np.sqrt(rows)
    t = np.asarray(gap * (root + 0.12 + 0.11 / np.maximum(root, 1e-9)))
    # below 0.2 the tail is 1 to 12 digits and the series needs ever more terms; above, 20 of them reach 1e-13
    k = np.arange(1, 21)
    series = 2.0 * ((-1.0) ** (k - 1) * np.exp(-2.0 * k**2 * np.maximum(t, 0.2)[:, None] ** 2)).sum(axis=1)
    return np.where(np.isnan(t), np.nan, np.clip(series, 0.0, 1.0))


def binomial_tail(hits: Ints, rows: Ints, share: Floats) -> Floats:
    """P(X >= hits) of `rows` draws that hit with chance `share`.

    Too small by 0.03 % at most; too large by at most 24 % where it is under 0.05, 9 % under 0.001, 6 % under 0.0001.
    One term by Loader's saddle point (2000), the rest by Feller's geometric bound (1968, VI.3): no loop over hits. NaN
    without rows; 1 where hits are no more than expected.

    >>> binomial_tail(np.array([8, 1]), np.array([100, 100]), np.array([0.02, 0.02])).round(5).tolist()
    [0.00094, 1.0]
    """
    k, n = hits.astype(np.float64), rows.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        miss = n - k
        apart = k * np.log(k / (n * share)) + np.where(miss > 0, miss * np.log(miss / (n * (1 - share))), 0.0)
        correction = _stirling(n) - _stirling(k) - np.where(miss > 0, _stirling(miss), 0.0)
        height = np.where(miss > 0, 0.5 * np.log(n / (2 * np.pi * k * miss)), -correction)
        rest = (k + 1) * (1 - share) / (k + 1 - (n + 1) * share)
        tail = np.exp(correction - apart + height) * np.where(miss > 0, rest, 1.0)
    return np.where(n > 0, np.where((k > n * share) & (share < 1), np.minimum(tail, 1.0), 1.0), np.nan)


def _stirling(n: Floats) -> Floats:
    """What log n! has over Stirling's formula, to 3e-4 at n = 1 and better above."""
    return 1 / (12 * n) - 1 / (360 * n**3) + 1 / (1260 * n**5)


def upper_share(hits: Ints, rows: Ints, z: float = 3.0) -> Floats:
    """The largest share that `hits` of `rows` still speak for, z standard errors up (Wilson 1927); 1 without rows.

    What keeps a reference that is itself a sample from being taken for the truth: no hit in 2,000 rows allows 0.45 %.

    >>> upper_share(np.array([0, 20]), np.array([2000, 2000])).round(4).tolist()
    [0.0045, 0.0192]
    """
    n = np.maximum(rows, 1).astype(np.float64)
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(hits * (n - hits) / n + z * z / 4)
    return np.where(rows > 0, np.minimum(middle + half, 1.0), 1.0)
