"""The contract of the label queue.

A task's life: In queue -> Leased -> (labels < `need`: In queue again, for others) -> Labeled | Agreed | Disagreed ->
Done. Every time is handed in, so a queue has no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from alerting.deliver import Undelivered
from alerting.labeling.task import (
    Box,
    Draw,
    Known,
    LabelBatch,
    LabelTask,
    Named,
    Opinion,
    Returned,
    Value,
    Withdrawal,
)
from alerting.outbox import Item


class Outcome(StrEnum):
    """What became of an answer, or of a review."""

    ACCEPTED = "accepted"
    LATE = "late"  # the lease had passed on: kept in the document, not used


class QueueError(Exception):
    """The queue could not do it. `retry`: it is unreachable or busy, the same call may work later; otherwise what was
    given is refused. The message names no password."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class Labeler(msgspec.Struct, frozen=True, kw_only=True):
    """How one person, or tool, does."""

    name: str
    labels: int  # that count, canaries not among them
    seconds: float | None  # median that a label took; None: not told
    known: int  # canaries answered
    known_right: int
    overlaps: int  # labels beside those of others
    accuracy: float | None  # by canaries and overlaps; None below 30 of them


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a dataset stands. Canaries count nowhere but with the labelers."""

    dataset: str
    counts: dict[str, int]  # tasks by labeling status
    reviews: dict[str, int]  # tasks by reviewing status
    labelers: tuple[Labeler, ...]
    agreement: float | None  # share of pairs of labels of one task that agree; None: no task has two
    alpha: float | None  # Krippendorff's
    class_alpha: dict[str, float | None]  # the same of each class against the rest; the 20 most frequent
    asked: dict[str, int]  # labels asked for in this hour, day and month
    per_hour: float  # labels in the last hour
    hours_left: float | None  # until what is in the queue is labeled, at that rate; None: nobody labels
    breached: int  # open tasks past their SLA


class Tended(msgspec.Struct, frozen=True, kw_only=True):
    """What `tend` did."""

    over: int = 0  # leases that ran out
    released: int = 0  # tasks from reserve
    rechecks: int = 0
    expired: int = 0
    closed: int = 0  # batches
    removed: int = 0  # documents past their `expires_at`


class LabelQueue(Protocol):
    """Keeps tasks and hands them out. Any thread, any number of processes; all may raise `QueueError`.

    KeyError for an unknown task; ValueError for a label that is not finite or too long. `now` and all times are UTC
    seconds of the clock.
    """

    def put(self, tasks: Sequence[LabelTask], batch: LabelBatch) -> int:
        """Add those whose id is not there yet, and the batch; returns how many were new. Repeats change nothing.

        Tasks with the status In reserve wait until the queue runs low; they follow the others in rank and need `key`.
        """

    def withdraw(self, withdrawal: Withdrawal) -> int:
        """Cancel the model's tasks of that span of event time that have no label yet; returns how many."""

    def plant(self, known: Sequence[Known], now: float) -> int:
        """Mix in items whose label is known; returns how many were new."""

    def claim(self, labeler: str, now: float, lease_seconds: float, dataset: str | None = None) -> LabelTask | None:
        """The next task, leased to this labeler until `task.lease.until`; `task.lease.token` proves it.

        Never one that the labeler labeled or skipped. A task whose lease ran out is free again within a second, or at
        the next `tend`. None when nothing is ready, or the purse is empty. Show the labeler `asked(task)`, no more.
        """

    def extend(self, task_id: str, token: str, until: float) -> bool:
        """The lease is longer, unless it has passed on."""

    def submit(
        self,
        task_id: str,
        token: str,
        label: Value,
        by: str,
        now: float,
        *,
        seconds: float | None = None,
        saw_prediction: bool = False,
        comment: str = "",
        attributes: Sequence[Named] = (),
        boxes: Sequence[Box] = (),
    ) -> Outcome:
        """Answer a leased task; the same token twice counts once."""

    def skip(self, task_id: str, token: str, by: str, now: float, reason: str = "") -> None:
        """Give a leased task back, never to be offered to `by` again; nothing happens when the lease has passed on."""

    def review_next(
        self, reviewer: str, now: float, lease_seconds: float, dataset: str | None = None
    ) -> LabelTask | None:
        """The next task to review, leased; never one that the reviewer labeled."""

    def review(
        self, task_id: str, token: str, opinion: Opinion, by: str, now: float, value: Value = None, comment: str = ""
    ) -> Outcome:
        """Accept what the vote says, correct it to `value`, or send the task back to the labelers.

        To accept where labelers disagree takes their most frequent label.
        """

    def get(self, task_id: str) -> LabelTask | None: ...

    def batch(self, batch_id: str) -> LabelBatch | None: ...

    def progress(self, dataset: str, now: float) -> Progress:
        """Counts and agreement of a dataset; the latter over its last 10,000 labels. Reads much: not for each label."""

    def datasets(self) -> list[str]:
        """Names, in order."""

    def labeled_since(self, time: float, limit: int = 1000, dataset: str | None = None) -> list[LabelTask]:
        """With a final label of `time` (UTC seconds) or later, oldest first; go on from the last one's `final.at`.
        Canaries are not among them."""

    def finals(self, limit: int) -> list[Returned]:
        """Final labels that were not acknowledged, or have changed since. Canaries are not among them."""

    def acknowledge(self, returned: Sequence[Returned]) -> None:
        """These were taken over; one that changed meanwhile (`rev`) comes again."""

    def used(self, task_ids: Sequence[str], label_set: str, *, evaluation: bool = False) -> None:
        """These labels are in a label set that a model was trained on, or judged by. Twice is once."""

    def export_pending(
        self, tool: str, project: str, limit: int, now: float, lease_seconds: float, dataset: str | None = None
    ) -> list[LabelTask]:
        """Tasks to hand over to a tool, in the order of service, leased to it until its answer comes.

        First those that were given out before and never reported by `exported`: the tool may have them or not. Hand
        over `asked(task)`, no more: canaries are among them.
        """

    def exported(self, tool: str, tasks: Mapping[str, str], now: float, uri: str = "") -> None:
        """The tool has these tasks, by its own names: {our id: the tool's}."""

    def answer_from_tool(
        self,
        task_id: str,
        tool: str,
        annotation_id: str,
        updated_at: str,
        value: Value,
        by: str,
        at: float,
        *,
        seconds: float | None = None,
        comment: str = "",
        attributes: Sequence[Named] = (),
        boxes: Sequence[Box] = (),
    ) -> Outcome:
        """An annotation that a tool, a file or a hook brought. Doubled and shuffled calls come to one label.

        An annotation that came before with an older `updated_at` (compared as text: ISO 8601 in UTC, or padded) is
        replaced, and what follows from it worked out anew.
        """

    def skip_from_tool(self, task_id: str, tool: str, by: str, at: float, reason: str = "") -> None:
        """The tool's labeler could not tell. Twice by one labeler is once."""

    def retract_from_tool(self, task_id: str, tool: str, annotation_id: str, at: float) -> None:
        """The annotation was deleted in the tool: its label counts no more."""

    def tend(self, now: float) -> Tended:
        """What time does: leases run out, batches close, reserves are released, old documents go. Call it every few
        seconds, from one process or several."""

    def close(self) -> None: ...


class QueueSink:
    """A queue as a destination of the outbox, whose items are draws and withdrawals. A draw that is in pieces is put
    together again, so a hundred items of one task each cost as much as one of a hundred."""

    def __init__(self, queue: LabelQueue) -> None:
        self._queue = queue

    def send(self, items: Sequence[Item]) -> None:
        batches: dict[str, LabelBatch] = {}
        tasks: dict[str, list[LabelTask]] = {}
        withdrawals: list[Withdrawal] = []
        for item in items:
            match msgspec.msgpack.decode(item.payload, type=Draw | Withdrawal):
                case Draw(batch, drawn):
                    batches[batch.id] = batch
                    tasks.setdefault(batch.id, []).extend(drawn)
                case Withdrawal() as withdrawal:
                    withdrawals.append(withdrawal)
        try:
            for name, batch in batches.items():
                self._queue.put(tasks[name], batch)
            for withdrawal in withdrawals:
                self._queue.withdraw(withdrawal)
        except QueueError as error:
            raise Undelivered(str(error), retry=error.retry) from error

    def close(self) -> None:
        self._queue.close()
