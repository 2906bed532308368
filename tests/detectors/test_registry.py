from __future__ import annotations

from typing import Any

import pytest

from detectors.core import ColumnSpec, Kind, Role
from detectors.registry import SCORERS, build, default_scorers
from detectors.scorers.committee import Committee
from detectors.scorers.novelty import Novelty
from detectors.scorers.uncertainty import Uncertainty


def test_a_kind_of_the_table_is_built_with_its_options() -> None:
    built = build(SCORERS, {"kind": "uncertainty", "measures": ["margin"]})
    assert built == Uncertainty(measures=("margin",))
    assert build(SCORERS, {"kind": "committee"}) == Committee()


def test_a_kind_with_a_colon_is_imported() -> None:
    assert build(SCORERS, {"kind": "detectors.scorers.committee:Committee", "members": 3}) == Committee(3)


@pytest.mark.parametrize("kind", SCORERS)
def test_the_table_names_each_part_as_it_names_itself(kind: str) -> None:
    assert SCORERS[kind].__struct_config__.tag == kind  # type: ignore[attr-defined]  # every part is a struct


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "`kind` is missing, one of: uncertainty, committee"),
        ({"kind": None}, "`kind` is missing"),
        ({"kind": "entropie"}, "unknown kind 'entropie', one of: uncertainty"),
        ({"kind": "uncertainty", "measure": ["margin"]}, "unknown field `measure`"),
        ({"kind": "uncertainty", "measures": ["magrin"]}, r"'magrin' - at `\$.measures\[0\]`"),
        ({"kind": "committee", "members": -1}, r">= 0 - at `\$.members`"),
        ({"kind": "no.such.module:Thing"}, "cannot be imported: No module named 'no'"),
        ({"kind": "detectors.core:Thing"}, "cannot be imported: module 'detectors.core' has no attribute 'Thing'"),
        ({"kind": "detectors.core:number"}, "is no msgspec.Struct"),
        ({"kind": ":x"}, "cannot be imported"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_is_allowed(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(SCORERS, raw)


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
