"""Prometheus and Alertmanager as Debian builds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.services.install import InstallFailed, Recipe, run
from tests.services.process import Server, free_port, wait_until
from tests.services.web import ask


def _build() -> None:
    """Debian's packages, unpacked rather than installed: no service is started and nothing outside is touched."""
    home = RECIPE.home
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "prometheus", "prometheus-alertmanager"]
    try:
        run(download, home)
    except InstallFailed:  # a fresh machine knows no packages yet
        run(["apt-get", "-q", "update"])
        run(download, home)
    for package in home.glob("*.deb"):
        run(["dpkg-deb", "-x", package, home])
        package.unlink()


RECIPE = Recipe("prometheus", "2.42", _build, {"apt-get": "apt", "dpkg-deb": "dpkg"})
_BIN = RECIPE.home / "usr/bin"
PROMTOOL = _BIN / "promtool"
AMTOOL = _BIN / "amtool"


class Prometheus(Server):
    """Scrapes `targets` every `interval` seconds, and alerts to `alertmanagers`; addresses are host:port."""

    def __init__(
        self,
        directory: Path,
        targets: Sequence[str],
        *,
        rules: Sequence[Path] = (),
        alertmanagers: Sequence[str] = (),
        interval: float = 0.5,
    ) -> None:
        address = f"127.0.0.1:{free_port()}"
        every = f"{round(interval * 1000)}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
            "scrape_configs": [{"job_name": "driftd", "static_configs": [{"targets": list(targets)}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://{address}"
        super().__init__(
            "prometheus",
            [_BIN / "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             f"--web.listen-address={address}", "--log.level=warn"],
            directory=directory,
            ready=lambda: bool(ask(f"{self.url}/-/ready")),
        )  # fmt: skip

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector of a PromQL expression: labels and value of each series."""
        answer = json.loads(ask(f"{self.url}/api/v1/query?{urlencode({'query': expression})}"))
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def wait(self, expression: str, seconds: float = 20) -> list[tuple[dict[str, str], float]]:
        """The same once it is not empty; raises TimeoutError."""
        wait_until(lambda: bool(self.query(expression)), seconds, expression)
        return self.query(expression)


class Alertmanager(Server):
    """Tells `receiver` (a URL) of each group of alerts at once and of changes after a second; says nothing twice."""

    def __init__(self, directory: Path, receiver: str, group_by: Sequence[str] = ("...",)) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        config = {
            "route": {
                "receiver": "test",
                "group_by": list(group_by),
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "24h",
            },
            "receivers": [{"name": "test", "webhook_configs": [{"url": receiver, "send_resolved": True}]}],
        }
        (directory / "alertmanager.yml").write_text(yaml.safe_dump(config))
        super().__init__(
            "alertmanager",
            # The empty cluster address switches gossip off.
            [_BIN / "prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=data",
             f"--web.listen-address={self.address}", "--cluster.listen-address=", "--log.level=warn"],
            directory=directory,
            ready=lambda: bool(ask(f"{self.url}/-/ready")),
        )  # fmt: skip

    def alerts(self) -> list[dict[str, Any]]:
        """What it holds at the moment, as its API v2 says it."""
        held: list[dict[str, Any]] = json.loads(ask(f"{self.url}/api/v2/alerts"))
        return held
