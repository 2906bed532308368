"""What the formats share: the reply that a labeling tool gives, and how items and replies become bytes.

What leaves is chosen field by field. Nothing that tells a known item from an ordinary one is among it: not why an event
was drawn, nor in which part, nor its id.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from alerting.labeling.task import Asked, Box, Picture, Prediction, Value

ID = "driftd_id"  # the task's id under this name in every format; the only way back

_TEXT = "text"  # an input of this name is what there is to read


class Unfit(ValueError):
    """The format cannot hold this task: it needs a picture, say. The text tells what is missing."""


class Unreadable(ValueError):
    """What a tool gave back is no reply of ours. The text tells why."""


class Fault(msgspec.Struct, frozen=True):
    """A part of an export that could not be read; the rest was."""

    where: str  # such as "line 7"
    why: str


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a labeling tool says of one task. The same reply any number of times is one, by its `key`."""

    task: str  # our id of it
    value: Value = None  # the label; of several classes their names, sorted, with commas between
    boxes: tuple[Box, ...] = ()
    skipped: bool = False  # the labeler could not tell
    by: str = ""  # as the tool names the labeler
    at: float | None = None  # UTC seconds at which the tool last changed it; None: it does not say
    seconds: float | None = None  # that the labeler took
    annotation: str = ""  # the tool's id of the answer; empty: it has none

    @property
    def key(self) -> str:
        """Identity of the answer within its tool and task. Without an id of the tool's it is what was answered, by
        whom: such a tool cannot take an answer back."""
        if self.annotation:
            return self.annotation
        said = (self.value, self.boxes, self.skipped, self.by)
        return hashlib.sha256(msgspec.msgpack.encode(said)).hexdigest()[:16]

    @property
    def updated(self) -> str:
        """`at` as text that sorts like it; empty where the tool does not say."""
        return "" if self.at is None else f"{self.at:017.6f}"


def joined(names: Iterable[str]) -> str | None:
    """Names of classes as one label; None where there are none.

    >>> joined(["jar", "can", "jar"]), joined([])
    ('can,jar', None)
    """
    return ",".join(sorted(set(names))) or None


def inputs(task: Asked) -> dict[str, Value]:
    """What the labeler is shown, by name."""
    return {each.name: each.value for each in task.inputs}


def text(task: Asked) -> str:
    """The same as words: the input `text`, the only one there is, or a line for each."""
    given = inputs(task)
    words = given.get(_TEXT, next(iter(given.values())) if len(given) == 1 else None)
    return words if isinstance(words, str) else "\n".join(f"{name}: {value}" for name, value in given.items())


def predicted(task: Asked) -> Prediction:
    """What the model answered; nothing where the labelers are not to be led."""
    return task.prediction or Prediction()


def confidence(task: Asked) -> float | None:
    """The score of the class that the model chose, the largest where scores are not named like it."""
    said = predicted(task)
    scores = [(score.name == str(said.label), score.value) for score in said.scores if score.value is not None]
    return max(scores, default=(False, None))[1]


def label(task: Asked) -> str | None:
    """The model's answer as the name of a class; None where it gave none.

    A flag is called as JSON calls it.
    """
    given = predicted(task).label
    return None if given is None else str(given).lower() if isinstance(given, bool) else str(given)


def image(task: Asked) -> tuple[str, Picture]:
    """Address and size of the picture. Raises Unfit where either is missing."""
    if not task.uri or task.picture is None:
        raise Unfit(f"task {task.task}: this format holds pictures, with their size in pixels")
    return task.uri, task.picture


def present(**fields: Any) -> dict[str, Any]:
    """Fields that are there: no None, nothing empty."""
    return {name: value for name, value in fields.items() if value is not None and value not in ("", (), [], {})}


def utc(given: object) -> float | None:
    """UTC seconds of an ISO 8601 text, no zone meaning UTC; None for anything else.

    >>> utc("2026-11-22T10:00:00Z"), utc("soon"), utc(None)
    (1795341600.0, None, None)
    """
    if not isinstance(given, str):
        return None
    try:
        at = datetime.fromisoformat(given)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def scalar(given: object) -> Value:
    """A label as it stands. Raises Unreadable for what none can be."""
    if given is None or isinstance(given, str | bool | int) or (isinstance(given, float) and math.isfinite(given)):
        return given
    raise Unreadable(f"{str(given)[:40]!r} is no label")


def as_lines(items: Sequence[Mapping[str, Any]]) -> bytes:
    """A JSON object to a line."""
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


def as_array(items: Sequence[Mapping[str, Any]]) -> bytes:
    """One JSON array, an item to a line, so that two exports can be compared."""
    return b"[\n" + b",\n".join(map(msgspec.json.encode, items)) + b"\n]\n"


def from_lines(data: bytes, one: Callable[[bytes], Iterable[Reply]]) -> Iterator[Reply | Fault]:
    """The replies of each line."""
    lines = ((f"line {n}", line) for n, line in enumerate(data.split(b"\n"), 1) if line.strip())
    return _sorted_out(lines, one)


def from_array(data: bytes, one: Callable[[bytes], Iterable[Reply]]) -> Iterator[Reply | Fault]:
    """The replies of each object of a JSON array."""
    try:
        parts = msgspec.json.decode(data, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        return iter((Fault("the file", f"no JSON array: {error}"),))
    return _sorted_out(((f"item {n}", bytes(part)) for n, part in enumerate(parts, 1)), one)


def _sorted_out(parts: Iterable[tuple[str, bytes]], one: Callable[[bytes], Iterable[Reply]]) -> Iterator[Reply | Fault]:
    for where, part in parts:
        try:
            yield from one(part)
        except (Unreadable, msgspec.DecodeError) as error:
            yield Fault(where, str(error))
