"""One-step forecasts of columns with memory: what is left of a value when its past is taken out of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detectors.core import Floats, Ints
from detectors.evidence.memory import season

RECENT = (0, 1, 2, 3, 5, 8)  # numbers of recent lags tried
LAGS = RECENT[-1] + 3  # and three around a season
HUBER = 3.0  # robust deviations beyond which an error pulls no harder
RIDGE = 1e-3  # of the lags' mean square
PRICE = 0.01  # by which each further lag has to better the error
OUTLIER = 8.0  # deviations that an error counts at most when lags are chosen


class Forecast(NamedTuple):
    """A forecast of each column: the sum of `weight` times the value `lag` rows ago; both (columns, LAGS).

    Values are centred ones; a weight of 0 stands for no lag. A column without forecast has weights of 0 only.
    """

    lag: Ints
    weight: Floats


def fit(rows: Floats) -> Forecast:
    """Autoregressions of centred columns (m, columns), NaN = missing, left out as if the rows around it were adjacent.

    Lags are chosen by the error on the second half of what was fitted on the first, so a wandering level gets its
    difference and a season its last period where, and only where, that forecasts better. The fit is by iterated
    weights (Huber 1964): a spike that was not foretold does not set the weights. As a past value it does pull them, to
    what follows on spikes: values so far out that they should not are for the caller to clip.

    >>> walk = np.cumsum(np.random.default_rng(0).normal(size=(800, 1)), axis=0)
    >>> fit(walk - np.median(walk)).weight[0].round(1)[:2].tolist()
    [1.0, 0.0]
    """
    columns = rows.shape[1]
    lag, weight = np.ones((columns, LAGS), np.int64), np.zeros((columns, LAGS))
    for f in range(columns):
        values = rows[~np.isnan(rows[:, f]), f]
        chosen = _chosen(values)
        if chosen:
            lag[f, : len(chosen)] = chosen
            weight[f, : len(chosen)] = _weights(values, chosen)
    return Forecast(lag, weight)


def _chosen(values: Floats) -> list[int]:
    m = values.size
    half = m // 2
    recent = [list(range(1, p + 1)) for p in RECENT if p < m / 20]
    period = season(values)
    around = [period - 1, period, period + 1] if 0 < period < half - 20 else []
    tried = recent + [sorted({*lags, *around}) for lags in recent if around]
    outlier = OUTLIER * float(np.median(np.abs(values - np.median(values))))
    best, error = [], np.inf
    for lags in tried:
        left: Floats = values[half:]
        if lags:
            past = np.stack([values[half - lag : m - lag] for lag in lags], axis=1)
            left = left - past @ _weights(values[:half], lags)
        found = float(np.minimum(np.abs(left), outlier or np.inf).mean()) * (1 + PRICE * len(lags))
        if found < error:
            best, error = lags, found
    return best


def _weights(values: Floats, lags: list[int]) -> Floats:
    longest = max(lags)
    past = np.stack([values[longest - lag : values.size - lag] for lag in lags], axis=1)
    now = values[longest:]
    trust = np.ones(now.size)
    found: Floats = np.zeros(len(lags))
    for _ in range(4):
        square = (past * trust[:, None]).T @ past
        square += np.eye(len(lags)) * (RIDGE * np.trace(square) / len(lags) + 1e-12)
        found = np.asarray(np.linalg.solve(square, past.T @ (trust * now)), np.float64)
        missed = np.abs(now - past @ found)
        usual = max(1.4826 * float(np.median(missed)), 1e-3 * float(missed.std()) + 1e-12)
        trust = np.minimum(1.0, HUBER * usual / np.maximum(missed, 1e-300))
    return found
