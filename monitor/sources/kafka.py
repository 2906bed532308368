"""What can be configured about Kafka, for both clients: kafka-python (`kafka`) and confluent-kafka (`confluent`).

A client is imported when its source opens: kafka-python costs 0.2 s that a daemon without Kafka need not spend.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from alerting.kafka import Security
from detectors.units import Bytes, Seconds

if TYPE_CHECKING:
    from monitor.sources.group import GroupSource


class KafkaOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kafka"):
    """Topics of a Kafka cluster, read as a member of a consumer group with kafka-python."""

    brokers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, description="host:port of one or more brokers")]
    topics: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, description="Topics to read")]
    group: Annotated[str, msgspec.Meta(min_length=1, description="Consumer group; replicas of one daemon share it")] = (
        "driftd"
    )
    instance: Annotated[
        str | None,
        msgspec.Meta(
            description="Stable name of this replica in the group (static membership): a restart within "
            "`session_timeout` then moves no partition"
        ),
    ] = None
    security: Annotated[Security, msgspec.Meta(description="TLS and SASL")] = Security()
    start: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(earliest|latest|\d{4}-\d\d-\d\d.*)$",
            description="Where a group without a committed offset starts: earliest, latest, or a time such as "
            "2026-11-22T10:00:00Z",
        ),
    ] = "latest"
    isolation: Annotated[
        Literal["read_committed", "read_uncommitted"],
        msgspec.Meta(description="read_committed leaves out records of aborted transactions"),
    ] = "read_committed"
    poll_records: Annotated[int, msgspec.Meta(ge=1, description="Records of one poll at most")] = 4000
    fetch_bytes: Annotated[
        Bytes, msgspec.Meta(description="Bytes fetched ahead of all partitions of a broker; bounds memory")
    ] = 16 << 20
    partition_fetch_bytes: Annotated[Bytes, msgspec.Meta(description="Bytes fetched ahead of one partition")] = 4 << 20
    session_timeout: Annotated[
        Seconds, msgspec.Meta(description="After this silence the group gives our partitions to others")
    ] = 45.0
    heartbeat: Annotated[Seconds, msgspec.Meta(description="Between signs of life; at most a third of it")] = 3.0
    poll_interval: Annotated[
        Seconds, msgspec.Meta(description="Time between polls after which the group gives up on us")
    ] = 300.0

    @property
    def start_ms(self) -> int | None:
        """Milliseconds UTC of a `start` that is a time. `ValueError` where it is neither that nor a word we know."""
        if self.start in {"earliest", "latest"}:
            return None
        try:
            when = datetime.fromisoformat(self.start)
        except ValueError as error:
            raise ValueError(f"start: {self.start!r} is no time: {error}") from error
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)

    def open(self) -> GroupSource:
        """Connects in the background. Raises `OSError` for a certificate that cannot be read and `ValueError` for a
        `start` that is no time."""
        from monitor.sources.group import GroupSource
        from monitor.sources.kafka_python import KafkaPython

        return GroupSource(self, KafkaPython(self))


class ConfluentOptions(KafkaOptions, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="confluent"):
    """The same with confluent-kafka, which takes a fifth of the CPU; an extra to install. Several topics must have
    equal numbers of partitions, as its range assignment keeps equal numbers together only then."""

    def open(self) -> GroupSource:
        """Connects in the background. Raises `OSError` for a certificate that cannot be read and `ValueError` for a
        `start` that is no time."""
        from monitor.sources.confluent import Confluent
        from monitor.sources.group import GroupSource

        return GroupSource(self, Confluent(self))
