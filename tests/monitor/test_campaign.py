"""A campaign of labeling: what opens it, what ends it, what opens another."""

from __future__ import annotations

import math
from typing import Any

import pytest

from alerting import lifecycle
from alerting.alert import Alert, Ruling, Severity
from alerting.labeling.task import Part, Returned
from detectors.encode import decode, encode
from detectors.stopping import StopRules
from monitor.campaign import BATCH, CHECK, Labeling, State, measures

DRIFT = "shelf/psi/weight"


class Story:
    def __init__(self, **rules: Any) -> None:
        self.labeling = Labeling("shelf", StopRules(**rules), price=2.0)
        self.alerts = lifecycle.State()
        self.now = 0.0
        self.told: list[str] = []

    def open(self, key: str = DRIFT, **more: Any) -> None:
        said: dict[str, Any] = {
            "key": key, "model": "shelf", "check": key.split("/")[1], "column": "", "severity": Severity.WARNING,
            "started": self.now, "last_seen": self.now, "text": "", "score": 1.0, "limit": 0.5, **more,
        }  # fmt: skip
        self.alerts.alerts[key] = Alert(**said)

    def window(self, *classes: str) -> bool:
        """Whether a campaign goes on after it. Each window is also a restart."""
        self.now += 10.0
        self.told += [str(s.facts["rule"]) for s in self.labeling.take(self.now, self.alerts, classes)]
        self.labeling.state = decode(encode(self.labeling.state), State)
        return self.labeling.campaign is not None

    def labels(self, n: int, label: str = "cat", part: str = Part.PROBABILITY, **more: Any) -> None:
        said: dict[str, Any] = {
            "model": "shelf", "version": "1", "part": part, "strategy": "", "batch": "b", "pi": 0.5, "rank": 0,
            "answer": "cat", "confidence": None, "label": label, "at": 0.0, "time": 0.0, **more,
        }  # fmt: skip
        self.labeling.take_labels(Returned(task=f"t{i}", event=f"e{i}", **said) for i in range(n))


def test_drift_opens_a_campaign_and_labels_that_reach_the_goal_end_it() -> None:
    story = Story(goals={"accuracy": 0.7})
    assert not story.window()
    story.open()
    assert story.window()
    story.labels(6 * BATCH)
    assert not story.window()
    assert story.told == ["goal"]
    assert story.labeling.state.ended is not None
    assert "goal" in story.labeling.state.ended.text


def test_a_budget_counts_labels_and_money() -> None:
    story = Story(money=100.0)
    story.open()
    story.window()
    story.labels(BATCH)
    assert story.window()
    story.labels(BATCH)
    assert not story.window()
    assert story.told == ["money"]


def test_alerts_that_were_open_at_the_end_open_no_other_and_new_ones_do() -> None:
    story = Story(labels=BATCH)
    story.open()
    story.window()
    story.labels(BATCH)
    story.window()
    assert not story.window()
    story.open("shelf/psi/height")
    assert story.window()


def test_a_new_class_or_an_intended_change_opens_another() -> None:
    def ended() -> Story:
        story = Story(labels=BATCH)
        story.open()
        story.window()
        story.labels(BATCH)
        assert not story.window()
        return story

    story = ended()
    assert story.window("fox")
    story = ended()
    story.alerts.episodes.append(lifecycle.Episode("shelf", DRIFT, 0.0, ruling=Ruling.INTENDED))
    assert story.window()


def test_broken_data_and_our_own_words_ask_for_no_labels() -> None:
    story = Story()
    story.open("shelf/missing/weight", broken=True)
    story.open(f"shelf/{CHECK}/")
    story.open("shelf/retraining/")
    assert not story.window()


def test_what_comes_back_before_a_label_was_needed_ends_it_quietly() -> None:
    story = Story()
    story.open()
    story.window()
    story.alerts.alerts.clear()
    assert not story.window()
    assert story.told == []
    story.open()
    assert story.window(), "the same may come again"


def test_versions_that_agree_end_it_and_one_of_which_nothing_is_known_is_none() -> None:
    story = Story(rounds=2)
    story.open()
    story.window()
    story.labeling.take_version(0.99, None, None, 60.0)
    story.labeling.take_version(math.nan, None, None, 60.0)
    assert story.window()
    story.labeling.take_version(0.99, None, None, 60.0)
    assert not story.window()
    assert story.told == ["agreement"]


def test_a_training_score_that_runs_away_from_the_labels_ends_it() -> None:
    story = Story()
    story.open()
    story.window()
    for score in (0.93, 0.95, 0.97):
        story.labeling.take_version(math.nan, score, 0.8, None)
    story.window()
    assert story.told == ["overfitting"]


@pytest.mark.parametrize("more", [{"part": Part.DISAGREEMENT}, {"monitoring": False}, {"pi": None}, {"label": None}])
def test_labels_that_say_nothing_of_all_rows_are_left_out(more: dict[str, Any]) -> None:
    story = Story(labels=BATCH)
    story.open()
    story.window()
    story.labels(2 * BATCH, **more)
    assert story.window()


def test_measures_weigh_labels_by_what_they_stand_for() -> None:
    story = Story()
    story.open()
    story.window()
    story.labels(10, pi=0.5)
    story.labels(5, label="dog", pi=0.1)
    found = measures(story.labeling.state.batch)
    assert found["accuracy"][0] == pytest.approx(20 / 70)
    assert found["precision"][0] == pytest.approx(20 / 70), "all were answered with one class"
    assert found["recall"][0] == pytest.approx(0.5)
    assert found["accuracy"][1] > 0.1
