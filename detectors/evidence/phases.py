"""What the hour explains: a column's usual level and spread by hour of the day or of the week, taken off.

An hour's level wanders within the reference, too, so a table that knows the row it is held against flatters it: the
reference's own rows are always measured by tables of the other days or weeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints

HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0  # seconds
PERIODS = 3  # that a reference has to cover; as many tables each leave out every third of them
GAIN, SURE = 0.05, 4.0  # share of the error, and its standard errors, by which a table betters what is simpler
AS_ROWS = 4.0  # rows of an hour that the whole column's spread stands for in it
NARROWEST = 0.01  # of the column's spread, that an hour has at least
DIGITS = 2  # of an hour's spread, kept of what is left: less is rounding of the tables


class Season(msgspec.Struct, frozen=True):
    """Level and spread of columns by hour of one period, a day or a week."""

    of: NDArray[np.int64]  # (columns,) their places in the rows' matrix
    knots: NDArray[np.float64]  # (hours,) seconds into the period, the mean of the times seen in each hour
    centre: NDArray[np.float64]  # (columns,)
    size: NDArray[np.float64]  # (columns,)
    level: NDArray[np.float32]  # (hours, columns) in units of `size` from `centre`
    spread: NDArray[np.float32]  # (hours, columns) in units of `size`

    @property
    def period(self) -> float:
        return len(self.knots) * HOUR


class Known(NamedTuple):
    """What a reference says about hours."""

    seasons: list[Season]  # by all of its rows; a column is in one at most
    without: list[list[Season]]  # the same columns, by all rows but those of every third period

    def reference(self, times: Floats, rows: Floats) -> Floats:
        """What is left of the reference's own rows, each by the table that its period is not in."""
        left = rows.copy()
        for i, season in enumerate(self.seasons):
            fold = _fold(times, season.period)
            for k, tables in enumerate(self.without):
                here = fold == k
                left[here] = apart(tables[i : i + 1], times[here], rows[here])
        return left


def apart(seasons: Sequence[Season], times: Floats, rows: Floats) -> Floats:
    """Rows (n, numbers) at event times (n,), NaN = missing; columns with season as spreads from their hour's level.

    Between hours both are interpolated. A column without season is as it was.
    """
    left = rows.copy()
    for season in seasons:
        value = (rows[:, season.of] - season.centre) / season.size
        level, spread = (_between(season.knots, table, times) for table in (season.level, season.spread))
        left[:, season.of] = np.round((value - level) / spread, DIGITS) + 0.0  # no -0
    return left


def _between(knots: Floats, table: Floats | NDArray[np.float32], times: Floats) -> Floats:
    """A table (hours, columns) between its knots, round and round (n, columns)."""
    hours, period = len(knots), len(knots) * HOUR
    round_about = np.concatenate([knots[-1:] - period, knots, knots[:1] + period])
    at = times % period
    after = np.searchsorted(round_about, at, "right").clip(1, hours + 1)
    share = ((at - round_about[after - 1]) / (round_about[after] - round_about[after - 1]))[:, None]
    return np.asarray(table[after - 2] * (1 - share) + table[(after - 1) % hours] * share, np.float64)


def learn(times: Floats, rows: Floats) -> Known:
    """Seasons of columns from reference rows (m, numbers) at event times (m,), in any order, NaN = missing.

    The hour of the day where three days are covered, of the week where three weeks are; four are better. A table is
    used only where it foretells the rows of periods that it has not seen, surely, and by a twentieth better than a
    simpler one. An hour's level is the median, drawn to the day's and that to the column's, the more the fewer rows it
    has (Stein 1956); so a week needs no rows in every hour. Blind to seasons of other lengths, to holidays and to
    summer time.

    >>> rng = np.random.default_rng(0); times = rng.uniform(0, 10 * DAY, 2000)
    >>> rows = np.stack([np.sin(times / DAY * 2 * np.pi), rng.normal(size=2000)], axis=1)
    >>> [(season.of.tolist(), len(season.knots)) for season in learn(times, rows).seasons]
    [([0], 24)]
    """
    nothing = Known([], [])
    covered = np.ptp(times) + HOUR if len(times) else 0.0
    if covered < PERIODS * DAY or not rows.shape[1]:
        return nothing
    centre = _medians(rows)
    size = 1.2533 * _means(np.abs(rows - centre))
    values = (rows - centre) / np.where(size > 0, size, 1.0)
    best = np.abs(values)
    period = np.zeros(rows.shape[1])
    for tried in (DAY, WEEK):
        if covered < PERIODS * tried:
            break
        missed = _missed(times, values, tried)
        gain = best - missed
        mean = _means(gain)
        doubt = np.sqrt(_means((gain - mean) ** 2) / np.maximum((~np.isnan(gain)).sum(axis=0), 1))
        better = mean > np.maximum(GAIN * _means(best), SURE * doubt)
        period[better], best = tried, np.where(better, missed, best)
    fold = {p: _fold(times, p) for p in (DAY, WEEK)}

    def tables(left_out: int) -> list[Season]:
        found = []
        for p in (DAY, WEEK):
            of = np.flatnonzero(period == p)
            if of.size:
                seen = fold[p] != left_out
                knots, level, spread = _table(times[seen], values[seen][:, of], p)
                found.append(
                    Season(of, knots, centre[of], size[of], level.astype(np.float32), spread.astype(np.float32))
                )
        return found

    return Known(tables(-1), [tables(k) for k in range(PERIODS)]) if period.any() else nothing


def _fold(times: Floats, period: float) -> Ints:
    return (times // period).astype(np.int64) % PERIODS


def _missed(times: Floats, values: Floats, period: float) -> Floats:
    """Distance (n, columns) of values from the level that the other periods give their hour."""
    fold = _fold(times, period)
    missed = np.empty_like(values)
    for k in range(PERIODS):
        held = fold == k
        knots, level, _ = _table(times[~held], values[~held], period)
        missed[held] = values[held] - _between(knots, level, times[held])
    return np.abs(missed)


def _table(times: Floats, values: Floats, period: float) -> tuple[Floats, Floats, Floats]:
    """Knots (hours,), and level and spread (hours, columns) of standardised values."""
    hours = round(period / HOUR)
    hour = (times % period // HOUR).astype(np.int64)
    inside = times % HOUR
    rows = np.bincount(hour, minlength=hours)
    knots = np.arange(hours) * HOUR + np.where(
        rows, np.bincount(hour, inside, hours) / np.maximum(rows, 1), inside.mean()
    )
    seen, level, missed = (np.zeros((hours, values.shape[1])) for _ in range(3))
    for h in range(hours):
        here = values[hour == h]
        seen[h] = (~np.isnan(here)).sum(axis=0)
        level[h] = _medians(here)
        missed[h] = _means(np.abs(here - level[h]))
    # values are centred, so the whole column's level is 0
    parent = np.tile(_table(times, values, DAY)[1], (hours // 24, 1)) if period > DAY else np.zeros_like(level)
    within = (missed * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    between = (np.abs(level - parent) * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    as_rows = (within / np.maximum(between, 1e-9)) ** 2
    level = parent + (level - parent) * seen / np.maximum(seen + as_rows, 1e-9)
    whole = 1.2533 * np.maximum(within, NARROWEST)
    spread = np.log(np.maximum(1.2533 * missed, NARROWEST))
    spread = np.exp((seen * spread + AS_ROWS * np.log(whole)) / (seen + AS_ROWS))
    return np.asarray(knots, np.float64), level, spread


def _medians(values: Floats) -> Floats:
    """Of the known values of each column, 0 of none."""
    if not len(values):
        return np.zeros(values.shape[1])
    seen = (~np.isnan(values)).sum(axis=0)
    ordered = np.sort(values, axis=0)  # NaN last
    columns = np.arange(values.shape[1])
    lower, upper = (
        ordered[np.maximum(seen - 1, 0) // 2, columns],
        ordered[np.minimum(seen // 2, len(values) - 1), columns],
    )
    return np.where(seen > 0, (lower + upper) / 2, 0.0)


def _means(values: Floats) -> Floats:
    """Of the known values of each column, 0 of none."""
    seen = (~np.isnan(values)).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.maximum(seen, 1))
