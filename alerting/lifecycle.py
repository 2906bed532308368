"""The life of an alert: opened, updated, resolved. Pure: event time is handed in, notices are handed out.

What a reader would get wrong: an alert does not resolve because time passed. It resolves when its check *looked*, and
found nothing, for `clear_after`; a model that fell silent keeps its alerts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from alerting.alert import Alert, Look, Notice, Seconds, Severity, Symptom, Transition, notice_id

OVERFLOW = "too_many_alerts"  # check name of the alert that stands for those beyond `max_open`
REMEMBERED = 900.0  # seconds of event time a resolved alert is kept, so that Alertmanager is told more than once
_FACTS, _TEXT = 20, 2_000  # facts of an alert, characters of a text: 1,000 full alerts stay under 50 MB
_MARK = 200  # characters of a fact's name or value


class AlertOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an alert opens, repeats and resolves. All times are event time."""

    confirm: Annotated[int, Meta(ge=1, description="Looks in a row that must find something before it opens.")] = 1
    clear_after: Annotated[
        Seconds, Meta(ge=0, description="How long its check must look and find nothing before an alert resolves.")
    ] = 60.0
    repeat: Annotated[
        Seconds,
        Meta(ge=0, description="Shortest time between notices of an open alert; a risen severity is told at once."),
    ] = 3600.0
    max_open: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Open alerts at most; one alert per model counts what is beyond."),
    ] = 1000


class Pending(msgspec.Struct):
    """Symptoms in a row that do not make an alert yet: unconfirmed, or beyond `max_open`."""

    look: Look
    first: float  # event time of the first
    looks: int = 0


class Beyond(msgspec.Struct, frozen=True):
    """What a check found at its last look that got no alert of its own, because `max_open` were open."""

    look: Look
    count: int
    severity: Severity  # the gravest


class State(msgspec.Struct):
    """Everything the life cycle remembers. Plain data: saved with a checkpoint, never merged."""

    alerts: dict[str, Alert] = {}  # by key; the open ones, and those resolved less than `REMEMBERED` ago
    pending: dict[str, Pending] = {}
    beyond: list[Beyond] = []  # at most one a look
    unremembered: int = 0  # symptoms whose count of looks started anew, because as many as `max_open` were pending

    def open(self) -> Iterator[Alert]:
        """The alerts that are open now."""
        return (alert for alert in self.alerts.values() if alert.resolved is None)

    def find_open(self, key: str) -> Alert | None:
        """The open alert of this key."""
        alert = self.alerts.get(key)
        return alert if alert is not None and alert.resolved is None else None


def step(
    state: State, symptoms: Iterable[Symptom], looked: Collection[Look], now: float, options: AlertOptions
) -> list[Notice]:
    """Take in one judged window of a model and return what is to be told, resolutions first.

    `symptoms` is all that was found, in any order; `looked` names each look that was taken, whether it found
    something or not; `now` is the window's end. `state` is changed in place. The same arguments give the same
    notices with the same ids, so a repeat after a crash is recognised wherever it arrives.

    >>> state, options = State(), AlertOptions(clear_after=10)
    >>> found = Symptom("shelf", "psi", "weight", 0, 10, score=0.4, limit=0.2, text="weight moved")
    >>> [n.transition.value for n in step(state, [found], [Look("shelf", "psi")], 10, options)]
    ['opened']
    >>> [n.transition.value for end in (20, 30) for n in step(state, [], [found.look], end, options)]
    ['resolved']
    """
    found = _gravest(symptoms)
    looks = {*looked, *(s.look for s in found.values())}
    _forget(state, found, looks, now)
    # A check that found nothing for long enough frees its place before a new alert asks for one.
    notices = []
    for alert in sorted(state.open(), key=lambda a: a.key):
        if alert.look in looks and alert.key not in found:
            notices += _quiet(state, alert, now, options)
    beyond: list[Symptom] = []
    places = options.max_open - sum(alert.check != OVERFLOW for alert in state.open())
    for symptom in sorted(found.values(), key=lambda s: (-s.severity.rank, s.key)):
        alert_now = state.find_open(symptom.key)
        if alert_now is not None:
            notices += _update(state, alert_now, symptom, now, options)
        elif (first := _confirmed(state, symptom, now, options)) is None:
            continue
        elif places > 0:
            places -= 1
            notices.append(_open(state, symptom, first, now))
        else:
            beyond.append(symptom)
    return notices + _overflow(state, beyond, looks, now, options)


def _gravest(symptoms: Iterable[Symptom]) -> dict[str, Symptom]:
    """One symptom a key, the gravest and then the strongest, whatever the order they came in."""
    found: dict[str, Symptom] = {}
    for symptom in symptoms:
        known = found.get(symptom.key)
        if known is None or _gravity(symptom) > _gravity(known):
            found[symptom.key] = symptom
    return found


def _gravity(symptom: Symptom) -> tuple[int, float, str]:
    score = symptom.score
    return symptom.severity.rank, score if score == score else float("-inf"), symptom.text  # noqa: PLR0124 NaN is lowest


def _forget(state: State, found: dict[str, Symptom], looks: set[Look], now: float) -> None:
    for key in [k for k, a in state.alerts.items() if a.resolved is not None and now - a.resolved > REMEMBERED]:
        del state.alerts[key]
    for key in [k for k, p in state.pending.items() if k not in found and p.look in looks]:
        del state.pending[key]


def _quiet(state: State, alert: Alert, now: float, options: AlertOptions) -> list[Notice]:
    """Its check looked and found nothing."""
    since = now if alert.quiet is None else alert.quiet
    alert = replace(alert, quiet=since)
    if now - since < options.clear_after:
        state.alerts[alert.key] = alert
        return []
    return [_say(state, replace(alert, resolved=now), Transition.RESOLVED, now)]


def _confirmed(state: State, symptom: Symptom, now: float, options: AlertOptions) -> float | None:
    """Event time of the first of `confirm` symptoms in a row; None while there are fewer."""
    pending = state.pending.get(symptom.key)
    if pending is None:
        pending = Pending(symptom.look, now)
        if len(state.pending) < options.max_open:
            state.pending[symptom.key] = pending
        else:
            state.unremembered += 1
    pending.looks += 1
    return pending.first if pending.looks >= options.confirm else None


def _open(state: State, symptom: Symptom, started: float, now: float) -> Notice:
    state.pending.pop(symptom.key, None)
    alert = Alert(
        key=symptom.key,
        model=symptom.model,
        check=symptom.check,
        column=symptom.column,
        severity=symptom.severity,
        started=started,
        last_seen=now,
        text=symptom.text[:_TEXT],
        score=symptom.score,
        limit=symptom.limit,
        facts=_bounded(symptom.facts),
        examples=symptom.examples,
        opened_as=symptom.severity,
        scope=symptom.scope,
    )
    return _say(state, alert, Transition.OPENED, now)


def _update(state: State, alert: Alert, symptom: Symptom, now: float, options: AlertOptions) -> list[Notice]:
    rose = symptom.severity.rank > alert.severity.rank
    alert = replace(
        alert,
        severity=symptom.severity if rose else alert.severity,
        last_seen=now,
        quiet=None,
        text=symptom.text[:_TEXT],
        score=symptom.score,
        limit=symptom.limit,
        facts=_bounded(symptom.facts),
        examples=symptom.examples or alert.examples,
    )
    if rose or now - alert.said >= options.repeat:
        return [_say(state, alert, Transition.UPDATED, now)]
    state.alerts[alert.key] = alert
    return []


def _bounded(facts: dict[str, float | str]) -> dict[str, float | str]:
    first = islice(facts.items(), _FACTS)
    return {name[:_MARK]: fact[:_MARK] if isinstance(fact, str) else fact for name, fact in first}


def _say(state: State, alert: Alert, transition: Transition, now: float) -> Notice:
    alert = replace(alert, said=now, serial=alert.serial + 1)
    state.alerts[alert.key] = alert
    return Notice(notice_id(alert), transition, alert)


def _overflow(
    state: State, beyond: Sequence[Symptom], looks: set[Look], now: float, options: AlertOptions
) -> list[Notice]:
    """One alert per model for the symptoms that found no place, counted as each check's last look left them."""
    state.beyond = [b for b in state.beyond if b.look not in looks]
    for look in sorted(looks):
        held = [s for s in beyond if s.look == look]
        if held:
            state.beyond.append(Beyond(look, len(held), max((s.severity for s in held), key=lambda s: s.rank)))
    notices = []
    for model in sorted({look.model for look in looks}):
        summary = _summary(model, [b for b in state.beyond if b.look.model == model], now, options)
        alert = state.find_open(summary.key)
        if summary.score:
            notices += (
                [_open(state, summary, now, now)] if alert is None else _update(state, alert, summary, now, options)
            )
        elif alert is not None:
            notices += _quiet(state, alert, now, options)
    return notices


def _summary(model: str, beyond: Sequence[Beyond], now: float, options: AlertOptions) -> Symptom:
    count = sum(b.count for b in beyond)
    return Symptom(
        model=model,
        check=OVERFLOW,
        column="",
        start=now,
        end=now,
        score=float(count),
        limit=0.0,
        text=f"{count} more symptoms have no alert of their own: {options.max_open} alerts are open.",
        severity=max((b.severity for b in beyond), key=lambda s: s.rank, default=Severity.INFO),
        facts={"without_alert": float(count), "max_open": float(options.max_open)},
    )
