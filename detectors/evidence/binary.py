"""Evidence that a rate has changed: errors, disagreement, missing values, any yes or no.

The sequential rank of a 0/1 row is uniform like any other (`detectors.evidence.ranks`), and the bet is the Bernoulli
likelihood ratio of a changed rate, laid on which side of the rate seen so far the rank falls. So the promise is exact
although the true rate is never known, at any rate and any size of reference.
"""

from __future__ import annotations

from math import log

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints, Mask
from detectors.evidence import grafted
from detectors.evidence.bets import by_gain, sums

ODDS = (0.6, 1.25, 1.8, 4.0, 50.0)  # the odds bet on, over those seen so far; the last for what has never been
LEAK = np.float32(
    1 - 2.0**-12
)  # of a stake that a row leaves: else that on an event which never comes would grow for ever


def _shares() -> Floats:
    """Of one unit of stake (bets, 3), by side: both, higher, lower."""
    # what a rare event's bet wins for each time that the event was to be expected
    gains = [odds * log(odds) - odds + 1 for odds in ODDS]
    found = np.zeros((len(ODDS), 3))
    for side in (0, 1, -1):
        of = [k for k, odds in enumerate(ODDS) if (odds - 1) * side >= 0]
        found[of, side] = by_gain([gains[k] for k in of])
    return found


class Rate(msgspec.Struct, frozen=True):
    """What is known of 0/1 columns, and what has been won on them."""

    rows: NDArray[np.int64]  # (columns,) seen
    ones: NDArray[np.int64]  # (columns,) of which 1
    sides: NDArray[np.int64]  # (columns,) 1 = only a higher rate counts as a change, -1 = a lower, 0 = any change
    held: NDArray[np.float32]  # (bets, columns)


class Binary(msgspec.Struct, frozen=True):
    """Evidence that the rate of 1 in 0/1 columns changed since the reference (`Evidence`).

    Any value over 0 counts as 1. Blind to a change of order at an unchanged rate. Memory: 10 numbers a column.
    """

    def fit(self, rows: Floats, sides: Ints | None = None) -> Rate:
        """All rows are counted. `sides` as in `Rate`."""
        seen = ~np.isnan(rows)
        both = np.zeros(rows.shape[1], np.int64)
        held = np.zeros((len(ODDS), rows.shape[1]), np.float32)
        return Rate(seen.sum(axis=0), (rows > 0).sum(axis=0), both if sides is None else sides, held)

    def step(self, state: Rate, rows: Floats, ties: Floats, time: Floats) -> tuple[Rate, Floats]:
        present: Mask = ~np.isnan(rows)
        one = rows > 0
        seen = state.rows + np.cumsum(present, axis=0)
        ones = state.ones + np.cumsum(one, axis=0)
        # the rate before the row, never 0 or 1
        rate = (ones - one + 0.5) / (seen - present + 1)
        share = ones / np.maximum(seen, 1)
        u = np.where(one, 1 - share + ties * share, ties * (1 - share))
        # likelihood of the changed rate over that of the old one, r odds / (1 - r + r odds) over r, and so for 0
        odds = np.array(ODDS, np.float32)[:, None]
        likely = np.where((u > 1 - rate)[:, None], odds, np.float32(1))
        bets = LEAK * likely / (1 + rate.astype(np.float32)[:, None] * (odds - 1))  # (n, bets, columns)
        if not present.all():
            bets = np.where(present[:, None], bets, np.float32(1))
        held, evidence = sums(state.held, _shares()[:, state.sides], time[:, None] * present, bets)
        return Rate(seen[-1], ones[-1], state.sides, held), evidence

    def restart(self, state: Rate, columns: Ints) -> Rate:
        held = state.held.copy()
        held[:, columns] = 0.0
        return msgspec.structs.replace(state, held=held)

    def relearn(self, state: Rate, columns: Ints) -> Rate:
        """The counts begin at nothing."""
        return grafted(state, columns, self.fit(np.zeros((0, len(columns))), state.sides[columns]))
