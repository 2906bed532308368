from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detectors.checks.tails import binomial_tail, chi_square_tail, kolmogorov_tail, normal_tail, upper_share


@given(st.floats(0, 2_000), st.integers(1, 600))
def test_the_chi_square_tail_is_scipys(x: float, freedom: int) -> None:
    tail = chi_square_tail(np.array([x]), np.array([freedom]))[0]
    assert tail == pytest.approx(stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-290)


def test_the_chi_square_tail_without_freedom_is_not_measured() -> None:
    assert np.isnan(chi_square_tail(np.array([1.0, 1.0]), np.array([0, 1]))).tolist() == [True, False]


@given(st.integers(1, 20_000), st.floats(1e-6, 0.999), st.floats(0, 8))
def test_the_binomial_tail_is_scipys_and_a_little_more(rows: int, share: float, deviations: float) -> None:
    hits = min(rows, round(rows * share + deviations * np.sqrt(rows * share * (1 - share)) + 1))
    exact = float(stats.binom.sf(hits - 1, rows, share))
    tail = float(binomial_tail(np.array([hits]), np.array([rows]), np.array([share]))[0])
    assert tail >= exact * 0.999
    for under, excess in ((0.05, 1.25), (0.001, 1.1), (0.0001, 1.07)):
        if 1e-290 < exact < under:
            assert tail <= exact * excess


def test_the_binomial_tail_at_its_corners() -> None:
    tails = binomial_tail(np.array([0, 0, 3, 3]), np.array([0, 3, 3, 3]), np.array([0.5, 0.5, 0.5, 1.0]))
    assert np.isnan(tails[0])
    assert tails[1:].tolist() == [1.0, pytest.approx(0.125), 1.0]


@pytest.mark.parametrize("rows", [50, 500, 50_000])
def test_the_kolmogorov_tail_is_near_the_exact_one(rows: int) -> None:
    for t in (0.3, 0.8, 1.2, 1.36, 1.9):
        gap = np.array([t / np.sqrt(rows)])
        assert kolmogorov_tail(gap, np.array([float(rows)]))[0] == pytest.approx(stats.kstwo.sf(gap, rows)[0], rel=0.03)


def test_the_normal_tail_is_scipys() -> None:
    z = np.linspace(-6, 30, 50)
    assert normal_tail(z) == pytest.approx(stats.norm.sf(z), rel=1e-12)


def test_the_upper_share_covers_the_truth() -> None:
    hits = np.random.default_rng(1).binomial(2_000, 0.01, 20_000)
    covered = upper_share(hits, np.full(hits.size, 2_000)) >= 0.01
    assert 0.998 <= covered.mean() < 1
