"""Which rows to label: a draw whose inclusion probabilities are known, so the labels also measure the model.

Order sampling (Duffield, Lund, Thorup 2007, "priority sampling"; Ohlsson 1998): a row of size s gets the key u / s,
with u in (0, 1) from a hash of its id, and the rows of lowest key are the draw. No second pass, the same on every
replica and after a replay; the draw of a union is the lowest keys of the parts' draws; and every prefix in key order
is itself a draw with probabilities of its own, so a smaller budget, or labels that come for a prefix only, stay usable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints

Keys = NDArray[np.uint64]
Kept = Callable[[Sequence[int]], Iterable[Any]]  # what to keep of rows, by their numbers; in the same order


def held(rows: Sequence[Any]) -> Kept:
    """Of rows that are at hand already, the rows themselves."""
    return lambda which: [rows[i] for i in which]


def uniforms(keys: Keys, seed: int) -> Floats:
    """Numbers in (0, 1) of row keys (n,), independent of the keys' own order and of other seeds.

    The profile's row sample takes the lowest keys themselves, so the draw needs other bits: the finaliser of SplitMix64
    (Steele, Lea, Flood 2014) over key and seed.
    """
    salt = (seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & (2**64 - 1)
    return (np.asarray(mixed(keys + np.uint64(salt)) >> np.uint64(11), np.float64) + 0.5) * 2.0**-53


def mixed(bits: Keys) -> Keys:
    """The finaliser of SplitMix64: every bit of the result hangs on every bit given."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Draw(msgspec.Struct):
    """The `n` rows of lowest key and the one after them, whose key is the threshold of the probabilities.

    Plain data: encode it, decode it, go on. `keys` (k,) ascending, `sizes` (k,), `ids` (k,) by which rows are told
    apart, `copies` (k,) how often each was offered, `rows` what was kept of each, k at most n + 1. Rows of one id and
    size are one item that stands for all its copies; of these the row of lowest `marks` is kept.
    """

    n: int
    seed: int = 0
    seen: int = 0  # rows offered, of which the draw is one, copies included
    keys: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    sizes: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    ids: NDArray[np.uint64] = msgspec.field(default_factory=lambda: np.zeros(0, np.uint64))
    marks: NDArray[np.uint64] = msgspec.field(default_factory=lambda: np.zeros(0, np.uint64))
    copies: NDArray[np.int64] = msgspec.field(default_factory=lambda: np.zeros(0, np.int64))
    rows: list[Any] = []
    ceiling: float = float("inf")  # under it every key of the population is held, however few they are

    def __len__(self) -> int:
        """Items drawn, the one of the threshold not among them."""
        return min(self.n, len(self.keys))

    @property
    def threshold(self) -> float:
        """Key of the first item that is not drawn; inf where every one is."""
        return float(self.keys[self.n]) if len(self.keys) > self.n else self.ceiling

    def inclusion(self) -> Floats:
        """Probability of each drawn item (len(self),) to be drawn, in key order; 1 where every one is.

        Sum of copies x value / probability over the draw estimates the sum of the value over all rows seen, without
        bias (Horvitz and Thompson), whatever the sizes were.
        """
        drawn = self.sizes[: self.n]
        threshold = self.threshold
        return np.minimum(1.0, drawn * threshold) if np.isfinite(threshold) else np.ones(len(drawn))

    # -- offering rows

    def update(self, ids: Keys, size: Floats, kept: Kept, marks: Keys | None = None) -> None:
        """Offers rows by id (n,) and size (n,), each above 0 and finite; `kept` is asked for what to keep of those that
        enter, all at once, and not where none does.

        >>> draw = Draw(n=2)
        >>> draw.update(np.arange(100, dtype=np.uint64), np.ones(100), lambda which: [f"row {i}" for i in which])
        >>> len(draw), draw.seen, draw.inclusion().round(3).tolist()
        (2, 100, [0.027, 0.027])
        """
        self.offer(uniforms(ids, self.seed) / size, size, ids, kept, marks)

    def offer(self, keys: Floats, size: Floats, ids: Keys, kept: Kept, marks: Keys | None = None) -> None:
        """The same by keys of the caller's own. Keys that are no u / size give an order, but no probabilities."""
        self.seen += len(ids)
        marks = ids if marks is None else marks
        # one that is as low as the last may be a copy of it
        entering = np.flatnonzero(keys <= self.keys[-1]) if len(self.keys) > self.n else np.arange(len(keys))
        if entering.size:
            new = keys[entering], size[entering], ids[entering], marks[entering], np.ones(entering.size, np.int64)
            self._keep_lowest(*new, lambda which: kept(entering[which].tolist()))

    def merge(self, other: Draw) -> None:
        """Adds another part's draw: now the draw of both parts' rows. ValueError unless n and seed are equal."""
        if (other.n, other.seed) != (self.n, self.seed):
            raise ValueError(f"draws differ: n {self.n} and {other.n}, seed {self.seed} and {other.seed}")
        self.seen += other.seen
        self._keep_lowest(other.keys, other.sizes, other.ids, other.marks, other.copies, held(other.rows))

    def _keep_lowest(self, keys: Floats, size: Floats, ids: Keys, marks: Keys, copies: Ints, kept: Kept) -> None:
        old = len(self.keys)
        keys, size = np.concatenate([self.keys, keys]), np.concatenate([self.sizes, size])
        ids, marks = np.concatenate([self.ids, ids]), np.concatenate([self.marks, marks])
        order = np.lexsort((marks, ids, keys))
        if not order.size:
            return
        copies = np.concatenate([self.copies, copies])[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (ids[order[1:]] != ids[order[:-1]]) | (keys[order[1:]] != keys[order[:-1]])
        starts = np.flatnonzero(first)
        self.copies = np.add.reduceat(copies, starts)[: self.n + 1]
        order = order[starts[: self.n + 1]]
        self.keys, self.sizes, self.ids, self.marks = keys[order], size[order], ids[order], marks[order]
        places = order.tolist()
        entering = [i - old for i in places if i >= old]
        entered = iter(kept(entering) if entering else ())
        self.rows = [self.rows[i] if i < old else next(entered) for i in places]

    # -- other draws of the same rows

    def first(self, n: int) -> Draw:
        """The draw of a smaller budget: the prefix that asking for `n` rows would have given."""
        if n > self.n:
            raise ValueError(f"a draw of {self.n} rows has no first {n}")
        return self._some(np.arange(min(n + 1, len(self.keys))), n)

    def under(self, ceiling: float) -> Draw:
        """The rows whose key is under a threshold that was fixed before they came: Poisson sampling, each row for
        itself, at most `n` of them."""
        return self._some(np.flatnonzero(self.keys < ceiling), self.n, min(ceiling, self.ceiling))

    def without(self, ids: Keys) -> Draw:
        """The draw of the other rows. What is taken out must have been chosen by something else than these keys."""
        out = np.isin(self.ids, ids)
        rest = self._some(np.flatnonzero(~out[: self.n]), self.n, self.threshold)
        rest.seen -= int(self.copies[out].sum())
        return rest

    def resized(self, size: Floats, most: float) -> Draw:
        """The draw that other sizes (k,) of the held rows would have given, as far as it is held.

        `most` bounds new over old size for every row there may be, held or not: under 1 / most of the threshold a row's
        new key is low only where its old one was, so all such rows are held, and the probabilities are exact.
        """
        ceiling = self.threshold / most
        keys = self.keys * self.sizes / size
        order = np.lexsort((self.ids, keys))
        other = self._some(order[keys[order] < ceiling], self.n, ceiling)
        other.sizes = size[order][: len(other.keys)]
        other.keys = keys[order][: len(other.keys)]
        return other

    def _some(self, which: Ints, n: int, ceiling: float | None = None) -> Draw:
        return Draw(
            n, self.seed, self.seen, self.keys[which], self.sizes[which], self.ids[which], self.marks[which],
            self.copies[which], [self.rows[i] for i in which.tolist()], self.ceiling if ceiling is None else ceiling,
        )  # fmt: skip
