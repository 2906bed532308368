"""Notices as JSON posts to any HTTP receiver. It may see one twice after a crash, and tells by the id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.outbox import Item, notice_in
from alerting.sinks.http import Endpoint


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"):
    """POSTs each notice as a JSON object, its id in the body and in the header `Idempotency-Key`.

    Any 2xx answer accepts it. 400, 413, 415, 422 and other refusals set that notice aside and try it now and then;
    401, 403, 404, 429 and 5xx hold up all notices for this receiver until it is well again. Redirects are not followed.
    """

    url: Annotated[str, Meta(pattern="^https?://", description="Receiver's address; never shown in a log.")]
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "webhook"
    headers: Annotated[dict[str, str], Meta(description="Headers added to each post, such as Authorization.")] = {}
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 5.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def __repr__(self) -> str:
        return f"Webhook(name={self.name!r})"  # address and headers may hold secrets

    def open(self) -> WebhookSink:
        """The live destination; ValueError for a URL without a host, OSError for a CA file that cannot be read."""
        return WebhookSink(Endpoint(self.url, self.headers, self.timeout, self.ca))


class WebhookSink:
    """The opened `Webhook`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def send(self, items: Sequence[Item]) -> None:
        for delivered, item in enumerate(items):
            body = msgspec.json.encode(notice_in(item).document())
            try:
                self._endpoint.post(body, {"Idempotency-Key": item.id})
            except Undelivered as error:
                error.delivered = delivered
                raise

    def close(self) -> None:
        """Connections last one post."""
