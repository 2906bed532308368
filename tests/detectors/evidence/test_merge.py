from __future__ import annotations

import numpy as np

from detectors.evidence.merge import Lond, attributed


def _dependent_e_values(rng: np.random.Generator, columns: int, moved: int, strength: float) -> np.ndarray:
    """Likelihood ratios of columns that share most of their noise; the first `moved` truly moved."""
    noise = 0.95 * rng.normal() + np.sqrt(1 - 0.95**2) * rng.normal(size=columns)
    noise[:moved] += strength
    return np.asarray(np.exp(strength * noise - strength**2 / 2))


def test_false_ones_among_those_attributed_stay_under_the_level_under_strong_dependence() -> None:
    rng = np.random.default_rng(0)
    false, found = [], 0
    for _ in range(4_000):
        named = attributed(_dependent_e_values(rng, 20, 5, 4.0), np.full(20, 0.05), level=1 / 0.2)
        false.append(named[5:].sum() / max(named.sum(), 1))
        found += named[:5].sum()

    assert np.mean(false) <= 0.2
    assert found > 0.5 * 5 * 4_000  # it is no virtue of never finding anything


def test_the_mean_of_dependent_evidence_is_evidence() -> None:
    rng = np.random.default_rng(1)
    high = [_dependent_e_values(rng, 20, 0, 1.5) @ np.full(20, 0.05) >= 20 for _ in range(20_000)]

    assert np.mean(high) <= 1 / 20


def test_a_column_without_evidence_is_not_attributed_and_weights_count() -> None:
    evidence = np.array([np.nan, 50.0, 50.0])

    assert attributed(evidence, np.array([0.2, 0.7, 0.1]), level=20.0).tolist() == [False, True, False]


def test_levels_over_all_time_never_add_up_to_more_than_alpha() -> None:
    assert sum(Lond(tested=t).level(0.05) for t in range(10_000)) < 0.05


def test_false_ones_among_successive_finds_stay_under_the_level_though_hypotheses_depend() -> None:
    rng = np.random.default_rng(2)
    shares, finds = [], 0
    for _ in range(400):
        common, false, state = rng.normal(), 0, Lond()
        for t in range(60):
            real = t % 30 == 0
            noise = 0.5 * common + np.sqrt(1 - 0.25) * rng.normal() + 3 * real
            state, found = state.step(float(np.exp(3 * noise - 4.5)), 0.1)
            false += found and not real
        shares.append(false / max(state.found, 1))
        finds += state.found

    assert np.mean(shares) <= 0.1  # 0.15 where each hypothesis takes the whole level for itself
    assert finds > 0.5 * 400


def test_each_find_makes_the_next_one_easier_and_each_calm_test_harder() -> None:
    calm, _ = Lond().step(0.0, 0.05)
    find, _ = Lond().step(1e9, 0.05)

    assert calm.level(0.05) < Lond().level(0.05)
    assert find.level(0.05) > calm.level(0.05)
