"""What every engine of evidence must do, whatever it watches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.core import Floats
from detectors.encode import decode, encode, restored
from detectors.evidence import Evidence, grafted
from detectors.evidence.binary import Binary
from detectors.evidence.category import Category
from detectors.evidence.guard import Guard
from detectors.evidence.ranks import MOST, Ranks, rank

ENGINES: list[Evidence] = [Ranks(), Ranks(16, atoms=False), Binary(), Category(), Guard()]
NAMES = ["Ranks", "Ranks without atoms", "Binary", "Category", "Guard"]
engines = pytest.mark.parametrize("engine", ENGINES, ids=NAMES)


def rows(seed: int, n: int, columns: int = 4) -> tuple[Floats, Floats, Floats]:
    """Values with holes and ties, numbers to break these, and what passes with a row."""
    g = np.random.default_rng(seed)
    values = g.poisson(1.0, (n, columns)).astype(np.float64)
    values[g.random(values.shape) < 0.1] = np.nan
    return values, g.random(values.shape), g.choice([1.0, 2.5], n)


@engines
@given(seed=st.integers(0, 1_000), cuts=st.lists(st.integers(1, 149), max_size=4), anew=st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_splits_and_restarts_give_the_same_numbers(
    engine: Evidence, seed: int, cuts: list[int], anew: bool
) -> None:
    state: Any = engine.fit(rows(seed, 200)[0])
    if anew:
        state = engine.relearn(state, np.array([1, 2]))
    block = rows(seed + 1, 150)
    whole, evidence = engine.step(state, *block)
    parts = []
    for start, end in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 150], strict=True):
        state, part = engine.step(state, *(array[start:end] for array in block))
        state = restored(decode(encode(state), Any), type(state))
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), evidence)
    assert encode(state) == encode(whole)


@engines
def test_a_step_leaves_the_state_it_was_given(engine: Evidence) -> None:
    state = engine.fit(rows(1, 200)[0])
    before = encode(state)
    engine.step(state, *rows(2, 50))
    engine.restart(state, np.array([0]))
    engine.relearn(state, np.array([0]))
    assert encode(state) == before


@engines
def test_a_column_of_missing_values_gathers_no_evidence(engine: Evidence) -> None:
    state = engine.fit(rows(1, 200)[0])
    values, ties, time = rows(2, 50)
    values[:, 2] = np.nan
    _, evidence = engine.step(state, values, ties, time)
    assert not evidence[:, 2].any()
    assert evidence[:, 1].any()


@engines
def test_a_restart_touches_its_columns_only(engine: Evidence) -> None:
    state, evidence = engine.step(engine.fit(rows(1, 200)[0]), *rows(2, 50))
    again, ties, time = rows(3, 1)
    _, whole = engine.step(state, again * 0, ties, time)
    _, part = engine.step(engine.restart(state, np.array([0, 3])), again * 0, ties, time)
    assert np.array_equal(part[:, 1:3], whole[:, 1:3], equal_nan=True)
    assert (part[:, [0, 3]] <= 60).all()
    assert evidence.shape == (50, 4)


@engines
def test_columns_can_be_taken_from_another_state(engine: Evidence) -> None:
    one, other = engine.fit(rows(1, 200)[0]), engine.fit(rows(9, 200, 2)[0])
    mixed = grafted(one, np.array([1, 3]), other)
    block = rows(4, 40)
    _, evidence = engine.step(mixed, *block)
    _, kept = engine.step(one, *block)
    _, new = engine.step(other, *(array[:, [1, 3]] if array.ndim == 2 else array for array in block))
    assert np.array_equal(evidence[:, [0, 2]], kept[:, [0, 2]])
    assert np.array_equal(evidence[:, [1, 3]], new)


@engines
def test_constant_and_empty_columns_are_taken(engine: Evidence) -> None:
    values = np.column_stack([np.full(100, 3.0), np.full(100, np.nan)])
    state: Any = engine.fit(values)
    for seed in range(10):
        g = np.random.default_rng(seed)
        state, evidence = engine.step(state, values, g.random(values.shape), np.ones(100))
        assert np.isfinite(evidence).all()
        assert (evidence[:, 0] < 10_000).all()


def test_counts_are_halved_before_they_outgrow_their_numbers() -> None:
    counts = np.full((4, 2), 1_000, np.int32)
    counts[:, 1] = MOST // 4
    after, uniform = rank(counts, np.array([[2, 2], [3, 3]]), np.full((2, 2), 0.5))
    assert after[:, 0].tolist() == [1_000, 1_000, 1_001, 1_001]
    assert after[:, 1].tolist() == [MOST // 8] * 4
    assert np.allclose(uniform.u, [[0.625, 0.625], [0.875, 0.875]], atol=1e-3)


def test_what_is_won_long_after_an_alarm_is_infinite_and_nothing_else() -> None:
    g = np.random.default_rng(7)
    state: Any = Ranks().fit(g.normal(size=(1_000, 2)))
    rows = np.column_stack([g.normal(size=2_000), np.full(2_000, 9.0)])
    _, evidence = Ranks().step(state, rows, g.random(rows.shape), np.ones(2_000))
    assert np.isfinite(evidence[:, 0]).all()
    assert not np.isnan(evidence).any()
    assert np.isinf(evidence[-1, 1])


def test_a_second_change_after_relearning_is_found_beyond_the_old_range() -> None:
    g = np.random.default_rng(5)
    state = Ranks().relearn(Ranks().fit(g.normal(size=(500, 1))), np.array([0]))
    values = np.concatenate([g.normal(100, 1, (400, 1)), g.normal(102, 1, (100, 1))])
    _, evidence = Ranks().step(state, values, g.random(values.shape), np.ones(500))
    assert (evidence[:400] < 10_000).all()
    assert (evidence[400:] >= 10_000).any()
