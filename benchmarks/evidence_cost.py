"""What evidence costs: CPU a value and bytes a column, engine by engine, beside a numpy floor.

The floor is what nobody can do without: a value's cell among 63 edges and one more in its count.

    python -m benchmarks.evidence_cost
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from detectors.core import Floats
from detectors.encode import encode
from detectors.evidence import Evidence
from detectors.evidence.binary import Binary
from detectors.evidence.category import Category
from detectors.evidence.guard import Guard
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


def main() -> None:
    g = np.random.default_rng(0)
    ties, passed = g.random((ROWS, COLUMNS)), np.ones(ROWS)
    numbers, flags = g.normal(size=(1_000, COLUMNS)), (g.random((1_000, COLUMNS)) < 0.1).astype(np.float64)
    edges = np.quantile(numbers, np.arange(1, CELLS) / CELLS, axis=0)
    floor = cpu(lambda: counted(cells_of(edges, numbers[:ROWS]), CELLS), ROWS * COLUMNS)
    print(f"{ROWS} rows x {COLUMNS} columns; floor {floor:.3f} us a value")
    words = g.poisson(3.0, numbers.shape).astype(np.float64)
    engines: tuple[tuple[Evidence, Floats], ...] = (
        (Ranks(), numbers), (Guard(), numbers), (Binary(), flags), (Category(), words),
    )  # fmt: skip
    for engine, rows in engines:
        state = engine.fit(rows)
        taken = cpu(lambda e=engine, s=state, r=rows: e.step(s, r[:ROWS], ties, passed), ROWS * COLUMNS)  # type: ignore[misc]
        size = len(encode(state)) / COLUMNS
        print(
            f"{type(engine).__name__:10s} {taken:.3f} us a value, {taken / floor:.1f} x floor, "
            f"{size:.0f} bytes a column"
        )


if __name__ == "__main__":
    main()
