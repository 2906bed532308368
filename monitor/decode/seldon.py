"""Seldon Core 1: its own protocol's bodies, and feedback, which is a source of labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.decode.body import Envelope, Unreadable, flatten
from monitor.decode.columns import word
from monitor.decode.sides import Fields, count, input_fields, merge_outputs, output_fields, pair_up
from monitor.decode.v2 import flat
from monitor.event import Event, Half, Label


def is_seldon(body: Mapping[str, Any]) -> bool:
    """Whether the body is a SeldonMessage or feedback."""
    return is_feedback(body) or "strData" in body or "jsonData" in body or _is_data(body.get("data"))


def is_feedback(body: Mapping[str, Any]) -> bool:
    """Whether the body is feedback on an earlier answer."""
    return "truth" in body or "reward" in body


def _is_data(data: Any) -> bool:
    return isinstance(data, dict) and ("ndarray" in data or "tensor" in data)


def read_seldon(body: Mapping[str, Any], envelope: Envelope) -> list[Event | Half | Label]:
    """Halves of a SeldonMessage, by the side that the headers say; a label from feedback that holds the truth."""
    meta = body.get("meta")
    puid = meta.get("puid") if isinstance(meta, dict) else None
    envelope = envelope._replace(id=envelope.id or (puid if isinstance(puid, str) else ""))
    if envelope.side == "feedback" or is_feedback(body):
        return [_feedback(body, envelope)]
    names, rows = _message(body)
    if envelope.side == "response":
        outputs = [_answer(names, row) for row in rows]
        return [*pair_up(envelope, None, outputs)]
    return [*pair_up(envelope, [_inputs(names, row) for row in rows], None)]


def _message(body: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Names of the columns (empty = unnamed), and the rows."""
    data = body.get("data")
    if _is_data(data) and isinstance(data, dict):
        given = data.get("names")
        names = given if isinstance(given, list) and all(isinstance(n, str) for n in given) else []
        tensor = data.get("tensor")
        if not isinstance(tensor, dict):
            rows = data["ndarray"]
            if not isinstance(rows, list):
                raise Unreadable("wrong_shape", "ndarray is no list")
            count(len(rows))
            return names, rows
        shape, values = tensor.get("shape"), flat(tensor.get("values"))
        if not isinstance(shape, list) or not shape or not all(isinstance(d, int) and d > 0 for d in shape):
            raise Unreadable("wrong_shape", "tensor needs `shape` and `values`")
        n = count(shape[0])
        if len(values) % n:
            raise Unreadable("wrong_shape", f"tensor of shape {shape} has {len(values)} values")
        width = len(values) // n
        return names, [values[i * width : (i + 1) * width] for i in range(n)]
    for key in ("strData", "jsonData"):
        if key in body:
            return [], [body[key]]
    raise Unreadable("wrong_shape", "no data, strData or jsonData")


def _inputs(names: list[str], row: Any) -> Fields:
    if isinstance(row, list) and len(row) == len(names):
        return dict(zip(names, row, strict=True))
    return flatten(row) if isinstance(row, dict) else input_fields("x", row)


def _answer(names: list[str], row: Any) -> Fields:
    # class names beside as many numbers: the row is their scores
    if isinstance(row, list) and len(row) == len(names) > 1 and all(isinstance(v, int | float) for v in row):
        found = output_fields("", row)
        if "label" in found:
            found["label"] = names[found["label"]]
        return found
    if isinstance(row, list) and len(row) == len(names):
        return merge_outputs([output_fields(name, value) for name, value in zip(names, row, strict=True)])
    return output_fields("", row)


def _feedback(body: Mapping[str, Any], envelope: Envelope) -> Label:
    truth, response = body.get("truth"), body.get("response")
    id_ = envelope.id
    if not id_ and isinstance(response, dict) and isinstance(response.get("meta"), dict):
        puid = response["meta"].get("puid")
        id_ = puid if isinstance(puid, str) else ""
    if not id_:
        raise Unreadable("no_id", "feedback needs the id of its request")
    if not isinstance(truth, dict):
        raise Unreadable("wrong_shape", "feedback without the truth tells a reward, not a label")
    _, rows = _message(truth)
    found = flat(rows)
    if len(found) != 1:
        raise Unreadable("wrong_shape", f"the truth has {len(found)} values, not one")
    answer = found[0]
    value = float(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else None
    return Label(
        id=id_, time=envelope.time, model=envelope.model, label=word(answer), value=value, offset=envelope.offset
    )
