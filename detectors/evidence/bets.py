"""Bets against the claim that nothing has changed, laid on numbers that are uniform while it is true.

A bet is a function of the uniform number with mean 1, so a stake multiplied by it grows only by luck. Stakes are laid
anew at every row: Q <- (Q + time) * bet is the Shiryaev-Roberts sum (Shiryaev 1963, Roberts 1966) of all moments at
which the change could have begun, and any mixture of such sums is an e-detector (Shin, Ramdas, Rinaldo 2022).

Three families share the stake. *Shapes* are likelihood ratios of a moved, wider or narrower normal law on normal
scores; *learned* ones are histograms of the last ranks, for any other lasting shape; *atoms* bet that one cell has
become heavy, as when a default fills what was lost. Which is right need not be known: the mixture costs the logarithm
of the share, 2 to 6 nats of the 9 that a promise of 10,000 asks for.
"""

from __future__ import annotations

from functools import cache
from math import erfc, sqrt
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints


class Shape(NamedTuple):
    """A normal law of this mean and deviation on normal scores, and its share of the shapes' stake."""

    mean: float
    deviation: float
    share: float


SHAPES = tuple(
    [Shape(sign * mean, 1.0, 1.0) for mean in (0.25, 0.5, 1.0, 2.0) for sign in (1, -1)]
    + [Shape(0.0, deviation, 1.0) for deviation in (0.6, 1.4, 2.2)]
    + [Shape(1.5, 0.5, 0.5), Shape(-1.5, 0.5, 0.5), Shape(0.0, 0.25, 0.5)]
)
HALF_LIVES = (60.0, 400.0)  # rows that a learned histogram remembers
PRIOR = (2.0, 4.0)  # rows that each of its cells starts with
BARS = 12  # its cells
FLOOR = 0.1  # share of a learned bet that is no bet, so an empty cell costs a factor of ten and not all
HEAVY = 0.15  # mass that an atom bet moves to its cell: grows within 7 % of the best rate for 10 % and for 30 % filled
STAKES = (0.6, 0.2, 0.2)  # of shapes, learned and atoms

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
    """The shapes' bets in every cell of u (2 * _HALF, shapes): mass under the shape over mass under the uniform law."""
    edges = ((np.arange(_HALF + 1, dtype=np.int64) + _ZERO) << (52 - _SUB)).view(np.float64)
    scores = np.array([NormalDist().inv_cdf(u) for u in edges.tolist()])
    width = np.diff(edges)
    width[0] = edges[1]  # the outermost cell reaches to 0
    found = np.empty((2 * _HALF, len(SHAPES)))
    for k, (mean, deviation, _) in enumerate(SHAPES):
        for side, sign in ((slice(0, _HALF), 1.0), (slice(2 * _HALF - 1, _HALF - 1, -1), -1.0)):
            z = (sign * mean - scores) / (deviation * sqrt(2.0))
            mass = np.array([0.5 * erfc(x) for x in z.tolist()])
            mass[0] = 0.0
            found[side, k] = np.diff(mass) / width
    return found


class Stakes(msgspec.Struct, frozen=True):
    """What has been won by each bet so far, and what the learned ones learned."""

    held: NDArray[np.float64]  # (bets, columns): shapes, learned, atoms
    bars: NDArray[np.float64]  # (learned, BARS, columns), decayed counts
    seen: NDArray[np.float64]  # (learned, columns), their sums


class Bets(msgspec.Struct, frozen=True, dict=True):
    """The mixture of all bets on columns of uniform numbers, each of which came from one of `cells` cells."""

    cells: int

    def _weights(self) -> Floats:
        shapes = np.array([shape.share for shape in SHAPES])
        parts = (shapes, np.ones(len(HALF_LIVES)), np.ones(self.cells))
        return np.concatenate([stake * part / part.sum() for stake, part in zip(STAKES, parts, strict=True)])

    def start(self, columns: int) -> Stakes:
        """Nothing won, nothing learned."""
        learned = len(HALF_LIVES)
        return Stakes(
            np.zeros((len(SHAPES) + learned + self.cells, columns)),
            np.ones((learned, BARS, columns)),
            np.full((learned, columns), float(BARS)),
        )

    def restart(self, stakes: Stakes, columns: Ints) -> Stakes:
        """The stakes of these columns thrown away."""
        fresh = self.start(len(columns))
        held, bars, seen = stakes.held.copy(), stakes.bars.copy(), stakes.seen.copy()
        held[:, columns], bars[..., columns], seen[:, columns] = fresh.held, fresh.bars, fresh.seen
        return Stakes(held, bars, seen)

    def step(self, stakes: Stakes, u: Floats, cell: Ints, width: Floats, time: Floats) -> tuple[Stakes, Floats]:
        """The stakes after rows, and the evidence M (n, columns) after each.

        `u` (n, columns) uniform, NaN = no bet; `cell` the cell each came from; `width` what share of the uniform
        numbers that cell had before the row was known, NaN where u lies outside it; `time` (n,) what passes with a row.
        """
        n, columns = u.shape
        present = np.asarray(~np.isnan(u))
        known = np.where(present, u, 0.5)
        shapes, learned = len(SHAPES), len(HALF_LIVES)
        fixed = np.ascontiguousarray(_table()[_tail_cell(known)].transpose(0, 2, 1))  # (n, shapes, columns)
        fixed = np.where(present[:, None], fixed, 1.0)
        passed = time[:, None] * present
        keep = np.array([0.5 ** (1 / h) for h in HALF_LIVES])[:, None]
        bar = np.minimum((known * BARS).astype(np.int64), BARS - 1)
        at = (bar[:, None] + BARS * np.arange(learned)[:, None]) * columns + np.arange(columns)
        prior = np.array(PRIOR)[:, None]
        loss = np.where(present, 1.0 - HEAVY, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(width > 0, 1.0 + HEAVY / width / (1.0 - HEAVY), 1.0)
        atom = (shapes + learned + np.where(present, cell, 0)) * columns + np.arange(columns)
        weights = self._weights()

        held, bars, seen = stakes.held.copy(), stakes.bars.copy(), stakes.seen.copy()
        flat_held, flat_bars = held.reshape(-1), bars.reshape(-1)
        evidence = np.empty((n, columns))
        whole = np.asarray(present.all(axis=1))
        for i in range(n):
            held += passed[i]
            held[:shapes] *= fixed[i]
            mine = flat_bars[at[i]]
            bet = FLOOR + (1 - FLOOR) * BARS * (mine + prior) / (seen + BARS * prior)
            if whole[i]:
                held[shapes : shapes + learned] *= bet
                bars *= keep[:, None]
                flat_bars[at[i]] = mine * keep + 1.0
                seen *= keep
                seen += 1.0
            else:
                here = present[i]
                held[shapes : shapes + learned] *= np.where(here, bet, 1.0)
                bars *= np.where(here, keep, 1.0)[:, None]
                flat_bars[at[i]] += here
                seen *= np.where(here, keep, 1.0)
                seen += here
            held[shapes + learned :] *= loss[i]
            flat_held[atom[i]] *= gain[i]
            evidence[i] = weights @ held
        return Stakes(held, bars, seen), evidence
