"""Runs followed at a target: each change is told once, nothing is asked too often, and nothing is started."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request as Post
from urllib.request import urlopen

import pytest
from msgspec.structs import replace

from alerting.deliver import Backoff
from alerting.policy import Cause
from alerting.retraining import Request, Span, Status, Step, Word, told
from alerting.targets.airflow import Airflow
from alerting.targets.argo import ArgoWorkflows
from alerting.targets.webhook import RetrainingWebhook
from monitor.log import Full
from monitor.metrics import Meters
from monitor.runs import Runs
from tests.services.daemon import ROOT, Daemon
from tests.services.web import Answer, Receiver

SENT = Request(
    id="0123abcd", model="iris", version="7", mode="automatic", cause=Cause.GAIN, text="It pays.", made=1_000.0,
    span=Span(0.0, 1_000.0), status=Status.SENT,
)  # fmt: skip


class Followed:
    """Requests that words change at once, as the judge would; `full` has no room for a word."""

    def __init__(self, receiver: Receiver, *requests: Request, **more: Any) -> None:
        self.receiver, self.requests = receiver, [*requests]
        self.now, self.full = 0.0, False
        self.words: list[Word] = []
        self.meters = Meters()
        targets = more.pop("targets", [Airflow(url=receiver.url, dag="d", version=2)])
        self.runs = Runs(
            targets, lambda: self.requests, self._tell, backoff=Backoff(first=1e-9), meters=self.meters,
            clock=lambda: self.now,
        )  # fmt: skip

    def _tell(self, _: str, model: str, word: Word) -> None:
        if self.full:
            raise Full
        self.words.append(word)
        self.requests = [told(each, word) if each.id == word.request else each for each in self.requests]

    def round(self, *states: str, seconds: float = 60.0) -> None:
        self.receiver.answers.extend(Answer(body=json.dumps({"state": state}).encode()) for state in states)
        self.now += seconds
        self.runs.round()

    @property
    def steps(self) -> list[Step]:
        return [word.step for word in self.words]

    def gauge(self, target: str, state: str) -> float | None:
        return self.meters.registry.get_sample_value("driftd_retraining_runs", {"target": target, "state": state})


def test_a_run_is_told_when_it_begins_and_when_it_ends(receiver: Receiver) -> None:
    followed = Followed(receiver, SENT)
    for state in ("queued", "running", "running", "success", "success"):
        followed.round(state)
    assert followed.steps == [Step.STARTED, Step.FINISHED]
    assert {(word.by, word.run) for word in followed.words} == {("airflow", "airflow: driftd__0123abcd")}
    assert followed.requests[0].status is Status.FINISHED
    assert len(receiver.calls) == 4, "of a run that has ended nothing is asked"
    assert {call.method for call in receiver.calls} == {"GET"}


def test_a_failure_is_told_once_with_its_words_and_a_run_that_is_run_again_is_followed_on(receiver: Receiver) -> None:
    followed = Followed(receiver, SENT)
    receiver.answers.append(Answer(body=b'{"state": "failed"}'))
    receiver.answers.append(Answer(body=b'{"task_instances": [{"task_id": "train"}]}'))
    followed.round()
    assert [(word.step, word.why) for word in followed.words] == [(Step.FAILED, "failed: train")]
    followed.round("running")
    followed.round("success")
    assert followed.steps == [Step.FAILED, Step.STARTED, Step.FINISHED]


def test_a_trainers_own_word_that_it_failed_stands_while_its_run_goes_on(receiver: Receiver) -> None:
    followed = Followed(receiver, replace(SENT, status=Status.FAILED))
    followed.round("running")
    followed.round("success")
    assert followed.steps == []


def test_a_target_is_asked_for_a_run_no_oftener_than_configured(receiver: Receiver) -> None:
    followed = Followed(receiver, SENT)
    followed.round("running")
    for _ in range(20):
        followed.round(seconds=2.9)
    assert len(receiver.calls) == 1
    followed.round("running", seconds=2.0)
    assert len(receiver.calls) == 2


def test_of_many_runs_some_are_asked_for_at_once_and_each_in_its_turn(receiver: Receiver) -> None:
    followed = Followed(receiver, *(replace(SENT, id=f"{i:08x}", model=f"m{i}") for i in range(30)))
    for _ in range(2):
        followed.round(*["running"] * 20, seconds=5.0)
    assert len(receiver.calls) == 30
    assert len({call.path for call in receiver.calls}) == 30
    assert followed.gauge("airflow", "running") == 30


def test_a_target_that_is_down_is_waited_for_and_counted(receiver: Receiver) -> None:
    followed = Followed(receiver, SENT)
    receiver.answers.append(Answer(503, {"retry-after": "300"}))
    followed.round()
    for _ in range(4):
        followed.round()
    assert len(receiver.calls) == 1
    followed.round("running")
    assert followed.steps == [Step.STARTED]
    failures = followed.meters.registry.get_sample_value("driftd_retraining_run_failures_total", {"target": "airflow"})
    assert failures == 1


def test_a_word_for_which_there_is_no_room_is_said_later(receiver: Receiver) -> None:
    followed = Followed(receiver, SENT)
    followed.full = True
    followed.round("running")
    followed.full = False
    followed.round(seconds=1.0)
    assert followed.steps == [Step.STARTED]


@pytest.mark.parametrize("status", [Status.WAITING, Status.PROPOSED, Status.STOPPED, Status.FINISHED, Status.CLOSED])
def test_what_was_not_sent_or_is_over_is_not_asked_for(status: Status, receiver: Receiver) -> None:
    older = replace(SENT, id="89abcdef")
    Followed(receiver, replace(SENT, status=status), older).round()
    assert receiver.calls == []


def test_of_two_targets_one_that_goes_on_outweighs_one_that_failed(receiver: Receiver) -> None:
    argo = ArgoWorkflows(url=receiver.url, namespace="ml", template="train")
    followed = Followed(receiver, SENT, targets=[argo, Airflow(url=receiver.url, dag="d", version=2)])
    receiver.answers.append(Answer(body=b'{"status": {"phase": "Failed", "message": "no node"}}'))
    followed.round("running")
    assert [(word.step, word.by) for word in followed.words] == [(Step.STARTED, "airflow")]
    assert (followed.gauge("argo", "failed"), followed.gauge("airflow", "running")) == (1, 1)
    receiver.answers.append(Answer(body=b'{"status": {"phase": "Failed", "message": "no node"}}'))
    receiver.answers.append(Answer(body=b'{"state": "failed"}'))
    receiver.answers.append(Answer(body=b"{}"))
    followed.round()
    assert [(word.step, word.why) for word in followed.words[1:]] == [(Step.FAILED, "no node")]


def test_a_target_without_runs_or_that_is_not_to_be_followed_is_left_alone(receiver: Receiver) -> None:
    quiet = Airflow(url=receiver.url, dag="d", follow=0.0)
    Followed(receiver, SENT, targets=[RetrainingWebhook(url=receiver.url), quiet]).round()
    assert receiver.calls == []


# -- by a daemon

CONFIG = {
    "models": [{
        "name": "shelf", "reference": {"learn": 500}, "labels": None,
        "retraining": {"mode": "automatic", "every": "1m", "gates": {"max_age": "2m"}},
    }],
    "window": {"size": "10s", "lateness": "1s"},
    "alerts": {"backoff": {"first": "50ms", "longest": "500ms"}},
}  # fmt: skip


def test_a_daemon_asks_follows_and_tells(tmp_path: Path, receiver: Receiver) -> None:
    """The request is made for the version's age; while it waits for an answer, the target's are empty, and refused."""
    target = {"kind": "airflow", "url": receiver.url, "dag": "retrain", "version": 2, "follow": "100ms"}
    rng = random.Random(1)

    def events(first: int, count: int) -> None:
        lines = (
            {"id": f"e{n}", "time": 1_790_000_000 + n / 10, "model": "shelf", "inputs": {"weight": rng.gauss(0, 1)},
             "outputs": {"label": rng.choice(["can", "jar"]), "scores": [0.6, 0.4]}}
            for n in range(first, first + count)
        )  # fmt: skip
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        with urlopen(Post(f"{daemon.url}/v1/events", body, {"Content-Type": "application/x-ndjson"})):
            pass

    def request() -> dict[str, Any]:
        return dict(next(iter(daemon.model()["renewal"]["requests"]), {"status": "none"}))

    with Daemon(tmp_path, {**CONFIG, "retraining_targets": [target]}) as daemon:
        for first in range(0, 3500, 500):
            events(first, 500)
            daemon.judged(first // 500 * 500 + 300)
        daemon.wait(lambda: request()["status"] == "sent", 60, "a request")
        daemon.wait(lambda: any(call.method == "POST" for call in receiver.calls), 60, "a post")
        receiver.answers.append(Answer(body=b'{"state": "running"}'))
        daemon.wait(lambda: request()["status"] == "started", 60, "a run")
        running = (("state", "running"), ("target", "airflow"))
        assert daemon.series("driftd_retraining_runs")[running] == 1
        failed = (Answer(body=b'{"state": "failed"}'), Answer(body=b'{"task_instances": [{"task_id": "train"}]}'))
        receiver.answers.extend(failed)
        daemon.wait(lambda: request()["status"] == "failed", 60, "its failure")
        assert request()["run"].startswith("airflow: driftd__")
        assert request()["said"] == "airflow: failed: train"
        events(3500, 300)
        daemon.wait(lambda: any(a["check"] == "retraining" for a in daemon.model()["alerts"]), 60, "an alert")
        listed = subprocess.run(
            [sys.executable, "-m", "monitor", "retraining", "list", "-c", str(tmp_path / "driftd.yaml")],
            cwd=ROOT, env={"PYTHONPATH": str(ROOT), "HOME": "/"}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "airflow: failed: train" in listed
    assert [call.method for call in receiver.calls].count("POST") == 1, "one run for one cause"
