"""A request that is refused, and how the sender is told: problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response

MEDIA = "application/problem+json"
_UNREAD = {401, 408, 413, 429}  # answered before the body was read to its end: the connection cannot go on


class Problem(Exception):
    """A request that cannot be taken in; the sender gets the status and the text, which shows no secret.

    `after`: seconds after which the same may be tried again.
    """

    def __init__(self, status: int, text: str, *, after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.after = after

    def details(self) -> Details:
        """As told to a program."""
        return Details(self.status, HTTPStatus(self.status).phrase, str(self))

    def headers(self) -> dict[str, str]:
        """Of the answer, whatever its body."""
        headers = {} if self.after is None else {"Retry-After": str(max(1, round(self.after)))}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in _UNREAD:
            headers["Connection"] = "close"
        return headers

    def answer(self) -> Response:
        """As a response."""
        return Response(msgspec.json.encode(self.details()), self.status, self.headers(), MEDIA)


class Details(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    status: int
    title: str
    detail: str
    type: str = "about:blank"  # the status says what kind of problem it is
