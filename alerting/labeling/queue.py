"""The label queue: what labelers, reviewers, labeling tools and the judge may ask of it.

A task's life: In queue -> Leased -> (labels < `need`: In queue again, for others) -> Labeled | Agreed | Disagreed ->
Done. The moves are in `moves`, the order of service in `desk`; here they are made, on any `Store`. Every time is handed
in, so a queue has no clock.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial, reduce
from statistics import median
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from alerting.deliver import Undelivered
from alerting.labeling import agreement, moves
from alerting.labeling.agreement import Confusion
from alerting.labeling.desk import FINAL, NEVER, RESERVE, REVIEW, Ahead, Desk, Entry, Shelves, Taken
from alerting.labeling.rules import QueueRules
from alerting.labeling.task import (
    Answer,
    Box,
    Draw,
    EventRef,
    Export,
    Known,
    LabelBatch,
    LabelingStatus,
    LabelTask,
    Named,
    Opinion,
    Outcome,
    Place,
    Returned,
    ReviewingStatus,
    Select,
    Turn,
    Value,
    Withdrawal,
    bounded,
    drawn_at,
    returned,
    task_id,
)
from alerting.outbox import Item

T = TypeVar("T")

SLOW = 600.0  # seconds between looks that may read every document
_SOON = 20.0  # seconds after which a move whose maker died is looked at again; one that is only slow loses nothing
_TRUST = 60.0  # seconds that labelers' accuracies are believed
_SEEN = 10_000  # labels that agreement is worked out of
_CHUNK = 1_000  # documents of one look
_BITE = 250  # tasks that are moved between two looks at the desk: what a kill leaves half done waits for `_SOON`
_WAITING = tuple(s for s in LabelingStatus if not s.terminal and s is not LabelingStatus.LEASED)
_OPEN = tuple(s for s in LabelingStatus if s.open)
_CONFUSED = 10_000  # chances of labelers' answers that are kept, 10 bytes each; above, one coin must do
_DESK, _SKILLS, _DATASETS = "desk/", "skills/", "datasets"  # names of states


class QueueError(Exception):
    """The queue could not do it. `retry`: it is unreachable or busy, the same call may work later; otherwise what was
    given is refused. The message names no password."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


Time = Literal["since", "due", "expires_at"]  # of a document; "due" is that of its SLA


class Wanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which documents: those that fit every field that is set."""

    dataset: str | UnsetType = UNSET
    statuses: tuple[LabelingStatus, ...] | UnsetType = UNSET
    batch: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    happened: tuple[float, float] | UnsetType = UNSET  # event time, from and up to, both included
    arrived_by: float | UnsetType = UNSET  # `since` at most
    final_from: float | UnsetType = UNSET  # `final.at` at least
    due_by: float | UnsetType = UNSET  # SLA not breached yet and due
    owner: str | UnsetType = UNSET  # of the lease
    known: bool | UnsetType = UNSET


class Store(Protocol):
    """Where documents are kept. Any thread, any number of processes; all may raise `QueueError`."""

    def together(self, *, lasting: bool = True) -> AbstractContextManager[None]:
        """What is done inside is one transaction, where the store has them: half the waits for a disk. Unless it must
        be `lasting` a power cut may undo it; no kill may."""

    def add(self, tasks: Sequence[LabelTask]) -> set[str]:
        """Keep those whose id is not there yet; returns the ids of these."""

    def add_batch(self, batch: LabelBatch) -> None:
        """Unless it is there."""

    def get(self, ids: Sequence[str]) -> list[LabelTask]:
        """Those that are there, in any order."""

    def get_batch(self, batch_id: str) -> LabelBatch | None: ...

    def swap(self, changed: Sequence[tuple[LabelTask, int]]) -> set[str]:
        """Put each in the place of the one of its id and this `rev`; returns the ids of those that had not moved on."""

    def swap_batch(self, batch: LabelBatch, rev: int) -> bool:
        """The same of one batch; whether it had not moved on."""

    def find(self, wanted: Wanted, limit: int, *, newest: bool = False) -> list[LabelTask]:
        """By the time of the final label, the oldest or the newest first; those without one by id. Not to be called
        inside `together`; like `census` it keeps no change waiting."""

    def census(self, dataset: str) -> Mapping[tuple[str, str], int]:
        """Tasks that are no canaries by labeling and reviewing status."""

    def earliest(self, what: Time, wanted: Wanted) -> float:
        """Of the documents that fit and have it; infinite where there is none. Reads as `find` does."""

    def remove(self, now: float) -> int:
        """Delete documents whose `expires_at` has come; returns how many."""

    def update(self, name: str, change: Callable[[bytes], tuple[bytes, T]]) -> T:
        """Change a small state, empty at first, as if nobody else were there; `change` may be called again, and may
        call `load` and `keep`."""

    def load(self, name: str) -> bytes:
        """A state as it is; empty when there is none."""

    def keep(self, name: str, data: bytes) -> None: ...

    def drop(self, name: str) -> None: ...

    def close(self) -> None: ...


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
    low: int  # ready tasks below which reserves are released, so that no labeler waits; 0: nobody labels


class Skills(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a dataset's labelers; beside the desk, which is written at each claim."""

    accuracy: dict[str, float] = {}  # of those whose labels could be checked often enough
    confusion: dict[str, Confusion] = {}  # of them by class, where that is known
    classes: int = 2  # that labels were seen of


class Tended(msgspec.Struct, frozen=True, kw_only=True):
    """What `tend` did."""

    over: int = 0  # leases that ran out
    released: int = 0  # tasks from reserve
    rechecks: int = 0
    expired: int = 0  # or finished by the labels there were
    breached: int = 0  # SLAs
    closed: int = 0  # batches
    removed: int = 0  # documents past their `expires_at`


class LabelQueue:
    """Keeps tasks and hands them out. Any thread, any number of processes; all may raise `QueueError`.

    KeyError for an unknown task; ValueError for a label that is not finite or too long. `now` and all times are UTC
    seconds of the clock.
    """

    def __init__(self, store: Store, rules: QueueRules) -> None:
        self._store = store
        self._doubts: dict[str, tuple[float, Skills]] = {}  # by dataset: when read, what was known of its labelers
        self._admitted: set[str] = set()  # datasets that are known to be known
        self._turn = 0  # of datasets, where a labeler does not name one
        self.rules = rules

    # -- what is put in

    def put(self, tasks: Sequence[LabelTask], batch: LabelBatch, now: float) -> int:
        """Add those whose id is not there yet, and the batch; returns how many were new. Repeats change nothing.

        Tasks with the status In reserve wait until the queue runs low; they follow the others in rank and need `key`.
        A whole draw that comes while more is ready than labelers do in three times the wait for the next is cut down
        to its first ranks, which are a draw of their own; the rest joins the reserve.
        """
        by_dataset: dict[str, list[LabelTask]] = {}
        for task in tasks:
            by_dataset.setdefault(task.dataset, []).append(moves.arrived(bounded(task), now, self.rules))
        return sum(self._put(dataset, arrived, batch, now) for dataset, arrived in by_dataset.items())

    def _put(self, dataset: str, tasks: list[LabelTask], batch: LabelBatch, now: float) -> int:
        self._admit(dataset)
        with self._store.together():
            if self._store.get_batch(batch.id) is None:
                batch, tasks = _thinned(batch, tasks, self._room(dataset))
            self._store.add_batch(replace(batch, dataset=dataset))
            there = {task.id for task in self._store.get([task.id for task in tasks])}
            new = [task for task in tasks if task.id not in there]
            if not new:
                return 0
            # should we die between the next two, they are looked at again and get their places then
            self._desk(dataset, partial(_watch, [task.id for task in new], now + _SOON))
            added = self._store.add(new)
            self._desk(dataset, partial(_enter, [task for task in new if task.id in added], now if added else None))
        return len(added)

    def _room(self, dataset: str) -> int | None:
        desk = self._peek(dataset)
        return max(0, 3 * desk.low - desk.ready) if desk.low else None

    def withdraw(self, withdrawal: Withdrawal, now: float) -> int:
        """Cancel the model's tasks of that span of event time that have no label yet; returns how many."""
        wanted = Wanted(
            model=withdrawal.model,
            happened=(withdrawal.since, withdrawal.until),
            statuses=(LabelingStatus.IN_QUEUE, LabelingStatus.IN_RESERVE, LabelingStatus.LEASED),
            known=False,
        )
        cancelled = 0
        while True:
            found = self._store.find(wanted, _CHUNK)
            changed = [self._move(task.id, now, lambda t: moves.cancelled(t, now, withdrawal.reason)) for task in found]
            cancelled += sum(changed)
            if len(found) < _CHUNK or not any(changed):
                return cancelled

    def plant(self, known: Sequence[Known], now: float) -> int:
        """Mix in items whose label is known; returns how many were new. Each labeler meets each of them once."""
        tasks = [_planted(item, now) for item in known]
        added = self._store.add(tasks)
        for dataset in {task.dataset for task in tasks}:
            self._admit(dataset)
            new = [task for task in tasks if task.dataset == dataset and task.id in added]
            self._desk(dataset, partial(_enter, new, None))
        return len(added)

    # -- labelers

    def claim(self, labeler: str, now: float, lease_seconds: float, dataset: str | None = None) -> LabelTask | None:
        """The next task, leased to this labeler until `task.lease.until`; `task.lease.token` proves it.

        Never one that the labeler labeled or skipped. A task whose lease ran out is free again at once. None when
        nothing is ready, or the purse is empty. Show the labeler `asked(task)`, no more.
        """
        return next(iter(self._claim(labeler, 1, now, lease_seconds, dataset)), None)

    def _claim(
        self,
        owner: str,
        limit: int,
        now: float,
        lease_seconds: float,
        dataset: str | None,
        export: Export | None = None,
    ) -> list[LabelTask]:
        """The next tasks, each of them with a token of its own, and handed over where there is an `export`."""
        until = now + lease_seconds
        # should we die before the document is leased, a tool's lease of a day would keep it from everybody that long
        noted = min(until, now + _SOON)
        shares = {
            Turn.DRAWN: max(1.0 - self.rules.asked_share, 1e-3),
            Turn.ASKED: max(self.rules.asked_share, 1e-3),
            **({Turn.KNOWN: self.rules.known_share} if self.rules.known_share else {}),
        }

        def lease(task: LabelTask) -> LabelTask:
            held = moves.leased(task, owner, secrets.token_hex(16), now, until)
            return held if held is task or export is None else moves.exported(held, export)

        return self._serve(
            dataset, now, limit, lambda desk, shelves: desk.serve(owner, now, noted, shares, shelves), lease
        )

    def _serve(
        self,
        dataset: str | None,
        now: float,
        limit: int,
        serve: Callable[[Desk, Shelves], str | None],
        lease: Callable[[LabelTask], LabelTask],
    ) -> list[LabelTask]:
        """Of one dataset or of each in turn: what the desk names, as long as the documents agree and the purse has
        room. Many cost hardly more round trips than one."""
        caps = self.rules.purse.caps

        def some(missing: int, desk: Desk, shelves: Shelves) -> tuple[dict[str, Taken], dict[str, Taken]]:
            # moves that were left half done are for `tend`: nobody waits for them
            over = {name: taken for name, taken in desk.over(now).items() if taken.paid}
            found: dict[str, Taken] = {}
            desk.period.at(now)
            while not over and len(found) < missing and desk.period.room(caps):
                name = serve(desk, shelves)
                if name is None:
                    break
                found[name] = desk.taken[name]
            return over, found

        names = self.datasets() if dataset is None else [dataset]
        self._turn += 1
        leased: list[LabelTask] = []
        for i in range(len(names)):
            name = names[(self._turn + i) % len(names)]
            while len(leased) < limit:
                # a lease that is lost with the power is one that ran out: its answer comes late, and is kept
                with self._store.together(lasting=False):
                    over, found = self._desk(name, partial(some, limit - len(leased)))
                    held = self._change(list(found), lease)
                leased += held
                had = {task.id for task in held}
                over |= {each: taken for each, taken in found.items() if each not in had}  # moved by others meanwhile
                if not over:
                    break
                self._look_again(name, over, now)
        return leased

    def _change(self, names: Sequence[str], change: Callable[[LabelTask], LabelTask]) -> list[LabelTask]:
        """Tasks of which a desk knows nothing new afterwards; those that were changed, in the order of `names`."""
        changed: dict[str, LabelTask] = {}
        left = names
        while left:
            pairs = [(change(before), before) for before in self._store.get(left)]
            moved = [(after, before.rev) for after, before in pairs if after is not before]
            swapped = self._store.swap(moved)
            changed |= {after.id: after for after, _ in moved if after.id in swapped}
            left = [after.id for after, _ in moved if after.id not in swapped]
        return [changed[name] for name in names if name in changed]

    def extend(self, task_id: str, token: str, until: float) -> bool:
        """The lease is longer, unless it has passed on."""
        return bool(self._change([task_id], lambda task: moves.extended(task, token, until)))

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
        answer = Answer(
            value=label, by=by, at=now, token=token, seconds=seconds, saw_prediction=saw_prediction, comment=comment,
            attributes=tuple(attributes), boxes=tuple(boxes),
        )  # fmt: skip
        return self._answer(task_id, answer)

    def skip(self, task_id: str, token: str, by: str, now: float, reason: str = "") -> None:
        """Give a leased task back, never to be offered to `by` again; nothing happens when the lease has passed on."""
        self._move(task_id, now, lambda task: moves.skipped(task, token, by, now, reason))

    # -- reviewers

    def review_next(
        self, reviewer: str, now: float, lease_seconds: float, dataset: str | None = None
    ) -> LabelTask | None:
        """The next task to review, leased; never one that the reviewer labeled. First those that labelers disagree
        on."""
        until = now + lease_seconds
        leased = self._serve(
            dataset,
            now,
            1,
            lambda desk, shelves: desk.serve_review(reviewer, now, min(until, now + _SOON), shelves),
            lambda task: moves.review_leased(task, reviewer, secrets.token_hex(16), until),
        )
        return next(iter(leased), None)

    def review(
        self, task_id: str, token: str, opinion: Opinion, by: str, now: float, value: Value = None, comment: str = ""
    ) -> Outcome:
        """Accept what the vote says, correct it to `value`, or send the task back to the labelers.

        To accept where labelers disagree takes their most frequent label.
        """
        outcome = Outcome.LATE

        def review(task: LabelTask) -> LabelTask:
            nonlocal outcome
            after, outcome = moves.reviewed(task, token, opinion, by, now, value, comment)
            return after

        self._move(task_id, now, review, answered=True)
        return outcome

    # -- looking

    def get(self, task_id: str) -> LabelTask | None:
        return next(iter(self._store.get([task_id])), None)

    def batch(self, batch_id: str) -> LabelBatch | None:
        return self._store.get_batch(batch_id)

    def datasets(self) -> list[str]:
        """Names, in order."""
        data = self._store.load(_DATASETS)
        return msgspec.msgpack.decode(data, type=list[str]) if data else []

    def _admit(self, dataset: str) -> None:
        """A dataset may be new."""

        def named(data: bytes) -> tuple[bytes, None]:
            names = set(msgspec.msgpack.decode(data, type=list[str])) if data else set[str]()
            return msgspec.msgpack.encode(sorted(names | {dataset})), None

        if dataset not in self._admitted:
            self._store.update(_DATASETS, named)
            self._admitted.add(dataset)

    def labeled_since(self, time: float, limit: int = 1000, dataset: str | None = None) -> list[LabelTask]:
        """With a final label of `time` (UTC seconds) or later, oldest first; go on from the last one's `final.at`.
        Canaries are not among them."""
        wanted = Wanted(final_from=time, known=False, dataset=UNSET if dataset is None else dataset)
        return self._store.find(wanted, limit)

    def progress(self, dataset: str, now: float) -> Progress:
        """Counts and agreement of a dataset; the latter over its last 10,000 labels. Reads much: not for each label."""
        desk = self._peek(dataset)
        census = self._store.census(dataset)
        counts, reviews = Counter[str](), Counter[str]()
        for (labeling, reviewing), n in census.items():
            counts[labeling] += n
            reviews[reviewing] += n
        seen = self._labels(dataset)
        units = [[a.value for a in votes] for task, votes in seen if not task.known]
        waiting = desk.ready + counts[LabelingStatus.LEASED]
        rate = desk.rate(now)
        desk.period.at(now)
        period = desk.period
        return Progress(
            dataset=dataset,
            counts=dict(counts),
            reviews=dict(reviews),
            labelers=_labelers(seen),
            agreement=agreement.raw(units),
            alpha=agreement.alpha(units),
            class_alpha=agreement.class_alpha(units),
            asked={"hour": period.in_hour, "day": period.in_day, "month": period.in_month},
            per_hour=rate,
            hours_left=waiting / rate if rate else None,
            low=desk.low,
        )

    def _labels(self, dataset: str) -> list[tuple[LabelTask, list[Answer]]]:
        finals = self._store.find(Wanted(dataset=dataset, final_from=0.0), _SEEN, newest=True)
        known = self._store.find(Wanted(dataset=dataset, known=True), _SEEN)
        return [(task, [a for a in task.labels if not a.late]) for task in (*finals, *known)]

    # -- the way back to the daemon

    def finals(self, limit: int) -> list[Returned]:
        """Final labels that were not acknowledged, or have changed since. Canaries are not among them."""
        found: list[Returned] = []
        for dataset in self.datasets():
            if len(found) >= limit:
                break
            entries = self._desk(dataset, partial(_first_finals, limit - len(found)))
            tasks = {task.id: task for task in self._store.get([entry.id for entry in entries]) if task.final}
            gone = [entry.id for entry in entries if entry.id not in tasks]  # sent back or removed since
            if gone:
                self._desk(dataset, lambda desk, _: desk.line(FINAL).leave(gone))  # noqa: B023
            found += [returned(tasks[entry.id]) for entry in entries if entry.id in tasks]
        return found

    def acknowledge(self, finals: Sequence[Returned]) -> None:
        """These were taken over; one that changed meanwhile (`rev`) comes again."""
        revisions = {final.task: final.rev for final in finals}

        def leave(desk: Desk, shelves: Shelves) -> None:
            line = desk.line(FINAL)
            line.leave(e.id for e in line.some(len(revisions), shelves) if e.at <= revisions.get(e.id, -1))

        for dataset in {task.dataset for task in self._store.get(list(revisions))}:
            self._desk(dataset, leave)

    def used(self, task_ids: Sequence[str], label_set: str, *, evaluation: bool = False) -> None:
        """These labels are in a label set that a model was trained on, or judged by. Twice is once."""
        self._change(task_ids, lambda task: moves.used(task, label_set, evaluation=evaluation))

    # -- labeling tools

    def export_pending(
        self, tool: str, project: str, limit: int, now: float, lease_seconds: float, dataset: str | None = None
    ) -> list[LabelTask]:
        """Tasks to hand over to a tool, in the order of service, leased to it until its answer comes.

        First those that were given out before and never reported by `exported`: the tool may have them or not. Hand
        over `asked(task)`, no more: canaries are among them.
        """
        export, owner = Export(tool, project, now), moves.tool_owner(tool)
        leased = self._store.find(Wanted(owner=owner, dataset=UNSET if dataset is None else dataset), _SEEN)
        pending = [t for t in leased if t.export is None or (t.export.project == project and not t.export.acked)]
        pending.sort(key=lambda task: (task.place.turn, task.place.order))
        pending += self._claim(owner, limit - len(pending), now, lease_seconds, dataset, export)
        return pending[:limit]

    def exported(self, tool: str, tasks: Mapping[str, str], now: float, uri: str = "") -> None:
        """The tool has these tasks, by its own names: {our id: the tool's}. Those not leased to it are passed over."""

        def acked(task: LabelTask) -> LabelTask:
            given, theirs = task.export, tasks[task.id]
            if given is None or given.tool != tool or (given.acked and given.task == theirs):
                return task
            return moves.exported(task, replace(given, at=now, task=theirs, uri=uri, acked=True))

        self._change(list(tasks), acked)

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
        answer = Answer(
            value=value, by=by, at=at, token=f"{tool}|{annotation_id}", seconds=seconds, comment=comment,
            attributes=tuple(attributes), boxes=tuple(boxes), updated=updated_at,
        )  # fmt: skip
        return self._answer(task_id, answer, moves.tool_owner(tool))

    def skip_from_tool(self, task_id: str, tool: str, by: str, at: float, reason: str = "") -> None:
        """The tool's labeler could not tell. Twice by one labeler is once."""
        self._move(task_id, at, lambda task: moves.skipped(task, "", by, at, reason, owner=moves.tool_owner(tool)))

    def annotations(self, task_id: str, tool: str) -> list[str]:
        """The tool's own names of its labels of the task that count."""
        task, prefix = self.get(task_id), f"{tool}|"
        given = [] if task is None else [a.token for a in task.labels if not a.late]
        return [token.removeprefix(prefix) for token in given if token.startswith(prefix)]

    def retract_from_tool(self, task_id: str, tool: str, annotation_id: str, at: float) -> None:
        """The annotation was deleted in the tool: its label counts no more, and the task is asked for again."""
        self._move(task_id, at, lambda task: moves.retracted(task, f"{tool}|{annotation_id}", at))

    # -- what time does

    def tend(self, now: float) -> Tended:
        """Leases run out, tasks expire, reserves are released, old documents go. Call it every few seconds, from one
        process or several."""
        done = Counter[str]()
        for name in self.datasets():
            desk = self._peek(name)
            done["over"] += self._look_again(name, desk.over(now), now)
            done += self._fill(name, now)
            if now - desk.looked >= SLOW:
                done += self._look_at_all(name, now)
        return Tended(**done)

    def _fill(self, name: str, now: float) -> Counter[str]:
        """Never starve: from the reserve, then what is labeled already. Only where a purse says what labels may be
        asked for beyond those that were drawn; else labelers who are quick would spend thrice what sampling allows."""
        done = Counter[str]()
        limited = self.rules.purse.limited

        def short(desk: Desk, shelves: Shelves) -> tuple[int, list[str]]:
            desk.low = desk.demand(now)
            missing = desk.low - desk.ready if limited else 0
            released = [e.id for e in desk.line(RESERVE).some(min(missing, _BITE), shelves)] if missing > 0 else []
            desk.line(RESERVE).leave(released)
            for each in released:
                desk.watch(each, now + _SOON)
            return missing - len(released) - len(desk.line(Turn.RECHECK)), released

        while True:
            missing, released = self._desk(name, short)
            self._release(released, now)
            done["released"] += len(released)
            if len(released) < _BITE:
                break
        if missing > 0 and self.rules.recheck and self._peek(name).active(now) > 1:
            done["rechecks"] = self._recheck(name, missing, now)
        return done

    def _release(self, names: Sequence[str], now: float) -> None:
        """From the reserve into the queue; the probabilities of all of the batch first, so that no label comes back
        with one that was true before."""
        tasks = self._store.get(names)
        for batch_id in {task.select.batch for task in tasks}:
            drawn = [t for t in self._store.find(Wanted(batch=batch_id), _SEEN) if t.select.key is not None]
            going = {task.id for task in tasks}
            waiting = [t for t in drawn if t.labeling_status is LabelingStatus.IN_RESERVE and t.id not in going]
            batch = self._store.get_batch(batch_id)
            if batch is None:
                continue
            tau = min((t.select.key for t in waiting if t.select.key is not None), default=batch.beyond)
            n = len(drawn) - len(waiting)
            for task in drawn:
                if task not in waiting:
                    self._move(task.id, now, lambda t: moves.reweighed(t, tau))  # noqa: B023
            changed = replace(batch, n=n, reserve=len(waiting), tau=tau, rev=batch.rev + 1)
            self._store.swap_batch(changed, batch.rev)
        for task in tasks:
            self._move(task.id, now, lambda t: moves.released(t, now))

    def _recheck(self, name: str, missing: int, now: float) -> int:
        done = self._store.find(
            Wanted(dataset=name, statuses=(LabelingStatus.DONE,), final_from=0.0, known=False), _CHUNK, newest=True
        )
        once = [
            task
            for task in done
            if sum(not a.late for a in task.labels) < self.rules.most_labels and moves.rechecked(task, now) is not task
        ]
        once.sort(key=lambda task: (1.0 if task.agreement is None else task.agreement.raw, len(task.labels)))
        return sum(self._move(task.id, now, lambda t: moves.rechecked(t, now)) for task in once[:missing])

    def _look_at_all(self, name: str, now: float) -> Counter[str]:
        """What only the documents tell, where there may be anything to tell."""
        done, look = Counter[str](), secrets.token_hex(8)

        def begin(desk: Desk, _: Shelves) -> tuple[Ahead, int | None]:
            desk.begin_look(look, now)
            return desk.ahead, desk.given if desk.given != desk.learned else None

        ahead, given = self._desk(name, begin)
        expired_by = now - self.rules.open_for
        if ahead.since <= expired_by or ahead.due <= now or ahead.expires_at <= now:
            old = Wanted(dataset=name, arrived_by=expired_by, statuses=_WAITING, known=False)
            for task in self._store.find(old, _CHUNK) if ahead.since <= expired_by else ():
                done["expired"] += self._move(task.id, now, lambda t: moves.closed(t, now, self.rules))
                batch = self._store.get_batch(task.select.batch)
                if batch is not None and not batch.closed:
                    done["closed"] += self._store.swap_batch(replace(batch, closed=True, rev=batch.rev + 1), batch.rev)
            due = Wanted(dataset=name, due_by=now, statuses=_OPEN)
            for task in self._store.find(due, _CHUNK) if ahead.due <= now else ():
                done["breached"] += self._move(task.id, now, lambda t: moves.breached(t, now))
            if ahead.expires_at <= now:
                done["removed"] = self._store.remove(now)
            self._foresee(name, look)
        if given is not None:
            self._learn(name, given)
        return done

    def _foresee(self, name: str, look: str) -> None:
        """When there will be something to tell."""
        ahead = Ahead(
            since=self._store.earliest("since", Wanted(dataset=name, statuses=_WAITING, known=False)),
            due=self._store.earliest("due", Wanted(dataset=name, due_by=math.inf, statuses=_OPEN)),
            expires_at=self._store.earliest("expires_at", Wanted()),
        )
        self._desk(name, lambda desk, _: desk.end_look(look, ahead))

    def _learn(self, name: str, given: int) -> None:
        """How labelers do, of so many answers."""
        seen = self._labels(name)
        skills = agreement.skills(*_evidence(seen))
        classes = {agreement.word(a.value) for _, votes in seen for a in votes}

        confusion = {by: skill.confusion for by, skill in skills.items() if skill.confusion}
        chances = sum(len(row) for rows in confusion.values() for row in rows.values())
        known = Skills(
            accuracy={by: skill.accuracy for by, skill in skills.items() if skill.checked >= agreement.ENOUGH},
            confusion=confusion if chances <= _CONFUSED else {},
            classes=max(2, len(classes)),
        )

        def learned(desk: Desk, _: Shelves) -> None:
            self._store.keep(_SKILLS + name, msgspec.msgpack.encode(known))
            desk.learned = given

        self._desk(name, learned)

    def close(self) -> None:
        self._store.close()

    # -- how a move is made

    def _answer(self, name: str, answer: Answer, owner: str = "") -> Outcome:
        outcome = Outcome.LATE

        def give(task: LabelTask) -> LabelTask:
            nonlocal outcome
            doubt = self._doubt(task.dataset, answer.at)
            after, outcome = moves.answered(task, answer, self.rules, doubt, owner=owner)
            return after

        self._move(name, answer.at, give, answered=True)
        return outcome

    def _doubt(self, dataset: str, now: float) -> Callable[[Sequence[Answer]], bool]:
        """Whether the vote of some answers is less than sure."""
        read, known = self._doubts.get(dataset, (float("-inf"), Skills()))
        if abs(now - read) > _TRUST:
            data = self._store.load(_SKILLS + dataset)
            known = msgspec.msgpack.decode(data, type=Skills) if data else Skills()
            self._doubts[dataset] = now, known

        def doubtful(votes: Sequence[Answer]) -> bool:
            if agreement.measured(a.value for a in votes):
                return False
            said = [(a.by, a.value) for a in votes]
            return agreement.posterior(said, known.accuracy, known.classes, known.confusion) < self.rules.sure

        return doubtful

    def _move(self, name: str, now: float, move: Callable[[LabelTask], LabelTask], *, answered: bool = False) -> bool:
        """Apply a pure move to the task as it is, again when someone else moved it meanwhile, and tell the desk; False
        when there was nothing to do."""
        while True:
            with self._store.together():
                before = self.get(name)
                if before is None:
                    raise KeyError(f"no label task {name}")
                after = moves.kept(move(before), self.rules)
                if after.rev == before.rev:
                    return False
                moved = _stands(before) != _stands(after)
                if moved and before.lease is None:
                    self._desk(before.dataset, lambda desk, _: desk.watch(name, now + _SOON))
                if self._store.swap([(after, before.rev)]):
                    if moved:
                        self._desk(after.dataset, partial(_settle, after, now, answered))
                    return True

    def _look_again(self, dataset: str, taken: Mapping[str, Taken], now: float) -> int:
        """At tasks that were taken: their leases ran out, or their moves were left half done; how many were the former.

        Many at a time, as a daemon that dies leaves hundreds. Others look at them, too, and whoever is late finds them
        taken by somebody else already and lets them be.
        """
        over, names = 0, list(taken)
        for i in range(0, len(names), _BITE):
            some = {name: taken[name] for name in names[i : i + _BITE]}
            with self._store.together():
                before = self._store.get(list(some))
                lapsed = [
                    (moves.kept(moves.over(task, now), self.rules), task.rev) for task in before if _ran_out(task, now)
                ]
                swapped = self._store.swap(lapsed)
                stand = [task for task in before if not _ran_out(task, now)]
                stand += [task for task, _ in lapsed if task.id in swapped]
                gone = some.keys() - {task.id for task in before}
                self._desk(dataset, partial(_look, some, stand, gone, now))
            over += len(swapped)
        return over

    def _peek(self, dataset: str) -> Desk:
        data = self._store.load(_DESK + dataset)
        return msgspec.msgpack.decode(data, type=Desk) if data else Desk()

    def _desk(self, dataset: str, change: Callable[[Desk, Shelves], T]) -> T:
        """Change the dataset's desk as if nobody else were there."""
        shelves = _Kept(self._store, dataset)

        def changed(data: bytes) -> tuple[bytes, T]:
            shelves.undo()
            desk = msgspec.msgpack.decode(data, type=Desk) if data else Desk()
            result = change(desk, shelves)
            desk.tidy(shelves)
            return msgspec.msgpack.encode(desk), result

        result = self._store.update(_DESK + dataset, changed)
        shelves.done()
        return result


class _Kept:
    """Shelves in a store. Those that were fetched go only once the desk that no longer names them is saved."""

    def __init__(self, store: Store, dataset: str) -> None:
        self._store, self._prefix = store, f"shelf/{dataset}/"
        self._kept: list[str] = []
        self._fetched: list[str] = []

    def load(self, name: str) -> list[Entry]:
        data = self._store.load(name)
        self._fetched.append(name)
        return msgspec.msgpack.decode(data, type=list[Entry]) if data else []

    def keep(self, entries: list[Entry]) -> str:
        name = self._prefix + secrets.token_hex(8)
        self._store.keep(name, msgspec.msgpack.encode(entries))
        self._kept.append(name)
        return name

    def undo(self) -> None:
        """The desk was not saved: somebody else came first."""
        self._drop(self._kept)
        self._kept, self._fetched = [], []

    def done(self) -> None:
        """The desk was saved."""
        self._drop(self._fetched)

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            self._store.drop(name)


def _entries(task: LabelTask) -> dict[str, Entry]:
    """Where a task waits, by line."""
    places: dict[str, Entry] = {}
    if task.labeling_status is LabelingStatus.IN_QUEUE:
        places[task.place.turn] = Entry(task.place.order, task.since, task.id, moves.barred(task))
    if task.labeling_status is LabelingStatus.IN_RESERVE:  # the newest draw is released first, by rank
        places[RESERVE] = Entry(-task.since, float(task.select.rank), task.id)
    if task.reviewing_status is ReviewingStatus.TO_REVIEW:  # first those that are not done without it
        places[REVIEW] = Entry(float(task.labeling_status.terminal), task.since, task.id, moves.barred(task))
    if task.labeling_status is LabelingStatus.DONE and task.final is not None and not task.known:
        places[FINAL] = Entry(task.final.at, float(task.rev), task.id)
    return places


def _first_finals(limit: int, desk: Desk, shelves: Shelves) -> list[Entry]:
    return desk.line(FINAL).some(limit, shelves)


def _stands(task: LabelTask) -> tuple[Any, ...]:
    """All of a task that a desk knows of."""
    return (
        task.labeling_status, task.reviewing_status, task.lease is None, task.place, moves.barred(task),
        task.final, task.final and task.select.pi,
    )  # fmt: skip


def _ahead(task: LabelTask) -> Ahead:
    waits = task.labeling_status in _WAITING and not task.known
    due = task.labeling_status.open and task.sla is not None and not task.sla.breached
    return Ahead(
        since=task.since if waits else math.inf,
        due=task.sla.due if due and task.sla else math.inf,
        expires_at=math.inf if task.expires_at is None else task.expires_at,
    )


def _waits(task: LabelTask) -> bool:
    return task.labeling_status in (LabelingStatus.IN_QUEUE, LabelingStatus.IN_RESERVE)


def _watch(names: Sequence[str], until: float, desk: Desk, _: Shelves) -> None:
    for name in names:
        desk.watch(name, until)


def _ran_out(task: LabelTask, now: float) -> bool:
    return task.lease is not None and task.lease.until <= now


def _look(
    taken: Mapping[str, Taken],
    tasks: Sequence[LabelTask],
    gone: Iterable[str],
    now: float,
    desk: Desk,
    shelves: Shelves,
) -> None:
    """What tasks are now that were `taken`, unless somebody else has them in hand since."""
    for name in gone:
        if desk.taken.get(name) == taken[name]:
            desk.settle(name, now, answered=False)
    for task in tasks:
        if desk.taken.get(task.id) != taken[task.id]:
            continue
        if task.lease is not None:
            desk.extend(task.id, task.lease.until)
        else:
            _settle(task, now, False, desk, shelves)


def _enter(tasks: Sequence[LabelTask], drawn: float | None, desk: Desk, _: Shelves) -> None:
    lines: dict[str, list[Entry]] = {}
    for task in tasks:
        taken = desk.taken.get(task.id)
        if taken is None or not taken.paid:
            desk.taken.pop(task.id, None)
            for line, entry in _entries(task).items():
                lines.setdefault(line, []).append(entry)
    for line, entries in lines.items():
        desk.line(line).enter(entries)
    desk.foresee(reduce(Ahead.sooner, map(_ahead, tasks), NEVER))
    if drawn is not None:
        desk.put(drawn)


def _settle(task: LabelTask, now: float, answered: bool, desk: Desk, _: Shelves) -> None:
    if task.lease is None:
        desk.settle(task.id, now, answered=answered)
    else:  # somebody still works on it: a late answer came, or its SLA passed
        desk.watch(task.id, task.lease.until)
    desk.foresee(_ahead(task))
    places = _entries(task)
    for name, line in desk.lines.items():
        if name not in places:
            line.leave([task.id])
    for name, entry in places.items():
        desk.line(name).enter([entry])


def _thinned(batch: LabelBatch, tasks: list[LabelTask], room: int | None) -> tuple[LabelBatch, list[LabelTask]]:
    """A whole draw of which no more than `room` tasks of the random part are asked for; the others join its reserve."""
    drawn = [t for t in tasks if t.place.turn is Turn.DRAWN and t.labeling_status is LabelingStatus.IN_QUEUE]
    if room is None or len(drawn) <= room or len(drawn) != batch.n or any(t.select.key is None for t in drawn):
        return batch, tasks
    drawn.sort(key=lambda task: task.select.rank)
    tau, held_back = drawn[room].select.key, {task.id for task in drawn[room:]}
    thinner = replace(batch, n=room, reserve=batch.reserve + len(held_back), tau=tau, beyond=batch.beyond or batch.tau)
    kept = [
        replace(task, labeling_status=LabelingStatus.IN_RESERVE)
        if task.id in held_back
        else moves.reweighed(task, tau)
        if task.place.turn is Turn.DRAWN and _waits(task)
        else task
        for task in tasks
    ]
    return thinner, kept


def _planted(item: Known, now: float) -> LabelTask:
    name = task_id(item.dataset, "known", item.event)
    task = LabelTask(
        id=name,
        dataset=item.dataset,
        date=drawn_at(now),
        event=EventRef(item.event),
        model=item.model,
        prediction=item.prediction,
        select=Select("known", "known", "", None),
        reason="drawn",
        inputs=item.inputs,
        uri=item.uri,
        picture=item.picture,
        classes=item.classes,
        since=now,
        place=Place(Turn.KNOWN, float(int(name[:8], 16))),
        need=moves.LABELS,
        known=True,
        truth=item.truth,
    )
    return bounded(task)


def _evidence(
    seen: Iterable[tuple[LabelTask, list[Answer]]],
) -> tuple[list[list[tuple[str, Value]]], list[tuple[str, bool]]]:
    """What tells of labelers' accuracy: labels of one task, and of tasks whose label is known."""
    units: list[list[tuple[str, Value]]] = []
    known: list[tuple[str, bool]] = []
    for task, votes in seen:
        if task.known:
            known += [(a.by, agreement.word(a.value) == agreement.word(task.truth)) for a in votes]
        else:
            units.append([(a.by, a.value) for a in votes])
    return units, known


def _labelers(seen: Sequence[tuple[LabelTask, list[Answer]]]) -> tuple[Labeler, ...]:
    units, known = _evidence(seen)
    skills = agreement.skills(units, known)
    labels = Counter(by for unit in units for by, _ in unit)
    overlaps = Counter(by for unit in units if len(unit) > 1 for by, _ in unit)
    met, right = Counter(by for by, _ in known), Counter(by for by, fine in known if fine)
    took: dict[str, list[float]] = {}
    for _, votes in seen:
        for a in votes:
            if a.seconds is not None:
                took.setdefault(a.by, []).append(a.seconds)
    return tuple(
        Labeler(
            name=by,
            labels=labels[by],
            seconds=median(took[by]) if by in took else None,
            known=met[by],
            known_right=right[by],
            overlaps=overlaps[by],
            accuracy=skills[by].accuracy if by in skills and skills[by].checked >= agreement.ENOUGH else None,
        )
        for by in sorted({*labels, *met})
    )


class QueueSink:
    """A queue as a destination of the outbox, whose items are draws and withdrawals. A draw that is in pieces is put
    together again, so a hundred items of one task each cost as much as one of a hundred."""

    def __init__(self, queue: LabelQueue, clock: Callable[[], float]) -> None:
        self._queue, self._clock = queue, clock

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
                self._queue.put(tasks[name], batch, self._clock())
            for withdrawal in withdrawals:
                self._queue.withdraw(withdrawal, self._clock())
        except QueueError as error:
            raise Undelivered(str(error), retry=error.retry) from error

    def close(self) -> None:
        self._queue.close()
