"""Answers of several versions to one event meet: each pair once, by id, whatever the polls and wherever it dies."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.lifecycle import AlertOptions
from detectors.core import Batch, category, from_columns, number
from detectors.encode import decode, encode
from detectors.reference import Reference, build_from
from monitor import app
from monitor.config import parse
from monitor.decode import Own
from monitor.decode.columns import infer, to_batch
from monitor.event import Event, Partition, Raw, Record
from monitor.exchange import Closed, from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import Plan, plans
from monitor.scopes import Slice
from monitor.store import MemoryStore
from monitor.versions import KEEP, WAIT, Versions, versions_of

START = 1_790_000_000.0
SIZE = 10.0
LANE = Partition("t", 0)
MISSING = {"detector": "missing"}  # what the model itself shows is told elsewhere
CONFIG = json.dumps(
    {
        "models": [{"name": "shelf", "sampling": None, "labels": None, "versions": 3, "checks": [MISSING]}],
        "window": {"size": "10s", "lateness": "2s"},
    }
)


def answers(version: str, said: dict[str, str], time: float = START) -> Batch:
    columns = {"version": category([version] * len(said)), "label": category(said.values())}
    return from_columns(columns, times=np.full(len(said), time), ids=list(said))


def values(version: str, said: dict[str, float]) -> Batch:
    columns = {"version": category([version] * len(said)), "value": number(list(said.values()))}
    return from_columns(columns, times=np.full(len(said), START), ids=list(said))


def fresh(reference: Reference | None = None) -> Versions:
    return Versions(SIZE, lambda: reference)


def flags(events: Sequence[Event]) -> list[float]:
    return [event.extra["versions_disagree"] for event in events]


def test_a_later_answer_is_held_against_the_first_of_another_version() -> None:
    versions = fresh()
    versions.keep(answers("1", {"a": "cat", "b": "cat", "alone": "cat"}))
    versions.keep(answers("2", {"a": "dog", "b": "cat"}, START + 2))
    versions.keep(answers("3", {"a": "dog"}, START + 3))
    events = versions.join(START + SIZE, START)
    assert sorted((event.time, *event.extra.values()) for event in events) == [
        (START + 2, 0.0),
        (START + 2, 1.0),
        (START + 3, 1.0),  # it agrees with the second version, and not with the first
    ]
    assert versions.take_counts() == {"compared": 3}


def test_protected_slices_are_counted_where_either_answer_says_that_the_event_is_theirs() -> None:
    young = {"young": Slice("age", below=25.0), "acme": Slice("user", equals="acme")}
    rng = np.random.default_rng(1)
    rows = from_columns({"age": number(rng.normal(40, 20, 500)), "user": category(["acme", "other"] * 250)})
    reference = build_from("m", rows, {}, roles={}, source="test", created=0.0)
    versions = Versions(SIZE, lambda: reference, young)
    first = answers("1", {"a": "cat", "b": "cat", "c": "cat", "d": "cat"})
    first.columns |= {"age": number([20.0, 20.0, 50.0, np.nan]), "user": category(["acme", "x", "acme", "x"])}
    versions.keep(first)
    again = Versions(SIZE, lambda: reference, young)
    again.restore(decode(encode(versions.state()), Any))
    again.keep(answers("2", {"a": "dog", "b": "cat", "c": "dog", "d": "dog"}, START + 1))
    again.join(START + SIZE, START)
    (met,) = again.take_met()
    assert met.slices == {"young": (2, 1), "acme": (2, 2)}
    assert {row.id: row.slices for row in met.draw.rows} == {"a": ["young", "acme"], "c": ["acme"], "d": []}
    other = Versions(SIZE, lambda: reference, {"old": Slice("age", at_least=25.0)})
    other.restore(decode(encode(versions.state()), Any))
    other.keep(answers("2", {"a": "dog"}, START + 1))
    other.join(START + SIZE, START)
    assert other.take_met()[0].slices == {"old": (0, 0)}, "bits of other slices"


def test_a_slice_protected_from_now_on_loses_no_answer_that_was_kept() -> None:
    versions = fresh()
    versions.keep(answers("1", {"a": "cat"}))
    again = Versions(SIZE, lambda: None, {"young": Slice("age", below=25.0)})
    again.restore(decode(encode(versions.state()), Any))
    again.keep(answers("2", {"a": "dog"}, START + 1))
    assert flags(again.join(START + SIZE, START)) == [1.0]


def test_an_answer_said_again_is_compared_once() -> None:
    versions = fresh()
    for _ in range(2):
        versions.keep(answers("1", {"a": "cat"}))
        versions.keep(answers("2", {"a": "dog"}))
    assert flags(versions.join(START + SIZE, START)) == [1.0]
    versions.keep(answers("2", {"a": "dog"}, START + SIZE))
    versions.keep(answers("1", {"a": "cat"}, START + SIZE))
    assert versions.join(START + 2 * SIZE, START) == []
    assert versions.take_counts() == {"compared": 1, "repeated": 4}


def test_an_answer_waits_for_a_later_window_and_not_for_ever() -> None:
    versions = fresh()
    versions.keep(answers("1", {"a": "cat", "b": "cat"}))
    assert versions.join(START + SIZE, START) == []
    versions.keep(answers("2", {"a": "dog"}, START + SIZE))
    assert versions.join(START + SIZE, START) == [], "its window is open"
    assert flags(versions.join(START + 2 * SIZE, START)) == [1.0]
    versions.keep(answers("1", {"c": "cat"}, START + SIZE + WAIT))
    versions.join(START + WAIT + 3 * SIZE, START)
    versions.keep(answers("2", {"b": "dog"}, START + WAIT + 3 * SIZE))
    assert versions.join(START + WAIT + 4 * SIZE, START) == []
    assert versions.take_counts() == {"compared": 1, "alone": 1}


def test_numbers_disagree_beyond_a_quarter_of_the_references_deviation() -> None:
    rng = np.random.default_rng(1)
    rows = from_columns({"value": number(rng.normal(100, 20, 2_000))})
    versions = fresh(build_from("m", rows, {}, roles={}, source="test", created=0.0))
    versions.keep(values("1", {"near": 100.0, "far": 100.0}))
    versions.keep(values("2", {"near": 104.0, "far": 106.0}))
    assert sorted(flags(versions.join(START + SIZE, START))) == [0.0, 1.0]


def test_a_class_and_a_number_cannot_be_compared() -> None:
    versions = fresh()
    versions.keep(answers("1", {"a": "cat"}))
    versions.keep(values("2", {"a": 1.0}))
    assert versions.join(START + SIZE, START) == []
    assert versions.take_counts() == {"incomparable": 1}


def test_of_more_answers_than_are_kept_the_same_share_of_both_versions_is() -> None:
    versions = fresh()
    ids = [f"event {i}" for i in range(2 * KEEP)]
    for first in range(0, len(ids), 1000):
        for version, label in (("1", "cat"), ("2", "dog")):
            versions.keep(answers(version, dict.fromkeys(ids[first : first + 1000], label)))
    events = versions.join(START + SIZE, START)
    assert len(events) == KEEP // 2
    assert versions.take_counts() == {"compared": KEEP // 2, "dropped": 3 * KEEP}
    assert len(encode(versions.state())) < 49 * KEEP


# -- both stages


def stream(n: int, seed: int, *, apart: Sequence[float] = (0.05,), shadow_from: int = 0) -> list[Raw]:
    """Events half a second apart; each is answered by the first version and, two events later, by its shadow, which
    disagrees with the chance that `apart` has for this part of the stream."""
    rng = random.Random(seed)
    waiting: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for i in range(n):
        inputs = {"x": rng.gauss(0, 1)}
        label = rng.choice(["cat", "dog"])
        other = {"cat": "dog", "dog": "cat"}[label]
        body = {"id": f"e{i}", "model": "shelf", "time": START + i / 2, "inputs": inputs, "version": "1"}
        said.append({**body, "outputs": {"label": label}})
        if i >= shadow_from:
            answer = other if rng.random() < apart[i * len(apart) // n] else label
            waiting.append({**body, "time": START + i / 2 + 1, "version": "2", "outputs": {"label": answer}})
        if len(waiting) > 2:
            said.append(waiting.pop(0))
    return records(said + waiting)


def records(bodies: Sequence[dict[str, Any]]) -> list[Raw]:
    return [Record(json.dumps(body).encode(), None, (), at, int(START * 1000)) for at, body in enumerate(bodies)]


@pytest.fixture(scope="module", name="reference")
def _reference() -> Reference:
    """Of a time when there was one version."""
    rng = random.Random(9)
    events = [
        Event(id=f"r{i}", time=START - 2_000 + i, inputs={"x": rng.gauss(0, 1)}, label=rng.choice(["cat", "dog"]))
        for i in range(2_000)
    ]
    for event in events:
        event.version = "1"
    schema = infer(events)
    roles = {spec.name: spec.role for spec in schema}
    return build_from("shelf", to_batch(events, schema), {}, roles=roles, source="test", created=START)


class Daemon:
    """Ingest and judge on a log and a store that outlive them, as on disk."""

    def __init__(self, reference: Reference) -> None:
        self.references = {"shelf": reference}
        self.exchange, self.store = MemoryLog(), MemoryStore()
        self.offset = 0
        self.start()

    def start(self) -> None:
        config = parse(CONFIG)
        self.plans: dict[str, Plan] = plans(config)
        self.meters = Meters()
        self.ingest = Ingest(
            "s", decoder=Own().open(), models=self.plans, options=config.window, references=self.references.get,
            send=self.exchange.append, save=self.store.put, load=self.store.get, set_aside=lambda *_: None,
            meters=self.meters,
        )  # fmt: skip
        self.judge = Judge(
            self.plans, window=SIZE, alerts=AlertOptions(), references=self.references.get, learned=self.learned,
            clock=lambda: 0.0, meters=self.meters,
        )  # fmt: skip
        self.at = self.ingest.gain(LANE) or 0

    def learned(self, reference: Reference) -> None:
        self.references[reference.model] = reference

    def poll(self, source: Sequence[Raw], rows: int) -> None:
        self.ingest.take(LANE, source[self.at : self.at + rows])
        self.at += rows

    def end(self) -> None:
        self.ingest.tick(START + 1e6, {}, ended=True)

    def judge_all(self) -> None:
        for offset, data in self.exchange.read(self.offset, max_items=1 << 20):
            self.judge.take(from_bytes(data), Effects())
            self.offset = offset + 1

    def said(self, model: str) -> list[Closed]:
        """What ingest said of a model, each message once; what it said again was the same."""
        found: dict[int, Closed] = {}
        for _, data in self.exchange.read(0, max_items=1 << 20):
            message = from_bytes(data)
            assert isinstance(message, Closed)
            if message.model == model:
                assert encode(found.setdefault(message.serial, message).partials) == encode(message.partials)
        return [found[serial] for serial in sorted(found)]

    def compared(self) -> dict[int, list[tuple[float, float]]]:
        """Time and flag of each comparison by window, while their reference is being learned."""
        return {
            partial.window: [(event.time, event.extra["versions_disagree"]) for event in partial.events]
            for message in self.said("shelf.versions")
            for partial in message.partials
        }


@st.composite
def bodies(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Answers of three versions to few ids, some late, some out of order, some twice."""
    answer = st.tuples(st.integers(0, 8), st.sampled_from("123"), st.sampled_from(["cat", "dog"]), st.integers(-15, 3))
    return [
        {
            "id": f"e{id_}", "model": "shelf", "time": START + 2 * i + off, "version": version,
            "inputs": {"x": 0.0}, "outputs": {"label": label},
        }
        for i, (id_, version, label, off) in enumerate(draw(st.lists(answer, min_size=5, max_size=40)))
    ]  # fmt: skip


STEPS = st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.booleans()), min_size=3, max_size=20)


@given(bodies(), STEPS)
@settings(max_examples=60, deadline=None)
def test_however_it_is_polled_and_restarted_the_same_is_compared(
    reference: Reference, said: list[dict[str, Any]], steps: list[tuple[int, bool, bool]]
) -> None:
    source = records(said)
    whole, cut = Daemon(reference), Daemon(reference)
    whole.poll(source, len(source))
    for rows, saves, dies in steps:
        if cut.at < len(source):
            cut.poll(source, rows)
        if saves:
            cut.ingest.checkpoint()
        if dies:
            cut.start()
    while cut.at < len(source):
        cut.poll(source, 5)
    for daemon in (whole, cut):
        daemon.end()
    assert cut.compared() == whole.compared()
    flags = [flag for events in whole.compared().values() for _, flag in events]
    assert len(flags) == len({(b["id"], b["version"]) for b in said}) - len({b["id"] for b in said})


def test_versions_that_come_to_disagree_raise_an_alarm_and_those_that_come_to_agree_none(
    reference: Reference,
) -> None:
    worse, better = Daemon(reference), Daemon(reference)
    for daemon, apart in ((worse, (0.1, 0.1, 0.1, 0.3)), (better, (0.3, 0.3, 0.3, 0.0))):
        source = stream(4_000, 3, apart=apart, shadow_from=500)
        while daemon.at < len(source):
            daemon.poll(source, 200)
            daemon.judge_all()
        daemon.end()
        daemon.judge_all()
    [alert] = [alert for alert in worse.judge.alerts() if alert.model == "shelf.versions"]
    assert alert.column == "versions_disagree"
    assert alert.text.startswith("versions_disagree moved")
    assert alert.started > START + 1_500
    assert [alert for alert in better.judge.alerts() if alert.model == "shelf.versions"] == []
    events = {view.model: view.events for view in worse.judge.snapshot().models}
    assert events == {"shelf": 7_500, "shelf.versions": 3_500}
    for outcome, count in (("compared", 3_500), ("alone", 500)):
        said = {"model": "shelf", "outcome": outcome}
        assert worse.meters.registry.get_sample_value("driftd_version_answers_total", said) == count


def test_without_versions_to_watch_nothing_is_kept() -> None:
    assert versions_of("shelf") not in plans(parse('{"models": [{"name": "shelf"}]}'))


def test_a_replay_of_a_file_compares_versions(tmp_path: Path) -> None:
    place = tmp_path / "events.jsonl"
    place.write_bytes(b"\n".join(record.value or b"" for record in stream(6_000, 4, apart=(0.05, 0.05, 0.4))) + b"\n")
    out = io.StringIO()
    model = {"name": "shelf", "versions": 2, "reference": {"learn": 1000}, "checks": [MISSING]}
    config = {"models": [model], "sources": [{"kind": "http"}], "window": {"size": "10s"}}
    assert app.replay(parse(json.dumps(config)), [str(place)], out) == 0
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    events = {line["summary"]: line["events"] for line in lines if "summary" in line}
    assert events["shelf"] == 12_000
    assert 4_500 <= events["shelf.versions"] <= 5_600  # not those of before the model was learned
    opened = [line for line in lines if line.get("transition") == "opened" and "versions" in line["alert"]]
    assert [line["alert"] for line in opened] == ["shelf.versions/evidence/versions_disagree"]
    assert START + 2_000 < opened[0]["at"] < START + 2_200


def test_a_lane_of_before_there_were_comparisons_is_read(reference: Reference) -> None:
    daemon = Daemon(reference)
    daemon.poll(stream(100, 1), 50)
    daemon.ingest.checkpoint()
    saved = decode(daemon.store.get("s/0") or b"", dict[str, Any])
    del saved["versions"]
    daemon.store.put("s/0", encode(saved))
    daemon.start()
    assert daemon.at == 50
