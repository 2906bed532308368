from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.kafka import Security
from monitor.event import Partition, Raw
from monitor.settings import Secret
from monitor.sources import Polled, Source
from monitor.sources.group import GroupSource, Ownership
from monitor.sources.kafka import ConfluentOptions, KafkaOptions
from monitor.sources.kafka_python import KafkaRange, Member, share
from tests.services.kafka import Kafka
from tests.services.process import free_port

Opening = Callable[..., GroupSource]


@pytest.fixture(params=[KafkaOptions, ConfluentOptions], ids=["kafka-python", "confluent"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opening]:
    """Opens sources of either client, with time-outs that suit a test; closes what is still open."""
    sources: list[GroupSource] = []

    def open_one(bootstrap: str, topics: tuple[str, ...], **options: Any) -> GroupSource:
        settings = {"group": f"group-{uuid4().hex[:8]}", "start": "earliest", "session_timeout": 6.0, "heartbeat": 0.5}
        sources.append(request.param(brokers=(bootstrap,), topics=topics, **(settings | options)).open())
        return sources[-1]

    yield open_one
    for source in sources:
        source.close()
    for thread in threading.enumerate():  # it waits by `random`, which hypothesis would hold against a later test
        if thread.name == "kafka connect":
            thread.join(60)


class Owner:
    """Does with a source what the ingest thread does: seeks what it gains, takes what it reads."""

    def __init__(self, source: Source, checkpoint: Mapping[Partition, int] | None = None) -> None:
        self.source = source
        self.checkpoint = dict(checkpoint or {})
        self.owned: set[Partition] = set()
        self.read: dict[Partition, list[int]] = defaultdict(list)
        self.values: dict[Partition, list[bytes | None]] = defaultdict(list)
        self.last: list[Raw] = []
        self.lag: dict[Partition, int] = {}
        self.ended = False

    def round(self, timeout: float = 0.1) -> Polled:
        polled = self.source.poll(timeout)
        assert set(polled.gone) <= self.owned
        self.owned -= set(polled.gone)
        assert not self.owned & set(polled.gained)
        self.owned |= set(polled.gained)
        for partition in polled.gained:
            self.source.seek(partition, self.checkpoint.get(partition))
        for partition, records in polled.records.items():
            assert partition in self.owned - set(polled.gained)
            self.read[partition] += [record.offset for record in records]
            self.values[partition] += [record.value for record in records]
            self.last = list(records)
        self.lag, self.ended = dict(polled.lag), polled.ended
        return polled

    def until(self, done: Callable[[], bool], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"not within {seconds} s: {dict(self.read)}, lag {self.lag}"
            self.round()

    def until_caught_up(self, partitions: int) -> None:
        self.until(lambda: len(self.lag) == partitions and not any(self.lag.values()))


def produce(kafka: Kafka, topic: str, values: Mapping[int, list[bytes]], **settings: Any) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, **settings})
    for partition, several in values.items():
        for value in several:
            producer.produce(topic, value, partition=partition, key=b"k", headers=[("h", b"1")])
    assert producer.flush(30) == 0


def test_every_record_is_read_once_and_in_order_and_the_lag_ends_at_zero(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic(3)
    produce(kafka, topic, {n: [b"%d-%d" % (n, k) for k in range(1500)] for n in range(3)})
    owner = Owner(opened(kafka.bootstrap, (topic,), poll_records=400))
    owner.until_caught_up(3)
    assert owner.read == {Partition(topic, n): list(range(1500)) for n in range(3)}
    assert owner.values[Partition(topic, 2)][7] == b"2-7"
    produce(kafka, topic, {1: [b"one more"]})
    owner.until(lambda: len(owner.read[Partition(topic, 1)]) == 1501)
    assert owner.source.state == "reading 3 partitions"  # type: ignore[attr-defined]


def test_a_record_carries_key_headers_and_time(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic()
    produce(kafka, topic, {0: [b"v"]})
    owner = Owner(opened(kafka.bootstrap, (topic,)))
    owner.until(lambda: bool(owner.last))
    (record,) = owner.last
    assert (record.value, record.key, list(record.headers)) == (b"v", b"k", [("h", b"1")])
    assert abs(record.timestamp / 1000 - time.time()) < 60


def test_reading_goes_on_from_the_offset_sought(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic(2)
    produce(kafka, topic, {0: [b"x"] * 10, 1: [b"x"] * 10})
    owner = Owner(opened(kafka.bootstrap, (topic,)), {Partition(topic, 0): 7, Partition(topic, 1): 10})
    owner.until_caught_up(2)
    assert owner.read == {Partition(topic, 0): [7, 8, 9]}


def test_a_new_reader_of_the_latest_sees_what_comes_and_asking_again_skips_nothing(
    kafka: Kafka, opened: Opening
) -> None:
    topic = kafka.fresh_topic()
    produce(kafka, topic, {0: [b"old"] * 5})
    source = opened(kafka.bootstrap, (topic,), start="latest")
    owner = Owner(source)
    owner.until_caught_up(1)
    produce(kafka, topic, {0: [b"new"] * 3})
    owner.until(lambda: owner.read[Partition(topic, 0)] == [5, 6, 7])
    source.seek(Partition(topic, 0), None)
    owner.until(lambda: owner.read[Partition(topic, 0)] == [5, 6, 7, 5, 6, 7])


def test_a_new_reader_can_start_at_a_time(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for minute in range(5):
        producer.produce(topic, b"x", timestamp=1_780_000_000_000 + minute * 60_000)
    assert producer.flush(30) == 0
    owner = Owner(opened(kafka.bootstrap, (topic,), start="2026-05-28T20:28:00Z"))
    owner.until_caught_up(1)
    assert owner.read == {Partition(topic, 0): [2, 3, 4]}


def test_a_group_that_lost_its_checkpoint_goes_on_from_what_it_committed(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic()
    produce(kafka, topic, {0: [b"x"] * 10})
    source = opened(kafka.bootstrap, (topic,), group=f"commits-{topic}")
    owner = Owner(source)
    owner.until_caught_up(1)
    source.commit({Partition(topic, 0): 6, Partition("not ours", 0): 1})
    source.close()
    assert source.commit_failures == 0
    again = Owner(opened(kafka.bootstrap, (topic,), group=f"commits-{topic}"))
    again.until_caught_up(1)
    assert again.read == {Partition(topic, 0): [6, 7, 8, 9]}


def test_while_paused_nothing_comes_and_afterwards_nothing_is_missing(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic()
    source = opened(kafka.bootstrap, (topic,), poll_records=10)
    owner = Owner(source)
    owner.until_caught_up(1)
    produce(kafka, topic, {0: [b"x"] * 100})
    owner.until(lambda: bool(owner.read))
    source.pause(True)
    before = len(owner.read[Partition(topic, 0)])
    for _ in range(10):
        owner.round(0.05)
    assert len(owner.read[Partition(topic, 0)]) == before < 100
    assert owner.lag[Partition(topic, 0)] == 100 - before
    produce(kafka, topic, {0: [b"x"] * 50})
    owner.until(lambda: owner.lag[Partition(topic, 0)] == 150 - before)  # though nothing is fetched
    source.pause(False)
    owner.until(lambda: owner.read[Partition(topic, 0)] == list(range(150)))


def test_members_share_the_partitions_and_each_change_is_told(kafka: Kafka, opened: Opening) -> None:
    requests, responses = kafka.fresh_topic(4), kafka.fresh_topic(4)
    everything = {Partition(t, n) for t in (requests, responses) for n in range(4)}
    first = Owner(opened(kafka.bootstrap, (requests, responses), group=f"shared-{requests}"))
    first.until(lambda: first.owned == everything)
    second = Owner(opened(kafka.bootstrap, (requests, responses), group=f"shared-{requests}"))

    def shared() -> bool:
        second.round(0.02)
        return bool(first.owned) and bool(second.owned) and first.owned | second.owned == everything

    first.until(shared)
    assert not first.owned & second.owned
    for owner in (first, second):  # a lane's two partitions have one owner, who keeps its state
        lanes = {p.number for p in owner.owned}
        assert owner.owned == {Partition(t, n) for t in (requests, responses) for n in lanes}
    second.source.close()
    first.until(lambda: first.owned == everything)


def test_markers_of_transactions_count_as_no_lag_and_aborted_records_never_come(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(30)
    for value, end in ((b"kept", producer.commit_transaction), (b"aborted", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(30)
        end(30)
    owner = Owner(opened(kafka.bootstrap, (topic,)))
    owner.until_caught_up(1)
    assert owner.values == {Partition(topic, 0): [b"kept"]}


def test_a_broker_that_dies_and_returns_costs_no_record_and_no_error(kafka: Kafka, opened: Opening) -> None:
    topic = kafka.fresh_topic()
    produce(kafka, topic, {0: [b"x"] * 20})
    owner = Owner(opened(kafka.bootstrap, (topic,)))
    owner.until(lambda: len(owner.read[Partition(topic, 0)]) == 20)
    kafka.kill()
    for _ in range(20):
        began = time.monotonic()
        owner.round(0.1)
        assert time.monotonic() - began < 1.5
    kafka.start()
    produce(kafka, topic, {0: [b"y"] * 20})
    owner.checkpoint = {Partition(topic, 0): 20}  # where it goes on if the group was joined anew
    owner.until(lambda: owner.read[Partition(topic, 0)] == list(range(40)), 60)


def test_a_cluster_that_is_not_there_yet_is_awaited_without_an_error(opened: Opening) -> None:
    source = opened(f"127.0.0.1:{free_port()}", ("events",))
    for _ in range(5):
        began = time.monotonic()
        assert source.poll(0.1) == Polled()
        assert time.monotonic() - began < 0.6
    assert not source.state.startswith("reading")
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 3


def test_a_topic_that_is_missing_keeps_the_source_waiting(kafka: Kafka, opened: Opening) -> None:
    source = opened(kafka.bootstrap, ("no-such-topic",))
    for _ in range(20):
        assert source.poll(0.1).gained == ()
    assert not source.state.startswith("reading")


def test_a_range_is_read_once_between_its_times_and_ends(kafka: Kafka) -> None:
    topic = kafka.fresh_topic(2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for minute in range(10):
        producer.produce(topic, b"x", partition=minute % 2, timestamp=1_780_000_000_000 + minute * 60_000)
    producer.commit_transaction(30)
    options = KafkaOptions(brokers=(kafka.bootstrap,), topics=(topic,))
    zero, one = Partition(topic, 0), Partition(topic, 1)
    for since, until, expected in (
        (None, None, {zero: [0, 1, 2, 3, 4], one: [0, 1, 2, 3, 4]}),
        (1_780_000_180, 1_780_000_360, {zero: [2], one: [1, 2]}),
        (1_790_000_000, None, {}),
    ):
        source = KafkaRange(options, since=since, until=until)
        owner = Owner(source)
        owner.until(lambda owner=owner: owner.ended)  # type: ignore[misc]
        source.close()
        assert owner.read == expected


def test_a_range_of_a_missing_topic_or_cluster_is_an_error_that_names_it(kafka: Kafka) -> None:
    with pytest.raises(LookupError, match="has no topic missing-1, missing-2"):
        KafkaRange(KafkaOptions(brokers=(kafka.bootstrap,), topics=("missing-1", "missing-2")))


def test_no_password_shows() -> None:
    options = KafkaOptions(
        brokers=("b:9092",), topics=("t",), security=Security(password=Secret("hunter2"), keypassword=Secret("hunter3"))
    )
    assert "hunter" not in repr(options)


def test_a_certificate_that_cannot_be_read_is_told_at_opening(opened: Opening) -> None:
    with pytest.raises(OSError, match="No such file"):
        opened("127.0.0.1:9", ("t",), security=Security(tls=True, cafile="/nowhere/ca.pem"))


@pytest.mark.parametrize("start", ["2026-13-01", "2026-05-28T99:00"])
def test_a_start_that_is_no_time_is_told_at_opening(opened: Opening, start: str) -> None:
    with pytest.raises(ValueError, match=start[:7]):
        opened("127.0.0.1:9", ("t",), start=start)


members = st.lists(
    st.builds(Member, st.uuids().map(str), st.sets(st.sampled_from("abc"), min_size=1).map(frozenset)),
    min_size=1,
    max_size=6,
    unique_by=lambda m: m.id,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 12)), members)
def test_every_partition_has_one_reader_and_equal_subscribers_keep_lanes_whole(
    counts: dict[str, int], ranked: list[Member]
) -> None:
    asked = {topic for member in ranked for topic in member.topics}
    shares = share({topic: range(count) for topic, count in counts.items() if topic in asked}, ranked)
    given_out = [(t, n) for theirs in shares.values() for t, numbers in theirs.items() for n in numbers]
    assert sorted(given_out) == [(t, n) for t in sorted(asked & set(counts)) for n in range(counts[t])]
    if len({member.topics for member in ranked}) == 1:
        owners: dict[int, set[str]] = defaultdict(set)
        for member, theirs in shares.items():
            for numbers in theirs.values():
                for number in numbers:
                    owners[number].add(member)
        assert all(len(members) == 1 for members in owners.values())
        lanes = [sum(member in who for who in owners.values()) for member in shares]
        assert max(lanes) - min(lanes) <= 1


@given(st.lists(st.tuples(st.sampled_from(["give", "take", "tell"]), st.sets(st.integers(0, 3)))))
def test_changes_of_ownership_add_up_however_often_it_changed_between_two_polls(
    steps: list[tuple[str, set[int]]],
) -> None:
    ownership, truth, believed = Ownership(), set[Partition](), set[Partition]()
    interrupted = set[Partition]()
    for step, numbers in [*steps, ("tell", set())]:
        partitions = {Partition("t", n) for n in numbers}
        if step == "give":
            ownership.give(partitions)
            truth |= partitions
        elif step == "take":
            ownership.take_away(partitions)
            truth -= partitions
            interrupted |= partitions & believed
        else:
            gained, gone = ownership.changes()
            assert gone <= believed
            assert interrupted <= gone
            assert not gained & (believed - gone)
            believed = (believed - gone) | gained
            assert believed == truth
            interrupted = set()


def test_polls_shorter_than_a_rebalance_still_get_their_partitions(kafka: Kafka, opened: Opening) -> None:
    for _ in range(8):
        topic = kafka.fresh_topic()
        owner = Owner(opened(kafka.bootstrap, (topic,)))
        deadline = time.monotonic() + 20
        while not owner.owned:
            assert time.monotonic() < deadline
            owner.round(0.005)
        owner.source.close()
