"""What a configuration can name: one literal table per kind of part.

A part is a frozen struct; its fields are its parameters. To add one: its file, its test, its line here.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from detectors.checks.window import WholeWindow
from detectors.core import ColumnSpec, Detector, Kind, Role, Scorer, Sequential
from detectors.scorers.committee import Committee
from detectors.scorers.half_space import HalfSpaceTrees
from detectors.scorers.novelty import Novelty
from detectors.scorers.outcome import Outcome
from detectors.scorers.projection import Projection
from detectors.scorers.rules import Rules as RuleLayer
from detectors.scorers.text import UNREAD, Text
from detectors.scorers.uncertainty import Uncertainty
from detectors.selection import (
    Clusters,
    Disagreement,
    Entropy,
    LeastConfidence,
    Margin,
    PMix,
    Ratio,
    Strategy,
    TopK,
)
from detectors.selection import Novelty as NoveltyStrategy

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
    "whole_window": WholeWindow,
    "adwin": Adwin,
    "page_hinkley": PageHinkley,
    "kswin": Kswin,
    "ddm": Ddm,
    "eddm": Eddm,
    "hddm_a": HddmA,
    "hddm_w": HddmW,
}


STRATEGIES: dict[str, type[Strategy]] = {
    "margin": Margin,
    "entropy": Entropy,
    "least_confidence": LeastConfidence,
    "ratio": Ratio,
    "disagreement": Disagreement,
    "novelty": NoveltyStrategy,
    "clusters": Clusters,
    "p_mix": PMix,
    "top_k": TopK,
}


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
    texts = [spec.name for spec in schema if spec.kind is Kind.TEXT]
    worded = tuple(name for name in texts if name not in UNREAD)
    if worded:
        found["text"] = Text() if len(worded) == len(texts) else Text(columns=worded)
    if kinds.get("rule") is Kind.CATEGORY:
        found["rules"] = RuleLayer()
    if kinds.get("label") is Kind.CATEGORY and any(spec.role is Role.TRUTH for spec in schema):
        found["outcome"] = Outcome()
    return found
