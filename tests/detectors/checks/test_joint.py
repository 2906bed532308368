"""Joint change on row samples, held against scikit-learn and scipy."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from detectors.checks.joint import DomainClassifier, Mmd
from detectors.checks.shift import Ks
from detectors.core import Floats, Scores, from_columns, number
from detectors.profile import Profile, lay_out
from tests.detectors.checks.rows import reference, window

CREDIT = Path(__file__).resolve().parents[4] / "shared" / "data" / "credit_default" / "credit.csv.gz"
BOTH = (Mmd(), DomainClassifier())


def profiles(before: Floats, now: Floats) -> tuple[Profile, Profile]:
    """The profile of the window, and that of the reference; the ids differ, so the samples' keys do."""
    names = [f"x{i}" for i in range(before.shape[1])]
    rows = [
        from_columns(
            {name: number(column) for name, column in zip(names, part.T, strict=True)},
            ids=[f"{prefix} {i}" for i in range(len(part))],
        )
        for prefix, part in (("before", before), ("now", now))
    ]
    was = Profile(lay_out(rows[0]), 2_000)
    was.update(rows[0])
    current = Profile(was.layout, 256)
    current.update(rows[1])
    return current, was


def look(detector: Any, before: Floats, now: Floats) -> Scores:
    current, was = profiles(before, now)
    found: Scores = detector.check(current, was, was.layout.columns)
    return found


def points(current: Profile, was: Profile) -> tuple[Floats, int]:
    """What both look at, said with scipy: ranks among the reference's rows, standardised by these."""
    now, before = current.sample.numbers[:256], was.sample.numbers[:256]
    ranks = np.column_stack([
        stats.percentileofscore(before[:, i], np.concatenate([now[:, i], before[:, i]]), kind="mean")
        for i in range(now.shape[1])
    ])  # fmt: skip
    return (ranks - ranks[len(now) :].mean(axis=0)) / ranks[len(now) :].std(axis=0), len(now)


def correlated(rng: np.random.Generator, n: int, rho: float, columns: int = 3) -> Floats:
    shared = rng.normal(size=(n, 1))
    return np.asarray(np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=(n, columns)))


def test_the_discrepancy_is_that_of_scikit_learns_kernel() -> None:
    rng = np.random.default_rng(0)
    current, was = profiles(correlated(rng, 700, 0.6), correlated(rng, 200, 0.0))
    at, n = points(current, was)
    apart = ((at[n:, None] - at[None, n:]) ** 2).sum(axis=2)
    kernel = rbf_kernel(at, gamma=1 / np.median(apart[np.triu_indices(len(apart), 1)]))
    np.fill_diagonal(kernel, 0.0)
    m = len(at) - n
    square = kernel[:n, :n].sum() / n / (n - 1) + kernel[n:, n:].sum() / m / (m - 1) - 2 * kernel[:n, n:].mean()
    assert Mmd().check(current, was, was.layout.columns).score[0] == pytest.approx(np.sqrt(square), abs=1e-4)


def test_the_area_is_that_of_scikit_learns_ridge_on_rows_held_out() -> None:
    rng = np.random.default_rng(1)
    current, was = profiles(correlated(rng, 700, 0.6), correlated(rng, 200, 0.2))
    at, n = points(current, was)
    label = (np.arange(len(at)) < n).astype(float)
    ridge = KernelRidge(alpha=1.0, kernel="poly", degree=2, gamma=1 / at.shape[1], coef0=1.0)
    folds = PredefinedSplit(np.arange(len(at)) % 5)
    said = cross_val_predict(ridge, at, label - label.mean(), cv=folds)
    found = DomainClassifier().check(current, was, was.layout.columns).score[0]
    assert found == pytest.approx(roc_auc_score(label, said), abs=1e-3)


@pytest.mark.parametrize("detector", BOTH)
def test_a_correlation_that_broke_is_found_and_named_though_no_column_moved(detector: Any) -> None:
    rng = np.random.default_rng(2)
    before, now = correlated(rng, 3_000, 0.7), correlated(rng, 250, 0.7)
    now[:, 2] = rng.permutation(now[:, 2])
    assert not look(Ks(), before, now).findings
    (finding,) = look(detector, before, now).findings
    assert finding.column == ""
    assert "x2" in (finding.facts["first"], finding.facts["second"])
    assert finding.facts["before"] == pytest.approx(0.67, abs=0.08)
    assert finding.facts["after"] == pytest.approx(0.0, abs=0.2)
    assert "the correlation of their ranks went from 0." in finding.text


@pytest.mark.parametrize("detector", BOTH)
def test_a_column_that_moved_is_named(detector: Any) -> None:
    rng = np.random.default_rng(3)
    (finding,) = look(detector, rng.normal(size=(2_000, 4)), rng.normal([0, 0, 1.2, 0], 1, (250, 4))).findings
    assert finding.facts["first"] == "x2"
    assert "above the reference's median are now" in finding.text


@pytest.mark.parametrize("detector", BOTH)
@pytest.mark.parametrize("columns", [1, 6])
def test_p_values_of_calm_rows_are_uniform(detector: Any, columns: int) -> None:
    rng = np.random.default_rng(columns)
    found = []
    for _ in range(40):
        scores = look(detector, rng.exponential(size=(100, columns)), rng.exponential(size=(60, columns)))
        assert scores.p_value is not None
        found.append(scores.p_value[0])
    assert stats.kstest(found, "uniform").pvalue > 0.001


@pytest.mark.parametrize("detector", BOTH)
def test_words_count_too(detector: Any) -> None:
    rng = np.random.default_rng(5)
    before = rng.choice(["a", "b"], 2_000).tolist()
    was = reference({"one": before, "other": before})
    now = rng.choice(["a", "b"], 250).tolist()
    assert not detector.check(window(was, {"one": now, "other": now}), was, was.layout.columns).findings
    swapped = ["b" if word == "a" else "a" for word in now]
    assert detector.check(window(was, {"one": now, "other": swapped}), was, was.layout.columns).findings


@pytest.mark.parametrize("detector", BOTH)
def test_too_few_rows_are_not_measured(detector: Any) -> None:
    rng = np.random.default_rng(6)
    scores = look(detector, rng.normal(size=(500, 2)), rng.normal(size=(49, 2)) + 9)
    assert np.isnan(scores.score[0])
    assert not scores.findings


def test_client_rows_of_which_ten_columns_were_shuffled_together_are_told_from_whole_ones() -> None:
    if not CREDIT.exists():
        pytest.skip("needs the shared data set credit_default")
    with gzip.open(CREDIT, "rt") as lines:
        table = np.array([[float(value) for value in row[:-1]] for row in list(csv.reader(lines))[1:]])
    rng = np.random.default_rng(7)
    table = rng.permutation(table)
    found = {"calm": 0, "broken": 0}
    for start in range(6_000, 7_500, 250):
        calm, broken = table[start : start + 250], table[start : start + 250].copy()
        broken[:, :10] = rng.permutation(broken[:, :10])
        assert not look(Ks(), table[:6_000], broken).findings
        for name, rows in (("calm", calm), ("broken", broken)):
            found[name] += len(look(DomainClassifier(), table[:6_000], rows).findings)
    assert found["calm"] == 0
    assert found["broken"] >= 3
