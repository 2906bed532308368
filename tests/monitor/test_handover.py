"""Couriers between a real queue and real receivers: a bucket of an S3 server, the webhook on a real web server."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from alerting.deliver import Backoff
from alerting.labeling import SqliteQueue
from alerting.labeling.task import Box, EventRef, Known, Picture, Withdrawal, asked
from alerting.labeling.tools import ToolOptions
from alerting.labeling.tools.cvat import Cvat
from alerting.labeling.tools.label_studio import SECRET_HEADER, LabelStudio
from alerting.labeling.tools.s3 import S3Bucket
from alerting.labeling.tools.tool import Unproven
from alerting.s3 import S3Access
from alerting.secret import Secret
from monitor.api.acts import Acts
from monitor.handover import Courier, HandOver
from monitor.metrics import Meters
from tests.alerting.labelers import AT
from tests.alerting.labels import BATCH, MODEL, NOW, PLAIN, found, task
from tests.monitor.serving import Standing, serving
from tests.services.process import free_port
from tests.services.s3 import S3
from tests.services.web import Answer, Receiver

_buckets = itertools.count()


class Desk:
    """A queue of `n` tasks, and couriers over it with a clock that the test drives."""

    def __init__(self, path: Path, n: int) -> None:
        self.options = SqliteQueue(str(path / "labels.sqlite"), rules=PLAIN)
        self.queue = self.options.open()
        self.now, self.meters = NOW, Meters()
        self._couriers: list[Courier] = []
        self.put(*range(n))

    def put(self, *numbers: int, **changes: Any) -> None:
        self.queue.put([task(number, **changes) for number in numbers], BATCH, NOW)

    def courier(self, options: ToolOptions) -> Courier:
        self._couriers.append(
            Courier(
                options, options.open(), self.options.open(), backoff=Backoff(first=4.0, longest=4.0),
                meters=self.meters, clock=lambda: self.now,
            )
        )  # fmt: skip
        return self._couriers[-1]

    @property
    def finals(self) -> dict[str, Any]:
        return {final.task: final.label for final in self.queue.finals(10_000)}

    def close(self) -> None:
        for courier in self._couriers:
            courier.close()
        self.queue.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, 5)
    yield made
    made.close()


class Bucket:
    def __init__(self, s3: S3) -> None:
        self.client, self.name = s3.client(), f"labels{next(_buckets)}"
        self.client.create_bucket(Bucket=self.name)
        self.server = S3Access(
            endpoint=s3.url, region=s3.region, path_style=True, key=s3.key, secret=Secret(s3.secret)
        )  # fmt: skip

    def options(self, **changes: Any) -> S3Bucket:
        return S3Bucket(**{"bucket": self.name, "server": self.server, "prefix": "out", **changes})

    def there(self) -> list[str]:
        """In the order in which they were written."""
        there = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [item["Key"] for item in sorted(there, key=lambda item: (item["LastModified"], item["Key"]))]

    def lines(self, key: str) -> list[Any]:
        return [
            json.loads(line) for line in self.client.get_object(Bucket=self.name, Key=key)["Body"].read().splitlines()
        ]


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return Bucket(s3)


def test_a_batch_lies_in_its_folder_one_object_an_item_and_the_manifest(desk: Desk, bucket: Bucket) -> None:
    desk.courier(bucket.options()).round()

    keys = sorted(bucket.there())
    folder = "out/demo/2023-11-14T22-13-20.000/"
    ids = sorted(task(n).id for n in range(5))
    assert keys == [*(f"{folder}{name}.json" for name in ids), f"{folder}manifest.jsonl"]
    assert sorted(line["driftd_id"] for line in bucket.lines(keys[-1])) == ids
    assert bucket.lines(keys[0])[0]["prediction"]["label"] == "box"
    export = found(desk.queue, ids[0]).export
    assert export is not None
    assert (export.tool, export.task, export.acked) == ("s3", keys[0], True)


def test_a_crash_between_handing_over_and_noting_it_makes_nothing_twice(desk: Desk, bucket: Bucket) -> None:
    lost = desk.queue.export_pending("s3", "s3", 3, NOW, 3600.0)  # given out, and then the process died:
    tool = bucket.options().open()
    tool.push("2023-11-14T22-13-20.000", [asked(each, prediction=True) for each in lost[:2]])  # ... in the midst
    tool.close()

    courier = desk.courier(bucket.options())
    desk.now += 60
    courier.round()
    desk.courier(bucket.options()).round()  # and once more with a courier that knows nothing

    items = [key for key in bucket.there() if key.endswith(".json")]
    assert sorted(Path(key).stem for key in items) == sorted(task(n).id for n in range(5))
    listed = [line["driftd_id"] for key in bucket.there() if key.endswith(".jsonl") for line in bucket.lines(key)]
    assert sorted(listed) == sorted(task(n).id for n in range(5))


def test_labels_come_back_from_the_prefix_however_often_they_lie_there(desk: Desk, bucket: Bucket) -> None:
    courier = desk.courier(bucket.options(format="label-studio"))
    courier.round()
    said = [
        {"data": {"driftd_id": task(n).id}, "annotations": [
            {"id": n, "result": [{"type": "choices", "value": {"choices": ["can"]}}], "updated_at": AT},
        ]}
        for n in range(3)
    ]  # fmt: skip
    for key in ("labels/a.json", "labels/deep/copy.json"):
        bucket.client.put_object(Bucket=bucket.name, Key=f"out/{key}", Body=json.dumps(said).encode())
    bucket.client.put_object(Bucket=bucket.name, Key="out/labels/broken.json", Body=b"{")

    courier.round()
    courier.round()

    assert desk.finals == {task(n).id: "can" for n in range(3)}
    assert desk.meters.value("driftd_labeling_tool_replies_total") == 7  # two files of three, one that is none; once


def test_pictures_are_copied_beside_the_manifest_for_tools_that_know_names_alone(
    bucket: Bucket, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, 0)
    bucket.client.put_object(Bucket=bucket.name, Key="in/a b.jpg", Body=b"jpeg")
    desk.put(1, uri=f"s3://{bucket.name}/in/a b.jpg", picture=Picture(640, 480))
    desk.put(2)  # no picture: CVAT cannot hold it

    desk.courier(bucket.options(format="cvat", copy=True)).round()

    (manifest,) = [key for key in bucket.there() if key.endswith("manifest.jsonl")]
    assert bucket.lines(manifest)[2] == {
        "name": task(1).id, "extension": ".jpg", "width": 640, "height": 480, "meta": {"driftd_id": task(1).id},
    }  # fmt: skip
    copy = bucket.client.get_object(Bucket=bucket.name, Key=manifest.replace("manifest.jsonl", f"{task(1).id}.jpg"))
    assert copy["Body"].read() == b"jpeg"
    assert found(desk.queue, task(2).id).labeling_status == "In queue"  # for others
    assert desk.meters.value("driftd_labeling_tool_refused_tasks_total") == 1
    desk.close()


def test_a_tool_holds_no_more_than_it_may_and_canaries_go_along_unseen(desk: Desk, bucket: Bucket) -> None:
    desk.queue.plant([Known(dataset="demo", event="canary", truth="can", model=MODEL)], NOW)
    courier = desk.courier(bucket.options(most=4))
    for _ in range(3):
        courier.round()
    assert len([key for key in bucket.there() if key.endswith(".json")]) == 4

    (manifest,) = [key for key in bucket.there() if key.endswith(".jsonl")]
    labels = [{"driftd_id": line["driftd_id"], "label": "can"} for line in bucket.lines(manifest)]
    body = "".join(json.dumps(line) + "\n" for line in labels).encode()
    bucket.client.put_object(Bucket=bucket.name, Key="out/labels/first.jsonl", Body=body)
    courier.round()

    there = [json.dumps(bucket.lines(key)[0]) for key in bucket.there() if key.endswith(".json")]
    assert len(there) >= 5
    assert not any("canary" in each or "known" in each or "take_all" in each for each in there)


def test_a_dead_tool_is_waited_for_and_told_once(desk: Desk, bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    away = replace(bucket.server, endpoint=f"http://127.0.0.1:{free_port()}")
    courier = desk.courier(bucket.options(server=away))

    with caplog.at_level("WARNING", "monitor.handover"):
        courier.round()
        courier.round()  # not due yet, or only now: never more than one line
        desk.now += 5
        courier.round()

    assert len(caplog.records) == 1
    assert 2 <= desk.meters.value("driftd_labeling_tool_failures_total") <= 3
    assert desk.meters.value("driftd_labeling_tool_last_success_timestamp_seconds") == 0


def test_cvat_is_given_pictures_by_way_of_the_bucket_and_asked_for_accepted_jobs(
    bucket: Bucket, receiver: Receiver, tmp_path: Path
) -> None:
    """CVAT's side is what its documentation says, recorded: no server of it could be had."""
    desk = Desk(tmp_path, 0)
    bucket.client.put_object(Bucket=bucket.name, Key="in/1.jpg", Body=b"jpeg")
    desk.put(1, 2, uri=f"s3://{bucket.name}/in/1.jpg", picture=Picture(640, 480))
    courier = desk.courier(
        Cvat(
            url=receiver.url, token=Secret("t"), project_id=4, storage_id=9, bucket=bucket.name, server=bucket.server,
            secret=Secret("s"),
        )
    )  # fmt: skip
    none = Answer(body=b'{"next": null, "results": []}')
    receiver.answers += [none, none, Answer(201, body=b'{"id": 77}'), Answer(202, body=b'{"rq_id": "x"}')]
    courier.round()

    asked_jobs, asked_tasks, made, filled = receiver.calls
    assert asked_jobs.path.startswith("/api/jobs?project_id=4&state=completed&stage=acceptance")
    folder = "cvat/demo/2023-11-14T22-13-20.000"
    assert asked_tasks.path.startswith("/api/tasks?project_id=4&name=")
    assert made.json() == {"name": folder, "project_id": 4}
    assert filled.path == "/api/tasks/77/data"
    files = filled.json()["server_files"]
    assert files[0] == f"{folder}/manifest.jsonl"
    assert sorted(files[1:]) == sorted(f"{folder}/{task(n).id}.jpg" for n in (1, 2))
    assert set(files) <= set(bucket.there())

    frames = [{"name": name, "width": 640, "height": 480} for name in files[1:]]
    job = {"id": 5, "task_id": 77, "state": "completed", "stage": "acceptance", "updated_date": AT,
           "assignee": {"username": "ada"}, "start_frame": 0, "stop_frame": 1}  # fmt: skip
    marks = {"tags": [{"frame": 0, "label_id": 1}], "shapes": [
        {"type": "rectangle", "frame": 1, "label_id": 2, "points": [64, 48, 384, 288], "occluded": False},
    ]}  # fmt: skip
    labels = {"next": None, "results": [{"id": 1, "name": "can"}, {"id": 2, "name": "jar"}]}
    for said in ({"next": None, "results": [job]}, labels, {"frames": frames}, marks):
        receiver.answers.append(Answer(body=json.dumps(said).encode()))
    courier.round()

    names = [Path(name).stem for name in files[1:]]
    assert desk.finals == {names[0]: "can", names[1]: "jar"}
    assert found(desk.queue, names[1]).labels[0].boxes == (Box("jar", 64, 48, 320, 240),)
    with pytest.raises(Unproven):
        courier.hooked({"x-signature-256": "sha256=guessed"}, b"{}")
    signed = hmac.new(b"s", b"{}", hashlib.sha256).hexdigest()
    assert courier.hooked({"x-signature-256": f"sha256={signed}"}, b"{}").accepted == 0
    desk.close()


def test_what_nobody_need_label_is_taken_back_from_a_bucket(desk: Desk, bucket: Bucket) -> None:
    desk.queue.put([task(9, event=EventRef("event 9", time=NOW + 900))], BATCH, NOW)
    bucket.client.put_object(Bucket=bucket.name, Key="in/1.jpg", Body=b"jpeg")
    courier = desk.courier(bucket.options(copy=True))
    courier.round()
    desk.queue.withdraw(Withdrawal("w", "shelf", NOW - 60, NOW, "unintended"), desk.now)
    courier.round()

    items = [key for key in bucket.there() if key.endswith(".json")]
    assert [Path(key).stem for key in items] == [task(9).id]
    (manifest,) = [key for key in bucket.there() if key.endswith(".jsonl")]
    assert [line["driftd_id"] for line in bucket.lines(manifest)] == [task(9).id]
    assert desk.meters.value("driftd_labeling_tool_withdrawn_tasks_total") == 5
    courier.round()  # there is no more to take back
    assert desk.meters.value("driftd_labeling_tool_withdrawn_tasks_total") == 5


def test_label_studio_is_told_of_what_nobody_need_label_until_it_is_gone(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, 2)
    desk.queue.put([task(9, event=EventRef("event 9", time=NOW + 900))], BATCH, NOW)
    names = {task(0).id: 70, task(1).id: 71, task(9).id: 79}
    there = [
        {"id": number, "updated_at": AT, "data": {"driftd_id": name}, "annotations": []}
        for name, number in names.items()
    ]

    def pulled() -> Answer:
        return Answer(body=json.dumps({"total": 3, "tasks": there}).encode())

    projects = Answer(body=b'{"results": [{"id": 4, "title": "driftd"}]}')
    tool = LabelStudio(url=receiver.url, token=Secret("t"), reconcile=3600.0)
    desk.queue.export_pending(tool.name, tool.name, 5, NOW, 3600.0)  # given out before a crash
    courier = desk.courier(tool)
    receiver.answers += [projects, pulled()]
    courier.round()
    desk.queue.withdraw(Withdrawal("w", "shelf", NOW - 60, NOW, "unintended"), desk.now)

    receiver.answers += [pulled(), Answer(204), Answer(500)]
    courier.round()  # one goes, at the other the tool fails
    assert desk.meters.value("driftd_labeling_tool_failures_total") == 1
    assert desk.meters.value("driftd_labeling_tool_withdrawn_tasks_total") == 0

    desk.now += 60
    receiver.calls.clear()
    receiver.answers += [pulled(), Answer(404), Answer(204)]
    courier.round()
    deleted = [call.path for call in receiver.calls if call.method == "DELETE"]
    assert sorted(deleted) == ["/api/tasks/70/", "/api/tasks/71/"]
    assert desk.meters.value("driftd_labeling_tool_withdrawn_tasks_total") == 2
    desk.close()


def test_cvat_loses_the_frames_that_nobody_need_label_and_a_task_of_no_others(
    bucket: Bucket, receiver: Receiver
) -> None:
    """CVAT's side is what its documentation says, recorded."""
    tool = Cvat(
        url=receiver.url, token=Secret("t"), project_id=4, storage_id=9, bucket=bucket.name, server=bucket.server
    ).open()
    folder = "cvat/demo/2023-11-14T22-13-20.000"
    ids = [task(n).id for n in range(3)]
    for name in ids:
        bucket.client.put_object(Bucket=bucket.name, Key=f"{folder}/{name}.json", Body=b"{}")
        bucket.client.put_object(Bucket=bucket.name, Key=f"{folder}/{name}.jpg", Body=b"jpeg")
    found = Answer(body=json.dumps({"next": None, "results": [{"id": 77, "name": folder}]}).encode())

    def meta(*deleted: int) -> Answer:
        frames = [{"name": f"{folder}/{name}.jpg"} for name in ids]
        return Answer(body=json.dumps({"frames": frames, "deleted_frames": deleted}).encode())

    receiver.answers += [found, meta(0), Answer(body=b"{}"), found, meta(0, 1), Answer(404)]
    tool.withdraw({ids[1]: f"{folder}/{ids[1]}.json"})
    assert (receiver.calls[-1].method, receiver.calls[-1].path) == ("PATCH", "/api/tasks/77/data/meta")
    assert receiver.calls[-1].json() == {"deleted_frames": [0, 1]}
    tool.withdraw({ids[2]: f"{folder}/{ids[2]}.json"})
    assert (receiver.calls[-1].method, receiver.calls[-1].path) == ("DELETE", "/api/tasks/77")
    assert [key for key in bucket.there() if key.endswith(".json")] == [f"{folder}/{ids[0]}.json"]
    assert len([key for key in bucket.there() if key.endswith(".jpg")]) == 3  # CVAT reads them still
    tool.close()


HOOK = {
    "action": "ANNOTATION_CREATED",
    "annotation": {
        "id": 7, "result": [{"type": "choices", "value": {"choices": ["can"]}}], "was_cancelled": False,
        "completed_by": 1, "created_at": AT, "updated_at": AT,
    },
    "task": {"id": 3, "data": {"driftd_id": task(1).id, "inputs": {}}, "meta": {}},
    "project": {"id": 2},
}  # fmt: skip


def test_the_webhook_takes_what_proves_itself_and_nothing_else(desk: Desk) -> None:
    tool = LabelStudio(url="http://127.0.0.1:1", token=Secret("t"), secret=Secret("of the hook"))
    desk.queue.export_pending(tool.name, tool.name, 5, NOW, 3600.0)
    handover = HandOver((tool,), desk.options.open, backoff=Backoff(), meters=Meters())
    acts = Acts(desk.options, Standing(), handover, Meters(), intake=True)

    def call(said: Any, secret: str = "of the hook", name: str = tool.name) -> int:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        answered, _, _ = client.ask("POST", f"/v1/hooks/{name}", body, **{SECRET_HEADER: secret})
        return answered

    with serving(acts=lambda _: acts.endpoints()) as client:
        assert call(HOOK, secret="guessed") == 401
        assert call(HOOK, name="s3") == 404
        assert desk.finals == {}
        assert [call(HOOK) for _ in range(3)] == [200, 200, 200]
        assert call({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 7}]}) == 200
        for nonsense in (b"\xff", b"[]", {"action": 3}, HOOK | {"task": {"id": 1, "data": {}}}):
            assert call(nonsense) == 422
        described = client.said("GET", "/openapi.json")[1]["paths"]["/v1/hooks/{tool}"]["post"]

    assert desk.finals == {task(1).id: "can"}
    assert "401" in described["responses"]
    acts.close()
    handover.close()


def test_label_studio_away_keeps_no_label_of_its_hook_from_coming(desk: Desk, receiver: Receiver) -> None:
    tool = LabelStudio(url=receiver.url, token=Secret("t"), secret=Secret("s"))
    courier = desk.courier(tool)
    desk.queue.export_pending(tool.name, tool.name, 5, NOW, 3600.0)
    courier.round()  # the receiver answers nonsense

    back = courier.hooked({SECRET_HEADER: "s"}, json.dumps(HOOK).encode())

    assert (back.accepted, desk.finals) == (1, {task(1).id: "can"})
    assert receiver.calls[0].headers["authorization"] == "Token t"
