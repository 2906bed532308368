"""Label Studio, live: tasks imported with predictions, annotations back by webhook and by polling.

What a reader would get wrong: its webhooks are not repeated when they fail, and tell deletions by the annotation's
number alone. So they are taken as news, and the tasks read again by the time of their last change are the truth.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.labeling.formats import Fault, Reply, label_studio, wire
from alerting.labeling.formats.label_studio import Annotation, Names
from alerting.labeling.task import Asked
from alerting.labeling.tools.tool import HandOver, Pulled, Unproven
from alerting.secret import Secret
from alerting.sinks.http import Endpoint

_log = logging.getLogger(__name__)

T = TypeVar("T")

SECRET_HEADER = "x-driftd-secret"  # noqa: S105 - the header's name

_PAGE = 100  # tasks of a page: 300 KB of JSON with usual inputs
_OVERLAP = 10.0  # seconds read again: a change is dated before others can see it
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # the one form that its filters take: 500 for any other
_LARGEST = 64 << 20  # bytes of a page
_HOOKED = 1 << 20  # bytes of a webhook's body; one annotation with its task takes 4 KB


class LabelStudio(HandOver, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="label_studio"):
    """A project of Label Studio. Its webhook `POST /v1/hooks/<name>` makes labels come at once; without one they come
    with the next look."""

    url: Annotated[str, Meta(pattern="^https?://", description="Of Label Studio, such as http://label-studio:8080.")]
    token: Annotated[Secret, Meta(description="An access token of a user who may import: a personal or a legacy one.")]
    project: Annotated[
        str, Meta(min_length=3, max_length=50, description="Title of the project. It is made where there is none.")
    ] = "driftd"
    classes: Annotated[
        tuple[str, ...],
        Meta(description="To choose from in a project that is made; empty: its labelers give a number."),
    ] = ()
    pictures: Annotated[bool, Meta(description="Show the picture at the task's `uri` in a project that is made.")] = (
        False
    )
    boxes: Annotated[bool, Meta(description="Boxes are drawn in a project that is made, not classes chosen.")] = False
    names: Annotated[
        Names, Meta(description="Names in the project's labeling interface, where it was made by hand.")
    ] = Names()
    webhook: Annotated[
        str,
        Meta(
            pattern="^(https?://.*)?$",
            description="Where Label Studio reaches driftd, such as http://driftd:9464: its webhook is then set up.",
        ),
    ] = ""
    secret: Annotated[
        Secret, Meta(description=f"What webhooks carry in the header `{SECRET_HEADER}`; without one none is taken.")
    ] = Secret("")
    name: Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,60}$", description="Unique among all tools.")] = "label-studio"
    timeout: Annotated[Seconds, Meta(gt=0, le=300, description="Longest time for one request.")] = 20.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def open(self) -> LabelStudioTool:
        """The live tool; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return LabelStudioTool(self)


class _Project(msgspec.Struct):
    id: int
    title: str = ""


class _Projects(msgspec.Struct):
    results: list[_Project]


class _Imported(msgspec.Struct):
    task_ids: list[int]


class _Task(msgspec.Struct):
    id: int
    updated_at: str
    data: dict[str, Any]
    meta: dict[str, Any] | None = None
    annotations: list[Annotation] = []


class _Tasks(msgspec.Struct):
    tasks: list[_Task]
    total: int


class _Webhook(msgspec.Struct):
    url: str


class _Hooked(msgspec.Struct):
    action: str
    annotation: Annotation | None = None
    task: _HookedTask | None = None


class _HookedTask(msgspec.Struct):
    id: int
    data: dict[str, Any] = {}
    meta: dict[str, Any] | None = None


class _Access(msgspec.Struct):
    access: str


class LabelStudioTool:
    """The opened `LabelStudio`. See `Tool`."""

    def __init__(self, options: LabelStudio) -> None:
        self._options = options
        self._endpoint = Endpoint(options.url, {}, options.timeout, options.ca, hidden=[options.token, options.secret])
        self._bearer = ""
        self._project: int | None = None
        self._seen: float | None = None  # when the newest task read had last changed, UTC seconds

    def push(self, batch: str, tasks: Sequence[Asked]) -> Mapping[str, str]:
        items = [label_studio.item(task, self._options.names) for task in tasks]
        query = urlencode({"return_task_ids": "true", "commit_to_project": "true"})
        path = f"/api/projects/{self._ours()}/import?{query}"
        made = self._ask("POST", path, _Imported, items).task_ids
        if len(made) != len(tasks):
            raise Undelivered(f"{self._endpoint.name}: {len(tasks)} tasks sent, {len(made)} made", retry=True)
        return {task.task: str(number) for task, number in zip(tasks, made, strict=True)}

    def withdraw(self, there: Mapping[str, str]) -> None:
        for number in there.values():
            self._send("DELETE", f"/api/tasks/{quote(number, safe='')}/", None, gone=True)

    def pull(self, *, everything: bool) -> Iterator[Pulled]:
        since = None if everything else self._seen
        number, newest = 1, self._seen
        while True:
            # Newest first: what changes while we read moves to pages behind us and shifts others towards us, so that
            # none is passed over, and is newer than `newest`, so that the next look finds it.
            page = self._page(number, since)
            yield _pulled(page.tasks)
            if number == 1 and page.tasks:
                newest = wire.utc(page.tasks[0].updated_at)
            if number * _PAGE >= page.total:
                break
            number += 1
        self._seen = newest

    def hooked(self, headers: Mapping[str, str], body: bytes) -> Pulled:
        secret = self._options.secret
        if not secret or not hmac.compare_digest(headers.get(SECRET_HEADER, "").encode(), secret.encode()):
            raise Unproven(f"the header {SECRET_HEADER} does not hold the secret of {self._options.name}")
        if len(body) > _HOOKED:
            raise ValueError(f"more than {_HOOKED} bytes")
        try:
            said = msgspec.json.decode(body, type=_Hooked)
            if said.annotation is None or said.task is None:
                return Pulled()  # of a deletion, or of tasks: the next look finds what became of them
            task = label_studio.task_of(said.task.data, said.task.meta)
            return Pulled(replies=(said.annotation.reply(task),), there={task: str(said.task.id)})
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error

    def close(self) -> None:
        """Connections last one request."""

    def _page(self, number: int, since: float | None) -> _Tasks:
        items = []
        if since is not None:
            start = datetime.fromtimestamp(since - _OVERLAP, UTC).strftime(_TIME)
            items.append({
                "filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": start,
            })  # fmt: skip
        asked = {"ordering": ["-tasks:updated_at"], "filters": {"conjunction": "and", "items": items}}
        query = urlencode({
            "project": self._ours(), "page": number, "page_size": _PAGE, "fields": "all",
            "query": msgspec.json.encode(asked).decode(),
        })  # fmt: skip
        return self._ask("GET", f"/api/tasks?{query}", _Tasks)

    def _ours(self) -> int:
        """The project's number; it is looked up, or made, once."""
        if self._project is None:
            options = self._options
            found = self._ask(
                "GET", f"/api/projects?{urlencode({'page_size': 100, 'title': options.project})}", _Projects
            )
            ours = next((each for each in found.results if each.title == options.project), None)
            if ours is None:
                interface = label_studio.interface(
                    options.classes, picture=options.pictures, boxes=options.boxes, names=options.names
                )
                made = {"title": options.project, "label_config": interface}
                ours = self._ask("POST", "/api/projects", _Project, made)
                _log.info("%s: project %r was made", options.name, options.project)
            self._set_up_webhook(ours.id)
            self._project = ours.id
        return self._project

    def _set_up_webhook(self, project: int) -> None:
        options = self._options
        if not options.webhook or not options.secret:
            return
        url = f"{options.webhook.rstrip('/')}/v1/hooks/{quote(options.name)}"
        there = self._ask("GET", f"/api/webhooks/?project={project}", list[_Webhook])
        if all(each.url != url for each in there):
            wanted = {
                "url": url, "project": project, "send_payload": True, "send_for_all_actions": False,
                "headers": {SECRET_HEADER: str(options.secret)},
                "actions": ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"],
            }  # fmt: skip
            self._ask("POST", "/api/webhooks/", _Webhook, wanted)

    def _ask(self, method: str, path: str, wanted: type[T], body: object = None) -> T:
        sent = None if body is None else msgspec.json.encode(body)
        try:
            return self._decoded(self._send(method, path, sent), wanted)
        except Undelivered:
            self._project = None  # it may be gone
            raise

    def _send(self, method: str, path: str, body: bytes | None, *, gone: bool = False) -> bytes:
        """What is answered; where it may be `gone` by now, that there is nothing is an answer, too."""
        accepted = (404,) if gone else ()
        try:
            return self._endpoint.ask(method, path, body, self._proof(), largest=_LARGEST, accepted=accepted)
        except Undelivered:
            self._bearer = ""  # it may have run out: the next request asks for another
            raise

    def _proof(self) -> dict[str, str]:
        token = self._options.token
        if token.count(".") != 2:  # a legacy token; a personal one is a JWT that gives others for a few minutes
            return {"Authorization": f"Token {token}"}
        if not self._bearer:
            asked = msgspec.json.encode({"refresh": str(token)})
            given = self._endpoint.ask("POST", "/api/token/refresh", asked, largest=_LARGEST)
            self._bearer = self._decoded(given, _Access).access
        return {"Authorization": f"Bearer {self._bearer}"}

    def _decoded(self, answer: bytes, wanted: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=wanted)
        except msgspec.DecodeError as error:
            raise Undelivered(f"{self._endpoint.name}: an answer that makes no sense: {error}", retry=True) from error


def _pulled(tasks: Sequence[_Task]) -> Pulled:
    replies: list[Reply | Fault] = []
    there = {}
    for task in tasks:
        try:
            ours = label_studio.task_of(task.data, task.meta)
        except wire.Unreadable:
            continue  # the project has tasks of others
        there[ours] = str(task.id)
        for annotation in task.annotations:
            try:
                replies.append(annotation.reply(ours))
            except wire.Unreadable as error:
                replies.append(Fault(f"task {task.id}", str(error)))
    return Pulled(replies=tuple(replies), there=there, whole=True)
