from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from detectors.core import ColumnSpec, Kind, Role
from detectors.registry import DETECTORS, SCORERS, default_scorers
from detectors.scorers.novelty import Novelty


@pytest.mark.parametrize("table", [SCORERS, DETECTORS])
def test_the_tables_name_each_part_as_it_names_itself(table: Mapping[str, Any]) -> None:
    assert {part.__struct_config__.tag: part for part in table.values()} == table


def spec(name: str, kind: Kind, role: Role = Role.INPUT) -> ColumnSpec:
    return ColumnSpec(name, kind, role)


def test_default_scorers_are_those_whose_columns_exist() -> None:
    assert default_scorers([spec("x", Kind.NUMBER), spec("c", Kind.CATEGORY)]) == {}
    full = [
        spec("x", Kind.NUMBER),
        spec("y", Kind.NUMBER),
        spec("latency", Kind.NUMBER, Role.SOFTWARE),
        spec("note", Kind.TEXT),
        spec("scores", Kind.VECTOR, Role.OUTPUT),
        spec("members", Kind.VECTOR, Role.OUTPUT),
    ]
    assert set(default_scorers(full)) == {"novelty", "uncertainty", "committee", "text"}
    assert default_scorers(full)["novelty"] == Novelty(columns=("x", "y"))


def test_novelty_looks_at_the_embedding_where_there_is_one() -> None:
    schema = [spec("x", Kind.NUMBER), spec("y", Kind.NUMBER), spec("embedding", Kind.VECTOR, Role.OUTPUT)]
    found = default_scorers(schema)
    assert set(found) == {"novelty", "projection"}
    assert found["novelty"] == Novelty(columns=("embedding",))


def test_a_column_of_a_reserved_name_but_another_kind_is_left_alone() -> None:
    assert default_scorers([spec("scores", Kind.NUMBER), spec("members", Kind.CATEGORY)]) == {}
