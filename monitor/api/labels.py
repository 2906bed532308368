"""Label tasks for people: next, submit, skip, extend, review, and how it goes on.

What a reader would get wrong: who labels sees `asked(task)` and no more. That some tasks are there to check labelers,
and why an event was drawn, never leaves by here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from alerting.labeling.queue import LabelQueue, Progress
from alerting.labeling.task import Asked, Box, Named, Opinion, Outcome, Value, asked
from monitor.api.endpoint import Call, Endpoint
from monitor.api.pool import Pool
from monitor.api.problem import Problem
from monitor.people import Right

_Text = Annotated[str, Meta(max_length=4000)]
_Positive = Annotated[float, Meta(ge=0)]
_Token = Annotated[str, Meta(max_length=200, description="Of the lease.")]


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks."""

    dataset: Annotated[str | None, Meta(description="Of this dataset alone.")] = None


class Leased(Asked, frozen=True, kw_only=True):
    """A task as its labeler sees it, theirs until `until` (UTC seconds); `token` proves it."""

    token: str
    until: float


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A labeler's answer."""

    token: _Token
    label: Value
    seconds: Annotated[_Positive | None, Meta(description="That it took.")] = None
    saw_prediction: Annotated[bool, Meta(description="Whether the labeler knew what the model had answered.")] = False
    comment: _Text = ""
    attributes: Annotated[tuple[Named, ...], Meta(max_length=100, description="Such as size or occlusion.")] = ()
    boxes: Annotated[tuple[Box, ...], Meta(max_length=200, description="In pixels.")] = ()


class Skipping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A labeler who cannot tell."""

    token: _Token
    reason: _Text = ""


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A labeler who needs more time."""

    token: _Token


class Until(msgspec.Struct, frozen=True):
    """How long the task is the labeler's, UTC seconds."""

    until: float


class Settled(msgspec.Struct, frozen=True):
    """What became of an answer: `late` says that the task had passed on; it is kept, and not used."""

    outcome: Outcome


class Disputed(msgspec.Struct, frozen=True):
    """A task with the labels it has, for its reviewer, theirs until `until`; `token` proves it."""

    task: Asked
    labels: tuple[Given, ...]
    token: str
    until: float


class Given(msgspec.Struct, frozen=True):
    """A label, as a reviewer sees it: not by whom, so that nobody is judged by their name."""

    value: Value
    comment: str = ""
    boxes: tuple[Box, ...] = ()


class Reviewed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reviewer's word."""

    token: _Token
    opinion: Opinion
    value: Annotated[Value, Meta(description="The right label, of a correction.")] = None
    comment: _Text = ""


class Standing(msgspec.Struct, frozen=True):
    """How labeling goes on."""

    datasets: tuple[Progress, ...]


class Labeling:
    """Takes the calls of labelers and reviewers. `clock` gives UTC seconds.

    Used by one thread; what the queue does runs in `pool`.
    """

    def __init__(self, queue: LabelQueue, pool: Pool, clock: Callable[[], float]) -> None:
        self._queue, self._pool, self._clock = queue, pool, clock
        self._lease, self._show = queue.rules.lease, queue.rules.show_prediction

    def endpoints(self) -> list[Endpoint]:
        """Of labelers and reviewers."""
        label, review = (Right.LABEL,), (Right.REVIEW,)
        unknown = {404: "No such task."}
        none = "Nothing is ready."
        return [
            Endpoint(
                "POST", "/v1/labels/next", self.labels_next, "Lease the next task.", Leased,
                may=label, body=Wanted, example=Wanted("shelf"), empty=none,
            ),
            Endpoint(
                "POST", "/v1/labels/{task}/submit", self.labels_submit, "Answer a task.", Settled,
                may=label, body=Submission, example=Submission("f3a9", "can", 4.2), problems=unknown,
            ),
            Endpoint(
                "POST", "/v1/labels/{task}/skip", self.labels_skip, "Give a task back: you cannot tell.", None,
                may=label, body=Skipping, example=Skipping("f3a9", "too dark"), problems=unknown,
            ),
            Endpoint(
                "POST", "/v1/labels/{task}/extend", self.labels_extend, "Take more time for a task.", Until,
                may=label, body=Extension, example=Extension("f3a9"),
                problems={409: "The lease has passed on."} | unknown,
            ),
            Endpoint(
                "POST", "/v1/review/next", self.review_next, "Lease the next task to review.", Disputed,
                may=review, body=Wanted, example=Wanted(), empty=none,
            ),
            Endpoint(
                "POST", "/v1/labels/{task}/review", self.review_give, "Accept, correct or send back.", Settled,
                may=review, body=Reviewed, example=Reviewed("f3a9", Opinion.CORRECT, "jar"), problems=unknown,
            ),
            Endpoint(
                "GET", "/v1/labels/progress", self.labels_progress, "How labeling goes on.", Standing,
                may=tuple(Right), query=Wanted,
            ),
        ]  # fmt: skip

    # -- labelers

    async def labels_next(self, call: Call) -> Leased | Response:
        task = await self._pool.run(self._queue.claim, call.by, self._clock(), self._lease, call.body.dataset)
        if task is None:
            return Response(status_code=204)
        assert task.lease is not None
        shown = msgspec.structs.asdict(asked(task, prediction=self._show))
        return Leased(**shown, token=task.lease.token, until=task.lease.until)

    async def labels_submit(self, call: Call) -> Settled:
        said: Submission = call.body
        outcome = await self._pool.run(
            self._queue.submit,
            call.path["task"],
            said.token,
            said.label,
            call.by,
            self._clock(),
            seconds=said.seconds,
            saw_prediction=self._show or said.saw_prediction,
            comment=said.comment,
            attributes=said.attributes,
            boxes=said.boxes,
        )
        return Settled(outcome)

    async def labels_skip(self, call: Call) -> Response:
        said: Skipping = call.body
        now = self._clock()
        await self._pool.run(self._queue.skip, call.path["task"], said.token, call.by, now, said.reason)
        return Response(status_code=204)

    async def labels_extend(self, call: Call) -> Until:
        until = self._clock() + self._lease
        if not await self._pool.run(self._queue.extend, call.path["task"], call.body.token, until):
            raise Problem(409, "the lease has passed on")
        return Until(until)

    # -- reviewers

    async def review_next(self, call: Call) -> Disputed | Response:
        task = await self._pool.run(self._queue.review_next, call.by, self._clock(), self._lease, call.body.dataset)
        if task is None:
            return Response(status_code=204)
        assert task.lease is not None
        labels = tuple(Given(a.value, a.comment, a.boxes) for a in task.labels if not a.late)
        return Disputed(asked(task, prediction=self._show), labels, task.lease.token, task.lease.until)

    async def review_give(self, call: Call) -> Settled:
        said: Reviewed = call.body
        outcome = await self._pool.run(
            self._queue.review,
            call.path["task"],
            said.token,
            said.opinion,
            call.by,
            self._clock(),
            said.value,
            said.comment,
        )
        return Settled(outcome)

    # -- how it goes on

    async def labels_progress(self, call: Call) -> Standing:
        return await self._pool.run(self._progress, call.query.dataset)

    def _progress(self, dataset: str | None) -> Standing:
        names = self._queue.datasets() if dataset is None else [dataset]
        now = self._clock()
        return Standing(tuple(self._queue.progress(name, now) for name in names))
