"""SageMaker Ground Truth: the augmented manifest, which Rekognition Custom Labels reads too.

What a reader would get wrong: the key of a label is the name of its job, and tells itself by a second key,
`<job>-metadata`. The model's own answer lies there as well, marked as made by no human.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

import msgspec

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Box, Value

_PRELABEL = "driftd-prelabel"
_METADATA = "-metadata"
_JOB = "labeling-job/"


class _Metadata(msgspec.Struct, rename="kebab"):
    class_name: str | None = None
    class_map: dict[str, str] = {}
    human_annotated: str = "no"
    creation_date: str | None = None
    job_name: str = ""


class _Boxes(msgspec.Struct):
    annotations: list[_Place] = []


class _Place(msgspec.Struct):
    class_id: int
    left: float
    top: float
    width: float
    height: float


def item(task: Asked) -> dict[str, Any]:
    """A line: `source-ref` for what lies in a bucket, `source` for text; the model's answer as a label by machine."""
    source = {"source-ref": task.uri} if task.uri else {"source": wire.text(task)}
    return {**source, wire.ID: task.task, **_prelabel(task)}


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Replies of an output manifest: each label that humans gave. Labels by machine are passed over."""
    return wire.from_lines(data, _replies)


def _prelabel(task: Asked) -> dict[str, Any]:
    said, size = wire.predicted(task), task.picture
    drawn = task.date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    metadata: dict[str, Any] = {"human-annotated": "no", "creation-date": drawn, "job-name": _JOB + _PRELABEL}
    if said.boxes and size is not None:
        classes = sorted({box.name for box in said.boxes})
        places = [
            {"class_id": classes.index(box.name), "left": round(box.left), "top": round(box.top),
             "width": round(box.width), "height": round(box.height)}
            for box in said.boxes
        ]  # fmt: skip
        label: Any = {
            "image_size": [{"width": size.width, "height": size.height, "depth": 3}], "annotations": places,
        }  # fmt: skip
        metadata |= {
            "class-map": {str(i): name for i, name in enumerate(classes)},
            "objects": [{"confidence": box.score or 0.0} for box in said.boxes],
            "type": "groundtruth/object-detection",
        }
    elif (answer := wire.label(task)) is not None:
        label = task.classes.index(answer) if answer in task.classes else 0
        kind = "groundtruth/image-classification" if task.uri else "groundtruth/text-classification"
        metadata |= {"class-name": answer, "type": kind, **wire.present(confidence=wire.confidence(task))}
    else:
        return {}
    return {_PRELABEL: label, _PRELABEL + _METADATA: metadata}


def _replies(line: bytes) -> Iterator[Reply]:
    parts = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    if wire.ID not in parts:
        raise wire.Unreadable(f"a line without {wire.ID}: not one of ours")
    task = msgspec.json.decode(parts[wire.ID], type=str)
    for key in parts:
        job = key.removesuffix(_METADATA)
        if job == key:
            continue
        about = msgspec.json.decode(parts[key], type=_Metadata)
        if about.human_annotated != "yes":
            continue
        if job not in parts:
            raise wire.Unreadable(f"{key[:60]!r} without its label")
        yield _reply(task, job, parts[job], about)


def _reply(task: str, job: str, label: msgspec.Raw, about: _Metadata) -> Reply:
    boxes: tuple[Box, ...] = ()
    value: Value = about.class_name
    if value is None and bytes(label).startswith(b"{"):
        boxes = tuple(_box(place, about.class_map) for place in msgspec.json.decode(label, type=_Boxes).annotations)
        value = wire.joined(box.name for box in boxes)
    elif value is None:
        value = _named(msgspec.json.decode(label), about.class_map)
    if value is None:
        raise wire.Unreadable(f"job {job[:60]!r} gave no label")
    at = wire.utc(about.creation_date)
    return Reply(task=task, value=value, boxes=boxes, at=at, annotation=about.job_name.removeprefix(_JOB) or job)


def _named(given: object, classes: Mapping[str, str]) -> Value:
    """Of a multi-label job the classes' names, by the map; of anything else the value as it stands."""
    if isinstance(given, list):
        return wire.joined(classes.get(str(each), str(each)) for each in given)
    return classes.get(str(given), wire.scalar(given))


def _box(place: _Place, classes: Mapping[str, str]) -> Box:
    name = classes.get(str(place.class_id), str(place.class_id))
    return Box(name, place.left, place.top, place.width, place.height)
