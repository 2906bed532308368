"""Requests as signed JSON posts to any receiver: Argo Events, an Argo WorkflowEventBinding, Jenkins, GitLab, ..."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.signing import Signer
from alerting.sinks.http import Endpoint
from alerting.targets.post import Post, Posting


class RetrainingWebhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"):
    """POSTs each request when it is made, and again when it is over; `status` tells which.

    The id is in the body and in the header `Idempotency-Key`; a receiver that keeps ids starts no run twice. For Argo
    Events the URL is that of the event source, and a sensor reads `body.request_id` and `body.model`.
    """

    url: Annotated[str, Meta(pattern="^https?://", description="Receiver's address; never shown in a log.")]
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "retraining"
    headers: Annotated[dict[str, str], Meta(description="Headers added to each post, such as Authorization.")] = {}
    secrets: Annotated[
        tuple[Secret, ...], Meta(description="Each post is signed with every one of these `whsec_...` secrets.")
    ] = ()
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""
    private: Annotated[bool, Meta(description="Whether it may have a private address, as in a cluster.")] = True

    def __repr__(self) -> str:
        return f"RetrainingWebhook(name={self.name!r})"  # address and headers may hold secrets

    def open(self) -> Posting:
        """The live destination; ValueError for a URL or secret that makes no sense, OSError for a CA file."""
        signer = Signer(self.secrets)

        def make(request: Request, id: str) -> Post:  # noqa: A002 the outbox's word
            body = msgspec.json.encode(request.document())
            return Post(body, {"Idempotency-Key": id, **signer.headers(id, body)})

        return Posting(Endpoint(self.url, self.headers, self.timeout, self.ca, private=self.private).post, make)
