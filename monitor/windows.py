"""Event-time base windows of one lane: which window a row belongs to, when a window is over, what is late.

Everything here is a function of the records' order alone, never of how a poll happened to cut them, so a lane read
again after a crash closes the same windows with the same rows. The only exception, closing by the clock when nothing
comes, is the caller's decision and is saved before it has an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

import msgspec
import numpy as np

from detectors.core import Batch, Floats, Ints, concat
from detectors.units import Seconds

BLOCK = 1024  # rows profiled at once: enough to make array calls cheap, few enough to stay in the cache


class WindowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Event-time base windows; everything longer is a merge of them."""

    size: Annotated[Seconds, msgspec.Meta(description="Length of a base window.", gt=0)] = 10.0
    lateness: Annotated[
        Seconds,
        msgspec.Meta(description="A window closes when an event this much newer than its end was seen.", ge=0),
    ] = 0.5
    idle: Annotated[
        Seconds,
        msgspec.Meta(
            description="A live source without traffic closes its windows this long after end and lateness.", ge=0
        ),
    ] = 0.2
    grace: Annotated[
        Seconds,
        msgspec.Meta(
            description="How long the judge waits for a silent lane, and how long a source whose event time is not "
            "the clock's (a replay) must be silent before its open windows close.",
            ge=0,
        ),
    ] = 5.0
    ahead: Annotated[
        Seconds,
        msgspec.Meta(
            description="An event newer than its arrival and than all before it by more than this has a wrong "
            "clock: it counts as of the newest time before it.",
            gt=0,
        ),
    ] = 3600.0


def settle_times(times: Floats, newest: float, arrived: Floats, ahead: float) -> tuple[Floats, int]:
    """Times that a wrong clock cannot throw forward, and how many were set.

    A time is believed when it is at most `ahead` past the row's arrival or past the newest believed time; so a stream
    that runs ahead of the clock on purpose, a replay at speed, is believed, and a lone outlier is not. NaN (no time)
    becomes the arrival. Rows that all arrived at once, as a recorded file's do, more than `ahead` past what they tell:
    one without a time, or with the arrival as its time, counts as of the row before it, or the next where it is first
    (one such row made 3,712 of 4,332 late). Blind spot: rows of such a file of which none has a time in one read.

    >>> settle_times(np.array([10.0, 9e9, 11.0]), 0.0, np.array([10.0, 10.0, 10.0]), 3600.0)
    (array([10., 10., 11.]), 1)
    >>> settle_times(np.array([np.nan, 10.0, np.nan, 11.0]), -np.inf, np.full(4, 9e9), 3600.0)
    (array([10., 10., 10., 11.]), 0)
    """
    times = np.where(np.isnan(times), arrived, times)
    timed = np.flatnonzero(times != arrived)
    if 0 < len(timed) < len(times) and (arrived == arrived[0]).all():
        before = np.searchsorted(timed, np.arange(len(times)), side="right") - 1
        beside = np.maximum(times[timed[np.maximum(before, 0)]], newest)
        times = np.where((times == arrived) & (arrived > beside + ahead), beside, times)
    if (times <= arrived + ahead).all():
        return times, 0
    before = np.maximum.accumulate(np.concatenate([[newest], times[:-1]]))
    if np.isfinite(newest) and (times <= np.maximum(arrived, before) + ahead).all():
        return times, 0
    out, wrong = times.copy(), 0
    for i, time in enumerate(times.tolist()):
        if time > max(float(arrived[i]), newest) + ahead:
            out[i] = newest if np.isfinite(newest) else arrived[i]
            wrong += 1
        newest = max(newest, float(out[i]))
    return out, wrong


def advances(
    times: Floats, newest: float, others: float, below: int | None, options: WindowOptions
) -> list[tuple[int, int]]:
    """Where among the rows the floor under which windows are closed rises: (rows up to there, new floor) each time.

    `newest` is the newest time of the topic before the first row, `others` the least of the newest times of the other
    topics that feed the same windows (inf without any), `below` the floor so far. The floor rises behind the row that
    raises it, so that row and all before it are still judged by the old one.

    >>> advances(np.array([5.0, 12.0, 6.0, 31.0]), -np.inf, np.inf, None, WindowOptions(size=10.0, lateness=1.0))
    [(1, 0), (2, 1), (4, 3)]
    """
    seen = np.maximum.accumulate(np.concatenate([[newest], times]))[1:]
    floors = np.floor((np.minimum(seen, others) - options.lateness) / options.size)
    floors = np.maximum.accumulate(np.concatenate([[-np.inf if below is None else below], floors]))
    risen = np.flatnonzero(floors[1:] > floors[:-1])
    return [(i + 1, int(floors[i + 1])) for i in risen.tolist()]


def by_window(windows: Ints, rows: Ints | None = None) -> Iterator[tuple[int, slice | Ints]]:
    """Each window among the rows (all of them, or those of the given index) with its rows, in ascending order.

    The rows' order is kept; they come as a slice where they lie together, which takes no copy.
    """
    part = windows if rows is None else windows[rows]
    steps = np.diff(part)
    if rows is None and (steps >= 0).all():
        cuts = [0, *(np.flatnonzero(steps) + 1).tolist(), len(part)]
        for first, last in pairwise(cuts):
            yield int(part[first]), slice(first, last)
        return
    for window in np.unique(part).tolist():
        mine = np.flatnonzero(part == window)
        yield window, mine if rows is None else rows[mine]


class Rows:
    """Rows that wait to be profiled in blocks of exactly BLOCK, whatever the polls they came by."""

    __slots__ = ("_count", "_parts")

    def __init__(self, parts: Sequence[Batch] = ()) -> None:
        self._parts = list(parts)
        self._count = sum(map(len, self._parts))

    def add(self, batch: Batch) -> Iterator[Batch]:
        """Takes rows in; yields each block that is full."""
        self._parts.append(batch)
        self._count += len(batch)
        if self._count >= BLOCK:
            whole = concat(self._parts)
            full = self._count - self._count % BLOCK
            for start in range(0, full, BLOCK):
                yield whole.take(slice(start, start + BLOCK))
            self._parts = [whole.take(slice(full, None))] if full < self._count else []
            self._count -= full

    def rest(self) -> Batch | None:
        """The rows of the unfinished block as one batch, None when there are none. They stay."""
        if not self._parts:
            return None
        self._parts = [concat(self._parts)]
        return self._parts[0]
