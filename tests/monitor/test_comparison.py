"""Two live versions: how they differ is counted, disagreements are labelled fairly, and the outcome is told."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from alerting.labeling.task import Draw as Drawn
from alerting.labeling.task import Labels, Named, Part, Returned
from alerting.lifecycle import AlertOptions
from detectors.compare import Outcome
from detectors.core import category, from_columns, number
from detectors.draw import Draw
from detectors.encode import decode, encode
from detectors.profile import Profile
from detectors.reference import Reference, build_from
from monitor.comparison import CHECK, CompareOptions, Comparison, State
from monitor.config import parse
from monitor.decode import Own
from monitor.decode.columns import infer, to_batch
from monitor.event import Event, Partition, Record
from monitor.exchange import Told, from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import plans
from monitor.scopes import Slice
from monitor.store import MemoryStore
from monitor.versions import OFFERED, Disagreement, Met

SHADOW = CompareOptions(stable="7", candidate="10", per_hour=60.0)
SPLIT = CompareOptions(stable="7", candidate="10", mode="canary")


def met(
    disagreements: int,
    compared: int = 100,
    start: int = 0,
    first: str = "10",
    second: str = "7",
    young: int = 0,
    among: int = 0,
) -> Met:
    """Of two versions in the order of their names: "10" comes before "7". `among` of the disagreements are of the
    slice `young`."""
    draw = Draw(OFFERED)
    rows = [
        Disagreement(f"e{start + i}", 1.0, i, "dog", "cat", [("weight", 1.0)], "", ["young"] * (i < among))
        for i in range(disagreements)
    ]
    ids = np.arange(start, start + disagreements, dtype=np.uint64)
    draw.update(ids, np.ones(disagreements), lambda which: [rows[i] for i in which])
    classes = {"dog": {"cat": disagreements}, "cat": {"cat": compared - disagreements}}
    return Met(
        first,
        second,
        compared,
        disagreements,
        classes,
        {"acme": (compared, disagreements)},
        draw,
        {"young": (young, among)},
    )


def returned(task: str, label: str, **more: Any) -> Returned:
    said: dict[str, Any] = {
        "task": task, "event": task, "time": 1.0, "model": "shelf", "version": "7", "part": Part.DISAGREEMENT,
        "strategy": "", "batch": "b", "pi": 0.5, "rank": 0, "answer": "cat", "confidence": None, "label": label,
        "at": 1.0, **more,
    }  # fmt: skip
    return Returned(**said)


def windows(comparison: Comparison, n: int, size: float = 60.0) -> Iterator[Drawn]:
    for i in range(n):
        drawn = comparison.take((i + 1) * size, size, {})
        if drawn is not None:
            yield drawn


def test_a_meeting_is_turned_so_that_the_stable_version_comes_first() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    comparison.take_met([met(20), met(5, first="10", second="9")])
    view = comparison.view
    assert (view.compared, view.churn) == (100, 0.2)
    assert view.moved == (("cat", "dog", 20),), "7 said cat, 10 says dog"
    assert view.customers == (("acme", 0.2),)
    assert view.outcome == Outcome.HOLD


def test_disagreements_are_asked_for_at_the_pace_that_is_allowed() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    asked = 0
    for hour in range(3):
        comparison.take_met([met(40, start=40 * hour)])
        for drawn in windows(comparison, 1, 600.0 * (hour + 1)):
            asked += len(drawn.tasks)
            assert drawn.batch.N >= len(drawn.tasks) == drawn.batch.n
    assert 20 <= asked <= 60


def test_a_task_shows_the_event_and_both_answers() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    comparison.take_met([met(10)])
    (drawn,) = windows(comparison, 1, 60.0)
    (task,) = drawn.tasks
    assert (task.select.part, task.select.monitoring) == (Part.DISAGREEMENT, False)
    assert task.select.pi == pytest.approx(0.1)
    assert task.prediction.label == "cat"
    assert [(other.version, other.label) for other in task.prediction.others] == [("10", "dog")]
    assert [(named.name, named.value) for named in task.inputs] == [("weight", 1.0)]


def labelled(comparison: Comparison, truth: str, labels: int) -> None:
    comparison.take_met([met(50, compared=250)])
    tasks = [task for drawn in windows(comparison, 1, 3600.0) for task in drawn.tasks]
    comparison.take_labels(returned(task.id, truth) for task in tasks[:labels])


@pytest.mark.parametrize(
    ("truth", "outcome"), [("dog", Outcome.PROMOTE), ("cat", Outcome.ROLL_BACK), ("fox", Outcome.HOLD)]
)
def test_labels_of_disagreements_decide(truth: str, outcome: Outcome) -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    labelled(comparison, truth, 4)
    assert comparison.view.outcome == Outcome.HOLD, "four labels are too few"
    labelled(comparison, truth, 20)
    assert comparison.view.outcome == outcome
    told = comparison.look(1e5)
    assert [symptom.facts["outcome"] for symptom in told] == ([] if outcome is Outcome.HOLD else [outcome.value])


def test_a_label_that_is_corrected_counts_as_it_is_now() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    labelled(comparison, "dog", 20)
    tasks = list(comparison.state.labels)
    comparison.take_labels(returned(task, "cat") for task in tasks)
    assert comparison.view.labels == 20
    assert comparison.view.outcome == Outcome.ROLL_BACK


def test_a_better_version_that_turns_many_answers_wrong_is_held() -> None:
    comparison = Comparison("shelf", "shelf", CompareOptions(stable="7", candidate="10", per_hour=200.0))
    for start in range(0, 150, 50):
        comparison.take_met([met(50, compared=100, start=start)])
    tasks = [task for drawn in windows(comparison, 1, 3600.0) for task in drawn.tasks]
    comparison.take_labels(returned(task.id, "dog" if i % 5 else "cat") for i, task in enumerate(tasks))
    view = comparison.view
    assert view.flips > 0.05
    assert (view.outcome, "turn wrong" in view.why) == (Outcome.HOLD, True)


PROTECTED = {"young": Slice("age", below=25.0)}


@pytest.mark.parametrize(
    ("among", "truth", "outcome", "why"),
    [
        (0, "cat", Outcome.PROMOTE, "better"),
        (12, "dog", Outcome.PROMOTE, "better"),
        (12, "cat", Outcome.HOLD, "slice young loses 2.0%"),
        (12, None, Outcome.HOLD, "slice young may lose 2.0%"),
    ],
)
def test_a_better_version_is_promoted_only_where_no_protected_slice_loses(
    among: int, truth: str | None, outcome: Outcome, why: str
) -> None:
    options = CompareOptions(stable="7", candidate="10", per_hour=500.0, flips=1.0, protected=("young",))
    comparison = Comparison("shelf", "shelf", options, PROTECTED)
    young = 16 if among else 1000
    comparison.take_met([met(50, compared=100 + young, young=young, among=among)])
    (drawn,) = windows(comparison, 1, 3600.0)
    theirs = {task.id for task in drawn.tasks if int(task.event.id[1:]) < among}
    comparison.take_labels(
        returned(task.id, said) for task in drawn.tasks if (said := truth if task.id in theirs else "dog") is not None
    )
    view = comparison.view
    assert (view.outcome, why in view.why) == (outcome, True), view.why
    assert [(s.name, s.compared, s.spared) for s in view.slices] == [("young", young, outcome is Outcome.PROMOTE)]


def test_a_protected_slice_without_events_holds() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW, PROTECTED)
    comparison.take_met([met(3, compared=10_000)])
    assert comparison.view.outcome == Outcome.HOLD


def test_labels_of_split_traffic_know_their_slices_by_what_the_labeler_was_shown() -> None:
    comparison = Comparison("shelf", "shelf", SPLIT, PROTECTED)

    def label(i: int) -> Returned:
        version, age = ("7", "10")[i % 2], (20.0, 40.0, None)[i % 3]
        shown = () if age is None else (Named("age", age),)
        wrong = version == "10" and age == 20.0
        truth = "dog" if wrong or (age == 40.0 and version == "7") else "cat"
        return returned(f"t{i}", truth, version=version, part=Part.PROBABILITY, pi=0.5, inputs=shown)

    comparison.take_labels(label(i) for i in range(1200))
    (young,) = comparison.view.slices
    assert (young.labels, young.spared) == (400, False)
    assert young.gap == pytest.approx(-1.0)


def test_versions_that_hardly_disagree_need_no_label_to_be_no_worse() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    comparison.take_met([met(3, compared=10_000)])
    assert comparison.view.outcome == Outcome.PROMOTE
    assert comparison.view.labels == 0


@pytest.mark.parametrize(
    ("better", "outcome"), [(0.25, Outcome.PROMOTE), (-0.25, Outcome.ROLL_BACK), (0.0, Outcome.HOLD)]
)
def test_split_traffic_is_told_by_the_labels_of_ordinary_sampling(better: float, outcome: Outcome) -> None:
    rng = random.Random(1)
    comparison = Comparison("shelf", "shelf", SPLIT)

    def label(i: int) -> Returned:
        version, chance = ("7", 0.7) if i % 2 else ("10", 0.7 + better)
        truth = "cat" if rng.random() < chance else "dog"
        return returned(f"t{i}", truth, version=version, part=Part.PROBABILITY, pi=rng.choice([0.1, 0.5]))

    comparison.take_labels(label(i) for i in range(1000))
    comparison.take_labels([returned("other", "cat", version="9", part=Part.PROBABILITY)])
    assert comparison.view.outcome == outcome
    assert comparison.view.labels == 1000
    assert not list(windows(comparison, 3)), "split traffic asks for no labels of its own"


def profile_of(reference: Reference, rows: int, latency: float, failing: float, rng: np.random.Generator) -> Profile:
    profile = Profile(reference.layout.valued)
    status = category(["500" if rng.random() < failing else "200" for _ in range(rows)])
    profile.update(from_columns({"latency": number(rng.gamma(4, latency / 4, rows)), "status": status}))
    return profile


@pytest.mark.parametrize(
    ("latency", "failing", "why"), [(0.1, 0.02, ""), (0.3, 0.02, "latency"), (0.1, 0.15, "answers fail")]
)
def test_a_guardrail_that_breaks_rolls_back_at_once(latency: float, failing: float, why: str) -> None:
    rng = np.random.default_rng(1)
    rows = from_columns({"latency": number(rng.gamma(4, 0.025, 5000)), "status": category(["200", "500"] * 2500)})
    reference = build_from("shelf", rows, {}, roles={}, source="test", created=0.0)
    comparison = Comparison("shelf", "shelf", SPLIT)
    for i in range(60):
        profiles = {
            "version:7": profile_of(reference, 200, 0.1, 0.02, rng),
            "version:10": profile_of(reference, 100, latency, failing, rng),
        }
        comparison.take(60.0 * (i + 1), 60.0, profiles)
    view = comparison.view
    assert (view.outcome == Outcome.ROLL_BACK) is bool(why)
    assert why in view.why


def test_a_restart_goes_on_and_other_versions_begin_anew() -> None:
    comparison = Comparison("shelf", "shelf", SHADOW)
    labelled(comparison, "dog", 20)
    saved = encode(comparison.state)
    again = Comparison("shelf", "shelf", SHADOW)
    again.resume(decode(saved, State))
    assert again.view == comparison.view
    other = Comparison("shelf", "shelf", CompareOptions(stable="10", candidate="11"))
    other.resume(decode(saved, State))
    assert other.view.compared == 0


# -- through both stages

START = 1_790_000_000.0
CONFIG = json.dumps(
    {
        "models": [
            {
                "name": "shelf", "labels": None, "checks": [{"detector": "missing"}],
                "compare": {"stable": "1", "candidate": "2", "per_hour": 3600},
            }
        ],
        "window": {"size": "10s", "lateness": "2s"},
    }
)  # fmt: skip


def shadowed(n: int, rng: random.Random) -> list[bytes]:
    """Each event answered by both versions; the candidate is right where they differ."""
    lines = []
    for i in range(n):
        truth, hard = rng.choice(["cat", "dog"]), rng.random() < 0.2
        wrong = "dog" if truth == "cat" else "cat"
        said = {"id": f"{truth}-{i}", "time": START + i, "model": "shelf", "inputs": {"weight": rng.gauss(0, 1)}}
        for version, answer in (("1", wrong if hard else truth), ("2", truth)):
            lines.append(json.dumps({**said, "version": version, "outputs": {"label": answer}}).encode())
    return lines


def test_disagreements_reach_the_labelers_and_their_labels_the_verdict() -> None:
    models, meters, exchange = plans(parse(CONFIG)), Meters(), MemoryLog()
    rng = random.Random(1)
    known = [
        Event(id=str(i), time=START, inputs={"weight": rng.gauss(0, 1)}, label=("cat", "dog")[i % 2], version="1")
        for i in range(500)
    ]
    schema = infer(known)
    reference = build_from(
        "shelf", to_batch(known, schema), models["shelf"].scorers(schema), roles={s.name: s.role for s in schema},
        source="test", created=0.0,
    )  # fmt: skip
    references = {"shelf": reference}
    judge = Judge(
        models, window=10.0, alerts=AlertOptions(), references=references.get, learned=lambda _: None,
        clock=lambda: 0.0, meters=meters,
    )  # fmt: skip
    store = MemoryStore()
    ingest = Ingest(
        "test", decoder=Own().open(), models=models, options=parse(CONFIG).window, references=references.get,
        send=exchange.append, save=store.put, load=store.get, set_aside=lambda *_: None, meters=meters,
    )  # fmt: skip
    lane = Partition("t", 0)
    ingest.gain(lane)
    notices, tasks = [], []
    lines = shadowed(2_000, rng)
    for at in range(0, len(lines), 200):
        some = enumerate(lines[at : at + 200], start=at)
        ingest.take(lane, [Record(line, offset=i, timestamp=int((START + i / 2) * 1000)) for i, line in some])
        effects = Effects()
        for offset, data in exchange.read(exchange.start, max_bytes=1 << 40):
            judge.take(from_bytes(data), effects)
            exchange.trim(offset + 1)
        new = [task for draw in effects.draws for task in draw.tasks if task.select.part is Part.DISAGREEMENT]
        labels = tuple(returned(task.id, task.event.id.split("-")[0]) for task in new)
        judge.take(Told(f"told-{at}", "shelf", Labels(labels)), effects)
        tasks += new
        notices += [notice for notice in effects.notices if notice.alert.check == CHECK]
    assert len({task.id for task in tasks}) == len(tasks) > 20
    assert all(task.inputs and task.prediction.label != task.prediction.others[0].label for task in tasks)
    assert [notice.transition.value for notice in notices] == ["opened"]
    assert notices[0].alert.text.startswith("Promote version 2, beside 1: it is better")
    (view,) = [model for model in judge.snapshot().models if model.model == "shelf"]
    assert view.renewal is not None
    compared = view.renewal.comparison
    assert compared is not None
    assert compared.churn == pytest.approx(0.2, abs=0.03)
    assert not math.isnan(compared.gap)
    assert compared.gap == pytest.approx(0.2, abs=0.05)
