"""Doccano: lines of JSON, out and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Value


class _Line(msgspec.Struct):
    driftd_id: str | None = None
    label: Any = None  # releases differ in how they call it
    labels: Any = None
    meta: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    username: str = ""


def item(task: Asked) -> dict[str, Any]:
    """A line. Doccano knows one kind of label, so the model's answer would come back as a labeler's: it stays out."""
    return {"text": wire.text(task), wire.ID: task.task} | wire.present(uri=task.uri)


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Replies of the lines that have a label. Of a sequence's spans the classes are taken."""
    return wire.from_lines(data, _replies)


def _replies(line: bytes) -> Iterator[Reply]:
    said = msgspec.json.decode(line, type=_Line)
    task = said.driftd_id or said.meta.get(wire.ID) or said.metadata.get(wire.ID)
    if not isinstance(task, str):
        raise wire.Unreadable(f"a line without {wire.ID}: not one of ours")
    value = _value(said.labels if said.label is None else said.label)
    if value is not None:
        yield Reply(task=task, value=value, by=said.username)


def _value(given: object) -> Value:
    if not isinstance(given, list):
        return wire.scalar(given) if given != "" else None
    return wire.joined(str(each[-1]) if isinstance(each, list) and each else str(each) for each in given)
