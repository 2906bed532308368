from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from detectors.core import Batch, Floats, from_columns, vector
from detectors.scorers.projection import Projection


def projected(reference: Floats, rows: Floats, scorer: Projection) -> Floats:
    found = scorer.score(embedded(rows), scorer.fit(embedded(reference)))
    assert list(found) == [f"projection_{i}" for i in range(scorer.count)]
    return np.array([column.values for column in found.values()])


def embedded(matrix: Floats) -> Batch:
    return from_columns({"embedding": vector(matrix)})


def test_distances_between_rows_are_kept_as_johnson_and_lindenstrauss_say() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(60, 300))
    found = projected(matrix, matrix, Projection(count=64))
    standard = (matrix - matrix.mean(axis=0)) / np.sqrt(matrix.var(axis=0).mean())
    ratio = pdist(found.T) / pdist(standard) * np.sqrt(300 / 64)
    # the squared ratio has variance 2 / 64, so the ratio strays by 1 / sqrt(2 * 64)
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)
    assert ratio.std() == pytest.approx(1 / np.sqrt(2 * 64), rel=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_a_mean_that_moved_somewhere_moves_a_projection(seed: int) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=128)
    moved = 8.0 * direction / np.linalg.norm(direction)
    found = projected(rng.normal(size=(3_000, 128)), rng.normal(size=(1_000, 128)) + moved, Projection(seed=seed))
    # 8 / sqrt(128) = 0.7 deviations in one, chance 1 / sqrt(1000)
    assert np.abs(found.mean(axis=1)).max() > 0.6


def test_the_scale_of_an_embedding_does_not_matter_and_a_constant_one_is_not_projected() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(100, 20))
    plain, scaled = (projected(m, m, Projection()) for m in (matrix, 1e6 * matrix + 3.0))
    assert scaled == pytest.approx(plain, abs=1e-6)
    constant: Any = Projection().fit(embedded(np.ones((100, 20))))
    assert constant is None
