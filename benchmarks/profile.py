"""What profiles and scorers cost: 50 numbers and 10 categories, CPU time, best of several runs.

Run: python -m benchmarks.profile
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from detectors.core import Batch, Column, category, from_columns, number, vector
from detectors.profile import Profile, lay_out, merged
from detectors.reference import describe
from detectors.registry import default_scorers


def rows(n: int, seed: int, unseen: bool = False) -> Batch:
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(30)] + ["new"] * unseen)
    columns: dict[str, Column] = {f"x{i}": number(rng.normal(size=n)) for i in range(50)}
    columns |= {f"c{i}": category(rng.choice(words, n).tolist()) for i in range(10)}
    columns["scores"] = vector(rng.dirichlet(np.ones(2), n))
    return from_columns(columns, ids=[f"{seed}-{i}" for i in range(n)])


def cost(run: Callable[[], Any], at_least: float = 0.2) -> float:
    """CPU microseconds of one run: the best of five groups of runs."""
    count, spent = 1, 0.0
    while spent < at_least / 5:
        count *= 2
        start = time.process_time()
        for _ in range(count):
            run()
        spent = time.process_time() - start
    best = spent
    for _ in range(4):
        start = time.process_time()
        for _ in range(count):
            run()
        best = min(best, time.process_time() - start)
    return best / count * 1e6


def main() -> None:
    reference = rows(20_000, 0)
    layout = lay_out(reference)
    for n in (250, 1_000, 10_000):
        batch = rows(n, 1)
        spent = cost(lambda batch=batch: Profile(layout).update(batch))  # type: ignore[misc]
        print(f"profile of {n:6} rows: {spent / n:6.2f} us an event, {spent / 1000:6.2f} ms")
    filled = Profile(layout)
    filled.update(rows(10_000, 2))
    for n in (250, 1_000):
        batch = rows(n, 3)
        print(f"update by  {n:6} rows: {cost(lambda batch=batch: filled.update(batch)) / n:6.2f} us an event")  # type: ignore[misc]
    parts = []
    for seed in range(4, 34):
        part = Profile(layout)
        part.update(rows(250, seed))
        parts.append(part)
    print(f"merge of 4 profiles: {cost(lambda: [whole := Profile(layout), *map(whole.merge, parts[:4])]):6.0f} us")
    print(f"merge of 30 profiles: {cost(lambda: merged(layout, parts)):5.0f} us")
    data = parts[0].encode()
    print(f"encode: {cost(parts[0].encode):6.0f} us, {len(data)} bytes")
    print(f"decode: {cost(lambda: Profile.decode(layout, data)):6.0f} us")
    batch = rows(250, 40)
    for name, scorer in default_scorers(describe(reference, {})).items():
        fitted = scorer.fit(reference)
        spent = cost(lambda scorer=scorer, fitted=fitted: scorer.score(batch, fitted))  # type: ignore[misc]
        print(f"scorer {name}: {spent / 250:6.2f} us an event at 250 rows")


if __name__ == "__main__":
    main()
