from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from detectors.checks.volume import Volume
from detectors.encode import decode, encode
from detectors.profile import Profile
from detectors.reference import Reference
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
    assert memory.counts == [5] * 10


def weeks(rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Times (n,) of three weeks: busy by day, quiet at night, half as busy at weekends."""
    start = datetime(2026, 6, 1, tzinfo=UTC).timestamp()  # a Monday
    times = start + np.sort(rng.uniform(0, 21 * 86_400.0, 8 * n))
    busy = np.where((times % 86_400.0 > 7 * 3600) & (times % 86_400.0 < 20 * 3600), 1.0, 0.05)
    busy = busy * np.where((times // 86_400 + 3) % 7 >= 5, 0.5, 1.0)
    return times[rng.random(times.size) < busy]


def hourly(reference: Reference, times: Any, dead: range = range(0)) -> list[int]:
    """Hours with a finding, of which those of `dead` get no row."""
    volume = Volume()
    memory: Any = volume.start(reference, [])
    found = []
    hours = ((times - times.min()) // 3600).astype(int)
    for hour in range(hours.max() + 1):
        current = Profile(reference.layout)
        at = times[hours == hour]
        if hour not in dead and at.size:
            current.update(rows({"x": np.zeros(at.size)}, at))
        memory, scores = volume.step(decode(encode(memory), Any), current, reference.profile, [])
        if scores.findings:
            found.append(hour)
    return found


def test_the_quiet_of_the_night_is_no_slump_and_silence_by_day_is() -> None:
    rng = np.random.default_rng(5)
    before = weeks(rng, 8_000)
    reference = learned(rows({"x": np.zeros(before.size)}, before))
    now = weeks(rng, 8_000) + 21 * 86_400.0
    noons = range(24 * 9 + 12, 24 * 9 + 14)
    assert hourly(reference, now, noons) == list(noons)
    # the same traffic without a season known
    unknowing = learned(rows({"x": np.zeros(before.size)}))
    assert len(hourly(unknowing, now)) > 30


def test_dates_alone_say_nothing_of_the_hour() -> None:
    days = np.arange(20).repeat(50) * np.float64(86_400)
    reference = learned(rows({"x": np.zeros(days.size)}, days))
    assert Volume().start(reference, []).hours == [1.0] * 24
