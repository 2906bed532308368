"""The order of service, turns, the purse and what the queue wants to have ready: the pure part."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.labeling.desk import HEAD, RUN, Ahead, Desk, Entry, Line, Period
from alerting.labeling.task import Turn

SHARES = {Turn.DRAWN: 0.7, Turn.ASKED: 0.3}


class Memory:
    """Shelves that tell when one is loaded twice, or left behind."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Entry]] = {}
        self.made = 0

    def load(self, name: str) -> list[Entry]:
        return self.runs.pop(name)

    def keep(self, entries: list[Entry]) -> str:
        self.made += 1
        self.runs[str(self.made)] = entries
        return str(self.made)


def entries(orders: list[float], start: int = 0) -> list[Entry]:
    return [Entry(order, 0.0, f"{start + i:06}") for i, order in enumerate(orders)]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5 * HEAD), st.integers(0, 40)), max_size=8), st.integers(0, 99))
def test_a_line_serves_in_order_however_long_it_is_and_whatever_comes_between(
    steps: list[tuple[int, int]], seed: int
) -> None:
    source = random.Random(seed)
    line, shelves = Line(), Memory()
    waiting: list[Entry] = []
    made = 0
    for enters, leaves in steps:
        new = entries([source.randrange(1_000) for _ in range(enters)], made)
        made += enters
        line.enter(new)
        line.tidy(shelves)
        assert len(line.head) <= 2 * HEAD
        waiting = sorted(waiting + new)
        for _ in range(leaves):
            first = line.first(shelves)
            assert first == (waiting[0] if waiting else None)
            if first is None:
                break
            line.take(first)
            del waiting[0]
        assert len(line) == len(waiting)
    assert line.some(len(waiting) + 1, shelves) == waiting
    assert not shelves.runs


def test_a_line_that_takes_in_little_at_a_time_has_few_shelves() -> None:
    source = random.Random(1)
    line, shelves = Line(), Memory()
    orders = [float(i) for i in range(6_000)] + [source.uniform(0, 25) for _ in range(6_000)]
    for i in range(0, len(orders), 25):
        line.enter(entries(orders[i : i + 25], i))
        line.tidy(shelves)
    assert len(line) == 12_000
    assert len(line.shelves) == len(shelves.runs) <= 12_000 / (RUN / 2) + 1
    assert line.some(12_000, shelves) == sorted(entries(orders))


def test_a_labeler_who_may_have_none_of_the_first_gets_what_follows() -> None:
    line, shelves = Line(), Memory()
    line.enter([Entry(float(i), 0.0, str(i), ("ann",) if i < 900 else ()) for i in range(1_500)])
    line.tidy(shelves)
    first = line.first(shelves, lambda entry: "ann" not in entry.barred)
    assert first is not None
    assert first.id == "900"
    line.tidy(shelves)
    everybody = line.first(shelves)
    assert everybody is not None
    assert everybody.id == "0"


def test_a_turn_that_was_empty_has_no_claim_on_the_past() -> None:
    desk, shelves = Desk(), Memory()
    desk.line(Turn.DRAWN).enter(entries([0.0] * 200))
    for _ in range(100):
        desk.serve("ann", 0.0, 60.0, SHARES, shelves)
    desk.line(Turn.ASKED).enter(entries([0.0] * 100, 1_000))
    served = [desk.serve("ann", 0.0, 60.0, SHARES, shelves) or "" for _ in range(20)]
    assert 5 <= sum(name >= "001000" for name in served) <= 7


def test_hours_days_and_months_are_those_of_utc() -> None:
    period = Period()
    at = datetime(2026, 1, 31, 23, 30, tzinfo=UTC).timestamp()
    period.at(at)
    period.pay()
    period.pay()
    assert not period.room((2, None, None))
    period.at(at + 1_800)  # midnight, and another month
    assert (period.in_hour, period.in_day, period.in_month) == (0, 0, 0)
    period.pay()
    period.refund(at)  # of yesterday: nothing to give back
    assert (period.in_hour, period.in_day, period.in_month) == (1, 1, 1)
    period.refund(at + 1_800)
    assert (period.in_hour, period.in_day, period.in_month) == (0, 0, 0)
    assert period.room((None, None, 1))
    assert not period.room((None, None, 0))


def test_demand_covers_the_wait_for_the_next_draw() -> None:
    desk, shelves = Desk(), Memory()
    assert desk.demand(0.0) == 0  # nobody is there
    desk.line(Turn.DRAWN).enter(entries([0.0] * 400))
    for i in range(20):
        desk.put(600.0 * i if i < 19 else 600.0 * 18 + 7_200.0)
    for i in range(300):
        name = desk.serve("ann", 12.0 * i, 9e9, SHARES, shelves)
        assert name is not None
        desk.settle(name, 12.0 * i, answered=True)
    now = 12.0 * 300
    assert desk.active(now) == 1
    assert desk.rate(now) == 299.0  # the first was a whole hour ago
    assert desk.demand(now) == 1 + int(299 * (600 + 900) / 3600)
    assert desk.demand(now + 3_600) == 0


def test_what_is_moved_while_all_documents_are_looked_at_is_not_forgotten() -> None:
    desk = Desk()
    assert desk.ahead == Ahead(0.0, 0.0, 0.0)  # of a desk of old, too
    desk.begin_look("first", 100.0)
    desk.foresee(Ahead(90.0, 500.0, math.inf))
    desk.end_look("first", Ahead(95.0, math.inf, 700.0))
    assert desk.ahead == Ahead(90.0, 500.0, 700.0)
    desk.begin_look("second", 200.0)
    desk.foresee(Ahead(150.0, math.inf, math.inf))
    desk.begin_look("third", 900.0)  # the second is late, or dead
    desk.end_look("second", Ahead(300.0, 600.0, 700.0))
    assert desk.ahead == Ahead(90.0, 500.0, 700.0)
    desk.end_look("third", Ahead(150.0, 600.0, 700.0))
    assert desk.ahead == Ahead(150.0, 600.0, 700.0)


def test_labelers_and_answers_that_are_remembered_are_bounded() -> None:
    desk, shelves = Desk(), Memory()
    desk.line(Turn.DRAWN).enter(entries([0.0] * 3_000))
    for i in range(3_000):
        name = desk.serve(f"labeler {i % 999}", i / 1_000, 9e9, SHARES, shelves)
        assert name is not None
        desk.settle(name, i / 1_000, answered=True)
    assert len(desk.seen) <= 200
    assert len(desk.answers) <= 500
    assert not desk.taken
    assert desk.rate(3.0) > 1e6  # 500 in half a second
