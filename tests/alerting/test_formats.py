"""Every format of the table: what goes out is what its tool takes, what its tool gives back becomes replies."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.labeling.formats import FORMATS, Fault, Reply, Unfit
from alerting.labeling.task import (
    Asked,
    Box,
    ClassScore,
    EventRef,
    LabelTask,
    ModelRef,
    Named,
    Picture,
    Prediction,
    Select,
    asked,
)
from tests.alerting.labelers import AT, LABELERS, as_lines, lines_of, zipped

SCORES = (ClassScore("can", 0.6), ClassScore("jar", 0.3), ClassScore("box", 0.1))


def item(n: int, **changes: Any) -> Asked:
    made = Asked(
        task=f"{n:032x}", dataset="shelf", event=f"e{n}", model="shelf", version="3",
        inputs=(Named("weight", n / 7), Named("text", f"seen on shelf {n}")), uri=f"s3://shelf/in/a b{n}.jpg",
        picture=Picture(640, 480), date=datetime(2026, 11, 22, tzinfo=UTC), prediction=Prediction("can", SCORES, 0.3),
    )  # fmt: skip
    return replace(made, **changes)


def replies(name: str, data: bytes) -> list[Reply]:
    found = list(FORMATS[name].read(data))
    assert not [each for each in found if isinstance(each, Fault)]
    return [each for each in found if isinstance(each, Reply)]


def test_every_format_has_a_labeler_here() -> None:
    assert set(LABELERS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_what_labelers_say_comes_back_to_the_task_it_is_of(name: str) -> None:
    rng = random.Random(name)
    tasks = [item(n) for n in range(300)]
    labels = {task.task: rng.choice(["can", "jar", 'a "box" & <more>']) for task in tasks}

    back = replies(name, LABELERS[name](FORMATS[name].write(tasks), labels))

    assert {reply.task: reply.value for reply in back} == labels
    assert len({(reply.task, reply.key) for reply in back}) == len(back) == 300
    again = replies(name, LABELERS[name](FORMATS[name].write(tasks), labels))
    assert again == back  # keys and times too: a second reading is the same replies


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "cvat"])
def test_what_went_out_and_was_not_labeled_is_no_reply(name: str) -> None:
    assert replies(name, FORMATS[name].write([item(1), item(2)])) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_known_item_looks_like_any_other(name: str) -> None:
    plain = LabelTask(
        id="a" * 32, dataset="shelf", date=datetime(2026, 11, 22, tzinfo=UTC), event=EventRef("e1"),
        model=ModelRef("shelf", "3"), prediction=Prediction("can", SCORES, 0.3), reason="drawn",
        select=Select("probability", "margin", "b1", 0.2), uri="s3://shelf/in/1.jpg", picture=Picture(64, 48),
    )  # fmt: skip
    known = replace(
        plain, known=True, truth="jar", reason="known", causes=("canary",), priority=9.0, event=EventRef("canary-7"),
        select=Select("known", "known", "", None),
    )  # fmt: skip

    assert [FORMATS[name].write([asked(task, prediction=True)]) for task in (plain, known)] == [
        FORMATS[name].write([asked(plain, prediction=True)])
    ] * 2


@pytest.mark.parametrize("name", FORMATS)
def test_labelers_who_are_not_to_be_led_see_no_prediction(name: str) -> None:
    hidden = FORMATS[name].write([item(1, prediction=None)])

    assert b"prelabel" not in hidden
    assert b"predict" not in hidden
    assert b'"can"' not in hidden


@pytest.mark.parametrize("name", ["cvat", "fiftyone"])
def test_a_format_of_pictures_refuses_a_task_without_one(name: str) -> None:
    with pytest.raises(Unfit, match=item(1).task):
        FORMATS[name].write([item(1, uri="", picture=None)])


def _boxes() -> st.SearchStrategy[tuple[Box, ...]]:
    side = st.integers(1, 200).map(float)
    box = st.builds(Box, st.sampled_from(["can", "jar"]), st.integers(0, 400).map(float),
                    st.integers(0, 250).map(float), side, side)  # fmt: skip
    return st.lists(box, min_size=1, max_size=4).map(tuple)


def _accepted(name: str, data: bytes) -> bytes:
    """Boxes that the model gave, accepted by a labeler as they are."""
    if name == "jsonl":
        return as_lines([
            {"driftd_id": each["driftd_id"], "boxes": each["prediction"]["boxes"]} for each in lines_of(data)
        ])  # fmt: skip
    if name == "label-studio":
        tasks = json.loads(data)
        return json.dumps([
            {"data": each["data"], "annotations": [{"id": n, "result": each["predictions"][0]["result"]}]}
            for n, each in enumerate(tasks)
        ]).encode()  # fmt: skip
    if name == "ground-truth":
        return data.replace(b'"human-annotated":"no"', b'"human-annotated":"yes"')
    if name == "prodigy":
        return as_lines([each | {"answer": "accept", "accept": []} for each in lines_of(data)])
    dataset = json.loads(data)
    for sample in dataset["samples"]:
        sample["ground_truth"] = sample.pop("prediction_boxes")
    return json.dumps(dataset).encode()


@pytest.mark.parametrize("name", ["jsonl", "label-studio", "ground-truth", "prodigy", "fiftyone"])
@given(boxes=_boxes())
def test_boxes_come_back_in_pixels_whatever_the_tool_measures_in(name: str, boxes: tuple[Box, ...]) -> None:
    task = item(1, prediction=Prediction("can", boxes=boxes))

    (reply,) = replies(name, _accepted(name, FORMATS[name].write([task])))

    assert reply.value == ",".join(sorted({box.name for box in boxes}))
    assert [box.name for box in reply.boxes] == [box.name for box in boxes]
    for got, sent in zip(reply.boxes, boxes, strict=True):
        assert (got.left, got.top, got.width, got.height) == pytest.approx(
            (sent.left, sent.top, sent.width, sent.height)
        )


@given(boxes=_boxes())
def test_boxes_uploaded_to_cvat_come_back_in_pixels(boxes: tuple[Box, ...]) -> None:
    from alerting.labeling.formats.cvat import prelabels

    task = item(1, uri=f"s3://shelf/{1:032x}.png", prediction=Prediction("can", boxes=boxes))

    (reply,) = replies("cvat", prelabels([task]))  # without a manifest: the picture has the task's name

    assert reply.task == task.task
    assert reply.boxes == boxes


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from([
                "driftd_id", "label", "data", "meta", "annotations", "result", "type", "value", "choices", "answer",
                "accept", "samples", "ground_truth", "x-metadata", "x", "boxes", "spans", "annotation_id", "id",
            ]), inner, max_size=4,
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
))  # fmt: skip
def test_nothing_that_comes_in_stops_the_reading(name: str, data: bytes) -> None:
    for each in FORMATS[name].read(data):
        assert isinstance(each, Reply | Fault)


@pytest.mark.parametrize("name", ["jsonl", "label-studio", "ground-truth", "prodigy", "doccano", "fiftyone"])
def test_one_bad_part_is_told_and_the_rest_is_read(name: str) -> None:
    tasks = [item(n) for n in range(3)]
    good = LABELERS[name](FORMATS[name].write(tasks), {task.task: "jar" for task in tasks})
    bad = good.replace(f'"driftd_id": "{tasks[1].task}"'.encode(), b'"driftd_id": 7')

    found = list(FORMATS[name].read(bad))

    assert [each.task for each in found if isinstance(each, Reply)] == [tasks[0].task, tasks[2].task]
    assert len([each for each in found if isinstance(each, Fault)]) == 1


def test_label_studio_says_percent_and_only_what_its_interface_can_show() -> None:
    task = item(1, prediction=Prediction("can", SCORES, boxes=(Box("can", 64, 48, 320, 240, 0.5),)))

    (sent,) = json.loads(FORMATS["label-studio"].write([task]))

    assert sent["data"]["driftd_id"] == sent["meta"]["driftd_id"] == task.task
    assert sent["data"]["inputs"] == {"weight": 1 / 7, "text": "seen on shelf 1"}
    assert sent["data"]["text"] == "seen on shelf 1"
    assert [part["type"] for part in sent["predictions"][0]["result"]] == ["rectanglelabels"]
    assert sent["predictions"][0]["result"][0]["value"] == {
        "x": 10.0, "y": 10.0, "width": 50.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["can"],
    }  # fmt: skip
    assert (sent["predictions"][0]["model_version"], sent["predictions"][0]["score"]) == ("3", 0.6)


def test_label_studio_tells_who_when_how_long_and_who_could_not() -> None:
    said = [
        {"id": 1, "data": {"driftd_id": "q1"}, "annotations": [
            {"id": 7, "completed_by": {"id": 2, "email": "ada@b.co"}, "was_cancelled": True, "result": [],
             "created_at": AT, "updated_at": AT},
            {"id": 8, "completed_by": 3, "result": [{"type": "number", "value": {"number": 0}}],
             "created_at": "2026-11-22T09:00:00Z", "updated_at": AT, "lead_time": 4.0},
        ]},
        {"id": 2, "data": {}, "meta": {"driftd_id": "q2"}, "annotations": [
            {"id": 9, "result": [{"type": "choices", "value": {"choices": ["jar", "can"]}}]},
            {"id": 10, "result": []},
        ]},
    ]  # fmt: skip

    found = list(FORMATS["label-studio"].read(json.dumps(said).encode()))

    at = 1795341600.0
    assert found[:3] == [
        Reply(task="q1", skipped=True, by="ada@b.co", at=at, annotation="7"),
        Reply(task="q1", value=0, by="3", at=at, seconds=4.0, annotation="8"),
        Reply(task="q2", value="can,jar", annotation="9"),
    ]
    assert isinstance(found[3], Fault)


def test_label_studio_flat_export() -> None:
    flat = [
        {"driftd_id": "q0", "id": 1, "label": "can", "annotator": 1, "annotation_id": 5, "created_at": AT,
         "updated_at": AT, "lead_time": 2.5},
        {"driftd_id": "q1", "id": 2, "annotator": None, "annotation_id": None, "created_at": None,
         "updated_at": None, "lead_time": None},
        {"driftd_id": "q2", "id": 3, "label": {"choices": ["b", "a"]}, "annotator": 1, "annotation_id": 6},
        {"driftd_id": "q3", "id": 4, "label": 2.5, "annotator": 1, "annotation_id": 7},
        {"driftd_id": "q4", "id": 5, "annotator": 1, "annotation_id": 8, "boxes": [
            {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["can"],
             "original_width": 640, "original_height": 480},
        ]},
    ]  # fmt: skip

    found = replies("label-studio", json.dumps(flat).encode())

    assert [(reply.task, reply.value) for reply in found] == [("q0", "can"), ("q2", "a,b"), ("q3", 2.5), ("q4", "can")]
    assert found[3].boxes == (Box("can", 64, 48, 320, 240),)


@pytest.mark.parametrize(("answer", "value", "skipped"), [
    ("accept", "can", False), ("reject", None, True), ("ignore", None, True),
])  # fmt: skip
def test_prodigy_only_accepted_answers_say_what_it_is(answer: str, value: str | None, skipped: bool) -> None:
    line = {"text": "t", "meta": {"driftd_id": "q1"}, "label": "can", "answer": answer}

    assert [(r.value, r.skipped) for r in replies("prodigy", json.dumps(line).encode())] == [(value, skipped)]


def test_ground_truth_labels_by_machine_are_passed_over() -> None:
    line = json.loads(FORMATS["ground-truth"].write([item(1)]))
    machine = {"class-name": "jar", "human-annotated": "no"}

    assert replies("ground-truth", json.dumps(line | {"j": 1, "j-metadata": machine}).encode()) == []


def test_doccano_spans_and_texts() -> None:
    lines: list[dict[str, Any]] = [
        {"driftd_id": "q1", "text": "t", "label": [[0, 5, "PER"], [6, 9, "LOC"]]},
        {"driftd_id": "q2", "text": "t", "label": ["a summary"], "username": "ada"},
        {"driftd_id": "q3", "text": "t", "label": []},
    ]

    found = replies("doccano", as_lines(lines))

    assert [(reply.task, reply.value, reply.by) for reply in found] == [
        ("q1", "LOC,PER", ""), ("q2", "a summary", "ada"),
    ]  # fmt: skip


def test_cvat_reads_no_document_type_and_unpacks_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    from alerting.labeling.formats import cvat

    laughs = b'<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>'
    (fault,) = FORMATS["cvat"].read(laughs)
    assert isinstance(fault, Fault)
    assert "document type" in fault.why

    monkeypatch.setattr(cvat, "LARGEST", 1 << 20)
    (fault,) = FORMATS["cvat"].read(zipped(b" " * (2 << 20)))
    assert isinstance(fault, Fault)
    assert "more than" in fault.why


def test_cvat_manifest_is_as_its_validator_wants_it() -> None:
    assert FORMATS["cvat"].write([item(1)]).decode().splitlines() == [
        '{"version":"1.0"}',
        '{"type":"images"}',
        '{"name":"in/a b1","extension":".jpg","width":640,"height":480,"meta":{"driftd_id":"' + item(1).task + '"}}',
    ]
