"""Alerts as PagerDuty incidents (Events API v2): triggered, acknowledged by a verdict, resolved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from alerting.alert import Notice, Seconds, Transition, rfc3339
from alerting.deliver import Undelivered
from alerting.outbox import Item, notice_in
from alerting.secret import Secret
from alerting.sinks.http import Endpoint
from alerting.text import message, plain

_LARGEST = 500_000  # bytes of an event; PagerDuty takes 512 kB
_KEY = 255  # characters of a deduplication key


class PagerDuty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="pagerduty"):
    """Keeps one incident an alert. Events are told apart by the alert's key, so a repeat changes nothing.

    A verdict acknowledges the incident, one that is taken back triggers it again; an alert that is silenced or resolved
    resolves it.
    """

    routing_key: Annotated[Secret, Meta(description="Integration key of the service (Events API v2).")]
    service: Annotated[
        str, Meta(pattern="^https?://", description="Its address; https://events.eu.pagerduty.com for the EU.")
    ] = "https://events.pagerduty.com"
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "pagerduty"
    private: Annotated[bool, Meta(description="Whether it may have a private address, as a proxy has.")] = True
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 5.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def __repr__(self) -> str:
        return f"PagerDuty(name={self.name!r})"  # the URL of a proxy may hold a password

    def open(self, home: str = "") -> PagerDutySink:
        """The live destination; ValueError for a URL that makes no sense, OSError for a CA file that cannot be read."""
        endpoint = Endpoint(
            self.service.rstrip("/") + "/v2/enqueue",
            {},
            self.timeout,
            self.ca,
            hidden=(self.routing_key,),
            private=self.private,
        )
        return PagerDutySink(endpoint, self.routing_key, home)


class PagerDutySink:
    """The opened `PagerDuty`."""

    def __init__(self, endpoint: Endpoint, routing_key: Secret, home: str) -> None:
        self._endpoint, self._routing_key, self._home = endpoint, routing_key, home

    def send(self, items: Sequence[Item]) -> None:
        for delivered, item in enumerate(items):
            try:
                self._endpoint.post(self._event(notice_in(item)))
            except Undelivered as error:
                error.delivered = delivered
                raise

    def close(self) -> None:
        """Connections last one post."""

    def _event(self, notice: Notice) -> bytes:
        alert = notice.alert
        event: dict[str, Any] = {
            "routing_key": str(self._routing_key),
            "event_action": _action(notice),
            "dedup_key": alert.key if len(alert.key) <= _KEY else hashlib.sha256(alert.key.encode()).hexdigest(),
        }
        if event["event_action"] != "trigger":
            return msgspec.json.encode(event)
        told = message(notice, self._home)
        payload = {
            "summary": told.title,
            "source": alert.model or "driftd",
            "severity": alert.severity.value,
            "timestamp": rfc3339(alert.started),
            "component": alert.column,
            "group": alert.model,
            "class": alert.check,
            "custom_details": {"message": plain(told), **notice.document()},
        }
        event |= {"payload": payload, "client": "driftd"}
        if told.link:
            event |= {"client_url": told.link, "links": [{"href": told.link, "text": "driftd"}]}
        body = msgspec.json.encode(event)
        if len(body) > _LARGEST:
            payload["custom_details"] = {"message": plain(told)}
            body = msgspec.json.encode(event)
        return body


def _action(notice: Notice) -> str:
    alert = notice.alert
    if not alert.firing:
        return "resolve"
    return "acknowledge" if notice.transition is Transition.VERDICT and alert.verdict is not None else "trigger"
