"""Our own JSON, one event or late label to a record (`docs/event.schema.json`); also SageMaker's ground-truth lines.

A record with inputs or outputs is an event whatever else it holds; one without, but with a label or value at the top,
is a late label.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from monitor.decode.body import Envelope, Unreadable, flatten, parse
from monitor.decode.columns import CONTEXT, OUTPUTS, SOFTWARE, word
from monitor.decode.times import parse_time
from monitor.event import Event, Label


def read_own(body: Mapping[str, Any], envelope: Envelope) -> Event | Label:
    """The event or label that a JSON object is. Unreadable when it is neither."""
    inputs = body.get("inputs")
    if inputs is None:
        inputs = body.get("features")
    outputs = body.get("outputs")
    if isinstance(inputs, dict) or (inputs is None and isinstance(outputs, dict)):
        return _event(body, inputs or {}, outputs if isinstance(outputs, dict) else {}, envelope)
    if inputs is None and outputs is None:
        if "groundTruthData" in body:
            return _ground_truth(body, envelope)
        if "label" in body or "value" in body:
            return _label(body, envelope)
    raise Unreadable("wrong_shape", "neither an event (an object `inputs`) nor a label (`id` and `label` or `value`)")


def _event(body: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any], envelope: Envelope) -> Event:
    given = body.get("extra")
    extra = flatten(given) if isinstance(given, dict) else {}
    event = Event(
        id=_text(body.get("id")) or envelope.name(),
        time=_time(body, envelope),
        model=_text(body.get("model")) or envelope.model,
        version=word(body.get("version")) or envelope.version,
        inputs=flatten(inputs),
        extra=extra,
        offset=envelope.offset,
    )
    for name in OUTPUTS:
        setattr(event, name, outputs.get(name))
    for name in (*SOFTWARE, *CONTEXT):
        if name != "version":
            setattr(event, name, body.get(name))
    if event.status is None:
        event.status = envelope.status
    return event


def _label(body: Mapping[str, Any], envelope: Envelope) -> Label:
    id_ = _text(body.get("id")) or envelope.id
    if not id_:
        raise Unreadable("no_id", "a label needs the id of its event")
    return Label(
        id=id_,
        time=_time(body, envelope),
        model=_text(body.get("model")) or envelope.model,
        label=body.get("label"),
        value=body.get("value"),
        offset=envelope.offset,
    )


def _ground_truth(body: Mapping[str, Any], envelope: Envelope) -> Label:
    given, about = body["groundTruthData"], body.get("eventMetadata")
    id_ = _text(about.get("eventId")) if isinstance(about, dict) else ""
    if not isinstance(given, dict) or not isinstance(given.get("data"), str):
        raise Unreadable("wrong_shape", "groundTruthData needs `data` as text")
    if not id_:
        raise Unreadable("no_id", "a ground-truth line needs eventMetadata.eventId")
    label: Any = given["data"]
    if given.get("encoding") == "BASE64":
        try:
            label = base64.b64decode(label, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Unreadable("malformed", f"groundTruthData: {error}") from None
    elif given.get("encoding") == "JSON":
        label = parse(label.encode(errors="replace"))
    value: float | None = None
    if isinstance(label, str | int | float):
        try:
            value = float(label)
        except (ValueError, OverflowError):
            value = None
    return Label(
        id=id_, time=envelope.time, model=envelope.model, label=word(label), value=value, offset=envelope.offset
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _time(body: Mapping[str, Any], envelope: Envelope) -> float:
    """The event's own time; NaN when it is given but none, and ingest then takes the record's and counts it."""
    given = body.get("time")
    return envelope.time if given is None else parse_time(given)
