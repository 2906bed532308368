"""The tools on the other side, real ones: Label Studio and an MLflow server, each in an environment of its own.

Their pins clash with ours. Installing takes two minutes and 2 GB, so only `make test-tools` does it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.services.install import Recipe, run
from tests.services.process import Server, free_port
from tests.services.web import ask

_LOCKS = Path(__file__).parents[2] / "requirements"


def _recipe(name: str, version: str) -> Recipe:
    lock = _LOCKS / f"{name}.txt"

    def build() -> None:
        run([sys.executable, "-m", "venv", recipe.home / "venv"])
        pip = recipe.home / "venv/bin/pip"
        run([pip, "install", "-q", "--no-compile", "--require-hashes", "-r", lock])

    recipe = Recipe(name, version, build, {}, salt=hashlib.sha256(lock.read_bytes()).hexdigest())
    return recipe


LABEL_STUDIO = _recipe("label-studio", "1.23.2")
MLFLOW = _recipe("mlflow", "3.17.2")
RECIPES = (LABEL_STUDIO, MLFLOW)


class LabelStudioServer(Server):
    """Keeps its data over a restart. `ask` is its API, by the legacy token of its one user.

    It answers after half a minute on a calm machine; six were seen on two cores with eight at work.
    """

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url, self.token = f"http://127.0.0.1:{port}", secrets.token_hex(20)
        command = [
            LABEL_STUDIO.home / "venv/bin/label-studio", "start", "--no-browser", "--init", "--host", self.url,
            "--port", str(port), "--internal-host", "127.0.0.1", "--username", "ada@example.org",
            "--password", secrets.token_hex(8), "--user-token", self.token,
        ]  # fmt: skip
        environment = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(directory),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "SSRF_PROTECTION_ENABLED": "false",  # else it calls no webhook on loopback
            "LATEST_VERSION_CHECK": "0",
            "COLLECT_ANALYTICS": "0",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        super().__init__(
            "label-studio", list(map(str, command)), directory=directory, ready=lambda: bool(ask(f"{self.url}/health")),
            patience=400, environment=environment,
        )  # fmt: skip

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Its answer; raises HTTPError on a refusal."""
        headers = {"content-type": "application/json", "authorization": f"Token {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, headers, method=method), timeout=30) as answer:
            return json.loads(answer.read() or b"null")


class MlflowServer(Server):
    """A tracking server on SQLite, its artifacts beside it. It answers after 10 s; 97 were seen on two busy cores."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            MLFLOW.home / "venv/bin/mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", "sqlite:///mlflow.db", "--default-artifact-root", str(directory / "artifacts"),
        ]  # fmt: skip
        super().__init__(
            "mlflow", list(map(str, command)), directory=directory, ready=lambda: bool(ask(f"{self.url}/health")),
            patience=300, environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eight processes more
        )  # fmt: skip
