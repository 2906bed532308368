"""Late labels meet their predictions: each once, by id, whenever they come and wherever the process dies."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from alerting.lifecycle import AlertOptions
from detectors.core import Batch, Role, category, from_columns, number
from detectors.reference import Reference, build_from
from detectors.registry import default_scorers
from monitor.config import Config
from monitor.decode import Own
from monitor.decode.columns import infer, to_batch
from monitor.event import Bad, Event, Label, Partition, Raw, Record
from monitor.exchange import Closed, Counted, from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.labels import Hour, LabelOptions, Outcomes
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import labelled, plans
from monitor.settings import read
from monitor.store import MemoryStore

START = 1_790_000_000.0
LANE = Partition("t", 0)
CONFIG = """
models: [{name: shelf, sampling: null, labels: {learn: 200}}]
window: {size: 10s, lateness: 1s}
"""


def predictions(ids: Sequence[str], time: float = START, answer: str = "a", confidence: float = 0.9) -> Batch:
    columns = {"label": category([answer] * len(ids)), "confidence": number([confidence] * len(ids))}
    return from_columns(columns, times=np.full(len(ids), time), ids=ids)


def labels(*ids: str, truth: Any = "a") -> list[Label]:
    return [Label(id=id_, time=START, label=truth) for id_ in ids]


def hold(outcomes: Outcomes, said: Sequence[Label], at: float) -> None:
    outcomes.hold(said, np.full(len(said), at))


def fresh(**options: Any) -> Outcomes:
    return Outcomes(LabelOptions(**options), lambda: None)


def test_a_label_gives_error_loss_and_lag_of_its_prediction() -> None:
    outcomes = fresh()
    outcomes.keep(predictions(["1", "2"]))
    hold(outcomes, [*labels("1"), *labels("2", truth="b")], START + 60)
    right, wrong = outcomes.join(START + 70, START)
    assert (right.id, right.time) == ("1", START + 60)
    assert right.extra == pytest.approx({"error": 0.0, "loss": -np.log(0.9), "lag": 60.0})
    assert wrong.extra == pytest.approx({"error": 1.0, "loss": -np.log(0.1), "lag": 60.0}, rel=1e-6)
    assert outcomes.take_counts() == {"joined": 2}


def test_a_label_is_joined_once_and_a_correction_changes_nothing_that_was_judged() -> None:
    outcomes = fresh()
    outcomes.keep(predictions(["1"]))
    hold(outcomes, [*labels("1", "1"), *labels("1", truth="b"), *labels("1", truth="b")], START)
    assert [event.extra["error"] for event in outcomes.join(START + 1, START)] == [0.0]
    assert outcomes.take_counts() == {"joined": 1, "repeated": 2, "corrected": 1}
    assert outcomes.take_hours() == {START // 3600: Hour(1, 1, 1)}, "by event time it is set right"
    assert outcomes.take_hours() == {}


def test_a_label_waits_for_its_prediction_and_not_for_ever() -> None:
    outcomes = fresh()
    hold(outcomes, labels("1", "never"), START)
    assert outcomes.join(START + 10, START) == []
    outcomes.keep(predictions(["1"], START + 5))
    (event,) = outcomes.join(START + 20, START + 10)
    assert (event.id, event.time) == ("1", START + 10), "in the first window that is open"
    outcomes.keep(predictions(["2"], START + 700))
    outcomes.join(START + 710, START)
    assert outcomes.take_counts() == {"joined": 1, "unknown": 1}


def test_of_more_predictions_than_are_kept_a_fair_share_is() -> None:
    outcomes = fresh(keep=500)
    ids = [f"event {i}" for i in range(10_000)]
    for i in range(0, len(ids), 500):
        outcomes.keep(predictions(ids[i : i + 500], START + i))
    hold(outcomes, labels(*ids[:400]), START)  # what waits is bounded, too
    hold(outcomes, labels(*ids[400:]), START)
    joined = len(outcomes.join(START + 1, START))
    counts = outcomes.take_counts()
    assert counts["lost"] == 9_500
    assert counts["thinned"] + joined == 500
    assert 10 <= joined <= 45  # 500 of 10,000 are kept, whichever half of the stream they are of
    assert len(outcomes.state().rows) == 500 * 52


def test_predictions_are_given_up_at_their_age() -> None:
    outcomes = fresh(expire=100.0)
    outcomes.keep(predictions(["1", "2"]))
    hold(outcomes, labels("1"), START)
    outcomes.join(START + 1, START)
    outcomes.keep(predictions(["3"], START + 101))
    assert outcomes.take_counts() == {"joined": 1, "expired": 1}
    assert len(outcomes.state().rows) == 52


def test_the_error_of_a_number_is_told_in_standard_deviations() -> None:
    rng = np.random.default_rng(1)
    rows = from_columns({"value": number(rng.normal(100, 20, 2_000))})
    reference = build_from("m", rows, {}, roles={}, source="test", created=0.0)
    outcomes = Outcomes(LabelOptions(), lambda: reference)
    outcomes.keep(from_columns({"value": number([100.0])}, times=[START], ids=["1"]))
    outcomes.hold([Label(id="1", time=START, value=130.0)], np.array([START]))
    (event,) = outcomes.join(START + 1, START)
    assert event.extra["loss"] == pytest.approx(1.5, abs=0.06)
    assert "error" not in event.extra


def test_labels_that_come_for_sure_answers_rank_high() -> None:
    rng = np.random.default_rng(1)
    ids = [str(i) for i in range(2_000)]
    confidence = rng.uniform(0.5, 1, len(ids))
    outcomes = fresh()
    columns = {"label": category(["a"] * len(ids)), "confidence": number(confidence)}
    outcomes.keep(from_columns(columns, times=np.full(len(ids), START), ids=ids))
    hold(outcomes, labels(*(id_ for id_, sure in zip(ids, confidence, strict=True) if sure > 0.75)), START)
    ranks = [event.extra["rank"] for event in outcomes.join(START + 1, START)]
    assert np.mean(ranks) == pytest.approx(0.75, abs=0.03)


# -- both stages


def answer(rng: random.Random, wrong: float, gain: float) -> tuple[dict[str, float], list[float], str]:
    """Inputs, scores and truth of a row; the model errs with its own doubt, and with `wrong` beside."""
    x = rng.gauss(gain, 1)
    p = 1 / (1 + np.exp(-2 * x))
    truth = "yes" if rng.random() < p else "no"
    if rng.random() < wrong:
        truth = {"yes": "no", "no": "yes"}[truth]
    return {"x": x, "y": rng.gauss(0, 1)}, [1 - p, p], truth


def stream(n: int, seed: int, late: int = 80, wrong_from: int = 1 << 30, moved_from: int = 1 << 30) -> list[Raw]:
    """Events half a second apart, each label `late` events after its own, one in ten doubled."""
    rng = random.Random(seed)
    said: list[dict[str, Any]] = []
    truths: list[str] = []
    for i in range(n):
        inputs, scores, truth = answer(rng, 0.35 if i >= wrong_from else 0.0, 1.5 if i >= moved_from else 0.0)
        truths.append(truth)
        outputs = {"label": "yes" if scores[1] > 0.5 else "no", "scores": scores}
        said.append({"id": f"e{i}", "model": "shelf", "time": START + i / 2, "inputs": inputs, "outputs": outputs})
        if i >= late:
            label = {"id": f"e{i - late}", "model": "shelf", "label": truths[i - late]}
            said += [label] * (2 if rng.random() < 0.1 else 1)
    return [Record(json.dumps(body).encode(), None, (), at, int(START * 1000)) for at, body in enumerate(said)]


@pytest.fixture(scope="module", name="reference")
def _reference() -> Reference:
    rng = random.Random(9)
    events = []
    for i in range(4_000):
        inputs, scores, truth = answer(rng, 0.0, 0.0)
        label = "yes" if scores[1] > 0.5 else "no"
        event = Event(id=f"r{i}", time=START - 4_000 + i, inputs=inputs, label=label, scores=scores)
        event.extra["truth"] = truth
        events.append(event)
    schema = infer(events)
    roles = {spec.name: spec.role for spec in schema}
    assert roles["truth"] is Role.TRUTH
    return build_from(
        "shelf", to_batch(events, schema), default_scorers(schema), roles=roles, source="test", created=START
    )


class Daemon:
    """Ingest and judge on a log and a store that outlive them, as on disk."""

    def __init__(self, reference: Reference, seed: int = 0) -> None:
        self.references = {"shelf": reference}
        self.exchange, self.store = MemoryLog(), MemoryStore()
        self.rng = random.Random(seed)
        self.windows: dict[str, dict[float, tuple[int, float]]] = {}
        self.start()

    def start(self) -> None:
        config = read(CONFIG, Config, {})
        models, self.meters = plans(config), Meters()
        self.ingest = Ingest(
            "s", decoder=Own().open(), models=models, labels=labelled(models), options=config.window,
            references=self.references.get, send=self.exchange.append, save=self.store.put, load=self.store.get,
            set_aside=self.refused, meters=self.meters,
        )  # fmt: skip
        self.judge = Judge(
            models, window=10.0, alerts=AlertOptions(), references=self.references.get, learned=self.learned,
            clock=lambda: 0.0, meters=self.meters,
        )  # fmt: skip
        data = self.store.get("judge")
        self.offset = 0 if data is None else int.from_bytes(data[:8], "big")
        if data is not None:
            self.judge.restore(data[8:])
        self.at = self.ingest.gain(LANE) or 0

    def refused(self, _partition: Partition, _record: Raw, bad: Bad) -> None:
        raise AssertionError(bad)

    def learned(self, reference: Reference) -> None:
        self.references[reference.model] = reference

    def save(self) -> None:
        self.ingest.checkpoint()
        self.store.put("judge", self.offset.to_bytes(8, "big") + self.judge.checkpoint())

    def judge_all(self) -> None:
        for offset, data in self.exchange.read(self.offset, max_items=1 << 20):
            self.judge.take(from_bytes(data), Effects())
            self.offset = offset + 1
            for view in self.judge.snapshot().models:
                means = {column.name: column.mean for column in view.columns}
                held = self.windows.setdefault(view.model, {})
                if view.window_rows:
                    held[view.window_start] = (view.window_rows, means.get("error", 0.0))

    def run(self, source: Sequence[Raw], *, crashes: float = 0.0) -> None:
        """Feeds everything in random polls; at each step dies with probability `crashes`, unsaved work lost."""
        while self.at < len(source):
            polled = source[self.at : self.at + self.rng.randint(1, 60)]
            self.ingest.take(LANE, polled)
            self.at += len(polled)
            self.judge_all()
            if self.rng.random() < 0.2:
                self.save()
            if self.rng.random() < crashes:
                self.start()
        self.ingest.tick(START + 1e6, {}, ended=True)
        self.judge_all()

    def said(self, model: str) -> dict[int, tuple[int, list[Counted]]]:
        """Rows and counts of each window of a model as ingest gave them; what it gave twice was the same."""
        found: dict[int, tuple[int, list[Counted]]] = {}
        for _, data in self.exchange.read(0, max_items=1 << 20):
            message = from_bytes(data)
            assert isinstance(message, Closed)
            for partial in message.partials if message.model == model else ():
                said = (partial.rows, partial.counts)
                assert found.setdefault(partial.window, said) == said
        return found

    def view(self, model: str) -> Any:
        return next(view for view in self.judge.snapshot().models if view.model == model)


def test_errors_are_watched_where_labels_come_and_nowhere_else(reference: Reference) -> None:
    daemon = Daemon(reference)
    daemon.run([record for record in stream(300, 1) if b'"inputs"' in (record.value or b"")])
    assert [view.model for view in daemon.judge.snapshot().models] == ["shelf"]
    daemon = Daemon(reference)
    daemon.run(stream(600, 1))
    assert daemon.view("shelf").events == 600
    assert daemon.view("shelf.labels").events == 520
    errors = daemon.windows["shelf.labels"]
    assert np.average([e for _, e in errors.values()], weights=[n for n, _ in errors.values()]) == pytest.approx(
        0.2, abs=0.06
    )
    view = {column.name: column for column in daemon.view("shelf.labels").columns}
    assert view["lag"].quantiles["0.5"] == pytest.approx(40, abs=1)
    assert (
        daemon.meters.value("driftd_label_outcomes_total")
        == 520 + daemon.meters.value("driftd_late_labels_total") - 520
    )


@pytest.fixture(scope="module", name="outcomes")
def _outcomes(reference: Reference) -> Reference:
    """What the labels' own reference is once it is learned."""
    daemon = Daemon(reference)
    daemon.run(stream(400, 5))
    return daemon.references["shelf.labels"]


@pytest.mark.parametrize("seed", range(3))
def test_a_run_with_crashes_joins_what_an_undisturbed_one_joins(
    reference: Reference, outcomes: Reference, seed: int
) -> None:
    source = stream(300, seed)
    calm, stormy = Daemon(reference, seed), Daemon(reference, seed + 100)
    for daemon, crashes in ((calm, 0.0), (stormy, 0.3)):
        daemon.references["shelf.labels"] = outcomes
        daemon.start()
        daemon.run(source, crashes=crashes)
        assert daemon.view("shelf.labels").events == 220
    assert calm.said("shelf.labels") == stormy.said("shelf.labels")
    hours = calm.view("shelf.labels").hours
    assert hours == stormy.view("shelf.labels").hours
    assert sum(hour.labelled for hour in hours) == 220
    assert sum(hour.rows for hour in hours) <= 300


def test_concept_drift_is_told_from_other_rows_and_makes_estimates_invalid(
    reference: Reference, outcomes: Reference
) -> None:
    daemon = Daemon(reference)
    daemon.references["shelf.labels"] = outcomes
    daemon.start()
    daemon.run(stream(2_000, 1, wrong_from=800))
    found = {alert.column: alert for alert in daemon.judge.alerts() if alert.model == "shelf.labels"}
    assert {"error", "surprise"} <= set(found)
    assert "concept drift" in found["error"].text
    assert "answers are right in" in found["surprise"].text
    estimates = daemon.view("shelf").estimates
    measures = {"accuracy", "precision", "recall", "f1", "roc_auc", "share_bbse", "share_em"}
    assert measures == {estimate.measure for estimate in estimates}
    assert all("fewer of the rows than their calibration says" in estimate.doubt for estimate in estimates)


def test_harder_rows_make_the_estimate_fall_or_rise_and_stay_valid(reference: Reference, outcomes: Reference) -> None:
    daemon = Daemon(reference)
    daemon.references["shelf.labels"] = outcomes
    daemon.start()
    daemon.run(stream(2_000, 2, moved_from=800))
    accuracy = next(e for e in daemon.view("shelf").estimates if e.measure == "accuracy")
    assert accuracy.reference < accuracy.low < accuracy.value
    assert accuracy.doubt == ""
    inputs = [alert for alert in daemon.judge.alerts() if alert.model == "shelf" and alert.column == "x"]
    assert inputs
    assert any("errors" in alert.text for alert in inputs)
