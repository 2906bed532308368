"""Prodigy: its stream of JSON lines, and the lines of `prodigy db-out` back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Box


class _Span(msgspec.Struct):
    label: str
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None


class _Line(msgspec.Struct):
    driftd_id: str | None = None
    meta: dict[str, Any] = {}
    answer: str | None = None
    accept: list[str | int | float] = []
    label: str | None = None
    user_input: str | None = None
    spans: list[_Span] = []
    task_hash: int | None = msgspec.field(name="_task_hash", default=None)
    annotator: str | None = msgspec.field(name="_annotator_id", default=None)
    timestamp: float | None = msgspec.field(name="_timestamp", default=None)


def item(task: Asked) -> dict[str, Any]:
    """A line: text or picture, and the classes to choose from, the model's answer accepted; where nobody named the
    classes and there are no boxes, that answer to be accepted or rejected."""
    said = wire.predicted(task)
    answer = wire.label(task)
    options = [{"id": name, "text": name} for name in _classes(task)]
    spans = [
        {
            "label": box.name, "type": "rect", "x": box.left, "y": box.top, "width": box.width, "height": box.height,
            "points": [
                [box.left, box.top], [box.left, box.top + box.height],
                [box.left + box.width, box.top + box.height], [box.left + box.width, box.top],
            ],
        }
        for box in said.boxes
    ]  # fmt: skip
    size = {} if task.picture is None else {"width": task.picture.width, "height": task.picture.height}
    shown = {"image": task.uri} if task.uri else {"text": wire.text(task)}
    meta = wire.present(score=wire.confidence(task))
    return {**shown, wire.ID: task.task, "meta": {wire.ID: task.task, **meta}, **size} | wire.present(
        options=options,
        accept=[answer] if answer is not None and options else [],
        label=None if options or spans else answer,
        spans=spans,
    )


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Replies of the lines. `ignore` is a skip; so is `reject`, which says what it is not and not what it is."""
    return wire.from_lines(data, _replies)


def _classes(task: Asked) -> list[str]:
    answer = wire.label(task)
    names = list(task.classes)
    return [answer, *names] if names and answer is not None and answer not in names else names


def _replies(line: bytes) -> Iterator[Reply]:
    said = msgspec.json.decode(line, type=_Line)
    task = said.driftd_id or said.meta.get(wire.ID)
    if not isinstance(task, str):
        raise wire.Unreadable(f"a line without {wire.ID}: not one of ours")
    if said.answer is None:
        return  # an item as it went out
    skipped = said.answer != "accept"
    boxes = tuple(Box(s.label, s.x, s.y, s.width or 0.0, s.height or 0.0) for s in said.spans
                  if s.x is not None and s.y is not None)  # fmt: skip
    value = wire.joined(map(str, said.accept)) or said.label or said.user_input or wire.joined(
        span.label for span in said.spans
    )  # fmt: skip
    if value is None and not skipped:
        raise wire.Unreadable("accepted, but without a choice, label, text or span")
    yield Reply(
        task=task,
        value=None if skipped else value,
        boxes=() if skipped else boxes,
        skipped=skipped,
        by=said.annotator or "",
        at=said.timestamp,
        # the hash is of the question; each annotator answers it once, and an answer mended comes with a later time
        annotation="" if said.task_hash is None else f"{said.task_hash}/{said.annotator or ''}",
    )
