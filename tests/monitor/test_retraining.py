"""When a model's retraining is asked for, what becomes of the request, and which version is in service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting import lifecycle
from alerting.alert import Alert, Ruling, Severity
from alerting.labeling.task import Part, Returned
from alerting.policy import Cause, Drop, Gates, Price, Standing, weigh
from alerting.retraining import Measured, Mode, Status, Step, Word, part_of
from detectors.core import category, from_columns, number
from detectors.encode import decode, encode
from detectors.profile import Profile
from detectors.reference import build_from
from monitor.retraining import PATIENCE, WINDOWS, Performance, Retraining, RetrainingOptions, Seen, State, Turn

HOUR = 3600.0
ROWS = from_columns({"label": category(["cat", "dog"] * 100), "weight": number(np.arange(200.0))})
REFERENCE = build_from("shelf", ROWS, {}, roles={}, source="test", created=0.0)
GATES = Gates(labels=20, per_class=5, cool_down=2 * HOUR)
FELL = Performance("1", Drop(0.95, 0.80, 0.02), {"accuracy": Measured(0.80, 0.76, 0.84, 100)}, ("dog",))
FINE = Performance("1", Drop(0.95, 0.95, 0.02), {"accuracy": Measured(0.95, 0.92, 0.97, 100)})


class Story:
    """A model's hours: one judged window each."""

    def __init__(self, mode: Mode = "automatic", **options: Any) -> None:
        chosen: dict[str, Any] = {"mode": mode, "gates": GATES, "price": Price(retrain=25.0), **options}
        self.retraining = Retraining("shelf", RetrainingOptions(**chosen))
        self.alerts = lifecycle.State()
        self.hour = 0
        self.performance = FELL

    @property
    def statuses(self) -> list[str]:
        return [request.status.value for request in self.retraining.state.requests]

    def labels(self, n: int = 40, since: int = 0, word: str = "") -> None:
        self.retraining.take_labels(
            returned(f"{self.hour}-{i}", word or ("cat", "dog")[i % 2], self.hour * HOUR + 1.0) for i in range(since, n)
        )

    def window(self, versions: Mapping[str, int] | None = None, rules: float = 0.0) -> Turn:
        self.hour += 1
        rows = (
            ROWS
            if not rules
            else from_columns({"rule": category(["override" if i < 200 * rules else None for i in range(200)])})
        )
        reference = REFERENCE if not rules else build_from("shelf", rows, {}, roles={}, source="test", created=0.0)
        profile = Profile(reference.layout)
        profile.update(rows)
        self.alerts.now = self.hour * HOUR
        seen = Seen(self.hour * HOUR, 200, versions or {"1": 200}, profile, self.alerts, lambda: self.performance)
        return self.retraining.take(seen, reference)

    def windows(self, n: int, versions: Mapping[str, int] | None = None) -> list[Turn]:
        return [self.window(versions) for _ in range(n)]

    def say(self, step: Step, **more: Any) -> Turn:
        name = self.retraining.state.requests[-1].id
        word = Word(request=name, step=step, by="ann", at=1e9, **more)
        return self.retraining.take_word(word, self.hour * HOUR)


def returned(task: str, label: str, time: float, **more: Any) -> Returned:
    said: dict[str, Any] = {
        "task": task, "event": task, "time": time, "model": "shelf", "version": "1", "part": Part.PROBABILITY,
        "strategy": "margin", "batch": "b", "pi": 0.5, "rank": 0, "answer": "cat", "confidence": 0.9, "label": label,
        "at": time, **more,
    }  # fmt: skip
    return Returned(**said)


def alert(**more: Any) -> Alert:
    said: dict[str, Any] = {
        "key": "shelf/psi/weight", "model": "shelf", "check": "psi", "column": "weight", "severity": Severity.WARNING,
        "started": 0.0, "last_seen": 0.0, "text": "", "score": 1.0, "limit": 0.5, **more,
    }  # fmt: skip
    return Alert(**said)


def test_a_fall_that_pays_is_asked_for_once() -> None:
    story = Story()
    story.labels()
    turns = story.windows(6)
    (sent,) = [request for turn in turns for request in turn.requests]
    assert (sent.status, sent.cause.value, sent.version) == (Status.SENT, "gain", "1")
    assert sent.fell == ("dog",)
    assert sent.train + sent.evaluate == 40
    assert sent.train == sum(part_of(f"0-{i}") == "train" for i in range(40))
    assert sent.by_class == {"cat": 20, "dog": 20}
    assert sent.before["accuracy"].value == 0.80


def test_the_same_story_asks_by_the_same_id() -> None:
    def asked() -> str:
        story = Story()
        story.labels()
        story.windows(4)
        return story.retraining.state.requests[0].id

    assert asked() == asked()


@pytest.mark.parametrize(
    "change",
    [
        {"performance": FINE},
        {"performance": Performance("1", Drop(0.95, 0.93, 0.03))},
        {"performance": Performance()},
        {"performance": Performance("0", Drop(0.95, 0.5, 0.01))},
    ],
    ids=["nothing fell", "within the noise", "no estimate", "another version's"],
)
def test_what_does_not_pay_is_not_asked(change: dict[str, Performance]) -> None:
    story = Story()
    story.labels()
    story.performance = change["performance"]
    story.windows(6)
    assert story.statuses == []


def test_a_price_that_is_too_high_is_not_paid() -> None:
    story = Story(price=Price(retrain=1e6))
    story.labels()
    story.windows(6)
    assert story.statuses == []
    assert story.retraining.state.case.startswith("It does not pay")


def test_labels_too_few_in_all_or_of_a_class_that_fell_hold_it_back() -> None:
    story = Story()
    story.labels(10, word="cat")
    story.windows(3)
    assert "only 10 of 20 labels" in story.retraining.state.case
    story.labels(40, word="cat")
    story.windows(3)
    assert "of dog, which fell" in story.retraining.state.case
    story.labels(10, word="dog")
    story.windows(3)
    assert story.statuses == ["sent"]


def test_broken_data_are_mended_and_not_learned() -> None:
    story = Story()
    story.labels()
    story.alerts.alerts["shelf/missing/weight"] = alert(key="shelf/missing/weight", broken=True)
    story.windows(4)
    assert story.statuses == []
    assert "broken" in story.retraining.state.case


def test_what_is_unintended_is_not_learned_and_its_rows_are_left_out_for_good() -> None:
    story = Story()
    story.labels(30)
    episode = lifecycle.Episode("shelf", "shelf/psi/weight", start=3 * HOUR, ruling=Ruling.UNINTENDED)
    story.alerts.episodes.append(episode)
    story.windows(4)
    story.labels(7)
    assert story.statuses == []
    episode.end = 5 * HOUR
    story.windows(2)
    (request,) = story.retraining.state.requests
    assert request.train + request.evaluate == 30
    assert [(span.start, span.end) for span in request.excluded] == [(3 * HOUR, 5 * HOUR)]
    assert not request.holds("x", 4 * HOUR, part_of("x"))
    assert request.holds("x", 1.0, part_of("x"))


def test_a_new_class_of_which_there_are_too_few_labels_holds_back_what_pays_but_a_slip_does_not() -> None:
    fell = Standing(Drop(0.95, 0.6, 0.01), spans=10, events=1_000, age=1e5, labels=500, new=("bird", "catt"))
    gates = Gates(per_class=20, new_class=50)
    few = weigh(fell._replace(by_class={"bird": 8, "catt": 1}), Price(), gates)
    assert few.cause is None
    assert "fewer than 20 labels of bird, which" in few.text
    assert weigh(fell._replace(by_class={"bird": 20, "catt": 1}), Price(), gates).cause is Cause.GAIN


def test_rules_a_new_class_and_age_ask_whatever_it_costs() -> None:
    def asked(story: Story, rules: float = 0.0) -> list[str]:
        for _ in range(3):
            story.window(rules=rules)
        return [request.cause.value for request in story.retraining.state.requests]

    dear = Price(retrain=1e9)
    assert asked(Story(price=dear), rules=0.2) == ["rules"]
    assert asked(Story(price=dear), rules=0.04) == []
    new = Story(price=dear)
    new.labels(10, word="fox")
    assert asked(new) == ["new class"]
    assert new.retraining.state.new == ["fox"]
    assert asked(Story(price=dear, gates=msgspec.structs.replace(GATES, max_age=HOUR))) == ["age"]


def test_a_class_that_the_version_in_service_answers_is_not_new_though_the_reference_lacks_it() -> None:
    story = Story(price=Price(retrain=1e9))
    story.retraining.take_labels(returned(f"{i}", "fox", 1.0, answer="fox" if i else "cat") for i in range(10))
    story.windows(3)
    assert story.statuses == []
    assert story.retraining.state.new == []


def test_manual_waits_for_a_person_and_says_so_in_an_alert() -> None:
    story = Story("manual")
    story.labels()
    *_, turn = story.windows(4)
    assert (story.statuses, turn.requests) == (["waiting"], [])
    (symptom,) = turn.symptoms
    assert story.retraining.state.requests[0].id in symptom.text
    (sent,) = story.say(Step.CONFIRMED, why="go").requests
    assert sent.document()["requested_by"] == "ann"
    assert story.window().symptoms == []


def test_assisted_sends_after_its_time_unless_it_is_stopped() -> None:
    left = Story("assisted", after=3 * HOUR)
    left.labels()
    sent = [bool(turn.requests) for turn in left.windows(8)]
    assert sent.index(True) - 1 == 3, "it was made in the second window"
    stopped = Story("assisted", after=3 * HOUR)
    stopped.labels()
    stopped.windows(3)
    stopped.say(Step.STOPPED)
    assert not stopped.window().requests
    assert stopped.statuses == ["stopped"]


def test_shadow_tells_nobody() -> None:
    story = Story("shadow")
    story.labels()
    assert not any(turn.requests or turn.symptoms for turn in story.windows(8))
    assert story.statuses == ["proposed"]


def test_after_a_stop_nothing_is_asked_until_it_has_cooled_down() -> None:
    story = Story("manual")
    story.labels()
    story.windows(3)
    story.say(Step.STOPPED)
    story.window()
    assert story.statuses == ["stopped"]
    story.windows(2)
    first, second = story.retraining.state.requests
    assert second.status is Status.WAITING
    assert first.id != second.id


def test_a_word_that_comes_too_late_changes_nothing() -> None:
    story = Story("manual")
    story.labels()
    story.windows(3)
    story.say(Step.STOPPED)
    assert story.say(Step.CONFIRMED).requests == []
    assert story.statuses == ["stopped"]


def test_a_new_version_answers_the_request_which_closes_with_its_first_labels() -> None:
    story = Story()
    story.labels()
    story.windows(4)
    story.labels(5)
    story.say(Step.STARTED, run="run-7")
    story.say(Step.FINISHED, version="2")
    turns = story.windows(WINDOWS, {"1": 10, "2": 190})
    assert [turn.deployed for turn in turns] == [None] * (WINDOWS - 1) + ["2"]
    assert turns[-1].answered
    assert story.statuses == ["finished"], "what is known is of the old version"
    assert len(story.retraining.state.labels) == 5, "what came after it was asked is still to be learned"
    story.performance = Performance("2", Drop(0.96, 0.96, 0.01), {"accuracy": Measured(0.96, 0.94, 0.98, 80)})
    story.hour += 1
    story.labels(15)
    assert story.window({"2": 200}).requests == [], "too few labels are its own"
    story.labels(30)
    (closed,) = story.window({"2": 200}).requests
    assert (closed.status, closed.new_version, closed.run) == (Status.CLOSED, "2", "run-7")
    assert (closed.before["accuracy"].value, closed.after["accuracy"].value) == (0.80, 0.96)


def test_a_version_whose_trainer_says_nothing_answers_the_request_as_well() -> None:
    story = Story()
    story.labels()
    story.windows(4)
    assert story.windows(WINDOWS, {"2": 200})[-1].answered
    assert story.statuses == ["finished"]
    story.windows(PATIENCE + 1, {"2": 200})
    assert story.statuses == ["closed"], "its labels never came"


def test_a_version_that_nobody_was_asked_for_supersedes_the_request() -> None:
    story = Story("manual")
    story.labels()
    story.windows(3)
    *_, last = story.windows(WINDOWS, {"2": 200})
    assert (story.statuses, last.deployed, last.answered) == (["superseded"], "2", False)


def test_a_canary_and_a_shadow_are_not_in_service() -> None:
    story = Story()
    turns = story.windows(5, {"1": 190, "2": 10}) + story.windows(5, {"1": 200, "2": 200})
    turns += story.windows(WINDOWS - 1, {"2": 200}) + story.windows(3)
    assert not any(turn.deployed for turn in turns)


def test_a_run_that_failed_is_told_until_another_may_be_asked_for_and_reopens_when_it_is_run_again() -> None:
    story = Story()
    story.labels()
    story.windows(3)
    story.say(Step.STARTED)
    assert not story.window().symptoms
    story.say(Step.FAILED, why="out of memory", run="airflow: 12")
    (told,) = story.window().symptoms
    assert (told.severity, told.facts["run"]) == (Severity.WARNING, "airflow: 12")
    assert told.text.endswith("failed, says ann: out of memory")
    story.say(Step.STARTED)
    turn = story.window()
    assert (story.statuses, turn.symptoms, turn.requests) == (["started"], [], [])
    story.say(Step.FAILED)
    story.performance = FINE
    assert [bool(turn.symptoms) for turn in story.windows(4)] == [True, False, False, False]
    assert story.statuses == ["failed"]


def test_a_trainer_may_name_the_version_after_its_run_was_seen_to_end() -> None:
    story = Story()
    story.labels()
    story.windows(3)
    story.say(Step.FINISHED, run="argo: driftd-1")
    story.say(Step.FINISHED, version="2", run="mlflow-7")
    story.say(Step.FINISHED, version="3")
    (request,) = story.retraining.state.requests
    assert (request.status, request.new_version, request.run) == (Status.FINISHED, "2", "argo: driftd-1")
    assert story.retraining.arriving({"1": 10, "2": 10}) == "2"


def test_where_events_name_no_version_the_trainers_word_is_taken() -> None:
    story = Story()
    story.performance = Performance("", *FELL[1:])
    story.labels()
    for _ in range(4):
        story.window({"": 0})
    assert story.say(Step.FINISHED).answered
    story.labels()
    assert story.window({"": 0}).requests[0].status is Status.CLOSED


def test_a_label_that_is_corrected_counts_once() -> None:
    story = Story()
    story.labels(20, word="cat")
    story.labels(20, word="dog")
    assert len(story.retraining.state.labels) == 20
    assert {label.name for label in story.retraining.state.labels.values()} == {"dog"}


ACTS = st.one_of(
    st.tuples(st.just("labels"), st.integers(1, 30)),
    st.tuples(st.just("window"), st.sampled_from([{"1": 200}, {"2": 200}, {"1": 100, "2": 100}])),
    st.tuples(st.just("word"), st.sampled_from(list(Step))),
    st.tuples(st.just("performance"), st.sampled_from([FELL, FINE, Performance("2", *FELL[1:])])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTS, max_size=40), st.sampled_from(["shadow", "manual", "assisted", "automatic"]))
def test_a_restart_anywhere_changes_nothing(acts: list[tuple[str, Any]], mode: Mode) -> None:
    calm, shaken = Story(mode), Story(mode)
    for act, value in acts:
        said = []
        for story in (calm, shaken):
            if act == "labels":
                story.labels(value)
            elif act == "performance":
                story.performance = value
            elif act == "window":
                said.append(story.window(value))
            elif story.retraining.state.requests:
                said.append(story.say(value, version="2"))
        assert said[:1] == said[1:]
        shaken.retraining.state = decode(encode(shaken.retraining.state), State)
    requests = calm.retraining.state.requests
    assert requests == shaken.retraining.state.requests
    assert len({request.id for request in requests}) == len(requests)
    assert all(request.status.over for request in requests[:-1]), "one is open at most"
