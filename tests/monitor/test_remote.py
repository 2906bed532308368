"""The command line against a running daemon, as people on call, labelers and scripts use it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.services.daemon import ROOT, Daemon

LEARN = 500
CONFIG = {
    "models": [{"name": "shelf", "reference": {"learn": LEARN}, "sampling": {"per_hour": 1000}}],
    "window": {"size": "10s", "lateness": "1s"},
    "labeling": {"kind": "sqlite", "rules": {"overlap": 0.0, "review": 0.0}},
}


def events(first: int, count: int, weight: float) -> bytes:
    """Ten a second of event time; each a JSON line."""
    rng = random.Random(first)
    return b"".join(
        json.dumps({
            "id": f"e{n}", "time": 1_790_000_000 + n / 10, "model": "shelf",
            "inputs": {"weight": rng.gauss(weight, 1), "camera": rng.choice(["north", "south"])},
            "outputs": {"label": rng.choice(["can", "jar"]), "scores": [0.6, 0.4]},
        }).encode() + b"\n"
        for n in range(first, first + count)
    )  # fmt: skip


class Shelf:
    """A daemon that has judged well and disturbed windows, and the command line beside it."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon = daemon
        self.config = directory / "driftd.yaml"

    def post(self, lines: bytes) -> None:
        headers = {"Content-Type": "application/x-ndjson"}
        with urlopen(Request(f"{self.daemon.url}/v1/events", lines, headers), timeout=30) as answer:
            assert answer.status == 202

    @property
    def token(self) -> str:
        return (self.daemon.state / "token").read_text().strip()

    def run(self, *arguments: str, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """With the token in the environment, as from elsewhere, unless told otherwise."""
        there = {"DRIFTD_URL": self.daemon.url, "DRIFTD_TOKEN": self.token}
        return subprocess.run(
            [sys.executable, "-m", "monitor", *arguments],
            input=said, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
            env={"PYTHONPATH": str(ROOT), **(environment or there)},
        )  # fmt: skip

    def run_beside(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """On the daemon's own machine: all that is needed lies in its configuration and its state."""
        return self.run(*arguments, "-c", str(self.config), HOME="/")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    directory = tmp_path_factory.mktemp("shelf")
    with Daemon(directory, CONFIG) as daemon:
        shelf = Shelf(daemon, directory)
        for first in range(0, 4000, 500):  # rows are drawn from once ingest has the reference
            shelf.post(events(first, 500, 0.0 if first < 2000 else 4.0))
            daemon.judged(first + 300)
        daemon.wait(lambda: bool(daemon.model()["alerts"]), 60, "an alert to open")
        yield shelf


def test_an_alert_gets_its_verdict_and_the_verdict_is_listed(shelf: Shelf) -> None:
    listed = shelf.run_beside("alerts", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    key = next(a["key"] for a in map(json.loads, listed.stdout.splitlines()) if not a["leader"])
    assert key in shelf.run("alerts").stdout
    given = shelf.run_beside("verdict", key, "intended", "--why", "new products")
    name = given.stdout.partition(":")[0]
    assert given.returncode == 0
    assert given.stdout.splitlines()[1].endswith(f"driftd verdict {key} --confirm {name}")
    daemon = shelf.daemon
    daemon.wait(lambda: bool(daemon.model()["verdicts"]), 20, "the judge to take the verdict")
    assert shelf.run("verdict", key, "--revoke", name).returncode == 0
    daemon.wait(lambda: len(daemon.model()["verdicts"]) == 2, 20, "the judge to take it back")
    verdicts = [json.loads(line) for line in shelf.run("verdicts", "--json", "--key", key).stdout.splitlines()]
    assert [(v["verdict"]["by"], v["verdict"]["revokes"], bool(v["revoked"])) for v in verdicts] == [
        ("local", name, False), ("local", "", True),
    ]  # fmt: skip
    assert "new products" in shelf.run("verdicts").stdout
    assert shelf.token not in daemon.log.read_text()


def test_what_goes_wrong_is_told_with_an_exit_code(shelf: Shelf) -> None:
    url = shelf.daemon.url
    for arguments, environment, code, told in (
        (["verdict", "nope", "intended"], {}, 1, "refused (404): no alert 'nope'"),
        (["verdict", "nope"], {}, 2, "say what it was"),
        (["verdict", "nope", "nonsense"], {}, 2, "invalid choice"),
        (["labels", "next"], {"DRIFTD_URL": url, "DRIFTD_TOKEN": ""}, 1, "this needs a token"),
        (["labels", "next", "--url", url], {"DRIFTD_TOKEN": "wrong"}, 1, "refused (401): nobody has this token"),
        (["labels", "next", "--url", url], {"DRIFTD_TOKEN": "wröng"}, 1, "refused (401): nobody has this token"),
        (["alerts", "--url", "http://127.0.0.1:9"], {"DRIFTD_TOKEN": ""}, 1, "does not answer"),
        (["alerts", "--url", "ftp://x"], {"DRIFTD_TOKEN": ""}, 2, "is no address of a daemon"),
        (["retraining", "confirm", "nope"], {}, 1, "no request 'nope'"),
        (["labels", "import", "/nowhere"], {}, 1, "No such file"),
    ):
        done = shelf.run(*arguments, **environment)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_labels_go_from_a_terminal_and_a_file_to_the_judge(shelf: Shelf, tmp_path: Path) -> None:
    daemon = shelf.daemon
    progress = ("labels", "progress", "--json")

    def ready() -> int:
        lines = shelf.run(*progress).stdout.splitlines()
        return sum(json.loads(line)["counts"].get("In queue", 0) for line in lines)

    daemon.wait(lambda: ready() >= 6, 30, "label tasks to be drawn")
    leased = json.loads(shelf.run("labels", "next", "--dataset", "shelf").stdout)
    assert {named["name"] for named in leased["inputs"]} >= {"weight", "camera"}
    answered = shelf.run("labels", "submit", "can", "--task", leased["task"], "--token", leased["token"])
    assert (answered.returncode, answered.stdout) == (0, "accepted\n")
    late = shelf.run("labels", "submit", "jar", "--task", leased["task"], "--token", "another")
    assert (late.returncode, late.stdout) == (1, "late\n")
    leased = json.loads(shelf.run("labels", "next").stdout)
    skipped = shelf.run("labels", "skip", "--task", leased["task"], "--token", leased["token"], "--reason", "dark")
    assert skipped.returncode == 0
    worked = shelf.run("labels", "work", said="jar\n\ncan\n")
    assert (worked.returncode, worked.stdout.splitlines()[-1]) == (0, "2 labels. ")
    file = tmp_path / "tasks.jsonl"
    assert shelf.run("labels", "export", "-o", str(file), "--most", "2").returncode == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "label": "can"}) + "\n" for line in lines))
    for _ in range(2):
        brought = shelf.run("labels", "import", str(file))
        assert (brought.returncode, brought.stdout) == (0, "2 accepted, 0 late, 0 skipped, 0 unknown, 0 faults\n")
    daemon.wait(lambda: daemon.total("driftd_collected_labels_total") >= 5, 20, "labels to reach the judge")
    daemon.wait(lambda: daemon.model()["labelled"]["returned"] == 5, 20, "the judge to count them")
    assert "local" in shelf.run("labels", "progress").stdout


def test_an_empty_list_of_requests_is_no_error(shelf: Shelf) -> None:
    done = shelf.run("retraining", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_example_of_an_alert_is_explained_and_so_is_an_event_that_is_brought(shelf: Shelf, tmp_path: Path) -> None:
    alerts = [json.loads(line) for line in shelf.run("alerts", "--json").stdout.splitlines()]
    alert = next(alert for alert in alerts if alert["column"] == "weight" and alert["examples"])
    event = alert["examples"][0]
    found = json.loads(shelf.run("explain", event, "--json").stdout)
    assert (found["event"], found["model"]) == (event, "shelf")
    assert alert["key"] in [then["key"] for then in found["alerts"]]
    weight = next(one for one in found["explained"]["features"] if one["column"] == "weight")
    assert weight["rank"] > 0.99
    assert found["explained"]["surrogate"]["refused"], "labels are tossed: nothing tells them"
    told = shelf.run_beside("explain", event)
    assert told.returncode == 0
    assert f"answer\t{found['answer']}" in told.stdout
    assert "What the answer hung on cannot be told" in told.stdout
    brought = tmp_path / "event.json"
    brought.write_bytes(events(100_000, 1, 9.0))
    told = shelf.run("explain", "--event", str(brought), "--model", "shelf")
    assert (told.returncode, told.stderr) == (0, "")
    assert "above all" in told.stdout
    unknown = shelf.run("explain", "nobody's")
    assert unknown.returncode == 1
    assert "nothing is known of event" in unknown.stderr
    assert shelf.run("explain").returncode == 2
