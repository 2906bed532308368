"""Requests as HTTP posts: what every target over HTTP has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from alerting.deliver import Undelivered
from alerting.outbox import Item
from alerting.retraining import Request, request_in


class Post(NamedTuple):
    """One post to a target."""

    body: bytes
    headers: Mapping[str, str] = {}


class Posting:
    """A target over HTTP, open. `make` is given a request and the id of its item; None posts nothing."""

    def __init__(
        self, post: Callable[[bytes, Mapping[str, str]], object], make: Callable[[Request, str], Post | None]
    ) -> None:
        self._post, self._make = post, make

    def send(self, items: Sequence[Item]) -> None:
        for delivered, item in enumerate(items):
            made = self._make(request_in(item), item.id)
            if made is None:
                continue
            try:
                self._post(made.body, made.headers)
            except Undelivered as error:
                error.delivered = delivered
                raise

    def close(self) -> None:
        """Connections last one post."""


def starting(make: Callable[[Request], bytes]) -> Callable[[Request, str], Post | None]:
    """Posts for a target that starts a run: it is told of requests that are made, not of those that are over."""
    return lambda request, _: None if request.status.over else Post(make(request))
