"""Delivery: one thread per destination takes items, sends them, backs off, and reports what got through.

A dead destination slows no other, and nothing is given up: an item leaves only when its destination took it. Two kinds
of failure are told apart. *The destination is in trouble*: everything for it waits, in order; after some failures in a
row its circuit opens, and one item at a time is tried until one gets through. *The destination refuses this payload*:
it is set aside with what is about the same alert, and tried again now and then, while all others pass it.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from alerting.alert import Alert, Seconds
from alerting.outbox import Item, Key

_log = logging.getLogger(__name__)

BATCH = 100  # items handed to a sink at once
_LONGEST = 3600.0  # seconds that a Retry-After is believed


class Undelivered(Exception):
    """A sink could not deliver. The message is shown to operators: it names the host, never a URL or a secret.

    `retry`: the destination is in trouble, try everything again; otherwise it refuses what it was given.
    `after`: seconds the destination asked us to wait. `delivered`: leading items that did get through.
    """

    def __init__(self, message: str, *, retry: bool, after: float | None = None, delivered: int = 0) -> None:
        super().__init__(message)
        self.retry = retry
        self.after = after
        self.delivered = delivered


class Sink(Protocol):
    """One destination, open. Used by one thread."""

    def send(self, items: Sequence[Item]) -> None:
        """Deliver all, in order, or raise `Undelivered`. Items may have been sent before: repeats do no harm."""

    def close(self) -> None:
        """Called once, after the last `send`."""


@runtime_checkable
class Refreshing(Sink, Protocol):
    """A destination that forgets an alert unless it is told again every `resend` seconds."""

    @property
    def resend(self) -> float: ...

    def refresh(self, alerts: Sequence[Alert], now: float) -> None:
        """Tell the present state of all `alerts`, those lately resolved too; raises `Undelivered`."""


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Waits between attempts: uniform between 0 and a ceiling that doubles ("full jitter", Brooker 2015), so that a
    restarted destination is not met by everyone at once."""

    first: Annotated[Seconds, Meta(gt=0, description="Ceiling of the wait after the first failure.")] = 1.0
    longest: Annotated[Seconds, Meta(gt=0, description="Ceiling of every wait; also the wait of refused items.")] = (
        300.0
    )
    trip: Annotated[
        int,
        Meta(
            ge=1,
            description="Failures in a row that open a destination's circuit: it counts as down, and is tried with one "
            "item at a time.",
        ),
    ] = 5

    def wait(self, failures: int, after: float | None, rng: random.Random, most: float = math.inf) -> float:
        """Seconds to wait after so many failures in a row: `most` at most, and at least what the destination asked."""
        ceiling = min(self.longest, most, self.first * 2.0 ** min(failures - 1, 60))
        return max(rng.uniform(0.0, ceiling), min(after or 0.0, _LONGEST))


class Circuit(StrEnum):
    """Whether a destination is tried."""

    CLOSED = "closed"  # whatever is due is sent
    OPEN = "open"  # it is down: nothing is sent before the next attempt is due
    HALF_OPEN = "half-open"  # one item is being tried, which closes it or opens it again


class Condition(msgspec.Struct, frozen=True):
    """How a destination fares, for metrics and the status page."""

    attempts: int = 0  # calls of the sink
    failures: int = 0
    delivered: int = 0  # items
    waiting: int = 0  # items held, the refused ones included
    refused: int = 0  # items set aside now
    oldest: float | None = None  # UTC seconds at which the oldest held item was made
    last_error: str = ""  # of the present trouble; empty when all is well
    alive: float = 0.0  # UTC seconds the thread last went round
    circuit: Circuit = Circuit.CLOSED
    retry: float | None = None  # UTC seconds of the next attempt; None when it is not in trouble


class _Aside(msgspec.Struct):
    """An item that was refused, and behind it those about the same thing."""

    items: deque[Item]
    due: float


class Lane:
    """Items of one destination and when they are due. Knows no thread and no wall clock: `now` is handed in.

    Nothing leaves it but what was delivered. Items about one thing are delivered in the order they were put.
    """

    def __init__(self, sink: Sink, backoff: Backoff, rng: random.Random) -> None:
        self.queue: deque[Item] = deque()
        self.attempts = self.failures = self.delivered = 0
        self.last_error = ""
        self._aside: dict[str, _Aside] = {}  # by what they are about; by due time: each goes to the end with one wait
        self._sink = sink
        self._backoff = backoff
        self._rng = rng
        self._resend = sink.resend if isinstance(sink, Refreshing) else math.inf
        self._in_a_row = 0  # failures of the destination, of sends and refreshes alike
        self._due = 0.0
        self._batch = BATCH
        self._refresh_due = 0.0

    @property
    def refused(self) -> int:
        """Items set aside now."""
        return sum(len(aside.items) for aside in self._aside.values())

    @property
    def retry(self) -> float | None:
        """When a destination in trouble is tried again; None where it is in none."""
        return self._due if self._in_a_row else None

    def circuit(self, now: float) -> Circuit:
        """Whether the destination would be tried now."""
        if self._in_a_row < self._backoff.trip:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self._due else Circuit.HALF_OPEN

    def due(self, *, refreshing: bool) -> float:
        """When there is something to do; infinity when nothing waits."""
        times = [self._due] if self.queue else []
        times += [max(self._due, next(iter(self._aside.values())).due)] if self._aside else []
        times += [max(self._due, self._refresh_due)] if refreshing else []
        return min(times, default=math.inf)

    def send(self, now: float) -> list[Item]:
        """One attempt with what is due; returns the items that got through."""
        if now < self._due:
            return []
        about, aside = next(iter(self._aside.items()), ("", None))
        if aside is not None and aside.due <= now:
            return self._send_again(about, aside, now)
        batch = self._take(1 if self.circuit(now) is Circuit.HALF_OPEN else self._batch)
        if not batch:
            return []
        trouble = self._attempt(lambda: self._sink.send(batch), now)
        through = batch if trouble is None else batch[: trouble.delivered]
        rest = batch[len(through) :]
        self.delivered += len(through)
        if trouble is None:
            self._batch = min(BATCH, self._batch * 2)
        elif not trouble.retry and len(rest) == 1:
            self._aside[_about(rest[0])] = _Aside(deque(rest), now + self._backoff.longest)
        else:
            # Where some item of the batch is refused: halve until it stands alone.
            self._batch = self._batch if trouble.retry else max(1, len(rest) // 2)
            self.queue.extendleft(reversed(rest))
        return through

    def refresh(self, alerts: Sequence[Alert], now: float, wall: float) -> None:
        """Tell a sink that forgets what is open, when that is due."""
        if now < max(self._due, self._refresh_due) or not isinstance(self._sink, Refreshing):
            return
        sink = self._sink
        self._attempt(lambda: sink.refresh(alerts, wall), now)
        self._refresh_due = now + sink.resend if not self._in_a_row else self._due

    def _take(self, most: int) -> list[Item]:
        """The next items that wait behind none that was refused; the others go aside behind those."""
        batch: list[Item] = []
        while self.queue and len(batch) < most:
            item = self.queue.popleft()
            aside = self._aside.get(_about(item))
            (batch if aside is None else aside.items).append(item)
        return batch

    def _send_again(self, about: str, aside: _Aside, now: float) -> list[Item]:
        """One attempt with an item that was refused."""
        item = aside.items[0]
        trouble = self._attempt(lambda: self._sink.send([item]), now)
        if trouble is None:
            self.delivered += 1
            aside.items.popleft()
            del self._aside[about]
            self.queue.extendleft(reversed(aside.items))
            return [item]
        if not trouble.retry:
            aside.due = now + self._backoff.longest
            self._aside[about] = self._aside.pop(about)
        return []

    def _attempt(self, act: Callable[[], None], now: float) -> Undelivered | None:
        """A call of the sink. Whoever answers, be it with a refusal, is not down."""
        self.attempts += 1
        try:
            act()
        except Undelivered as error:
            trouble = error
        except Exception as error:  # noqa: BLE001 a bug of a sink must neither stop the thread nor hold up other items
            _log.exception("a sink failed in a way it should not")
            trouble = Undelivered(f"internal error: {type(error).__name__}", retry=False)
        else:
            self._in_a_row, self.last_error = 0, ""
            return None
        self.failures += 1
        self.last_error = str(trouble)
        self._in_a_row = self._in_a_row + 1 if trouble.retry else 0
        if trouble.retry:
            self._due = now + self._backoff.wait(self._in_a_row, trouble.after, self._rng, self._resend)
        return trouble


def _about(item: Item) -> str:
    return item.about or item.id


class _Worker:
    """A lane, its thread, and the lock between them and the callers."""

    def __init__(self, name: str, sink: Sink, backoff: Backoff, rng: random.Random) -> None:
        self._sink = sink
        self._refreshing = isinstance(sink, Refreshing)
        self._lane = Lane(sink, backoff, rng)  # touched by the thread alone
        self._held: dict[str, Item] = {}  # offered and not yet reported by `finished`, so never sent twice
        self._incoming: list[Item] = []
        self._finished: list[str] = []
        self._alerts: Sequence[Alert] = ()
        self._condition = Condition()
        self._wake = threading.Condition()
        self._stopping_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"deliver {name}", daemon=True)
        self._thread.start()

    def offer(self, items: Iterable[Item]) -> None:
        with self._wake:
            new = [item for item in items if item.id not in self._held]
            self._held.update((item.id, item) for item in new)
            self._incoming += new
            if new:
                self._wake.notify()

    def refresh(self, alerts: Sequence[Alert]) -> None:
        with self._wake:
            self._alerts = alerts
            self._wake.notify()

    def finished(self) -> list[str]:
        with self._wake:
            ids, self._finished = self._finished, []
            for key in ids:
                del self._held[key]
            return ids

    def condition(self) -> Condition:
        with self._wake:
            undone = self._held.keys() - self._finished
            oldest = min((self._held[i].created for i in undone), default=None)
            return msgspec.structs.replace(self._condition, waiting=len(undone), oldest=oldest)

    def stop(self, at: float) -> None:
        with self._wake:
            self._stopping_at = at
            self._wake.notify()

    def join(self) -> bool:
        """Wait for the thread until the time given to `stop`; False where it is still in a call of its sink."""
        self._thread.join(max(0.0, (self._stopping_at or 0.0) - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._go_round():
            pass
        self._sink.close()

    def _go_round(self) -> bool:
        with self._wake:
            now = time.monotonic()
            wait = self._wait(now)
            if wait > 0 and not self._incoming and self._stopping_at is None:
                self._wake.wait(min(wait, 1.0))  # a second at most: `alive` must move while nothing happens
                now = time.monotonic()
            self._lane.queue.extend(self._incoming)
            self._incoming.clear()
            alerts = self._alerts
            stopping_at = self._stopping_at
        if stopping_at is not None and (now >= stopping_at or self._wait(now) > 0):
            return False  # what is not due now stays in the outbox, and so in the checkpoint
        through = self._lane.send(now)
        if alerts and stopping_at is None:
            self._lane.refresh(alerts, now, time.time())
        with self._wake:
            self._finished += [item.id for item in through]
            lane = self._lane
            self._condition = Condition(
                attempts=lane.attempts,
                failures=lane.failures,
                delivered=lane.delivered,
                refused=lane.refused,
                last_error=lane.last_error,
                alive=time.time(),
                circuit=lane.circuit(now),
                retry=None if lane.retry is None else time.time() + lane.retry - time.monotonic(),
            )
        return True

    def _wait(self, now: float) -> float:
        refreshing = self._refreshing and bool(self._alerts) and self._stopping_at is None
        return self._lane.due(refreshing=refreshing) - now


class Delivery:
    """Delivers items to the destinations of the given names. All methods are quick and safe from any thread.

    Offer what the outbox has pending as often as you like: an item is held once, until `finished` has returned its
    key. So call `finished`, tell the outbox, then `offer`.
    """

    def __init__(
        self, sinks: Mapping[str, Sink], backoff: Backoff | None = None, rng: random.Random | None = None
    ) -> None:
        backoff, rng = backoff or Backoff(), rng or random.Random()
        self._workers = {name: _Worker(name, sink, backoff, rng) for name, sink in sinks.items()}

    def offer(self, items: Iterable[Item]) -> None:
        """Hand items over; those held already and those for unknown destinations are left."""
        by_destination: dict[str, list[Item]] = {}
        for item in items:
            by_destination.setdefault(item.destination, []).append(item)
        for destination, mine in by_destination.items():
            if destination in self._workers:
                self._workers[destination].offer(mine)

    def refresh(self, alerts: Sequence[Alert]) -> None:
        """All open and lately resolved alerts, for destinations that must be told again and again (`Refreshing`)."""
        for worker in self._workers.values():
            worker.refresh(alerts)

    def finished(self) -> list[Key]:
        """Keys delivered since the last call."""
        return [(name, item) for name, worker in self._workers.items() for item in worker.finished()]

    def conditions(self) -> dict[str, Condition]:
        """How each destination fares."""
        return {name: worker.condition() for name, worker in self._workers.items()}

    def stop(self, deadline: float) -> list[str]:
        """Deliver what is due now for at most `deadline` seconds, then close.

        Returns the names of destinations that did not come back in time. Call `finished` once more afterwards.
        """
        at = time.monotonic() + deadline
        for worker in self._workers.values():
            worker.stop(at)
        return [name for name, worker in self._workers.items() if not worker.join()]
