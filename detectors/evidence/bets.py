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
BLOCK = 128  # rows at once: what is reckoned for them stays in the cache
LEAK = 1 - 2.0**-13  # of an atom's stake that a row leaves: else that of a constant column would grow for ever
FADED = (1.0 - HEAVY) * LEAK  # what a row leaves of an atom that it does not hit
_NOTHING = 1e-20  # what an atom over an idle one may have and be forgotten: no digit of any sum changes
FADED = (1.0 - HEAVY) * LEAK  # what a row leaves of an atom that it does not hit


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
def _table() -> NDArray[np.float32]:
    """The shapes' bets in every cell of u (shapes, 2 * _HALF + 1): its mass under the shape over that under no change.

    The last cell is that of no value: no bet, 1. None is under 1e-30, so a stake that outgrew single precision stays
    infinite.
    """
    edges = ((np.arange(_HALF + 1, dtype=np.int64) + _ZERO) << (52 - _SUB)).view(np.float64)
    scores = np.array([NormalDist().inv_cdf(u) for u in edges.tolist()])
    width = np.diff(edges)
    width[0] = edges[1]  # the outermost cell reaches to 0
    found = np.ones((len(SHAPES), 2 * _HALF + 1))
    for k, (mean, deviation) in enumerate(SHAPES):
        for side, sign in ((slice(0, _HALF), 1.0), (slice(2 * _HALF - 1, _HALF - 1, -1), -1.0)):
            z = (sign * mean - scores) / (deviation * sqrt(2.0))
            mass = np.array([0.5 * erfc(x) for x in z.tolist()])
            mass[0] = 0.0
            found[k, side] = np.diff(mass) / width
    return np.maximum(found, 1e-30).astype(np.float32)


class Bars(msgspec.Struct, frozen=True):
    """The learned histogram. Bars fade by the row; instead, they are counted in a unit that grows."""

    heights: NDArray[np.float32]  # (BARS, columns), sum `unit`
    unit: NDArray[np.float64]  # (columns,) 1 to 2


class Atoms(msgspec.Struct, frozen=True):
    """What the atoms have won, also in a unit that grows: a row touches one of them, and all others fade alike."""

    over: NDArray[np.float32]  # (cells, columns) what each has over an idle one, which has never been hit
    sum: NDArray[np.float64]  # (columns,) of `over`
    idle: NDArray[np.float64]  # (columns,) what an idle one makes of a stake of 1
    unit: NDArray[np.float64]  # (columns,) 1 to 2


class Stakes(msgspec.Struct, frozen=True):
    """What has been won by each bet so far, and what the learned one learned."""

    held: NDArray[np.float32]  # (shapes and the learned one, columns)
    bars: Bars
    atoms: Atoms


def sums(
    held: NDArray[np.float32], shares: Floats, passed: Floats, bets: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Floats]:
    """Q <- (Q + time) * bet, row by row: what is held after the last, and its sum over bets (n, columns) after each.

    `held` (bets, columns) before the first row; `shares` (bets, columns) of one unit of stake; `passed` (n, columns)
    what passes with a row; `bets` (n, bets, columns) is used up. The row is the unit of work: two or three calls on
    arrays that stay in the cache, and no product over many rows that could overflow or vanish. Single precision errs by
    1e-7 of what is held, either way alike; what outgrows it, long after an alarm, is infinite.
    """
    shares, passed = shares.astype(np.float32), passed.astype(np.float32)
    changes = np.append(True, (passed[1:] != passed[:-1]).any(axis=1)).tolist()
    laid, stake = np.empty_like(shares), np.empty_like(shares)
    with np.errstate(over="ignore"):
        for i, bet in enumerate(bets):
            if changes[i]:
                np.multiply(shares, passed[i], out=laid)
            np.add(held, laid, out=stake)
            held = np.multiply(stake, bet, out=bet)
        return held.copy(), bets.sum(axis=1).astype(np.float64)


class Bets(msgspec.Struct, frozen=True, dict=True):
    """The mixture of all bets on columns of uniform numbers, each of which came from one of `cells` cells.

    Without cells there are no atoms, and the others have their share.
    """

    cells: int

    @cached_property
    def _shares(self) -> Floats:
        """Of one unit of stake (shapes, the learned one, an atom; 3), by side: both, higher, lower.

        One side has the shapes of that side only.
        """
        found = np.zeros((len(SHAPES) + 2, 3))
        shapes, learned, atoms = np.array(STAKES) / (1.0 if self.cells else sum(STAKES[:2]))
        found[:-2, 0] = shapes * by_gain([shape.gain for shape in SHAPES])
        found[-2, 0] = learned
        found[-1, 0] = atoms / max(self.cells, 1)
        for side in (1, -1):
            of = [k for k, shape in enumerate(SHAPES) if shape.side == side]
            found[of, side] = by_gain([SHAPES[k].gain for k in of])
        return found

    def start(self, columns: int) -> Stakes:
        """Nothing won, nothing learned."""
        none, one = np.zeros(columns), np.ones(columns)
        return Stakes(
            np.zeros((len(SHAPES) + 1, columns), np.float32),
            Bars(np.full((BARS, columns), 1 / BARS, np.float32), one),
            Atoms(np.zeros((self.cells, columns), np.float32), none, none, one),
        )

    def step(
        self, stakes: Stakes, sides: Ints, u: Floats, cell: Ints, width: Floats, time: Floats
    ) -> tuple[Stakes, Floats]:
        """The stakes after rows, and the evidence M (n, columns) after each.

        `sides` (columns,) 1 = bet on higher values only, -1 = lower, 0 = all; `u` (n, columns) uniform, NaN = no bet;
        `cell` the cell each came from, -1 = no bet; `width` what share of the uniform numbers that cell had before the
        row was known, NaN where u lies outside it; `time` (n,) what passes with a row.
        """
        evidence = np.empty(u.shape)
        with np.errstate(over="ignore", invalid="ignore"):  # rows long after an alarm
            for start in range(0, len(u), BLOCK):
                rows = slice(start, start + BLOCK)
                stakes, evidence[rows] = self._step(stakes, sides, u[rows], cell[rows], width[rows], time[rows])
        evidence[np.isnan(evidence)] = np.inf
        return stakes, evidence

    def _step(
        self, stakes: Stakes, sides: Ints, u: Floats, cell: Ints, width: Floats, time: Floats
    ) -> tuple[Stakes, Floats]:
        present: Mask = ~np.isnan(u)
        u = np.where(present, u, 0.5)
        passed = time[:, None] * present
        shares = self._shares[:, sides]
        bets = np.empty((len(u), len(SHAPES) + 1, u.shape[1]), np.float32)
        at = np.where(present, _tail_cell(u), 2 * _HALF)
        for k, table in enumerate(_table()):
            table.take(at, out=bets[:, k], mode="clip")
        bars, bets[:, -1] = _learned(stakes.bars, u, present)
        held, evidence = sums(stakes.held, shares[:-1], passed, bets)
        atoms = stakes.atoms
        if self.cells:
            atoms, won = _heavy(atoms, shares[-1], passed, cell, width)
            evidence += won
        return Stakes(held, bars, atoms), evidence


def _learned(bars: Bars, u: Floats, present: Mask) -> tuple[Bars, Floats]:
    """The bars after rows, and the bet (n, columns) that they are before each."""
    unit = _running(np.multiply, bars.unit, np.where(present, 1 / KEPT, 1.0))
    bar = np.minimum(u * BARS, BARS - 1).astype(np.int64)
    growth = np.where(present, (1 - KEPT) * unit[1:], 0.0)
    heights, height = _touched(bars.heights, bar, np.ones(u.shape), growth)
    bet = np.where(present, FLOOR + (1 - FLOOR) * BARS / unit[:-1] * height, 1.0)
    down = _doublings(unit[-1])
    return Bars(np.ldexp(heights, down), np.ldexp(unit[-1], down)), bet


def _heavy(atoms: Atoms, share: Floats, passed: Floats, cell: Ints, width: Floats) -> tuple[Atoms, Floats]:
    """The atoms after rows, and what they hold together (n, columns) after each; `share` (columns,) is staked on each.

    An atom that is hit wins on what it has over an idle one, and on what an idle one has.
    """
    unit = _running(np.multiply, atoms.unit, np.where(cell >= 0, 1 / FADED, 1.0))
    idle = _running(np.add, atoms.idle, passed * unit[:-1])
    with np.errstate(divide="ignore"):
        more = np.where(width > 0, HEAVY / (1.0 - HEAVY) / width, 0.0)
    lent = share * idle[1:] * more
    over, had = _touched(atoms.over, np.maximum(cell, 0), 1 + more, lent)
    total = _running(np.add, atoms.sum, had * more + lent)
    held = (len(over) * share * idle[1:] + total[1:]) / unit[1:]
    down = _doublings(unit[-1])
    over = np.ldexp(over, down)
    over[over < _NOTHING] = 0.0
    return Atoms(over, *(np.ldexp(x[-1], down) for x in (total, idle, unit))), held


def _running(what: np.ufunc, first: Floats, rows: Floats) -> Floats:
    """Running sum or product (n + 1, columns) from `first`, row by row, so that any pieces give the same."""
    return np.asarray(what.accumulate(np.concatenate([first[None], rows])))


def _touched(
    table: NDArray[np.float32], at: Ints, factor: Floats, addend: Floats
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The table after rows that turn, each, the x in row `at` of every column into x * factor + addend; and the x."""
    columns = table.shape[1]
    flat = table.ravel().copy()
    had = np.empty(at.shape, np.float32)
    places = at * columns + np.arange(columns)
    changed = np.empty(columns, np.float32)
    for place, x, a, b in zip(places, had, factor.astype(np.float32), addend.astype(np.float32), strict=True):
        flat.take(place, out=x, mode="clip")
        np.multiply(x, a, out=changed)
        np.add(changed, b, out=changed)
        flat[place] = changed
    return flat.reshape(table.shape), had


def _doublings(unit: Floats) -> Ints:
    """Exponents (columns,) of the powers of two that bring units back to 1 to 2: to multiply by them rounds nothing."""
    return np.asarray(1 - np.frexp(unit)[1])
