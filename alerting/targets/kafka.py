"""Requests as CloudEvents on a Kafka topic: the default that ties to no trainer."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.cloudevents import CloudEvent, Mode, Type
from alerting.kafka import EventTopic, Security, Topic
from alerting.outbox import Item
from alerting.retraining import request_in


class RetrainingKafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kafka"):
    """Writes each request as a CloudEvent of type `io.driftd.retraining.requested`, and `.completed` when it is over.

    The key is the model; a consumer that sees an `id` again, after a crash of ours, drops it. Written when all replicas
    in step have it.
    """

    brokers: Annotated[tuple[str, ...], Meta(min_length=1, description="host:port of one or more brokers")]
    topic: Annotated[str, Meta(min_length=1, description="Topic that requests are written to; it must exist.")]
    security: Annotated[Security, Meta(description="TLS and SASL")] = Security()
    mode: Annotated[
        Mode, Meta(description="binary: attributes as headers, the request as the value; structured: all as one JSON.")
    ] = "binary"
    source: Annotated[
        str, Meta(min_length=1, description="Who says it, as a URI reference: /<namespace>/<deployment>.")
    ] = "/driftd"
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = (
        "retraining-kafka"
    )
    timeout: Annotated[Seconds, Meta(ge=1, le=60, description="Longest wait for a broker.")] = 10.0

    def open(self) -> EventTopic:
        """The live destination, which connects when there is something to say; OSError for a certificate that cannot be
        read."""
        topic = Topic(self.brokers, self.topic, self.security, self.timeout)
        return EventTopic(topic, self.mode, self._event)

    def _event(self, item: Item) -> CloudEvent:
        request = request_in(item)
        kind = Type.RETRAINING_COMPLETED if request.status.over else Type.RETRAINING_REQUESTED
        at = request.moves[-1].at if request.moves else request.made
        return CloudEvent(item.id, kind, self.source, request.model, at, request.document())
