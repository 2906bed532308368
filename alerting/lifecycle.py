"""The life of an alert: opened, updated, resolved. Pure: event time is handed in, notices are handed out.

What a reader would get wrong: an alert does not resolve because time passed. It resolves when its check *looked*, and
found nothing, for `clear_after`; a model that fell silent keeps its alerts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Alert, Notice, Seconds, Severity, Symptom, Transition, notice_id

OVERFLOW = "too_many_alerts"  # check name of the alert that stands for those beyond `max_open`
REMEMBERED = 900.0  # seconds of event time a resolved alert is kept, so that Alertmanager is told more than once
_FACTS, _TEXT = 20, 2_000  # facts of an alert, characters of a text: 1,000 full alerts stay under 50 MB
_MARK = 200  # characters of a fact's name or value

Look = tuple[str, str]  # model, check


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

    model: str
    check: str
    first: float  # event time of the first
    looks: int = 0


class State(msgspec.Struct):
    """Everything the life cycle remembers. Plain data: saved with a checkpoint, never merged."""

    alerts: dict[str, Alert] = {}  # by key; the open ones, and those resolved less than `REMEMBERED` ago
    pending: dict[str, Pending] = {}
    unremembered: int = 0  # symptoms whose count of looks started anew, because as many as `max_open` were pending

    def open(self) -> Iterator[Alert]:
        """The alerts that are open now."""
        return (alert for alert in self.alerts.values() if alert.resolved is None)


def step(
    state: State, symptoms: Iterable[Symptom], looked: Collection[Look], now: float, options: AlertOptions
) -> list[Notice]:
    """Take in one judged window of a model and return what is to be told, resolutions first.

    `symptoms` is all that was found, in any order; `looked` names each (model, check) that was evaluated, whether it
    found something or not; `now` is the window's end. `state` is changed in place. The same arguments give the same
    notices with the same ids, so a repeat after a crash is recognised wherever it arrives.

    >>> state, options = State(), AlertOptions(clear_after=10)
    >>> found = Symptom("shelf", "psi", "weight", 0, 10, score=0.4, limit=0.2, text="weight moved")
    >>> [n.transition.value for n in step(state, [found], [("shelf", "psi")], 10, options)]
    ['opened']
    >>> [n.transition.value for end in (20, 30) for n in step(state, [], [("shelf", "psi")], end, options)]
    ['resolved']
    """
    found = _gravest(symptoms)
    looks = {*looked, *((s.model, s.check) for s in found.values())}
    looks |= {(model, OVERFLOW) for model, _ in looks}
    _forget(state, found, looks, now)
    # A check that found nothing for long enough frees its place before a new alert asks for one.
    notices = [
        _say(alert, Transition.RESOLVED, now)
        for alert in sorted(state.open(), key=lambda a: a.key)
        if (alert.model, alert.check) in looks
        and alert.check != OVERFLOW
        and alert.key not in found
        and _is_quiet(alert, now, options)
    ]
    beyond: dict[str, list[Symptom]] = {}
    places = options.max_open - sum(alert.check != OVERFLOW for alert in state.open())
    for symptom in sorted(found.values(), key=lambda s: (-s.severity.rank, s.key)):
        alert = state.alerts.get(symptom.key)
        if alert is not None and alert.resolved is None:
            notices += _update(alert, symptom, now, options)
        elif (first := _confirmed(state, symptom, now, options)) is None:
            continue
        elif places > 0:
            places -= 1
            notices.append(_open(state, symptom, first, now))
        else:
            beyond.setdefault(symptom.model, []).append(symptom)
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
    for key in [k for k, p in state.pending.items() if k not in found and (p.model, p.check) in looks]:
        del state.pending[key]


def _is_quiet(alert: Alert, now: float, options: AlertOptions) -> bool:
    if alert.quiet is None:
        alert.quiet = now
    return now - alert.quiet >= options.clear_after


def _confirmed(state: State, symptom: Symptom, now: float, options: AlertOptions) -> float | None:
    """Event time of the first of `confirm` symptoms in a row; None while there are fewer."""
    pending = state.pending.get(symptom.key)
    if pending is None:
        pending = Pending(symptom.model, symptom.check, now)
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
        opened_as=symptom.severity,
        started=started,
        last_seen=now,
        text="",
        score=symptom.score,
        limit=symptom.limit,
    )
    _describe(alert, symptom)
    state.alerts[alert.key] = alert
    return _say(alert, Transition.OPENED, now)


def _update(alert: Alert, symptom: Symptom, now: float, options: AlertOptions) -> list[Notice]:
    rose = symptom.severity.rank > alert.severity.rank
    if rose:
        alert.severity = symptom.severity
    alert.last_seen, alert.quiet = now, None
    _describe(alert, symptom)
    return [_say(alert, Transition.UPDATED, now)] if rose or now - alert.said >= options.repeat else []


def _describe(alert: Alert, symptom: Symptom) -> None:
    alert.score, alert.limit, alert.text = symptom.score, symptom.limit, symptom.text[:_TEXT]
    alert.facts = {
        name[:_MARK]: fact[:_MARK] if isinstance(fact, str) else fact
        for name, fact in list(symptom.facts.items())[:_FACTS]
    }


def _say(alert: Alert, transition: Transition, now: float) -> Notice:
    alert.said = now
    alert.serial += 1
    if transition is Transition.RESOLVED:
        alert.resolved = now
    # `facts` is replaced on every look, never written to, so the notice may share it.
    return Notice(notice_id(alert), transition, msgspec.structs.replace(alert))


def _overflow(
    state: State, beyond: dict[str, list[Symptom]], looks: set[Look], now: float, options: AlertOptions
) -> list[Notice]:
    """One alert per model for the symptoms that found no place. Its count is that of the last look, exactly."""
    notices = []
    for model in sorted({model for model, _ in looks}):
        held = beyond.get(model, [])
        summary = Symptom(
            model=model,
            check=OVERFLOW,
            column="",
            start=now,
            end=now,
            score=float(len(held)),
            limit=0.0,
            text=f"{len(held)} more symptoms have no alert of their own: {options.max_open} alerts are open.",
            severity=max((s.severity for s in held), key=lambda s: s.rank, default=Severity.INFO),
            facts={"without_alert": float(len(held)), "max_open": float(options.max_open)},
        )
        alert = state.alerts.get(summary.key)
        is_open = alert is not None and alert.resolved is None
        if alert is not None and is_open and held:
            notices += _update(alert, summary, now, options)
        elif alert is not None and is_open and _is_quiet(alert, now, options):
            notices.append(_say(alert, Transition.RESOLVED, now))
        elif held and not is_open:
            notices.append(_open(state, summary, now, now))
    return notices
