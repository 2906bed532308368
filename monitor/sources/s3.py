"""Events from objects of a bucket, as soon as they arrive: files of events, or each object as an event of its own.

What a reader would get wrong: neither keys nor times order what arrives in a bucket, so nothing in it can serve as a
position. Each object found gets the next number in a log of our own, on the disk before it is read; a position is that
number and the row within the object, and a restart goes on at the very row. Events of the bucket only make it faster:
what they miss the next listing finds.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import unquote_plus

import msgspec

from alerting.kafka import Security
from alerting.s3 import S3Access, s3_client
from detectors.units import Bytes, Seconds
from monitor.event import Partition, Record
from monitor.log import DiskLog, Full
from monitor.sources import Polled
from monitor.sources.files import COMPRESSED, FilesOptions, FilesSource, known
from monitor.sources.kafka import KafkaOptions

log = logging.getLogger(__name__)

_ROWS = 32  # bits of a position that number the row; what is above them is the object's number
_PIECE = 1 << 20
_LOOK = 0.2  # seconds between looks when there is nothing to read


class BucketEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Topics of Kafka to which the store, or what stands between, sends the bucket's event records."""

    brokers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, description="host:port of one or more brokers")]
    topics: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, description="Topics to read")]
    group: Annotated[str, msgspec.Meta(min_length=1, description="Consumer group")] = "driftd-bucket"
    security: Annotated[Security, msgspec.Meta(description="TLS and SASL")] = Security()


class S3SourceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="s3"):
    """Objects of a bucket, in the order in which they are found."""

    bucket: Annotated[str, msgspec.Meta(min_length=3, description="Bucket")]
    prefix: Annotated[str, msgspec.Meta(description="Only keys that begin with this text")] = ""
    server: Annotated[S3Access, msgspec.Meta(description="How it is reached")] = S3Access()
    objects: Annotated[
        Literal["files", "events"],
        msgspec.Meta(
            description="`files`: they hold events, in lines or rows, by their endings as with files. `events`: each, "
            "such as a picture, is an event with its address, size, type and tag"
        ),
    ] = "files"
    every: Annotated[Seconds, msgspec.Meta(ge=0.1, description="Between listings; of new keys alone if `ordered`")] = (
        10.0
    )
    ordered: Annotated[
        bool,
        msgspec.Meta(description="Later objects have greater keys, as with dates in them: only those are listed then"),
    ] = False
    reconcile: Annotated[
        Seconds, msgspec.Meta(ge=1, description="Between listings of all keys, where there are events or an order")
    ] = 3600.0
    events: Annotated[
        BucketEvents | None, msgspec.Meta(description="Event records of the bucket; without them it is listed")
    ] = None
    follow: Annotated[bool, msgspec.Meta(description="Wait for more objects instead of ending")] = True
    largest: Annotated[Bytes, msgspec.Meta(ge=1, description="Larger objects are passed over and counted")] = 4 << 30

    def open_in(self, directory: Path, passed_over: Callable[[], None]) -> S3Source:
        """The live source, which keeps what it found in `directory` and calls for each object that it cannot read.
        Raises OSError, and ValueError for settings that make no sense."""
        return S3Source(self, directory, passed_over)


class Found(msgspec.Struct, frozen=True):
    """An object, as an event record or a listing tells of it."""

    key: str
    etag: str = ""  # without quotes; empty: not told
    size: int = 0
    time: float = 0.0  # UTC seconds of its last change

    @property
    def identity(self) -> int:
        """The same content under the same key. 64 bits: an equal pair among a million objects by chance is 3e-8."""
        return hash((self.key, self.etag))


def created(body: bytes, bucket: str) -> list[Found]:
    """Objects that event records tell were made in the bucket: of S3, MinIO, Ceph, versitygw, as they are or wrapped
    by SNS, SQS or EventBridge. Anything else gives none.

    >>> record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "a+b%21"}}}
    >>> created(msgspec.json.encode({"Records": [record]}), "b")
    [Found(key='a b!', etag='', size=0, time=0.0)]
    """
    try:
        said = msgspec.json.decode(body)
        return [found for name, found in _told(said, depth=0) if name == bucket and found.key]
    except (msgspec.DecodeError, ValueError, TypeError, AttributeError, RecursionError):
        return []


def _told(said: Any, depth: int) -> Iterator[tuple[str, Found]]:
    if isinstance(said, list):
        for each in said:
            yield from _told(each, depth)
    elif isinstance(said, dict) and depth < 4:
        for wrapped in (said.get("Message"), said.get("Body"), said.get("body")):
            if isinstance(wrapped, str):
                yield from _told(msgspec.json.decode(wrapped), depth + 1)
        yield from _told(said.get("Records"), depth + 1)
        if "ObjectCreated" in str(said.get("eventName")):
            place = said["s3"]
            yield place["bucket"]["name"], _found(place["object"], said.get("eventTime"), unquote_plus)
        elif said.get("detail-type") == "Object Created":
            place = said["detail"]
            yield place["bucket"]["name"], _found(place["object"], said.get("time"), str)


def _found(thing: Mapping[str, Any], at: object, key: Any) -> Found:
    changed = datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(0, UTC)
    changed = changed if changed.tzinfo else changed.replace(tzinfo=UTC)
    etag = thing.get("eTag") or thing.get("etag") or ""
    return Found(key(thing["key"]), str(etag).strip('"'), int(thing.get("size") or 0), changed.timestamp())


class S3Source:
    """See `monitor.sources.Source` for the contract. A store that is away is told in `state`, logged once, and tried
    again without end."""

    def __init__(self, options: S3SourceOptions, directory: Path, passed_over: Callable[[], None]) -> None:
        self._options, self._passed_over = options, passed_over
        self._client = s3_client(options.server)
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        place = f"{options.bucket}/{options.prefix}"  # another place has other numbers
        self._found = DiskLog(directory / f"found-{hashlib.sha256(place.encode()).hexdigest()[:16]}")
        self._known = {self._object(data).identity for _, data in self._all()}
        self._partition = Partition(f"s3://{options.bucket}/{options.prefix}", 0)
        self._hints = None if options.events is None else KafkaOptions(
            brokers=options.events.brokers, topics=options.events.topics, group=options.events.group,
            security=options.events.security, start="earliest",
        ).open()  # fmt: skip
        self._file = directory / "object"
        self._rows: FilesSource | None = None  # of the object that is being read
        self._next = 0  # its number, or that of the next one
        self._position: int | None = None  # None until its owner has sought
        self._announced = self._paused = False
        self._listed = self._compared = float("-inf")
        self._greatest = ""
        self._trouble = ""

    @property
    def state(self) -> str:
        """What it is doing, in words for status pages."""
        return self._trouble or f"reading s3://{self._options.bucket}/{self._options.prefix}"

    def poll(self, timeout: float) -> Polled:
        if not self._announced:
            self._announced = True
            return Polled(gained=(self._partition,))
        if self._paused or self._position is None:
            time.sleep(timeout)
            return Polled(lag={self._partition: 1})
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._look(min(timeout, _LOOK))
            records = self._read()
            self._trouble = ""
        except (BotoCoreError, ClientError, OSError, Full) as error:
            self._complain(str(error))
            time.sleep(timeout)
            return Polled(lag={self._partition: 1})
        waiting = self._found.end - self._next
        if records:
            return Polled({self._partition: records}, lag={self._partition: max(1, waiting)})
        ended = not waiting and not self._options.follow
        if not waiting and not ended and self._hints is None:
            time.sleep(min(timeout, _LOOK))
        return Polled(lag={self._partition: waiting}, ended=ended)

    def seek(self, partition: Partition, offset: int | None) -> None:
        self._position = offset or 0
        self._next = max(self._position >> _ROWS, self._found.start)
        self._rows = None

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Nothing: the position is in the checkpoint."""

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def close(self) -> None:
        if self._hints is not None:
            self._hints.close()
        self._found.close()
        self._client.close()
        self._file.unlink(missing_ok=True)

    # -- finding

    def _look(self, patience: float) -> None:
        """Notes what is new."""
        options, now = self._options, time.monotonic()
        if self._hints is not None:
            self._listen(patience if self._next >= self._found.end else 0.0)
        hasty = options.ordered or self._hints is not None
        if now - self._compared >= (options.reconcile if hasty else options.every):
            self._compare()
            self._compared = self._listed = now
        elif options.ordered and now - self._listed >= options.every:
            self._note(self._list(self._greatest))
            self._listed = now

    def _listen(self, patience: float) -> None:
        assert self._hints is not None
        polled = self._hints.poll(patience)
        for partition in polled.gained:
            self._hints.seek(partition, None)
        told = [record for records in polled.records.values() for record in records]
        self._note(found for record in told for found in created(record.value or b"", self._options.bucket))
        if told:
            self._hints.commit({partition: records[-1].offset + 1 for partition, records in polled.records.items()})

    def _compare(self) -> None:
        """Notes all that is new; the first of what was noted before go once they are read and gone from the bucket."""
        there = set()

        def seen() -> Iterator[Found]:
            for each in self._list(""):
                there.add(each.identity)
                yield each

        self._note(seen())
        for number, data in self._all():
            identity = self._object(data).identity
            if number >= self._next or identity in there:
                self._found.trim(number)
                break
            self._known.discard(identity)

    def _list(self, after: str) -> Iterator[Found]:
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._options.bucket, Prefix=self._options.prefix, StartAfter=after):
            for item in page.get("Contents", ()):
                self._greatest = max(self._greatest, item["Key"])
                yield Found(item["Key"], item["ETag"].strip('"'), item["Size"], item["LastModified"].timestamp())

    def _note(self, found: Iterable[Found]) -> None:
        """Gives each new object the next number, safely on the disk."""
        new = []
        for each in found:
            if not self._wanted(each.key):
                continue
            told = each if each.etag else self._asked(each)
            if told is not None and told.identity not in self._known:
                self._known.add(told.identity)
                new.append(msgspec.msgpack.encode(told))
        if new:
            self._found.append(new)
            self._found.sync()

    def _wanted(self, key: str) -> bool:
        """Not what writers leave behind: folders, markers, parts of what is not finished."""
        path = PurePosixPath(key)
        hidden = any(part.startswith(("_", ".")) for part in path.parts)
        ours = key.startswith(self._options.prefix) and not key.endswith("/") and not hidden
        return ours and (self._options.objects == "events" or known(Path(path.name)))

    def _asked(self, found: Found) -> Found | None:
        from botocore.exceptions import ClientError

        with suppress(ClientError):  # gone again
            head = self._client.head_object(Bucket=self._options.bucket, Key=found.key)
            return Found(found.key, head["ETag"].strip('"'), head["ContentLength"], head["LastModified"].timestamp())
        return None

    # -- reading

    def _read(self) -> list[Any]:
        """Records of the object at hand; empty where it has no more, or none is there."""
        if self._rows is None:
            if self._next >= self._found.end:
                return []
            ((_, data),) = self._found.read(self._next, max_items=1)
            return self._begin(self._object(data))
        polled = self._rows.poll(0.0)
        if polled.ended:
            self._pass()
        return [record for records in polled.records.values() for record in records]

    def _begin(self, found: Found) -> list[Any]:
        from botocore.exceptions import ClientError

        start = max(self._position or 0, self._next << _ROWS)
        try:
            if found.size > self._options.largest:
                raise ValueError(f"has {found.size} bytes")
            if self._options.objects == "events":
                record = self._as_event(found)
                self._pass()
                return [] if start > record.offset else [record]
            endings = PurePosixPath(found.key).suffixes
            place = self._directory / ("object" + "".join(endings[-2:] if endings[-1] in COMPRESSED else endings[-1:]))
            self._fetch(found, place)
        except (ClientError, ValueError) as error:
            if isinstance(error, ClientError) and not _lost(error):
                raise
            log.warning("s3://%s/%s is passed over: %s", self._options.bucket, found.key, error)
            self._passed_over()
            self._pass()
            return []
        self._file = place
        self._rows = FilesSource(FilesOptions(path=str(place)), first=self._next << _ROWS)
        for partition in self._rows.poll(0.0).gained:
            self._rows.seek(partition, start)
        return []

    def _fetch(self, found: Found, place: Path) -> None:
        body = self._client.get_object(Bucket=self._options.bucket, Key=found.key, IfMatch=f'"{found.etag}"')["Body"]
        with place.open("wb") as file:
            while piece := body.read(_PIECE):
                file.write(piece)

    def _as_event(self, found: Found) -> Record:
        head = self._client.head_object(Bucket=self._options.bucket, Key=found.key, IfMatch=f'"{found.etag}"')
        address = f"s3://{self._options.bucket}/{found.key}"
        said = {
            "id": f"{address}#{found.etag}", "time": found.time,
            "inputs": {"size": found.size, "content_type": head.get("ContentType", "")},
            "extra": {"uri": address, "etag": found.etag},
        }  # fmt: skip
        return Record(msgspec.json.encode(said), offset=self._next << _ROWS, timestamp=int(found.time * 1000))

    def _pass(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._file.unlink(missing_ok=True)
        self._rows = None
        self._next += 1

    def _all(self) -> Iterator[tuple[int, bytes]]:
        offset = self._found.start
        while items := self._found.read(offset):
            yield from items
            offset = items[-1][0] + 1

    def _object(self, data: bytes) -> Found:
        return msgspec.msgpack.decode(data, type=Found)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("reading s3://%s/%s: %s", self._options.bucket, self._options.prefix, trouble)
        self._trouble = trouble


def _lost(error: Any) -> bool:
    """Whether the object is gone or another one by now."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (404, 412)
