"""What is kept of a window: mergeable counts of every column, and a row sample.

A profile counts on a `Layout`, the cells that the reference fixed once. All number columns lie side by side in one
matrix, so a window costs a few array operations, not sixty objects. Counts, extremes and the sample are the same
whatever the order of rows and merges; mean and squared deviations are the same up to rounding (1e-12 relative), and
bit for bit where the order is kept, as the stages of the service do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from detectors.core import Batch, Column, Floats, Ints, Kind, Mask, Wrong
from detectors.encode import Undecodable, decode, encode

INNER = 64  # cells between the reference's extremes; KS on 64 quantile cells loses under 2 % of its power
CELLS = INNER + 2  # one below the reference's lowest value, one above its highest
UNSEEN = 256  # words that the reference lacks, counted one by one; of more, the 256 of lowest hash
KNOWN = 1000  # words of a category column that the reference keeps apart
HUGE = 1e150  # a value beyond is not a number to reckon with: its square has no size, so it is counted as wrong
SAMPLE = 128  # rows sampled of a window, which the e-detectors step on: 60 KB of 60 columns, twice all its counts
ROUNDING = 1e-9  # relative; means of equal values differ by 1e-16 to 1e-12 in float64, which is no spread and no change
MISSING, OTHER = -1, -2  # codes in a row sample: no value, and a word that the reference lacks

NUMERIC = (Kind.NUMBER, Kind.FLAG)
# what a value is to a column of another kind
_STRANGER = {
    Kind.NUMBER: Wrong.NUMBER, Kind.FLAG: Wrong.BOOLEAN, Kind.CATEGORY: Wrong.TEXT, Kind.TEXT: Wrong.TEXT,
    Kind.VECTOR: Wrong.LIST,
}  # fmt: skip


def cut_edges(values: Floats) -> Floats:
    """Edges (INNER + 1,) of the cells of one column, padded with inf; NaN in `values` is left out.

    Cell of x = number of edges below x: 0 is under the lowest value seen, the last is over the highest. Up to 64
    distinct values get a cell each, more are cut at quantiles.

    >>> cut_edges(np.array([1.0, 2.0, 2.0, 5.0]))[:5].round(3).tolist()
    [1.0, 1.0, 2.0, 5.0, inf]
    """
    out = np.full(INNER + 1, np.inf)
    known = values[np.abs(values) <= HUGE]
    if not known.size:
        return out
    distinct = np.unique(known)
    if distinct.size > INNER:
        distinct = np.unique(np.quantile(known, np.arange(1, INNER + 1) / INNER))
    edges = np.concatenate([[np.nextafter(known.min(), -np.inf)], distinct])
    out[: edges.size] = edges
    return out


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The cells that profiles of a model are counted on. Profiles merge only on equal layouts."""

    numbers: tuple[str, ...]
    edges: NDArray[np.float64]  # (numbers, INNER + 1), ascending, padded with inf
    categories: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]  # per category column, the known words
    others: tuple[str, ...] = ()  # text and vector columns: only their presence is counted

    @cached_property
    def id(self) -> str:
        """Digest of the layout; equal layouts have equal ids."""
        return hashlib.sha256(encode((self.numbers, self.edges, self.categories, self.words, self.others))).hexdigest()[
            :16
        ]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order of `Profile.missing` and `Profile.arrived`."""
        return self.numbers + self.categories + self.others

    @cached_property
    def index(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.columns)}

    @cached_property
    def valued(self) -> Layout:
        """The same without text and vector columns: what a row sample holds."""
        return replace(self, others=()) if self.others else self

    @cached_property
    def starts(self) -> Ints:
        """Where each category column's known words begin in `Profile.words`; one more than columns."""
        return np.cumsum([0, *map(len, self.words)]).astype(np.int64)

    @cached_property
    def codes(self) -> tuple[Mapping[str, int], ...]:
        return tuple({word: i for i, word in enumerate(words)} for words in self.words)

    @cached_property
    def above(self) -> Ints:
        """Cell of values over the reference's highest, per number column: its number of edges."""
        return np.asarray(np.isfinite(self.edges).sum(axis=1))


def lay_out(rows: Batch) -> Layout:
    """The layout that the reference's rows ask for: quantile cells of numbers, the most frequent words."""
    of = {kind: [n for n, c in rows.columns.items() if c.kind is kind] for kind in Kind}
    numbers = sorted(of[Kind.NUMBER] + of[Kind.FLAG])
    categories = sorted(of[Kind.CATEGORY])
    words = []
    for name in categories:
        column = rows[name]
        seen = column.values[column.values >= 0]
        counts = np.bincount(seen, minlength=len(column.words))
        ranked = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (-counts[i], column.words[i]))
        words.append(tuple(column.words[i] for i in ranked[:KNOWN]))
    edges = np.array([cut_edges(rows[n].values) for n in numbers]).reshape(len(numbers), INNER + 1)
    return Layout(
        tuple(numbers), edges, tuple(categories), tuple(words), tuple(sorted(of[Kind.TEXT] + of[Kind.VECTOR]))
    )


class Sample(NamedTuple):
    """The rows of lowest key, ascending by key: a simple random sample of the rows, the same on any replica."""

    keys: NDArray[np.uint64]  # (k,)
    times: Floats  # (k,)
    numbers: Floats  # (k, numbers), NaN = missing
    codes: NDArray[np.int32]  # (k, categories): known word, MISSING or OTHER

    def take(self, which: Ints | slice) -> Sample:
        """Some of the rows, in the order asked for."""
        return Sample(self.keys[which], self.times[which], self.numbers[which], self.codes[which])


def _number_rows(layout: Layout, batch: Batch) -> tuple[Floats, Mask | None]:
    """Values (numbers, n) of the rows, NaN = missing, and which of them were beyond HUGE; None when all are finite."""
    matrix = np.empty((len(layout.numbers), len(batch)))
    for i, name in enumerate(layout.numbers):
        column = batch.columns.get(name)
        matrix[i] = np.nan if column is None or column.kind not in NUMERIC else column.values
    # One pass tells whether any value is NaN, inf or huge. (np.vdot would wake BLAS threads at 10,000 values.)
    if np.einsum("ij,ij->", matrix, matrix) <= HUGE**2:
        return matrix, None
    endless = np.abs(matrix) > HUGE
    matrix[endless] = np.nan
    return matrix, endless


def _code_rows(layout: Layout, batch: Batch) -> NDArray[np.int32]:
    """Codes (categories, n) of the rows: a known word, OTHER or MISSING."""
    codes = np.full((len(layout.categories), len(batch)), MISSING, np.int32)
    for c, name in enumerate(layout.categories):
        column = batch.columns.get(name)
        if column is None or column.kind is not Kind.CATEGORY:
            continue
        known = layout.codes[c]
        table = [known.get(word, OTHER) for word in column.words]
        table.append(MISSING)  # serves code -1
        codes[c] = np.array(table, np.int32)[column.values]
    return codes


def rows_of(layout: Layout, batch: Batch) -> Sample:
    """All rows of a batch as a sample holds them, in the batch's own order."""
    return Sample(batch.keys, batch.times, _number_rows(layout, batch)[0].T.copy(), _code_rows(layout, batch).T.copy())


def _first_of_equals(ordered: NDArray[np.uint64]) -> Mask:
    return np.concatenate([np.ones(min(ordered.size, 1), np.bool_), ordered[1:] != ordered[:-1]])


def _lowest(parts: Sequence[Sample], copies: Sequence[Ints], k: int) -> tuple[Sample, Ints]:
    """The rows of the k lowest keys among all parts, and how often each came.

    A key that stays was never dropped before, so its count is exact in any order.
    """
    keys = np.concatenate([p.keys for p in parts])
    times = np.concatenate([p.times for p in parts])
    order = np.lexsort((times, keys))
    first = np.flatnonzero(_first_of_equals(keys[order]))
    counts = np.add.reduceat(np.concatenate(copies)[order], first)[:k]
    order = order[first[:k]]
    sample = Sample(
        keys[order],
        times[order],
        np.concatenate([p.numbers for p in parts])[order],
        np.concatenate([p.codes for p in parts])[order],
    )
    return sample, counts


# Values outside the reference's range are counted in log-spaced buckets: sign, exponent clamped to 2^-64..2^64, four
# bits of mantissa. Relative width 1/16, so a quantile among them is known to 3 %; at most 4,098 buckets a column.
_SUB = 4
_LOW, _HIGH = 2.0**-64, 2.0**64
_ZERO = int(np.float64(_LOW).view(np.int64) >> (52 - _SUB))
_SPAN = 1 << 13


def _bucket(values: Floats) -> Ints:
    """Order-preserving bucket number of finite values, from -_SPAN/2 to _SPAN/2."""
    size = np.clip(np.abs(values), _LOW, _HIGH)
    at = (size.view(np.int64) >> (52 - _SUB)) - _ZERO + 1
    return np.where(values < 0, -at, np.where(np.abs(values) < _LOW, 0, at))


def _bucket_value(buckets: Ints) -> Floats:
    at = (np.abs(buckets) - 1 + _ZERO).astype(np.int64)
    low, high = (at << (52 - _SUB)).view(np.float64), ((at + 1) << (52 - _SUB)).view(np.float64)
    return np.where(buckets == 0, 0.0, np.sign(buckets) * (low + high) / 2)


def _summed(keys: Ints, counts: Ints) -> tuple[Ints, Ints]:
    if not keys.size:
        return keys, counts
    found, place = np.unique(keys, return_inverse=True)
    return found, np.bincount(place, counts, found.size).astype(np.int64)


def _word_hash(word: str) -> bytes:
    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class _State(msgspec.Struct, frozen=True, array_like=True):
    layout: str
    rows: int
    first: float
    last: float
    cells: NDArray[np.int64]
    missing: NDArray[np.int64]
    arrived: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    tail_keys: NDArray[np.int64]
    tail_counts: NDArray[np.int64]
    words: NDArray[np.int64]
    unseen: NDArray[np.int64]
    unseen_words: list[dict[str, int]]
    size: int
    sample_keys: NDArray[np.uint64]
    sample_times: NDArray[np.float64]
    sample_numbers: NDArray[np.float64]
    sample_codes: NDArray[np.int32]
    copies: NDArray[np.int64]


class Profile:
    """Counts of the rows of a window, or of any union of windows.

    `cells` int64 (numbers, CELLS); `missing` int64 (columns,); `arrived` int64 (columns, len(Wrong)), of the missing
    those where something else arrived, by what it was; `mean`, `squares` (summed squared deviations), `low`, `high`
    float64 (numbers,), NaN where no value was seen; `words` int64, known words of all category columns end to end (see
    `Layout.starts`); `unseen` int64 (categories,) rows with a word that the reference lacks; `unseen_words` which
    words, at most UNSEEN a column; `copies` int64 (sampled rows,) how many rows had the key of each sampled one.
    `first`, `last` event times, inf and -inf without rows.
    """

    __slots__ = (
        "arrived",
        "cells",
        "copies",
        "first",
        "high",
        "last",
        "layout",
        "low",
        "mean",
        "missing",
        "rows",
        "sample",
        "size",
        "squares",
        "tails",
        "unseen",
        "unseen_words",
        "words",
    )

    def __init__(self, layout: Layout, size: int = SAMPLE) -> None:
        f, c, every = len(layout.numbers), len(layout.categories), len(layout.columns)
        self.layout = layout
        self.size = size  # rows of the sample
        self.rows = 0
        self.first, self.last = np.inf, -np.inf
        self.cells: Ints = np.zeros((f, CELLS), np.int64)
        self.missing: Ints = np.zeros(every, np.int64)
        self.arrived: Ints = np.zeros((every, len(Wrong)), np.int64)
        self.mean: Floats = np.full(f, np.nan)
        self.squares: Floats = np.full(f, np.nan)
        self.low: Floats = np.full(f, np.nan)
        self.high: Floats = np.full(f, np.nan)
        self.tails: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self.words: Ints = np.zeros(int(layout.starts[-1]), np.int64)
        self.unseen: Ints = np.zeros(c, np.int64)
        self.unseen_words: list[dict[str, int]] = [{} for _ in range(c)]
        self.sample = Sample(np.zeros(0, np.uint64), np.zeros(0), np.zeros((0, f)), np.zeros((0, c), np.int32))
        self.copies: Ints = np.zeros(0, np.int64)

    # -- reading

    @property
    def counts(self) -> Ints:
        """Values seen, per number column."""
        return np.asarray(self.cells.sum(axis=1))

    @property
    def wrong(self) -> Ints:
        """Rows with a value of another kind, per column of `layout.columns`."""
        return np.asarray(self.arrived.sum(axis=1))

    @property
    def variance(self) -> Floats:
        """Per number column; NaN under two values, 0 where it is no more than the rounding of the mean."""
        n = self.counts
        found = self.squares / np.maximum(n - 1, 1)
        return np.where(n > 1, np.where(found > (ROUNDING * self.mean) ** 2, found, 0.0), np.nan)

    @property
    def missing_share(self) -> Floats:
        """Per column of `layout.columns`, NaN without rows."""
        return self.missing / self.rows if self.rows else np.full(self.missing.shape, np.nan)

    def word_counts(self, category: str) -> Ints:
        """Rows per known word of a category column, in the order of the layout's words."""
        i = self.layout.categories.index(category)
        return self.words[self.layout.starts[i] : self.layout.starts[i + 1]]

    def quantile(self, column: str, q: float) -> float:
        """The q-quantile of a number column, NaN when it has no value.

        Inside the reference's range by linear interpolation within a cell (error under 1/64 in rank against the
        reference's law), outside it to 3 % in value.
        """
        f = self.layout.numbers.index(column)
        total = int(self.cells[f].sum())
        if not total:
            return float("nan")
        above = int(self.layout.above[f])
        edges = self.layout.edges[f, :above]
        owner, over, at = self._tail_places()
        below, beyond = (owner == f) & ~over, (owner == f) & over
        n = self.tails[1]
        lows = np.concatenate([at[below], edges[:-1], at[beyond]])
        highs = np.concatenate([at[below], edges[1:], at[beyond]])
        mass = np.concatenate([n[below], self.cells[f, 1:above], n[beyond]]).astype(np.float64)
        rank = q * mass.sum()
        reached = np.cumsum(mass)
        i = min(int(np.searchsorted(reached, rank)), mass.size - 1)
        part = (rank - (reached[i] - mass[i])) / mass[i] if mass[i] else 0.0
        value = lows[i] + (highs[i] - lows[i]) * min(max(part, 0.0), 1.0)
        return float(np.clip(value, self.low[f], self.high[f]))

    def outside(self) -> tuple[Floats, Floats]:
        """Mean of the values under and over the reference's range (numbers,), to 3 %; NaN where there is none."""
        f, over, at = self._tail_places()
        counts = self.tails[1]
        size = len(self.layout.numbers)
        with np.errstate(invalid="ignore"):
            low, high = (
                np.bincount(f[side], at[side] * counts[side], size) / np.bincount(f[side], counts[side], size)
                for side in (~over, over)
            )
        return low, high

    def _tail_places(self) -> tuple[Ints, Mask, Floats]:
        """Of every tail bucket: number of its column, whether it is over the reference's range, value in its middle."""
        keys = self.tails[0]
        return keys // (2 * _SPAN), keys // _SPAN % 2 == 1, _bucket_value(keys % _SPAN - _SPAN // 2)

    # -- counting

    def update(self, batch: Batch) -> None:
        """Counts the rows. A column that the batch lacks is missing in all of them."""
        n = len(batch)
        if not n:
            return
        layout = self.layout
        self.rows += n
        self.first, self.last = min(self.first, float(batch.times.min())), max(self.last, float(batch.times.max()))
        numbers = self._count_numbers(batch, n)
        codes = self._count_categories(batch)
        base = len(layout.numbers) + len(layout.categories)
        for i, name in enumerate(layout.others, base):
            column = batch.get(name)
            self.missing[i] += n if column is None else int(column.missing().sum())
            self._count_wrong(i, column)
        self._draw(batch, numbers, codes)

    def _count_wrong(self, i: int, column: Column | None, of: Sequence[Kind] = tuple(Kind)) -> None:
        """What arrived at column number `i`, which is to be of one of these kinds."""
        if column is None:
            return
        if column.kind not in of:
            self.arrived[i, _STRANGER[column.kind] - 1] += len(column) - int(column.missing().sum())
        elif column.wrong is not None:
            self.arrived[i] += np.bincount(column.wrong, minlength=len(Wrong) + 1)[1:]

    def _count_numbers(self, batch: Batch, n: int) -> Floats:
        layout = self.layout
        f = len(layout.numbers)
        matrix, endless = _number_rows(layout, batch)
        if not f:
            return matrix
        for i, name in enumerate(layout.numbers):
            self._count_wrong(i, batch.columns.get(name), NUMERIC)
        missing: Mask | None = None
        seen = np.full(f, n)
        if endless is not None:
            self.arrived[:f, Wrong.BOUNDS - 1] += endless.sum(axis=1)
            missing = np.isnan(matrix)
            absent = missing.sum(axis=1)
            self.missing[:f] += absent
            seen -= absent
        # Sorted values looked up by 65 edges cost 4 ns a value; edges looked up by each value cost 77.
        ordered = np.sort(matrix, axis=1)  # NaN last
        reached = np.empty((f, CELLS), np.int64)  # values at or below each edge
        for i, edges in enumerate(layout.edges):
            reached[i, :-1] = ordered[i].searchsorted(edges, "right")
        reached[:, -1] = seen
        found = reached.copy()
        found[:, 1:] -= reached[:, :-1]
        self.cells += found
        self._count_tails(ordered, found, seen)
        self._count_moments(matrix, ordered, seen, missing)
        return matrix

    def _count_tails(self, ordered: Floats, found: Ints, seen: Ints) -> None:
        under = found[:, 0]
        over = found[np.arange(len(found)), self.layout.above]
        over = np.where(self.layout.above > 0, over, 0)  # a column without edges has one cell, and all is under it
        rows = np.flatnonzero((under > 0) | (over > 0))
        if not rows.size:
            return
        values = np.concatenate([
            part
            for i in rows.tolist()
            for part in (ordered[i, : under[i]], ordered[i, seen[i] - over[i] : seen[i]])
        ])  # fmt: skip
        sides = np.repeat(
            np.stack([2 * rows, 2 * rows + 1], axis=1).ravel(), np.stack([under[rows], over[rows]], axis=1).ravel()
        )
        keys = sides * _SPAN + _bucket(values) + _SPAN // 2
        held_keys, held = self.tails
        self.tails = _summed(np.concatenate([held_keys, keys]), np.concatenate([held, np.ones(keys.size, np.int64)]))

    def _count_moments(self, matrix: Floats, ordered: Floats, seen: Ints, missing: Mask | None) -> None:
        if missing is None:
            mean = matrix.mean(axis=1)
            gap = matrix - mean[:, None]
        else:
            mean = np.where(seen > 0, np.where(missing, 0.0, matrix).sum(axis=1) / np.maximum(seen, 1), np.nan)
            gap = np.where(missing, 0.0, matrix - mean[:, None])
        squares = np.where(seen > 0, np.einsum("ij,ij->i", gap, gap), np.nan)
        low, high = ordered[:, 0], ordered[np.arange(len(seen)), np.maximum(seen, 1) - 1]
        # `cells` already holds these rows
        self._merge_moments(self.counts - seen, seen, mean, squares, low, high)

    def _merge_moments(
        self, mine: Ints, theirs: Ints, mean: Floats, squares: Floats, low: Floats, high: Floats
    ) -> None:
        """Chan, Golub, LeVeque (1983)."""
        total = np.maximum(mine + theirs, 1)
        gap = mean - self.mean
        merged = self.mean + gap * theirs / total
        spread = self.squares + squares + gap * gap * mine * theirs / total
        only_theirs, only_mine = mine == 0, theirs == 0
        self.mean = np.where(only_theirs, mean, np.where(only_mine, self.mean, merged))
        self.squares = np.where(only_theirs, squares, np.where(only_mine, self.squares, spread))
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)

    def _count_categories(self, batch: Batch) -> NDArray[np.int32]:
        layout = self.layout
        first, all_columns = len(layout.numbers), len(layout.categories)
        codes = _code_rows(layout, batch)
        for c, name in enumerate(layout.categories):
            self._count_wrong(first + c, batch.columns.get(name), (Kind.CATEGORY,))
        # all columns are counted end to end, two places before each column's words taking OTHER and MISSING
        starts = layout.starts[:-1] + 2 * np.arange(1, all_columns + 1)
        found = np.bincount((codes + starts[:, None]).ravel(), minlength=len(self.words) + 2 * all_columns)
        self.missing[first : first + all_columns] += found[starts + MISSING]
        new = found[starts + OTHER]
        self.unseen += new
        is_word = np.ones(found.size, np.bool_)
        is_word[starts + MISSING] = is_word[starts + OTHER] = False
        self.words += found[is_word]
        for c in np.flatnonzero(new).tolist():
            column = batch.columns[layout.categories[c]]
            counts = np.bincount(column.values[codes[c] == OTHER], minlength=len(column.words))
            self.count_unseen(c, {column.words[i]: int(counts[i]) for i in np.flatnonzero(counts).tolist()})
        return codes.T

    def count_unseen(self, c: int, words: Mapping[str, int]) -> None:
        """Adds rows of words that the reference lacks to category column number `c`."""
        held = self.unseen_words[c]
        for word, n in words.items():
            held[word] = held.get(word, 0) + n
        if len(held) > UNSEEN:
            # the words of lowest hash: a word that stays was never dropped before, so its count is exact in any order
            kept = sorted(held, key=_word_hash)[:UNSEEN]
            self.unseen_words[c] = {word: held[word] for word in kept}

    def _draw(self, batch: Batch, numbers: Floats, codes: NDArray[np.int32]) -> None:
        if not self.size:
            return
        keys = batch.keys
        rows = np.arange(len(keys))
        if len(self.sample.keys) == self.size:
            rows = np.flatnonzero(keys <= self.sample.keys[-1])
        elif len(keys) > self.size:
            ordered = np.sort(keys)
            distinct = ordered[_first_of_equals(ordered)]  # an event sent twice takes one place
            rows = np.flatnonzero(keys <= distinct[: self.size][-1])
        if rows.size:
            new = Sample(keys[rows], batch.times[rows], numbers[:, rows].T, codes[rows])
            once = np.ones(rows.size, np.int64)
            self.sample, self.copies = _lowest([self.sample, new], [self.copies, once], self.size)

    # -- merging and keeping

    def merge(self, other: Profile) -> None:
        """Adds the rows of another profile on the same layout; ValueError on any other.

        Merging with an empty profile changes nothing; the order of merges changes no count.
        """
        if other.layout.id != self.layout.id:
            raise ValueError(f"profiles on different layouts: {self.layout.id} and {other.layout.id}")
        if not other.rows:
            return
        self._merge_moments(self.counts, other.counts, other.mean, other.squares, other.low, other.high)
        self.rows += other.rows
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.cells += other.cells
        self.missing += other.missing
        self.arrived += other.arrived
        self.words += other.words
        self.unseen += other.unseen
        if other.tails[0].size:
            self.tails = _summed(
                np.concatenate([self.tails[0], other.tails[0]]), np.concatenate([self.tails[1], other.tails[1]])
            )
        for c, words in enumerate(other.unseen_words):
            if words:
                self.count_unseen(c, words)
        self.sample, self.copies = _lowest([self.sample, other.sample], [self.copies, other.copies], self.size)

    def without_sample(self) -> Profile:
        """The same counts with an empty row sample; the arrays are shared, so neither may be changed after."""
        other = Profile(self.layout, 0)
        for name in Profile.__slots__:
            if name not in ("sample", "copies", "size"):
                setattr(other, name, getattr(self, name))
        return other

    def encode(self) -> bytes:
        """Bytes that `Profile.decode` reads back equal, given the layout."""
        keys, counts = self.tails
        return encode(
            _State(
                self.layout.id, self.rows, self.first, self.last, self.cells, self.missing, self.arrived, self.mean,
                self.squares, self.low, self.high, keys, counts, self.words, self.unseen, self.unseen_words, self.size,
                *self.sample, self.copies,
            )
        )  # fmt: skip

    @classmethod
    def decode(cls, layout: Layout, data: bytes) -> Profile:
        """The profile back. Undecodable when the bytes are damaged or were counted on another layout."""
        state = decode(data, _State)
        if state.layout != layout.id:
            raise Undecodable(f"profile on layout {state.layout}, not {layout.id}")
        profile = cls.__new__(cls)
        profile.layout, profile.size, profile.rows = layout, state.size, state.rows
        profile.first, profile.last = state.first, state.last
        profile.cells, profile.missing, profile.arrived = state.cells, state.missing, state.arrived
        profile.mean, profile.squares, profile.low, profile.high = state.mean, state.squares, state.low, state.high
        profile.tails = (state.tail_keys, state.tail_counts)
        profile.words, profile.unseen, profile.unseen_words = state.words, state.unseen, state.unseen_words
        profile.sample = Sample(state.sample_keys, state.sample_times, state.sample_numbers, state.sample_codes)
        profile.copies = state.copies
        return profile


def merged(layout: Layout, profiles: Sequence[Profile], size: int = SAMPLE) -> Profile:
    """One profile of all of them, at the price of about three merges however many there are.

    Mean and squared deviations are weighted sums over all parts; every count is as after merging one by one.
    """
    whole = Profile(layout, size)
    parts = [p for p in profiles if p.rows]
    for part in parts:
        if part.layout.id != layout.id:
            raise ValueError(f"profiles on different layouts: {layout.id} and {part.layout.id}")
    if len(parts) < 4:
        for part in parts:
            whole.merge(part)
        return whole
    whole.rows = sum(p.rows for p in parts)
    whole.first, whole.last = min(p.first for p in parts), max(p.last for p in parts)
    for part in parts:
        whole.cells += part.cells
        whole.missing += part.missing
        whole.arrived += part.arrived
        whole.words += part.words
        whole.unseen += part.unseen
        for c, words in enumerate(part.unseen_words):
            if words:
                whole.count_unseen(c, words)
    counts = np.array([p.counts for p in parts])
    seen = counts.sum(axis=0)
    known = counts > 0
    means = np.where(known, np.array([p.mean for p in parts]), 0.0)
    mean = (counts * means).sum(axis=0) / np.maximum(seen, 1)
    spread = np.where(known, np.array([p.squares for p in parts]), 0.0) + counts * (means - mean) ** 2
    whole.mean = np.where(seen > 0, mean, np.nan)
    whole.squares = np.where(seen > 0, spread.sum(axis=0), np.nan)
    whole.low = np.fmin.reduce([p.low for p in parts])
    whole.high = np.fmax.reduce([p.high for p in parts])
    whole.tails = _summed(np.concatenate([p.tails[0] for p in parts]), np.concatenate([p.tails[1] for p in parts]))
    whole.sample, whole.copies = _lowest([p.sample for p in parts], [p.copies for p in parts], size)
    return whole


__all__ = [
    "CELLS", "INNER", "MISSING", "OTHER", "Layout", "Profile", "Sample", "cut_edges", "lay_out", "merged", "rows_of",
]  # fmt: skip
