"""Records made to break a decoder: each is counted or read, none raises, none is dear, none spoils its neighbours."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.core import ColumnSpec, Kind, Role, Wrong
from detectors.encode import decode, encode
from monitor.decode import DECODERS
from monitor.event import Decoded, Event, Record, Schema

SCHEMA: Schema = (
    ColumnSpec("x", Kind.NUMBER),
    ColumnSpec("c", Kind.CATEGORY),
    ColumnSpec("v", Kind.VECTOR),
    ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT),
)
FINE = b'{"id":"fine","time":5,"inputs":{"x":1,"c":"u","v":[1,2]}}'
MANY = json.dumps({"id": "many", "inputs": {"x": 2, **{f"k{i}": i for i in range(60_000)}}}).encode()


def around(value: bytes | None, kind: str = "auto", schema: Schema | None = SCHEMA) -> Decoded:
    """The record between two ordinary ones."""
    records = [Record(v, None, (), at, 1000) for at, v in enumerate([FINE, value, FINE])]
    return DECODERS[kind]().open().decode(records, {} if schema is None else {"": schema})


REFUSED = {
    "empty": (b"", "empty"),
    "tombstone": (None, "empty"),
    "blank": (b"  \n", "empty"),
    "cut off": (FINE[:-5], "malformed"),
    "two values": (FINE + FINE, "malformed"),
    "no JSON": (b"hello", "malformed"),
    "a number": (b"7", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "no UTF-8": (b'{"id":"\xff\xfe","inputs":{"x":1}}', "invalid_utf8"),
    "brackets": (b"[" * 100_000, "too_deep"),
    "braces": (b'{"inputs":' + b'{"a":' * 50_000, "too_deep"),
    "deep inputs": (b'{"id":"1","inputs":{"x":' + b'{"a":' * 100 + b"1" + b"}" * 102, "too_deep"),
    "a deep list": (b'{"id":"1","inputs":{"v":' + b"[" * 400 + b"]" * 400 + b"}}", "too_deep"),
    "large": (b'{"id":"' + b"a" * (1 << 20) + b'","inputs":{"x":1}}', "too_large"),
    "a gzip bomb": (gzip.compress(b" " * (64 << 20)), "too_large"),
    "gzip cut off": (gzip.compress(FINE)[:-9], "malformed"),
    "broken gzip": (b"\x1f\x8b\x08" + b"x" * 50, "malformed"),
    "inputs of a number": (b'{"id":"1","inputs":5}', "wrong_shape"),
    "no known key": (b'{"hello":"world"}', "wrong_shape"),
    "a label of nothing": (b'{"label":"a"}', "no_id"),
    "a shape that lies": (
        b'{"inputs":[{"name":"a","shape":[1000000000],"datatype":"FP32","data":[1]}]}',
        "wrong_shape",
    ),
    "too many rows": (json.dumps({"instances": [0] * 20_000}).encode(), "too_large"),
}


@pytest.mark.parametrize("schema", [SCHEMA, None], ids=["known", "learning"])
@pytest.mark.parametrize("name", REFUSED)
def test_unreadable_records_are_set_aside_with_their_cause(name: str, schema: Schema | None) -> None:
    value, cause = REFUSED[name]
    started = time.process_time()
    decoded = around(value, schema=schema)
    assert time.process_time() - started < 0.5  # a bomb unpacked whole takes longer than that
    assert [(bad.offset, bad.cause) for bad in decoded.bad] == [(1, cause)]
    good = decoded.batches[""].ids.tolist() if schema else [event.id for event in decoded.events[""]]
    assert good == ["fine", "fine"]


READ: dict[str, tuple[bytes, str, Any]] = {
    "byte order mark": (b"\xef\xbb\xbf" + FINE.replace(b'"x":1', b'"x":9'), "x", 9.0),
    "NaN": (b'{"id":"o","inputs":{"x":NaN}}', "x", None),
    "overflow": (b'{"id":"o","inputs":{"x":1e999}}', "x", None),
    "a number of 5000 digits": (b'{"id":"o","inputs":{"x":' + b"9" * 5000 + b"}}", "x", None),
    "equal keys": (b'{"id":"o","inputs":{"x":1,"x":2}}', "x", 2.0),
    "equal keys, the last wrong": (b'{"id":"o","inputs":{"x":1,"x":"a"}}', "x", None),
    "60,000 unknown names": (MANY, "x", 2.0),
    "lone surrogate": (b'{"id":"o\\ud800","inputs":{"x":3}}', "x", 3.0),
    "NUL": (b'{"id":"o\\u0000","inputs":{"x":3}}', "x", 3.0),
    "unknown depth": (b'{"id":"o","inputs":{"x":4},"other":' + b"[" * 500 + b"]" * 500 + b"}", "x", 4.0),
}


@pytest.mark.parametrize("name", READ)
def test_strange_records_that_can_be_read_are(name: str) -> None:
    value, column, expected = READ[name]
    decoded = around(value)
    assert not decoded.bad
    found = decoded.batches[""][column].values.tolist()
    assert found[0] == found[2] == 1.0
    assert found[1] == expected or (expected is None and found[1] != found[1])


def test_a_lone_surrogate_in_a_word_can_be_written_out_again() -> None:
    decoded = around(b'{"id":"\\udfff","inputs":{"c":"a\\ud800b"}}')
    assert "a\ufffdb" in decoded.batches[""]["c"].words
    assert decoded.batches[""].ids[1] == "\ufffd"


def test_whole_numbers_past_64_bits_do_not_stop_a_checkpoint() -> None:
    huge = (
        b'{"id":"1","time":1,"inputs":{"x":1e5,"c":'
        + b"9" * 30
        + b',"v":[-'
        + b"9" * 19
        + b',1]},"status":18446744073709551616}'
    )
    (event,) = around(huge, schema=None).events[""][1:2]
    assert decode(encode(event), Event) == event
    batch = around(huge).batches[""]
    assert batch["v"].values[1].tolist() == [-1e19, 1.0]
    assert batch["c"].wrong is not None
    assert batch["c"].wrong.tolist() == [0, Wrong.NUMBER, 0]


def test_an_event_of_too_many_fields_is_counted_as_cut() -> None:
    decoded = around(MANY, schema=None)
    assert decoded.cut == 1
    assert len(decoded.events[""][1].inputs) == 4096


def test_a_long_vector_does_not_pad_its_batch_without_bound() -> None:
    long = json.dumps({"id": "o", "inputs": {"v": [0.5] * 100_000}}).encode()
    column = around(long).batches[""]["v"]
    assert column.values.shape == (3, 2)
    assert column.wrong is not None
    assert column.wrong.tolist() == [0, Wrong.LENGTH, 0]


NAMES = """
    id time inputs features outputs label value scores members instances predictions dataframe_split columns data name
    specversion data_base64 shape datatype parameters binary_data_size ndarray tensor values truth reward response meta
    puid groundTruthData eventMetadata eventId encoding strData extra model version path model_name
"""
HEADERS = """
    ce_specversion Ce-Id ce_type ce-time content-type type requestid modelid inference-header-content-length
    x-request-id ce_statuscode traceparent
"""

bodies = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(NAMES.split()),
                st.text(max_size=3),
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)
headers = st.lists(
    st.tuples(
        st.sampled_from(HEADERS.split()),
        st.one_of(
            st.none(),
            st.sampled_from([b"1.0", b"x.request", b"x.response", b"io.seldon.serving.feedback", b"7", b"\xff"]),
            st.sampled_from([b"application/cloudevents+json", b"application/cloudevents-batch+json"]),
        ),
    ),
    max_size=4,
)
values = st.one_of(
    st.none(),
    st.binary(max_size=40),
    bodies.map(lambda body: json.dumps(body).encode()),
    bodies.map(lambda body: json.dumps(body).encode() + b"\x00\x01"),
    bodies.map(lambda body: gzip.compress(json.dumps(body).encode())),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(values, headers), max_size=5), st.sampled_from(sorted(DECODERS)), st.booleans())
def test_nothing_a_record_holds_raises(
    some: list[tuple[bytes | None, list[tuple[str, bytes | None]]]], kind: str, known: bool
) -> None:
    records = [Record(value, None, header, at, 1000) for at, (value, header) in enumerate(some)]
    decoded = DECODERS[kind]().open().decode(records, {"": SCHEMA} if known else {})
    for batch in decoded.batches.values():
        assert all(len(column) == len(batch) for column in batch.columns.values())
    offsets = {bad.offset for bad in decoded.bad} | {label.offset for label in decoded.labels}
    offsets |= {half.event.offset for half in decoded.halves}
    offsets |= {event.offset for events in decoded.events.values() for event in events}
    offsets |= {int(offset) for batch in decoded.batches.values() for offset in batch.offsets}
    unaccounted = set(range(len(some))) - offsets
    # only a body of no rows at all, such as an empty array, leaves no trace
    assert all(b"[]" in plain_bytes(some[at][0]) for at in unaccounted)


def plain_bytes(value: bytes | None) -> bytes:
    return gzip.decompress(value) if value is not None and value.startswith(b"\x1f\x8b") else value or b""
