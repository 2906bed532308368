"""The harness itself: each server answers, keeps what it must, and fails in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from pymongo import MongoClient

from tests.services.fixtures import require
from tests.services.install import InstallFailed, Recipe, run
from tests.services.kafka import Kafka, SecureKafka
from tests.services.mongo import Mongo
from tests.services.process import Server, ServerFailed
from tests.services.prometheus import PROMTOOL, Alertmanager, Prometheus
from tests.services.s3 import S3
from tests.services.toxiproxy import Proxy
from tests.services.web import Answer, Receiver, ask


def produce(bootstrap: str, topic: str, values: list[bytes], **settings: object) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 200, **settings})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def consume(bootstrap: str, topic: str, count: int, **settings: object) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"group-{topic}",
            "auto.offset.reset": "earliest",
            "reconnect.backoff.max.ms": 200,
            **settings,
        }
    )
    consumer.subscribe([topic])
    try:
        values = []
        for message in consumer.consume(count, timeout=20):
            if error := message.error():
                raise KafkaException(error)
            values.append(message.value() or b"")
        return sorted(values)
    finally:
        consumer.close()


def test_kafka_keeps_acknowledged_records_over_kill_and_clean_restart(kafka: Kafka) -> None:
    topic = kafka.fresh_topic(partitions=2)
    produce(kafka.bootstrap, topic, [b"1", b"2"])
    kafka.kill()
    assert not kafka.alive
    kafka.start()
    produce(kafka.bootstrap, topic, [b"3"])
    kafka.restart()
    assert consume(kafka.bootstrap, topic, 3) == [b"1", b"2", b"3"]


def test_kafka_behind_the_proxy_can_be_cut_off_and_healed(kafka: Kafka, kafka_proxy: Proxy) -> None:
    topic = kafka.fresh_topic()
    produce(kafka_proxy.address, topic, [b"before"])
    kafka_proxy.cut()
    producer = Producer({"bootstrap.servers": kafka_proxy.address, "log_level": 0})
    producer.produce(topic, b"lost on the way")
    assert producer.flush(1) == 1
    producer.purge()
    producer.flush(1)
    kafka_proxy.heal()
    produce(kafka_proxy.address, topic, [b"after"])
    assert consume(kafka.bootstrap, topic, 2) == [b"after", b"before"]


def test_secure_kafka_serves_whom_it_knows_and_allows(kafka_secure: SecureKafka) -> None:
    topic = kafka_secure.fresh_topic()
    kafka_secure.allow("monitor", topic=topic, group=f"group-{topic}")
    produce(kafka_secure.bootstrap, topic, [b"secret"])
    login = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "ssl.ca.location": str(kafka_secure.authority.bundle),
        "log_level": 0,
    }

    def read(user: str) -> list[bytes]:
        who = {"sasl.username": user, "sasl.password": kafka_secure.users[user]}
        return consume(kafka_secure.secure, topic, 1, **login, **who)

    assert read("monitor") == [b"secret"]
    with pytest.raises(KafkaException, match="AUTHORIZATION_FAILED"):
        read("stranger")


def test_secure_kafka_takes_clients_with_a_certificate(kafka_secure: SecureKafka) -> None:
    topic = kafka_secure.fresh_topic()
    kafka_secure.allow("CN=model-server", topic=topic, group=f"group-{topic}")
    certificate = str(kafka_secure.authority.issue("client", "model-server"))
    login = {
        "security.protocol": "SSL",
        "ssl.ca.location": str(kafka_secure.authority.bundle),
        "ssl.certificate.location": certificate,
        "ssl.key.location": certificate,
    }
    produce(kafka_secure.mutual, topic, [b"1"], **login)
    assert consume(kafka_secure.mutual, topic, 1, **login) == [b"1"]


def test_mongo_keeps_acknowledged_documents_over_kill(mongo: Mongo) -> None:
    name = f"db{uuid4().hex}"
    with MongoClient[dict[str, object]](mongo.url) as client:
        client[name].tasks.insert_many([{"_id": n} for n in range(100)])
    mongo.kill()
    mongo.start()
    with MongoClient[dict[str, object]](mongo.url) as client:
        assert client[name].tasks.count_documents({}) == 100


def test_prometheus_scrapes_its_target_and_alerts(
    tmp_path: Path,
    prometheus: Callable[..., Prometheus],
    alertmanager: Alertmanager,
    receiver: Receiver,
) -> None:
    with Receiver() as target:
        target.answers.extend([Answer(body=b"answer 42\n", headers={"content-type": "text/plain"})] * 1000)
        rules = tmp_path / "rules.yml"
        rules.write_text("groups: [{name: g, rules: [{alert: Known, expr: answer == 42}]}]")
        address = target.url.removeprefix("http://")
        server = prometheus([address], rules=[rules], alertmanagers=[alertmanager.address])
        [(labels, value)] = server.wait("answer")
        assert (labels["instance"], value) == (address, 42)
        [call] = receiver.wait(1)
    assert call.json()["alerts"][0]["labels"]["alertname"] == "Known"
    assert [alert["labels"]["alertname"] for alert in alertmanager.alerts()] == ["Known"]
    assert subprocess.run([PROMTOOL, "check", "rules", rules], check=False, capture_output=True).returncode == 0


def test_alertmanager_tells_the_receiver_once_of_an_alert_posted_often(
    alertmanager: Alertmanager, receiver: Receiver
) -> None:
    alert = {"labels": {"alertname": "Drift", "model": "shelf"}, "annotations": {"summary": "mean moved"}}
    other = {"labels": {"alertname": "Drift", "model": "other"}}
    for posted in (alert, alert, alert):
        ask(f"{alertmanager.url}/api/v2/alerts", [posted])
    receiver.wait(1)
    ask(f"{alertmanager.url}/api/v2/alerts", [alert, other])
    told = [call.json()["alerts"][0]["labels"]["model"] for call in receiver.wait(2)]
    assert told == ["shelf", "other"]


def test_s3_keeps_objects(s3: S3) -> None:
    client = s3.client()
    client.create_bucket(Bucket="exports")
    client.put_object(Bucket="exports", Key="labels/1.json", Body=b"{}")
    assert client.get_object(Bucket="exports", Key="labels/1.json")["Body"].read() == b"{}"


def test_receiver_answers_as_told_then_with_200(receiver: Receiver) -> None:
    receiver.answers.append(Answer(503, {"retry-after": "7"}))
    with pytest.raises(OSError, match="503"):
        ask(f"{receiver.url}/hook", {"n": 1})
    ask(f"{receiver.url}/hook", {"n": 2})
    assert [(call.method, call.path, call.json()["n"]) for call in receiver.calls] == [
        ("POST", "/hook", 1),
        ("POST", "/hook", 2),
    ]


def test_an_absent_server_skips_by_name_and_fails_where_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.services.install.HOME", tmp_path)
    recipe = Recipe("teapot", "1.0", lambda: None, tools={})
    monkeypatch.delenv("DRIFTD_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"teapot 1\.0 is not installed: make services"):
        require(recipe)
    monkeypatch.setenv("DRIFTD_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match=r"teapot 1\.0 is not installed: make services"):
        require(recipe)
    assert recipe.install()
    require(recipe)
    assert not recipe.install()


def test_a_changed_recipe_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.services.install.HOME", tmp_path)
    assert Recipe("teapot", "1.0", lambda: None, tools={}).install()
    assert Recipe("teapot", "1.1", lambda: None, tools={}).absent() is not None


def test_a_failed_build_says_what_the_tool_said_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.services.install.HOME", tmp_path)
    recipe = Recipe("teapot", "1.0", lambda: run(["ls", "/no/such/kettle"]), tools={})
    with pytest.raises(InstallFailed, match="/no/such/kettle"):
        recipe.install()
    assert recipe.absent() is not None


def test_a_server_that_ends_by_itself_shows_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such port')"]
    server = Server("broken", command, directory=tmp_path, ready=lambda: False)
    with pytest.raises(ServerFailed, match=r"(?s)broken ended by itself.*no such port"):
        server.start()


def test_a_server_that_never_answers_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    server = Server("mute", command, directory=tmp_path, ready=lambda: False, patience=0.3)
    with pytest.raises(ServerFailed, match=r"mute to answer: not within 0\.3 s"):
        server.start()
    assert not server.alive
