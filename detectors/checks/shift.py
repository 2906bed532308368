"""Did the distribution of a column move, and how far: seven distances between two profiles, each beside a p-value.

Numbers are compared on the reference's cells, categories on its words. What is measured on *groups* (`psi`,
`jensen_shannon`, `hellinger`, `l_infinity`, `chi_square`) first gathers a number's cells into at most ten groups of
about equal share in the reference, ten because the customary limits of these distances were set on deciles, and fewer
where rows are few. Groups and words that expect under five rows (Cochran 1954) are pooled, and the pool, if that is
still thin, with the thinnest of the others. Groups are chosen by the reference alone, so the p-value stays honest.

All these distances are positive even between two samples of one law; for k groups, n and m rows the squared ones by
(k - 1)(1/n + 1/m) on average. That is taken off, so a score of 0 means "as close as chance allows" at any window size;
the largest gaps (`l_infinity`, `ks`) are as they are.
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
    """Counts in the groups of chosen columns, now and before, one above the other."""

    counts: Floats  # (2, columns, groups), the pool of thin groups last; 0 where a column has no group
    rows: Floats  # (2, columns), at least 1
    used: Mask  # (columns, groups)
    freedom: Ints  # groups in use less 1 (columns,)
    rare: Mask  # columns of two groups of which the last is thin (columns,)

    def shares(self) -> Floats:
        """Shares, each group half a row richer, so that none in use is 0 (2, columns, groups)."""
        return np.asarray((self.counts + 0.5 * self.used) / (self.rows + 0.5 * (self.freedom + 1))[..., None])

    def noise(self) -> Floats:
        """What the sum of (p - q)^2 / q is on average where nothing changed (columns,)."""
        return np.asarray(self.freedom * (1 / self.rows).sum(axis=0))

    def p_value(self) -> Floats:
        """Chi-square test of equal shares (Pearson 1900); NaN for a lone group.

        Where the only other group expects under five rows the chi-square law does not hold; then the binomial chance of
        as many rows in it, at the largest share that the reference still speaks for.
        """
        (now, was), (rows, rows_before) = self.counts, self.rows
        ratio = np.sqrt(rows_before / rows)[:, None]
        apart = ratio * now - was / ratio
        p = chi_square_tail((apart * apart / np.maximum(now + was, 1)).sum(axis=1), self.freedom)
        if self.rare.any():
            counts = (now[:, -1], rows, was[:, -1], rows_before)
            hits, drawn, before, drawn_before = (count[self.rare].astype(np.int64) for count in counts)
            p[self.rare] = binomial_tail(hits, drawn, upper_share(before, drawn_before))
        return p


def _gathered(cells: Ints) -> Floats:
    """Cells of numbers (2, columns, CELLS) gathered to GROUPS of like share in the reference, one per 20 rows at most.

    Values outside the reference's range fall to its first and last group.
    """
    columns = cells.shape[1]
    reached = np.cumsum(cells[1], axis=1)
    rows = np.minimum(cells[0].sum(axis=1), reached[:, -1])
    groups = np.clip(rows // 20, 2, GROUPS)[:, None]
    middle = (reached - cells[1] / 2) / np.maximum(reached[:, -1:], 1)
    group = np.minimum((middle * groups).astype(np.int64), groups - 1) + GROUPS * np.arange(columns)[:, None]
    size = GROUPS * columns
    gathered = [np.bincount(group.ravel(), table.ravel(), size).reshape(columns, GROUPS) for table in cells]
    return np.stack(gathered)


def _pooled(counts: Floats | Ints) -> _Groups:
    """Groups (2, columns, groups) that expect under five rows in the smaller sample become one, put last.

    If that is still thin it joins the thinnest of the others, unless there is but one other.
    """
    columns, groups = np.arange(counts.shape[1]), counts.shape[2]
    rows = np.maximum(counts.sum(axis=2), 1.0)
    expected = counts[1] * (np.minimum(rows[0], rows[1]) / rows[1])[:, None]
    thin = expected < EXPECTED
    scarce = (expected * thin).sum(axis=1) < EXPECTED
    lone = thin.sum(axis=1) > groups - 2
    joins = scarce & ~lone
    pool = (counts * thin).sum(axis=2)
    kept = np.zeros((2, columns.size, groups + 1))
    kept[..., :-1] = counts * ~thin
    kept[:, columns, np.where(thin, np.inf, expected).argmin(axis=1)] += pool * joins
    kept[..., -1] = pool * ~joins
    used = np.asarray(kept.any(axis=0))
    return _Groups(kept, rows, used, np.maximum(used.sum(axis=1) - 1, 0), scarce & lone)


class Pair(NamedTuple):
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

    def counts(self) -> tuple[Ints, Ints]:
        """Now and before, one above the other: rows by cell (2, numbers, CELLS) and by word (2, categories, words)."""
        both = (self.current, self.reference)
        return (
            np.stack([profile.cells[self.numbers] for profile in both]),
            np.stack([word_table(profile, self.categories) for profile in both]),
        )

    def gaps(self) -> Floats:
        """Share of the rows that lie elsewhere (columns,): of numbers the largest gap, of words half of all changes."""
        cells, words = (counts / np.maximum(counts.sum(axis=2), 1)[..., None] for counts in self.counts())
        gap = np.abs(np.cumsum(cells[0] - cells[1], axis=1)).max(axis=1, initial=0.0)
        return np.concatenate([gap, np.abs(words[0] - words[1]).sum(axis=1) / 2])

    def groups(self) -> tuple[_Groups, _Groups]:
        """Of the numbers, and of the categories."""
        cells, words = self.counts()
        return _pooled(_gathered(cells)), _pooled(words)

    def measured(self, distance: Callable[[_Groups], Floats]) -> Measured:
        groups = self.groups()
        p_value = np.concatenate([g.p_value() for g in groups])
        score = np.concatenate([distance(g) for g in groups])
        return Measured(
            self.names, np.where(np.isnan(p_value), np.nan, score), p_value, self.rows(self.current),
            self.rows(self.reference),
        )  # fmt: skip


def paired(current: Profile, reference: Profile, columns: Sequence[str]) -> Pair:
    """The wanted columns that are numbers or categories."""
    layout = current.layout
    return Pair(current, reference, positions(layout.numbers, columns), positions(layout.categories, columns))


def _psi(groups: _Groups) -> Floats:
    now, was = groups.shares()
    logs = np.log(np.divide(now, was, out=np.ones_like(now), where=groups.used))
    return np.asarray(np.maximum(((now - was) * logs).sum(axis=1) - groups.noise(), 0.0))


def _jensen_shannon(groups: _Groups) -> Floats:
    shares = groups.shares()
    over = np.divide(2 * shares, shares.sum(axis=0), out=np.ones_like(shares), where=groups.used)
    nats = (shares * np.log(over)).sum(axis=(0, 2)) / 2
    return np.asarray(np.sqrt(np.maximum(nats - groups.noise() / 8, 0.0) / np.log(2)))


def _hellinger(groups: _Groups) -> Floats:
    now, was = groups.shares()
    apart = ((np.sqrt(now) - np.sqrt(was)) ** 2 * groups.used).sum(axis=1) / 2
    return np.asarray(np.sqrt(np.maximum(apart - groups.noise() / 8, 0.0)))


def _largest_gap(groups: _Groups) -> Floats:
    now, was = groups.counts / groups.rows[..., None]
    return np.asarray(np.abs(now - was).max(axis=1, initial=0.0))


def _cohen(groups: _Groups) -> Floats:
    now, was = groups.shares()
    terms = np.divide((now - was) ** 2, was, out=np.zeros_like(now), where=groups.used)
    return np.asarray(np.sqrt(np.maximum(terms.sum(axis=1) - groups.noise(), 0.0)))


class Psi(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="psi"):
    """Population stability index of numbers and categories: sum of (p - q) ln(p / q) over groups (Siddiqi 2006).

    Customary limits: 0.1 a moderate, 0.2 a large change; a normal law moved by d standard deviations has d^2. p is that
    of the chi-square test on the same groups. Blind to changes inside a tenth of the reference.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        return verdict(Rule.of(self), pair.measured(_psi), pair.say, "Stability index")


class JensenShannon(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="jensen_shannon"):
    """Jensen-Shannon distance of numbers and categories on groups, base 2 (Lin 1991; Endres, Schindelin 2003).

    From 0, one law, to 1, nothing in common; 0.1 is a normal law moved by 0.24 standard deviations. p is that of the
    chi-square test on the same groups. Blind to changes inside a tenth of the reference.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        return verdict(Rule.of(self), pair.measured(_jensen_shannon), pair.say, "Distance")


class Hellinger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hellinger"):
    """Hellinger distance of numbers and categories on groups: root of half the sum of (sqrt p - sqrt q)^2 (1909).

    From 0, one law, towards 1, nothing in common; 0.1 is a normal law moved by 0.29 standard deviations. A group that
    is new or gone moves it less than the stability index, which has no upper end. p is that of the chi-square test on
    the same groups. Blind to changes inside a tenth of the reference.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        return verdict(Rule.of(self), pair.measured(_hellinger), pair.say, "Distance")


class LInfinity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="l_infinity"):
    """L-infinity distance on groups: the largest change of the share of one word, or of one tenth of a number.

    In the unit of a share: 0.1 = a word went from 20 to 30 % of the rows. Of a normal law's tenths the outer one moves
    0.1 at a shift of 0.45 standard deviations. Positive by chance alone: among k groups of n rows about
    sqrt(2 log(k) / (k n)). p is that of the chi-square test on the same groups. Blind to a change spread thin over many
    words, and rare words, which expect under five rows, are one.
    """

    limit: Limit = 0.1
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        return verdict(Rule.of(self), pair.measured(_largest_gap), pair.say, "Largest change of a share", "share")


class ChiSquare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="chi_square"):
    """Chi-square test of equal shares (Pearson 1900), with Cohen's w (1988) as its size.

    w = square root of the sum of (p - q)^2 / q over words: 0.1 is a small, 0.3 a middle, 0.5 a large change, whatever
    the number of rows. Blind to the order of values: a number that drifts a little everywhere is better seen by `ks`.
    """

    limit: Limit = 0.15
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100
    numbers: Annotated[
        bool,
        msgspec.Meta(description="Measure number columns as well, on groups of their values; else categories only."),
    ] = False

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        if not self.numbers:
            pair = pair._replace(numbers=pair.numbers[:0])
        return verdict(Rule.of(self), pair.measured(_cohen), pair.say, "Cohen's w")


# -- on cells in their order


def _gaps(pair: Pair) -> tuple[Floats, Floats]:
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
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        pair = pair._replace(categories=pair.categories[:0])
        gaps, p_value = _gaps(pair)
        largest = np.abs(gaps).max(axis=1, initial=0.0)
        measured = Measured(pair.names, largest, p_value, pair.rows(current), pair.rows(reference))
        return verdict(Rule.of(self), measured, pair.say, "Largest gap between the distributions")


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
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 100

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pair = paired(current, reference, columns)
        pair = pair._replace(categories=pair.categories[:0])
        gaps, p_value = _gaps(pair)
        f = pair.numbers
        with np.errstate(invalid="ignore"):  # cells that the layout does not use lie at inf
            areas = np.abs(gaps[:, :-1]) * np.diff(_places(current, reference, f), axis=1)
        area = np.where(np.isfinite(areas), areas, 0.0).sum(axis=1)
        deviation = np.sqrt(reference.variance[f])
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.maximum(area, np.abs(current.mean[f] - reference.mean[f])) / deviation
        score = np.where(deviation > 0, score, np.nan)
        measured = Measured(pair.names, score, p_value, pair.rows(current), pair.rows(reference))
        return verdict(Rule.of(self), measured, pair.say, "Moved by", "standard deviations")
