"""What the HTTP server shows and feeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from alerting.alert import Alert
from alerting.deliver import Condition
from alerting.labeling.queue import Progress
from alerting.retraining import Request
from monitor.exchange import Told
from monitor.explain import Held
from monitor.intake import Received
from monitor.snapshot import Snapshot


class Daemon(Protocol):
    """The daemon as the server sees it. Every method is called on the server's thread and must not block."""

    def snapshot(self) -> Snapshot: ...

    def alerts(self) -> Sequence[Alert]:
        """The open alerts and those resolved lately, as they were after the last judged window."""

    def requests(self) -> Sequence[Request]:
        """Retraining requests, the newest of each model first."""

    def progress(self) -> Sequence[Progress]:
        """How the labeling of each dataset goes on, as it was up to a minute ago."""

    def held(self) -> Mapping[str, Held]:
        """By model, what single events can be explained by; none of a model that has no reference yet."""

    def silences(self) -> Mapping[str, float]:
        """Seconds since each long-lived thread last went round."""

    def destinations(self) -> Mapping[str, Condition]:
        """How each destination of notices and label tasks fares."""

    def not_ready(self) -> Sequence[str]:
        """Why it cannot do its work yet, in words; empty when it can."""

    @property
    def backlog(self) -> int:
        """Messages on the exchange that the judge has not taken yet."""

    def take(self, received: Sequence[Received]) -> None:
        """Keeps records of the intake; they are safe when it returns. Raises `Full`."""

    def exchange_name(self, model: str) -> str | None:
        """What the exchange calls a model that alerts and label tasks name so; None when there is no such model."""

    def tell(self, told: Sequence[Told]) -> None:
        """Lays what people and tools did before the judge; it is safe when it returns. Raises `Full`."""
