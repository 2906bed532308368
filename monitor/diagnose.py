"""`driftd check --connect`: tries every outside part of a configuration and says what is wrong with each.

Nothing is changed anywhere: no group is joined, no offset committed, no record or alert sent. The clients themselves
say of most failures only that they could not connect, so names, ports, TLS and login are probed here step by step.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from alerting.connection import Forbidden, connect
from alerting.deliver import Undelivered
from alerting.kafka import Security, client_settings, made
from alerting.labeling import MongoQueue
from alerting.labeling.tools import ToolOptions
from alerting.labeling.tools.cvat import Cvat
from alerting.labeling.tools.label_studio import LabelStudio
from alerting.labeling.tools.s3 import S3Bucket
from alerting.s3 import s3_client
from alerting.sinks import SinkOptions
from alerting.sinks.alertmanager import Alertmanager
from alerting.sinks.email import Email
from alerting.sinks.kafka import Kafka
from alerting.sinks.pagerduty import PagerDuty
from alerting.sinks.slack import Slack
from alerting.sinks.webhook import Webhook
from alerting.targets import TargetOptions
from alerting.targets.kafka import RetrainingKafka
from alerting.tracking import TrackingOptions
from alerting.tracking.clearml import ClearMl
from monitor.committee.host import hosting
from monitor.config import Config, ModelOptions
from monitor.deadletters import KafkaDeadLetters
from monitor.metrics import Meters
from monitor.sources.files import FilesOptions
from monitor.sources.kafka import ConfluentOptions, KafkaOptions

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

_PATIENCE = 5.0  # seconds for each step
_EXPIRED, _OTHER_NAME = 10, (62, 64)  # of OpenSSL's reasons to refuse a certificate: a name's, an address'
_HUNG_UP = re.compile("WRONG_VERSION|EOF|RECORD_LAYER|UNEXPECTED_MESSAGE")


class Part(NamedTuple):
    """An outside part, and how it fared. `hint` says what to do where it is not `ok`; neither text holds a secret."""

    part: str
    ok: bool
    what: str
    hint: str = ""


class _Wrong(Exception):
    """A step failed; what was found, and what to do about it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def diagnose(config: Config) -> Iterator[Part]:
    """Every outside part in the order of the configuration, each as soon as it has been tried: seconds at most."""
    for source in config.sources:
        if isinstance(source.options, KafkaOptions):
            yield from kafka(f"source {source.called}", source.options)
        elif isinstance(source.options, FilesOptions):
            yield _readable(f"source {source.called}", source.options.path)
    for model in config.models:
        if model.reference.path is not None:
            yield _readable(f"reference of model {model.name!r}", model.reference.path)
        if model.committee is not None:
            yield _committee(f"committee of model {model.name!r}", model)
        if model.model_server is not None:
            yield web(f"server of model {model.name!r}", model.model_server.url, expected=True)
    for sink in config.alerts.sinks:
        yield from _opened(f"sink {sink.name}", sink) or _sink(f"sink {sink.name}", sink)
    if isinstance(config.queue, MongoQueue):
        yield mongo("labeling", config.queue)
    for tool in config.labeling_tools:
        yield from _opened(f"labeling tool {tool.name}", tool) or _tool(f"labeling tool {tool.name}", tool)
    for target in config.retraining_targets:
        yield from _opened(f"target {target.name}", target) or _target(f"target {target.name}", target)
    for tracker in config.tracking:
        yield from _opened(f"tracker {tracker.name}", tracker) or _tracker(f"tracker {tracker.name}", tracker)
    if isinstance(config.dead_letters, KafkaDeadLetters):
        letters = config.dead_letters
        yield from _cluster("dead_letters", letters.brokers, letters.security, (letters.topic,))
    yield _writable("state", config.state.path)


def _committee(part: str, model: ModelOptions) -> Part:
    """Its files are fetched and loaded as the daemon would, which takes as long as torch takes to start."""
    with hosting([model], Meters()) as hosts:
        refusal = hosts[model.name].refusal
    if refusal:
        return Part(part, False, refusal, "`sha256sum FILE` gives a digest; `make torch` installs what loads it")
    return Part(part, True, "is loaded and answers")


def _sink(part: str, sink: SinkOptions) -> Iterator[Part]:
    """The way to a destination of alerts; of one in mail, the login as well."""
    match sink:
        case Alertmanager():
            for url in sink.urls:
                path = url.rstrip("/") + "/api/v2/status"
                yield web(part, path, cafile=sink.ca, expected=True, private=sink.private)
        case Webhook() | Slack():
            yield web(part, sink.url, cafile=sink.ca, private=sink.private)
        case PagerDuty():
            yield web(part, sink.service, cafile=sink.ca, private=sink.private)
        case Kafka():
            yield from _cluster(part, sink.brokers, sink.security, (sink.topic,))
        case Email():
            yield _mail(part, sink)


def _opened(part: str, options: SinkOptions | TargetOptions | TrackingOptions | ToolOptions) -> list[Part]:
    """What is wrong with a part before anything is asked of it; nothing where it opens."""
    try:
        options.open().close()
    except (OSError, ValueError) as error:
        return [Part(part, False, str(error), "the daemon does not start with it")]
    return []


def _tool(part: str, tool: ToolOptions) -> Iterator[Part]:
    """The way to a labeling tool, and into its bucket."""
    if not isinstance(tool, S3Bucket):
        yield web(part, tool.url, cafile=tool.ca)
    if not isinstance(tool, LabelStudio):
        yield _bucket(part, tool)


def _bucket(part: str, options: S3Bucket | Cvat) -> Part:
    from botocore.exceptions import BotoCoreError, ClientError

    client = s3_client(options.server)
    try:
        client.list_objects_v2(Bucket=options.bucket, Prefix=options.prefix, MaxKeys=1)
    except (BotoCoreError, ClientError) as error:
        return Part(part, False, f"bucket {options.bucket}: {error}", "check endpoint, region, key, and its policy")
    finally:
        client.close()
    return Part(part, True, f"bucket {options.bucket} may be listed")


def _target(part: str, target: TargetOptions) -> Iterator[Part]:
    """The way to who trains. Nothing is posted: whether a token is good shows with the first request."""
    if isinstance(target, RetrainingKafka):
        yield from _cluster(part, target.brokers, target.security, (target.topic,))
    else:
        yield web(part, target.url, cafile=target.ca, private=target.private)


def _tracker(part: str, tracker: TrackingOptions) -> Iterator[Part]:
    """The way to where runs are written, files included."""
    yield web(part, tracker.url, cafile=tracker.ca)
    if isinstance(tracker, ClearMl) and tracker.files:
        yield web(part, tracker.files, cafile=tracker.ca)


def _mail(part: str, options: Email) -> Part:
    try:
        options.open().send(())
    except Undelivered as error:
        return Part(part, False, f"mail server {error}", "check host, port, security, username and password")
    return Part(part, True, f"mail server {options.host}:{options.port} lets us in")


def kafka(part: str, options: KafkaOptions) -> Iterator[Part]:
    """A Kafka source: the way to each broker, then the topics, then the right to read them in the group."""
    wrong = False
    for found in _cluster(part, options.brokers, options.security, options.topics, lanes=options):
        wrong |= not found.ok
        yield found
    if not wrong:
        yield _right_to_read(part, options)


def web(part: str, url: str, *, cafile: str = "", expected: bool = False, private: bool = True) -> Part:
    """An HTTP server. It answers, and where `expected` with a 2xx; a webhook may well refuse to be looked at. Unless
    `private` it has to have a public address."""
    address = urlsplit(url)
    secure = address.scheme == "https"
    name, port = address.hostname or "", address.port or (443 if secure else 80)
    shown = f"{address.scheme}://{name}:{port}"
    try:
        context = ssl.create_default_context(cafile=cafile or None) if secure else None
        with _way(name, port, context, private=private) as stream:
            stream.sendall(f"GET {address.path or '/'} HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
            answer = http.client.HTTPResponse(stream)
            answer.begin()
            status = answer.status
    except _Wrong as wrong:
        return Part(part, False, f"{shown}: {wrong.what}", wrong.hint)
    except (OSError, http.client.HTTPException) as error:
        return Part(part, False, f"{shown}: no HTTP answer ({type(error).__name__})", "check scheme and port")
    if expected and not 200 <= status < 300:
        return Part(part, False, f"{shown}: answered {status}", "check the path, and who may read it")
    return Part(part, True, f"{shown} answers")


def mongo(part: str, options: MongoQueue) -> Part:
    """The MongoDB of the labeling queue: reachable, and the login is good."""
    from pymongo import MongoClient
    from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError, ServerSelectionTimeoutError
    from pymongo.uri_parser import parse_uri

    try:
        nodes = parse_uri(options.url)["nodelist"]
    except PyMongoError as error:
        return Part(part, False, f"MongoDB: the url makes no sense: {error}", "mongodb://user:password@host:27017")
    shown = "MongoDB at " + ", ".join(f"{name}:{port}" for name, port in nodes)
    try:
        for name, port in nodes:
            _connected(name, port or 27017).close()
        with MongoClient[dict[str, Any]](options.url, serverSelectionTimeoutMS=int(_PATIENCE * 1000)) as client:
            client[options.database][options.tasks].find_one({}, {"_id": 1})
    except _Wrong as wrong:
        return Part(part, False, f"{shown}: {wrong.what}", wrong.hint)
    except OperationFailure as error:
        if error.code == 18:
            return Part(part, False, f"{shown}: wrong user or password", "check the url and its authSource")
        return Part(part, False, f"{shown}: refused: {error.details}", f"grant readWrite on {options.database}")
    except (ServerSelectionTimeoutError, ConfigurationError) as error:
        hint = "check tls, tlsCAFile and replicaSet in the url"
        return Part(part, False, f"{shown}: connected, but no server for us: {str(error)[:200]}", hint)
    except PyMongoError as error:
        return Part(part, False, f"{shown}: {str(error)[:200]}", "check the url")
    return Part(part, True, f"{shown} answers, database {options.database}")


def _readable(part: str, path: str) -> Part:
    if not Path(path).exists():
        return Part(part, False, f"{path} is not there", "check the path; it is taken from the working directory")
    if not os.access(path, os.R_OK):
        return Part(part, False, f"{path} cannot be read", "give this user the right to read it")
    return Part(part, True, f"{path} can be read")


def _writable(part: str, path: str) -> Part:
    there = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Part(part, False, f"{path}: {there} cannot be written", "give this user the right, or choose another")
    return Part(part, True, f"{path} can be written")


# -- Kafka

_API_VERSIONS, _SASL_HANDSHAKE = 18, 17  # requests of its protocol
_OTHER_MECHANISM, _NO_LOGIN_HERE = 33, 34  # error codes of the latter's answer
_TLS_ALERT = b"\x15"  # first byte of what a TLS server says to plain text


def _cluster(
    part: str, brokers: Sequence[str], security: Security, topics: Sequence[str], lanes: KafkaOptions | None = None
) -> Iterator[Part]:
    """The way to each broker; where one is good, the login and the topics."""
    reached = False
    for broker in brokers:
        try:
            _reach(broker, security)
        except _Wrong as wrong:
            yield Part(part, False, f"broker {broker}: {wrong.what}", wrong.hint)
        else:
            reached = True
    if not reached:
        return
    try:
        with _admin(brokers, security) as admin:
            counts = {}
            for topic in topics:
                counts[topic] = _partitions(admin, topic)
                yield Part(part, True, f"topic {topic}: {counts[topic]} partitions")
    except _Wrong as wrong:
        yield Part(part, False, wrong.what, wrong.hint)
        return
    if isinstance(lanes, ConfluentOptions) and len(set(counts.values())) > 1:
        yield Part(
            part,
            False,
            "the topics have different numbers of partitions: " + ", ".join(f"{t} {n}" for t, n in counts.items()),
            "this client shares partitions out by range; use kind: kafka, or give all topics equally many",
        )


def _reach(broker: str, security: Security) -> None:
    """Name, port, TLS, and the first words of Kafka's protocol, which need no login. Raises `_Wrong`."""
    name, _, port = broker.rpartition(":")
    if not port.isdecimal():
        name, port = broker, "9092"
    try:
        context = security.context()
    except OSError as error:
        files = ", ".join(f for f in (security.cafile, security.certfile, security.keyfile) if f)
        raise _Wrong(f"certificate files cannot be used: {error}", f"check {files}") from error
    with _way(name.strip("[]"), int(port), context) as stream:
        try:
            answer = _asked(stream, _API_VERSIONS, b"")
        except ssl.SSLError as error:
            if "ALERT" not in str(error):
                raise _Wrong(f"TLS broke off: {_reason(error)}", "see the broker's log") from error
            if security.certfile is None:
                hint = "set security.certfile and security.keyfile"
                raise _Wrong("the broker asks for a client certificate", hint) from error
            hint = "have it signed by an authority that the broker trusts"
            raise _Wrong(f"the broker refuses our certificate: {_reason(error)}", hint) from error
        except OSError as error:
            if context is None:
                hint = "set security.tls: true, or use the plaintext port"
                raise _Wrong("no Kafka's answer to plain text; perhaps this port speaks TLS", hint) from error
            raise _Wrong("the broker hangs up after the TLS handshake", "see the broker's log") from error
        if answer[:1] == _TLS_ALERT:
            raise _Wrong("this port speaks TLS and we speak plain text", "set security.tls: true")
        _offer(stream, security)


def _offer(stream: socket.socket, security: Security) -> None:
    """Whether the port wants a login, and by our mechanism."""
    wanted = (security.mechanism or "none").encode()
    answer = _asked(stream, _SASL_HANDSHAKE, struct.pack(">h", len(wanted)) + wanted)
    (code, count) = struct.unpack_from(">hi", answer, 4)
    offered, at = [], 10
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        offered.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    if code == _NO_LOGIN_HERE:
        if security.mechanism:
            raise _Wrong("this port takes no login", "leave security.mechanism out, or use the port for SASL")
    elif code == _OTHER_MECHANISM:
        has = ", ".join(offered)
        if security.mechanism:
            raise _Wrong(f"mechanism {security.mechanism} is not enabled; offered: {has}", f"security.mechanism: {has}")
        raise _Wrong(f"this port wants a login by {has}", "set security.mechanism, username and password")


def _asked(stream: socket.socket, key: int, body: bytes) -> bytes:
    """The answer to a request of Kafka's protocol, or of whatever is there: its first bytes. Raises `OSError`."""
    version = 1 if key == _SASL_HANDSHAKE else 0
    request = struct.pack(">hhih", key, version, 1, 6) + b"driftd" + body
    stream.sendall(struct.pack(">i", len(request)) + request)
    head = _received(stream, 4)
    if head[:1] == _TLS_ALERT:
        return head
    (length,) = struct.unpack(">i", head)
    if not 0 < length < 1 << 20:
        raise ConnectionError("no answer of Kafka's")
    return _received(stream, length)


def _received(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionError("hung up")
        data += more
    return data


@contextmanager
def _admin(brokers: Sequence[str], security: Security) -> Iterator[KafkaAdminClient]:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailedError

    # Of an unknown user a broker takes leave without a word; way, TLS and mechanism were found good just before.
    refusals = (SaslAuthenticationFailedError, KafkaConnectionError)
    settings = client_settings(brokers, security) | {"bootstrap_timeout_ms": int(_PATIENCE * 1000)}
    with _overheard() as errors:
        try:
            admin = made(KafkaAdminClient, settings)
        except KafkaError as error:
            if security.mechanism and any(isinstance(e, refusals) for e in errors):
                raise _Wrong(
                    f"wrong user or password: the brokers refuse {security.username!r} by {security.mechanism}",
                    "check security.username and security.password",
                ) from error
            why = f": {errors[-1]}" if errors else ""
            raise _Wrong(f"connected, but not accepted{why}", "see the brokers' log") from error
        try:
            yield admin
        finally:
            admin.close()


@contextmanager
def _overheard() -> Iterator[list[BaseException]]:
    """The errors that kafka-python tells nobody but its log, which stays silent meanwhile."""
    errors: list[BaseException] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple):
                errors.extend(arg for arg in record.args if isinstance(arg, BaseException))

    logger, ear = logging.getLogger("kafka"), Ear()
    before = logger.propagate, logger.level
    logger.addHandler(ear)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield errors
    finally:
        logger.removeHandler(ear)
        logger.propagate = before[0]
        logger.setLevel(before[1])


def _partitions(admin: KafkaAdminClient, topic: str) -> int:
    from kafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError

    try:
        (found,) = admin.describe_topics([topic])
    except KafkaError as error:
        raise _Wrong(f"topic {topic}: {error}", "see the brokers' log") from error
    code = found["error_code"]
    if code == UnknownTopicOrPartitionError.errno:
        raise _Wrong(f"topic {topic} does not exist", "create it, or correct `topics`")
    if code == TopicAuthorizationFailedError.errno:
        raise _Wrong(
            f"topic {topic}: not allowed, or not there", f"grant Describe and Read on topic {topic} to our user"
        )
    if code:
        raise _Wrong(f"topic {topic}: error {code}", "see the brokers' log")
    return len(found["partitions"])


def _right_to_read(part: str, options: KafkaOptions) -> Part:
    """Asks for the group's offsets and for a record of each topic, without joining the group."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

    settings = client_settings(options.brokers, options.security) | {
        "group_id": options.group,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "max_partition_fetch_bytes": 1,
    }
    with _overheard():
        consumer = made(KafkaConsumer, settings)
        try:
            asked = [TopicPartition(topic, 0) for topic in options.topics]
            consumer.committed(asked[0], timeout_ms=int(_PATIENCE * 1000))
            consumer.assign(asked)
            consumer.poll(timeout_ms=1000)
        except GroupAuthorizationFailedError:
            hint = f"grant Read on group {options.group} to our user"
            return Part(part, False, f"group {options.group}: not allowed", hint)
        except TopicAuthorizationFailedError as error:
            topics = ", ".join(options.topics)
            return Part(part, False, f"reading not allowed: {error}", f"grant Read on topic {topics} to our user")
        except KafkaError as error:
            return Part(part, False, f"group {options.group}: {error}", "see the brokers' log")
        finally:
            consumer.close(autocommit=False, timeout_ms=1000)
    return Part(part, True, f"group {options.group} may read {', '.join(options.topics)}")


# -- the way there


@contextmanager
def _way(name: str, port: int, context: ssl.SSLContext | None, *, private: bool = True) -> Iterator[socket.socket]:
    """A connection, encrypted where there is a context. Raises `_Wrong`."""
    with _connected(name, port, private=private) as plain:
        if context is None:
            yield plain
            return
        with _wrapped(plain, context, name) as stream:
            yield stream


def _connected(name: str, port: int, *, private: bool = True) -> socket.socket:
    try:
        return connect(name, port, _PATIENCE, private=private)
    except Forbidden as error:
        raise _Wrong(str(error), "`private: true` allows private addresses and loopback; metadata never is") from error
    except socket.gaierror as error:
        hint = "check the name, and the resolver of this machine"
        raise _Wrong(f"the name {name} cannot be resolved", hint) from error
    except ConnectionRefusedError as error:
        raise _Wrong(f"connection refused: nothing listens on port {port}", "check the port; is it running?") from error
    except TimeoutError as error:
        raise _Wrong(f"no answer within {_PATIENCE:g} s", "a firewall, a network policy or a wrong address") from error
    except OSError as error:
        raise _Wrong(f"cannot be reached: {error.strerror or error}", "check address and network") from error


def _wrapped(plain: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            raise _Wrong("the server's certificate has expired", "have it renewed") from error
        if error.verify_code in _OTHER_NAME:
            raise _Wrong(f"the server's certificate is not for {name}", "use a name that it has") from error
        what = f"the server's certificate is not trusted: {error.verify_message}"
        raise _Wrong(what, "set the CA file to its authority's") from error
    except OSError as error:
        if isinstance(error, ssl.SSLError) and not _HUNG_UP.search(str(error)):
            raise _Wrong(f"no TLS with this server: {_reason(error)}", "see its log") from error
        hint = "leave TLS out, or use the port for TLS"
        raise _Wrong("this port does not take TLS; it seems to speak plain text", hint) from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
