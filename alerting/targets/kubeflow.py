"""Requests as runs of a Kubeflow pipeline."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.sinks.http import Endpoint
from alerting.targets.post import Post, Posting
from alerting.targets.run import Find, Run, answer, run


class Kubeflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kubeflow"):
    """Creates a run (v2beta1) with the request as JSON in one parameter.

    Kubeflow keeps no idempotency keys, so it is asked for a run of this `display_name` before one is created: a crash
    between its answer and our checkpoint makes no second one. In multi-user mode the experiment must be named.
    """

    url: Annotated[str, Meta(pattern="^https?://", description="Of the API server, such as http://ml-pipeline:8888.")]
    pipeline: Annotated[str, Meta(min_length=1, description="Id of the pipeline.")]
    pipeline_version: Annotated[str, Meta(description="Id of its version; empty: the newest.")] = ""
    experiment: Annotated[str, Meta(description="Id of the experiment; empty: the default one.")] = ""
    service_account: Annotated[str, Meta(description="That the run's pods have; empty: the server's default.")] = ""
    parameter: Annotated[str, Meta(min_length=1, description="The pipeline's parameter that takes the request.")] = (
        "request"
    )
    token: Annotated[Secret, Meta(description="Bearer token; empty: none.")] = Secret()
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "kubeflow"
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""
    private: Annotated[bool, Meta(description="Whether it may have a private address, as in a cluster.")] = True
    follow: Annotated[Seconds, Meta(ge=0, description="Between two looks at its run; 0: it is not looked at.")] = 60.0

    def open(self) -> Posting:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        endpoint, find = self._endpoint(), self.runs()

        def make(request: Request, _: str) -> Post | None:
            return None if request.status.over or find(request) is not None else Post(self._body(request))

        return Posting(endpoint.post, make)

    def runs(self) -> Find:
        """Finds the run of a request; raises as `open`."""
        endpoint, path = self._endpoint(), f"{urlsplit(self.url).path.rstrip('/')}/apis/v2beta1/runs"

        def find(request: Request) -> Run | None:
            wanted = {"operation": "EQUALS", "key": "display_name", "string_value": _name(request)}
            query = {"page_size": "1", "sort_by": "created_at desc", "filter": json.dumps({"predicates": [wanted]})}
            query |= {"experiment_id": self.experiment} if self.experiment else {}
            found = answer(endpoint, f"{path}?{urlencode(query)}", _Runs, absent=False).runs
            if not found:
                return None
            newest, error = found[0], found[0].error
            return run(
                newest.state or "PENDING", newest.run_id, "" if error is None else error.message,
                running={"RUNNING", "PAUSED", "CANCELING"}, done={"SUCCEEDED"},
                failed={"FAILED", "CANCELED", "SKIPPED"},
            )  # fmt: skip

        return find

    def _endpoint(self) -> Endpoint:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.url.rstrip('/')}/apis/v2beta1/runs"
        return Endpoint(url, headers, self.timeout, self.ca, private=self.private)

    def _body(self, request: Request) -> bytes:
        document = msgspec.json.encode(request.document()).decode()
        pipeline = {"pipeline_id": self.pipeline, "pipeline_version_id": self.pipeline_version}
        run = {
            "display_name": _name(request),
            "description": request.text,
            "pipeline_version_reference": {key: value for key, value in pipeline.items() if value},
            "runtime_config": {"parameters": {self.parameter: document}},
            "experiment_id": self.experiment,
            "service_account": self.service_account,
        }
        return msgspec.json.encode({key: value for key, value in run.items() if value})


def _name(request: Request) -> str:
    return f"retrain {request.model} {request.id}"


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Run(msgspec.Struct, frozen=True):
    run_id: str = ""
    state: str = ""
    error: _Error | None = None


class _Runs(msgspec.Struct, frozen=True):
    runs: list[_Run] = []
