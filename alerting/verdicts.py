"""What a person's word on an alert does. Pure, as the life cycle is: a verdict is one more thing that happens to it.

What a reader would get wrong: a verdict acts at the event time that judging has come to, whatever the clock said when
it was given; so a replay that finds it at the same place does the same. What cannot be undone waits for a second word,
and whatever can be undone is undone when the verdict is revoked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from alerting.alert import Notice, Ruling, Transition, Verdict, rfc3339
from alerting.labeling.task import Withdrawal
from alerting.lifecycle import AlertOptions, Episode, FalseAlarms, Ruled, State, Suppression
from alerting.telling import deadline, say, silence

VERDICTS = 200  # kept of a model, the newest
SUPPRESSIONS = 200  # at once; beyond it the oldest ends
THRESHOLDS = 1000  # whose false alarms are counted


class Learn(StrEnum):
    """What is to become of the model's reference."""

    PREPARE = "prepare"  # build another from recent rows, and wait
    TAKE = "take"  # judge by it
    DROP = "drop"  # it is not wanted after all
    RETURN = "return"  # judge by the one before again


class Consequences(msgspec.Struct):
    """What follows from a verdict outside of the alerts."""

    notices: list[Notice] = []
    withdrawals: list[Withdrawal] = []
    learn: Learn | None = None
    outcome: str = ""  # in words


def rule(state: State, verdict: Verdict, options: AlertOptions) -> Consequences:
    """Takes a verdict in, at the event time of the last step. `state` is changed in place.

    One on a member of an alert is on its leader, save that a false alarm of a member is of that alone. One on an alert
    that is over is of its episode; one on what is not known any more is kept, and its outcome says so.

    >>> from alerting.alert import Symptom
    >>> from alerting.lifecycle import step
    >>> state, options = State(), AlertOptions()
    >>> found = Symptom("shelf", "psi", "weight", 0, 10, score=0.4, limit=0.2, text="weight moved")
    >>> opened = step(state, [found], [found.look], 10, options)
    >>> verdict = Verdict(id="v1", key=found.key, ruling=Ruling.FALSE_ALARM, by="ann", at=12.0, until=100.0)
    >>> rule(state, verdict, options).outcome
    'not told again until 1970-01-01T00:01:40.000Z'
    >>> step(state, [found], [found.look], 20, options), next(state.open()).firing
    ([], False)
    """
    alert = state.alerts.get(verdict.key)
    if alert is not None and alert.leader and verdict.ruling is not Ruling.FALSE_ALARM:
        alert = state.alerts.get(alert.leader, alert)
    key = verdict.key if alert is None else alert.key
    done = _revoke(state, verdict) if verdict.revokes else _act(state, key, verdict, options)
    state.ruled = [Ruled(verdict, state.now, done.outcome, key), *state.ruled][:VERDICTS]
    silence(state, state.now, options)
    alert = state.alerts.get(key)
    if alert is not None and not alert.leader:
        alert = replace(alert, verdict=None if verdict.revokes else verdict)
        alert = state.alerts[key] = replace(alert, deadline=deadline(state, alert, options))
        if alert.serial:  # what nobody was told of is not told of now
            done.notices.append(say(state, alert, Transition.VERDICT, state.now))
    return done


def mended(state: State, notices: Iterable[Notice]) -> Iterator[Withdrawal]:
    """For each alert that is fixed: nobody need label the rest of its rows either."""
    for notice in notices:
        episode = state.episode(notice.alert.key)
        if notice.transition is Transition.FIXED and episode is not None:
            yield _withdrawal(notice.id, episode, state.now)


def _act(state: State, key: str, verdict: Verdict, options: AlertOptions) -> Consequences:
    if verdict.ruling is Ruling.FALSE_ALARM:
        return _mute(state, key, verdict, options)
    if verdict.confirms:
        return _confirm(state, verdict)
    episode = state.episode(key)
    if episode is None:
        return Consequences(outcome="nothing is known of such an alert any more: kept, and nothing else")
    if verdict.ruling is Ruling.ACKNOWLEDGED:
        return Consequences(outcome="somebody looks at it")
    if verdict.ruling is Ruling.INTENDED:
        outcome = (
            "a reference is built of the next rows; it takes a second word, which confirms this one, to judge by it"
        )
        return Consequences(learn=Learn.PREPARE, outcome=outcome)
    episode.ruling = Ruling.UNINTENDED
    outcome = f"rows from {rfc3339(episode.start)} on are left out and need no labels, until it is fixed"
    return Consequences(withdrawals=[_withdrawal(verdict.id, episode, state.now)], outcome=outcome)


def _mute(state: State, key: str, verdict: Verdict, options: AlertOptions) -> Consequences:
    until = state.now + options.false_alarm if verdict.until is None else verdict.until
    keys = (key, *(alert.key for alert in state.open() if alert.leader == key))
    for one in keys:
        known = state.false_alarms.pop(one, FalseAlarms())
        state.false_alarms[one] = FalseAlarms(known.count + 1, state.now)
    while len(state.false_alarms) > THRESHOLDS:
        del state.false_alarms[next(iter(state.false_alarms))]
    state.suppressions = [*state.suppressions, Suppression(verdict.id, verdict.by, keys, until)][-SUPPRESSIONS:]
    return Consequences(outcome=f"not told again until {rfc3339(until)}")


def _confirm(state: State, verdict: Verdict) -> Consequences:
    first = _known(state, verdict.confirms)
    if (
        first is None
        or first.revoked
        or first.confirmed
        or not _asks(first.verdict)
        or verdict.ruling is not Ruling.INTENDED
    ):
        outcome = f"{verdict.confirms} is no verdict of an intended change that waits for a second word: nothing done"
        return Consequences(outcome=outcome)
    first.confirmed = verdict.id
    _mark(state, first.key, Ruling.INTENDED)
    return Consequences(learn=Learn.TAKE, outcome="judged by a reference of recent rows once there are enough of them")


def _revoke(state: State, verdict: Verdict) -> Consequences:
    wrong = _known(state, verdict.revokes)
    if wrong is None or wrong.revoked:
        return Consequences(outcome=f"{verdict.revokes} is no verdict that stands: nothing was done")
    wrong.revoked = verdict.id
    match wrong.verdict.ruling:
        case Ruling.ACKNOWLEDGED:
            return Consequences(outcome="nobody looks at it")
        case Ruling.FALSE_ALARM:
            for held in [held for held in state.suppressions if held.verdict == wrong.verdict.id]:
                state.suppressions.remove(held)
                for key in held.keys:
                    state.false_alarms[key].count -= 1
            return Consequences(outcome="told again")
        case Ruling.UNINTENDED:
            _mark(state, wrong.key, None)
            return Consequences(outcome="its rows count again; tasks that were withdrawn do not come back")
    return _unlearn(state, wrong, verdict)


def _unlearn(state: State, wrong: Ruled, verdict: Verdict) -> Consequences:
    """Takes back an intended change, by its first word or its second."""
    first = _known(state, wrong.verdict.confirms) if wrong.verdict.confirms else wrong
    if first is None or not first.confirmed:
        return Consequences(learn=Learn.DROP, outcome="the reference stays")
    second = _known(state, first.confirmed)
    first.revoked = verdict.id
    if second is not None:
        second.revoked = verdict.id
    _mark(state, first.key, None)
    return Consequences(learn=Learn.RETURN, outcome="judged by the reference of before again")


def _known(state: State, name: str) -> Ruled | None:
    return next((ruled for ruled in state.ruled if ruled.verdict.id == name), None)


def _mark(state: State, key: str, ruling: Ruling | None) -> None:
    episode = state.episode(key)
    if episode is not None:
        episode.ruling = ruling


def _asks(verdict: Verdict) -> bool:
    return verdict.ruling is Ruling.INTENDED and not verdict.confirms and not verdict.revokes


def _withdrawal(cause: str, episode: Episode, until: float) -> Withdrawal:
    name = hashlib.sha256(f"{cause}|{episode.start!r}|{until!r}".encode()).hexdigest()[:32]
    return Withdrawal(name, episode.model, episode.start, until, f"{episode.key} was judged unintended")
