"""Runs over a real HTTP server: the exact requests, what a repeat does, what refusals do, charts."""

from __future__ import annotations

import hashlib
import json
import math
from email import message_from_bytes
from email.message import Message
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.deliver import Undelivered
from alerting.secret import Secret
from alerting.tracking.chart import PANELS, chart
from alerting.tracking.clearml import ClearMl
from alerting.tracking.mlflow import Mlflow
from alerting.tracking.report import Kind, Point, Report, finite, report_in
from tests.services.web import Answer, Receiver

SECRET = "hunter2-token"
EXPERIMENT = {"experiments": [{"experiment_id": "7", "name": "driftd", "tags": []}]}
NONE: dict[str, Any] = {}


def report(**changes: Any) -> Report:
    said: dict[str, Any] = {
        "run": "0123abcd", "kind": Kind.CAMPAIGN, "model": "shelf", "name": "campaign shelf", "started": 1_000.0,
        "at": 1_060.0, "note": "It moved.", "params": {"reference": "r1"}, "tags": {"outcome": "goal"},
        "points": (Point("accuracy", 0.9, 1_060.0, 60),), **changes,
    }  # fmt: skip
    return Report(**said)


def run(status: str = "RUNNING", stage: str = "active") -> dict[str, Any]:
    info = {"run_id": "abc", "run_name": "x", "status": status, "lifecycle_stage": stage, "end_time": 1}
    return {"info": info, "data": {"tags": []}}


def answers(receiver: Receiver, *bodies: Any) -> None:
    receiver.answers.extend(Answer(body=json.dumps(body).encode()) for body in bodies)


def send(receiver: Receiver, *reports: Report, **options: Any) -> None:
    sink = Mlflow(**{"url": receiver.url, "token": Secret(SECRET), **options}).open()
    sink.send([each.item("mlflow", 0.0) for each in reports])


def asked(receiver: Receiver) -> list[str]:
    return [call.path.removeprefix("/api/2.0/mlflow/") for call in receiver.calls]


def test_the_first_report_makes_the_experiment_and_the_run(receiver: Receiver) -> None:
    answers(receiver, NONE, {"experiment_id": "7"}, NONE, {"run": run()}, NONE)
    send(receiver, report())
    assert asked(receiver) == [
        "experiments/search", "experiments/create", "runs/search", "runs/create", "runs/log-batch"
    ]  # fmt: skip
    assert {call.headers["authorization"] for call in receiver.calls} == {f"Bearer {SECRET}"}
    search, made, find, create, batch = (call.json() for call in receiver.calls)
    assert search == {"filter": "name = 'driftd'", "max_results": 1}
    assert made == {"name": "driftd"}
    assert find == {
        "experiment_ids": ["7"], "filter": "tags.`driftd.id` = '0123abcd'", "max_results": 1, "run_view_type": "ALL"
    }  # fmt: skip
    assert create == {
        "experiment_id": "7",
        "run_name": "campaign shelf",
        "start_time": 1_000_000,
        "tags": [
            {"key": "driftd.id", "value": "0123abcd"},
            {"key": "mlflow.source.type", "value": "JOB"},
            {"key": "mlflow.source.name", "value": "driftd"},
        ],
    }
    assert batch == {
        "run_id": "abc",
        "metrics": [{"key": "accuracy", "value": 0.9, "timestamp": 1_060_000, "step": 60}],
        "params": [{"key": "reference", "value": "r1"}],
        "tags": [
            {"key": "mlflow.note.content", "value": "It moved."},
            {"key": "mlflow.runName", "value": "campaign shelf"},
            {"key": "driftd.kind", "value": "campaign"},
            {"key": "driftd.model", "value": "shelf"},
            {"key": "outcome", "value": "goal"},
        ],
    }


def test_a_run_that_is_there_is_found_and_the_experiment_asked_for_once(receiver: Receiver) -> None:
    answers(receiver, EXPERIMENT, {"runs": [run()]}, NONE, {"runs": [run()]}, NONE)
    send(receiver, report(), report(at=1_120.0))
    assert asked(receiver) == ["experiments/search", *["runs/search", "runs/log-batch"] * 2]


@pytest.mark.parametrize(
    ("before", "change", "wanted"),
    [
        ("RUNNING", {"ended": True}, {"run_id": "abc", "status": "FINISHED", "end_time": 1_060_000}),
        ("RUNNING", {"ended": True, "failed": True}, {"run_id": "abc", "status": "FAILED", "end_time": 1_060_000}),
        ("FINISHED", {}, {"run_id": "abc", "status": "RUNNING"}),
    ],
    ids=["it ends", "it fails", "it comes back"],
)
def test_how_the_run_stands(receiver: Receiver, before: str, change: dict[str, Any], wanted: dict[str, Any]) -> None:
    answers(receiver, EXPERIMENT, {"runs": [run(before)]}, NONE, NONE)
    send(receiver, report(**change))
    assert asked(receiver)[-1] == "runs/update"
    assert receiver.calls[-1].json() == wanted


def test_params_are_written_once(receiver: Receiver) -> None:
    known = {**run(), "data": {"params": [{"key": "reference", "value": "r0"}]}}
    answers(receiver, EXPERIMENT, {"runs": [known]}, NONE)
    send(receiver, report())
    assert receiver.calls[-1].json()["params"] == []


def test_a_run_that_people_deleted_stays_deleted(receiver: Receiver) -> None:
    answers(receiver, EXPERIMENT, {"runs": [run(stage="deleted")]})
    send(receiver, report(ended=True))
    assert asked(receiver) == ["experiments/search", "runs/search"]


def test_files_are_uploaded_by_path_unless_there_is_no_place_for_them(receiver: Receiver) -> None:
    told = report(files={"labels/000000.jsonl": "{}\n"})
    answers(receiver, EXPERIMENT, {"runs": [run()]}, NONE)
    send(receiver, told)
    upload = receiver.calls[-1]
    assert upload.path == "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=abc&path=labels%2F000000.jsonl"
    assert (upload.body, upload.headers["content-type"]) == (b"{}\n", "application/octet-stream")

    answers(receiver, EXPERIMENT, {"runs": [run()]}, NONE)
    send(receiver, told, artifacts=False)
    assert receiver.calls[-1].path.endswith("log-batch")


def test_batches_keep_to_the_servers_limits(receiver: Receiver) -> None:
    points = tuple(Point("n" * 300, float(n), 0.0, n) for n in range(1_700))
    params, tags = {f"p{n}": "x" * 7_000 for n in range(150)}, {f"t{n}": "x" for n in range(150)}
    answers(receiver, EXPERIMENT, {"runs": [run()]})
    receiver.answers.extend([Answer(body=b"{}")] * 3)
    send(receiver, report(points=points, params=params, tags=tags, note="x" * 9_000))
    batches = [call.json() for call in receiver.calls[2:]]
    values = [metric["value"] for batch in batches for metric in batch["metrics"]]
    assert values == [float(n) for n in range(1_700)]
    assert {len(metric["key"]) for batch in batches for metric in batch["metrics"]} == {250}
    for batch in batches:
        params, tags = batch.get("params", []), batch.get("tags", [])
        assert max(len(params), len(tags)) <= 100
        assert len(batch["metrics"]) + len(params) + len(tags) <= 1_000
        assert all(len(param["value"]) <= 6_000 for param in params)
        assert all(len(tag["value"]) <= 8_000 for tag in tags)
    notes = [tag["key"] for tag in batches[0]["tags"]]
    assert {"mlflow.note.content", "driftd.kind"} <= {*notes}


def test_a_server_below_a_path_and_basic_authentication(receiver: Receiver) -> None:
    answers(receiver, EXPERIMENT, {"runs": [run()]}, NONE)
    send(receiver, report(), url=f"{receiver.url}/ml/", token=Secret(), username="ann", password=Secret(SECRET))
    assert {call.path.startswith("/ml/api/2.0/mlflow/") for call in receiver.calls} == {True}
    assert {call.headers["authorization"][:6] for call in receiver.calls} == {"Basic "}


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_trouble_holds_up_what_is_not_written(receiver: Receiver, status: int) -> None:
    answers(receiver, EXPERIMENT, {"runs": [run()]}, NONE)
    receiver.answers.append(Answer(status, {"retry-after": "7"}))
    with pytest.raises(Undelivered) as raised:
        send(receiver, report(), report(), report())
    assert (raised.value.retry, raised.value.after, raised.value.delivered) == (True, 7.0, 1)


def test_a_refusal_sets_one_run_aside_and_names_no_secret(receiver: Receiver) -> None:
    answers(receiver, EXPERIMENT, {"runs": [run()]})
    receiver.answers.append(Answer(400, body=f"no {SECRET} here".encode()))
    with pytest.raises(Undelivered) as raised:
        send(receiver, report())
    assert (raised.value.retry, raised.value.delivered) == (False, 0)
    assert SECRET not in str(raised.value)


def test_an_answer_of_something_else_is_trouble(receiver: Receiver) -> None:
    receiver.answers.append(Answer(body=b"<html>a login page</html>"))
    with pytest.raises(Undelivered, match="what MLflow would not") as raised:
        send(receiver, report())
    assert raised.value.retry


def test_secrets_are_in_no_repr() -> None:
    assert SECRET not in repr(Mlflow(url="http://here", token=Secret(SECRET), password=Secret(SECRET)))
    assert SECRET not in repr(ClearMl(url="http://here", access_key="ann", secret_key=Secret(SECRET)))


class Clear:
    """A ClearML server with one project, as far as the receiver plays it."""

    def __init__(self, receiver: Receiver, *, task: dict[str, str] | None, answered: int = 20) -> None:
        self.receiver = receiver
        self.data({"token": "t0ken"})
        self.data({"projects": [{"id": "p1"}]})
        self.data({"tasks": [] if task is None else [task]})
        for _ in range(answered):
            self.data({"id": "t1", "errors": 0})

    def data(self, said: Any) -> None:
        body = {"meta": {"result_code": 200, "result_msg": "OK"}, "data": said}
        self.receiver.answers.append(Answer(body=json.dumps(body).encode()))

    def send(self, *reports: Report, **options: Any) -> None:
        given = {"url": f"{self.receiver.url}/api/", "access_key": "ann", "secret_key": Secret(SECRET), **options}
        ClearMl(**given).open().send([each.item("clearml", 0.0) for each in reports])

    @property
    def asked(self) -> list[str]:
        return [call.path.removeprefix("/api/v2.13/") for call in self.receiver.calls]

    def body(self, action: str) -> Any:
        return next(call.json() for call in self.receiver.calls if call.path.endswith(action))


TELL = ["tasks.update", "tasks.edit_hyper_params", "events.add_batch"]


def test_clearml_is_logged_in_to_once_and_the_first_report_makes_a_task(receiver: Receiver) -> None:
    clear = Clear(receiver, task=None)
    clear.send(report())
    assert clear.asked == [
        "auth.login", "projects.get_all", "tasks.get_all", "tasks.create", "tasks.started", *TELL
    ]  # fmt: skip
    login, *others = receiver.calls
    assert login.headers["authorization"].startswith("Basic ")
    assert {call.headers["authorization"] for call in others} == {"Bearer t0ken"}
    assert clear.body("projects.get_all") == {"name": "^driftd$", "only_fields": ["id"]}
    assert clear.body("tasks.get_all") == {"project": ["p1"], "tags": ["0123abcd"], "only_fields": ["id", "status"]}
    assert clear.body("tasks.create") == {
        "name": "campaign shelf",
        "project": "p1",
        "type": "monitor",
        "comment": "It moved.",
        "tags": ["driftd", "campaign", "0123abcd", "shelf"],
        "hyperparams": {
            "driftd": {"reference": {"section": "driftd", "name": "reference", "value": "r1", "type": "str"}}
        },
    }
    (state,) = clear.body("tasks.edit_hyper_params")["hyperparams"]
    assert (state["section"], state["name"], state["value"]) == ("state", "outcome", "goal")


def test_clearml_draws_bounds_with_their_number(receiver: Receiver) -> None:
    clear = Clear(receiver, task={"id": "t1", "status": "in_progress"})
    points = tuple(Point(name, 0.9, 1_060.0, 60) for name in ("accuracy", "accuracy_low"))
    clear.send(report(points=points))
    assert clear.asked[3:] == TELL
    batch = receiver.calls[-1]
    assert batch.headers["content-type"] == "application/json-lines"
    first, second = map(json.loads, batch.body.splitlines())
    assert first == {
        "type": "training_stats_scalar", "task": "t1", "metric": "accuracy", "variant": "accuracy", "value": 0.9,
        "iter": 60, "timestamp": 1_060_000,
    }  # fmt: skip
    assert (second["metric"], second["variant"]) == ("accuracy", "accuracy_low")


@pytest.mark.parametrize(("failed", "action"), [(False, "tasks.completed"), (True, "tasks.failed")])
def test_clearml_is_told_the_end_of_a_task_that_goes_on_again(receiver: Receiver, failed: bool, action: str) -> None:
    clear = Clear(receiver, task={"id": "t1", "status": "completed"})
    clear.send(report(ended=True, failed=failed))
    assert clear.asked[3:] == ["tasks.started", *TELL, action]
    assert receiver.calls[-1].json() == {"task": "t1", "force": True}


def test_clearml_files_go_to_the_file_server_under_the_task(receiver: Receiver) -> None:
    clear = Clear(receiver, task={"id": "t1", "status": "in_progress"})
    with Receiver() as files:
        clear.send(report(files={"labels/000000.jsonl": "{}\n"}), files=files.url)
        (call,) = files.calls
        assert (call.method, call.path, call.headers["authorization"]) == ("POST", "/", "Bearer t0ken")
        form = message_from_bytes(b"Content-Type: " + call.headers["content-type"].encode() + b"\n\n" + call.body)
        part = form.get_payload(0)
        assert isinstance(part, Message)
        place = "driftd/t1/artifacts/labels/000000.jsonl"
        assert part.get_param("name", header="content-disposition") == place
        assert part.get_payload(decode=True) == b"{}\n"
        (artifact,) = clear.body("add_or_update_artifacts")["artifacts"]
        assert (artifact["key"], artifact["uri"]) == ("labels/000000.jsonl", f"{files.url}/{place}")
        assert artifact["hash"] == hashlib.sha256(b"{}\n").hexdigest()


def test_clearml_numbers_that_are_refused_set_the_run_aside(receiver: Receiver) -> None:
    clear = Clear(receiver, task={"id": "t1", "status": "in_progress"}, answered=2)
    clear.data({"added": 0, "errors": 1})
    with pytest.raises(Undelivered, match="1 of 1 numbers") as raised:
        clear.send(report())
    assert not raised.value.retry


def test_a_clearml_token_that_ran_out_is_asked_for_anew(receiver: Receiver) -> None:
    sink = ClearMl(url=f"{receiver.url}/api", access_key="ann", secret_key=Secret(SECRET)).open()
    items = [report().item("clearml", 0.0)]
    clear = Clear(receiver, task={"id": "t1", "status": "in_progress"}, answered=1)
    receiver.answers.append(Answer(401))
    with pytest.raises(Undelivered) as raised:
        sink.send(items)
    assert raised.value.retry
    Clear(receiver, task={"id": "t1", "status": "in_progress"})
    sink.send(items)
    assert clear.asked.count("auth.login") == 2


def test_the_same_report_is_the_same_item_and_another_is_not() -> None:
    first = report().item("mlflow", 0.0)
    assert report_in(first) == report()
    assert report().item("mlflow", 9.0).key == first.key
    assert report(note="A verdict came.").item("mlflow", 0.0).key != first.key
    assert first.about == report().run


@given(st.dictionaries(st.text(max_size=3), st.floats() | st.none()))
def test_only_what_is_a_number_is_told(numbers: dict[str, float | None]) -> None:
    told = finite(numbers)
    assert all(map(math.isfinite, told.values()))
    assert told.keys() == {name for name, value in numbers.items() if value is not None and math.isfinite(value)}


numbers = st.floats(-1e300, 1e300)
series = st.lists(st.tuples(st.floats(0, 1e12), numbers), max_size=5).map(sorted)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.dictionaries(st.text("ab<_", max_size=3), series))
def test_any_chart_is_well_formed_and_loads_nothing(title: str, told: dict[str, Any]) -> None:
    drawn = ET.fromstring(chart(title, told))  # noqa: S314 we made it
    panels = sum(element.tag.endswith("polyline") for element in drawn.iter())
    assert panels == min(PANELS, sum(map(bool, told.values())))
    assert {name for element in drawn.iter() for name in element.attrib} & {"href", "style", "onload"} == set()


def test_bounds_are_a_band_around_their_number() -> None:
    points = [(0.0, 0.8), (60.0, 0.9)]
    drawn = chart("shelf", {"accuracy": points, "accuracy_low": points, "accuracy_high": points, "low": points})
    assert (drawn.count("<polyline"), drawn.count("<polygon")) == (2, 1)
