from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.core import (
    Batch,
    Column,
    Kind,
    Wrong,
    category,
    concat,
    empty,
    from_columns,
    keys_of,
    number,
    text,
    vector,
)

words = st.lists(st.sampled_from([None, "a", "b", "c", ""]), max_size=20)


def said(column: Column) -> list[Any]:
    """The values as a reader means them: words for categories, None for missing."""
    if column.kind is Kind.CATEGORY:
        return [None if code < 0 else column.words[code] for code in column.values.tolist()]
    return [None if gone else value for value, gone in zip(column.values.tolist(), column.missing(), strict=True)]


@given(parts=st.lists(words, min_size=1, max_size=5))
def test_categories_of_joined_batches_keep_their_words(parts: list[list[str | None]]) -> None:
    joined = concat([from_columns({"c": category(part)}) for part in parts])
    assert said(joined["c"]) == [word for part in parts for word in part]


@given(values=words, cuts=st.lists(st.integers(0, 20), max_size=3))
def test_what_is_cut_and_joined_again_is_the_same(values: list[str | None], cuts: list[int]) -> None:
    n = len(values)
    whole = from_columns({
        "c": category(values),
        "t": text(values),
        "x": number(np.arange(n), np.arange(n, dtype=np.uint8) % 9),
        "v": vector(np.arange(2.0 * n).reshape(n, 2)),
    })  # fmt: skip
    edges = [0, *sorted(cuts), n]
    joined = concat([whole.take(slice(a, b)) for a, b in pairwise(edges)])
    for name, column in whole.columns.items():
        assert said(joined[name]) == said(column)
    assert joined["x"].wrong is not None
    assert (joined["x"].wrong == whole["x"].wrong).all()
    assert joined.ids.tolist() == whole.ids.tolist()
    assert (joined.keys == whole.keys).all()
    assert (joined.offsets == whole.offsets).all()


def test_a_column_that_a_part_lacks_is_missing_there() -> None:
    full = from_columns({"x": number([1.0]), "c": category(["a"]), "t": text(["hello"]), "v": vector([[1.0, 2.0]])})
    bare = from_columns({"y": number([3.0])})
    for order in ([full, bare], [bare, full]):
        joined = concat(order)
        expected = [order[0] is bare, order[1] is bare]
        assert all(joined[name].missing().tolist() == expected for name in ("x", "c", "t", "v"))
        assert joined["v"].values.shape == (2, 2)


def test_wrong_marks_survive_a_part_without_any() -> None:
    list_ = np.array([Wrong.LIST], np.uint8)
    joined = concat([from_columns({"x": number([1.0])}), from_columns({"x": number([np.nan], list_)})])
    assert joined["x"].wrong is not None
    assert joined["x"].wrong.tolist() == [0, Wrong.LIST]


def test_a_mask_says_that_something_is_wrong_and_not_what() -> None:
    marked = number([1.0, np.nan], np.array([False, True])).wrong
    assert marked is not None
    assert marked.tolist() == [0, Wrong.OTHER]


def test_vectors_of_another_length_are_padded_with_missing() -> None:
    joined = concat([from_columns({"v": vector([[1.0]])}), from_columns({"v": vector([[1.0, 2.0]])})])
    assert repr(joined["v"].values.tolist()) == "[[1.0, nan], [1.0, 2.0]]"


def test_places_of_a_joined_vector_are_called_what_all_parts_call_them() -> None:
    two, three = vector([[0.1, 0.9]], names=("can", "jar")), vector([[0.1, 0.2, 0.7]])
    missing = from_columns({"x": number([1.0])})
    assert concat([from_columns({"v": two}), missing, from_columns({"v": two})])["v"].words == ("can", "jar")
    for other in (three, vector([[0.5, 0.5]], names=("jar", "can"))):
        joined = concat([from_columns({"v": two}), from_columns({"v": other})])["v"]
        assert joined.words == ()


@pytest.mark.parametrize("rows", [[2, 0], np.array([True, False, True]), slice(1, None)])
def test_taking_rows_takes_every_column(rows: Any) -> None:
    whole = from_columns({"x": number([0.0, 1.0, 2.0]), "c": category(["a", "b", None])}, [0.0, 1.0, 2.0])
    chosen = whole.take(rows)
    assert chosen["x"].values.tolist() == np.arange(3.0)[rows].tolist() == chosen.times.tolist()
    assert said(chosen["c"]) == np.array(["a", "b", None], object)[rows].tolist()
    assert chosen.ids.tolist() == whole.ids[rows].tolist()


@pytest.mark.parametrize("kind", Kind)
def test_an_empty_column_is_missing_in_every_row(kind: Kind) -> None:
    column = empty(kind, 3, size=2)
    assert column.missing().tolist() == [True] * 3
    assert len(column) == 3


def test_missing_is_none_minus_one_nan_or_a_row_of_nan() -> None:
    assert category(["a", None]).missing().tolist() == [False, True]
    assert text(["", None]).missing().tolist() == [False, True]
    assert number([0.0, np.nan, np.inf]).missing().tolist() == [False, True, False]
    assert vector([[np.nan, 1.0], [np.nan, np.nan]]).missing().tolist() == [False, True]


def test_a_vector_column_takes_rows_only() -> None:
    with pytest.raises(ValueError, match="matrix of rows"):
        vector([1.0, 2.0])


def test_keys_are_the_same_everywhere_and_uniform() -> None:
    # a change of the hash would silently break every kept sample and draw
    assert keys_of(["event-1", ""]).tolist() == [3581690227577427428, 3244421341483603138]
    keys = keys_of([str(i) for i in range(20_000)]) / 2.0**64
    assert np.abs(np.histogram(keys, 20, (0, 1))[0] - 1000).max() < 5 * np.sqrt(950)


def test_a_batch_answers_for_its_columns() -> None:
    batch: Batch = from_columns({"x": number([1.0])})
    assert batch.get("y") is None
    assert batch.get("x") is batch["x"]
    assert len(from_columns({})) == 0
