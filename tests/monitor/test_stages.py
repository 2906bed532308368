"""Both stages together, without threads: what was judged does not depend on polls, crashes or the number of lanes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.lifecycle import AlertOptions
from detectors.core import Finding, Scorer, Scores
from detectors.profile import Profile
from detectors.reference import Reference, build_from
from detectors.registry import default_scorers
from monitor.accuracy import AccuracyOptions
from monitor.decode import Own
from monitor.decode.columns import infer, to_batch
from monitor.event import Bad, Event, Partition, Raw, Record, Schema
from monitor.exchange import from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.renewal import Renewal
from monitor.retraining import RetrainingOptions
from monitor.sampling import SamplingOptions
from monitor.scopes import Scopes, Slice
from monitor.store import MemoryStore
from monitor.watch import Check
from monitor.windows import WindowOptions

START = 1_790_000_000.0


class Recorder:
    """A detector of a user's own that notes what it is shown, and always finds the weight moved."""

    def __init__(self) -> None:
        self.seen: dict[int, bytes] = {}

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        if current.rows:
            self.seen[int(current.first // 10)] = current.encode()
        return Scores((), np.zeros(0), findings=[Finding("weight", 2.0, 1.0, "weight moved")])


class PartsRecorder:
    """The same of the parts of the rows, which it cannot tell apart."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, bytes]] = set()

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        if current.rows:
            self.seen.add((int(current.first // 10), current.encode()))
        return Scores((), np.zeros(0))


class Plan:
    """A configured model as the stages see it."""

    name = "shelf"
    learn = 100
    dataset = "shelf"
    declared = None
    classes = ()
    scopes = Scopes({"left": Slice("side", equals="left")}, versions=2)
    protected: Mapping[str, Slice] = {}
    sampling = SamplingOptions(per_hour=3600, at_least=20, rows=60)
    accuracy = AccuracyOptions()

    def __init__(self, recorder: Recorder, parts: PartsRecorder) -> None:
        self.checks = [Check("recorder", recorder)]
        self.scope_checks = [Check("recorder", parts)]

    def scorers(self, schema: Schema) -> Mapping[str, Scorer]:
        return default_scorers(schema)

    def renewal(self) -> Renewal:
        return Renewal(self.name, self.dataset, RetrainingOptions(), None, 0.0)


def event(i: int, time: float, rng: random.Random) -> dict[str, Any]:
    p = rng.random()
    return {
        "id": f"e{i}",
        "time": time,
        "model": "shelf",
        "version": str(1 + int(time - START) // 60),
        "inputs": {"weight": rng.gauss(10, 2), "side": rng.choice(["left", "right"])},
        "outputs": {"label": "a" if p > 0.5 else "b", "scores": [p, 1 - p]},
    }


def stream(n: int, seed: int, step: float = 0.37, disorder: float = 1.5) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [event(i, START + i * step + rng.uniform(0, disorder), rng) for i in range(n)]


def records(events: Sequence[dict[str, Any]], partitions: int) -> dict[Partition, list[Raw]]:
    out: dict[Partition, list[Raw]] = {Partition("t", k): [] for k in range(partitions)}
    for i, said in enumerate(events):
        held = out[Partition("t", i % partitions)]
        held.append(Record(json.dumps(said).encode(), None, (), len(held), int(said["time"] * 1000)))
    return out


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = random.Random(99)
    events = []
    for i in range(500):
        said = event(i, START, rng)
        events.append(
            Event(id=said["id"], time=START, version="0", inputs=said["inputs"], label=said["outputs"]["label"],
                  scores=said["outputs"]["scores"])
        )  # fmt: skip
    schema = infer(events)
    return build_from(
        "shelf", to_batch(events, schema), default_scorers(schema), roles={}, source="rows of the test", created=START
    )


class Pair:
    """Ingest and judge on a log and a store that outlive them, as on disk."""

    def __init__(self, reference: Reference | None, partitions: int, seed: int = 0) -> None:
        self.reference = reference
        self.exchange, self.store = MemoryLog(), MemoryStore()
        self.partitions = [Partition("t", k) for k in range(partitions)]
        self.recorder, self.parts = Recorder(), PartsRecorder()
        self.tasks: set[str] = set()
        self.examples: dict[float, tuple[str, ...]] = {}  # by window end
        self.dead: list[Bad] = []
        self.rng = random.Random(seed)
        self.learned: Reference | None = reference
        self.start()

    def start(self) -> None:
        plan, meters = Plan(self.recorder, self.parts), Meters()
        self.ingest = Ingest(
            "s", decoder=Own().open(), models={"shelf": plan},
            options=WindowOptions(size=10.0, lateness=2.0),
            references=lambda _: self.learned, send=self.exchange.append,
            save=self.store.put, load=self.store.get,
            set_aside=lambda _p, _r, bad: self.dead.append(bad), meters=meters,
        )  # fmt: skip
        self.judge = Judge(
            {"shelf": plan}, window=10.0, alerts=AlertOptions(), references=lambda _: self.learned,
            learned=self.learn, clock=lambda: 0.0, meters=meters,
        )  # fmt: skip
        data = self.store.get("judge")
        self.offset = 0
        if data is not None:
            self.offset = int.from_bytes(data[:8], "big")
            self.judge.restore(data[8:])
        self.at = {p: self.ingest.gain(p) or 0 for p in self.partitions}

    def learn(self, reference: Reference) -> None:
        self.learned = reference

    def save(self) -> None:
        self.ingest.checkpoint()
        self.store.put("judge", self.offset.to_bytes(8, "big") + self.judge.checkpoint())

    def judge_all(self) -> None:
        for offset, data in self.exchange.read(self.offset, max_items=self.rng.randint(1, 50)):
            effects = Effects()
            self.judge.take(from_bytes(data), effects)
            self.offset = offset + 1
            self.examples |= {symptom.end: symptom.examples for symptom in effects.symptoms}
            for draw in effects.draws:
                self.tasks |= {t.id for t in draw.tasks}

    @property
    def judged(self) -> dict[int, bytes]:
        return self.recorder.seen

    def run(self, source: Mapping[Partition, list[Raw]], *, crashes: float = 0.0) -> None:
        """Feeds everything in random polls; at each step dies with probability `crashes`, unsaved work lost."""
        while any(self.at[p] < len(source[p]) for p in self.partitions):
            partition = self.rng.choice([p for p in self.partitions if self.at[p] < len(source[p])])
            k = self.rng.randint(1, 40)
            self.ingest.take(partition, source[partition][self.at[partition] : self.at[partition] + k])
            self.at[partition] = min(self.at[partition] + k, len(source[partition]))
            self.judge_all()
            if self.rng.random() < 0.1:
                self.save()
            if self.rng.random() < crashes:
                self.start()
        self.ingest.tick(START + 1e6, {}, ended=True)
        while self.offset < self.exchange.end:
            self.judge_all()


def totals(pair: Pair) -> tuple[int, int]:
    view = pair.judge.snapshot().models[0]
    return view.events, view.label_tasks


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_run_with_crashes_judges_what_an_undisturbed_one_judges(reference: Reference, seed: int) -> None:
    source = records(stream(400, seed), 1)
    calm, stormy = Pair(reference, 1, seed), Pair(reference, 1, seed + 1)
    calm.run(source)
    stormy.run(source, crashes=0.2)
    assert totals(calm) == totals(stormy)
    assert calm.judged == stormy.judged  # bit for bit: counts, sums, samples
    assert calm.parts.seen == stormy.parts.seen
    assert len(calm.parts.seen) > 1.5 * len(calm.judged)  # the slice, and the versions there is room for
    assert calm.tasks == stormy.tasks
    assert calm.examples == stormy.examples
    assert max(map(len, calm.examples.values())) == 3  # a window without rows has none
    assert totals(calm)[0] == 400


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_every_event_is_counted_once_over_several_lanes_and_crashes(reference: Reference, seed: int) -> None:
    source = records(stream(600, seed), 3)
    pair = Pair(reference, 3, seed)
    pair.run(source, crashes=0.1)
    assert totals(pair)[0] == 600


def test_lanes_give_the_counts_that_one_lane_gives(reference: Reference) -> None:
    events = stream(600, 5, disorder=0.0)
    one, three = Pair(reference, 1), Pair(reference, 3)
    one.run(records(events, 1))
    three.run(records(events, 3))
    assert one.judged.keys() == three.judged.keys()
    for window, data in one.judged.items():
        a, b = (Profile.decode(reference.layout, d) for d in (data, three.judged[window]))
        assert (a.cells == b.cells).all()
        assert (a.words == b.words).all()
        assert (a.sample.keys == b.sample.keys).all()
        assert np.allclose(a.mean, b.mean, rtol=1e-12)


def test_a_model_without_reference_learns_it_and_then_judges() -> None:
    pair = Pair(None, 1)
    pair.run(records(stream(600, 7), 1))
    assert pair.learned is not None
    assert "first" in pair.learned.source
    view = pair.judge.snapshot().models[0]
    assert view.learning is None
    assert view.window_rows > 0
    assert view.events == 600


def test_a_record_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(reference: Reference) -> None:
    source = records(stream(50, 3), 1)
    broken = Record(b"{not json", None, (), 25, int(START * 1000))
    partition = Partition("t", 0)
    source[partition][25] = broken
    pair = Pair(reference, 1)
    pair.run(source)
    assert [b.offset for b in pair.dead] == [25]
    assert totals(pair)[0] == 49


def test_a_lane_whose_source_has_ended_is_not_waited_for(reference: Reference) -> None:
    pair = Pair(reference, 2)
    source = records(stream(300, 11), 2)
    first, second = pair.partitions
    pair.ingest.take(first, source[first])
    pair.ingest.drop(second)
    pair.ingest.tick(START + 1e6, {}, ended=True)
    pair.ingest.gain(second)
    pair.ingest.take(second, source[second])
    pair.ingest.tick(START + 1e6, {}, ended=True)
    while pair.offset < pair.exchange.end:
        pair.judge_all()
    assert totals(pair)[0] == 300


def windows_closed_by_the_clock(reference: Reference, speed: float) -> int:
    """Windows judged of a stream that ends at the clock's time, a minute of silence later."""
    pair = Pair(reference, 1)
    [partition] = pair.partitions
    rng = random.Random(1)
    end, n = START + 600, 300
    for i in range(n):
        ago = n - i
        said = event(i, end - ago * 2.0, rng)
        arrived = int((end - ago * 2.0 / speed) * 1000)
        pair.ingest.take(partition, [Record(json.dumps(said).encode(), None, (), i, arrived)])
    for second in range(60):
        pair.ingest.tick(end + second, {partition: 0})
    while pair.offset < pair.exchange.end:
        pair.judge_all()
    return pair.judge.snapshot().models[0].windows


def test_the_clock_closes_empty_windows_of_a_live_stream_and_not_of_a_replay_that_meets_it(
    reference: Reference,
) -> None:
    live, replay = windows_closed_by_the_clock(reference, 1.0), windows_closed_by_the_clock(reference, 20.0)
    assert live - replay >= 5  # the minute of silence
