from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river.anomaly import HalfSpaceTrees as RiversHalfSpaceTrees
from river.tree.padded import PaddedBranch

from detectors.core import Batch, Floats, from_columns, number
from detectors.scorers.half_space import HalfSpaceTrees

HEIGHT = 6


def table(matrix: Floats) -> Batch:
    return from_columns({f"x{i}": number(column) for i, column in enumerate(matrix.T)})


def rivers_trees(theirs: Any, columns: int) -> dict[str, Any]:
    """The trees of river as ours are kept: heaps of cuts and of the mass that came through each node."""
    inner = 2**HEIGHT - 1
    cut, at = np.zeros((len(theirs.trees), inner), np.int64), np.zeros((len(theirs.trees), inner))
    mass = np.zeros((len(theirs.trees), 2 * inner + 1), np.int64)
    for t, root in enumerate(theirs.trees):
        heap = [root]
        for i in range(2 * inner + 1):
            node: Any = heap[i]
            mass[t, i] = node.r_mass
            if isinstance(node, PaddedBranch):
                cut[t, i], at[t, i] = int(node.feature[1:]), node.threshold
                heap += node.children
    names = [f"x{i}" for i in range(columns)]
    return {
        "columns": names, "center": np.zeros(columns), "inverse": np.ones(columns), "cut": cut, "at": at, "mass": mass,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_on_rivers_trees_it_gives_rivers_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, fresh = rng.beta(2, 4, (300, 4)), rng.random((200, 4)) * 1.2
    theirs: Any = RiversHalfSpaceTrees(n_trees=7, height=HEIGHT, window_size=len(reference), seed=seed)
    for row in table_rows(reference):
        theirs.learn_one(row)
    expected = [theirs.score_one(row) for row in table_rows(fresh)]
    found = HalfSpaceTrees().score(table(fresh), rivers_trees(theirs, 4))["rarity"].values
    assert found == pytest.approx(expected, abs=1e-12)


def table_rows(matrix: Floats) -> list[dict[str, float]]:
    return [{f"x{i}": value for i, value in enumerate(row)} for row in matrix.tolist()]


def test_the_fitted_mass_is_the_references_rows_split_in_two_at_each_node() -> None:
    rng = np.random.default_rng(3)
    fitted = HalfSpaceTrees(trees=5, height=4).fit(table(rng.normal(size=(700, 3))))
    mass = fitted["mass"]
    assert (mass[:, 0] == 700).all()
    inner = np.arange(15)
    assert (mass[:, inner] == mass[:, 2 * inner + 1] + mass[:, 2 * inner + 2]).all()


def test_rows_in_a_gap_and_far_out_are_rarer_than_those_of_a_cluster() -> None:
    rng = np.random.default_rng(4)
    reference = np.where(rng.random((3_000, 1)) < 0.5, -4.0, 4.0) + rng.normal(size=(3_000, 2))
    scorer = HalfSpaceTrees()
    fitted = scorer.fit(table(reference))
    dense, gap, far = (
        scorer.score(table(at + 0.3 * rng.normal(size=(200, 2))), fitted)["rarity"].values for at in (4.0, 0.0, 12.0)
    )
    assert (gap[:, None] > dense).mean() > 0.99
    assert (far[:, None] > dense).mean() > 0.99
    assert ((dense >= 0) & (dense < far.mean())).all()


def test_a_column_without_spread_is_never_cut() -> None:
    rng = np.random.default_rng(5)
    fitted = HalfSpaceTrees().fit(table(np.column_stack([np.ones(500), rng.normal(size=500)])))
    assert set(np.unique(fitted["cut"])) == {1}
    assert HalfSpaceTrees().fit(table(np.ones((500, 2)))) is None
