from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.checks.duplicates import Duplicates
from detectors.core import Scores, category, from_columns, number
from detectors.profile import Profile
from tests.detectors.checks.rows import learned

COLUMNS = ("amount", "age", "country")


def rows(rng: np.random.Generator, n: int) -> Any:
    return {
        "amount": number(rng.normal(0, 1, n).round(4)),
        "age": number(rng.integers(18, 90, n)),
        "country": category(rng.choice(["DE", "FR"], n).tolist()),
    }


LEARNED = learned(from_columns(rows(np.random.default_rng(1), 3_000)))


def look(columns: Any, asked: tuple[str, ...] = COLUMNS, ids: list[str] | None = None) -> Scores:
    current = Profile(LEARNED.layout)
    current.update(from_columns(columns, ids=ids))
    return Duplicates().check(current, LEARNED.profile, asked)


@pytest.mark.parametrize("n", [100, 300, 1_000])
def test_a_stream_in_which_every_event_comes_twice_is_found_at_any_size_of_window(n: int) -> None:
    once = rows(np.random.default_rng(2), n)
    (finding,) = look({name: column.take(np.arange(2 * n) // 2) for name, column in once.items()}).findings
    assert finding.text.startswith("Events come more than once: ")
    assert finding.effect == pytest.approx(1, rel=0.9)


def test_rows_that_are_alike_by_nature_are_no_duplicates() -> None:
    assert not look(rows(np.random.default_rng(3), 2_000)).findings
    # two countries and seventy ages: content that tells no row from another is not measured
    assert look(rows(np.random.default_rng(3), 2_000), ("country",)).score.tolist() == [0]


@pytest.mark.parametrize("n", [200, 2_000, 20_000])
def test_one_event_in_ten_under_an_id_that_came_already_is_found_at_any_size_of_window(n: int) -> None:
    again = [str(i if i % 10 else i + 1) for i in range(n)]
    (finding,) = look(rows(np.random.default_rng(6), n), ids=again).findings
    assert finding.facts["by"] == "id"
    assert "sampled ids came again" in finding.text
    assert finding.effect == pytest.approx(0.2, abs=0.15)


def test_ids_that_come_again_as_often_as_in_the_reference_are_no_finding() -> None:
    def window(seed: int, n: int, size: int) -> Profile:
        profile = Profile(LEARNED.layout, size)
        ids = [str(i if i % 10 else i + 1) for i in range(n)]
        profile.update(from_columns(rows(np.random.default_rng(seed), n), ids=ids))
        return profile

    reference = window(7, 5_000, 2_000)
    assert not Duplicates().check(window(8, 1_000, 128), reference, COLUMNS).findings


def test_a_column_that_differs_makes_two_rows_different() -> None:
    twice = {name: column.take(np.arange(400) // 2) for name, column in rows(np.random.default_rng(4), 200).items()}
    twice["age"] = number(np.arange(400.0))
    assert not look(twice).findings
    assert look(twice, ("amount", "country")).findings


def test_rows_without_any_value_have_no_twin() -> None:
    assert not look({"amount": number(np.full(300, np.nan))}).findings
