"""The e-mail sink against a real mail server, in the clear and encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from alerting.alert import Alert, Notice, Severity, Transition, notice_id
from alerting.deliver import Undelivered
from alerting.outbox import Item, notices_to
from alerting.secret import Secret
from alerting.sinks.email import Email
from tests.services.mail import Mailbox
from tests.services.process import free_port
from tests.services.tls import Authority

ALERT = Alert(
    key="shelf/psi/weight", model="shelf", check="psi", column="weight", severity=Severity.CRITICAL, started=1_000.0,
    last_seen=1_010.0, text="weight moved: its mean went from 310 to 280", score=0.5, limit=0.2, serial=1,
)  # fmt: skip


def options(port: int, **more: Any) -> Email:
    to = ("night@example.org", "day@example.org")
    plain: dict[str, Any] = {"port": port, "security": "none", "timeout": 5.0}
    return Email("127.0.0.1", "driftd <driftd@example.org>", to, **(plain | more))


def items(*notices: tuple[Alert, Transition]) -> list[Item]:
    return notices_to(["mail"], [Notice(notice_id(a), t, a) for a, t in notices], created=1_700_000_000.0)


def test_a_mail_is_plain_and_html_and_goes_to_all() -> None:
    with Mailbox() as box:
        options(box.port).open("https://driftd.example.org").send(items((ALERT, Transition.OPENED)))
        (mail,) = box.mails
        assert box.recipients == [["night@example.org", "day@example.org"]]
    assert (mail["Subject"], mail["From"]) == ("[driftd] shelf: weight (psi)", "driftd <driftd@example.org>")
    assert (mail["Importance"], mail["Auto-Submitted"]) == ("high", "auto-generated")
    plain, html = (part.get_content() for part in mail.iter_parts())
    assert plain.startswith("CRITICAL shelf: weight moved")
    assert "https://driftd.example.org/" in plain
    assert "<h3>CRITICAL shelf: weight moved" in html


def test_what_is_said_later_of_an_alert_refers_to_its_first_mail() -> None:
    later = replace(ALERT, serial=3, resolved=1_020.0)
    again = replace(ALERT, started=5_000.0)
    with Mailbox() as box:
        sink = options(box.port).open()
        sink.send(items((ALERT, Transition.OPENED), (later, Transition.RESOLVED), (again, Transition.OPENED)))
        first, reply, other = box.mails
    assert first["References"] is None
    assert reply["References"] == reply["In-Reply-To"] == first["Message-ID"]
    assert reply["Subject"] == first["Subject"]
    assert other["References"] is None
    assert len({mail["Message-ID"] for mail in (first, reply, other)}) == 3


def test_a_repeat_has_the_same_message_id() -> None:
    with Mailbox() as box:
        for _ in range(2):
            options(box.port).open().send(items((ALERT, Transition.OPENED)))
        assert len(box.mails) == 2
        assert len({mail["Message-ID"] for mail in box.mails}) == 1


def test_names_from_outside_make_no_header() -> None:
    hostile = replace(ALERT, column="x\r\nBcc: everyone@example.org\r\n\r\n<script>", text="a\nb <script>")
    with Mailbox() as box:
        options(box.port).open().send(items((hostile, Transition.OPENED)))
        (mail,) = box.mails
        assert box.recipients == [["night@example.org", "day@example.org"]]
    assert mail["Bcc"] is None
    assert "<script>" not in str(mail.get_payload(1))


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # which the server is told nothing of
@pytest.mark.parametrize("starttls", [True, False])
def test_encrypted_and_logged_in(tmp_path: Path, starttls: bool) -> None:
    authority = Authority(tmp_path / "ca", "mail authority")
    certificate = str(authority.issue("server", "mail"))
    secure = {"security": "starttls" if starttls else "tls", "username": "driftd", "ca": str(authority.bundle)}
    with Mailbox(certificate, starttls=starttls, password="right") as box:
        options(box.port, password=Secret("right"), **secure).open().send(items((ALERT, Transition.OPENED)))
        assert len(box.mails) == 1
        with pytest.raises(Undelivered, match="535") as told:
            options(box.port, password=Secret("wrong"), **secure).open().send(items((ALERT, Transition.OPENED)))
        assert told.value.retry
        with pytest.raises(Undelivered, match="certificate not trusted") as told:
            options(box.port, **(secure | {"ca": ""})).open().send(items((ALERT, Transition.OPENED)))
        assert told.value.retry
        assert len(box.mails) == 1


def test_a_server_without_encryption_gets_no_mail_that_must_be_encrypted() -> None:
    with Mailbox() as box:
        with pytest.raises(Undelivered, match="STARTTLS") as told:
            options(box.port, security="starttls").open().send(items((ALERT, Transition.OPENED)))
        assert told.value.retry
        assert box.mails == []
    with pytest.raises(ValueError, match="without encryption"):
        options(25, username="u", password=Secret("p")).open()


@pytest.mark.parametrize(("answer", "retry"), [("451 later", True), ("452 full", True), ("554 this is spam", False)])
def test_a_refused_mail_is_told_apart_from_a_server_in_trouble(answer: str, retry: bool) -> None:
    with Mailbox() as box:
        box.answers += ["250 OK", answer]
        sent = items(*((replace(ALERT, serial=n), Transition.UPDATED) for n in (1, 2, 3)))
        with pytest.raises(Undelivered, match=answer) as told:
            options(box.port).open().send(sent)
        assert (told.value.retry, told.value.delivered) == (retry, 1)


def test_one_unknown_recipient_keeps_the_others_from_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with Mailbox() as box:
        box.unknown.add("night@example.org")
        options(box.port).open().send(items((ALERT, Transition.OPENED)))
        assert box.recipients == [["day@example.org"]]
        assert "night@example.org" in caplog.text
        box.unknown.add("day@example.org")
        with pytest.raises(Undelivered, match="no recipient is taken") as told:
            options(box.port).open().send(items((ALERT, Transition.OPENED)))
        assert told.value.retry


def test_nobody_listens() -> None:
    with pytest.raises(Undelivered, match="connection refused") as told:
        options(free_port()).open().send(items((ALERT, Transition.OPENED)))
    assert told.value.retry
