"""Did the distribution of a column move, and how far: five distances between two profiles, each beside a p-value.

Numbers are compared on the reference's cells, categories on its words. What is measured on *groups* (`psi`,
`jensen_shannon`, `chi_square`) first gathers a number's cells into at most ten groups of about equal share in the
reference, ten because the customary limits of these distances were set on deciles, and fewer where rows are few. Groups
and words that expect under five rows (Cochran 1954) are pooled. Groups are chosen by the reference alone, so the
p-value stays honest.

All these distances are positive even between two samples of one law; for k groups, n and m rows the squared ones by
(k - 1)(1/n + 1/m) on average. That is taken off, so a score of 0 means "as close as chance allows" at any window size.
None sees a change that keeps every column's own distribution, such as a broken correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from detectors.checks.tails import binomial_tail, chi_square_tail, kolmogorov_tail, upper_share
from detectors.checks.verdict import (
    Alpha,
    Measured,
    MinRows,
    Over,
    Rule,
    Words,
    moved_number,
    moved_word,
    named,
    positions,
    verdict,
    word_table,
)
from detectors.core import Floats, Ints, Mask, Scores
from detectors.profile import CELLS, INNER, Profile

GROUPS = 10
EXPECTED = 5  # rows that a group expects at least, or it is pooled


Limit = Annotated[float, msgspec.Meta(ge=0, description="Found when the distance is larger, and p within alpha.")]


# -- on groups


class _Groups(NamedTuple):
    """Two tables of counts, float64 (columns, groups), the pool of thin groups last; 0 where a column has no group."""

    now: Floats
    was: Floats
    rare: Mask  # columns of two groups of which the last is thin

    @property
    def used(self) -> Mask:
        return (self.now + self.was) > 0

    def shares(self) -> tuple[Floats, Floats]:
        """Shares now and before, each group half a row richer, so none is 0 (columns, groups)."""
        now, was = (np.where(self.used, table + 0.5, 0.0) for table in (self.now, self.was))
        return now / np.maximum(now.sum(axis=1, keepdims=True), 1), was / np.maximum(was.sum(axis=1, keepdims=True), 1)

    def noise(self) -> Floats:
        """What the sum of (p - q)^2 / q is on average where nothing changed (columns,)."""
        n, m = (np.maximum(table.sum(axis=1), 1) for table in (self.now, self.was))
        return np.asarray((self.used.sum(axis=1) - 1) * (1 / n + 1 / m))

    def p_value(self) -> Floats:
        """Chi-square test of equal shares (Pearson 1900); NaN for a lone group.

        Where the only other group expects under five rows the chi-square law does not hold; then the binomial chance of
        as many rows in it, at the largest share that the reference still speaks for.
        """
        n, m = (np.maximum(table.sum(axis=1, keepdims=True), 1) for table in (self.now, self.was))
        apart = np.sqrt(m / n) * self.now - np.sqrt(n / m) * self.was
        statistic = (apart**2 / np.maximum(self.now + self.was, 1)).sum(axis=1)
        p = chi_square_tail(statistic, np.maximum(self.used.sum(axis=1) - 1, 0))
        hits, before = (table[:, -1].astype(np.int64) for table in (self.now, self.was))
        exact = binomial_tail(hits, n[:, 0].astype(np.int64), upper_share(before, m[:, 0].astype(np.int64)))
        return np.where(self.rare, exact, p)


def _gathered(now: Ints, was: Ints) -> tuple[Ints, Ints]:
    """Cells of numbers (columns, CELLS) gathered to GROUPS of like share in the reference, one per 20 rows at most.

    Values outside the reference's range fall to its first and last group.
    """
    total = np.maximum(was.sum(axis=1, keepdims=True), 1)
    middle = (np.cumsum(was, axis=1) - was / 2) / total
    groups = np.clip(np.minimum(now.sum(axis=1, keepdims=True), total) // 20, 2, GROUPS)
    group = np.minimum((middle * groups).astype(np.int64), groups - 1) + GROUPS * np.arange(len(now))[:, None]
    size = GROUPS * len(now)
    gathered = [np.bincount(group.ravel(), t.ravel(), size).reshape(len(now), GROUPS) for t in (now, was)]
    return gathered[0].astype(np.int64), gathered[1].astype(np.int64)


def _pooled(now: Ints, was: Ints) -> _Groups:
    """Groups that expect under five rows in the smaller of the samples become one, last; if that is still thin, it
    joins the thinnest of the others, unless there is but one other."""
    rows = np.arange(len(now))
    smaller = np.minimum(now.sum(axis=1), was.sum(axis=1))
    expected = was * (smaller / np.maximum(was.sum(axis=1), 1))[:, None]
    thin = expected < EXPECTED
    rest, rest_before = (np.where(thin, table, 0).sum(axis=1) for table in (now, was))
    scarce = np.where(thin, expected, 0.0).sum(axis=1) < EXPECTED
    lone = (~thin).sum(axis=1) < 2
    joins = scarce & ~lone
    thinnest = np.where(thin, np.inf, expected).argmin(axis=1) if now.shape[1] else rows
    tables = []
    for table, pool in ((now, rest), (was, rest_before)):
        out = np.zeros((len(now), now.shape[1] + 1))
        out[:, :-1] = np.where(thin, 0, table)
        out[rows, thinnest] += np.where(joins, pool, 0)
        out[:, -1] = np.where(joins, 0, pool)
        tables.append(out)
    return _Groups(tables[0], tables[1], scarce & lone)


class _Pair(NamedTuple):
    """Chosen columns of two profiles, numbers first."""

    current: Profile
    reference: Profile
    numbers: Ints
    categories: Ints

    @property
    def names(self) -> tuple[str, ...]:
        layout = self.current.layout
        return named(layout.numbers, self.numbers) + named(layout.categories, self.categories)

    def rows(self, profile: Profile) -> Ints:
        """Values per column."""
        layout = profile.layout
        words = profile.rows - profile.missing[len(layout.numbers) + self.categories]
        return np.concatenate([profile.cells[self.numbers].sum(axis=1), words])

    def say(self, i: int) -> Words:
        if i < self.numbers.size:
            return moved_number(self.current, self.reference, int(self.numbers[i]))
        c = self.categories[i - self.numbers.size : i - self.numbers.size + 1]
        return moved_word(
            self.current.layout, int(c[0]), word_table(self.current, c)[0], word_table(self.reference, c)[0]
        )

    def groups(self) -> Sequence[_Groups]:
        """Of the numbers, and of the categories."""
        both = (self.current, self.reference)
        cells = [profile.cells[self.numbers] for profile in both]
        words = [word_table(profile, self.categories) for profile in both]
        return _pooled(*_gathered(cells[0], cells[1])), _pooled(words[0], words[1])

    def measured(self, distance: Callable[[_Groups], Floats]) -> Measured:
        groups = self.groups()
        p_value = np.concatenate([g.p_value() for g in groups])
        score = np.concatenate([distance(g) for g in groups])
        return Measured(
            self.names, np.where(np.isnan(p_value), np.nan, score), p_value, self.rows(self.current),
            self.rows(self.reference),
        )  # fmt: skip


def _pair(current: Profile, reference: Profile, columns: Sequence[str]) -> _Pair:
    layout = current.layout
    return _Pair(current, reference, positions(layout.numbers, columns), positions(layout.categories, columns))


def _psi(groups: _Groups) -> Floats:
    now, was = groups.shares()
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(groups.used, (now - was) * np.log(now / was), 0.0)
    return np.asarray(np.maximum(terms.sum(axis=1) - groups.noise(), 0.0))


def _jensen_shannon(groups: _Groups) -> Floats:
    shares = groups.shares()
    middle = (shares[0] + shares[1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = sum(np.where(groups.used, s * np.log(s / middle), 0.0).sum(axis=1) for s in shares) / 2
    return np.asarray(np.sqrt(np.maximum(nats - groups.noise() / 8, 0.0) / np.log(2)))


def _cohen(groups: _Groups) -> Floats:
    now, was = groups.shares()
    with np.errstate(divide="ignore", invalid="ignore"):
        square = np.where(groups.used, (now - was) ** 2 / was, 0.0).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(square - groups.noise(), 0.0)))


class Psi(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="psi"):
    """Population stability index of numbers and categories: sum of (p - q) ln(p / q) over groups (Siddiqi 2006).

    Customary limits: 0.1 a moderate, 0.2 a large change; a normal law moved by d standard deviations has d^2. p is that
    of the chi-square test on the same groups. Blind to changes inside a tenth of the reference.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = _pair(current, reference, columns)
        rule = Rule(self.limit, self.min_rows, self.alpha, self.correction)
        return verdict(rule, pair.measured(_psi), pair.say, "Stability index")


class JensenShannon(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="jensen_shannon"):
    """Jensen-Shannon distance of numbers and categories on groups, base 2 (Lin 1991; Endres, Schindelin 2003).

    From 0, one law, to 1, nothing in common; 0.1 is a normal law moved by 0.24 standard deviations. p is that of the
    chi-square test on the same groups. Blind to changes inside a tenth of the reference.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = _pair(current, reference, columns)
        rule = Rule(self.limit, self.min_rows, self.alpha, self.correction)
        return verdict(rule, pair.measured(_jensen_shannon), pair.say, "Distance")


class ChiSquare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="chi_square"):
    """Chi-square test of equal shares (Pearson 1900), with Cohen's w (1988) as its size.

    w = square root of the sum of (p - q)^2 / q over words: 0.1 is a small, 0.3 a middle, 0.5 a large change, whatever
    the number of rows. Blind to the order of values: a number that drifts a little everywhere is better seen by `ks`.
    """

    limit: Limit = 0.15
    alpha: Alpha = 0.001
    correction: Over = "holm"
    min_rows: MinRows = 100
    numbers: Annotated[
        bool,
        msgspec.Meta(description="Measure number columns as well, on groups of their values; else categories only."),
    ] = False

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = _pair(current, reference, columns)
        if not self.numbers:
            pair = pair._replace(numbers=pair.numbers[:0])
        rule = Rule(self.limit, self.min_rows, self.alpha, self.correction)
        return verdict(rule, pair.measured(_cohen), pair.say, "Cohen's w")


# -- on cells in their order


def _gaps(pair: _Pair) -> tuple[Floats, Floats]:
    """Share now less share before at or under each edge (numbers, CELLS); the p-value of the largest gap (numbers,)."""
    f = pair.numbers
    now, was = pair.current.cells[f], pair.reference.cells[f]
    n, m = now.sum(axis=1), was.sum(axis=1)
    gaps = np.cumsum(now, axis=1) / np.maximum(n, 1)[:, None] - np.cumsum(was, axis=1) / np.maximum(m, 1)[:, None]
    return gaps, kolmogorov_tail(np.abs(gaps).max(axis=1, initial=0.0), n * m / np.maximum(n + m, 1))


class Ks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ks"):
    """Two-sample Kolmogorov-Smirnov test of numbers (Smirnov 1939); its size is the largest gap of the distributions.

    A gap of 0.1 is a normal law moved by 0.25 standard deviations. Taken at the cells' edges: loses under 2 % of the
    gap of a smooth law; p is too large, never too small, where values are tied. Weak where only the tails change.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = _pair(current, reference, columns)
        pair = pair._replace(categories=pair.categories[:0])
        gaps, p_value = _gaps(pair)
        largest = np.abs(gaps).max(axis=1, initial=0.0)
        measured = Measured(pair.names, largest, p_value, pair.rows(current), pair.rows(reference))
        rule = Rule(self.limit, self.min_rows, self.alpha, self.correction)
        return verdict(rule, measured, pair.say, "Largest gap between the distributions")


def _places(current: Profile, reference: Profile, f: Ints) -> Floats:
    """Where the values of each cell lie, ascending (numbers, CELLS); NaN where neither profile has values."""
    edges, above = current.layout.edges[f], current.layout.above[f]
    # up to 64 distinct values have a cell each, and its upper edge is the value
    exact = (above <= INNER)[:, None]
    places = np.full((f.size, CELLS), np.nan)
    places[:, 1:-1] = np.where(exact, edges[:, 1:], (edges[:, :-1] + edges[:, 1:]) / 2)
    outside = [np.array(profile.outside())[:, f] for profile in (current, reference)]
    places[:, 0] = np.fmin(outside[0][0], outside[1][0])
    places[np.arange(f.size), above] = np.fmax(outside[0][1], outside[1][1])
    return places


class Wasserstein(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wasserstein"):
    """How far values moved on average, in standard deviations of the reference (Kantorovich 1942; Vallender 1974).

    The area between the two distributions, a cell's values taken at one place, and never less than the distance of the
    means, which are exact. So within half a cell for changes that widen or narrow. p is that of `ks`: the distance is 0
    just where the gap is. Between a large reference and n rows of the same normal law it is about 0.8 / sqrt(n), not 0.
    A few values far out can carry it; a constant reference is not measured.
    """

    limit: Limit = 0.2
    alpha: Alpha = 0.001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = _pair(current, reference, columns)
        pair = pair._replace(categories=pair.categories[:0])
        gaps, p_value = _gaps(pair)
        f = pair.numbers
        with np.errstate(invalid="ignore"):  # cells that the layout does not use lie at inf
            between = np.diff(_places(current, reference, f), axis=1)
        area = np.where(np.isfinite(between), np.abs(gaps[:, :-1]) * between, 0.0).sum(axis=1)
        deviation = np.sqrt(reference.variance[f])
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.maximum(area, np.abs(current.mean[f] - reference.mean[f])) / deviation
        score = np.where(deviation > 0, score, np.nan)
        measured = Measured(pair.names, score, p_value, pair.rows(current), pair.rows(reference))
        rule = Rule(self.limit, self.min_rows, self.alpha, self.correction)
        return verdict(rule, measured, pair.say, "Moved by", "standard deviations")
