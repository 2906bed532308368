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
ANSWERS = 4 << 20  # bytes of answers that are kept for those who ask again by the same idempotency key
AGAIN = 5.0  # seconds after which a sender may come again when what keeps its act is full
_SLOWEST = 30.0  # seconds that a body may take to come in
_KEY = 200  # characters of an idempotency key
_KEPT = 10_000  # answers, however small


class Call(NamedTuple):
    """A request that was let in."""

    by: str  # the person's name; empty where nobody is asked for
    path: Mapping[str, str]
    query: Any  # an instance of `Endpoint.query`
    body: Any  # an instance of `Endpoint.body`
    id: str  # of this act; the same for the same person, idempotency key, path and body
    retry: bool  # whether the sender named an idempotency key, and may come again with it
    headers: Mapping[str, str] = {}  # names in small letters


class Endpoint(NamedTuple):
    """What is asked, by whom, and what is answered."""

    method: str
    path: str  # as Starlette writes it: `{key:path}` may hold slashes
    run: Callable[[Call], Awaitable[Any]]  # returns an instance of `answer`, or a Response; raises Problem
    summary: str
    answer: Any  # a type; None: nothing
    may: Collection[Right] = ()  # any one of these is needed; none: open to everybody
    query: type[msgspec.Struct] | None = None
    body: Any = None  # a type of JSON; `bytes`: of any media type, as it is
    example: Any = None  # of the body
    status: int = 200
    media: str = "application/json"  # of the answer; of lines, each is an `answer`
    empty: str = ""  # when nothing is answered instead (204)
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
        self._answers = _Answers()

    def route(self, endpoint: Endpoint) -> Route:
        """The route of an endpoint."""

        async def answer(request: Request) -> Response:
            try:
                call = await self._admitted(endpoint, request)
                answered = self._answers.of(call) or await self._done(endpoint, call)
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

    async def _done(self, endpoint: Endpoint, call: Call) -> Response:
        told = await endpoint.run(call)
        answered = told if isinstance(told, Response) else json_of(told, endpoint.status)
        if call.retry:
            self._answers.keep(call, answered)
        return answered

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
            if endpoint.body is not bytes and media != "application/json":
                raise Problem(415, f"{media or 'no content type'}: wanted is application/json")
            raw = await read_body(request, endpoint.largest)
            body = raw if endpoint.body is bytes else _decoded(raw, endpoint.body)
        cause = _cause(request, by, raw)
        name = cause or secrets.token_hex(16)
        return Call(by, request.path_params, query, body, name, retry=bool(cause), headers=request.headers)


class _Answers:
    """Answers to acts whose senders may come again, the newest."""

    def __init__(self) -> None:
        self._kept: dict[str, Response] = {}
        self._bytes = 0

    def of(self, call: Call) -> Response | None:
        """What this act was answered, if it came before."""
        return self._kept.get(call.id)

    def keep(self, call: Call, answer: Response) -> None:
        """Keeps an answer, and lets the oldest go for it."""
        if len(answer.body) > ANSWERS // 4:
            return
        self._kept[call.id] = answer
        self._bytes += len(answer.body)
        while self._bytes > ANSWERS or len(self._kept) > _KEPT:
            self._bytes -= len(self._kept.pop(next(iter(self._kept))).body)


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
    """An id that only the same act has; empty where the sender named no key."""
    key = request.headers.get("idempotency-key", "")
    if not key or request.method == "GET":
        return ""
    if len(key) > _KEY:
        raise Problem(400, f"the Idempotency-Key has more than {_KEY} characters")
    parts = (by.encode(), key.encode(), request.url.path.encode(), body)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:32]
