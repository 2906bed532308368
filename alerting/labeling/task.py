"""A label task: the document that every queue keeps, of a draw one batch beside it, and what comes of both.

Everything is plain: no user text as a key, no list inside a list, no NaN, so that any document store can hold it. What
a reader would get wrong: `select.pi` is the probability by which the task came to be *asked for*. It changes when more
of its batch's reserve is released, and whoever uses labels takes it from `Returned`, which is told again then.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import field
from msgspec.structs import replace

from alerting.outbox import Item

LARGEST = 256 * 1024  # bytes of a task; `bounded` keeps below it by construction
_SCORES, _NAME, _TEXT = 100, 200, 4_000  # classes kept, characters of a class name, of any other text
_INPUTS, _INPUT = 100, 400  # inputs kept, characters of one
_OTHERS = 10  # other versions' answers kept
_BOXES = 200  # boxes of a picture kept
_CLASSES = 100  # to choose from
_INT64 = 2**63  # BSON holds no larger integer

Value = str | int | float | bool | None


class LabelingStatus(StrEnum):
    """Of the document's field "Labeling status"; the first value is that of the first labeling script.

    Labeled, Agreed and Disagreed have the labels they need and wait for a reviewer; without one they pass to Done in
    the same move, and only the history tells of them.
    """

    IN_QUEUE = "In queue"
    IN_RESERVE = "In reserve"  # drawn, and asked for only when the queue runs low
    LEASED = "Leased"
    LABELED = "Labeled"
    AGREED = "Agreed"
    DISAGREED = "Disagreed"
    DONE = "Done"
    UNCLEAR = "Unclear"  # given up: skipped by many, leased often and never answered, or disagreed on for good
    EXPIRED = "Expired"  # its batch closed first
    CANCELLED = "Cancelled"  # withdrawn

    @property
    def open(self) -> bool:
        """Whether a labeler may still be asked for it."""
        return self in (LabelingStatus.IN_QUEUE, LabelingStatus.IN_RESERVE, LabelingStatus.LEASED)

    @property
    def terminal(self) -> bool:
        """Whether it stays as it is but for a review."""
        return self in _TERMINAL


_TERMINAL = (LabelingStatus.DONE, LabelingStatus.UNCLEAR, LabelingStatus.EXPIRED, LabelingStatus.CANCELLED)


class ReviewingStatus(StrEnum):
    """Of the document's field "Reviewing status"."""

    NONE = "None"
    TO_REVIEW = "To review"
    IN_REVIEW = "In review"
    APPROVED = "Approved"
    CORRECTED = "Corrected"
    SENT_BACK = "Sent back"


class Opinion(StrEnum):
    """A reviewer's."""

    ACCEPT = "accept"
    CORRECT = "correct"
    SEND_BACK = "send back"


class Outcome(StrEnum):
    """What became of an answer, or of a review."""

    ACCEPTED = "accepted"
    LATE = "late"  # the lease had passed on: kept in the document, not used


class EventRef(msgspec.Struct, frozen=True):
    """Where the event lies."""

    id: str
    topic: str = ""
    partition: int = 0
    offset: int = 0
    time: float | None = None  # event time, UTC seconds
    schema: str = ""  # version of its schema
    input_hash: str = ""  # of what the model was given: two events of one hash are one question


class ModelRef(msgspec.Struct, frozen=True):
    """Whose prediction is judged."""

    name: str
    version: str = ""
    deployment: str = ""  # live, shadow, canary; empty: not told


class ClassScore(msgspec.Struct, frozen=True):
    """A score of a class. A list of these, as a class name must not become a key of the document."""

    name: str  # empty: nobody said which class it is of
    value: float | None  # None: not finite


class Named(msgspec.Struct, frozen=True):
    """An input of the event, for the labeler to see and the estimate to slice by."""

    name: str
    value: Value


class Picture(msgspec.Struct, frozen=True):
    """Size in pixels of what `LabelTask.uri` names, where that is a picture."""

    width: int
    height: int


class Box(msgspec.Struct, frozen=True):
    """A part of a picture, in pixels from its left upper corner. Tools' own measures are made of these."""

    name: str  # of the class
    left: float
    top: float
    width: float
    height: float
    score: float | None = None


class OtherAnswer(msgspec.Struct, frozen=True):
    """What another version of the model answered to the same event: one label judges them all."""

    version: str
    label: Value
    confidence: float | None = None
    deployment: str = ""


class Prediction(msgspec.Struct, frozen=True):
    """What the model answered."""

    label: Value = None
    scores: tuple[ClassScore, ...] = ()
    margin: float | None = None  # first minus second probability
    entropy: float | None = None  # of the probabilities, in nats
    votes: tuple[ClassScore, ...] = ()  # shares of a committee's votes
    others: tuple[OtherAnswer, ...] = ()
    boxes: tuple[Box, ...] = ()


class Select(msgspec.Struct, frozen=True):
    """How the draw chose the event; what an unbiased estimate needs (labeling.md 1)."""

    part: str  # as in `Part`
    strategy: str
    batch: str  # id of its `LabelBatch`
    pi: float | None  # probability to be asked for, 0..1
    size: float | None = None  # of the size measure; pi grows with it
    score: float | None = None
    rank: int = 0  # in key order: any prefix of the ranks is a valid draw
    config: str = ""  # hash of the draw's configuration
    seed: int = 0
    key: float | None = None  # u / size, by which `rank` orders; needed of a task in reserve: pi = min(1, size * tau)
    score_version: str = ""  # version of the model that the score is of
    monitoring: bool = True  # False: labels of this strategy (a plain top-k) say nothing about the model's accuracy
    expected: float | None = None  # chance that the answer is right, as it is summed over the batch under this name


class Part(StrEnum):
    """Of a draw; by it the queue takes turns."""

    PROBABILITY = "probability"
    DISAGREEMENT = "disagreement"  # of versions; drawn at random like the first
    TAKE_ALL = "take_all"
    RULE = "rule"
    FEEDBACK = "feedback"

    @property
    def turn(self) -> Turn:
        """Whose turn it is served in."""
        return Turn.DRAWN if self in (Part.PROBABILITY, Part.DISAGREEMENT) else Turn.ASKED


class Turn(StrEnum):
    """The lines that labelers are served from, each by its share."""

    DRAWN = "drawn"  # by rank only, so that what is served of a batch is a draw of its own
    ASKED = "asked"  # by priority, which grows by 1 an hour
    RECHECK = "recheck"  # labeled ones again, when nothing else is left
    KNOWN = "known"  # canaries: a labeler cannot tell them from the others


class Place(msgspec.Struct, frozen=True):
    """Where a task stands: the lowest `order` of its turn is served first. The queue sets it."""

    turn: Turn = Turn.DRAWN
    order: float = 0.0


class Lease(msgspec.Struct, frozen=True):
    """Who works on it, until when (UTC seconds); `token` proves it. A tool it was exported to is an owner as well."""

    owner: str
    token: str
    until: float


class Answer(msgspec.Struct, frozen=True):
    """One labeler's answer."""

    value: Value
    by: str
    at: float  # UTC seconds
    token: str
    late: bool = False  # the lease had passed on: kept, not used
    seconds: float | None = None  # that the labeler took
    saw_prediction: bool = False  # who saw what the model said leans towards it
    comment: str = ""
    attributes: tuple[Named, ...] = ()  # such as size or occlusion
    boxes: tuple[Box, ...] = ()
    updated: str = ""  # of a tool's annotation: when it was last changed, by the tool's own word


class Skip(msgspec.Struct, frozen=True):
    """A labeler who could not tell."""

    by: str
    at: float
    reason: str = ""


class Agreement(msgspec.Struct, frozen=True):
    """Of the labels that count."""

    n: int
    raw: float  # share of pairs that agree


class Final(msgspec.Struct, frozen=True):
    """What training and estimates read."""

    value: Value
    by: str  # "vote", "review" (a reviewer approved or corrected it) or "adjudication" (labelers disagreed)
    at: float  # UTC seconds
    boxes: tuple[Box, ...] = ()  # of the first labeler who said so


class Review(msgspec.Struct, frozen=True):
    """A reviewer's word."""

    by: str
    opinion: Opinion
    at: float
    value: Value = None  # the right label, of a correction
    comment: str = ""
    token: str = ""  # of the lease it was given under


class Export(msgspec.Struct, frozen=True):
    """Where it was handed over to. `acked`: the tool has it, by the name `task`."""

    tool: str
    project: str
    at: float
    task: str = ""
    uri: str = ""
    acked: bool = False


class Used(msgspec.Struct, frozen=True):
    """Which labels are in this model."""

    train: tuple[str, ...] = ()  # ids of label sets
    eval: tuple[str, ...] = ()  # ids of label sets


class Sla(msgspec.Struct, frozen=True):
    """Until when it should have its label."""

    due: float  # UTC seconds
    breached: bool = False


class Move(msgspec.Struct, frozen=True):
    """A line of a task's history."""

    at: float  # UTC seconds
    by: str
    to: str  # the status it came to
    why: str = ""


class LabelTask(msgspec.Struct, frozen=True, kw_only=True):
    """An event that someone is asked to label; one document of the queue.

    The six fields with spaces and capitals are those of the project's first labeling script, whose readers go on
    working. Whoever draws fills the fields up to `deployment`; the rest is the queue's own.
    """

    id: str = field(name="_id")
    dataset: str = field(name="Name dataset")
    labeler: str = field(name="Labeler", default="TBD")
    reviewer: str = field(name="Reviewer", default="TBD")
    labeling_status: LabelingStatus = field(name="Labeling status", default=LabelingStatus.IN_QUEUE)
    reviewing_status: ReviewingStatus = field(name="Reviewing status", default=ReviewingStatus.NONE)
    date: datetime  # when it was drawn, UTC, to the millisecond as MongoDB keeps it
    event: EventRef
    model: ModelRef
    prediction: Prediction
    select: Select
    reason: str  # why somebody is asked, in words
    causes: tuple[str, ...] = ()  # keys of alerts, names of rules, ids of feedback behind it
    priority: float = 0.0  # 0..100; higher is served first among those that are asked for
    severity: str = ""  # of the gravest cause; one of "publicity" is always reviewed
    sla: Sla | None = None
    stands_for: int = 1  # events with the same input that it answers for
    inputs: tuple[Named, ...] = ()  # what the labeler is shown
    uri: str = ""  # where what is judged lies, such as s3://bucket/picture.jpg
    picture: Picture | None = None  # None: no picture, or of unknown size
    classes: tuple[str, ...] = ()  # to choose from, in the order of the model's scores; empty: nobody named them
    since: float = 0.0  # UTC seconds of the clock at which it came to the queue
    place: Place = Place()
    lease: Lease | None = None
    attempts: int = 0  # leases that ran out
    need: int = 1  # labels by different people that it waits for
    labels: tuple[Answer, ...] = ()
    skips: tuple[Skip, ...] = ()
    agreement: Agreement | None = None
    final: Final | None = None
    review: Review | None = None
    export: Export | None = None
    used: Used = Used()
    known: bool = False  # a canary: `truth` is its label. Never shown to a labeler, never handed over, never used
    truth: Value = None
    history: tuple[Move, ...] = ()  # the last 50
    expires_at: float | None = None  # UTC seconds; of terminal states: removed then
    rev: int = 0  # moves so far: the guard of every conditional update


class LabelBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One draw as a whole. Without these sums no estimate can be formed from its labels later.

    Sums run over all N events of the window that could have been drawn, not over the n that were.
    """

    id: str = field(name="_id")
    model: ModelRef
    N: int
    n: int  # tasks of the probability part that are asked for: the first n ranks. The queue raises it by release
    reserve: int = 0  # further ranks that wait in reserve
    tau: float | None = None  # key of rank n, the first that is not asked for; None when all were taken
    beyond: float | None = None  # key of rank n + reserve, the first that was not drawn; None when all were
    sums: dict[str, float | None] = {}  # names are the program's own, such as "size", "confidence"
    classes: tuple[ClassScore, ...] = ()  # how many of the N events were answered with each class
    budget: dict[str, float] = {}  # what the budget held when it was drawn; names are the program's own
    config: str = ""
    seed: int = 0
    start: float = 0.0  # window, event time, UTC seconds
    end: float = 0.0
    dataset: str = ""
    closed: bool = False  # nobody is asked for its tasks any more
    rev: int = 0


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
    others: tuple[OtherAnswer, ...] = ()  # what other versions answered
    size: float | None = None
    monitoring: bool = True  # as in `Select`
    rev: int = 0  # of the task; a higher one replaces what was said before


class Labels(msgspec.Struct, frozen=True, tag="labels"):
    """Final labels of one model on their way to the judge. One that comes again replaces what it said before."""

    returned: tuple[Returned, ...]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """An item whose label is known, to be mixed in among the others."""

    dataset: str
    event: str
    truth: Value
    model: ModelRef
    prediction: Prediction = Prediction()
    inputs: tuple[Named, ...] = ()
    uri: str = ""
    picture: Picture | None = None
    classes: tuple[str, ...] = ()  # as the dataset's other tasks have them, lest it be told from these


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a labeler or a labeling tool may see of a task: nothing that tells a canary, or the draw's opinion."""

    task: str
    dataset: str
    event: str
    model: str
    version: str
    inputs: tuple[Named, ...]
    uri: str
    picture: Picture | None
    date: datetime  # when it was drawn
    prediction: Prediction | None  # None: the labelers are not to be led
    classes: tuple[str, ...] = ()  # to choose from; empty: anything may be said


def asked(task: LabelTask, *, prediction: bool) -> Asked:
    """The task as it is shown outside."""
    said = replace(task.prediction, others=()) if prediction else None
    return Asked(
        task=task.id,
        dataset=task.dataset,
        event=task.event.id,
        model=task.model.name,
        version=task.model.version,
        inputs=task.inputs,
        uri=task.uri,
        picture=task.picture,
        date=task.date,
        prediction=said,
        classes=task.classes,
    )


def returned(task: LabelTask) -> Returned:
    """Of a task with a final label."""
    assert task.final is not None
    said = task.prediction
    confidence = next((score.value for score in said.scores if score.name == str(said.label)), None)
    return Returned(
        task=task.id,
        event=task.event.id,
        time=task.event.time,
        model=task.model.name,
        version=task.model.version,
        part=task.select.part,
        strategy=task.select.strategy,
        batch=task.select.batch,
        pi=task.select.pi,
        rank=task.select.rank,
        answer=said.label,
        confidence=confidence,
        label=task.final.value,
        at=task.final.at,
        scores=said.scores,
        stands_for=task.stands_for,
        inputs=task.inputs,
        others=said.others,
        size=task.select.size,
        monitoring=task.select.monitoring,
        rev=task.rev,
    )


def task_id(dataset: str, model: str, event_id: str) -> str:
    """The same event is the same task, however often it is drawn or delivered."""
    return hashlib.sha256(f"{len(dataset)}:{dataset}{len(model)}:{model}{event_id}".encode()).hexdigest()[:32]


def drawn_at(time: float) -> datetime:
    """A task's `date` of UTC seconds, to the millisecond."""
    return datetime.fromtimestamp(round(min(max(time, 0.0), 253402300799.0), 3), UTC)


def bounded(task: LabelTask) -> LabelTask:
    """The task under `LARGEST`, in values that every queue can hold.

    Kept are the 100 highest class scores and votes, 100 inputs of 400 characters, 10 other versions' answers, 200
    characters of a class name and 4,000 of any other text.
    """
    said, ref, select = task.prediction, task.event, task.select
    return replace(
        task,
        dataset=cut(task.dataset),
        reason=cut(task.reason),
        causes=tuple(cut(cause, _INPUT) for cause in task.causes[:20]),
        priority=finite(task.priority) or 0.0,
        severity=cut(task.severity, _NAME),
        sla=None if task.sla is None or finite(task.sla.due) is None else task.sla,
        event=replace(
            ref,
            id=cut(ref.id),
            topic=cut(ref.topic),
            time=finite(ref.time),
            schema=cut(ref.schema, _NAME),
            input_hash=cut(ref.input_hash, _NAME),
        ),
        model=_model(task.model),
        prediction=Prediction(
            held(said.label),
            _scores(said.scores),
            finite(said.margin),
            finite(said.entropy),
            _scores(said.votes),
            tuple(
                OtherAnswer(
                    cut(o.version, _NAME), _short(held(o.label)), finite(o.confidence), cut(o.deployment, _NAME)
                )
                for o in said.others[:_OTHERS]
            ),
            tuple(
                Box(cut(b.name, _NAME), b.left, b.top, b.width, b.height, finite(b.score))
                for b in said.boxes[:_BOXES]
                if all(map(math.isfinite, (b.left, b.top, b.width, b.height)))
            ),
        ),
        select=replace(
            select,
            pi=finite(select.pi),
            size=finite(select.size),
            score=finite(select.score),
            key=finite(select.key),
            score_version=cut(select.score_version, _NAME),
        ),
        inputs=tuple(Named(cut(i.name, _NAME), _short(held(i.value))) for i in task.inputs[:_INPUTS]),
        uri=cut(task.uri),
        classes=tuple(cut(name, _NAME) for name in task.classes) if len(task.classes) <= _CLASSES else (),
        truth=held(task.truth),
    )


def _model(model: ModelRef) -> ModelRef:
    return ModelRef(cut(model.name), cut(model.version), cut(model.deployment, _NAME))


def _scores(scores: tuple[ClassScore, ...]) -> tuple[ClassScore, ...]:
    highest = sorted(scores, key=lambda s: math.inf if finite(s.value) is None else -(s.value or 0.0))
    return tuple(ClassScore(cut(s.name, _NAME), finite(s.value)) for s in highest[:_SCORES])


def _box(box: Box) -> Box:
    return replace(box, name=cut(box.name, _NAME), score=finite(box.score))


def finite(number: float | None) -> float | None:
    """The number, or None where it is not one."""
    return number if number is not None and math.isfinite(number) else None


def cut(text: str, length: int = _TEXT) -> str:
    """At most so many characters, in UTF-8 that every store takes."""
    return text[:length].encode("utf-8", "replace").decode()


def held(value: Value) -> Value:
    """The value as every queue can hold it."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return str(value)
    return finite(value) if isinstance(value, float) else value


def _short(value: Value) -> Value:
    return value[:_INPUT] if isinstance(value, str) else value


def document(value: LabelTask | LabelBatch) -> dict[str, Any]:
    """Plain values for a store; dates stay dates."""
    plain: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(datetime,))
    return plain
