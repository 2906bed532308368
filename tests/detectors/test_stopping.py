"""When a campaign ends, and by which rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.encode import decode, encode
from detectors.stopping import KEPT, Campaign, StopRules, lower_bound, stop

RULES = StopRules(goals={"accuracy": 0.9, "recall": 0.8})


def fed(accuracies: Sequence[float], recall: float = 1.0) -> Campaign:
    campaign = Campaign(since=0.0)
    for accuracy in accuracies:
        campaign.add_batch(25, {"accuracy": (accuracy, 0.01), "recall": (recall, 0.01)})
    return campaign


def rule(campaign: Campaign, rules: StopRules = RULES, now: float = 1.0) -> str:
    ended = stop(campaign, rules, now)
    return "" if ended is None else ended.rule


def test_a_goal_counts_when_its_lower_bound_holds_twice_in_a_row() -> None:
    good = [0.95, 0.96, 0.95, 0.96, 0.95]
    assert rule(fed(good)) == ""
    assert rule(fed([*good, 0.96])) == "goal"
    assert rule(fed([*good, 0.70])) == ""
    assert rule(fed([0.5, *good])) == "", "the bound of the first five did not hold"


def test_every_goal_must_be_held() -> None:
    assert rule(fed([0.95] * 6, recall=0.7)) == ""


def test_a_lucky_batch_ends_nothing() -> None:
    rng = np.random.default_rng(1)
    ended = sum(rule(fed((rng.binomial(25, 0.88, 6) / 25).tolist())) == "goal" for _ in range(500))
    assert ended <= 0.05 * 500


def test_batches_that_are_alike_by_luck_are_no_surer_than_they_say() -> None:
    assert lower_bound([(0.92, 0.05)] * 5) < 0.9 < lower_bound([(0.92, 0.005)] * 5)


def test_agreement_ends_it_however_good_the_model_is() -> None:
    campaign = fed([0.3])
    for kappa in (0.97, 0.98, 0.99):
        campaign.add_round(kappa)
        assert rule(campaign) == ""
    campaign.add_round(0.985)
    assert rule(campaign) == "agreement"


def test_a_version_that_nothing_is_known_of_is_no_round() -> None:
    campaign = fed([])
    for kappa in (0.99, math.nan, 0.99, math.nan, 0.99):
        campaign.add_round(kappa)
    assert rule(campaign) == ""


@pytest.mark.parametrize(
    ("gaps", "ends"), [((0.11, 0.12, 0.13), True), ((0.13, 0.12, 0.14), False), ((0.01, 0.05, 0.2), False)]
)
def test_a_gap_that_is_wide_and_grows_is_learning_by_heart(gaps: tuple[float, ...], *, ends: bool) -> None:
    campaign = fed([])
    for gap in gaps:
        campaign.add_round(gap=gap)
    assert (rule(campaign) == "overfitting") is ends


@pytest.mark.parametrize("spent", ["labels", "money", "time", "compute"])
def test_a_budget_that_is_spent_ends_it(spent: str) -> None:
    campaign = Campaign(since=0.0)
    campaign.add_batch(10, {}, money=10.0)
    campaign.add_round(compute=10.0)
    rules = {name: msgspec.convert({spent: most}, StopRules) for name, most in (("more", 11), ("less", 10))}
    assert rule(campaign, rules["more"], now=10.0) == ""
    assert rule(campaign, rules["less"], now=10.0) == spent


@given(st.lists(st.floats(0, 1), max_size=40), st.lists(st.floats(-1, 1), max_size=40))
def test_a_campaign_is_bounded_and_survives_a_restart(accuracies: list[float], kappas: list[float]) -> None:
    campaign = fed(accuracies)
    for kappa in kappas:
        campaign.add_round(kappa, gap=kappa)
    assert max(len(campaign.batches), len(campaign.kappas), len(campaign.gaps)) <= KEPT
    again = decode(encode(campaign), Campaign)
    assert stop(again, RULES, 5.0) == stop(campaign, RULES, 5.0)
