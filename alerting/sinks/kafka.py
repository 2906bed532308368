"""Notices as CloudEvents on a Kafka topic, those of a model in one partition and so in their order."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.cloudevents import Mode, of_notice
from alerting.kafka import EventTopic, Security, Topic
from alerting.outbox import notice_in


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kafka"):
    """Writes each notice as a CloudEvent of type `io.driftd.alert.firing`, `.resolved` or `.verdict`.

    The key is the model; a consumer that sees an `id` again, after a crash of ours, drops it. Written when all replicas
    in step have it.
    """

    brokers: Annotated[tuple[str, ...], Meta(min_length=1, description="host:port of one or more brokers")]
    topic: Annotated[str, Meta(min_length=1, description="Topic that alerts are written to; it must exist.")]
    security: Annotated[Security, Meta(description="TLS and SASL")] = Security()
    mode: Annotated[
        Mode, Meta(description="binary: attributes as headers, the notice as the value; structured: all as one JSON.")
    ] = "binary"
    source: Annotated[
        str, Meta(min_length=1, description="Who says it, as a URI reference: /<namespace>/<deployment>.")
    ] = "/driftd"
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "kafka"
    timeout: Annotated[Seconds, Meta(ge=1, le=60, description="Longest wait for a broker.")] = 10.0

    def open(self, home: str = "") -> EventTopic:
        """The live destination, which connects when there is something to say; OSError for a certificate that cannot be
        read."""
        topic = Topic(self.brokers, self.topic, self.security, self.timeout)
        return EventTopic(topic, self.mode, lambda item: of_notice(notice_in(item), self.source))
