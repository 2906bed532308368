"""How a request becomes records, by literal requests of the specifications and by hostile ones."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.api.problem import Problem
from monitor.intake import Received, records

LARGEST = 1 << 20


def taken(body: bytes, **headers: str) -> list[Received]:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return records(given, body, LARGEST)


def refused(body: bytes, **headers: str) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        taken(body, **headers)
    return caught.value.status, str(caught.value)


def test_a_kserve_logger_s_post_is_one_record_with_its_attributes() -> None:
    body = b'{"instances":[[5.1,3.5,1.4,0.2]]}'
    (record,) = taken(
        body, ce_specversion="1.0", ce_type="org.kubeflow.serving.inference.request", ce_id="7f0c",
        ce_source="http://localhost:9081/", ce_inferenceservicename="iris", content_type="application/json",
        cookie="session=1", authorization="Bearer x", host="driftd",
    )  # fmt: skip
    assert record.body == body
    assert dict(record.headers) == {
        "ce-specversion": b"1.0", "ce-type": b"org.kubeflow.serving.inference.request", "ce-id": b"7f0c",
        "ce-source": b"http://localhost:9081/", "ce-inferenceservicename": b"iris", "content-type": b"application/json",
    }  # fmt: skip


def test_attributes_are_percent_decoded() -> None:
    (record,) = taken(b"{}", ce_id="a%20%E2%82%AC")
    assert dict(record.headers)["ce-id"].decode() == "a €"


def test_a_binary_mode_body_is_taken_whatever_its_type_says() -> None:
    assert taken(b"\x00\x01", ce_id="1", content_type="application/octet-stream")[0].body == b"\x00\x01"


def test_a_structured_event_keeps_its_type() -> None:
    body = b'{"specversion":"1.0","id":"7f0c","data":{"predictions":[0]}}'
    (record,) = taken(body, content_type="application/cloudevents+json; charset=utf-8")
    assert record == Received([("content-type", b"application/cloudevents+json; charset=utf-8")], body)


def test_a_batch_becomes_structured_events() -> None:
    got = taken(b'[{"id":"a"}, {"id":"b"}]', content_type="application/cloudevents-batch+json")
    assert [r.body for r in got] == [b'{"id":"a"}', b'{"id":"b"}']
    assert {tuple(r.headers) for r in got} == {(("content-type", b"application/cloudevents+json"),)}


def test_lines_and_arrays_are_cut_into_events() -> None:
    assert [r.body for r in taken(b'{"id":1}\n\n{"id":2}\r\n', content_type="application/x-ndjson")] == [
        b'{"id":1}', b'{"id":2}',
    ]  # fmt: skip
    assert [r.body for r in taken(b' [{"id":1},{"id":2}]', content_type="application/json")] == [
        b'{"id":1}', b'{"id":2}',
    ]  # fmt: skip


def test_a_v2_body_with_binary_tensors_is_taken() -> None:
    (record,) = taken(
        b'{"inputs":[]}\x00\x00', content_type="application/octet-stream", inference_header_content_length="13"
    )
    assert ("inference-header-content-length", b"13") in record.headers


def test_nan_is_taken_as_python_writes_it() -> None:
    assert taken(b'{"x": NaN}', content_type="application/json")[0].body == b'{"x": NaN}'
    assert [json.loads(r.body) for r in taken(b'[{"x":Infinity},1]', content_type="application/json")] == [
        {"x": float("inf")}, 1,
    ]  # fmt: skip


def test_unknown_types_and_codings_are_refused_with_what_is_allowed() -> None:
    status, text = refused(b"x", content_type="text/plain")
    assert status == 415
    assert "application/x-ndjson" in text
    assert refused(b"x")[0] == 415
    assert refused(b"x", content_type="application/cloudevents+avro")[0] == 415
    assert refused(b"x", content_type="application/json", content_encoding="br")[0] == 415


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":1} x', b"1" * 5000 + b"x"])
def test_malformed_json_is_refused(body: bytes) -> None:
    assert refused(body, content_type="application/json")[0] == 400


def test_compressed_bodies_are_expanded() -> None:
    body = b'{"id":"a"}'
    for coding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        assert taken(packed, content_type="application/json", content_encoding=coding)[0].body == body


def test_a_bomb_is_refused_at_the_limit() -> None:
    packed = gzip.compress(b" " * (LARGEST + 1))
    assert len(packed) < 2000
    assert refused(packed, content_type="application/json", content_encoding="gzip")[0] == 413
    exact = gzip.compress(b"{}" + b" " * (LARGEST - 2))
    assert len(taken(exact, content_type="application/json", content_encoding="gzip")[0].body) == LARGEST


def test_a_cut_or_false_gzip_is_refused() -> None:
    packed = gzip.compress(b'{"id":"a"}')
    assert refused(packed[:-4], content_type="application/json", content_encoding="gzip")[0] == 400
    assert refused(b"no gzip", content_type="application/json", content_encoding="gzip")[0] == 400


MEDIA = st.sampled_from([
    "application/json", "application/x-ndjson", "application/cloudevents+json", "application/cloudevents-batch+json",
    "application/octet-stream", "text/plain", "application/json; charset=x", "",
])  # fmt: skip


@given(st.binary(max_size=300) | st.text(max_size=50).map(str.encode), MEDIA, st.sampled_from(["", "gzip", "deflate"]))
@example(b"[" * 5000, "application/json", "")
@example(b"[" * 5000, "application/cloudevents-batch+json", "")
def test_any_request_is_taken_or_refused(body: bytes, media: str, coding: str) -> None:
    status = 202
    try:
        taken(body, content_type=media, content_encoding=coding)
    except Problem as problem:
        status = problem.status
    assert status in (202, 400, 413, 415)
