from __future__ import annotations

import numpy as np

from detectors.evidence.merge import attributed


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
