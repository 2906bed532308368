"""Requests as submitted workflows of an Argo server."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.sinks.http import Endpoint
from alerting.targets.post import Posting, starting
from alerting.targets.run import Find, Run, answer, run


class ArgoWorkflows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="argo_workflows"):
    """Submits a workflow from a template, named `driftd-` and the request's id: a repeat is refused as existing, which
    counts as done. The template takes the parameters `model`, `request_id` and `request`, the whole body as JSON."""

    url: Annotated[str, Meta(pattern="^https?://", description="Of the Argo server, such as https://argo:2746.")]
    namespace: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,63}$", description="Namespace of template and workflow.")]
    template: Annotated[str, Meta(pattern=r"^[a-z0-9.-]{1,253}$", description="Name of the template.")]
    template_kind: Annotated[
        Literal["WorkflowTemplate", "ClusterWorkflowTemplate", "CronWorkflow"], Meta(description="What it is.")
    ] = "WorkflowTemplate"
    token: Annotated[Secret, Meta(description="Bearer token of a service account that may create workflows.")] = (
        Secret()
    )
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "argo"
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""
    private: Annotated[bool, Meta(description="Whether it may have a private address, as in a cluster.")] = True
    follow: Annotated[Seconds, Meta(ge=0, description="Between two looks at its run; 0: it is not looked at.")] = 60.0

    def open(self) -> Posting:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return Posting(self._endpoint().post, starting(self._body))

    def runs(self) -> Find:
        """Finds the workflow of a request; raises as `open`."""
        endpoint, path = self._endpoint(), f"{urlsplit(self.url).path.rstrip('/')}/api/v1/workflows/{self.namespace}"

        def find(request: Request) -> Run | None:
            name = _workflow(request)
            status = answer(endpoint, f"{path}/{name}?fields=status.phase,status.message", _Workflow).status
            return run(
                status.phase, name, status.message, running={"Running"}, done={"Succeeded"}, failed={"Failed", "Error"}
            )

        return find

    def _endpoint(self) -> Endpoint:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.url.rstrip('/')}/api/v1/workflows/{self.namespace}/submit"
        return Endpoint(url, headers, self.timeout, self.ca, accepted=(409,), private=self.private)

    def _body(self, request: Request) -> bytes:
        document = msgspec.json.encode(request.document()).decode()
        return msgspec.json.encode(
            {
                "namespace": self.namespace,
                "resourceKind": self.template_kind,
                "resourceName": self.template,
                "submitOptions": {
                    "name": _workflow(request),
                    "labels": f"driftd.io/request={request.id}",
                    "parameters": [f"model={request.model}", f"request_id={request.id}", f"request={document}"],
                },
            }
        )


def _workflow(request: Request) -> str:
    return f"driftd-{request.id}"


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""  # Pending | Running | Succeeded | Failed | Error; none of a workflow that is not there
    message: str = ""


class _Workflow(msgspec.Struct, frozen=True):
    status: _Status = _Status()
