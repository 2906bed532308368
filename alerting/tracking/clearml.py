"""Runs as tasks of a ClearML server, by its REST API: the SDK would cost 146 MB."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
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

_VERSION = "v2.13"  # of the API; every server since 1.0 has it
_LARGEST = 1 << 20  # bytes of an answer
_RUNNING = "in_progress"
_GIVEN, _STANDS = "driftd", "state"  # sections of a task's parameters: as they were at first, and as they are

T = TypeVar("T")


class ClearMl(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="clearml"):
    """Writes each run as a task of type `monitor` to a project, which is made where it is missing. A task is found
    again by a tag, the run's id; one that people deleted is made anew by the run's next report."""

    url: Annotated[str, Meta(pattern="^https?://", description="Of the API server, such as https://api.clear.ml.")]
    access_key: Annotated[str, Meta(min_length=1, description="Of a user's credentials.")]
    secret_key: Annotated[Secret, Meta(description="Of the same credentials.")]
    files: Annotated[
        str,
        Meta(description="Of the file server, such as https://files.clear.ml; empty: alerts and labels are left out."),
    ] = ""
    project: Annotated[str, Meta(min_length=3, description="Name of the project that tasks belong to.")] = "driftd"
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "clearml"
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one request, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def open(self) -> ClearMlTasks:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return ClearMlTasks(self, self._endpoint(self.url), self._endpoint(self.files) if self.files else None)

    def _endpoint(self, url: str) -> Endpoint:
        return Endpoint(url, {}, self.timeout, self.ca, hidden=[self.secret_key])


class _Answer(msgspec.Struct):
    data: msgspec.Raw


class _Token(msgspec.Struct):
    token: str


class _Made(msgspec.Struct):
    id: str


class _Projects(msgspec.Struct):
    projects: list[_Made] = []


class _Task(msgspec.Struct):
    id: str
    status: str = "created"


class _Tasks(msgspec.Struct):
    tasks: list[_Task] = []


class _Added(msgspec.Struct):
    errors: int | None = 0


class ClearMlTasks:
    """The opened `ClearMl`."""

    def __init__(self, options: ClearMl, api: Endpoint, files: Endpoint | None) -> None:
        self._options, self._api, self._files = options, api, files
        self._prefix = urlsplit(options.url).path.rstrip("/")
        self._token = self._project = ""

    def send(self, items: Sequence[Item]) -> None:
        for delivered, item in enumerate(items):
            try:
                self._write(report_in(item))
            except Undelivered as error:
                self._token = self._project = ""  # one may have run out, the other may have been deleted
                error.delivered = delivered
                raise

    def close(self) -> None:
        """Connections last one request."""

    def _write(self, report: Report) -> None:
        task = self._find(report) or self._create(report)
        if task.status != _RUNNING:
            self._ask("tasks.started", {"task": task.id, "force": True}, msgspec.Raw)
        self._ask("tasks.update", {"task": task.id, "comment": report.note}, msgspec.Raw)
        stands = [_parameter(_STANDS, name, text) for name, text in report.tags.items()]
        edited = {"task": task.id, "force": True, "hyperparams": stands}
        self._ask("tasks.edit_hyper_params", edited, msgspec.Raw)
        self._add(task.id, report.points)
        if self._files is not None:
            for path, text in report.files.items():
                self._upload(self._files, task.id, path, text.encode(), report.at)
        if report.ended:
            end = "tasks.failed" if report.failed else "tasks.completed"
            self._ask(end, {"task": task.id, "force": True}, msgspec.Raw)

    def _find(self, report: Report) -> _Task | None:
        wanted = {"project": [self._project_id()], "tags": [report.run], "only_fields": ["id", "status"]}
        return next(iter(self._ask("tasks.get_all", wanted, _Tasks).tasks), None)

    def _create(self, report: Report) -> _Task:
        given = {name: _parameter(_GIVEN, name, text) for name, text in report.params.items()}
        made = {
            "name": report.name, "project": self._project_id(), "type": "monitor", "comment": report.note,
            "tags": ["driftd", report.kind.value, report.run, *filter(None, [report.model])],
            "hyperparams": {_GIVEN: given},
        }  # fmt: skip
        return _Task(self._ask("tasks.create", made, _Made).id)

    def _project_id(self) -> str:
        if not self._project:
            name = self._options.project
            asked = {"name": f"^{re.escape(name)}$", "only_fields": ["id"]}
            found = self._ask("projects.get_all", asked, _Projects).projects
            made = found[0] if found else self._ask("projects.create", {"name": name, "description": ""}, _Made)
            self._project = made.id
        return self._project

    def _add(self, task: str, points: Sequence[Point]) -> None:
        """A number of the same task, name and step takes the place of the one that was there."""
        if not points:
            return
        lines = b"\n".join(msgspec.json.encode(_scalar(task, point)) for point in points)
        added = self._ask("events.add_batch", lines, _Added, {"Content-Type": "application/json-lines"})
        if added.errors:
            raise Undelivered(f"{self._api.name}: {added.errors} of {len(points)} numbers were refused", retry=False)

    def _upload(self, files: Endpoint, task: str, path: str, body: bytes, at: float) -> None:
        digest = hashlib.sha256(body).hexdigest()
        place = f"{quote(self._options.project)}/{task}/artifacts/{quote(path)}"
        form, headers = _form(place, body, f"driftd-{digest}")
        files.post(form, {**headers, **self._authorization()})
        artifact = {
            "key": path, "type": "custom", "mode": "output", "uri": f"{self._options.files.rstrip('/')}/{place}",
            "content_size": len(body), "hash": digest, "timestamp": int(at),
        }  # fmt: skip
        told = {"task": task, "artifacts": [artifact], "force": True}
        self._ask("tasks.add_or_update_artifacts", told, msgspec.Raw)

    def _authorization(self) -> Mapping[str, str]:
        if not self._token:
            credentials = basic(self._options.access_key, self._options.secret_key)
            self._token = self._call("auth.login", {}, _Token, credentials).token
        return {"Authorization": f"Bearer {self._token}"}

    def _ask(self, action: str, body: Mapping[str, Any] | bytes, kind: type[T], headers: Mapping[str, str] = {}) -> T:
        return self._call(action, body, kind, {**headers, **self._authorization()})

    def _call(self, action: str, body: Mapping[str, Any] | bytes, kind: type[T], headers: Mapping[str, str]) -> T:
        said = body if isinstance(body, bytes) else msgspec.json.encode(body)
        place = f"{self._prefix}/{_VERSION}/{action}"
        answer = self._api.ask("POST", place, said, headers, largest=_LARGEST)
        try:
            return msgspec.json.decode(msgspec.json.decode(answer, type=_Answer).data, type=kind)
        except msgspec.MsgspecError as error:
            raise Undelivered(f"{self._api.name}: {action} answers what ClearML would not", retry=True) from error


def _scalar(task: str, point: Point) -> dict[str, Any]:
    # bounds are drawn together with what they are of
    return {
        "type": "training_stats_scalar", "task": task, "metric": re.sub("_(low|high)$", "", point.name),
        "variant": point.name, "value": point.value, "iter": point.step, "timestamp": int(point.at * 1000.0),
    }  # fmt: skip


def _parameter(section: str, name: str, text: str) -> dict[str, str]:
    return {"section": section, "name": name, "value": text, "type": "str"}


def _form(path: str, body: bytes, boundary: str) -> tuple[bytes, dict[str, str]]:
    """A form with one file, as the file server takes it: the field's name is the path."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{path}"; filename="{path}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    form = head.encode() + body + f"\r\n--{boundary}--\r\n".encode()
    return form, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
