"""Notices as mail, threaded by alert: what is said later refers to the mail that said it opened."""

from __future__ import annotations

import logging
import smtplib
import socket
import ssl
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from alerting.alert import Notice, Seconds, Severity, notice_id
from alerting.connection import cause, checked_host, connect, limited
from alerting.deliver import Undelivered
from alerting.outbox import Item, notice_in
from alerting.secret import Secret
from alerting.text import html, message, plain, subject

_log = logging.getLogger(__name__)

_ADDRESS = r"^[^\s<>@,]+@[^\s<>@,]+$|^[^\r\n<>]*<[^\s<>@,]+@[^\s<>@,]+>$"  # a bare one, or a name before it
_REFUSED = {552, 554}  # of the mail itself: too large, or taken for spam

Address = Annotated[str, Meta(pattern=_ADDRESS)]


class Email(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="email"):
    """Sends each notice as a mail, plain and HTML. A repeat after a crash has the same Message-ID, by which mailboxes
    drop it; mails of one alert share a subject and refer to its first, so that they show as one thread."""

    host: Annotated[str, Meta(min_length=1, description="Mail server.")]
    sender: Annotated[Address, Meta(description="Who it is from, such as driftd <driftd@example.org>.")]
    to: Annotated[tuple[Address, ...], Meta(min_length=1, description="Who gets it.")]
    port: Annotated[int, Meta(ge=1, le=65535, description="Its port: 587 with starttls, 465 with tls.")] = 587
    security: Annotated[
        Literal["starttls", "tls", "none"],
        Meta(description="Encryption, never left out silently; none only where the network can be trusted."),
    ] = "starttls"
    username: Annotated[str, Meta(description="Who logs in; empty: nobody.")] = ""
    password: Annotated[Secret, Meta(description="Their password.")] = Secret()
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "email"
    private: Annotated[bool, Meta(description="Whether the server may have a private address or loopback.")] = True
    timeout: Annotated[Seconds, Meta(gt=0, le=120, description="Longest time for one mail, greeting included.")] = 20.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def open(self, home: str = "") -> EmailSink:
        """The live destination; ValueError for a host or a password that makes no sense, OSError for a CA file."""
        if self.password and self.security == "none":
            raise ValueError("a password is not sent without encryption: set security to starttls or tls")
        checked_host(self.host, private=self.private)
        return EmailSink(self, home)


class EmailSink:
    """The opened `Email`."""

    def __init__(self, options: Email, home: str) -> None:
        self._options, self._home = options, home
        self._tls = None if options.security == "none" else ssl.create_default_context(cafile=options.ca or None)
        self._to = [parseaddr(to)[1] for to in options.to]
        self._sender = parseaddr(options.sender)[1]
        self._domain = self._sender.rpartition("@")[2]

    def send(self, items: Sequence[Item]) -> None:
        """Without items it only connects and logs in."""
        delivered, timeout = 0, self._options.timeout
        server = _Server(self._options, self._tls)
        try:
            with closing(server):
                with limited(lambda: server.sock, timeout):
                    server.greet()
                for item in items:
                    with limited(lambda: server.sock, timeout):
                        self._send(server, item)
                    delivered += 1
        except (OSError, smtplib.SMTPException) as error:
            retry = not (isinstance(error, smtplib.SMTPDataError) and error.smtp_code in _REFUSED)
            raise Undelivered(self._said(error), retry=retry, delivered=delivered) from error

    def close(self) -> None:
        """Connections last one batch."""

    def _send(self, server: smtplib.SMTP, item: Item) -> None:
        refused = server.send_message(self._mail(notice_in(item), item.created), self._sender, self._to)
        if refused:  # not all: that would have been raised
            _log.warning("%s: the mail server does not take mail for %s", self._options.name, ", ".join(refused))

    def _mail(self, notice: Notice, created: float) -> EmailMessage:
        alert, told = notice.alert, message(notice, self._home)
        mail = EmailMessage()
        mail["Subject"] = subject(alert)
        mail["From"] = self._options.sender
        mail["To"] = ", ".join(self._options.to)
        mail["Date"] = format_datetime(datetime.fromtimestamp(created, UTC))
        mail["Message-ID"] = f"<{notice.id}@{self._domain}>"
        opening = notice_id(replace(alert, serial=1))
        if notice.id != opening:
            mail["In-Reply-To"] = mail["References"] = f"<{opening}@{self._domain}>"
        mail["Auto-Submitted"] = "auto-generated"  # no answer from who is on holiday (RFC 3834)
        if alert.severity is Severity.CRITICAL and alert.firing:
            mail["Importance"] = "high"
        mail.set_content(plain(told))
        mail.add_alternative(html(told), subtype="html")
        return mail

    def _said(self, error: OSError | smtplib.SMTPException) -> str:
        options = self._options
        if isinstance(error, smtplib.SMTPResponseException):
            words = (
                error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode("utf-8", "replace")
            )
            said = f"{error.smtp_code} {' '.join(words.split())[:200]}"
        elif isinstance(error, smtplib.SMTPRecipientsRefused):
            said = f"no recipient is taken: {', '.join(map(str, error.recipients))}"
        elif isinstance(error, smtplib.SMTPException):
            said = str(error) or type(error).__name__
        else:
            said = cause(error)
        if options.password:
            said = said.replace(options.password, "...")
        return f"{options.host}:{options.port}: {said}"


class _Server(smtplib.SMTP):
    """A connection to the mail server, at an address that was looked at."""

    def __init__(self, options: Email, tls: ssl.SSLContext | None) -> None:
        # the name we greet with; by default smtplib asks the resolver for it
        super().__init__(timeout=options.timeout, local_hostname=socket.gethostname())
        self._options, self._tls = options, tls
        self._host = options.host  # which STARTTLS checks the certificate against

    def greet(self) -> None:
        """Connects, encrypts as configured, and logs in. Raises OSError or SMTPException."""
        options = self._options
        code, words = self.connect(options.host, options.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, words)
        if options.security == "starttls":
            self.starttls(context=self._tls)
        if options.username:
            self.login(options.username, options.password)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = connect(host, port, timeout, private=self._options.private)
        if self._options.security != "tls" or self._tls is None:
            return plain
        return self._tls.wrap_socket(plain, server_hostname=host)
