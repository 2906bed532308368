"""An act or a question over HTTP, described once: its route, the checks before it and its OpenAPI text follow."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from monitor.api.problem import Problem
from monitor.log import Full
from monitor.metrics import Meters
from monitor.people import People, Right

LARGEST = 256 * 1024  # bytes of a body, unless an endpoint takes more
AGAIN = 5.0  # seconds after which a sender may come again when what keeps its act is full
_SLOWEST = 30.0  # seconds that a body may take to come in
_KEY = 200  # characters of an idempotency key


class Call(NamedTuple):
    """A request that was let in."""

    by: str  # the person's name; empty where nobody is asked for
    path: Mapping[str, str]
    query: Any  # an instance of `Endpoint.query`
    body: Any  # an instance of `Endpoint.body`
    id: str  # of this act; the same for the same person, idempotency key and body


class Endpoint(NamedTuple):
    """What is asked, by whom, and what is answered."""

    method: str
    path: str  # as Starlette writes it: `{key:path}` may hold slashes
    run: Callable[[Call], Awaitable[Any]]  # returns an instance of `answer`, or a Response; raises Problem
    summary: str
    answer: Any  # a type, or the media type of what is no JSON
    may: Collection[Right] = ()  # any one of these is needed; none: open to everybody
    query: type[msgspec.Struct] | None = None
    body: Any = None
    example: Any = None  # of the body
    status: int = 200
    largest: int = LARGEST  # bytes of a body
    problems: Mapping[int, str] = {}  # beside those of every endpoint: when they come

    @property
    def name(self) -> str:
        """Of the operation, such as `verdict_give`."""
        return self.run.__name__


class Door:
    """Lets requests in: who they are from, how large, of what shape. Every refusal is told in one way."""

    def __init__(self, people: People, meters: Meters) -> None:
        self._people = people
        self._requests = meters.api_requests

    def route(self, endpoint: Endpoint) -> Route:
        """The route of an endpoint."""

        async def answer(request: Request) -> Response:
            try:
                call = await self._admitted(endpoint, request)
                told = await endpoint.run(call)
                answered = told if isinstance(told, Response) else json_of(told, endpoint.status)
            except Problem as problem:
                answered = problem.answer()
            except Full:
                answered = Problem(503, "what keeps it until it is judged is full; try again", after=AGAIN).answer()
            except ClientDisconnect:
                answered = Response(status_code=400)
            answered.headers["Cache-Control"] = "no-store"  # a lease's token, or what was true a second ago
            self._requests.labels(endpoint.name, str(answered.status_code)).inc()
            return answered

        return Route(endpoint.path, answer, methods=[endpoint.method], name=endpoint.name)

    def admit(self, token: str, may: Collection[Right], request: Request) -> str:
        """The name of whose token it is. Raises Problem."""
        return self._people.admit(token, may, request.client.host if request.client else "")

    async def _admitted(self, endpoint: Endpoint, request: Request) -> Call:
        by = ""
        if endpoint.may:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            by = self.admit(token.strip() if scheme.lower() == "bearer" else "", endpoint.may, request)
        query = None if endpoint.query is None else _query(request, endpoint.query)
        raw, body = b"", None
        if endpoint.body is not None:
            media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media != "application/json":  # which no form of a foreign page can send
                raise Problem(415, f"{media or 'no content type'}: wanted is application/json")
            raw = await read_body(request, endpoint.largest)
            body = _decoded(raw, endpoint.body)
        return Call(by, request.path_params, query, body, _cause(request, by, raw))


async def read_body(request: Request, largest: int) -> bytes:
    """The body of a request. Problem 413 when it has more bytes than `largest`, 408 when it comes too slowly."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > largest:
        raise Problem(413, f"the body has more than {largest} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_SLOWEST):
            async for part in request.stream():
                size += len(part)
                if size > largest:
                    raise Problem(413, f"the body has more than {largest} bytes")
                parts.append(part)
    except TimeoutError as error:
        raise Problem(408, f"the body did not come within {_SLOWEST:g} s") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def json_of(told: Any, status: int = 200) -> Response:
    """A value as JSON; a number that is not finite as null."""
    return Response(msgspec.json.encode(told), status, media_type="application/json")


def _query(request: Request, wanted: type[msgspec.Struct]) -> Any:
    try:
        return msgspec.convert(dict(request.query_params), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(422, f"the query: {error}") from error


def _decoded(body: bytes, wanted: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=wanted)
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from error


def _cause(request: Request, by: str, body: bytes) -> str:
    key = request.headers.get("idempotency-key", "")
    if not key:
        return secrets.token_hex(16)
    if len(key) > _KEY:
        raise Problem(400, f"the Idempotency-Key has more than {_KEY} characters")
    parts = (by.encode(), key.encode(), request.url.path.encode(), body)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:32]
