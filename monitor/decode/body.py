"""Bytes of a record to a JSON value, whatever they are: bounded, and never an exception other than `Unreadable`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from xxhash import xxh3_64_hexdigest

MAX_DEPTH = 64  # of nested inputs; a flattened name of 64 parts is no column that anyone watches
MAX_FIELDS = 4096  # inputs and extras read of one event; of more the event is counted as cut

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


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
    """The JSON value of a body.

    Beyond the standard it takes a byte order mark and the literals NaN and Infinity (as null, so missing), lone
    surrogates (as U+FFFD), and numbers too large for a double (as null). The last of two equal keys counts.
    """
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise Unreadable("too_deep", "nested too deeply to parse") from None
    except ValueError:
        return _parse_tolerant(data)


def _parse_tolerant(data: bytes) -> Any:
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise Unreadable("invalid_utf8", str(error)) from None
    if not text.strip():
        raise Unreadable("empty", "the record has no body")
    try:
        found = _LENIENT.decode(text)
    except RecursionError:
        raise Unreadable("too_deep", "nested too deeply to parse") from None
    except ValueError as error:
        raise Unreadable("malformed", str(error)) from None
    # only an escape can make a lone surrogate, and only then is the second walk paid for
    return _mended(found) if "\\u" in text else found


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= 309 else None  # the largest double has 309 digits


_LENIENT = json.JSONDecoder(parse_constant=lambda _: None, parse_int=_whole)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value


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
        elif not isinstance(value, dict):
            out[prefix + key] = value
        elif len(waiting) < MAX_DEPTH:
            waiting.append((f"{prefix}{key}.", iter(value.items())))
        else:
            raise Unreadable("too_deep", f"inputs are nested deeper than {MAX_DEPTH}")
    return out
