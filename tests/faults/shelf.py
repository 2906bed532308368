"""The model that the fault tests watch: its stream with stretches of drift, its reference, the daemon's configuration.

Everything that must come out the same after a fault follows from the records alone: windows are closed by event time,
the last of them by closing records far behind all others, so no clock decides where a row is counted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from monitor.__main__ import main
from tests.services.kafka import Kafka
from tests.services.ledger import Ledger, Sent

WINDOW = 10.0
CALM = Ledger(seed=7)  # what the reference is built from
LATENESS = 2.0  # the disorder of a stream has to stay below, so that no row is late


def reference(directory: Path) -> Path:
    """Built by the command that users have."""
    data, out = directory / "training.jsonl", directory / "shelf.reference"
    data.write_bytes(b"".join(sent.value + b"\n" for sent in CALM.records(5_000)))
    assert main(["reference", "build", str(data), "-o", str(out), "--model", "shelf"]) == 0
    return out


def config(kafka: Kafka, topic: str, **more: Any) -> dict[str, Any]:
    """The daemon's configuration over a topic; `more` adds to it or takes the place of its parts."""
    model: dict[str, Any] = {
        "name": "shelf",
        "checks": [
            {"detector": {"kind": "level", "side": "both"}, "columns": ["n0", "n1"]},
            # Looked at over 30 minutes, which keeps every window of a test in the history, 100 kills included.
            {"detector": "wrong_type", "over": "30m"},
        ],
        "sampling": {"per_hour": 3000, "at_least": 100},
    }
    settings: dict[str, Any] = {
        "sources": [source(kafka.bootstrap, topic)],
        "window": {"size": f"{WINDOW:g}s", "lateness": f"{LATENESS:g}s", "grace": "1h"},
        "alerts": {"clear_after": "10s", "backoff": {"first": "100ms", "longest": "500ms"}, "sinks": ["log"]},
        "state": {"checkpoint_every": "500ms"},
    }
    for part, value in more.items():
        if part == "model":
            model |= value
        else:
            settings[part] = {**settings.get(part, {}), **value} if isinstance(value, dict) else value
    return {**settings, "models": [model]}


def source(brokers: str, topic: str) -> dict[str, Any]:
    """A group of one static member: a restart takes its partitions at once, not after the dead one's session."""
    return {
        "kind": "kafka",
        "brokers": [brokers],
        "topics": [topic],
        "group": topic,
        "instance": topic,
        "start": "earliest",
        "session_timeout": "30s",
    }


def drifting(records: Iterable[Sent], stretches: Mapping[str, tuple[float, float]]) -> Iterator[Sent]:
    """The records with columns raised by 4, two deviations, in stretches of event time (from, to) by column."""
    for key, value, event in records:
        if event is None:
            yield Sent(key, value, None)
            continue
        raised = {
            name: event["inputs"][name] + 4
            for name, (start, end) in stretches.items()
            if name in event["inputs"] and start <= event["time"] < end
        }
        moved = {**event, "inputs": {**event["inputs"], **raised}}
        yield Sent(key, json.dumps(moved).encode(), moved)


def closing(time: float, partitions: int) -> Iterator[Sent]:
    """A record in each partition, long after `time`: it closes every window before it, and its own stays open."""
    wanted = set(range(partitions))
    number = 0
    while wanted:
        key = f"closing-{number}".encode()
        number += 1
        if zlib.crc32(key) % partitions in wanted:
            wanted.remove(zlib.crc32(key) % partitions)
            event = {"id": key.decode(), "time": time + 10 * WINDOW, "model": "shelf", "inputs": {}, "outputs": {}}
            yield Sent(key, json.dumps(event).encode(), None)
