"""Columns with memory: told from those without, and watched with few false alarms and no deaf ear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.core import Floats
from detectors.encode import decode, encode
from detectors.evidence import forecast
from detectors.evidence.memory import measure, season
from detectors.evidence.returns import Returns, Watch

PROMISE = 10_000.0
RETURNS = Returns()


def autoregression(weight: float, n: int, columns: int, seed: int, tail: float = np.inf) -> Floats:
    draw = np.random.default_rng(seed)
    noise = draw.normal(size=(n, columns)) if np.isinf(tail) else draw.standard_t(tail, (n, columns))
    out = np.zeros((n, columns))
    for i in range(1, n):
        out[i] = weight * out[i - 1] + noise[i]
    return out


def stepped(state: Watch, rows: Floats, pace: float = 1.0) -> tuple[Watch, Floats]:
    return RETURNS.step(state, rows, np.full(rows.shape, 0.5), np.full(len(rows), pace))


def alarms(reference: Floats, rows: Floats) -> list[list[int]]:
    """Rows at which each column, judged alone, alarms."""
    state = RETURNS.fit(reference)
    found: list[list[int]] = [[] for _ in range(rows.shape[1])]
    begin = 0
    while begin < len(rows):
        block = rows[begin : begin + 500]
        after, evidence = stepped(state, block)
        reached = (evidence >= PROMISE).any(axis=1)
        if reached.any():
            row = int(reached.argmax())
            after, block = stepped(state, block[: row + 1])[0], block[: row + 1]
            moved = np.flatnonzero(evidence[row] >= PROMISE)
            after = RETURNS.relearn(after, moved)
            for f in moved.tolist():
                found[f].append(begin + row)
        state, begin = after, begin + len(block)
    return found


# -- who has memory


@pytest.mark.parametrize("m", [200, 1_000])
def test_rows_in_any_order_are_taken_for_what_they_are(m: int) -> None:
    draw = np.random.default_rng(1)
    rows = np.concatenate(
        [draw.normal(size=(m, 100)), draw.standard_t(2, (m, 50)), draw.integers(0, 3, (m, 50)).astype(float)], axis=1
    )
    assert (measure(rows).tau >= 1.5).sum() <= 4  # 0.5 % expected


@pytest.mark.parametrize("weight", [0.3, 0.6, 0.95, 1.0])
def test_dependence_is_seen(weight: float) -> None:
    tau = measure(autoregression(weight, 1_000, 10, 2)).tau
    assert (tau >= 1.5).all()
    expected = min((1 + weight) / (1 - weight + 1e-9), 15.0)
    assert np.median(tau) > 0.5 * expected


def test_a_season_is_memory_although_its_autocorrelation_sums_to_nothing() -> None:
    t = np.arange(1_000)
    rows = np.random.default_rng(3).normal(size=(1_000, 1)) + 2 * np.sin(2 * np.pi * t / 48)[:, None]
    found = measure(rows)
    assert found.tau[0] >= 1.5
    assert found.season[0] == pytest.approx(48, abs=2)


def test_a_slow_decay_is_no_season() -> None:
    assert season(autoregression(0.9, 1_000, 1, 4)[:, 0]) == 0


def test_gaps_constants_and_short_references_have_no_memory() -> None:
    rows = np.full((300, 3), np.nan)
    rows[:, 0] = 7.0
    rows[:20, 1] = np.arange(20)
    assert measure(rows).tau.tolist() == [1.0, 1.0, 1.0]


# -- forecasts


def test_a_season_is_forecast_from_its_last_period() -> None:
    t = np.arange(1_200)
    draw = np.random.default_rng(5)
    shape = draw.normal(size=50)
    rows = (shape[t % 50] * 3 + 0.1 * draw.normal(size=t.size))[:, None]
    found = forecast.fit(rows)
    assert set(found.lag[0][found.weight[0] > 0.1].tolist()) & {49, 50, 51}


# -- the promise, approximately kept


@pytest.mark.parametrize(("weight", "tail"), [(0.5, np.inf), (0.9, np.inf), (0.99, np.inf), (1.0, np.inf), (0.8, 3.0)])
def test_quiet_columns_with_memory_alarm_seldom(weight: float, tail: float) -> None:
    rows = autoregression(weight, 4_000, 20, 7, tail)
    found = alarms(rows[:1_000], rows[1_000:])
    # the promise allows 6 in 60,000 rows
    assert sum(map(len, found)) <= 12


def test_a_wandering_stream_falls_silent_instead_of_alarming_for_ever() -> None:
    draw = np.random.default_rng(8)
    reference = autoregression(0.5, 1_000, 5, 9)
    # ever new levels, which the reference never showed
    levels = np.repeat(draw.normal(scale=8, size=(60, 5)), 100, axis=0)
    rows = levels + autoregression(0.5, 6_000, 5, 10)
    found = alarms(reference, rows)
    early = sum(1 for column in found for i in column if i < 1_500)
    late = sum(1 for column in found for i in column if i >= 4_500)
    assert early > 2 * late


# -- what it is there for


def test_lasting_shifts_and_spreads_are_found_and_told_once() -> None:
    rows = autoregression(0.8, 2_200, 6, 11)
    after = rows[1_500:]
    after[:, :3] += 8.0  # five deviations of the column
    after[:, 3:] *= 6.0
    found = alarms(rows[:1_000], rows[1_000:])
    for column in found:
        late = [i for i in column if i >= 500]
        assert late
        assert late[0] < 560
        assert len(late) <= 3


def test_a_level_never_seen_is_found_in_a_wandering_column() -> None:
    rows = np.cumsum(np.random.default_rng(12).normal(scale=0.1, size=(1_300, 5)), axis=0)
    rows[1_200:] -= 5.0
    found = alarms(rows[:1_000], rows[1_000:])
    assert all(any(200 <= i < 230 for i in column) for column in found)


def test_what_has_too_few_values_or_none_says_nothing() -> None:
    reference = autoregression(0.9, 500, 3, 13)
    reference[:, 0] = 4.0
    reference[60:, 1] = np.nan
    _, evidence = stepped(RETURNS.fit(reference), np.full((200, 3), 100.0))
    assert (evidence[:, :2] < 100).all()
    assert (evidence[:, 2] > PROMISE).any()


# -- the contract of `Evidence`


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_any_pieces_and_a_restart_of_the_daemon_give_the_same_bits(seed: int, cuts: list[int], gaps: bool) -> None:
    rows = autoregression(0.9, 210, 3, seed)
    if gaps:
        rows[np.random.default_rng(seed).random(rows.shape) < 0.1] = np.nan
    state = RETURNS.relearn(stepped(RETURNS.fit(rows[:150]), rows[:10])[0], np.array([1]))
    whole, evidence = stepped(state, rows[150:])
    parts = []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        state, part = stepped(decode(encode(state), Watch), rows[150 + begin : 150 + end])
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), evidence)
    assert encode(state) == encode(whole)


def test_a_step_leaves_the_state_it_was_given_as_it_was() -> None:
    rows = autoregression(0.9, 400, 2, 14)
    state = RETURNS.fit(rows[:300])
    before = encode(state)
    stepped(state, rows[300:])
    RETURNS.relearn(state, np.array([0]))
    assert encode(state) == before


def test_a_missing_value_leaves_the_evidence_as_it_was() -> None:
    rows = autoregression(0.9, 520, 1, 15)
    rows[500:] = np.nan
    _, evidence = stepped(RETURNS.fit(rows[:400]), rows[400:])
    assert (evidence[100:] == evidence[99]).all()


def test_evidence_is_in_the_unit_that_passes() -> None:
    rows = autoregression(0.9, 700, 2, 16)
    state = RETURNS.fit(rows[:600])
    assert np.allclose(stepped(state, rows[600:], 60.0)[1], 60 * stepped(state, rows[600:])[1])


def test_memory_of_a_column_is_small_and_does_not_grow() -> None:
    rows = autoregression(0.9, 3_000, 10, 17)
    state = RETURNS.fit(rows[:1_000])
    later, _ = stepped(state, rows[1_000:])
    assert len(encode(later)) / 10 < 2_048
    assert len(encode(later)) < 1.1 * len(encode(state)) + 100
