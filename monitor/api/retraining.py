"""Requests to retrain: what people and trainers say of them, and the label sets that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace
from starlette.responses import Response

from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import Box, LabelTask, Value
from alerting.retraining import Request, Step, Word
from monitor.api.daemon import Daemon
from monitor.api.endpoint import Call, Endpoint
from monitor.api.pool import Pool
from monitor.api.problem import Problem
from monitor.exchange import Told
from monitor.people import Right

LINES = "application/x-ndjson"
_PAGE = 1000  # tasks read of the queue at once
_CAP = 5.0  # weight of a label, in means of all: what was least likely to be drawn must not outweigh the rest

_Text = Annotated[str, Meta(max_length=2000)]
_Name = Annotated[str, Meta(max_length=200)]


class OfModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests."""

    model: Annotated[str, Meta(description="Of this model alone.")] = ""


class Requests(msgspec.Struct, frozen=True):
    """Requests as their targets are told them, the newest of each model first."""

    requests: tuple[dict[str, Any], ...]


class Heard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was done with a request."""

    step: Step
    why: _Text = ""
    version: Annotated[_Name, Meta(description="Of the model that came of it, as events will name it.")] = ""
    run: Annotated[_Name, Meta(description="The trainer's own name of its run.")] = ""
    score: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Of the new version on its own training data: tells of overfitting."),
    ] = None
    seconds: Annotated[Annotated[float, Meta(ge=0)] | None, Meta(description="That training took.")] = None


class Label(msgspec.Struct, frozen=True):
    """A line of a label set."""

    task: str
    event: str
    time: float | None  # of the event, UTC seconds
    label: Value
    weight: float  # events that it stands for, by its probability to be asked for; at most five times the mean
    model: str
    version: str
    part: str
    pi: float | None
    stands_for: int
    inputs: dict[str, Value]
    uri: str
    boxes: tuple[Box, ...]


class Retraining:
    """Takes words on requests, and gives label sets out. `clock` gives UTC seconds.

    Used by one thread; what the queue does runs in `pool`.
    """

    def __init__(self, queue: LabelQueue, pool: Pool, daemon: Daemon, clock: Callable[[], float]) -> None:
        self._queue, self._pool, self._daemon, self._clock = queue, pool, daemon, clock

    def endpoints(self) -> list[Endpoint]:
        """Of people and trainers."""
        return [
            Endpoint("GET", "/v1/retraining", self.retraining_list, "The requests.", Requests, query=OfModel),
            Endpoint(
                "POST", "/v1/retraining/{request}", self.retraining_word, "Say what was done with a request.", Word,
                may=(Right.RETRAIN,), body=Heard, example=Heard(Step.FINISHED, version="7", run="mlflow-12"),
                status=202, problems={404: "No such request.", 409: "It is over."},
            ),
            Endpoint(
                "GET", "/v1/labels/set/{set}", self.labels_set,
                "The labels of a set that a request names, each a line. They are marked as used in it.", Label,
                may=(Right.RETRAIN,), media=LINES, problems={404: "No such set."},
            ),
        ]  # fmt: skip

    async def retraining_list(self, call: Call) -> Requests:
        model = call.query.model
        return Requests(tuple(one.document() for one in self._daemon.requests() if model in ("", one.model)))

    async def retraining_word(self, call: Call) -> Word:
        heard: Heard = call.body
        request = self._request(call.path["request"])
        if request.status.over:
            raise Problem(409, f"the request is {request.status.value}")
        word = Word(
            request=request.id,
            step=heard.step,
            by=call.by,
            at=self._clock(),
            why=heard.why,
            version=heard.version,
            run=heard.run,
            score=heard.score,
            seconds=heard.seconds,
        )
        model = self._daemon.exchange_name(request.model)
        if model is None:
            raise Problem(404, f"no model {request.model!r}")
        self._daemon.tell([Told(call.id, model, word)])
        return word

    async def labels_set(self, call: Call) -> Response:
        name = call.path["set"]
        request_id, _, part = name.rpartition("-")
        request = self._request(request_id)
        if part not in request.sets():
            raise Problem(404, f"the request has the sets {', '.join(request.sets().values())}")
        return await self._pool.run(self._set, request, part)

    def _request(self, name: str) -> Request:
        found = next((one for one in self._daemon.requests() if one.id == name), None)
        if found is None:
            raise Problem(404, f"no request {name[:200]!r}; `GET /v1/retraining` lists them")
        return found

    def _set(self, request: Request, part: str) -> Response:
        tasks = (task for task in self._labeled(request.model) if request.holds(task.id, task.event.time, part))
        labels = weighted(tasks)
        self._queue.used([label.task for label in labels], request.sets()[part], evaluation=part == "eval")
        return Response(b"".join(msgspec.json.encode(label) + b"\n" for label in labels), media_type=LINES)

    def _labeled(self, dataset: str) -> Iterator[LabelTask]:
        """Every task of a dataset that has a final label, the oldest label first."""
        since, limit, seen = 0.0, _PAGE, set[str]()
        while True:
            page = self._queue.labeled_since(since, limit, dataset)
            fresh = [task for task in page if task.id not in seen]
            yield from fresh
            if len(page) < limit:
                return
            seen = {task.id for task in page}
            limit = limit if fresh else 2 * limit  # so many became final at one time
            assert page[-1].final is not None  # as the contract has it
            since = page[-1].final.at


def weighted(tasks: Iterable[LabelTask]) -> list[Label]:
    """The labels of tasks, each with its weight for training."""
    labels = [
        Label(
            task=task.id,
            event=task.event.id,
            time=task.event.time,
            label=task.final.value,
            weight=task.stands_for / (task.select.pi or 1.0),
            model=task.model.name,
            version=task.model.version,
            part=task.select.part,
            pi=task.select.pi,
            stands_for=task.stands_for,
            inputs={named.name: named.value for named in task.inputs},
            uri=task.uri,
            boxes=task.final.boxes,
        )
        for task in tasks
        if task.final is not None
    ]
    cap = _CAP * sum(label.weight for label in labels) / max(len(labels), 1)
    return [replace(label, weight=min(label.weight, cap)) for label in labels]
