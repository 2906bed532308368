"""Our own lines of JSON: what any script reads, and writes back with an id and a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Box


class _Line(msgspec.Struct):
    driftd_id: str
    label: Any = None
    boxes: tuple[Box, ...] = ()
    skipped: bool = False
    by: str = ""
    at: str | None = None
    seconds: float | None = None


def item(task: Asked) -> dict[str, Any]:
    """The line of a task."""
    said = wire.predicted(task)
    prediction = wire.present(
        label=said.label,
        score=wire.confidence(task),
        scores={score.name: score.value for score in said.scores if score.name},
        boxes=[msgspec.to_builtins(box) for box in said.boxes],
    )
    size = {} if task.picture is None else {"width": task.picture.width, "height": task.picture.height}
    return {wire.ID: task.task} | size | wire.present(
        dataset=task.dataset, model=task.model, version=task.version, uri=task.uri,
        classes=task.classes, inputs=wire.inputs(task), prediction=prediction,
    )  # fmt: skip


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Lines of `driftd_id` with `label` (or `boxes`, or `skipped`), and `by`, `at` (ISO 8601), `seconds` if known."""
    return wire.from_lines(data, _replies)


def _replies(line: bytes) -> Iterator[Reply]:
    said = msgspec.json.decode(line, type=_Line)
    value = wire.scalar(said.label)
    if value is None and not said.boxes and not said.skipped:
        return  # an item as it went out: nobody has labeled it
    yield Reply(
        task=said.driftd_id,
        value=wire.joined(box.name for box in said.boxes) if value is None else value,
        boxes=said.boxes,
        skipped=said.skipped,
        by=said.by,
        at=wire.utc(said.at),
        seconds=said.seconds,
    )
