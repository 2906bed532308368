"""The loop through both stages: the model falls, labels tell, retraining is asked for, the new version is known."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from alerting.labeling.task import Labels, LabelTask, Returned
from alerting.lifecycle import AlertOptions
from alerting.retraining import Request, Status, Step, Word
from alerting.tracking.report import Kind, Report
from monitor.config import parse
from monitor.decode import Own
from monitor.event import Partition, Record
from monitor.exchange import Told, from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import plans
from monitor.references import References
from monitor.snapshot import ModelView
from monitor.store import MemoryStore

START = 1_790_000_000.0
FALLS, RENEWED, END = 900, 1_800, 3_000  # events, one a second
CONFIG = parse(
    json.dumps(
        {
            "models": [
                {
                    "name": "shelf", "labels": None, "reference": {"learn": 300},
                    "checks": [{"detector": "missing", "over": "30s"}],
                    "sampling": {"per_hour": 1800, "most": 50, "at_least": 20, "rows": 50},
                    "accuracy": {"span": "100s", "patience": "10s"},
                    "retraining": {
                        "mode": "automatic", "every": "100s", "price": {"retrain": 20}, "gates": {"cool_down": "100s"}
                    },
                }
            ],
            "window": {"size": "10s", "lateness": "2s"},
        }
    )
)  # fmt: skip


class Ran(NamedTuple):
    found: set[str]  # checks that found something
    requests: list[Request]  # as they were told to the targets
    tasks: list[tuple[str, str, float | None]]  # with batch and probability
    model: ModelView
    reports: list[Report]  # for tracking


def lines(*, colour_blind: bool) -> Iterator[bytes]:
    """Answers are right 95 times in 100, and 65 from the fall until the new version; that may do without the colour."""
    rng = random.Random(1)
    for i in range(END):
        truth, other = rng.sample(["cat", "dog"], 2)
        right = rng.random() < (0.65 if FALLS <= i < RENEWED else 0.95)
        chance = rng.uniform(0.7, 1.0)
        scores = {truth if right else other: chance, other if right else truth: 1.0 - chance}
        said = {
            "id": f"{truth}-{i}", "time": START + i, "model": "shelf", "version": "1" if i < RENEWED else "2",
            "inputs": {"weight": rng.gauss(0, 1)} | ({} if colour_blind and i >= RENEWED else {"colour": rng.random()}),
            "outputs": {"label": max(scores, key=scores.__getitem__), "scores": [scores["cat"], scores["dog"]]},
        }  # fmt: skip
        yield json.dumps(said).encode()


def answered(task: LabelTask) -> Returned:
    """The label of a labeler who knows."""
    select = task.select
    return Returned(
        task=task.id, event=task.event.id, time=task.event.time, model="shelf", version=task.model.version,
        part=select.part, strategy=select.strategy, batch=select.batch, pi=select.pi, rank=select.rank,
        answer=task.prediction.label, confidence=None, label=task.event.id.split("-")[0], at=0.0, size=select.size,
        monitoring=select.monitoring, rev=1,
    )  # fmt: skip


def run(*, restarts: bool, announced: bool = False, colour_blind: bool = False) -> Ran:
    """`announced`: the trainer says which version comes of a request, as soon as it is sent."""
    models, meters, exchange, store = plans(CONFIG), Meters(), MemoryLog(), MemoryStore()
    references = References(models, store)

    def new_judge() -> Judge:
        return Judge(
            models, window=CONFIG.window.size, alerts=AlertOptions(), references=references.find,
            learned=references.learned, clock=lambda: 0.0, meters=meters, successors=references,
            tracking="digest",
        )  # fmt: skip

    judge = new_judge()
    ingest = Ingest(
        "test", decoder=Own().open(), models=models, options=CONFIG.window, references=references.find,
        send=exchange.append, save=store.put, load=store.get, set_aside=lambda *_: None, meters=meters,
        successors=references,
    )  # fmt: skip
    lane = Partition("t", 0)
    ingest.gain(lane)
    requests: list[Request] = []
    tasks: list[tuple[str, str, float | None]] = []
    reports: list[Report] = []
    found: set[str] = set()
    stream = list(lines(colour_blind=colour_blind))
    for at in range(0, END, 100):
        some = enumerate(stream[at : at + 100], start=at)
        ingest.take(lane, [Record(line, offset=i, timestamp=int((START + i) * 1000)) for i, line in some])
        ingest.look()
        effects = Effects()
        for offset, data in exchange.read(exchange.start, max_bytes=1 << 40):
            judge.take(from_bytes(data), effects)
            exchange.trim(offset + 1)
        drawn = [task for draw in effects.draws for task in draw.tasks[: draw.batch.n]]
        judge.take(Told(f"labels-{at}", "shelf", Labels(tuple(map(answered, drawn)))), effects)
        for request in effects.requests if announced else ():
            word = Word(request=request.id, step=Step.FINISHED, by="trainer", at=0.0, version="2")
            judge.take(Told(f"{request.id}-{request.status}", "shelf", word), effects)
        found |= {symptom.check for symptom in effects.symptoms}
        requests += effects.requests
        reports += effects.reports
        tasks += [(task.id, task.select.batch, task.select.pi) for draw in effects.draws for task in draw.tasks]
        if restarts:
            saved, judge = judge.checkpoint(), new_judge()
            judge.restore(saved)
    return Ran(
        found, requests, tasks, next(model for model in judge.snapshot().models if model.model == "shelf"), reports
    )


@pytest.fixture(scope="module")
def ran() -> Ran:
    return run(restarts=False)


def test_a_fall_is_asked_about_once_and_the_request_closes_with_before_and_after(ran: Ran) -> None:
    asked, closed = ran.requests
    assert (asked.status, asked.version) == (Status.SENT, "1")
    assert FALLS < asked.made - START < FALLS + 500
    assert (closed.id, closed.status, closed.new_version) == (asked.id, Status.CLOSED, "2")
    assert closed.before["accuracy"].value < 0.85
    assert closed.after["accuracy"].value > 0.90


def test_the_reference_is_then_the_new_versions_own(ran: Ran) -> None:
    assert "version 2 answers a request to retrain" in ran.model.reference_source


def test_what_was_asked_is_shown(ran: Ran) -> None:
    assert ran.model.renewal is not None
    assert ran.model.renewal.version == "2"
    (shown,) = ran.model.renewal.requests
    assert (shown.status, shown.new_version) == ("closed", "2")


def test_restarts_change_nothing_of_it(ran: Ran) -> None:
    again = run(restarts=True)
    assert again.requests == ran.requests
    assert again.tasks == ran.tasks
    assert again.reports == ran.reports


@pytest.mark.parametrize("announced", [False, True])
def test_an_announced_version_is_judged_by_its_own_reference_alone(*, announced: bool) -> None:
    ran = run(restarts=False, announced=announced, colour_blind=True)
    assert ("missing" in ran.found) == (not announced)
    assert ran.requests[-1].status is Status.CLOSED
    assert "version 2 answers" in ran.model.reference_source


def told(ran: Ran, kind: Kind) -> list[Report]:
    """The reports of the first run of a kind."""
    first = next(report.run for report in ran.reports if report.kind is kind)
    return [report for report in ran.reports if report.run == first]


def test_the_request_is_a_run_from_made_to_closed_with_the_accuracy_all_along(ran: Ran) -> None:
    reports = told(ran, Kind.RETRAINING)
    asked, closed = ran.requests
    assert (reports[0].started, reports[-1].at) == (asked.made, closed.moves[-1].at)
    assert [report.ended for report in reports] == [False] * (len(reports) - 1) + [True]
    assert not reports[-1].failed
    assert reports[-1].tags["new_version"] == "2"
    assert json.loads(reports[-1].files["request.json"])["request_id"] == asked.id
    assert reports[-1].files["chart.svg"].startswith("<svg")
    assert {(r.params["version"], r.params["config"], r.params["cause"]) for r in reports} == {("1", "digest", "gain")}
    points = [point for report in reports for point in report.points]
    accuracy = [point.value for point in points if point.name == "accuracy"]
    assert len(accuracy) > 10
    assert min(accuracy) < 0.85
    assert accuracy[-1] > 0.90
    assert points[-1].step == round(closed.moves[-1].at - asked.made)
    assert {"accuracy_low", "accuracy_high", "accuracy_before", "accuracy_after"} <= {point.name for point in points}


def test_the_fall_is_a_run_of_its_own_and_the_campaign_lists_its_labels(ran: Ran) -> None:
    (check,) = {report.params["check"] for report in told(ran, Kind.EPISODE)}
    assert check == "labeled_accuracy"
    reports = told(ran, Kind.CAMPAIGN)
    lines = [
        json.loads(line)
        for report in reports
        for path, text in report.files.items()
        if path.startswith("labels/")
        for line in text.splitlines()
    ]
    assert len({line["task"] for line in lines}) == len(lines) > 50
    assert {line["label"] for line in lines} == {"cat", "dog"}
    spent = [point.value for report in reports for point in report.points if point.name == "labels"]
    assert spent == sorted(spent)
    assert 0 < spent[-1] <= len(lines)
