"""One contract for every label queue: SQLite always, the MongoDB wire server where it is installed."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from alerting.deliver import Undelivered
from alerting.labeling import MongoQueue, SqliteQueue
from alerting.labeling.desk import Desk
from alerting.labeling.mongo import MongoStore
from alerting.labeling.moves import ATTEMPTS
from alerting.labeling.queue import LabelQueue, QueueError, QueueSink, Wanted
from alerting.labeling.sqlite import SqliteStore
from alerting.labeling.task import (
    LARGEST,
    ClassScore,
    Draw,
    EventRef,
    Final,
    LabelingStatus,
    LabelTask,
    ModelRef,
    Outcome,
    Place,
    Prediction,
    Select,
    Value,
    bounded,
)
from tests.alerting.labels import BATCH, NOW, PLAIN, asked_for, claim, counts, label, task
from tests.services.mongo import Mongo

Open = Callable[..., LabelQueue]


def test_a_task_comes_back_as_it_went_in(queue: LabelQueue, opened: Open) -> None:
    assert queue.put([task(1)], BATCH, NOW) == 1
    kept = opened().get(task(1).id)
    assert kept is not None
    assert replace(kept, since=0.0, place=Place(), need=1) == task(1)
    assert opened().batch("batch 1") == replace(BATCH, dataset="demo")
    assert queue.get("nobody") is None
    assert queue.batch("nobody") is None


def test_the_document_has_the_six_fields_of_the_first_script(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    found = queue.get(task(1).id)
    seed = ["Name dataset", "Labeler", "Reviewer", "Labeling status", "Reviewing status"]
    plain = msgspec.to_builtins(found)
    assert [plain[name] for name in seed] == ["demo", "TBD", "TBD", "In queue", "None"]
    assert plain["date"] == "2023-11-14T22:13:20Z"


def test_repeats_change_nothing_even_on_a_task_that_is_done(queue: LabelQueue) -> None:
    queue.put([task(1), task(2)], BATCH, NOW)
    claimed = queue.claim("ann", NOW, 60)
    assert claimed is not None
    assert claimed.lease is not None
    queue.submit(claimed.id, claimed.lease.token, "can", "ann", NOW)
    assert queue.put([task(1), task(2), task(3), task(3)], replace(BATCH, n=9), NOW) == 1
    assert counts(queue) == {"In queue": 2, "Done": 1}
    assert queue.batch("batch 1") == replace(BATCH, dataset="demo")


def numbers(queue: LabelQueue, labeler: str, times: int) -> list[int | None]:
    """Events of the tasks that one labeler is given one after the other."""
    served = [queue.claim(labeler, NOW, 60) for _ in range(times)]
    return [None if t is None else int(t.event.id.split()[1]) for t in served]


def test_the_random_part_is_served_by_rank_alone(queue: LabelQueue) -> None:
    queue.put([task(9, priority=99.0), task(3), task(1, severity="critical")], BATCH, NOW)
    queue.put([task(8, select=replace(task(8).select, batch="batch 2", rank=2))], replace(BATCH, id="batch 2"), NOW + 9)
    assert numbers(queue, "ann", 5) == [1, 8, 3, 9, None]


def test_what_is_asked_for_is_served_by_priority_that_grows_by_one_an_hour(queue: LabelQueue) -> None:
    queue.put([asked_for(1, 5.0), asked_for(2, 7.0)], BATCH, NOW)
    queue.put([asked_for(3, 8.0), asked_for(4, 9.5)], BATCH, NOW + 2 * 3600)
    assert numbers(queue, "ann", 5) == [4, 2, 3, 1, None]


def test_parts_take_turns_by_their_shares(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(100)] + [asked_for(i) for i in range(100, 200)], BATCH, NOW)
    served = numbers(queue, "ann", 100)
    for n in range(1, 101):
        assert abs(sum(1 for i in served[:n] if i is not None and i >= 100) - 0.3 * n) <= 1


def test_labelers_at_once_hold_what_one_would_have_got_in_as_many_turns(opened: Open) -> None:
    tasks = [task(i) for i in range(60)] + [asked_for(i, float(i % 7)) for i in range(60, 90)]
    opened().put(tasks, BATCH, NOW)
    held: list[int] = []

    def label(queue: LabelQueue, name: str) -> None:
        held.extend(i for i in numbers(queue, name, 5) if i is not None)

    threads = [threading.Thread(target=label, args=(opened(), f"labeler {i}")) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    asked = sorted(range(60, 90), key=lambda i: (-(i % 7), task(i).id))
    assert sorted(held) == sorted([*range(21), *asked[:9]])


def test_six_labelers_never_hold_the_same_task(opened: Open) -> None:
    opened().put([task(i) for i in range(150)], BATCH, NOW)
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
    assert len(claimed) == len(set(claimed)) == 150
    assert counts(shared) == {"Done": 150}


def test_six_processes_put_the_same_tasks_once(opened: Open) -> None:
    tasks = [task(i) for i in range(100)]
    new: list[int] = []

    def put(queue: LabelQueue) -> None:
        new.append(queue.put(tasks, BATCH, NOW))

    threads = [threading.Thread(target=put, args=(opened(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(new) == 6
    assert sum(new) == 100


def test_a_label_is_kept_and_found(queue: LabelQueue) -> None:
    queue.put([task(i) for i in range(3)], BATCH, NOW)
    labels: list[Value] = ["can", 7, True]
    for i, value in enumerate(labels):
        name, token = claim(queue, "ann")
        assert queue.submit(name, token, value, "ann", NOW + i) is Outcome.ACCEPTED
        done = queue.get(name)
        assert done is not None
        assert (done.final, done.labeler, done.lease) == (Final(value, "vote", NOW + i), "ann", None)
        assert [move.to for move in done.history] == ["Leased", "Labeled", "Done"]
    assert [t.final and t.final.value for t in queue.labeled_since(NOW + 1)] == [7, True]
    assert [t.final and t.final.value for t in queue.labeled_since(NOW, limit=2)] == ["can", 7]
    assert queue.labeled_since(NOW + 3) == []


def test_an_answer_twice_counts_once(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    name, token = claim(queue, "ann")
    for _ in range(3):
        assert queue.submit(name, token, "can", "ann", NOW) is Outcome.ACCEPTED
    done = queue.get(name)
    assert done is not None
    assert len(done.labels) == 1


def test_a_lease_that_ran_out_passes_on_and_its_late_answer_is_kept_but_not_used(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
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
    assert done.final is not None
    assert (done.final.value, done.labeler, done.attempts) == ("can", "bob", 0)


def test_a_task_that_nobody_answers_becomes_unclear(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    for i in range(ATTEMPTS):
        claim(queue, "ann", NOW + 100 * i)
    assert queue.claim("ann", NOW + 100 * ATTEMPTS, 60) is None
    assert counts(queue) == {"Unclear": 1}


def test_a_skipped_task_goes_to_others_and_after_three_to_nobody(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    for labeler in ("ann", "bob", "cid"):
        name, token = claim(queue, labeler)
        queue.skip(name, token, labeler, NOW, "blurred")
        queue.skip(name, token, labeler, NOW, "blurred")
        assert queue.claim(labeler, NOW, 60) is None
    unclear = queue.get(task(1).id)
    assert unclear is not None
    assert [(s.by, s.reason) for s in unclear.skips] == [("ann", "blurred"), ("bob", "blurred"), ("cid", "blurred")]
    assert counts(queue) == {"Unclear": 1}


def test_a_skip_with_an_old_token_does_nothing(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    name, old = claim(queue, "ann")
    claim(queue, "bob", NOW + 60)
    before = queue.get(name)
    queue.skip(name, old, "ann", NOW + 61)
    assert queue.get(name) == before


def test_an_unknown_task_is_said_so(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    with pytest.raises(KeyError):
        queue.submit("nobody", "token", "can", "ann", NOW)
    with pytest.raises(KeyError):
        queue.skip("nobody", "token", "ann", NOW)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 2**63, "x" * 4_001])
def test_a_label_that_no_queue_can_hold_is_refused(queue: LabelQueue, label: Any) -> None:
    queue.put([task(1)], BATCH, NOW)
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
    assert queue.put([wild()], BATCH, NOW) == 1
    kept = queue.get(task(1).id)
    assert kept is not None
    assert replace(kept, since=0.0, place=Place()) == tamed
    found = queue.claim("ann", NOW, 60)
    assert found is not None


def test_a_draw_that_comes_again_and_again_is_ready_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "labels.sqlite")
    queue = LabelQueue(store, PLAIN)
    for i in range(5):
        assert queue.put([task(i) for i in range(300)], BATCH, NOW + i) == (300 if i == 0 else 0)
    assert msgspec.msgpack.decode(store.load("desk/demo"), type=Desk).ready == 300
    queue.close()


class DiesAfterAdding(MongoStore):
    def add(self, tasks: Sequence[LabelTask]) -> set[str]:
        super().add(tasks)
        raise KeyboardInterrupt


def test_what_a_dead_process_only_added_gets_its_place_within_a_minute(mongo: Mongo) -> None:
    options = MongoQueue(mongo.url, database="half_put", rules=PLAIN)
    dying = LabelQueue(DiesAfterAdding(options), PLAIN)
    with pytest.raises(KeyboardInterrupt):
        dying.put([task(1), task(2)], BATCH, NOW)
    dying.close()
    queue = options.open()
    assert queue.put([task(1), task(2)], BATCH, NOW + 1) == 0
    assert numbers(queue, "ann", 1) == [None]
    queue.tend(NOW + 60)
    assert numbers(queue, "ann", 3) == [1, 2, None]
    queue.close()


def test_as_a_destination_it_takes_draws_whole_or_in_pieces(queue: LabelQueue) -> None:
    tasks = [task(i) for i in range(10)]
    whole = Draw(BATCH, tuple(tasks)).item("labels", NOW)
    pieces = [Draw(BATCH, (t,)).item("labels", NOW) for t in tasks]
    assert len({whole.id, *(p.id for p in pieces)}) == 11
    sink = QueueSink(queue, lambda: NOW)
    for _ in range(2):
        sink.send(pieces)
        sink.send([whole])
    assert counts(queue) == {"In queue": 10}
    assert queue.batch("batch 1") == replace(BATCH, dataset="demo")


def test_sqlite_keeps_what_it_took_when_the_process_dies(tmp_path: Path) -> None:
    options = SqliteQueue(str(tmp_path / "labels.sqlite"))
    dying = options.open()
    dying.put([task(1)], BATCH, NOW)
    again = options.open()  # the first is never closed
    assert counts(again) == {"In queue": 1}
    again.close()
    dying.close()


def test_a_file_of_before_rows_had_numbers_is_worked_on(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    options = SqliteQueue(str(path))
    first = options.open()
    first.put([task(1), task(2)], BATCH, NOW)
    first.close()
    with closing(sqlite3.connect(path)) as file:
        (table,) = file.execute("SELECT sql FROM sqlite_schema WHERE name = 'label_tasks'").fetchone()
        file.execute("ALTER TABLE label_tasks RENAME TO newer")
        file.execute(table + " WITHOUT ROWID")
        file.execute("INSERT INTO label_tasks SELECT * FROM newer")
        file.execute("DROP TABLE newer")
        file.execute("CREATE INDEX task_finals ON label_tasks (final_at) WHERE final_at IS NOT NULL")
        file.commit()
    again = options.open()
    assert label(again, "ann", "can").event.id == "event 1"
    assert [done.event.id for done in again.labeled_since(NOW)] == ["event 1"]
    again.close()


def test_a_label_waits_for_the_disk_and_a_lease_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    queue = SqliteQueue(str(tmp_path / "labels.sqlite")).open()
    monkeypatch.setattr(os, "fdatasync", waits.append)
    queue.put([task(1)], BATCH, NOW)
    assert waits
    waits.clear()
    name, token = claim(queue, "ann")
    assert not waits
    queue.submit(name, token, "can", "ann", NOW)
    assert len(waits) == 1
    queue.close()


def test_the_log_of_a_file_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerting.labeling.sqlite._LOG", 2**18)
    path = tmp_path / "labels.sqlite"
    queues = [SqliteQueue(str(path), rules=PLAIN).open() for _ in range(2)]
    queues[0].put([task(i) for i in range(60)], BATCH, NOW)
    for i in range(60):
        label(queues[i % 2], f"labeler {i}", "can")
        assert path.with_name("labels.sqlite-wal").stat().st_size < 2**18 + 2**17
    assert counts(queues[0]) == {"Done": 60}
    for queue in queues:
        queue.close()


def test_what_waits_is_not_read_to_find_the_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connected(*given: Any, **options: Any) -> sqlite3.Connection:
        connections.append(connect(*given, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", connected)
    store = SqliteStore(tmp_path / "labels.sqlite")
    queue = LabelQueue(store, PLAIN)
    queue.put([task(i) for i in range(1_000)], BATCH, NOW)
    label(queue, "ann", "can")
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    for connection in connections:
        connection.set_progress_handler(step, 1)
    asked = [
        Wanted(dataset="demo", final_from=0.0),
        Wanted(dataset="demo", statuses=(LabelingStatus.DONE,), final_from=0.0, known=False),
        Wanted(dataset="demo", due_by=NOW),
        Wanted(dataset="demo", owner="ann"),
        Wanted(dataset="demo", batch="batch 2"),
        Wanted(dataset="demo", known=True),
        Wanted(dataset="demo", arrived_by=NOW - 1, statuses=(LabelingStatus.IN_QUEUE,), known=False),
    ]
    for wanted in asked:
        steps = 0
        store.find(wanted, 10)
        assert 0 < steps < 500, wanted
    queue.close()


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
        QueueSink(queue, lambda: NOW).send([Draw(BATCH, (task(1),)).item("labels", NOW)])
    assert told.value.retry
    assert "hunter2" not in str(told.value)
    assert time.monotonic() - began < 10
    queue.close()


def test_a_connection_string_that_makes_no_sense_is_refused_without_the_password() -> None:
    with pytest.raises(QueueError) as told:
        MongoQueue("mongodb://ann:hunter2@127.0.0.1:nonsense").open()
    assert "hunter2" not in str(told.value)
