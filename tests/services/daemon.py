"""driftd itself as a process, as its users run it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import yaml

from monitor.deadletters import Letter, LocalDeadLetters, newest
from tests.services.process import Server, free_port, wait_until
from tests.services.web import ask

ROOT = Path(__file__).parents[2]
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Daemon(Server):
    """`driftd run` over a configuration: a mapping to be written down, or a file of the repository.

    Keeps its port and its state over `kill` and `start`. `environment` is what the file's `${NAME}` read; the port,
    the state's directory and the search path for a test's own checks and scorers are set here.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any] | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self.state = directory / "state"
        directory.mkdir(parents=True, exist_ok=True)
        if isinstance(config, Path):
            file = config
        else:
            file = directory / "driftd.yaml"
            state = {"path": str(self.state), **config.get("state", {})}
            web = {**config.get("web", {}), "port": port}
            file.write_text(yaml.safe_dump({**config, "state": state, "web": web}))
        super().__init__(
            "driftd",
            [sys.executable, "-m", "monitor", "run", "-c", file],
            directory=directory,
            ready=lambda: bool(ask(f"{self.url}/healthz")),
            environment={
                "PYTHONPATH": str(ROOT),
                "STATE": str(self.state),
                "WEB_PORT": str(port),
                **(environment or {}),
            },
        )

    def ready(self) -> bool:
        """What /readyz says."""
        try:
            return bool(ask(f"{self.url}/readyz"))
        except HTTPError as refusal:
            with refusal:
                return False

    def status(self) -> Any:
        """What /status says."""
        return json.loads(ask(f"{self.url}/status"))

    def model(self) -> dict[str, Any]:
        """What /status says of the one model."""
        return dict(self.status()["models"][0])

    def outcomes(self) -> dict[str, Any]:
        """What it says of the model's late labels; nothing before the first is joined."""
        return dict(next(iter(self.status()["models"][1:]), {}))

    def series(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The series of a metric by their sorted labels."""
        found = {}
        for line in ask(f"{self.url}/metrics").decode().splitlines():
            sample = _SAMPLE.match(line)
            if sample is not None and sample[1] == name:
                found[tuple(sorted(_LABEL.findall(sample[2] or "")))] = float(sample[3])
        return found

    def total(self, name: str) -> float:
        """Sum over all series of a metric."""
        return sum(self.series(name).values())

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Until something holds; TimeoutError tells the end of the log too, ServerFailed that the daemon ended."""

        def looked() -> bool:
            try:
                return holds()
            except OSError:
                return self._answers() and holds()  # says so if it ended

        try:
            wait_until(looked, seconds, what, pause=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self._tail()}") from None

    def judged(self, events: int, seconds: float = 60) -> dict[str, Any]:
        """The one model's status once so many events are in judged windows."""
        self.wait(lambda: self.model()["events"] >= events, seconds, f"{events} events to be judged")
        return self.model()

    def letters(self) -> list[Letter]:
        """Every dead letter of the local log."""
        return list(newest(LocalDeadLetters(), self.state, 1_000_000))

    @property
    def resident(self) -> int:
        """Bytes of memory the process holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")
