"""Where a model fails: slices of one or two conditions whose weighted error is above that of the other rows.

All conditions are fixed by the first labels, and every pair of them collects evidence from then on, so it is honest to
look whenever one likes: what is named is held to a false discovery rate, whatever was tried and however often. In the
spirit of SliceLine (Sagadeeva, Boehm 2021), whose score orders what is found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Mask
from detectors.evidence.merge import attributed
from detectors.slices import WORDS, ranges

Value = str | int | float | bool | None

FIRST = 100  # labelled rows that fix the conditions
MOST = 80  # conditions, so at most 3,160 pairs: 150 KB of state
RATE = 0.05  # of the slices named, those that do not fail, on average at most
ALPHA = 0.95  # of the score: a slice of 1 % of the rows must have six times the error of all to be worth naming
LABELS, SHARE = 30, 0.01  # a slice with fewer labels, or fewer of the rows, is not named
NAMED = 10
EFFECT = 0.1  # variance of the effects that are expected, in terms of that of one row's residual


class Condition(msgspec.Struct, frozen=True, array_like=True):
    """A range of a number, its lower end left out, or a word."""

    column: str
    text: str
    low: float = 0.0
    high: float = 0.0
    word: str | None = None

    def holds(self, rows: Sequence[Mapping[str, Value]]) -> Mask:
        """Of each row (n,); a row without the column does not fulfil it."""
        values = [row.get(self.column) for row in rows]
        if self.word is not None:
            return np.array([_word(value) == self.word for value in values], np.bool_)
        return np.array([_is_number(v) and self.low < v <= self.high for v in values], np.bool_)  # type: ignore[operator]


class Failing(msgspec.Struct, frozen=True):
    """Rows in which the model errs more."""

    conditions: tuple[str, ...]  # e.g. "age <= 31", "region = 'north'"
    error: float  # weighted mean of these rows: share of wrong answers, or the loss
    others: float  # of all rows
    share: float  # of all rows that lie in it
    labels: int
    score: float


class Search(msgspec.Struct, frozen=True):
    """All slices, and what labels said of them so far. Plain data; `after` gives the next one.

    Evidence against a slice that fails no more than others: a normal mixture over its summed residuals (Robbins 1970),
    an e-value at any time where labels are many (Waudby-Smith et al. 2024); residuals are from each batch's own mean,
    so a model that falls everywhere makes no slice fail. Blind to slices of three conditions, to columns that rows no
    longer carry, and to what labels are too few to show.
    """

    conditions: tuple[Condition, ...] = ()
    first: NDArray[np.int64] = msgspec.field(default_factory=lambda: np.zeros(0, np.int64))  # (slices,) of a condition
    second: NDArray[np.int64] = msgspec.field(default_factory=lambda: np.zeros(0, np.int64))  # the same: a single one
    # (5, slices) of their rows: number, weight, weighted error; residuals beyond their share of all, variance of these
    sums: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros((5, 0)))
    total: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # of all rows: number, weight, error, squares

    def after(self, rows: Sequence[Mapping[str, Value]], errors: Floats, weights: Floats) -> Search:
        """With a batch of labelled rows: their inputs, errors (n,) and the rows that each speaks for (n,).

        The first batch of at least `FIRST` rows fixes the conditions; smaller ones before it are not counted.
        """
        search = self
        if not self.conditions:
            if len(rows) < FIRST:
                return self
            search = _begin(rows)
        if not search.conditions or not len(rows):
            return search
        weights = weights / weights.mean()
        mean = float(weights @ errors / weights.sum())
        single = np.stack([condition.holds(rows) for condition in search.conditions], axis=1)
        within = (single[:, search.first] & single[:, search.second]).astype(np.float64)
        residual = weights * (errors - mean)
        share = weights @ within / weights.sum()
        apart = residual @ within - share * residual.sum()
        squares = residual**2
        spread = squares @ within * (1 - 2 * share) + share**2 * squares.sum()
        new = np.stack([within.sum(axis=0), weights @ within, (weights * errors) @ within, apart, spread])
        n, weight, wrong, known = search.total
        total = (
            n + len(rows),
            weight + float(weights.sum()),
            wrong + float(weights @ errors),
            known + float(squares.sum()),
        )
        return Search(search.conditions, search.first, search.second, search.sums + new, total)

    @property
    def evidence(self) -> Floats:
        """E-value of each slice (slices,); 0 where it fails less than others.

        >>> rng = np.random.default_rng(1); rows = [{"aisle": int(i)} for i in rng.integers(0, 4, 800)]
        >>> wrong = np.array([rng.random() < (0.5 if row["aisle"] == 2 else 0.1) for row in rows], float)
        >>> found = Search().after(rows, wrong, np.ones(800)).found()
        >>> [(one.conditions, round(one.error, 2), round(one.others, 2)) for one in found]
        [(('aisle = 2',), 0.45, 0.16)]
        """
        _, _, _, apart, spread = self.sums
        rows, *_, squares = self.total
        if not squares > 0:
            return np.zeros(len(apart))
        ratio = EFFECT * rows / squares
        exponent = ratio * apart**2 / (2 * (1 + ratio * spread))
        return np.where(apart > 0, np.exp(np.minimum(exponent, 500.0)) / np.sqrt(1 + ratio * spread), 0.0)

    def found(self) -> list[Failing]:
        """Slices that fail, the highest score first; a part of one is named only where it scores higher."""
        return [failing for _, failing in self._found()]

    def lift(self, rows: Sequence[Mapping[str, Value]], most: float) -> tuple[Floats, float]:
        """How much more than others rows (n,) are worth a label for lying in a slice that fails, and the most that any
        row may be.

        The root of its error over that of all rows, at most `most`, of several slices the greatest: sizes by which a
        sum of errors is drawn best (Neyman 1934). The mean error is measured as well as without (standard deviation
        .132 beside .130 over 300 draws of 20 rows, a third of them in a slice with an error of .6 beside .1), and the
        labels hold a fifth more errors. All divided by a bound of their mean, which is 1 at most then. Blind to slices
        that were not found, so it is no stand-in for a floor.

        >>> rng = np.random.default_rng(1); rows = [{"aisle": int(i)} for i in rng.integers(0, 4, 800)]
        >>> wrong = np.array([rng.random() < (0.5 if row["aisle"] == 2 else 0.1) for row in rows], float)
        >>> factors, most = Search().after(rows, wrong, np.ones(800)).lift([{"aisle": 1}, {"aisle": 2}], 2.0)
        >>> factors.round(2).tolist(), round(most, 2)
        ([0.87, 1.45], 1.45)
        """
        factors, highest, mean = np.ones(len(rows)), 1.0, 1.0
        for i, failing in self._found():
            factor = min((failing.error / failing.others) ** 0.5, most)
            inside = self.conditions[self.first[i]].holds(rows) & self.conditions[self.second[i]].holds(rows)
            factors = np.where(inside, np.maximum(factors, factor), factors)
            highest, mean = max(highest, factor), mean + failing.share * (factor - 1.0)
        return factors / mean, highest / mean

    def _found(self) -> list[tuple[int, Failing]]:
        """With its place among the slices."""
        _, whole, errors, _ = self.total
        if not errors > 0:
            return []
        labels, weight, wrong, _, _ = self.sums
        mean = errors / whole
        with np.errstate(divide="ignore", invalid="ignore"):
            error = wrong / weight
            score = ALPHA * (error / mean - 1.0) - (1.0 - ALPHA) * (whole / weight - 1.0)
        evidence = self.evidence
        named = attributed(evidence, np.full(len(evidence), 1.0 / len(evidence)), 1.0 / RATE)
        named &= (labels >= LABELS) & (weight >= SHARE * whole) & (score > 0)
        chosen: list[int] = []
        for i in np.flatnonzero(named)[np.argsort(-score[named], kind="stable")].tolist():
            mine = {int(self.first[i]), int(self.second[i])}
            if not any(mine & {int(self.first[j]), int(self.second[j])} for j in chosen):
                chosen.append(i)
        return [
            (i, Failing(
                tuple(self.conditions[c].text for c in dict.fromkeys((int(self.first[i]), int(self.second[i])))),
                float(error[i]), mean, float(weight[i] / whole), int(labels[i]), float(score[i]),
            ))
            for i in chosen[:NAMED]
        ]  # fmt: skip


def _begin(rows: Sequence[Mapping[str, Value]]) -> Search:
    """The conditions that these rows suggest: numbers in thirds or by value, categories by their frequent words."""
    found: list[Condition] = []
    for column in sorted({name for row in rows for name in row}):
        values = [row.get(column) for row in rows]
        numbers = np.array([float(v) for v in values if _is_number(v)], np.float32)  # type: ignore[arg-type]
        if len(numbers) > len(rows) / 2:
            found += [Condition(column, text, low, high) for text, low, high in ranges(column, numbers)]
        else:
            counts = Counter(word for v in values if (word := _word(v)) is not None)
            common = sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
            found += [Condition(column, f"{column} = {word!r}", word=word) for word in common if len(counts) > 1]
    found = found[:MOST]
    pairs = [(i, j) for i in range(len(found)) for j in range(i, len(found))]
    pairs = [(i, j) for i, j in pairs if i == j or found[i].column != found[j].column]
    first, second = (np.array(side, np.int64) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
    return Search(tuple(found), first, second, np.zeros((5, len(pairs))))


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _word(value: Value) -> str | None:
    return str(value) if isinstance(value, str | bool) else None
