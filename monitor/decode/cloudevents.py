"""CloudEvents 0.3 and 1.0 over HTTP and Kafka: attributes in headers (binary mode) or in the body (structured mode),
around a body of any format. MLServer writes HTTP-style names on Kafka, so `ce-` and `ce_` are one, in any case.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import msgspec

from monitor.decode.body import Envelope, Unreadable, parse, plain
from monitor.decode.times import parse_time
from monitor.event import Raw

_BARE_MODEL = ("mlserver-model", "mlserver-version", "x-request-id")
_TELLING = {
    *_BARE_MODEL, "type", "requestid", "modelid", "inferenceservicename", "pipeline", "x-pipeline-version",
    "seldon-infer-type", "inference-header-content-length",
}  # fmt: skip
_HEADER_BYTES = 16 * 1024  # of one header that is read; longer ones are somebody's baggage


def tells(record: Raw) -> bool:
    """Whether headers say anything about the body, so that it has to be opened before it is read."""
    if not record.headers:
        return False
    return _any_tells(tuple([name for name, _ in record.headers])) or any(
        value is not None
        and name.lower() == "content-type"
        and value[:24].lower().startswith(b"application/cloudevents")
        for name, value in record.headers
    )


@lru_cache(maxsize=1024)  # producers send the same names again and again, and each name costs 0.2 us to look at
def _any_tells(names: tuple[str, ...]) -> bool:
    return any(name.startswith(("ce-", "ce_")) or name in _TELLING for name in map(str.lower, names))


def headers_of(record: Raw) -> dict[str, str]:
    """Headers by lower-case name, `ce_` written `ce-`. Of a name twice the last counts; null is absent."""
    out = {}
    for name, value in record.headers:
        if value is not None and len(value) <= _HEADER_BYTES:
            lower = name.lower()
            out["ce-" + lower[3:] if lower.startswith("ce_") else lower] = value.decode(errors="replace")
    return out


def open_envelopes(record: Raw, limit: int) -> list[Envelope]:
    """What a record holds, with what its headers or its structured wrapping say of it; several for a batch.

    Knows CloudEvents, the bare headers of Seldon Core 1 and 2 and of MLServer, and gzip. Unreadable when the record is
    empty, too large or broken.
    """
    if record.value is None:
        raise Unreadable("empty", "the record has no body")
    headers = headers_of(record)
    value = plain(record.value, limit)
    content = headers.get("content-type", "").lower().strip()
    time = record.timestamp / 1000 if record.timestamp > 0 else math.nan
    if content.startswith("application/cloudevents-batch"):
        try:
            parts = msgspec.json.decode(value, type=list[msgspec.Raw])
        except (ValueError, RecursionError) as error:
            raise Unreadable("malformed", str(error)) from None
        if len(parts) > 10_000:
            raise Unreadable("too_large", f"{len(parts)} events in one batch")
        return [open_structured(bytes(part), record.offset, time, limit) for part in parts]
    if content.startswith("application/cloudevents"):
        return [open_structured(value, record.offset, time, limit)]
    if "ce-specversion" in headers:
        # attributes first; a server's own headers fill in what they leave out
        attributes = {name: text for name, text in headers.items() if name in _BARE_MODEL}
        attributes |= {name[3:]: unquote(text) for name, text in headers.items() if name.startswith("ce-")}
    else:
        attributes = headers
    envelope = _described(attributes, Envelope(value, record.offset, time=time))
    head = headers.get("inference-header-content-length", "")
    return [envelope._replace(head=int(head))] if head.isdecimal() and len(head) < 12 else [envelope]


def open_structured(value: bytes, offset: int, time: float, limit: int) -> Envelope:
    """A structured CloudEvent's data and attributes. The data is cut out, not parsed, so it can go the fast way."""
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        attributes = {name: msgspec.json.decode(raw) for name, raw in fields.items() if name != "data"}
    except (ValueError, RecursionError):  # a NaN literal or a lone surrogate somewhere, or worse
        whole = parse(value)
        if not isinstance(whole, dict):
            raise Unreadable("not_an_object", "a structured CloudEvent is an object") from None
        return open_parsed(whole, Envelope(b"", offset, time=time), limit)
    data = bytes(fields["data"]) if "data" in fields else b"null"
    if data[:1] in b'"n':  # text or null
        attributes["data"] = msgspec.json.decode(data)
        return open_parsed(attributes, Envelope(b"", offset, time=time), limit)
    return _described(attributes, Envelope(data, offset, time=time))


def open_parsed(event: Mapping[str, Any], envelope: Envelope, limit: int) -> Envelope:
    """The same of a structured event that is parsed already."""
    data, encoded = event.get("data"), event.get("data_base64")
    if isinstance(data, str) and data[:1] in ("{", "["):
        body = data.encode()  # JSON put there as text, as some shippers do
    elif data is not None:
        body = msgspec.json.encode(data)
    elif encoded is not None:
        body = plain(_unbase64(encoded), limit)
    else:
        raise Unreadable("empty", "the CloudEvent has no data")
    return _described(event, envelope._replace(value=body))


def is_cloudevent(body: Mapping[str, Any]) -> bool:
    """Whether a body is a structured event that no header announced."""
    return "specversion" in body and ("data" in body or "data_base64" in body)


def _unbase64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Unreadable("malformed", f"data_base64: {error}") from None


def _described(attributes: Mapping[str, Any], envelope: Envelope) -> Envelope:
    """The envelope with what CloudEvents attributes, or bare headers of the same names, say."""
    version = attributes.get("specversion")
    if version is not None and version not in ("1.0", "0.3"):
        raise Unreadable("wrong_version", f"CloudEvents {str(version)[:20]} is not known, 0.3 and 1.0 are")
    at = parse_time(attributes.get("time")) if version else math.nan
    timed = not math.isnan(at)
    code = attributes.get("statuscode")
    return Envelope(
        envelope.value,
        envelope.offset,
        _text(attributes, "id", "requestid", "x-request-id"),
        at if timed else envelope.time,
        timed,
        _text(attributes, "inferenceservicename", "modelid", "mlserver-model", "pipeline") or envelope.model,
        _text(attributes, "modelversion", "mlserver-version", "x-pipeline-version") or envelope.version,
        _side(_text(attributes, "type", "seldon-infer-type")) or envelope.side,
        str(code) if isinstance(code, str | int) else None,
    )


def _text(attributes: Mapping[str, Any], *names: str) -> str:
    """The first of these attributes that is there as text."""
    for name in names:
        value = attributes.get(name)
        if value and isinstance(value, str):
            return value
    return ""


@lru_cache(maxsize=256)
def _side(kind: str) -> str:
    """`...inference.request`, `...inference.response`, `...feedback`, `json/inferModelRequest`."""
    lower = kind.lower()
    return next((side for side in ("request", "response", "feedback") if lower.endswith(side)), "")
