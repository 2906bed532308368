"""The two stage threads: what they do each round, and in which order they save.

Ingest: poll, take, tick, save, commit. Judge: read, take, hand over, save, trim. Each owns its stage's state; between
them is the exchange, and between the judge and the delivery threads the outbox.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from alerting.deliver import Delivery
from alerting.outbox import Item, Outbox, Saved, notices_to
from detectors.encode import Undecodable, decode, encode
from monitor.event import Partition, Raw
from monitor.exchange import from_bytes
from monitor.ingest import Ingest
from monitor.journal import Journal
from monitor.judge import Effects, Judge
from monitor.log import Full, Log
from monitor.metrics import Meters
from monitor.sources import Source
from monitor.store import Store

log = logging.getLogger(__name__)

LONGEST = 1.0  # seconds a poll waits when no window is due: what an idle daemon costs, and how soon it heeds a signal
SHORTEST = 0.02
POLL = 0.2  # seconds the judge waits for a message before it looks what was delivered
JUDGE = "judge"  # name of the judge's checkpoint


class Stage:
    """A named thread that goes round until told to stop, says that it lives, and never dies silently."""

    def __init__(self, name: str, meters: Meters) -> None:
        self.name = name
        self._meters = meters
        self.alive = time.monotonic()
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks for the end; `join` waits for it."""
        self._stop.set()

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # a stage that ends by a bug ends the process, which its supervisor restarts
            self.error = error
            self._meters.errors.labels(self.name).inc()
            log.exception("%s stopped by an unexpected error", self.name)
        finally:
            self.ended.set()

    def work(self) -> None:
        raise NotImplementedError


class IngestLoop(Stage):
    """Stage 1 over one source."""

    def __init__(
        self,
        source: Source,
        ingest: Ingest,
        *,
        journal: Journal,
        exchange: Log,
        budget: int,
        every: float,
        meters: Meters,
    ) -> None:
        super().__init__(f"ingest {ingest.name}", meters)
        self._source, self._ingest, self._journal = source, ingest, journal
        self._exchange, self._budget, self._every = exchange, budget, every
        self._commit_failures = 0
        self._reading = False
        self._worked_on: tuple[Partition, int, int] | None = None

    @property
    def waiting(self) -> str:
        """Why nothing has been given to it to read yet, in words; empty since its first partition."""
        return "" if self._reading else str(getattr(self._source, "state", "waits for its source"))

    def work(self) -> None:
        source = self._source
        saved = time.monotonic()
        try:
            while not self._stop.is_set():
                full = self._exchange.size > self._budget
                source.pause(full)
                self._meters.paused.labels(self._ingest.name).set(full)
                ended = self._round()
                now = time.monotonic()
                if ended or now - saved >= self._every:
                    self._save()
                    saved = time.monotonic()
                if ended:
                    return
            self._save()
        finally:
            source.close()
            self._journal.close()

    def _round(self) -> bool:
        due = self._ingest.due(time.time()) - time.time()
        polled = self._source.poll(min(max(due, SHORTEST), LONGEST))
        self.alive = time.monotonic()
        for partition in polled.gone:
            self._ingest.drop(partition)
        for partition in polled.gained:
            offset = self._ingest.gain(partition)
            if self._journal.suspects(partition, 0):
                self._ingest.sift(partition)
            self._source.seek(partition, offset)
        for partition, records in polled.records.items():
            self._take(partition, records)
        self._tick(polled.lag, ended=polled.ended)
        self._measure(polled.lag)
        self._reading = self._reading or self._ingest.owns_lanes
        return polled.ended

    def _measure(self, lag: Mapping[Partition, int]) -> None:
        name, newest, meters = self._ingest.name, self._ingest.newest, self._meters
        meters.last_poll.labels(name).set_to_current_time()
        for partition, records in lag.items():
            meters.lag_records.labels(partition.topic, str(partition.number)).set(records)
        if newest is not None:
            meters.lag_seconds.labels(name).set(max(0.0, time.time() - newest) if any(lag.values()) else 0.0)

    def _take(self, partition: Partition, records: Sequence[Raw]) -> None:
        if not records:
            return
        first, last = records[0].offset, records[-1].offset
        if self._journal.suspects(partition, first):
            records = self._ingest.without_deadly(partition, records)
        if records:
            self._worked_on = partition, first, last
            self._journal.begin(partition, first, last)
            self._ingest.take(partition, records)
            self._journal.end()

    def _tick(self, lag: Mapping[Partition, int], *, ended: bool) -> None:
        """Closing a window works on rows that were read before, which can be deadly as well."""
        if self._worked_on is not None:
            self._journal.begin(*self._worked_on)
        self._ingest.tick(time.time(), lag, ended=ended)
        self._journal.end()

    def _save(self) -> None:
        began = time.monotonic()
        try:
            self._exchange.sync()
            offsets = self._ingest.checkpoint()
        except OSError as error:  # the last checkpoint still stands: only more is read again after a crash
            log.warning("no checkpoint of %s could be saved: %s", self.name, error)
            self._meters.checkpoint_failures.labels("ingest").inc()
            return
        self._source.commit(offsets)
        failures = getattr(self._source, "commit_failures", 0)
        self._meters.commit_failures.labels(self._ingest.name).inc(failures - self._commit_failures)
        self._commit_failures = failures
        for partition, offset in offsets.items():
            self._journal.passed(partition, offset)
        self._meters.checkpoints.labels("ingest").observe(time.monotonic() - began)


class _Checkpoint(msgspec.Struct, frozen=True):
    offset: int
    judge: bytes
    outbox: Saved


class JudgeLoop(Stage):
    """Stage 2 over the exchange; hands effects to the delivery threads through the outbox."""

    def __init__(
        self,
        judge: Judge,
        exchange: Log,
        *,
        store: Store,
        delivery: Delivery,
        destinations: Sequence[str],
        labels: str,
        targets: Sequence[str] = (),
        trackers: Sequence[str] = (),
        budget: int,
        every: float,
        meters: Meters,
    ) -> None:
        super().__init__("judge", meters)
        self._judge, self._exchange, self._store = judge, exchange, store
        self._delivery, self._destinations, self._labels = delivery, tuple(destinations), labels
        self._targets, self._trackers = tuple(targets), tuple(trackers)
        self._budget, self._every = budget, every
        self._offset = exchange.start
        self._outbox = Outbox()
        self._saved = time.monotonic()
        self._dirty = False
        self._measured = 0.0
        self._restore()

    @property
    def backlog(self) -> int:
        """Messages of the exchange not yet judged."""
        return max(0, self._exchange.end - self._offset)

    def _restore(self) -> None:
        data = self._store.get(JUDGE)
        if data is None:
            return
        try:
            saved = decode(data, _Checkpoint)
            self._judge.restore(saved.judge)
        except Undecodable as error:
            log.warning("the judge's checkpoint cannot be read, it begins anew from the exchange: %s", error)
            return
        self._offset = min(max(saved.offset, self._exchange.start), self._exchange.end)
        self._outbox = Outbox(saved.outbox)

    def work(self) -> None:
        waiting = [
            item
            for to in (*self._destinations, self._labels, *self._targets, *self._trackers)
            for item in self._outbox.pending(to, 1 << 60)
        ]
        self._delivery.offer(waiting)
        self._refresh()
        while True:
            stopping = self._stop.is_set()
            self.alive = time.monotonic()
            self._collect()
            if self._outbox.bytes > self._budget and not stopping:
                self._stop.wait(POLL)
                continue
            if self._exchange.wait(self._offset, 0.0 if stopping else POLL):
                self._read()
            elif stopping:
                break
            if self._dirty and time.monotonic() - self._saved >= self._every:
                self.save()
        self.save()

    def _read(self) -> None:
        effects, now = Effects(), time.time()
        draws: list[Item] = []
        room = self._budget - self._outbox.bytes
        for offset, data in self._exchange.read(self._offset, max_bytes=8 << 20):
            self._judge.take(from_bytes(data), effects)
            self._offset = offset + 1
            draws += [draw.item(self._labels, now) for draw in effects.draws[len(draws) :]]
            if sum(len(item.payload) for item in draws) > room:  # the rest once there is room again
                break
        self._dirty = True
        self._hand_over(effects, draws, now)

    def _hand_over(self, effects: Effects, draws: Sequence[Item], now: float) -> None:
        items = notices_to(self._destinations, effects.notices, now)
        items += draws
        items += [withdrawal.item(self._labels, now) for withdrawal in effects.withdrawals]
        items += [request.item(to, now) for request in effects.requests for to in self._targets]
        items += [report.item(to, now) for report in effects.reports for to in self._trackers]
        self._outbox.put(items)
        if effects.notices or effects.requests:
            # what is said aloud must be remembered, or a crash would say it again; label tasks are told apart by id
            self.save()
            self._refresh()
        self._delivery.offer(items)

    def _refresh(self) -> None:
        """Alerts that no receiver was told of, such as those that others lead, are none of theirs."""
        self._delivery.refresh([alert for alert in self._judge.alerts() if alert.serial])

    def _collect(self) -> None:
        if self._outbox.done(self._delivery.finished()):
            self._dirty = True
        now = time.monotonic()
        if now - self._measured >= 1.0:
            self._measured = now
            self._measure()

    def _measure(self) -> None:
        meters = self._meters
        meters.outbox_bytes.set(self._outbox.bytes)
        for destination, waiting in self._outbox.waiting().items():
            meters.outbox_items.labels(destination).set(waiting.items)

    def save(self) -> None:
        """Offset, windows, memories, alerts and outbox in one blob; then what it covers may go from the exchange."""
        began = time.monotonic()
        self._saved, self._dirty = began, False
        try:
            self._store.put(JUDGE, encode(_Checkpoint(self._offset, self._judge.checkpoint(), self._outbox.save())))
        except OSError as error:  # the exchange keeps what is not covered: nothing is lost, more is judged again
            log.warning("no checkpoint of the judge could be saved: %s", error)
            self._meters.checkpoint_failures.labels("judge").inc()
            self._dirty = True
            return
        self._exchange.trim(self._offset)
        self._meters.checkpoints.labels("judge").observe(time.monotonic() - began)

    def settle(self, patience: float) -> None:
        """After the end: gives the destinations so many seconds to take what waits, and saves what became of it."""
        for name in self._delivery.stop(patience):
            log.warning(
                "%s did not take everything in time; it is in the outbox and goes out after the next start", name
            )
        self._collect()
        self.save()


def sender(exchange: Log, stopping: threading.Event, lock: threading.Lock) -> Callable[[Sequence[bytes]], None]:
    """Appends for all ingest threads, one at a time; waits while the exchange is full, since nothing may be lost."""

    def send(messages: Sequence[bytes]) -> None:
        waiting = False
        while True:
            try:
                with lock:
                    exchange.append(messages)
                return
            except Full as full:
                if not waiting:
                    log.warning("reading waits until there is room: %s", full)
                waiting = True
                if stopping.wait(0.2):
                    raise

    return send
