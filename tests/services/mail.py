"""A mail server on loopback that keeps what it was given."""

from __future__ import annotations

import ssl
from collections import deque
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.services.process import free_port


class Mailbox:
    """Takes mail at `port` of 127.0.0.1 and answers each with `answers` in turn, then with 250.

    With a certificate it speaks TLS, at once or after STARTTLS, and then wants a login by `password`.
    """

    def __init__(self, certificate: str = "", *, starttls: bool = True, password: str = "") -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.answers: deque[str] = deque()
        self.unknown: set[str] = set()  # recipients that are refused
        self.port = free_port()
        context = None
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)

        def known(_server: object, _session: object, _envelope: object, _how: str, said: object) -> AuthResult:
            right = isinstance(said, LoginPassword) and said.password.decode() == password
            return AuthResult(success=right, handled=False)

        more: dict[str, Any] = {}
        if starttls:
            more = {"tls_context": context, "require_starttls": context is not None}
        if password:  # of TLS from the start the server's own protocol knows nothing
            more |= {"authenticator": known, "auth_required": True, "auth_require_tls": starttls}
        self._controller = Controller(
            self, hostname="127.0.0.1", port=self.port, ssl_context=None if starttls else context, **more
        )

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802 aiosmtpd's name
        if address in self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 aiosmtpd's name
        answer = self.answers.popleft() if self.answers else "250 OK"
        if answer.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self.recipients.append(list(envelope.rcpt_tos))
        return answer

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
