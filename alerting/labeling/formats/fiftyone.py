"""FiftyOne: a dataset as `Dataset.from_json` reads it, the model's answer in `prediction`; back from `ground_truth`.

What a reader would get wrong: FiftyOne measures boxes as shares of the picture, and tells what a value is by `_cls`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Box

_NAME = "driftd"


class _Label(msgspec.Struct, rename={"kind": "_cls"}):
    kind: str
    label: Any = None
    value: Any = None
    bounding_box: tuple[float, float, float, float] | None = None
    detections: list[_Label] = []
    classifications: list[_Label] = []


class _Sample(msgspec.Struct):
    driftd_id: str
    ground_truth: _Label | None = None
    tags: list[str] = []
    metadata: dict[str, Any] | None = None
    last_modified_at: Any = None


def item(task: Asked) -> dict[str, Any]:
    """A sample. Raises Unfit for a task without a picture."""
    uri, size = wire.image(task)
    said = wire.predicted(task)
    answer = wire.label(task)
    boxes = [
        {
            "_cls": "Detection", "label": box.name,
            "bounding_box": [
                box.left / size.width, box.top / size.height, box.width / size.width, box.height / size.height,
            ],
            **wire.present(confidence=box.score),
        }
        for box in said.boxes
    ]  # fmt: skip
    sample = {
        "filepath": uri, "tags": [], wire.ID: task.task,
        "metadata": {"_cls": "ImageMetadata", "width": size.width, "height": size.height},
    }  # fmt: skip
    if answer is not None:
        confidence = wire.present(confidence=wire.confidence(task))
        sample["prediction"] = {"_cls": "Classification", "label": answer, **confidence}
    if boxes:
        sample["prediction_boxes"] = {"_cls": "Detections", "detections": boxes}
    return sample


def file(items: Sequence[Mapping[str, Any]]) -> bytes:
    """A dataset of the samples."""
    return msgspec.json.encode({"name": _NAME, "media_type": "image", "samples": items})


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Replies of a dataset, from its samples' `ground_truth`: a classification, detections, or a regression's value.
    A sample with the tag `skipped` is one that the labeler could not tell."""
    try:
        samples = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("samples")
    except msgspec.DecodeError as error:
        return iter((Fault("the file", f"no JSON object: {error}"),))
    return wire.from_array(bytes(samples or b""), _replies)


def _replies(part: bytes) -> Iterator[Reply]:
    sample = msgspec.json.decode(part, type=_Sample)
    truth = sample.ground_truth
    if truth is None:
        if "skipped" in sample.tags:
            yield Reply(task=sample.driftd_id, skipped=True)
        return
    boxes = tuple(_box(each, sample.metadata or {}) for each in truth.detections)
    names = [str(each.label) for each in (*truth.detections, *truth.classifications)]
    single = truth.value if truth.kind == "Regression" else truth.label
    value = wire.joined(names) if single is None else wire.scalar(single)
    if value is None:
        raise wire.Unreadable(f"ground_truth is a {truth.kind[:40]} without a label")
    yield Reply(task=sample.driftd_id, value=value, boxes=boxes)


def _box(given: _Label, size: Mapping[str, Any]) -> Box:
    width, height = size.get("width"), size.get("height")
    if given.bounding_box is None or not isinstance(width, int | float) or not isinstance(height, int | float):
        raise wire.Unreadable("a box needs bounding_box, and the sample metadata with width and height")
    left, top, across, down = given.bounding_box
    return Box(str(given.label), left * width, top * height, across * width, down * height)
