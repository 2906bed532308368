"""Requests as repository_dispatch events of GitHub: they start workflows on the default branch."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.retraining import Request
from alerting.secret import Secret
from alerting.sinks.http import Endpoint
from alerting.targets.post import Posting, starting
from alerting.targets.run import Find, Run, answer, run

_NEWEST = 50  # runs of dispatched events that are looked through
# conclusions of a run that came to no good end
_FAILED = frozenset({"failure", "cancelled", "timed_out", "startup_failure", "action_required", "stale", "skipped"})


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
    follow: Annotated[
        Seconds,
        Meta(
            ge=0,
            description="Between two looks at its run; 0: it is not looked at. A run is known by its `run-name`, which "
            "must hold `github.event.client_payload.request.request_id`; the token must be allowed to read actions.",
        ),
    ] = 0.0

    def open(self) -> Posting:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return Posting(self._endpoint().post, starting(self._body))

    def runs(self) -> Find:
        """Finds the run of a request among the newest; raises as `open`."""
        endpoint, path = self._endpoint(), f"{urlsplit(self.url).path.rstrip('/')}/repos/{self.repository}/actions/runs"

        def find(request: Request) -> Run | None:
            newest = answer(
                endpoint, f"{path}?event=repository_dispatch&per_page={_NEWEST}", _Runs, absent=False
            ).workflow_runs
            found = next((one for one in newest if request.id in one.display_title), None)
            if found is None:
                return None
            said = found.conclusion or found.status or ""
            words = f"{said}: {found.html_url}"
            return run(said, str(found.id), words, running={"in_progress"}, done={"success", "neutral"}, failed=_FAILED)

        return find

    def _endpoint(self) -> Endpoint:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        url = f"{self.url.rstrip('/')}/repos/{self.repository}/dispatches"
        return Endpoint(url, headers, self.timeout, self.ca, private=self.private)

    def _body(self, request: Request) -> bytes:
        # at most ten keys are allowed beside each other, so all of it lies under one
        return msgspec.json.encode({"event_type": self.event, "client_payload": {"request": request.document()}})


class _Run(msgspec.Struct, frozen=True):
    id: int
    display_title: str = ""
    status: str | None = ""
    conclusion: str | None = ""
    html_url: str = ""


class _Runs(msgspec.Struct, frozen=True):
    workflow_runs: list[_Run] = []
