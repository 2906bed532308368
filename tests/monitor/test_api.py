"""What people and tools do over HTTP, on a real server and a real queue: who may, what it comes to, what is refused."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.alert import Alert, Ruling, Severity, Verdict
from alerting.deliver import Backoff
from alerting.labeling import MongoQueue, SqliteQueue
from alerting.labeling.queue import LabelQueue
from alerting.labeling.rules import QueueRules
from alerting.labeling.task import LabelTask
from alerting.policy import Cause
from alerting.retraining import Request, Span, Status, Step, Word, part_of
from alerting.secret import Secret
from monitor.api.acts import Acts
from monitor.handover import HandOver
from monitor.metrics import Meters
from monitor.people import Person, Right
from monitor.snapshot import ModelView, Snapshot, VerdictView
from tests.alerting.labels import BATCH, PLAIN, task
from tests.monitor.serving import Client, Standing, serving
from tests.services.process import free_port

NO_TOOLS = HandOver((), SqliteQueue().open, backoff=Backoff(), meters=Meters())
KEY = "shelf/psi/edge energy?@slice:a/b"
TOKENS = {right: f"token of who may {right}" for right in Right}
PEOPLE = [Person(f"the {right}er", Secret(token), (right,)) for right, token in TOKENS.items()]
VERDICT = f"/v1/alerts/{quote(KEY, safe='')}/verdict"
ALERT = Alert(KEY, "shelf", "psi", "edge energy?", Severity.WARNING, 10.0, 20.0, "<b>moved</b>", 0.4, 0.2)
EARLIER = VerdictView("earlier", KEY, "intended", "ada", 1.0, "new products", time=20.0)
SHOWN = Snapshot((ModelView("shelf", window_end=1000.0, verdicts=(EARLIER,)),))
REQUEST = Request(
    id="r1", model="shelf", version="3", mode="manual", cause=Cause.GAIN, text="it fell", made=5.0,
    span=Span(0.0, 2e9), status=Status.WAITING,
)  # fmt: skip


class Service:
    """The server with a queue of its own."""

    def __init__(self, client: Client, queue: LabelQueue) -> None:
        self.client, self.queue, self.daemon = client, queue, client.daemon

    def act(self, right: Right, method: str, path: str, said: Any = None, **headers: str) -> tuple[int, Any]:
        return self.client.said(method, path, said, TOKENS[right], **headers)

    def label(self, path: str, said: Any) -> tuple[int, Any]:
        return self.act(Right.LABEL, "POST", path, said)

    def put(self, *tasks: LabelTask) -> None:
        self.queue.put(tasks, BATCH, time.time())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    options = SqliteQueue(path=str(tmp_path / "labels.sqlite"), rules=PLAIN)
    daemon = Standing(SHOWN)
    daemon.open, daemon.asked = [ALERT], [REQUEST]
    acts = Acts(options, daemon, NO_TOOLS, Meters(), intake=True)
    queue = options.open()
    with serving(daemon=daemon, people=PEOPLE, acts=lambda _: acts.endpoints()) as client:
        yield Service(client, queue)
    acts.close()
    queue.close()


# -- verdicts


def test_a_verdict_lies_before_the_judge_when_it_is_accepted(service: Service) -> None:
    said = {"ruling": "false alarm", "why": "the lamp was changed", "until": "1h"}
    status, verdict = service.act(Right.VERDICT, "POST", VERDICT, said)
    assert status == 202
    (told,) = service.daemon.told
    assert isinstance(told.act, Verdict)
    assert (told.id, told.model) == (verdict["id"], "shelf")
    assert (told.act.key, told.act.ruling, told.act.by) == (KEY, Ruling.FALSE_ALARM, "the verdicter")
    assert told.act.until == 1000.0 + 3600.0, "in event time, from the last judged window"
    assert time.time() - told.act.at < 60


@pytest.mark.parametrize(
    ("path", "said", "status"),
    [
        ("/v1/alerts/nope/verdict", {"ruling": "intended"}, 404),
        (VERDICT, {}, 422),
        (VERDICT, {"ruling": "nonsense"}, 422),
        (VERDICT, {"ruling": "intended", "wy": "typo"}, 422),
        (VERDICT, {"ruling": "intended", "why": "x" * 2001}, 422),
        (VERDICT, {"ruling": "intended", "until": "7d"}, 422),
        (VERDICT, {"ruling": "false alarm", "until": "soon"}, 422),
        (VERDICT, {"ruling": "false alarm", "until": "1970-01-01T00:00:00Z"}, 422),
        (VERDICT, {"ruling": "intended", "confirms": "nobody's"}, 409),
        (VERDICT, {"ruling": "unintended", "confirms": "earlier"}, 409),
        (VERDICT, {"revokes": "nobody's"}, 409),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused_and_told_of_nobody(
    service: Service, path: str, said: Any, status: int
) -> None:
    answered, problem = service.act(Right.VERDICT, "POST", path, said)
    assert (answered, problem["status"]) == (status, status)
    assert problem["detail"]
    assert service.daemon.told == []


def test_an_earlier_verdict_is_confirmed_or_revoked_even_before_the_judge_has_come_to_it(service: Service) -> None:
    assert service.act(Right.VERDICT, "POST", VERDICT, {"confirms": "earlier"})[0] == 202
    _, first = service.act(Right.VERDICT, "POST", VERDICT, {"ruling": "unintended"})
    assert service.act(Right.VERDICT, "POST", VERDICT, {"revokes": first["id"]})[0] == 202
    acts = [told.act for told in service.daemon.told if isinstance(told.act, Verdict)]
    assert [(act.ruling.value, act.confirms, act.revokes) for act in acts] == [
        ("intended", "earlier", ""), ("unintended", "", ""), ("unintended", "", first["id"]),
    ]  # fmt: skip
    service.daemon.shown = Snapshot((ModelView("shelf", verdicts=(replace(EARLIER, revoked="x"),)),))
    assert service.act(Right.VERDICT, "POST", VERDICT, {"confirms": "earlier"})[0] == 409


def test_what_an_idempotency_key_names_is_done_once(service: Service) -> None:
    said: dict[str, str] = {"ruling": "acknowledged"}
    key = {"idempotency_key": "k1"}
    answers = [service.act(Right.VERDICT, "POST", VERDICT, said, **key) for _ in range(3)]
    assert [answer == answers[0] for answer in answers] == [True] * 3
    assert len(service.daemon.told) == 1
    assert service.act(Right.VERDICT, "POST", VERDICT, {"ruling": "intended"}, **key)[1]["id"] != answers[0][1]["id"]
    service.put(task(1), task(2))
    first = service.act(Right.LABEL, "POST", "/v1/labels/next", {}, **key)
    assert service.act(Right.LABEL, "POST", "/v1/labels/next", {}, **key) == first, "no second lease"
    assert service.act(Right.LABEL, "POST", "/v1/labels/next", {})[1]["task"] != first[1]["task"]


def test_a_full_exchange_asks_to_come_again(service: Service) -> None:
    service.daemon.full = True
    headers = {"content_type": "application/json", "authorization": f"Bearer {TOKENS[Right.VERDICT]}"}
    status, answered, _ = service.client.ask("POST", VERDICT, b'{"ruling": "intended"}', **headers)
    assert (status, answered["retry-after"]) == (503, "5")


def test_alerts_and_verdicts_are_listed_for_everybody(service: Service) -> None:
    service.daemon.open.append(replace(ALERT, key="old", resolved=19.0))
    wanted = {"": [KEY], "?state=all": [KEY, "old"], "?state=resolved": ["old"], "?model=x": list[str]()}
    for query, keys in wanted.items():
        assert [a["key"] for a in service.client.said("GET", f"/v1/alerts{query}")[1]["alerts"]] == keys
    assert service.client.said("GET", "/v1/alerts?stat=all")[0] == 422
    (ruled,) = service.client.said("GET", "/v1/verdicts")[1]["verdicts"]
    assert (ruled["id"], ruled["model"], ruled["verdict"]["ruling"], ruled["time"]) == (
        "earlier",
        "shelf",
        "intended",
        20,
    )


# -- rights


def test_every_act_needs_a_token_and_one_of_its_rights(service: Service) -> None:
    described = service.client.said("GET", "/openapi.json")[1]
    for path, operations in described["paths"].items():
        asked = path.replace("{key}", quote(KEY, safe="")).replace("{", "").replace("}", "")
        for method, operation in operations.items():
            said: Any = {} if method == "post" else None
            if "security" not in operation:
                assert (method, service.client.said("GET", asked)[0]) == ("get", 200)
                continue
            assert service.client.said(method.upper(), asked, said)[0] == 401, (method, path)
            rights = {right for right in Right if right.value in operation["description"]}
            for right in Right:
                status = service.act(right, method.upper(), asked, said)[0]
                assert (status == 403) == (right not in rights), (method, path, right)


def test_a_token_is_taken_from_the_header_alone(service: Service) -> None:
    path = f"/v1/labels/next?token={quote(TOKENS[Right.LABEL])}"
    assert service.client.said("POST", path, {})[0] == 401
    assert service.client.said("POST", "/v1/labels/next", {}, authorization=f"Basic {TOKENS[Right.LABEL]}")[0] == 401
    status, headers, _ = service.client.ask("POST", "/v1/labels/next", b"{}")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")


# -- hostile input


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["token", "label", "ruling", "why", "dataset", "step", "x"]), inner),
            max_leaves=10,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.sampled_from([
        VERDICT, "/v1/labels/next", "/v1/labels/x/submit", "/v1/labels", "/v1/labels/import?format=cvat",
        "/v1/labels/export", "/v1/retraining/r1", "/alert/verdict",
    ]),
)  # fmt: skip
def test_no_body_makes_an_error_of_ours(service: Service, body: bytes, path: str) -> None:
    for right in (Right.VERDICT, Right.LABEL, Right.RETRAIN):
        headers = {"content_type": "application/json", "authorization": f"Bearer {TOKENS[right]}"}
        assert service.client.ask("POST", path, body, **headers)[0] < 500


def test_what_is_too_large_too_deep_or_not_json_is_refused(service: Service) -> None:
    bearer = {"authorization": f"Bearer {TOKENS[Right.LABEL]}"}
    for body, media, status in (
        (b'{"dataset": ' + b"[" * 100_000, "application/json", 422),
        (b"x" * 300_000, "application/json", 413),
        (b'{"dataset": "\xff"}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
    ):
        assert service.client.ask("POST", "/v1/labels/next", body, content_type=media, **bearer)[0] == status
    status, headers, body = service.client.ask("DELETE", "/v1/labels/next")
    assert (status, headers["content-type"], json.loads(body)["title"]) == (
        405, "application/problem+json", "Method Not Allowed",
    )  # fmt: skip
    assert service.client.said("GET", "/v1/nonsense")[1]["detail"] == "GET /v1/nonsense: Not Found"
    status = service.client.ask(
        "POST", "/v1/labels/next", b"{}", idempotency_key="k" * 201, content_type="application/json", **bearer
    )[0]
    assert status == 400


# -- the document


def test_every_route_is_described_and_every_example_is_what_its_schema_takes(service: Service) -> None:
    document = service.client.said("GET", "/openapi.json")[1]
    assert document["openapi"] == "3.1.0"
    validated = 0
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names) == 19
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"].endswith(".")
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == {part.strip("{}") for part in path.split("/") if part.startswith("{")}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in content:
                    schema = {**content["schema"], "components": document["components"]}
                    jsonschema.Draft202012Validator(schema).validate(content["example"])
                    validated += 1
    assert validated >= 10


# -- labelers


def test_a_labeler_works_a_task_off(service: Service) -> None:
    service.put(task(1, classes=("box", "$can.of beans")), task(2), task(3))
    status, leased = service.label("/v1/labels/next", {"dataset": "demo"})
    assert status == 200
    assert (leased["event"], leased["prediction"], leased["classes"]) == ("event 1", None, ["box", "$can.of beans"])
    assert leased["until"] == pytest.approx(time.time() + 900, abs=30)
    assert "select" not in leased
    path, token = f"/v1/labels/{leased['task']}", leased["token"]
    assert service.label(f"{path}/extend", {"token": token})[1]["until"] >= leased["until"]
    said = {"token": token, "label": "can", "seconds": 3.5, "comment": "a dent"}
    assert service.label(f"{path}/submit", said) == (200, {"outcome": "accepted"})
    assert service.label(f"{path}/submit", said) == (200, {"outcome": "accepted"}), "the same token twice counts once"
    assert service.label(f"{path}/submit", {**said, "token": "another"}) == (200, {"outcome": "late"})
    assert service.label(f"{path}/extend", {"token": token})[0] == 409
    done = service.queue.get(leased["task"])
    assert done is not None
    assert (done.labels[0].by, done.labels[0].seconds, done.labels[0].comment) == ("the labeler", 3.5, "a dent")
    _, second = service.label("/v1/labels/next", {})
    assert service.label(f"/v1/labels/{second['task']}/skip", {"token": second["token"], "reason": "dark"})[0] == 204
    assert service.label("/v1/labels/next", {})[1]["event"] == "event 3"
    assert service.label("/v1/labels/next", {}) == (204, None), "never again what was skipped"
    assert service.label("/v1/labels/nobody/submit", said)[0] == 404
    (progress,) = service.act(Right.LABEL, "GET", "/v1/labels/progress?dataset=demo")[1]["datasets"]
    assert progress["counts"]["Done"] == 1


def test_a_reviewer_corrects_what_labelers_said(tmp_path: Path) -> None:
    rules = QueueRules(overlap=0.0, review=1.0, known_share=0.0, show_prediction=True)
    options = SqliteQueue(path=str(tmp_path / "labels.sqlite"), rules=rules)
    acts = Acts(options, Standing(), NO_TOOLS, Meters(), intake=True)
    with serving(people=PEOPLE, acts=lambda _: acts.endpoints()) as client:
        service = Service(client, options.open())
        service.put(task(1))
        _, leased = service.label("/v1/labels/next", {})
        assert leased["prediction"]["label"] == "box"
        service.label(f"/v1/labels/{leased['task']}/submit", {"token": leased["token"], "label": "can"})
        status, disputed = service.act(Right.REVIEW, "POST", "/v1/review/next", {})
        assert (status, [label["value"] for label in disputed["labels"]]) == (200, ["can"])
        assert "the labeler" not in json.dumps(disputed)
        said = {"token": disputed["token"], "opinion": "correct", "value": "jar"}
        path = f"/v1/labels/{leased['task']}/review"
        assert service.act(Right.REVIEW, "POST", path, said) == (200, {"outcome": "accepted"})
        done = service.queue.get(leased["task"])
        assert done is not None
        assert done.final is not None
        assert (done.final.value, done.labels[0].saw_prediction) == ("jar", True)
        service.queue.close()
    acts.close()


def test_sixteen_labelers_at_once_share_out_every_task(service: Service) -> None:
    service.put(*(task(n) for n in range(200)))
    labeled: list[str] = []

    def work(_: int) -> None:
        connection = HTTPConnection("127.0.0.1", service.client.port, timeout=30)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKENS[Right.LABEL]}"}

        def post(path: str, said: Any) -> tuple[int, Any]:
            connection.request("POST", path, json.dumps(said), headers)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if body else None

        while (leased := post("/v1/labels/next", {}))[0] == 200:
            name = leased[1]["task"]
            assert post(f"/v1/labels/{name}/submit", {"token": leased[1]["token"], "label": "can"})[0] == 200
            labeled.append(name)
        assert leased[0] == 204
        connection.close()

    with ThreadPoolExecutor(16) as crowd:
        list(crowd.map(work, range(16)))
    assert len(labeled) == len(set(labeled)) == 200
    assert service.queue.progress("demo", time.time()).counts == {"Done": 200}


def test_a_dead_queue_is_told_in_time_and_slows_nothing_else() -> None:
    options = MongoQueue(url=f"mongodb://127.0.0.1:{free_port()}", timeout=0.5)
    acts = Acts(options, Standing(), NO_TOOLS, Meters(), intake=True)
    with serving(people=PEOPLE, acts=lambda _: acts.endpoints()) as client:
        answers: list[tuple[int, dict[str, str]]] = []

        def ask() -> None:
            headers = {"content_type": "application/json", "authorization": f"Bearer {TOKENS[Right.LABEL]}"}
            status, told, body = client.ask("POST", "/v1/labels/next", b"{}", **headers)
            assert b"mongodb://" not in body
            answers.append((status, told))

        crowd = [threading.Thread(target=ask) for _ in range(8)]
        for one in crowd:
            one.start()
        began = time.monotonic()
        assert client.ask("GET", "/healthz")[0] == 200
        assert time.monotonic() - began < 0.4
        for one in crowd:
            one.join(10)
        assert [(status, told["retry-after"]) for status, told in answers] == [(503, "5")] * 8
    acts.close()


# -- labels from elsewhere


def test_labels_come_by_task_by_event_and_for_events_that_nobody_asks_about(service: Service) -> None:
    service.put(task(1, dataset="shelf"), replace(task(2), id=_shelf(2), dataset="shelf"))
    brought = [
        {"task": task(1).id, "label": "can"},
        {"event": "event 2", "model": "shelf", "label": "jar", "by": "eve", "at": "2023-11-14T22:13:20Z"},
        {"event": "event 99", "model": "shelf", "label": "box"},
        {"task": "nobody", "label": "box"},
    ]
    for _ in range(2):
        status, taken = service.label("/v1/labels", brought)
        assert (status, taken["joined"], taken["unknown"]) == (200, 1, 1)
    finals = {one.event: one.label for one in service.queue.finals(10)}
    assert finals == {"event 1": "can", "event 2": "jar"}
    assert [json.loads(body) for body in service.daemon.bodies()] == [
        {"id": "event 99", "model": "shelf", "label": "box"}
    ] * 2
    for wrong in ([{"label": "can"}], [{"task": "x", "label": ["can"]}], [{"task": "x", "label": "a", "at": "soon"}]):
        assert service.label("/v1/labels", wrong)[0] == 422
    assert service.label("/v1/labels", [{"task": "x", "label": 1}] * 1001)[0] == 422


def _shelf(number: int) -> str:
    from alerting.labeling.task import task_id

    return task_id("shelf", "shelf", f"event {number}")


def test_a_file_goes_out_and_comes_back_labeled_once_however_often_it_is_sent(service: Service) -> None:
    service.put(*(task(n) for n in range(5)))
    headers = {"content_type": "application/json", "authorization": f"Bearer {TOKENS[Right.LABEL]}"}
    status, named, data = service.client.ask("POST", "/v1/labels/export", b'{"most": 3}', **headers)
    assert (status, named["content-disposition"]) == (200, 'attachment; filename="tasks.jsonl"')
    lines = [json.loads(line) for line in data.splitlines()]
    assert len(lines) == 3
    labeled = "\n".join(json.dumps({**line, "label": "can", "by": "eve"}) for line in lines)
    for _ in range(2):
        status, _, body = service.client.ask("POST", "/v1/labels/import", labeled.encode(), **headers)
        taken = json.loads(body)
        assert (status, taken["unknown"], taken["faults"]) == (200, 0, 0)
    assert len(service.queue.finals(10)) == 3
    status, _, body = service.client.ask("POST", "/v1/labels/import", b"nonsense\n", **headers)
    assert (status, json.loads(body)["faults"]) == (200, 1)
    assert service.client.ask("POST", "/v1/labels/import?format=xls", b"", **headers)[0] == 422


def test_a_known_item_checks_a_labeler_who_cannot_tell_it_from_the_others(tmp_path: Path) -> None:
    options = SqliteQueue(path=str(tmp_path / "labels.sqlite"), rules=replace(PLAIN, known_share=0.5))
    acts = Acts(options, Standing(), NO_TOOLS, Meters(), intake=True)
    with serving(people=PEOPLE, acts=lambda _: acts.endpoints()) as client:
        service = Service(client, options.open())
        service.put(*(task(n) for n in range(6)))
        known = [{"dataset": "demo", "event": "event 7", "truth": "can", "model": {"name": "shelf"}}]
        for new in (1, 0):
            assert service.act(Right.REVIEW, "POST", "/v1/labels/known", known) == (200, {"new": new})
        leased = [service.label("/v1/labels/next", {})[1] for _ in range(6)]
        assert "event 7" in {one["event"] for one in leased}
        assert {frozenset(one) for one in leased} == {frozenset(leased[0])}
        for one in leased:
            service.label(f"/v1/labels/{one['task']}/submit", {"token": one["token"], "label": "can"})
        assert len(service.queue.finals(10)) == 5
        assert "event 7" not in {final.event for final in service.queue.finals(10)}
        (labeler,) = service.queue.progress("demo", time.time()).labelers
        assert (labeler.known, labeler.known_right) == (1, 1)
        service.queue.close()
    acts.close()


# -- retraining


def test_a_word_on_a_request_lies_before_the_judge(service: Service) -> None:
    said = {"step": "finished", "version": "4", "run": "mlflow 12", "score": 0.97, "seconds": 61.5}
    status, word = service.act(Right.RETRAIN, "POST", "/v1/retraining/r1", said)
    assert (status, word["version"]) == (202, "4")
    (told,) = service.daemon.told
    assert isinstance(told.act, Word)
    assert (told.model, told.act.step, told.act.by, told.act.score) == ("shelf", Step.FINISHED, "the retrainer", 0.97)
    assert service.act(Right.RETRAIN, "POST", "/v1/retraining/r2", said)[0] == 404
    service.daemon.asked = [replace(REQUEST, status=Status.CLOSED)]
    assert service.act(Right.RETRAIN, "POST", "/v1/retraining/r1", said)[0] == 409
    (listed,) = service.client.said("GET", "/v1/retraining?model=shelf")[1]["requests"]
    assert (listed["request_id"], listed["status"]) == ("r1", "closed")


def test_a_label_set_holds_what_the_request_asks_for_with_weights(service: Service) -> None:
    tasks = [task(n, dataset="shelf") for n in range(40)]
    rare = [replace(t, select=replace(t.select, pi=1e-6)) if n == 0 else t for n, t in enumerate(tasks)]
    service.put(*rare)
    for one in tasks[:30]:
        service.queue.answer_from_tool(one.id, "t", "a", "1", "can", "eve", time.time())
    sets = {}
    for part in ("train", "eval"):
        headers = {"authorization": f"Bearer {TOKENS[Right.RETRAIN]}"}
        status, told, body = service.client.ask("GET", f"/v1/labels/set/r1-{part}", b"", **headers)
        assert (status, told["content-type"]) == (200, "application/x-ndjson")
        sets[part] = [json.loads(line) for line in body.splitlines()]
        assert {line["task"] for line in sets[part]} == {t.id for t in tasks[:30] if part_of(t.id) == part}
    (heavy,) = [line for lines in sets.values() for line in lines if line["event"] == "event 0"]
    whole = next(lines for lines in sets.values() if heavy in lines)
    assert heavy["weight"] == pytest.approx(5 * (1e6 + 8.0 * (len(whole) - 1)) / len(whole))
    assert {line["weight"] for lines in sets.values() for line in lines if line is not heavy} == {8.0}
    used = service.queue.get(sets["eval"][0]["task"])
    assert used is not None
    assert (used.used.train, used.used.eval) == ((), ("r1-eval",))
    for name in ("r1-else", "r1", "nobody-train"):
        assert service.act(Right.RETRAIN, "GET", f"/v1/labels/set/{name}")[0] == 404


# -- the page


def form(service: Service, said: dict[str, str], **headers: str) -> tuple[int, dict[str, str], str]:
    media = {"content_type": "application/x-www-form-urlencoded", **headers}
    status, told, body = service.client.ask("POST", "/alert/verdict", urlencode(said).encode(), **media)
    return status, told, body.decode()


def test_a_verdict_is_given_on_the_page_as_a_browser_sends_it(service: Service) -> None:
    page = f"/alert?key={quote(KEY, safe='')}"
    status, headers, body = service.client.ask("GET", page)
    text = body.decode()
    assert (status, "form-action 'self'" in headers["content-security-policy"]) == (200, True)
    assert "<script" not in text
    assert "&lt;b&gt;moved&lt;/b&gt;" in text
    assert "new products" in text
    name = text.partition("name=id value='")[2].partition("'")[0]
    said = {"key": KEY, "id": name, "ruling": "intended", "confirms": "earlier", "why": "ja, für immer", "until": ""}
    assert form(service, {**said, "token": "wrong"})[0] == 401
    assert service.daemon.told == []
    for _ in range(2):  # clicked twice
        status, headers, _ = form(service, {**said, "token": TOKENS[Right.VERDICT]})
        assert (status, headers["location"]) == (303, f"{page}&given={name}")
    (told,) = service.daemon.told
    assert isinstance(told.act, Verdict)
    assert (told.act.why, told.act.confirms, told.act.by) == ("ja, für immer", "earlier", "the verdicter")
    assert f"Verdict {name} is taken" in service.client.ask("GET", headers["location"])[2].decode()


def test_a_form_that_is_not_ours_does_nothing(service: Service) -> None:
    said = {"key": KEY, "ruling": "intended", "token": TOKENS[Right.VERDICT]}
    status, headers, body = form(service, {**said, "key": "<i>", "id": "0" * 32})
    assert (status, "<i>" in body) == (404, False)
    assert headers["content-security-policy"].startswith("default-src 'none'")
    for wrong, expected in (
        ({**said, "id": "my own"}, 400),
        ({**said, "id": "0" * 32, "ruling": "nonsense"}, 422),
        ({**said, "id": "0" * 32, "token": TOKENS[Right.LABEL]}, 403),
        ({f"field {n}": "x" for n in range(30)}, 400),
    ):
        assert form(service, wrong)[0] == expected
    assert form(service, said, content_type="text/plain")[0] == 415
    assert service.client.ask("GET", "/alert?key=nope")[0] == 404
    assert service.daemon.told == []


def test_a_sender_that_goes_away_leaves_no_trace(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.client.port), timeout=10) as raw:
        raw.sendall(
            f"POST {VERDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n"
            f"Authorization: Bearer {TOKENS[Right.VERDICT]}\r\n\r\n{{".encode()
        )
    assert service.act(Right.VERDICT, "POST", VERDICT, {"ruling": "acknowledged"})[0] == 202
    assert len(service.daemon.told) == 1
