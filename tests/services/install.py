"""What the real servers are, where they come from, and whether they are there.

Everything lands under `.services/<name>/` of the checkout, from package registries only: Maven, Go modules, Debian.
A stamp with a digest of the recipe says that it is complete, so a second call does nothing and a changed recipe
builds anew. Debian packages are unpacked, not installed: no service is started and nothing outside is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".services"
ASSETS = Path(__file__).parent / "assets"

# Kafka stores the cluster's id and the SCRAM users when it formats its directory; tests copy the formatted one.
CLUSTER = "ZHJpZnRkLXRlc3RzLTAwMQ"
USERS = {"monitor": "monitor-secret", "stranger": "stranger-secret"}  # only `monitor` is granted anything


class InstallFailed(Exception):
    """A server could not be fetched or built; the message ends with what the tool said."""


class Recipe(NamedTuple):
    """How one server comes to be. `build` fills an empty directory; `files` are digested for the stamp."""

    name: str
    version: str
    tools: Sequence[tuple[str, str]]  # command and the Debian package that brings it
    files: Sequence[str]
    build: Callable[[Path], None]


def home(name: str) -> Path:
    """Where the server `name` lies."""
    return HOME / name


def absent(name: str) -> str | None:
    """Why the server cannot be started here, None if it can."""
    if name == "s3":
        there = importlib.util.find_spec("moto") is not None
        return None if there else "moto is not installed: pip install -r requirements/dev.txt"
    if not _complete(RECIPES[name]):
        return f"{name} {RECIPES[name].version} is not installed: make services"
    if name in {"kafka", "mongo"} and shutil.which("java") is None:
        return f"{name} needs java: make services"
    return None


def install(names: Sequence[str] = ()) -> None:
    """Fetch and build what is not there yet, all or the named ones, saying one line each. Raises InstallFailed."""
    HOME.mkdir(exist_ok=True)
    for recipe in [RECIPES[name] for name in names or RECIPES]:
        with _alone(recipe.name):
            if _complete(recipe):
                print(f"{recipe.name} {recipe.version}: there", flush=True)
                continue
            print(f"{recipe.name} {recipe.version}: ", end="", flush=True)
            began = time.monotonic()
            _need_tools(recipe.tools)
            shutil.rmtree(home(recipe.name), ignore_errors=True)
            home(recipe.name).mkdir()
            recipe.build(home(recipe.name))
            _stamp(recipe).write_text(_digest(recipe))
            print(f"installed in {time.monotonic() - began:.0f} s", flush=True)


def kafka_properties(**settings: str | int) -> str:
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


def java(name: str, heap: str, *classpath: str) -> list[str]:
    """The command of a small JVM of server `name`: the compiler that starts fastest, the collector that costs least."""
    lib = home(name) / "lib"
    logging = f"-Dlog4j2.configurationFile={ASSETS / 'log4j2.yaml'}"
    path = ":".join([f"{lib}/*", *classpath])
    return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", logging, "-cp", path]


def _build_kafka(into: Path) -> None:
    _jars("kafka-pom.xml", into)
    (into / "server.properties").write_text(
        kafka_properties(
            controller_quorum_voters="1@127.0.0.1:9093",
            listeners="PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
            listener_security_protocol_map="PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            log_dirs=str(into / "formatted"),
        )
    )
    users = [f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]" for name, password in USERS.items()]
    tool = [*java("kafka", "128m"), "kafka.tools.StorageTool"]
    _run([*tool, "format", "-t", CLUSTER, "-c", str(into / "server.properties"), *users])


def _build_mongo(into: Path) -> None:
    _jars("mongo-pom.xml", into)
    _run(["javac", "-cp", f"{into / 'lib'}/*", "-d", str(into / "classes"), str(ASSETS / "MongoWire.java")])


def _build_toxiproxy(into: Path) -> None:
    package = "github.com/Shopify/toxiproxy/v2/cmd/server"
    _run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(into / "toxiproxy"), package], ASSETS / "toxiproxy")


def _build_prometheus(into: Path) -> None:
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "prometheus", "prometheus-alertmanager"]
    try:
        _run(download, into)
    except InstallFailed:  # a fresh machine knows no packages yet
        _run(["apt-get", "-q", "update"])
        _run(download, into)
    for package in into.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(into)])
        package.unlink()


def _jars(pom: str, into: Path) -> None:
    goal = "dependency:copy-dependencies"
    _run(["mvn", "-q", "-B", "-f", str(ASSETS / pom), goal, f"-DoutputDirectory={into / 'lib'}"])


def _run(command: Sequence[str], directory: Path = ROOT) -> None:
    # Ten minutes: the slowest, a cold Go build on two busy cores, was seen to take under four.
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise InstallFailed(f"{' '.join(command[:3])} ... ended with {done.returncode}:\n{said}")


def _need_tools(tools: Sequence[tuple[str, str]]) -> None:
    packages = list(dict.fromkeys(package for command, package in tools if shutil.which(command) is None))
    if not packages:
        return
    if os.geteuid() != 0:
        raise InstallFailed(f"needs {' '.join(packages)}; as root: apt-get install {' '.join(packages)}")
    _run(["apt-get", "-q", "update"])
    _run(["apt-get", "-qy", "install", "--no-install-recommends", *packages])


def _stamp(recipe: Recipe) -> Path:
    return home(recipe.name) / "complete"


def _complete(recipe: Recipe) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return _stamp(recipe).read_text() == _digest(recipe)
    return False


def _digest(recipe: Recipe) -> str:
    digest = hashlib.sha256(f"{recipe.version} {CLUSTER} {USERS}".encode())
    for name in recipe.files:
        digest.update((ASSETS / name).read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Two test runs in one checkout do not build the same thing into each other; the second finds it done."""
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_JAVA = ("java", "openjdk-17-jdk-headless"), ("javac", "openjdk-17-jdk-headless"), ("mvn", "maven")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("kafka", "4.1.0", _JAVA, ["kafka-pom.xml"], _build_kafka),
        Recipe("mongo", "1.47.0", _JAVA, ["mongo-pom.xml", "MongoWire.java"], _build_mongo),
        Recipe("prometheus", "2.42", [("apt-get", "apt"), ("dpkg-deb", "dpkg")], [], _build_prometheus),
        Recipe(
            "toxiproxy",
            "2.5.0",
            [("go", "golang-go")],
            ["toxiproxy/go.mod", "toxiproxy/go.sum", "toxiproxy/tools.go"],
            _build_toxiproxy,
        ),
    )
}
