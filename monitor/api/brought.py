"""Labels from wherever they come, one by one or as a tool's file; and tasks as a file for a tool."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from alerting.labeling.back import Back, take_back
from alerting.labeling.formats import FORMATS, Format, Reply
from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import Known, ModelRef, Value, asked, task_id
from monitor.api.daemon import Daemon
from monitor.api.endpoint import Call, Endpoint
from monitor.api.pool import Pool
from monitor.decode.times import parse_time
from monitor.intake import Received
from monitor.people import Right

MOST = 1000  # labels of a request
_BODY = 8 << 20  # bytes of them
_FILE = 64 << 20  # bytes of a file of labels
_HAND_OVER = 7 * 86_400.0  # seconds that an exported task is left to whoever has the file
_FORMAT = Meta(description=f"One of {', '.join(FORMATS)}.")

_Name = Annotated[str, Meta(max_length=200)]
_Tool = Annotated[
    str,
    Meta(max_length=200, description="Who has the tasks, and gives them back; the same both ways. Empty: the format."),
]


class Brought(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label of a task, or of an event by its id."""

    label: Value
    task: Annotated[str, Meta(max_length=200, description="Id of the label task.")] = ""
    event: Annotated[str, Meta(max_length=4000, description="Id of the event, where no task is named.")] = ""
    model: Annotated[_Name, Meta(description="Of the event, as alerts name it.")] = "default"
    at: Annotated[
        str | float | None, Meta(description="When it was given: ISO 8601 or epoch. A later one takes its place.")
    ] = None
    by: Annotated[_Name, Meta(description="Who gave it; empty: whose token this is.")] = ""


class Taken(Back):
    """What became of labels that were brought."""

    joined: int = 0  # that no task asks for: they go on as late labels of their events


class Planted(msgspec.Struct, frozen=True):
    """Items with a known label, mixed in."""

    new: int  # that were not there before


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a file is written, and of which tool its annotations are."""

    format: Annotated[str, _FORMAT] = "jsonl"
    tool: _Tool = ""


class Handing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks to hand over as a file."""

    format: Annotated[str, _FORMAT] = "jsonl"
    tool: _Tool = ""
    dataset: Annotated[str | None, Meta(description="Of this dataset alone.")] = None
    most: Annotated[int, Meta(ge=1, le=10_000, description="Tasks at most.")] = 100
    prediction: Annotated[bool, Meta(description="Show what the model answered.")] = False


class Labels:
    """Takes labels in and gives tasks out. `clock` gives UTC seconds; `intake`: whether an HTTP source reads what the
    daemon takes. Used by one thread; what the queue does runs in `pool`."""

    def __init__(
        self, queue: LabelQueue, pool: Pool, daemon: Daemon, clock: Callable[[], float], *, intake: bool
    ) -> None:
        self._queue, self._pool, self._daemon, self._clock, self._intake = queue, pool, daemon, clock, intake

    def endpoints(self) -> list[Endpoint]:
        """Of tools and scripts."""
        label = (Right.LABEL,)
        return [
            Endpoint(
                "POST", "/v1/labels", self.labels_bring, "Bring labels, by task or by event.", Taken,
                may=label, body=Annotated[list[Brought], Meta(max_length=MOST)], largest=_BODY,
                example=[Brought("can", event="e-17", model="shelf", at="2026-11-22T10:00:00Z")],
            ),
            Endpoint(
                "POST", "/v1/labels/import", self.labels_import, "Bring labels as a tool's export.", Taken,
                may=label, query=Form, body=bytes, largest=_FILE,
            ),
            Endpoint(
                "POST", "/v1/labels/known", self.labels_plant,
                "Mix in items whose label is known, to check labelers; nobody can tell them from the others.", Planted,
                may=(Right.REVIEW,), body=Annotated[list[Known], Meta(max_length=MOST)], largest=_BODY,
                example=[Known(dataset="shelf", event="known-1", truth="can", model=ModelRef("shelf"))],
            ),
            Endpoint(
                "POST", "/v1/labels/export", self.labels_export, "Lease tasks as a file for a tool.", bytes,
                may=label, body=Handing, example=Handing("label-studio", dataset="shelf", most=50),
                media="application/octet-stream",
            ),
        ]  # fmt: skip

    async def labels_bring(self, call: Call) -> Taken:
        taken, others = await self._pool.run(self._bring, call.body, call.by)
        joined = [self._late(one) for one in others if one.event and self._intake]
        if joined:
            self._daemon.take(joined)
        taken.joined, taken.unknown = len(joined), taken.unknown + len(others) - len(joined)
        return taken

    def _bring(self, labels: Sequence[Brought], by: str) -> tuple[Taken, list[Brought]]:
        """Answers the tasks that ask for them; the others are returned."""
        now = self._clock()
        replies, others = [], []
        for one in labels:
            if not one.task and not one.event:
                raise ValueError("each label needs the id of its `task` or of its `event`")
            at = now if one.at is None else parse_time(one.at)
            if math.isnan(at):
                raise ValueError(f"`at`: {one.at!r} is no time")
            task = one.task or task_id(one.model, one.model, one.event)  # a model's tasks are a dataset of its name
            if self._queue.get(task) is None:
                others.append(one)
            else:
                who = one.by or by
                replies.append(Reply(task=task, value=one.label, by=who, at=at, annotation=who))
        return _taken(take_back(self._queue, "http", replies, now)), others

    def _late(self, one: Brought) -> Received:
        """As a record of the intake: the late label of an event that no task asks about."""
        said = {"id": one.event, "model": self._daemon.exchange_name(one.model) or one.model, "label": one.label}
        if one.at is not None:
            said["time"] = one.at
        return Received([("content-type", b"application/json")], msgspec.json.encode(said))

    async def labels_import(self, call: Call) -> Taken:
        form: Form = call.query
        return await self._pool.run(self._import, form, call.body)

    def _import(self, form: Form, data: bytes) -> Taken:
        replies = _format(form.format).read(data)
        return _taken(take_back(self._queue, form.tool or form.format, replies, self._clock()))

    async def labels_plant(self, call: Call) -> Planted:
        return Planted(await self._pool.run(self._queue.plant, call.body, self._clock()))

    async def labels_export(self, call: Call) -> Response:
        said: Handing = call.body
        return await self._pool.run(self._export, said)

    def _export(self, said: Handing) -> Response:
        form, tool, now = _format(said.format), said.tool or said.format, self._clock()
        tasks = self._queue.export_pending(tool, said.format, said.most, now, _HAND_OVER, said.dataset)
        data = form.write([asked(task, prediction=said.prediction) for task in tasks])
        self._queue.exported(tool, {task.id: task.id for task in tasks}, now)
        named = {"Content-Disposition": f'attachment; filename="tasks{form.suffix}"'}
        return Response(data, headers=named, media_type="application/octet-stream")


def _taken(back: Back) -> Taken:
    return Taken(**msgspec.structs.asdict(back))


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ValueError(f"{name[:40]!r} is no format; there are {', '.join(FORMATS)}")
    return FORMATS[name]
