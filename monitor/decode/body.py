"""Bytes of a record to a JSON value, whatever they are: bounded, and never an exception other than `Unreadable`."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from xxhash import xxh3_64_hexdigest

MAX_DEPTH = 64  # of nesting; a flattened name of 64 parts is no column that anyone watches
MAX_FIELDS = 4096  # inputs and extras read of one event; of more the event is counted as cut

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
# A run of 19 digits may be past 64 bits. Looked for among digits made equal: 1 us per KB; a regular expression took 80.
_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_LONG = b"0" * 19


class Unreadable(Exception):
    """A record that cannot become an event. `cause` is one of the counter's fixed labels; the caller sets it aside."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Envelope(NamedTuple):
    """A body, and what headers say of it. Empty text and NaN = not said."""

    value: bytes
    offset: int = 0
    id: str = ""
    time: float = float("nan")  # UTC seconds: the CloudEvent's own time, else when the record reached the source
    timed: bool = False  # `time` is the CloudEvent's own, so response minus request is a latency
    model: str = ""
    version: str | None = None
    side: str = ""  # "request", "response", "feedback"
    status: str | None = None
    head: int | None = None  # bytes of JSON before a V2 binary tail

    def name(self) -> str:
        """The id of an event that has none: made from position and bytes, so a replay makes the same one."""
        return self.id or f"{self.offset}-{xxh3_64_hexdigest(self.value)}"


def inflate(data: bytes, limit: int) -> bytes:
    """The content of a gzip body of one or more members. Unreadable when it is broken or grows past `limit` bytes."""
    out = b""
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(data, limit + 1 - len(out))
        except zlib.error as error:
            raise Unreadable("malformed", f"the gzip body is broken: {error}") from error
        if len(out) > limit:
            raise Unreadable("too_large", f"the gzip body holds more than {limit} bytes")
        if not member.eof:
            raise Unreadable("malformed", "the gzip body is cut off")
        data = member.unused_data
    return out


def plain(data: bytes, limit: int) -> bytes:
    """The body itself: unpacked when it is gzip, whatever the headers say, and at most `limit` bytes."""
    if len(data) > limit:
        raise Unreadable("too_large", f"{len(data)} bytes, {limit} are allowed")
    return inflate(data, limit) if data.startswith(_GZIP) else data


def parse(data: bytes) -> Any:
    """The JSON value of a body, nested at most MAX_DEPTH deep.

    Beyond the standard it takes a byte order mark and the literals NaN and Infinity (as null, so missing), and lone
    surrogates (as U+FFFD). Whole numbers past 64 bits become floats. The last of two equal keys counts.
    """
    try:
        try:
            found = msgspec.json.decode(data)
        except ValueError:
            found = _parse_tolerant(data)
    except RecursionError:
        raise Unreadable("too_deep", "nested too deeply to parse") from None
    # Both looks at the bytes are cheap, and nearly always spare the walk through the value.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deep(found):
        raise Unreadable("too_deep", f"nested deeper than {MAX_DEPTH}")
    return _mapped(found, _narrow) if _LONG in data.translate(_DIGITS) else found


def _parse_tolerant(data: bytes) -> Any:
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise Unreadable("invalid_utf8", str(error)) from None
    if not text.strip():
        raise Unreadable("empty", "the record has no body")
    try:
        found = _LENIENT.decode(text)
    except ValueError as error:
        raise Unreadable("malformed", str(error)) from None
    # only an escape can make a lone surrogate
    return _mapped(found, _mend) if "\\u" in text and not _is_deep(found) else found


# Python turns text of more than 4300 digits into no int at all; past 64 bits a float is what is wanted anyway.
_LENIENT = json.JSONDecoder(
    parse_constant=lambda _: None, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits)
)


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return change(value)


def _mend(value: Any) -> Any:
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _narrow(value: Any) -> Any:
    """A checkpoint holds integers of 64 bits, signed."""
    if not isinstance(value, int) or -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf


def flatten(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Nested objects as one, names joined with dots; only the first MAX_FIELDS, so that many of them tell of more.

    >>> flatten({"a": 1, "b": {"c": 2, "d": {}}})
    {'a': 1, 'b.c': 2}
    """
    out: dict[str, Any] = {}
    waiting = [("", iter(inputs.items()))]
    while waiting and len(out) < MAX_FIELDS:
        prefix, items = waiting[-1]
        key, value = next(items, (None, None))
        if key is None:
            waiting.pop()
        elif isinstance(value, dict):
            waiting.append((f"{prefix}{key}.", iter(value.items())))
        else:
            out[prefix + key] = value
    return out
