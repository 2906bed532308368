"""Bytes for plain values that hold arrays: msgpack, with an array as an extension. Nothing is ever unpickled.

An integer array travels in the narrowest unsigned type that holds it and comes back as int64: window counts are small,
and a profile of 60 columns shrinks from 60 to 10 KB.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, get_origin

import msgspec
import numpy as np

from detectors.core import Batch, Column, Kind

T = TypeVar("T")

_ARRAY = 1  # msgpack extension code
_SAFE = {"|b1", "|u1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8"}
_NARROW = ((0xFF, np.dtype("|u1")), (0xFFFF, np.dtype("<u2")), (0xFFFF_FFFF, np.dtype("<u4")))
_HELD = {"<i8": {"<i8", "|u1", "<u2", "<u4"}}  # kinds that may travel as another


class Undecodable(ValueError):
    """The bytes are not what `encode` writes, or of another type than asked for."""


def _narrowed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype != np.int64 or not array.size:
        return array
    top = array.view(np.uint64).max()  # a negative number is the largest of all
    return next((array.astype(kind) for most, kind in _NARROW if top <= most), array)


def _out(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        kind = value.dtype.str
        if kind not in _SAFE:
            raise TypeError(f"an array of {value.dtype} cannot be encoded")
        held = _narrowed(value)
        head = msgspec.msgpack.encode((kind, held.dtype.str, value.shape))
        return msgspec.msgpack.Ext(_ARRAY, bytes([len(head)]) + head + held.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be encoded")


_head = msgspec.msgpack.Decoder(tuple[str, str, tuple[int, ...]])


def _ext(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise Undecodable(f"unknown extension {code}")
    cut = 1 + data[0]
    kind, held, shape = _head.decode(data[1:cut])
    if kind not in _SAFE or held not in _HELD.get(kind, {kind}):
        raise Undecodable(f"array of {kind!r} held as {held!r}")
    array = np.frombuffer(data[cut:], held).astype(kind)  # a copy of its own, writable
    return array.reshape(shape)


def _in(wanted: Any, value: Any) -> Any:
    if (get_origin(wanted) or wanted) is np.ndarray and isinstance(value, np.ndarray):
        return value
    raise TypeError(f"expected {wanted}, found {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_out)


def encode(value: Any) -> bytes:
    """Bytes of structs, dicts, lists, numbers, texts and arrays. TypeError for anything else."""
    return _encoder.encode(value)


@cache
def _decoder(wanted: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(wanted, dec_hook=_in, ext_hook=_ext)


def decode(data: bytes | memoryview, wanted: type[T]) -> T:
    """The value back, checked against `wanted`. Raises Undecodable, never anything else.

    >>> decode(encode({"a": np.arange(3)}), dict[str, Any])["a"].tolist()
    [0, 1, 2]
    """
    try:
        value: T = _decoder(wanted).decode(data)  # type: ignore[arg-type]  # a type is hashable
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise Undecodable(str(error)) from error
    return value


def restored(value: Any, wanted: type[T]) -> T:
    """The struct of which `value` is what `decode` leaves where it was not told the type; a struct stays itself.

    Raises Undecodable when it is something else.
    """
    try:
        found: T = msgspec.convert(value, wanted, dec_hook=_in)
    except msgspec.ValidationError as error:
        raise Undecodable(str(error)) from error
    return found


class _Column(msgspec.Struct, frozen=True, array_like=True):
    kind: Kind
    values: Any  # an array, or for text a list of str and None
    words: list[str]
    wrong: Any


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    keys: Any
    times: Any
    ids: list[str]
    offsets: Any
    columns: dict[str, _Column]


def encode_batch(batch: Batch) -> bytes:
    """Bytes that `decode_batch` reads back equal."""
    columns = {
        name: _Column(c.kind, c.values.tolist() if c.kind is Kind.TEXT else c.values, list(c.words), c.wrong)
        for name, c in batch.columns.items()
    }
    return encode(_Batch(batch.keys, batch.times, batch.ids.tolist(), batch.offsets, columns))


def decode_batch(data: bytes) -> Batch:
    """The batch back; Undecodable when the bytes are damaged."""
    held = decode(data, _Batch)
    columns = {}
    for name, c in held.columns.items():
        values = c.values
        if c.kind is Kind.TEXT:
            values = np.empty(len(c.values), object)
            values[:] = c.values
        columns[name] = Column(c.kind, values, tuple(c.words), c.wrong)
    ids = np.empty(len(held.ids), object)
    ids[:] = held.ids
    return Batch(held.keys, held.times, ids, held.offsets, columns)
