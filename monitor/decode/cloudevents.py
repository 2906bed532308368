"""CloudEvents 0.3 and 1.0 over HTTP and Kafka: attributes in headers (binary mode) or in the body (structured mode),
around a body of any format. MLServer writes HTTP-style names on Kafka, so `ce-` and `ce_` are one, in any case.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from monitor.decode.body import Envelope, Unreadable, parse, plain
from monitor.decode.times import parse_time
from monitor.event import Raw

_SIDES = {"request": "request", "response": "response", "feedback": "feedback"}
_HEADER_BYTES = 16 * 1024  # of one header that is read; longer ones are somebody's baggage


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
    binary = "ce-specversion" in headers
    attributes = {name[3:]: unquote(text) for name, text in headers.items() if name.startswith("ce-")}
    envelope = _described(attributes if binary else headers, Envelope(value, record.offset, time=time))
    if not envelope.model:
        envelope = envelope._replace(model=headers.get("mlserver-model", ""))
    if not envelope.version:
        envelope = envelope._replace(version=headers.get("mlserver-version") or None)
    head = headers.get("inference-header-content-length", "")
    return [envelope._replace(head=int(head))] if head.isdecimal() and len(head) < 12 else [envelope]


def open_structured(value: bytes, offset: int, time: float, limit: int) -> Envelope:
    """A structured CloudEvent's data and attributes. The data is not parsed here, only cut out."""
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        data = fields.pop("data", None)
        attributes = {name: msgspec.json.decode(raw) for name, raw in fields.items() if name != "data_base64"}
    except RecursionError:
        raise Unreadable("too_deep", "nested too deeply to parse") from None
    except ValueError:
        # a NaN literal or a lone surrogate somewhere
        whole = parse(value)
        if not isinstance(whole, dict):
            raise Unreadable("not_an_object", "a structured CloudEvent is an object") from None
        return open_parsed(whole, Envelope(b"", offset, time=time), limit)
    encoded = fields.get("data_base64")
    if data is not None:
        body = bytes(data)
        if attributes.get("datacontenttype", "").endswith("json") is False and body.startswith(b'"'):
            body = _inner_text(body)
    elif encoded is not None:
        body = plain(_unbase64(msgspec.json.decode(encoded)), limit)
    else:
        raise Unreadable("empty", "the CloudEvent has no data")
    return _described(attributes, Envelope(body, offset, time=time))


def open_parsed(event: Mapping[str, Any], envelope: Envelope, limit: int) -> Envelope:
    """The same of a structured event that is parsed already."""
    if event.get("data") is not None:
        body = msgspec.json.encode(event["data"])
    elif "data_base64" in event:
        body = plain(_unbase64(event["data_base64"]), limit)
    else:
        raise Unreadable("empty", "the CloudEvent has no data")
    return _described(event, envelope._replace(value=body))


def is_cloudevent(body: Mapping[str, Any]) -> bool:
    """Whether a body is a structured event that no header announced."""
    return "specversion" in body and ("data" in body or "data_base64" in body)


def _inner_text(body: bytes) -> bytes:
    # JSON put into `data` as text, as some shippers do
    text = msgspec.json.decode(body)
    return text.encode() if text[:1] in ("{", "[") else body


def _unbase64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Unreadable("malformed", f"data_base64: {error}") from None


def _described(attributes: Mapping[str, Any], envelope: Envelope) -> Envelope:
    """The envelope with what CloudEvents attributes, or bare headers of the same names, say."""

    def text(*names: str) -> str:
        return next((v for n in names if isinstance(v := attributes.get(n), str) and v), "")

    version = text("specversion")
    if version and version not in ("1.0", "0.3"):
        raise Unreadable("wrong_version", f"CloudEvents {version[:20]} is not known, 0.3 and 1.0 are")
    at = parse_time(text("time")) if version else math.nan
    timed = not math.isnan(at)
    return envelope._replace(
        id=text("id", "requestid", "x-request-id"),
        time=at if timed else envelope.time,
        timed=timed,
        model=text("inferenceservicename", "modelid", "pipeline"),
        version=text("modelversion", "x-pipeline-version") or None,
        side=_side(text("type", "seldon-infer-type")),
        status=str(code) if isinstance(code := attributes.get("statuscode"), str | int) else None,
    )


def _side(kind: str) -> str:
    """`...inference.request`, `...inference.response`, `...feedback`, `json/inferModelRequest`."""
    lower = kind.lower()
    return next((side for end, side in _SIDES.items() if lower.endswith(end)), "")


def is_wrapped(records: Sequence[Raw]) -> bool:
    """Whether any of the records has headers at all: without, there is nothing to open."""
    return any(record.headers for record in records)
