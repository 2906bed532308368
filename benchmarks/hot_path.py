"""Kafka to judged windows: CPU per event of the whole daemon, beside the bare loop that only polls and parses.

A topic of 4 partitions holds N events of about 1 KB (50 numbers, 10 categories, label and two scores). Each run is a
process of its own with one client: `bare` polls and calls orjson.loads; `driftd` is the daemon from its configuration,
with its default checks, until every complete window is judged. Runs take turns; the figure is the ratio of medians.
CPU is user and system of all threads, without imports and start.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

NUMBERS = [f"n{i:02d}" for i in range(50)]
CATEGORIES = [f"c{i}" for i in range(10)]
PARTITIONS = 4
RATES = (100, 1000)  # events a second of event time: a base window of 10 s holds 1,000 or 10,000 of them
START = 1_790_000_000
LEARNED = 20_000  # events of the reference, drawn from the same law
CLIENTS = {"kafka": "kafka-python", "confluent": "confluent-kafka"}


def events(n: int, seed: int, rate: int = RATES[0]) -> Iterator[bytes]:
    """The same seed and rate give the same bytes."""
    import numpy as np
    import orjson

    rng, pick = np.random.default_rng(seed), random.Random(seed)
    law = np.random.default_rng(0)
    center, spread = law.normal(0, 50, len(NUMBERS)), law.uniform(0.5, 20, len(NUMBERS))
    words = [[f"{c}-{k:02d}" for k in range(3 + 2 * i)] for i, c in enumerate(CATEGORIES)]
    for i in range(n):
        row = np.round(rng.normal(center, spread), 4).tolist()
        p = round(pick.random(), 4)
        at = START + i / rate
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
        inputs = dict(zip(NUMBERS, row, strict=True)) | {
            c: pick.choice(w) for c, w in zip(CATEGORIES, words, strict=True)
        }
        yield orjson.dumps(
            {
                "id": f"{seed}-{i:010d}",
                "time": stamp,
                "model": "bench",
                "version": "3",
                "inputs": inputs,
                "outputs": {"label": "yes" if p > 0.5 else "no", "scores": [p, round(1 - p, 4)]},
            }
        )


def produce(bootstrap: str, topic: str, n: int, rate: int = RATES[0]) -> float:
    """Fills the topic; mean size of an event in bytes."""
    from confluent_kafka import Producer

    out = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "enable.idempotence": True})
    size = 0
    for i, value in enumerate(events(n, 1, rate)):
        size += len(value)
        out.produce(topic, value, partition=i % PARTITIONS)
        if i % 1000 == 0:
            out.poll(0)
    if out.flush(120):
        raise RuntimeError("not every event was delivered")
    return size / n


def bare(bootstrap: str, topic: str, client: str, n: int) -> float:
    """CPU seconds of polling n records and parsing each."""
    from orjson import loads

    seen = 0
    if client == "kafka":
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, max_poll_records=2000)
        parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        began = time.process_time()
        consumer.assign(parts)
        consumer.seek_to_beginning(*parts)
        while seen < n:
            for records in consumer.poll(timeout_ms=1000).values():
                for record in records:
                    loads(record.value)
                seen += len(records)
        return time.process_time() - began
    from confluent_kafka import OFFSET_BEGINNING, Consumer
    from confluent_kafka import TopicPartition as Part

    fast = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "bare", "enable.auto.commit": False, "check.crcs": True}
    )
    began = time.process_time()
    fast.assign([Part(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    while seen < n:
        for message in fast.consume(2000, 1.0):
            loads(message.value() or b"")
            seen += 1
    return time.process_time() - began


def daemon(bootstrap: str, topic: str, client: str, n: int, reference: str) -> float:
    """CPU seconds of the daemon until all of n events are read and every complete window is judged."""
    from monitor.app import App
    from monitor.config import Config, ModelOptions, ReferenceOptions, SourceOptions, StateOptions
    from monitor.decode import Own
    from monitor.sources.kafka import ConfluentOptions, KafkaOptions
    from monitor.web import WebOptions

    kinds = {"kafka": KafkaOptions, "confluent": ConfluentOptions}
    source = kinds[client](brokers=(bootstrap,), topics=(topic,), start="earliest", group=uuid.uuid4().hex)
    with tempfile.TemporaryDirectory() as state:
        config = Config(
            sources=(SourceOptions(source, decoder=Own()),),
            models=(ModelOptions(name="bench", reference=ReferenceOptions(path=reference)),),
            state=StateOptions(path=state),
            web=WebOptions(port=0),
        )
        app = App(config)
        app.start()
        first, began = 0, 0.0
        until = time.monotonic() + 300
        while time.monotonic() < until:
            time.sleep(0.2 if first else 0.01)
            taken = int(app.meters.value("driftd_events_total"))
            if not first:  # connecting, joining the group and importing the client are outside, as for the bare loop
                first, began = taken, time.process_time()
            elif taken >= n and not app.backlog:
                spent = time.process_time() - began
                app.stop()
                app.wait()
                return spent * n / (n - first)
        raise RuntimeError(f"not all of {n} events were read in 300 s")


def make_reference(path: Path) -> None:
    """From rows of the same law."""
    rows = path.with_suffix(".jsonl")
    rows.write_bytes(b"\n".join(events(LEARNED, seed=2)))
    driftd = [sys.executable, "-m", "monitor", "reference", "build", str(rows), "-o", str(path), "--model", "bench"]
    subprocess.run(driftd, check=True, capture_output=True)
    rows.unlink()


def run(n: int, rounds: int) -> Iterator[tuple[str, int, float, float, float]]:
    """Client, events a second of event time, bytes an event, and medians in microseconds an event: bare, driftd."""
    from tests.services.kafka import Kafka

    with tempfile.TemporaryDirectory() as folder:
        reference, home = Path(folder) / "reference", Path(folder) / "kafka"
        make_reference(reference)
        home.mkdir()
        broker = Kafka(home)
        broker.start()
        try:
            for rate in RATES:
                topic = f"bench-{rate}"
                broker.create_topic(topic, PARTITIONS)
                size = produce(broker.bootstrap, topic, n, rate)
                spent: dict[tuple[str, str], list[float]] = {}
                for _ in range(rounds):
                    for client in CLIENTS:
                        for what in ("bare", "driftd"):
                            one = _one(what, client, broker.bootstrap, topic, n, reference)
                            spent.setdefault((client, what), []).append(one / n * 1e6)
                for client, name in CLIENTS.items():
                    floor, ours = (statistics.median(spent[client, what]) for what in ("bare", "driftd"))
                    yield name, rate, size, floor, ours
        finally:
            broker.stop()


def _one(what: str, client: str, bootstrap: str, topic: str, n: int, reference: Path) -> float:
    call = [
        sys.executable,
        "-m",
        "benchmarks.hot_path",
        "--one",
        what,
        client,
        bootstrap,
        topic,
        str(n),
        str(reference),
    ]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=6, help="one measured run, used by the benchmark itself")
    given = parser.parse_args()
    if given.one:
        what, client, bootstrap, topic, n, reference = given.one
        measure = bare if what == "bare" else daemon
        extra = () if what == "bare" else (reference,)
        print(measure(bootstrap, topic, client, int(n), *extra))
        return
    print("Kafka to judged windows, 60 features, CPU an event (goal: ratio >= 0.70 with kafka-python)")
    for client, rate, size, floor, ours in run(given.events, given.rounds):
        print(
            f"  {client:15s} {rate:5d} events/s of event time, {size:.0f} bytes: bare poll + orjson {floor:5.1f} us, "
            f"driftd {ours:5.1f} us, ratio {floor / ours:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
