"""Everything the daemon says and takes over HTTP: health, metrics, status, the page, and the intake of events.

The server runs in a thread of its own and changes no state but by appending to the intake log. It is bound to loopback
unless configured otherwise, and browsers cannot be made to post to it: no form sends the media types it takes.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import uvicorn
from msgspec import Meta
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from detectors.units import Bytes, Seconds
from monitor.api.alerts import Rulings
from monitor.api.daemon import Daemon
from monitor.api.endpoint import AGAIN, Door, Endpoint, json_of, read_body
from monitor.api.form import Forms
from monitor.api.openapi import document
from monitor.api.problem import Problem
from monitor.intake import records
from monitor.log import Full
from monitor.metrics import Meters, version
from monitor.page import POLICY, page
from monitor.people import People, Person
from monitor.settings import Secret

log = logging.getLogger(__name__)

_CONNECTIONS = 200  # at once; more are answered 503


class WebOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP server: health, metrics, status, and the intake of events."""

    host: Annotated[
        str, Meta(description="Address to listen on. Only this machine can reach the default; 0.0.0.0 opens it to all.")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes any that is free.")] = 9464
    url: Annotated[
        str,
        Meta(
            pattern="^(https?://.*)?$",
            description="Where people reach it, such as https://driftd.example.org; alerts link there. Empty: none do.",
        ),
    ] = ""
    max_body: Annotated[
        Bytes, Meta(ge=1024, description="Largest body that is taken in, before and after decompression.")
    ] = 10 * 2**20
    token: Annotated[
        Secret,
        Meta(description="What a POST must carry as `Authorization: Bearer ...`; empty: nothing. Give it as `${...}`."),
    ] = Secret("")
    people: Annotated[
        tuple[Person, ...],
        Meta(
            description="Who may give verdicts, label, review and confirm retraining. Where nobody has a token, "
            "whoever can read the one that the daemon then keeps in `state.path`.",
        ),
    ] = ()
    stalled: Annotated[
        Seconds, Meta(gt=0, description="`/healthz` fails when a thread has not gone round for this long.")
    ] = 60.0


class Unbound(Exception):
    """The address cannot be listened on. Choose another `web.host` or `web.port`, or stop what holds it."""


class Web:
    """The server. `start` binds, so that a taken port is known at once; `stop` lets requests at hand finish."""

    def __init__(
        self,
        options: WebOptions,
        daemon: Daemon,
        meters: Meters,
        people: People,
        acts: Sequence[Endpoint],
        *,
        intake: bool,
    ) -> None:
        self._options = options
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(options, daemon, meters, people, acts, intake=intake),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                loop="asyncio",
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=5,
            )
        )
        self._thread: threading.Thread | None = None
        self.port = options.port

    def start(self) -> None:
        """Raises Unbound."""
        family = socket.AF_INET6 if ":" in self._options.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._options.host, self._options.port))
            listener.listen(2048)  # from here on a connection waits for the thread instead of being refused
        except OSError as error:
            listener.close()
            where = f"{self._options.host}:{self._options.port}"
            raise Unbound(f"cannot listen on {where}: {error.strerror or error}") from error
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="web", daemon=True)
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        with listener:
            self._server.run(sockets=[listener])

    def stop(self, timeout: float = 10.0) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout)


def application(
    options: WebOptions, daemon: Daemon, meters: Meters, people: People, acts: Sequence[Endpoint], *, intake: bool
) -> Starlette:
    """The ASGI application. `acts` are what people may do beside what every daemon offers.

    Without `intake` events are answered 404: no source would read what they bring.
    """
    door, rulings = Door(people, meters), Rulings(daemon, time.time)
    endpoints = [*rulings.endpoints(), *acts]
    pages = _Pages(options, daemon, meters, document(endpoints, version()))
    routes = [
        Route("/", pages.index),
        Route("/healthz", pages.healthz),
        Route("/readyz", pages.readyz),
        Route("/metrics", pages.metrics),
        Route("/status", pages.status),
        Route("/openapi.json", pages.openapi),
        *map(door.route, endpoints),
        *Forms(door, rulings).routes(),
    ]
    if intake:
        inlet = _Inlet(options, daemon, meters)
        routes = [
            Route("/v1/events", inlet.post, methods=["POST"]),
            Route("/", inlet.post, methods=["POST"]),  # where KServe's logger posts
            *routes,
        ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _told})


async def _told(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, not this method."""
    assert isinstance(error, HTTPException)
    answer = Problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}").answer()
    answer.headers.update(error.headers or {})
    return answer


class _Pages:
    """What is read. Coroutines, for a plain function would be run in a pool of threads."""

    def __init__(self, options: WebOptions, daemon: Daemon, meters: Meters, described: Mapping[str, Any]) -> None:
        self._options = options
        self._daemon = daemon
        self._meters = meters
        self._described = described
        self._started = time.time()

    async def openapi(self, request: Request) -> Response:
        return json_of(self._described)

    async def healthz(self, request: Request) -> Response:
        """Live while every thread goes round. A broker that is away is no reason to be restarted."""
        silences = dict(self._daemon.silences())
        stalled = sorted(name for name, silence in silences.items() if silence > self._options.stalled)
        told = {"live": not stalled, "stalled": stalled, "silences": {n: round(s, 3) for n, s in silences.items()}}
        return JSONResponse(told, 503 if stalled else 200)

    async def readyz(self, request: Request) -> Response:
        reasons = list(self._daemon.not_ready())
        return JSONResponse({"ready": not reasons, "waiting": reasons}, 503 if reasons else 200)

    async def metrics(self, request: Request) -> Response:
        encode, media = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._meters.registry), headers={"Content-Type": media})

    async def status(self, request: Request) -> Response:
        """The snapshot as JSON, NaN as null, and the daemon's own standing beside it."""
        shown = msgspec.structs.asdict(self._daemon.snapshot())
        beside = {"daemon": self._standing(), "destinations": self._daemon.destinations()}
        return Response(msgspec.json.encode({**shown, **beside}), media_type="application/json")

    async def index(self, request: Request) -> Response:
        health = {what.replace("_", " "): str(how) for what, how in self._standing().items()}
        return HTMLResponse(
            page(self._daemon.snapshot(), self._daemon.progress(), health),
            headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"},
        )

    def _standing(self) -> dict[str, float | str | list[str]]:
        return {
            "up_seconds": round(time.time() - self._started, 1),
            "not_ready": list(self._daemon.not_ready()),
            "events": self._meters.value("driftd_events_total"),
            "lag_records": self._meters.value("driftd_consumer_lag_records"),
            "backlog": self._daemon.backlog,
            "bad_records": self._meters.value("driftd_bad_records_total"),
            "outbox_items": self._meters.value("driftd_outbox_items"),
            "delivery_failures": self._meters.value("driftd_delivery_failures_total"),
        }


class _Inlet:
    """What is taken in."""

    def __init__(self, options: WebOptions, daemon: Daemon, meters: Meters) -> None:
        self._options = options
        self._daemon = daemon
        self._bytes = meters.intake_bytes
        self._requests = meters.intake_requests

    async def post(self, request: Request) -> Response:
        try:
            answer = await self._take(request)
        except Problem as problem:
            answer = problem.answer()
        except Full:
            # What was sent is kept by the sender: a full log means that what follows is slow.
            answer = Problem(503, "the intake log is full; try again", after=AGAIN).answer()
        except ClientDisconnect:
            answer = Response(status_code=400)
        self._requests.labels(str(answer.status_code)).inc()
        return answer

    async def _take(self, request: Request) -> Response:
        token = self._options.token
        if token:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                raise Problem(401, "this intake wants a bearer token")
        body = await read_body(request, self._options.max_body)
        self._bytes.inc(len(body))
        received = records(request.scope["headers"], body, self._options.max_body)
        if received:
            # A write to the page cache, 20 us; a pool of threads would cost five times that.
            self._daemon.take(received)
        return Response(status_code=202)
