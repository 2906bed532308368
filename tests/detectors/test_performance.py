"""Performance estimated without labels: against what the labels then say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from detectors.core import Floats, Ints
from detectors.performance import CELLS, MOST, Estimate, Table, estimates, tabulate

CLASSES = ("no", "yes")


def population(rng: np.random.Generator, n: int, sure: float = 1.5, bent: float = 1.0) -> tuple[Ints, Floats, Ints]:
    """Answers, their scores and truths of a model that is over-confident by the power `bent`; `sure` spreads scores."""
    logit = rng.normal(0, sure, n)
    truth = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    stated = 1 / (1 + np.exp(-bent * logit))
    answer = (stated > 0.5).astype(np.int64)
    return answer, np.where(answer == 1, stated, 1 - stated), truth


def rows_of(table: Table, answers: Ints, scores: Floats) -> Ints:
    at = table.cells(answers, scores)
    return np.bincount(at[at >= 0], minlength=len(table.expected))


def learned(seed: int = 1, n: int = 10_000, bent: float = 1.0) -> Table:
    table = tabulate(*population(np.random.default_rng(seed), n, bent=bent), CLASSES)
    assert table is not None
    return table


def measured(estimate: Estimate, answer: Ints, score: Floats, truth: Ints) -> float:
    """What labels say of the same rows."""
    if estimate.measure == "accuracy":
        return float((answer == truth).mean())
    if estimate.measure == "roc_auc":
        return float(roc_auc_score(truth, np.where(answer == 1, score, 1 - score)))
    c = CLASSES.index(estimate.of)
    good, answered, truly = ((answer == c) & (truth == c)).sum(), (answer == c).sum(), (truth == c).sum()
    return float(
        {"precision": good / answered, "recall": good / truly, "f1": 2 * good / (answered + truly)}[estimate.measure]
    )


def test_on_the_reference_itself_every_measure_is_the_measured_one() -> None:
    answer, score, truth = population(np.random.default_rng(1), 10_000)
    table = learned()
    found = estimates(table, rows_of(table, answer, score))
    assert len(found) == 8
    for estimate in found:
        ties = 0.002 if estimate.measure == "roc_auc" else 1e-9  # rows of a cell count as ties
        assert estimate.value == pytest.approx(estimate.reference)
        assert estimate.value == pytest.approx(measured(estimate, answer, score, truth), abs=ties)


def test_an_over_confident_model_is_calibrated() -> None:
    table = learned(bent=4.0)
    answer, score, truth = population(np.random.default_rng(2), 20_000, sure=1.0, bent=4.0)
    assert score.mean() - (answer == truth).mean() > 0.1
    accuracy = estimates(table, rows_of(table, answer, score))[0]
    assert accuracy.value == pytest.approx((answer == truth).mean(), abs=0.015)
    assert accuracy.value < accuracy.reference - 0.03, "the rows are harder than those of the reference"


@pytest.mark.parametrize("reference", [1_000, 10_000])
def test_the_interval_holds_what_labels_say_in_95_percent(reference: int) -> None:
    held: dict[tuple[str, str], list[bool]] = {}
    for seed in range(150):  # each reference has its own error, so both are drawn anew
        table = learned(seed, reference)
        answer, score, truth = population(np.random.default_rng([seed, 1]), 500, sure=1.2)
        for e in estimates(table, rows_of(table, answer, score)):
            held.setdefault((e.measure, e.of), []).append(e.low <= measured(e, answer, score, truth) <= e.high)
    shares = [np.mean(told) for told in held.values()]
    assert len(shares) == 8
    assert min(shares) > 0.90  # 0.95 less 2.8 standard errors
    assert np.mean(shares) < 0.985


def test_the_interval_holds_where_something_moved_that_no_score_knows() -> None:
    """Truths depend on a second input, too; in each window both have moved, one seen by its scores, one by nothing."""
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)

        def rows(n: int, seen: float, hidden: float, rng: np.random.Generator = rng) -> tuple[Ints, Floats, Ints]:
            first, second = rng.normal(seen, 1, n), rng.normal(hidden, 1, n)
            truth = (rng.random(n) < 1 / (1 + np.exp(-2 * first - second / 2))).astype(np.int64)
            stated = 1 / (1 + np.exp(-2 * first))
            return (stated > 0.5).astype(np.int64), np.maximum(stated, 1 - stated), truth

        table = tabulate(*rows(10_000, 0.0, 0.0), CLASSES)
        assert table is not None
        window = rows(2_000, *rng.normal(0, 0.4, 2))
        found = estimates(table, rows_of(table, window[0], window[1]))
        held += [[e.low <= measured(e, *window) <= e.high for e in found]]
    assert len(held[0]) == 8
    assert 0.88 < np.mean(held) < 0.97  # 0.92; 0.80 by the width of chance alone


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400), st.integers(1, 5))
def test_windows_add_up(seed: int, n: int, parts: int) -> None:
    table = learned()
    answer, score, _ = population(np.random.default_rng(seed), n)
    pieces = np.array_split(np.arange(n), parts)
    whole = np.sum([rows_of(table, answer[p], score[p]) for p in pieces], axis=0)
    assert whole.tolist() == rows_of(table, answer, score).tolist()


def test_answers_and_scores_unlike_all_labelled_ones_have_no_cell() -> None:
    rng = np.random.default_rng(3)
    answer = np.concatenate([np.zeros(400, np.int64), np.ones(30, np.int64)])
    table = tabulate(answer, rng.uniform(0.6, 0.9, 430), answer.copy(), CLASSES)
    assert table is not None
    cells = table.cells(np.array([0, 0, 0, 0, 1, -1]), np.array([0.7, 0.1, np.nan, 0.91, 0.7, 0.7]))
    assert (cells >= 0).tolist() == [True, False, False, True, False, False]


def test_so_few_labelled_rows_give_no_table() -> None:
    assert tabulate(*population(np.random.default_rng(1), 40), CLASSES) is None


@pytest.mark.parametrize("classes", [2, 3, 10, MOST, MOST + 1, 40])
def test_cells_are_as_many_as_a_profile_keeps_apart_and_all_expect_something_else(classes: int) -> None:
    rng = np.random.default_rng(4)
    answer = rng.integers(0, classes, 20_000)
    score = rng.uniform(1 / classes, 1, 20_000)
    truth = np.where(rng.random(20_000) < score, answer, rng.integers(0, classes, 20_000))
    table = tabulate(answer, score, truth, tuple(f"class {i:02}" for i in range(classes)))
    assert table is not None
    assert np.unique(table.expected).size == len(table.expected) <= CELLS
    accuracy = estimates(table, rows_of(table, answer, score))[0]
    assert accuracy.value == pytest.approx((answer == truth).mean())


def test_a_window_without_rows_has_no_estimate() -> None:
    table = learned()
    assert estimates(table, np.zeros(len(table.expected), np.int64)) == []
