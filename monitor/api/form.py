"""Verdicts from the page: a form as browsers send it, answered by going back to the alert."""

from __future__ import annotations

import re
import secrets
from urllib.parse import parse_qs, quote

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from monitor.alertpage import POLICY, alert_page, problem_page
from monitor.api.alerts import Rulings, Said
from monitor.api.endpoint import AGAIN, Door, read_body
from monitor.api.problem import Problem
from monitor.log import Full
from monitor.people import Right

_LARGEST = 64 * 1024  # bytes of a form
_FIELDS = 20
_NAME = re.compile("[0-9a-f]{32}")  # of a verdict, as we gave it to the form


class Forms:
    """The page of an alert, and what its form sends. The token comes in the form and is kept nowhere."""

    def __init__(self, door: Door, rulings: Rulings) -> None:
        self._door, self._rulings = door, rulings

    def routes(self) -> list[Route]:
        """Of both."""
        return [Route("/alert", self.show), Route("/alert/verdict", self.take, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        key, given = request.query_params.get("key", ""), request.query_params.get("given", "")
        alert, verdicts = self._rulings.known(key)
        if alert is None and not verdicts and not self._rulings.given(given, key):
            return _page(problem_page(404, f"There is no alert {key[:200]}.", "/"), 404)
        named = given if self._rulings.given(given, key) else ""
        return _page(alert_page(key, alert, verdicts, secrets.token_hex(16), named))

    async def take(self, request: Request) -> Response:
        back = "/"
        try:
            fields = await _fields(request)
            key, name = fields.pop("key", ""), fields.pop("id", "")
            back = f"/alert?key={quote(key, safe='')}"
            by = self._door.admit(fields.pop("token", ""), (Right.VERDICT,), request)
            if not _NAME.fullmatch(name):
                raise Problem(400, "the form is not ours; go back and send it again")
            verdict = self._rulings.give(key, _said(fields), by, name)
        except Problem as problem:
            return _refused(problem, back)
        except Full:
            return _refused(Problem(503, "what keeps it until it is judged is full; try again", after=AGAIN), back)
        except ClientDisconnect:
            return Response(status_code=400)
        return RedirectResponse(f"{back}&given={verdict.id}", 303)


async def _fields(request: Request) -> dict[str, str]:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/x-www-form-urlencoded":
        raise Problem(415, f"{media or 'no content type'}: this takes the form of the page")
    body = await read_body(request, _LARGEST)
    try:
        given = parse_qs(body.decode(), max_num_fields=_FIELDS)
    except ValueError as error:
        raise Problem(400, "the form cannot be read") from error
    return {name: values[-1] for name, values in given.items()}


def _said(fields: dict[str, str]) -> Said:
    try:
        return msgspec.convert(fields, Said)
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from error


def _refused(problem: Problem, back: str) -> Response:
    return _page(problem_page(problem.status, str(problem), back), problem.status, problem.headers())


def _page(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    kept = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return HTMLResponse(text, status, {**(headers or {}), **kept, "Referrer-Policy": "no-referrer"})
