"""Any sequence of calls, on every queue, against a small model: who holds what, which labels count, what is told."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from alerting.labeling.moves import ATTEMPTS, SKIPS
from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import LabelTask, Outcome, Returned, Withdrawal
from tests.alerting.labels import BATCH, NOW, PLAIN, asked_for, task

PEOPLE = st.sampled_from(["ann", "bob", "cid", "dan"])
VALUES = st.sampled_from(["can", "jar"])
LEASE = 60.0
EXAMPLES = 12  # of 30 steps: 10 s on MongoDB
LEGAL = {
    None: {"Leased", "Cancelled"},
    "In queue": {"Leased", "Labeled", "Agreed", "Disagreed", "Cancelled", "In queue"},
    "Leased": {"In queue", "Labeled", "Agreed", "Disagreed", "Unclear", "Cancelled"},
    "Labeled": {"Done"},
    "Agreed": {"Done"},
    "Disagreed": {"Done", "In queue"},
    "Done": {"In queue"},
}


class Model:
    """What must hold of one task."""

    def __init__(self, event: float) -> None:
        self.event = event
        self.votes: dict[str, str] = {}  # that count, by labeler
        self.skips: set[str] = set()
        self.lapses = 0
        self.over = False  # cancelled, or given up
        self.holder: tuple[str, str, float] | None = None  # labeler, token, until


class Machine(RuleBasedStateMachine):
    """Two labels by different people; the second may disagree, then a third is asked."""

    leases = Bundle("leases")
    queue: LabelQueue
    other: LabelQueue

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.tasks: dict[str, Model] = {}
        self.told: dict[str, Returned] = {}
        self.seen: dict[str, int] = {}

    @initialize()
    def begin(self) -> None:
        self.put({0, 1, 2})

    @rule(numbers=st.sets(st.integers(0, 5), max_size=3))
    def put(self, numbers: set[int]) -> None:
        made = [(asked_for if i % 2 else task)(i) for i in sorted(numbers)]
        for n, i in enumerate(sorted(numbers)):
            made[n] = replace(made[n], event=replace(made[n].event, time=NOW + i))
        new = self.queue.put(made, BATCH, self.now)
        assert new == sum(each.id not in self.tasks for each in made)
        for each, i in zip(made, sorted(numbers), strict=True):
            self.tasks.setdefault(each.id, Model(NOW + i))

    @rule(by=PEOPLE, value=VALUES)
    def label(self, by: str, value: str) -> None:
        lease = self.claim(by, True)
        if lease is not None:
            self.submit(lease, value)

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def lapse(self) -> None:
        """A lease that ran out passes on when somebody looks; until then its holder may still answer."""
        for model in self.tasks.values():
            if model.holder is not None and model.holder[2] <= self.now:
                model.holder = None
                model.lapses += 1
                model.over = model.lapses >= ATTEMPTS

    @rule(target=leases, by=PEOPLE, here=st.booleans())
    def lease(self, by: str, here: bool) -> Any:
        return self.claim(by, here) or multiple()

    def claim(self, by: str, here: bool) -> tuple[str, str, str] | None:
        self.lapse()
        free = {
            name
            for name, model in self.tasks.items()
            if not model.over and model.holder is None and not self.finished(model)
            and by not in model.votes and by not in model.skips
        }  # fmt: skip
        found = (self.queue if here else self.other).claim(by, self.now, LEASE)
        if found is None:
            assert not free
            return None
        assert found.id in free
        assert found.lease is not None
        places = [self.document(name).place for name in free]
        assert found.place.order == min(place.order for place in places if place.turn is found.place.turn)
        self.tasks[found.id].holder = by, found.lease.token, self.now + LEASE
        return found.id, found.lease.token, by

    def finished(self, model: Model) -> bool:
        values = list(model.votes.values())
        return len(values) >= 3 or (len(values) == 2 and len(set(values)) == 1)

    @rule(lease=leases, value=VALUES)
    def submit(self, lease: tuple[str, str, str], value: str) -> None:
        name, token, by = lease
        model = self.tasks[name]
        before = {answer.token: answer for answer in self.document(name).labels}
        outcome = self.queue.submit(name, token, value, by, self.now)
        if token in before:
            assert outcome is (Outcome.LATE if before[token].late else Outcome.ACCEPTED)
            assert len(self.document(name).labels) == len(before)
        elif model.holder is not None and model.holder[1] == token:
            assert outcome is Outcome.ACCEPTED
            model.votes[by] = value
            model.holder, model.lapses = None, 0
        else:
            assert outcome is Outcome.LATE
            assert self.document(name).labels[-1].late
            model.skips.add(by)  # who was late is not asked again either

    @rule(lease=consumes(leases))
    def skip(self, lease: tuple[str, str, str]) -> None:
        name, token, by = lease
        model = self.tasks[name]
        self.queue.skip(name, token, by, self.now, "blurred")
        if model.holder is not None and model.holder[1] == token:
            model.holder = None
            model.skips.add(by)
            model.over = len({skip.by for skip in self.document(name).skips}) >= SKIPS

    @rule(lease=leases)
    def extend(self, lease: tuple[str, str, str]) -> None:
        name, token, by = lease
        holder = self.tasks[name].holder
        held = holder is not None and holder[1] == token
        assert self.queue.extend(name, token, self.now + 2 * LEASE) == held
        if held:
            self.tasks[name].holder = by, token, self.now + 2 * LEASE

    @rule(number=st.integers(0, 5))
    def withdraw(self, number: int) -> None:
        self.queue.withdraw(Withdrawal("w", "shelf", NOW + number, NOW + number, "unintended"), self.now)
        for model in self.tasks.values():
            if model.event == NOW + number and not model.votes:
                model.over, model.holder = True, None

    @rule()
    def tend(self) -> None:
        self.lapse()
        self.other.tend(self.now)

    @rule()
    def collect(self) -> None:
        finals = self.queue.finals(99)
        for final in finals:
            assert final.task not in self.told or final.rev > self.told[final.task].rev
            self.told[final.task] = final
        self.other.acknowledge(finals)
        assert self.queue.finals(99) == []
        assert set(self.told) == {name for name, model in self.tasks.items() if self.finished(model)}
        for name, final in self.told.items():
            values = list(self.tasks[name].votes.values())
            assert values.count(str(final.label)) > len(values) / 2

    @rule(by=PEOPLE)
    def review(self, by: str) -> None:
        self.lapse()
        assert self.queue.review_next(by, self.now, LEASE) is None  # three labels of two classes always agree enough

    @rule(name=st.sampled_from(["a", "b"]))
    def unknown(self, name: str) -> None:
        with pytest.raises(KeyError):
            self.queue.submit(name, "t", "can", "ann", self.now)

    def document(self, name: str) -> LabelTask:
        there = self.queue.get(name)
        assert there is not None
        return there

    @invariant()
    def documents_agree(self) -> None:
        for name, model in self.tasks.items():
            there = self.document(name)
            assert there.rev >= self.seen.get(name, 0)
            self.seen[name] = there.rev
            assert {a.by: a.value for a in there.labels if not a.late} == model.votes
            if self.finished(model):
                assert there.labeling_status == "Done"
                assert there.final is not None
            elif model.over:
                assert there.labeling_status in ("Unclear", "Cancelled")
            else:
                assert there.labeling_status in ("In queue", "Leased")
                assert there.final is None
            steps = [None, *(move.to for move in there.history)]
            assert all(after in LEGAL[before] for before, after in pairwise(steps))


def test_whatever_people_and_time_do_the_queue_keeps_its_word(opened: Callable[..., LabelQueue]) -> None:
    rules = replace(PLAIN, overlap=1.0, most_labels=3, recheck=False)

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__()
            self.queue, self.other = opened(rules, fresh=True), opened(rules)

    run_state_machine_as_test(Here, settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None))
