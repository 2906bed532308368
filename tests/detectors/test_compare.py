"""Tests that may be looked at after every label: false alarms, coverage at all times at once, labels they need."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.compare import (
    FEW,
    Paired,
    Split,
    Weighed,
    agreement,
    kappa,
    log_evidence,
    quantile_bounds,
    share_bounds,
)

ALPHA = 0.05
RUNS = 300


def first_decision(wins: np.ndarray) -> int | None:
    """Labels until the test decides, looked at after every one."""
    for n, k in enumerate(np.cumsum(wins).tolist(), start=1):
        if log_evidence(k, n) >= math.log(1 / ALPHA):
            return n
    return None


def test_a_slice_that_loses_the_margin_is_seldom_let_pass_however_often_one_looks() -> None:
    rng, passed, margin = np.random.default_rng(3), {0.35: 0, 0.75: 0}, 0.02  # of 10 % of the events: -3 and +5 points
    for better in passed:
        for _ in range(100):
            wins = np.cumsum(rng.random(200) < better).tolist()
            looks = (Paired(2_000, 200, k, n - k, 0) for n, k in enumerate(wins, start=1) if n % 10 == 0)
            passed[better] += any(look.gap(ALPHA).no_worse(margin) for look in looks)
    assert passed[0.35] <= 5 + 2 * math.sqrt(0.05 * 0.95 * 100)
    assert passed[0.75] >= 95


def test_versions_that_are_alike_are_told_apart_seldom_however_often_one_looks() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(first_decision(rng.random(300) < 0.5) is not None for _ in range(RUNS))
    assert alarms <= 0.05 * RUNS + 2 * math.sqrt(0.05 * 0.95 * RUNS)
    assert alarms > 0, "the test could never alarm"


def test_a_version_that_wins_nine_disagreements_in_ten_is_found_soon() -> None:
    rng = np.random.default_rng(2)
    found = [first_decision(rng.random(300) < 0.9) or 300 for _ in range(100)]
    assert np.median(found) <= 15


@pytest.mark.parametrize("p", [0.02, 0.5])
def test_share_bounds_hold_at_all_times_at_once(p: float) -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        seen = np.cumsum(rng.random(200) < p)
        missed += any(
            not low <= p <= high for low, high in (share_bounds(int(seen[n - 1]), n, ALPHA) for n in range(1, 201, 3))
        )
    assert missed <= 0.05 * 200 + 2 * math.sqrt(0.05 * 0.95 * 200)


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.001, 0.5))
def test_share_bounds_hold_what_was_seen_and_widen_with_certainty(k: int, misses: int, alpha: float) -> None:
    n = k + misses
    low, high = share_bounds(k, n, alpha)
    surer = share_bounds(k, n, alpha / 10)
    assert 0.0 <= surer[0] <= low <= high <= surer[1] <= 1.0
    if n:
        assert low <= k / n <= high


counts = st.builds(
    lambda same, wins, losses, neither, more: Paired(
        same + wins + losses + neither + more, wins + losses + neither + more, wins, losses, neither
    ),
    *[st.integers(0, 300)] * 5,
)


@given(counts)
def test_a_paired_gap_lies_in_its_bounds_and_turns_with_the_sides(paired: Paired) -> None:
    gap = paired.gap()
    turned = Paired(paired.compared, paired.disagreed, paired.losses, paired.wins, paired.neither).gap()
    assert (turned.low, turned.high, turned.decided) == pytest.approx((-gap.high, -gap.low, -gap.decided))
    assert -1.0 <= gap.low <= gap.high <= 1.0
    if not math.isnan(gap.value):
        assert gap.low <= gap.value <= gap.high
    most = paired.disagreed / paired.compared if paired.compared else 1.0
    assert math.isnan(gap.value) or abs(gap.value) <= most


def test_few_disagreements_bound_the_gap_before_any_label() -> None:
    gap = Paired(compared=20_000, disagreed=20).gap()
    assert math.isnan(gap.value)
    assert gap.high < 0.003


def test_negative_flips_are_the_answers_that_turned_wrong() -> None:
    paired = Paired(compared=1_000, disagreed=100, wins=15, losses=5, neither=0)
    assert paired.negative_flips == pytest.approx(0.025)
    assert math.isnan(Paired(compared=10).negative_flips)


def sums(rights: np.ndarray, weights: np.ndarray) -> Weighed:
    found = Weighed()
    for right, weight in zip(rights.tolist(), weights.tolist(), strict=True):
        found = found.add(weight, right=bool(right))
    return found


def test_split_traffic_alike_is_told_apart_seldom_and_a_large_gap_surely() -> None:
    rng = np.random.default_rng(4)

    def decisions(better: float) -> float:
        found = 0
        for _ in range(120):
            stable, candidate = Weighed(), Weighed()
            for n in range(600):
                weight = float(rng.choice([1.0, 4.0]))
                stable = stable.add(weight, right=bool(rng.random() < 0.7))
                candidate = candidate.add(weight, right=bool(rng.random() < 0.7 + better))
                if n % 5 == 0 and Split(stable, candidate).gap().decided:
                    found += 1
                    break
        return found / 120

    assert decisions(0.0) <= 0.1
    assert decisions(0.2) >= 0.9


def test_split_traffic_says_nothing_of_few_labels() -> None:
    few = sums(np.ones(FEW - 1), np.ones(FEW - 1))
    assert Split(few, sums(np.zeros(100), np.ones(100))).gap().decided == 0


def test_labels_without_an_error_are_no_certainty() -> None:
    assert sums(np.ones(50), np.ones(50)).variance > 0.0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.5, 20.0)), min_size=1, max_size=50))
def test_weighed_is_the_ratio_of_weighted_sums(labels: list[tuple[bool, float]]) -> None:
    rights, weights = (np.array(part, np.float64) for part in zip(*labels, strict=True))
    found = sums(rights, weights)
    assert found.mean == pytest.approx(float(np.average(rights, weights=weights)))
    direct = float((weights**2 * (rights - found.mean) ** 2).sum() / weights.sum() ** 2)
    assert found.variance >= direct - 1e-12


def test_quantile_bounds_hold_at_all_times_at_once() -> None:
    rng = np.random.default_rng(5)
    edges = np.linspace(0.0, 1.0, 65)
    missed, widths = 0, []
    for _ in range(100):
        cells = np.cumsum(
            [np.bincount(np.searchsorted(edges, rng.random(250)), minlength=66) for _ in range(40)], axis=0
        )
        bounds = [quantile_bounds(seen, edges, 0.95, ALPHA) for seen in cells]
        missed += any(not low <= 0.95 <= high for low, high in bounds)
        widths.append(bounds[-1][1] - bounds[-1][0])
    assert missed <= 0.05 * 100
    assert max(widths) < 0.12, "10,000 values say something"


def test_kappa_is_the_same_from_answers_and_from_their_table() -> None:
    rng = np.random.default_rng(6)
    first = rng.integers(0, 4, 500)
    second = np.where(rng.random(500) < 0.8, first, rng.integers(0, 4, 500))
    table: dict[tuple[int, int], int] = {}
    for pair in zip(first.tolist(), second.tolist(), strict=True):
        table[pair] = table.get(pair, 0) + 1
    assert agreement(first, second) == pytest.approx(kappa(table))
    assert kappa(table) == pytest.approx(_cohen(first, second))
    assert agreement(first, first) == 1.0
    assert agreement(np.zeros(5, np.int64), np.zeros(5, np.int64)) == 1.0
    assert math.isnan(kappa({}))


def _cohen(first: np.ndarray, second: np.ndarray) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(first, second))
