from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.checks.dependence import worth
from detectors.checks.level import Level
from tests.detectors.checks.rows import reference, window

STEP = np.float64(600)


def walk(rng: np.random.Generator, n: int, memory: float) -> Any:
    """A standard normal stream whose neighbours correlate by `memory`."""
    values = rng.normal(0, 1, n)
    for i in range(1, n):
        values[i] = memory * values[i - 1] + np.sqrt(1 - memory**2) * values[i]
    return values


def effect(values: Any, rows: int, times: Any) -> float:
    was = reference({"x": values}, times)
    now = window(was, {"x": values[:rows]}, None if times is None else times[:rows])
    return float(worth(now, was, was.sample.numbers)[0])


def test_free_rows_count_in_full() -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0, 1, 2_000)
        assert effect(values, 50, np.arange(2_000) * STEP) < 2


@pytest.mark.parametrize(("memory", "rows"), [(0.9, 50), (0.97, 100)])
def test_rows_with_memory_count_for_as_many_as_their_mean_varies(memory: float, rows: int) -> None:
    # variance of the mean of an AR(1) stream over that of free rows, for long windows (1 + memory) / (1 - memory)
    exact = 1 + 2 * sum((1 - k / rows) * memory**k for k in range(1, rows))
    found = [
        effect(walk(np.random.default_rng(seed), 2_000, memory), rows, np.arange(2_000) * STEP) for seed in range(20)
    ]
    assert np.mean(found) == pytest.approx(exact, rel=0.35)


def test_without_times_or_with_a_short_reference_nothing_is_known() -> None:
    values = walk(np.random.default_rng(1), 2_000, 0.95)
    assert effect(values, 50, None) == 1
    assert effect(values[:300], 100, np.arange(300) * STEP) == 1


def test_a_level_that_wanders_by_itself_is_seldom_a_finding_and_one_that_left_is() -> None:
    rng = np.random.default_rng(2)
    before, later = walk(rng, 2_000, 0.97), walk(rng, 4_000, 0.97)

    def found(shift: float, times: Any) -> int:
        was = reference({"x": before}, times)
        windows = [window(was, {"x": part}, np.arange(40) * STEP) for part in (later + shift).reshape(100, 40)]
        return sum(bool(Level().check(now, was, ["x"]).findings) for now in windows)

    known = np.arange(2_000) * STEP
    assert found(0.0, known) <= 5
    assert found(0.0, None) >= 20, "rows taken as free"
    assert found(8.0, known) == 100
