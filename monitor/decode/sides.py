"""Rows of a request, of a response or of both to events and halves: what V1, V2 and Seldon bodies have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from monitor.decode.body import Envelope, Unreadable, flatten
from monitor.event import RESERVED, Event, Half

MAX_ROWS = 10_000  # in one request
WIDE = 256  # a row of up to so many numbers becomes columns `name.0`, `name.1`, ..., a wider one a vector

Fields = dict[str, Any]

_SYNONYMS = {
    "probabilities": "scores", "probs": "scores", "proba": "scores", "predict_proba": "scores",
    "class": "label", "classes": "label", "predicted_label": "label", "prediction": "label", "score": "value",
}  # fmt: skip


def input_fields(name: str, value: Any) -> Fields:
    """An input as columns: an object by its names, a flat list of numbers by place, a long or nested one as a vector.

    >>> input_fields("x", [5.1, 3.5])
    {'x.0': 5.1, 'x.1': 3.5}
    """
    if isinstance(value, dict):
        if set(value) == {"b64"}:
            return {name: None}  # bytes: nothing that could be a column
        return flatten(value)
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list | dict):
        return {name: value[0]}
    if isinstance(value, list) and len(value) <= WIDE and not any(isinstance(v, list | dict) for v in value):
        return {f"{name}.{i}": v for i, v in enumerate(value)}
    return {name: value}


def output_fields(name: str, value: Any) -> Fields:
    """An answer by what it looks like: text or a whole number is the label, another number the value, a list of numbers
    the scores, an object its own names; what has a name of its own that says so goes by it.

    >>> output_fields("", [0.25, 0.75])
    {'scores': [0.25, 0.75], 'label': 1}
    """
    if isinstance(value, dict):
        out: Fields = {}
        for key, item in value.items():
            for field, found in output_fields(key, item).items():
                out.setdefault(field, found)
        return out
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], dict):
        value = value[0]
    known = _SYNONYMS.get(name, name)
    if known in RESERVED and not (known == "label" and isinstance(value, list | float)):
        return {"scores": value, **_top(value)} if known == "scores" else {known: value}
    if isinstance(value, list) and value and isinstance(value[0], int | float):
        return {"scores": value, **_top(value)}
    if isinstance(value, str | int):
        return {"label": value}
    return {"value": value} if isinstance(value, float) else {name or "output": value}


def _top(scores: Any) -> Fields:
    """The label that probabilities choose: the place of the largest. Nothing for other numbers."""
    if not isinstance(scores, list) or not all(isinstance(s, int | float) for s in scores) or len(scores) < 2:
        return {}
    probable = all(0 <= s <= 1 for s in scores) and math.isclose(sum(scores), 1, abs_tol=0.02)
    return {"label": scores.index(max(scores))} if probable else {}


def merge_outputs(parts: Sequence[Fields]) -> Fields:
    """Answers of several outputs as one: the first of each name counts, a label said outright before one derived."""
    out: Fields = {}
    for part in sorted(parts, key=lambda p: "scores" in p):
        for name, value in part.items():
            out.setdefault(name, value)
    return out


def columns_to_rows(columns: Mapping[str, Any]) -> list[Fields]:
    """Columns of equal length as rows; unequal ones or scalars are one row."""
    lengths = {len(value) if isinstance(value, list) else -1 for value in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        return [dict(columns)]
    count(next(iter(lengths)))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def count(rows: int) -> int:
    """The number of rows, refused past MAX_ROWS."""
    if rows > MAX_ROWS:
        raise Unreadable("too_large", f"{rows} rows in one request, {MAX_ROWS} are allowed")
    return rows


def pair_up(
    envelope: Envelope, inputs: Sequence[Fields] | None, outputs: Sequence[Fields] | None
) -> list[Event | Half]:
    """Rows as events where both sides are there, or where no id could ever bring them together; else as halves.

    Of several rows, row i has the id `<id>#<i>`, so that the sides of a batch meet row by row.
    """
    rows = max(len(inputs or ()), len(outputs or ()))
    if inputs is not None and outputs is not None and len(inputs) != len(outputs):
        raise Unreadable("wrong_shape", f"{len(inputs)} rows of inputs and {len(outputs)} of outputs")
    count(rows)
    base = envelope.name()
    whole = not envelope.id or (inputs is not None and outputs is not None)
    side = "request" if inputs is not None else "response"
    made: list[Event | Half] = []
    for row in range(rows):
        event = Event(
            id=base if rows == 1 else f"{base}#{row}",
            time=envelope.time,
            model=envelope.model,
            version=envelope.version,
            inputs=inputs[row] if inputs is not None else {},
            status=envelope.status,
            offset=envelope.offset,
        )
        for name, value in outputs[row].items() if outputs is not None else ():
            if name in RESERVED:
                setattr(event, name, value)
            else:
                event.extra[name] = value
        made.append(event if whole else Half(id=event.id, side=side, event=event, timed=envelope.timed))
    return made
