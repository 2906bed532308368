"""Root cause: which columns changed, since when, which of them together, and in which rows.

An alarm says that something changed; which column its evidence lies on is noisy, as it stops at the first moment of
enough. Here the last rows are held against the reference once more, all columns at their common moment of change, and
each column also beside the others: of weak moves more are told from luck. Evidence is in nats: 3 is a hint, 10 plain.
"""

from __future__ import annotations

from collections.abc import Collection
from math import log
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints, Mask
from detectors.evidence import normal
from detectors.evidence.joint import Joint
from detectors.evidence.normal import log_bayes
from detectors.profile import MISSING, OTHER, Layout, Sample
from detectors.slices import Rows, Slice, concentrated

KEPT = 512  # rows: 2 KB a number column; a move of 0.25 deviations is then 5.6 standard errors
FEW = 4  # rows since the change that it takes to speak of one
WORDS = 12  # of a category that are followed, the most frequent first
WIDE = 100  # columns held against one another, those that moved most by themselves: the cost grows with their cube
RIDGE = 0.1  # of a feature's variance; over six tables 0.05 was better after few rows and 0.2 after many
TIE = 3.0  # nats that a broken tie has to be plainer than a move: where x moves, its ties to others bend, too
MOVED = 3.0  # nats over the log of the columns from which a column counts as moved
TIED = "correlation with "
TOGETHER = 0.5  # correlation of moved columns, in the rows since, from which they count as one


class Recent(msgspec.Struct, frozen=True):
    """The newest rows in the order they came; plain data."""

    times: NDArray[np.float64]  # (n,)
    numbers: NDArray[np.float32]  # (n, numbers), NaN = missing; seven digits are enough for ranks and medians
    codes: NDArray[np.int32]  # (n, categories): known word, MISSING or OTHER


def keep(held: Recent | None, rows: Sample, size: int = KEPT) -> Recent:
    """The newest `size` of the rows held and the new ones, which are younger and in the order they came."""
    with np.errstate(over="ignore"):  # a number beyond 3e38 becomes endless, and ranks where it did
        new = Recent(rows.times[-size:], rows.numbers[-size:].astype(np.float32), rows.codes[-size:])
    if held is None:
        return new
    return Recent(
        np.concatenate([held.times, new.times])[-size:],
        np.concatenate([held.numbers, new.numbers])[-size:],
        np.concatenate([held.codes, new.codes])[-size:],
    )


class Move(msgspec.Struct, frozen=True):
    """What one column did, told by the statistic that moved most plainly."""

    column: str
    evidence: float  # nats that this column changed
    statistic: str  # "median", "mean", "10 to 90 % range", "missing", "share of 'x'" or "correlation with y"
    before: float  # in the unit of the statistic: the column's own, a share, or a correlation
    after: float
    effect: float  # the move in standard deviations of the column; of shares and correlations the difference

    @property
    def torn(self) -> bool:
        """Whether it is not the column that moved but its tie to another."""
        return self.statistic.startswith(TIED)


class Cause(msgspec.Struct, frozen=True):
    """What an alarm is about."""

    since: float  # event time of the first row after the change
    rows: int  # held since then
    ranking: tuple[str, ...]  # every column, the likeliest cause first
    # of the columns that moved, by rank; always of the first; what was asked for is told beside its broken tie, too
    moves: tuple[Move, ...]
    groups: tuple[tuple[str, ...], ...]  # of those, columns that go together; one alone is a group of one
    slice: Slice | None  # the rows in which the first one moved; None = all alike


def explain(
    recent: Recent, reference: Sample, layout: Layout, joint: Joint, also: Collection[str] = ()
) -> Cause | None:
    """The cause of an alarm that the last of `recent` raised; None with too few rows or nothing to compare.

    `joint` are the ties among the reference's columns; columns in `also` are told of, moved or not. A column's evidence
    is that it moved by itself (the mean of a feature), or beside what all other features foretell of it, or that it no
    longer goes with its neighbours; averaged over the moments at which the change may have come. Blind: of columns that
    copy one another each is as good as the other, and where half the columns are torn from the other half, nothing
    tells which half.
    """
    features = _features(recent, reference, layout)
    names = [*layout.numbers, *layout.categories]
    if len(recent.times) < FEW or not features.owner.size:
        return None
    found = _ranked(features, _bent(recent, reference, joint) - TIE)
    since = Recent(recent.times[-found.rows :], recent.numbers[-found.rows :], recent.codes[-found.rows :])
    moved = [i for i in found.order if i in found.moved or names[i] in also]
    plainest = [int(np.where(features.owner == i, found.each, -np.inf).argmax()) for i in moved]
    bends = _bends(since, reference, joint) if found.torn[moved].any() else None
    moves = []
    for i, f in zip(moved, plainest, strict=True):
        own = not found.torn[i] or names[i] in also
        said = [_tie(i, bends, names)] if bends is not None and found.torn[i] else []
        said += [_told(i, features.names[f], float(found.mean[f]), since, reference, layout)] if own else []
        moves += [Move(names[i], float(found.evidence[i]), *told) for told in said]
    values = features.now[-found.rows :, plainest]
    groups = [tuple(names[moved[i]] for i in group) for group in _together(np.nan_to_num(values))]
    where = None
    if not found.torn[moved[0]]:  # a torn tie is a different move in every slice of the other column
        where = concentrated(
            Rows(since.numbers, since.codes, values[:, 0]),
            Rows(reference.numbers.astype(np.float32), reference.codes, features.was[:, plainest[0]]),
            layout,
            without=groups[0],
        )
    ranking = tuple(names[i] for i in found.order)
    return Cause(float(since.times[0]), found.rows, ranking, tuple(moves), tuple(groups), where)


# -- features: each column as a few numbers a row, of mean 0 and variance 1 over the reference


class _Features(NamedTuple):
    owner: Ints  # (features,) ascending: number columns, then categories
    names: list[str]  # the statistic that a feature's mean tells
    was: Floats  # (m, features), NaN = missing
    now: Floats  # (n, features), NaN = missing


def _features(recent: Recent, reference: Sample, layout: Layout) -> _Features:
    scores = normal.fit(reference.numbers)
    f = len(layout.numbers)
    names, owner = [], []
    for i in range(f):
        names += ["median", "spread", "missing"]
        owner += [i] * 3
    for c, words in enumerate(layout.words):
        names += ["missing", "share of unknown words", *(f"share of {word!r}" for word in words[:WORDS])]
        owner += [f + c] * (2 + len(words[:WORDS]))
    was = _values(scores.of(reference.numbers), reference.codes, layout)
    now = _values(scores.of(recent.numbers.astype(np.float64)), recent.codes, layout)
    held = (~np.isnan(was)).sum(axis=0)
    mean = np.nansum(was, axis=0) / np.maximum(held, 1)
    spread = np.sqrt(np.nansum((was - mean) ** 2, axis=0) / np.maximum(held, 1))
    # a flag that the reference never raised may be one that it raises once in twice as many rows
    flag = np.array([name not in ("median", "spread") for name in names], np.bool_)
    share = np.where(flag, (mean * held + 0.5) / (held + 1), 0.5)
    mean, spread = np.where(flag, share, mean), np.where(flag, np.sqrt(share * (1 - share)), spread)
    use = (held > 1) & (spread > 1e-9)
    was, now = (was[:, use] - mean[use]) / spread[use], (now[:, use] - mean[use]) / spread[use]
    kept = [name for name, used in zip(names, use.tolist(), strict=True) if used]
    return _Features(np.array(owner, np.int64)[use], kept, was, now)


def _values(scores: Floats, codes: NDArray[np.integer], layout: Layout) -> Floats:
    """Raw features (rows, features): per number its score, distance from the middle and absence; per word a flag."""
    parts = []
    for f in range(scores.shape[1]):
        z = scores[:, f]
        # beyond two deviations a value says no more: one outlier is no spread
        parts += [z, np.minimum(z**2, 4.0), np.isnan(z)]
    for c, words in enumerate(layout.words):
        code = codes[:, c]
        absent = code == MISSING
        parts.append(absent)
        parts += [np.where(absent, np.nan, code == word) for word in (OTHER, *range(len(words[:WORDS])))]
    return np.stack(parts, axis=1).astype(np.float64) if parts else np.zeros((len(codes), 0))


# -- evidence, for every number of rows that the change may be old: arrays (n, ...), the last row first


class _Found(NamedTuple):
    """Columns by number, evidence in nats; `each` and `mean` (features,) are of the likeliest moment of change."""

    rows: int  # since that moment
    order: list[int]
    moved: list[int]
    evidence: Floats  # (columns,)
    torn: Mask  # (columns,) whether a broken tie is plainer than any move
    each: Floats
    mean: Floats


def _ranked(features: _Features, bent: Floats) -> _Found:
    """Which columns changed, given the nats `bent` (n, columns) that each no longer goes with its neighbours."""
    size = bent.shape[1]
    mean, worth = _means(features.now, features.was)
    each = log_bayes(worth * mean**2, worth)
    alone = _by_column(each, features.owner, size)
    use = np.isin(features.owner, np.argsort(-alone.max(axis=0), kind="stable")[:WIDE])
    was, owner = np.nan_to_num(features.was[:, use]), features.owner[use]
    precision = np.asarray(np.linalg.inv(was.T @ was / len(was) + RIDGE * np.eye(owner.size)), np.float64)
    left = mean[:, use] @ precision  # what the other features do not foretell of each, times its precision
    beside = _by_column(log_bayes(worth[:, use] * left**2 / np.diag(precision), worth[:, use]), owner, size)
    either = np.logaddexp(np.logaddexp(alone, beside) - log(2), bent)
    chance = _moments(either)
    last = int(chance.argmax())
    evidence, by_itself = chance @ either, chance @ alone
    # Of two tied columns of which one moved, both left the other: the one that also moved by itself is the cause.
    first = int((evidence + by_itself).argmax())
    order = _in_turn(first, by_itself, chance @ bent, left[last], precision, worth[last, use], owner)
    moved = [i for i in order if i == first or by_itself[i] > log(size) + MOVED]
    torn = bent[last] > np.maximum(alone[last], beside[last])
    return _Found(last + 1, order, moved, evidence, torn, each[last], mean[last])


def _means(now: Floats, was: Floats) -> tuple[Floats, Floats]:
    """Mean of each feature over the last 1, 2, ... n rows, and how many values it is worth.

    k rows against m of the reference are worth k m / (k + m): the reference's own error is inside.
    """
    rows = np.cumsum(~np.isnan(now[::-1]), axis=0).astype(np.float64)
    held = (~np.isnan(was)).sum(axis=0)
    return np.cumsum(np.nan_to_num(now[::-1]), axis=0) / np.maximum(rows, 1.0), rows * held / np.maximum(rows + held, 1)


def _bent(recent: Recent, reference: Sample, joint: Joint) -> Floats:
    """Nats that a column no longer goes with its neighbours, from the normal scores of its surprise."""
    columns = joint.noise.size
    was = joint.columns(reference.numbers, reference.codes)[:, :columns]
    now = normal.fit(was).of(joint.columns(recent.numbers.astype(np.float64), recent.codes)[:, :columns])
    mean, worth = _means(now, was)
    return log_bayes(worth * mean**2, worth)


def _by_column(evidence: Floats, owner: Ints, size: int) -> Floats:
    """Nats (n, size) that one of a column's features moved, whichever; e^-50 of a chance for a column without any."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    many = np.diff(np.append(starts, owner.size))
    out = np.full((len(evidence), size), -50.0)
    out[:, owner[starts]] = np.logaddexp.reduceat(evidence, starts, axis=1) - np.log(many)
    return out


def _moments(columns: Floats) -> Floats:
    """Chance (n,) that the change is 1, 2, ... n rows old, by the columns' summed evidence, as few will have moved.

    The mixture of Xie and Siegmund (2013), which takes each column to have moved with chance 1 / sqrt(columns). It is
    times the age, as short stretches are where luck has most to choose from: without it they were taken too often.
    """
    age = np.arange(1, len(columns) + 1)
    few = 1 / np.sqrt(columns.shape[1] + 1)
    summed = np.logaddexp(np.log1p(-few), log(few) + columns).sum(axis=1) + np.log(age)
    summed[: FEW - 1] = -np.inf
    chance = np.exp(summed - summed.max())
    return np.asarray(chance / chance.sum())


def _in_turn(
    first: int, alone: Floats, bent: Floats, left: Floats, precision: Floats, worth: Floats, owner: Ints
) -> list[int]:
    """All columns by rank, each with what it moved once those before it are known to have moved.

    A column let go foretells nothing any more, so neighbours that only stayed where it left them fall back. Letting go
    is a step of elimination on the precision matrix of the features (features,), `left` beside it.
    """
    ranked = [first]
    others = np.ones(alone.size, np.bool_)
    while True:
        others[ranked[-1]] = False
        if not others.any():
            return ranked
        for f in np.flatnonzero(owner == ranked[-1]).tolist():
            pivot = precision[:, f] / precision[f, f]
            left = left - pivot * left[f]
            precision = precision - np.outer(pivot, precision[f])
            precision[f, f] = 1.0  # gone: zero everywhere, and no division by it
            left[f] = 0.0
        beside = _by_column(log_bayes(worth * left**2 / np.diag(precision), worth)[None], owner, alone.size)[0]
        # a torn tie counts a fifth: with the first column torn, each of its neighbours is too
        score = np.logaddexp(alone, beside) + alone + 0.2 * np.maximum(bent, 0)
        ranked.append(int(np.where(others, score, -np.inf).argmax()))


# -- words


def _told(
    i: int, statistic: str, move: float, now: Recent, was: Sample, layout: Layout
) -> tuple[str, float, float, float]:
    """Statistic, before, after and effect of a column that moved by `move` deviations of the feature behind it."""
    f = len(layout.numbers)
    if i >= f:
        words = {f"share of {word!r}": w for w, word in enumerate(layout.words[i - f])}
        word = MISSING if statistic == "missing" else words.get(statistic, OTHER)
        before, after = (
            float((code[(code != MISSING) | (word == MISSING)] == word).mean())
            for code in (was.codes[:, i - f], now.codes[:, i - f])
        )
        return statistic, before, after, after - before
    before_values, after_values = was.numbers[:, i], now.numbers[:, i].astype(np.float64)
    old, new = before_values[~np.isnan(before_values)], after_values[~np.isnan(after_values)]
    before, after = float(np.isnan(before_values).mean()), float(np.isnan(after_values).mean())
    if (statistic == "missing" and before != after) or not (old.size and new.size):
        return "missing", before, after, after - before
    if statistic == "spread":
        (low, high), (new_low, new_high) = np.quantile(old, (0.1, 0.9)), np.quantile(new, (0.1, 0.9))
        return "10 to 90 % range", float(high - low), float(new_high - new_low), move
    before, after = float(np.median(old)), float(np.median(new))
    if before == after:  # of few distinct values the median may stand where it is
        return "mean", float(old.mean()), float(new.mean()), move
    return statistic, before, after, move


def _bends(now: Recent, was: Sample, joint: Joint) -> tuple[Floats, Floats]:
    """Correlations between all columns (columns, columns), before and after."""
    before, after = (
        _correlation(np.nan_to_num(joint.standard(numbers, codes)))
        for numbers, codes in ((was.numbers, was.codes), (now.numbers.astype(np.float64), now.codes))
    )
    return before, after


def _tie(i: int, bends: tuple[Floats, Floats], names: list[str]) -> tuple[str, float, float, float]:
    """As `_told` of a column that no longer goes with the others: its correlation with the one it left furthest."""
    before, after = bends[0][i], bends[1][i]
    gap = np.abs(after - before)
    gap[i] = -1.0
    j = int(gap.argmax())
    return TIED + names[j], float(before[j]), float(after[j]), float(after[j] - before[j])


def _together(moved: Floats) -> list[list[int]]:
    """Groups of moved columns whose features (rows, moved) are correlated in the rows since, by their first one."""
    reach = np.abs(_correlation(moved)) >= TOGETHER
    np.fill_diagonal(reach, val=True)
    for _ in range(moved.shape[1].bit_length()):  # paths of twice the length each time
        reach = reach @ reach
    return [np.flatnonzero(row).tolist() for i, row in enumerate(reach) if int(row.argmax()) == i]


def _correlation(values: Floats) -> Floats:
    """Of columns (rows, columns); 0 where one is constant."""
    centred = values - values.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    scale = np.where(spread > 1e-9, spread, np.inf)
    return np.asarray(centred.T @ centred / len(values) / scale / scale[:, None])
