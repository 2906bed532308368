"""Requests to retrain a model, and what becomes of them. Pure; when to make one is `alerting.policy`.

What a reader would get wrong: driftd trains nothing and starts no version. It asks, once for each cause, and knows what
came of it from the trainer's own words and from the versions that events name.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from alerting.alert import rfc3339
from alerting.outbox import Item
from alerting.policy import Cause

Mode = Literal["shadow", "manual", "assisted", "automatic"]

EVALUATION = 5  # of so many labels one is kept from training, to judge the new version by
STEPS = 20  # kept of a request


class Step(StrEnum):
    """What was done with a request."""

    CONFIRMED = "confirmed"
    STOPPED = "stopped"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


class Word(msgspec.Struct, frozen=True, kw_only=True, tag="retraining"):
    """A person's or a trainer's word on a request. It travels through the exchange, so a replay repeats it."""

    request: str
    step: Step
    by: str
    at: float  # UTC seconds of the clock
    why: str = ""
    version: str = ""  # of the model that came of it
    run: str = ""  # the trainer's own name of its run
    score: float | None = None  # of the new version on its own training data, 0..1: tells when it learns by heart
    seconds: float | None = None  # that training took


class Status(StrEnum):
    """Where a request stands."""

    PROPOSED = "proposed"  # shadow mode: told to no target
    WAITING = "waiting"  # for a person, or for its time
    SENT = "sent"
    STARTED = "started"
    FINISHED = "finished"  # the new version may not be in service yet
    FAILED = "failed"
    STOPPED = "stopped"
    SUPERSEDED = "superseded"  # a new version came without it
    CLOSED = "closed"  # the new version is in service, and known by its first labels

    @property
    def over(self) -> bool:
        """Whether nothing more will become of it."""
        return self in (Status.FAILED, Status.STOPPED, Status.SUPERSEDED, Status.CLOSED)


# What a word makes of a request, by where it stands. A word that is not listed came too late and changes nothing.
_MOVES: dict[Step, tuple[tuple[Status, ...], Status]] = {
    Step.CONFIRMED: ((Status.PROPOSED, Status.WAITING), Status.SENT),
    Step.STARTED: ((Status.WAITING, Status.SENT, Status.FAILED), Status.STARTED),
    Step.FINISHED: ((Status.WAITING, Status.SENT, Status.STARTED, Status.FAILED), Status.FINISHED),
    Step.FAILED: ((Status.SENT, Status.STARTED), Status.FAILED),
    Step.STOPPED: ((Status.PROPOSED, Status.WAITING, Status.SENT, Status.STARTED), Status.STOPPED),
}


class Span(msgspec.Struct, frozen=True):
    """Event time, UTC seconds."""

    start: float
    end: float


class Measured(msgspec.Struct, frozen=True):
    """A measure of the model by its labels."""

    value: float
    low: float  # of the 90 % interval
    high: float
    labels: float = 0.0  # effective number


class Move(msgspec.Struct, frozen=True):
    """A request came to stand somewhere."""

    status: Status
    at: float  # UTC seconds: event time, or the clock's of a word
    by: str = ""
    why: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to retrain. A value: what becomes of it is a new one with the same id."""

    id: str  # of its cause, so the same request after a crash or in a replay is the same
    model: str
    version: str  # in service when it was made
    mode: Mode
    cause: Cause
    text: str
    alerts: tuple[str, ...] = ()  # keys of those that were open
    detectors: tuple[str, ...] = ()
    verdict: str = ""  # the newest of the episode
    made: float  # event time
    span: Span  # of the labels to train on
    excluded: tuple[Span, ...] = ()  # of it: something was broken then
    train: int = 0  # labels of each set
    evaluate: int = 0
    by_class: dict[str, int] = {}
    before: dict[str, Measured] = {}
    after: dict[str, Measured] = {}
    fell: tuple[str, ...] = ()  # classes and slices that fell
    weights: str = "half"
    labels_uri: str = ""  # where label sets are fetched, a set's id put for `{id}`
    stop_rules: dict[str, Any] = {}
    due: float | None = None  # event time at which it is sent unless a person stops it
    status: Status
    moves: tuple[Move, ...] = ()
    new_version: str = ""
    run: str = ""

    def sets(self) -> dict[str, str]:
        """Ids of its label sets, by what they are for."""
        return {part: f"{self.id}-{part}" for part in ("train", "eval")}

    def holds(self, task: str, time: float | None, part: str) -> bool:
        """Whether the label of a task, whose event was at `time`, belongs to the set for this part; one that comes
        late does, too."""
        if time is None or part != part_of(task) or not self.span.start <= time < self.span.end:
            return False
        return not any(span.start <= time < span.end for span in self.excluded)

    def document(self) -> dict[str, Any]:
        """What targets are told: plain JSON."""
        counts = {"train": self.train, "eval": self.evaluate}
        sets = {
            part: {"id": name, "labels": counts[part], "uri": self.labels_uri.replace("{id}", name)}
            for part, name in self.sets().items()
        }
        return {
            "request_id": self.id,
            "model": self.model,
            "current_version": self.version,
            "status": self.status.value,
            "mode": self.mode,
            "requested_by": next((m.by for m in self.moves if m.status is Status.SENT and m.by), "driftd"),
            "requested_at": rfc3339(self.made),
            "reason": {
                "cause": self.cause.value, "text": self.text, "alert_ids": list(self.alerts),
                "detectors": list(self.detectors), "verdict": self.verdict,
            },
            "window": _told(self.span),
            "data": {**sets, "by_class": self.by_class, "excluded": [_told(span) for span in self.excluded]},
            "sample_weights": {
                "recipe": self.weights, "meaning": "new labels together weigh as much as the old training set"
            },
            "fell": list(self.fell),
            "metrics_before": {name: msgspec.to_builtins(m) for name, m in self.before.items()},
            "metrics_after": {name: msgspec.to_builtins(m) for name, m in self.after.items()},
            "new_version": self.new_version,
            "run": self.run,
            "said": [{"by": m.by, "at": rfc3339(m.at), "why": m.why} for m in self.moves[-1:]],
            "stop_rules": self.stop_rules,
        }  # fmt: skip

    def item(self, destination: str, created: float) -> Item:
        """For the outbox. Asked and answered are two items."""
        name = f"{self.id}.{self.status.value}" if self.status.over else self.id
        return Item(name, destination, msgspec.msgpack.encode(self), created)


def request_in(item: Item) -> Request:
    """The request that `Request.item` packed."""
    return msgspec.msgpack.decode(item.payload, type=Request)


def request_id(model: str, cause: Cause, version: str, number: int) -> str:
    """Of the `number`-th request that was made for this cause while this version was in service."""
    return hashlib.sha256(f"{len(model)}:{model}{len(version)}:{version}{cause}|{number}".encode()).hexdigest()[:32]


def part_of(task: str) -> str:
    """Whether a task's label is for training or for evaluation, by its id: the same for ever, so no new version is
    judged by what an older one was trained on.

    >>> [part_of(f"{i}") for i in range(1000)].count("eval")
    196
    """
    digest = hashlib.sha256(f"part|{task}".encode()).digest()
    return "train" if int.from_bytes(digest[:8]) % EVALUATION else "eval"


def moved(request: Request, status: Status, at: float, by: str = "", why: str = "") -> Request:
    """The request as it stands from now on."""
    return replace(request, status=status, moves=(*request.moves, Move(status, at, by, why))[-STEPS:])


def told(request: Request, word: Word) -> Request:
    """What a word makes of it; the same request where it came too late.

    >>> request = Request(id="r", model="m", version="1", mode="manual", cause=Cause.AGE, text="", made=0.0,
    ...     span=Span(0.0, 1.0), status=Status.WAITING)
    >>> told(request, Word(request="r", step=Step.CONFIRMED, by="ann", at=2.0)).status.value
    'sent'
    """
    before, after = _MOVES[word.step]
    if request.status not in before:
        if request.status is after is Status.FINISHED and word.version and not request.new_version:
            # the run was seen to end before the trainer said what came of it
            return replace(request, new_version=word.version, run=request.run or word.run)
        return request
    new = moved(request, after, word.at, word.by, word.why)
    return replace(new, new_version=word.version or request.new_version, run=word.run or request.run)


def _told(span: Span) -> dict[str, str]:
    return {"start": rfc3339(span.start), "end": rfc3339(span.end)}
