"""Formats of labeling tools: tasks to bytes, bytes to replies. Nothing here reads a file or a clock.

Every format carries the task's id as `driftd_id`, CVAT in its manifest; whoever edits an export in between has to keep
it. Boxes are stored once, in pixels; each format's own measure is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alerting.labeling.formats import cvat, doccano, fiftyone, ground_truth, label_studio, plain, prodigy, wire
from alerting.labeling.formats.wire import Fault, Reply, Unfit
from alerting.labeling.task import Asked


@dataclass(frozen=True)
class Format:
    """How one tool wants its items, and gives them back."""

    suffix: str  # of a file
    item: Callable[[Asked], Mapping[str, Any]]  # raises Unfit
    file: Callable[[Sequence[Mapping[str, Any]]], bytes]
    read: Callable[[bytes], Iterator[Reply | Fault]]  # never raises for what it is given

    def write(self, tasks: Sequence[Asked]) -> bytes:
        """The tasks as one file. Raises Unfit."""
        return self.file([self.item(task) for task in tasks])


FORMATS: dict[str, Format] = {
    "jsonl": Format(".jsonl", plain.item, wire.as_lines, plain.read),
    "label-studio": Format(".json", label_studio.item, wire.as_array, label_studio.read),
    "cvat": Format(".jsonl", cvat.item, cvat.file, cvat.read),
    "ground-truth": Format(".manifest", ground_truth.item, wire.as_lines, ground_truth.read),
    "prodigy": Format(".jsonl", prodigy.item, wire.as_lines, prodigy.read),
    "doccano": Format(".jsonl", doccano.item, wire.as_lines, doccano.read),
    "fiftyone": Format(".json", fiftyone.item, fiftyone.file, fiftyone.read),
}

__all__ = ["FORMATS", "Fault", "Format", "Reply", "Unfit"]
