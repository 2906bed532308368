"""Killed under load again and again, the daemon counts, tells and asks as if it never was.

Compared with the ledger's truth, which shares no code with the daemon, and with a run that nobody disturbed.
"""

from __future__ import annotations

import json
import math
import os
import random
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from detectors.encode import decode, encode
from detectors.profile import Profile
from detectors.reference import Reference
from monitor.scopes import WHOLE
from monitor.store import DirectoryStore
from tests.faults import shelf
from tests.services.daemon import Daemon
from tests.services.kafka import Kafka
from tests.services.ledger import Ledger, Sent, produce, tally
from tests.services.mongo import Mongo
from tests.services.prometheus import Alertmanager
from tests.services.web import Call, Receiver

KILLS = int(os.environ.get("DRIFTD_KILLS", "25"))  # `make soak` asks for 100
PARTITIONS = 2
EVENTS = 1_600 * KILLS
PACE = 500.0  # events a second, about what is read between two kills: each of them costs 3 s
LEDGER = Ledger(seed=3, rate=100.0, disorder=1.5, missing=0.02, poison=0.002)
SPAN = EVENTS / LEDGER.rate  # seconds of event time
DRIFTS = {
    name: (LEDGER.start + SPAN * begin, LEDGER.start + SPAN * end)
    for name, begin, end in (("n0", 0.2, 0.4), ("n1", 0.6, 0.8))
}


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    status: dict[str, Any]
    windows: dict[int, Profile]
    tasks: dict[str, tuple[str, float | None]]  # batch and inclusion probability by the task's id
    letters: Counter[bytes]


def windows(state: Path, reference: Reference) -> dict[int, Profile]:
    """Every judged window by its number, as the judge's checkpoint keeps it."""
    blob = DirectoryStore(state / "store").get("judge")
    assert blob is not None
    saved = decode(decode(blob, dict[str, Any])["judge"], dict[str, Any])["shelf"]
    history = saved["scopes"][WHOLE]["history"]
    return {kept["window"]: Profile.decode(reference.layout, kept["profile"]) for kept in history}


def outcome(daemon: Daemon, reference: Reference, tasks: Callable[[], dict[str, Any]]) -> Outcome:
    """Waits until all is judged and delivered, ends the daemon in order, and looks at what there is."""
    status = daemon.judged(EVENTS, seconds=90)
    daemon.wait(lambda: len(tasks()) >= status["label_tasks"], 30, "the label tasks to be delivered")
    assert daemon.stop() == 0
    letters = Counter(letter.value or b"" for letter in daemon.letters())
    return Outcome(status, windows(daemon.state, reference), tasks(), letters)


# -- kills


Sight = Callable[[], object]  # what is looked at from outside; a step was taken when it changed


def files(directory: Path, *patterns: str) -> Sight:
    def seen() -> object:
        found = set()
        for path in (path for pattern in patterns for path in directory.glob(pattern)):
            with suppress(FileNotFoundError):  # replaced or trimmed this moment
                stat = path.stat()
                found.add((path.name, stat.st_mtime_ns, stat.st_size))
        return found

    return seen


def steps(state: Path, webhook: Receiver) -> dict[str, Sight]:
    """The durable steps: what can be seen of them, and where dying just behind them could lose or double something."""
    return {
        "at any moment": time.monotonic,
        "append to the exchange": files(state, "exchange/*"),
        "checkpoint half written": files(state, "store/**/.put-*"),
        "checkpoint of a lane": files(state, "store/ingest/**/[!.]*"),
        "checkpoint of the judge": files(state, "store/judge*"),
        "notice delivered": lambda: len(webhook.calls),
    }


def kill_at(sight: Sight, daemon: Daemon, rng: random.Random) -> bool:
    """Kill it just behind a step; False if that did not come within 2 s and it died at any moment instead."""
    daemon.start()
    time.sleep(rng.uniform(0.1, 1.2))
    before, deadline = sight(), time.monotonic() + 2
    while (now := sight()) == before and time.monotonic() < deadline:
        time.sleep(0.0005)
    daemon.kill()
    return now != before


# -- what must be equal


def check_windows(found: dict[int, Profile], truth_of: Sequence[Sent], reference: Reference) -> None:
    """Rows by window; and by column counts, sums, extremes, histogram and words, all exact but for float rounding."""
    layout = reference.layout
    edges = dict(zip(layout.numbers, layout.edges.tolist(), strict=True))
    truth = tally(truth_of, window=shelf.WINDOW, edges=edges)["shelf"]
    rows = {number * shelf.WINDOW: profile.rows for number, profile in found.items() if profile.rows}
    assert rows == dict(truth.windows)
    for name, number in truth.numbers.items():
        f = layout.numbers.index(name)
        seen = [profile for profile in found.values() if profile.counts[f]]
        assert sum(profile.cells[f] for profile in found.values()).tolist() == number.cells, name
        assert min(profile.low[f] for profile in seen) == number.lowest
        assert max(profile.high[f] for profile in seen) == number.highest
        assert sum(int(profile.missing[layout.index[name]]) for profile in found.values()) == truth.missing(name)
        total = math.fsum(profile.counts[f] * profile.mean[f] for profile in seen)
        assert total == pytest.approx(number.sum, rel=1e-12)
        squares = math.fsum(profile.squares[f] + profile.counts[f] * profile.mean[f] ** 2 for profile in seen)
        assert squares == pytest.approx(number.squares, rel=1e-12)
    for name, words in truth.words.items():
        known = layout.words[layout.categories.index(name)]
        counts = sum(profile.word_counts(name) for profile in found.values())
        assert dict(zip(known, counts.tolist(), strict=True)) == {word: words[word] for word in known}  # type: ignore[union-attr]


def counts(profile: Profile) -> bytes:
    """All that is exact. Means are not: they differ in the last bit, as lanes merge in the order in which they came."""
    p = profile
    exact = [p.rows, p.first, p.last, p.cells, p.missing, p.arrived, p.words, p.unseen, p.unseen_words, p.low, p.high]
    return encode([*exact, *p.tails])


def transitions(calls: Iterable[Call]) -> dict[str, list[tuple[str, str]]]:
    """(transition, notice id) by alert, each id at its first arrival: a repeat has the same id and is dropped by it."""
    told: dict[str, dict[str, str]] = defaultdict(dict)
    for call in calls:
        notice = call.json()
        told[notice["key"]].setdefault(notice["id"], notice["transition"])
    return {key: [(transition, id_) for id_, transition in by_id.items()] for key, by_id in told.items()}


def in_mongo(url: str, database: str) -> dict[str, Any]:
    with MongoClient[dict[str, Any]](url) as client:
        return {t["_id"]: (t["select"]["batch"], t["select"]["pi"]) for t in client[database]["label_tasks"].find()}


def in_sqlite(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as db:
        tasks = [json.loads(document) for (document,) in db.execute("SELECT document FROM label_tasks")]
    return {task["_id"]: (task["select"]["batch"], task["select"]["pi"]) for task in tasks}


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * KILLS)
def test_what_is_judged_told_and_asked_is_the_same_after_any_number_of_kills(
    kafka: Kafka, mongo: Mongo, alertmanager: Alertmanager, receiver: Receiver, tmp_path: Path
) -> None:
    topic = kafka.fresh_topic(PARTITIONS)
    reference_file = shelf.reference(tmp_path)
    reference = Reference.decode(reference_file.read_bytes())
    sent = list(shelf.drifting(LEDGER.records(EVENTS), DRIFTS))
    last = [*sent, *shelf.closing(LEDGER.start + SPAN, PARTITIONS)]
    rng = random.Random(11)

    def config(webhook: Receiver, group: str, *sinks: dict[str, Any], **more: Any) -> dict[str, Any]:
        source = shelf.source(kafka.bootstrap, topic) | {"group": group, "instance": group}
        told = [{"kind": "webhook", "url": webhook.url}, *sinks]
        model = {"reference": {"path": str(reference_file)}}
        return shelf.config(kafka, topic, sources=[source], model=model, alerts={"sinks": told}, **more)

    with Receiver() as webhook, Receiver() as calm_webhook:
        disturbed = Daemon(
            tmp_path / "disturbed",
            config(
                webhook,
                f"{topic}-disturbed",
                {"kind": "alertmanager", "urls": [alertmanager.url]},
                labeling={"kind": "mongo", "url": mongo.url, "database": topic},
            ),
        )
        producing = threading.Thread(
            target=produce,
            args=(kafka.bootstrap, topic, last),
            kwargs={"partitions": PARTITIONS, "pace": PACE},
            daemon=True,
        )
        producing.start()
        died_at: Counter[tuple[str, bool]] = Counter()
        sights = steps(disturbed.state, webhook)
        for step in islice(cycle(sights), KILLS):
            died_at[step, kill_at(sights[step], disturbed, rng)] += 1
        producing.join()
        with disturbed:
            found = outcome(disturbed, reference, lambda: in_mongo(mongo.url, topic))

        calm = Daemon(tmp_path / "calm", config(calm_webhook, f"{topic}-calm"))
        with calm:
            wanted = outcome(calm, reference, lambda: in_sqlite(calm.state / "labels.sqlite"))

        print(dict(died_at))
        check_windows(found.windows, sent, reference)
        assert {n: counts(p) for n, p in found.windows.items()} == {n: counts(p) for n, p in wanted.windows.items()}
        assert (found.status["events"], found.status["late"]) == (EVENTS, 0)

        poison = Counter(record.value for record in sent if record.event is None)
        assert wanted.letters == poison
        assert found.letters.keys() == poison.keys(), "a record set aside that should not be, or the other way round"
        assert not poison - found.letters

        assert found.tasks == wanted.tasks
        assert len(found.tasks) > 100

        told = transitions(webhook.calls)
        assert told == transitions(calm_webhook.calls)
        assert {key: [how for how, _ in each] for key, each in told.items()} == {
            "shelf/level/n0": ["opened", "resolved"],
            "shelf/level/n1": ["opened", "resolved"],
        }
        group = [alert for call in receiver.calls for alert in call.json()["alerts"]]
        assert [(alert["labels"]["column"], alert["status"]) for alert in group] == [
            ("n0", "firing"),
            ("n0", "resolved"),
            ("n1", "firing"),
            ("n1", "resolved"),
        ]
