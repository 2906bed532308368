"""Whether a column remembers: dependence between rows in their order, and season.

The exact engines ask that quiet rows could as well have come in any other order. Sensors and server metrics could not;
row-like traffic from many clients could. Which of the two a column is decides the engine that it gets, so the question
is put as a test: a column counts as exchangeable until its reference says otherwise.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from detectors.core import Floats, Ints

# Standard errors. At 4, of 1,000 columns without memory 3 to 5 are taken to have one and lose their atoms and spread
# bets for it (of 324 redrawn columns 2, whose fills were then missed); at 5 none, and no ordered stream changes sides.
SURE = 5.0
LIKELY = 3.0  # where many columns beside it remember: rows that are a clock's are so for all of them
SEASON = 0.3  # autocorrelation that a season has at least
_TABLE = 4096  # normal quantiles kept; between them they are interpolated


class Measured(NamedTuple):
    """What `measure` found; both (columns,)."""

    tau: Floats  # rows that tell as much as one independent row; 1 where no memory can be proven, else 1.5 or more
    season: Ints  # rows of one period, 0 = none


def measure(rows: Floats, sure: float = SURE) -> Measured:
    """Memory and season of columns from reference rows (m, columns) in the order they came, NaN = missing.

    tau is the integrated autocorrelation time (Sokal 1997) of normal scores and of their squares, whichever is larger,
    at blocks of 2, 4, ... rows up to a tenth of the reference. It is held against its own standard error under
    independence, and so is the largest single autocorrelation, which a season shows although its sum over a period is
    near 0; `sure` is how many standard errors it takes. Ties are broken by position in a fixed shuffle, or their order
    would look like memory.

    Blind to memory longer than a third of the reference, and to weak memory in a short one: 750 rows cannot show
    tau = 1.3. A constant column has none.

    >>> walk = np.cumsum(np.random.default_rng(0).normal(size=1000))
    >>> found = measure(np.stack([walk, np.random.default_rng(1).normal(size=1000)], axis=1))
    >>> bool(found.tau[0] > 30), float(found.tau[1])
    (True, 1.0)
    """
    found = [_column(rows[~np.isnan(rows[:, f]), f], sure) for f in range(rows.shape[1])]
    return Measured(np.array([tau for tau, _ in found]), np.array([season for _, season in found], np.int64))


def season(values: Floats) -> int:
    """Rows of one period: the highest peak of the autocorrelation from 12 rows to a third of them; 0 = none.

    >>> season(np.tile(np.arange(24.0), 20) ** 2)
    24
    """
    return _peak(_autocorrelation(values)) if values.size >= 48 and np.ptp(values) > 0 else 0


def _column(values: Floats, sure: float) -> tuple[float, int]:
    m = values.size
    if m < 48 or not np.ptp(values) > 0:
        return 1.0, 0
    scores = _scores(values)
    tau, doubt = 1.0, 0.0
    for series in (scores, scores**2):
        rho = _autocorrelation(series)
        # 0.8 for the search over a third of the lags: the largest of 300 exceeds 4.8 standard errors as rarely
        doubt = max(doubt, float(np.abs(rho[4:]).max()) * np.sqrt(m) - 0.8)
        size = 2
        while size <= m // 10:
            weight = 1 - np.arange(1, size) / size
            sum_of_block = 1 + 2 * float(weight @ rho[1:size])
            doubt = max(doubt, (sum_of_block - 1) / float(np.sqrt(4 * (weight**2).sum() / m)))
            tau = max(tau, sum_of_block)
            size *= 2
    if doubt < sure:
        return 1.0, 0
    return max(tau, 1.5), season(values)


def _scores(values: Floats) -> Floats:
    """Normal scores, ties in the order of a fixed shuffle."""
    shuffle, scores = _shuffled(values.size)
    mixed = values[shuffle]
    order = np.argsort(mixed)
    ordered = mixed[order]
    if (ordered[1:] == ordered[:-1]).any():  # only then the slower sort, which keeps the shuffle's order
        order = np.argsort(mixed, kind="stable")
    out = np.empty(values.size)
    out[shuffle[order]] = scores
    return out


@lru_cache(maxsize=16)  # columns of a reference are mostly of one length; the quantiles alone take 2 ms
def _shuffled(m: int) -> tuple[Ints, Floats]:
    """Positions of m values in the order of a fixed shuffle, and the normal scores of m ranks, ascending."""
    normal = NormalDist()
    levels = (np.arange(_TABLE) + 0.5) / _TABLE
    quantiles = [normal.inv_cdf(u) for u in levels.tolist()]
    shuffle = np.argsort(np.random.default_rng(m).permutation(m))
    return shuffle, np.interp((np.arange(m) + 0.5) / m, levels, quantiles)


def _autocorrelation(values: Floats) -> Floats:
    """At lags 0 to a third of the values."""
    m = values.size
    size = 1 << (2 * m - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(values - values.mean(), size)) ** 2
    summed = np.fft.irfft(spectrum, size)[: m // 3 + 1]
    return np.asarray(summed / max(float(summed[0]), 1e-300))


def _peak(rho: Floats) -> int:
    """The lag of the highest peak that rises out of a trough: a slow decay alone is no season."""
    best = 0
    for lag in range(12, rho.size - 3):
        risen = rho[lag] > SEASON and rho[lag] > rho[6:lag].min() + 0.2
        if risen and rho[lag] >= rho[lag - 3 : lag + 4].max() and (not best or rho[lag] > rho[best]):
            best = lag
    return best
