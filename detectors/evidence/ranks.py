"""Ranks of numbers among everything seen so far: exactly uniform while nothing changes, whatever their law.

The rank of a row among the reference and all rows before it, ties broken by a given uniform number, is uniform on
(0, 1) and independent of the ranks before it as long as rows are exchangeable (Vovk, Gammerman, Shafer 2005, chapter
8). The error of a finite reference is inside: there is no reference too small, only one too small to see much with.
Blind to a change that keeps the order of arrival exchangeable, and to whatever happens inside one cell.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints
from detectors.evidence import grafted
from detectors.evidence.bets import Bets, Stakes

Counts = NDArray[np.int32]

CELLS = 64
BETS = Bets(CELLS)
BLOCK = 32  # rows counted at once: within a block rows are held against each other pair by pair
MOST = 2**30  # rows counted of a column; beyond, half of each count stands for all, or they would outgrow their numbers


def part_for_cells(m: int) -> int:
    """How many of m reference rows fix the cells. The others are counted: a row that did both would look too usual."""
    return max(m // 4, min(m, 50))


class Uniforms(NamedTuple):
    """Rows as uniform numbers; all (n, columns)."""

    u: Floats  # NaN = missing
    cell: Ints
    width: Floats  # share of the cell before the row came, NaN where u fell outside the share it then had


def cut(values: Floats, cells: int = CELLS) -> Floats:
    """Edges (cells - 1,) of the cells of one column, padded with inf; NaN in `values` is left out.

    Cell of x = number of edges below x. Few distinct values have a cell each, and the gaps between them too where there
    is room, so a value never seen stands out; more are cut at quantiles.

    >>> cut(np.array([1.0, 2.0, 2.0, 5.0]))[:7].round(3).tolist()
    [1.0, 1.0, 2.0, 2.0, 5.0, 5.0, inf]
    """
    out = np.full(cells - 1, np.inf)
    known = np.unique(values[~np.isnan(values)])
    if not known.size:
        return out
    if 2 * known.size < cells:
        edges = np.stack([np.nextafter(known, -np.inf), known], axis=1).ravel()
    elif known.size < cells - 1:
        edges = np.concatenate([[np.nextafter(known[0], -np.inf)], known])
    else:
        edges = np.unique(np.quantile(values[~np.isnan(values)], np.arange(1, cells) / cells))
    out[: edges.size] = edges
    return out


def cells_of(edges: Floats, rows: Floats) -> Ints:
    """Cell of every value of rows (n, columns) between edges (a power of two - 1, columns), -1 = missing."""
    columns = rows.shape[1]
    below, flat = np.zeros(rows.shape, np.int64), edges.ravel()
    below += np.arange(columns)
    step = (len(edges) + 1) // 2
    while step:  # all values halve what is left of their columns' edges at once
        below += (flat.take(below + (step - 1) * columns) < rows) * (step * columns)
        step //= 2
    found: Ints = below // columns
    found[np.isnan(rows)] = -1
    return found


def counted(cell: Ints, cells: int) -> Counts:
    """Rows in each cell (cells, columns)."""
    columns = cell.shape[1]
    flat = (cell * columns + np.arange(columns))[cell >= 0]
    return np.bincount(flat, minlength=cells * columns).reshape(cells, columns).astype(np.int32)


def rank(counts: Counts, cell: Ints, ties: Floats) -> tuple[Counts, Uniforms]:
    """The counts (cells, columns) after rows of these cells (n, columns), and the rows' sequential ranks.

    `cell` -1 = missing; `ties` (n, columns) in (0, 1). Every row joins the counts before it is ranked.
    """
    n, columns = cell.shape
    less, own, total = (np.empty((n, columns)) for _ in range(3))
    f = np.arange(columns)
    present = cell >= 0
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        reached = np.cumsum(counts, axis=0, dtype=np.int64)
        flat = np.maximum(cell[rows], 0) * columns + f
        below, same = _earlier(cell[rows])
        own[rows] = counts.ravel()[flat]
        less[rows] = reached.ravel()[flat] - own[rows] + below
        own[rows] += same
        total[rows] = reached[-1] + np.cumsum(present[rows], axis=0) - present[rows]
        counts = counts + counted(cell[rows], len(counts))
        full = reached[-1] >= MOST
        if full.any():
            counts = np.where(full, counts // 2, counts)
    u = np.where(present, (less + ties * (own + 1)) / (total + 1), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, width = less / total, own / total
        inside = (u >= low) & (u < low + width)
    return counts, Uniforms(u, cell, np.where(inside, width, np.nan))


def _earlier(cell: Ints) -> tuple[Ints, Ints]:
    """Rows before each (n, columns) of a lower and of the same cell; n up to BLOCK, for which a byte is enough."""
    n, columns = cell.shape
    late = cell.astype(np.uint8)  # missing, -1, becomes the highest of all, less than nothing
    early = np.concatenate([late, np.minimum(late, 254) + np.uint8(1)], axis=1)
    reached = early[None] <= np.concatenate([late, late], axis=1)[:, None]  # at most as high; lower, one added
    reached &= np.tri(n, k=-1, dtype=np.bool_)[:, :, None]
    found = reached.sum(axis=1, dtype=np.uint8).astype(np.int64)
    return found[:, columns:], found[:, :columns] - found[:, columns:]


class Seen(msgspec.Struct, frozen=True):
    """What is known of columns of numbers, and what has been won on them."""

    edges: NDArray[np.float64]  # (cells - 1, columns); of a column that learns anew, the values collected so far
    counts: NDArray[np.int32]  # (cells, columns), of the reference and every row since
    learning: NDArray[np.int64]  # (columns,) values collected, -1 = the cells are cut
    sides: NDArray[np.int64]  # (columns,) 1 = only higher values count as a change, -1 = lower, 0 = any change
    stakes: Stakes


class Ranks(msgspec.Struct, frozen=True, dict=True):
    """Evidence that number columns changed since the reference, in any way that shows in one column (`Evidence`).

    Exact for exchangeable rows and a reference of any size. A creep slow enough is learned away: see `Guard`. `cells`
    is a power of two; without `atoms` nothing is bet on one cell grown heavy. Memory a column: 63 edges, 64 counts, 15
    + 64 stakes, 12 bars: 1.2 KB, for ever; of 16 cells without atoms 0.4 KB.
    """

    cells: int = CELLS
    atoms: bool = True

    @cached_property
    def _bets(self) -> Bets:
        return Bets(self.cells if self.atoms else 0)

    def fit(self, rows: Floats, sides: Ints | None = None) -> Seen:
        """A quarter of the rows, at least 50, cuts the cells; the others are the first counts. `sides` as in `Seen`."""
        m, columns = rows.shape
        cutting = part_for_cells(m)
        edges = np.array([cut(column, self.cells) for column in rows[:cutting].T]).reshape(columns, self.cells - 1).T
        counts = counted(cells_of(edges, rows[cutting:]), self.cells)
        both = np.zeros(columns, np.int64)
        return Seen(edges, counts, np.full(columns, -1), both if sides is None else sides, self._bets.start(columns))

    def step(self, state: Seen, rows: Floats, ties: Floats, time: Floats) -> tuple[Seen, Floats]:
        evidence = np.empty(rows.shape)
        start = 0
        while start < len(rows):
            end = start + _until_learned(state, rows[start:])
            part, learning = rows[start:end], state.learning >= 0
            cell = cells_of(state.edges, np.where(learning, np.nan, part))
            counts, ranked = rank(state.counts, cell, ties[start:end])
            stakes, evidence[start:end] = self._bets.step(state.stakes, state.sides, *ranked, time[start:end])
            state = _collected(msgspec.structs.replace(state, counts=counts, stakes=stakes), part)
            start = end
        return state, evidence

    def restart(self, state: Seen, columns: Ints) -> Seen:
        return msgspec.structs.replace(state, stakes=grafted(state.stakes, columns, self._bets.start(len(columns))))

    def relearn(self, state: Seen, columns: Ints) -> Seen:
        """The next 63 values cut the cells and the counts begin at nothing, so the ranks are exact again from there."""
        k = len(columns)
        edges, counts = np.full((self.cells - 1, k), np.inf), np.zeros((self.cells, k), np.int32)
        return grafted(
            state, columns, Seen(edges, counts, np.zeros(k, np.int64), state.sides[columns], self._bets.start(k))
        )


def _until_learned(state: Seen, rows: Floats) -> int:
    """Rows until the next learning column has collected enough, or all."""
    learning = np.flatnonzero(state.learning >= 0)
    collected = state.learning[learning] + np.cumsum(~np.isnan(rows[:, learning]), axis=0)
    enough = (collected >= len(state.edges)).any(axis=1)
    return int(enough.argmax()) + 1 if enough.any() else len(rows)


def _collected(state: Seen, rows: Floats) -> Seen:
    """The learning columns' values put by; those that have enough get their cells."""
    if not (state.learning >= 0).any():
        return state
    edges, learning = state.edges.copy(), state.learning.copy()
    for f in np.flatnonzero(learning >= 0).tolist():
        values = rows[~np.isnan(rows[:, f]), f]
        edges[learning[f] : learning[f] + values.size, f] = values
        learning[f] += values.size
        if learning[f] == len(edges):
            edges[:, f], learning[f] = cut(edges[:, f], len(edges) + 1), -1
    return msgspec.structs.replace(state, edges=edges, learning=learning)
