"""Every target over a real server: the exact request it sends, what a repeat does, what refusals do."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import Consumer

from alerting.deliver import Undelivered
from alerting.outbox import Item
from alerting.policy import Cause
from alerting.retraining import Measured, Request, Span, Status, moved
from alerting.secret import Secret
from alerting.targets import TARGETS, TargetOptions
from alerting.targets.kafka import RetrainingKafka
from alerting.targets.run import Run, State
from monitor.runs import Followed
from tests.services.kafka import Kafka
from tests.services.web import Answer, Call, Receiver

SECRET = "hunter2-token"
STARTING = sorted(TARGETS.keys() & {"argo_workflows", "airflow", "kubeflow", "github"})
HTTP = sorted(TARGETS.keys() & {"webhook", *STARTING})
OPTIONS: dict[str, dict[str, Any]] = {
    "webhook": {"headers": {"Authorization": f"Bearer {SECRET}"}},
    "argo_workflows": {"namespace": "ml", "template": "train", "token": Secret(SECRET)},
    "airflow": {"dag": "retrain iris", "version": 2, "username": "ann", "password": Secret(SECRET)},
    "kubeflow": {"pipeline": "p-1", "experiment": "e-1", "token": Secret(SECRET)},
    "github": {"repository": "shop/models", "token": Secret(SECRET)},
}


def request(**changes: Any) -> Request:
    made = Request(
        id="0123abcd", model="iris", version="7", mode="automatic", cause=Cause.GAIN, text="It pays.",
        alerts=("iris/psi/weight",), detectors=("psi",), made=1_000.0, span=Span(0.0, 1_000.0), train=80, evaluate=20,
        by_class={"a": 60, "b": 40}, before={"accuracy": Measured(0.8, 0.75, 0.85, 100)}, status=Status.SENT,
        labels_uri="http://driftd:8080/v1/labels/set/{id}",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def options(kind: str, url: str, **more: Any) -> TargetOptions:
    made: TargetOptions = TARGETS[kind](**{"url": url, **OPTIONS[kind], **more})
    return made


def expect(kind: str, receiver: Receiver, *answers: Answer) -> None:
    """The answers to so many requests. Kubeflow is asked for a run before each post: it has none."""
    for answer in answers:
        receiver.answers.extend([Answer(body=b"{}"), answer] if kind == "kubeflow" else [answer])


def posts(receiver: Receiver) -> list[Call]:
    return [call for call in receiver.calls if call.method == "POST"]


def send(kind: str, url: str, *requests: Request, **more: Any) -> None:
    options(kind, url, **more).open().send([each.item("here", 0.0) for each in requests])


@pytest.mark.parametrize("kind", HTTP)
class TestEveryTarget:
    def test_the_body_says_what_is_asked(self, kind: str, receiver: Receiver) -> None:
        expect(kind, receiver, Answer())
        send(kind, receiver.url, request())
        (call,) = posts(receiver)
        text = call.body.decode().replace('\\"', '"')
        for said in ('"request_id":"0123abcd"', '"current_version":"7"', "v1/labels/set/0123abcd-train", '"half"'):
            assert said in text

    def test_a_private_address_is_a_matter_of_the_option(self, kind: str, receiver: Receiver) -> None:
        expect(kind, receiver, Answer())
        send(kind, receiver.url, request())
        with pytest.raises(ValueError, match="a private address"):
            send(kind, receiver.url, request(), private=False)
        with pytest.raises(Undelivered, match="a private address"):  # known by its name only once it is asked for
            send(kind, receiver.url.replace("127.0.0.1", "localhost"), request(), private=False)
        assert len(posts(receiver)) == 1

    def test_a_repeat_is_the_same_request(self, kind: str, receiver: Receiver) -> None:
        expect(kind, receiver, Answer(), Answer())
        send(kind, receiver.url, request(), request())
        first, second = posts(receiver)
        assert (first.path, first.body) == (second.path, second.body)

    @pytest.mark.parametrize("status", [401, 404, 429, 503])
    def test_trouble_is_tried_again_when_the_server_says(self, kind: str, receiver: Receiver, status: int) -> None:
        expect(kind, receiver, Answer(status, {"retry-after": "7"}))
        with pytest.raises(Undelivered) as raised:
            send(kind, receiver.url, request(), request())
        assert (raised.value.retry, raised.value.after, raised.value.delivered) == (True, 7.0, 0)

    def test_a_refusal_sets_the_request_aside_and_names_no_secret(self, kind: str, receiver: Receiver) -> None:
        expect(kind, receiver, Answer(), Answer(422, body=f"no {SECRET} here".encode()))
        with pytest.raises(Undelivered) as raised:
            send(kind, receiver.url, request(), request())
        assert (raised.value.retry, raised.value.delivered) == (False, 1)
        assert SECRET not in str(raised.value)

    def test_secrets_are_in_no_repr(self, kind: str) -> None:
        assert SECRET not in repr(options(kind, f"http://here/{SECRET}" if kind == "webhook" else "http://here"))


@pytest.mark.parametrize("kind", STARTING)
def test_what_starts_a_run_is_not_told_of_the_end(kind: str, receiver: Receiver) -> None:
    send(kind, receiver.url, moved(request(), Status.CLOSED, 2_000.0))
    assert receiver.calls == []


def test_the_webhook_is_told_the_end_under_an_id_of_its_own(receiver: Receiver) -> None:
    send("webhook", receiver.url, request(), moved(request(), Status.CLOSED, 2_000.0))
    asked, answered = receiver.calls
    assert asked.headers["idempotency-key"] == "0123abcd"
    assert answered.headers["idempotency-key"] == "0123abcd.closed"
    assert (asked.json()["status"], answered.json()["status"]) == ("sent", "closed")


def test_the_webhook_is_signed(receiver: Receiver) -> None:
    send("webhook", receiver.url, request(), secrets=(Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),))
    (call,) = receiver.calls
    assert call.headers["webhook-id"] == "0123abcd"
    assert call.headers["webhook-signature"].startswith("v1,")


def test_argo_submits_a_workflow_of_a_fixed_name(receiver: Receiver) -> None:
    receiver.answers.append(Answer(409))  # it is there already
    send("argo_workflows", receiver.url, request())
    (call,) = receiver.calls
    assert (call.method, call.path) == ("POST", "/api/v1/workflows/ml/submit")
    assert call.headers["authorization"] == f"Bearer {SECRET}"
    body = call.json()
    parameters = body["submitOptions"].pop("parameters")
    assert body == {
        "namespace": "ml",
        "resourceKind": "WorkflowTemplate",
        "resourceName": "train",
        "submitOptions": {"name": "driftd-0123abcd", "labels": "driftd.io/request=0123abcd"},
    }
    assert parameters[:2] == ["model=iris", "request_id=0123abcd"]
    assert json.loads(parameters[2].removeprefix("request="))["request_id"] == "0123abcd"


def test_airflow_2_is_asked_with_a_password(receiver: Receiver) -> None:
    receiver.answers.append(Answer(409))  # the run is there already
    send("airflow", receiver.url, request())
    (call,) = receiver.calls
    assert call.path == "/api/v1/dags/retrain%20iris/dagRuns"
    assert call.headers["authorization"] == "Basic YW5uOmh1bnRlcjItdG9rZW4="
    assert call.json().keys() == {"dag_run_id", "conf", "note"}
    assert call.json()["dag_run_id"] == "driftd__0123abcd"


def test_airflow_3_is_asked_with_a_token_that_is_renewed(receiver: Receiver) -> None:
    def token(name: str) -> Answer:
        return Answer(201, body=json.dumps({"access_token": name}).encode())

    receiver.answers.extend([token("one"), Answer(), Answer(), Answer(401), token("two"), Answer()])
    sink = options("airflow", receiver.url, version=3).open()
    sink.send([request().item("here", 0.0)])
    sink.send([request().item("here", 0.0)])
    with pytest.raises(Undelivered):
        sink.send([request().item("here", 0.0)])
    sink.send([request().item("here", 0.0)])
    paths = [call.path for call in receiver.calls]
    runs, login = "/api/v2/dags/retrain%20iris/dagRuns", "/auth/token"
    assert paths == [login, runs, runs, runs, login, runs]
    assert receiver.calls[0].json() == {"username": "ann", "password": Secret(SECRET)}
    assert [call.headers.get("authorization") for call in receiver.calls[1:]] == [
        "Bearer one", "Bearer one", "Bearer one", None, "Bearer two",
    ]  # fmt: skip
    assert receiver.calls[1].json()["logical_date"] is None


def test_airflow_3_that_gives_no_token_is_tried_again(receiver: Receiver) -> None:
    receiver.answers.append(Answer(200, body=b"<html>a proxy's page</html>"))
    with pytest.raises(Undelivered) as raised:
        send("airflow", receiver.url, request(), version=3)
    assert raised.value.retry


def test_kubeflow_creates_a_run_unless_it_has_one(receiver: Receiver) -> None:
    receiver.answers.extend([Answer(body=b"{}"), Answer(), says(runs=[{"run_id": "1", "state": "RUNNING"}])])
    send("kubeflow", receiver.url, request(), request())
    asked, call, again = receiver.calls
    assert (asked.method, asked.path) == (again.method, again.path)
    path, _, query = asked.path.partition("?")
    sought = {name: value for name, (value,) in parse_qs(query).items()}
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": "retrain iris 0123abcd"}
    assert json.loads(sought.pop("filter")) == {"predicates": [predicate]}
    assert (path, sought) == (
        "/apis/v2beta1/runs", {"page_size": "1", "sort_by": "created_at desc", "experiment_id": "e-1"}
    )  # fmt: skip
    assert call.path == "/apis/v2beta1/runs"
    body = call.json()
    assert json.loads(body.pop("runtime_config")["parameters"]["request"])["model"] == "iris"
    assert body == {
        "display_name": "retrain iris 0123abcd",
        "description": "It pays.",
        "pipeline_version_reference": {"pipeline_id": "p-1"},
        "experiment_id": "e-1",
    }


def test_github_is_sent_an_event(receiver: Receiver) -> None:
    receiver.answers.append(Answer(204))
    send("github", receiver.url, request())
    (call,) = receiver.calls
    assert call.path == "/repos/shop/models/dispatches"
    assert call.headers["accept"] == "application/vnd.github+json"
    assert call.headers["x-github-api-version"] == "2022-11-28"
    body = call.json()
    assert body.keys() == {"event_type", "client_payload"}
    assert (body["event_type"], body["client_payload"].keys()) == ("retrain", {"request"})


def says(**body: Any) -> Answer:
    return Answer(body=json.dumps(body).encode())


RUNS: list[tuple[str, str, dict[str, Any], Run | None]] = [
    ("argo_workflows", "driftd-0123abcd", {"code": 5, "message": "not found"}, None),
    ("argo_workflows", "driftd-0123abcd", {"status": {}}, None),
    ("argo_workflows", "driftd-0123abcd", {"status": {"phase": "Pending"}}, Run(State.QUEUED, "driftd-0123abcd")),
    ("argo_workflows", "driftd-0123abcd", {"status": {"phase": "Running"}}, Run(State.RUNNING, "driftd-0123abcd")),
    ("argo_workflows", "driftd-0123abcd", {"status": {"phase": "Succeeded"}}, Run(State.DONE, "driftd-0123abcd")),
    ("argo_workflows", "driftd-0123abcd", {"status": {"phase": "Error", "message": "no node"}},
     Run(State.FAILED, "driftd-0123abcd", "no node")),
    ("airflow", "driftd__0123abcd", {"detail": "not found"}, None),
    ("airflow", "driftd__0123abcd", {"state": "queued"}, Run(State.QUEUED, "driftd__0123abcd")),
    ("airflow", "driftd__0123abcd", {"state": "running"}, Run(State.RUNNING, "driftd__0123abcd")),
    ("airflow", "driftd__0123abcd", {"state": "success"}, Run(State.DONE, "driftd__0123abcd")),
    ("kubeflow", "retrain", {}, None),
    ("kubeflow", "retrain", {"runs": [{"run_id": "r", "state": "RUNNING"}]}, Run(State.RUNNING, "r")),
    ("kubeflow", "retrain", {"runs": [{"run_id": "r", "state": "SUCCEEDED"}]}, Run(State.DONE, "r")),
    ("kubeflow", "retrain", {"runs": [{"run_id": "r", "state": "FAILED", "error": {"message": "out of memory"}}]},
     Run(State.FAILED, "r", "out of memory")),
    ("github", "actions/runs", {"workflow_runs": [{"id": 1, "display_title": "retrain"}]}, None),
    ("github", "actions/runs", {"workflow_runs": [
        {"id": 2, "display_title": "retrain other", "status": "queued"},
        {"id": 3, "display_title": "retrain 0123abcd", "status": "in_progress", "conclusion": None}]},
     Run(State.RUNNING, "3")),
    ("github", "actions/runs", {"workflow_runs": [
        {"id": 3, "display_title": "retrain 0123abcd", "status": "completed", "conclusion": "timed_out",
         "html_url": "https://github/runs/3"}]},
     Run(State.FAILED, "3", "timed_out: https://github/runs/3")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "body", "found"), RUNS)
def test_a_run_is_found_by_the_request_and_told_as_it_stands(
    kind: str, path: str, body: dict[str, Any], found: Run | None, receiver: Receiver
) -> None:
    absent = found is None and not body.keys() & {"workflow_runs", "status"} and kind != "kubeflow"
    receiver.answers.append(Answer(404 if absent else 200, body=json.dumps(body).encode()))
    target = options(kind, receiver.url + "/prefix")
    assert isinstance(target, Followed)
    assert target.runs()(request()) == found
    (call,) = receiver.calls
    assert (call.method, call.body) == ("GET", b"")
    assert call.path.startswith("/prefix/")
    assert path in call.path
    assert "authorization" in call.headers


def test_a_failed_run_of_airflow_names_the_tasks_that_failed(receiver: Receiver) -> None:
    tasks = [{"task_id": "train"}, {"task_id": "judge"}]
    receiver.answers.extend([says(state="failed"), says(task_instances=tasks)])
    target = options("airflow", receiver.url)
    assert isinstance(target, Followed)
    assert target.runs()(request()) == Run(State.FAILED, "driftd__0123abcd", "failed: train, judge")
    run = "/api/v1/dags/retrain%20iris/dagRuns/driftd__0123abcd"
    assert [call.path for call in receiver.calls] == [run, f"{run}/taskInstances?state=failed&limit=5"]


@pytest.mark.parametrize("kind", STARTING)
@pytest.mark.parametrize(
    "answer", [Answer(503, {"retry-after": "9"}), Answer(200, body=b"<html>a proxy's page</html>")]
)
def test_a_target_that_does_not_tell_is_asked_again(kind: str, answer: Answer, receiver: Receiver) -> None:
    receiver.answers.append(answer)
    target = options(kind, receiver.url)
    assert isinstance(target, Followed)
    with pytest.raises(Undelivered) as raised:
        target.runs()(request())
    assert (raised.value.retry, raised.value.after) == (True, 9.0 if answer.status == 503 else None)


def test_items_of_one_request_are_told_apart() -> None:
    ids = {item.id for item in (request().item("a", 0.0), moved(request(), Status.CLOSED, 1.0).item("a", 0.0))}
    assert len(ids) == 2
    assert isinstance(request().item("a", 0.0), Item)


@pytest.mark.services
def test_a_topic_holds_what_was_asked_and_what_came_of_it(kafka: Kafka) -> None:
    topic = kafka.fresh_topic(3)
    sink = RetrainingKafka(brokers=(kafka.bootstrap,), topic=topic).open()
    sink.send([request().item("here", 0.0), moved(request(), Status.CLOSED, 2_000.0).item("here", 0.0)])
    sink.close()
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": str(uuid4()), "auto.offset.reset": "earliest"}
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    try:
        records: list[Any] = [record for _ in range(2) if (record := consumer.poll(30)) is not None]
    finally:
        consumer.close()
    assert [record.key() for record in records] == [b"iris", b"iris"]
    kinds = [dict(record.headers())["ce_type"] for record in records]
    assert kinds == [b"io.driftd.retraining.requested", b"io.driftd.retraining.completed"]
    assert [json.loads(record.value())["status"] for record in records] == ["sent", "closed"]
