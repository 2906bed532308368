"""Webhooks of labeling tools. Each tool proves itself in its own way, not by a person's token."""

from __future__ import annotations

from alerting.labeling.back import Back
from alerting.labeling.tools.tool import Unproven
from monitor.api.endpoint import Call, Endpoint
from monitor.api.pool import Pool
from monitor.api.problem import Problem
from monitor.handover import HandOver

_LARGEST = 1 << 20  # bytes of a call; an annotation with its task takes 4 KB


class Hooks:
    """Takes their calls. The queue is asked on the pool's threads."""

    def __init__(self, handover: HandOver, pool: Pool) -> None:
        self._handover, self._pool = handover, pool

    def endpoints(self) -> list[Endpoint]:
        """None where no tool is configured."""
        if not self._handover.couriers:
            return []
        problems = {401: "The call does not prove to come from the tool.", 404: "No such tool."}
        return [
            Endpoint(
                "POST", "/v1/hooks/{tool}", self.hook_take, "Take what a labeling tool's webhook tells.", Back,
                body=bytes, largest=_LARGEST, problems=problems,
            ),
        ]  # fmt: skip

    async def hook_take(self, call: Call) -> Back:
        courier = self._handover.couriers.get(call.path["tool"])
        if courier is None:
            raise Problem(404, "no labeling tool of this name is configured")
        try:
            return await self._pool.run(courier.hooked, call.headers, call.body)
        except Unproven as error:
            raise Problem(401, str(error)) from error
