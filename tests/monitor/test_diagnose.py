from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from alerting.kafka import Security
from alerting.labeling import MongoQueue
from monitor import diagnose
from monitor.config import parse
from monitor.diagnose import Part
from monitor.settings import Secret
from monitor.sources.kafka import ConfluentOptions, KafkaOptions
from tests.services.kafka import Kafka, SecureKafka
from tests.services.mail import Mailbox
from tests.services.mongo import Mongo
from tests.services.process import free_port
from tests.services.s3 import S3
from tests.services.tls import Authority
from tests.services.web import Receiver


def scram(kafka: SecureKafka, **changed: object) -> Security:
    login = {
        "tls": True,
        "cafile": str(kafka.authority.bundle),
        "mechanism": "SCRAM-SHA-512",
        "username": "monitor",
        "password": Secret(kafka.users["monitor"]),
    }
    return Security(**(login | changed))  # type: ignore[arg-type]  # the fields' own types


def wrong(broker: str, security: Security, topic: str = "any", group: str = "driftd") -> Part:
    """The one thing that is found wrong."""
    options = KafkaOptions(brokers=(broker,), topics=(topic,), group=group, security=security)
    found = list(diagnose.kafka("source kafka", options))
    bad = [part for part in found if not part.ok]
    assert len(bad) == 1, found
    assert found[-1] == bad[0], "nothing is tried beyond what is wrong"
    assert bad[0].hint
    assert "secret" not in repr(found)
    return bad[0]


def test_a_plain_kafka_that_is_all_right(kafka: Kafka) -> None:
    topic = kafka.fresh_topic(3)
    options = KafkaOptions(brokers=(kafka.bootstrap,), topics=(topic,))
    assert list(diagnose.kafka("source kafka", options)) == [
        Part("source kafka", True, f"topic {topic}: 3 partitions"),
        Part("source kafka", True, f"group driftd may read {topic}"),
    ]


def test_a_secure_kafka_that_is_all_right(kafka_secure: SecureKafka) -> None:
    topic = kafka_secure.fresh_topic()
    kafka_secure.allow("monitor", topic=topic, group="good")
    options = KafkaOptions(brokers=(kafka_secure.secure,), topics=(topic,), group="good", security=scram(kafka_secure))
    assert all(part.ok for part in diagnose.kafka("source kafka", options))


def test_a_client_certificate_that_is_all_right(kafka_secure: SecureKafka) -> None:
    topic = kafka_secure.fresh_topic()
    kafka_secure.allow("CN=daemon", topic=topic, group="certified")
    security = Security(
        tls=True,
        cafile=str(kafka_secure.authority.bundle),
        certfile=str(kafka_secure.authority.issue("daemon", "daemon")),
    )
    options = KafkaOptions(brokers=(kafka_secure.mutual,), topics=(topic,), group="certified", security=security)
    assert all(part.ok for part in diagnose.kafka("source kafka", options))


def test_a_name_that_cannot_be_resolved() -> None:
    assert "the name no-such-host.invalid cannot be resolved" in wrong("no-such-host.invalid:9092", Security()).what


def test_a_port_where_nothing_listens() -> None:
    assert "connection refused" in wrong(f"127.0.0.1:{free_port()}", Security()).what


def test_plain_text_to_a_port_for_tls(kafka_secure: SecureKafka) -> None:
    found = wrong(kafka_secure.secure, Security())
    assert "speaks TLS" in found.what
    assert "security.tls: true" in found.hint


def test_tls_to_a_port_for_plain_text(kafka_secure: SecureKafka) -> None:
    found = wrong(kafka_secure.bootstrap, scram(kafka_secure))
    assert "plain text" in found.what


def test_an_authority_that_is_not_trusted(kafka_secure: SecureKafka) -> None:
    assert "certificate is not trusted" in wrong(kafka_secure.secure, scram(kafka_secure, cafile=None)).what


def test_a_certificate_for_another_name(kafka_secure: SecureKafka) -> None:
    broker = kafka_secure.secure.replace("127.0.0.1", "127.0.0.2")
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen()
        port = listener.getsockname()[1]
        serve_tls_once(listener, kafka_secure.authority.issue("other", "other"))
        broker = f"127.0.0.2:{port}"
        assert "certificate is not for 127.0.0.2" in wrong(broker, scram(kafka_secure)).what


def test_a_client_certificate_that_is_missing_or_of_another_authority(
    kafka_secure: SecureKafka, tmp_path: Path
) -> None:
    bundle = str(kafka_secure.authority.bundle)
    assert "asks for a client certificate" in wrong(kafka_secure.mutual, Security(tls=True, cafile=bundle)).what
    stranger = str(Authority(tmp_path / "tls", "another authority").issue("client", "client"))
    found = wrong(kafka_secure.mutual, Security(tls=True, cafile=bundle, certfile=stranger))
    assert "certificate" in found.what


def test_certificate_files_that_cannot_be_read(kafka_secure: SecureKafka) -> None:
    assert "cannot be used" in wrong(kafka_secure.secure, scram(kafka_secure, cafile="/nowhere.pem")).what


def test_a_login_that_is_missing_or_by_a_mechanism_not_enabled(kafka_secure: SecureKafka) -> None:
    found = wrong(kafka_secure.secure, scram(kafka_secure, mechanism=None))
    assert "wants a login by SCRAM-SHA-512" in found.what
    found = wrong(kafka_secure.secure, scram(kafka_secure, mechanism="PLAIN"))
    assert "mechanism PLAIN is not enabled; offered: SCRAM-SHA-512" in found.what


def test_a_login_where_none_is_taken(kafka: Kafka) -> None:
    security = Security(mechanism="PLAIN", username="u", password=Secret("p"))
    assert "takes no login" in wrong(kafka.bootstrap, security).what


@pytest.mark.parametrize("who", [{"password": Secret("no-secret")}, {"username": "nobody"}])
def test_a_wrong_user_or_password(kafka_secure: SecureKafka, who: dict[str, object]) -> None:
    found = wrong(kafka_secure.secure, scram(kafka_secure, **who))
    assert "wrong user or password" in found.what


def test_a_topic_that_is_missing(kafka: Kafka) -> None:
    assert wrong(kafka.bootstrap, Security(), "no-such-topic").what == "topic no-such-topic does not exist"


def test_a_topic_that_we_may_not_see(kafka_secure: SecureKafka) -> None:
    found = wrong(kafka_secure.secure, scram(kafka_secure), kafka_secure.fresh_topic())
    assert "not allowed" in found.what
    assert "grant Describe and Read on topic" in found.hint


def test_a_group_that_we_may_not_join(kafka_secure: SecureKafka) -> None:
    topic = kafka_secure.fresh_topic()
    kafka_secure.allow("monitor", topic=topic)
    found = wrong(kafka_secure.secure, scram(kafka_secure), topic, "forbidden")
    assert found.what == "group forbidden: not allowed"
    assert "grant Read on group forbidden" in found.hint


def test_topics_that_the_confluent_client_cannot_keep_together(kafka: Kafka) -> None:
    topics = (kafka.fresh_topic(2), kafka.fresh_topic(3))
    options = ConfluentOptions(brokers=(kafka.bootstrap,), topics=topics)
    (bad,) = [part for part in diagnose.kafka("source confluent", options) if not part.ok]
    assert "different numbers of partitions" in bad.what


def test_no_kafka_at_all_on_the_port(receiver: Receiver) -> None:
    found = wrong(receiver.url.removeprefix("http://"), Security())
    assert "no Kafka's" in found.what


def test_a_web_server_that_answers_refuses_or_is_away(receiver: Receiver) -> None:
    assert diagnose.web("sink webhook", receiver.url).ok
    assert "connection refused" in diagnose.web("sink webhook", f"http://127.0.0.1:{free_port()}/secret-path").what
    assert "secret-path" not in diagnose.web("sink webhook", f"http://127.0.0.1:{free_port()}/secret-path").what
    assert "plain text" in diagnose.web("sink webhook", receiver.url.replace("http:", "https:")).what


def test_every_kind_of_sink_is_tried(receiver: Receiver, kafka: Kafka) -> None:
    topic = kafka.fresh_topic()
    with Mailbox() as box:
        config = parse(f"""
alerts:
  sinks:
    - {{kind: slack, url: "{receiver.url}/hunter2"}}
    - {{kind: pagerduty, routing_key: hunter2, service: "{receiver.url}"}}
    - {{kind: email, host: 127.0.0.1, port: {box.port}, security: none, sender: a@b.c, to: [a@b.c]}}
    - {{kind: email, name: elsewhere, host: 127.0.0.1, port: {box.port}, sender: a@b.c, to: [a@b.c]}}
    - {{kind: kafka, brokers: ["{kafka.bootstrap}"], topic: {topic}}}
    - {{kind: kafka, name: nowhere, brokers: ["{kafka.bootstrap}"], topic: no-such-topic}}
    - {{kind: webhook, url: "http://169.254.169.254/latest"}}
""")
        found = [part for part in diagnose.diagnose(config) if part.part.startswith("sink ")]
        assert box.mails == []
    assert [(part.part, part.ok) for part in found] == [
        ("sink slack", True),
        ("sink pagerduty", True),
        ("sink email", True),
        ("sink elsewhere", False),
        ("sink kafka", True),
        ("sink nowhere", False),
        ("sink webhook", False),
    ]
    assert "STARTTLS" in found[3].what
    assert "no-such-topic does not exist" in found[5].what
    assert "link-local" in found[6].what
    assert "hunter2" not in repr(found)


def test_targets_trackers_and_labeling_tools_are_tried(receiver: Receiver, kafka: Kafka, s3: S3) -> None:
    topic, away = kafka.fresh_topic(), f"http://127.0.0.1:{free_port()}"
    s3.client().create_bucket(Bucket="there")
    named = receiver.url.replace("127.0.0.1", "localhost")
    server = f"{{endpoint: '{s3.url}', region: {s3.region}, path_style: true, key: {s3.key}, secret: {s3.secret}}}"
    config = parse(f"""
retraining_targets:
  - {{kind: webhook, url: "{receiver.url}/hunter2"}}
  - {{kind: airflow, url: "{away}", dag: retrain, password: hunter2}}
  - {{kind: github, repository: shop/models, token: hunter2, url: "{receiver.url}", private: false}}
  - {{kind: argo_workflows, url: "{named}", namespace: ml, template: t, private: false}}
  - {{kind: kafka, brokers: ["{kafka.bootstrap}"], topic: {topic}}}
tracking:
  - {{kind: mlflow, url: "{receiver.url}"}}
  - {{kind: clearml, url: "{receiver.url}", files: "{away}", access_key: a, secret_key: hunter2}}
labeling_tools:
  - {{kind: label_studio, url: "{receiver.url}", token: hunter2}}
  - {{kind: s3, bucket: there, server: {server}}}
  - {{kind: cvat, url: "{receiver.url}", token: t, project_id: 1, storage_id: 1, bucket: nowhere, server: {server}}}
""")
    found = [part for part in diagnose.diagnose(config) if part.part.startswith(("target ", "tracker ", "labeling "))]
    assert [(part.part, part.ok) for part in found] == [
        ("labeling tool label-studio", True),
        ("labeling tool s3", True),
        ("labeling tool cvat", True),
        ("labeling tool cvat", False),
        ("target retraining", True),
        ("target airflow", False),
        ("target github", False),
        ("target argo", False),
        ("target retraining-kafka", True),
        ("tracker mlflow", True),
        ("tracker clearml", True),
        ("tracker clearml", False),
    ]
    assert "nowhere" in found[3].what
    assert "connection refused" in found[5].what
    assert "a private address" in found[6].what
    assert "a private address" in found[7].what
    assert {call.method for call in receiver.calls} == {"GET"}
    assert "hunter2" not in repr(found)


def test_a_mongodb_that_answers_or_is_away(mongo: Mongo) -> None:
    assert diagnose.mongo("labeling", MongoQueue(url=mongo.url, database=f"db{uuid4().hex}")).ok
    away = diagnose.mongo("labeling", MongoQueue(url=f"mongodb://u:hunter2@127.0.0.1:{free_port()}"))
    assert "connection refused" in away.what
    assert "hunter2" not in repr(away)


def test_every_outside_part_of_a_configuration_is_named(tmp_path: Path) -> None:
    closed = free_port()
    config = parse(f"""
sources:
  - {{kind: kafka, brokers: ["127.0.0.1:{closed}"], topics: [t]}}
  - {{kind: files, path: {tmp_path}/missing.jsonl}}
models: [{{name: m, reference: {{path: {tmp_path}/missing.ref}}}}]
alerts: {{sinks: [{{kind: webhook, url: "http://127.0.0.1:{closed}/"}}, {{kind: alertmanager, urls: ["http://127.0.0.1:{closed}"]}}]}}
labeling: {{kind: mongo, url: "mongodb://127.0.0.1:{closed}"}}
dead_letters: {{kind: kafka, brokers: ["127.0.0.1:{closed}"], topic: dead}}
state: {{path: {tmp_path}/state}}
""")
    found = list(diagnose.diagnose(config))
    assert [part.part for part in found] == [
        "source kafka",
        "source files",
        "reference of model 'm'",
        "sink webhook",
        "sink alertmanager",
        "labeling",
        "dead_letters",
        "state",
    ]
    assert [part.ok for part in found] == [False] * 7 + [True]


def serve_tls_once(listener: socket.socket, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # the client hangs up, which is the point
            context.wrap_socket(connection, server_side=True).close()

    threading.Thread(target=serve, daemon=True).start()
