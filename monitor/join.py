"""Requests and their responses brought together by id, where a server logs them as two records.

State is plain data, and what happens to it depends on the halves alone, in the order they come: a replay after a
restart pairs the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from monitor.event import Event, Half


class _Waiting(msgspec.Struct):
    half: Half
    since: float  # newest event time when it came: what it ages by, so that a half with a wrong clock ages like others


class _State(msgspec.Struct):
    """Halves that wait, oldest first; ids paired lately, oldest first; orphans not yet taken."""

    newest: float = 0.0
    waiting: dict[str, _Waiting] = {}
    paired: dict[str, float] = {}
    orphans: dict[str, int] = {}


class Joiner:
    """Pairs halves by model and id.

    A half waits at most `max_age` seconds of event time and among at most `max_waiting` others; what leaves unpaired is
    counted as an orphan of its side. A half seen twice changes nothing: while it waits, and for as long after pairing.
    """

    def __init__(self, max_waiting: int = 50_000, max_age: float = 300.0) -> None:
        self._max_waiting = max_waiting
        self._max_age = max_age
        self._state = _State()

    def pair(self, halves: Iterable[Half]) -> list[Event]:
        """The events that these halves complete, in the order of the completing half.

        >>> from monitor.event import Event, Half
        >>> asked = Half(id="7", side="request", event=Event(id="7", time=1.0, inputs={"x": 2}), timed=True)
        >>> said = Half(id="7", side="response", event=Event(id="7", time=1.5, label="a"), timed=True)
        >>> joiner = Joiner(); [(e.inputs, e.label, e.latency) for e in joiner.pair([said, asked])]
        [({'x': 2}, 'a', 0.5)]
        """
        state = self._state
        done = []
        for half in halves:
            if math.isfinite(half.event.time):
                state.newest = max(state.newest, half.event.time)
            if half.id in state.paired:
                continue
            other = state.waiting.get(half.id)
            if other is None:
                state.waiting[half.id] = _Waiting(half, state.newest)
            elif other.half.side != half.side:
                del state.waiting[half.id]
                state.paired[half.id] = state.newest
                done.append(_joined(other.half, half))
        self._evict()
        return done

    def take_orphans(self) -> dict[str, int]:
        """Halves given up since the last call, by side."""
        taken, self._state.orphans = self._state.orphans, {}
        return taken

    def __len__(self) -> int:
        """Halves that wait."""
        return len(self._state.waiting)

    def state(self) -> Any:
        """All of it as plain data."""
        return msgspec.to_builtins(self._state)

    @classmethod
    def restore(cls, state: Any, max_waiting: int = 50_000, max_age: float = 300.0) -> Joiner:
        """The joiner whose `state` this was. msgspec.ValidationError when it was none."""
        joiner = cls(max_waiting, max_age)
        joiner._state = msgspec.convert(state, _State)
        return joiner

    def _evict(self) -> None:
        state = self._state
        before = state.newest - self._max_age
        # `since` never falls from one half to the next, so the oldest are always in front
        while state.waiting:
            id_, oldest = next(iter(state.waiting.items()))
            if len(state.waiting) <= self._max_waiting and oldest.since >= before:
                break
            del state.waiting[id_]
            side = oldest.half.side
            state.orphans[side] = state.orphans.get(side, 0) + 1
        while state.paired:
            id_, since = next(iter(state.paired.items()))
            if len(state.paired) <= self._max_waiting and since >= before:
                break
            del state.paired[id_]


def _joined(one: Half, two: Half) -> Event:
    """The event of both sides: the response's values where it has them, the request's otherwise, its time included."""
    request, response = (one, two) if one.side == "request" else (two, one)
    asked, said = request.event, response.event
    merged = msgspec.structs.replace(
        said,
        time=asked.time,
        inputs=asked.inputs or said.inputs,
        extra=asked.extra | said.extra,
        offset=two.event.offset,
    )
    for name in merged.__struct_fields__:
        if getattr(merged, name) in (None, ""):
            setattr(merged, name, getattr(asked, name))
    if merged.latency is None and request.timed and response.timed:
        gap = said.time - asked.time
        merged.latency = gap if gap >= 0 else None
    return merged
