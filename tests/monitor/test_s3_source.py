"""A bucket as a source, against a real S3 server: what arrives is read once, in whatever order, over restarts."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from pyarrow import parquet

from alerting.s3 import S3Access
from alerting.secret import Secret
from monitor.decode import Own
from monitor.sources.s3 import BucketEvents, Found, S3Source, S3SourceOptions, created
from tests.services.kafka import Kafka
from tests.services.process import free_port, wait_until
from tests.services.s3 import S3

_buckets = itertools.count()


class Bucket:
    """A bucket of the test's own, and sources over it that keep their state in one directory."""

    def __init__(self, s3: S3, directory: Path) -> None:
        self.name, self._s3, self._directory = f"incoming{next(_buckets)}", s3, directory
        self.client = s3.client()
        self.client.create_bucket(Bucket=self.name)
        self.passed_over = 0
        self._open: list[S3Source] = []

    def put(self, key: str, body: bytes, **more: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **more)

    def source(self, **changes: Any) -> S3Source:
        server = S3Access(
            endpoint=self._s3.url, region=self._s3.region, path_style=True, key=self._s3.key,
            secret=Secret(self._s3.secret),
        )  # fmt: skip
        options = S3SourceOptions(**{"bucket": self.name, "server": server, "every": 0.1, **changes})
        source = options.open_in(self._directory, self._count)
        self._open.append(source)
        return source

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def _count(self) -> None:
        self.passed_over += 1


@pytest.fixture
def bucket(s3: S3, tmp_path: Path) -> Iterator[Bucket]:
    made = Bucket(s3, tmp_path / "source")
    yield made
    made.close()


def told(event: str, bucket: str, key: str) -> dict[str, Any]:
    return {"Records": [{"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]}


def lines(*ids: str) -> bytes:
    return "".join(json.dumps({"id": i, "inputs": {"x": 1.5}}) + "\n" for i in ids).encode()


class Reader:
    """Reads a source as its loop does."""

    def __init__(self, source: S3Source, offset: int | None = None) -> None:
        self.source, self.records, self.ended = source, list[Any](), False
        (self.partition,) = source.poll(0).gained
        source.seek(self.partition, offset)

    def once(self) -> None:
        polled = self.source.poll(0.01)
        self.records += polled.records.get(self.partition, ())
        self.ended = polled.ended

    def until(self, enough: Callable[[], bool]) -> Reader:
        wait_until(lambda: self._one_more(enough), 20, "records", pause=0)
        return self

    def _one_more(self, enough: Callable[[], bool]) -> bool:
        self.once()
        return enough()

    def to_the_end(self) -> Reader:
        return self.until(lambda: self.ended)

    @property
    def events(self) -> list[Mapping[str, Any]]:
        return [json.loads(record.value) for record in self.records]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


def test_files_of_every_kind_are_read_with_ids_of_their_own(bucket: Bucket) -> None:
    table = io.StringIO()
    csv.writer(table).writerows([["x"], [1], [2]])
    columns = io.BytesIO()
    parquet.write_table(pa.table({"x": [3, 4]}), columns)
    bucket.put("a/one.jsonl", lines("1", "2"))
    bucket.put("a/two.jsonl.gz", gzip.compress(lines("3")))
    bucket.put("b/three.csv", table.getvalue().encode())
    bucket.put("b/four.parquet", columns.getvalue())
    for noise in ("b/_SUCCESS", "b/_temporary/x.jsonl", ".hidden.jsonl", "b/readme.txt", "folder/"):
        bucket.put(noise, b"not events")

    reader = Reader(bucket.source(follow=False)).to_the_end()

    assert len(reader.ids) == len(set(reader.ids)) == 7
    assert {"1", "2", "3"} < set(reader.ids)
    assert sorted(event["inputs"]["x"] for event in reader.events) == [1, 1.5, 1.5, 1.5, 2, 3, 4]
    offsets = [record.offset for record in reader.records]
    assert offsets == sorted(set(offsets))


def test_what_arrives_later_is_read_whatever_its_key(bucket: Bucket) -> None:
    bucket.put("m.jsonl", lines("first"))
    reader = Reader(bucket.source())
    reader.until(lambda: reader.ids == ["first"])

    bucket.put("a.jsonl", lines("earlier key"))
    reader.until(lambda: len(reader.ids) == 2)
    bucket.put("m.jsonl", lines("other content"))
    reader.until(lambda: len(reader.ids) == 3)

    assert reader.ids == ["first", "earlier key", "other content"]


@pytest.mark.parametrize("taken", range(7))
def test_a_restart_goes_on_at_the_very_row(bucket: Bucket, taken: int) -> None:
    bucket.put("b.jsonl", lines("1", "2", "3"))
    bucket.put("c.jsonl", lines("4"))
    bucket.put("d.jsonl", lines("5", "6"))
    whole = Reader(bucket.source(follow=False)).to_the_end()
    assert whole.ids == ["1", "2", "3", "4", "5", "6"]
    bucket.close()
    bucket.put("a.jsonl", lines("new"))  # sorts before all, and must not move what was numbered

    offset = 0 if taken == 0 else whole.records[taken - 1].offset + 1
    again = Reader(bucket.source(follow=False), offset).to_the_end()

    assert again.ids == [*whole.ids[taken:], "new"]
    assert [r.offset for r in again.records[:-1]] == [r.offset for r in whole.records[taken:]]


def test_ordered_keys_are_listed_from_the_last_and_compared_now_and_then(bucket: Bucket) -> None:
    bucket.put("2026-11-22T10.jsonl", lines("ten"))
    reader = Reader(bucket.source(ordered=True, reconcile=2.0))
    reader.until(lambda: reader.ids == ["ten"])

    bucket.put("2026-11-22T09.jsonl", lines("nine, late"))
    bucket.put("2026-11-22T11.jsonl", lines("eleven"))
    reader.until(lambda: len(reader.ids) == 2)
    assert reader.ids == ["ten", "eleven"]
    reader.until(lambda: len(reader.ids) == 3)
    assert reader.ids[-1] == "nine, late"


def test_each_object_can_be_an_event(bucket: Bucket) -> None:
    bucket.put("shelf/1.jpg", b"jpeg" * 100, ContentType="image/jpeg")

    reader = Reader(bucket.source(objects="events", follow=False)).to_the_end()

    (event,) = reader.events

    assert event["inputs"] == {"size": 400, "content_type": "image/jpeg"}
    assert event["extra"]["uri"] == f"s3://{bucket.name}/shelf/1.jpg"
    assert event["id"] == f"{event['extra']['uri']}#{event['extra']['etag']}"
    assert Own().open().decode(reader.records, {}).bad == []


def test_an_object_that_is_gone_or_too_large_is_passed_over(bucket: Bucket) -> None:
    bucket.put("a.jsonl", lines("large" * 100))
    bucket.put("b.jsonl", lines("gone"))
    bucket.put("c.jsonl", lines("read"))
    reader = Reader(bucket.source(largest=200))
    reader.source.poll(0)  # all three are noted, the first is passed over
    bucket.client.delete_object(Bucket=bucket.name, Key="b.jsonl")

    reader.until(lambda: reader.ids == ["read"])

    assert bucket.passed_over == 2


def test_a_store_that_is_away_is_told_and_tried_again(bucket: Bucket) -> None:
    away = S3Access(
        endpoint=f"http://127.0.0.1:{free_port()}", region="r", path_style=True, key="k", secret=Secret("s")
    )
    source = bucket.source(server=away)
    source.seek(source.poll(0).gained[0], None)

    polled = source.poll(0.01)

    assert not polled.ended
    assert not polled.records
    assert "connect" in source.state.lower()


def test_event_records_of_the_bucket_come_by_kafka(bucket: Bucket, kafka: Kafka) -> None:
    topic = kafka.fresh_topic()
    events = BucketEvents(brokers=(kafka.bootstrap,), topics=(topic,), group=f"g-{topic}")
    reader = Reader(bucket.source(events=events, reconcile=3600.0))
    bucket.put("before.jsonl", lines("listed"))
    reader.until(lambda: reader.ids == ["listed"])

    bucket.put("in b/x y.jsonl", lines("told"))
    bucket.put("silent.jsonl", lines("nobody tells of it"))
    record = {"eventName": "ObjectCreated:Put", "eventTime": "2026-11-22T10:00:00Z", "s3": {
        "bucket": {"name": bucket.name}, "object": {"key": "in+b%2Fx%20y.jsonl", "size": 40},
    }}  # fmt: skip
    messages = [{"Event": "s3:TestEvent"}, {"Records": [record]}, {"Records": [record]}, {"Body": json.dumps([record])}]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for said in messages:
        producer.produce(topic, json.dumps(said).encode())
    producer.flush(10)

    reader.until(lambda: len(reader.ids) == 2)
    for _ in range(20):
        reader.once()
    assert reader.ids == ["listed", "told"]


@pytest.mark.parametrize(("said", "key"), [
    (told("s3:ObjectCreated:Put", "b", "a%2Fb+c") | {"Key": "b/a", "EventName": "s3:ObjectCreated:Put"}, "a/b c"),
    ({"detail-type": "Object Created", "time": "2026-11-22T10:00:00Z",
      "detail": {"bucket": {"name": "b"}, "object": {"key": "a+b", "size": 1, "etag": "e"}}}, "a+b"),
    ({"Type": "Notification", "Message": json.dumps(told("ObjectCreated:Copy", "b", "k"))}, "k"),
    (told("ObjectRemoved:Delete", "b", "k"), None),
    (told("ObjectCreated:Put", "other", "k"), None),
    ({"Records": [{"eventName": "ObjectCreated:Put", "s3": 3}]}, None),
    ({"Message": "no json", "Records": None}, None),
    ([[[]]], None), (None, None), ("x", None),
])  # fmt: skip
def test_event_records_are_known_in_every_wrapping(said: Any, key: str | None) -> None:
    found = created(json.dumps(said).encode(), "b")

    assert [each.key for each in found] == ([] if key is None else [key])
    assert created(b"\xff", "b") == []
    assert all(isinstance(each, Found) for each in found)
