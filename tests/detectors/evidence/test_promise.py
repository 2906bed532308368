"""What is promised is kept: no false alarm sooner than promised on average, whatever the law and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detectors.core import Floats
from detectors.evidence import Evidence
from detectors.evidence.binary import Binary
from detectors.evidence.category import Category
from detectors.evidence.guard import Guard
from detectors.evidence.ranks import Ranks

Law = Callable[[np.random.Generator, tuple[int, int]], Floats]

LAWS: dict[str, Law] = {
    "continuous": lambda g, shape: g.lognormal(size=shape),
    "discrete": lambda g, shape: g.poisson(3.0, shape).astype(np.float64),
    "tied": lambda g, shape: np.where(g.random(shape) < 0.4, 0.0, g.normal(size=shape)),
    "rare": lambda g, shape: (g.random(shape) < 0.02).astype(np.float64),
    "even": lambda g, shape: (g.random(shape) < 0.5).astype(np.float64),
    "holed": lambda g, shape: np.where(g.random(shape) < 0.3, np.nan, g.normal(size=shape)),
}


def alarms(engine: Evidence, law: Law, promise: float, reference: int, rows: int, columns: int) -> tuple[int, float]:
    """False alarms over all columns, and rows with a value in units of the promise."""
    g = np.random.default_rng([reference, int(promise), rows])
    state: Any = engine.fit(law(g, (reference, columns)))
    count, passed = 0, 0
    for _ in range(0, rows, 25):
        block = law(g, (25, columns))
        state, evidence = engine.step(state, block, g.random(block.shape), np.ones(25))
        hit = np.flatnonzero((evidence >= promise).any(axis=0))
        count += hit.size
        passed += int((~np.isnan(block)).sum())
        state = engine.restart(state, hit)
    return count, passed / promise


@pytest.mark.parametrize("promise", [200, 1_000, 5_000])
@pytest.mark.parametrize("law", ["continuous", "discrete", "tied", "holed"])
def test_numbers_alarm_no_oftener_than_promised(law: str, promise: int) -> None:
    count, allowed = alarms(Ranks(), LAWS[law], promise, 1_000, 2_500, 60)
    assert count <= allowed + 3 * np.sqrt(allowed)


def test_ties_alarm_no_oftener_than_promised() -> None:
    count, allowed = alarms(Ranks(16, atoms=False), LAWS["continuous"], 500, 500, 2_500, 60)
    assert count <= allowed + 3 * np.sqrt(allowed)


@pytest.mark.parametrize("reference", [100, 100_000])
def test_the_size_of_the_reference_does_not_matter(reference: int) -> None:
    count, allowed = alarms(Ranks(), LAWS["continuous"], 1_000, reference, 2_500, 30)
    assert count <= allowed + 3 * np.sqrt(allowed)


@pytest.mark.parametrize("promise", [200, 1_000, 5_000])
@pytest.mark.parametrize("law", ["rare", "even"])
def test_rates_alarm_no_oftener_than_promised(law: str, promise: int) -> None:
    count, allowed = alarms(Binary(), LAWS[law], promise, 500, 2_500, 60)
    assert count <= allowed + 3 * np.sqrt(allowed)


def test_words_alarm_no_oftener_than_promised_though_new_ones_keep_coming() -> None:
    def words(g: np.random.Generator, shape: tuple[int, int]) -> Floats:
        return g.zipf(1.6, shape).clip(max=1e9).astype(np.float64)

    count, allowed = alarms(Category(), words, 500, 1_000, 2_500, 30)
    assert count <= allowed + 3 * np.sqrt(allowed)


def test_the_guard_is_silent_within_its_tolerance_and_not_beyond() -> None:
    g = np.random.default_rng(1)
    state = Guard(0.05).fit(g.normal(size=(2_000, 20)))
    rows = g.normal(size=(6_000, 20))
    rows[:, :10] += 0.05
    rows[:, 10:] += np.linspace(0, 1, 6_000)[:, None]
    _, evidence = Guard(0.05).step(state, rows, g.random(rows.shape), np.ones(6_000))
    reached = (evidence >= 10_000).any(axis=0)
    assert reached.tolist() == [False] * 10 + [True] * 10


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda x: x + 1.0, 60),
        (lambda x: x + 0.5, 150),
        (lambda x: 1.5 * x, 150),
        (lambda x: np.where(np.arange(len(x))[:, None] % 10 < 3, 0.0, x), 80),
    ],
    ids=["shift", "half shift", "spread", "default filled in"],
)
def test_a_change_is_found_soon(change: Callable[[Floats], Floats], within: int) -> None:
    g = np.random.default_rng(2)
    state = Ranks().fit(g.normal(size=(1_000, 40)))
    rows = np.concatenate([g.normal(size=(1_000, 40)), change(g.normal(size=(1_000, 40)))])
    _, evidence = Ranks().step(state, rows, g.random(rows.shape), np.ones(2_000))
    delay = [int(np.argmax(column >= 10_000)) for column in evidence[1_000:].T]
    assert np.median(delay) <= within
