from __future__ import annotations

import numpy as np
import pytest

from detectors.core import Mask
from detectors.profile import lay_out
from detectors.slices import Rows, Slice, concentrated
from tests.detectors.checks.rows import rows

LAYOUT = lay_out(rows({"age": np.arange(90.0), "flag": np.arange(90.0) % 2, "colour": ["red", "green", "blue"] * 30}))


def _rows(rng: np.random.Generator, n: int) -> Rows:
    numbers = np.stack([rng.uniform(0, 90, n), rng.integers(0, 2, n)], axis=1).astype(np.float32)
    return Rows(numbers, rng.integers(0, 3, (n, 1)).astype(np.int32), rng.normal(size=n))


def _raised(now: Rows, where: Mask, by: float = 1.5) -> Rows:
    return Rows(now.numbers, now.codes, now.moved + by * where)


def _found(where: str, n: int = 400, seed: int = 0, without: tuple[str, ...] = ()) -> Slice | None:
    rng = np.random.default_rng(seed)
    was, now = _rows(rng, 2_000), _rows(rng, n)
    old, on = now.numbers[:, 0] > 60, now.numbers[:, 1] == 1
    word = now.codes[:, 0] == LAYOUT.codes[0]["green"]
    masks = {
        "old and on": old & on,
        "green": word,
        "everywhere": np.ones(n, np.bool_),
        "nowhere": np.zeros(n, np.bool_),
    }
    return concentrated(_raised(now, masks[where]), was, LAYOUT, without)


def test_one_condition_is_named_where_one_is_enough() -> None:
    found = _found("green")

    assert found is not None
    assert found.conditions == ("colour = 'green'",)
    assert found.inside == pytest.approx(1.5, abs=0.3)
    assert found.outside == pytest.approx(0, abs=0.3)


def test_two_conditions_are_named_where_only_both_tell() -> None:
    found = _found("old and on")

    assert found is not None
    assert {condition.split()[0] for condition in found.conditions} == {"age", "flag"}
    assert found.rows == pytest.approx(400 / 6, rel=0.4)


@pytest.mark.parametrize("where", ["everywhere", "nowhere"])
def test_a_change_that_is_no_slices_own_names_none(where: str) -> None:
    assert [_found(where, seed=seed) for seed in range(20)].count(None) >= 19


def test_the_columns_left_out_make_no_condition() -> None:
    assert _found("green", without=("colour",)) is None


def test_more_rows_of_a_slice_are_no_change_within_it() -> None:
    rng = np.random.default_rng(1)
    was, now = _rows(rng, 2_000), _rows(rng, 600)
    was, now = (_raised(part, part.codes[:, 0] == 1) for part in (was, now))  # one word has always been higher
    keep = (now.codes[:, 0] == 1) | (rng.random(600) < 0.3)  # and is more frequent now

    assert concentrated(Rows(now.numbers[keep], now.codes[keep], now.moved[keep]), was, LAYOUT) is None


def test_a_handful_of_rows_or_missing_values_alone_name_none() -> None:
    rng = np.random.default_rng(2)
    was, now = _rows(rng, 2_000), _rows(rng, 50)

    assert _found("green", n=8) is None
    assert concentrated(Rows(now.numbers, now.codes, np.full(50, np.nan)), was, LAYOUT) is None
