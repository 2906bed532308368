"""The test of whole windows: its p-values keep their word, small shifts of busy windows are found, smaller ones not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from detectors.checks.window import WholeWindow
from detectors.core import Batch, Floats, Scores, category, from_columns, number
from detectors.profile import Profile
from detectors.reference import Reference, build_from

WINDOW = 60.0


def rows(rng: np.random.Generator, n: int, shift: float = 0.0, first: float = 0.0) -> Batch:
    """A normal number, one of few values, one that is nearly always 0, and words of which some are rare."""
    words = rng.choice(["a", "b", "c", "d"], n, p=[0.7, 0.29, 0.009, 0.001])
    return from_columns(
        {
            "x": number(rng.normal(shift, 1, n)),
            "count": number(rng.poisson(1, n)),
            "rare": number(rng.random(n) < 0.002),
            "word": category(words.tolist()),
        },
        first + np.arange(n) * WINDOW / n,
        [f"{first}/{i}" for i in range(n)],
    )


@pytest.fixture(scope="module", name="reference")
def _reference() -> Reference:
    return build_from("m", rows(np.random.default_rng(0), 20_000, first=-WINDOW), {}, roles={}, source="", created=0.0)


def looked(detector: WholeWindow, reference: Reference, batch: Batch) -> Scores:
    current = Profile(reference.layout)
    current.update(batch)
    memory = detector.start(reference, reference.layout.columns)
    return detector.step(memory, current, reference.profile, reference.layout.columns)[1]


def test_chances_are_no_smaller_than_they_should_be() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):  # a reference of its own each time, or its luck would be in all
        reference = build_from("m", rows(rng, 2_000), {}, roles={}, source="", created=0.0)
        found.append(looked(WholeWindow(limit=0.0), reference, rows(rng, 1_000)).p_value)
    chances = np.array(found, np.float64)
    for level in (0.1, 0.01):
        hits = int((chances <= level).sum(axis=0).max())
        assert stats.binom.sf(hits - 1, len(found), level) > 1e-3, f"{hits} of {len(found)} at {level}"


def test_a_twentieth_of_a_deviation_is_found_in_a_busy_window() -> None:
    rng = np.random.default_rng(2)
    reference = build_from("m", rows(rng, 100_000), {}, roles={}, source="", created=0.0)
    [finding] = looked(WholeWindow(), reference, rows(rng, 40_000, shift=0.06)).findings
    assert finding.column == "x"
    assert finding.p_value is not None
    assert finding.p_value < 1e-10


def test_what_is_within_the_limit_counts_for_nothing_however_certain(reference: Reference) -> None:
    batch = rows(np.random.default_rng(3), 40_000, shift=0.2)
    assert looked(WholeWindow(limit=0.05), reference, batch).findings
    assert not looked(WholeWindow(limit=0.15), reference, batch).findings


def test_false_alarms_add_up_to_the_promise(reference: Reference) -> None:
    rng = np.random.default_rng(4)
    detector = WholeWindow(events=20_000, limit=0.0)  # windows of 1,000: a twentieth each
    false = sum(bool(looked(detector, reference, rows(rng, 1_000)).findings) for _ in range(200))
    assert false <= stats.binom.ppf(0.999, 200, 0.05)


def test_once_a_window_alarms_further_columns_need_less(reference: Reference) -> None:
    rng = np.random.default_rng(5)
    batch = rows(rng, 20_000)
    batch.columns["count"] = number(rng.poisson(1.05, 20_000))
    detector = WholeWindow(time=1e12)
    assert not looked(detector, reference, batch).findings
    batch.columns["x"] = number(rng.normal(0.5, 1, 20_000))
    assert {finding.column for finding in looked(detector, reference, batch).findings} == {"x", "count"}


def test_columns_with_memory_are_left_to_the_e_detector() -> None:
    rng = np.random.default_rng(6)

    def walk(n: int, level: float) -> Floats:
        values = rng.normal(size=n)
        for i in range(1, n):
            values[i] += 0.9 * values[i - 1]
        return level + values

    calm = from_columns({"x": number(rng.normal(size=5_000)), "slow": number(walk(5_000, 0.0))})
    reference = build_from("m", calm, {}, roles={}, source="", created=0.0)
    moved = from_columns({"x": number(rng.normal(1, 1, 5_000)), "slow": number(walk(5_000, 3.0))})
    assert [finding.column for finding in looked(WholeWindow(), reference, moved).findings] == ["x"]
