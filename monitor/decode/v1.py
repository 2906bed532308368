"""The V1 protocol of TensorFlow Serving and KServe, and the bodies of MLflow's and Databricks' scoring servers.

A body has no id, model or version: they come from headers or options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.decode.body import Envelope, Unreadable
from monitor.decode.sides import Fields, columns_to_rows, count, input_fields, output_fields, pair_up
from monitor.event import Event, Half

_INPUT = "x"  # the name of inputs that have none


def read_v1(body: Mapping[str, Any], envelope: Envelope) -> list[Event | Half]:
    """Events or halves of a request (instances, inputs, dataframe_split, dataframe_records), a response (predictions,
    outputs) or both in one object."""
    inputs, outputs = _inputs(body), _outputs(body)
    if inputs is None and outputs is None:
        raise Unreadable("wrong_shape", "no instances, inputs, dataframe, predictions or outputs")
    return pair_up(envelope, inputs, outputs)


def _inputs(body: Mapping[str, Any]) -> list[Fields] | None:
    split = body.get("dataframe_split")
    if isinstance(split, dict):
        names, data = split.get("columns"), split.get("data")
        if not isinstance(data, list) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise Unreadable("wrong_shape", "dataframe_split needs `columns` and `data`")
        count(len(data))
        if not all(isinstance(row, list) and len(row) == len(names) for row in data):
            raise Unreadable("wrong_shape", "rows of dataframe_split are not as long as its columns")
        return [dict(zip(names, row, strict=True)) for row in data]
    for key in ("instances", "dataframe_records", "inputs"):
        given = body.get(key)
        if isinstance(given, list):
            count(len(given))
            return [input_fields(_INPUT, row) for row in given]
    columns = body.get("inputs")
    if isinstance(columns, dict):
        return [
            {field: v for name, value in row.items() for field, v in input_fields(name, value).items()}
            for row in columns_to_rows(columns)
        ]
    return None


def _outputs(body: Mapping[str, Any]) -> list[Fields] | None:
    for key in ("predictions", "outputs"):
        given = body.get(key)
        if isinstance(given, list):
            count(len(given))
            return [output_fields("", row) for row in given]
        if isinstance(given, dict):
            return [output_fields("", row) for row in columns_to_rows(given)]
    return [output_fields("", body["predictions"])] if body.get("predictions") is not None else None
