"""A source that is a member of a Kafka consumer group, whichever client library speaks to the brokers.

What a reader would get wrong: the checkpoint is the truth, and the group's committed offsets only tell lag tools how
far it reaches. So nothing is committed in a rebalance, and a partition gained is held until its owner has sought.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from monitor.event import Partition, Raw
from monitor.sources import Polled
from monitor.sources.kafka import KafkaOptions

log = logging.getLogger(__name__)

ASK_EVERY = 5.0  # seconds between two questions where a partition ends that is not read for now: no fetch tells it


class Trouble(Exception):
    """The cluster did not answer or refused, in its client's words. Wait a little and try again."""


class Ownership:
    """What the group gave and took, noted on whatever thread the client tells it, for the next poll to say."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[Partition] = set()  # what the owner of the source believes to have
        self._now: set[Partition] = set()
        self._renewed: set[Partition] = set()  # taken since, and perhaps given again

    def give(self, partitions: Iterable[Partition]) -> None:
        with self._lock:
            self._now |= set(partitions)

    def take_away(self, partitions: Iterable[Partition]) -> None:
        with self._lock:
            lost = set(partitions)
            self._now -= lost
            self._renewed |= lost & self._told

    def changes(self) -> tuple[set[Partition], set[Partition]]:
        """Gained and gone since the last call; a partition that is both has to be loaded anew."""
        with self._lock:
            gone = (self._told - self._now) | self._renewed
            gained = (self._now - self._told) | (self._renewed & self._now)
            self._told, self._renewed = set(self._now), set()
            return gained, gone


class Client(Protocol):
    """A client library, called by the source's thread alone. A partition that the group took away meanwhile is no
    error in any call: `ownership` will say so."""

    ownership: Ownership
    commit_failures: int

    def connected(self, timeout: float) -> bool:
        """Waits at most `timeout` seconds for the first broker to answer."""

    def poll(self, timeout: float) -> Mapping[Partition, Sequence[Raw]]:
        """Records in offset order, of partitions that were sought. Raises `Trouble`."""

    def start(self, partition: Partition) -> int:
        """Where a new reader begins: at what the group committed, else where the options say. Raises `Trouble`."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Makes a partition readable, from here on."""

    def pause(self, partitions: Iterable[Partition], paused: bool) -> None: ...

    def end(self, partition: Partition) -> int | None:
        """The offset at the partition's end as last heard of; None while nothing was heard."""

    def ends(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """The same, asked for now. Raises `Trouble`."""

    def reached(self, partition: Partition) -> int:
        """The offset that reading has come to: beyond the last record where markers of transactions follow it."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Begins to commit; a failure is logged and counted."""

    def close(self) -> None:
        """Waits a few seconds at most for the last commit, then leaves the group."""


class GroupSource:
    """See `monitor.sources.Source` for the contract. A broker that is away, refuses us, or has no such topic is told in
    `state`, logged once, and tried again without end."""

    def __init__(self, options: KafkaOptions, client: Client) -> None:
        self._options = options
        self._client = client
        self._connected = False
        self._paused = False
        self._ends: Mapping[Partition, int] = {}  # as told when last asked for, in a pause
        self._asked = float("-inf")
        self._next: dict[Partition, int] = {}  # partitions that may be read, and the offset of their next record
        self._unplaced: set[Partition] = set()  # wait for an answer where a new reader starts
        self._starts: dict[Partition, int] = {}  # the answers: asked again before a checkpoint, nothing is skipped
        self._trouble = ""

    @property
    def state(self) -> str:
        """What it is doing, in words for status pages."""
        if self._trouble:
            return self._trouble
        if not self._connected:
            return f"connecting to {', '.join(self._options.brokers)}"
        return f"reading {len(self._next)} partitions" if self._next else f"joining group {self._options.group}"

    @property
    def commit_failures(self) -> int:
        return self._client.commit_failures

    def poll(self, timeout: float) -> Polled:
        self._connected = self._connected or self._client.connected(timeout)
        if not self._connected:
            return Polled()
        began = time.monotonic()
        fetched: Mapping[Partition, Sequence[Raw]] = {}
        try:
            for partition in list(self._unplaced):
                self._place(partition)
            fetched = self._client.poll(timeout)
            self._trouble = ""
        except Trouble as trouble:
            self._complain(str(trouble))
            time.sleep(max(0.0, began + timeout - time.monotonic()))
        gained, gone = self._client.ownership.changes()
        for partition in gained | gone:  # what was fetched of them came before their owner sought
            self._next.pop(partition, None)
            self._unplaced.discard(partition)
        records = {partition: batch for partition, batch in fetched.items() if partition in self._next}
        for partition, batch in records.items():
            self._next[partition] = batch[-1].offset + 1
        return Polled(records, tuple(sorted(gained)), tuple(sorted(gone)), self._lag(records))

    def seek(self, partition: Partition, offset: int | None) -> None:
        offset = self._starts.get(partition) if offset is None else offset
        if offset is None:
            self._unplaced.add(partition)
        else:
            self._read_from(partition, offset)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        ours = {partition: offset for partition, offset in offsets.items() if partition in self._next}
        if ours:
            self._client.commit(ours)

    def pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused, self._ends = paused, {}
            self._client.pause(self._next, paused)

    def close(self) -> None:
        self._client.close()

    def _place(self, partition: Partition) -> None:
        offset = self._starts[partition] = self._client.start(partition)
        self._unplaced.discard(partition)
        self._read_from(partition, offset)

    def _read_from(self, partition: Partition, offset: int) -> None:
        self._next[partition] = offset
        self._client.seek(partition, offset)
        if self._paused:
            self._client.pause([partition], True)

    def _lag(self, records: Mapping[Partition, Sequence[Raw]]) -> dict[Partition, int]:
        if self._paused and self._next and time.monotonic() - self._asked >= ASK_EVERY:
            self._asked = time.monotonic()
            try:
                self._ends = self._client.ends(self._next)
            except Trouble as trouble:
                self._complain(str(trouble))
        found = {}
        for partition in self._next:
            end = self._ends.get(partition, self._client.end(partition))
            if end is None:
                continue
            if end > self._next[partition] and not records:  # only then worth asking: 50 us each
                self._next[partition] = max(self._next[partition], self._client.reached(partition))
            found[partition] = max(0, end - self._next[partition])
        return found

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("reading %s: %s", ", ".join(self._options.topics), trouble)
        self._trouble = trouble
