"""The Open Inference Protocol (V2) in JSON, with the binary extension of Triton and KServe.

Tensors are reshaped by `shape`, whether `data` is nested or flat; the first dimension is the batch. A tensor of one
number per row is a column of its name, of up to 256 the columns `name.0`, `name.1`, ..., a larger one a vector.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np

from monitor.decode.body import Envelope, Unreadable, parse
from monitor.decode.sides import WIDE, Fields, count, merge_outputs, output_fields, pair_up
from monitor.event import Event, Half

_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def split_binary(value: bytes, head: int | None) -> tuple[Any, bytes]:
    """The JSON head of a body and the tensors' bytes behind it; without the header's length the head is parsed off."""
    if head is not None:
        if not 0 < head <= len(value):
            raise Unreadable("malformed", f"the JSON head is said to have {head} of {len(value)} bytes")
        return parse(value[:head]), value[head:]
    # Every byte is one Latin-1 character, so a place in the text is a place in the bytes.
    try:
        _, end = json.JSONDecoder().raw_decode(value.decode("latin-1"))
    except RecursionError:
        raise Unreadable("too_deep", "nested too deeply to parse") from None
    except ValueError as error:
        raise Unreadable("malformed", str(error)) from None
    return parse(value[:end]), value[end:]


def read_v2(body: Mapping[str, Any], envelope: Envelope, tail: bytes = b"") -> list[Event | Half]:
    """Events or halves of a request, a response, or both in one object; `tail` holds binary tensors."""
    given, answered = body.get("inputs"), body.get("outputs")
    binary = _Tail(tail)
    inputs = _rows(given, binary, _input_row) if _has_data(given) else None
    outputs = _rows(answered, binary, _output_row) if _has_data(answered) else None
    if inputs is None and outputs is None:
        raise Unreadable("wrong_shape", "no tensor with data among inputs and outputs")
    name, version, id_ = body.get("model_name"), body.get("model_version"), body.get("id")
    return pair_up(
        envelope._replace(
            id=envelope.id or (id_ if isinstance(id_, str) else ""),
            model=name if isinstance(name, str) and name else envelope.model,
            version=version if isinstance(version, str) and version else envelope.version,
        ),
        inputs,
        outputs,
    )


def is_v2(body: Mapping[str, Any]) -> bool:
    """Whether its inputs or outputs are tensors."""
    return any(
        isinstance(side, list) and bool(side) and all(isinstance(t, dict) and "datatype" in t for t in side)
        for side in (body.get("inputs"), body.get("outputs"))
    )


def _has_data(tensors: Any) -> TypeGuard[list[Any]]:
    # a request may name the outputs it wants, without data
    return isinstance(tensors, list) and any(
        isinstance(t, dict) and ("data" in t or _binary_size(t) is not None) for t in tensors
    )


def _binary_size(tensor: Mapping[str, Any]) -> int | None:
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None


class _Tail:
    """Bytes behind the head, taken in the order of the tensors."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise Unreadable("malformed", "the binary tensors are cut off")
        self._at += size
        return taken


def _rows(
    tensors: Sequence[Any], binary: _Tail, row_of: Callable[[Sequence[str], Sequence[Any]], Fields]
) -> list[Fields]:
    read = [_tensor(t, binary) for t in tensors]
    sizes = {len(rows) for _, rows in read}
    if len(sizes) != 1:
        # no common batch dimension: the tensors are one row's
        read = [(name, [rows]) for name, rows in read]
    count(len(read[0][1]))
    names = [name for name, _ in read]
    return [row_of(names, row) for row in zip(*(rows for _, rows in read), strict=True)]


def _tensor(tensor: Any, binary: _Tail) -> tuple[str, list[Any]]:
    """Name, and one value per row: a scalar, or a flat list of the row's numbers."""
    name = tensor.get("name") if isinstance(tensor, dict) else None
    shape = tensor.get("shape") if isinstance(tensor, dict) else None
    if not isinstance(name, str) or not isinstance(shape, list) or len(shape) > 16:
        raise Unreadable("wrong_shape", "a tensor needs `name` and `shape`")
    if not all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in shape):
        raise Unreadable("wrong_shape", f"tensor {name!r}: a dimension is no size")
    kind = tensor.get("datatype")
    size = _binary_size(tensor)
    if "data" in tensor:
        values = flat(tensor["data"])
    elif size is not None and isinstance(kind, str):
        values = _from_bytes(binary.take(size), kind)
    else:
        raise Unreadable("wrong_shape", f"tensor {name!r} has no data")
    if math.prod(shape) != len(values):
        raise Unreadable("wrong_shape", f"tensor {name!r} of shape {shape} has {len(values)} values")
    if kind == "BOOL":
        values = [bool(v) if v in (0, 1) else v for v in values]
    if not shape:
        return name, values
    rows = count(shape[0])
    width = len(values) // rows if rows else 0
    if width == 1:
        return name, values
    return name, [values[i * width : (i + 1) * width] for i in range(rows)]


def flat(data: Any) -> list[Any]:
    """Nested lists as one, in order; a scalar as a list of it."""
    if not isinstance(data, list):
        return [data]
    values: list[Any] = data
    for _ in range(16):
        if list not in set(map(type, values)):
            return values
        values = [item for part in values for item in (part if isinstance(part, list) else [part])]
    raise Unreadable("too_deep", "a tensor of more than 16 dimensions")


def _from_bytes(data: bytes, kind: str) -> list[Any]:
    if kind == "BYTES":
        out: list[Any] = []
        at = 0
        while at < len(data):
            if at + 4 > len(data):
                raise Unreadable("malformed", "a BYTES tensor is cut off")
            (size,) = struct.unpack_from("<I", data, at)
            if at + 4 + size > len(data):
                raise Unreadable("malformed", "a BYTES element is longer than its tensor")
            out.append(data[at + 4 : at + 4 + size].decode(errors="replace"))
            at += 4 + size
        return out
    width = 2 if kind == "BF16" else np.dtype(_TYPES[kind]).itemsize if kind in _TYPES else 0
    if not width or len(data) % width:
        raise Unreadable("wrong_shape", f"{len(data)} bytes are no tensor of {kind}")
    if kind == "BF16":  # the upper half of an FP32
        return list((np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).tolist())
    return list(np.frombuffer(data, _TYPES[kind]).tolist())


def _input_row(names: Sequence[str], row: Sequence[Any]) -> Fields:
    out: Fields = {}
    for name, value in zip(names, row, strict=True):
        if isinstance(value, list) and len(value) <= WIDE:
            out.update(zip(_numbered(name, len(value)), value, strict=True))
        else:
            out[name] = value
    return out


@lru_cache(maxsize=256)
def _numbered(name: str, width: int) -> tuple[str, ...]:
    return tuple(f"{name}.{i}" for i in range(width))


def _output_row(names: Sequence[str], row: Sequence[Any]) -> Fields:
    return merge_outputs([output_fields(name, value) for name, value in zip(names, row, strict=True)])
