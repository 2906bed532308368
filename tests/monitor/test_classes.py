"""What labelers are shown of an event, from its bytes to each labeling tool: classes by name, pictures, boxes."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from alerting.labeling.formats import FORMATS
from alerting.labeling.task import Asked, Box, LabelTask, Picture, asked
from alerting.lifecycle import AlertOptions
from detectors.core import ColumnSpec, Kind, Role
from detectors.reference import Reference
from monitor.classes import CHOICES, choices, named, schema_of
from monitor.config import Config, ModelOptions, ReferenceOptions
from monitor.decode import Auto
from monitor.event import Partition, Record
from monitor.exchange import from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.metrics import Meters
from monitor.plan import Plan, labelled, plans
from monitor.sampling import SamplingOptions
from monitor.training import Training
from monitor.windows import WindowOptions

START = 1_800_000_000.0
CLASSES = ("can", "jar", "box")
Outputs = Callable[[list[float]], dict[str, Any]]


def options(classes: tuple[str, ...] | None = None) -> ModelOptions:
    sampling = SamplingOptions(per_hour=3600, at_least=20, rows=60)
    return ModelOptions("shelf", ReferenceOptions(learn=100), classes=classes, sampling=sampling)


def by_place(scores: list[float]) -> dict[str, Any]:
    """As V1 and V2 answers are read."""
    return {"scores": scores, "label": scores.index(max(scores))}


def by_name(scores: list[float]) -> dict[str, Any]:
    return {"scores": dict(zip(CLASSES, scores, strict=True)), "label": CLASSES[scores.index(max(scores))]}


def word(scores: list[float]) -> dict[str, Any]:
    return {"scores": scores, "label": CLASSES[scores.index(max(scores))]}


def stream(outputs: Outputs, n: int = 400, **more: Any) -> list[dict[str, Any]]:
    rng = random.Random(n)
    found = []
    for i in range(n):
        drawn = [rng.expovariate(1.0) for _ in CLASSES]
        found.append({
            "id": f"e{i}", "time": START + i * 0.4, "model": "shelf", "inputs": {"weight": rng.gauss(10, 2)},
            "outputs": outputs([one / sum(drawn) for one in drawn]), **more,
        })  # fmt: skip
    return found


class Service:
    """The two stages over one lane, with a reference that is learned from the first events."""

    def __init__(self, model: ModelOptions, reference: Reference | None = None) -> None:
        models, meters = plans(Config(models=(model,))), Meters()
        self.references = {"shelf": reference}
        self.messages: list[bytes] = []
        self.ingest = Ingest(
            "s", decoder=Auto().open(), models=models, labels=labelled(models),
            options=WindowOptions(size=10.0, lateness=2.0), references=self.references.get, send=self.messages.extend,
            save=lambda _name, _data: None, load=lambda _name: None, meters=meters,
            set_aside=lambda _p, _r, bad: pytest.fail(str(bad)),
        )  # fmt: skip
        self.judge = Judge(
            models, window=10.0, alerts=AlertOptions(), references=self.references.get,
            learned=lambda found: self.references.update({found.model: found}), clock=lambda: 0.0, meters=meters,
        )  # fmt: skip
        self.ingest.gain(Partition("t", 0))

    def run(self, said: Sequence[dict[str, Any]]) -> list[LabelTask]:
        """The tasks that events and late labels lead to."""
        found: list[LabelTask] = []
        for start in range(0, len(said), 20):
            block = said[start : start + 20]
            self.ingest.take(
                Partition("t", 0),
                [
                    Record(json.dumps(one).encode(), None, (), start + i, int(one["time"] * 1000))
                    for i, one in enumerate(block)
                ],
            )
            found += self._judged()
        self.ingest.tick(START + 1e6, {}, ended=True)
        return found + self._judged()

    def _judged(self) -> list[LabelTask]:
        effects = Effects()
        for data in self.messages:
            self.judge.take(from_bytes(data), effects)
        self.messages.clear()
        self.ingest.look()
        return [task for draw in effects.draws for task in draw.tasks]


def shown(tasks: Sequence[LabelTask], *, prediction: bool = True) -> list[Asked]:
    assert tasks
    return [asked(task, prediction=prediction) for task in tasks]


@pytest.mark.parametrize(
    ("classes", "outputs", "offered"),
    [(CLASSES, by_place, CLASSES), (CLASSES, word, CLASSES), (None, by_name, tuple(sorted(CLASSES)))],
)
def test_labelers_choose_from_the_names_of_classes(
    classes: tuple[str, ...] | None, outputs: Outputs, offered: tuple[str, ...]
) -> None:
    tasks = Service(options(classes)).run(stream(outputs))
    for task in shown(tasks):
        assert task.classes == offered
        assert task.prediction is not None
        assert task.prediction.label in CLASSES
        assert {score.name for score in task.prediction.scores} == set(offered)
        best = max(task.prediction.scores, key=lambda score: score.value or 0.0)
        assert best.name == task.prediction.label
        line = FORMATS["prodigy"].item(task)
        assert [option["id"] for option in line["options"]] == list(offered)
        assert line["accept"] == [task.prediction.label]
        line = FORMATS["ground-truth"].item(task)
        assert offered[line["driftd-prelabel"]] == line["driftd-prelabel-metadata"]["class-name"]
        assert FORMATS["jsonl"].item(task)["classes"] == offered
    led, free = shown(tasks)[0], shown(tasks, prediction=False)[0]
    assert (free.prediction, free.classes) == (None, led.classes)  # who is not led chooses from the same


@pytest.mark.parametrize("outputs", [by_place, word])
def test_without_names_there_are_no_choices_and_no_numbers_for_names(outputs: Outputs) -> None:
    for task in shown(Service(options()).run(stream(outputs))):
        assert task.classes == ()
        assert task.prediction is not None
        assert {score.name for score in task.prediction.scores} == {""}
        line = FORMATS["prodigy"].item(task)
        assert "options" not in line
        assert line["label"] == str(task.prediction.label)
        assert line["meta"]["score"] == max(score.value or 0.0 for score in task.prediction.scores)
        assert "scores" not in FORMATS["jsonl"].item(task)["prediction"]


def test_a_late_label_that_is_a_place_means_the_class() -> None:
    events = stream(by_place)
    truths = [
        {"id": one["id"], "time": START + 170.0, "model": "shelf", "label": said}
        for one in events[200:240]
        for said in [one["outputs"]["label"] if int(one["id"][1:]) % 2 else CLASSES[one["outputs"]["label"]]]
    ]
    service = Service(options(CLASSES))
    service.run([*events, *truths])
    model = next(view for view in service.judge.snapshot().models if view.model == "shelf.labels")
    assert sum(hour.labelled for hour in model.hours) == 40
    assert {hour.error for hour in model.hours} == {0.0}


def test_a_reference_that_says_places_is_left_as_it_is_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    learned = Service(options())
    learned.run(stream(by_place))
    before = learned.references["shelf"]
    assert before is not None
    with caplog.at_level(logging.WARNING):
        tasks = Service(options(CLASSES), before).run(stream(by_place))
    assert "build another" in caplog.text
    assert {task.prediction.label for task in tasks} <= {"0", "1", "2"}
    assert {task.classes for task in tasks} == {()}


def test_a_reference_whose_answers_are_words_needs_no_other_one() -> None:
    learned = Service(options())
    learned.run(stream(word))
    before = learned.references["shelf"]
    assert before is not None
    tasks = Service(options(CLASSES), before).run(stream(word))
    assert {task.classes for task in tasks} == {CLASSES}
    assert before.version == learned.references["shelf"].version  # type: ignore[union-attr]


def test_a_reference_of_training_rows_knows_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one | {"extra": {"truth": 1}}) + "\n" for one in stream(by_place)))
    rows = Training(path, "shelf", CLASSES)
    scorers = Plan(options(CLASSES), 10.0).scorers(rows.schema)
    built = rows.reference(scorers, source="test", created=START, progress=lambda _: None)
    assert set(built.layout.words[built.layout.categories.index("label")]) == set(CLASSES)
    assert choices(built.schema) == CLASSES
    assert schema_of("shelf", built, CLASSES) == named(built.schema, CLASSES)


def test_a_list_too_long_to_look_through_is_not_offered() -> None:
    many = tuple(f"product {i}" for i in range(CHOICES + 1))
    label = (ColumnSpec("label", Kind.CATEGORY, Role.OUTPUT),)
    assert choices(named(label, many[:-1])) == many[:-1]
    assert choices(named(label, many)) == ()


BOXES = [
    {"name": "can", "left": 64, "top": 48, "width": 320, "height": 240, "score": 0.5},
    {"name": "jar", "left": 0, "top": 0, "width": 64.5, "height": 48},
]
PICTURE = {"uri": "s3://shelf/a.jpg", "picture": {"width": 640, "height": 480}}


def detected(_: list[float]) -> dict[str, Any]:
    return {"boxes": BOXES, "label": "can,jar"}


def test_boxes_and_the_size_of_the_picture_come_with_the_event_to_the_tools() -> None:
    tasks = shown(Service(options()).run(stream(detected, extra=PICTURE)))
    for task in tasks:
        assert (task.uri, task.picture) == ("s3://shelf/a.jpg", Picture(640, 480))
        assert task.prediction is not None
        assert task.prediction.boxes == (Box("can", 64, 48, 320, 240, 0.5), Box("jar", 0, 0, 64.5, 48))
        item = FORMATS["label-studio"].item(task)
        assert item["data"]["uri"] == "s3://shelf/a.jpg"
        first, second = (result["value"] for result in item["predictions"][0]["result"])
        assert (first["x"], first["y"], first["width"], first["height"]) == (10, 10, 50, 50)
        assert (first["rectanglelabels"], second["rectanglelabels"]) == (["can"], ["jar"])
        assert FORMATS["cvat"].item(task)["width"] == 640
        assert len(FORMATS["fiftyone"].item(task)["prediction_boxes"]["detections"]) == 2
        assert len(FORMATS["prodigy"].item(task)["spans"]) == 2


@pytest.mark.parametrize("boxes", ["can", [1], [{"name": "can"}], {"name": "can"}, [BOXES[0] | {"top": math.inf}]])
def test_what_are_no_boxes_is_not_shown(boxes: Any) -> None:
    events = stream(detected, extra=PICTURE)
    for one in events[300:]:
        one["outputs"] = {"boxes": boxes, "label": "can"}
    tasks = Service(options()).run(events)
    shown_late = [task for task in tasks if task.prediction.label == "can"]
    assert shown_late
    assert all(task.prediction.boxes == () for task in shown_late)
