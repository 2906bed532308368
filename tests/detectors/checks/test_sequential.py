from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.drift import ADWIN
from river.drift import PageHinkley as RiversPageHinkley

from detectors.checks.sequential import Adwin, PageHinkley
from detectors.encode import decode, encode
from detectors.profile import Profile
from tests.detectors.checks.rows import learned, rows, window

PER_WINDOW = 20
LEARNED = learned(
    rows({"x": np.random.default_rng(0).normal(0, 1, 5_000), "y": np.random.default_rng(1).normal(5, 2, 5_000)})
)
REFERENCE = LEARNED.profile
CENTRE, DEVIATION = float(REFERENCE.mean[0]), float(np.sqrt(REFERENCE.variance[0]))


def windows(means: Sequence[float]) -> list[Profile]:
    """Windows whose mean of x lies at these deviations from the reference's; y rests at its mean."""
    return [
        window(
            REFERENCE, {"x": np.full(PER_WINDOW, CENTRE + m * DEVIATION), "y": np.full(PER_WINDOW, REFERENCE.mean[1])}
        )
        for m in means
    ]


def alarms(
    detector: Any, profiles: Sequence[Profile], restarts: Sequence[int] = (), columns: Any = ("x",)
) -> list[int]:
    """Windows with a finding; the memory goes through bytes before the windows in `restarts`."""
    memory, found = detector.start(LEARNED, columns), []
    for i, current in enumerate(profiles):
        if i in restarts:
            memory = decode(encode(memory), Any)
        memory, scores = detector.step(memory, current, REFERENCE, columns)
        found += [i for _ in scores.findings]
    return found


def stream(seed: int, calm: int = 60, moved: int = 40, size: float = 0.6) -> list[float]:
    rng = np.random.default_rng(seed)
    return [*rng.normal(0, 0.15, calm), *rng.normal(size, 0.15, moved), *rng.normal(-size, 0.15, moved)]


def rivers(detector: Any, means: Sequence[float]) -> list[int]:
    found = []
    for i, mean in enumerate(means):
        detector.update(mean)
        if detector.drift_detected:
            found.append(i)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_adwins_alarms_are_rivers(seed: int) -> None:
    means = stream(seed)
    adwin: Any = ADWIN  # untyped
    expected = rivers(adwin(delta=0.002, clock=1), [np.sqrt(PER_WINDOW) * mean for mean in means])
    assert len(expected) >= 2
    assert alarms(Adwin(limit=0), windows(means)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_page_hinkleys_alarms_are_rivers(seed: int) -> None:
    means = stream(seed)
    expected = rivers(RiversPageHinkley(min_instances=30, delta=0.1, threshold=3.0), means)
    assert expected
    assert alarms(PageHinkley(), windows(means)) == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), restarts=st.sets(st.integers(0, 99), max_size=6))
@pytest.mark.parametrize("detector", [Adwin(windows=20), PageHinkley(warm_up=5)])
def test_a_restart_between_any_two_windows_changes_no_alarm(detector: Any, seed: int, restarts: set[int]) -> None:
    profiles = windows(stream(seed, 40, 30))
    assert alarms(detector, profiles, sorted(restarts)) == alarms(detector, profiles)


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley()])
def test_calm_windows_raise_no_alarm(detector: Any) -> None:
    assert not alarms(detector, windows(np.random.default_rng(9).normal(0, 0.2, 800).tolist()))


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley()])
def test_the_finding_names_the_column_that_moved_and_both_levels_in_its_unit(detector: Any) -> None:
    memory, findings = detector.start(LEARNED, ("x", "y")), []
    for current in windows(stream(1, 60, 40, 1.0)[:100]):
        memory, scores = detector.step(memory, current, REFERENCE, ("x", "y"))
        findings += scores.findings
    assert {f.column for f in findings} == {"x"}
    assert findings[0].facts["before"] == pytest.approx(CENTRE, abs=0.3)
    assert findings[0].facts["after"] == pytest.approx(CENTRE + DEVIATION, abs=0.4)
    assert findings[0].text.startswith("x ")


@pytest.mark.parametrize("detector", [Adwin(), PageHinkley()])
def test_windows_of_few_values_are_left_out(detector: Any) -> None:
    memory = detector.start(LEARNED, ("x",))
    for current in windows([0.0, 0.1]):
        memory, _ = detector.step(memory, current, REFERENCE, ("x",))
    few = window(REFERENCE, {"x": np.full(3, 50.0), "y": np.full(3, 50.0)})
    after, scores = detector.step(memory, few, REFERENCE, ("x",))
    assert after == memory
    assert np.isnan(scores.score[0])


def test_adwins_memory_is_bounded() -> None:
    detector = Adwin(windows=20)
    memory = detector.start(LEARNED, ("x",))
    for current in windows([0.01 * (i % 3) for i in range(70)]):
        memory, _ = detector.step(memory, current, REFERENCE, ("x",))
        assert len(memory["x"]) <= 20


def test_adwin_brings_in_neither_scipy_nor_scikit_learn() -> None:
    program = (
        "import sys, numpy as np\n"
        "from detectors.core import from_columns, number\n"
        "from detectors.profile import Profile, lay_out\n"
        "from detectors.checks.sequential import Adwin\n"
        "rows = from_columns({'x': number(np.arange(100.0))})\n"
        "profile = Profile(lay_out(rows)); profile.update(rows)\n"
        "assert 'river' not in sys.modules\n"
        "memory, _ = Adwin().step({}, profile, profile, ['x'])\n"
        "assert memory == {'x': [0.0]}\n"
        "print([name for name in ('scipy', 'sklearn', 'pandas') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
