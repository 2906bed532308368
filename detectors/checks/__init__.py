"""The checks that hold a window's profile against a reference, and those that run where none is configured."""

from __future__ import annotations

from typing import Literal, NamedTuple

from detectors.checks.duplicates import Duplicates
from detectors.checks.evidence import EDetector
from detectors.checks.level import Quantile
from detectors.checks.performance import Calibration, Performance
from detectors.checks.quality import Constant, Missing, NewCategory, Range, WrongType
from detectors.checks.rules import Rules
from detectors.checks.stuck import Stuck
from detectors.checks.volume import Volume
from detectors.checks.window import WholeWindow
from detectors.core import Detector, Sequential


class DefaultCheck(NamedTuple):
    """A check of a model that configures none: on which columns (names or patterns), over how long, against what."""

    name: str
    detector: Detector | Sequential
    columns: tuple[str, ...] = ("*",)
    over: float = 0.0  # seconds, 0 = one base window
    against: Literal["reference", "previous"] = "reference"
    share: float = 1.0  # of the model's one promise, where the check makes one


# `evidence` and `shift` share the model's one promise: what changes at all is found row by row, what is small in a busy
# window by all of its rows. The others are rules, and silent on calm data: 0 findings in 1,000 base windows of 1,000
# rows and 60 columns, whether the reference has 100,000 rows or 2,000 (benchmarks/window_check.py). `missing` tells a
# column gone altogether too, so `schema` would say it twice.
DEFAULT_CHECKS: tuple[DefaultCheck, ...] = (
    DefaultCheck("volume", Volume()),
    DefaultCheck("missing", Missing()),
    DefaultCheck("wrong_type", WrongType()),
    DefaultCheck("range", Range()),
    DefaultCheck("new_category", NewCategory()),
    DefaultCheck("constant", Constant()),
    DefaultCheck("stuck", Stuck()),
    DefaultCheck("duplicates", Duplicates()),
    DefaultCheck("rules", Rules(), ("changed_by_rule", "rules_fired"), over=60.0),
    DefaultCheck("evidence", EDetector(), share=0.9),
    DefaultCheck("shift", WholeWindow(), share=0.1),
    DefaultCheck("latency", Quantile(), ("latency",), over=60.0),
    DefaultCheck("performance", Performance(), ("expected_correct",), over=300.0),
)

# Of rows joined with their late labels, which come when they come: their volume and their gaps say nothing.
LABEL_CHECKS: tuple[DefaultCheck, ...] = (
    DefaultCheck("evidence", EDetector(), ("error", "loss", "lag")),
    DefaultCheck("calibration", Calibration(), ("surprise", "tilt")),
    DefaultCheck("labelled", Calibration(tolerance=0.1), ("rank",)),
)

# Of events that several versions of the model answered.
VERSION_CHECKS: tuple[DefaultCheck, ...] = (DefaultCheck("evidence", EDetector(), ("versions_disagree",)),)
