"""Labelers at their tools: what each tool makes of a file of ours once it is labeled, in the tool's own way."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

AT = "2026-11-22T10:00:00.000000Z"

Labels = Mapping[str, str]  # task -> class


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def as_lines(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def plain(data: bytes, labels: Labels) -> bytes:
    return as_lines([
        {"driftd_id": line["driftd_id"], "label": labels[line["driftd_id"]], "by": "ada", "at": AT, "seconds": 3}
        for line in lines_of(data)
    ])  # fmt: skip


def label_studio(data: bytes, labels: Labels) -> bytes:
    return json.dumps([
        {
            "id": n, "data": task["data"], "meta": task["meta"], "predictions": [n], "total_annotations": 1,
            "annotations": [{
                "id": 1000 + n, "completed_by": 1, "was_cancelled": False, "created_at": AT, "updated_at": AT,
                "lead_time": 2.5, "ground_truth": False, "task": n,
                "result": [{
                    "id": "x", "type": "choices", "from_name": "label", "to_name": "input", "origin": "manual",
                    "value": {"choices": [labels[task["data"]["driftd_id"]]]},
                }],
            }],
        }
        for n, task in enumerate(json.loads(data))
    ]).encode()  # fmt: skip


def cvat(data: bytes, labels: Labels) -> bytes:
    images = []
    for n, line in enumerate(lines_of(data)[2:]):
        name, label = line["name"] + line["extension"], labels[line["meta"]["driftd_id"]]
        images.append(
            f'<image id="{n}" name={quoteattr(name)} width="{line["width"]}" height="{line["height"]}">'
            f'<tag label={quoteattr(label)} source="manual"></tag></image>'
        )
    return zipped(f"<annotations><version>1.1</version>{''.join(images)}</annotations>".encode(), data)


def zipped(annotations: bytes, manifest: bytes | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("annotations.xml", annotations)
        if manifest is not None:
            packed.writestr("manifest.jsonl", manifest)
    return out.getvalue()


def ground_truth(data: bytes, labels: Labels) -> bytes:
    classes = sorted(set(labels.values()))
    return as_lines([
        line | {
            "shelf-job": classes.index(labels[line["driftd_id"]]),
            "shelf-job-metadata": {
                "class-name": labels[line["driftd_id"]], "confidence": 0.93, "human-annotated": "yes",
                "creation-date": "2026-11-22T10:00:00.123456", "job-name": "labeling-job/shelf-job",
                "type": "groundtruth/image-classification",
            },
        }
        for line in lines_of(data)
    ])  # fmt: skip


def prodigy(data: bytes, labels: Labels) -> bytes:
    return as_lines([
        line | {
            "accept": [labels[line["driftd_id"]]], "answer": "accept", "_input_hash": 1, "_task_hash": -n,
            "_annotator_id": "ada", "_session_id": "shelf-ada", "_timestamp": 1795341600, "_view_id": "choice",
        }
        for n, line in enumerate(lines_of(data))
    ])  # fmt: skip


def doccano(data: bytes, labels: Labels) -> bytes:
    return as_lines([
        {"id": n, "text": line["text"], "label": [labels[line["driftd_id"]]], "Comments": []}
        | ({"driftd_id": line["driftd_id"]} if n % 2 else {"meta": {"driftd_id": line["driftd_id"]}})
        for n, line in enumerate(lines_of(data))
    ])  # fmt: skip


def fiftyone(data: bytes, labels: Labels) -> bytes:
    dataset = json.loads(data)
    for sample in dataset["samples"]:
        sample["ground_truth"] = {
            "_id": {"$oid": "6560"}, "_cls": "Classification", "tags": [], "label": labels[sample["driftd_id"]],
            "confidence": None, "logits": None,
        }  # fmt: skip
    return json.dumps(dataset).encode()


LABELERS: dict[str, Callable[[bytes, Labels], bytes]] = {
    "jsonl": plain, "label-studio": label_studio, "cvat": cvat, "ground-truth": ground_truth, "prodigy": prodigy,
    "doccano": doccano, "fiftyone": fiftyone,
}  # fmt: skip
