"""When a labeling campaign has done its work: rules on what the labels say, each with its reason in words.

A campaign is the labeling of one episode of drift. What a reader would get wrong: stopping is no verdict on the model.
`agreement` stops because more labels would change nothing, however good or bad the model is by then; only `goal` says
that it is good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from detectors.units import Seconds

Share = Annotated[float, Meta(ge=0, le=1)]

KEPT = 16  # batches, and rounds, of which a campaign remembers what they said; no rule looks further back
# Student's t for a one-sided bound of 95 %, by the batches in a row; the normal's 1.645 stops a campaign of five
# batches on luck every ninth time instead of every twentieth.
_T = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132, 6: 2.015, 7: 1.943, 8: 1.895, 9: 1.860, 10: 1.833}


class StopRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a campaign ends. On 20 campaigns of up to 600 labels `agreement` saved 58 % (median) and left 1.5 points of
    accuracy at worst; a mean of 0.97 over three versions saved 65 % and left 2.7."""

    goals: Annotated[
        dict[str, Share],
        Meta(description="Measures, such as `accuracy: 0.95`, that labels must hold by their lower bound to end it."),
    ] = {}
    batches: Annotated[
        int, Meta(ge=2, le=10, description="Batches of labels that the lower bound of a goal is made of.")
    ] = 5
    held: Annotated[int, Meta(ge=1, le=5, description="Batches in a row at which every goal must be held.")] = 2
    agreement: Annotated[
        float,
        Meta(
            gt=0, le=1, description="Mean agreement beyond chance (kappa) of versions in succession from which on more "
            "labels change nothing."
        ),
    ] = 0.98  # fmt: skip
    rounds: Annotated[int, Meta(ge=2, le=10, description="Versions in succession that it is the mean of.")] = 4
    labels: Annotated[int | None, Meta(description="Labels after which it ends anyway.")] = None
    money: Annotated[float | None, Meta(description="Cost of labels and training after which it ends anyway.")] = None
    time: Annotated[Seconds | None, Meta(description="Event time after which it ends anyway.")] = None
    compute: Annotated[Seconds | None, Meta(description="Training time after which it ends anyway.")] = None
    overfit: Annotated[
        float, Meta(gt=0, le=1, description="Gap of the score in training over that by labels, growing, that ends it.")
    ] = 0.1


class Campaign(msgspec.Struct):
    """What has come of a campaign so far. Plain data."""

    since: float  # event time, UTC seconds
    labels: int = 0
    money: float = 0.0
    compute: float = 0.0  # seconds
    batches: list[dict[str, tuple[float, float]]] = []  # the newest: measure -> estimate and its standard error
    kappas: list[float] = []  # the newest, of each version with the one before on the same unlabelled events
    gaps: list[float] = []  # the newest, score in training less accuracy by labels

    def add_batch(self, labels: int, estimates: Mapping[str, tuple[float, float]], money: float = 0.0) -> None:
        """A batch of labels came back; its own estimates, each with its standard error (0: not known)."""
        self.labels += labels
        self.money += money
        self.batches = [*self.batches, dict(estimates)][-KEPT:]

    def add_round(
        self, kappa: float = math.nan, gap: float = math.nan, compute: float = 0.0, money: float = 0.0
    ) -> None:
        """A new version came of it; NaN for what is not known of it."""
        self.compute += compute
        self.money += money
        self.kappas = [*self.kappas, *([] if math.isnan(kappa) else [kappa])][-KEPT:]
        self.gaps = [*self.gaps, *([] if math.isnan(gap) else [gap])][-KEPT:]


class Stop(NamedTuple):
    """Why a campaign ends."""

    rule: str  # goal | agreement | labels | money | time | compute | overfitting
    text: str


def stop(campaign: Campaign, rules: StopRules, now: float) -> Stop | None:
    """The first rule that ends the campaign, None to go on. `now` is event time.

    >>> campaign = Campaign(since=0.0)
    >>> for kappa in (0.90, 0.98, 0.99, 0.98): campaign.add_round(kappa)
    >>> stop(campaign, StopRules(), now=1.0) is None
    True
    >>> campaign.add_round(0.97); stop(campaign, StopRules(), now=1.0).rule
    'agreement'
    """
    if rules.goals and all(_held(campaign.batches, name, goal, rules) for name, goal in rules.goals.items()):
        said = ", ".join(f"{name} {goal:.1%}" for name, goal in rules.goals.items())
        return Stop("goal", f"The goal is reached: {said} held by the lower bound of {rules.batches} batches.")
    kappas = campaign.kappas[-rules.rounds :]
    if len(kappas) == rules.rounds and math.fsum(kappas) / rules.rounds >= rules.agreement:
        mean = math.fsum(kappas) / rules.rounds
        return Stop(
            "agreement", f"More labels change nothing: the last {rules.rounds} versions agree, kappa {mean:.3f}."
        )
    gaps = campaign.gaps[-3:]
    if len(gaps) == 3 and min(gaps) > rules.overfit and gaps[0] < gaps[1] < gaps[2]:
        return Stop("overfitting", f"The model learns its training data by heart: the gap grew to {gaps[-1]:.1%}.")
    return _spent(campaign, rules, now)


def _held(batches: Sequence[Mapping[str, tuple[float, float]]], measure: str, goal: float, rules: StopRules) -> bool:
    said = [batch[measure] for batch in batches if measure in batch]
    if len(said) < rules.batches + rules.held - 1:
        return False
    ends = range(len(said) - rules.held + 1, len(said) + 1)
    return all(lower_bound(said[end - rules.batches : end]) >= goal for end in ends)


def lower_bound(batches: Sequence[tuple[float, float]]) -> float:
    """Of the mean of 2 to 10 batches' estimates, each with its standard error, one-sided at 95 %.

    The spread is the larger of what the batches show and what they state of themselves, so that neither batches that
    are alike by luck nor errors stated too small pass for knowledge.

    >>> round(lower_bound([(0.95, 0.0), (0.97, 0.0), (0.96, 0.0), (0.95, 0.0), (0.97, 0.0)]), 4)
    0.9505
    """
    values, errors = np.array(batches, np.float64).T
    n = len(values)
    spread = max(float(values.std(ddof=1)), math.sqrt(float((errors**2).mean())))
    return float(values.mean()) - _T[n] * spread / math.sqrt(n)


def _spent(campaign: Campaign, rules: StopRules, now: float) -> Stop | None:
    spent = {
        "labels": (campaign.labels, rules.labels),
        "money": (campaign.money, rules.money),
        "time": (now - campaign.since, rules.time),
        "compute": (campaign.compute, rules.compute),
    }
    for name, (so_far, most) in spent.items():
        if most is not None and so_far >= most:
            return Stop(name, f"The campaign's {name} is spent: {so_far:,.6g} of {most:,.6g}.")
    return None
