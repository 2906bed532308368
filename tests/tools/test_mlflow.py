"""Runs on a real MLflow server: the whole loop of a retraining, told twice and over a server that was down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from alerting.deliver import Backoff, Delivery
from alerting.outbox import Outbox
from alerting.tracking.mlflow import Mlflow
from alerting.tracking.report import Kind, Point, Report
from tests.monitor.test_remote import CONFIG, Shelf, events
from tests.monitor.test_renewal import Ran
from tests.monitor.test_renewal import run as loop
from tests.services.daemon import Daemon
from tests.services.process import wait_until
from tests.services.tools import MlflowServer
from tests.services.web import ask

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ran() -> Ran:
    return loop(restarts=False)


def deliver(server: MlflowServer, experiment: str, reports: list[Report], *, down: bool = False) -> None:
    """Through outbox and delivery, as the judge's loop does."""
    outbox = Outbox()
    outbox.put(report.item("mlflow", 0.0) for report in reports)
    if down:
        server.kill()
    sink = Mlflow(url=server.url, experiment=experiment).open()
    delivery = Delivery({"mlflow": sink}, Backoff(first=0.1, longest=0.5))
    delivery.offer(outbox.pending("mlflow", 1 << 30))

    def through() -> bool:
        outbox.done(delivery.finished())
        return not outbox.pending("mlflow", 1)

    if down:
        wait_until(lambda: delivery.conditions()["mlflow"].failures > 0, 30, "the first failure")
        assert not through()
        server.start()
    wait_until(through, 300, "every report")
    assert delivery.stop(10.0) == []


def runs(server: MlflowServer, experiment: str) -> list[dict[str, Any]]:
    """As MLflow has them, tags and the newest of each metric as mappings."""
    experiments = json.loads(ask(f"{server.url}/api/2.0/mlflow/experiments/search", {
        "filter": f"name = '{experiment}'", "max_results": 1
    })).get("experiments", [])  # fmt: skip
    body = {"experiment_ids": [each["experiment_id"] for each in experiments], "max_results": 100}
    told = json.loads(ask(f"{server.url}/api/2.0/mlflow/runs/search", body)).get("runs", [])
    return [
        {
            **each["info"],
            "tags": {tag["key"]: tag["value"] for tag in each["data"]["tags"]},
            "params": {param["key"]: param["value"] for param in each["data"].get("params", [])},
            "metrics": {metric["key"]: metric["value"] for metric in each["data"].get("metrics", [])},
        }
        for each in told
    ]


def history(server: MlflowServer, run: str, metric: str) -> list[tuple[int, float]]:
    path = f"{server.url}/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key={metric}"
    return [(each["step"], each["value"]) for each in json.loads(ask(path))["metrics"]]


def artifact(server: MlflowServer, run: str, path: str) -> str:
    return ask(f"{server.url}/get-artifact?run_uuid={run}&path={path}").decode()


def test_a_retraining_campaign_is_visible_as_runs_each_written_once(mlflow: MlflowServer, ran: Ran) -> None:
    experiment = f"loop-{uuid4().hex[:8]}"
    deliver(mlflow, experiment, ran.reports, down=True)
    deliver(mlflow, experiment, ran.reports)  # an outbox that knows nothing of it, as after a lost checkpoint

    found = runs(mlflow, experiment)
    assert sorted(each["tags"]["driftd.id"] for each in found) == sorted({report.run for report in ran.reports})
    (request,) = (each for each in found if each["tags"]["driftd.kind"] == Kind.RETRAINING)
    assert request["status"] == "FINISHED"
    assert request["params"]["request"] == ran.requests[0].id
    assert request["metrics"]["accuracy_before"] < 0.85
    assert request["metrics"]["accuracy_after"] > 0.90
    assert request["tags"]["mlflow.note.content"] == ran.requests[-1].text
    told = [p for r in ran.reports if r.run == request["tags"]["driftd.id"] for p in r.points if p.name == "accuracy"]
    assert history(mlflow, request["run_id"], "accuracy") == [(point.step, point.value) for point in told]
    assert json.loads(artifact(mlflow, request["run_id"], "request.json"))["status"] == "closed"
    assert artifact(mlflow, request["run_id"], "chart.svg").startswith("<svg")

    campaign = next(each for each in found if each["tags"]["driftd.kind"] == Kind.CAMPAIGN)
    assert campaign["metrics"]["labels"] > 0
    assert '"label":"cat"' in artifact(mlflow, campaign["run_id"], "labels/000000.jsonl")


def test_the_largest_report_is_taken(mlflow: MlflowServer) -> None:
    experiment = f"large-{uuid4().hex[:8]}"
    report = Report(
        run="large", kind=Kind.COMPARISON, model="shelf", name="n" * 250, started=1e9, at=1e9, note="x" * 9_000,
        params={f"p{n}": "x" * 7_000 for n in range(100)}, tags={f"t{n}": "x" * 100 for n in range(90)},
        points=tuple(Point(f"m{n % 7}", n / 3, 1e9 + n, n) for n in range(2_000)),
        files={"deep/down/a file.txt": "x" * 1_000_000},
    )  # fmt: skip
    deliver(mlflow, experiment, [report])
    deliver(mlflow, experiment, [replace(report, at=1e9 + 60.0, params={"p0": "another reference"})])
    (run,) = runs(mlflow, experiment)
    assert run["params"]["p0"] == "x" * 6_000
    assert sum(len(history(mlflow, run["run_id"], f"m{n}")) for n in range(7)) == 2_000
    assert len(artifact(mlflow, run["run_id"], "deep/down/a%20file.txt")) == 1_000_000


def test_a_daemon_goes_on_while_the_server_is_down_and_writes_what_it_missed(
    mlflow: MlflowServer, tmp_path: Path
) -> None:
    experiment = f"daemon-{uuid4().hex[:8]}"
    backoff = {"first": "100ms", "longest": "1s"}
    tracking = [{"kind": "mlflow", "url": mlflow.url, "experiment": experiment}]
    mlflow.kill()
    with Daemon(tmp_path, {**CONFIG, "tracking": tracking, "alerts": {"backoff": backoff}}) as daemon:
        shelf = Shelf(daemon, tmp_path)
        for first in range(0, 4000, 500):
            shelf.post(events(first, 500, 0.0 if first < 2000 else 4.0))
            daemon.judged(first + 300)
        daemon.wait(lambda: bool(daemon.model()["alerts"]), 60, "an alert to open")
        told = next(alert for alert in daemon.model()["alerts"] if not alert["leader"])
        assert shelf.run("verdict", told["key"], "acknowledged", "--why", "looking").returncode == 0
        daemon.wait(lambda: bool(daemon.model()["verdicts"]), 20, "the judge to take the verdict")
        daemon.wait(lambda: daemon.total("driftd_delivery_failures_total") > 0, 30, "failures to be counted")
        daemon.kill()
        daemon.start()
        mlflow.start()

        def episodes() -> list[dict[str, Any]]:
            found = runs(mlflow, experiment)
            return [run for run in found if run["tags"].get("verdict") == "acknowledged"]

        daemon.wait(lambda: bool(episodes()), 60, "the run with its verdict")
        (run,) = episodes()
    assert run["tags"]["driftd.kind"] == Kind.EPISODE
    assert (run["status"], run["tags"]["verdict.why"]) == ("RUNNING", "looking")
    assert told["text"] in run["tags"]["mlflow.note.content"]
    assert run["metrics"]["score"] > run["metrics"]["limit"]
    assert json.loads(artifact(mlflow, run["run_id"], "alert.json"))["key"] == told["key"]
