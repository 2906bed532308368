from __future__ import annotations

import numpy as np

from detectors.performance import Estimate, Table, tabulate
from detectors.shares import shares

CLASSES = ("cat", "dog", "owl")


def answered(rng: np.random.Generator, of: np.ndarray, sure: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Answers and their scores for rows of these classes, as a model gives them."""
    logits = rng.normal(0, 1.2, (len(of), 3))
    logits[np.arange(len(of)), of] += sure
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return chances.argmax(axis=1), chances.max(axis=1)


def learned(rng: np.random.Generator, sure: float = 1.5) -> Table:
    of = rng.choice(3, 6000, p=[0.5, 0.3, 0.2])
    table = tabulate(*answered(rng, of, sure), of, CLASSES)
    assert table is not None
    return table


def told(
    table: Table, rng: np.random.Generator, now: list[float], sure: float = 1.5
) -> dict[tuple[str, str], Estimate]:
    of = rng.choice(3, 3000, p=now)
    cells = table.cells(*answered(rng, of, sure))
    rows = np.bincount(cells[cells >= 0], minlength=len(table.expected))
    return {(e.measure, e.of): e for e in shares(table, rows)}


def test_both_opinions_find_the_new_shares_and_the_interval_covers() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(40):
        found = told(learned(rng), rng, [0.2, 0.3, 0.5])
        covered += found["share_bbse", "owl"].low <= 0.5 <= found["share_bbse", "owl"].high
        assert abs(found["share_em", "owl"].value - 0.5) < 0.07
        assert found["share_em", "owl"].reference < 0.23
    assert covered >= 33  # of 40 at 95 %: 38 on average, four standard deviations fewer


def test_calm_rows_are_not_doubted() -> None:
    rng = np.random.default_rng(2)
    doubted = [told(learned(rng), rng, [0.5, 0.3, 0.2])["share_em", "cat"].doubt for _ in range(30)]
    assert sum(map(bool, doubted)) <= 1


def test_scores_that_moved_by_themselves_are_said_to_make_it_invalid() -> None:
    rng = np.random.default_rng(3)
    found = told(learned(rng), rng, [0.5, 0.3, 0.2], sure=0.5)
    assert "not the classes' shares alone" in found["share_bbse", "cat"].doubt


def test_a_model_that_cannot_tell_classes_apart_is_not_believed() -> None:
    rng = np.random.default_rng(4)
    found = told(learned(rng, sure=0.05), rng, [0.2, 0.3, 0.5], sure=0.05)
    assert "condition number" in found["share_em", "owl"].doubt


def test_no_classes_or_no_rows_give_nothing() -> None:
    table = learned(np.random.default_rng(5))
    assert shares(table, np.zeros(len(table.expected), np.int64)) == []
    alike = Table((), table.starts, table.edges, np.ones((len(table.expected), 2), np.int64), table.expected)
    assert shares(alike, np.ones(len(table.expected), np.int64)) == []
