"""Requests as repository_dispatch events of GitHub: they start workflows on the default branch."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.sinks.http import Endpoint
from alerting.targets.post import Posting, starting


class GitHub(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="github"):
    """Dispatches an event; the request is `github.event.client_payload.request`.

    GitHub keeps no idempotency keys: after a crash between its answer and our checkpoint it is told twice. A workflow
    that minds has a `concurrency` group of the request's id.
    """

    repository: Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$", description="As owner/name.")]
    token: Annotated[Secret, Meta(description="Token that may write the repository's contents.")]
    event: Annotated[str, Meta(min_length=1, max_length=100, description="The event's type, for `on:` to name.")] = (
        "retrain"
    )
    url: Annotated[str, Meta(pattern="^https?://", description="Of the API; a server of one's own has another.")] = (
        "https://api.github.com"
    )
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "github"
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 10.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""
    private: Annotated[bool, Meta(description="Whether it may have a private address, as in a cluster.")] = True

    def open(self) -> Posting:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        url = f"{self.url.rstrip('/')}/repos/{self.repository}/dispatches"
        return Posting(Endpoint(url, headers, self.timeout, self.ca, private=self.private).post, starting(self._body))

    def _body(self, request: Request) -> bytes:
        # at most ten keys are allowed beside each other, so all of it lies under one
        return msgspec.json.encode({"event_type": self.event, "client_payload": {"request": request.document()}})
