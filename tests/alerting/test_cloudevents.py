"""CloudEvents as the specification's bindings have them, and over a real Kafka."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest
from confluent_kafka import Consumer
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.alert import Alert, Notice, Ruling, Severity, Transition, Verdict
from alerting.cloudevents import CloudEvent, Mode, Type, of_notice
from alerting.deliver import Undelivered
from alerting.outbox import notices_to
from alerting.sinks import SinkOptions
from alerting.sinks import kafka as sinks
from tests.services.kafka import Kafka
from tests.services.process import free_port
from tests.services.toxiproxy import Proxy

EVENT = CloudEvent("id-1", Type.RETRAINING_REQUESTED, "/prod/shelf", "shelf", 1_000.0, {"reason": "drift"})
ATTRIBUTES = {
    "specversion": "1.0", "id": "id-1", "type": "io.driftd.retraining.requested", "source": "/prod/shelf",
    "time": "1970-01-01T00:16:40.000Z", "dataschema": "urn:driftd:retraining:1", "subject": "shelf",
    "partitionkey": "shelf",
}  # fmt: skip
ALERT = Alert("shelf/psi/weight", "shelf", "psi", "weight", Severity.WARNING, 1.0, 2.0, "weight moved", 0.5, 0.2)
RULED = Verdict(id="v", key="k", ruling=Ruling.INTENDED, by="ann", at=5.0)


def test_binary_puts_attributes_into_headers() -> None:
    headers, body = EVENT.http()
    assert headers == {"Content-Type": "application/json"} | {f"ce-{name}": v for name, v in ATTRIBUTES.items()}
    assert json.loads(body) == {"reason": "drift"}
    headers, body = EVENT.kafka()
    assert headers == {"content-type": "application/json"} | {f"ce_{name}": v for name, v in ATTRIBUTES.items()}
    assert json.loads(body) == {"reason": "drift"}


def test_structured_is_one_document() -> None:
    for headers, body in (EVENT.http("structured"), EVENT.kafka("structured")):
        assert [v for k, v in headers.items() if k.lower() == "content-type"] == [
            "application/cloudevents+json; charset=UTF-8"
        ]
        assert json.loads(body) == ATTRIBUTES | {"datacontenttype": "application/json", "data": {"reason": "drift"}}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_header_holds_any_name_and_gives_it_back(model: str) -> None:
    value = replace(EVENT, model=model).http().headers["ce-subject"]
    assert value.isascii()
    assert all(0x21 <= ord(c) < 0x7F and c != '"' for c in value)
    assert unquote(value) == model


def test_a_model_without_a_name_has_no_empty_attribute() -> None:
    assert not {"ce-subject", "ce-partitionkey"} & replace(EVENT, model="").http().headers.keys()


@pytest.mark.parametrize(
    ("transition", "changes", "kind"),
    [
        (Transition.OPENED, {}, "io.driftd.alert.firing"),
        (Transition.ESCALATED, {}, "io.driftd.alert.firing"),
        (Transition.VERDICT, {"verdict": RULED}, "io.driftd.alert.verdict"),
        (Transition.SILENCED, {"muted": "by a rule"}, "io.driftd.alert.resolved"),
        (Transition.RESOLVED, {"resolved": 9.0}, "io.driftd.alert.resolved"),
    ],
)
def test_the_type_says_what_became_of_the_alert(transition: Transition, changes: dict[str, Any], kind: str) -> None:
    assert of_notice(Notice("n", transition, replace(ALERT, **changes)), "/driftd").type == kind


def received(kafka: Kafka, topic: str, count: int) -> list[Any]:
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": str(uuid4()), "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    found: list[Any] = []
    while len(found) < count:
        record = consumer.poll(20)
        assert record is not None, f"{len(found)} of {count} records came"
        found.append(record)
    consumer.close()
    return found


def options(broker: str, topic: str, mode: Mode = "binary") -> SinkOptions:
    return sinks.Kafka((broker,), topic, mode=mode, source="/prod/shelf", timeout=2.0)


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_notices_arrive_in_order_under_their_models_key(kafka: Kafka, mode: Mode) -> None:
    topic = kafka.fresh_topic(3)
    story = [Notice(f"n{i}", Transition.UPDATED, replace(ALERT, model=f"m{i % 2}", serial=i)) for i in range(40)]
    sink = options(kafka.bootstrap, topic, mode).open()
    sink.send(notices_to(["bus"], story, created=0.0))
    sink.close()
    records = received(kafka, topic, 40)
    for model in ("m0", "m1"):
        mine = [record for record in records if record.key() == model.encode()]
        assert len({record.partition() for record in mine}) == 1
        ids = [
            dict(record.headers())["ce_id"].decode() if mode == "binary" else json.loads(record.value())["id"]
            for record in mine
        ]
        assert ids == [notice.id for notice in story if notice.alert.model == model]


def test_a_topic_or_broker_that_is_not_there_holds_everything_and_a_large_notice_only_itself(kafka: Kafka) -> None:
    topic = f"alerts-{uuid4()}"
    sent = notices_to(["bus"], [Notice("n", Transition.OPENED, ALERT)], created=0.0)
    for missing in (options(kafka.bootstrap, topic), options(f"127.0.0.1:{free_port()}", topic)):
        sink = missing.open()
        with pytest.raises(Undelivered, match=f"topic {topic} at 127.0.0.1") as told:
            sink.send(sent)
        assert told.value.retry
        sink.close()
    kafka.create_topic(topic)
    large = replace(ALERT, text="x" * 2_000_000)
    sink = options(kafka.bootstrap, topic).open()
    with pytest.raises(Undelivered, match="MessageSizeTooLarge") as told:
        sink.send(notices_to(["bus"], [Notice("big", Transition.OPENED, large)], created=0.0))
    assert not told.value.retry
    sink.send(sent)
    sink.close()
    assert [record.key() for record in received(kafka, topic, 1)] == [b"shelf"]


def test_a_broker_that_hangs_and_comes_back_gets_everything(kafka: Kafka, kafka_proxy: Proxy) -> None:
    topic = kafka.fresh_topic()
    sink = options(kafka_proxy.address, topic).open()
    kafka_proxy.cut()
    sent = notices_to(["bus"], [Notice(f"n{i}", Transition.OPENED, ALERT) for i in range(3)], created=0.0)
    with pytest.raises(Undelivered) as told:
        sink.send(sent)
    assert told.value.retry
    kafka_proxy.heal()
    sink.send(sent)
    sink.close()
    assert len(received(kafka, topic, 3)) == 3
