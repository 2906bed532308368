"""What is still to be delivered, and the ids of what was: the notification log and the retry queue are one structure.

Owned by the judge's thread and saved with its checkpoint, so an effect and the state that caused it survive together.
The delivery thread (`alerting.deliver`) works on the immutable items and reports their keys back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from alerting.alert import Notice

REMEMBERED = 10_000  # delivered keys kept to recognise a repeat: 500 KB of a checkpoint at most
_OVERHEAD = 200  # bytes of an item beside its payload, measured on CPython 3.11

Key = tuple[str, str]  # destination, id: unique in an outbox


class Item(msgspec.Struct, frozen=True):
    """One thing for one destination. `payload` is msgpack (it keeps NaN) of what that destination's kind takes."""

    id: str
    destination: str
    payload: bytes
    created: float  # UTC seconds
    about: str = ""  # items about one thing, such as an alert, reach their destination in order; empty: itself

    @property
    def key(self) -> Key:
        """What makes it the same item after a crash."""
        return self.destination, self.id


def notices_to(destinations: Sequence[str], notices: Iterable[Notice], created: float) -> list[Item]:
    """An item per notice and destination, in the order of the notices."""
    packed = [(notice.id, msgspec.msgpack.encode(notice), notice.alert.key) for notice in notices]
    return [Item(id_, to, payload, created, about) for id_, payload, about in packed for to in destinations]


def notice_in(item: Item) -> Notice:
    """The notice that `notices_to` packed."""
    return msgspec.msgpack.decode(item.payload, type=Notice)


class Saved(msgspec.Struct):
    """An outbox as plain data."""

    items: list[Item] = []
    delivered: list[Key] = []
    repeats: int = 0
    forgotten: int = 0


class Sum(NamedTuple):
    """What waits for one destination."""

    items: int
    oldest: float | None  # UTC seconds; None when nothing waits


class Outbox:
    """Items by destination in the order they were put, each delivered at least once and kept until then.

    Nothing is ever dropped: `bytes` is what the back-pressure budget looks at, and the caller stops reading its
    source while it is exceeded. A key that waits, or that is among the last `REMEMBERED` delivered, is not taken again.

    >>> outbox = Outbox(); item = Item("a1", "log", b"x", 0.0)
    >>> outbox.put([item, item]), outbox.done([item.key]), outbox.put([item]), outbox.repeats
    (1, 1, 0, 2)
    """

    def __init__(self, saved: Saved | None = None) -> None:
        saved = saved or Saved()
        self._waiting: dict[str, dict[str, Item]] = {}
        self._delivered: dict[Key, None] = dict.fromkeys(saved.delivered)
        self._bytes = 0
        self.repeats = 0  # items not taken because they wait or were delivered
        self.forgotten = saved.forgotten  # delivered keys no longer remembered
        self.put(saved.items)
        self.repeats = saved.repeats

    @property
    def bytes(self) -> int:
        """Memory held by what waits, about."""
        return self._bytes

    def put(self, items: Iterable[Item]) -> int:
        """Take what is new; returns how many were."""
        new = 0
        for item in items:
            waiting = self._waiting.setdefault(item.destination, {})
            if item.id in waiting or item.key in self._delivered:
                self.repeats += 1
                continue
            waiting[item.id] = item
            self._bytes += len(item.payload) + _OVERHEAD
            new += 1
        return new

    def pending(self, destination: str, limit: int) -> list[Item]:
        """The oldest that wait for a destination."""
        return list(islice(self._waiting.get(destination, {}).values(), limit))

    def waiting(self) -> dict[str, Sum]:
        """How much waits, by destination; one that is no longer configured shows here and keeps what it has."""
        return {
            destination: Sum(len(items), next((item.created for item in items.values()), None))
            for destination, items in self._waiting.items()
        }

    def done(self, keys: Iterable[Key]) -> int:
        """These were delivered; unknown keys are ignored. Returns how many were waiting."""
        known = 0
        for destination, name in keys:
            item = self._waiting.get(destination, {}).pop(name, None)
            if item is None:
                continue
            known += 1
            self._bytes -= len(item.payload) + _OVERHEAD
            self._delivered[item.key] = None
        for key in list(islice(self._delivered, max(0, len(self._delivered) - REMEMBERED))):
            del self._delivered[key]
            self.forgotten += 1
        return known

    def save(self) -> Saved:
        """Plain data for the checkpoint; `Outbox(saved)` goes on from it."""
        items = [item for waiting in self._waiting.values() for item in waiting.values()]
        return Saved(items, list(self._delivered), self.repeats, self.forgotten)
