"""When to ask for retraining: when what it is expected to save is more than what it costs.

What a reader would get wrong: an input that drifted is no reason. It asks five times as often as needed (measured on
seven streams); the labels' estimate decides, shrunk by its own error, so that noise alone never pays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from alerting.alert import Seconds

_REPEATED = 3  # labels of a class that the reference lacks: fewer may be slips of a labeler


class Cause(StrEnum):
    """What a request is made for. All but `gain` ask whatever it costs."""

    GAIN = "gain"
    RULES = "rules"
    NEW_CLASS = "new class"
    AGE = "age"


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What things cost, all in one unit of the operator's own."""

    retrain: Annotated[float, Meta(ge=0, description="Of one retraining: compute, review and labels.")] = 1000.0
    error: Annotated[float, Meta(ge=0, description="Of one wrong answer.")] = 1.0
    flip: Annotated[
        float,
        Meta(ge=0, description="Of one answer that was right and that the new version gives wrongly, beyond `error`."),
    ] = 0.0
    flips: Annotated[
        float, Meta(ge=0, le=1, description="Share of answers expected to be such, until versions were compared.")
    ] = 0.01


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must be there before anything is asked, and what asks by itself."""

    labels: Annotated[
        int, Meta(ge=1, description="New labels that a retraining needs: of rows since what is the matter began.")
    ] = 50
    per_class: Annotated[
        int,
        Meta(
            ge=0,
            description="And of each class that fell, or that the reference lacks and that is labelled repeatedly.",
        ),
    ] = 10
    rules: Annotated[
        float, Meta(gt=0, le=1, description="Share of answers that rules changed, from which on it is asked for.")
    ] = 0.05
    new_class: Annotated[
        int, Meta(ge=1, description="Labels of a class that the reference lacks, from which on it is asked for.")
    ] = 10
    max_age: Annotated[Seconds | None, Meta(description="Age of a version at which it is asked for; empty: none.")] = (
        None
    )
    cool_down: Annotated[
        Seconds, Meta(ge=0, description="Event time after a request, or a new version, in which none is made.")
    ] = 3600.0


class Drop(NamedTuple):
    """How far the model fell, by its labels. Shares."""

    reference: float  # accuracy in the first span after it was deployed
    now: float
    error: float  # standard error of `now`


class Standing(NamedTuple):
    """What is known of a model when it is asked whether to retrain."""

    drop: Drop | None  # None: no estimate yet
    spans: float  # age of the version in service
    events: float  # a span
    age: float  # seconds of event time
    labels: int = 0  # usable ones since what is the matter began, or it came into service
    by_class: Mapping[str, int] = {}  # of them
    fell: tuple[str, ...] = ()  # classes whose recall fell
    new: tuple[str, ...] = ()  # classes among `by_class` that the reference lacks
    rules: float = 0.0  # share of answers that rules changed
    flips: float | None = None  # share of answers that turned wrong from one version to the next, as last compared
    barred: str = ""  # why nothing may be asked now


class Case(NamedTuple):
    """Whether to ask, and why."""

    cause: Cause | None  # None: do not ask
    text: str
    gain: float = 0.0  # expected, in the unit of the price
    cost: float = 0.0


def shrunk(drop: float, error: float) -> float:
    """A drop drawn towards 0 by its own noise, d max(0, 1 - s^2 / d^2); a gain is none (James and Stein 1961).

    >>> [round(shrunk(d, 0.02), 4) for d in (0.10, 0.03, 0.01, -0.10)]
    [0.096, 0.0167, 0.0, 0.0]
    """
    return drop * max(0.0, 1.0 - (error / drop) ** 2) if drop > 0 else 0.0


def expected_gain(drop: Drop, spans: float) -> float:
    """Share of answers times spans that a new version sets right: it is taken to restore the first accuracy.

    `spans` is the age of the present one; a new one is taken to serve as many as came after the first, which the
    reference is of. The error is that of `now` alone: with that of the reference as well, mean regret over prices 1, 5
    and 20 on the policy bench rose from 4.6 to 5.8; that a version serves three spans at least made it 5.6.

    >>> round(expected_gain(Drop(0.95, 0.85, 0.02), 11.0), 3), round(expected_gain(Drop(0.95, 0.85, 0.02), 1.0), 3)
    (0.96, 0.096)
    """
    return shrunk(drop.reference - drop.now, drop.error) * max(1.0, spans - 1.0)


def weigh(standing: Standing, price: Price, gates: Gates) -> Case:
    """Whether to ask for retraining now. Pure; the caller keeps what was asked.

    >>> fell = Standing(Drop(0.95, 0.85, 0.02), spans=10, events=1000, age=1e5, labels=200)
    >>> weigh(fell, Price(retrain=800), Gates()).cause, weigh(fell, Price(retrain=8000), Gates()).cause
    (<Cause.GAIN: 'gain'>, None)
    """
    if standing.barred:
        return Case(None, standing.barred)
    forced = _forced(standing, gates)
    if forced is not None:
        return forced
    if standing.drop is None:
        return Case(None, "No estimate from labels yet.")
    flips = price.flips if standing.flips is None else standing.flips
    gain = expected_gain(_of_rows_to_come(standing), standing.spans) * standing.events * price.error
    cost = price.retrain + price.flip * flips * standing.events
    said = (
        f"accuracy {standing.drop.reference:.1%} -> {standing.drop.now:.1%}, standard error {standing.drop.error:.1%}; "
        f"a new version is expected to save {gain:,.4g} and costs {cost:,.4g}"
    )
    if gain <= cost:
        return Case(None, f"It does not pay: {said}.", gain, cost)
    lacking = _lacking(standing, gates)
    if lacking:
        return Case(None, f"It pays, but {lacking}: {said}.", gain, cost)
    return Case(Cause.GAIN, f"It pays: {said}.", gain, cost)


def _of_rows_to_come(standing: Standing) -> Drop:
    """The drop with the error that it has for other rows than those it was measured on: were they all labelled, their
    accuracy would be known for certain, and still say as little of the next rows as so many coin tosses."""
    drop = standing.drop
    assert drop is not None
    tosses = sum(share * (1.0 - share) for share in (drop.reference, drop.now))
    return drop._replace(error=math.hypot(drop.error, math.sqrt(max(tosses, 0.0) / max(standing.events, 1.0))))


def _forced(standing: Standing, gates: Gates) -> Case | None:
    if standing.rules > gates.rules:
        text = (
            f"Rules change {standing.rules:.1%} of the answers, over {gates.rules:.1%}: the model should know by now."
        )
        return Case(Cause.RULES, text)
    confirmed = [name for name in standing.new if standing.by_class.get(name, 0) >= gates.new_class]
    if confirmed:
        told = ", ".join(f"{name!r} ({standing.by_class[name]} labels)" for name in confirmed[:5])
        return Case(Cause.NEW_CLASS, f"Classes that the model was not trained on: {told}.")
    if gates.max_age is not None and standing.age >= gates.max_age:
        return Case(Cause.AGE, f"The version is {standing.age / 86_400:.3g} days old.")
    return None


def _lacking(standing: Standing, gates: Gates) -> str:
    if standing.labels < gates.labels:
        return f"only {standing.labels} of {gates.labels} labels are there"
    come = [name for name in standing.new if standing.by_class.get(name, 0) >= _REPEATED]
    wanted = dict.fromkeys([*standing.fell, *come])
    few = [name for name in wanted if standing.by_class.get(name, 0) < gates.per_class]
    return f"fewer than {gates.per_class} labels of {', '.join(few[:5])}, which fell or came, are there" if few else ""
