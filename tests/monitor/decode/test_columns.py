"""What schema rows suggest, and plain tables as batches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from detectors.core import ColumnSpec, Kind, Role, Wrong
from monitor.decode.columns import column, from_table, infer, row_event, to_batch
from monitor.event import Event

pa = pytest.importorskip("pyarrow")


def inferred(values: list[Any]) -> tuple[Kind, int] | None:
    found = infer(Event(id=str(i), time=0.0, inputs={"x": value}) for i, value in enumerate(values))
    return (found[0].kind, found[0].size) if found else None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, None], (Kind.NUMBER, 0)),
        ([True, False, None], (Kind.FLAG, 0)),
        (["a", "b"], (Kind.CATEGORY, 0)),
        (["the quick brown fox", "jumps over a dog"], (Kind.TEXT, 0)),
        (["x" * 60], (Kind.TEXT, 0)),
        ([[1, 2], [3, 4]], (Kind.VECTOR, 2)),
        ([[[1, 2], [3, 4]]], (Kind.VECTOR, 4)),
        ([[1], [1, 2], [1, 2, 3]], (Kind.VECTOR, 0)),
        ([["some", "tokens"]], (Kind.TEXT, 0)),
        ([1, 2, "odd"], (Kind.NUMBER, 0)),
        ([f"id-{i}" for i in range(300)], None),  # names that never come twice
        ([None], None),
    ],
)
def test_the_majority_decides_the_kind(values: list[Any], expected: tuple[Kind, int] | None) -> None:
    assert inferred(values) == expected


def test_numeric_text_is_wrong_for_a_number_and_missing() -> None:
    found = column(ColumnSpec("x", Kind.NUMBER), [1, "12.5", None, True, float("inf"), 10**400])
    np.testing.assert_array_equal(found.values, [1, *[np.nan] * 5])
    assert found.wrong is not None
    assert found.wrong.tolist() == [0, Wrong.TEXT, 0, Wrong.BOOLEAN, 0, 0]


@pytest.mark.parametrize(
    ("kind", "size", "values"),
    [
        (Kind.NUMBER, 0, {Wrong.TEXT: "1", Wrong.BOOLEAN: True, Wrong.LIST: [1.0], Wrong.OBJECT: {"a": 1}}),
        (Kind.FLAG, 0, {Wrong.TEXT: "yes", Wrong.LIST: [], Wrong.OBJECT: {}, Wrong.BOUNDS: 2}),
        (Kind.CATEGORY, 0, {Wrong.NUMBER: 0.5, Wrong.LIST: [1], Wrong.OBJECT: {"a": "b"}}),
        (Kind.TEXT, 0, {Wrong.NUMBER: 7, Wrong.BOOLEAN: False, Wrong.LIST: [1], Wrong.OBJECT: {}}),
        (Kind.VECTOR, 2, {Wrong.NUMBER: 1.0, Wrong.TEXT: "1,2", Wrong.LIST: [1, "2"], Wrong.LENGTH: [1.0, 2.0, 3.0]}),
    ],
)
def test_it_is_told_what_arrived_in_place_of_the_kind_that_was_due(
    kind: Kind, size: int, values: dict[Wrong, object]
) -> None:
    found = column(ColumnSpec("x", kind, size=size), [None, *values.values()])
    assert found.wrong is not None
    assert found.wrong.tolist() == [0, *values]
    assert found.missing().all()


TABLE = {
    "id": ["a", "b", "c"],
    "time": [datetime(2026, 11, 22, 10, tzinfo=UTC)] * 3,
    "age": [44, None, 30],
    "income": [1.5, float("nan"), float("inf")],
    "job": ["clerk", None, "smith"],
    "code": [1, 2, 1],
    "owner": [True, False, None],
    "pixels": [[0.5, 1.0], None, [1.0, 2.0]],
    "label": ["x", "y", "x"],
    "scores": [[0.25, 0.75]] * 3,
}
SCHEMA = (
    ColumnSpec("age", Kind.NUMBER),
    ColumnSpec("income", Kind.NUMBER),
    ColumnSpec("job", Kind.CATEGORY),
    ColumnSpec("code", Kind.CATEGORY),
    ColumnSpec("owner", Kind.FLAG),
    ColumnSpec("pixels", Kind.VECTOR, size=2),
    ColumnSpec("absent", Kind.NUMBER),
    ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT),
    ColumnSpec("scores", Kind.VECTOR, Role.OUTPUT, 2),
)


BOX = {"name": "can", "left": 1.0, "top": 2.0, "width": 3.0, "height": 4.0}


def test_a_table_is_the_batch_of_its_rows() -> None:
    table = pa.table(TABLE)
    batch = from_table(table, SCHEMA, first=10)
    rows = to_batch([row_event(row, 10 + i) for i, row in enumerate(table.to_pylist())], SCHEMA)
    assert batch.ids.tolist() == rows.ids.tolist() == ["a", "b", "c"]
    assert batch.times.tolist() == rows.times.tolist() == [1795341600.0] * 3
    assert batch.offsets.tolist() == rows.offsets.tolist() == [10, 11, 12]
    assert list(batch.columns) == list(rows.columns)
    for name, found in batch.columns.items():
        np.testing.assert_array_equal(found.values, rows[name].values, err_msg=name)
        assert list(found.words) == list(rows[name].words)


def test_columns_of_a_table_may_name_their_section() -> None:
    table = pa.table({"inputs.x": [1.0, 2.0], "outputs.label": ["a", "b"], "extra.shop": ["n", "s"]})
    schema = (
        ColumnSpec("x", Kind.NUMBER),
        ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT),
        ColumnSpec("shop", Kind.CATEGORY, Role.CONTEXT),
    )
    batch = from_table(table, schema)
    rows = to_batch([row_event(row, i) for i, row in enumerate(table.to_pylist())], schema)
    assert infer([row_event(row, i) for i, row in enumerate(table.to_pylist())]) == schema
    for made in (batch, rows):
        assert made.ids.tolist() == ["0", "1"]
        assert made["x"].values.tolist() == [1.0, 2.0]
        assert list(made["label"].words) == ["a", "b"]
        assert list(made["shop"].words) == ["n", "s"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([3, 0], ColumnSpec("input.boxes", Kind.NUMBER)),
        ([[BOX], []], ColumnSpec("boxes", Kind.TEXT, Role.OUTPUT)),
    ],
)
def test_boxes_of_a_table_are_those_of_a_picture_or_an_input_of_that_name(values: Any, wanted: ColumnSpec) -> None:
    table = pa.table({"boxes": values})
    rows = [row_event(row, i) for i, row in enumerate(table.to_pylist())]
    assert infer(rows) == (wanted,)
    one, other = from_table(table, (wanted,))[wanted.name], to_batch(rows, (wanted,))[wanted.name]
    assert one.values.tolist() == other.values.tolist()
    assert not one.missing().any()


def test_a_place_in_a_table_is_read_as_its_name() -> None:
    found = from_table(pa.table({"label": [1, 0, 2]}), (ColumnSpec("label", Kind.CATEGORY, names=("can", "jar")),))
    assert [found["label"].words[code] for code in found["label"].values] == ["jar", "can", "2"]


def test_a_table_of_several_chunks_has_one_list_of_words() -> None:
    table = pa.concat_tables([pa.table({"c": ["a", "b"]}), pa.table({"c": ["b", "c"]})])
    found = from_table(table, (ColumnSpec("c", Kind.CATEGORY),))["c"]
    assert [found.words[code] for code in found.values] == ["a", "b", "b", "c"]
