"""Label tasks to test queues with."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alerting.labeling.queue import LabelQueue
from alerting.labeling.rules import QueueRules
from alerting.labeling.task import (
    ClassScore,
    EventRef,
    LabelBatch,
    LabelTask,
    ModelRef,
    Prediction,
    Select,
    drawn_at,
    task_id,
)

MODEL = ModelRef("shelf", "3")
NOW = 1_700_000_000.0
BATCH = LabelBatch(id="batch 1", model=MODEL, N=2_000, n=50, tau=0.0125, sums={"size": 610.5}, config="c0ffee", seed=7)
PLAIN = QueueRules(overlap=0.0, review=0.0, known_share=0.0)  # one label a task, no reviews


def task(number: int, **changes: Any) -> LabelTask:
    """Drawn at random, of rank `number`."""
    made = LabelTask(
        id=task_id("demo", "shelf", f"event {number}"),
        dataset="demo",
        date=drawn_at(NOW),
        event=EventRef(f"event {number}", "inference", 2, 10**15 + number, NOW - 5.25),
        model=MODEL,
        prediction=Prediction("box", (ClassScore("box", 0.6), ClassScore("$can.of beans", 0.4)), 0.2),
        select=Select("probability", "order", "batch 1", pi=0.125, size=0.7, rank=number, config="c0ffee", seed=7),
        reason="doubt",
    )
    return replace(made, **changes)


def asked_for(number: int, priority: float = 0.0, **changes: Any) -> LabelTask:
    """Asked for by an alert."""
    return task(number, select=Select("take_all", "alert", "batch 1", 1.0), priority=priority, **changes)


def drawn(number: int, key: float, batch: str = "batch 1", **changes: Any) -> LabelTask:
    """Of size 2 and with the key of its rank, so that it can wait in reserve."""
    select = Select("probability", "order", batch, pi=None, size=2.0, rank=number, key=key)
    return task(number, select=select, **changes)


def claim(queue: LabelQueue, labeler: str, now: float = NOW, seconds: float = 60) -> tuple[str, str]:
    """Id and token of a task that there must be."""
    found = queue.claim(labeler, now, seconds)
    assert found is not None
    assert found.lease is not None
    return found.id, found.lease.token


def label(queue: LabelQueue, labeler: str, value: Any, now: float = NOW) -> LabelTask:
    """Claims a task and answers it; the task as it is then."""
    name, token = claim(queue, labeler, now)
    assert queue.submit(name, token, value, labeler, now) == "accepted"
    return found(queue, name)


def found(queue: LabelQueue, name: str) -> LabelTask:
    """A task that there must be."""
    there = queue.get(name)
    assert there is not None
    return there


def counts(queue: LabelQueue) -> dict[str, int]:
    """Tasks by labeling status."""
    return queue.progress("demo", NOW).counts
