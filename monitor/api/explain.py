"""One event explained, by its id or brought along.

It is shown with the answer, the labels so far and why it was drawn, so only those may see it who rule on alerts: a
labeler would be led.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.labeling.queue import LabelQueue
from monitor.api.daemon import Daemon
from monitor.api.endpoint import Call, Endpoint
from monitor.api.pool import Pool
from monitor.api.problem import Problem
from monitor.explain import Explaining, Explanation, Held, Unexplained
from monitor.people import Right

LARGEST = 1 << 20  # bytes of an event that is brought, as every decoder takes


class OfModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model's."""

    model: Annotated[
        str, Meta(description="As alerts name it. Empty: the one that knows the event, or that the event names.")
    ] = ""


class Explain:
    """Explains events. Used by one thread; `pool` has one too, so that it slows no other."""

    def __init__(self, queue: LabelQueue, pool: Pool, daemon: Daemon) -> None:
        self._explaining, self._pool, self._daemon = Explaining(queue), pool, daemon

    def endpoints(self) -> list[Endpoint]:
        """Of single events."""
        return [
            Endpoint(
                "GET", "/v1/explain/{event:path}", self.explain_known, "Explain an event that the daemon knows.",
                Explanation, may=(Right.VERDICT,), query=OfModel, problems={404: "Nothing is known of it."},
            ),
            Endpoint(
                "POST", "/v1/explain", self.explain_brought, "Explain the event of a record, in any format.",
                Explanation, may=(Right.VERDICT,), query=OfModel, body=bytes, largest=LARGEST,
            ),
        ]  # fmt: skip

    async def explain_known(self, call: Call) -> Explanation:
        try:
            return await self._pool.run(
                self._explaining.by_id, call.path["event"], self._held(call.query.model), self._daemon.alerts()
            )
        except Unexplained as error:
            raise Problem(404, str(error)) from error

    async def explain_brought(self, call: Call) -> Explanation:
        try:
            return await self._pool.run(
                self._explaining.brought, call.body, self._held(call.query.model), self._daemon.alerts()
            )
        except Unexplained as error:
            raise Problem(422, str(error)) from error

    def _held(self, model: str) -> dict[str, Held]:
        """Of this model, or of all."""
        held = self._daemon.held()
        if not model:
            return dict(held)
        if model not in held:
            raise Problem(422, f"there is no model {model[:200]!r} that has a reference")
        return {model: held[model]}
