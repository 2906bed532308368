"""Where records come from. A source gives bytes with partition and offset and knows nothing of state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from monitor.event import Partition, Raw


class Polled(NamedTuple):
    """One poll. Handle `gone`, then `gained`, then `records`."""

    records: Mapping[Partition, Sequence[Raw]] = {}  # in offset order
    gained: Sequence[Partition] = ()  # load its state and `seek`; its records come from the next poll on
    gone: Sequence[Partition] = ()  # drop its state and save nothing: the last checkpoint is the truth
    lag: Mapping[Partition, int] = {}  # records still to come, as far as the source knows; 0 = caught up
    ended: bool = False  # a source with an end has reached it: nothing will ever come again


class Source(Protocol):
    """One thread owns it and calls everything on it."""

    def poll(self, timeout: float) -> Polled:
        """Waits at most `timeout` seconds. Empty when nothing came; never raises for a payload or a broker away."""

    def seek(self, partition: Partition, offset: int | None) -> None:
        """Go on from this offset; None = where the configuration says a new reader starts."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tells lag tools how far the checkpoint reaches; a failure is logged and counted, never raised."""

    def pause(self, paused: bool) -> None:
        """While paused `poll` keeps the membership alive and returns no records."""

    def close(self) -> None: ...
