from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from detectors.checks.volume import Volume
from detectors.profile import Profile
from tests.detectors.checks.rows import learned, rows

LEARNED = learned(rows({"x": np.arange(10.0)}))
REFERENCE = LEARNED.profile


def played(counts: Iterable[int], volume: Volume | None = None) -> list[tuple[int, str]]:
    """Windows with a finding, and its text."""
    volume = volume or Volume()
    memory, found = volume.start(LEARNED, ["x"]), []
    for i, n in enumerate(counts):
        current = Profile(REFERENCE.layout)
        current.rows = int(n)
        memory, scores = volume.step(memory, current, REFERENCE, ["x"])
        found += [(i, f.text) for f in scores.findings]
    return found


def test_a_spike_and_a_slump_are_found_and_told_apart() -> None:
    found = played([1_000] * 20 + [5_000] + [1_000] * 5 + [100])
    assert [i for i, _ in found] == [20, 26]
    assert found[0][1].startswith("Traffic jumped: 5,000 rows in this window, where 1,000 were usual.")
    assert found[1][1].startswith("Traffic slumped")


def test_silence_stays_found_for_as_long_as_it_lasts() -> None:
    found = played([1_000] * 20 + [0] * 200)
    assert [i for i, _ in found] == list(range(20, 220))
    assert "Traffic stopped" in found[-1][1]


def test_a_lasting_change_is_the_new_normal_after_half_the_memory() -> None:
    found = played([100] * 60 + [1_000] * 100)
    assert 25 <= len(found) <= 35


def test_traffic_that_swings_by_itself_is_calm() -> None:
    rng = np.random.default_rng(3)
    assert not played(rng.poisson(rng.gamma(4, 50, 2_000)))


@pytest.mark.parametrize("rows", [3, 1_000])
def test_poisson_traffic_is_calm(rows: int) -> None:
    assert not played(np.random.default_rng(4).poisson(rows, 3_000))


def test_the_first_windows_are_not_judged() -> None:
    assert not played([10, 100_000, 0, 5])


def test_the_memory_is_bounded() -> None:
    volume = Volume(windows=10, warm_up=3)
    memory = volume.start(LEARNED, ["x"])
    current = Profile(REFERENCE.layout)
    current.rows = 5
    for _ in range(50):
        memory, _scores = volume.step(memory, current, REFERENCE, [])
    assert memory == [5] * 10
