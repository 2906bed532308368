"""Notices to a Slack channel by an incoming webhook, which can neither edit nor thread what it said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.deliver import Undelivered
from alerting.outbox import Item, notice_in
from alerting.sinks.http import Endpoint
from alerting.text import Message, message, mrkdwn

_PACE = 1.0  # seconds between messages: more than about one a second is answered with 429
_TOGETHER = 20  # notices of a message, two blocks each; Slack takes 50 blocks
_SECTION = 3_000  # characters of a block
_TEXT = 3_000  # characters of what a phone shows of the message; Slack asks for no more than 4,000


class Slack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="slack"):
    """Posts notices to a channel, one message a second at most; those that wait go together in one.

    A message is delivered when Slack took it. Slack knows no ids: after a crash one may be there twice.
    """

    url: Annotated[str, Meta(pattern="^https?://", description="The incoming webhook's address, a secret as a whole.")]
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "slack"
    private: Annotated[bool, Meta(description="Whether it may have a private address, as a proxy for Slack has.")] = (
        True
    )
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 5.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def __repr__(self) -> str:
        return f"Slack(name={self.name!r})"  # who has the address may post

    def open(self, home: str = "") -> SlackSink:
        """The live destination; ValueError for a URL that makes no sense, OSError for a CA file that cannot be read."""
        return SlackSink(Endpoint(self.url, {}, self.timeout, self.ca, private=self.private), home)


class SlackSink:
    """The opened `Slack`."""

    def __init__(self, endpoint: Endpoint, home: str) -> None:
        self._endpoint, self._home = endpoint, home
        self._next = 0.0  # monotonic seconds before which no message goes

    def send(self, items: Sequence[Item]) -> None:
        for i in range(0, len(items), _TOGETHER):
            told = [message(notice_in(item), self._home) for item in items[i : i + _TOGETHER]]
            time.sleep(max(0.0, self._next - time.monotonic()))
            try:
                self._endpoint.post(msgspec.json.encode(_wire(told)))
            except Undelivered as error:
                error.delivered = i
                raise
            finally:
                self._next = time.monotonic() + _PACE

    def close(self) -> None:
        """Connections last one post."""


def _wire(told: Sequence[Message]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    for one in told:
        blocks += [{"type": "divider"}] if blocks else []
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": mrkdwn(one)[:_SECTION]}})
    # what notifications and screen readers have; Slack reads it as plain text only when it is told so
    return {"text": "\n".join(one.title for one in told)[:_TEXT], "blocks": blocks}
