"""The contract of every sink that speaks HTTP, over a real server; what each says; the log."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Thread
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.alert import Alert, Member, Notice, Ruling, Severity, Transition, Verdict, notice_id
from alerting.deliver import Refreshing, Undelivered
from alerting.kafka import Security
from alerting.outbox import Item, notices_to
from alerting.secret import Secret
from alerting.sinks import SINKS, SinkOptions
from alerting.sinks.alertmanager import Alertmanager
from alerting.sinks.email import Email
from alerting.sinks.kafka import Kafka
from alerting.sinks.log import Log
from alerting.sinks.pagerduty import PagerDuty
from alerting.sinks.slack import Slack
from alerting.sinks.webhook import Webhook
from tests.services.web import Answer, Receiver

HTTP = sorted(SINKS.keys() - {"log", "email", "kafka"})  # those two speak otherwise, and have tests of their own
SECRET = "hunter2"
SHOWN = "what is 127.0.0.1 Bad Request webhook alertmanager pagerduty"
SIGNING = "whsec_" + b64encode(b"0123456789abcdef01234567").decode()


def alert(column: str = "weight", **changes: Any) -> Alert:
    made = Alert(
        key=f"shelf/mean_shift/{column}",
        model="shelf",
        check="mean_shift",
        column=column,
        severity=Severity.WARNING,
        started=1_000.0,
        last_seen=1_010.0,
        text=f"{column} rose",
        score=0.5,
        limit=0.2,
        facts={"from": 1.0, "to": float("nan")},
        serial=1,
    )
    return msgspec.structs.replace(made, **changes)


def items(*alerts: Alert, transition: Transition = Transition.OPENED) -> list[Item]:
    return notices_to(["here"], [Notice(notice_id(a), transition, a) for a in alerts], created=0.0)


def options(kind: str, url: str, timeout: float = 5.0) -> SinkOptions:
    secret, headers = f"{url}/{SECRET}", {"Authorization": f"Bearer {SECRET}"}
    more: dict[str, dict[str, Any]] = {
        "alertmanager": {"urls": [secret], "headers": headers},
        "pagerduty": {"service": secret, "routing_key": SECRET},
        "slack": {"url": secret},
        "webhook": {"url": secret, "headers": headers, "secrets": [SIGNING]},
    }
    said = {"kind": kind, "timeout": timeout, **more[kind]}
    made: SinkOptions = msgspec.convert(said, SinkOptions, dec_hook=lambda kind, value: kind(value))
    return made


@pytest.mark.parametrize("kind", HTTP)
class TestEverySinkOverHttp:
    def test_delivers_once_when_all_is_well(self, kind: str, receiver: Receiver) -> None:
        options(kind, receiver.url).open().send(items(alert()))
        (call,) = receiver.calls
        assert call.method == "POST"
        assert call.headers["content-type"] == "application/json"
        assert SECRET in call.path + call.headers.get("authorization", "")
        assert "weight rose" in call.body.decode()

    def test_a_repeat_says_the_same_again(self, kind: str, receiver: Receiver) -> None:
        sink = options(kind, receiver.url).open()
        for _ in range(2):
            sink.send(items(alert(resolved=1_020.0)))
        first, second = receiver.calls
        assert first.json() == second.json()

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
    def test_a_destination_in_trouble_is_tried_again(self, kind: str, receiver: Receiver, status: int) -> None:
        receiver.answers.append(Answer(status, {"Retry-After": "17"}))
        with pytest.raises(Undelivered, match=f"127.0.0.1:.*{status}") as told:
            options(kind, receiver.url).open().send(items(alert()))
        assert (told.value.retry, told.value.after) == (True, 17.0)

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_a_refused_payload_is_told_apart(self, kind: str, receiver: Receiver, status: int) -> None:
        receiver.answers.append(Answer(status, body=b"no such label"))
        with pytest.raises(Undelivered, match="no such label") as told:
            options(kind, receiver.url).open().send(items(alert()))
        assert not told.value.retry

    def test_a_retry_after_may_be_a_date_or_nonsense(self, kind: str, receiver: Receiver) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        receiver.answers += [Answer(503, {"Retry-After": date}), Answer(503, {"Retry-After": "soon"})]
        waits = []
        for _ in range(2):
            with pytest.raises(Undelivered) as told:
                options(kind, receiver.url).open().send(items(alert()))
            waits.append(told.value.after)
        assert waits[0] is not None
        assert 95 < waits[0] <= 100
        assert waits[1] is None

    def test_a_redirect_is_not_followed(self, kind: str, receiver: Receiver) -> None:
        receiver.answers.append(Answer(302, {"Location": f"{receiver.url}/elsewhere"}))
        with pytest.raises(Undelivered, match="redirect") as told:
            options(kind, receiver.url).open().send(items(alert()))
        assert told.value.retry
        assert len(receiver.calls) == 1

    def test_a_slow_answer_is_not_waited_for(self, kind: str, receiver: Receiver) -> None:
        receiver.answers.append(Answer(delay=30))
        began = time.monotonic()
        with pytest.raises(Undelivered, match="no answer in time") as told:
            options(kind, receiver.url, timeout=0.2).open().send(items(alert()))
        assert told.value.retry
        assert time.monotonic() - began < 5

    def test_a_trickling_answer_is_not_waited_for(self, kind: str) -> None:
        with trickling() as url:
            began = time.monotonic()
            with pytest.raises(Undelivered, match="no answer in time") as told:
                options(kind, url, timeout=0.5).open().send(items(alert()))
            assert told.value.retry
            assert time.monotonic() - began < 5

    def test_nobody_listens(self, kind: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        with pytest.raises(Undelivered, match=f"127.0.0.1:{port}: connection refused") as told:
            options(kind, f"http://127.0.0.1:{port}").open().send(items(alert()))
        assert told.value.retry

    def test_secrets_are_in_no_repr_and_no_error(self, kind: str, receiver: Receiver) -> None:
        configured = options(kind, receiver.url)
        receiver.answers.append(Answer(400, body=f"cannot POST /{SECRET}".encode()))
        receiver.answers.append(Answer(400, body=f"cannot POST /{SECRET}, bearer {SECRET}".encode()))
        for _ in range(2):
            with pytest.raises(Undelivered, match="cannot POST") as told:
                configured.open().send(items(alert()))
            assert SECRET not in str(told.value)
        assert SECRET not in repr(configured)
        assert SIGNING not in repr(configured)

    @pytest.mark.parametrize("url", ["ftp://host", "http://", "nonsense"])
    def test_a_url_that_makes_no_sense_is_refused_before_it_runs(self, kind: str, url: str) -> None:
        with pytest.raises(ValueError, match=r"URL|regex"):
            options(kind, url).open()


@contextmanager
def trickling() -> Iterator[str]:
    """A server that sends a byte of a header every tenth of a second, for ever."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.1)
            except OSError:
                return

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_the_webhook_tells_how_far_it_came(receiver: Receiver) -> None:
    receiver.answers += [Answer(), Answer(204), Answer(500)]
    sent = items(alert("a"), alert("b"), alert("c"), alert("d"))
    with pytest.raises(Undelivered) as told:
        Webhook(receiver.url).open().send(sent)
    assert told.value.delivered == 2
    assert [call.headers["idempotency-key"] for call in receiver.calls] == [i.id for i in sent[:3]]
    document = receiver.calls[0].json()
    assert document["id"] == sent[0].id
    assert (document["transition"], document["started"]) == ("opened", "1970-01-01T00:16:40.000Z")
    assert document["facts"] == {"from": 1.0, "to": None}


def test_the_log_writes_one_line_of_json_at_the_level_of_the_severity(caplog: pytest.LogCaptureFixture) -> None:
    sink = Log(logger="driftd.test").open()
    with caplog.at_level(logging.INFO, "driftd.test"):
        sink.send(items(alert("two\nlines"), alert(severity=Severity.CRITICAL)))
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]
    line = caplog.records[0].getMessage()
    assert "\n" not in line
    assert json.loads(line)["column"] == "two\nlines"


def test_the_log_names_the_first_of_many_members_and_counts_the_others(caplog: pytest.LogCaptureFixture) -> None:
    members = tuple(
        Member(f"shelf/psi/c{i}", "psi", f"c{i}", "", Severity.WARNING, 0.0, "moved " * 30) for i in range(40)
    )
    sink = Log(logger="driftd.test").open()
    with caplog.at_level(logging.INFO, "driftd.test"):
        sink.send(items(alert(members=members, joined=40), alert(members=members[:5])))
    many, few = (json.loads(record.getMessage()) for record in caplog.records)
    assert [member["column"] for member in many["members"]] == [f"c{i}" for i in range(5)]
    assert (many["more_members"], many["joined"]) == (35, 40)
    assert (len(few["members"]), few["more_members"]) == (5, 0)
    assert len(caplog.records[0].getMessage()) < 3_000


class TestAlertmanager:
    def test_labels_hold_identity_alone(self, receiver: Receiver) -> None:
        Alertmanager((receiver.url,), labels={"team": "shop"}).open().send(items(alert()))
        (call,) = receiver.calls
        assert call.path == "/api/v2/alerts"
        (posted,) = call.json()
        assert posted["labels"] == {
            "alertname": "DriftdMeanShift",
            "severity": "warning",
            "model": "shelf",
            "check": "mean_shift",
            "column": "weight",
            "team": "shop",
        }
        assert posted["annotations"]["description"].startswith("What: weight rose\nSince: ")
        assert json.loads(posted["annotations"]["facts"])["from"] == 1.0
        assert all(isinstance(v, str) for v in posted["annotations"].values())

    def test_start_is_constant_and_the_end_is_four_resends_ahead(self, receiver: Receiver) -> None:
        sink = Alertmanager((receiver.url,), resend=30).open()
        assert isinstance(sink, Refreshing)
        sink.refresh([alert(), alert("b", resolved=1_020.0)], now=2_000.0)
        sink.refresh([alert()], now=2_030.0)
        (firing, resolved), (again,) = (call.json() for call in receiver.calls)
        assert firing["startsAt"] == again["startsAt"] == resolved["startsAt"] == "1970-01-01T00:16:40.000Z"
        assert (firing["endsAt"], again["endsAt"]) == ("1970-01-01T00:35:20.000Z", "1970-01-01T00:35:50.000Z")
        assert resolved["endsAt"] == "1970-01-01T00:17:00.000Z"

    def test_event_time_ahead_of_the_clock_does_not_keep_an_alert_firing(self, receiver: Receiver) -> None:
        Alertmanager((receiver.url,)).open().refresh([alert(resolved=1_020.0)], now=500.0)
        (posted,) = receiver.calls[0].json()
        assert posted["startsAt"] == posted["endsAt"] == "1970-01-01T00:08:20.000Z"

    def test_a_risen_severity_ends_the_milder_alert(self, receiver: Receiver) -> None:
        risen = alert(severity=Severity.CRITICAL, opened_as=Severity.WARNING)
        began = datetime.now(UTC)
        Alertmanager((receiver.url,)).open().send(items(risen, transition=Transition.UPDATED))
        milder, graver = receiver.calls[0].json()
        assert (milder["labels"]["severity"], graver["labels"]["severity"]) == ("warning", "critical")
        assert milder["labels"] | {"severity": "critical"} == graver["labels"]
        ends = datetime.fromisoformat(milder["endsAt"])
        assert began - timedelta(seconds=1) <= ends <= datetime.now(UTC)

    def test_of_an_alert_that_changed_meanwhile_the_last_state_is_posted(self, receiver: Receiver) -> None:
        Alertmanager((receiver.url,)).open().send(items(alert(), alert("b"), alert(resolved=1_020.0)))
        posted = receiver.calls[0].json()
        assert [a["labels"]["column"] for a in posted] == ["weight", "b"]
        assert posted[0]["endsAt"] == "1970-01-01T00:17:00.000Z"

    def test_every_member_is_told_and_one_is_enough(self, receiver: Receiver) -> None:
        with Receiver() as other:
            sink = Alertmanager((receiver.url, other.url)).open()
            receiver.answers.append(Answer(500))
            sink.send(items(alert()))
            assert len(receiver.calls) == len(other.calls) == 1

            receiver.answers.append(Answer(500))
            other.answers.append(Answer(400))
            with pytest.raises(Undelivered) as told:
                sink.send(items(alert()))
            assert told.value.retry

    def test_many_alerts_go_in_several_posts(self, receiver: Receiver) -> None:
        Alertmanager((receiver.url,)).open().refresh([alert(f"c{i}") for i in range(450)], now=2_000.0)
        assert [len(call.json()) for call in receiver.calls] == [200, 200, 50]

    def test_an_alert_that_is_silenced_ends_and_one_never_told_is_not_posted(self, receiver: Receiver) -> None:
        muted, unsaid = alert(muted="by a rule", said=1_015.0), alert("b", leader="shelf/mean_shift/weight", serial=0)
        Alertmanager((receiver.url,)).open().refresh([muted, unsaid], now=2_000.0)
        (posted,) = receiver.calls[0].json()
        assert (posted["labels"]["column"], posted["endsAt"]) == ("weight", "1970-01-01T00:16:55.000Z")


def test_signatures_are_those_that_receivers_compute(receiver: Receiver) -> None:
    keys = [b"0123456789abcdef01234567", b"another-key-of-24-bytes!"]
    secrets = tuple(Secret("whsec_" + b64encode(key).decode()) for key in keys)
    began = time.time()
    Webhook(receiver.url, secrets=secrets).open().send(items(alert()))
    (call,) = receiver.calls
    assert call.headers["webhook-id"] == call.headers["idempotency-key"] == call.json()["id"]
    assert began - 1 <= int(call.headers["webhook-timestamp"]) <= time.time()
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.".encode() + call.body
    made = ["v1," + b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    assert call.headers["webhook-signature"] == " ".join(made)


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_", "whsec_short", "whsec_" + "A" * 200, "whsec_not base64!"])
def test_a_signing_secret_that_makes_no_sense_is_refused_before_it_runs(secret: str) -> None:
    with pytest.raises(ValueError, match="signing secret") as told:
        Webhook("http://127.0.0.1", secrets=(Secret(secret),)).open()
    assert not secret or secret == "whsec_" or secret not in str(told.value)


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=7, max_size=40).filter(lambda s: s not in SHOWN))
@settings(max_examples=20)
def test_no_secret_is_in_a_repr_or_a_refusal(secret: str) -> None:
    with Receiver() as receiver:
        receiver.answers.extend(Answer(400, body=f"what is {secret}?".encode()) for _ in range(9))
        hidden = f"{receiver.url}/{secret}"
        told: list[SinkOptions] = [
            Webhook(hidden, headers={"X-Key": secret}),
            Alertmanager((hidden,), headers={"X-Key": secret}),
            Slack(hidden),
            PagerDuty(Secret(secret), receiver.url),
            Email("127.0.0.1", "a@b.c", ("a@b.c",), username="u", password=Secret(secret)),
            Kafka(("127.0.0.1:9",), "t", Security(password=Secret(secret), keypassword=Secret(secret))),
        ]
        assert {type(options) for options in told} == set(SINKS.values()) - {Log}
        for options in told:
            assert secret not in repr(options)
            if not isinstance(options, Email | Kafka):
                with pytest.raises(Undelivered, match="400") as refused:
                    options.open().send(items(alert()))
                assert secret not in str(refused.value)


class TestSlack:
    def test_what_waits_goes_together_and_messages_keep_a_pace(self, receiver: Receiver) -> None:
        Slack(receiver.url).open().send(items(*(alert(f"c{i}") for i in range(25))))
        first, second = receiver.calls
        assert [block["type"] for block in first.json()["blocks"]].count("section") == 20
        assert len(second.json()["blocks"]) == 9
        assert second.time - first.time >= 1.0

    def test_nothing_from_outside_is_read_as_a_command(self, receiver: Receiver) -> None:
        hostile = alert("<!channel> & <https://evil.example|click>")
        Slack(receiver.url).open("https://driftd.example.org").send(items(hostile))
        (block,) = receiver.calls[0].json()["blocks"]
        text = block["text"]["text"]
        assert "<!channel>" not in text
        assert "&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;" in text
        assert "<https://driftd.example.org/|Page>" in text

    def test_blocks_stay_within_their_limits(self, receiver: Receiver) -> None:
        Slack(receiver.url).open().send(items(*(alert("&" * 500 + str(i), text="<" * 2_000) for i in range(20))))
        message = receiver.calls[0].json()
        assert len(message["blocks"]) <= 50
        assert all(len(b["text"]["text"]) <= 3_000 for b in message["blocks"] if b["type"] == "section")
        assert len(message["text"]) <= 3_000


class TestPagerDuty:
    KEY = Secret("R0" * 16)

    def event(self, receiver: Receiver, alert: Alert, transition: Transition) -> Any:
        PagerDuty(self.KEY, receiver.url).open("https://driftd.example.org").send(items(alert, transition=transition))
        call = receiver.calls[-1]
        assert call.path == "/v2/enqueue"
        return call.json()

    def test_an_incident_lives_as_its_alert(self, receiver: Receiver) -> None:
        ruled = Verdict(id="v", key="k", ruling=Ruling.UNINTENDED, by="ann", at=1_015.0)
        story = [
            (alert(), Transition.OPENED, "trigger"),
            (alert(severity=Severity.CRITICAL), Transition.ESCALATED, "trigger"),
            (alert(verdict=ruled), Transition.VERDICT, "acknowledge"),
            (alert(), Transition.VERDICT, "trigger"),  # taken back
            (alert(muted="false alarm"), Transition.SILENCED, "resolve"),
            (alert(resolved=1_020.0), Transition.FIXED, "resolve"),
        ]
        events = [self.event(receiver, a, t) for a, t, _ in story]
        assert [e["event_action"] for e in events] == [action for _, _, action in story]
        assert {e["dedup_key"] for e in events} == {"shelf/mean_shift/weight"}
        assert {e["routing_key"] for e in events} == {self.KEY}
        payload = events[0]["payload"]
        assert (payload["severity"], payload["source"], payload["component"]) == ("warning", "shelf", "weight")
        assert payload["timestamp"] == "1970-01-01T00:16:40.000Z"
        assert events[1]["payload"]["severity"] == "critical"
        assert events[0]["links"] == [{"href": "https://driftd.example.org/", "text": "driftd"}]

    def test_a_long_key_and_a_large_event_fit(self, receiver: Receiver) -> None:
        key = "shelf/psi/" + "x" * 500
        member = Member("k", "psi", "c", "", Severity.INFO, 0.0, "m" * 20_000)
        event = self.event(receiver, alert(key=key, members=(member,) * 50), Transition.OPENED)
        assert len(event["dedup_key"]) == 64
        assert len(receiver.calls[-1].body) < 512_000
        assert event["payload"]["custom_details"].keys() == {"message"}
        assert event["dedup_key"] == self.event(receiver, alert(key=key), Transition.OPENED)["dedup_key"]
