"""Slices and versions: which rows are theirs, what they are held against, and when their alerts open."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.alert import Notice
from alerting.lifecycle import AlertOptions
from detectors.checks.evidence import EDetector
from detectors.checks.window import WholeWindow
from detectors.core import category, from_columns, number
from detectors.encode import decode, encode
from detectors.profile import Profile, lay_out
from detectors.reference import Reference
from monitor.config import parse
from monitor.decode import Own
from monitor.event import Partition, Record
from monitor.exchange import from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import Plan, plans
from monitor.scopes import Scopes, Slice
from monitor.settings import Refused
from monitor.store import MemoryStore
from monitor.windows import WindowOptions

START = 1_790_000_000.0
ROWS = 40  # a window

SLICES = """
models:
  - reference: {learn: 1000}
    sampling: null
    versions: 2
    slices:
      young: {column: age, below: 30}
      north: {column: region, in: [north, arctic]}
"""


@pytest.mark.parametrize(
    ("given_", "problem"),
    [
        ("{column: age}", "either `equals`, or `in`, or"),
        ("{column: age, equals: 3, below: 4}", "either `equals`, or `in`, or"),
        ("{column: age, under: 4}", "no such key"),
        ("{below: 4}", "missing"),
    ],
)
def test_a_slice_that_says_nothing_or_two_things_is_refused(given_: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        parse(f"models: [{{slices: {{young: {given_}}}}}]")


def test_more_than_32_slices_are_refused() -> None:
    many = ", ".join(f"s{i}: {{column: age, below: {i}}}" for i in range(33))
    with pytest.raises(Refused, match="at most 32"):
        parse(f"models: [{{slices: {{{many}}}}}]")


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), max_size=30), st.floats(-10, 10))
def test_below_and_at_least_part_the_rows_that_have_a_value(values: list[float | None], edge: float) -> None:
    batch = from_columns({"x": number(np.array([np.nan if v is None else v for v in values]))})
    low, high = Slice("x", below=edge).rows(batch), Slice("x", at_least=edge).rows(batch)
    assert not (low & high).any()
    assert (low | high).tolist() == [v is not None for v in values]


def test_values_of_a_category_are_words_whatever_yaml_takes_them_for() -> None:
    batch = from_columns({"c": category(["3", "true", None, "x"])})
    assert Slice("c", among=(3.0, True)).rows(batch).tolist() == [True, True, False, False]
    assert not Slice("c", below=3.0).rows(batch).any()
    assert not Slice("absent", equals="x").rows(batch).any()


def test_parts_count_what_a_profile_of_their_rows_counts() -> None:
    rng = np.random.default_rng(1)
    batch = from_columns(
        {
            "x": number(rng.normal(size=300)),
            "version": category(rng.choice(["1", "2", "3"], 300, p=[0.5, 0.3, 0.2]).tolist()),
        }
    )
    layout = lay_out(batch)
    found: dict[str, Profile] = {}
    beyond = Scopes({"low": Slice("x", below=0.0)}, versions=2).count(batch, layout, found)
    own = Profile(layout)
    own.update(batch.take(batch["x"].values < 0))
    assert found["slice:low"].encode() == own.encode()
    versions = {name: part.rows for name, part in found.items() if name.startswith("version:")}
    assert len(versions) == 2
    assert sum(versions.values()) + beyond == 300


REMEMBERING = """
models:
  - reference: {learn: 1000}
    sampling: null
    checks:
      - {name: evidence, detector: {kind: e_detector}}
      - {name: adwin, detector: {kind: adwin}}
      - {name: stuck, detector: {kind: stuck}}
      - {name: volume, detector: {kind: volume}}
"""


@pytest.mark.parametrize("memory", [["of another"], {"income": "version", "model": 3, "rows": "many"}, 7])
def test_a_memory_that_a_check_cannot_read_begins_anew_and_the_daemon_goes_on(
    memory: object, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(REMEMBERING)
    daemon.feed(people(1_000 + 2 * ROWS, 1))
    saved = decode(daemon.judge.checkpoint(), dict[str, Any])
    saved[""]["scopes"][""]["memories"] = dict.fromkeys(saved[""]["scopes"][""]["memories"], memory)
    daemon.restart(encode(saved))
    assert daemon.judge.snapshot().models[0].promises
    daemon.feed(people(2 * ROWS, 2))
    assert daemon.lost_memories == 4
    assert "what check evidence remembered cannot be read, it begins anew" in caplog.text
    daemon.feed(richer(people(5 * ROWS, 3), lambda _: True, 30.0))
    assert ("", "income") in daemon.open
    assert daemon.lost_memories == 4


def test_shares_of_the_promise_sum_to_the_whole() -> None:
    plan = plans(parse(SLICES))[""]
    whole, part = (
        sum(1 / c.detector.promise for c in checks if isinstance(c.detector, EDetector | WholeWindow))
        for checks in (plan.checks, plan.scope_checks)
    )
    assert whole + (2 + 2) * part == pytest.approx(1 / EDetector().promise)


class Daemon:
    """Both stages over one partition, as the configuration says."""

    def __init__(self, text: str) -> None:
        self.plan: Plan = plans(parse(text))[""]
        self.learned: Reference | None = None
        self.exchange, self.store = MemoryLog(), MemoryStore()
        self.notices: list[Notice] = []
        self.offset = self.sent = 0
        self.start()

    def start(self) -> None:
        self.meters = meters = Meters()
        self.ingest = Ingest(
            "s", decoder=Own().open(), models={"": self.plan}, options=WindowOptions(size=10.0, lateness=0.0),
            references=lambda _: self.learned, send=self.exchange.append, save=self.store.put, load=self.store.get,
            set_aside=lambda *_: None, meters=meters,
        )  # fmt: skip
        self.judge = Judge(
            {"": self.plan}, window=10.0, alerts=AlertOptions(), references=lambda _: self.learned,
            learned=self.learn, clock=lambda: 0.0, meters=meters,
        )  # fmt: skip
        self.ingest.gain(Partition("t", 0))

    def learn(self, reference: Reference) -> None:
        self.learned = reference

    def feed(self, rows: Sequence[dict[str, object]]) -> None:
        """Whole windows of ROWS rows each, judged as they close."""
        for first in range(0, len(rows), ROWS):
            records = []
            for row in rows[first : first + ROWS]:
                time = START + self.sent * 10.0 / ROWS
                said = {"id": f"e{self.sent}", "time": time, **row}
                records.append(Record(json.dumps(said).encode(), None, (), self.sent, int(time * 1000)))
                self.sent += 1
            self.ingest.take(Partition("t", 0), records)
            self.ingest.tick(records[-1].timestamp / 1000, {})
            for offset, data in self.exchange.read(self.offset, max_items=100):
                effects = Effects()
                self.judge.take(from_bytes(data), effects)
                self.notices += effects.notices
                self.offset = offset + 1

    def restart(self, judged: bytes | None = None) -> None:
        """Stops where it is and goes on from its checkpoints, or from this one of the judge."""
        self.ingest.checkpoint()
        data = self.judge.checkpoint() if judged is None else judged
        self.start()
        self.judge.restore(data)

    @property
    def lost_memories(self) -> float | None:
        return self.meters.registry.get_sample_value("driftd_lost_memories_total", {"model": self.plan.name})

    @property
    def open(self) -> set[tuple[str, str]]:
        return {(a.scope, a.column) for a in self.judge.alerts() if a.resolved is None}


def people(n: int, seed: int, version: Callable[[int], str] = lambda _: "1") -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    ages, regions = rng.integers(18, 70, n).tolist(), rng.choice(["north", "south", "east"], n).tolist()
    return [
        {"version": version(i), "inputs": {"age": ages[i], "region": regions[i], "income": float(income)}}
        for i, income in enumerate(rng.normal(50, 10, n).tolist())
    ]


def richer(
    rows: list[dict[str, object]], of: Callable[[dict[str, object]], bool], by: float
) -> list[dict[str, object]]:
    for row in rows:
        if of(row):
            row["inputs"]["income"] += by  # type: ignore[index]
    return rows


def test_a_change_of_one_slice_opens_an_alert_of_that_slice_alone_and_a_restart_changes_nothing() -> None:
    def young(row: dict[str, object]) -> bool:
        return row["inputs"]["age"] < 30  # type: ignore[index,no-any-return]

    told = []
    for restarts in (False, True):
        daemon = Daemon(SLICES)
        daemon.feed(people(1_000 + 10 * ROWS, 1))
        assert daemon.open == set()
        for part in count():
            daemon.feed(richer(people(5 * ROWS, 2 + part), young, 8.0))
            if restarts:
                daemon.restart()
            if daemon.open or part > 20:
                break
        told.append([notice.id for notice in daemon.notices])
        assert ("slice:young", "income") in daemon.open
        assert not [scope for scope, _ in daemon.open if scope != "slice:young"]
        [notice] = daemon.notices
        assert notice.alert.text.startswith("slice young: income moved")
        assert notice.document()["scope"] == "slice:young"
    assert told[0] == told[1]


def test_what_the_whole_model_shows_is_not_said_again_of_its_parts() -> None:
    daemon = Daemon(SLICES)
    daemon.feed(people(1_000 + 10 * ROWS, 1))
    daemon.feed(richer(people(40 * ROWS, 2), lambda _: True, 15.0))
    scopes = [notice.alert.scope for notice in daemon.notices if notice.alert.column == "income"]
    assert scopes
    assert not any(scopes)


def test_a_new_version_is_watched_beside_the_old_and_only_as_many_as_there_is_room_for() -> None:
    daemon = Daemon(SLICES)
    daemon.feed(people(1_000 + 10 * ROWS, 1))
    daemon.feed(people(10 * ROWS, 2, version=lambda i: str(1 + i % 3)))
    watched = {score.scope for score in daemon.judge.snapshot().models[0].scores}
    assert {scope for scope in watched if scope.startswith("version:")} == {"version:1", "version:2"}


def test_a_slice_of_which_the_reference_has_too_few_rows_is_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon("models: [{reference: {learn: 1000}, sampling: null, slices: {old: {column: age, at_least: 69}}}]")
    daemon.feed(people(1_000 + 5 * ROWS, 1))
    assert {score.scope for score in daemon.judge.snapshot().models[0].scores} == {""}
    assert "too few rows of slice:old" in caplog.text


def test_the_promise_is_shown_for_the_whole_model_beside_the_alarms_that_came() -> None:
    daemon = Daemon(SLICES)
    daemon.feed(people(1_000 + 10 * ROWS, 1))
    for calm in daemon.judge.snapshot().models[0].promises:
        assert (calm.unit, calm.length, calm.alarms) == ("seconds", EDetector().time, 0)
    daemon.feed(richer(people(20 * ROWS, 2), lambda _: True, 15.0))
    daemon.restart()
    after = daemon.judge.snapshot().models[0].promises
    windows = daemon.judge.snapshot().models[0].windows - 1_000 // ROWS
    # a version is watched from its first window on
    allowed = sum(promise.allowed for promise in after)
    assert allowed == pytest.approx(windows * 10.0 * (1 - 1 / 8) / EDetector().time, rel=0.02)
    assert next(promise.alarms for promise in after if promise.check == "evidence") >= 1
