"""How every part of driftd reaches Kafka with kafka-python: the settings of all its clients, and a topic to write to.

It lies in `alerting` because sources and dead letters, in `monitor`, may import from here and sinks not from there.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from alerting.cloudevents import CloudEvent, Mode
from alerting.deliver import Undelivered
from alerting.outbox import Item
from alerting.secret import Secret

if TYPE_CHECKING:
    from kafka import KafkaProducer
    from kafka.net.compat import KafkaNetClient

_BOOTSTRAP = 10.0  # seconds of one attempt to reach a broker; kafka-python backs off within it
_RECONNECT = 2.0  # longest back-off; the default of 30 s keeps a consumer away for 46 s after a broker's crash
_FAREWELL = 1.0  # seconds for a producer to close: nothing waits in it, since every record was awaited


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach a secured Kafka. Everything left out means plaintext."""

    tls: Annotated[bool, msgspec.Meta(description="Encrypt; the broker's certificate is always verified")] = False
    cafile: Annotated[
        str | None, msgspec.Meta(description="PEM file of the authority behind the brokers; default: the system's")
    ] = None
    certfile: Annotated[str | None, msgspec.Meta(description="PEM file of the client certificate (mutual TLS)")] = None
    keyfile: Annotated[str | None, msgspec.Meta(description="PEM file of its key, where not in `certfile`")] = None
    keypassword: Annotated[Secret | None, msgspec.Meta(description="Password of that key")] = None
    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, msgspec.Meta(description="SASL mechanism")
    ] = None
    username: Annotated[str | None, msgspec.Meta(description="SASL user")] = None
    password: Annotated[Secret | None, msgspec.Meta(description="SASL password")] = None

    @property
    def protocol(self) -> str:
        """By the name that every Kafka client knows it."""
        return ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")

    def context(self) -> ssl.SSLContext | None:
        """Raises `OSError` for a file that is missing or is no certificate."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.cafile)
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile, self.keypassword)
        return context


def client_settings(brokers: Sequence[str], security: Security) -> dict[str, Any]:
    """What every kafka-python client of ours is given. Raises `OSError` for a certificate that cannot be read."""
    return {
        "bootstrap_servers": list(brokers),
        "client_id": "driftd",
        "security_protocol": security.protocol,
        "ssl_context": security.context(),
        "sasl_mechanism": security.mechanism,
        "sasl_plain_username": security.username,
        "sasl_plain_password": None if security.password is None else str(security.password),
        "reconnect_backoff_max_ms": int(_RECONNECT * 1000),
        "bootstrap_timeout_ms": int(_BOOTSTRAP * 1000),
    }


def made(kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """A kafka-python client. Raises `KafkaError` where no broker answers within the bootstrap timeout; what the
    constructor then leaves running is closed."""
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    clients: list[KafkaNetClient] = []

    def new_client(**more: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**more))
        return clients[-1]

    try:
        return kind(**settings, kafka_client=new_client)
    except KafkaError:
        for client in clients:
            client.close()
        raise


class Record(NamedTuple):
    """What is written to a topic. Records of one key lie in one partition, in their order."""

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Topic:
    """One topic, written to by one thread. Connects at the first `send`, so a broker that is away does no harm before.

    Raises `OSError` for a certificate that cannot be read.
    """

    def __init__(self, brokers: Sequence[str], name: str, security: Security, timeout: float) -> None:
        self._name, self._timeout = name, timeout
        self._shown = f"topic {name} at {', '.join(brokers)}"
        milliseconds = int(timeout * 1000)
        self._settings = client_settings(brokers, security) | {
            "acks": "all",
            # one at a time: what is sent again after a failure must not come behind what was sent after it
            "max_in_flight_requests_per_connection": 1,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
            "bootstrap_timeout_ms": milliseconds,
            "max_block_ms": milliseconds,
            "request_timeout_ms": milliseconds,
            "delivery_timeout_ms": milliseconds + 1,
        }
        self._producer: KafkaProducer | None = None

    def send(self, records: Sequence[Record]) -> None:
        """Returns when every replica in step has all of them, or raises `Undelivered`."""
        from kafka import KafkaProducer
        from kafka.errors import InvalidRecordError, KafkaError, MessageSizeTooLargeError

        delivered = 0
        try:
            if self._producer is None:
                self._producer = made(KafkaProducer, self._settings)
            sent = [self._producer.send(self._name, r.value, r.key, list(r.headers)) for r in records]
            for future in sent:
                future.get(timeout=2 * self._timeout)
                delivered += 1
        except (MessageSizeTooLargeError, InvalidRecordError) as error:
            raise Undelivered(f"{self._shown}: {type(error).__name__}", retry=False, delivered=delivered) from error
        except KafkaError as error:
            # What a producer holds after a failure it would send later on its own, behind our back and out of order.
            self.close()
            raise Undelivered(f"{self._shown}: {type(error).__name__}", retry=True, delivered=delivered) from error

    def close(self) -> None:
        """Lets go of the broker; the next `send` connects anew."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=_FAREWELL)


class EventTopic:
    """A destination whose items go to a topic as CloudEvents, those of a model in one partition and so in order.

    `event` makes one of an item. Raises as `Topic` does.
    """

    def __init__(self, topic: Topic, mode: Mode, event: Callable[[Item], CloudEvent]) -> None:
        self._topic, self._mode, self._event = topic, mode, event

    def send(self, items: Sequence[Item]) -> None:
        self._topic.send([self._record(self._event(item)) for item in items])

    def close(self) -> None:
        self._topic.close()

    def _record(self, event: CloudEvent) -> Record:
        wire = event.kafka(self._mode)
        headers = [(name, value.encode()) for name, value in wire.headers.items()]
        return Record(event.model.encode(), wire.body, headers)
