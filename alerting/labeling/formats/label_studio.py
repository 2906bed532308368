"""Label Studio: tasks with predictions out; its exports JSON and JSON_MIN, and its webhooks' annotations, back.

What a reader would get wrong: Label Studio measures boxes in percent of the picture, and a prediction is shown only
where its `from_name` and `to_name` are those of the project's labeling interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any
from xml.sax.saxutils import quoteattr

import msgspec
from msgspec import Meta

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Box, Picture, Value


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the project's labeling interface calls its parts."""

    answer: Annotated[
        str, Meta(min_length=1, description="The control that holds the label: `Choices` or `Number`.")
    ] = "label"
    boxes: Annotated[str, Meta(min_length=1, description="The control that holds boxes: `RectangleLabels`.")] = "boxes"
    shown: Annotated[str, Meta(min_length=1, description="The object that is labeled (`toName` of the controls).")] = (
        "input"
    )


class Annotation(msgspec.Struct):
    """An annotation as exports and webhooks give it."""

    id: int
    result: list[dict[str, Any]] = []
    completed_by: int | str | dict[str, Any] | None = None
    was_cancelled: bool = False
    created_at: str | None = None
    updated_at: str | None = None
    lead_time: float | None = None

    def reply(self, task: str) -> Reply:
        """What it says of the task. Raises Unreadable where it says nothing that can be a label."""
        value, boxes = _answer(self.result)
        if value is None and not self.was_cancelled:
            raise wire.Unreadable(f"annotation {self.id} holds no choice, number, text or box")
        return Reply(
            task=task,
            value=None if self.was_cancelled else value,
            boxes=() if self.was_cancelled else boxes,
            skipped=self.was_cancelled,
            by=_person(self.completed_by),
            at=wire.utc(self.updated_at or self.created_at),
            seconds=self.lead_time,
            annotation=str(self.id),
        )


class _Task(msgspec.Struct):
    data: dict[str, Any]
    meta: dict[str, Any] | None = None
    annotations: list[Annotation] = []


class _Flat(msgspec.Struct):
    driftd_id: str
    annotation_id: int | None
    annotator: int | str | dict[str, Any] | None = None
    created_at: str | None = None
    updated_at: str | None = None
    lead_time: float | None = None


DEFAULT = Names()


def item(task: Asked, names: Names = DEFAULT) -> dict[str, Any]:
    """A task with the model's answer as its prediction: boxes, or else the label, as Label Studio refuses a prediction
    for a control that the interface lacks. Inputs stand in `data.inputs` for a table, and each under its own name for
    an interface that shows them one by one."""
    data = {**wire.inputs(task), "inputs": wire.inputs(task), **wire.present(uri=task.uri), wire.ID: task.task}
    predicted = [*_boxes(task, names)] or [*_prediction(task, names)]
    prediction = wire.present(model_version=task.version or task.model, score=wire.confidence(task))
    return {"data": data, "meta": {wire.ID: task.task}} | wire.present(
        predictions=[prediction | {"result": predicted}] if predicted else []
    )


def interface(classes: Iterable[str], *, picture: bool, boxes: bool, names: Names = DEFAULT) -> str:
    """A labeling interface for such tasks: a picture or a table of inputs; classes to choose from, boxes of them, or a
    number where there are none.

    >>> interface([], picture=True, boxes=False)
    '<View><Image name="input" value="$uri"/><Number name="label" toName="input"/></View>'
    """
    called = list(classes)
    name, shown = quoteattr(names.boxes if boxes else names.answer), quoteattr(names.shown)
    what = f'<Image name={shown} value="$uri"/>' if picture else f'<Table name={shown} value="$inputs"/>'
    if not called:
        return f"<View>{what}<Number name={name} toName={shown}/></View>"
    control, one = ("RectangleLabels", "Label") if boxes else ("Choices", "Choice")
    offered = "".join(f"<{one} value={quoteattr(each)}/>" for each in called)
    return f"<View>{what}<{control} name={name} toName={shown}>{offered}</{control}></View>"


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Replies of an export, one for each annotation: JSON, or JSON_MIN of an interface with the default names."""
    return wire.from_array(data, _replies)


def task_of(data: dict[str, Any], meta: dict[str, Any] | None) -> str:
    """Our id of a Label Studio task. Raises Unreadable for one that is not ours."""
    found = data.get(wire.ID) or (meta or {}).get(wire.ID)
    if not isinstance(found, str):
        raise wire.Unreadable(f"a task without {wire.ID}: not one of ours")
    return found


def _replies(part: bytes) -> Iterator[Reply]:
    whole = msgspec.json.decode(part, type=dict[str, Any])
    if "data" in whole:
        task = msgspec.convert(whole, _Task)
        ours = task_of(task.data, task.meta)
        yield from (annotation.reply(ours) for annotation in task.annotations)
        return
    flat = msgspec.convert(whole, _Flat)
    if flat.annotation_id is None:
        return  # nobody has labeled it
    yield Annotation(
        id=flat.annotation_id,
        result=list(_unflattened(whole)),
        completed_by=flat.annotator,
        created_at=flat.created_at,
        updated_at=flat.updated_at,
        lead_time=flat.lead_time,
    ).reply(flat.driftd_id)


def _unflattened(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Results of JSON_MIN, which names them by their controls and leaves out their types."""
    given = whole.get(DEFAULT.answer)
    if isinstance(given, str):
        yield {"type": "choices", "value": {"choices": [given]}}
    elif isinstance(given, int | float):
        yield {"type": "number", "value": {"number": given}}
    elif isinstance(given, dict):
        yield {"type": "choices", "value": given}
    boxes = whole.get(DEFAULT.boxes)
    for box in boxes if isinstance(boxes, list) else ():
        if isinstance(box, dict):
            yield {"type": "rectanglelabels", "value": box, **box}


def _answer(result: Iterable[dict[str, Any]]) -> tuple[Value, tuple[Box, ...]]:
    names: list[str] = []
    boxes: list[Box] = []
    other: Value = None
    for part in result:
        kind, value = part.get("type"), part.get("value")
        if not isinstance(value, dict):
            raise wire.Unreadable("a result without a value")
        if kind == "choices":
            names += map(str, value.get("choices", ()))
        elif kind == "rectanglelabels":
            boxes.append(_box(part, value))
        elif kind == "labels":
            names += map(str, value.get("labels", ()))
        elif kind in ("number", "rating", "textarea"):
            given = value.get("text" if kind == "textarea" else kind)
            other = wire.scalar("\n".join(map(str, given)) if isinstance(given, list) else given)
    if names:
        return wire.joined(names), tuple(boxes)
    return wire.joined(box.name for box in boxes) if other is None else other, tuple(boxes)


def _box(part: dict[str, Any], value: dict[str, Any]) -> Box:
    try:
        across, down = part["original_width"] / 100, part["original_height"] / 100
        return Box(
            name=str(wire.joined(value["rectanglelabels"])),
            left=value["x"] * across,
            top=value["y"] * down,
            width=value["width"] * across,
            height=value["height"] * down,
        )
    except (KeyError, TypeError) as error:
        raise wire.Unreadable(f"a box without {error}") from error


def _prediction(task: Asked, names: Names) -> Iterator[dict[str, Any]]:
    given = wire.predicted(task).label
    if given is None:
        return
    number = isinstance(given, int | float) and not isinstance(given, bool)
    kind, value = ("number", {"number": given}) if number else ("choices", {"choices": [wire.label(task)]})
    yield {"id": "answer", "type": kind, "from_name": names.answer, "to_name": names.shown, "value": value}


def _boxes(task: Asked, names: Names) -> Iterator[dict[str, Any]]:
    picture = task.picture
    if picture is None:
        return
    for n, box in enumerate(wire.predicted(task).boxes):
        yield {
            "id": f"box{n}", "type": "rectanglelabels", "from_name": names.boxes, "to_name": names.shown,
            "original_width": picture.width, "original_height": picture.height, "image_rotation": 0,
            "value": _percent(box, picture), **wire.present(score=box.score),
        }  # fmt: skip


def _percent(box: Box, picture: Picture) -> dict[str, Any]:
    return {
        "x": 100 * box.left / picture.width, "y": 100 * box.top / picture.height,
        "width": 100 * box.width / picture.width, "height": 100 * box.height / picture.height,
        "rotation": 0, "rectanglelabels": [box.name],
    }  # fmt: skip


def _person(given: int | str | dict[str, Any] | None) -> str:
    if isinstance(given, dict):
        given = given.get("email") or given.get("username") or given.get("id")
    return "" if given is None else str(given)
