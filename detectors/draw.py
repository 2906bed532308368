"""Which rows to label: a draw whose inclusion probabilities are known, so the labels also measure the model.

Order sampling (Duffield, Lund, Thorup 2007, "priority sampling"; Ohlsson 1998): a row of size s gets the key u / s,
with u in (0, 1) from a hash of its id, and the rows of lowest key are the draw. No second pass, the same on every
replica and after a replay; the draw of a union is the lowest keys of the parts' draws; and every prefix in key order
is itself a draw with probabilities of its own, so a smaller budget, or labels that come for a prefix only, stay usable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats


def sizes(margin: Floats, mean_square: float, floor: float = 0.2, power: float = 2.0) -> Floats:
    """How much each row deserves a label (n,), 1 on average, at least `floor`.

    `margin` (n,) is the largest score less the second; a row in doubt, 1 - margin near 1, weighs most. `mean_square` is
    the mean of (1 - margin) ** power over the reference, never over the rows at hand: a size must not depend on what
    else is in the window, or draws of two partitions could not be merged. A row without margin (NaN), and every row
    where the reference is never in doubt (`mean_square` not above 0), has size 1.

    >>> sizes(np.array([1.0, 0.5, 0.0, np.nan]), mean_square=0.25).tolist()
    [0.2, 1.0, 3.4000000000000004, 1.0]
    """
    if not mean_square > 0:
        return np.ones(len(margin))
    doubt = 1.0 - np.clip(margin, 0.0, 1.0)
    return np.where(np.isnan(doubt), 1.0, (1.0 - floor) * doubt**power / mean_square + floor)


def uniforms(keys: NDArray[np.uint64], seed: int) -> Floats:
    """Numbers in (0, 1) of row keys (n,), independent of the keys' own order and of other seeds.

    The profile's row sample takes the lowest keys themselves, so the draw needs other bits: the finaliser of SplitMix64
    (Steele, Lea, Flood 2014) over key and seed.
    """
    salt = (seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & (2**64 - 1)
    mixed = keys + np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (np.asarray(mixed >> np.uint64(11), np.float64) + 0.5) * 2.0**-53


class Draw(msgspec.Struct):
    """The `n` rows of lowest key and the one after them, whose key is the threshold of the probabilities.

    Plain data: encode it, decode it, go on. `keys` (k,) ascending, `sizes` (k,), `ids` (k,) the rows' own keys, `rows`
    what was kept of each row, k at most n + 1. A row offered twice is held once, but counted twice in `seen`.
    """

    n: int
    seed: int = 0
    seen: int = 0  # rows offered, of which the draw is one
    keys: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    sizes: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.zeros(0))
    ids: NDArray[np.uint64] = msgspec.field(default_factory=lambda: np.zeros(0, np.uint64))
    rows: list[Any] = []

    def __len__(self) -> int:
        """Rows drawn, the one of the threshold not among them."""
        return min(self.n, len(self.keys))

    @property
    def threshold(self) -> float:
        """Key of the first row that is not drawn; inf where every row is."""
        return float(self.keys[self.n]) if len(self.keys) > self.n else float("inf")

    def inclusion(self) -> Floats:
        """Probability of each drawn row (len(self),) to be drawn, in key order; 1 where every row is.

        Sum of value / probability over the draw estimates the sum of the value over all rows seen, without bias
        (Horvitz and Thompson), whatever the sizes were.
        """
        drawn = self.sizes[: self.n]
        threshold = self.threshold
        return np.minimum(1.0, drawn * threshold) if np.isfinite(threshold) else np.ones(len(drawn))

    def first(self, n: int) -> Draw:
        """The draw of a smaller budget: the prefix that asking for `n` rows would have given."""
        if n > self.n:
            raise ValueError(f"a draw of {self.n} rows has no first {n}")
        k = min(n + 1, len(self.keys))
        return Draw(n, self.seed, self.seen, self.keys[:k], self.sizes[:k], self.ids[:k], self.rows[:k])

    def update(self, ids: NDArray[np.uint64], size: Floats, row: Callable[[int], Any]) -> None:
        """Offers rows by key (n,) and size (n,), each above 0 and finite; `row(i)` is called only for those that enter.

        >>> draw = Draw(n=2); draw.update(np.arange(100, dtype=np.uint64), np.ones(100), lambda i: f"row {i}")
        >>> len(draw), draw.seen, draw.inclusion().round(3).tolist()
        (2, 100, [0.027, 0.027])
        """
        self.seen += len(ids)
        keys = uniforms(ids, self.seed) / size
        if len(self.keys) > self.n:
            entering = np.flatnonzero(keys < self.keys[-1])
            self._keep_lowest(keys[entering], size[entering], ids[entering], lambda i: row(int(entering[i])))
        else:
            self._keep_lowest(keys, size, ids, row)

    def merge(self, other: Draw) -> None:
        """Adds another part's draw: now the draw of both parts' rows. ValueError unless n and seed are equal."""
        if (other.n, other.seed) != (self.n, self.seed):
            raise ValueError(f"draws differ: n {self.n} and {other.n}, seed {self.seed} and {other.seed}")
        self.seen += other.seen
        self._keep_lowest(other.keys, other.sizes, other.ids, other.rows.__getitem__)

    def _keep_lowest(self, keys: Floats, size: Floats, ids: NDArray[np.uint64], row: Callable[[int], Any]) -> None:
        held = len(self.keys)
        keys, size = np.concatenate([self.keys, keys]), np.concatenate([self.sizes, size])
        ids = np.concatenate([self.ids, ids])
        order = np.lexsort((ids, keys))
        if len(order):
            ordered = ids[order]
            order = order[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
        order = order[: self.n + 1]
        self.keys, self.sizes, self.ids = keys[order], size[order], ids[order]
        self.rows = [self.rows[i] if i < held else row(i - held) for i in order.tolist()]
