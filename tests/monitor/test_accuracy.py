from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.alert import Symptom
from alerting.labeling.task import (
    Draw,
    EventRef,
    LabelBatch,
    LabelingStatus,
    Labels,
    LabelTask,
    ModelRef,
    Named,
    OtherAnswer,
    Prediction,
    Returned,
    Select,
    drawn_at,
)
from detectors import draw as sampling
from detectors.encode import decode, encode
from detectors.estimate import Estimate
from detectors.reference import Reference
from monitor.accuracy import CHECK, Accuracy, AccuracyOptions, State
from monitor.exchange import Told, to_bytes
from monitor.page import page
from monitor.scopes import Slice
from monitor.snapshot import ModelView, Snapshot
from tests.monitor.test_stages import START, Pair, records, reference, stream

__all__ = ["reference"]  # a fixture, by name

HOUR = 3600.0
OPTIONS = AccuracyOptions(span=HOUR, patience=6 * HOUR)


class Stream:
    """A model whose answers are right by chance; each hour a draw that favours the doubtful ones."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.truths: list[float] = []

    def hour(
        self, number: int, off: float = 0.0, n: int = 60, version: str = "1", strategy: str = "margin"
    ) -> tuple[Draw, list[Returned]]:
        """The draw of an hour, and the labels of it in the order of their ranks."""
        rng, rows = self.rng, 1500
        expected = rng.beta(6, 1.5, rows)
        right = rng.random(rows) < np.clip(expected - off, 0, 1)
        truth = np.where(rng.random(rows) < 0.3, "cat", "dog")
        answer = np.where(right, truth, np.where(truth == "cat", "dog", "cat"))
        self.truths.append(float(right.mean()))
        doubt = (1 - expected) ** 2
        size = 0.8 * doubt / doubt.mean() + 0.2
        draw = sampling.Draw(n)
        draw.update(rng.integers(0, 2**63, rows, dtype=np.uint64), size, list)
        some = draw.rows[:n]
        end = (number + 0.5) * HOUR
        tasks, returned = [], []
        for rank, (i, pi) in enumerate(zip(some, draw.inclusion().tolist(), strict=True)):
            name = f"{number}-{rank}"
            select = Select(
                part="probability", strategy=strategy, batch=str(number), pi=pi, size=float(size[i]), rank=rank,
                key=float(draw.keys[rank]), expected=float(expected[i]), monitoring=strategy != "top_k",
            )  # fmt: skip
            tasks.append(
                LabelTask(
                    id=name, dataset="m", date=drawn_at(end), event=EventRef(name), model=ModelRef("m", version),
                    prediction=Prediction(str(answer[i])), select=select, reason="drawn",
                )
            )  # fmt: skip
            returned.append(
                Returned(
                    task=name, event=name, time=end, model="m", version=version, part="probability", strategy=strategy,
                    batch=str(number), pi=pi, rank=rank, answer=str(answer[i]), confidence=None, label=str(truth[i]),
                    at=end, inputs=(Named("aisle", int(i) % 3),), others=(OtherAnswer("2", str(truth[i])),), rev=1,
                )
            )  # fmt: skip
        sums: dict[str, float | None] = {
            "n": float(rows),
            "expected": float(expected.sum()),
            "confidence": float(expected.sum()),
        }
        batch = LabelBatch(
            id=str(number), model=ModelRef("m"), N=rows, n=n, tau=draw.threshold, sums=sums, start=end - 60, end=end
        )
        return Draw(batch, tuple(tasks)), returned


def run(
    accuracy: Accuracy, stream: Stream, hours: range, off: float = 0.0, n: int = 60, lost: float = 0.0
) -> list[Symptom]:
    found: list[Symptom] = []
    for number in hours:
        draw, returned = stream.hour(number, off, n)
        accuracy.drawn(draw)
        accuracy.take(returned[: round(n * (1 - lost))])
        accuracy.pass_time((number + 1) * HOUR)
        found += accuracy.look((number + 1) * HOUR, []) or []
    return found


def interval(found: Estimate | None) -> Estimate:
    assert found is not None
    return found


def test_the_accuracy_of_a_span_and_the_tracked_one_are_near_the_truth() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    run(accuracy, stream, range(12), off=0.08)
    view = accuracy.view
    assert view.measure == "accuracy"
    labels, tracked = interval(view.labels), interval(view.tracked)
    truth = stream.truths[-1]
    assert abs(labels.value - truth) < 0.1
    assert abs(tracked.value - truth) < 0.05
    assert tracked.high - tracked.low < labels.high - labels.low
    assert view.cbpe - truth > 0.05
    assert labels.labels == 60


def test_classes_slices_and_other_versions_are_told_from_the_same_labels() -> None:
    accuracy = Accuracy("m", OPTIONS, {"first": Slice("aisle", equals=0)})
    run(accuracy, Stream(), range(8))
    measures = {(m.name, m.of): m.estimate for m in accuracy.view.measures}
    by_class = {(m, c) for m in ("precision", "recall", "f1") for c in ("cat", "dog")}
    assert set(measures) == by_class | {("accuracy", "version:2"), ("accuracy", "slice:first")}
    assert measures["accuracy", "version:2"].value == 1.0
    assert measures["accuracy", "version:2"].low < 1.0
    assert 130 < measures["accuracy", "slice:first"].labels < 190
    assert 0.6 < measures["recall", "cat"].low < measures["recall", "cat"].value < measures["recall", "cat"].high < 0.95
    assert sum(share for _, _, share in accuracy.view.confusion) == pytest.approx(1.0)


def test_labels_before_their_span_is_settled_are_shown_and_count_once() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    draw, returned = stream.hour(0)
    accuracy.drawn(draw)
    assert accuracy.view.labels is None
    accuracy.take(returned[:20])
    assert interval(accuracy.view.labels).labels == 20
    accuracy.pass_time(HOUR)
    assert accuracy.look(HOUR, []) is None
    accuracy.take(returned)
    accuracy.take(returned)
    assert interval(accuracy.view.labels).labels == 60
    assert accuracy.view.returned == 60
    accuracy.pass_time(HOUR)
    assert accuracy.look(HOUR, []) == []


def test_a_corrected_label_replaces_the_first_one_only_with_a_higher_revision() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    draw, returned = stream.hour(0)
    accuracy.drawn(draw)
    accuracy.take(returned)
    before = interval(accuracy.view.labels).value
    wrong = [replace(r, label="bird") for r in returned]
    accuracy.take(wrong)
    assert interval(accuracy.view.labels).value == before
    accuracy.take([replace(r, rev=2) for r in wrong])
    assert interval(accuracy.view.labels).value == 0.0


def test_a_span_is_settled_without_the_labels_that_never_come() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    draw, returned = stream.hour(0)
    accuracy.drawn(draw)
    accuracy.take(returned[:24])
    accuracy.pass_time(6.9 * HOUR)
    assert accuracy.look(7 * HOUR, []) is None
    accuracy.pass_time(7 * HOUR)
    assert accuracy.look(7 * HOUR, []) == []
    accuracy.take(returned)
    assert accuracy.view.late == 36
    assert interval(accuracy.view.labels).labels == 24


def test_rows_in_reserve_are_not_waited_for_and_count_when_they_were_asked_for() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    draw, returned = stream.hour(0)
    tasks = [
        replace(task, labeling_status=LabelingStatus.IN_RESERVE) if rank >= 20 else task
        for rank, task in enumerate(draw.tasks)
    ]
    accuracy.drawn(Draw(replace(draw.batch, n=20, reserve=40, tau=tasks[20].select.key), tuple(tasks)))
    accuracy.take(returned[:30])
    released = interval(accuracy.view.labels)
    assert released.labels == 30
    assert released.low < stream.truths[0] < released.high
    accuracy.take(returned)
    assert interval(accuracy.view.labels).labels == 59  # nobody knows the key that follows the last
    accuracy.pass_time(HOUR)
    assert accuracy.look(HOUR, []) == []


def test_with_three_fifths_of_the_labels_lost_the_estimate_stays_unbiased() -> None:
    errors = []
    for seed in range(120):
        stream, accuracy = Stream(seed), Accuracy("m", OPTIONS)
        run(accuracy, stream, range(1), off=0.1, lost=0.6)
        errors.append(interval(accuracy.view.labels).value - stream.truths[-1])
    assert abs(np.mean(errors)) < 3.3 * np.std(errors) / np.sqrt(120)


def test_labels_that_came_by_score_are_refused_and_said_so() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    draw, returned = stream.hour(0, n=100)
    accuracy.drawn(draw)
    size = {task.id: task.select.size or 0.0 for task in draw.tasks}
    accuracy.take(sorted(returned, key=lambda r: -size[r.task])[:40])
    assert accuracy.view.labels is None
    assert "by rank" in accuracy.view.refused


def test_labels_of_a_plain_top_k_give_no_estimate() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    draw, returned = stream.hour(0, strategy="top_k")
    accuracy.drawn(draw)
    accuracy.take(returned)
    assert accuracy.view.labels is None
    assert accuracy.view.unknown == 60


def test_errors_of_numbers_are_told_in_their_own_unit() -> None:
    rng = np.random.default_rng(3)
    accuracy = Accuracy("m", OPTIONS)
    for number in range(5):
        draw, returned = Stream(number).hour(number)
        numbers = rng.normal(100.0, 10.0, 60)
        tasks = tuple(
            replace(task, prediction=Prediction(float(x))) for task, x in zip(draw.tasks, numbers, strict=True)
        )
        accuracy.drawn(Draw(draw.batch, tasks))
        accuracy.take(
            [replace(r, label=float(x + e)) for r, x, e in zip(returned, numbers, rng.normal(0, 5.0, 60), strict=True)]
        )
        accuracy.pass_time((number + 1) * HOUR)
    view = accuracy.view
    assert view.measure == "mae"
    assert interval(view.tracked).value == pytest.approx(5.0 * np.sqrt(2 / np.pi), rel=0.2)
    rmse = next(m.estimate for m in view.measures if m.name == "rmse")
    assert rmse.low < 5.0 < rmse.high
    assert accuracy.drop() is None


def test_a_fall_is_found_and_called_concept_drift_where_no_input_moved() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    assert run(accuracy, stream, range(20)) == []
    found = run(accuracy, stream, range(20, 30), off=0.25)
    assert {symptom.check for symptom in found} == {CHECK}
    whole = next(symptom for symptom in found if not symptom.column)
    assert "the accuracy by labels fell from" in whole.text
    assert "concept drift" in whole.text
    drop = accuracy.drop()
    assert drop is not None
    assert 0.15 < drop.reference - drop.now < 0.35


def test_a_new_version_has_its_own_first_accuracy() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    run(accuracy, stream, range(5))
    assert accuracy.drop() is not None
    draw, returned = stream.hour(5, version="2")
    accuracy.drawn(draw)
    accuracy.take(returned)
    accuracy.pass_time(6 * HOUR)
    assert accuracy.drop() is None
    assert accuracy.view.version == "2"


def test_the_drop_bears_the_error_of_the_newest_estimate_alone() -> None:
    accuracy = Accuracy("m", OPTIONS)
    run(accuracy, Stream(), range(8))
    drop, tracked = accuracy.drop(), interval(accuracy.view.tracked)
    assert drop is not None
    assert (drop.now, drop.error) == (tracked.value, tracked.error)


def test_what_another_reference_expects_is_not_taken_for_what_the_one_before_did(reference: Reference) -> None:
    """Answers that were all expected to be 30 points better than they are; then the reference is another one."""
    widths = []
    for following in (reference, replace(reference, fitted={})):
        stream, accuracy = Stream(), Accuracy("m", OPTIONS)
        accuracy.judge_by(reference)
        run(accuracy, stream, range(10), off=0.3)
        accuracy.judge_by(following)
        accuracy.state = decode(encode(accuracy.state), State)  # and a restart
        accuracy.drawn(stream.hour(10)[0])
        tracked = interval(accuracy.view.tracked)
        widths.append(tracked.high - tracked.low)
        if following is not reference:
            assert tracked.low < stream.truths[-1] < tracked.high
    assert widths[1] > 1.5 * widths[0]


def test_calm_hours_raise_at_most_the_false_alarms_that_are_promised() -> None:
    """Promise 50 spans, 10 streams of 25: at most 5 alarms are expected, and 9 were two standard deviations more."""
    options = AccuracyOptions(span=HOUR, promise=50.0)
    alarms = 0
    for seed in range(10):
        alarms += bool(run(Accuracy("m", options), Stream(seed), range(25), off=0.05, n=20))
    assert alarms <= 9


def test_a_slice_that_fails_is_found_from_spans_of_few_labels() -> None:
    stream, accuracy = Stream(), Accuracy("m", OPTIONS)
    for number in range(16):
        draw, returned = stream.hour(number, n=40)
        accuracy.drawn(draw)
        turned = [
            replace(r, label="bird") if r.inputs[0].value == 2 and stream.rng.random() < 0.5 else r for r in returned
        ]
        accuracy.take(turned)
        accuracy.pass_time((number + 1) * HOUR)
    assert [one.conditions for one in accuracy.view.failing] == [("aisle = 2",)]
    assert "aisle = 2" in accuracy.fell()
    shown: list[list[tuple[str, str | float | bool]]] = [[("aisle", 2)], [("aisle", 1)], [("other", "x" * 400)]]
    (within, *others), most = accuracy.lift(shown, 2.0)
    assert within == most > 1.3 * others[0]
    assert others[0] == others[1]


def test_the_page_tells_the_interval_and_what_is_blind() -> None:
    accuracy = Accuracy("m", OPTIONS)
    run(accuracy, Stream(), range(3), n=20)
    shown = page(Snapshot((ModelView(model="m", labelled=accuracy.view),)), (), {})
    tracked = interval(accuracy.view.tracked)
    assert f"{tracked.low:.1%} to {tracked.high:.1%}" in shown
    assert "blind to concept drift" in shown
    assert "recall of cat" in shown


def test_what_is_held_is_bounded() -> None:
    accuracy = Accuracy("m", AccuracyOptions(span=HOUR))
    stream = Stream()
    for number in range(80):
        accuracy.drawn(stream.hour(number, n=60)[0])
    assert accuracy.view.asked <= 4_000


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.randoms(use_true_random=False), st.integers(1, 3))
def test_labels_in_any_order_and_any_crash_come_to_the_same(seed: int, order: object, cut: int) -> None:
    calm, shaken = Accuracy("m", OPTIONS), Accuracy("m", OPTIONS)
    a, b = Stream(seed), Stream(seed)
    for number in range(4):
        draw, returned = a.hour(number, n=20)
        calm.drawn(draw)
        calm.take(returned)
        calm.pass_time((number + 1) * HOUR)
        draw, returned = b.hour(number, n=20)
        shaken.drawn(draw)
        mixed = list(returned)
        order.shuffle(mixed)  # type: ignore[attr-defined]
        shaken.take(mixed[: cut * 5])
        again = Accuracy("m", OPTIONS)
        again.state = decode(encode(shaken.state), State)
        shaken = again
        shaken.take(mixed)
        shaken.pass_time((number + 1) * HOUR)
    assert encode(calm.view) == encode(shaken.view)


def test_labels_told_to_the_judge_give_its_estimate_and_survive_a_restart(reference: Reference) -> None:
    """Of the rows' answers a and b, half each, a is said to be the truth of all."""
    pair = Pair(reference, 2)
    pair.run(records(stream(900, 3), 2))
    tasks = sorted(pair.tasks)
    assert len(tasks) > 100

    def told(name: str, some: list[str]) -> None:
        returned = tuple(
            Returned(
                task=task, event=task, time=START, model="shelf", version="", part="", strategy="", batch="", pi=None,
                rank=0, answer=None, confidence=None, label="a", at=START, rev=1,
            )
            for task in some
        )  # fmt: skip
        pair.exchange.append([to_bytes(Told(name, "shelf", Labels(returned)))])
        pair.judge_all()

    half = len(tasks) // 2
    told("first", tasks[:half])
    pair.save()
    told("second", tasks[half:])
    told("second", tasks[half:])
    calm = pair.judge.snapshot().models[0].labelled
    assert calm is not None
    assert calm.returned == len(tasks)
    found = interval(calm.labels)
    assert abs(found.value - 0.5) < 4 * found.error < 0.3
    pair.start()
    while pair.offset < pair.exchange.end:
        pair.judge_all()
    assert encode(pair.judge.snapshot().models[0].labelled) == encode(calm)
