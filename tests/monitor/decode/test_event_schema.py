"""`docs/event.schema.json` tells the truth: it names every field that is read, and what it accepts can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from monitor.decode import Own
from monitor.decode.columns import CONTEXT, OUTPUTS, SOFTWARE
from monitor.event import Label, Record

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[3] / "docs" / "event.schema.json").read_text())
EVENT, LABEL = SCHEMA["$defs"]["event"]["properties"], SCHEMA["$defs"]["label"]["properties"]


def test_it_names_every_field_that_is_read() -> None:
    assert set(EVENT["outputs"]["properties"]) == set(OUTPUTS)
    assert set(EVENT) == {"id", "time", "model", "inputs", "features", "outputs", "extra", *SOFTWARE, *CONTEXT}
    assert set(LABEL) - {"type"} == set(Label.__struct_fields__) - {"offset"}


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({"id": "1", "time": "2026-11-22T10:00:00Z", "inputs": {"x": 1}, "outputs": {"label": "a"}}, True),
        ({"id": 1, "features": {"x": [1, 2]}, "path": ["a", "b"], "status": 200}, True),
        ({"outputs": {"scores": {"a": 0.5, "b": 0.5}, "members": [[0.5, 0.5]]}}, True),
        ({"id": "1", "type": "label", "label": "a", "time": 5}, True),
        ({"id": "1", "value": 2.5}, True),
        ({"id": "1"}, False),
        ({"label": "a"}, False),
        ({"id": "1", "inputs": 5}, False),
        ([], False),
    ],
)
def test_what_it_accepts_is_read_and_what_it_refuses_is_not(body: Any, fits: bool) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(body) is fits
    decoded = Own().open().decode([Record(json.dumps(body).encode())], {})
    assert bool(decoded.labels or decoded.events) is fits
