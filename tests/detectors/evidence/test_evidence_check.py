"""The default check over windows: one alarm a change, open as long as it lasts."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from detectors.checks.evidence import EDetector
from detectors.core import Batch, Column, Finding, Floats, category, from_columns, number
from detectors.encode import decode, encode
from detectors.evidence import model
from detectors.profile import Profile, rows_of
from detectors.reference import Reference, build_from

WINDOW = 200
DETECTOR = EDetector(events=10_000)


def batch(values: Floats, first: int) -> Batch:
    """Two tied numbers, a rate and a category; a row a second."""
    n = len(values)
    at = np.arange(first, first + n)
    words = [("a", "b", "c")[int(v)] for v in np.clip(np.nan_to_num(values[:, 3]), 0, 2)]
    return from_columns(
        {"x": number(values[:, 0]), "y": number(values[:, 1]), "flag": number(values[:, 2]), "word": category(words)},
        at.astype(np.float64),
        [str(i) for i in at],
    )


def calm(g: np.random.Generator, n: int) -> Floats:
    x = g.normal(size=n)
    return np.column_stack([x, x + 0.3 * g.normal(size=n), g.random(n) < 0.05, g.choice(3, n, p=[0.6, 0.3, 0.1])])


@pytest.fixture(scope="module", name="reference")
def _reference() -> Reference:
    rows = batch(calm(np.random.default_rng(0), 2_000), -2_000)
    return build_from("m", rows, {}, roles={}, source="test", created=0.0)


def watch(reference: Reference, values: Floats) -> list[list[Finding]]:
    """The findings of each window; the memory goes through bytes every time, as in a restart."""
    memory: Any = DETECTOR.start(reference, reference.layout.columns)
    found = []
    for first in range(0, len(values), WINDOW):
        profile = Profile(reference.layout, 256)
        profile.update(batch(values[first : first + WINDOW], first))
        memory, scores = DETECTOR.step(memory, profile, reference.profile, reference.layout.columns)
        memory = decode(encode(memory), Any)
        found.append(scores.findings)
    return found


def columns(found: list[Finding]) -> set[str]:
    return {finding.column for finding in found}


def test_calm_windows_raise_nothing(reference: Reference) -> None:
    assert not any(watch(reference, calm(np.random.default_rng(1), 4_000)))


def test_an_incident_is_open_as_long_as_the_change_and_no_longer(reference: Reference) -> None:
    values = calm(np.random.default_rng(2), 9_000)
    values[1_000:4_000, :2] += 1.0
    found = watch(reference, values)
    assert not any(found[:5])
    assert all({"x", "y"} & columns(window) for window in found[6:20])
    assert not any(found[-5:])


def test_errors_that_become_rarer_beside_columns_that_never_vary_are_no_alarm() -> None:
    """The row's total beside constants is the column itself, whose fall is no change that counts."""

    def rows(rate: float, n: int, first: int) -> Batch:
        g = np.random.default_rng(7)
        flags = (g.random(n) < rate).astype(float)
        at = np.arange(first, first + n)
        columns = {"error": number(flags), "fixed": number(np.ones(n)), "never": number(np.full(n, np.nan))}
        return from_columns(columns, at.astype(np.float64), [str(i) for i in at])

    reference = build_from("m", rows(0.3, 2_000, -2_000), {}, roles={}, source="test", created=0.0)
    memory: Any = DETECTOR.start(reference, reference.layout.columns)
    found = []
    for first in range(0, 4_000, WINDOW):
        profile = Profile(reference.layout, 256)
        profile.update(rows(0.02, WINDOW, first))
        memory, scores = DETECTOR.step(memory, profile, reference.profile, reference.layout.columns)
        found += scores.findings
    assert not found


def test_a_broken_tie_is_found_though_each_column_is_as_it_was(reference: Reference) -> None:
    g = np.random.default_rng(3)
    values = calm(g, 2_000)
    values[1_000:, 1] = g.permutation(values[1_000:, 1])
    found = watch(reference, values)
    assert not any(found[:5])
    assert columns(found[6]) == {model.ROW}


def test_missing_values_rates_and_words_are_told_for_what_they_are(reference: Reference) -> None:
    g = np.random.default_rng(4)
    values = calm(g, 2_000)
    values[1_000:, 0] = np.where(g.random(1_000) < 0.3, np.nan, values[1_000:, 0])
    values[1_000:, 2] = g.random(1_000) < 0.3
    values[1_000:, 3] = 2
    texts = {finding.column: finding.text for finding in watch(reference, values)[-1]}
    assert "missing values went from 0 % to" in texts["x"]
    assert "flag moved: its rate went from" in texts["flag"]
    assert "'c' went from" in texts["word"]


def test_a_finding_says_since_when_where_and_beside_what(reference: Reference) -> None:
    g = np.random.default_rng(6)
    values = calm(g, 1_600)
    values[1_010:, 0] += 2.0 * (values[1_010:, 3] == 0)
    [x, *_] = watch(reference, values)[-1]
    assert x.column == "x"
    assert x.facts["rank"] == 1
    assert x.facts["since"] == pytest.approx(1_010, abs=5)
    assert x.facts["slice"] == "word = 'a'"
    assert "where word = 'a'" in x.text
    assert "since 1970-01-01 00:16:5" in x.text
    assert x.facts["before"] == pytest.approx(0.0, abs=0.1)
    assert x.facts["after"] == pytest.approx(1.2, abs=0.3)  # three rows of five moved by 2


def test_a_change_of_unit_is_named_and_what_moved_with_it_stands_beside_it(reference: Reference) -> None:
    values = calm(np.random.default_rng(7), 1_600)
    values[1_000:, :2] = values[1_000:, :2] * 1.8 + 32.0
    found = {finding.column: finding for finding in watch(reference, values)[-1]}
    assert found["x"].facts["conversion"] == "Celsius to Fahrenheit"
    assert "x reads like Fahrenheit where it was Celsius" in found["x"].text
    assert "At the same time moved y;" in found["x"].text


def test_a_broken_tie_names_the_pair(reference: Reference) -> None:
    g = np.random.default_rng(8)
    values = calm(g, 1_600)
    values[1_000:, 1] = g.permutation(values[1_000:, 1])
    [tie] = watch(reference, values)[-1]
    assert tie.column == model.ROW
    assert tie.facts["statistic"] in ("correlation with x", "correlation with y")
    assert tie.facts["before"] == pytest.approx(0.96, abs=0.02)
    assert tie.facts["after"] == pytest.approx(0.0, abs=0.15)


class Doubled(msgspec.Struct, frozen=True):
    """A scorer whose column shows a change of `x` twice as plainly."""

    def fit(self, rows: Batch) -> None:
        return None

    def score(self, rows: Batch, fitted: None) -> dict[str, Column]:
        return {"derived": number(np.round(rows["x"].values, 1))}


def test_a_derived_column_comes_after_the_one_that_moved_it() -> None:
    scorers = {"doubled": Doubled()}
    calm_rows = batch(calm(np.random.default_rng(0), 2_000), -2_000)
    reference = build_from("m", calm_rows, scorers, roles={}, source="test", created=0.0)
    for seed in range(5):
        values = calm(np.random.default_rng(seed), 1_200)
        values[1_000:, :2] += 1.0
        memory, found = DETECTOR.start(reference, reference.layout.columns), []
        for first in range(0, len(values), WINDOW):
            profile = Profile(reference.layout, 256)
            profile.update(reference.scored(batch(values[first : first + WINDOW], first), scorers))
            memory, scores = DETECTOR.step(memory, profile, reference.profile, reference.layout.columns)
            found = [finding.column for finding in scores.findings]
        assert found.index("derived") > max(found.index("x"), found.index("y"))


def test_an_approximate_promise_is_told_beside_what_it_came_to() -> None:
    rng = np.random.default_rng(9)
    values = calm(rng, 2_600)
    for i in range(1, len(values)):
        values[i, 0] += 0.7 * values[i - 1, 0]
    reference = build_from("m", batch(values[:2_000], -2_000), {}, roles={}, source="test", created=0.0)
    values[2_300:, 1] += 8.0
    finding = watch(reference, values[2_000:])[-1][0]
    assert "approximate, as 1 columns have memory: on 1,000 quiet rows of the reference it alarmed" in finding.text
    assert finding.facts["replay_promised"] == pytest.approx(0.1)
    replayed = DETECTOR.replayed(DETECTOR.start(reference, reference.layout.columns))
    assert replayed is not None
    assert finding.facts["replay_alarms"] == replayed.alarms


def test_windows_and_rows_alarm_alike_in_any_pieces(reference: Reference) -> None:
    values = calm(np.random.default_rng(5), 2_000)
    values[1_000:, 0] *= 2
    rows = rows_of(reference.layout, batch(values, 0))
    alarms = []
    for size in (2_000, 250, 37):
        memory, found = DETECTOR.start(reference, reference.layout.columns), []
        for first in range(0, 2_000, size):
            memory, new = DETECTOR.step_rows(memory, rows.take(slice(first, first + size)))
            found += [(first + alarm.row, alarm.shares) for alarm in new]
        alarms.append((found, encode(memory)))
    assert alarms[0][0]
    assert alarms[0] == alarms[1] == alarms[2]
