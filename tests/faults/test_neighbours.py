"""What stands around the daemon fails, what it is fed is hostile: it waits, tells, and goes on without any loss."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults import shelf
from tests.services.daemon import Daemon
from tests.services.kafka import Kafka
from tests.services.ledger import Ledger, Sent, produce
from tests.services.mongo import Mongo
from tests.services.process import ServerFailed
from tests.services.toxiproxy import Proxy
from tests.services.web import Answer, Receiver, ask

LEDGER = Ledger(seed=5, rate=100.0, disorder=1.5)
EVENTS = 6_000  # a minute of event time

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(shelf.reference(tmp_path_factory.mktemp("reference")))


def stream(count: int = EVENTS, drifts: bool = False) -> list[Sent]:
    """The ledger's events and the record that closes their windows; with drift of n0 in the second third."""
    span = count / LEDGER.rate
    stretches = {"n0": (LEDGER.start + span / 3, LEDGER.start + 2 * span / 3)} if drifts else {}
    return [*shelf.drifting(LEDGER.records(count), stretches), *shelf.closing(LEDGER.start + span, 1)]


def test_a_broker_that_is_away_at_the_start_is_waited_for(
    kafka: Kafka, kafka_proxy: Proxy, reference: str, tmp_path: Path
) -> None:
    topic = kafka.fresh_topic()
    produce(kafka.bootstrap, topic, stream())
    kafka_proxy.cut()
    config = shelf.config(
        kafka, topic, model={"reference": {"path": reference}}, sources=[shelf.source(kafka_proxy.address, topic)]
    )
    with Daemon(tmp_path, config) as daemon:
        assert daemon.total("driftd_events_total") == 0
        assert b'"live":true' in ask(f"{daemon.url}/healthz")
        assert not daemon.ready()
        kafka_proxy.heal()
        assert daemon.judged(EVENTS)["events"] == EVENTS
        assert daemon.ready()
        assert daemon.stop() == 0


@pytest.mark.timeout(180)
def test_a_broker_that_dies_under_load_costs_no_event(kafka: Kafka, reference: str, tmp_path: Path) -> None:
    topic = kafka.fresh_topic()
    sent = stream(3 * EVENTS)
    with Daemon(tmp_path, shelf.config(kafka, topic, model={"reference": {"path": reference}})) as daemon:
        producing = threading.Thread(target=produce, args=(kafka.bootstrap, topic, sent), kwargs={"pace": 2_000.0})
        producing.start()
        daemon.wait(lambda: daemon.total("driftd_events_total") > EVENTS / 2, 30, "the first events")
        kafka.kill()
        assert b'"live":true' in ask(f"{daemon.url}/healthz")
        kafka.start()
        model = daemon.judged(3 * EVENTS, seconds=90)
        producing.join()
        assert (model["events"], model["late"]) == (3 * EVENTS, 0)
        assert daemon.stop() == 0


def test_a_dead_webhook_holds_up_neither_judging_nor_other_destinations_and_is_told_all_later(
    kafka: Kafka, reference: str, receiver: Receiver, tmp_path: Path
) -> None:
    topic = kafka.fresh_topic()
    produce(kafka.bootstrap, topic, stream(drifts=True))
    receiver.answers.extend([Answer(503)] * 10_000)
    with Receiver() as well:
        sinks = [{"kind": "webhook", "name": name, "url": at.url} for name, at in (("dead", receiver), ("well", well))]
        config = shelf.config(kafka, topic, model={"reference": {"path": reference}}, alerts={"sinks": sinks})
        daemon = Daemon(tmp_path, config)
        with daemon:
            daemon.judged(EVENTS)
            told = [call.json()["id"] for call in well.wait(2)]
            daemon.kill()  # what waits is in the checkpoint, not only in memory
        with daemon:
            refused = len(receiver.calls)
            receiver.wait(refused + 1)
            receiver.answers.clear()
            daemon.wait(lambda: len(accepted(receiver)) >= len(told), 30, "the dead webhook to be told")
            assert accepted(receiver) == told
            assert {call.json()["id"] for call in well.calls} == set(told), "what is said again has the id it had"
            assert daemon.stop() == 0


def accepted(receiver: Receiver) -> list[str]:
    """Ids of notices in the order of their last arrival, once no refusal is left to be given."""
    if receiver.answers:
        return []
    last = {call.json()["id"]: i for i, call in enumerate(receiver.calls)}
    return sorted(last, key=lambda id_: last[id_])


@pytest.mark.timeout(180)
def test_while_mongodb_is_dead_reading_pauses_within_its_budget_and_every_task_arrives_once(
    kafka: Kafka, mongo: Mongo, reference: str, tmp_path: Path
) -> None:
    topic = kafka.fresh_topic()
    count = 4 * EVENTS
    config = shelf.config(
        kafka,
        topic,
        model={"reference": {"path": reference}, "sampling": {"per_hour": 20_000, "at_least": 100, "within": "1s"}},
        labeling={"kind": "mongo", "url": mongo.url, "database": topic, "timeout": "1s"},
        limits={"outbox_bytes": "256KiB", "exchange_bytes": "1MiB"},
        window={"size": "1s"},
    )
    mongo.kill()
    with Daemon(tmp_path, config) as daemon:
        produce(kafka.bootstrap, topic, stream(count))
        daemon.wait(lambda: daemon.total("driftd_source_paused") == 1, 60, "reading to be paused")
        daemon.wait(lambda: daemon.total("driftd_consumer_lag_records") > 0, 30, "the lag to be looked at")
        assert daemon.total("driftd_outbox_bytes") < 2 * 262_144, "the tasks of one window over the budget, no more"
        mongo.start()
        model = daemon.judged(count, seconds=120)
        assert (model["events"], model["late"]) == (count, 0)
        with MongoClient[dict[str, Any]](mongo.url) as client:
            queue = client[topic]["label_tasks"]
            daemon.wait(lambda: queue.count_documents({}) >= model["label_tasks"], 30, "the label tasks")
            assert queue.count_documents({}) == model["label_tasks"] > 1_000
        assert daemon.stop() == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("waits", [False, True], ids=["read_again", "in_the_checkpoint"])
def test_a_record_that_kills_the_process_is_set_aside_on_the_third_start(
    kafka: Kafka, reference: str, tmp_path: Path, waits: bool
) -> None:
    """The scorer meets a row when its window closes; by then a checkpoint may hold it and lie behind its record."""
    topic = kafka.fresh_topic()
    calm = stream()
    at = 2_500  # of 6,000: in the midst of a window, behind others
    deadly = Sent(b"deadly", calm[at].value.replace(b'"c0": "', b'"c0": "deadly '), None)
    assert deadly.value != calm[at].value
    sent = [*calm[:at], deadly, *calm[at + 1 :]]
    model = {"reference": {"path": reference}, "scorers": ["tests.faults.deadly:Deadly", "uncertainty"]}
    daemon = Daemon(tmp_path, shelf.config(kafka, topic, model=model))
    with ExitStack() as after:
        after.callback(daemon.kill)
        if waits:
            produce(kafka.bootstrap, topic, sent[: at + 100])
            daemon.start()
            daemon.wait(lambda: daemon.total("driftd_events_total") == at + 100, 30, "the deadly record to be read")
            covered = saves(daemon) + 2  # the first may have begun before
            daemon.wait(lambda: saves(daemon) >= covered, 30, "a checkpoint behind it")
            produce(kafka.bootstrap, topic, sent[at + 100 :])
        else:
            produce(kafka.bootstrap, topic, sent)
        for _ in range(2):
            with pytest.raises(ServerFailed, match="ended by itself"):
                live(daemon)
            daemon.kill()
        assert live(daemon)["events"] == EVENTS - 1
        [letter] = daemon.letters()
        assert (letter.offset, letter.cause) == (at, "deadly")
        assert letter.value == (None if waits else deadly.value)
        assert daemon.stop() == 0


def saves(daemon: Daemon) -> float:
    """Checkpoints that ingest has saved since its start."""
    return daemon.series("driftd_checkpoint_seconds_count").get((("stage", "ingest"),), 0.0)


def live(daemon: Daemon) -> dict[str, Any]:
    """Start it and wait until everything but the deadly record is judged; ServerFailed if it dies before."""
    daemon.start()
    return daemon.judged(EVENTS - 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "driftd-test", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_and_costs_nothing_once_there_is_room(
    kafka: Kafka, reference: str, small_disk: Path, tmp_path: Path
) -> None:
    topic = kafka.fresh_topic()
    config = shelf.config(
        kafka, topic, model={"reference": {"path": reference}}, state={"path": str(small_disk / "state")}
    )
    daemon = Daemon(tmp_path, config)
    first, rest = stream()[: EVENTS // 2], stream()[EVENTS // 2 :]
    with daemon:
        produce(kafka.bootstrap, topic, first)
        daemon.wait(lambda: daemon.total("driftd_events_total") == len(first), 30, "the first half to be read")
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(8 << 20))
        produce(kafka.bootstrap, topic, rest)
        daemon.wait(lambda: "No space left on device" in daemon.log.read_text(), 30, "the full disk to be told")
        assert b'"live":true' in ask(f"{daemon.url}/healthz")
        filler.unlink()
        model = daemon.judged(EVENTS)
        assert (model["events"], model["late"]) == (EVENTS, 0)


def hostile(good: Iterable[Sent]) -> Iterator[Sent]:
    """Among good events: 100,000 fields that nobody declared, a million words, no numbers where there were, depths."""
    for number, (key, _, event) in enumerate(good):
        assert event is not None
        inputs = {name: f"{x}-{number}" if name.startswith("c") else x for name, x in event["inputs"].items()}
        if number % 50 == 0:
            inputs |= {f"field-{number}-{i}": i for i in range(100)}
        if number % 50 == 1:
            inputs |= {"n0": float("nan"), "n1": "text", "n2": [1, 2], "n3": {"deep": {"er": 1e308}}}
        yield Sent(key, json.dumps({**event, "inputs": inputs}).encode(), event)
        if number % 5_000 == 0:
            yield Sent(b"deep", b'{"id": "deep", "inputs": {"n0": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", None)


@pytest.mark.timeout(240)
def test_hostile_events_bound_neither_memory_nor_metrics(kafka: Kafka, tmp_path: Path) -> None:
    wide = Ledger(seed=9, numbers=4, categories=20, rate=500.0)
    topic = kafka.fresh_topic()
    config = shelf.config(kafka, topic, model={"reference": {"learn": 2_000}})
    with Daemon(tmp_path, config) as daemon:
        calm, count = 10_000, 50_000
        records = list(wide.records(calm + count))
        produce(kafka.bootstrap, topic, records[:calm])
        daemon.judged(calm - 5_000)
        memory = daemon.resident
        bad = [*hostile(records[calm:]), *shelf.closing(wide.start + (calm + count) / wide.rate, 1)]
        produce(kafka.bootstrap, topic, bad)
        model = daemon.judged(calm + count, seconds=150)
        assert (model["events"], model["late"]) == (calm + count, 0)
        assert daemon.resident - memory < 40 << 20
        # Some 30 columns with a dozen lines each, and the words that the reference knows: at most 10 a column here.
        assert len(ask(f"{daemon.url}/metrics").splitlines()) < 1_000
        assert {letter.cause for letter in daemon.letters()} == {"too_deep"}
        assert daemon.stop() == 0
