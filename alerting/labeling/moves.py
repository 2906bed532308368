"""The moves of a label task: pure functions, so every queue has the same life cycle and only has to make one move at a
time per task."""

from __future__ import annotations

from msgspec.structs import replace

from alerting.labeling.queue import Outcome
from alerting.labeling.task import Answer, Final, LabelingStatus, LabelTask, Lease, Skip, Value, cut, held

ATTEMPTS = 5  # leases that ran out before a task is given up as unclear
SKIPS = 3  # different labelers who skip it, likewise
_LABELS = 50  # answers kept of a task, late ones included
_REASON = 200  # characters of a skip's reason


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
    value = held(label)
    if value != label:
        raise ValueError("a label is text of at most 4,000 characters, a flag, or a finite number of at most 64 bits")
    for answer in task.labels:
        if answer.token == token:
            return task, Outcome.LATE if answer.late else Outcome.ACCEPTED
    late = task.labeling_status is not LabelingStatus.LEASED or task.lease is None or task.lease.token != token
    labels = (*task.labels, Answer(value, by, now, token, late))
    if late:
        return replace(task, labels=labels[:_LABELS], rev=task.rev + 1), Outcome.LATE
    done = replace(
        task,
        labeling_status=LabelingStatus.DONE,
        labeler=by,
        labels=labels,
        final=Final(value, "vote", now),
        lease=None,
        rev=task.rev + 1,
    )
    return done, Outcome.ACCEPTED


def skipped(task: LabelTask, token: str, by: str, now: float, reason: str) -> LabelTask:
    """Leased -> In queue, or Unclear after `SKIPS` labelers; the same task when the lease is not this one."""
    if task.labeling_status is not LabelingStatus.LEASED or task.lease is None or task.lease.token != token:
        return task
    skips = (*task.skips, Skip(by, now, cut(reason, _REASON)))
    unclear = len({skip.by for skip in skips}) >= SKIPS
    return replace(
        task,
        labeling_status=LabelingStatus.UNCLEAR if unclear else LabelingStatus.IN_QUEUE,
        labeler="TBD",
        lease=None,
        skips=skips,
        rev=task.rev + 1,
    )
