"""Records from Kafka through confluent-kafka: a fifth of kafka-python's CPU, from a C library that is an extra.

What a reader would get wrong: its callbacks run inside `consume`, on our own thread, and a partition cannot be sought
before it is fetched. So what the group gives is first assigned nothing, and then anew with the offsets to read from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from alerting.kafka import Security
from monitor.event import Partition, Record
from monitor.sources.group import Ownership, Trouble
from monitor.sources.kafka import ConfluentOptions

log = logging.getLogger(__name__)
_client_log = logging.getLogger("confluent_kafka")

_PATIENCE = 5.0  # seconds for a question asked outside of poll
_OLDEST, _NEWEST = 0, 1  # of the pair that watermarks come in
_END = KafkaError._PARTITION_EOF  # noqa: SLF001  # public in all but name: it is how the documentation spells it


def client_settings(brokers: Sequence[str], security: Security) -> dict[str, Any]:
    """What every confluent-kafka client of ours is given. Raises `OSError` for a certificate that cannot be read."""
    security.context()
    settings = {
        "bootstrap.servers": ",".join(brokers),
        "client.id": "driftd",
        "security.protocol": security.protocol,
        "ssl.ca.location": security.cafile,
        "ssl.certificate.location": security.certfile,
        "ssl.key.location": security.keyfile or security.certfile,
        "ssl.key.password": None if security.keypassword is None else str(security.keypassword),
        "sasl.mechanism": security.mechanism,
        "sasl.username": security.username,
        "sasl.password": None if security.password is None else str(security.password),
        "reconnect.backoff.max.ms": 2000,
    }
    return {name: value for name, value in settings.items() if value is not None}


class Confluent:
    """A `monitor.sources.group.Client`."""

    def __init__(self, options: ConfluentOptions) -> None:
        self._options = options
        self._start_ms = options.start_ms
        settings = client_settings(options.brokers, options.security) | {
            "group.id": options.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",  # where retention took a checkpoint's offset: skip nothing that is there
            "isolation.level": options.isolation,
            "partition.assignment.strategy": "range",
            "enable.partition.eof": True,  # the only way to learn that just markers of transactions are left
            "session.timeout.ms": int(options.session_timeout * 1000),
            "heartbeat.interval.ms": int(options.heartbeat * 1000),
            "max.poll.interval.ms": int(options.poll_interval * 1000),
            "fetch.max.bytes": options.fetch_bytes,
            "max.partition.fetch.bytes": options.partition_fetch_bytes,
            "queued.max.messages.kbytes": options.fetch_bytes // 1024,
        }
        if options.instance is not None:
            settings["group.instance.id"] = options.instance
        self._consumer = Consumer(
            settings | {"error_cb": self._failed, "on_commit": self._committed, "logger": _client_log}
        )
        self._from: dict[Partition, int] = {}  # what is or is to be read, and the next offset of each
        self._reassign = False
        self._failure = ""
        self.ownership = Ownership()
        self.commit_failures = 0
        self._consumer.subscribe(
            list(options.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def connected(self, timeout: float) -> bool:
        return True  # it says by itself what keeps it from connecting

    def poll(self, timeout: float) -> Mapping[Partition, Sequence[Record]]:
        if self._reassign:
            self._reassign = False
            self._consumer.assign([TopicPartition(*partition, offset) for partition, offset in self._from.items()])
        try:
            messages: list[Any] = self._consumer.consume(self._options.poll_records, timeout)
        except KafkaException as refused:
            raise Trouble(str(refused)) from refused
        records: dict[Partition, list[Record]] = {}
        for message in messages:
            partition, offset, error = (
                Partition(message.topic(), message.partition()),
                message.offset(),
                message.error(),
            )
            if partition not in self._from:
                continue
            if error is None:
                record = Record(message.value(), message.key(), message.headers() or (), offset, message.timestamp()[1])
                records.setdefault(partition, []).append(record)
                self._from[partition] = offset + 1
            elif error.code() == _END:
                self._from[partition] = offset
            else:
                self._failure = error.str()
        if not records and self._failure:
            failure, self._failure = self._failure, ""
            raise Trouble(failure)
        return records

    def start(self, partition: Partition) -> int:
        asked = TopicPartition(*partition)
        try:
            offset = self._consumer.committed([asked], _PATIENCE)[0].offset
            if offset < 0 and self._start_ms is not None:
                timed = TopicPartition(*partition, self._start_ms)
                offset = self._consumer.offsets_for_times([timed], _PATIENCE)[0].offset
            if offset < 0:
                ends = self._consumer.get_watermark_offsets(asked, _PATIENCE)
                offset = ends[_OLDEST if self._options.start == "earliest" else _NEWEST]
        except KafkaException as error:
            raise Trouble(str(error)) from error
        return int(offset)

    def seek(self, partition: Partition, offset: int) -> None:
        self._from[partition] = offset
        self._reassign = True

    def pause(self, partitions: Iterable[Partition], paused: bool) -> None:
        change = self._consumer.pause if paused else self._consumer.resume
        change([TopicPartition(*partition) for partition in partitions])

    def end(self, partition: Partition) -> int | None:
        end = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)[_NEWEST]
        return end if end >= 0 else None

    def ends(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        try:
            return {p: self._consumer.get_watermark_offsets(TopicPartition(*p), _PATIENCE)[_NEWEST] for p in partitions}
        except KafkaException as error:
            raise Trouble(str(error)) from error

    def reached(self, partition: Partition) -> int:
        return self._from.get(partition, 0)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        try:
            self._consumer.commit(offsets=[TopicPartition(*p, offset) for p, offset in offsets.items()])
        except KafkaException as error:
            self._committed(error.args[0], [])

    def close(self) -> None:
        self._consumer.close()

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.assign([])
        self.ownership.give(Partition(p.topic, p.partition) for p in partitions)

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.unassign()
        self._from.clear()
        self.ownership.take_away(Partition(p.topic, p.partition) for p in partitions)

    def _committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        if error is not None:
            self.commit_failures += 1
            log.info("group %s: not committed, the next checkpoint tries again: %s", self._options.group, error)

    def _failed(self, error: KafkaError) -> None:
        self._failure = error.str()
