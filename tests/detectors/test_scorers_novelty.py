from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, spearmanr
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from detectors.core import Batch, category, from_columns, number, vector
from detectors.scorers.novelty import Novelty


def table(matrix: Any, prefix: str = "x") -> Batch:
    return from_columns({f"{prefix}{i}": number(column) for i, column in enumerate(np.asarray(matrix).T)})


def novelty(reference: Batch, rows: Batch, scorer: Novelty | None = None) -> np.ndarray[Any, Any]:
    chosen = scorer or Novelty()
    return chosen.score(rows, chosen.fit(reference))["novelty"].values


def share_higher(new: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> float:
    """Chance that a new row scores above a known one (AUC)."""
    return float((new[:, None] > known[None, :]).mean())


def test_orders_rows_as_the_true_law_does() -> None:
    rng = np.random.default_rng(0)
    law = multivariate_normal([1.0, -2.0, 5.0], [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 9.0]])
    fresh = law.rvs(500, random_state=rng)
    found = novelty(table(law.rvs(4000, random_state=rng)), table(fresh))
    assert spearmanr(found, -law.logpdf(fresh)).statistic > 0.98


@pytest.mark.parametrize("seed", range(6))
def test_fits_clusters_as_well_as_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, 4)) * 6
    reference, fresh = (centers[rng.integers(3, size=n)] + rng.normal(size=(n, 4)) for n in (3000, 1000))
    theirs = -GaussianMixture(3, n_init=5, random_state=0).fit(reference).score_samples(fresh)
    assert spearmanr(novelty(table(reference), table(fresh)), theirs).statistic > 0.95


def test_a_gap_between_clusters_is_novel() -> None:
    rng = np.random.default_rng(2)
    reference = np.where(rng.random((2000, 1)) < 0.5, -5.0, 5.0) + rng.normal(size=(2000, 2))
    between = rng.normal(size=(200, 2)) * 0.5
    assert share_higher(novelty(table(reference), table(between)), novelty(table(reference), table(reference))) > 0.95


def test_digits_never_seen_in_training_are_novel() -> None:
    pictures, labels = load_digits(return_X_y=True)
    known, new = pictures[labels < 8], pictures[labels >= 8]
    scorer = Novelty(columns=("embedding",))
    reference, unseen, fresh = (from_columns({"embedding": vector(m)}) for m in (known[::2], new, known[1::2]))
    assert share_higher(novelty(reference, unseen, scorer), novelty(reference, fresh, scorer)) > 0.85


def test_a_direction_that_the_reference_never_took_is_novel() -> None:
    rng = np.random.default_rng(3)
    plane = rng.normal(size=(16, 40))
    reference = rng.normal(size=(3000, 16)) @ plane + rng.normal(size=(3000, 40)) * 0.05
    fresh = rng.normal(size=(300, 16)) @ plane + rng.normal(size=(300, 40)) * 0.05
    left = fresh + rng.normal(size=(300, 40)) * 0.5
    assert share_higher(novelty(table(reference), table(left)), novelty(table(reference), table(fresh))) > 0.99


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(1000, 3))
    units, zero = np.array([1e-6, 1.0, 1e9]), np.array([5.0, 0.0, -1e10])
    assert novelty(table(matrix * units + zero), table(matrix * units + zero)) == pytest.approx(
        novelty(table(matrix), table(matrix)), abs=1e-3
    )


def test_constant_columns_say_nothing() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(500, 2))
    with_constant = np.hstack([matrix, np.full((500, 1), 1e7 / 3)])
    assert novelty(table(with_constant), table(with_constant)) == pytest.approx(
        novelty(table(matrix), table(matrix)), abs=1e-6
    )


def test_a_missing_value_stands_at_the_mean_and_a_row_without_any_is_missing() -> None:
    rng = np.random.default_rng(6)
    matrix = rng.normal(size=(1000, 2))
    rows = np.array([[np.nan, 1.0], [matrix[:, 0].mean(), 1.0], [np.nan, np.nan], [np.inf, 1.0]])
    missing, mean, none, endless = novelty(table(matrix), table(rows))
    assert missing == pytest.approx(mean, abs=1e-3)  # a fifth of the reference is kept from the fit
    assert np.isnan(none)
    assert endless == missing


def test_one_wild_value_is_bounded() -> None:
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(1000, 4))
    calm, wild = novelty(table(matrix), table([[0.0] * 4, [1e300] * 4]))
    assert 50 < wild - calm < 4 * 10.0**2


def test_a_reference_with_nothing_to_fit_derives_nothing() -> None:
    assert Novelty().fit(table(np.random.default_rng(8).normal(size=(19, 2)))) is None
    assert Novelty().fit(table(np.ones((100, 3)))) is None
    assert Novelty().fit(from_columns({"word": category(["a"] * 100)})) is None


def test_without_columns_named_it_looks_at_the_embedding_or_else_the_inputs() -> None:
    rng = np.random.default_rng(9)
    batch = table(rng.normal(size=(100, 2)))
    batch.columns |= {"latency": number(rng.random(100)), "entropy": number(rng.random(100))}
    assert Novelty().fit(batch)["columns"] == ["x0", "x1"]
    batch.columns["embedding"] = vector(rng.normal(size=(100, 3)))
    assert Novelty().fit(batch)["columns"] == ["embedding"]


def test_a_long_embedding_and_equal_rows_are_fitted() -> None:
    rng = np.random.default_rng(10)
    few = rng.normal(size=(3, 500))[rng.integers(3, size=200)]
    batch = from_columns({"embedding": vector(few)})
    assert np.isfinite(novelty(batch, batch)).all()


def test_the_distance_is_that_to_the_nearest_cluster_in_its_own_deviations() -> None:
    rng = np.random.default_rng(11)
    # a large round cluster, and a small one four times as wide
    reference = np.concatenate([rng.normal(size=(1800, 2)), [40.0, 0.0] + 4 * rng.normal(size=(200, 2))])
    fitted = Novelty().fit(table(reference))
    found = Novelty().score(table([[3.0, 0.0], [52.0, 0.0], [40.0, 0.0]]), fitted)["cluster_distance"].values
    assert found == pytest.approx([3.0, 3.0, 0.0], abs=0.5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.sampled_from([600, 3_000]), share=st.sampled_from([0.01, 0.05]))
def test_rows_of_the_references_kind_are_flagged_as_rarely_as_promised(seed: int, n: int, share: float) -> None:
    """On average over references, so 4 deviations are left for the one at hand."""
    rng = np.random.default_rng(seed)

    def law(rows: int) -> Any:
        return rng.standard_t(3, size=(rows, 5)) @ np.diag([1, 1, 2, 3, 4])

    scorer = Novelty(flagged=share)
    found = scorer.score(table(law(4_000)), scorer.fit(table(law(n))))["non_representative"].values
    held = n / 5
    assert found.mean() <= share + 4 * np.sqrt(share * (1 - share) * (1 / held + 1 / 4_000))
    assert found.mean() > 0


def test_a_new_group_is_flagged_and_a_small_reference_flags_nothing() -> None:
    rng = np.random.default_rng(12)
    new = table(rng.normal(5, 1, size=(200, 3)))
    for n, share in ((1_000, 1.0), (400, 0.0)):
        fitted = Novelty().fit(table(rng.normal(size=(n, 3))))
        assert Novelty().score(new, fitted)["non_representative"].values.mean() == share
