"""The moves of a label task: pure functions, so every store has the same life cycle and only has to make one move at a
time per task.

A move that changes nothing gives the same object back. Every other raises `rev` by 1 and writes the history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from alerting.labeling.agreement import raw, vote
from alerting.labeling.rules import QueueRules
from alerting.labeling.task import (
    Agreement,
    Answer,
    Export,
    Final,
    LabelingStatus,
    LabelTask,
    Lease,
    Move,
    Opinion,
    Outcome,
    Part,
    Place,
    Review,
    ReviewingStatus,
    Skip,
    Sla,
    Turn,
    Used,
    Value,
    cut,
    finite,
    held,
)

ATTEMPTS = 5  # leases that ran out before a task is given up as unclear
SKIPS = 3  # different labelers who skip it, likewise
LABELS = 50  # answers kept of a task, late ones included; a canary that has them all retires
_HISTORY = 50
_REASON = 400  # characters of a reason or comment
_NOBODY = "TBD"
PUBLICITY = "publicity"  # the severity whose tasks are always reviewed

Status, Reviewing = LabelingStatus, ReviewingStatus
Doubt = Callable[[Sequence[Answer]], bool]


def chosen(name: str, share: float, purpose: str) -> bool:
    """Whether a task is among a random share: the same on every machine, independent between purposes."""
    digest = hashlib.sha256(f"{purpose}|{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def arrived(task: LabelTask, now: float, rules: QueueRules) -> LabelTask:
    """As it enters the queue: where it stands, and how many people it waits for."""
    turn = Part(task.select.part).turn if task.select.part in tuple(Part) else Turn.ASKED
    order = float(task.select.rank) if turn is Turn.DRAWN else now / 3600 - task.priority
    need = 2 if chosen(task.id, rules.overlap, "overlap") else 1
    return replace(task, place=Place(turn, order), need=max(need, task.need), since=now)


def leased(task: LabelTask, owner: str, token: str, now: float, until: float) -> LabelTask:
    """In queue -> Leased; the same task when it is not in the queue, or the owner had it before."""
    if task.labeling_status is not Status.IN_QUEUE or owner in barred(task):
        return task
    return _moved(task, now, owner, Status.LEASED, labeler=owner, lease=Lease(owner, token, until))


def barred(task: LabelTask) -> tuple[str, ...]:
    """Who is not asked for it (again). A tool that has it is not given it twice."""
    there = [tool_owner(task.export.tool)] if task.export is not None and task.export.acked else []
    return tuple(dict.fromkeys([*(a.by for a in task.labels), *(s.by for s in task.skips), *there]))


def tool_owner(tool: str) -> str:
    """As whom a tool leases tasks, and gives back those that it cannot hold."""
    return f"tool {tool}"


def extended(task: LabelTask, token: str, until: float) -> LabelTask:
    """A longer lease; the same task when the lease has passed on."""
    if task.lease is None or task.lease.token != token:
        return task
    return replace(task, lease=replace(task.lease, until=until), rev=task.rev + 1)


def over(task: LabelTask, now: float) -> LabelTask:
    """Its lease ran out: Leased -> In queue, or given up after `ATTEMPTS`; In review -> To review."""
    if task.lease is None or task.lease.until > now:
        return task
    owner = task.lease.owner
    if task.reviewing_status is Reviewing.IN_REVIEW:
        return replace(task, reviewing_status=Reviewing.TO_REVIEW, reviewer=_NOBODY, lease=None, rev=task.rev + 1)
    attempts = task.attempts + 1
    task = replace(task, lease=None, attempts=attempts)
    if attempts >= ATTEMPTS:
        return _given_up(task, now, owner, "the lease ran out")
    return _moved(task, now, owner, Status.IN_QUEUE, "the lease ran out", labeler=_NOBODY)


def answered(
    task: LabelTask, answer: Answer, rules: QueueRules, doubt: Doubt, *, owner: str = ""
) -> tuple[LabelTask, Outcome]:
    """A label under a lease, or of the tool that is the lease's `owner`; kept as a late one when it has passed on.

    The same task comes back when the answer is there already. ValueError for a label that no queue can hold.
    """
    if held(answer.value) != answer.value:
        raise ValueError("a label is text of at most 4,000 characters, a flag, or a finite number of at most 64 bits")
    for given in task.labels:
        if given.token == answer.token:
            if given.updated < answer.updated and not given.late:
                return _corrected(task, answer, rules, doubt), Outcome.ACCEPTED
            return task, Outcome.LATE if given.late else Outcome.ACCEPTED
    answer = replace(answer, comment=cut(answer.comment, _REASON), seconds=finite(answer.seconds))
    lease = task.lease
    working = task.labeling_status is Status.LEASED and lease is not None
    if working and lease is not None and (lease.token == answer.token or (owner and lease.owner == owner)):
        return _weighed(task, (*task.labels, answer), answer.at, answer.by, rules, doubt), Outcome.ACCEPTED
    if owner and task.labeling_status is Status.IN_QUEUE and answer.by not in barred(task):
        return _weighed(task, (*task.labels, answer), answer.at, answer.by, rules, doubt), Outcome.ACCEPTED
    kept = (*task.labels, replace(answer, late=True))[:LABELS]
    return replace(task, labels=kept, rev=task.rev + 1), Outcome.LATE


def retracted(task: LabelTask, token: str, now: float) -> LabelTask:
    """The answer was taken back where it was given: it counts no more, and the task is asked for again."""
    given = next((a for a in task.labels if a.token == token and not a.late), None)
    if given is None:
        return task
    left = tuple(replace(a, late=True) if a.token == token else a for a in task.labels)
    if task.labeling_status.open:
        return replace(task, labels=left, rev=task.rev + 1)
    return _asked_again(task, left, now, given.by, "the label was taken back")


def skipped(task: LabelTask, token: str, by: str, now: float, reason: str, *, owner: str = "") -> LabelTask:
    """Leased -> In queue, or given up after `SKIPS` people; the same task when the lease has passed on."""
    lease = task.lease
    if task.labeling_status is not Status.LEASED or lease is None:
        return task
    if lease.token != token and not (owner and lease.owner == owner):
        return task
    skips = (*task.skips, Skip(by, now, cut(reason, _REASON)))
    task = replace(task, lease=None, skips=skips)
    if _refused(skips):
        return _given_up(task, now, by, reason)
    return _moved(task, now, by, Status.IN_QUEUE, reason, labeler=_NOBODY)


def released(task: LabelTask, now: float) -> LabelTask:
    """In reserve -> In queue."""
    if task.labeling_status is not Status.IN_RESERVE:
        return task
    return _moved(task, now, "", Status.IN_QUEUE, "released from reserve", since=now)


def reweighed(task: LabelTask, tau: float | None) -> LabelTask:
    """With the probability that follows from the threshold `tau`; None: all of its batch were asked for."""
    size = task.select.size
    pi = 1.0 if tau is None else None if size is None else min(1.0, size * tau)
    if pi == task.select.pi:
        return task
    return replace(task, select=replace(task.select, pi=pi), rev=task.rev + 1)


def rechecked(task: LabelTask, now: float) -> LabelTask:
    """Done -> In queue, for one label more; not if that was given up before. The final label stays until there is a
    new one."""
    if task.labeling_status is not Status.DONE or task.known or task.reviewing_status is not Reviewing.NONE:
        return task
    if task.attempts >= ATTEMPTS or _refused(task.skips):
        return task
    need, place = sum(not a.late for a in task.labels) + 1, Place(Turn.RECHECK, now / 3600)
    return _moved(task, now, "", Status.IN_QUEUE, "recheck", need=need, place=place, attempts=0, expires_at=None)


def breached(task: LabelTask, now: float) -> LabelTask:
    """Past its SLA: from now on before all others that are asked for."""
    if task.sla is None or task.sla.breached or task.sla.due > now or not task.labeling_status.open:
        return task
    place = replace(task.place, order=task.place.order - 100.0) if task.place.turn is Turn.ASKED else task.place
    return replace(task, sla=Sla(task.sla.due, breached=True), place=place, rev=task.rev + 1)


def cancelled(task: LabelTask, now: float, reason: str) -> LabelTask:
    """In queue, in reserve or Leased -> Cancelled, unless somebody has labeled it."""
    if not task.labeling_status.open or any(not a.late for a in task.labels) or task.known:
        return task
    return _moved(task, now, "", Status.CANCELLED, reason, lease=None)


def closed(task: LabelTask, now: float, rules: QueueRules) -> LabelTask:
    """Its time is over: what was said so far is the vote, and where nothing was said the task is Expired.

    Disagreed, and no reviewer came: Unclear. Whoever works on it is let finish.
    """
    if task.known:
        return task
    if task.labeling_status is Status.DISAGREED:
        return _moved(task, now, "", Status.UNCLEAR, "no reviewer came", reviewing_status=Reviewing.NONE)
    if task.labeling_status in (Status.AGREED, Status.LABELED):
        return _finished(task, now, "vote", _top(task))
    if task.labeling_status not in (Status.IN_QUEUE, Status.IN_RESERVE):
        return task
    votes = [a for a in task.labels if not a.late]
    if not votes:
        return _moved(task, now, "", Status.EXPIRED, "nobody labeled it in time")
    return _weighed(replace(task, need=len(votes)), task.labels, now, "", rules, lambda _: False)


def review_leased(task: LabelTask, reviewer: str, token: str, until: float) -> LabelTask:
    """To review -> In review; never by one who labeled it."""
    if task.reviewing_status is not Reviewing.TO_REVIEW or task.lease is not None or reviewer in barred(task):
        return task
    lease = Lease(reviewer, token, until)
    return replace(task, reviewing_status=Reviewing.IN_REVIEW, reviewer=reviewer, lease=lease, rev=task.rev + 1)


def reviewed(
    task: LabelTask, token: str, opinion: Opinion, by: str, now: float, value: Value, comment: str
) -> tuple[LabelTask, Outcome]:
    """In review -> Approved, Corrected, or Sent back to the queue, where its labels so far count no more."""
    if task.review is not None and task.review.token == token:
        return task, Outcome.ACCEPTED
    if task.reviewing_status is not Reviewing.IN_REVIEW or task.lease is None or task.lease.token != token:
        return task, Outcome.LATE
    if opinion is Opinion.CORRECT and (value is None or held(value) != value):
        raise ValueError("a correction gives the right label, which a queue can hold")
    review = Review(by, opinion, now, value if opinion is Opinion.CORRECT else None, cut(comment, _REASON), token)
    if opinion is Opinion.SEND_BACK:
        left = tuple(replace(a, late=True) for a in task.labels)
        return _asked_again(
            task, left, now, by, comment, review=review, reviewer=by, reviewing_status=Reviewing.SENT_BACK
        ), Outcome.ACCEPTED
    corrected = opinion is Opinion.CORRECT
    how = "adjudication" if task.labeling_status is Status.DISAGREED else "review"
    status = Reviewing.CORRECTED if corrected else Reviewing.APPROVED
    task = replace(task, review=review, reviewer=by, reviewing_status=status, lease=None)
    return _finished(task, now, how, value if corrected else _top(task)), Outcome.ACCEPTED


def exported(task: LabelTask, export: Export) -> LabelTask:
    """Handed over, or known to have arrived."""
    return task if task.export == export else replace(task, export=export, rev=task.rev + 1)


def used(task: LabelTask, label_set: str, *, evaluation: bool) -> LabelTask:
    """Its label is in a label set."""
    train, judge = task.used.train, task.used.eval
    if label_set in (judge if evaluation else train):
        return task
    now = Used(train, (*judge, label_set)[-50:]) if evaluation else Used((*train, label_set)[-50:], judge)
    return replace(task, used=now, rev=task.rev + 1)


def kept(task: LabelTask, rules: QueueRules) -> LabelTask:
    """With the day on which it may go, where it has come to an end."""
    if not task.labeling_status.terminal:
        return task if task.expires_at is None else replace(task, expires_at=None)
    at = task.history[-1].at if task.history else task.since
    return replace(task, expires_at=at + rules.keep)


def _moved(task: LabelTask, now: float, by: str, status: LabelingStatus, why: str = "", **changes: Any) -> LabelTask:
    move = Move(now, by, status.value, cut(why, _REASON))
    history = (*task.history, move)[-_HISTORY:]
    return replace(task, labeling_status=status, history=history, rev=task.rev + 1, **changes)


def _refused(skips: Sequence[Skip]) -> bool:
    return len({skip.by for skip in skips}) >= SKIPS


def _given_up(task: LabelTask, now: float, by: str, why: str) -> LabelTask:
    """Unclear; but where another label was asked for of one that has a final label, that stands."""
    if task.final is None:
        return _moved(task, now, by, Status.UNCLEAR, why, labeler=_NOBODY)
    votes = [a for a in task.labels if not a.late]
    return _moved(task, now, by, Status.DONE, why, labeler=votes[-1].by if votes else _NOBODY, need=len(votes))


def _weighed(
    task: LabelTask, labels: tuple[Answer, ...], now: float, by: str, rules: QueueRules, doubt: Doubt
) -> LabelTask:
    """After a label came: back into the queue for another, or to the end of the road."""
    labels = labels[:LABELS]
    votes = [a for a in labels if not a.late]
    task = replace(task, labels=labels, lease=None, attempts=0)
    if task.known:
        status = Status.DONE if len(labels) >= LABELS else Status.IN_QUEUE
        return _moved(task, now, by, status, labeler=_NOBODY)
    need = max(task.need, len(votes) + 1 if doubt(votes) and len(votes) < rules.most_labels else 0)
    if len(votes) < need:
        return _moved(task, now, by, Status.IN_QUEUE, "another opinion is wanted", need=need, labeler=_NOBODY)
    values = [a.value for a in votes]
    value, majority = vote(values)
    status = Status.LABELED if len(votes) == 1 else Status.AGREED if majority else Status.DISAGREED
    agreement = Agreement(len(votes), raw([values]) or 0.0) if len(votes) > 1 else None
    task = _moved(task, now, by, status, labeler=by or task.labeler, agreement=agreement)
    if status is Status.DISAGREED or task.severity == PUBLICITY:
        return replace(task, reviewing_status=Reviewing.TO_REVIEW)
    if task.reviewing_status is Reviewing.NONE and chosen(task.id, rules.review, "review"):
        task = replace(task, reviewing_status=Reviewing.TO_REVIEW)
    return _finished(task, now, "vote", value)


def _finished(task: LabelTask, now: float, how: str, value: Value) -> LabelTask:
    boxes = next((a.boxes for a in task.labels if not a.late and a.value == value), ())
    return _moved(task, now, "", Status.DONE, how, final=Final(value, how, now, boxes))


def _top(task: LabelTask) -> Value:
    return vote([a.value for a in task.labels if not a.late])[0]


def _corrected(task: LabelTask, answer: Answer, rules: QueueRules, doubt: Doubt) -> LabelTask:
    """The labeler changed the answer where it was given."""
    labels = tuple(answer if a.token == answer.token else a for a in task.labels)
    if task.labeling_status.open or task.reviewing_status not in (Reviewing.NONE, Reviewing.TO_REVIEW):
        return replace(task, labels=labels, rev=task.rev + 1)
    return _weighed(task, labels, answer.at, answer.by, rules, doubt)


def _asked_again(
    task: LabelTask, labels: tuple[Answer, ...], now: float, by: str, why: str, **changes: Any
) -> LabelTask:
    changes = {"reviewing_status": Reviewing.NONE, **changes}
    need = min(task.need, sum(not a.late for a in labels) + 1)
    return _moved(
        task, now, by, Status.IN_QUEUE, why, labels=labels, need=need, lease=None, labeler=_NOBODY, final=None,
        agreement=None, attempts=0, **changes,
    )  # fmt: skip
