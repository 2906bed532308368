from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.decode.times import parse_time, parse_times


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_an_epoch_number_shows_its_unit_by_its_size(unit: int) -> None:
    assert parse_time(1_795_341_600 * unit) == 1_795_341_600
    assert parse_time(str(1_795_341_600 * unit)) == 1_795_341_600


def test_no_zone_is_utc() -> None:
    assert parse_time("2026-11-22T10:00:00") == parse_time("2026-11-22T10:00:00Z") == 1_795_341_600


@pytest.mark.parametrize(
    "value", ["", "soon", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", -1, 1e30, math.nan, True, None, [], {}, "²"]
)
def test_what_is_no_time_is_nan(value: Any) -> None:
    assert math.isnan(parse_time(value))


zones: Any = st.one_of(
    st.none(), st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
)
moments = st.datetimes(*(datetime(year, 1, 1) for year in (1971, 9998)), timezones=zones)  # noqa: DTZ001 - bounds are naive


@given(st.lists(moments, min_size=1, max_size=5), st.sampled_from(["seconds", "milliseconds", "microseconds"]))
def test_many_at_once_are_as_one_by_one(some: list[datetime], places: str) -> None:
    texts = [moment.isoformat(timespec=places) for moment in some] * 20
    expected = [
        (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).replace(
            microsecond={"seconds": 0, "milliseconds": moment.microsecond // 1000 * 1000}.get(
                places, moment.microsecond
            )
        )
        for moment in some
    ] * 20
    np.testing.assert_allclose(parse_times(texts), [moment.timestamp() for moment in expected], rtol=0, atol=1e-4)


@given(st.lists(st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:+Z.-]{8}", fullmatch=True), min_size=1, max_size=6))
def test_forms_that_only_look_right_are_judged_like_single_ones(texts: list[str]) -> None:
    many = ["2026-11-22T10:00:00", *texts] * 10
    np.testing.assert_array_equal(parse_times(many), [parse_time(text) for text in many])
