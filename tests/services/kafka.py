"""Apache Kafka, one node in KRaft mode, with the listeners that tests need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.services.install import USERS, home, java, kafka_properties
from tests.services.process import Server, free_port
from tests.services.tls import Authority

_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class Kafka(Server):
    """A broker that keeps its ports and its data over `kill` and `start`.

    `bootstrap` is plaintext and may do everything. `upstream` is a listener that tells clients to come by `front`,
    where a proxy is expected to listen: the only way to put faults between a client and a broker, since clients
    leave the bootstrap address for the advertised one.
    """

    def __init__(self, directory: Path, *, listeners: Mapping[str, str] | None = None, **settings: str | int) -> None:
        ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", "PROXIED", *(listeners or {}))}
        at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.bootstrap = at["PLAINTEXT"]
        self.upstream = at["PROXIED"]
        self.front = f"127.0.0.1:{free_port()}"
        self.addresses = at
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "PROXIED": "PLAINTEXT", **(listeners or {})}
        advertised = {name: address for name, address in at.items() if name != "CONTROLLER"} | {"PROXIED": self.front}
        (directory / "server.properties").write_text(
            kafka_properties(
                controller_quorum_voters=f"1@{at['CONTROLLER']}",
                listeners=",".join(f"{name}://{address}" for name, address in at.items()),
                advertised_listeners=",".join(f"{name}://{address}" for name, address in advertised.items()),
                listener_security_protocol_map=",".join(f"{name}:{value}" for name, value in protocols.items()),
                **settings,
            )
        )
        shutil.copytree(home("kafka") / "formatted", directory / "data")
        command = [*java("kafka", "256m"), "kafka.Kafka", "server.properties"]
        super().__init__("kafka", command, directory=directory, ready=self._serves)
        # Without the back-off cap, asking a broker that is just coming up costs up to 10 s of its own.
        self._admin = AdminClient(
            {"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": 200, "log_level": 0}, logger=_Silent()
        )

    def create_topic(self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """Make the topic `name` and give the name back; an error if it is there already."""
        topic = NewTopic(name, partitions, replication_factor=1, config=dict(settings or {}))
        self._admin.create_topics([topic], operation_timeout=20)[name].result(30)
        return name

    def fresh_topic(self, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """A new topic with a name that no other test has."""
        return self.create_topic(f"events-{uuid4().hex[:12]}", partitions, settings)

    def _serves(self) -> bool:
        # An answer to a metadata request, not only an open port: the port opens seconds before.
        try:
            return bool(self._admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


class SecureKafka(Kafka):
    """A broker that asks who one is: SASL_SSL with SCRAM-SHA-512 at `secure`, mutual TLS at `mutual`.

    `USERS` can log in; none may read or write before `allow`. Certificates are of `authority`, whose `bundle` a
    client must trust. On `bootstrap` everything is still allowed, for the test's own doings.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "tls", "driftd test authority")
        self.users: Mapping[str, str] = USERS
        keystore = self.authority.issue("broker", "localhost")
        super().__init__(
            directory,
            listeners={"SECURE": "SASL_SSL", "MUTUAL": "SSL"},
            ssl_keystore_type="PEM",
            ssl_keystore_location=str(keystore),
            ssl_truststore_type="PEM",
            ssl_truststore_location=str(self.authority.bundle),
            listener_name_mutual_ssl_client_auth="required",
            listener_name_secure_sasl_enabled_mechanisms="SCRAM-SHA-512",
            **{"listener.name.secure.scram-sha-512.sasl.jaas.config": _SCRAM},
            authorizer_class_name="org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            super_users="User:ANONYMOUS",
        )
        self.secure = self.addresses["SECURE"]
        self.mutual = self.addresses["MUTUAL"]

    def allow(self, user: str, *, topic: str | None = None, group: str | None = None) -> None:
        """Let `user` do everything with the topic, or in the consumer group."""
        for kind, name in ((ResourceType.TOPIC, topic), (ResourceType.GROUP, group)):
            if name is None:
                continue
            grant = AclBinding(
                kind,
                name,
                ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                AclOperation.ALL,
                AclPermissionType.ALLOW,
            )
            self._admin.create_acls([grant])[grant].result(20)


class _Silent:
    """Takes the client's complaints about a broker that is down on purpose."""

    def log(self, level: int, message: str, *arguments: object) -> None:
        pass
