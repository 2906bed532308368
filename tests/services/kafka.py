"""Apache Kafka, one node in KRaft mode, with the listeners that tests need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
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

from tests.services.install import JDK, Recipe, fetch_jars, java, run
from tests.services.process import Server, free_port
from tests.services.tls import Authority

# Kafka stores the cluster's id and the SCRAM users when it formats its directory; tests copy the formatted one.
USERS = {"monitor": "monitor-secret", "stranger": "stranger-secret"}
_CLUSTER = "ZHJpZnRkLXRlc3RzLTAwMQ"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def _properties(**settings: str | int) -> str:
    """Settings of a one-node broker that starts, groups and dies fast; `settings` (`_` for `.`) come last.

    The defaults would cost 3 s at each first join (initial delay), 50 partitions of offsets to load at each start,
    9 s after a kill until the broker may register again, and more heap for the cleaner than we give to all of it.
    """
    base: dict[str, str | int] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": "data",
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        "log.cleaner.dedupe.buffer.size": 8388608,
    }
    base |= {name.replace("_", "."): value for name, value in settings.items()}
    return "".join(f"{name}={value}\n" for name, value in base.items())


def _build() -> None:
    home = RECIPE.home
    fetch_jars("kafka-pom.xml", home / "lib")
    settings = home / "server.properties"
    settings.write_text(
        _properties(
            controller_quorum_voters="1@127.0.0.1:9093",
            listeners="PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
            listener_security_protocol_map="PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            log_dirs=str(home / "formatted"),
        )
    )
    users = [f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]" for name, password in USERS.items()]
    storage = [*java("128m", home / "lib"), "kafka.tools.StorageTool"]
    run([*storage, "format", "-t", _CLUSTER, "-c", str(settings), *users])
    # A broker spends its start loading 8,000 classes. One run leaves them as an archive that later ones map into
    # memory: 5 s instead of 16 on two cores with a load of 8.
    (home / "first").mkdir()
    first = Kafka(home / "first", options=[f"-XX:ArchiveClassesAtExit={_ARCHIVE}"])
    first.start()
    first.fresh_topic()
    first.stop(patience=120)
    shutil.rmtree(home / "first")


RECIPE = Recipe("kafka", "4.1.0", _build, JDK, ["kafka-pom.xml"], salt=f"{_CLUSTER} {USERS} archive")
_ARCHIVE = RECIPE.home / "classes.jsa"


class Kafka(Server):
    """A broker that keeps its ports and its data over `kill` and `start`.

    `bootstrap` is plaintext and may do everything. `upstream` is a listener that tells clients to come by `front`,
    where a proxy is expected to listen: the only way to put faults between a client and a broker, since clients
    leave the bootstrap address for the advertised one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        listeners: Mapping[str, str] | None = None,
        options: Sequence[str] = (f"-XX:SharedArchiveFile={_ARCHIVE}",),
        **settings: str | int,
    ) -> None:
        ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", "PROXIED", *(listeners or {}))}
        at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.bootstrap = at["PLAINTEXT"]
        self.upstream = at["PROXIED"]
        self.front = f"127.0.0.1:{free_port()}"
        self.addresses = at
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "PROXIED": "PLAINTEXT", **(listeners or {})}
        advertised = {name: address for name, address in at.items() if name != "CONTROLLER"} | {"PROXIED": self.front}
        (directory / "server.properties").write_text(
            _properties(
                controller_quorum_voters=f"1@{at['CONTROLLER']}",
                listeners=",".join(f"{name}://{address}" for name, address in at.items()),
                advertised_listeners=",".join(f"{name}://{address}" for name, address in advertised.items()),
                listener_security_protocol_map=",".join(f"{name}:{value}" for name, value in protocols.items()),
                **settings,
            )
        )
        shutil.copytree(RECIPE.home / "formatted", directory / "data")
        command = [*java("256m", RECIPE.home / "lib", options=options), "kafka.Kafka", "server.properties"]
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
