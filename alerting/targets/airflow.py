"""Requests as runs of an Airflow DAG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.sinks.http import Endpoint, basic
from alerting.targets.post import Posting, starting
from alerting.targets.run import Find, Run, answer, run

_NOTE = 1_000  # characters that Airflow takes
_TOLD = 5  # tasks of a run that failed


class Airflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="airflow"):
    """Starts a run of a DAG with the request as its `conf`. The run's id is made of the request's: a repeat is a
    conflict, which counts as done. A paused DAG keeps the run queued, and Airflow tells nobody."""

    url: Annotated[str, Meta(pattern="^https?://", description="Of the web server, such as https://airflow:8080.")]
    dag: Annotated[str, Meta(min_length=1, description="Id of the DAG.")]
    version: Annotated[Literal[2, 3], Meta(description="Of Airflow: 2 has /api/v1, 3 has /api/v2.")] = 3
    username: Annotated[str, Meta(description="Who asks; 2 is told it with each post, 3 gives a token for it.")] = ""
    password: Annotated[Secret, Meta(description="Their password.")] = Secret()
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "airflow"
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""
    private: Annotated[bool, Meta(description="Whether it may have a private address, as in a cluster.")] = True
    follow: Annotated[Seconds, Meta(ge=0, description="Between two looks at its run; 0: it is not looked at.")] = 60.0

    def open(self) -> Posting:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return Posting(_Client(self).post, starting(self._body))

    def runs(self) -> Find:
        """Finds the run of a request; raises as `open`. Its last words are the tasks that failed."""
        return _Client(self).find

    def _body(self, request: Request) -> bytes:
        run = {
            "dag_run_id": _name(request),
            "conf": request.document(),
            "note": f"driftd: {request.text}"[:_NOTE],
        }
        # 3 wants the key, null for a run that belongs to no point in time; 2 sets its own where it is missing
        return msgspec.json.encode(run | {"logical_date": None} if self.version == 3 else run)


def _name(request: Request) -> str:
    return f"driftd__{request.id}"


class _Login(msgspec.Struct):
    access_token: str


class _DagRun(msgspec.Struct, frozen=True):
    state: str | None = None  # queued | running | success | failed; none of a run that is not there


class _Task(msgspec.Struct, frozen=True):
    task_id: str


class _Tasks(msgspec.Struct, frozen=True):
    task_instances: list[_Task] = []


class _Client:
    """Posts with a token that is asked for anew when it is not there or not taken any more."""

    def __init__(self, options: Airflow) -> None:
        base, self._options = options.url.rstrip("/"), options
        runs = f"{base}/api/v{options.version - 1}/dags/{quote(options.dag, safe='')}/dagRuns"
        self._path = urlsplit(runs).path
        self._login, self._runs = (
            Endpoint(
                url, {}, options.timeout, options.ca, hidden=[options.password], accepted=accepted,
                private=options.private,
            )
            for url, accepted in ((f"{base}/auth/token", ()), (runs, (409,)))
        )  # fmt: skip
        self._token = ""

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        with self._renewing():
            self._runs.post(body, {**headers, **self._authorization()})

    def find(self, request: Request) -> Run | None:
        """The run of a request, as it stands."""
        name = _name(request)
        path = f"{self._path}/{name}"
        with self._renewing():
            state = answer(self._runs, path, _DagRun, self._authorization()).state
            words = ""
            if state == "failed":
                tasks = f"{path}/taskInstances?state=failed&limit={_TOLD}"
                failed = answer(self._runs, tasks, _Tasks, self._authorization()).task_instances
                words = f"failed: {', '.join(task.task_id for task in failed)}" if failed else ""
        return run(state or "", name, words, running={"running"}, done={"success"}, failed={"failed"})

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        try:
            yield
        except Undelivered:
            self._token = ""  # it may have run out: the next attempt asks for another
            raise

    def _authorization(self) -> Mapping[str, str]:
        options = self._options
        if not options.username:
            return {}
        if options.version == 2:
            return basic(options.username, options.password)
        if not self._token:
            asked = msgspec.json.encode({"username": options.username, "password": str(options.password)})
            try:
                self._token = msgspec.json.decode(self._login.post(asked, read=True), type=_Login).access_token
            except msgspec.MsgspecError as error:
                raise Undelivered(f"{self._login.name}: no token in the answer to the login", retry=True) from error
        return {"Authorization": f"Bearer {self._token}"}
