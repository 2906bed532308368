"""The label queue under sixteen labelers at once, and through a week of retrains and a gap in the feed.

*Integrity*: labelers and the daemon's writer (which puts every draw twice, as a re-delivery does) are processes, killed
-9 at random and started again, until so many leases were given. Each process writes down what it was told, line by
line, before it goes on; afterwards these lines and the documents must tell the same: no token was given to two, no two
held a task at one time, no accepted label or review is missing, every task is in a legal state and there once, and the
daemon was told the label that stands. With `--rules full` a tenth is labeled twice whatever the first says, labelers
disagree on one task in eight, a fifth is reviewed, half of each draw waits in reserve, and what is done is asked for
again as the queue runs low; the purse must have paid for no more than what came back.
*Latency*: with 100,000 open tasks, 16 labelers of one claim a second each; a person takes longer. Beside it, by
the same labelers at the same pace, the least that a lease can be on that store: one update of one of 1,000 documents by
its id; and `SPIN` ms of CPU with no store at all. What these take at their slowest is the machine's doing, not the
queue's; the CPU time of a claim tells what it costs on any.
*Week*: three labelers on a driven clock, draws every minute but for a feed gap of six hours and a retrain of two hours
a day without scores; how long a labeler stood idle while the purse had room.

    python -m benchmarks.queue [--leases 100000] [--store sqlite|mongo] [--part integrity|latency|week]
        [--rules simple|full] [--url mongodb://...]

Without `--url` the store `mongo` is mongo-java-server on an H2 file, as the tests install it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.queue import LabelQueue, QueueError
from alerting.labeling.rules import Purse, QueueRules
from alerting.labeling.task import (
    EventRef,
    LabelBatch,
    LabelingStatus,
    LabelTask,
    ModelRef,
    Opinion,
    Outcome,
    Prediction,
    ReviewingStatus,
    Select,
    Turn,
    drawn_at,
    task_id,
)

LABELERS = 16
REVIEWING = 0.1  # share of a labeler's turns in which it looks for something to review
DISSENT = 0.125  # share of labels that are another class
BACK = "look again"  # what a reviewer says, who may send it back
LEASE = 5.0  # seconds; a labeler that was killed loses its task after this
DRAW = 500  # tasks of a draw
PATIENCE = 90.0  # seconds without a lease after which the rest is called unreachable; what a killed daemon was about to
# release from the reserve is looked at again after 60
MODEL = ModelRef("shelf", "3")
DAY, HOUR = 86400.0, 3600.0
RULES = {
    "simple": QueueRules(overlap=0.0, review=0.0, known_share=0.0, recheck=False),
    "full": QueueRules(overlap=0.1, review=0.2, known_share=0.0, purse=Purse(per_month=10**7)),  # a limit, never met
}


def tasks_of(draw: int, size: int, now: float, *, reserve: int = 0) -> tuple[list[LabelTask], LabelBatch]:
    """Draw number `draw` with its batch."""
    name = f"batch {draw}"
    rng = random.Random(draw)
    keys = sorted(rng.random() for _ in range(size + reserve + 1))
    tasks = [
        LabelTask(
            id=task_id("demo", MODEL.name, f"event {draw} {i}"),
            dataset="demo",
            labeling_status=LabelingStatus.IN_QUEUE if i < size else LabelingStatus.IN_RESERVE,
            date=drawn_at(now),
            event=EventRef(f"event {draw} {i}", "inference", 0, draw * 10_000 + i, now),
            model=MODEL,
            prediction=Prediction("box", margin=0.25),
            select=Select("probability", "order", name, pi=min(1.0, keys[size]), size=1.0, rank=i, key=keys[i]),
            reason="drawn",
        )
        for i in range(size + reserve)
    ]
    batch = LabelBatch(
        id=name, model=MODEL, N=100 * size, n=size, reserve=reserve, tau=keys[size], beyond=keys[-1], end=now
    )
    return tasks, batch


# -- integrity


class Told(NamedTuple):
    """A line of a process's own record, on the disk before it goes on."""

    what: str  # "lease", "asking", "skipping" or "judging" (what is about to be done), or the outcome of it
    at: float
    task: str
    token: str
    until: float = 0.0


def work(options: QueueOptions, name: str, record: Path) -> None:
    """A labeler: claims, takes a moment, answers; now and then skips, or walks away."""
    queue, rng = options.open(), random.Random(name)
    with record.open("a", buffering=1) as lines:

        def tell(*fields: Any) -> None:
            lines.write(json.dumps(Told(*fields)) + "\n")

        while True:
            try:
                if rng.random() < REVIEWING and (task := queue.review_next(name, time.time(), LEASE)) and task.lease:
                    tell("lease", time.time(), task.id, task.lease.token, task.lease.until)
                    if rng.random() < 0.02:
                        continue
                    tell("judging", time.time(), task.id, task.lease.token)
                    opinion = rng.choices(list(Opinion), [6, 3, 1])[0]
                    judged = queue.review(task.id, task.lease.token, opinion, name, time.time(), "crate", BACK)
                    tell(f"judged {judged}", time.time(), task.id, task.lease.token)
                    continue
                task = queue.claim(name, time.time(), LEASE)
                if task is None or task.lease is None:
                    time.sleep(0.2)
                    continue
                tell("lease", time.time(), task.id, task.lease.token, task.lease.until)
                if rng.random() < 0.02:
                    continue  # walks away; the lease runs out
                if rng.random() < 0.01:
                    tell("skipping", time.time(), task.id, task.lease.token)
                    queue.skip(task.id, task.lease.token, name, time.time(), "blurred")
                    continue
                tell("asking", time.time(), task.id, task.lease.token)
                said = "jar" if rng.random() < DISSENT else "box"
                outcome = queue.submit(task.id, task.lease.token, said, name, time.time())
                tell(outcome.value, time.time(), task.id, task.lease.token)
            except QueueError:
                time.sleep(0.05)


def write(options: QueueOptions, leases: int, record: Path) -> None:
    """The daemon's side: puts every draw twice, tends, and takes over final labels. Like an outbox it begins again with
    the first draw that was not acknowledged."""
    queue, puts = options.open(), record.with_name("draws put")
    with record.open("a", buffering=1) as lines, puts.open("a+", buffering=1) as acknowledged:
        acknowledged.seek(0)
        reserve = DRAW // 2 if options.rules.purse.limited else 0
        draw, draws = len(acknowledged.readlines()), _draws(options, leases)
        while True:
            try:
                if draw < draws:
                    for _ in range(2):
                        queue.put(*tasks_of(draw, DRAW - reserve, 0.0, reserve=reserve), time.time())
                    acknowledged.write(f"{draw}\n")
                    draw += 1
                    continue
                queue.tend(time.time())
                while finals := queue.finals(500):
                    for final in finals:
                        lines.write(json.dumps([final.task, final.rev, final.label]) + "\n")
                    queue.acknowledge(finals)
                time.sleep(1.0)
            except QueueError:
                time.sleep(0.05)


def _draws(options: QueueOptions, leases: int) -> int:
    """How many feed so many leases; with reviews and rechecks 4,000 tasks were seen to take 7,840."""
    return math.ceil(leases / DRAW * (0.55 if options.rules.recheck else 1.0))


def integrity(
    options: QueueOptions, leases: int, directory: Path, kills: float, labelers: int = LABELERS
) -> dict[str, Any]:
    """Runs the processes, kills one every `kills` seconds, and says what does not agree afterwards."""
    context = multiprocessing.get_context("spawn")
    records = [directory / f"labeler {i}" for i in range(labelers)]
    taken_over = directory / "writer"
    for record in (*records, taken_over):
        record.touch()
    rng, killed = random.Random(1), Counter[str]()

    def start(i: int) -> BaseProcess:
        if i == labelers:
            made = context.Process(target=write, args=(options, leases, taken_over), daemon=True)
        else:
            made = context.Process(target=work, args=(options, f"labeler {i}", records[i]), daemon=True)
        made.start()
        return made

    began = time.monotonic()
    running = [start(i) for i in range(labelers + 1)]
    given, moved = 0, time.monotonic()
    while given < leases and time.monotonic() - moved < PATIENCE:
        time.sleep(kills)
        victim = labelers if rng.random() < 0.1 else rng.randrange(labelers)
        os.kill(running[victim].pid or 0, signal.SIGKILL)
        running[victim].join()
        killed["writer" if victim == labelers else "labeler"] += 1
        running[victim] = start(victim)
        now_given = sum(record.read_bytes().count(b'"lease"') for record in records)
        given, moved = now_given, time.monotonic() if now_given > given else moved
    for process in running:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    seconds = time.monotonic() - began
    return {"leases": given, "seconds": round(seconds), "killed": dict(killed)} | audit(
        options, leases, records, taken_over
    )


def audit(options: QueueOptions, leases: int, records: list[Path], taken_over: Path) -> dict[str, Any]:
    """What the records and the documents say of each other; zeroes where they agree."""
    told = {record.name: [Told(*fields) for fields in _lines(record)] for record in records}
    every = [line for lines in told.values() for line in lines]
    by_what: dict[str, dict[str, Told]] = defaultdict(dict)
    owners: dict[str, set[str]] = defaultdict(set)
    for name, lines in told.items():
        for line in lines:
            by_what[line.what][line.token] = line
            owners[line.token].add(name)
    accepted, judged = by_what[Outcome.ACCEPTED], by_what[f"judged {Outcome.ACCEPTED}"]
    asked = [*by_what["asking"].values(), *by_what["judging"].values(), *by_what["skipping"].values()]
    ended = {line.token: line.at for line in asked}  # or later
    held: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in by_what["lease"].values():
        held[line.task].append((line.at, min(line.until, ended.get(line.token, line.until))))
    double = sum(after[0] < before[1] - 0.001 for spans in held.values() for before, after in pairwise(sorted(spans)))
    queue = options.open()
    far = time.time() + 60
    for _ in range(3):
        queue.tend(far)  # what the killed left half done
    final: dict[str, tuple[int, Any]] = {}
    for name, rev, label in _lines(taken_over):
        final[name] = max(final.get(name, (-1, None)), (rev, label), key=lambda told: told[0])
    while finals := queue.finals(500):
        for each in finals:
            final[each.task] = each.rev, each.label
        queue.acknowledge(finals)
    answers: dict[str, set[str]] = defaultdict(set)
    last: dict[str, Told] = {}
    for line in accepted.values():
        answers[line.task].add(line.token)
    for line in judged.values():
        last[line.task] = max(last.get(line.task, line), line, key=lambda review: review.at)
    lost = unjudged = illegal = untold = untrue = there = 0
    draws = _draws(options, leases)
    ids = [task_id("demo", MODEL.name, f"event {draw} {i}") for draw in range(draws) for i in range(DRAW)]
    for task in (task for name in ids if (task := queue.get(name)) is not None):
        there += 1
        again = any(move.why == BACK for move in task.history)  # from then on its labels count no more
        lost += len(answers[task.id] - {answer.token for answer in task.labels if again or not answer.late})
        review = last.get(task.id)
        unjudged += review is not None and (task.review is None or task.review.at < review.at - LEASE)
        mine = {answer.token for answer in task.labels if not answer.late}
        illegal += not _legal(task) or not mine <= by_what["asking"].keys()
        if task.labeling_status is LabelingStatus.DONE and task.final is not None:
            untold += task.id not in final or final[task.id][1] != task.final.value
        batch = queue.batch(task.select.batch)
        if task.labeling_status is not LabelingStatus.IN_RESERVE and batch is not None:
            untrue += task.select.pi != (1.0 if batch.tau is None else min(1.0, batch.tau))
    # who was killed while it asked does not know: it is paid for, or not
    unknown = (by_what["asking"].keys() | by_what["judging"].keys()) - {
        line.token for line in every if line.what.endswith(tuple(Outcome))
    }
    progress = queue.progress("demo", far)
    paid, sure = progress.asked["month"], len(accepted) + len(judged)
    queue.close()
    return {
        "shared tokens": sum(len(who) > 1 for who in owners.values()),
        "double leases": double,
        "lost labels": lost,
        "lost reviews": unjudged,
        "illegal tasks": illegal,
        "labels never told": untold,
        "untrue probabilities": untrue,
        "tasks beside those put": sum(progress.counts.values()) - len(ids),
        "lost tasks": len(ids) - there,
        "paid for nothing": max(0, paid - sure - len(unknown)),
        "not paid for": max(0, sure - paid),
        "reviews": len(judged),
        "labels": len(accepted),
        "census": progress.counts,
    }


def _legal(task: LabelTask) -> bool:
    """Once all leases have run out."""
    votes = [a for a in task.labels if not a.late]
    again = task.place.turn is Turn.RECHECK  # its label stands until there is a new one
    if len({a.by for a in votes}) < len(votes):
        return False
    match task.labeling_status:
        case LabelingStatus.IN_QUEUE:
            return task.lease is None and (again or task.final is None) and len(votes) < task.need
        case LabelingStatus.IN_RESERVE:
            return task.lease is None and task.final is None and not votes
        case LabelingStatus.DISAGREED:
            waits = task.reviewing_status is ReviewingStatus.TO_REVIEW
            return waits and task.lease is None and len(votes) >= task.need
        case LabelingStatus.DONE:
            judged = task.review is not None and task.review.opinion is not Opinion.SEND_BACK
            return (
                task.reviewing_status is not ReviewingStatus.IN_REVIEW
                and task.lease is None
                and task.final is not None
                and len(votes) >= task.need
                and (not judged or task.review is None or task.review.by not in {a.by for a in votes})
            )
        case LabelingStatus.UNCLEAR:
            return task.lease is None and task.final is None
        case _:
            return False


def _lines(record: Path) -> Iterator[Any]:
    """The last may be torn: its writer was killed."""
    for line in record.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


# -- latency


BARE = 1_000  # documents of the floor
SPIN = 1.5  # milliseconds of CPU; what a claim takes on SQLite


def bare(options: QueueOptions) -> Callable[[str, str], object]:
    """Gives one of `BARE` documents of 1 KB an owner: a transaction of SQLite, or a find_one_and_update."""
    names = [f"bare {i}" for i in range(BARE)]
    if isinstance(options, SqliteQueue):
        db = sqlite3.connect(f"{options.path}.bare", isolation_level=None, timeout=10.0)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS bare (id TEXT PRIMARY KEY, owner TEXT, document TEXT)")
        db.executemany("INSERT OR IGNORE INTO bare VALUES (?, '', ?)", [(name, "x" * 1_000) for name in names])
        return lambda name, owner: db.execute("UPDATE bare SET owner = ? WHERE id = ?", (owner, name))
    from pymongo import MongoClient

    documents = MongoClient[dict[str, Any]](options.url)[options.database]["bare"]
    for name in names if documents.estimated_document_count() < BARE else ():
        documents.replace_one({"_id": name}, {"_id": name, "owner": "", "document": "x" * 1_000}, upsert=True)
    return lambda name, owner: documents.find_one_and_update({"_id": name}, {"$set": {"owner": owner}})


def pace(options: QueueOptions, name: str, claims: int, record: Path, ready: Any) -> None:
    """A labeler of one claim a second, and of one bare update half a second later."""
    queue, own, rng = options.open(), bare(options), random.Random(name)
    queue.claim(name, time.time(), 600.0, "demo")  # connects
    ready.wait()
    time.sleep(rng.random())
    told: dict[str, list[float]] = {"ms": [], "cpu ms": [], "bare ms": [], "spin ms": []}
    for _ in range(claims):
        due = time.perf_counter() + 1.0
        before, spent = time.perf_counter(), time.process_time()
        task = queue.claim(name, time.time(), 600.0, "demo")
        told["ms"].append(time.perf_counter() - before)
        told["cpu ms"].append(time.process_time() - spent)
        if task is None or task.lease is None:
            raise SystemExit("the queue ran out")
        queue.submit(task.id, task.lease.token, "box", name, time.time())
        time.sleep(max(0.0, due - 0.5 - time.perf_counter()))
        before = time.perf_counter()
        own(f"bare {rng.randrange(BARE)}", name)
        told["bare ms"].append(time.perf_counter() - before)
        time.sleep(max(0.0, due - 0.25 - time.perf_counter()))
        before, spent = time.perf_counter(), time.process_time()
        while time.process_time() - spent < SPIN / 1e3:
            pass
        told["spin ms"].append(time.perf_counter() - before)
        time.sleep(max(0.0, due - time.perf_counter()))
    record.write_text(json.dumps(told))


def latency(options: QueueOptions, waiting: int, claims: int, directory: Path) -> dict[str, Any]:
    """Quantiles of a lease with so many tasks open, and of the floors."""
    queue = options.open()
    bare(options)
    for draw in range(waiting // DRAW):
        queue.put(*tasks_of(draw, DRAW, 0.0), time.time())
    _tend(queue)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(LABELERS)
    records = [directory / f"pace {i}" for i in range(LABELERS)]
    paced = [
        context.Process(target=pace, args=(options, f"labeler {i}", claims, record, ready))
        for i, record in enumerate(records)
    ]
    for process in paced:
        process.start()
    while any(process.is_alive() for process in paced):
        _tend(queue)
        time.sleep(2.0)
    queue.close()
    told = [json.loads(record.read_text()) for record in records]
    found: dict[str, Any] = {"open": waiting, "load": os.getloadavg()[0]}
    for what in told[0]:
        took = sorted(1e3 * each for one in told for each in one[what])
        found["leases"] = len(took)
        found[what] = {
            f"p{q:g}": round(took[min(len(took) - 1, int(q / 100 * len(took)))], 1) for q in (50, 90, 99, 99.9)
        }
    return found


def _tend(queue: LabelQueue) -> None:
    """As the daemon does: what fails is tried again at the next round. mongo-java-server on 256 MB cannot always read
    100,000 documents at once."""
    with suppress(QueueError):
        queue.tend(time.time())


# -- a week


def week(options: QueueOptions, *, seconds: float = 7 * DAY, labelers: int = 3) -> dict[str, Any]:
    """Three labelers, 60 labels an hour each for eight hours a day; 50 labels an hour are drawn. No draw comes in the
    two hours after noon (a retrain: no scores) nor in six hours of the third day's work (a feed gap)."""
    queue = options.open()
    start = 1_700_006_400.0  # a midnight
    free = dict.fromkeys((f"labeler {i}" for i in range(labelers)), start)
    idle = stopped = labels = rechecks = 0.0
    asked = Counter[float]()
    now, draw = start, 0
    while now < start + seconds:
        hour = (now - start) % DAY / HOUR
        gap = 2 * DAY + 9 * HOUR <= now - start < 2 * DAY + 15 * HOUR
        if not (12 <= hour < 14 or gap) and int(now) % 600 == 0:
            queue.put(*tasks_of(draw, 25, now, reserve=50), now)
            draw += 1
        if 8 <= hour < 17:
            queue.tend(now)
        for name in free:
            if 9 <= hour < 17 and free[name] <= now:
                task = queue.claim(name, now, 900.0)
                if task is None or task.lease is None:
                    if asked[now // DAY] < (options.rules.purse.per_day or math.inf):
                        idle += 60
                    else:
                        stopped += 60
                    continue
                asked[now // DAY] += 1
                queue.submit(task.id, task.lease.token, "box", name, now + 30)
                rechecks += task.place.turn == "recheck"
                labels += 1
                free[name] = now + 60
        now += 60.0
    queue.close()
    return {"labels": int(labels), "of them rechecks": int(rechecks), "idle s": idle, "stopped by the purse s": stopped}


# -- all of it


@contextmanager
def stores(kind: str, directory: Path, url: str | None = None) -> Iterator[Any]:
    """Gives options of the store by rules."""
    if kind == "sqlite":
        yield lambda name, rules: SqliteQueue(str(directory / f"{name}.sqlite"), rules=rules)
        return
    if url is not None:
        run = f"driftd_{os.getpid()}"
        yield lambda name, rules: MongoQueue(url, database=f"{run}_{name}", rules=rules, timeout=60.0)
        return
    from tests.services.mongo import Mongo  # Java and its jars: `make services`

    with Mongo(directory, heap="3g") as server:  # 100,000 documents are 500 MB there
        yield lambda name, rules: MongoQueue(server.url, database=name, rules=rules, timeout=60.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leases", type=int, default=100_000)
    parser.add_argument("--open", type=int, default=100_000)
    parser.add_argument("--claims", type=int, default=60, help="of each labeler, for the latency")
    parser.add_argument("--kills", type=float, default=3.0, help="seconds between two kills")
    parser.add_argument("--store", choices=("sqlite", "mongo"))
    parser.add_argument("--rules", choices=RULES, default="simple", help="of the integrity run")
    parser.add_argument("--part", choices=("integrity", "latency", "week"))
    parser.add_argument(
        "--url", help="of a MongoDB server of your own, for the store mongo; its databases are left there"
    )
    given = parser.parse_args()
    for kind in ("sqlite", "mongo") if given.store is None else (given.store,):
        with tempfile.TemporaryDirectory() as place, stores(kind, Path(place), given.url) as options:
            if given.part in (None, "integrity"):
                found = integrity(options("integrity", RULES[given.rules]), given.leases, Path(place), given.kills)
                print(kind, "integrity", given.rules, found, flush=True)
            if given.part in (None, "latency"):
                print(
                    kind,
                    "latency",
                    latency(options("latency", RULES["simple"]), given.open, given.claims, Path(place)),
                    flush=True,
                )
            if given.part in (None, "week"):
                rules = QueueRules(purse=Purse(per_day=1_400))
                print(kind, "week", week(options("week", rules)), flush=True)


if __name__ == "__main__":
    main()
