"""Requests as runs of a Kubeflow pipeline."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.sinks.http import Endpoint
from alerting.targets.post import Posting, starting


class Kubeflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kubeflow"):
    """Creates a run (v2beta1) with the request as JSON in one parameter.

    Kubeflow keeps no idempotency keys: after a crash between its answer and our checkpoint there are two runs of one
    `display_name`. A pipeline that minds checks the request's id first.
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

    def open(self) -> Posting:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.url.rstrip('/')}/apis/v2beta1/runs"
        endpoint = Endpoint(url, headers, self.timeout, self.ca, private=self.private)
        return Posting(endpoint.post, starting(self._body))

    def _body(self, request: Request) -> bytes:
        document = msgspec.json.encode(request.document()).decode()
        pipeline = {"pipeline_id": self.pipeline, "pipeline_version_id": self.pipeline_version}
        run = {
            "display_name": f"retrain {request.model} {request.id}",
            "description": request.text,
            "pipeline_version_reference": {key: value for key, value in pipeline.items() if value},
            "runtime_config": {"parameters": {self.parameter: document}},
            "experiment_id": self.experiment,
            "service_account": self.service_account,
        }
        return msgspec.json.encode({key: value for key, value in run.items() if value})
