"""The labeling campaign of a model: opened by what moved, fed with labels and versions, ended by its stop rules.

What a reader would get wrong: a campaign that stopped does not stop the labeling. Labels go on to be drawn at the calm
rate, as the model's performance is to be known; only the burst that belongs to an episode of drift is over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from alerting import lifecycle
from alerting.alert import Ruling, Severity, Symptom
from alerting.labeling.task import Part, Returned
from detectors.compare import Weighed
from detectors.stopping import Campaign, StopRules, stop
from monitor.decode.columns import word

log = logging.getLogger(__name__)

CHECK = "campaign"  # name of the check under which it is told that a campaign ended
BATCH = 25  # labels that are one look of the rules
MEASURES = ("accuracy", "precision", "recall")  # that goals may be of; the latter two are means over classes
_OWN = frozenset({CHECK, "retraining", "versions"})  # alerts that ask for no labels
_PARTS = frozenset({Part.PROBABILITY, Part.TAKE_ALL})  # parts of a draw that together stand for all rows


class _Labelled(msgspec.Struct, frozen=True, array_like=True):
    answer: str
    label: str
    weight: float


class Ended(msgspec.Struct, frozen=True):
    """How the last campaign ended."""

    rule: str
    text: str
    at: float  # event time


class State(msgspec.Struct):
    """Plain data, saved with the judge's checkpoint."""

    campaign: Campaign | None = None
    batch: list[_Labelled] = []
    ended: Ended | None = None
    alerts: list[str] = []  # open when the last campaign ended: they open no other
    intended: int = 0  # episodes judged intended by then
    classes: list[str] = []  # new ones that were known by then


class Labeling:
    """Whether a model's episode of drift still asks for more labels than usual."""

    def __init__(self, model: str, rules: StopRules, price: float = 0.0) -> None:
        self._model, self._rules, self._price = model, rules, price
        self.state = State()

    @property
    def campaign(self) -> Campaign | None:
        """The one that goes on."""
        return self.state.campaign

    def take_labels(self, returned: Iterable[Returned]) -> None:
        """Final labels that came back."""
        state = self.state
        if state.campaign is None:
            return
        for one in returned:
            answer, label = word(one.answer), word(one.label)
            if one.part not in _PARTS or not one.monitoring or not one.pi or answer is None or label is None:
                continue
            state.batch.append(_Labelled(answer, label, one.stands_for / one.pi))
            if len(state.batch) == BATCH:
                state.campaign.add_batch(BATCH, measures(state.batch), BATCH * self._price)
                state.batch = []

    def take_version(self, kappa: float, training: float | None, accuracy: float | None, seconds: float | None) -> None:
        """A new version came of it: its agreement with the one before on the same events (NaN: none were answered by
        both), its score on its own training data, its accuracy by labels, what it took to train."""
        if self.state.campaign is not None:
            gap = math.nan if training is None or accuracy is None else training - accuracy
            self.state.campaign.add_round(kappa, gap, seconds or 0.0)

    def take(self, now: float, alerts: lifecycle.State, classes: Iterable[str]) -> list[Symptom]:
        """A judged window's end; `classes` are those that the reference lacks. What is to be told."""
        state = self.state
        opened = sorted(alert.key for alert in alerts.open() if alert.check not in _OWN and not alert.broken)
        intended = sum(episode.ruling is Ruling.INTENDED for episode in alerts.episodes)
        new = sorted(set(classes))
        if state.campaign is None:
            causes = {*opened} - {*state.alerts} | {*new} - {*state.classes}
            if causes or intended > state.intended:
                state.campaign, state.batch, state.ended = Campaign(since=now), [], None
            state.alerts = [key for key in state.alerts if key in opened]
            return []
        ended = stop(state.campaign, self._rules, now)
        if ended is None and not opened and not new and not state.campaign.labels:
            return self._end(
                "calm", "What had moved came back before a label was needed.", now, (opened, intended, new)
            )
        return [] if ended is None else self._end(ended.rule, ended.text, now, (opened, intended, new))

    def _end(self, rule: str, text: str, now: float, known: tuple[list[str], int, list[str]]) -> list[Symptom]:
        state, campaign = self.state, self.state.campaign
        assert campaign is not None
        said = f"Labeling of this episode ends after {campaign.labels} labels ({rule}). {text}"
        log.info("model %s: %s", self._model, said)
        state.campaign, state.batch, state.ended = None, [], Ended(rule, text, now)
        state.alerts, state.intended, state.classes = known
        if rule == "calm":
            return []
        facts: dict[str, float | str] = {"rule": rule, "labels": float(campaign.labels)}
        return [Symptom(self._model, CHECK, "", campaign.since, now, 1.0, 0.0, said, Severity.INFO, facts)]


def measures(batch: Sequence[_Labelled]) -> Mapping[str, tuple[float, float]]:
    """Of a batch of labels with weights: measure -> estimate and standard error. A mean over classes is over those in
    the batch, and its error is taken to be that of the accuracy."""
    whole = _weighed(batch)
    answered: dict[str, list[_Labelled]] = {}
    labelled: dict[str, list[_Labelled]] = {}
    for one in batch:
        answered.setdefault(one.answer, []).append(one)
        labelled.setdefault(one.label, []).append(one)
    error = math.sqrt(whole.variance)
    return {
        "accuracy": (whole.mean, error),
        "precision": (_mean(answered), error),
        "recall": (_mean(labelled), error),
    }


def _mean(by_class: Mapping[str, Sequence[_Labelled]]) -> float:
    return math.fsum(_weighed(some).mean for some in by_class.values()) / len(by_class)


def _weighed(batch: Sequence[_Labelled]) -> Weighed:
    sums = Weighed()
    for one in batch:
        sums = sums.add(one.weight, right=one.answer == one.label)
    return sums
