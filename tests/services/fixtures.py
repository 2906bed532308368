"""Fixtures of the real servers.

Each starts at its first use; what is shared by the session is started anew where a test left it dead.
A server that is not installed skips the test by name, or fails it where DRIFTD_REQUIRE_SERVICES=1.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from tests.services.install import Recipe
from tests.services.kafka import RECIPE as KAFKA
from tests.services.kafka import Kafka, SecureKafka
from tests.services.mongo import RECIPE as MONGO
from tests.services.mongo import Mongo
from tests.services.process import Server
from tests.services.prometheus import RECIPE as PROMETHEUS
from tests.services.prometheus import Alertmanager, Prometheus
from tests.services.s3 import S3
from tests.services.tools import LABEL_STUDIO, MLFLOW, LabelStudioServer, MlflowServer
from tests.services.toxiproxy import RECIPE as TOXIPROXY
from tests.services.toxiproxy import Proxy, Toxiproxy
from tests.services.web import Receiver

_NEEDS_SERVER = {"kafka", "kafka_secure", "kafka_proxy", "mongo", "prometheus", "alertmanager", "s3", "toxiproxy"}
_shared: list[Server] = []
S = TypeVar("S", bound=Server)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Who asks for a real server is marked so, whether or not the author thought of it."""
    for item in items:
        if _NEEDS_SERVER.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.services)


def pytest_runtest_setup() -> None:
    """A test that failed between kill and start must not take the next one with it."""
    for server in _shared:
        server.start()


def require(recipe: Recipe) -> None:
    """Go on if the server is installed; else skip the test, or fail it where servers are required."""
    reason = recipe.absent()
    if reason is not None:
        absent(reason)


def _require_tool(recipe: Recipe) -> None:
    """Go on where `make test-tools` runs; it takes a minute to start one, so nothing else does."""
    if os.environ.get("DRIFTD_TOOLS") != "1":
        pytest.skip(f"{recipe.name} is for make test-tools")
    if (reason := recipe.absent()) is not None:
        pytest.fail(reason, pytrace=False)


def absent(reason: str) -> NoReturn:
    """Skip the test, or fail it where nothing may be absent."""
    if os.environ.get("DRIFTD_REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _share(server: S) -> Iterator[S]:
    server.start()
    _shared.append(server)
    yield server
    _shared.remove(server)
    server.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The session's broker, plaintext; tests keep out of each other's way by topics of their own."""
    require(KAFKA)
    yield from _share(Kafka(tmp_path_factory.mktemp("kafka")))


@pytest.fixture(scope="session")
def kafka_secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A second broker, which asks for certificates, passwords and grants."""
    require(KAFKA)
    yield from _share(SecureKafka(tmp_path_factory.mktemp("kafka_secure")))


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """The session's MongoDB wire server; tests take databases of their own."""
    require(MONGO)
    yield from _share(Mongo(tmp_path_factory.mktemp("mongo")))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The session's S3 server; tests take buckets of their own."""
    yield from _share(S3(tmp_path_factory.mktemp("s3")))


@pytest.fixture(scope="session")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    """The session's fault injector."""
    require(TOXIPROXY)
    yield from _share(Toxiproxy(tmp_path_factory.mktemp("toxiproxy")))


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """The session's Label Studio; tests take projects of their own. Only where `make test-tools` asks for it."""
    _require_tool(LABEL_STUDIO)
    yield from _share(LabelStudioServer(tmp_path_factory.mktemp("label_studio")))


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The session's MLflow tracking server. Only where `make test-tools` asks for it."""
    _require_tool(MLFLOW)
    yield from _share(MlflowServer(tmp_path_factory.mktemp("mlflow")))


@pytest.fixture(scope="session")
def torch() -> Any:
    """The module torch, with its extra installed."""
    if find_spec("torch") is None or find_spec("safetensors") is None:
        absent("torch is not installed: make torch")
    with warnings.catch_warnings(action="ignore"):  # what its own import warns of is not ours to fix
        return importlib.import_module("torch")


@pytest.fixture
def kafka_proxy(kafka: Kafka, toxiproxy: Toxiproxy) -> Iterator[Proxy]:
    """The way to the session's broker by `kafka_proxy.address`, on which faults can be laid for this test."""
    proxy = toxiproxy.proxy(kafka.upstream, kafka.front)
    yield proxy
    proxy.remove()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP receiver of this test's own that remembers its calls; no server to install."""
    with Receiver() as one:
        yield one


@pytest.fixture
def alertmanager(tmp_path: Path, receiver: Receiver) -> Iterator[Alertmanager]:
    """An empty Alertmanager of this test's own which tells `receiver`."""
    require(PROMETHEUS)
    with Alertmanager(_directory(tmp_path, "alertmanager"), receiver.url) as server:
        yield server


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start a Prometheus with the arguments of its class but the directory; stopped when the test ends."""
    require(PROMETHEUS)
    started: list[Prometheus] = []

    def start(targets: Sequence[str], **options: Any) -> Prometheus:
        started.append(Prometheus(_directory(tmp_path, f"prometheus{len(started)}"), targets, **options))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


def _directory(parent: Path, name: str) -> Path:
    directory = parent / name
    directory.mkdir()
    return directory
