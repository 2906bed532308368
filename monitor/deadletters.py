"""Records that could not be read, set aside with cause, position and their original bytes.

What a reader would get wrong: dead letters never hold up the stream. A destination that is full or away costs letters,
oldest or newest first, and `lost` counts them; the record's own source still has it for as long as its retention says.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec

from alerting.kafka import Security, client_settings, made
from detectors.units import Bytes
from monitor.event import Bad, Partition, Raw
from monitor.log import DiskLog, Fsync, Full, scan

if TYPE_CHECKING:
    from kafka import KafkaProducer

log = logging.getLogger(__name__)

_SHOWN = 200  # bytes of a value in a listing
_AT_ONCE = 100  # letters sent before their answers are awaited
_FAREWELL = 5.0  # seconds at the end for what still waits


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as the local log keeps it. Times are UTC seconds."""

    time: float
    topic: str
    partition: int
    offset: int
    cause: str
    message: str
    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] = []
    timestamp: int = 0  # of the record, milliseconds UTC

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        value = repr((self.value or b"")[:_SHOWN])[1:] + ("..." if len(self.value or b"") > _SHOWN else "")
        return f"{when} {self.topic}/{self.partition} offset {self.offset} {self.cause}: {self.message}\n  {value}"


class DeadLetters(Protocol):
    """Where they go. Called on the ingest threads, one at a time or several at once; never raises, never waits."""

    written: int
    lost: int  # not kept, or dropped again to make room

    def put(self, partition: Partition, record: Raw, bad: Bad) -> None: ...

    def close(self) -> None: ...


class LocalDeadLetters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="log"):
    """A log in the state directory; `driftd dead-letters list` shows it. The oldest make room for the newest."""

    max_bytes: Annotated[Bytes, msgspec.Meta(ge=1 << 20, description="Bytes kept")] = 64 << 20

    def open(self, path: Path) -> DeadLetters:
        """Raises `OSError` or `monitor.log.InUse`."""
        return _Local(self, path)


class KafkaDeadLetters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kafka"):
    """A Kafka topic: original key, value and headers byte for byte, and beside them the headers of Kafka Connect's
    dead-letter queues, which the usual tools read."""

    brokers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, description="host:port of one or more brokers")]
    topic: Annotated[str, msgspec.Meta(min_length=1, description="Topic; it must exist")]
    security: Annotated[Security, msgspec.Meta(description="TLS and SASL")] = Security()
    waiting: Annotated[
        int, msgspec.Meta(ge=1, description="Letters that may wait for the broker; more are lost and counted")
    ] = 1000

    def open(self, path: Path) -> DeadLetters:
        """Connects in the background; the path is for those that keep them locally. Raises `OSError` for a certificate
        that cannot be read."""
        return _Kafka(self)


DeadLetterOptions = LocalDeadLetters | KafkaDeadLetters
DEAD_LETTERS: dict[str, type[LocalDeadLetters | KafkaDeadLetters]] = {
    "log": LocalDeadLetters,
    "kafka": KafkaDeadLetters,
}


def newest(options: DeadLetterOptions, state: Path, count: int) -> Sequence[Letter]:
    """The last letters of the local log, oldest first, also while a daemon writes it; none where they go elsewhere."""
    if not isinstance(options, LocalDeadLetters):
        return []
    items = deque((item for _, item in scan(state / "dead-letters")), maxlen=count)
    return [msgspec.msgpack.decode(item, type=Letter) for item in items]


class _Local:
    def __init__(self, options: LocalDeadLetters, path: Path) -> None:
        self._log = DiskLog(
            path, segment_bytes=options.max_bytes // 8, max_bytes=options.max_bytes, fsync=Fsync.INTERVAL
        )
        self.written = 0
        self.lost = 0

    def put(self, partition: Partition, record: Raw, bad: Bad) -> None:
        letter = msgspec.msgpack.encode(_letter(partition, record, bad))
        try:
            try:
                self._log.append([letter])
            except Full:
                self._make_room()
                self._log.append([letter])
        except (Full, ValueError) as error:
            self.lost += 1
            log.warning("a dead letter of %s is lost: %s", partition, error)
        else:
            self.written += 1

    def close(self) -> None:
        self._log.close()

    def _make_room(self) -> None:
        """Drops the oldest part that can go: a quarter, or more where segments are cut otherwise."""
        before, end = self._log.start, self._log.end
        for quarters in (1, 2, 3, 4):
            self._log.trim(before + (end - before) * quarters // 4)
            if self._log.start > before:
                break
        self.lost += self._log.start - before


class _Kafka:
    """Hands letters to a thread of its own, since everything about a producer blocks while Kafka is away."""

    def __init__(self, options: KafkaDeadLetters) -> None:
        self._options = options
        self._settings = client_settings(options.brokers, options.security) | {
            "acks": "all",
            "bootstrap_timeout_ms": 3_000,  # of one attempt, which closing waits for
            "max_block_ms": 10_000,
            "request_timeout_ms": 20_000,
            "delivery_timeout_ms": 60_000,
        }
        self._waiting: queue.Queue[Letter] = queue.Queue(options.waiting)
        self._stopping = threading.Event()
        self.written = 0
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="dead letters", daemon=True)
        self._thread.start()

    def put(self, partition: Partition, record: Raw, bad: Bad) -> None:
        try:
            self._waiting.put_nowait(_letter(partition, record, bad))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(_FAREWELL)
        self.lost += self._waiting.qsize()

    def _run(self) -> None:
        producer = self._producer()
        while producer is not None and ((letters := self._next()) or not self._stopping.is_set()):
            self._send(producer, letters)
        if producer is not None:
            producer.close(timeout=_FAREWELL)

    def _producer(self) -> KafkaProducer | None:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        while not self._stopping.is_set():
            try:
                return made(KafkaProducer, self._settings)
            except KafkaError as error:
                if not self._stopping.wait(1.0):
                    log.warning("dead letters wait for %s: %s", ", ".join(self._options.brokers), error)
        return None

    def _next(self) -> list[Letter]:
        letters: list[Letter] = []
        try:
            letters.append(self._waiting.get(timeout=0.2))
            while len(letters) < _AT_ONCE:
                letters.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return letters

    def _send(self, producer: Any, letters: Sequence[Letter]) -> None:
        from kafka.errors import KafkaError

        sent = []
        for letter in letters:
            try:
                value = b"" if letter.value is None and letter.key is None else letter.value  # the client needs one
                sent.append(producer.send(self._options.topic, value, letter.key, _headers(letter)))
            except (KafkaError, TypeError, ValueError) as error:
                self._lose(error)
        for future in sent:
            try:
                future.get(timeout=60)
                self.written += 1
            except KafkaError as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        log.warning("a dead letter for topic %s is lost: %s: %s", self._options.topic, type(error).__name__, error)


def _letter(partition: Partition, record: Raw, bad: Bad) -> Letter:
    return Letter(
        time=time.time(),
        topic=partition.topic,
        partition=partition.number,
        offset=record.offset,
        cause=bad.cause,
        message=bad.message,
        value=record.value,
        key=record.key,
        headers=list(record.headers),
        timestamp=record.timestamp,
    )


def _headers(letter: Letter) -> list[tuple[str, bytes]]:
    """The record's own headers, an absent value as an empty one, then Kafka Connect's, as text, then ours."""
    connect = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "connector.name": "driftd",
        "task.id": 0,
        "stage": "VALUE_CONVERTER",
        "exception.class.name": letter.cause,
        "exception.message": letter.message,
    }
    ours = {"cause": letter.cause, "time": datetime.fromtimestamp(letter.time, UTC).isoformat()}
    return [
        *((name, value or b"") for name, value in letter.headers),
        *((f"__connect.errors.{name}", str(value).encode()) for name, value in connect.items()),
        *((f"driftd.error.{name}", value.encode()) for name, value in ours.items()),
    ]
