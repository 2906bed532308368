"""Evidence that numbers left the fixed reference by more than a tolerance: never talked round by a slow creep.

Ranks among everything seen so far learn a slow change away, and find any lasting difference in the end, however small.
The guard is their complement: it measures only against the reference, and a difference within the tolerance never
counts.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints
from detectors.evidence.bets import sums
from detectors.evidence.ranks import cells_of, counted, cut

CELLS = 16  # a mean rank on 16 cells has 99.6 % of the power
STAKES = (0.1, 0.3, 0.8)  # share of the stake that is bet; the best is about the size of the departure
ERRORS = 3.0  # standard errors of the reference's own mean rank that count as tolerance, too
SPREAD = 3**-0.5  # standard deviation of a mean rank, which is uniform on -1 .. 1


class Fixed(msgspec.Struct, frozen=True):
    """The reference as the guard keeps it, and what has been won."""

    edges: NDArray[np.float64]  # (CELLS - 1, columns)
    ranks: NDArray[np.float32]  # (2, CELLS, columns) of a value in each cell, and how far from the middle; -1 to 1
    slack: NDArray[np.float64]  # (columns,) tolerance and the reference's error; inf = silenced
    sides: NDArray[np.int64]  # (columns,) 1 = only higher values count, -1 = lower, 0 = any departure
    held: NDArray[np.float32]  # (len(STAKES) * 4, columns): higher, lower, wider, narrower


class Guard(msgspec.Struct, frozen=True):
    """Evidence that the mean rank, or the mean distance from the middle rank, left the reference (`Evidence`).

    `tolerance` is in rank: 2 P(new > old) - 1, ties counted half; 0.05 is a normal law moved by 0.09 deviations, 0.05
    by width one grown by a tenth. Betting on a bounded mean (Waudby-Smith, Ramdas 2024): the promise holds for any
    stream, exchangeable or not, whose mean rank given the past stays within the tolerance and three standard errors of
    the reference. Blind to changes that keep both means, such as a few values far out. Memory: 0.3 KB a column.
    """

    tolerance: float = 0.05

    def fit(self, rows: Floats, sides: Ints | None = None) -> Fixed:
        columns = rows.shape[1]
        edges = np.array([cut(column, CELLS) for column in rows.T]).reshape(columns, CELLS - 1).T
        counts = counted(cells_of(edges, rows), CELLS)
        total = counts.sum(axis=0)
        rank = (2 * np.cumsum(counts, axis=0) - counts) / np.maximum(total, 1) - 1
        width = 2 * np.abs(rank) - 1
        middle = (width * counts).sum(axis=0) / np.maximum(total, 1)
        # ties pull the mean distance from the middle off 0; put back, it still lies within -1 .. 1
        width = (width - middle) / (1 + np.abs(middle))
        slack = self.tolerance + ERRORS * SPREAD / np.sqrt(np.maximum(total, 1))
        both = np.zeros(columns, np.int64)
        held = np.zeros((len(STAKES) * 4, columns), np.float32)
        ranks = np.stack([rank, width]).astype(np.float32)
        return Fixed(edges, ranks, slack, both if sides is None else sides, held)

    def step(self, state: Fixed, rows: Floats, ties: Floats, time: Floats) -> tuple[Fixed, Floats]:
        n, columns = rows.shape
        cell = cells_of(state.edges, rows)
        present = (cell >= 0) & np.isfinite(state.slack)
        slack = np.where(np.isfinite(state.slack), state.slack, 0.0).astype(np.float32)
        rank, width = (of.take(np.maximum(cell, 0) * columns + np.arange(columns)) for of in state.ranks)
        departure = np.stack([rank, -rank, width, -width], axis=1) - slack
        departure /= 1 + slack
        bets = 1 + np.array(STAKES, np.float32)[:, None, None] * departure[:, None]  # (n, STAKES, 4, columns)
        if not present.all():
            bets = np.where(present[:, None, None], bets, np.float32(1))
        shares = np.tile(_shares()[:, state.sides] / len(STAKES), (len(STAKES), 1))
        held, evidence = sums(state.held, shares, time[:, None] * present, bets.reshape(n, len(shares), columns))
        return msgspec.structs.replace(state, held=held), evidence

    def restart(self, state: Fixed, columns: Ints) -> Fixed:
        held = state.held.copy()
        held[..., columns] = 0.0
        return msgspec.structs.replace(state, held=held)

    def relearn(self, state: Fixed, columns: Ints) -> Fixed:
        """The guard of these columns falls silent: that they left the reference has been said."""
        slack = state.slack.copy()
        slack[columns] = np.inf
        return msgspec.structs.replace(self.restart(state, columns), slack=slack)


def _shares() -> Floats:
    """Of one unit of stake among the four departures (4, 3), by side: both, higher, lower."""
    return np.array([[0.25, 1.0, 0.0], [0.25, 0.0, 1.0], [0.25, 0.0, 0.0], [0.25, 0.0, 0.0]])
