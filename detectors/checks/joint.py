"""Did the rows as a whole move, though perhaps no column did: two tests on rows of the window against the reference's.

Both look at the row samples of the two profiles, at most ROWS of each, with numbers as their rank among the reference's
and words as 0 and 1. So a unit or a wild value does not matter, nor how far a value lies outside the reference; a
missing value stands in the middle and says nothing. Both get their p-value from random relabelings of the same rows,
of which the kernel is worked out but once; a tail beyond the relabelings is continued by the gamma law of their three
first moments. One score for all asked columns together: nothing to correct over columns, and the finding is on the
whole (column "").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.checks.tails import normal_tail
from detectors.checks.verdict import Alpha, Measured, MinRows, Rule, Words, positions, share_text, value_text, verdict
from detectors.core import Floats, Mask, Scores
from detectors.profile import Profile, Sample

ROWS = 256  # of either: a kernel of 262,000 entries; twice as many of the reference cost three times as much
RELABELED = 200  # mean, deviation and skewness of the statistic under chance, to 7 %, 5 % and 0.17
FOLDS = 5
RIDGE = 1.0  # on a kernel whose diagonal is about 4; ten times as much finds less in each of four families of rows
WORDS = 8  # words of a category column told apart, of a reference's most frequent

Singles = NDArray[np.float32]

Limit = Annotated[float, msgspec.Meta(ge=0, description="Found when the score is larger, and p within alpha.")]
Seed = Annotated[int, msgspec.Meta(ge=0, description="Of the random relabelings.")]


class _Rows(NamedTuple):
    """Rows of the window, then rows of the reference, as points whose coordinates have variance 1 in the reference."""

    points: Floats  # (rows, coordinates)
    names: tuple[str, ...]  # of the coordinates
    now: int  # rows of the window

    @property
    def new(self) -> Mask:
        return np.arange(len(self.points)) < self.now


def _rows(current: Profile, reference: Profile, columns: Sequence[str]) -> _Rows:
    """The sampled rows; those of lowest key, so the same on any replica. Constant columns say nothing and are left."""
    layout = current.layout
    f, c = positions(layout.numbers, columns), positions(layout.categories, columns)
    now, was = (_lowest(profile.sample) for profile in (current, reference))
    coordinates, names = [], []
    for i in f.tolist():
        coordinates.append(np.concatenate([_ranks(part.numbers[:, i], was.numbers[:, i]) for part in (now, was)]))
        names.append(layout.numbers[i])
    for i in c.tolist():
        codes = np.concatenate([now.codes[:, i], was.codes[:, i]])
        for code in range(min(len(layout.words[i]), WORDS)):
            coordinates.append((codes == code).astype(np.float64))
            names.append(f"{layout.categories[i]} = {layout.words[i][code]!r}")
    points = np.array(coordinates).reshape(len(names), len(now.keys) + len(was.keys)).T
    before = points[len(now.keys) :]
    centre = before.mean(axis=0) if len(before) else np.zeros(len(names))
    spread = before.std(axis=0) if len(before) else np.zeros(len(names))
    used = spread > 0.02  # of a word that two rows in 5,000 have, nothing can be said
    points = (points[:, used] - centre[used]) / spread[used]
    return _Rows(points, tuple(name for name, told in zip(names, used.tolist(), strict=True) if told), len(now.keys))


def _lowest(sample: Sample) -> Sample:
    keys, times, numbers, codes = sample
    return Sample(keys[:ROWS], times[:ROWS], numbers[:ROWS], codes[:ROWS])


def _ranks(values: Floats, among: Floats) -> Floats:
    """Share of `among` under each value (n,), ties half; 1/2 where missing."""
    ordered = np.sort(among[~np.isnan(among)])
    if not ordered.size:
        return np.full(values.size, 0.5)
    middle = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    return np.where(np.isnan(values), 0.5, middle / ordered.size)


def _relabeled(rows: int, now: int, seed: int) -> Mask:
    """Labels (1 + RELABELED, rows), the true ones first, then random ones with as many rows of the window."""
    labels = np.tile(np.arange(rows) < now, (1 + RELABELED, 1))
    np.random.default_rng(seed).permuted(labels[1:], axis=1, out=labels[1:])
    return labels


def _chance(statistics: Floats) -> float:
    """P-value of the first of the statistics against the others, which are draws of chance.

    The gamma law of their mean, variance and skewness (Pearson type III), by the cube root of Wilson and Hilferty
    (1931): of its tail at 0.0001 within a half from 2 degrees of freedom on.

    >>> rng = np.random.default_rng(0)
    >>> round(_chance(np.concatenate([[3.09], rng.normal(size=100_000)])), 4)
    0.001
    """
    drawn = statistics[1:]
    deviation = float(drawn.std())
    if not deviation > 0:
        return 1.0
    z = (statistics[0] - drawn.mean()) / deviation
    skewness = max(float((((drawn - drawn.mean()) / deviation) ** 3).mean()), 1e-3)
    freedom = 8 / skewness**2
    root = np.cbrt(max(1 + z * np.sqrt(2 / freedom), 0.0))
    return float(normal_tail(np.array([(root - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom))]))[0])


def _told(
    rule: Rule,
    rows: _Rows,
    seed: int,
    measure: Callable[[Floats, Mask], Floats],
    score: Callable[[float], float],
    effect: str,
) -> Scores:
    """The scores of the whole. `measure(points, labels)` is the statistic of every labeling (labelings,)."""
    was = len(rows.points) - rows.now
    found, p_value = np.nan, np.nan
    if min(rows.now, was) >= rule.min_rows and rows.names:
        statistics = measure(rows.points, _relabeled(len(rows.points), rows.now, seed))
        found, p_value = score(float(statistics[0])), _chance(statistics)
    counts = (np.array([count], np.int64) for count in (rows.now, was))
    measured = Measured(("",), np.array([found]), np.array([p_value]), *counts)
    return verdict(rule, measured, lambda _: _most(rows), effect)


def _most(rows: _Rows) -> Words:
    """What moved most, in standard errors: the middle of one coordinate, or how two hang together."""
    now, was = rows.points[: rows.now], rows.points[rows.now :]
    middle = np.abs(now.mean(axis=0) - was.mean(axis=0))
    products, products_before = now.T @ now / len(now), was.T @ was / len(was)
    moved = np.triu(np.abs(products - products_before), 1)
    if middle.max() >= moved.max():
        i = int(middle.argmax())
        share = float((now[:, i] > np.median(was[:, i])).mean())
        before = float((was[:, i] > np.median(was[:, i])).mean())
        text = (
            f"The rows moved as a whole, most of all in {rows.names[i]}: above the reference's median are now "
            f"{share_text(share)} of it, {share_text(before)} before"
        )
        return Words(text, {"first": rows.names[i], "before": before, "after": share})
    i, j = (int(k) for k in np.unravel_index(moved.argmax(), moved.shape))
    before, after = float(products_before[i, j]), float(_correlation(now[:, i], now[:, j]))
    text = (
        f"The rows moved as a whole, most of all in how {rows.names[i]} and {rows.names[j]} go together: the "
        f"correlation of their ranks went from {value_text(before)} to {value_text(after)}"
    )
    return Words(text, {"first": rows.names[i], "second": rows.names[j], "before": before, "after": after})


def _correlation(one: Floats, other: Floats) -> float:
    a, b = one - one.mean(), other - other.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


class Mmd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mmd"):
    """Maximum mean discrepancy of the rows (Gretton, Borgwardt, Rasch, Schoelkopf, Smola 2012), unbiased.

    Gaussian kernel on ranks, as wide as the median distance of the reference's rows. Score: the discrepancy's root, 0
    where it is below 0; from 256 rows, 0.03 to 0.06 is chance. With 256 rows: correlations of 0.6 among 5 normal
    columns that vanish have 0.19, among 2 columns 0.15. Blind to what happens in a few of many columns, which is a
    small part of every distance: 10 of credit_default's 23 columns broken off from the others have 0.04 and are not
    found, by `domain_classifier` they are. 16 ms on one core.
    """

    limit: Limit = 0.05
    alpha: Alpha = 0.0001
    min_rows: MinRows = 50
    seed: Seed = 0

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        rule = Rule(self.limit, self.min_rows, self.alpha)
        rows = _rows(current, reference, columns)
        return _told(rule, rows, self.seed, _discrepancy, lambda square: max(square, 0.0) ** 0.5, "Discrepancy")


def _discrepancy(points: Floats, labels: Mask) -> Floats:
    """Unbiased squared discrepancy of the labelled rows and the others, per labeling (labelings,)."""
    apart = _squared_distances(points)
    before = apart[np.ix_(~labels[0], ~labels[0])]
    kernel = np.exp(apart / -np.float32(np.median(before[np.triu_indices(len(before), 1)]) or 1.0))
    n = int(labels[0].sum())
    m = len(points) - n
    drawn = labels.astype(np.float32)
    within = np.einsum("ij,ij->i", drawn @ kernel, drawn).astype(np.float64)
    touching = (drawn @ kernel.sum(axis=1)).astype(np.float64)
    rest = float(kernel.sum(dtype=np.float64)) - 2 * touching + within
    return np.asarray(
        (within - n) / (n * (n - 1)) + (rest - m) / (m * (m - 1)) - 2 * (touching - within) / (n * m), np.float64
    )


def _squared_distances(points: Floats) -> Singles:
    square = (points**2).sum(axis=1)
    return np.asarray(np.maximum(square[:, None] + square - 2 * points @ points.T, 0.0), np.float32)


class DomainClassifier(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="domain_classifier"
):
    """Can a classifier tell the window's rows from the reference's? Area under its ROC curve on rows held out.

    Ridge regression of the label on the ranks, their squares and all their products, in five folds (Saunders,
    Gammerman, Vovk 1998; the test is that of Friedman 2003, and Lopez-Paz and Oquab 2017). 0.5 is chance, 1 certainty.
    With 256 rows: credit_default's first 10 columns broken off from its other 13 have 0.63 and are found in 4 of 6
    windows, correlations of 0.6 among 5 normal columns that vanish 0.8 in all. Blind to what only three columns
    together show, and to a change inside a column that keeps mean and spread of its ranks. 70 ms on one core.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=0.5, lt=1, description="Found when the area is larger, and p within alpha.")
    ] = 0.6
    alpha: Alpha = 0.0001
    min_rows: MinRows = 50
    seed: Seed = 0

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        rule = Rule(self.limit, self.min_rows, self.alpha)
        rows = _rows(current, reference, columns)
        return _told(rule, rows, self.seed, _areas, lambda area: area, "Area under the ROC curve")


def _areas(points: Floats, labels: Mask) -> Floats:
    """Area under the ROC curve of held-out rows, per labeling (labelings,)."""
    kernel = ((points @ points.T / points.shape[1] + 1.0) ** 2).astype(np.float32)  # twice as quick as in float64
    wanted = (labels - labels.mean(axis=1, keepdims=True)).astype(np.float32)
    said = np.empty(labels.shape, np.float32)
    fold = np.arange(len(points)) % FOLDS
    for held in range(FOLDS):
        out, known = fold == held, fold != held
        inner = kernel[np.ix_(known, known)] + RIDGE * np.eye(int(known.sum()), dtype=np.float32)
        said[:, out] = wanted[:, known] @ np.linalg.solve(inner, kernel[np.ix_(known, out)])
    ordered = np.take_along_axis(labels, said.argsort(axis=1), axis=1)
    n = int(labels[0].sum())
    return np.asarray((ordered @ np.arange(1.0, len(points) + 1) - n * (n + 1) / 2) / (n * (len(points) - n)))
