"""When a run begins, how often it is measured and told, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from alerting import lifecycle
from alerting.alert import Alert, Ruling, Severity, Symptom, Verdict
from alerting.lifecycle import AlertOptions
from alerting.tracking.report import Kind, Report
from alerting.verdicts import rule
from detectors.encode import decode, encode
from detectors.stopping import Campaign
from monitor import tracking
from monitor.campaign import Ended
from monitor.comparison import CHECK as VERSIONS
from monitor.renewal import Renewal
from monitor.retraining import Performance, RetrainingOptions
from monitor.tracking import LABELS, MOST, State, Tracker
from tests.monitor.test_retraining import returned

WINDOW = 10.0
OPTIONS = AlertOptions(clear_after=30.0, cooldown=60.0, group_within=0.0, repeat=1e9)


def symptom(column: str = "weight", check: str = "psi", score: float = 0.4) -> Symptom:
    return Symptom("shelf", check, column, 0.0, 0.0, score, 0.2, f"{column} moved", Severity.WARNING)


class Story:
    """A model's judged windows, by what is found in each."""

    def __init__(self) -> None:
        self.alerts = lifecycle.State()
        self.tracker = Tracker("shelf", "digest", WINDOW)
        self.renewal = Renewal("shelf", "shelf", RetrainingOptions(), None, 0.0)
        self.windows = 0
        self.reports: list[Report] = []

    def window(self, *found: Symptom) -> list[Report]:
        self.windows += 1
        looked = {symptom().look, *(one.look for one in found)}
        lifecycle.step(self.alerts, found, looked, self.windows * WINDOW, OPTIONS)
        return self.look()

    def look(self) -> list[Report]:
        reports = self.tracker.take(self.alerts, self.renewal, Performance, "r1")
        self.reports += reports
        return reports

    def calm(self, windows: int) -> None:
        for _ in range(windows):
            self.window()

    def say(self, ruling: Ruling, alert: Alert) -> None:
        rule(self.alerts, Verdict(id="v", key=alert.key, ruling=ruling, by="ann", at=1e9, why="seen"), OPTIONS)

    @property
    def alert(self) -> Alert:
        return next(iter(self.alerts.alerts.values()))

    def restart(self) -> None:
        saved = encode(self.tracker.state)
        self.tracker = Tracker("shelf", "digest", WINDOW)
        self.tracker.state = decode(saved, State)


def values(reports: Iterable[Report], name: str) -> list[float]:
    return [point.value for report in reports for point in report.points if point.name == name]


def test_an_episode_is_a_run_from_the_alerts_opening_to_its_end() -> None:
    story = Story()
    (opened,) = story.window(symptom())
    assert (opened.kind, opened.started, opened.ended) == (Kind.EPISODE, 10.0, False)
    assert opened.params == {"reference": "r1", "config": "digest", "check": "psi", "column": "weight"}
    assert "What: weight moved" in opened.note
    assert json.loads(opened.files["alert.json"])["key"] == "shelf/psi/weight"
    story.window(symptom(score=0.8))
    story.calm(5)
    *_, closed = story.reports
    assert (closed.run, closed.ended, closed.failed) == (opened.run, True, False)
    assert closed.tags["outcome"] == "resolved"
    assert values(story.reports, "score")[:2] == [0.4, 0.8]
    assert closed.files["chart.svg"].startswith("<svg")
    assert story.tracker.state.going == {}


def test_what_comes_back_goes_on_as_the_same_run() -> None:
    story = Story()
    story.window(symptom())
    story.calm(5)
    assert story.reports[-1].ended
    (again,) = story.window(symptom())
    assert (again.run, again.ended, again.params) == (story.reports[0].run, False, story.reports[0].params)
    names = [report.item("mlflow", 0.0).id for report in story.reports]
    assert len({*names}) == len(names)


def test_a_verdict_is_told_at_once_though_no_window_passed() -> None:
    story = Story()
    story.window(symptom())
    story.say(Ruling.UNINTENDED, story.alert)
    (told,) = story.look()
    assert told.tags["verdict"] == "unintended"
    assert (told.tags["verdict.by"], told.tags["verdict.why"]) == ("ann", "seen")
    assert not told.points or {point.at for point in told.points} == {10.0}
    assert story.look() == []


def test_a_false_alarm_ends_its_run_though_the_alert_is_open() -> None:
    story = Story()
    story.window(symptom())
    story.say(Ruling.FALSE_ALARM, story.alert)
    story.window(symptom())
    assert story.reports[-1].ended
    assert story.reports[-1].tags["verdict"] == "false alarm"


def test_what_has_runs_of_its_own_and_what_nobody_is_told_of_is_no_episode() -> None:
    story = Story()
    assert story.window(symptom(check=VERSIONS)) == []


def test_a_campaign_lists_its_labels_and_says_why_it_ended() -> None:
    story = Story()
    story.window()
    story.tracker.take_labels([returned("before", "can", 1.0)])
    state = story.renewal.state.labeling
    state.campaign = Campaign(since=10.0)
    (begun,) = story.look()
    assert (begun.kind, begun.files) == (Kind.CAMPAIGN, {})

    story.tracker.take_labels(returned(f"{n}", "can", 1.0) for n in range(LABELS - 1))
    assert story.look() == []
    story.tracker.take_labels([returned("last", "can", 1.0), replace(returned("skipped", "can", 1.0), label=None)])
    (told,) = story.look()
    (lines,) = told.files.values()
    assert [json.loads(line)["task"] for line in lines.splitlines()] == [*map(str, range(LABELS - 1)), "last"]

    story.tracker.take_labels([returned("late", "jar", 1.0)])
    state.campaign, state.ended = None, Ended("goal", "The goal is reached.", 20.0)
    (over,) = story.look()
    assert (over.run, over.ended, over.failed) == (begun.run, True, False)
    assert (over.tags["outcome"], over.note) == ("goal", "The goal is reached.")
    assert json.loads(over.files[f"labels/{LABELS:06}.jsonl"])["label"] == "jar"


def test_old_runs_are_measured_seldom_and_told_in_batches() -> None:
    story = Story()
    for _ in range(5_000):
        story.window(symptom())
    times = [point.at for report in story.reports for point in report.points if point.name == "score"]
    assert times[:50] == [WINDOW * n for n in range(1, 51)]
    assert 200 < len(times) < 400
    assert max(later - earlier for earlier, later in pairwise(times)) <= 5_000 * WINDOW / 60 + WINDOW
    assert all(len(report.points) <= 3 * tracking.AT_ONCE for report in story.reports)
    assert len(story.reports) < len(times) / 5


def test_a_restart_tells_the_same() -> None:
    def reports(*, restarts: bool) -> list[Report]:
        story = Story()
        for n in range(60):
            story.window(*[symptom()] * (n % 20 < 12))
            if restarts:
                story.restart()
        return story.reports

    assert reports(restarts=True) == reports(restarts=False)


def test_no_more_than_so_many_are_tracked_and_the_others_are_counted() -> None:
    story = Story()
    reports = story.window(*[symptom(f"c{n}") for n in range(MOST + 20)])
    assert len(reports) == MOST == len(story.tracker.state.going)
    assert story.tracker.untracked == 20
    story.calm(5)
    assert story.tracker.state.going == {}
    assert story.tracker.untracked == 0


def test_numbers_that_are_none_are_left_out() -> None:
    story = Story()
    (told,) = story.window(symptom(score=float("inf")))
    assert {point.name for point in told.points} == {"limit", "joined"}


@pytest.mark.parametrize("change", [{"name": "log"}, {"name": "labels"}])
def test_a_name_that_is_taken_is_refused(change: dict[str, Any]) -> None:
    from monitor.config import parse
    from monitor.settings import Refused

    tracker = {"kind": "mlflow", "url": "http://mlflow:5000", **change}
    given = {"tracking": [tracker], "labeling": {"kind": "sqlite", "name": "labels"}}
    with pytest.raises(Refused, match=r"\$\.tracking\[0\]\.name"):
        parse(json.dumps(given))
