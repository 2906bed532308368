from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from detectors.core import Kind, from_columns, number, vector
from detectors.scorers.committee import Committee
from detectors.scorers.uncertainty import Uncertainty, chances


def uncertainty(scores: Any, fitted: Any = None) -> dict[str, list[float]]:
    found = Uncertainty().score(from_columns({"scores": vector(scores)}), fitted)
    return {name: column.values.tolist() for name, column in found.items()}


def test_margin_and_ratio_are_of_the_two_largest() -> None:
    # of the two smallest they would be 0.1 and 0.5
    found = uncertainty([[0.1, 0.2, 0.7], [0.45, 0.5, 0.05]])
    assert found["margin"] == pytest.approx([0.5, 0.05])
    assert found["ratio"] == pytest.approx([2 / 7, 0.9])


def test_a_surer_row_of_two_classes_has_the_larger_margin() -> None:
    sure, torn = uncertainty([[0.95, 0.05], [0.55, 0.45]])["margin"]
    assert sure > torn


def test_confidence_and_least_confidence_are_of_the_first_choice() -> None:
    found = uncertainty([[0.2, 0.7, 0.1]])
    assert found["confidence"] == pytest.approx([0.7])
    assert found["least_confidence"] == pytest.approx([0.3])


def test_entropy_is_scipys_by_the_most_it_can_be() -> None:
    scores = np.random.default_rng(1).dirichlet(np.ones(7), 50)
    assert uncertainty(scores)["entropy"] == pytest.approx(scipy_entropy(scores, axis=1) / np.log(7))
    assert uncertainty([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])["entropy"] == pytest.approx([1.0, 0.0])


def test_scores_that_do_not_sum_to_one_are_shares_of_their_sum() -> None:
    assert uncertainty([[2.0, 6.0]]) == uncertainty([[0.25, 0.75]])


def test_a_lone_score_is_the_chance_of_one_of_two_classes() -> None:
    lone, both = uncertainty([[0.8], [0.1]]), uncertainty([[0.2, 0.8], [0.9, 0.1]])
    for name, values in lone.items():
        assert values == pytest.approx(both[name])


def test_scores_are_logits_where_the_reference_had_a_negative_one() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [3.0, 1.0, 2.0]])
    fitted = Uncertainty().fit(from_columns({"scores": vector(logits)}))
    soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert uncertainty(logits, fitted)["entropy"] == pytest.approx(uncertainty(soft)["entropy"])
    assert uncertainty(logits + 700.0, fitted)["margin"] == pytest.approx(uncertainty(soft)["margin"])


@pytest.mark.parametrize("row", [[np.nan, 0.5], [np.inf, 0.5], [-0.1, 1.1], [0.0, 0.0], [5e-324, 0.0]])
def test_a_row_that_is_no_chances_is_missing_and_its_neighbours_are_not(row: list[float]) -> None:
    found = uncertainty([[0.4, 0.6], row])
    for values in found.values():
        assert np.isnan(values).tolist() == [False, True]


def test_a_lone_score_above_one_is_no_chance() -> None:
    assert np.isnan(uncertainty([[1.5], [0.5]])["margin"]).tolist() == [True, False]


def test_only_the_measures_asked_for_are_derived() -> None:
    scorer = Uncertainty(measures=("margin", "entropy"))
    assert list(scorer.score(from_columns({"scores": vector([[0.5, 0.5]])}), None)) == ["margin", "entropy"]


def test_chances_of_no_class_at_all_are_missing() -> None:
    assert np.isnan(chances(np.zeros((3, 0)), logits=False)).all()


def committee(each: Any, members: int = 0) -> dict[str, list[float]]:
    each = np.asarray(each, np.float64)  # (n, members, classes)
    n, m, classes = each.shape
    batch = from_columns({"members": vector(each.reshape(n, m * classes)), "scores": vector(each.mean(axis=1))})
    scorer = Committee(members)
    return {name: column.values.tolist() for name, column in scorer.score(batch, scorer.fit(batch)).items()}


def test_members_of_one_mind_do_not_disagree() -> None:
    found = committee([[[0.2, 0.8]] * 3])
    assert found["vote_entropy"] == [0.0]
    assert found["disagreement"] == pytest.approx([0.0], abs=1e-12)
    assert found["members_disagree"] == [0.0]


def test_vote_entropy_is_of_the_first_choices_and_1_where_they_could_not_part_further() -> None:
    split = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]
    two_to_one = [[0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0], [0.3, 0.7, 0, 0]]
    found = committee([split, two_to_one])
    assert found["vote_entropy"] == pytest.approx([1.0, scipy_entropy([1 / 3, 2 / 3]) / np.log(3)])
    assert found["members_disagree"] == [1.0, 1.0]


def test_disagreement_is_the_mean_divergence_to_the_consensus() -> None:
    each = np.random.default_rng(2).dirichlet(np.ones(5), (40, 4))
    mean = each.mean(axis=1)
    expected = np.mean([scipy_entropy(each[:, m], mean, axis=1) for m in range(4)], axis=0)
    assert committee(each)["disagreement"] == pytest.approx(expected)


def test_members_of_the_same_choice_but_other_chances_disagree_without_a_flag() -> None:
    found = committee([[[0.51, 0.49], [0.99, 0.01]]])
    assert found["members_disagree"] == [0.0]
    assert found["disagreement"][0] > 0.1


def test_a_member_without_an_answer_makes_the_row_missing() -> None:
    found = committee([[[0.5, 0.5], [np.nan, np.nan]], [[0.1, 0.9], [0.9, 0.1]]])
    assert all(np.isnan(values).tolist() == [True, False] for values in found.values())


def test_the_number_of_members_can_be_given_where_there_are_no_scores() -> None:
    each = np.random.default_rng(3).dirichlet(np.ones(3), (10, 2)).reshape(10, 6)
    batch = from_columns({"members": vector(each)})
    assert Committee().fit(batch) is None
    scorer = Committee(members=2)
    flag = scorer.score(batch, scorer.fit(batch))["members_disagree"]
    assert flag.kind is Kind.FLAG
    expected = each[:, :3].argmax(axis=1) != each[:, 3:].argmax(axis=1)
    assert flag.values.tolist() == expected.astype(float).tolist()


def test_the_confidence_of_the_consensus_stands_in_where_there_are_no_scores() -> None:
    each = np.random.default_rng(4).dirichlet(np.ones(3), (10, 2))
    batch = from_columns({"members": vector(each.reshape(10, 6))})
    scorer = Committee(members=2)
    found = scorer.score(batch, scorer.fit(batch))
    assert found["consensus"].values == pytest.approx(each.mean(axis=1).max(axis=1))
    assert "consensus" not in committee(each)


def test_disagreement_is_the_mutual_information_of_answer_and_member() -> None:
    each = np.random.default_rng(5).dirichlet(np.ones(4), (20, 6))
    bald = scipy_entropy(each.mean(axis=1), axis=1) - scipy_entropy(each, axis=2).mean(axis=1)
    assert committee(each)["disagreement"] == pytest.approx(bald)


def test_a_committee_of_one_derives_nothing() -> None:
    batch = from_columns({"members": vector(np.full((5, 3), 1 / 3)), "scores": vector(np.full((5, 3), 1 / 3))})
    assert Committee().score(batch, Committee().fit(batch)) == {}
    assert Committee().score(from_columns({"members": number([1.0])}), None) == {}
