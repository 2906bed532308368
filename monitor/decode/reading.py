"""Records of a partition to columns, events, halves and labels: one engine behind the decoders of every format.

Records that look like our own events of a known schema go through the fast path of `typed.py` together; what it
refuses, and every other format, is read one by one. Nothing a record holds raises out of here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detectors.core import Batch, concat
from monitor.decode.body import MAX_FIELDS, Envelope, Unreadable, parse, plain
from monitor.decode.cloudevents import is_cloudevent, open_envelopes, open_parsed, tells
from monitor.decode.columns import to_batch
from monitor.decode.own import read_own
from monitor.decode.seldon import is_feedback, is_seldon, read_seldon
from monitor.decode.sides import MAX_ROWS
from monitor.decode.typed import Plan, Shape, Typed, shape_of
from monitor.decode.v1 import read_v1
from monitor.decode.v2 import is_v2, read_v2, split_binary
from monitor.event import Bad, Decoded, Event, Half, Label, Raw, Schema

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_V1 = ("instances", "predictions", "dataframe_split", "dataframe_records")
_REPLAN = 0.25  # share of refused records past which the structs are made anew after one of them

_BARE = Envelope(b"")

_Found = Event | Half | Label
_Part = tuple[Batch, Sequence[int]]  # rows, and the places of the records they are from


class _Opened(NamedTuple):
    """Bodies, the offsets of their records, and what is known of each; `said`: by headers or wrappings."""

    bodies: Sequence[bytes]
    offsets: Sequence[int]
    envelope: Callable[[int], Envelope]
    said: bool


def _bare(record: Raw) -> Envelope:
    return Envelope(
        record.value or b"", record.offset, time=record.timestamp / 1000 if record.timestamp > 0 else math.nan
    )


class Reading:
    """The decoder of one format, or of all. One thread uses it; it remembers only how events are written."""

    def __init__(self, form: str, model: str, max_bytes: int) -> None:
        self._form = form  # "own", "v1", "v2", "seldon", "cloudevents" (any body, but wrapped), "auto"
        self._model = model
        self._max_bytes = max_bytes
        self._shapes: dict[str, Shape] = {}
        self._plans: dict[str, Plan] = {}  # the last of each schema

    def decode(self, records: Sequence[Raw], schemas: Mapping[str, Schema]) -> Decoded:
        out = Decoded()
        opened = self._opened(records, out)
        bodies, envelope = opened.bodies, opened.envelope
        rest: Sequence[int] = range(len(bodies))
        batches: dict[str, list[_Part]] = {}
        if self._form in ("own", "auto", "cloudevents") and schemas and bodies:
            groups, rest = self._groups(opened, schemas)
            for (name, unnamed), places in groups.items():
                mine = bodies if len(places) == len(bodies) else [bodies[at] for at in places]
                made = self._typed(name, schemas, mine, unnamed)
                rest += [places[at] for at in made.refused]
                if made.rows:
                    made.rows = [places[at] for at in made.rows]
                    batch = made.batch(opened.offsets, lambda at: envelope(at).name(), lambda at: envelope(at).time)
                    batches.setdefault(name, []).append((batch, made.rows))
            rest.sort()
        slow: dict[str, tuple[list[Event], list[int]]] = {}
        for at in rest:
            self._one_by_one(at, envelope(at), schemas, slow, out)
        for name, (events, places) in slow.items():
            if name in schemas:
                batches.setdefault(name, []).append((to_batch(events, schemas[name]), places))
            else:
                out.events[name] = events
        out.batches = {name: _in_order(parts) for name, parts in batches.items()}
        return out

    def _opened(self, records: Sequence[Raw], out: Decoded) -> _Opened:
        if self._form != "cloudevents" and not any(map(tells, records)):
            bodies = [record.value or b"" for record in records]
            return _Opened(bodies, [record.offset for record in records], lambda at: _bare(records[at]), said=False)
        envelopes: list[Envelope] = []
        for record in records:
            try:
                envelopes += open_envelopes(record, self._max_bytes) if tells(record) else [_bare(record)]
            except Unreadable as error:
                out.bad.append(Bad(record.offset, error.cause, str(error)))
        return _Opened([e.value for e in envelopes], [e.offset for e in envelopes], envelopes.__getitem__, said=True)

    # -- the fast path

    def _groups(
        self, opened: _Opened, schemas: Mapping[str, Schema]
    ) -> tuple[dict[tuple[str, bool], Sequence[int]], list[int]]:
        """Records by the schema to try and whether events that name no model belong to it; and those for no schema."""
        bodies = opened.bodies
        fits = 0 < min(map(len, bodies)) <= max(map(len, bodies)) <= self._max_bytes
        if fits and not opened.said and len(schemas) == 1:
            only = next(iter(schemas))
            return {(only, _schema_name(self._model, schemas) == only): range(len(bodies))}, []
        groups: dict[tuple[str, bool], list[int]] = {}
        rest = []
        for at, body in enumerate(bodies):
            # Only a hint, checked after decoding: the first "model" in the bytes may be an input's.
            hint = _MODEL.search(body, 0, self._max_bytes)
            around = opened.envelope(at) if opened.said else _BARE
            named = hint[1].decode(errors="replace") if hint else around.model or self._model
            name = _schema_name(named, schemas)
            unwrapped = self._form == "cloudevents" and not around.id
            if name is None or around.side or unwrapped or not 0 < len(body) <= self._max_bytes:
                rest.append(at)
            else:
                groups.setdefault((name, hint is None), []).append(at)
        return {**groups}, rest

    def _typed(self, name: str, schemas: Mapping[str, Schema], bodies: Sequence[bytes], unnamed: bool) -> Typed:
        def accept(model: Any) -> bool:
            return _schema_name(model, schemas) == name if model else unnamed

        schema = schemas[name]
        made = self._plan(name, schema, bodies).decode(bodies, accept if name else None)
        if len(made.refused) > _REPLAN * len(bodies) and self._reshape(name, schema, bodies, made.refused):
            made = self._plan(name, schema, bodies).decode(bodies, accept if name else None)
        return made

    def _plan(self, name: str, schema: Schema, bodies: Sequence[bytes]) -> Plan:
        if name not in self._shapes:
            self._shapes[name] = Shape()
            self._reshape(name, schema, bodies, range(len(bodies)))
        shape = self._shapes[name]
        plan = self._plans.get(name)
        if plan is None or plan.shape != shape or plan.schema != schema:
            plan = self._plans[name] = Plan(schema, shape)
        return plan

    def _reshape(self, name: str, schema: Schema, bodies: Sequence[bytes], places: Sequence[int]) -> bool:
        """Takes the shape of the first of some records that is an event; whether that is news."""
        for at in places[:8]:
            try:
                body = parse(bodies[at])
                if isinstance(body, dict) and isinstance(read_own(body, Envelope(b"", id="?")), Event):
                    shape = shape_of(body, schema)
                    news = shape != self._shapes.get(name)
                    self._shapes[name] = shape
                    return news
            except Unreadable:
                continue
        return False

    # -- one by one

    def _one_by_one(
        self,
        at: int,
        envelope: Envelope,
        schemas: Mapping[str, Schema],
        slow: dict[str, tuple[list[Event], list[int]]],
        out: Decoded,
    ) -> None:
        try:
            found = self._read(envelope)
        except Unreadable as error:
            out.bad.append(Bad(envelope.offset, error.cause, str(error)[:500]))
            return
        for item in found:
            if isinstance(item, Label):
                item.model = item.model or self._model
                out.labels.append(item)
                continue
            event = item.event if isinstance(item, Half) else item
            event.model = event.model or self._model
            out.cut += len(event.inputs) >= MAX_FIELDS or len(event.extra) >= MAX_FIELDS
            if isinstance(item, Half):
                out.halves.append(item)
                continue
            name = _schema_name(event.model, schemas)
            events, places = slow.setdefault(event.model if name is None else name, ([], []))
            events.append(event)
            places.append(at)

    def _read(self, envelope: Envelope) -> list[_Found]:
        value = plain(envelope.value, self._max_bytes)
        tail = b""
        if envelope.head is not None:
            body, tail = split_binary(value, envelope.head)
        else:
            try:
                body = parse(value)
            except Unreadable as error:
                # the binary tensors of V2 end the JSON early, and a logger may have lost the header that says where
                if error.cause not in ("malformed", "invalid_utf8") or self._form not in ("v2", "auto", "cloudevents"):
                    raise
                body, tail = _with_tail(value, error)
        if isinstance(body, list):
            if len(body) > MAX_ROWS:
                raise Unreadable("too_large", f"{len(body)} events in one record, {MAX_ROWS} are allowed")
            several = len(body) > 1 and bool(envelope.id)
            return [
                item
                for i, part in enumerate(body)
                for item in self._format(part, envelope._replace(id=f"{envelope.id}#{i}") if several else envelope, b"")
            ]
        return self._format(body, envelope, tail)

    def _format(self, body: Any, envelope: Envelope, tail: bytes) -> list[_Found]:
        if not isinstance(body, dict):
            raise Unreadable("not_an_object", f"an event is a JSON object, this is {type(body).__name__}")
        form = self._form
        if form == "own":
            return [read_own(body, envelope)]
        if form == "v1":
            return [*read_v1(body, envelope)]
        if form == "v2":
            return [*read_v2(body, envelope, tail)]
        if form == "seldon":
            return [*_seldon(body, envelope, tail)]
        if is_cloudevent(body):
            inner = open_parsed(body, envelope, self._max_bytes)
            unwrapped = parse(inner.value)
            if isinstance(unwrapped, dict) and is_cloudevent(unwrapped):
                raise Unreadable("wrong_shape", "a CloudEvent inside a CloudEvent")
            return self._format(unwrapped, inner, b"")
        if form == "cloudevents" and not envelope.id:
            raise Unreadable("wrong_shape", "no CloudEvent: neither ce- headers nor specversion in the body")
        if any(key in body for key in _V1):
            return [*read_v1(body, envelope)]
        if is_v2(body) or tail:
            return [*read_v2(body, envelope, tail)]
        if is_seldon(body):
            return [*read_seldon(body, envelope)]
        # V1's columns (an object) look like our inputs: the side that a logger's header says tells them apart.
        if envelope.side in ("request", "response") or isinstance(body.get("inputs"), list):
            return [*read_v1(body, envelope)]
        return [read_own(body, envelope)]


def _seldon(body: Mapping[str, Any], envelope: Envelope, tail: bytes) -> list[_Found]:
    """Seldon Core 1 logs whatever protocol the model speaks; its header `protocol` only repeats what the body shows."""
    if is_seldon(body) or is_feedback(body):
        return read_seldon(body, envelope)
    return [*read_v2(body, envelope, tail)] if is_v2(body) or tail else [*read_v1(body, envelope)]


def _with_tail(value: bytes, error: Unreadable) -> tuple[Any, bytes]:
    if b"binary_data_size" not in value:
        raise error
    return split_binary(value, None)


def _schema_name(model: str, schemas: Mapping[str, Schema]) -> str | None:
    """The schema for events of a model: its own, or that of the one model that takes what comes by any name or none."""
    if model in schemas:
        return model
    if "" in schemas:
        return ""
    return next(iter(schemas)) if not model and len(schemas) == 1 else None


def _in_order(parts: Sequence[_Part]) -> Batch:
    """The rows of both paths as one batch, in record order."""
    if len(parts) == 1:
        return parts[0][0]
    places = np.concatenate([np.asarray(rows, np.int64) for _, rows in parts])
    return concat([batch for batch, _ in parts]).take(np.argsort(places, kind="stable"))
