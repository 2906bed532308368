"""Delivery, first its lanes on a clock the test drives, then its threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from alerting.alert import Alert, Severity
from alerting.deliver import BATCH, Backoff, Circuit, Condition, Delivery, Lane, Undelivered
from alerting.outbox import Item


def item(name: object, destination: str = "a", payload: bytes = b"") -> Item:
    return Item(str(name), destination, payload, 0.0)


class Desk:
    """A destination in memory which the test tells what to say."""

    resend = 60.0

    def __init__(self, say: Callable[[Sequence[Item]], object] = len) -> None:
        self.say = say
        self.taken: list[str] = []
        self.seen: list[int] = []
        self.told: list[tuple[int, float]] = []
        self.closed = False
        self.arrived = threading.Condition()

    def send(self, items: Sequence[Item]) -> None:
        self.seen.append(len(items))
        through = len(items)
        try:
            self.say(items)
        except Undelivered as error:
            through = error.delivered
            raise
        except Exception:
            through = 0
            raise
        finally:
            with self.arrived:
                self.taken += [i.id for i in items[:through]]
                self.arrived.notify_all()

    def refresh(self, alerts: Sequence[Alert], now: float) -> None:
        self.told.append((len(alerts), now))

    def close(self) -> None:
        self.closed = True

    def wait(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.taken) >= count, timeout=10)


def trouble(message: str, *, after: float | None = None) -> Callable[[Sequence[Item]], object]:
    def say(_: Sequence[Item]) -> None:
        raise Undelivered(message, retry=True, after=after)

    return say


def lane(desk: Desk, **backoff: Any) -> Lane:
    return Lane(desk, Backoff(**backoff), random.Random(1))


def test_order_is_kept_through_trouble() -> None:
    def sometimes(items: Sequence[Item]) -> None:
        if rng.random() < 0.6:
            raise Undelivered("down", retry=True, delivered=rng.randrange(len(items)))

    rng = random.Random(3)
    desk = Desk(sometimes)
    one = lane(desk)
    one.queue.extend(item(i) for i in range(500))
    now = 0.0
    while (due := one.due(refreshing=False)) < float("inf"):
        now = max(now, due)
        one.send(now)
    assert desk.taken == [str(i) for i in range(500)]
    assert one.delivered == 500
    assert one.last_error == ""


def test_waits_double_up_to_the_longest_and_never_give_up() -> None:
    one = lane(Desk(trouble("down")), first=1.0, longest=64.0)
    one.queue.append(item(1))
    waits, now = [], 0.0
    for _ in range(500):
        one.send(now)
        waits.append(one.due(refreshing=False) - now)
        now = one.due(refreshing=False)
    assert all(wait <= min(64.0, 2.0 ** min(i, 6)) for i, wait in enumerate(waits))
    later = waits[10:]
    assert 29 < sum(later) / len(later) < 35  # full jitter: half the ceiling on average
    assert len(one.queue) == 1


def test_a_retry_after_is_honoured() -> None:
    desk = Desk(trouble("busy", after=120.0))
    one = lane(desk, first=1.0)
    one.queue.append(item(1))
    one.send(0.0)
    assert one.due(refreshing=False) == 120.0
    one.send(119.0)
    assert desk.seen == [1]


def test_a_refused_item_is_set_aside_and_tried_again_while_the_others_pass() -> None:
    bad = {"77"}

    def refuse(items: Sequence[Item]) -> None:
        if bad & {i.id for i in items}:
            raise Undelivered("bad label", retry=False)

    desk = Desk(refuse)
    one = lane(desk, longest=300.0)
    one.queue.extend(item(i) for i in range(BATCH * 2))
    while one.due(refreshing=False) <= 0.0:
        one.send(0.0)
    assert sorted(map(int, desk.taken)) == [i for i in range(BATCH * 2) if i != 77]
    assert one.refused == 1
    assert len(desk.seen) < 30  # halving, not one by one

    assert one.due(refreshing=False) == 300.0
    bad.clear()
    assert [i.id for i in one.send(300.0)] == ["77"]


def test_a_fault_of_the_sink_itself_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(items: Sequence[Item]) -> None:
        if items[0].id == "0":
            raise ZeroDivisionError

    desk = Desk(broken)
    one = lane(desk)
    one.queue.extend([item(0)])
    one.send(0.0)
    one.queue.append(item(1))
    one.send(0.0)
    assert desk.taken == ["1"]
    assert one.refused == 1
    assert "ZeroDivisionError" in caplog.text


def test_after_failures_in_a_row_one_item_at_a_time_is_tried_until_one_gets_through() -> None:
    desk = Desk(trouble("down"))
    one = lane(desk, first=1.0, longest=64.0, trip=3)
    one.queue.extend(item(i) for i in range(200))
    now, seen = 0.0, list[int]()
    for _ in range(6):
        assert one.circuit(now) is (Circuit.CLOSED if len(seen) < 3 else Circuit.HALF_OPEN)
        one.send(now)
        seen.append(desk.seen[-1])
        assert one.circuit(now) is (Circuit.CLOSED if len(seen) < 3 else Circuit.OPEN)
        assert one.retry is not None
        one.send((now + one.retry) / 2)  # too early
        now = one.retry
    assert desk.seen == seen == [100, 100, 100, 1, 1, 1]

    desk.say = len
    assert [i.id for i in one.send(now)] == ["0"]
    assert one.circuit(now) is Circuit.CLOSED
    assert one.retry is None
    one.send(now)
    assert desk.seen[-1] == 100


def test_a_refusal_is_an_answer_and_opens_no_circuit() -> None:
    def refuse(_: Sequence[Item]) -> None:
        raise Undelivered("bad", retry=False)

    one = lane(Desk(refuse), trip=1)
    one.queue.extend(item(i) for i in range(5))
    while one.due(refreshing=False) <= 0.0:
        one.send(0.0)
    assert one.refused == 5
    assert one.circuit(0.0) is Circuit.CLOSED


def test_what_follows_a_refused_item_about_the_same_alert_waits_behind_it() -> None:
    bad = {"opened"}

    def refuse(items: Sequence[Item]) -> None:
        if bad & {i.id for i in items}:
            raise Undelivered("bad", retry=False)

    desk = Desk(refuse)
    one = lane(desk, longest=300.0)
    one.queue.extend(Item(name, "a", b"", 0.0, about) for name, about in (("opened", "x"), ("other", "y")))
    while one.due(refreshing=False) <= 0.0:
        one.send(0.0)
    one.queue.append(Item("resolved", "a", b"", 0.0, "x"))
    one.send(10.0)
    assert desk.taken == ["other"]
    assert one.refused == 2

    bad.clear()
    one.queue.append(Item("opened again", "a", b"", 0.0, "x"))
    for _ in range(3):
        one.send(1_000.0)
    assert desk.taken == ["other", "opened", "resolved", "opened again"]
    assert one.refused == 0


def test_a_refresh_waits_while_the_circuit_is_open_but_no_longer_than_a_resend() -> None:
    desk = Desk(trouble("down"))
    one = lane(desk, first=300.0, longest=300.0, trip=1)
    one.queue.append(item(1))
    one.send(0.0)
    assert one.retry is not None
    one.refresh([ALERT], one.retry - 0.01, 1e9)
    assert desk.told == []
    assert one.retry <= desk.resend
    one.refresh([ALERT], one.retry, 1e9)
    assert len(desk.told) == 1
    assert one.circuit(one.retry or 0.0) is Circuit.CLOSED


ALERT = Alert("m/psi/x", "m", "psi", "x", Severity.INFO, 1.0, 2.0, "text", 1.0, 0.5)


def test_refreshes_each_resend() -> None:
    desk = Desk()
    one = lane(desk)
    for now in range(0, 200, 10):
        one.refresh([ALERT], float(now), 1e9 + now)
    assert desk.told == [(1, 1e9), (1, 1e9 + 60), (1, 1e9 + 120), (1, 1e9 + 180)]


def test_a_dead_destination_slows_no_other() -> None:
    never = threading.Event()
    dead = Desk(lambda _: never.wait(30))
    well = Desk()
    delivery = Delivery({"dead": dead, "well": well})
    delivery.offer(item(i, to) for i in range(300) for to in ("dead", "well"))
    well.wait(300)
    assert well.taken == [str(i) for i in range(300)]
    assert delivery.conditions()["dead"].waiting == 300
    assert delivery.stop(0.05) == ["dead"]
    never.set()


def test_an_item_is_held_once_until_its_delivery_was_reported() -> None:
    desk = Desk()
    delivery = Delivery({"a": desk})
    for _ in range(3):
        delivery.offer([item(1), item(2)])
    desk.wait(2)
    delivery.offer([item(1)])  # delivered, not yet reported: the outbox may still think that it waits
    assert delivery.stop(5.0) == []
    assert sorted(delivery.finished()) == [("a", "1"), ("a", "2")]
    assert delivery.finished() == []
    assert desk.taken == ["1", "2"]
    assert desk.closed


def test_stopping_delivers_what_is_due_and_does_not_wait_for_the_rest() -> None:
    well, dead = Desk(), Desk(trouble("host:80: connection refused"))
    delivery = Delivery({"well": well, "dead": dead}, Backoff(first=1000.0, longest=1000.0), random.Random(1))
    delivery.offer(item(i, to) for i in range(1_000) for to in ("well", "dead"))
    assert delivery.stop(10.0) == []
    assert len(delivery.finished()) == 1_000
    condition = delivery.conditions()["dead"]
    assert (condition.waiting, condition.attempts, condition.last_error) == (1_000, 1, "host:80: connection refused")


def test_items_for_a_destination_that_is_gone_are_left_alone() -> None:
    delivery = Delivery({"a": Desk()})
    delivery.offer([item(1, "removed from the configuration")])
    delivery.stop(5.0)
    assert delivery.finished() == []


def test_a_quiet_lane_says_that_it_is_alive() -> None:
    delivery = Delivery({"a": Desk()})
    delivery.stop(5.0)
    assert delivery.conditions()["a"] == Condition(alive=delivery.conditions()["a"].alive)
