"""What a configuration can name: one literal table per kind of part, and how a mapping becomes the part.

A part is a frozen struct; its fields are its parameters. To add one: its file, its test, its line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from detectors.checks.conversion import Unit
from detectors.checks.duplicates import Duplicates
from detectors.checks.events import Ddm, Eddm, HddmA, HddmW, Kswin
from detectors.checks.evidence import EDetector
from detectors.checks.joint import DomainClassifier, Mmd
from detectors.checks.level import Level, Quantile
from detectors.checks.performance import Calibration, Performance
from detectors.checks.quality import Constant, Missing, NewCategory, Range, Schema, WrongType
from detectors.checks.rules import Rules
from detectors.checks.sequential import Adwin, PageHinkley
from detectors.checks.shift import ChiSquare, Hellinger, JensenShannon, Ks, LInfinity, Psi, Wasserstein
from detectors.checks.stuck import Stuck
from detectors.checks.volume import Volume
from detectors.core import ColumnSpec, Detector, Kind, Role, Scorer, Sequential
from detectors.scorers.committee import Committee
from detectors.scorers.half_space import HalfSpaceTrees
from detectors.scorers.novelty import Novelty
from detectors.scorers.outcome import Outcome
from detectors.scorers.projection import Projection
from detectors.scorers.rules import Rules as RuleLayer
from detectors.scorers.text import Text
from detectors.scorers.uncertainty import Uncertainty

T = TypeVar("T")

SCORERS: dict[str, type[Scorer]] = {
    "uncertainty": Uncertainty,
    "committee": Committee,
    "text": Text,
    "rules": RuleLayer,
    "novelty": Novelty,
    "half_space_trees": HalfSpaceTrees,
    "projection": Projection,
    "outcome": Outcome,
}

DETECTORS: dict[str, type[Detector | Sequential]] = {
    "missing": Missing,
    "wrong_type": WrongType,
    "schema": Schema,
    "range": Range,
    "new_category": NewCategory,
    "constant": Constant,
    "stuck": Stuck,
    "duplicates": Duplicates,
    "rules": Rules,
    "volume": Volume,
    "psi": Psi,
    "jensen_shannon": JensenShannon,
    "hellinger": Hellinger,
    "l_infinity": LInfinity,
    "wasserstein": Wasserstein,
    "ks": Ks,
    "chi_square": ChiSquare,
    "unit": Unit,
    "level": Level,
    "quantile": Quantile,
    "performance": Performance,
    "calibration": Calibration,
    "mmd": Mmd,
    "domain_classifier": DomainClassifier,
    "e_detector": EDetector,
    "adwin": Adwin,
    "page_hinkley": PageHinkley,
    "kswin": Kswin,
    "ddm": Ddm,
    "eddm": Eddm,
    "hddm_a": HddmA,
    "hddm_w": HddmW,
}


def build(table: Mapping[str, type[T]], raw: Mapping[str, Any]) -> T:
    """The part that `raw` describes: `kind` is a name of the table, or `package.module:Name` of the user's own struct.

    ValueError says what was given and what is allowed; where it lies inside `raw` is named as `$.field`.

    >>> build(SCORERS, {"kind": "uncertainty", "measures": ["entropy"]})
    Uncertainty(measures=('entropy',))
    """
    options = dict(raw)
    kind = str(options.pop("kind", None) or "")
    part: Any = _imported(kind) if ":" in kind else table.get(kind)
    if part is None:
        given = f"unknown kind {kind!r}" if kind else "`kind` is missing"
        raise ValueError(f"{given}, one of: {', '.join(table)}, or package.module:Name")
    shape = part.__struct_config__
    if shape.tag_field is not None:
        options[shape.tag_field] = shape.tag
    try:
        found: T = msgspec.convert(options, part)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    return found


def _imported(kind: str) -> Any:
    module, _, name = kind.partition(":")
    try:
        part = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"kind {kind!r} cannot be imported: {error}") from error
    if not hasattr(part, "__struct_config__"):
        raise ValueError(f"kind {kind!r} is no msgspec.Struct, whose fields would be its options")
    return part


def default_scorers(schema: Sequence[ColumnSpec]) -> dict[str, Scorer]:
    """The scorers of a model that configures none, by name: those whose columns exist."""
    kinds = {spec.name: spec.kind for spec in schema}
    numbers = tuple(s.name for s in schema if s.kind is Kind.NUMBER and s.role is Role.INPUT)
    found: dict[str, Scorer] = {}
    if kinds.get("embedding") is Kind.VECTOR:
        found["novelty"] = Novelty(columns=("embedding",))
        found["projection"] = Projection(columns=("embedding",))
    elif len(numbers) > 1:
        found["novelty"] = Novelty(columns=numbers)
    if kinds.get("scores") is Kind.VECTOR:
        found["uncertainty"] = Uncertainty()
    if kinds.get("members") is Kind.VECTOR:
        found["committee"] = Committee()
    if Kind.TEXT in kinds.values():
        found["text"] = Text()
    if kinds.get("rule") is Kind.CATEGORY:
        found["rules"] = RuleLayer()
    if kinds.get("label") is Kind.CATEGORY and any(spec.role is Role.TRUTH for spec in schema):
        found["outcome"] = Outcome()
    return found
