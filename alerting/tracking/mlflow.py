"""Runs on an MLflow tracking server, by its REST API: the client library would cost 170 MB and 3.5 s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.outbox import Item
from alerting.secret import Secret
from alerting.sinks.http import Endpoint, basic
from alerting.tracking.report import Point, Report, report_in

OURS = "driftd.id"  # tag by which a run of ours is found again
_API = "/api/2.0/mlflow"
_UPLOAD = "/ajax-api/2.0/mlflow/upload-artifact"  # wherever the server keeps artifacts, it puts them there itself
_LARGEST = 1 << 20  # bytes of an answer: a run comes with all of its tags
_METRICS, _OTHERS = 800, 100  # of a batch that may hold 1,000 entities, of them 100 params and 100 tags
_KEY, _PARAM, _TAG, _FILE = 250, 6_000, 8_000, 10 << 20  # characters, and bytes of an artifact

T = TypeVar("T")


class Mlflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mlflow"):
    """Writes each run to an experiment, which is made where it is missing. A run is found again by its tag `driftd.id`;
    one that people deleted stays deleted."""

    url: Annotated[str, Meta(pattern="^https?://", description="Of the server, such as http://mlflow:5000.")]
    experiment: Annotated[
        str, Meta(pattern=r"^[^'\"`]+$", max_length=500, description="Name of the experiment that runs belong to.")
    ] = "driftd"
    token: Annotated[Secret, Meta(description="Bearer token; empty: none.")] = Secret()
    username: Annotated[str, Meta(description="Of basic authentication; empty: none.")] = ""
    password: Annotated[Secret, Meta(description="Their password.")] = Secret()
    artifacts: Annotated[
        bool, Meta(description="Whether files are uploaded: alerts, labels, charts. Databricks takes none this way.")
    ] = True
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "mlflow"
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one request, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def open(self) -> MlflowRuns:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if self.username:
            headers = basic(self.username, self.password)
        endpoint = Endpoint(self.url, headers, self.timeout, self.ca, hidden=[self.token, self.password])
        return MlflowRuns(self, endpoint, urlsplit(self.url).path.rstrip("/"))


class _Experiment(msgspec.Struct):
    experiment_id: str


class _Experiments(msgspec.Struct):
    experiments: list[_Experiment] = []


class _Info(msgspec.Struct):
    run_id: str
    status: str = "RUNNING"
    lifecycle_stage: str = "active"


class _Data(msgspec.Struct):
    params: list[msgspec.Raw] = []


class _Run(msgspec.Struct):
    info: _Info
    data: _Data = msgspec.field(default_factory=_Data)


class _Created(msgspec.Struct):
    run: _Run


class _Runs(msgspec.Struct):
    runs: list[_Run] = []


class MlflowRuns:
    """The opened `Mlflow`."""

    def __init__(self, options: Mlflow, endpoint: Endpoint, prefix: str) -> None:
        self._options, self._endpoint, self._prefix = options, endpoint, prefix
        self._experiment = ""

    def send(self, items: Sequence[Item]) -> None:
        for delivered, item in enumerate(items):
            try:
                self._write(report_in(item))
            except Undelivered as error:
                self._experiment = ""  # it may have been deleted
                error.delivered = delivered
                raise

    def close(self) -> None:
        """Connections last one request."""

    def _write(self, report: Report) -> None:
        found = self._find(report) or self._create(report)
        run = found.info
        if run.lifecycle_stage != "active":
            return
        # A param is written once: another value, as of an alert that came back on a new reference, would be refused.
        for batch in _batches(report, {} if found.data.params else report.params):
            self._ask("runs/log-batch", {"run_id": run.run_id, **batch}, msgspec.Raw)
        if self._options.artifacts:
            for path, text in report.files.items():
                self._upload(run.run_id, path, text.encode()[:_FILE])
        status = "RUNNING" if not report.ended else "FAILED" if report.failed else "FINISHED"
        if status != run.status or report.ended:
            over = {"end_time": _milliseconds(report.at)} if report.ended else {}
            self._ask("runs/update", {"run_id": run.run_id, "status": status, **over}, msgspec.Raw)

    def _find(self, report: Report) -> _Run | None:
        wanted = {
            "experiment_ids": [self._experiment_id()], "filter": f"tags.`{OURS}` = '{report.run}'", "max_results": 1,
            "run_view_type": "ALL",
        }  # fmt: skip
        found = self._ask("runs/search", wanted, _Runs).runs
        return found[0] if found else None

    def _create(self, report: Report) -> _Run:
        tags = {OURS: report.run, "mlflow.source.type": "JOB", "mlflow.source.name": "driftd"}
        made = {
            "experiment_id": self._experiment_id(), "run_name": report.name[:_KEY],
            "start_time": _milliseconds(report.started), "tags": _pairs(tags, _TAG),
        }  # fmt: skip
        return self._ask("runs/create", made, _Created).run

    def _experiment_id(self) -> str:
        if not self._experiment:
            name = self._options.experiment
            asked = {"filter": f"name = '{name}'", "max_results": 1}
            found = self._ask("experiments/search", asked, _Experiments).experiments
            made = found[0] if found else self._ask("experiments/create", {"name": name}, _Experiment)
            self._experiment = made.experiment_id
        return self._experiment

    def _upload(self, run: str, path: str, body: bytes) -> None:
        place = f"{self._prefix}{_UPLOAD}?run_uuid={quote(run, safe='')}&path={quote(path, safe='')}"
        self._endpoint.ask("POST", place, body, {"Content-Type": "application/octet-stream"}, largest=0)

    def _ask(self, path: str, body: Mapping[str, Any], kind: type[T]) -> T:
        place = f"{self._prefix}{_API}/{path}"
        answer = self._endpoint.ask("POST", place, msgspec.json.encode(body), largest=_LARGEST)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise Undelivered(f"{self._endpoint.name}: {path} answers what MLflow would not", retry=True) from error


def _batches(report: Report, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The bodies of `log-batch`: what is not a number goes with the first."""
    own = {
        "mlflow.note.content": report.note, "mlflow.runName": report.name[:_KEY], "driftd.kind": report.kind.value,
        "driftd.model": report.model,
    }  # fmt: skip
    others = {"params": _pairs(params, _PARAM), "tags": _pairs({**own, **report.tags}, _TAG)}
    for start in range(0, max(len(report.points), 1), _METRICS):
        yield {"metrics": [_metric(point) for point in report.points[start : start + _METRICS]], **others}
        others = {}


def _metric(point: Point) -> dict[str, Any]:
    return {
        "key": point.name[:_KEY], "value": point.value, "timestamp": _milliseconds(point.at), "step": point.step,
    }  # fmt: skip


def _pairs(texts: Mapping[str, str], longest: int) -> list[dict[str, str]]:
    return [{"key": key[:_KEY], "value": text[:longest]} for key, text in islice(texts.items(), _OTHERS)]


def _milliseconds(at: float) -> int:
    return int(at * 1000.0)
