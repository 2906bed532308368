from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detectors.checks.stuck import Stuck
from detectors.core import Batch, from_columns, number
from detectors.profile import Profile
from detectors.reference import Reference
from tests.detectors.checks.rows import learned

RNG = np.random.default_rng(1)
LEARNED = learned(from_columns({"x": number(RNG.normal(0, 1, 2_000)), "dial": number(RNG.integers(0, 3, 2_000))}))


def rows(x: Any, start: float = 0.0) -> Batch:
    x = np.asarray(x, float)
    return from_columns(
        {"x": number(x), "dial": number(np.arange(x.size) % 3)},
        times=start + np.arange(x.size),
        ids=[f"{start}-{i}" for i in range(x.size)],
    )


def played(windows: Iterable[Any], reference: Reference = LEARNED, size: int = 256) -> list[tuple[int, str]]:
    """Windows with a finding, and its text."""
    stuck, found = Stuck(), []
    memory: Any = stuck.start(reference, ["x", "dial"])
    for i, x in enumerate(windows):
        current = Profile(reference.layout, size)
        current.update(rows(x, 1000.0 * i))
        memory, scores = stuck.step(memory, current, reference.profile, ["x", "dial"])
        found += [(i, f.text) for f in scores.findings]
    return found


def test_a_sensor_that_stands_still_while_others_go_on_is_found() -> None:
    x = RNG.normal(0, 1, 200)
    x[100:] = x[100]
    ((_, text),) = played([RNG.normal(0, 1, 200), x])
    assert text.startswith("x is stuck at ")
    assert "100 rows on end" in text


def test_a_run_goes_on_from_window_to_window() -> None:
    windows = [RNG.normal(0, 1, 50)] + [np.full(8, 0.25)] * 4
    ((at, text), *_) = played(windows)
    assert at == 3
    assert "24 rows on end" in text


def test_a_busy_windows_sample_shows_a_shorter_run_of_the_same_value() -> None:
    x = RNG.normal(0, 1, 5_000)
    x[2_000:4_000] = 1.5
    ((_, text),) = played([x])
    assert "x is stuck at 1.5" in text


def test_a_column_of_few_values_may_keep_one_for_as_long_as_it_did() -> None:
    assert not played([np.repeat(RNG.normal(0, 1, 20), 5)], learned(rows(np.repeat(RNG.normal(0, 1, 200), 5))))


def test_missing_values_are_no_value_that_stands() -> None:
    assert not played([np.full(200, np.nan)] * 3)


def test_a_column_that_never_varied_is_not_watched() -> None:
    assert not played([np.full(200, 3.0)] * 3, learned(rows(np.full(500, 3.0))))


@given(cut=st.integers(0, 60), start=st.integers(0, 60))
def test_a_run_is_as_long_however_its_rows_are_cut_into_windows(cut: int, start: int) -> None:
    x = np.arange(60.0)
    x[start:] = -1.0
    whole, parts = played([x]), played([x[:cut], x[cut:]])
    assert {text for _, text in whole} <= {text for _, text in parts}
