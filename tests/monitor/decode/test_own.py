"""Our own format: what an event and a late label may look like, and that the fast path and the tolerant one agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.core import Batch, ColumnSpec, Kind, Role, Wrong
from monitor.decode import Auto, Own
from monitor.decode.columns import infer, to_batch
from monitor.decode.typed import Plan, shape_of
from monitor.event import Decoded, Label, Record, Schema

EVENT: dict[str, Any] = {
    "id": "a1",
    "time": "2026-11-22T10:00:00.250Z",
    "model": "credit",
    "version": "3",
    "inputs": {"age": 44, "income": 1200.5, "owner": True, "job": "clerk", "label": 7, "home": {"rooms": 3}},
    "outputs": {"label": "yes", "scores": [0.9, 0.1], "members": [[0.8, 0.2], [1.0, 0.0]], "embedding": [1, 2, 3]},
    "latency": 0.012,
    "status": 200,
    "path": ["resize", "model"],
    "rule": "cap",
    "user": "u7",
    "extra": {"shop": "north"},
}
AT = 1795341600.25


def records(*bodies: Any) -> list[Record]:
    return [
        Record(body if isinstance(body, bytes) else json.dumps(body).encode(), None, (), 100 + at, 1_795_000_000_000)
        for at, body in enumerate(bodies)
    ]


def learned(*events: Any) -> Schema:
    return infer(Own().open().decode(records(*events), {}).events[events[0].get("model", "")])


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    """Rows as plain values, so that two batches compare whatever the codes of their words are."""
    rows = []
    for i in range(len(batch)):
        row: dict[str, Any] = {"id": batch.ids[i], "key": int(batch.keys[i]), "offset": int(batch.offsets[i])}
        row["time"] = repr(float(batch.times[i]))
        for name, column in batch.columns.items():
            value = column.values[i]
            if column.kind is Kind.CATEGORY:
                row[name] = None if value < 0 else column.words[value]
            else:
                row[name] = value if column.kind is Kind.TEXT else repr(value.tolist())
            row[name + "!"] = 0 if column.wrong is None else int(column.wrong[i])
        rows.append(row)
    return rows


def both_paths(schema: Schema, bodies: Sequence[Any]) -> tuple[Decoded, Batch]:
    """The decoder's answer with the schema known, and the tolerant path's columns of the same records."""
    decoder = Own().open()
    model = bodies[0].get("model", "")
    tolerant = Own().open().decode(records(*bodies), {})
    return decoder.decode(records(*bodies), {model: schema}), to_batch(tolerant.events[model], schema)


def test_an_event_has_its_parts_as_columns() -> None:
    schema = learned(EVENT)
    assert {(s.name, s.kind, s.role) for s in schema} >= {
        ("age", Kind.NUMBER, Role.INPUT),
        ("owner", Kind.FLAG, Role.INPUT),
        ("job", Kind.CATEGORY, Role.INPUT),
        ("home.rooms", Kind.NUMBER, Role.INPUT),
        ("input.label", Kind.NUMBER, Role.INPUT),
        ("label", Kind.CATEGORY, Role.OUTPUT),
        ("scores", Kind.VECTOR, Role.OUTPUT),
        ("latency", Kind.NUMBER, Role.SOFTWARE),
        ("status", Kind.CATEGORY, Role.SOFTWARE),
        ("path", Kind.CATEGORY, Role.CONTEXT),
        ("shop", Kind.CATEGORY, Role.CONTEXT),
    }
    batch = Own().open().decode(records(EVENT), {"credit": schema}).batches["credit"]
    assert batch.ids.tolist() == ["a1"]
    assert batch.times.tolist() == [AT]
    row = rows_of(batch)[0]
    assert (row["age"], row["home.rooms"], row["input.label"], row["owner"]) == ("44.0", "3.0", "7.0", "1.0")
    assert (row["label"], row["status"], row["path"], row["shop"]) == ("yes", "200", "resize>model", "north")
    assert batch["members"].values.tolist() == [[0.8, 0.2, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("body", "label", "value"),
    [
        ({"id": "a1", "time": 5, "type": "label", "label": "yes"}, "yes", None),
        ({"id": "a1", "time": 5, "value": 3.5}, None, 3.5),
    ],
)
def test_a_late_label_is_a_label(body: dict[str, Any], label: Any, value: Any) -> None:
    assert Auto(model="m").open().decode(records(body), {}).labels == [
        Label(id="a1", time=5.0, model="m", label=label, value=value, offset=100)
    ]


def test_a_sagemaker_ground_truth_line_is_a_label() -> None:
    line = {
        "groundTruthData": {"data": "1", "encoding": "CSV"},
        "eventMetadata": {"eventId": "e7"},
        "eventVersion": "0",
    }
    (label,) = Own().open().decode(records(line), {}).labels
    assert (label.id, label.label, label.value, label.time) == ("e7", "1", 1.0, 1_795_000_000.0)


def test_features_are_inputs_on_both_paths() -> None:
    event = {**EVENT, "features": EVENT["inputs"]}
    del event["inputs"]
    schema = learned(EVENT)
    decoded = Own().open().decode(records(EVENT, event, *[event] * 20), {"credit": schema})
    rows = rows_of(decoded.batches["credit"])
    assert {row["age"] for row in rows} == {"44.0"}
    assert [row["offset"] for row in rows] == list(range(100, 122))


def test_an_event_without_id_or_time_gets_them_from_its_record_and_the_same_ones_again() -> None:
    body = {"inputs": {"x": 1}}
    schema = (ColumnSpec("x", Kind.NUMBER),)
    learning = Own().open().decode(records(body, body), {}).events[""]
    typed = Own().open().decode(records(body, body), {"": schema}).batches[""]
    assert [e.id for e in learning] == typed.ids.tolist()
    assert len(set(typed.ids)) == 2  # two records of equal bytes are two events
    assert typed.times.tolist() == [1_795_000_000.0] * 2


@pytest.mark.parametrize(
    ("given_", "kept", "wrong"),
    [
        ("[1]", "nan", Wrong.LIST),
        ('"12.5"', "nan", Wrong.TEXT),
        ("true", "nan", Wrong.BOOLEAN),
        ('{"b": 1}', "nan", 0),  # an object is other columns, `a.b`, so `a` is absent
        ("null", "nan", 0),
        ("NaN", "nan", 0),
        ("-Infinity", "nan", 0),
        ("1e999", "nan", 0),
        ("1" * 400, "nan", 0),
        ("1" * 5000, "nan", 0),
        ("7", "7.0", 0),
    ],
)
def test_what_a_number_column_makes_of_other_values(given_: str, kept: str, wrong: int) -> None:
    fine = b'{"id": "f", "time": 1, "inputs": {"a": 1.5, "b": 2}}'
    odd = f'{{"id": "o", "time": 1, "inputs": {{"a": {given_}, "b": 2}}}}'.encode()
    schema = (ColumnSpec("a", Kind.NUMBER), ColumnSpec("b", Kind.NUMBER))
    batch = Own().open().decode(records(fine, odd, fine), {"": schema}).batches[""]
    assert batch.ids.tolist() == ["f", "o", "f"]
    assert rows_of(batch)[1]["a"] == kept
    assert rows_of(batch)[1]["a!"] == wrong
    assert rows_of(batch)[1]["b"] == "2.0"


def test_a_whole_number_and_its_text_are_one_category_and_true_is_another() -> None:
    bodies = [{"id": str(i), "inputs": {}, "outputs": {"label": v}} for i, v in enumerate([1, "1", True, "true", None])]
    schema = (ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT),)
    batch = Own().open().decode(records(*bodies), {"": schema}).batches[""]
    assert [row["label"] for row in rows_of(batch)] == ["1", "1", "true", "true", None]
    assert batch["label"].wrong is None


def test_scores_given_by_class_are_in_the_order_of_names() -> None:
    bodies = [
        {"id": "1", "inputs": {}, "outputs": {"scores": {"b": 0.25, "a": 0.75}}},
        {"id": "2", "inputs": {}, "outputs": {"scores": {"a": 0.5, "b": 0.5}}},
        {"id": "3", "inputs": {}, "outputs": {"scores": {"a": 1.0}}},
        {"id": "4", "inputs": {}, "outputs": {"scores": {"a": 0.5, "b": 0.25, "c": 0.25}}},
    ]
    schema = learned(*bodies[:2])
    batch = Own().open().decode(records(*bodies), {"": schema}).batches[""]
    assert batch["scores"].values[:2].tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert batch["scores"].wrong is not None
    assert batch["scores"].wrong.tolist() == [0, 0, Wrong.LENGTH, Wrong.LENGTH]


def test_scores_by_name_lie_where_the_schema_has_the_name_and_a_place_is_read_as_its_name() -> None:
    bodies = [
        {"id": "1", "inputs": {}, "outputs": {"label": 0, "scores": {"can": 0.25, "jar": 0.75}}},
        {"id": "2", "inputs": {}, "outputs": {"label": "can", "scores": [0.1, 0.9]}},
        {"id": "3", "inputs": {}, "outputs": {"label": "2", "scores": {"can": 0.25, "box": 0.75}}},
    ]
    schema = (
        ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT, names=("jar", "can")),
        ColumnSpec("scores", Kind.VECTOR, Role.OUTPUT, 2, ("jar", "can")),
    )
    for order in (bodies, bodies[::-1]):
        batch = Own().open().decode(records(*order), {"": schema}).batches[""]
        found = {row["id"]: (row["label"], row["scores"], row["scores!"]) for row in rows_of(batch)}
        assert found["1"] == ("jar", "[0.75, 0.25]", 0)
        assert found["2"] == ("can", "[0.1, 0.9]", 0)
        assert found["3"] == ("2", "[nan, nan]", Wrong.OBJECT)
        assert batch["scores"].words == ("jar", "can")


def test_a_dotted_name_is_found_as_a_key_and_as_a_way_through_objects() -> None:
    flat = {"id": "1", "inputs": {"a.b": 1.0}}
    deep = {"id": "2", "inputs": {"a": {"b": 2.0}}}
    schema = (ColumnSpec("a.b", Kind.NUMBER),)
    for bodies in ([flat, deep, flat], [deep, flat, deep]):
        batch = Own().open().decode(records(*bodies), {"": schema}).batches[""]
        assert [row["a.b"] for row in rows_of(batch)] == [f"{body['id']}.0" for body in bodies]


def test_events_of_several_models_meet_their_own_schemas() -> None:
    schemas = {"m": (ColumnSpec("x", Kind.NUMBER),), "k": (ColumnSpec("x", Kind.CATEGORY),)}
    bodies: list[dict[str, Any]] = [{"id": str(i), "model": "mk"[i % 2], "inputs": {"x": i}} for i in range(6)]
    bodies.append({"id": "6", "model": "new", "inputs": {"x": 1}})
    bodies.append({"id": "7", "inputs": {"x": 1, "model": 3}, "model": "m"})
    bodies.append({"id": "8", "inputs": {"x": 1, "note": {"model": "k"}}, "model": "m"})  # the first model is an input
    decoded = Own().open().decode(records(*bodies), schemas)
    assert decoded.batches["m"]["x"].values.tolist() == [0.0, 2.0, 4.0, 1.0, 1.0]
    assert [row["x"] for row in rows_of(decoded.batches["k"])] == ["1", "3", "5"]
    assert [event.id for event in decoded.events["new"]] == ["6"]


def test_a_schema_without_name_takes_events_of_every_name() -> None:
    bodies = [{"id": str(i), "model": f"m{i}", "inputs": {"x": i}} for i in range(3)]
    decoded = Own().open().decode(records(*bodies), {"": (ColumnSpec("x", Kind.NUMBER),)})
    assert decoded.batches[""]["x"].values.tolist() == [0.0, 1.0, 2.0]


SCHEMA: Schema = (
    ColumnSpec("n", Kind.NUMBER),
    *(ColumnSpec(f"n{i}", Kind.NUMBER) for i in range(6)),
    ColumnSpec("a.b", Kind.NUMBER),
    ColumnSpec("flag", Kind.FLAG),
    ColumnSpec("c", Kind.CATEGORY),
    ColumnSpec("note", Kind.TEXT),
    ColumnSpec("v", Kind.VECTOR, size=3),
    ColumnSpec("w", Kind.VECTOR),
    ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT, names=("jar", "can")),
    ColumnSpec("scores", Kind.VECTOR, Role.OUTPUT, 2, ("jar", "can")),
    ColumnSpec("members", Kind.VECTOR, Role.OUTPUT, 4),
    ColumnSpec("boxes", Kind.TEXT, Role.OUTPUT),
    ColumnSpec("latency", Kind.NUMBER, Role.SOFTWARE),
    ColumnSpec("path", Kind.CATEGORY, Role.CONTEXT),
    ColumnSpec("shop", Kind.CATEGORY, Role.CONTEXT),
)

numbers = st.one_of(st.integers(), st.floats(allow_nan=True, allow_infinity=True))
words = st.text(max_size=5)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=5,
)
scores = st.lists(st.floats(0, 1), min_size=2, max_size=2)
by_name = st.dictionaries(st.sampled_from(["can", "jar", "box"]), st.floats(0, 1), min_size=1)
box = st.fixed_dictionaries(
    {"name": words, **dict.fromkeys(("left", "top", "width", "height"), numbers)},
    optional={"score": st.one_of(st.none(), numbers), "more": words},
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda n: usual if n else anything)


usual_inputs = {
    **{f"n{i}": mostly(numbers) for i in range(6)},
    "n": mostly(numbers),
    "a": st.fixed_dictionaries({"b": mostly(numbers)}),
    "a.b": mostly(numbers),
    "flag": mostly(st.sampled_from([True, False, 0, 1, 2])),
    "c": mostly(st.one_of(words, st.integers(0, 3))),
    "note": mostly(words),
    "v": mostly(st.lists(numbers, min_size=3, max_size=3)),
    "w": mostly(st.lists(numbers, max_size=4)),
    "unknown": anything,
}
events = st.fixed_dictionaries(
    {
        "id": st.one_of(st.text(min_size=1, max_size=8), st.integers(0, 99)),
        "inputs": st.fixed_dictionaries({}, optional=usual_inputs),
    },
    optional={
        "time": st.one_of(
            st.sampled_from(["2026-11-22T10:00:00Z", "2026-11-22 10:00:00.5+02:00", "soon", 1_795_341_600_000]),
            st.floats(0, 2e9),
        ),
        "outputs": st.fixed_dictionaries(
            {},
            optional={
                "label": mostly(st.one_of(words, st.integers(0, 5), st.booleans())),
                "scores": mostly(st.one_of(scores, by_name)),
                "boxes": mostly(st.lists(box, max_size=3)),
                "members": mostly(st.lists(scores, min_size=2, max_size=2)),
            },
        ),
        "latency": mostly(numbers),
        "path": mostly(st.lists(words, min_size=1, max_size=3)),
        "extra": st.fixed_dictionaries({}, optional={"shop": mostly(words)}),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(events, min_size=1, max_size=8))
def test_the_fast_path_and_the_tolerant_one_agree(bodies: list[dict[str, Any]]) -> None:
    decoded, tolerant = both_paths(SCHEMA, bodies)
    assert not decoded.bad
    assert rows_of(decoded.batches[""]) == rows_of(tolerant)


def test_plain_events_take_the_fast_path() -> None:
    """Otherwise the law above would compare the tolerant path with itself."""
    schema = learned(EVENT)
    nulls = {**EVENT, "inputs": dict.fromkeys(EVENT["inputs"]), "outputs": None, "time": None}
    made = Plan(schema, shape_of(EVENT, schema)).decode([json.dumps(EVENT).encode(), json.dumps(nulls).encode()], None)
    assert made.rows == [0, 1]
    assert not made.refused
