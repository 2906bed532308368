"""How the real servers come to be there: a recipe per server, kept in the server's module.

Everything lands under `.services/<name>/` of the checkout, from package registries only: Maven, Go modules, Debian.
A stamp with a digest of the recipe says that it is complete, so a second call does nothing and a changed recipe
builds anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
HOME = Path(__file__).parents[2] / ".services"

JDK = {"java": "openjdk-17-jdk-headless", "javac": "openjdk-17-jdk-headless", "mvn": "maven"}


class InstallFailed(Exception):
    """A server could not be fetched or built; the message ends with what the tool said."""


@dataclass(frozen=True)
class Recipe:
    """How one server comes to be.

    `build` fills the empty directory `home`; `assets` are the files it reads and `salt` what else it depends on, so
    that a change of either builds anew. `tools` are the commands that it needs and the Debian packages that have them.
    """

    name: str
    version: str
    build: Callable[[], None]
    tools: dict[str, str]
    assets: Sequence[str] = ()
    salt: str = ""

    @property
    def home(self) -> Path:
        return HOME / self.name

    def absent(self) -> str | None:
        """Why the server cannot be started here, None if it can."""
        with contextlib.suppress(FileNotFoundError):
            if self._stamp.read_text() == self._digest():
                return None
        return f"{self.name} {self.version} is not installed: make services"

    def install(self) -> bool:
        """Fetch and build it; False if it was there. Two test runs in one checkout wait for each other."""
        HOME.mkdir(exist_ok=True)
        with (HOME / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.absent() is None:
                return False
            _need(self.tools)
            shutil.rmtree(self.home, ignore_errors=True)
            self.home.mkdir()
            self.build()
            self._stamp.write_text(self._digest())
            return True

    @property
    def _stamp(self) -> Path:
        return self.home / "complete"

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.version} {self.salt}".encode())
        for name in self.assets:
            digest.update((ASSETS / name).read_bytes())
        return digest.hexdigest()


def install(recipes: Sequence[Recipe]) -> None:
    """Install what is not there yet, saying one line each. Raises InstallFailed."""
    for recipe in recipes:
        print(f"{recipe.name} {recipe.version}: ", end="", flush=True)
        began = time.monotonic()
        made = recipe.install()
        print(f"installed in {time.monotonic() - began:.0f} s" if made else "there", flush=True)


def run(command: Sequence[str | Path], directory: Path = ASSETS) -> None:
    """Run a tool to its end. Raises InstallFailed with the last lines of what it said."""
    # Ten minutes: the slowest, a cold Go build on two busy cores, was seen to take under four.
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise InstallFailed(f"{' '.join(map(str, command[:3]))} ... ended with {done.returncode}:\n{said}")


def fetch_jars(pom: str, into: Path) -> None:
    """The dependencies of the asset `pom`, all in one directory."""
    run(["mvn", "-q", "-B", "-f", ASSETS / pom, "dependency:copy-dependencies", f"-DoutputDirectory={into}"])


def java(heap: str, *classpath: Path, options: Sequence[str] = ()) -> list[str]:
    """The command of a small JVM: the compiler that starts fastest, the collector that costs least.

    Of each directory on the path all jars are taken, by name and in order, which a class archive insists on.
    """
    jars = [str(jar) for directory in classpath for jar in (sorted(directory.glob("*.jar")) or [directory])]
    logging = f"-Dlog4j2.configurationFile={ASSETS / 'log4j2.yaml'}"
    small = ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", logging]
    return [*small, *options, "-cp", ":".join(jars)]


def _need(tools: dict[str, str]) -> None:
    packages = list(dict.fromkeys(package for tool, package in tools.items() if shutil.which(tool) is None))
    if not packages:
        return
    if os.geteuid() != 0:
        raise InstallFailed(f"as root first: apt-get install {' '.join(packages)}")
    run(["apt-get", "-q", "update"])
    run(["apt-get", "-qy", "install", "--no-install-recommends", *packages])
