"""A POST's headers and body -> the records that go to the intake log. Pure: no sockets, no clock.

Only what must be known to answer the sender is looked at here: size, coding, media type, and where a body of many
events is cut. What an event means is the decoder's affair, as it is for Kafka; so a strange event is taken in, counted
and set aside there, not refused here, where its sender would repeat it for ever.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from monitor.api.problem import Problem

STRUCTURED = "application/cloudevents+json"
_BATCHED = "application/cloudevents-batch+json"
_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
_JSON = "application/json"
_BINARY = "application/octet-stream"  # the binary extension of the Open Inference Protocol
_BINARY_LENGTH = "inference-header-content-length"
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # window bits that tell zlib the wrapping
# Kept of a request's headers beside ce-*: what decoders read. Cookies and credentials never reach the log.
_KEPT = {"content-type", _BINARY_LENGTH, "x-request-id", "requestid", "modelid", "mlserver-model", "mlserver-id"}

Headers = list[tuple[str, bytes]]


class Received(NamedTuple):
    """A record of the intake: headers as decoders read them, and the body."""

    headers: Headers
    body: bytes


def records(headers: Iterable[tuple[bytes, bytes]], body: bytes, largest: int) -> list[Received]:
    """The records of a request, in order. Raises Problem: 400 malformed, 413 too large once expanded, 415 unknown.

    `headers` as ASGI gives them, names in lower case. `largest` bounds the body after decompression.
    """
    given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    body = _expanded(body, given.get("content-encoding", "").strip().lower(), largest)
    media = given.get("content-type", "").partition(";")[0].strip().lower()
    kept = _kept(given)
    if media == _BATCHED:
        return [Received([("content-type", STRUCTURED.encode())], item) for item in _items(body)]
    if media.startswith("application/cloudevents"):
        if not media.endswith("+json"):
            raise Problem(415, f"{media}: of the CloudEvents formats only JSON is read")
        return [Received(kept, _one(body))]
    if any(name.startswith("ce-") for name in given):  # binary mode: the body is the model's own, whatever it says
        return [Received(kept, body)]
    if media in _LINES:
        return [Received(_typed(kept), line) for line in body.splitlines() if line.strip()]
    if media == _JSON:
        items = _items(body) if body.lstrip()[:1] == b"[" else [_one(body)]
        return [Received(kept, item) for item in items]
    if media == _BINARY and _BINARY_LENGTH in given:
        return [Received(kept, body)]
    allowed = ", ".join([_JSON, _LINES[0], STRUCTURED, _BATCHED])
    raise Problem(415, f"{media or 'no content type'}: allowed are {allowed}, and any type with ce- headers")


def _kept(given: Mapping[str, str]) -> Headers:
    """Headers for the decoder; the HTTP binding of CloudEvents percent-encodes its values, so they are decoded here."""
    return [
        (name, (unquote(value) if name.startswith("ce-") else value).encode())
        for name, value in given.items()
        if name in _KEPT or name.startswith("ce-")
    ]


def _typed(kept: Headers) -> Headers:
    """Of lines each is plain JSON."""
    return [(name, value) for name, value in kept if name != "content-type"] + [("content-type", _JSON.encode())]


def _one(body: bytes) -> bytes:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        _tolerant(body)
    return body


def _items(body: bytes) -> list[bytes]:
    try:
        return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, RecursionError):
        found = _tolerant(body)
    if not isinstance(found, list):
        raise Problem(400, "the body is no JSON array")
    return [json.dumps(item).encode() for item in found]


def _tolerant(body: bytes) -> Any:
    """The body as Python's own JSON reads it: with NaN and Infinity, which Python's own JSON also writes."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise Problem(400, f"the body is no JSON: {error}") from error


def _expanded(body: bytes, coding: str, largest: int) -> bytes:
    """The body without its content coding. A bomb costs at most `largest` bytes of memory."""
    if coding in ("", "identity"):
        return body
    bits = _CODINGS.get(coding)
    if bits is None:
        raise Problem(415, f"content coding {coding[:40]!r}: allowed are gzip, deflate, identity")
    inflater = zlib.decompressobj(bits)
    try:
        plain = inflater.decompress(body, largest + 1)
    except zlib.error as error:
        raise Problem(400, f"the body is no {coding}: {error}") from error
    if len(plain) > largest:
        raise Problem(413, f"the body expands to more than {largest} bytes")
    if not inflater.eof:
        raise Problem(400, f"the {coding} body is cut off")
    return plain
