"""Notices as JSON posts to any HTTP receiver. It may see one twice after a crash, and tells by the id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.outbox import Item, notice_in
from alerting.secret import Secret
from alerting.signing import Signer
from alerting.sinks.http import Endpoint
from alerting.text import message, plain


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"):
    """POSTs each notice as a JSON object, its id in the body and in the header `Idempotency-Key`.

    Any 2xx answer accepts it. 400, 413, 415, 422 and other refusals set that notice aside and try it now and then;
    401, 403, 404, 429 and 5xx hold up all notices for this receiver until it is well again. Redirects are not followed.
    """

    url: Annotated[str, Meta(pattern="^https?://", description="Receiver's address; never shown in a log.")]
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "webhook"
    headers: Annotated[dict[str, str], Meta(description="Headers added to each post, such as Authorization.")] = {}
    secrets: Annotated[
        tuple[Secret, ...],
        Meta(
            description="Secrets by which posts are signed (HMAC-SHA256 as in Standard Webhooks, headers `webhook-id`, "
            "`webhook-timestamp`, `webhook-signature`): `whsec_` and the base64 of 24 to 64 random bytes. Two while "
            "one replaces the other; empty: posts are not signed."
        ),
    ] = ()
    private: Annotated[
        bool, Meta(description="Whether the receiver may have a private address or loopback; metadata never may be.")
    ] = True
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 5.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def __repr__(self) -> str:
        return f"Webhook(name={self.name!r})"  # address and headers may hold secrets

    def open(self, home: str = "") -> WebhookSink:
        """The live destination; ValueError for a URL or a secret that makes no sense, OSError for a CA file that cannot
        be read."""
        endpoint = Endpoint(self.url, self.headers, self.timeout, self.ca, private=self.private)
        return WebhookSink(endpoint, Signer(self.secrets), home)


class WebhookSink:
    """The opened `Webhook`."""

    def __init__(self, endpoint: Endpoint, signer: Signer, home: str) -> None:
        self._endpoint, self._signer, self._home = endpoint, signer, home

    def send(self, items: Sequence[Item]) -> None:
        for delivered, item in enumerate(items):
            notice = notice_in(item)
            body = msgspec.json.encode({**notice.document(), "message": plain(message(notice, self._home))})
            try:
                self._endpoint.post(body, {"Idempotency-Key": item.id, **self._signer.headers(item.id, body)})
            except Undelivered as error:
                error.delivered = delivered
                raise

    def close(self) -> None:
        """Connections last one post."""
