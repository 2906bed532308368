from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from detectors.core import Batch, Column, category, from_columns, number, text, vector
from detectors.encode import Undecodable, decode, decode_batch, encode, encode_batch

DTYPES = ["|b1", "|u1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8"]

some_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(np.dtype(dtype), array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


@given(array=some_array)
def test_an_array_comes_back_bit_for_bit_in_shape_and_kind(array: np.ndarray[Any, Any]) -> None:
    back = decode(encode({"it": array}), dict[str, Any])["it"]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    back[...] = 0  # a copy of its own, writable


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1)), top=st.sampled_from([255, 256, 65_535, 65_536, 2**32]))
def test_whole_numbers_are_exact_at_every_width(values: list[int], top: int) -> None:
    for held in (values, [abs(v) % (top + 1) for v in values] + [top]):
        array = np.array(held, np.int64)
        assert decode(encode([array]), list[Any])[0].tolist() == held


def test_small_counts_travel_in_one_byte_each() -> None:
    assert len(encode(np.arange(200))) < 230


def test_an_array_seen_sideways_is_the_same() -> None:
    matrix = np.arange(12, dtype=np.int64).reshape(3, 4)
    assert decode(encode([matrix.T, matrix[:, ::2]]), list[Any])[0].tolist() == matrix.T.tolist()


class Thing(msgspec.Struct):
    name: str
    values: np.ndarray[Any, Any]


def test_a_struct_is_checked_against_what_is_wanted() -> None:
    assert decode(encode(Thing("a", np.ones(2))), Thing).values.tolist() == [1.0, 1.0]
    with pytest.raises(Undecodable, match=r"\$\.values"):
        decode(encode({"name": "a", "values": [1.0]}), Thing)
    with pytest.raises(Undecodable, match="name"):
        decode(encode({"values": np.ones(2)}), Thing)


@pytest.mark.parametrize("value", [object(), np.array(["text"]), np.array([None]), np.array([1j]), {"a": {1j}}])
def test_anything_else_is_refused_when_written(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be encoded"):
        encode(value)


def extension(kind: str, held: str, shape: tuple[int, ...], data: bytes) -> bytes:
    head = msgspec.msgpack.encode((kind, held, shape))
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(1, bytes([len(head)]) + head + data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000 + b"\xc0",
        msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\xff\x00")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(2, b"\x00")),
        extension("|O8", "|O8", (1,), b"\0" * 8),
        extension("<u8", "<f8", (1,), np.array([np.nan]).tobytes()),
        extension("<f8", "<f8", (3,), b"\0" * 8),
        extension("<f8", "<f8", (2**62, 2**62), b""),
        extension("<f8", "<f8", (-1, -1), b"\0" * 8),
        extension("<f8", "<f8", (1,), b"\0" * 7),
        extension("<f8", "<f8", (2**63,), b""),
    ],
)
def test_damage_is_undecodable_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(data, list[Any])


@given(data=st.binary(max_size=60), at=st.integers(0, 10**6), with_what=st.integers(0, 255))
def test_no_bytes_raise_anything_but_undecodable(data: bytes, at: int, with_what: int) -> None:
    good = bytearray(encode(Thing("a", np.arange(5.0))))
    good[at % len(good)] = with_what
    for tried in (data, bytes(good), bytes(good[: at % len(good)])):
        with suppress(Undecodable):
            assert isinstance(decode(tried, Thing), Thing)


def same(left: Batch, right: Batch) -> None:
    assert (left.keys == right.keys).all()
    assert (left.offsets == right.offsets).all()
    assert left.ids.tolist() == right.ids.tolist()
    assert np.array_equal(left.times, right.times, equal_nan=True)
    assert left.columns.keys() == right.columns.keys()
    for name, column in left.columns.items():
        other = right.columns[name]
        assert (column.kind, list(column.words)) == (other.kind, list(other.words))
        assert repr(column.values.tolist()) == repr(other.values.tolist())
        assert (column.wrong is None) == (other.wrong is None)
        assert column.wrong is None or other.wrong is None or (column.wrong == other.wrong).all()


def test_a_batch_comes_back_equal() -> None:
    columns: dict[str, Column] = {
        "x": number([1.0, np.nan, np.inf], np.array([False, True, False])),
        "c": category(["a", None, "ü"]),
        "t": text(["long text", None, ""]),
        "v": vector([[1.0, 2.0], [np.nan, np.nan], [0.0, -0.0]]),
    }
    whole = from_columns(columns, [1.0, 2.0, np.nan], ["i", "j", "ß"])
    same(decode_batch(encode_batch(whole)), whole)
    none = whole.take(slice(0, 0))
    same(decode_batch(encode_batch(none)), none)
    with pytest.raises(Undecodable):
        decode_batch(encode_batch(whole)[:-1])
