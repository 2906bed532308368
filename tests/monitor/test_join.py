from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from detectors.encode import decode, encode
from monitor.event import Event, Half
from monitor.join import Joiner


def request(id_: str, time: float = 1.0) -> Half:
    return Half(id=id_, side="request", event=Event(id=id_, time=time, inputs={"x": 1}, model="m"), timed=True)


def response(id_: str, time: float = 1.5) -> Half:
    return Half(id=id_, side="response", event=Event(id=id_, time=time, label="a", offset=9), timed=True)


def test_either_order_makes_the_same_event() -> None:
    (one,) = Joiner().pair([request("7"), response("7")])
    (two,) = Joiner().pair([response("7"), request("7")])
    assert (one.inputs, one.label, one.model, one.time, one.latency) == ({"x": 1}, "a", "m", 1.0, 0.5)
    assert (two.inputs, two.label, two.model, two.time, two.latency) == ({"x": 1}, "a", "m", 1.0, 0.5)


def test_times_that_are_not_the_sides_own_are_no_latency() -> None:
    asked = request("7")
    asked.timed = False
    assert Joiner().pair([asked, response("7")])[0].latency is None


def test_a_half_seen_twice_changes_nothing() -> None:
    joiner = Joiner()
    assert len(joiner.pair([request("7"), request("7"), response("7"), response("7"), request("7")])) == 1
    assert len(joiner) == 0
    assert joiner.take_orphans() == {}


def test_halves_past_their_age_are_orphans_of_their_side() -> None:
    joiner = Joiner(max_age=60)
    joiner.pair([request("old", 0.0), response("said", 10.0)])
    joiner.pair([request("new", 65.0)])
    assert joiner.take_orphans() == {"request": 1}
    assert joiner.take_orphans() == {}
    assert joiner.pair([response("old", 66.0), request("said", 66.0)])[0].id == "said"


def test_no_more_wait_than_are_allowed_and_the_oldest_go() -> None:
    joiner = Joiner(max_waiting=2)
    joiner.pair([request(str(i)) for i in range(5)])
    assert len(joiner) == 2
    assert joiner.take_orphans() == {"request": 3}
    assert [event.id for event in joiner.pair([response("3"), response("0")])] == ["3"]


def test_a_time_of_the_far_future_orphans_what_waits_but_not_what_comes() -> None:
    joiner = Joiner(max_age=60)
    joiner.pair([request("a", 1.0), request("wrong", 1e9)])
    assert len(joiner.pair([request("b", 2.0), response("b", 2.1)])) == 1


halves = st.builds(
    lambda id_, asked, time: (request if asked else response)(str(id_), float(time)),
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 300),
)


@given(st.lists(halves, max_size=30), st.integers(0, 30), st.integers(1, 5), st.integers(1, 200))
def test_a_restart_anywhere_changes_nothing(some: list[Half], cut: int, most: int, age: int) -> None:
    whole = Joiner(most, age)
    expected = [whole.pair([half]) for half in some]
    first = Joiner(most, age)
    found = [first.pair([half]) for half in some[:cut]]
    second = Joiner.restore(decode(encode(first.state()), dict[str, Any]), most, age)
    found += [second.pair([half]) for half in some[cut:]]
    assert found == expected
    assert second.take_orphans() == whole.take_orphans()
    assert second.state() == whole.state()
