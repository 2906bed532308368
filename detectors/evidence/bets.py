"""Bets against the claim that nothing has changed, laid on numbers that are uniform while it is true.

A bet is a function of the uniform number with mean 1, so a stake multiplied by it grows only by luck. Stakes are laid
anew at every row: Q <- (Q + time) * bet is the Shiryaev-Roberts sum (Shiryaev 1963, Roberts 1966) of all moments at
which the change could have begun, and any mixture of such sums is an e-detector (Shin, Ramdas, Rinaldo 2022).

Three families share the stake. *Shapes* are likelihood ratios of a moved, wider or narrower normal law on normal
scores; the *learned* one is a histogram of the last ranks, for any other lasting shape; *atoms* bet that one cell has
become heavy, as when a default fills what was lost. Which is right need not be known: the mixture costs the logarithm
of the share, 2 to 6 nats of the 9 that a promise of 10,000 asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from math import erfc, log, sqrt
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints, Mask


class Shape(NamedTuple):
    """A normal law of this mean and deviation, on normal scores."""

    mean: float
    deviation: float

    @property
    def side(self) -> int:
        """1 where it looks for higher values, -1 for lower, 0 for neither."""
        return int(np.sign(self.mean))

    @property
    def gain(self) -> float:
        """Nats a row that the bet wins where it is right (Kullback, Leibler 1951)."""
        return (self.mean**2 + self.deviation**2 - 1) / 2 - log(self.deviation)


SHAPES = tuple(
    [Shape(sign * mean, 1.0) for mean in (0.25, 0.5, 1.0, 2.0) for sign in (1, -1)]
    + [Shape(0.0, 0.25), Shape(0.0, 0.6), Shape(0.0, 1.4), Shape(0.0, 2.2), Shape(1.5, 0.5), Shape(-1.5, 0.5)]
)
BARS = 12  # of the learned histogram
KEPT = 0.5 ** (1 / 400)  # what it keeps of itself a row: half of it is 400 rows old
FLOOR = 0.1  # share of the learned bet that is no bet, so an empty bar costs a factor of ten and not all
HEAVY = 0.15  # mass that an atom bet moves to its cell: grows within 7 % of the best rate for 10 % and for 30 % filled
STAKES = (0.6, 0.2, 0.2)  # of shapes, learned and atoms
LEAK = 1 - 2.0**-13  # of an atom's stake that a row leaves: else that of a constant column would grow for ever


def by_gain(gains: Sequence[float]) -> Floats:
    """Shares of bets that win so much a row, summing to 1: those that win slowly get more, by the square root.

    The delay of a bet is log(promise / share) / gain. Shares in proportion to 1 / gain make the mean delay over all of
    them least, equal shares the mean of their logarithms; this is half way.
    """
    worth = np.asarray(gains) ** -0.5
    return np.asarray(worth / worth.sum())


# Shapes are tabled on cells of u that narrow towards 0 and 1: 32 an octave of the nearer tail, down to 2^-24. Within a
# cell the bet is its own mean there, so the table is exact, not near: its mean over a uniform u is 1.
_SUB, _DEEP = 5, 24
_ZERO = int(np.float64(2.0**-_DEEP).view(np.int64) >> (52 - _SUB))
_HALF = (_DEEP - 1) << _SUB


def _tail_cell(u: Floats) -> Ints:
    near = np.clip(np.minimum(u, 1.0 - u), 2.0**-_DEEP, None)
    at = np.minimum((near.view(np.int64) >> (52 - _SUB)) - _ZERO, _HALF - 1)
    return np.asarray(np.where(u < 0.5, at, 2 * _HALF - 1 - at))


@cache
def _table() -> Floats:
    """The shapes' bets in every cell of u (shapes, 2 * _HALF): mass under the shape over mass under the uniform law."""
    edges = ((np.arange(_HALF + 1, dtype=np.int64) + _ZERO) << (52 - _SUB)).view(np.float64)
    scores = np.array([NormalDist().inv_cdf(u) for u in edges.tolist()])
    width = np.diff(edges)
    width[0] = edges[1]  # the outermost cell reaches to 0
    found = np.empty((len(SHAPES), 2 * _HALF))
    for k, (mean, deviation) in enumerate(SHAPES):
        for side, sign in ((slice(0, _HALF), 1.0), (slice(2 * _HALF - 1, _HALF - 1, -1), -1.0)):
            z = (sign * mean - scores) / (deviation * sqrt(2.0))
            mass = np.array([0.5 * erfc(x) for x in z.tolist()])
            mass[0] = 0.0
            found[k, side] = np.diff(mass) / width
    return found


class Stakes(msgspec.Struct, frozen=True):
    """What has been won by each bet so far, and what the learned one learned."""

    held: NDArray[np.float64]  # (bets, columns): shapes, the learned one, atoms
    bars: NDArray[np.float64]  # (BARS, columns), sum 1


class Bets(msgspec.Struct, frozen=True, dict=True):
    """The mixture of all bets on columns of uniform numbers, each of which came from one of `cells` cells."""

    cells: int

    @cached_property
    def _shares(self) -> Floats:
        """Of one unit of stake (bets, 3), by side: both, higher, lower. One side has the shapes of that side only."""
        found = np.zeros((len(SHAPES) + 1 + self.cells, 3))
        parts = (by_gain([shape.gain for shape in SHAPES]), np.ones(1), np.full(self.cells, 1 / self.cells))
        found[:, 0] = np.concatenate([stake * part for stake, part in zip(STAKES, parts, strict=True)])
        for side in (1, -1):
            of = [k for k, shape in enumerate(SHAPES) if shape.side == side]
            found[of, side] = by_gain([SHAPES[k].gain for k in of])
        return found

    def start(self, columns: int) -> Stakes:
        """Nothing won, nothing learned."""
        return Stakes(np.zeros((len(self._shares), columns)), np.full((BARS, columns), 1 / BARS))

    def step(
        self, stakes: Stakes, sides: Ints, u: Floats, cell: Ints, width: Floats, time: Floats
    ) -> tuple[Stakes, Floats]:
        """The stakes after rows, and the evidence M (n, columns) after each.

        `sides` (columns,) 1 = bet on higher values only, -1 = lower, 0 = all; `u` (n, columns) uniform, NaN = no bet;
        `cell` the cell each came from; `width` what share of the uniform numbers that cell had before the row was
        known, NaN where u lies outside it; `time` (n,) what passes with a row.
        """
        n, columns = u.shape
        absent: Mask = np.asarray(np.isnan(u))
        known = np.where(absent, 0.5, u)
        learned = len(SHAPES)
        bets = np.empty((n, learned + 1, columns))  # the learned one's is filled in row by row
        at = _tail_cell(known)
        for k, shape in enumerate(_table()):
            bets[:, k] = shape[at]
        f = np.arange(columns)
        bar = np.minimum((known * BARS).astype(np.int64), BARS - 1) * columns + f
        atom = (learned + 1 + np.where(absent, 0, cell)) * columns + f
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(width > 0, 1.0 + HEAVY / width / (1.0 - HEAVY), 1.0)

        held, bars = stakes.held.copy(), stakes.bars.copy()
        flat_held, flat_bars = held.reshape(-1), bars.reshape(-1)
        first, atoms = held[: learned + 1], held[learned + 1 :]
        evidence = np.empty((n, columns))
        shares = self._shares[:, sides]
        lay = shares * time[0]
        holes: Mask = np.asarray(absent.any(axis=1))
        # Most of the time goes here, so a row is ten calls on whole arrays, and a missing value is put right after.
        for i in range(n):
            gone = np.flatnonzero(absent[i]) if holes[i] else f[:0]
            kept = held[:, gone], bars[:, gone]
            mine = flat_bars[bar[i]]
            bets[i, learned] = FLOOR + (1 - FLOOR) * BARS * mine
            bars *= KEPT
            flat_bars[bar[i]] = mine * KEPT + (1 - KEPT)
            if time[i] != time[i - 1]:
                lay = shares * time[i]
            held += lay
            first *= bets[i]
            atoms *= (1.0 - HEAVY) * LEAK
            flat_held[atom[i]] *= gain[i]
            if gone.size:
                held[:, gone], bars[:, gone] = kept
            held.sum(axis=0, out=evidence[i])
        return Stakes(held, bars), evidence
