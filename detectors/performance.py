"""How well a model does, estimated without labels: from what truths said of answers like these (CBPE).

Answers are cut into cells by class and score; of each cell the reference counted which truths came. A window is then
known by its rows per cell, which add up over windows, lanes and replicas, and every measure of performance is a
function of them. What a reader would get wrong: the interval is of what the labels of these very rows would say, so it
holds both their chance and the reference's own error; and all of it rests on the truth depending on the score about
as it did, which no look at scores can tell. Labels can: `detectors.checks.performance.Calibration`. Effects of inputs
beside the score were tried and left out: on neither employment nor car_loan did they help out of sample.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints

CELLS = 64  # over all answers together: a profile keeps as many distinct values of a column apart
FULL = 50  # reference rows of a cell; fewer would tell its chances to no better than +-0.14
MOST = 16  # classes; of more, only right and wrong are told apart
BEYOND = 0.1  # of the range of an answer's scores: as far outside it a score still belongs to the outermost cell
Z = 1.959964  # of a 95 % interval
# What no reference tells: by how much calibration has moved, in log odds of a right answer, standard deviation over all
# answers alike; between two classes it is twice that. With time, measured over three years of census data; and with the
# mix of rows, over 560 slices of six data sets (credit, bank, employment, electricity, cars), boosted and linear models
# and such as were not given half of the inputs: 0.36 and 0.68 a unit of distance between the mixes.
WANDER = 0.03
SHIFTED = 0.35


class Estimate(msgspec.Struct, frozen=True):
    """A measure of a window: the estimate, the 95 % interval of what labels would say, the same on the reference."""

    measure: str  # accuracy | precision | recall | f1 | roc_auc; of `detectors.shares` share_bbse | share_em
    of: str  # the class, empty where it is of all
    value: float
    low: float
    high: float
    reference: float
    doubt: str = ""  # why it is not valid, in words


class Table(msgspec.Struct, frozen=True):
    """Cells of answers, and the truths that the reference saw in each. Plain data."""

    classes: tuple[str, ...]  # of answers and truths, sorted; empty where only right and wrong are told apart
    starts: NDArray[np.int64]  # (answers + 1,): cells of the i-th answer are starts[i]:starts[i + 1]
    edges: NDArray[np.float64]  # (cells + answers,): of each answer the lowest score, its cuts, the highest
    truths: NDArray[np.int64]  # (cells, classes) reference rows; without classes (cells, 2): wrong, right
    expected: NDArray[np.float64]  # (cells,) chance that the answer is right, all different

    @property
    def right(self) -> Ints:
        """Column of `truths` that holds each cell's right answers (cells,)."""
        answers = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return answers if self.classes else np.ones_like(answers)

    def cells(self, answers: Ints, scores: Floats) -> Ints:
        """Cell of each row (n,) from the answer's class, -1 = unknown, and the score it got, NaN = missing.

        -1 where there is none: an answer or a score that the reference hardly had says nothing of the truth.
        """
        found = np.full(len(scores), -1, np.int64)
        if not self.classes:
            answers = np.minimum(answers, 0)
        for a, (first, last) in enumerate(zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)):
            if first == last:
                continue
            edges = self.edges[first + a : last + a + 1]
            mine = np.flatnonzero(answers == a)
            margin = BEYOND * (edges[-1] - edges[0])
            inside = (scores[mine] >= edges[0] - margin) & (scores[mine] <= edges[-1] + margin)
            at = np.searchsorted(edges[1:-1], scores[mine], "left")  # a cut is the highest score of its cell
            found[mine] = np.where(inside, first + at, -1)
        return found


def tabulate(answers: Ints, scores: Floats, truths: Ints, classes: tuple[str, ...]) -> Table | None:
    """The table of reference rows (n,), -1 and NaN = missing; None when no answer has FULL rows with score and truth.

    Cells hold equal numbers of an answer's rows, at least FULL. A class answered more rarely has no cell.
    """
    known = (answers >= 0) & (truths >= 0) & np.isfinite(scores)
    answers, scores, truths = answers[known], scores[known], truths[known]
    if not 1 < len(classes) <= MOST:
        answers, truths, classes = np.zeros_like(answers), (answers == truths).astype(np.int64), ()
    counts = np.bincount(answers, minlength=len(classes) or 1)
    starts, edges = [0], []
    for a, n in enumerate(counts.tolist()):
        mine = scores[answers == a]
        wanted = min(n // FULL, max(1, (CELLS - MOST) * n // max(len(scores), 1)))
        if wanted:
            cuts = np.unique(np.quantile(mine, np.arange(1, wanted) / wanted, method="inverted_cdf"))
            cuts = cuts[cuts < mine.max()]
            edges += [mine.min(), *cuts.tolist(), mine.max()]
            starts.append(starts[-1] + cuts.size + 1)
        else:
            starts.append(starts[-1])
            edges.append(np.nan)  # so that edges of an answer always begin at its first cell plus its number
    size = starts[-1]
    if not size:
        return None
    table = Table(
        classes, np.array(starts, np.int64), np.array(edges), np.zeros((size, max(len(classes), 2)), np.int64),
        np.zeros(size),
    )  # fmt: skip
    at = table.cells(answers, scores)
    np.add.at(table.truths, (at[at >= 0], truths[at >= 0]), 1)
    right = _chances(table, 0.0)[np.arange(size), table.right]
    # a profile tells cells apart by value, so equal chances are set apart by less than anybody reads
    table.expected[np.argsort(right, kind="stable")] = np.sort(right) + 1e-9 * np.arange(size)
    return table


def estimates(table: Table, rows: Ints, doubt: str = "") -> list[Estimate]:
    """Every measure of a window with `rows` (cells,) in the cells; one that nothing speaks for is left out.

    Accuracy; precision, recall and F1 of each class; area under the ROC curve of two classes. Within a cell the truths
    are taken to come by the reference's chances, independently. A measure of the counted truths then varies as its
    gradient g does: by n (1 + n / (m + 1)) Var(g) summed over the cells, n rows now and m in the reference, g drawn by
    the cell's chances. n is what labels vary by, n^2 / (m + 1) what the reference errs by (Dirichlet). To that comes
    what no reference tells: each answer's chance of being right may have moved by up to WANDER, evenly.

    >>> rng = np.random.default_rng(1); score = rng.uniform(0.5, 1, 4000); answer = rng.integers(0, 2, 4000)
    >>> truth = np.where(rng.random(4000) < score, answer, 1 - answer)
    >>> table = tabulate(answer, score, truth, ("no", "yes"))
    >>> found = estimates(table, np.bincount(table.cells(answer[:500], score[:500]), minlength=len(table.expected)))
    >>> [(e.measure, round(e.low, 2), round(e.value, 2), round(e.high, 2)) for e in found[:1]]
    [('accuracy', 0.71, 0.75, 0.79)]
    """
    before = table.truths.sum(axis=1)
    was = {(measure, of): value for measure, of, value, _ in _measures(table, before)}
    chances = _chances(table, 0.5)
    weight = rows * (1 + rows / (before + 1))
    cells, right = np.arange(len(rows)), table.right
    wander = WANDER**2 + SHIFTED**2 * _distance(rows, before)
    found = []
    for measure, of, value, gradient in _measures(table, rows):
        mean = (chances * gradient).sum(axis=1)
        spread = (chances * gradient**2).sum(axis=1) - mean**2
        tilt = rows[:, None] * chances * (gradient - mean[:, None])  # by a unit of each truth's log odds
        alike, classes = float(tilt[cells, right].sum()), tilt.sum(axis=0) if table.classes else np.zeros(0)
        half = Z * float(np.sqrt(max(weight @ spread, 0.0) + wander * (alike**2 + 2 * classes @ classes)))
        low, high = max(value - half, 0.0), min(value + half, 1.0)
        found.append(Estimate(measure, of, value, low, high, was.get((measure, of), np.nan), doubt))
    return found


def difference_of_confidences(accuracy: float, before: float, now: float) -> float:
    """Accuracy estimated without labels: what it was, less what the mean confidence lost since (DoC).

    All three are shares, `before` and `now` mean confidences. Takes a point of confidence for a point of accuracy
    (Guillory et al. 2021), so unlike CBPE it needs no calibration, and has no interval. Blind to concept drift, and to
    a model that stays as sure of wrong answers.

    >>> round(difference_of_confidences(0.9, 0.95, 0.9), 2)
    0.85
    """
    return min(max(accuracy - (before - now), 0.0), 1.0)


def _distance(rows: Ints, before: Ints) -> float:
    """Squared distance of two mixes: of the roots of their shares, less what chance alone makes of it.

    >>> was = np.array([5000, 5000])
    >>> round(_distance(np.array([500, 500]), was), 2), round(_distance(np.array([100, 900]), was), 2)
    (0.0, 0.21)
    """
    n, m = max(int(rows.sum()), 1), max(int(before.sum()), 1)
    apart = float(((np.sqrt(rows / n) - np.sqrt(before / m)) ** 2).sum())
    return max(apart - (len(rows) - 1) / 4 * (1 / n + 1 / m), 0.0)


def _chances(table: Table, prior: float) -> Floats:
    """Chance of each truth in each cell (cells, classes); `prior` rows of each are added, so none is quite 0."""
    seen = table.truths + prior
    return np.asarray(seen / seen.sum(axis=1, keepdims=True))


def _measures(table: Table, rows: Ints) -> Iterator[tuple[str, str, float, Floats]]:
    """Measure, class, value, and how much one row of a cell adds by each truth: its gradient (cells, classes)."""
    total = int(rows.sum())
    if not total:
        return
    chances = _chances(table, 0.0)
    cells, right = np.arange(len(rows)), table.right
    hit = np.zeros_like(chances)
    hit[cells, right] = 1.0
    yield "accuracy", "", float(rows @ chances[cells, right]) / total, hit / total
    for c, name in enumerate(table.classes):
        answered, truly = int(rows[right == c].sum()), float(rows @ chances[:, c])
        good = float(rows[right == c] @ chances[right == c, c])
        is_c = np.zeros_like(chances)
        is_c[:, c] = 1.0
        of_c = is_c * (right == c)[:, None]  # right, and of this class
        if answered:
            yield "precision", name, good / answered, of_c / answered
        if truly:
            yield "recall", name, good / truly, (of_c - is_c * good / truly) / truly
        if answered + truly:
            f1 = 2 * good / (answered + truly)
            yield "f1", name, f1, (2 * of_c - is_c * f1) / (answered + truly)
    if len(table.classes) == 2:
        yield from _area(table, rows, chances[:, 1])


def _area(table: Table, rows: Ints, chance: Floats) -> Iterator[tuple[str, str, float, Floats]]:
    """ROC AUC: the chance that a random row of the second class stands over one of the first; ties count half.

    Cells stand in the order of the second class's score: those that answer the first from its surest on, then those
    that answer the second. That is the score's own order where the answer is the class of the larger score.
    """
    second = table.right == 1
    order = np.concatenate([np.flatnonzero(~second)[::-1], np.flatnonzero(second)])
    ones, zeros = (rows * chance)[order], (rows * (1 - chance))[order]
    if not ones.sum() or not zeros.sum():
        return
    below = np.cumsum(zeros) - zeros / 2
    above = ones.sum() - np.cumsum(ones) + ones / 2
    area = float(ones @ below / (ones.sum() * zeros.sum()))
    slope = np.empty(len(rows))
    slope[order] = (below - above) / (ones.sum() * zeros.sum()) - area / ones.sum() + area / zeros.sum()
    yield "roc_auc", "", area, np.stack([np.zeros_like(slope), slope], axis=1)
