"""What must hold of every detector in the table, so of a new one the moment it is listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from detectors.checks import DEFAULT_CHECKS
from detectors.checks.events import Ddm, Eddm, Kswin
from detectors.core import Batch, Column, Kind, Scores, category, empty, from_columns, number, text, vector
from detectors.encode import decode, encode
from detectors.profile import Layout, Profile
from detectors.reference import Reference
from detectors.registry import DETECTORS
from tests.detectors.checks.rows import learned

WINDOWS = 40


def calm(rng: np.random.Generator, n: int) -> dict[str, Column]:
    values = rng.normal(10, 2, n)
    return {
        "amount": number(values),
        "holed": number(np.where(rng.random(n) < 0.1, np.nan, values)),
        "count": number(rng.poisson(4, n)),
        "flag": number(rng.random(n) < 0.05, kind=Kind.FLAG),
        "still": number(np.full(n, 3.0)),
        "country": category(list(rng.choice(["DE", "FR", "PL"], n, p=[0.6, 0.3, 0.1]))),
        "one": category(["only"] * n),
        "note": text(["hello"] * n),
        "embedding": vector(rng.normal(0, 1, (n, 3))),
        "expected_correct": number(rng.choice([0.7, 0.8, 0.95], n)),
        "surprise": number((rng.random(n) < 0.8) - 0.8),
        "changed_by_rule": number(rng.random(n) < 0.1, kind=Kind.FLAG),
    }


def wrecked(rng: np.random.Generator, n: int) -> dict[str, Column]:
    """Rows in which each thing that any detector watches has gone wrong; each comes twice."""
    columns = {
        "amount": number(rng.normal(30, 9, n)),
        "holed": number(np.full(n, np.nan), wrong=np.ones(n, np.bool_)),
        "count": number(np.full(n, 4.0)),
        "flag": number(rng.random(n) < 0.9, kind=Kind.FLAG),
        "still": number(rng.normal(3, 1, n)),
        "country": category(list(rng.choice(["DE", "XX"], n))),
        "one": category(["other"] * n),
        "note": text([None] * n),
        "embedding": empty(Kind.VECTOR, n, 3),
        "expected_correct": number(np.full(n, 0.7)),
        "surprise": number((rng.random(n) < 0.4) - 0.8),
        "changed_by_rule": number(rng.random(n) < 0.8, kind=Kind.FLAG),
    }
    return {name: column.take(np.arange(n) // 2) for name, column in columns.items()}


LEARNED = learned(from_columns(calm(np.random.default_rng(1), 5_000)))


@pytest.fixture(scope="module", name="reference")
def _reference() -> Profile:
    return LEARNED.profile


def profile_of(layout: Layout, batch: Batch) -> Profile:
    profile = Profile(layout)
    profile.update(batch)
    return profile


def looks(
    detector: Any, profiles: Sequence[Profile], reference: Profile, columns: Sequence[str], start: Reference = LEARNED
) -> list[Scores]:
    """The detector asked window by window; a memory goes through bytes each time, as in a restart."""
    if not hasattr(detector, "step"):
        return [detector.check(profile, reference, columns) for profile in profiles]
    memory, found = detector.start(start, columns), []
    for profile in profiles:
        memory, scores = detector.step(decode(encode(memory), Any), profile, reference, columns)
        found.append(scores)
    return found


@pytest.fixture(params=DETECTORS, name="detector")
def _detector(request: pytest.FixtureRequest) -> Any:
    return DETECTORS[request.param]()


# Test every event at a fixed level, so calm streams alarm too; their docstrings say how often.
RESTLESS = (Kswin, Ddm, Eddm)


def test_it_is_silent_on_its_own_reference(detector: Any, reference: Profile) -> None:
    if isinstance(detector, RESTLESS):
        pytest.skip("promises nothing over 80,000 events, which 40 times the reference's sample are")
    for scores in looks(detector, [reference] * WINDOWS, reference, reference.layout.columns):
        assert not scores.findings


def test_it_is_silent_on_calm_windows(detector: Any, reference: Profile) -> None:
    rng = np.random.default_rng(2)
    windows = [profile_of(reference.layout, from_columns(calm(rng, 300))) for _ in range(WINDOWS)]
    found = [f for s in looks(detector, windows, reference, reference.layout.columns) for f in s.findings]
    assert len(found) <= (WINDOWS // 4 if isinstance(detector, RESTLESS) else 0)


def test_it_finds_something_in_wrecked_windows(detector: Any, reference: Profile) -> None:
    rng = np.random.default_rng(3)
    good = [profile_of(reference.layout, from_columns(calm(rng, 300))) for _ in range(WINDOWS)]
    bad = [profile_of(reference.layout, from_columns(wrecked(rng, 2_000))) for _ in range(10)]
    found = [f for s in looks(detector, good + bad, reference, reference.layout.columns) for f in s.findings]
    assert found
    for finding in found:
        assert finding.column in ("", *reference.layout.columns)
        assert finding.score > finding.limit
        assert finding.effect is not None
        assert np.isfinite(finding.effect)
        assert finding.p_value is None or 0 <= finding.p_value <= 1
        assert finding.text.count(". ") == 1, "two sentences"
        assert finding.text.endswith(".")
        msgspec.json.encode(finding)


def test_the_same_windows_give_the_same_findings(detector: Any, reference: Profile) -> None:
    rng = np.random.default_rng(4)
    windows = [profile_of(reference.layout, from_columns(wrecked(rng, 200))) for _ in range(3)]
    first, second = (looks(detector, windows, reference, reference.layout.columns) for _ in range(2))
    assert [encode(s.findings) for s in first] == [encode(s.findings) for s in second]
    assert all(np.array_equal(a.score, b.score, equal_nan=True) for a, b in zip(first, second, strict=True))


DAMAGED = {
    "nothing": {},
    "no value anywhere": {name: empty(c.kind, 200, 3) for name, c in calm(np.random.default_rng(5), 1).items()},
    "one row": calm(np.random.default_rng(5), 1),
    "constants": {n: c.take(np.zeros(200, int)) for n, c in calm(np.random.default_rng(5), 1).items()},
    "another kind": {"amount": category(["a"] * 200), "country": number(np.ones(200)), "note": number(np.ones(200))},
    "infinite": {"amount": number(np.full(200, np.inf)), "flag": number(np.full(200, -np.inf))},
    "huge": {"amount": number(np.full(200, 1e308)), "count": number(np.full(200, -1e308))},
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("swapped", [False, True])
def test_it_never_raises_and_changes_no_profile(detector: Any, reference: Profile, case: str, swapped: bool) -> None:
    damaged = profile_of(reference.layout, from_columns(DAMAGED[case]))
    current, against = (reference, damaged) if swapped else (damaged, reference)
    before = current.encode(), against.encode()
    for scores in looks(detector, [current] * 15, against, reference.layout.columns):
        assert scores.score.shape == (len(scores.columns),)
        assert scores.p_value is None or scores.p_value.shape == scores.score.shape
        assert not np.isinf(scores.score).any()
    assert (current.encode(), against.encode()) == before


@pytest.mark.parametrize("columns", [(), ("no such column",), ("country",), ("amount",), ("note", "embedding")])
def test_it_measures_the_asked_columns_only(detector: Any, reference: Profile, columns: tuple[str, ...]) -> None:
    for scores in looks(detector, [reference] * 15, reference, columns):
        assert set(scores.columns) <= {"", *columns}


@pytest.mark.parametrize("only", [{}, {"country": category(["DE"] * 50)}, {"amount": number(np.arange(50.0))}])
def test_it_takes_a_layout_without_numbers_or_without_categories(detector: Any, only: dict[str, Column]) -> None:
    batch = from_columns({"row": number(np.arange(50.0))})
    batch.columns = only
    start = learned(batch)
    found = looks(detector, [start.profile] * 15, start.profile, start.layout.columns, start)
    assert not [f for s in found for f in s.findings]


def test_its_parameters_come_back_from_bytes_and_from_configuration(detector: Any) -> None:
    kind = type(detector)
    assert decode(encode(detector), kind) == detector
    assert msgspec.convert(msgspec.to_builtins(detector), kind) == detector
    with pytest.raises(ValueError, match="unknown field"):
        msgspec.convert({**msgspec.to_builtins(detector), "no_such_option": 1}, kind)


def test_every_option_says_what_it_means(detector: Any) -> None:
    schema = msgspec.json.schema(type(detector))["$defs"][type(detector).__name__]
    for name, option in schema["properties"].items():
        assert name == "kind" or option.get("description"), f"{type(detector).__name__}.{name}"


def test_the_default_checks_are_named_once_and_listed_in_the_table() -> None:
    names = [check.name for check in DEFAULT_CHECKS]
    assert len(set(names)) == len(names)
    assert {type(check.detector) for check in DEFAULT_CHECKS} <= set(DETECTORS.values())
