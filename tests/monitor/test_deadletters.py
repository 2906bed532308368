from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message
from hypothesis import given
from hypothesis import strategies as st

from monitor.deadletters import KafkaDeadLetters, Letter, LocalDeadLetters, newest
from monitor.event import Bad, Partition, Record
from monitor.log import InUse, scan
from tests.services.kafka import Kafka
from tests.services.process import free_port

AT = Partition("inference", 3)
RECORD = Record(b"\x00{broken", b"key", [("ce_id", b"7"), ("odd", None)], 41, 1_700_000_000_000)
BAD = Bad(41, "malformed", "no JSON at byte 0")


def test_a_letter_keeps_everything_and_is_listed_while_the_log_is_open(tmp_path: Path) -> None:
    letters = LocalDeadLetters().open(tmp_path / "dead-letters")
    letters.put(AT, RECORD, BAD)
    (letter,) = newest(LocalDeadLetters(), tmp_path, 20)
    assert letter == Letter(
        time=letter.time,
        topic="inference",
        partition=3,
        offset=41,
        cause="malformed",
        message="no JSON at byte 0",
        value=b"\x00{broken",
        key=b"key",
        headers=[("ce_id", b"7"), ("odd", None)],
        timestamp=1_700_000_000_000,
    )
    assert abs(letter.time - time.time()) < 60
    assert str(letter).endswith("inference/3 offset 41 malformed: no JSON at byte 0\n  '\\x00{broken'")
    assert (letters.written, letters.lost) == (1, 0)
    letters.close()


def test_the_newest_are_listed_oldest_first(tmp_path: Path) -> None:
    letters = LocalDeadLetters().open(tmp_path / "dead-letters")
    for offset in range(30):
        letters.put(AT, RECORD._replace(offset=offset), BAD)
    letters.close()
    assert [letter.offset for letter in newest(LocalDeadLetters(), tmp_path, 4)] == [26, 27, 28, 29]
    assert newest(LocalDeadLetters(), tmp_path / "elsewhere", 4) == []


@given(value=st.none() | st.binary(max_size=300), message=st.text(max_size=50))
def test_any_value_can_be_listed(value: bytes | None, message: str) -> None:
    letter = Letter(0.0, "t", 0, 0, "malformed", message, value)
    assert str(letter).startswith("1970-01-01T00:00:00Z t/0 offset 0 malformed: ")


def test_a_full_log_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    letters = LocalDeadLetters(max_bytes=1 << 20).open(tmp_path)
    for offset in range(300):
        letters.put(AT, RECORD._replace(value=b"x" * 10_000, offset=offset), BAD)
    letters.put(AT, RECORD._replace(value=b"x" * 2_000_000), BAD)
    letters.close()
    kept = len(list(scan(tmp_path)))
    assert letters.written == 300
    assert letters.lost == 300 - kept + 1
    assert 50 < kept < 105
    assert sum(file.stat().st_size for file in tmp_path.glob("*.log")) <= 1 << 20


def test_a_second_daemon_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    letters = LocalDeadLetters().open(tmp_path)
    with pytest.raises(InUse):
        LocalDeadLetters().open(tmp_path)
    letters.close()


def test_a_letter_in_kafka_has_the_original_bytes_and_the_headers_that_tools_read(kafka: Kafka) -> None:
    topic = kafka.fresh_topic()
    letters = KafkaDeadLetters(brokers=(kafka.bootstrap,), topic=topic).open(Path("unused"))
    letters.put(AT, RECORD, BAD)
    letters.put(AT, Record(None, None, (), 42, 0), Bad(42, "empty", "no value"))
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found: list[Message] = []
    deadline = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < deadline:
        found += consumer.consume(2, 1)
    consumer.close()
    letters.close()
    first, second = found
    assert (first.value(), first.key()) == (RECORD.value, RECORD.key)
    headers = first.headers() or []
    assert list(headers)[:2] == [("ce_id", b"7"), ("odd", b"")]
    named = dict(headers)
    assert named["__connect.errors.topic"] == b"inference"
    assert named["__connect.errors.partition"] == b"3"
    assert named["__connect.errors.offset"] == b"41"
    assert named["__connect.errors.exception.message"] == b"no JSON at byte 0"
    assert named["driftd.error.cause"] == b"malformed"
    assert (second.value(), second.key()) == (b"", None)
    assert (letters.written, letters.lost) == (2, 0)


def test_while_kafka_is_away_putting_never_waits_and_what_is_too_much_is_counted() -> None:
    letters = KafkaDeadLetters(brokers=(f"127.0.0.1:{free_port()}",), topic="t", waiting=10).open(Path("unused"))
    began = time.monotonic()
    for _ in range(25):
        letters.put(AT, RECORD, BAD)
    assert time.monotonic() - began < 0.5
    assert letters.lost == 15
    letters.close()
    assert letters.lost == 25
    assert time.monotonic() - began < 5
