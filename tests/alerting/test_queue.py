"""One contract for every label queue: SQLite always, the MongoDB wire server where it is installed."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from alerting.deliver import Undelivered
from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.moves import ATTEMPTS
from alerting.labeling.queue import LabelQueue, Outcome, QueueError, QueueSink
from alerting.labeling.task import (
    LARGEST,
    ClassScore,
    Draw,
    EventRef,
    LabelBatch,
    LabelTask,
    ModelRef,
    Prediction,
    Select,
    Value,
    bounded,
    drawn_at,
    task_id,
)

MODEL = ModelRef("shelf", "3")
NOW = 1_700_000_000.0
Open = Callable[[], LabelQueue]
_databases = itertools.count()


def task(number: int, **changes: Any) -> LabelTask:
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


BATCH = LabelBatch(id="batch 1", model=MODEL, N=2_000, n=50, tau=0.0125, sums={"size": 610.5}, config="c0ffee", seed=7)


@pytest.fixture(params=["sqlite", "mongo"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one queue as often as asked, as so many processes would."""
    options: QueueOptions
    if request.param == "sqlite":
        options = SqliteQueue(str(tmp_path / "deep" / "labels.sqlite"))
    else:
        url = request.getfixturevalue("mongo").url
        options = MongoQueue(url, database=f"queue{next(_databases)}")
    queues: list[LabelQueue] = []

    def open_one() -> LabelQueue:
        queues.append(options.open())
        return queues[-1]

    yield open_one
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(opened: Open) -> LabelQueue:
    return opened()


def test_a_task_comes_back_as_it_went_in(queue: LabelQueue, opened: Open) -> None:
    assert queue.put([task(1)], BATCH) == 1
    assert opened().get(task(1).id) == task(1)
    assert opened().batch("batch 1") == BATCH
    assert queue.get("nobody") is None
    assert queue.batch("nobody") is None


def test_the_document_has_the_six_fields_of_the_first_script(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    found = queue.get(task(1).id)
    seed = ["Name dataset", "Labeler", "Reviewer", "Labeling status", "Reviewing status"]
    plain = msgspec.to_builtins(found)
    assert [plain[name] for name in seed] == ["demo", "TBD", "TBD", "In queue", "None"]
    assert plain["date"] == "2023-11-14T22:13:20Z"


def test_repeats_change_nothing_even_on_a_task_that_is_done(queue: LabelQueue) -> None:
    queue.put([task(1), task(2)], BATCH)
    claimed = queue.claim("ann", NOW, 60)
    assert claimed is not None
    assert claimed.lease is not None
    queue.submit(claimed.id, claimed.lease.token, "can", "ann", NOW)
    assert queue.put([task(1), task(2), task(3), task(3)], replace(BATCH, n=9)) == 1
    assert queue.counts() == {"In queue": 2, "Labeled": 1}
    assert queue.batch("batch 1") == BATCH


def test_serves_by_priority_then_age_then_rank(queue: LabelQueue) -> None:
    tasks = [
        task(9),
        task(3),
        task(8, date=drawn_at(NOW - 60)),
        task(1, priority=-1.0),
        task(7, priority=2.5),
    ]
    queue.put(tasks, BATCH)
    served = [queue.claim("ann", NOW, 60) for _ in range(6)]
    assert [t and t.event.id for t in served] == ["event 7", "event 8", "event 3", "event 9", "event 1", None]


def test_six_labelers_never_hold_the_same_task(opened: Open) -> None:
    opened().put([task(i) for i in range(400)], BATCH)
    claimed: list[str] = []
    lock = threading.Lock()

    def label(name: str) -> None:
        mine = opened() if name < "d" else shared  # some processes of their own, some threads of one
        while (found := mine.claim(name, NOW, 600)) is not None:
            assert found.lease is not None
            assert mine.submit(found.id, found.lease.token, "box", name, NOW) is Outcome.ACCEPTED
            with lock:
                claimed.append(found.id)

    shared = opened()
    threads = [threading.Thread(target=label, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(claimed) == len(set(claimed)) == 400
    assert shared.counts() == {"Labeled": 400}


def test_six_processes_put_the_same_tasks_once(opened: Open) -> None:
    tasks = [task(i) for i in range(100)]
    new: list[int] = []

    def put(queue: LabelQueue) -> None:
        new.append(queue.put(tasks, BATCH))

    threads = [threading.Thread(target=put, args=(opened(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(new) == 6
    assert sum(new) == 100


def claim(queue: LabelQueue, labeler: str, now: float = NOW, seconds: float = 60) -> tuple[str, str]:
    found = queue.claim(labeler, now, seconds)
    assert found is not None
    assert found.lease is not None
    return found.id, found.lease.token


def test_a_label_is_kept_and_found(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(3)], BATCH)
    labels: list[Value] = ["can", 7, True]
    for i, label in enumerate(labels):
        name, token = claim(queue, "ann")
        assert queue.submit(name, token, label, "ann", NOW + i) is Outcome.ACCEPTED
        done = queue.get(name)
        assert done is not None
        assert (done.final, done.labeler, done.labeled_at, done.lease, done.attempts) == (
            label, "ann", NOW + i, None, 1,
        )  # fmt: skip
    assert [t.final for t in queue.labeled_since(NOW + 1)] == [7, True]
    assert [t.final for t in queue.labeled_since(NOW, limit=2)] == ["can", 7]
    assert queue.labeled_since(NOW + 3) == []


def test_an_answer_twice_counts_once(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    name, token = claim(queue, "ann")
    for _ in range(3):
        assert queue.submit(name, token, "can", "ann", NOW) is Outcome.ACCEPTED
    done = queue.get(name)
    assert done is not None
    assert len(done.labels) == 1


def test_a_lease_that_ran_out_passes_on_and_its_late_answer_is_kept_but_not_used(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    name, old = claim(queue, "ann", seconds=60)
    assert queue.claim("bob", NOW + 59, 60) is None
    assert claim(queue, "bob", NOW + 60)[0] == name
    assert queue.submit(name, old, "late", "ann", NOW + 61) is Outcome.LATE
    assert queue.submit(name, old, "late", "ann", NOW + 61) is Outcome.LATE
    held = queue.get(name)
    assert held is not None
    assert held.lease is not None
    assert queue.submit(name, held.lease.token, "can", "bob", NOW + 62) is Outcome.ACCEPTED
    done = queue.get(name)
    assert done is not None
    assert [(a.value, a.late) for a in done.labels] == [("late", True), ("can", False)]
    assert (done.final, done.labeler, done.attempts) == ("can", "bob", 2)


def test_a_task_that_nobody_answers_becomes_unclear(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    for i in range(ATTEMPTS):
        claim(queue, "ann", NOW + 100 * i)
    assert queue.claim("ann", NOW + 100 * ATTEMPTS, 60) is None
    assert queue.counts() == {"Unclear": 1}


def test_a_skipped_task_goes_to_others_and_after_three_to_nobody(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    for labeler in ("ann", "bob", "cid"):
        name, token = claim(queue, labeler)
        queue.skip(name, token, labeler, NOW, "blurred")
        queue.skip(name, token, labeler, NOW, "blurred")
        assert queue.claim(labeler, NOW, 60) is None
    unclear = queue.get(task(1).id)
    assert unclear is not None
    assert [(s.by, s.reason) for s in unclear.skips] == [("ann", "blurred"), ("bob", "blurred"), ("cid", "blurred")]
    assert queue.counts() == {"Unclear": 1}


def test_a_skip_with_an_old_token_does_nothing(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    name, old = claim(queue, "ann")
    claim(queue, "bob", NOW + 60)
    before = queue.get(name)
    queue.skip(name, old, "ann", NOW + 61)
    assert queue.get(name) == before


def test_an_unknown_task_is_said_so(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH)
    with pytest.raises(KeyError):
        queue.submit("nobody", "token", "can", "ann", NOW)
    with pytest.raises(KeyError):
        queue.skip("nobody", "token", "ann", NOW)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 2**63, "x" * 4_001])
def test_a_label_that_no_queue_can_hold_is_refused(queue: LabelQueue, label: Any) -> None:
    queue.put([task(1)], BATCH)
    name, token = claim(queue, "ann")
    with pytest.raises(ValueError, match="label"):
        queue.submit(name, token, label, "ann", NOW)


def wild() -> LabelTask:
    nan, long = float("nan"), "\U0001f9c3" * 10**6
    scores = tuple(ClassScore(long, i / 10**4 if i % 7 else nan) for i in range(10**4))
    return task(
        1,
        event=EventRef(long, long, 0, 2**63 - 1, nan),
        model=ModelRef(long, "\ud800"),
        prediction=Prediction(2**70, scores, float("inf")),
        select=Select("probability", "order", "batch 1", pi=nan, size=nan, score=nan),
        reason=long,
        priority=nan,
    )


def test_the_wildest_task_is_bounded_and_can_be_kept(queue: LabelQueue) -> None:
    tamed = bounded(wild())
    assert len(msgspec.json.encode(tamed)) < LARGEST
    assert [s.value for s in tamed.prediction.scores[:2]] == [0.9999, 0.9998]
    assert queue.put([wild()], BATCH) == 1
    assert queue.get(task(1).id) == tamed
    found = queue.claim("ann", NOW, 60)
    assert found is not None


def test_as_a_destination_it_takes_draws_whole_or_in_pieces(queue: LabelQueue) -> None:
    tasks = [task(i) for i in range(10)]
    whole = Draw(BATCH, tuple(tasks)).item("labels", NOW)
    pieces = [Draw(BATCH, (t,)).item("labels", NOW) for t in tasks]
    assert len({whole.id, *(p.id for p in pieces)}) == 11
    sink = QueueSink(queue)
    for _ in range(2):
        sink.send(pieces)
        sink.send([whole])
    assert queue.counts() == {"In queue": 10}
    assert queue.batch("batch 1") == BATCH


def test_sqlite_keeps_what_it_took_when_the_process_dies(tmp_path: Path) -> None:
    options = SqliteQueue(str(tmp_path / "labels.sqlite"))
    dying = options.open()
    dying.put([task(1)], BATCH)
    again = options.open()  # the first is never closed
    assert again.counts() == {"In queue": 1}
    again.close()
    dying.close()


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    path.write_text(json.dumps(list(range(1_000))))
    with pytest.raises(QueueError, match="not a database"):
        SqliteQueue(str(path)).open()


def test_a_server_that_is_down_is_told_without_the_password() -> None:
    options = MongoQueue("mongodb://ann:hunter2@127.0.0.1:1/?authSource=admin", timeout=0.2)
    assert "hunter2" not in repr(options)
    queue = options.open()
    began = time.monotonic()
    with pytest.raises(Undelivered, match="cannot be reached") as told:
        QueueSink(queue).send([Draw(BATCH, (task(1),)).item("labels", NOW)])
    assert told.value.retry
    assert "hunter2" not in str(told.value)
    assert time.monotonic() - began < 10
    queue.close()


def test_a_connection_string_that_makes_no_sense_is_refused_without_the_password() -> None:
    with pytest.raises(QueueError) as told:
        MongoQueue("mongodb://ann:hunter2@127.0.0.1:nonsense").open()
    assert "hunter2" not in str(told.value)


def test_statuses_follow_the_life_cycle(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(20)], BATCH)
    legal = {"In queue", "Leased", "Labeled", "Unclear"}
    for i in range(60):
        now = NOW + 7.0 * i
        found = queue.claim("abc"[i % 3], now, 20)
        if found is None:
            continue
        assert found.lease is not None
        if i % 4 == 0:
            queue.submit(found.id, found.lease.token, "box", "abc"[i % 3], now)
        elif i % 4 == 1:
            queue.skip(found.id, found.lease.token, "abc"[i % 3], now)
        counts = Counter(queue.counts())
        assert set(counts) <= legal
        assert counts.total() == 20
