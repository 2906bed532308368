"""What evidence costs: CPU a value and bytes a column, engine by engine, beside a numpy floor.

The floor is what nobody can do without: a value's cell among 63 edges and one more in its count.

    python -m benchmarks.evidence_cost
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from detectors.core import Floats
from detectors.evidence import Evidence
from detectors.evidence.binary import Binary
from detectors.evidence.category import Category
from detectors.evidence.guard import Guard
from detectors.evidence.model import TIE_CELLS
from detectors.evidence.ranks import CELLS, Ranks, cells_of, counted

ROWS, COLUMNS, REPEATS = 256, 60, 7


def cpu(work: Callable[[], object], values: int) -> float:
    """Microseconds a value, the least of some runs."""
    taken = []
    for _ in range(REPEATS):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return 1e6 * min(taken) / values


def held(state: Any) -> int:
    """Bytes of all arrays in a state."""
    if isinstance(state, np.ndarray):
        return state.nbytes
    return (
        sum(held(part) for part in msgspec.structs.asdict(state).values()) if isinstance(state, msgspec.Struct) else 0
    )


def main() -> None:
    g = np.random.default_rng(0)
    ties, passed = g.random((ROWS, COLUMNS)), np.ones(ROWS)
    numbers, flags = g.normal(size=(1_000, COLUMNS)), (g.random((1_000, COLUMNS)) < 0.1).astype(np.float64)
    edges = np.quantile(numbers, np.arange(1, CELLS) / CELLS, axis=0)
    floor = cpu(lambda: counted(cells_of(edges, numbers[:ROWS]), CELLS), ROWS * COLUMNS)
    print(f"{ROWS} rows x {COLUMNS} columns; floor {floor:.3f} us a value")
    words = g.poisson(3.0, numbers.shape).astype(np.float64)
    engines: dict[str, tuple[Evidence, Floats]] = {
        "ranks": (Ranks(), numbers),
        "ties": (Ranks(TIE_CELLS, atoms=False), numbers),
        "words": (Category(), words),
        "rates": (Binary(), flags),
        "guard": (Guard(), numbers),
    }
    for name, (engine, rows) in engines.items():
        state = engine.fit(rows)
        taken = cpu(lambda e=engine, s=state, r=rows: e.step(s, r[:ROWS], ties, passed), ROWS * COLUMNS)  # type: ignore[misc]
        size = held(state) / COLUMNS
        print(f"{name:6s} {taken:.3f} us a value, {taken / floor:.1f} x floor, {size:.0f} bytes a column")


if __name__ == "__main__":
    main()
