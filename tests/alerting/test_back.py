"""Items out to each format and back, doubled and shuffled, on every queue: as many labels as items.

`make soak` does it with a thousand; every step of a task is a commit on the disk, so that takes half a minute a format.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.back import take_back
from alerting.labeling.formats import FORMATS, Fault, Reply
from alerting.labeling.queue import LabelQueue
from alerting.labeling.rules import QueueRules
from alerting.labeling.task import (
    ClassScore,
    EventRef,
    LabelBatch,
    LabelTask,
    ModelRef,
    Picture,
    Prediction,
    Select,
    asked,
    drawn_at,
    task_id,
)
from tests.alerting.labelers import LABELERS

NOW = 1_795_341_000.0
N = int(os.environ.get("DRIFTD_ROUND_TRIP", "40"))
MODEL = ModelRef("shelf", "3")
PLAIN = QueueRules(overlap=0.0, review=0.0, known_share=0.0)
_databases = itertools.count()


def tasks(n: int) -> list[LabelTask]:
    return [
        LabelTask(
            id=task_id("demo", "shelf", f"e{i}"), dataset="demo", date=drawn_at(NOW), event=EventRef(f"e{i}", time=NOW),
            model=MODEL, prediction=Prediction("can", (ClassScore("can", 0.6), ClassScore("jar", 0.4)), 0.2),
            select=Select("probability", "margin", "b", pi=0.1, size=1.0, rank=i), reason="drawn",
            uri=f"s3://shelf/{i}.jpg", picture=Picture(640, 480),
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(params=["sqlite", "mongo"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LabelQueue]:
    options: QueueOptions
    if request.param == "sqlite":
        options = SqliteQueue(str(tmp_path / "labels.sqlite"), rules=PLAIN)
    else:
        url = request.getfixturevalue("mongo").url
        options = MongoQueue(url, database=f"back{next(_databases)}", rules=PLAIN)
    opened = options.open()
    yield opened
    opened.close()


def given_out(queue: LabelQueue, tool: str, n: int) -> list[LabelTask]:
    queue.put(tasks(n), LabelBatch(id="b", model=MODEL, N=10 * n, n=n), NOW)
    pending = queue.export_pending(tool, "demo", n, NOW, 86_400.0)
    queue.exported(tool, {task.id: f"their {i}" for i, task in enumerate(pending)}, NOW)
    return pending


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FORMATS)
def test_as_many_labels_as_items_out_and_back_doubled_and_shuffled(queue: LabelQueue, name: str) -> None:
    rng = random.Random(name)
    pending = given_out(queue, name, N)
    labels = {task.id: rng.choice(["can", "jar"]) for task in pending}
    sent = FORMATS[name].write([asked(task, prediction=True) for task in pending])
    came = list(FORMATS[name].read(LABELERS[name](sent, labels))) * 2
    rng.shuffle(came)

    back = take_back(queue, name, came, NOW)

    assert (back.accepted, back.late, back.faults, back.unknown) == (2 * N, 0, 0, 0)
    finals = queue.finals(10 * N)
    assert {final.task: final.label for final in finals} == labels
    assert len(finals) == N
    assert all(len(task.labels) == 1 for task in queue.labeled_since(0.0, 10 * N))
    queue.acknowledge(finals)
    take_back(queue, name, came, NOW)
    assert queue.finals(10 * N) == []  # a third reading tells nothing new


def test_a_later_annotation_replaces_an_earlier_one_in_any_order(queue: LabelQueue) -> None:
    first, second = given_out(queue, "tool", 2)
    earlier = [Reply(task=t.id, value="can", at=NOW, annotation="7") for t in (first, second)]
    later = [Reply(task=t.id, value="jar", at=NOW + 0.001, annotation="7") for t in (first, second)]

    take_back(queue, "tool", [earlier[0], later[0], earlier[0]], NOW)
    take_back(queue, "tool", [later[1], earlier[1]], NOW)

    assert {final.label for final in queue.finals(10)} == {"jar"}


def test_what_cannot_be_taken_is_counted_and_told(queue: LabelQueue) -> None:
    (task,) = given_out(queue, "tool", 1)

    back = take_back(
        queue, "tool",
        [
            Fault("line 3", "no JSON"), Reply(task="nobody's", value="can"), Reply(task=task.id, value="x" * 10_000),
            Reply(task=task.id, skipped=True, by="ada"), Reply(task=task.id, value="can", by="bob", annotation="1"),
        ],
        NOW,
    )  # fmt: skip

    assert (back.faults, back.unknown, back.skipped, back.accepted) == (2, 1, 1, 1)
    assert back.shown[0] == "line 3: no JSON"
    assert [final.label for final in queue.finals(10)] == ["can"]


def test_a_deleted_annotation_counts_no_more(queue: LabelQueue) -> None:
    (task,) = given_out(queue, "tool", 1)
    take_back(queue, "tool", [Reply(task=task.id, value="can", at=NOW, annotation="7")], NOW)
    assert queue.annotations(task.id, "tool") == ["7"]

    queue.retract_from_tool(task.id, "tool", "7", NOW)

    assert queue.annotations(task.id, "tool") == []
    assert queue.claim("ada", NOW, 60.0) is not None


def test_a_tool_that_has_a_task_is_not_given_it_twice(queue: LabelQueue) -> None:
    (task,) = given_out(queue, "tool", 1)
    queue.skip_from_tool(task.id, "tool", "tool:ada", NOW)

    assert queue.export_pending("tool", "demo", 10, NOW, 60.0) == []
    assert [each.id for each in queue.export_pending("other", "demo", 10, NOW, 60.0)] == [task.id]
