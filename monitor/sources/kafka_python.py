"""Records from Kafka through kafka-python, as a member of a consumer group or as a fixed range.

What a reader would get wrong: its listeners run on the client's own thread, everything else on ours.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from kafka.coordinator.base import MemberState
from kafka.errors import KafkaError
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka.structs import OffsetAndMetadata

from alerting.kafka import client_settings, made
from monitor.event import Partition, Raw
from monitor.sources import Polled
from monitor.sources.group import Ownership, Trouble
from monitor.sources.kafka import KafkaOptions

log = logging.getLogger(__name__)

_PATIENCE_MS = 5000  # for a question asked outside of poll: where a new reader starts, the last commit


def _reading(options: KafkaOptions) -> dict[str, Any]:
    return client_settings(options.brokers, options.security) | {
        "enable_auto_commit": False,
        # Also where a checkpoint's offset has been deleted by retention: nothing that is still there is skipped.
        "auto_offset_reset": "earliest",
        "isolation_level": options.isolation,
        "allow_auto_create_topics": False,
        "max_poll_records": options.poll_records,
        "fetch_max_bytes": options.fetch_bytes,
        "max_partition_fetch_bytes": options.partition_fetch_bytes,
        "metrics_enabled": False,
    }


class KafkaPython:
    """A `monitor.sources.group.Client`. Connects on a thread of its own, as the constructor of a consumer blocks."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._start_ms = options.start_ms
        self._connecting = _Connecting(
            _reading(options)
            | {
                "group_id": options.group,
                "group_instance_id": options.instance,
                "session_timeout_ms": int(options.session_timeout * 1000),
                "heartbeat_interval_ms": int(options.heartbeat * 1000),
                "max_poll_interval_ms": int(options.poll_interval * 1000),
                "partition_assignment_strategy": [LaneAssignor],
            },
        )
        self._consumer: Any = None
        self._spinning = False
        self._uncommitted: dict[TopicPartition, OffsetAndMetadata] = {}
        self.ownership = Ownership()
        self.commit_failures = 0

    def connected(self, timeout: float) -> bool:
        self._consumer = self._connecting.wait(timeout)
        if self._consumer is None:
            return False
        self._consumer.subscribe(list(self._options.topics), listener=_Listener(self._consumer, self.ownership))
        return True

    def poll(self, timeout: float) -> Mapping[Partition, Sequence[Raw]]:
        with _in_our_words():
            if self._consumer.group_metadata().state is MemberState.REBALANCING:
                # kafka-python 3.0.12 forgets a rebalance begun for new metadata if it outlasts a poll: the group then
                # waits for ever. Asked for it again, it goes on with the one under way.
                self._consumer._coordinator.request_rejoin()  # noqa: SLF001
            fetched = self._poll(timeout)
        return {Partition(*asked): batch for asked, batch in fetched.items()}

    def _poll(self, timeout: float) -> Any:
        """A poll that does not spin. While no broker answers, kafka-python 3.0.12 asks round and round until the
        timeout: 85 % of a core, for as long as the outage lasts."""
        if self._spinning:
            time.sleep(timeout)
            timeout = 0.0
        began, worked = time.monotonic(), time.thread_time()
        fetched = self._consumer.poll(timeout_ms=int(timeout * 1000))
        took, worked = time.monotonic() - began, time.thread_time() - worked
        if fetched or took > timeout > 0:
            self._spinning = not fetched and worked > took / 2
        return fetched

    def start(self, partition: Partition) -> int:
        asked = TopicPartition(*partition)
        with _in_our_words():
            offset = self._consumer.committed(asked, timeout_ms=_PATIENCE_MS)
            if offset is None and self._start_ms is not None:
                found = self._consumer.offsets_for_times({asked: self._start_ms}, timeout_ms=_PATIENCE_MS)[asked]
                offset = None if found is None else found.offset
            if offset is None:
                oldest = self._options.start == "earliest"
                ask = self._consumer.beginning_offsets if oldest else self._consumer.end_offsets
                offset = ask([asked], timeout_ms=_PATIENCE_MS)[asked]
        return int(offset)

    def seek(self, partition: Partition, offset: int) -> None:
        with contextlib.suppress(ValueError, KeyError):  # taken away meanwhile
            self._consumer.seek(TopicPartition(*partition), offset)
            self._consumer.resume(TopicPartition(*partition))

    def pause(self, partitions: Iterable[Partition], paused: bool) -> None:
        change = self._consumer.pause if paused else self._consumer.resume
        for partition in partitions:
            with contextlib.suppress(KeyError):  # taken away meanwhile
                change(TopicPartition(*partition))

    def end(self, partition: Partition) -> int | None:
        with contextlib.suppress(KafkaError, KeyError):  # taken away meanwhile
            end: int | None = self._consumer.highwater(TopicPartition(*partition))
            return end
        return None

    def ends(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        with _in_our_words():
            found = self._consumer.end_offsets([TopicPartition(*p) for p in partitions], timeout_ms=_PATIENCE_MS)
        return {Partition(*asked): end for asked, end in found.items()}

    def reached(self, partition: Partition) -> int:
        return _position(self._consumer, TopicPartition(*partition))

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        self._uncommitted = {TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        try:
            self._consumer.commit_async(self._uncommitted, self._committed)
        except KafkaError as error:
            self._committed({}, error)

    def close(self) -> None:
        self._connecting.cancel()
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            if self._uncommitted:
                consumer.commit(self._uncommitted, timeout_ms=_PATIENCE_MS)
        except KafkaError as error:
            self._committed({}, error)
        with contextlib.suppress(KafkaError):
            consumer.close(autocommit=False, timeout_ms=_PATIENCE_MS)

    def _committed(self, _: Any, answer: Any) -> None:
        if isinstance(answer, Exception):
            self.commit_failures += 1
            log.info("group %s: not committed, the next checkpoint tries again: %s", self._options.group, answer)
        else:
            self._uncommitted = {}


class Offset(int):
    """An offset, where a time could stand as well."""


class KafkaRange:
    """What topics held between two points, read once and without a group: for replay. See `Source` for the contract."""

    def __init__(
        self, options: KafkaOptions, *, since: float | Offset | None = None, until: float | Offset | None = None
    ) -> None:
        """Per partition, from the first record at or after `since` up to the first at or after `until`: an offset, or a
        Kafka timestamp in UTC seconds; None = from the oldest, to the newest of now.

        Raises `ConnectionError` where the brokers cannot be reached and `LookupError` where a topic is missing.
        """
        try:
            self._consumer = made(KafkaConsumer, _reading(options))
            asked = [TopicPartition(t, n) for t in options.topics for n in self._consumer.partitions_for_topic(t)]
            lacking = set(options.topics) - {p.topic for p in asked}
            if lacking:
                self._consumer.close()
                raise LookupError(f"{', '.join(options.brokers)} has no topic {', '.join(sorted(lacking))}")
            newest = self._consumer.end_offsets(asked)
            oldest = self._consumer.beginning_offsets(asked)
            self._ends = newest if until is None else newest | self._at(asked, until)
            self._starts = oldest if since is None else newest | self._at(asked, since)
            for held in (self._starts, self._ends):  # an offset may lie where nothing is, or not any more
                held.update({p: min(max(offset, oldest[p]), newest[p]) for p, offset in held.items()})
        except KafkaError as error:
            raise ConnectionError(f"{', '.join(options.brokers)}: {error}") from error
        self._consumer.assign(asked)
        self._consumer.pause(*asked)
        self._next = dict(self._starts)
        self._gained = sorted(Partition(*p) for p in asked)
        self._paused = False

    def poll(self, timeout: float) -> Polled:
        gained, self._gained = self._gained, []
        if gained:
            return Polled(gained=gained)
        records = {}
        try:
            fetched = self._consumer.poll(timeout_ms=int(timeout * 1000))
        except KafkaError as error:
            log.warning("reading a range: %s", error)
            time.sleep(timeout)
            fetched = {}
        for asked, batch in fetched.items():
            wanted = (
                batch if batch[-1].offset < self._ends[asked] else [r for r in batch if r.offset < self._ends[asked]]
            )
            if wanted:
                records[Partition(*asked)] = wanted
            self._next[asked] = batch[-1].offset + 1
        left = {}
        for asked, end in self._ends.items():
            if self._next[asked] < end and asked not in fetched and not self._paused:
                self._next[asked] = max(self._next[asked], _position(self._consumer, asked))
            left[Partition(*asked)] = max(0, end - self._next[asked])
            if not left[Partition(*asked)]:
                self._consumer.pause(asked)
        return Polled(records, lag=left, ended=not any(left.values()))

    def seek(self, partition: Partition, offset: int | None) -> None:
        asked = TopicPartition(*partition)
        self._next[asked] = self._starts[asked] if offset is None else offset
        self._consumer.seek(asked, self._next[asked])
        if not self._paused:
            self._consumer.resume(asked)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Nothing: a replay leaves no trace."""

    def pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            for asked, end in self._ends.items():
                if self._next[asked] < end:
                    (self._consumer.pause if paused else self._consumer.resume)(asked)

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _at(self, asked: Iterable[TopicPartition], when: float | Offset) -> dict[TopicPartition, int]:
        if isinstance(when, Offset):
            return dict.fromkeys(asked, int(when))
        found = self._consumer.offsets_for_times({p: int(when * 1000) for p in asked})
        return {p: at.offset for p, at in found.items() if at is not None}


class LaneAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # kafka ships no types
    """Gives all partitions of one number, whatever their topic, to the same member.

    State is kept by that number (see `monitor.event.Partition`). Kafka's range assignment keeps numbers together only
    while all topics have equally many partitions; round robin and the sticky ones never do. It is an eager assignor: a
    rebalance moves everything, which costs re-reading since the last checkpoint, and a name in `instance` avoids it.
    """

    name = "driftd-lanes"
    version = 0

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        ranked = [
            Member(m.member_id, frozenset(m.metadata.topics))
            for m in sorted(members, key=lambda m: (m.group_instance_id is None, m.group_instance_id or m.member_id))
        ]
        topics = {topic for member in ranked for topic in member.topics}
        shares = share({topic: cluster.partitions_for_topic(topic) or () for topic in topics}, ranked)
        return {
            member: ConsumerProtocolAssignment(self.version, sorted(theirs.items()), b"")
            for member, theirs in shares.items()
        }

    def metadata(self, topics: Iterable[str]) -> Any:
        return ConsumerProtocolSubscription(self.version, list(topics), b"")

    def on_assignment(self, assignment: Any, generation: int) -> None:
        pass


class Member(NamedTuple):
    """One of a group, with the topics it asked for."""

    id: str
    topics: frozenset[str]


def share(numbers: Mapping[str, Iterable[int]], members: Sequence[Member]) -> dict[str, dict[str, list[int]]]:
    """Who reads which partitions: by member and topic. Each lane goes to one member whole, in turn; only a topic that
    this member did not ask for, while a roll-out changes the topics, goes to the next who did.

    >>> both = frozenset({"in", "out"})
    >>> share({"in": range(4), "out": range(2)}, [Member("a", both), Member("b", both)])
    {'a': {'in': [0, 2], 'out': [0]}, 'b': {'in': [1, 3], 'out': [1]}}
    """
    shares: dict[str, dict[str, list[int]]] = {member.id: {} for member in members}
    for topic in sorted(numbers):
        for number in sorted(numbers[topic]):
            turn = number % len(members)
            owner = next(m for m in (*members[turn:], *members[:turn]) if topic in m.topics)
            shares[owner.id].setdefault(topic, []).append(number)
    return shares


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka ships no types
    """Runs on the client's own loop, which also sends the heartbeats: it notes, and holds what came, by a flag only."""

    def __init__(self, consumer: Any, ownership: Ownership) -> None:
        self._consumer = consumer
        self._ownership = ownership

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        self._ownership.give(Partition(*p) for p in assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._ownership.take_away(Partition(*p) for p in revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._ownership.take_away(Partition(*p) for p in lost)


class _Connecting:
    """Makes the consumer on a thread of its own, since its constructor blocks until a broker answers."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None
        self._done = threading.Event()
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name="kafka connect", daemon=True).start()

    def wait(self, timeout: float) -> KafkaConsumer | None:
        """The consumer, which is the caller's from now on, or None when the seconds have passed."""
        self._done.wait(timeout)
        with self._lock:
            consumer, self._consumer = self._consumer, None
            return consumer

    def cancel(self) -> None:
        """Does not wait for the attempt under way; the thread clears up after itself."""
        self._cancelled.set()
        consumer = self.wait(0)
        if consumer is not None:
            consumer.close(autocommit=False)

    def _run(self) -> None:
        while not self._cancelled.is_set():
            try:
                consumer = made(KafkaConsumer, self._settings)
            except KafkaError as error:
                if not self._cancelled.wait(1.0):
                    log.warning("%s: %s; trying on", ", ".join(self._settings["bootstrap_servers"]), error)
                continue
            with self._lock:
                self._consumer = consumer
                self._done.set()
            if self._cancelled.is_set():
                self.cancel()
            return


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise Trouble(f"{type(error).__name__}: {error}") from error


def _position(consumer: KafkaConsumer, asked: TopicPartition) -> int:
    """Where the client is. Beyond the last record by the markers of transactions, which have offsets too."""
    try:
        return consumer.position(asked, timeout_ms=0) or 0
    except (KafkaError, KeyError):  # taken away meanwhile
        return 0
