"""Evidence that the words of a category column changed: the ranks of numbers, taken on words.

A word is a cell. Which words have one is fixed by a part of the reference, the commonest first; all others, seen later
or never, share the last. So a column that brings new words every day has as many of them in the reference as after.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints
from detectors.evidence import grafted
from detectors.evidence.bets import Stakes
from detectors.evidence.ranks import BETS, BLOCK, CELLS, counted, part_for_cells, rank

NONE = -9.0  # code of no word


class Shares(msgspec.Struct, frozen=True):
    """What is known of category columns, and what has been won on them."""

    words: NDArray[np.float64]  # (CELLS - 1, columns) codes with a cell of their own, padded with NONE
    counts: NDArray[np.int32]  # (CELLS, columns), of the reference and every row since; last, all other words
    stakes: Stakes


class Category(msgspec.Struct, frozen=True):
    """Evidence that the shares of words changed since the reference (`Evidence`).

    Rows are codes, NaN = missing; any number stands for a word. Exact for exchangeable rows. One word grown heavy is an
    atom bet; one grown light moves the ranks, as words lie in the order of their share. Blind to changes among the
    words that have no cell. Memory a column as `Ranks`.
    """

    def fit(self, rows: Floats) -> Shares:
        """A quarter of the rows, at least 50, names the words; the others are the first counts."""
        m, columns = rows.shape
        cutting = part_for_cells(m)
        words = np.array([_commonest(column) for column in rows[:cutting].T]).reshape(columns, CELLS - 1).T
        return Shares(words, counted(_cells(words, rows[cutting:]), CELLS), BETS.start(columns))

    def step(self, state: Shares, rows: Floats, ties: Floats, time: Floats) -> tuple[Shares, Floats]:
        counts, ranked = rank(state.counts, _cells(state.words, rows), ties)
        sides = np.zeros(rows.shape[1], np.int64)
        stakes, evidence = BETS.step(state.stakes, sides, *ranked, time)
        return Shares(state.words, counts, stakes), evidence

    def restart(self, state: Shares, columns: Ints) -> Shares:
        return msgspec.structs.replace(state, stakes=grafted(state.stakes, columns, BETS.start(len(columns))))

    def relearn(self, state: Shares, columns: Ints) -> Shares:
        """The counts begin at nothing, on the same words."""
        k = len(columns)
        fresh = Shares(state.words[:, columns], np.zeros((CELLS, k), np.int32), BETS.start(k))
        return grafted(state, columns, fresh)


def _commonest(codes: Floats) -> Floats:
    out = np.full(CELLS - 1, NONE)
    words, counts = np.unique(codes[~np.isnan(codes)], return_counts=True)
    ranked = words[np.argsort(-counts, kind="stable")][: CELLS - 1]
    out[: ranked.size] = ranked
    return out


def _cells(words: Floats, rows: Floats) -> Ints:
    """Cell of every code (n, columns), -1 = missing."""
    found = np.empty(rows.shape, np.int64)
    for start in range(0, len(rows), BLOCK):
        same = words[:, None] == rows[start : start + BLOCK]
        found[start : start + BLOCK] = np.where(same.any(axis=0), same.argmax(axis=0), CELLS - 1)
    found[np.isnan(rows)] = -1
    return found
