"""Out and back with a real Label Studio: hooks lost, doubled and shuffled, skips, changes, deletions, a crash."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alerting.deliver import Backoff
from alerting.labeling import SqliteQueue
from alerting.labeling.formats import FORMATS, Reply
from alerting.labeling.task import EventRef, Withdrawal, asked
from alerting.labeling.tools.label_studio import SECRET_HEADER, LabelStudio
from alerting.secret import Secret
from monitor.handover import Courier
from monitor.metrics import Meters
from tests.alerting.labels import BATCH, NOW, PLAIN, task
from tests.services.tools import LabelStudioServer
from tests.services.web import Call, Receiver

N = 120  # more than a page

pytestmark = pytest.mark.timeout(600)


class Project:
    """A project of Label Studio with its labelers, a queue beside it, and a courier between."""

    def __init__(self, server: LabelStudioServer, hooks: Receiver, path: Path, **changes: Any) -> None:
        self._server, self._hooks = server, hooks
        self.options = LabelStudio(**{
            "url": server.url, "token": Secret(server.token), "project": path.name[:50], "classes": ("box", "can"),
            "webhook": hooks.url, "secret": Secret("of the hook"), "reconcile": 3600.0, "most": 500, **changes,
        })  # fmt: skip
        self._path = path / "labels.sqlite"
        self.queue = SqliteQueue(str(self._path), rules=PLAIN).open()
        self.now = 1_795_341_600.0
        self.courier = self.another()
        self._number: int | None = None

    def another(self) -> Courier:
        """A courier that knows nothing, as after a restart."""
        queue = SqliteQueue(str(self._path), rules=PLAIN).open()
        self.courier = Courier(
            self.options, self.options.open(), queue, backoff=Backoff(), meters=Meters(), clock=lambda: self.now
        )
        return self.courier

    @property
    def number(self) -> int:
        if self._number is None:
            found = self._server.ask("GET", "/api/projects?page_size=100")["results"]
            self._number = next(each["id"] for each in found if each["title"] == self.options.project)
        return self._number

    def put(self, *numbers: int) -> None:
        self.queue.put([task(number) for number in numbers], BATCH, self.now)

    def there(self) -> dict[str, dict[str, Any]]:
        """Their tasks by our id; fails where one is there twice."""
        path = f"/api/projects/{self.number}/export?exportType=JSON&download_all_tasks=true"
        exported = self._server.ask("GET", path)
        assert set(Counter(each["data"]["driftd_id"] for each in exported).values()) <= {1}
        return {each["data"]["driftd_id"]: each for each in exported}

    def annotate(self, theirs: int, label: str | None) -> int:
        """By a labeler; None: they cannot tell."""
        result = [] if label is None else [
            {"type": "choices", "from_name": "label", "to_name": "input", "value": {"choices": [label]}}
        ]  # fmt: skip
        said = {"result": result, "was_cancelled": label is None, "lead_time": 2.5}
        made: int = self._server.ask("POST", f"/api/tasks/{theirs}/annotations/", said)["id"]
        return made

    def change(self, annotation: int, label: str) -> None:
        result = [{"type": "choices", "from_name": "label", "to_name": "input", "value": {"choices": [label]}}]
        self._server.ask("PATCH", f"/api/annotations/{annotation}/", {"result": result})

    def delete(self, annotation: int) -> None:
        self._server.ask("DELETE", f"/api/annotations/{annotation}/")

    def remove(self, theirs: int) -> None:
        self._server.ask("DELETE", f"/api/tasks/{theirs}/")

    def export(self, kind: str) -> bytes:
        import msgspec

        return msgspec.json.encode(self._server.ask("GET", f"/api/projects/{self.number}/export?exportType={kind}"))

    def hooks(self, count: int) -> list[Call]:
        return list(self._hooks.wait(count))

    @property
    def finals(self) -> dict[str, Any]:
        return {final.task: final.label for final in self.queue.finals(10_000)}

    def close(self) -> None:
        self.courier.close()
        self.queue.close()


@pytest.fixture
def project(label_studio: LabelStudioServer, receiver: Receiver, tmp_path: Path) -> Iterator[Project]:
    made = Project(label_studio, receiver, tmp_path)
    yield made
    made.close()


def test_out_and_back_with_hooks_lost_doubled_and_shuffled(project: Project) -> None:
    project.put(*range(N))
    project.courier.round()

    there = project.there()
    assert set(there) == {task(n).id for n in range(N)}
    assert all(each["total_predictions"] == 1 for each in there.values())
    assert there[task(0).id]["data"]["inputs"] == {}

    wanted = {task(n).id: "can" if n % 3 else "box" for n in range(40)}
    annotations = {name: project.annotate(there[name]["id"], label) for name, label in wanted.items()}
    skipped = task(50).id
    project.annotate(there[skipped]["id"], None)
    calls = project.hooks(41)
    assert {call.path for call in calls} == {"/v1/hooks/label-studio"}
    assert {call.headers[SECRET_HEADER] for call in calls} == {"of the hook"}

    heard = [call for call in calls if call.json()["annotation"]["id"] % 2 == 0] * 2  # every other one is lost
    random.Random(1).shuffle(heard)
    for call in heard:
        project.courier.hooked(call.headers, call.body)
    by_hook = {name: label for name, label in wanted.items() if annotations[name] % 2 == 0}
    assert project.finals == by_hook

    project.change(annotations[task(1).id], "box")
    project.delete(annotations[task(2).id])
    project.now += 30
    project.courier.round()  # what changed since: labels whose hooks were lost, the change, the deletion

    wanted |= {task(1).id: "box"}
    del wanted[task(2).id]
    assert project.finals == wanted
    assert project.courier.hooked(calls[0].headers, calls[0].body).accepted in (0, 1)  # ever again
    assert project.finals == wanted
    assert project.queue.get(skipped).labeling_status == "In queue"  # type: ignore[union-attr]  # it is there

    exported = [each for each in FORMATS["label-studio"].read(project.export("JSON")) if isinstance(each, Reply)]
    flat = [each for each in FORMATS["label-studio"].read(project.export("JSON_MIN")) if isinstance(each, Reply)]
    assert {each.task: each.value for each in exported if not each.skipped} == wanted
    assert {each.task: each.value for each in flat} == wanted


def test_a_crash_between_import_and_its_noting_makes_no_second_task(project: Project) -> None:
    project.put(*range(20))
    given_out = project.queue.export_pending(project.options.name, project.options.name, 8, project.now, 3600.0)
    project.options.open().push("b", [asked(each, prediction=True) for each in given_out])  # and the process died

    project.another().round()

    assert set(project.there()) == {task(n).id for n in range(20)}


def test_an_hour_of_silence_is_made_up_for_by_the_comparison(project: Project) -> None:
    project.put(1, 2)
    project.courier.round()
    there = project.there()
    first = project.annotate(there[task(1).id]["id"], "can")
    project.courier.round()
    assert project.finals == {task(1).id: "can"}

    project.delete(first)
    project.annotate(there[task(2).id]["id"], "box")
    project.another().round()  # all hooks lost, and a courier that saw nothing

    assert project.finals == {task(2).id: "box"}


def test_a_personal_token_serves_as_well_as_a_legacy_one(
    label_studio: LabelStudioServer, receiver: Receiver, tmp_path: Path
) -> None:
    token = Secret(label_studio.ask("POST", "/api/token/", {})["token"])
    project = Project(label_studio, receiver, tmp_path, token=token)
    project.put(1)
    project.courier.round()
    assert set(project.there()) == {task(1).id}
    project.close()


def test_tasks_that_nobody_need_label_are_gone_from_the_project(project: Project) -> None:
    project.put(*range(3))
    later = task(9, event=EventRef("event 9", time=NOW + 900))
    project.queue.put([later], BATCH, project.now)
    project.courier.round()
    project.remove(project.there()[task(0).id]["id"])  # somebody was there before us

    project.queue.withdraw(Withdrawal("w", "shelf", NOW - 60, NOW, "unintended"), project.now)
    project.now += 60
    project.courier.round()
    assert set(project.there()) == {later.id}
    project.another().round()
    assert set(project.there()) == {later.id}  # and nothing is handed over again
