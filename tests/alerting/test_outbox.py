from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from alerting import outbox as module
from alerting.alert import Alert, Notice, Severity, Transition, notice_id
from alerting.deliver import Backoff, Circuit, Lane, Undelivered
from alerting.outbox import Item, Outbox, Saved, Sum, notice_in, notices_to


def item(name: str, destination: str = "log", payload: bytes = b"x", created: float = 0.0) -> Item:
    return Item(name, destination, payload, created)


def reloaded(outbox: Outbox) -> Outbox:
    return Outbox(msgspec.msgpack.decode(msgspec.msgpack.encode(outbox.save()), type=Saved))


def test_a_notice_survives_packing_with_its_nan() -> None:
    alert = Alert("m/psi/x", "m", "psi", "x", Severity.INFO, 1.0, 2.0, "text", float("nan"), float("inf"))
    notice = Notice(notice_id(alert), Transition.OPENED, alert)
    items = notices_to(["log", "hook"], [notice], created=5.0)
    assert [i.key for i in items] == [("log", notice.id), ("hook", notice.id)]
    assert repr(notice_in(items[0])) == repr(notice)  # NaN is not equal to itself, its words are


def test_destinations_keep_their_own_order_and_fate() -> None:
    outbox = Outbox()
    outbox.put([item("1", "a"), item("1", "b"), item("2", "a")])
    outbox.done([("a", "1")])
    assert [i.id for i in outbox.pending("a", 10)] == ["2"]
    assert [i.id for i in outbox.pending("b", 10)] == ["1"]
    assert outbox.pending("nobody", 10) == []


def test_what_was_delivered_is_not_taken_again_even_after_a_restart() -> None:
    outbox = Outbox()
    outbox.put([item("1")])
    outbox.done([("log", "1")])
    again = reloaded(outbox)
    assert (again.put([item("1"), item("2")]), again.repeats) == (1, 1)


def test_the_memory_of_delivered_ids_is_bounded_and_counted() -> None:
    outbox, n = Outbox(), module.REMEMBERED + 5
    outbox.put(item(str(i)) for i in range(n))
    outbox.done(("log", str(i)) for i in range(n))
    assert outbox.forgotten == 5
    assert len(outbox.save().delivered) == module.REMEMBERED
    assert outbox.put([item("4"), item("5")]) == 1  # 4 is forgotten, 5 is the oldest still known


def test_waiting_tells_how_much_and_since_when() -> None:
    outbox = Outbox()
    outbox.put([item("1", created=7.0), item("2", created=9.0)])
    assert outbox.waiting() == {"log": (2, 7.0)}
    outbox.done([("log", "1"), ("log", "2")])
    assert outbox.waiting() == {"log": (0, None)}


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "done", "reload"]), st.sampled_from("abc"), st.integers(0, 5), st.binary(max_size=9)
    ),
    max_size=60,
)


@given(operations)
def test_nothing_is_lost_or_taken_twice_and_the_bytes_are_exact(steps: list[tuple[str, str, int, bytes]]) -> None:
    outbox = Outbox()
    waiting: dict[tuple[str, str], Item] = {}
    delivered: set[tuple[str, str]] = set()
    for what, destination, number, payload in steps:
        one = item(str(number), destination, payload)
        if what == "put":
            new = one.key not in waiting and one.key not in delivered
            assert outbox.put([one]) == new
            if new:
                waiting[one.key] = one
        elif what == "done":
            assert outbox.done([one.key]) == (one.key in waiting)
            if waiting.pop(one.key, None):
                delivered.add(one.key)
        else:
            outbox = reloaded(outbox)
        for name in "abc":
            assert outbox.pending(name, 99) == [i for i in waiting.values() if i.destination == name]
        overhead = outbox.bytes - sum(len(i.payload) for i in waiting.values())
        assert overhead == len(waiting) * 200


class Receiving:
    """A destination that may be down, refuse what is about some things, or take part of a batch; it keeps no state."""

    def __init__(self) -> None:
        self.taken: list[Item] = []
        self.down = False
        self.refuses: set[str] = set()
        self.through = 0

    def send(self, items: Sequence[Item]) -> None:
        if self.down:
            self.taken += items[: self.through]
            raise Undelivered("down", retry=True, delivered=min(self.through, len(items)))
        for i, one in enumerate(items):
            if one.about in self.refuses:
                self.taken += items[:i]
                raise Undelivered("refused", retry=False, delivered=i)
        self.taken += items

    def close(self) -> None: ...


class Daemon(RuleBasedStateMachine):
    """Outbox and lane as the daemon has them, killed and started again from its last checkpoint at any moment.

    What judging puts after a checkpoint it puts again after a crash, with the same ids, as it reads its log again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.receiving = Receiving()
        self.log: list[Item] = []  # all that was ever judged
        self.read = 0  # of the log
        self.saved = (0, Saved())
        self.now = 0.0
        self.start()

    def start(self) -> None:
        self.read, saved = self.saved
        self.outbox = Outbox(msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=Saved))
        self.lane = Lane(self.receiving, Backoff(first=1.0, longest=8.0, trip=2), random.Random(1))
        self.offered: set[str] = set()
        self.offer()

    def offer(self) -> None:
        new = [one for one in self.outbox.pending("a", 10**9) if one.id not in self.offered]
        self.offered |= {one.id for one in new}
        self.lane.queue.extend(new)

    @rule(abouts=st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=4))
    def judge(self, abouts: list[str]) -> None:
        """Whatever was judged before a crash and not saved comes first, again."""
        self.log += [Item(str(len(self.log) + i), "a", b"", 0.0, about) for i, about in enumerate(abouts)]
        self.outbox.put(self.log[self.read :])
        self.read = len(self.log)
        self.offer()

    @rule(
        seconds=st.sampled_from([0.0, 2.0, 10.0]),
        down=st.booleans(),
        through=st.integers(0, 2),
        refuses=st.sampled_from(["", "", "", "x", "xy"]),
    )
    def deliver(self, seconds: float, down: bool, through: int, refuses: str) -> None:
        receiving, lane = self.receiving, self.lane
        receiving.down, receiving.through, receiving.refuses = down, through, set(refuses)
        self.now += seconds
        circuit, attempts, taken = lane.circuit(self.now), lane.attempts, len(receiving.taken)
        sent = lane.send(self.now)
        self.outbox.done(one.key for one in sent)
        if circuit is Circuit.OPEN:
            assert lane.attempts == attempts
        if circuit is Circuit.HALF_OPEN:
            assert len(receiving.taken) - taken <= 1

    @rule()
    def save(self) -> None:
        self.saved = (self.read, self.outbox.save())

    @rule()
    def crash(self) -> None:
        self.start()

    @invariant()
    def order_is_kept_about_each_thing(self) -> None:
        for about in "xyz":
            first = dict.fromkeys(int(one.id) for one in self.receiving.taken if one.about == about)
            assert list(first) == sorted(first)

    @invariant()
    def the_lane_holds_what_the_outbox_waits_for_and_no_more(self) -> None:
        assert len(self.lane.queue) + self.lane.refused == len(self.outbox.pending("a", 10**9))

    def teardown(self) -> None:
        """Once the destination is well, all that was judged arrives, however it went before."""
        self.receiving.down, self.receiving.refuses = False, set()
        self.outbox.put(self.log[self.read :])
        self.offer()
        for _ in range(10 * len(self.log) + 10):
            self.now = max(self.now, min(self.lane.due(refreshing=False), self.now + 100.0))
            self.outbox.done(one.key for one in self.lane.send(self.now))
        assert {one.id for one in self.receiving.taken} == {one.id for one in self.log}
        assert self.outbox.waiting().get("a", Sum(0, None)).items == 0
        self.order_is_kept_about_each_thing()


TestDaemon = Daemon.TestCase
TestDaemon.settings = settings(max_examples=100, stateful_step_count=30)
