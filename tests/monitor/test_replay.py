"""`driftd replay`: the tuning tool gives the same lines twice, over files and over a range of a topic."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from alerting.alert import Ruling, Verdict
from monitor import app
from monitor.config import parse
from tests.services.kafka import Kafka

START = 1_790_000_000.0


def events(first: int, count: int, mean: float) -> list[bytes]:
    rng = random.Random(first)
    return [
        json.dumps(
            {"id": f"e{i}", "time": START + i, "inputs": {"x": rng.gauss(mean, 1), "y": rng.gauss(0, 1)}}
        ).encode()
        for i in range(first, first + count)
    ]


def replayed(config: dict[str, Any], *places: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    assert app.replay(parse(json.dumps(config)), places, out) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


CONFIG: dict[str, Any] = {"models": [{"name": "m", "reference": {"learn": 500}}], "sources": [{"kind": "http"}]}


def named(lines: list[bytes]) -> bytes:
    return b"\n".join(line.replace(b"{", b'{"model": "m", ', 1) for line in lines) + b"\n"


def test_several_files_are_judged_in_turn_and_twice_alike(tmp_path: Path) -> None:
    places = []
    for k, mean in enumerate((0.0, 3.0)):
        place = tmp_path / f"part-{k}.jsonl"
        place.write_bytes(named(events(1000 * k, 1000, mean)))
        places.append(str(place))
    lines = replayed(CONFIG, *places)
    assert lines == replayed(CONFIG, *places)
    assert lines[-1]["summary"] == "m"
    assert lines[-1]["events"] == 2000
    assert lines[-1]["late"] == 0
    opened = [line for line in lines if line.get("transition") == "opened"]
    assert "m/evidence/x" in {line["alert"] for line in opened}
    assert min(line["at"] for line in opened) >= START + 1000


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    for place in (str(tmp_path / "absent.jsonl"), "kafka:..", "kafka:soon.."):
        with pytest.raises(app.Unstartable, match=place.split(":")[0]):
            replayed(CONFIG, place)


def test_a_range_of_a_topic_is_read_without_its_group(kafka: Kafka) -> None:
    topic = kafka.fresh_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for i, value in enumerate(events(0, 1200, 0.0)):
        producer.produce(topic, value, timestamp=int((START + i) * 1000))
    assert producer.flush(30) == 0
    source = {"kind": "kafka", "brokers": [kafka.bootstrap], "topics": [topic], "group": f"g-{topic}"}
    config = {"sources": [source], "models": [{"name": "", "reference": {"learn": 200}}]}
    whole = replayed(config, "kafka:..")
    assert whole[-1]["events"] == 1200
    part = replayed(config, "kafka:2026-09-21T14:15:00Z..2026-09-21T14:25:00Z")
    assert part[-1]["events"] == 600
    by_offset = replayed(config, "kafka:@100..@400")
    assert by_offset[-1]["events"] == 300
    assert replayed(config, "kafka:@1100..@9999")[-1]["events"] == 100


def test_verdicts_are_taken_at_their_place_and_twice_alike(tmp_path: Path) -> None:
    place = tmp_path / "events.jsonl"
    place.write_bytes(named([*events(0, 1000, 0.0), *events(1000, 3000, 3.0)]))
    first = replayed(CONFIG, str(place))
    opened = next(line for line in first if line.get("transition") == "opened")

    def said(name: str, at: float, confirms: str = "", revokes: str = "") -> app.Ruled:
        verdict = Verdict(
            id=name, key=opened["alert"], ruling=Ruling.INTENDED, by="ann", at=0.0, confirms=confirms, revokes=revokes
        )
        return app.Ruled(name, "m", verdict, at)

    told = tmp_path / "told.jsonl"
    ruled = [said("v2", opened["at"] + 50, confirms="v1"), said("v1", opened["at"] + 20)]
    told.write_bytes(b"\n".join(map(msgspec.json.encode, ruled)))
    runs = []
    for _ in range(2):
        out = io.StringIO()
        assert app.replay(parse(json.dumps(CONFIG)), [str(place)], out, app.ruled_in(told)) == 0
        runs.append([json.loads(line) for line in out.getvalue().splitlines()])
    assert runs[0] == runs[1]
    verdicts = [line["at"] for line in runs[0] if line.get("transition") == "verdict"]
    assert verdicts == [opened["at"] + 20, opened["at"] + 50]
    assert " events from " in runs[0][-1]["reference"]
    assert [line for line in runs[0] if line.get("transition") == "resolved" and line["alert"] == opened["alert"]]


def test_a_file_of_verdicts_that_is_none_is_refused(tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    told.write_text("{}")
    with pytest.raises(app.Unstartable, match="verdicts --json"):
        app.ruled_in(told)


def test_one_event_without_a_time_makes_no_other_late(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in events(0, 1000, 0.0)]
    del rows[700]["time"]
    place = tmp_path / "rows.jsonl"
    place.write_bytes(named([json.dumps(row).encode() for row in rows]))
    os.utime(place, (START + 1e6, START + 1e6))  # recorded long before it was written
    last = replayed(CONFIG, str(place))[-1]
    assert (last["events"], last["late"]) == (1000, 0)
