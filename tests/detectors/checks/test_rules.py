from __future__ import annotations

from typing import Any

import numpy as np

from detectors.checks.rules import Rules
from detectors.core import Finding, category, from_columns
from detectors.profile import Profile
from detectors.scorers.rules import Rules as RuleLayer
from tests.detectors.checks.rows import learned

COLUMNS = ("changed_by_rule", "rules_fired")
RNG = np.random.default_rng(1)


def scored(changed: float, n: int, rule: str = "cap") -> Any:
    batch = from_columns(
        {
            "rule": category([rule if hit else None for hit in RNG.random(n) < changed]),
            "label": category(["a"] * n),
        }
    )
    return from_columns(RuleLayer().score(batch, None))


def found(before: float, now: float, rule: str = "cap", **options: Any) -> list[Finding]:
    reference = learned(scored(before, 5_000))
    current = Profile(reference.layout)
    current.update(scored(now, 1_000, rule))
    return Rules(**options).check(current, reference.profile, COLUMNS).findings


def test_the_scorer_counts_the_rules_and_says_none_where_there_is_no_answer() -> None:
    batch = from_columns(
        {
            "rule": category(["cap", "cap>round>floor", None, None]),
            "label": category(["a", "a", "a", None]),
        }
    )
    columns = RuleLayer().score(batch, None)
    assert columns["rules_fired"].values[:3].tolist() == [1, 3, 0]
    assert columns["changed_by_rule"].values[:3].tolist() == [1, 1, 0]
    assert all(column.missing().tolist() == [False, False, False, True] for column in columns.values())


def test_more_answers_changed_than_may_be_is_found_and_told() -> None:
    findings = found(0.05, 0.6)
    assert [f.column for f in findings] == ["changed_by_rule", "rules_fired"]
    assert findings[0].text.startswith("Rules change 5")


def test_more_rules_an_event_is_found_though_no_more_answers_change() -> None:
    assert [f.column for f in found(0.2, 0.2, "cap>round>floor")] == ["rules_fired"]


def test_a_rise_is_found_under_the_absolute_limit() -> None:
    assert found(0.05, 0.3)
    assert not found(0.05, 0.3, rise=0.5)


def test_a_share_at_its_limit_and_one_that_was_always_high_are_calm() -> None:
    assert not found(0.1, 0.2)
    assert not found(0.9, 0.9)
