from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from alerting import outbox as module
from alerting.alert import Alert, Notice, Severity, Transition, notice_id
from alerting.outbox import Item, Outbox, Saved, notice_in, notices_to


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
