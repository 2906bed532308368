"""A stream whose truth is known: events with their faults, and plain sums of what must be counted of them.

It shares no line with the daemon: json, dictionaries and lists only. Every number is a multiple of 1/16 under 64, so
sums and sums of squares are exact in float64 in any order and any merge, and may be compared with `==`.
"""

from __future__ import annotations

import heapq
import json
import random
import time
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

POISON = {
    "not_json": b"{id: %d}",
    "cut_off": b'{"id": "cut-%d", "inputs": {"n0": 1',
    "not_text": b'{"id": "\xff\xfe-%d", "inputs": {}}',
    "a_list": b'["a list is no event", %d]',
    "too_deep": b'{"id": "deep-%d", "inputs": {"n0": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
}


class Sent(NamedTuple):
    """One record: what goes to the source, and the event in it; None if it is poison."""

    key: bytes
    value: bytes
    event: Mapping[str, Any] | None


@dataclass(frozen=True)
class Ledger:
    """A deterministic stream: the same settings give the same bytes."""

    seed: int = 1
    models: Sequence[str] = ("shelf",)
    numbers: int = 6  # inputs n0, n1, ...: about normal, n0 with mean 0, n1 with mean 1, and so on
    categories: int = 2  # inputs c0, c1, ...: words of falling frequency
    classes: Sequence[str] = ("empty", "full", "mixed")
    start: float = 1_767_225_600.0  # 2026-01-01, UTC seconds
    rate: float = 100.0  # events a second of event time, all models together
    disorder: float = 0.0  # a record comes at most so many seconds of event time after later ones
    missing: float = 0.0  # chance of each input to be absent
    poison: float = 0.0  # chance that a record of no use stands before an event

    def records(self, count: int) -> Iterator[Sent]:
        """`count` events in order of arrival, with the poison between them."""
        rng = random.Random(self.seed)
        waiting: list[tuple[float, int, Mapping[str, Any]]] = []
        for number in range(count):
            now = self.start + number / self.rate
            while waiting and waiting[0][0] <= now:
                yield from self._wrap(heapq.heappop(waiting)[2], rng)
            heapq.heappush(waiting, (now + rng.uniform(0, self.disorder), number, self._event(number, now, rng)))
        while waiting:
            yield from self._wrap(heapq.heappop(waiting)[2], rng)

    def _event(self, number: int, now: float, rng: random.Random) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for i in range(self.numbers):
            if rng.random() >= self.missing:
                inputs[f"n{i}"] = max(-1008, min(1008, round(16 * rng.gauss(i, 2)))) / 16
        for i in range(self.categories):
            if rng.random() >= self.missing:
                inputs[f"c{i}"] = f"word{min(int(rng.expovariate(0.7)), 9)}"
        first = rng.randint(8, 16)
        scores = [first / 16, (16 - first) / 16, *[0.0] * (len(self.classes) - 2)]
        rng.shuffle(scores)
        return {
            "id": f"{self.seed}-{number}",
            "time": now,
            "model": self.models[number % len(self.models)],
            "version": "1",
            "inputs": inputs,
            "outputs": {"label": self.classes[scores.index(max(scores))], "scores": scores},
            "latency": rng.randint(1, 16) / 16,
        }

    def _wrap(self, event: Mapping[str, Any], rng: random.Random) -> Iterator[Sent]:
        while rng.random() < self.poison:
            template = rng.choice(list(POISON.values()))
            yield Sent(b"poison", template.replace(b"%d", b"%d" % rng.getrandbits(48)), None)
        yield Sent(event["id"].encode(), json.dumps(event).encode(), event)


@dataclass
class Number:
    """What is true of a number column. Cell of x = how many edges lie below x."""

    edges: Sequence[float]
    count: int = 0
    sum: float = 0.0
    squares: float = 0.0  # of x itself, not of its distance from the mean
    lowest: float = inf
    highest: float = -inf
    cells: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.cells = [0] * (len(self.edges) + 1)

    def add(self, x: float) -> None:
        self.count += 1
        self.sum += x
        self.squares += x * x
        self.lowest = min(self.lowest, x)
        self.highest = max(self.highest, x)
        self.cells[bisect_left(self.edges, x)] += 1


@dataclass
class Truth:
    """What is true of one model's events: columns as they are named in the daemon, windows by their start."""

    events: int = 0
    numbers: dict[str, Number] = field(default_factory=dict)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    windows: Counter[float] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)

    def missing(self, column: str) -> int:
        """How many events lack the column."""
        there = self.numbers[column].count if column in self.numbers else self.words[column].total()
        return self.events - there


def tally(
    records: Iterable[Sent], *, window: float = 10.0, edges: Mapping[str, Sequence[float]] | None = None
) -> dict[str, Truth]:
    """The truth of each model. `edges` of the cells by column; a column without has one cell for all."""
    truths: dict[str, Truth] = {}
    for _, _, event in records:
        if event is None:
            continue
        truth = truths.setdefault(event["model"], Truth())
        truth.events += 1
        truth.ids.add(event["id"])
        truth.windows[event["time"] // window * window] += 1
        columns = {**event["inputs"], "label": event["outputs"]["label"], "latency": event["latency"]}
        for name, value in columns.items():
            if isinstance(value, str):
                truth.words.setdefault(name, Counter())[value] += 1
            else:
                if name not in truth.numbers:
                    truth.numbers[name] = Number((edges or {}).get(name, ()))
                truth.numbers[name].add(value)
    return truths


def produce(bootstrap: str, topic: str, records: Iterable[Sent], *, partitions: int = 1, pace: float = inf) -> int:
    """Send the records in order, `pace` a second, and return how many the broker acknowledged: all, or RuntimeError.

    A record's partition follows from its key, so a stream split over several calls lands as one would. Sending goes
    on through a broker's restart; the client repeats without doubling.
    """
    refused: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            refused.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
    )
    began = time.monotonic()
    sent = 0
    for key, value, _ in records:
        while True:
            try:
                producer.produce(topic, value, key, zlib.crc32(key) % partitions, delivered)
                break
            except BufferError:  # 100,000 records wait for the broker; so do we
                producer.poll(0.1)
        sent += 1
        ahead = began + sent / pace - time.monotonic()
        producer.poll(max(ahead, 0))
    producer.flush(60)
    if refused or len(producer):
        raise RuntimeError(f"{len(refused)} records refused, {len(producer)} not acknowledged: {refused[:3]}")
    return sent
