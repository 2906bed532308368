"""The classical tests on single events, held against river's event by event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.drift import KSWIN
from river.drift.binary import DDM, EDDM, HDDMA, HDDMW
from scipy import stats

from detectors.checks.events import Ddm, Eddm, HddmA, HddmW, Kswin
from detectors.core import Floats, Scores, from_columns, keys_of, number
from detectors.encode import decode, encode
from detectors.profile import Profile
from detectors.reference import build_from

RNG = np.random.default_rng(0)
ROWS = from_columns({"error": number(RNG.random(2_000) < 0.1), "x": number(RNG.normal(0, 1, 2_000))})
REFERENCE = build_from("m", ROWS, {}, roles={}, source="test", created=0.0)


def ids(n: int) -> list[str]:
    return [f"event {i}" for i in range(n)]


def windows(column: str, values: Floats, cuts: Sequence[int]) -> Iterator[Profile]:
    """Profiles of the events between the cuts, in order of time."""
    rows = from_columns({column: number(values)}, np.arange(values.size), ids(values.size))
    for start, end in zip((0, *cuts), (*cuts, values.size), strict=True):
        profile = Profile(REFERENCE.layout, 256)
        profile.update(rows.take(slice(start, end)))
        yield profile


def looks(detector: Any, column: str, values: Floats, cuts: Sequence[int]) -> list[Scores]:
    """One look per window; the memory goes through bytes each time, as in a restart."""
    memory, found = detector.start(REFERENCE, [column]), []
    for profile in windows(column, values, cuts):
        memory, scores = detector.step(decode(encode(memory), Any), profile, REFERENCE.profile, [column])
        found.append(scores)
    return found


def alarms(detector: Any, column: str, values: Floats) -> list[int]:
    """Events at which it alarms, each being at the second of its number; none alarms twice within ten events."""
    found = looks(detector, column, values, range(10, values.size, 10))
    return [int(finding.facts["time"]) for scores in found for finding in scores.findings]


def rivers(detector: Any, values: Floats) -> list[int]:
    found = []
    for i, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found


def errors(seed: int) -> Floats:
    """A rate that jumps, falls back, and creeps."""
    rng = np.random.default_rng(seed)
    rate = np.concatenate([np.full(300, 0.1), np.full(200, 0.4), np.full(250, 0.05), np.linspace(0.05, 0.5, 250)])
    return (rng.random(rate.size) < rate).astype(float)


FAMILY = [
    pytest.param(Ddm(), DDM, {}, id="ddm"),
    pytest.param(Ddm(deviations=2.0, warm_up=50), DDM, {"drift_threshold": 2.0, "warm_start": 50}, id="ddm-quick"),
    pytest.param(Eddm(), EDDM, {"beta": 0.8}, id="eddm"),
    pytest.param(Eddm(ratio=0.9, warm_up=20), EDDM, {"warm_start": 20}, id="eddm-quick"),
    pytest.param(HddmA(), HDDMA, {}, id="hddm_a"),
    pytest.param(HddmA(delta=0.1), HDDMA, {"drift_confidence": 0.1}, id="hddm_a-quick"),
    pytest.param(HddmW(), HDDMW, {}, id="hddm_w"),
    pytest.param(HddmW(delta=0.1, fading=0.02), HDDMW, {"drift_confidence": 0.1, "lambda_val": 0.02}, id="hddm_w-slow"),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("ours", "theirs", "options"), FAMILY)
def test_alarms_on_errors_are_rivers(ours: Any, theirs: Any, options: dict[str, Any], seed: int) -> None:
    values = errors(seed)
    expected = rivers(theirs(**options), values)
    assert expected
    assert alarms(ours, "error", values) == expected


@pytest.mark.parametrize(("ours", "theirs"), [(Ddm(), DDM), (HddmA(), HDDMA), (HddmW(), HDDMW)])
def test_alarms_on_losses_are_rivers(ours: Any, theirs: Any) -> None:
    rng = np.random.default_rng(5)
    losses = np.concatenate([rng.beta(2, 8, 300), rng.beta(6, 4, 200)])
    expected = rivers(theirs(), losses)
    assert expected
    assert alarms(ours, "error", losses) == expected


class Rehearsed(KSWIN):  # type: ignore[misc, unused-ignore]
    """river's KSWIN, drawing what ours draws from the hash of each event."""

    def __init__(self, ours: Kswin, events: int) -> None:
        self.draws = iter(ours.drawn(keys_of(ids(events))).tolist())
        super().__init__(ours.alpha, ours.window, ours.recent)

    def _reset(self) -> None:
        rivers: Any = super()
        rivers._reset()  # noqa: SLF001 - where river makes its random numbers
        self._rng: Any = self

    def sample(self, population: range, k: int) -> list[int]:
        assert len(population) >= k
        return self.draw

    def update(self, x: float) -> None:
        self.draw: list[int] = next(self.draws)
        rivers: Any = super()
        rivers.update(x)


@pytest.mark.parametrize("decimals", [15, 0])
@pytest.mark.parametrize("ours", [Kswin(alpha=0.005, window=100, recent=30), Kswin(alpha=0.02, window=60, recent=20)])
def test_kswins_alarms_are_rivers(ours: Kswin, decimals: int) -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(1.5, 1, 200), rng.normal(0, 3, 200)]).round(decimals)
    expected = rivers(Rehearsed(ours, values.size), values)
    assert expected
    assert alarms(ours, "x", values) == expected


def test_kswins_p_value_is_scipys() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 150), rng.normal(3, 1, 40)])
    detector = Kswin(window=100, recent=30)
    found = [f for scores in looks(detector, "x", values, range(10, values.size, 10)) for f in scores.findings]
    for finding in found:
        gap = round(finding.score * 30)
        one, other = np.arange(30.0), np.arange(30.0) + gap - 0.5
        assert finding.p_value == pytest.approx(stats.ks_2samp(one, other, method="exact").pvalue, rel=1e-9)
    assert found


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1_000), cuts=st.sets(st.integers(1, 499), max_size=8))
@pytest.mark.parametrize("detector", [Ddm(), Eddm(), HddmA(), HddmW(), Kswin()])
def test_how_events_fall_into_windows_changes_no_memory(detector: Any, seed: int, cuts: set[int]) -> None:
    values = errors(seed)[200:700]
    column = "x" if isinstance(detector, Kswin) else "error"
    found = []
    for at in ({250}, {250} | cuts):  # a window samples 256 events at most
        memory = detector.start(REFERENCE, [column])
        for profile in windows(column, values, sorted(at)):
            memory, _ = detector.step(memory, profile, REFERENCE.profile, [column])
        found.append(memory[column])
    assert found[1] == pytest.approx(found[0], nan_ok=True, abs=1e-9)


def test_a_column_that_the_reference_has_beyond_one_is_no_error() -> None:
    for detector in (Ddm(), Eddm(), HddmA(), HddmW()):
        assert [s.columns for s in looks(detector, "x", np.ones(50), [])] == [()]


def test_missing_values_are_left_out() -> None:
    values = errors(1)
    holed = np.insert(values, range(0, values.size, 3), np.nan)
    for detector in (Ddm(), HddmW()):
        known = np.cumsum(~np.isnan(holed)) - 1
        assert [known[i] for i in alarms(detector, "error", holed)] == alarms(detector, "error", values)


def test_the_finding_tells_the_rates_before_and_after() -> None:
    values = np.concatenate([np.tile([1.0] + [0.0] * 9, 20), np.ones(30)])
    found = next(f for scores in looks(HddmA(), "error", values, range(10, 230, 10)) for f in scores.findings)
    assert found.text.startswith("error rose: its mean went from 0.1")
    assert found.facts["before"] == pytest.approx(0.1, abs=0.03)
    assert found.score > found.limit
