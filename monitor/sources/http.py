"""Records that came by HTTP, read from the intake log which the web server appends to.

The log is the truth: what a sender got 202 for is in it, and it goes from it only once a checkpoint covers it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from monitor.event import Partition, Record
from monitor.log import Log
from monitor.sources import Polled

log = logging.getLogger(__name__)

_PARTITION = Partition("http", 0)
_POLL_BYTES = 4 << 20
_POLL_RECORDS = 2000


class HttpOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="http"):
    """Events posted to the daemon's own HTTP server; where it listens and what it takes is said under `web`."""


class _Frame(msgspec.Struct, array_like=True, frozen=True):
    arrived: int
    headers: list[tuple[str, bytes]]
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Frame)


def frame(headers: Sequence[tuple[str, bytes]], body: bytes, arrived: int) -> bytes:
    """An item of the intake log. `arrived` is in milliseconds UTC."""
    return _encoder.encode((arrived, headers, body))


class HttpSource:
    """Reads the intake log as one partition. Committing trims the log: it holds what no checkpoint covers yet."""

    def __init__(self, intake: Log) -> None:
        self._intake = intake
        self._next: int | None = None  # None until its owner has sought
        self._announced = False
        self._paused = False

    def poll(self, timeout: float) -> Polled:
        if not self._announced:
            self._announced = True
            return Polled(gained=(_PARTITION,))
        if self._next is None:
            return Polled()
        # While paused it waits for an item that cannot come yet, so that the loop does not spin.
        if not self._intake.wait(self._intake.end if self._paused else self._next, timeout) or self._paused:
            return Polled(lag={_PARTITION: self._intake.end - self._next})
        items = self._intake.read(self._next, max_bytes=_POLL_BYTES, max_items=_POLL_RECORDS)
        records = [_record(offset, item) for offset, item in items]
        if items:
            self._next = items[-1][0] + 1
        return Polled({_PARTITION: records} if records else {}, lag={_PARTITION: self._intake.end - self._next})

    def seek(self, partition: Partition, offset: int | None) -> None:
        self._next = self._intake.start if offset is None else offset
        if self._next > self._intake.end:
            log.warning("%d events taken in were lost by a power cut", self._next - self._intake.end)
            self._next = self._intake.end

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        if _PARTITION in offsets:
            self._intake.trim(offsets[_PARTITION])

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def close(self) -> None:
        """The log stays open: who made it closes it."""


def _record(offset: int, item: bytes) -> Record:
    found = _decoder.decode(item)
    return Record(found.body, None, found.headers, offset, found.arrived)
