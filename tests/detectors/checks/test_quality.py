from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from detectors.checks.quality import Constant, Missing, NewCategory, Range, Schema, WrongType
from detectors.core import Column, Wrong, number
from detectors.profile import Profile
from tests.detectors.checks.rows import reference, window

RNG = np.random.default_rng(1)


def pair(before: Any, now: Any) -> tuple[Profile, Profile]:
    was = reference({"x": before})
    return window(was, {"x": now}), was


def holed(values: Any, share: float) -> Any:
    out = np.array(values, float)
    out[: round(share * out.size)] = np.nan
    return out


NORMAL = RNG.normal(0, 1, 5_000)


def test_missing_is_found_when_its_share_rises() -> None:
    found = Missing().check(*pair(holed(NORMAL, 0.10), holed(RNG.normal(0, 1, 500), 0.22)), ["x"]).findings
    assert [f.column for f in found] == ["x"]
    assert found[0].effect == pytest.approx(0.12)
    assert found[0].text.startswith("x is missing in 22 % of the rows, before in 10 %. Rise 12 %, limit 2 %, p = ")


def test_missing_at_the_references_own_share_is_calm() -> None:
    assert not Missing().check(*pair(holed(NORMAL, 0.10), holed(RNG.normal(0, 1, 500), 0.12)), ["x"]).findings


def test_a_column_gone_altogether_is_missing_and_absent() -> None:
    current, was = pair(NORMAL, np.full(20, np.nan))
    assert "is absent from every row" in Missing().check(current, was, ["x"]).findings[0].text
    assert Schema().check(current, was, ["x"]).findings[0].facts["change"] == "gone"


def test_a_column_that_the_reference_never_had_is_new() -> None:
    found = Schema().check(*pair(np.full(500, np.nan), RNG.normal(0, 1, 500)), ["x"]).findings
    assert [f.facts["change"] for f in found] == ["new"]


def test_a_column_that_is_rarely_there_may_be_absent_from_a_window() -> None:
    assert not Schema().check(*pair(holed(NORMAL, 0.9), np.full(30, np.nan)), ["x"]).findings


def test_the_first_value_of_a_wrong_kind_is_found_where_any_is_one_too_many() -> None:
    values = RNG.normal(0, 1, 1_000)
    values[7] = np.nan
    now = number(values, wrong=np.arange(1_000) == 7)
    assert not WrongType().check(*pair(NORMAL, now), ["x"]).findings
    found = WrongType(limit=0).check(*pair(NORMAL, now), ["x"]).findings
    assert found[0].text.startswith("x arrived as something else in 0.1 % of the rows, where it was a number.")
    assert found[0].p_value is None


def test_it_is_told_what_arrived_and_only_of_what_there_was_less_before() -> None:
    rng = np.random.default_rng(7)

    def arrived(**shares: float) -> Column:
        kinds = [0, *(Wrong[name] for name in shares)]
        codes = rng.choice(kinds, 2_000, p=[1 - sum(shares.values()), *shares.values()]).astype(np.uint8)
        return number(np.where(codes > 0, np.nan, rng.normal(0, 1, 2_000)), codes)

    [found] = WrongType().check(*pair(arrived(LIST=0.1), arrived(TEXT=0.3, OBJECT=0.1, LIST=0.05)), ["x"]).findings
    assert re.match(r"x arrived as text in (3.|2.)\.?\d* % and as an object in \S+ % of the rows, where ", found.text)
    assert found.facts["arrived"] == "text, object"


def test_values_outside_the_references_range_are_found_on_both_sides() -> None:
    for step in (-6.0, 6.0):
        now = np.concatenate([RNG.uniform(-1, 1, 450), np.full(50, step)])
        found = Range().check(*pair(NORMAL, now), ["x"]).findings
        assert found[0].effect == pytest.approx(0.1)
        assert found[0].facts["lowest" if step < 0 else "highest"] == step


def test_a_value_just_over_the_highest_is_no_finding() -> None:
    now = np.concatenate([RNG.uniform(-1, 1, 499), [9.0]])
    assert not Range().check(*pair(NORMAL, now), ["x"]).findings


def test_new_words_are_found_and_named_with_their_counts() -> None:
    found = NewCategory().check(*pair(["a", "b"] * 1_000, ["a"] * 180 + ["c"] * 15 + ["d"] * 5), ["x"]).findings
    assert "x has words never seen before in 10 % of its rows: 'c' (15), 'd' (5)." in found[0].text


def test_a_path_never_taken_is_said_to_be_a_path() -> None:
    was = reference({"path": ["read>answer"] * 900 + ["read>ask>answer"] * 100})
    now = window(was, {"path": ["read>answer"] * 180 + ["read>cache"] * 20})
    (finding,) = NewCategory().check(now, was, ["path"]).findings
    assert finding.text.startswith("path has paths never seen before in 10 % of its rows: 'read>cache' (20).")


def test_new_words_are_expected_of_a_column_that_always_had_some() -> None:
    # every fifth word of the reference is seen once, so the next rows bring new ones too
    before = [f"w{i}" for i in range(400)] + ["often"] * 1_600
    now = [f"v{i}" for i in range(40)] + ["often"] * 160
    assert not NewCategory().check(*pair(before, now), ["x"]).findings
    assert NewCategory().check(*pair(["often", "seldom"] * 1_000, now), ["x"]).findings


@pytest.mark.parametrize(("before", "now"), [(NORMAL, np.full(50, 0.3)), (["a", "b"] * 500, ["b"] * 50)])
def test_a_column_that_stopped_varying_is_found(before: Any, now: Any) -> None:
    found = Constant().check(*pair(before, now), ["x"]).findings
    assert "is stuck at" in found[0].text


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (np.arange(1_000.0) % 100 == 0, np.zeros(50)),  # a rare flag that rests
        (np.zeros(1_000), np.zeros(50)),  # constant always
        (NORMAL, np.full(3, 0.3)),  # too few rows
        (["a", "b"] * 500, ["c", "d"] * 25),  # two unseen words are no constant
    ],
)
def test_a_column_that_may_rest_is_not_stuck(before: Any, now: Any) -> None:
    assert (
        not Constant()
        .check(*pair(np.asarray(before, float) if isinstance(before, np.ndarray) else before, now), ["x"])
        .findings
    )


def test_a_share_that_hovers_at_its_limit_does_not_flap() -> None:
    rng = np.random.default_rng(2)
    windows = [np.where(rng.random(500) < 0.12, np.nan, 0.5) for _ in range(200)]
    found = [bool(Missing().check(*pair(holed(NORMAL, 0.10), now), ["x"]).findings) for now in windows]
    assert sum(found) <= 1


def test_a_day_of_alike_rows_is_not_constant_where_days_of_the_reference_were_alike_too() -> None:
    rng = np.random.default_rng(3)
    days = np.repeat(rng.random(80) < 0.5, 48).astype(float)
    loose = rng.permutation(days)
    for values, calm in ((days, True), (loose, False)):
        was = reference({"x": values}, times=np.arange(values.size) * np.float64(1_800))
        now = window(was, {"x": np.ones(48)}, times=np.arange(48) * np.float64(1_800))
        assert bool(Constant().check(now, was, ["x"]).findings) is not calm


def test_a_small_reference_is_not_taken_for_the_truth() -> None:
    # none missing in 30 rows says little: 12 in 100 are no finding, against 30,000 rows they are
    now = holed(np.linspace(0, 1, 100), 0.12)
    assert not Missing().check(*pair(np.linspace(0, 1, 30), now), ["x"]).findings
    assert Missing().check(*pair(np.linspace(0, 1, 30_000), now), ["x"]).findings
