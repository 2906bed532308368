"""Every format as its producer writes it, literally as in the ecosystem reference."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import numpy as np
import pytest

from detectors.core import ColumnSpec, Kind, Role, Wrong
from monitor.decode import DECODERS, V1, Auto, CloudEvents, Own, Seldon
from monitor.event import Decoded, Decoder, Event, Half, Record
from monitor.join import Joiner

KAFKA_BINARY = [
    ("ce_specversion", b"1.0"),
    ("ce_type", b"org.kubeflow.serving.inference.request"),
    ("ce_id", b"7f0c"),
    ("ce_source", b"/a"),
    ("ce_inferenceservicename", b"iris"),
    ("content-type", b"application/json"),
]
V1_REQUEST = b'{"instances":[[5.1,3.5,1.4,0.2]]}'
V2_REQUEST = b'{"id":"42","inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5,6]}]}'
V2_RESPONSE = (
    b'{"model_name":"m","model_version":"3","id":"42","outputs":[{"name":"p","shape":[2,2],"datatype":"FP32",'
    b'"data":[[0.9,0.1],[0.2,0.8]]}]}'
)


def read(
    value: bytes | None, headers: list[tuple[str, bytes | None]] | None = None, decoder: Decoder | None = None
) -> Decoded:
    made = decoder or Auto().open()
    return made.decode([Record(value, None, headers or [], 5, 1_795_000_000_000)], {})


def half(decoded: Decoded) -> Half:
    assert not decoded.bad
    (found,) = decoded.halves
    return found


def event(decoded: Decoded) -> Event:
    assert not decoded.bad
    ((found,),) = decoded.events.values()
    return found


def with_type(kind: bytes) -> list[tuple[str, bytes | None]]:
    return [(name, kind if name == "ce_type" else value) for name, value in KAFKA_BINARY]


def test_kserve_binary_on_kafka() -> None:
    found = half(read(V1_REQUEST, [*KAFKA_BINARY]))
    assert (found.id, found.side, found.event.model) == ("7f0c", "request", "iris")
    assert found.event.inputs == {"x.0": 5.1, "x.1": 3.5, "x.2": 1.4, "x.3": 0.2}
    assert found.event.time == 1_795_000_000
    assert not found.timed


def test_kserve_binary_over_http() -> None:
    headers: list[tuple[str, bytes | None]] = [
        ("Ce-Specversion", b"1.0"),
        ("Ce-Type", b"org.kubeflow.serving.inference.request"),
        ("Ce-Id", b"7f0c"),
        ("Ce-Source", b"http://localhost:9081/"),
        ("Ce-Time", b"2026-11-22T10:00:00.012Z"),
        ("Ce-Inferenceservicename", b"iris"),
        ("Content-Type", b"application/json"),
    ]
    found = half(read(V1_REQUEST, headers))
    assert (found.id, found.side, found.event.model, found.timed) == ("7f0c", "request", "iris", True)
    assert found.event.time == pytest.approx(1795341600.012)


def test_a_structured_event_on_kafka() -> None:
    value = (
        b'{"specversion":"1.0","type":"org.kubeflow.serving.inference.response","id":"7f0c","source":"/a",'
        b'"inferenceservicename":"iris","datacontenttype":"application/json","data":{"predictions":[0]}}'
    )
    for headers in ([("content-type", b"Application/CloudEvents+json; charset=utf-8")], None):
        found = half(read(value, [*headers] if headers else None))
        assert (found.id, found.side, found.event.model, found.event.label) == ("7f0c", "response", "iris", 0)


@pytest.mark.parametrize(
    "data",
    [
        {"data_base64": base64.b64encode(V1_REQUEST).decode()},
        {"data": V1_REQUEST.decode(), "datacontenttype": "text/plain"},
        {"data_base64": base64.b64encode(gzip.compress(V1_REQUEST)).decode()},
    ],
)
def test_structured_data_may_be_bytes_or_text(data: dict[str, str]) -> None:
    value = json.dumps({"specversion": "1.0", "type": "x.request", "id": "1", "source": "/a", **data}).encode()
    for headers in ([("content-type", b"application/cloudevents+json")], []):
        assert half(read(value, [*headers])).event.inputs["x.0"] == 5.1


def test_a_batch_of_structured_events() -> None:
    own = {"specversion": "1.0", "type": "t", "source": "/a", "data": {"id": "o", "inputs": {"x": 1}}}
    value = json.dumps([{**own, "id": "1"}, {**own, "id": "2", "data": {"inputs": {"x": 2}}}]).encode()
    headers: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents-batch+json")]
    found = read(value, headers)
    assert [(e.id, e.inputs) for e in found.events[""]] == [("o", {"x": 1}), ("2", {"x": 2})]
    typed = Auto().open().decode([Record(value, None, headers, 5, 1)], {"": (ColumnSpec("x", Kind.NUMBER),)})
    assert typed.batches[""].ids.tolist() == ["o", "2"]
    assert typed.batches[""].offsets.tolist() == [5, 5]


def test_mlserver_writes_http_names_and_an_older_version_on_kafka() -> None:
    headers: list[tuple[str, bytes | None]] = [
        ("Ce-Specversion", b"0.3"),
        ("Ce-Type", b"io.seldon.serving.inference.response"),
        ("Ce-Id", b"42"),
        ("Ce-Modelid", b"m"),
        ("mlserver-version", b"7"),
    ]
    found = read(V2_RESPONSE.replace(b'"model_version":"3",', b""), headers)
    assert [(h.id, h.side, h.event.model, h.event.version) for h in found.halves] == [
        ("42#0", "response", "m", "7"),
        ("42#1", "response", "m", "7"),
    ]


def test_an_unknown_version_is_refused() -> None:
    found = read(V1_REQUEST, [("ce_specversion", b"9.9"), ("ce_id", b"1")])
    assert [(bad.offset, bad.cause) for bad in found.bad] == [(5, "wrong_version")]


def test_headers_may_repeat_be_null_and_be_no_text() -> None:
    strange: list[tuple[str, bytes | None]] = [("ce_id", b"old"), *KAFKA_BINARY, ("ce_x", None), ("ce_y", b"\xff\xfe")]
    assert half(read(V1_REQUEST, strange)).id == "7f0c"


def test_our_own_event_inside_a_cloudevent_takes_the_fast_path_too() -> None:
    schema = {"iris": (ColumnSpec("x", Kind.NUMBER),)}
    headers = [(name, b"com.example.inference" if name == "ce_type" else value) for name, value in KAFKA_BINARY]
    body = b'{"inputs":{"x":1.5}}'
    decoded = CloudEvents().open().decode([Record(body, None, headers, at, 9000) for at in range(3)], schema)
    batch = decoded.batches["iris"]
    assert batch.ids.tolist() == ["7f0c"] * 3
    assert batch["x"].values.tolist() == [1.5] * 3
    assert batch.times.tolist() == [9.0] * 3


def test_the_cloudevents_kind_wants_a_cloudevent() -> None:
    assert [bad.cause for bad in read(V1_REQUEST, decoder=CloudEvents().open()).bad] == ["wrong_shape"]


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ({"instances": [3]}, {"x": 3}),
        ({"instances": [{"a": 1, "b": {"c": 2}}]}, {"a": 1, "b.c": 2}),
        ({"instances": [[[1, 2], [3, 4]]]}, {"x": [[1, 2], [3, 4]]}),
        ({"instances": [{"b64": "AAAA"}]}, {"x": None}),
        ({"inputs": {"a": [1], "b": [[2, 3]]}}, {"a": 1, "b.0": 2, "b.1": 3}),
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, "u"]]}}, {"a": 1, "b": "u"}),
        ({"dataframe_records": [{"a": 1}]}, {"a": 1}),
    ],
)
def test_v1_requests(body: dict[str, Any], inputs: dict[str, Any]) -> None:
    assert half(read(json.dumps(body).encode(), [*KAFKA_BINARY])).event.inputs == inputs


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"predictions": [0]}, {"label": 0}),
        ({"predictions": ["cat"]}, {"label": "cat"}),
        ({"predictions": [3.5]}, {"value": 3.5}),
        ({"predictions": [[3.5]]}, {"value": 3.5}),
        ({"predictions": [[0.25, 0.75]]}, {"scores": [0.25, 0.75], "label": 1}),
        ({"predictions": [[7.0, -2.0]]}, {"scores": [7.0, -2.0], "label": None}),
        ({"predictions": [{"label": "a", "probabilities": [0.5, 0.5]}]}, {"label": "a", "scores": [0.5, 0.5]}),
        ({"outputs": {"classes": ["a"], "scores": [[0.75, 0.25]]}}, {"label": "a", "scores": [0.75, 0.25]}),
    ],
)
def test_v1_responses(body: dict[str, Any], said: dict[str, Any]) -> None:
    found = half(read(json.dumps(body).encode(), with_type(b"org.kubeflow.serving.inference.response"))).event
    assert {name: getattr(found, name) for name in said} == said


def test_v1_rows_have_ids_of_their_own_and_meet_their_answers() -> None:
    asked = read(b'{"instances":[[1,2],[3,4]]}', [*KAFKA_BINARY]).halves
    said = read(b'{"predictions":["u","v"]}', with_type(b"org.kubeflow.serving.inference.response")).halves
    joined = Joiner().pair([*said, *asked])
    assert [(e.id, e.inputs, e.label, e.model) for e in joined] == [
        ("7f0c#0", {"x.0": 1, "x.1": 2}, "u", "iris"),
        ("7f0c#1", {"x.0": 3, "x.1": 4}, "v", "iris"),
    ]


def test_a_request_that_no_id_could_pair_stands_alone() -> None:
    found = event(read(V1_REQUEST, decoder=V1(model="iris").open()))
    assert found.model == "iris"
    assert found.inputs["x.0"] == 5.1


def test_v2_flat_and_nested_data_are_reshaped_by_shape() -> None:
    asked, said = read(V2_REQUEST).halves, read(V2_RESPONSE).halves
    joined = Joiner().pair([*asked, *said])
    assert [(e.id, e.inputs, e.scores, e.label, e.model, e.version) for e in joined] == [
        ("42#0", {"x.0": 1, "x.1": 2, "x.2": 3}, [0.9, 0.1], 0, "m", "3"),
        ("42#1", {"x.0": 4, "x.1": 5, "x.2": 6}, [0.2, 0.8], 1, "m", "3"),
    ]


def test_v2_one_tensor_for_each_feature() -> None:
    body = {
        "id": "1",
        "inputs": [
            {"name": "age", "shape": [1], "datatype": "INT64", "data": [44]},
            {"name": "job", "shape": [1, 1], "datatype": "BYTES", "data": ["clerk"]},
            {"name": "owner", "shape": [1], "datatype": "BOOL", "data": [1]},
        ],
        "outputs": [{"name": "wanted"}],  # a request names the outputs it wants, without data
    }
    found = half(read(json.dumps(body).encode()))
    assert found.event.inputs == {"age": 44, "job": "clerk", "owner": True}
    assert found.event.inputs["owner"] is True


def test_v2_with_both_sides_is_an_event() -> None:
    both = {**json.loads(V2_REQUEST), **json.loads(V2_RESPONSE)}
    assert [e.label for e in read(json.dumps(both).encode()).events["m"]] == [0, 1]


def test_v2_tensors_without_a_common_batch_are_one_row() -> None:
    body = {
        "id": "1",
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]},
            {"name": "b", "shape": [3], "datatype": "FP32", "data": [3, 4, 5]},
        ],
    }
    assert half(read(json.dumps(body).encode())).event.inputs == {"a.0": 1, "a.1": 2, "b.0": 3, "b.1": 4, "b.2": 5}


def binary_v2() -> tuple[bytes, int]:
    tensors = [
        ("f", "FP32", [1, 2], np.array([1.5, -2], "<f4").tobytes()),
        ("h", "FP16", [1, 1], np.array([0.5], "<f2").tobytes()),
        ("q", "BF16", [1, 1], (np.array([3.0], "<f4").view("<u4") >> 16).astype("<u2").tobytes()),
        ("i", "INT64", [1, 1], np.array([-7], "<i8").tobytes()),
        ("t", "BYTES", [1, 1], struct.pack("<I", 3) + "né".encode()),
        ("b", "BOOL", [1, 1], b"\x01"),
    ]
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in tensors
    ]
    head = json.dumps({"id": "9", "inputs": inputs}).encode()
    return head + b"".join(data for *_, data in tensors), len(head)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("kind", ["auto", "v2"])
def test_v2_binary_tensors(announced: bool, kind: str) -> None:
    value, head = binary_v2()
    headers: list[tuple[str, bytes | None]] = [("Inference-Header-Content-Length", str(head).encode())]
    found = half(read(value, headers if announced else None, DECODERS[kind]().open()))
    assert found.event.inputs == {"f.0": 1.5, "f.1": -2, "h": 0.5, "q": 3, "i": -7, "t": "né", "b": True}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_v2_binary_tensors_cut_off_are_refused(cut: int) -> None:
    value, head = binary_v2()
    found = read(value[:-cut], [("Inference-Header-Content-Length", str(head).encode())])
    assert [bad.cause for bad in found.bad] == ["malformed"]


SELDON: list[tuple[str, bytes | None]] = [
    ("type", b"io.seldon.serving.inference.request"),
    ("content-type", b"application/json"),
    ("modelid", b"classifier"),
    ("requestid", b"puid1"),
    ("inferenceservicename", b"fraud"),
    ("protocol", b"seldon"),
]


def seldon(kind: str, body: Any) -> Decoded:
    headers = [(n, f"io.seldon.serving.{kind}".encode() if n == "type" else v) for n, v in SELDON]
    return read(json.dumps(body).encode(), headers, Seldon().open())


@pytest.mark.parametrize(
    "data",
    [{"names": ["a", "b"], "ndarray": [[1, 2]]}, {"names": ["a", "b"], "tensor": {"shape": [1, 2], "values": [1, 2]}}],
)
def test_seldon_core_1_bare_headers(data: dict[str, Any]) -> None:
    asked = half(seldon("inference.request", {"data": data, "meta": {}}))
    said = half(seldon("inference.response", {"data": {"names": ["no", "yes"], "ndarray": [[0.25, 0.75]]}, "meta": {}}))
    (joined,) = Joiner().pair([asked, said])
    assert (joined.id, joined.model, joined.inputs) == ("puid1", "fraud", {"a": 1, "b": 2})
    assert (joined.label, joined.scores) == ("yes", [0.25, 0.75])


def test_seldon_logs_the_models_own_protocol() -> None:
    assert half(seldon("inference.request", json.loads(V1_REQUEST))).event.inputs["x.0"] == 5.1
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [2]}
    assert half(seldon("inference.request", {"inputs": [tensor]})).event.inputs == {"x": 2}


def test_seldon_feedback_is_a_label() -> None:
    body = {"request": {}, "response": {}, "reward": 1.0, "truth": {"data": {"ndarray": [[1]]}}}
    (label,) = seldon("feedback", body).labels
    assert (label.id, label.model, label.label, label.value) == ("puid1", "fraud", "1", 1.0)


def test_a_reward_without_the_truth_is_no_label() -> None:
    assert [bad.cause for bad in seldon("feedback", {"reward": 1.0}).bad] == ["wrong_shape"]


def test_gzip_bodies_are_unpacked_whatever_headers_say() -> None:
    assert event(read(gzip.compress(b'{"id":"1","inputs":{"x":1}}'))).inputs == {"x": 1}
    assert half(read(gzip.compress(V1_REQUEST), [*KAFKA_BINARY])).event.inputs["x.0"] == 5.1


def test_an_array_is_several_events() -> None:
    found = read(b'[{"id":"1","inputs":{"x":1}},{"id":"2","inputs":{"x":2}},{"id":"1","label":"a"}]')
    assert [e.id for e in found.events[""]] == ["1", "2"]
    assert [label.id for label in found.labels] == ["1"]


def test_own_reads_only_its_own() -> None:
    assert [bad.cause for bad in read(V1_REQUEST, decoder=Own().open()).bad] == ["wrong_shape"]


def test_a_mixed_topic_comes_in_record_order() -> None:
    schema = {"": (ColumnSpec("x", Kind.NUMBER), ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT))}
    values = [
        b'{"id":"0","inputs":{"x":0}}',
        b'{"id":"1","inputs":{"x":"odd"}}',
        b"no json",
        b'{"id":"3","inputs":{"x":3},"outputs":{"label":"a"}}',
        b'{"id":"0","label":"b"}',
        V1_REQUEST,
    ]
    decoded = Auto().open().decode([Record(v, None, (), at, 1) for at, v in enumerate(values)], schema)
    batch = decoded.batches[""]
    assert batch.offsets.tolist() == [0, 1, 3, 5]
    assert batch["x"].values[:3].tolist()[::2] == [0.0, 3.0]
    assert batch["x"].wrong is not None
    assert batch["x"].wrong.tolist() == [0, Wrong.TEXT, 0, 0]
    assert [bad.offset for bad in decoded.bad] == [2]
    assert [label.label for label in decoded.labels] == ["b"]
