"""Replies of labeling tools into the queue, whichever way they came: hook, poll, bucket, file.

The same reply may come by several ways and any number of times; the queue counts it once, by tool, task, annotation and
the time of its last change.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import Outcome

_SHOWN = 5  # faults kept in words


class Back(msgspec.Struct):
    """What became of replies."""

    accepted: int = 0
    late: int = 0  # kept in the task, not used: its lease had passed on
    skipped: int = 0
    unknown: int = 0  # of tasks that this queue does not have
    faults: int = 0  # parts that could not be read, and labels that cannot be one
    shown: list[str] = []  # the first faults, in words


def take_back(queue: LabelQueue, tool: str, replies: Iterable[Reply | Fault], now: float) -> Back:
    """Gives each reply to its task; `now`, UTC seconds, stands where the tool tells no time. Raises QueueError."""
    back = Back()
    for reply in replies:
        if isinstance(reply, Fault):
            _fault(back, f"{reply.where}: {reply.why}")
            continue
        by, at = f"{tool}:{reply.by}" if reply.by else tool, now if reply.at is None else reply.at
        try:
            if reply.skipped:
                queue.skip_from_tool(reply.task, tool, by, at)
                back.skipped += 1
                continue
            outcome = queue.answer_from_tool(
                reply.task, tool, reply.key, reply.updated, reply.value, by, at,
                seconds=reply.seconds, boxes=reply.boxes,
            )  # fmt: skip
        except KeyError:
            back.unknown += 1
        except ValueError as error:
            _fault(back, f"task {reply.task}: {error}")
        else:
            back.accepted += outcome is Outcome.ACCEPTED
            back.late += outcome is Outcome.LATE
    return back


def _fault(back: Back, words: str) -> None:
    back.faults += 1
    if len(back.shown) < _SHOWN:
        back.shown.append(words)
