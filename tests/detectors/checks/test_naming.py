from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.checks.conversion import Unit
from detectors.checks.naming import CONVERSIONS, Conversion, Naming, name_change
from detectors.checks.shift import Ks
from detectors.core import from_columns, number
from detectors.profile import Profile, lay_out

REFERENCE = 2_000


def told(before: Any, now: Any) -> Naming | None:
    current, reference = profiles(before, now)
    return name_change(current, reference, "x")


def profiles(before: Any, now: Any) -> tuple[Profile, Profile]:
    rows = from_columns({"x": number(before)})
    reference = Profile(lay_out(rows), REFERENCE)
    reference.update(rows)
    current = Profile(reference.layout, 256)
    current.update(from_columns({"x": number(now)}))
    return current, reference


def whole(rng: np.random.Generator, n: int) -> Any:
    """Ages, in whole years."""
    return np.clip(rng.gamma(9.0, 4.5, n), 18, 95).round()


def fine(rng: np.random.Generator, n: int) -> Any:
    """A measurement with all its digits."""
    return rng.gamma(4.0, 5.0, n)


PLAIN = [c for c in CONVERSIONS if not c.name.startswith(("exp", "10^"))]


@pytest.mark.parametrize("conversion", PLAIN, ids=[f"{i}-{c.name}" for i, c in enumerate(PLAIN)])
def test_whole_numbers_tell_their_conversion_from_few_rows(conversion: Conversion) -> None:
    rng = np.random.default_rng(1)
    naming = told(whole(rng, REFERENCE), conversion.forth(whole(rng, 300)))
    assert naming is not None
    assert naming.name == conversion.name
    assert naming.share == 1


@pytest.mark.parametrize("name", ["x100", "x1000", "Celsius to Fahrenheit", "sign", "log10"])
def test_measurements_with_all_their_digits_tell_what_no_population_does(name: str) -> None:
    rng = np.random.default_rng(2)
    conversion = next(c for c in CONVERSIONS if c.name == name)
    naming = told(fine(rng, REFERENCE), conversion.forth(fine(rng, 1_000)))
    assert naming is not None
    assert naming.name == name


def test_the_equation_is_told_with_the_interval_of_its_slope() -> None:
    rng = np.random.default_rng(3)
    naming = told(rng.normal(20, 3, REFERENCE), rng.normal(20, 3, 1_000) * 1.8 + 32)
    assert naming is not None
    assert naming.text.startswith("x reads like Fahrenheit where it was Celsius: new = 1.")
    assert naming.low < 1.8 < naming.high
    assert naming.facts["conversion"] == "Celsius to Fahrenheit"


def test_miles_are_not_told_from_few_rows_that_a_population_could_have_stretched_as_far() -> None:
    rng = np.random.default_rng(4)
    naming = told(fine(rng, REFERENCE), fine(rng, 250) * 1.609344)
    assert naming is None or naming.name == "line"


def no_unit(values: Any, rng: np.random.Generator) -> dict[str, Any]:
    ordered = np.sort(values)
    return {
        "the same": values,
        "moved": values + 0.3 * values.std(),
        "a third filled with the median": np.where(rng.random(values.size) < 0.3, np.median(values), values),
        "the upper half only": rng.choice(ordered[ordered.size // 2 :], values.size),
        "an odd factor": values * 1.37,
        "another odd factor": values * 0.73,
        "constant": np.full(values.size, 7.0),
        "mixed with twice as large": np.where(rng.random(values.size) < 0.5, 2 * values, values),
    }


@given(seed=st.integers(0, 10_000), rows=st.sampled_from([100, 256, 1_000]), kind=st.sampled_from([whole, fine]))
@settings(max_examples=25, deadline=None)
def test_what_is_no_change_of_unit_gets_no_name_of_a_unit(
    seed: int, rows: int, kind: Callable[[np.random.Generator, int], Any]
) -> None:
    rng = np.random.default_rng(seed)
    before = kind(rng, REFERENCE)
    for change, now in no_unit(kind(rng, rows), rng).items():
        naming = told(before, now)
        assert naming is None or naming.name == "line", change


def test_a_gain_with_an_offset_is_a_line() -> None:
    rng = np.random.default_rng(5)
    naming = told(rng.beta(4, 6, REFERENCE), 1.2 * rng.beta(4, 6, 2_000) + 0.05)
    assert naming is not None
    assert naming.name == "line"
    assert naming.low < 1.2 < naming.high
    assert naming.intercept == pytest.approx(0.05, abs=0.03)


def test_a_part_of_the_rows_in_another_unit_is_told_with_its_share() -> None:
    rng = np.random.default_rng(6)
    now = rng.normal(20, 3, 1_000).round(1)
    naming = told(rng.normal(20, 3, REFERENCE).round(1), np.where(rng.random(1_000) < 0.4, now * 1.8 + 32, now))
    assert naming is not None
    assert naming.name == "Celsius to Fahrenheit"
    assert naming.share == pytest.approx(0.4, abs=0.1)
    assert "% of its rows" in naming.text


def test_what_is_cut_at_a_bound_is_clipped() -> None:
    rng = np.random.default_rng(7)
    naming = told(rng.normal(0, 1, REFERENCE), np.minimum(rng.normal(0, 1, 1_000), 1.0))
    assert naming is not None
    assert naming.name == "clipped"
    assert "none above" in naming.text


def test_values_that_were_standardised_twice_over_are_told() -> None:
    rng = np.random.default_rng(8)
    before = rng.normal(200, 30, REFERENCE)
    naming = told(before, (rng.normal(200, 30, 1_000) - before.mean()) / before.std())
    assert naming is not None
    assert naming.name == "standardised"


def test_digits_rounded_again_after_the_conversion_are_no_contradiction() -> None:
    rng = np.random.default_rng(9)
    naming = told(whole(rng, REFERENCE), (whole(rng, 300) * 1.8 + 32).round())
    assert naming is not None
    assert naming.name == "Celsius to Fahrenheit"


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_too_few_rows_tell_nothing(rows: int) -> None:
    rng = np.random.default_rng(10)
    assert told(fine(rng, REFERENCE), 1000 * fine(rng, rows)) is None
    assert told(fine(rng, max(rows, 1)), 1000 * fine(rng, REFERENCE)) is None


def test_a_column_without_spread_and_one_that_is_no_number_tell_nothing() -> None:
    assert told(np.full(500, 3.0), np.full(500, 30.0)) is None
    current, reference = profiles(np.arange(500.0), np.arange(500.0))
    assert name_change(current, reference, "no such column") is None


def test_the_check_finds_the_column_and_the_shift_says_what_it_is() -> None:
    rng = np.random.default_rng(11)
    current, reference = profiles(whole(rng, REFERENCE), 1000 * whole(rng, 1_000))
    for detector in (Unit(), Ks()):
        (finding,) = detector.check(current, reference, ["x"]).findings
        assert "x reads 1,000 times as large" in finding.text
        assert finding.facts["conversion"] == "x1000"


def test_where_the_digits_do_not_tell_a_unit_from_a_factor_of_two_digits_the_nearer_one_counts() -> None:
    rng = np.random.default_rng(8)
    before, now = rng.random(REFERENCE), rng.random(10_000)
    now *= before.std(ddof=1) / now.std(ddof=1)
    chosen, unit = told(before, 0.45 * now), told(before, 0.45359237 * now)
    assert chosen is not None
    assert (chosen.name, chosen.low < 0.45 < chosen.high) == ("line", True)
    assert unit is not None
    assert unit.name == "pounds to kilograms"


def test_a_stretch_of_a_column_that_is_mostly_one_value_is_not_taken_for_a_clip() -> None:
    rng = np.random.default_rng(9)

    def mostly_unset(n: int) -> Any:
        return np.where(rng.random(n) < 0.75, -1.0, rng.gamma(4, 50, n))

    naming = told(mostly_unset(REFERENCE), 0.7 * mostly_unset(10_000))
    assert naming is None or naming.name != "clipped"
