from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from detectors.checks.shift import ChiSquare, Hellinger, JensenShannon, Ks, LInfinity, Psi, Wasserstein
from detectors.core import Floats, Scores
from detectors.profile import Profile
from tests.detectors.checks.rows import reference, window

Law = Callable[[np.random.Generator, int], Floats]

LAWS: dict[str, Law] = {
    "normal": lambda rng, n: rng.normal(10, 3, n),
    "exponential": lambda rng, n: rng.exponential(2.0, n),
    "counts": lambda rng, n: rng.poisson(6, n).astype(float),
    "flag": lambda rng, n: (rng.random(n) < 0.2).astype(float),
    "two humps": lambda rng, n: np.where(rng.random(n) < 0.5, rng.normal(-4, 1, n), rng.normal(4, 1, n)),
}


def pair(before: Any, now: Any) -> tuple[Profile, Profile]:
    was = reference({"x": before})
    return window(was, {"x": now}), was


def only(scores: Scores) -> tuple[float, float]:
    assert scores.columns == ("x",)
    assert scores.p_value is not None
    return float(scores.score[0]), float(scores.p_value[0])


@pytest.fixture(params=LAWS, name="samples")
def _samples(request: pytest.FixtureRequest) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(5)
    law = LAWS[request.param]
    before, now = law(rng, 20_000), law(rng, 4_000)
    moved = {"counts": now + 1, "flag": np.ones_like(now)}.get(request.param, now + 0.4 * now.std())
    return before, np.where(rng.random(now.size) < 0.15, moved, now)


def test_ks_is_scipys_within_the_cells(samples: tuple[Floats, Floats]) -> None:
    before, now = samples
    gap, p = only(Ks().check(*pair(before, now), ["x"]))
    exact = stats.ks_2samp(before, now, method="asymp")
    # cells of 1/64 cannot show a gap between their edges; they never show one that is not there
    assert exact.statistic - 1 / 64 <= gap <= exact.statistic + 1e-12
    assert p >= exact.pvalue * 0.9


def test_ks_p_value_is_scipys_for_the_same_gap() -> None:
    rng = np.random.default_rng(1)
    before, now = rng.integers(0, 40, 3_000).astype(float), rng.integers(1, 41, 500).astype(float)
    gap, p = only(Ks().check(*pair(before, now), ["x"]))
    exact = stats.ks_2samp(before, now, method="asymp")
    assert gap == pytest.approx(exact.statistic, abs=1e-12)  # 40 values have a cell each
    assert p == pytest.approx(exact.pvalue, rel=0.1)


def test_wasserstein_is_scipys_in_deviations_of_the_reference(samples: tuple[Floats, Floats]) -> None:
    before, now = samples
    moved, _ = only(Wasserstein().check(*pair(before, now), ["x"]))
    exact = stats.wasserstein_distance(before, now) / before.std()
    assert moved == pytest.approx(exact, abs=0.02)


def test_wasserstein_measures_what_lies_outside_the_reference() -> None:
    rng = np.random.default_rng(2)
    before, now = rng.normal(20, 5, 5_000), rng.normal(68, 9, 1_000)  # Celsius became Fahrenheit
    moved, _ = only(Wasserstein().check(*pair(before, now), ["x"]))
    assert moved == pytest.approx(stats.wasserstein_distance(before, now) / before.std(), rel=0.01)


def test_wasserstein_of_a_spread_that_doubled_is_scipys() -> None:
    rng = np.random.default_rng(2)
    before, now = rng.normal(0, 1, 20_000), rng.normal(0, 2, 5_000)
    moved, _ = only(Wasserstein().check(*pair(before, now), ["x"]))
    assert moved == pytest.approx(stats.wasserstein_distance(before, now) / before.std(), rel=0.05)


def test_wasserstein_of_few_distinct_values_is_exact_though_the_mean_stays() -> None:
    before, now = np.repeat([0.0, 10.0, 20.0], [250, 500, 250]), np.repeat([0.0, 10.0, 20.0], [100, 800, 100])
    moved, _ = only(Wasserstein().check(*pair(before, now), ["x"]))
    assert moved == pytest.approx(stats.wasserstein_distance(before, now) / before.std(ddof=1), rel=1e-9)


def words(rng: np.random.Generator, n: int, shares: dict[str, float]) -> list[str]:
    return [str(w) for w in rng.choice(list(shares), n, p=list(shares.values()))]


BEFORE = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
AFTER = {"a": 0.4, "b": 0.35, "c": 0.15, "d": 0.1}


def counted(rng: np.random.Generator) -> tuple[list[str], list[str], Floats]:
    before, now = words(rng, 8_000, BEFORE), words(rng, 2_000, AFTER)
    return before, now, np.array([[sample.count(w) for w in BEFORE] for sample in (now, before)], float)


def test_chi_square_p_value_is_scipys() -> None:
    before, now, table = counted(np.random.default_rng(3))
    size, p = only(ChiSquare().check(*pair(before, now), ["x"]))
    assert p == pytest.approx(float(stats.chi2_contingency(table).pvalue), rel=1e-6)
    shares = np.array(list(AFTER.values())), np.array(list(BEFORE.values()))
    assert size == pytest.approx(float(np.sqrt(((shares[0] - shares[1]) ** 2 / shares[1]).sum())), abs=0.05)


def test_jensen_shannon_is_scipys_but_for_the_noise_taken_off() -> None:
    before, now, table = counted(np.random.default_rng(4))
    size, _ = only(JensenShannon().check(*pair(before, now), ["x"]))
    shares = table / table.sum(axis=1, keepdims=True)
    exact = float(distance.jensenshannon(shares[0], shares[1], base=2))
    assert size == pytest.approx(exact, abs=0.006)
    assert size < exact


def test_hellinger_is_scipys_euclidean_of_the_roots_but_for_the_noise_taken_off() -> None:
    before, now, table = counted(np.random.default_rng(4))
    size, _ = only(Hellinger().check(*pair(before, now), ["x"]))
    roots = np.sqrt(table / table.sum(axis=1, keepdims=True))
    exact = float(distance.euclidean(roots[0], roots[1]) / np.sqrt(2))
    assert size == pytest.approx(exact, abs=0.006)
    assert size < exact


def test_l_infinity_is_scipys_chebyshev_distance_of_the_shares() -> None:
    before, now, table = counted(np.random.default_rng(4))
    size, _ = only(LInfinity().check(*pair(before, now), ["x"]))
    shares = table / table.sum(axis=1, keepdims=True)
    assert size == pytest.approx(float(distance.chebyshev(shares[0], shares[1])), abs=1e-12)


# What these libraries say of 4000, 2400, 1200, 400 words before and 800, 700, 300, 200 now. NannyML needs an older
# numpy than ours: computed once, `fit` on the first and `calculate` on the second of its univariate categorical
# methods; of evidently the stattests of these names.
COUNTS = ([4_000, 2_400, 1_200, 400], [800, 700, 300, 200])
NOISE = 3 * (1 / 8_000 + 1 / 2_000)  # three degrees of freedom, taken off the squared distance


@pytest.mark.parametrize(
    ("detector", "theirs", "noise"),
    [
        pytest.param(Hellinger(), 0.0896587500526, NOISE / 8, id="hellinger: nannyml 0.13.1, evidently 0.7.23"),
        pytest.param(JensenShannon(), 0.1073879117551, NOISE / 8 / np.log(2), id="jensen_shannon: nannyml 0.13.1"),
        pytest.param(LInfinity(), 0.1, 0.0, id="l_infinity: nannyml 0.13.1"),
    ],
)
def test_distances_are_those_of_other_libraries_but_for_the_noise(detector: Any, theirs: float, noise: float) -> None:
    before, now = (np.repeat(["a", "b", "c", "d"], counts).tolist() for counts in COUNTS)
    size, _ = only(detector.check(*pair(before, now), ["x"]))
    assert np.sqrt(size**2 + noise) == pytest.approx(theirs, rel=2e-3)  # half a row more in each word


def test_the_stability_index_is_evidentlys_but_for_the_noise() -> None:
    before, now = (np.repeat(["a", "b", "c", "d"], counts).tolist() for counts in COUNTS)
    size, _ = only(Psi().check(*pair(before, now), ["x"]))
    assert size + NOISE == pytest.approx(0.0646792481508, rel=5e-3)  # evidently 0.7.23


@pytest.mark.parametrize("size", [0.2, 0.5])
def test_psi_of_a_normal_law_is_the_square_of_its_shift(size: float) -> None:
    rng = np.random.default_rng(6)
    found, _ = only(Psi().check(*pair(rng.normal(0, 1, 100_000), rng.normal(size, 1, 50_000)), ["x"]))
    assert found == pytest.approx(size**2, rel=0.12)  # ten groups keep nine tenths of it


@pytest.mark.parametrize("rows", [200, 1_000, 10_000])
def test_the_distance_of_two_samples_of_one_law_does_not_depend_on_their_size(rows: int) -> None:
    rng = np.random.default_rng(rows)
    was = reference({str(i): rng.normal(0, 1, 5_000) for i in range(40)})
    now = window(was, {str(i): rng.normal(0, 1, rows) for i in range(40)})
    names = list(was.layout.numbers)
    assert np.median(Psi().check(now, was, names).score) < 0.4 / rows + 1e-9 + 2 / rows
    assert np.median(ChiSquare(numbers=True).check(now, was, names).score) ** 2 < 3 / rows


def test_p_values_of_calm_columns_are_uniform() -> None:
    rng = np.random.default_rng(11)
    was = reference({f"{i:03d}": rng.normal(0, 1, 3_000) for i in range(400)})
    now = window(was, {f"{i:03d}": rng.normal(0, 1, 1_000) for i in range(400)})
    p = Psi().check(now, was, was.layout.numbers).p_value
    assert p is not None
    assert stats.kstest(p, "uniform").pvalue > 0.001
    p = Ks().check(now, was, was.layout.numbers).p_value
    assert p is not None
    assert 0.01 < (p < 0.05).mean() < 0.07  # of 64 cells, so a little too large


def test_a_rare_flag_that_becomes_frequent_is_found_and_one_more_of_it_is_not() -> None:
    before = ["no"] * 1_999 + ["yes"]
    assert ChiSquare().check(*pair(before, ["no"] * 90 + ["yes"] * 10), ["x"]).findings
    calm = ChiSquare(limit=0, alpha=0.05).check(*pair(before, ["no"] * 498 + ["yes"] * 2), ["x"])
    assert not calm.findings


def test_unseen_words_count_as_a_group() -> None:
    rng = np.random.default_rng(8)
    before = words(rng, 5_000, BEFORE)
    now = [*words(rng, 700, BEFORE), *["new"] * 300]
    found = Psi().check(*pair(before, now), ["x"]).findings
    assert len(found) == 1
    assert "words that the reference lacks" in found[0].text


def test_the_text_tells_what_moved_from_where_to_where_and_how_sure() -> None:
    rng = np.random.default_rng(9)
    found = Ks().check(*pair(rng.normal(10, 1, 5_000), rng.normal(12, 1, 1_000)), ["x"]).findings[0]
    assert found.text == (
        "x moved: its mean went from 10.01 to 11.97. "
        "Largest gap between the distributions 0.664, limit 0.1, p < 1e-12, 1,000 rows against 5,000."
    )
    assert found.effect == found.score > 0.5
    assert found.p_value is not None
    assert found.p_value < 1e-12


def test_a_spread_that_grew_is_told_by_its_quantile() -> None:
    rng = np.random.default_rng(9)
    found = Ks().check(*pair(rng.normal(0, 1, 5_000), rng.normal(0, 3, 1_000)), ["x"]).findings[0]
    assert "% quantile went from" in found.text


def test_a_change_under_the_limit_is_measured_but_not_found_however_sure() -> None:
    rng = np.random.default_rng(10)
    scores = Ks().check(*pair(rng.normal(0, 1, 100_000), rng.normal(0.1, 1, 100_000)), ["x"])
    gap, p = only(scores)
    assert 0.02 < gap < 0.1
    assert p < 1e-12
    assert not scores.findings


def test_too_few_rows_are_not_measured() -> None:
    rng = np.random.default_rng(10)
    scores = Ks(min_rows=100).check(*pair(rng.normal(0, 1, 1_000), rng.normal(5, 1, 99)), ["x"])
    assert np.isnan(scores.score[0])
    assert not scores.findings
