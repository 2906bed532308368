"""CVAT, live: pictures through a bucket that CVAT has as a cloud storage, one CVAT task a batch, jobs polled.

Written to CVAT's REST interface as its documentation of 2.80 has it, and tried against a recording receiver only, as no
CVAT server could be had. What a reader would get wrong: CVAT knows pictures by their names alone. So they are copied to
names that are our ids, and everything that comes back is known by them; nothing has to be remembered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.labeling.formats import Reply, wire
from alerting.labeling.task import Asked, Box
from alerting.labeling.tools.s3 import MANIFEST, S3Bucket, by_folder
from alerting.labeling.tools.tool import HandOver, Pulled, Unproven
from alerting.s3 import S3Access
from alerting.secret import Secret
from alerting.sinks.http import Endpoint

T = TypeVar("T")

_PAGE = 100
_LARGEST = 64 << 20  # bytes of an answer: the annotations of a batch
_SIGNATURE = "x-signature-256"


class Cvat(HandOver, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cvat"):
    """A project of CVAT. Labels count once a job is completed and accepted. Its webhook, `POST /v1/hooks/<name>` on
    `update:job`, is not needed: what it tells is found by the next look."""

    url: Annotated[str, Meta(pattern="^https?://", description="Of CVAT, such as http://cvat:8080.")]
    token: Annotated[Secret, Meta(description="An access token of a user who may make tasks.")]
    project_id: Annotated[int, Meta(ge=1, description="Number of the project; its labels are what is chosen from.")]
    storage_id: Annotated[int, Meta(ge=1, description="Number of the cloud storage in CVAT that is this bucket.")]
    bucket: Annotated[str, Meta(min_length=3, description="Bucket that pictures are copied to.")]
    prefix: Annotated[str, Meta(description="Put before every key, a slash between.")] = "cvat"
    server: Annotated[S3Access, Meta(description="How the bucket is reached.")] = S3Access()
    secret: Annotated[Secret, Meta(description="What webhooks are signed with; without one none is taken.")] = Secret(
        ""
    )
    name: Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,60}$", description="Unique among all tools.")] = "cvat"
    timeout: Annotated[Seconds, Meta(gt=0, le=300, description="Longest time for one request.")] = 20.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def open(self) -> CvatTool:
        """The live tool; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return CvatTool(self)


class _Made(msgspec.Struct):
    id: int


class _Task(msgspec.Struct):
    id: int
    name: str = ""


class _Job(msgspec.Struct):
    id: int
    task_id: int
    state: str = ""
    stage: str = ""
    updated_date: str | None = None
    assignee: dict[str, Any] | None = None
    start_frame: int = 0
    stop_frame: int = 0


class _Frame(msgspec.Struct):
    name: str


class _Frames(msgspec.Struct):
    frames: list[_Frame]
    deleted_frames: list[int] = []


class _Label(msgspec.Struct):
    id: int
    name: str


class _Mark(msgspec.Struct):
    frame: int
    label_id: int
    type: str = "tag"
    points: list[float] = []


class _Marks(msgspec.Struct):
    tags: list[_Mark] = []
    shapes: list[_Mark] = []


class CvatTool:
    """The opened `Cvat`. See `Tool`."""

    def __init__(self, options: Cvat) -> None:
        self._options = options
        headers = {"Authorization": f"Bearer {options.token}", "Accept": "application/vnd.cvat+json"}
        self._endpoint = Endpoint(options.url, headers, options.timeout, options.ca, hidden=[options.token])
        self._bucket = S3Bucket(
            bucket=options.bucket, prefix=options.prefix, server=options.server, format="cvat", copy=True
        ).open()
        self._read: dict[int, str | None] = {}  # jobs read, and when they had last changed

    def push(self, batch: str, tasks: Sequence[Asked]) -> Mapping[str, str]:
        there = self._bucket.push(batch, tasks)
        for folder in sorted({str(PurePosixPath(key).parent) for key in there.values()}):
            named = urlencode({"project_id": self._options.project_id, "name": folder, "page_size": 1})
            if not self._listed(f"/api/tasks?{named}", _Task):  # else it was made before a crash
                made = self._ask("POST", "/api/tasks", _Made, {"name": folder, "project_id": self._options.project_id})
                keys = [key for key in there.values() if str(PurePosixPath(key).parent) == folder]
                self._fill(made.id, folder, keys, tasks)
        return there

    def withdraw(self, there: Mapping[str, str]) -> None:
        for folder, names in by_folder(there).items():
            named = urlencode({"project_id": self._options.project_id, "name": folder})
            for task in self._listed(f"/api/tasks?{named}", _Task):
                if task.name == folder:
                    self._take_out(task.id, names)
        self._bucket.withdraw(there)

    def pull(self, *, everything: bool) -> Iterator[Pulled]:
        if everything:
            self._read = {}
            yield from self._bucket.pull(everything=True)
        done = urlencode({"project_id": self._options.project_id, "state": "completed", "stage": "acceptance"})
        jobs = [
            job for job in self._listed(f"/api/jobs?{done}", _Job) if self._read.get(job.id, "") != job.updated_date
        ]
        for job in jobs:
            yield self._labels(job)
            self._read[job.id] = job.updated_date

    def hooked(self, headers: Mapping[str, str], body: bytes) -> Pulled:
        secret = self._options.secret
        signed = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if not secret or not hmac.compare_digest(headers.get(_SIGNATURE, "").encode(), signed.encode()):
            raise Unproven(f"{_SIGNATURE} is not the signature of {self._options.name}")
        return Pulled()  # a job changed, or a ping: the next look finds what became of it

    def close(self) -> None:
        self._bucket.close()

    def _fill(self, task: int, folder: str, keys: Sequence[str], tasks: Sequence[Asked]) -> None:
        endings = {each.task: PurePosixPath(each.uri).suffix for each in tasks}
        pictures = [str(PurePosixPath(key).with_suffix(endings[PurePosixPath(key).stem])) for key in keys]
        data = {
            "image_quality": 70, "cloud_storage_id": self._options.storage_id, "use_cache": True,
            "sorting_method": "predefined", "server_files": [f"{folder}/{MANIFEST}", *pictures],
        }  # fmt: skip
        self._ask("POST", f"/api/tasks/{task}/data", object, data)

    def _take_out(self, task: int, names: AbstractSet[str]) -> None:
        """Marks frames as deleted; a task of no others is deleted itself."""
        about = self._ask("GET", f"/api/tasks/{task}/data/meta", _Frames)
        ours = {number for number, frame in enumerate(about.frames) if PurePosixPath(frame.name).stem in names}
        deleted = ours | set(about.deleted_frames)
        if len(deleted) == len(about.frames):
            self._endpoint.ask("DELETE", f"/api/tasks/{task}", None, largest=0, accepted=(404,))
        elif len(deleted) > len(about.deleted_frames):
            self._ask("PATCH", f"/api/tasks/{task}/data/meta", object, {"deleted_frames": sorted(deleted)})

    def _labels(self, job: _Job) -> Pulled:
        names = {label.id: label.name for label in self._listed(f"/api/labels?task_id={job.task_id}", _Label)}
        about = self._ask("GET", f"/api/tasks/{job.task_id}/data/meta", _Frames)
        frames = about.frames
        marks = self._ask("GET", f"/api/jobs/{job.id}/annotations", _Marks)
        classes: dict[int, list[str]] = defaultdict(list)
        boxes: dict[int, list[Box]] = defaultdict(list)
        for mark in marks.tags:
            classes[mark.frame].append(names.get(mark.label_id, str(mark.label_id)))
        for mark in marks.shapes:
            if mark.type == "rectangle" and len(mark.points) == 4:
                left, top, right, low = mark.points
                name = names.get(mark.label_id, str(mark.label_id))
                boxes[mark.frame].append(Box(name, left, top, right - left, low - top))
        by = str((job.assignee or {}).get("username", ""))
        replies = []
        for number in range(job.start_frame, min(job.stop_frame + 1, len(frames))):
            if number in about.deleted_frames:
                continue
            found = tuple(boxes[number])
            value = wire.joined(classes[number]) or wire.joined(box.name for box in found)
            replies.append(Reply(
                task=PurePosixPath(frames[number].name).stem, value=value, boxes=found, skipped=value is None, by=by,
                at=wire.utc(job.updated_date), annotation=f"{job.id}/{number}",
            ))  # fmt: skip
        return Pulled(replies=tuple(replies))

    def _listed(self, path: str, each: type[T]) -> list[T]:
        found: list[T] = []
        number = 1
        while True:
            page = self._ask("GET", f"{path}&page={number}&page_size={_PAGE}", dict[str, Any])
            try:
                found += msgspec.convert(page.get("results", []), list[each])  # type: ignore[valid-type]
            except msgspec.ValidationError as error:
                raise Undelivered(
                    f"{self._endpoint.name}: an answer that makes no sense: {error}", retry=True
                ) from error
            if not page.get("next"):
                return found
            number += 1

    def _ask(self, method: str, path: str, wanted: type[T], body: object = None) -> T:
        sent = None if body is None else msgspec.json.encode(body)
        answer = self._endpoint.ask(method, path, sent, largest=_LARGEST)
        try:
            return msgspec.json.decode(answer, type=wanted)
        except msgspec.DecodeError as error:
            raise Undelivered(f"{self._endpoint.name}: an answer that makes no sense: {error}", retry=True) from error
