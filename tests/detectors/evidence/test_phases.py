"""What the hour explains is taken off, and no more; seasonal columns are calm, and heard when they move."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.checks.evidence import EDetector
from detectors.core import Batch, Floats, from_columns, number
from detectors.encode import decode, encode
from detectors.evidence import model
from detectors.evidence.phases import DAY, HOUR, WEEK, Season, apart, learn
from detectors.profile import rows_of
from detectors.reference import Reference, build_from

DETECTOR = EDetector(events=10_000)


def daily(times: Floats, noise: float, seed: int) -> Floats:
    """Two humps a day, as traffic has them."""
    turn = 2 * np.pi * times / DAY
    return np.sin(turn) + 0.7 * np.sin(2 * turn) + noise * np.random.default_rng(seed).normal(size=times.size)


def batch(times: Floats, values: Floats) -> Batch:
    return from_columns({"load": number(values)}, times, [f"row {at}" for at in times])


def reference(times: Floats, values: Floats) -> Reference:
    return build_from("m", batch(times, values), {}, roles={}, source="test", created=0.0)


def alarms(known: Reference, times: Floats, values: Floats) -> int:
    rows = rows_of(known.layout, batch(times, values))
    memory = DETECTOR.start(known, known.layout.columns)
    return len(DETECTOR.step_rows(memory, rows)[1])


# -- the tables


def test_the_hour_of_the_week_is_known_from_three_weeks_on() -> None:
    def weekly(weeks: float) -> list[Season]:
        times = np.random.default_rng(1).uniform(0, weeks * WEEK, 2_000)
        weekend = times % WEEK > 5 * DAY
        return learn(times, (daily(times, 0.1, 2) * np.where(weekend, 0.2, 1.0))[:, None]).seasons

    assert [len(season.knots) for season in weekly(2.9)] == [24]
    assert [len(season.knots) for season in weekly(3.0)] == [168]


def test_two_days_show_no_season() -> None:
    times = np.arange(0, 2 * DAY, 60.0)
    assert learn(times, daily(times, 0.1, 3)[:, None]).seasons == []


@pytest.mark.parametrize("days", [3, 30])
def test_what_has_no_season_is_given_none(days: int) -> None:
    draw = np.random.default_rng(4)
    times = np.sort(draw.uniform(0, days * DAY, 1_000))
    walks = np.cumsum(draw.normal(size=(1_000, 20)), axis=0)
    rows = np.concatenate([draw.normal(size=(1_000, 20)), draw.integers(0, 2, (1_000, 10)), walks], axis=1)
    of = [f for season in learn(times, rows).seasons for f in season.of.tolist()]
    assert max(of, default=30) >= 30  # none of those whose rows could come in any order
    assert len(of) <= 4


def test_between_hours_levels_are_interpolated() -> None:
    times = np.random.default_rng(5).uniform(0, 20 * DAY, 4_000)
    known = learn(times, daily(times, 0.0, 0)[:, None])
    minutes = np.arange(0, DAY, 60.0)
    left = apart(known.seasons, minutes, daily(minutes, 0.0, 0)[:, None])[:, 0] * known.seasons[0].size[0]
    steps = np.abs(daily(minutes + HOUR, 0.0, 0) - daily(minutes, 0.0, 0)).max()
    spread = np.interp(minutes, known.seasons[0].knots, known.seasons[0].spread[:, 0], period=DAY)
    assert np.abs(left * spread).max() < steps / 5


def test_the_references_own_rows_are_as_far_from_its_tables_as_new_ones() -> None:
    draw = np.random.default_rng(6)
    times = np.arange(0, 4 * WEEK, HOUR)
    columns = np.stack([daily(times, 0.5, int(seed)) for seed in draw.integers(0, 1_000, 20)], axis=1)
    known = learn(times, columns)
    later = times + 4 * WEEK
    new = np.stack([daily(later, 0.5, 2_000 + seed) for seed in range(20)], axis=1)
    own, flattered, fresh = (
        float(np.abs(left).mean())
        for left in (
            known.reference(times, columns), apart(known.seasons, times, columns), apart(known.seasons, later, new)
        )
    )  # fmt: skip
    assert own == pytest.approx(fresh, rel=0.05)
    assert flattered < own


def test_missing_values_stay_missing_and_other_columns_as_they_were() -> None:
    times = np.arange(0, 10 * DAY, 600.0)
    rows = np.stack([daily(times, 0.1, 7), np.random.default_rng(8).normal(size=times.size)], axis=1)
    rows[::7] = np.nan
    known = learn(times, rows)
    left = apart(known.seasons, times, rows)
    assert np.array_equal(np.isnan(left), np.isnan(rows))
    assert np.array_equal(left[:, 1], rows[:, 1], equal_nan=True)


# -- the check


@pytest.mark.parametrize(("noise", "size", "zone"), [(0.05, 1e6, 0), (0.1, 1e-3, 7), (0.3, 1.0, 15)])
def test_a_daily_pattern_is_calm_and_a_shift_of_one_hour_of_it_is_found(noise: float, size: float, zone: int) -> None:
    seed = zone + 100
    times = np.arange(0, 14 * DAY, 600.0) + zone * HOUR
    known = reference(times, size * daily(times, noise, seed))
    later = times[-1] + 600.0 * np.arange(1, 1_001)
    assert alarms(known, later, size * daily(later, noise, seed + 1)) <= 1
    assert alarms(known, later, size * daily(later + HOUR, noise, seed + 1)) >= 1


def test_rows_of_an_hour_that_the_newest_rows_are_not_of_are_calm() -> None:
    draw = np.random.default_rng(9)
    before = np.sort(draw.uniform(0, 20 * DAY, 20_000))
    newest = 20 * DAY + np.sort(draw.uniform(0, HOUR, 5_000))  # a busy hour after midnight
    times = np.concatenate([before, newest])
    known = reference(times, daily(times, 0.3, 10))
    later = 20 * DAY + 8 * HOUR + np.sort(draw.uniform(0, HOUR, 2_000))
    assert alarms(known, later, daily(later, 0.3, 11)) == 0
    assert alarms(known, later, daily(later, 0.3, 11) + 0.5) >= 1


def test_a_memory_with_seasons_goes_on_out_of_a_checkpoint() -> None:
    times = np.arange(0, 14 * DAY, 600.0)
    known = reference(times, daily(times, 0.2, 12))
    later = times[-1] + 600.0 * np.arange(1, 301)
    rows = rows_of(known.layout, batch(later, daily(later, 0.2, 13)))
    memory = DETECTOR.start(known, known.layout.columns).model
    assert model.approximate(memory) == ("load",)
    back = model.read(decode(encode(memory), dict))
    passed = np.ones(len(later))
    assert encode(model.step(back, rows, passed, 1e4)[0]) == encode(model.step(memory, rows, passed, 1e4)[0])
