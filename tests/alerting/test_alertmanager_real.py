"""Against a real Alertmanager: what it holds, what it tells its receiver, and how often."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from alerting.alert import Alert, Look, Notice, Severity, Symptom
from alerting.deliver import Delivery, Undelivered
from alerting.lifecycle import AlertOptions, State, step
from alerting.outbox import Outbox, notices_to
from alerting.sinks import alertmanager as sinks
from tests.services.process import wait_until
from tests.services.prometheus import Alertmanager
from tests.services.web import Receiver

pytestmark = pytest.mark.services
PSI = Look("shelf", "psi")
OPTIONS = AlertOptions(clear_after=0)


class Story:
    """The judge's side of alerting in small: life cycle, outbox, delivery."""

    def __init__(self, url: str, resend: float = 60.0) -> None:
        self.state = State()
        self.outbox = Outbox()
        self.clock = time.time() - 600
        self.delivery = Delivery({"am": sinks.Alertmanager((url,), resend=resend).open()})

    def look(self, *symptoms: Symptom) -> None:
        self.hand_over(self.judged(*symptoms))

    def judged(self, *symptoms: Symptom) -> list[Notice]:
        self.clock += 10
        return step(self.state, symptoms, [PSI], self.clock, OPTIONS)

    def hand_over(self, notices: list[Notice]) -> None:
        self.outbox.put(notices_to(["am"], notices, time.time()))
        self.delivery.offer(self.outbox.pending("am", 1_000))
        self.delivery.refresh(tuple(self.state.alerts.values()))

    def settle(self) -> None:
        def delivered() -> bool:
            self.outbox.done(self.delivery.finished())
            return not self.outbox.pending("am", 1)

        wait_until(delivered, 20, "the outbox to be empty")


@pytest.fixture
def story(alertmanager: Alertmanager) -> Iterator[Story]:
    one = Story(alertmanager.url)
    yield one
    one.delivery.stop(5.0)


def symptom(column: str, severity: Severity = Severity.WARNING) -> Symptom:
    return Symptom("shelf", "psi", column, 0.0, 0.0, 0.4, 0.2, f"{column} moved", severity)


def told(receiver: Receiver) -> list[tuple[str, str, str]]:
    alerts: list[dict[str, Any]] = [a for call in receiver.calls for a in json.loads(call.body)["alerts"]]
    return [(a["status"], a["labels"]["column"], a["labels"]["severity"]) for a in alerts]


def test_an_alert_is_held_told_once_and_resolved(story: Story, alertmanager: Alertmanager, receiver: Receiver) -> None:
    for _ in range(5):
        story.look(symptom("weight"))
    story.settle()
    (held,) = alertmanager.alerts()
    assert held["labels"] == {
        "alertname": "DriftdPsi", "severity": "warning", "model": "shelf", "check": "psi", "column": "weight",
    }  # fmt: skip
    assert held["annotations"]["description"].startswith("What: weight moved\n")
    receiver.wait(1)
    story.look()
    story.settle()
    receiver.wait(2)
    assert told(receiver) == [("firing", "weight", "warning"), ("resolved", "weight", "warning")]
    assert alertmanager.alerts() == []


def test_a_relapse_is_a_new_alert(story: Story, receiver: Receiver) -> None:
    for n, found in enumerate([[symptom("a")], [], [symptom("a")], []]):
        story.look(*found)
        story.settle()
        receiver.wait(n + 1)
    assert [status for status, _, _ in told(receiver)] == ["firing", "resolved"] * 2


def test_a_risen_severity_leaves_one_alert(story: Story, alertmanager: Alertmanager) -> None:
    story.look(symptom("a"))
    story.look(symptom("a", Severity.CRITICAL))
    story.settle()
    assert [held["labels"]["severity"] for held in alertmanager.alerts()] == ["critical"]


def test_a_daemon_that_dies_leaves_no_alert_for_ever_and_one_that_lives_keeps_it(
    alertmanager: Alertmanager,
) -> None:
    living, dying = Story(alertmanager.url, resend=1.0), Story(alertmanager.url, resend=1.0)
    living.look(symptom("lives"))
    dying.look(symptom("dies"))
    living.settle()
    dying.settle()
    dying.delivery.stop(5.0)
    assert sorted(a["labels"]["column"] for a in alertmanager.alerts()) == ["dies", "lives"]
    wait_until(lambda: len(alertmanager.alerts()) == 1, 20, "the alert of the dead daemon to end")
    time.sleep(1.5)  # the other has now outlived the end of its first post
    assert [a["labels"]["column"] for a in alertmanager.alerts()] == ["lives"]
    living.delivery.stop(5.0)


def test_repeats_after_a_crash_are_not_told_again(story: Story, alertmanager: Alertmanager, receiver: Receiver) -> None:
    story.look(symptom("a"))
    story.settle()
    receiver.wait(1)
    story.look()
    story.settle()
    receiver.wait(2)
    again = Story(alertmanager.url)
    again.clock = story.clock - 20
    notices = [n for found in ([symptom("a")], []) for n in again.judged(*found)]
    again.hand_over(notices)
    again.settle()
    again.delivery.stop(5.0)
    time.sleep(2.5)  # over two group intervals
    assert [status for status, _, _ in told(receiver)] == ["firing", "resolved"]


def test_what_it_cannot_take_is_told_as_a_refused_payload(alertmanager: Alertmanager) -> None:
    unchecked = sinks.Alertmanager((alertmanager.url,), labels={"no-label-name": "x"})  # YAML would not decode to this
    alert = Alert("k", "shelf", "psi", "", Severity.INFO, 1.0, 1.0, "text", 1.0, 0.0, serial=1)
    with pytest.raises(Undelivered, match=r"400 Bad Request: .*no-label-name") as told:
        unchecked.open().refresh([alert], time.time())
    assert not told.value.retry
