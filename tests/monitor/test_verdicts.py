"""A person's word through both stages: what is judged by, told, withdrawn, and what of it survives a crash."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from alerting.alert import Notice, Ruling, Verdict
from alerting.labeling.task import Withdrawal
from alerting.lifecycle import AlertOptions
from detectors.checks.level import Level
from detectors.checks.quality import Missing, NewCategory
from monitor.config import CheckOptions, ModelOptions, ReferenceOptions
from monitor.decode import Own
from monitor.event import Partition, Raw, Record
from monitor.exchange import Closed, Partial, Told, from_bytes, to_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import Plan
from monitor.references import References
from monitor.store import MemoryStore
from monitor.windows import WindowOptions

START = 1_790_000_000.0
SIZE = 10.0
RATE = 5.0  # events a second
KEY = "shelf/level/x"
MODEL = ModelOptions(
    name="shelf",
    reference=ReferenceOptions(learn=200),
    checks=(
        CheckOptions(Level(side="both"), columns=("x",)),
        CheckOptions(NewCategory(), columns=("label",)),
        CheckOptions(Missing(), columns=("y",)),
    ),
    sampling=None,
    labels=None,
)


def stream(seconds: float, moved: float, until: float = 1e18) -> list[dict[str, Any]]:
    """Events whose x rises by 4, with products of a new kind, between `moved` and `until`, seconds from the start."""
    rng = random.Random(5)
    events = []
    for i in range(int(seconds * RATE)):
        at = i / RATE
        new = moved <= at < until
        inputs = {"x": rng.gauss(4.0 if new else 0.0, 1.0), "y": rng.random()}
        label = rng.choice(["tea", "milk", "mate"] if new else ["tea", "milk"])
        said = {"id": f"e{i}", "time": START + at, "model": "shelf", "inputs": inputs, "outputs": {"label": label}}
        events.append(said)
    return events


def record(event: dict[str, Any], offset: int) -> Raw:
    return Record(json.dumps(event).encode(), None, (), offset, int(event["time"] * 1000))


class Daemon:
    """Both stages on a log and a store that outlive them, fed in polls of random length."""

    def __init__(self, lanes: int = 1, seed: int = 0, options: AlertOptions | None = None) -> None:
        self.exchange, self.store, self.rng = MemoryLog(), MemoryStore(), random.Random(seed)
        self.options = options or AlertOptions(clear_after=20, repeat=1e9)
        self.lanes = [Partition("t", k) for k in range(lanes)]
        self.saved: tuple[int, bytes] | None = None
        self.meters = Meters()
        self.notices: dict[str, Notice] = {}
        self.withdrawals: dict[str, Withdrawal] = {}
        self.start()

    def start(self) -> None:
        models = {"shelf": Plan(MODEL, SIZE)}
        self.references = References(models, self.store)
        self.ingest = Ingest(
            "s", decoder=Own().open(), models=models, options=WindowOptions(size=SIZE, lateness=2.0),
            references=self.references.find, send=self.exchange.append, save=self.store.put, load=self.store.get,
            set_aside=lambda _p, _r, bad: pytest.fail(str(bad)), meters=self.meters, successors=self.references,
        )  # fmt: skip
        self.start_judge()
        self.at = {lane: self.ingest.gain(lane) or 0 for lane in self.lanes}

    def start_judge(self) -> None:
        self.judge = Judge(
            {"shelf": Plan(MODEL, SIZE)}, window=SIZE, alerts=self.options, references=self.references.find,
            learned=self.references.learned, successors=self.references, clock=lambda: 0.0, meters=self.meters,
        )  # fmt: skip
        self.offset = 0
        if self.saved is not None:
            self.offset = self.saved[0]
            self.judge.restore(self.saved[1])

    def tell(self, id_: str, ruling: Ruling = Ruling.INTENDED, key: str = KEY, **more: Any) -> None:
        verdict = Verdict(id=id_, key=key, ruling=ruling, by="ann", at=0.0, **more)
        self.exchange.append([to_bytes(Told(id_, "shelf", verdict))])
        self.judge_all()

    def judge_all(self, most: int = 1 << 20) -> None:
        for offset, data in self.exchange.read(self.offset, max_items=most):
            effects = Effects()
            self.judge.take(from_bytes(data), effects)
            self.offset = offset + 1
            self.notices |= {notice.id: notice for notice in effects.notices}
            self.withdrawals |= {withdrawal.id: withdrawal for withdrawal in effects.withdrawals}

    def save(self) -> None:
        self.ingest.checkpoint()
        self.saved = self.offset, self.judge.checkpoint()

    def feed(self, events: Sequence[dict[str, Any]], *, crashes: float = 0.0) -> None:
        """All events in the order of time; at each step it looks, judges, may save, and may die."""
        source: dict[Partition, list[Raw]] = {lane: [] for lane in self.lanes}
        for i, event in enumerate(events):
            held = source[self.lanes[i % len(self.lanes)]]
            held.append(record(event, len(held)))
        while left := [lane for lane in self.lanes if self.at[lane] < len(source[lane])]:
            lane = min(left, key=lambda lane: self.at[lane])
            k = self.rng.randint(1, 30)
            some = source[lane][self.at[lane] : self.at[lane] + k]
            self.ingest.take(lane, some)
            self.at[lane] += len(some)
            self.ingest.look()
            self.judge_all(self.rng.randint(0, 4) if crashes else 1 << 20)
            if self.rng.random() < (0.3 if crashes else 0.0):
                self.save()
            if self.rng.random() < crashes:
                self.rng.choice([self.start, self.start_judge])()
        self.judge_all()

    def end(self) -> None:
        self.ingest.tick(START + 1e6, {}, ended=True)
        self.judge_all()

    @property
    def view(self) -> Any:
        return self.judge.snapshot().models[0]

    def told(self, key: str = KEY) -> list[str]:
        return [n.transition.value for n in self.notices.values() if n.alert.key == key]

    def partials(self) -> Iterator[Partial]:
        for _, data in self.exchange.read(0, max_items=1 << 20):
            message = from_bytes(data)
            if isinstance(message, Closed):
                yield from message.partials


def test_an_intended_change_is_learned_at_the_second_word_and_unlearned_when_it_is_taken_back() -> None:
    daemon, events = Daemon(), stream(900, moved=100)
    daemon.feed(events[:700])  # 140 s
    first = daemon.view.reference
    [leader] = [alert for alert in daemon.view.alerts if not alert.leader]
    assert {alert.key for alert in daemon.view.alerts} == {KEY, "shelf/new_category/label"}
    daemon.tell("v1", key=leader.key)
    daemon.feed(events[:1500])  # 160 s more: enough to build another, which nobody has confirmed
    assert daemon.view.reference == first
    assert len(daemon.view.alerts) == 2

    daemon.tell("v2", key=leader.key, confirms="v1")
    daemon.feed(events[:2500])
    assert daemon.view.reference != first
    assert " events from 2026-" in daemon.view.reference_source
    assert "by ann" in daemon.view.reference_source
    assert daemon.view.alerts == ()
    assert daemon.told(leader.key) == ["opened", "verdict", "verdict", "resolved"]
    last = list(daemon.partials())[-1]
    assert [counted.reference for counted in last.counts] == [daemon.view.reference], "the old one is counted no more"
    assert not last.raw

    daemon.tell("v3", key=leader.key, revokes="v2")
    daemon.feed(events[:3500])
    assert daemon.view.reference == first
    assert {alert.key for alert in daemon.view.alerts} == {KEY, "shelf/new_category/label"}
    assert [(v.id, v.revoked) for v in daemon.view.verdicts] == [("v3", ""), ("v2", "v3"), ("v1", "v3")]
    daemon.end()
    assert daemon.view.events == 3500


def test_an_intended_change_that_is_taken_back_before_the_second_word_changes_nothing() -> None:
    daemon, events = Daemon(), stream(400, moved=100)
    daemon.feed(events[:700])
    first = daemon.view.reference
    daemon.tell("v1")
    daemon.feed(events[:1200])
    daemon.tell("v2", revokes="v1")
    daemon.tell("v3", confirms="v1")
    daemon.feed(events)
    assert daemon.view.reference == first
    assert "no verdict of an intended change" in daemon.view.verdicts[0].outcome
    assert not daemon.references.standing("shelf").wanted


def test_what_is_unintended_is_left_out_until_it_is_fixed() -> None:
    daemon = Daemon()
    events = stream(300, moved=100, until=200)
    daemon.feed(events[:700])
    daemon.tell("v1", Ruling.UNINTENDED)
    [before] = daemon.withdrawals.values()
    daemon.feed(events)
    [_, after] = daemon.withdrawals.values()
    assert (before.since, after.since) == (START + 100, START + 100)
    assert before.until < START + 140 < START + 200 <= after.until
    assert daemon.told() == ["opened", "verdict", "fixed"]


def test_what_is_not_fixed_in_time_escalates() -> None:
    daemon = Daemon(options=AlertOptions(clear_after=20, repeat=1e9, fix_within=60))
    events = stream(300, moved=100)
    daemon.feed(events[:700])
    daemon.tell("v1", Ruling.UNINTENDED)
    daemon.feed(events)
    assert daemon.told() == ["opened", "verdict", "escalated"]
    assert {alert.severity for alert in daemon.view.alerts if not alert.leader} == {"critical"}


def test_a_false_alarm_is_silent_until_its_end_and_counted() -> None:
    options = AlertOptions(clear_after=20, repeat=1e9, cooldown=0)
    daemon, events = Daemon(options=options), stream(200, moved=100, until=150)
    again = [{**e, "id": f"again {e['id']}", "time": e["time"] + 200} for e in events]
    later = [{**e, "id": f"later {e['id']}", "time": e["time"] + 400} for e in events]
    daemon.feed(events[:700])
    daemon.tell("v1", Ruling.FALSE_ALARM, until=START + 400)
    daemon.feed([*events, *again])
    assert daemon.told() == ["opened", "verdict"]
    [held] = daemon.view.suppressions
    assert held.suppressed >= 1
    assert daemon.view.false_alarms[KEY] == 1
    daemon.feed([*events, *again, *later])
    assert daemon.told()[2:] == ["opened", "resolved"]
    opened = [n.alert for n in daemon.notices.values() if n.alert.key == KEY][2]
    assert opened.before is not None
    assert opened.before.id == "v1"


def test_a_verdict_that_comes_twice_counts_once_and_one_on_nothing_says_so() -> None:
    daemon, events = Daemon(), stream(160, moved=100)
    daemon.feed(events)
    daemon.tell("v1", Ruling.ACKNOWLEDGED)
    daemon.tell("v1", Ruling.ACKNOWLEDGED)
    daemon.tell("v2", Ruling.UNINTENDED, key="shelf/level/nothing")
    assert [v.id for v in daemon.view.verdicts] == ["v2", "v1"]
    assert "nothing is known" in daemon.view.verdicts[0].outcome
    assert daemon.told() == ["opened", "verdict"]


@pytest.mark.parametrize(("seed", "lanes"), [(1, 1), (2, 2), (3, 3), (4, 2)])
def test_whatever_dies_no_row_is_lost_or_counted_twice_while_one_reference_follows_another(
    seed: int, lanes: int
) -> None:
    daemon, events = Daemon(lanes, seed), stream(600, moved=100)
    for upto, verdict in ((700, {"id_": "v1"}), (1000, {"id_": "v2", "confirms": "v1"}), (3000, {})):
        daemon.feed(events[:upto], crashes=0.2)
        if verdict:
            daemon.tell(**verdict)  # type: ignore[arg-type]
    daemon.end()
    assert daemon.view.events == 3000
    assert " events from " in daemon.view.reference_source
    assert daemon.meters.lost_partials._value.get() == 0  # noqa: SLF001 no other way to ask a counter
    assert daemon.view.late == 0

    # the judge alone, over the same messages from the first on: undisturbed, and dying at every step
    notices, reference = dict(daemon.notices), daemon.view.reference
    for crashes in (False, True):
        daemon.saved, daemon.notices = None, {}
        daemon.references = References({"shelf": Plan(MODEL, SIZE)}, MemoryStore())
        daemon.start_judge()
        while daemon.offset < daemon.exchange.end:
            daemon.judge_all(1)
            if crashes:
                if daemon.rng.random() < 0.2:
                    daemon.saved = daemon.offset, daemon.judge.checkpoint()
                daemon.start_judge()
        assert daemon.notices == notices
        assert daemon.view.reference == reference
        assert daemon.meters.lost_partials._value.get() == 0  # noqa: SLF001
