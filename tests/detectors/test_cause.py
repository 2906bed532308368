from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from detectors.cause import KEPT, Cause, Recent, explain, keep
from detectors.core import Floats
from detectors.encode import decode, encode
from detectors.evidence import joint
from detectors.profile import Sample, rows_of
from detectors.reference import Reference
from tests.detectors.checks.rows import Values, learned, rows

REFERENCE_ROWS = 1_500
REGIONS = ["north", "south", "west"]


def _table(rng: np.random.Generator, n: int) -> dict[str, Values]:
    """Ten columns: a and b tied closely, c and d loosely, four free, one half missing, one of words."""
    common, free = rng.normal(size=n), rng.normal(size=(n, 9))
    return {
        "a": 50 + 10 * (common + 0.3 * free[:, 0]),
        "b": np.exp(common + 0.3 * free[:, 1]),
        "c": common + 2 * free[:, 2],
        "d": common + 2 * free[:, 3],
        "e": free[:, 4],
        "f": np.round(2 * free[:, 5]),
        "g": free[:, 6] ** 3,
        "h": 300 + free[:, 7],
        "holed": np.where(rng.random(n) < 0.5, np.nan, free[:, 8]),
        "region": rng.choice(REGIONS, n).tolist(),
    }


def _sample(reference: Reference, columns: Mapping[str, Values], start: int = 0) -> Sample:
    held = rows_of(reference.layout, rows(columns))
    return held._replace(times=np.arange(start, start + len(held.times), dtype=np.float64))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return learned(rows(_table(np.random.default_rng(0), REFERENCE_ROWS)))


Change = Callable[[dict[str, Values], np.random.Generator], None]


def _explained(reference: Reference, change: Change, *, calm: int = 200, after: int = 150, seed: int = 1) -> Cause:
    rng = np.random.default_rng(seed)
    changed = _table(rng, after)
    change(changed, rng)
    recent = keep(None, _sample(reference, _table(rng, calm)))
    recent = keep(recent, _sample(reference, changed, calm))
    held = reference.rows
    cause = explain(recent, held, reference.layout, joint.fit(held.numbers, held.codes))
    assert cause is not None
    return cause


def _numbers(columns: Mapping[str, Values], name: str) -> Floats:
    values = columns[name]
    assert isinstance(values, np.ndarray)
    return values


def _shift(name: str, by: float) -> Change:
    def change(columns: dict[str, Values], _: np.random.Generator) -> None:
        columns[name] = _numbers(columns, name) + by

    return change


def test_a_column_that_moved_is_first_and_told_in_its_own_unit(reference: Reference) -> None:
    cause = _explained(reference, _shift("h", 0.8))

    assert cause.ranking[0] == "h"
    assert cause.moves[0].statistic == "median"
    assert cause.moves[0].before == pytest.approx(300, abs=0.1)
    assert cause.moves[0].after == pytest.approx(300.8, abs=0.2)
    assert cause.groups == (("h",),)


def test_the_change_is_dated_by_all_columns(reference: Reference) -> None:
    cause = _explained(reference, _shift("e", 1.2))

    assert cause.rows == pytest.approx(150, abs=15)
    assert cause.since == pytest.approx(200, abs=15)


def test_of_two_tied_columns_the_one_that_moved_is_told_from_the_one_that_stayed(reference: Reference) -> None:
    firsts = [_explained(reference, _shift("a", 4.0), after=80, seed=seed).ranking[0] for seed in range(10)]

    assert firsts.count("a") >= 9


def test_weak_moves_rank_before_luck(reference: Reference) -> None:
    moved = {"a", "c", "e", "g"}

    def change(columns: dict[str, Values], _: np.random.Generator) -> None:
        for name in moved:
            columns[name] = _numbers(columns, name) + 0.4 * np.nanstd(_numbers(columns, name))

    found = [len(moved & set(_explained(reference, change, seed=seed).ranking[:4])) for seed in range(10)]

    assert np.mean(found) >= 0.8 * 4


def test_a_torn_tie_is_named_with_the_column_it_was_tied_to(reference: Reference) -> None:
    def tear(columns: dict[str, Values], rng: np.random.Generator) -> None:
        columns["b"] = rng.permutation(_numbers(columns, "b"))

    first = _explained(reference, tear).moves[0]

    assert {first.column, first.statistic} in ({"a", "correlation with b"}, {"b", "correlation with a"})
    assert first.before > 0.8
    assert abs(first.after) < 0.3


@pytest.mark.parametrize(
    ("name", "value", "statistic"), [("h", np.nan, "missing"), ("region", "south", "share of 'south'")]
)
def test_what_filled_a_column_is_named(reference: Reference, name: str, value: float | str, statistic: str) -> None:
    def fill(columns: dict[str, Values], rng: np.random.Generator) -> None:
        values = np.array(columns[name])
        values[rng.random(len(values)) < 0.6] = value
        columns[name] = values.tolist() if isinstance(value, str) else values

    first = _explained(reference, fill).moves[0]

    assert (first.column, first.statistic) == (name, statistic)
    assert first.after > first.before + 0.3


def test_a_word_the_reference_lacks_is_named_as_such(reference: Reference) -> None:
    def rename(columns: dict[str, Values], _: np.random.Generator) -> None:
        columns["region"] = ["North" if word == "north" else str(word) for word in np.array(columns["region"])]

    first = _explained(reference, rename).moves[0]

    assert first.column == "region"
    assert first.statistic in ("share of unknown words", "share of 'north'")


def test_columns_that_fall_on_the_same_rows_are_one_group(reference: Reference) -> None:
    def same_rows(columns: dict[str, Values], rng: np.random.Generator) -> None:
        hit = rng.random(150) < 0.4
        for name in ("e", "g", "h"):
            columns[name] = np.where(hit, _numbers(columns, name).min(), _numbers(columns, name))

    def each_its_own(columns: dict[str, Values], _: np.random.Generator) -> None:
        for name in ("e", "g", "h"):
            columns[name] = _numbers(columns, name) + 1.5

    together, apart = _explained(reference, same_rows), _explained(reference, each_its_own)

    assert {"e", "g", "h"} in [set(group) for group in together.groups]
    assert {("e",), ("g",), ("h",)} <= set(apart.groups)


def test_the_slice_that_moved_is_named_and_a_move_everywhere_names_none(reference: Reference) -> None:
    def in_slice(columns: dict[str, Values], _: np.random.Generator) -> None:
        hit = (np.array(columns["region"]) == "south") & (_numbers(columns, "g") > np.median(_numbers(columns, "g")))
        columns["e"] = _numbers(columns, "e") + 2.5 * hit

    cause = _explained(reference, in_slice, after=300)

    assert cause.ranking[0] == "e"
    assert cause.slice is not None
    assert "region = 'south'" in cause.slice.conditions
    assert any(condition.startswith("g > ") for condition in cause.slice.conditions)
    assert cause.slice.inside > 1
    assert abs(cause.slice.outside) < 0.5
    assert [_explained(reference, _shift("e", 1.0), seed=seed).slice for seed in range(10)].count(None) >= 9


def test_nothing_moved_names_only_the_first_of_the_ranking(reference: Reference) -> None:
    moves = [len(_explained(reference, _shift("e", 0.0), seed=seed).moves) for seed in range(10)]

    assert np.mean(moves) < 1.2


def test_rows_kept_are_the_newest_whatever_the_pieces_they_came_in(reference: Reference) -> None:
    rng = np.random.default_rng(3)
    sample = _sample(reference, _table(rng, 2 * KEPT))
    whole = keep(None, sample)
    pieces: Recent | None = None
    for part in np.array_split(np.arange(2 * KEPT), 7):
        pieces = keep(pieces, Sample(sample.keys[part], sample.times[part], sample.numbers[part], sample.codes[part]))

    assert pieces is not None
    assert len(whole.times) == KEPT
    for a, b in zip(_fields(whole), _fields(decode(encode(pieces), Recent)), strict=True):
        np.testing.assert_array_equal(a, b)


def _fields(recent: Recent) -> tuple[np.ndarray, ...]:
    return recent.times, recent.numbers, recent.codes


def test_hostile_values_are_explained_without_a_warning(reference: Reference) -> None:
    def wreck(columns: dict[str, Values], _: np.random.Generator) -> None:
        columns["a"] = np.full(150, np.nan)
        columns["b"] = np.full(150, 1e100)
        columns["region"] = [None] * 150
        columns["holed"] = np.full(150, np.nan)

    cause = _explained(reference, wreck)

    assert set(cause.ranking[:3]) == {"a", "b", "region"}
    assert encode(cause)


def test_too_few_rows_have_no_cause(reference: Reference) -> None:
    held = reference.rows
    recent = keep(None, _sample(reference, _table(np.random.default_rng(4), 3)))

    assert explain(recent, held, reference.layout, joint.fit(held.numbers, held.codes)) is None
