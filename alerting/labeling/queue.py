"""Label tasks, their life, and the contract of the queues that keep them.

A task is one document. Its moves (`leased`, `returned`, `answered`, `skipped`) are pure functions here, so every queue
has the same life cycle and only has to make one move at a time per task.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec
from msgspec import field
from msgspec.structs import replace

from alerting.deliver import Undelivered
from alerting.outbox import Item

ATTEMPTS = 5  # leases that ran out before a task is given up as unclear
SKIPS = 3  # different labelers who skip it, likewise
LARGEST = 256 * 1024  # bytes of a task; `bounded` keeps below it by construction
_SCORES, _NAME, _TEXT = 100, 200, 4_000  # classes kept, characters of a class name, of any other text
_LABELS = 50  # answers kept of a task, late ones included
_INT64 = 2**63  # BSON holds no larger integer

Value = str | int | float | bool | None


class LabelingStatus(StrEnum):
    """Of the document's field "Labeling status"; the first value is that of the seed script."""

    IN_QUEUE = "In queue"
    LEASED = "Leased"
    LABELED = "Labeled"
    UNCLEAR = "Unclear"  # given up: skipped by many, or leased often and never answered


class Outcome(StrEnum):
    """What became of a labeler's answer."""

    ACCEPTED = "accepted"
    LATE = "late"  # the lease had passed to someone else: kept in the document, not used


class QueueError(Exception):
    """The queue could not do it. `retry`: it is unreachable or busy, the same call may work later; otherwise what was
    given is refused. The message names no password."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class EventRef(msgspec.Struct, frozen=True):
    """Where the event lies."""

    id: str
    topic: str = ""
    partition: int = 0
    offset: int = 0
    time: float | None = None  # event time, UTC seconds


class ModelRef(msgspec.Struct, frozen=True):
    """Whose prediction is judged."""

    name: str
    version: str = ""


class ClassScore(msgspec.Struct, frozen=True):
    """A score of a class. A list of these, as a class name must not become a key of the document."""

    name: str
    value: float | None  # None: not finite


class Named(msgspec.Struct, frozen=True):
    """An input of the event, for the labeler to see and the estimate to slice by."""

    name: str
    value: Value


class Box(msgspec.Struct, frozen=True):
    """Where something is in a picture, in pixels from its upper left corner: every tool's own measure follows."""

    name: str  # of its class
    left: float
    top: float
    width: float
    height: float
    score: float | None = None


class Picture(msgspec.Struct, frozen=True):
    """Size of the picture that is judged, in pixels."""

    width: int
    height: int


class Prediction(msgspec.Struct, frozen=True):
    """What the model answered."""

    label: Value = None
    scores: tuple[ClassScore, ...] = ()
    margin: float | None = None  # first minus second probability
    boxes: tuple[Box, ...] = ()


class Select(msgspec.Struct, frozen=True):
    """How the draw chose the event; what an unbiased estimate needs (labeling.md 1)."""

    part: str  # "probability" or "take_all"
    strategy: str
    batch: str  # id of its `LabelBatch`
    pi: float | None  # inclusion probability, 0..1
    size: float | None = None  # of the size measure; pi grows with it
    score: float | None = None
    rank: int = 0  # in key order: any prefix of the ranks is a valid draw
    config: str = ""  # hash of the draw's configuration
    seed: int = 0


class Lease(msgspec.Struct, frozen=True):
    """Who works on it, until when (UTC seconds); `token` proves it."""

    owner: str
    token: str
    until: float


class Answer(msgspec.Struct, frozen=True):
    """One labeler's answer."""

    value: Value
    by: str
    at: float  # UTC seconds
    token: str
    late: bool = False


class Skip(msgspec.Struct, frozen=True):
    """A labeler who could not tell."""

    by: str
    at: float
    reason: str = ""


class LabelTask(msgspec.Struct, frozen=True, kw_only=True):
    """An event that someone is asked to label; one document of the queue.

    The six fields with spaces and capitals are those of the project's first labeling script, whose readers go on
    working. Everything is plain: no user text as a key, no list inside a list, no NaN.
    """

    id: str = field(name="_id")
    dataset: str = field(name="Name dataset")
    labeler: str = field(name="Labeler", default="TBD")
    reviewer: str = field(name="Reviewer", default="TBD")
    labeling_status: LabelingStatus = field(name="Labeling status", default=LabelingStatus.IN_QUEUE)
    reviewing_status: str = field(name="Reviewing status", default="None")
    date: datetime  # when it was drawn, UTC, to the millisecond as MongoDB keeps it
    event: EventRef
    model: ModelRef
    prediction: Prediction
    select: Select
    reason: str
    priority: float = 0.0  # higher is served first
    lease: Lease | None = None
    attempts: int = 0  # leases so far
    inputs: tuple[Named, ...] = ()  # what the labeler is shown
    uri: str = ""  # where what is judged lies, such as s3://bucket/picture.jpg
    picture: Picture | None = None  # None: no picture, or of unknown size
    labels: tuple[Answer, ...] = ()
    skips: tuple[Skip, ...] = ()
    final: Value = None
    labeled_at: float | None = None  # UTC seconds
    rev: int = 0  # moves so far: the guard of every conditional update


class LabelBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One draw as a whole. Without these sums no estimate can be formed from its labels later.

    Sums run over all N events of the window that could have been drawn, not over the n that were.
    """

    id: str = field(name="_id")
    model: ModelRef
    N: int
    n: int
    tau: float | None = None  # the (n+1)-th lowest key of the order sample; None when all were taken
    sums: dict[str, float | None] = {}  # names are the program's own, such as "size", "confidence"
    config: str = ""
    seed: int = 0
    start: float = 0.0  # window, event time, UTC seconds
    end: float = 0.0


class Draw(msgspec.Struct, frozen=True, tag="draw"):
    """A batch and tasks of it, all or some: what one item of the outbox carries to the queue."""

    batch: LabelBatch
    tasks: tuple[LabelTask, ...]

    def item(self, destination: str, created: float) -> Item:
        """For the outbox. Its id comes from those of batch and tasks, so the same draw after a crash is the same."""
        names = "|".join((self.batch.id, *(task.id for task in self.tasks)))
        name = hashlib.sha256(names.encode()).hexdigest()[:32]
        return Item(name, destination, msgspec.msgpack.encode(self), created)


class Withdrawal(msgspec.Struct, frozen=True, tag="withdrawal"):
    """Tasks that nobody need label any more: those of a model whose event lies in a span of event time."""

    id: str
    model: str
    since: float  # UTC seconds
    until: float
    reason: str

    def item(self, destination: str, created: float) -> Item:
        """For the outbox."""
        return Item(self.id, destination, msgspec.msgpack.encode(self), created)


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """The final label of a task, with all that an estimate needs of it."""

    task: str
    event: str
    time: float | None  # event time, UTC seconds
    model: str
    version: str
    part: str  # as in `Select`
    strategy: str
    batch: str
    pi: float | None
    rank: int
    answer: Value  # the model's
    confidence: float | None  # of that answer
    label: Value
    at: float  # when it became final, UTC seconds
    scores: tuple[ClassScore, ...] = ()
    stands_for: int = 1
    inputs: tuple[Named, ...] = ()


class Labels(msgspec.Struct, frozen=True, tag="labels"):
    """Final labels of one model on their way to the judge. One that comes again replaces what it said before."""

    returned: tuple[Returned, ...]


class LabelQueue(Protocol):
    """Keeps tasks and hands them out. Any thread, any number of processes; all may raise `QueueError`."""

    def put(self, tasks: Sequence[LabelTask], batch: LabelBatch) -> int:
        """Add those whose id is not there yet, and the batch; returns how many were new. Repeats change nothing."""

    def claim(self, labeler: str, now: float, lease_seconds: float) -> LabelTask | None:
        """The next task, leased to this labeler: by priority, then age of the draw, then rank.

        Never one that the labeler skipped. A task whose lease ran out is free again within a second. None when
        nothing is ready.
        """

    def submit(self, task_id: str, token: str, label: Value, by: str, now: float) -> Outcome:
        """Answer a leased task; the same token twice counts once. KeyError for an unknown task, ValueError for a
        label that is not finite or too long."""

    def skip(self, task_id: str, token: str, by: str, now: float, reason: str = "") -> None:
        """Give a leased task back, never to be offered to `by` again; nothing happens when the lease has passed on."""

    def get(self, task_id: str) -> LabelTask | None: ...

    def batch(self, batch_id: str) -> LabelBatch | None: ...

    def counts(self) -> dict[str, int]:
        """Tasks by labeling status."""

    def labeled_since(self, time: float, limit: int = 1000) -> list[LabelTask]:
        """Labeled at `time` (UTC seconds) or later, oldest first; go on from the last one's `labeled_at`."""

    def close(self) -> None: ...


class QueueSink:
    """A queue as a destination of the outbox, whose items are draws. A draw that is in pieces is put together again,
    so a hundred items of one task each cost as much as one of a hundred."""

    def __init__(self, queue: LabelQueue) -> None:
        self._queue = queue

    def send(self, items: Sequence[Item]) -> None:
        batches: dict[str, LabelBatch] = {}
        tasks: dict[str, list[LabelTask]] = {}
        for item in items:
            draw = msgspec.msgpack.decode(item.payload, type=Draw)
            batches[draw.batch.id] = draw.batch
            tasks.setdefault(draw.batch.id, []).extend(draw.tasks)
        try:
            for name, batch in batches.items():
                self._queue.put(tasks[name], batch)
        except QueueError as error:
            raise Undelivered(str(error), retry=error.retry) from error

    def close(self) -> None:
        self._queue.close()


def task_id(dataset: str, model: str, event_id: str) -> str:
    """The same event is the same task, however often it is drawn or delivered."""
    return hashlib.sha256(f"{len(dataset)}:{dataset}{len(model)}:{model}{event_id}".encode()).hexdigest()[:32]


def drawn_at(time: float) -> datetime:
    """A task's `date` of UTC seconds, to the millisecond."""
    return datetime.fromtimestamp(round(min(max(time, 0.0), 253402300799.0), 3), UTC)


def bounded(task: LabelTask) -> LabelTask:
    """The task under `LARGEST`, in values that every queue can hold.

    Kept are the 100 highest class scores, 200 characters of a class name and 4,000 of any other text.
    """
    scores = sorted(task.prediction.scores, key=lambda s: math.inf if _finite(s.value) is None else -(s.value or 0.0))
    return replace(
        task,
        dataset=_cut(task.dataset),
        reason=_cut(task.reason),
        priority=_finite(task.priority) or 0.0,
        event=replace(task.event, id=_cut(task.event.id), topic=_cut(task.event.topic), time=_finite(task.event.time)),
        model=ModelRef(_cut(task.model.name), _cut(task.model.version)),
        prediction=Prediction(
            _held(task.prediction.label),
            tuple(ClassScore(_cut(s.name, _NAME), _finite(s.value)) for s in scores[:_SCORES]),
            _finite(task.prediction.margin),
        ),
        select=replace(
            task.select,
            pi=_finite(task.select.pi),
            size=_finite(task.select.size),
            score=_finite(task.select.score),
        ),
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _cut(text: str, length: int = _TEXT) -> str:
    return text[:length].encode("utf-8", "replace").decode()


def _held(value: Value) -> Value:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return str(value)
    return _finite(value) if isinstance(value, float) else value


def leased(task: LabelTask, labeler: str, token: str, until: float) -> LabelTask:
    """In queue, or leased and run out -> Leased."""
    return replace(
        task,
        labeling_status=LabelingStatus.LEASED,
        labeler=labeler,
        lease=Lease(labeler, token, until),
        attempts=task.attempts + 1,
        rev=task.rev + 1,
    )


def returned(task: LabelTask) -> LabelTask:
    """Its lease ran out: Leased -> In queue, or Unclear after `ATTEMPTS` leases."""
    unclear = task.attempts >= ATTEMPTS
    return replace(
        task,
        labeling_status=LabelingStatus.UNCLEAR if unclear else LabelingStatus.IN_QUEUE,
        labeler="TBD",
        lease=None,
        rev=task.rev + 1,
    )


def answered(task: LabelTask, token: str, label: Value, by: str, now: float) -> tuple[LabelTask, Outcome]:
    """Leased -> Labeled when the token is the lease's; otherwise the answer is kept as a late one.

    The same task comes back when the answer is there already.
    """
    held = _held(label)
    if held != label:
        raise ValueError("a label is text of at most 4,000 characters, a flag, or a finite number of at most 64 bits")
    for answer in task.labels:
        if answer.token == token:
            return task, Outcome.LATE if answer.late else Outcome.ACCEPTED
    late = task.labeling_status is not LabelingStatus.LEASED or task.lease is None or task.lease.token != token
    labels = (*task.labels, Answer(held, by, now, token, late))
    if late:
        return replace(task, labels=labels[:_LABELS], rev=task.rev + 1), Outcome.LATE
    done = replace(
        task,
        labeling_status=LabelingStatus.LABELED,
        labeler=by,
        labels=labels,
        final=held,
        labeled_at=now,
        lease=None,
        rev=task.rev + 1,
    )
    return done, Outcome.ACCEPTED


def skipped(task: LabelTask, token: str, by: str, now: float, reason: str) -> LabelTask:
    """Leased -> In queue, or Unclear after `SKIPS` labelers; the same task when the lease is not this one."""
    if task.labeling_status is not LabelingStatus.LEASED or task.lease is None or task.lease.token != token:
        return task
    skips = (*task.skips, Skip(by, now, _cut(reason, _NAME)))
    unclear = len({skip.by for skip in skips}) >= SKIPS
    return replace(
        task,
        labeling_status=LabelingStatus.UNCLEAR if unclear else LabelingStatus.IN_QUEUE,
        labeler="TBD",
        lease=None,
        skips=skips,
        rev=task.rev + 1,
    )


def document(value: LabelTask | LabelBatch) -> dict[str, Any]:
    """Plain values for a store; dates stay dates."""
    plain: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(datetime,))
    return plain
