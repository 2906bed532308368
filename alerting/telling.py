"""Who is told of what. Pure, and remembered in the alerts themselves: what was last said of each, and whether receivers
hold it for open.

What a reader would get wrong: an alert that is open need not be told. What moves together is told by its leader alone,
what broken data explain by their alert, what is muted by none; and one that falls silent is taken back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from alerting.alert import (
    OVERFLOW,
    Alert,
    Member,
    Notice,
    Ruling,
    Symptom,
    Transition,
    notice_id,
    rfc3339,
)

if TYPE_CHECKING:
    from alerting.lifecycle import AlertOptions, State
    from alerting.rules import Rule

_SHOWN = 50  # members of an alert that are named, each with `_SAID` characters of its text
_SAID = 200


def tell(state: State, now: float, options: AlertOptions) -> list[Notice]:
    """What is due to be said, resolutions first. `state` is changed in place."""
    silence(state, now, options)
    _lead(state)
    due = [
        (alert, transition)
        for alert in state.alerts.values()
        if (transition := _transition(alert, now, options)) is not None
    ]
    due.sort(key=lambda pair: (pair[0].firing, urgency(pair[0], publicity=pair[0].publicity)))
    return [say(state, _due(state, alert, transition, options), transition, now) for alert, transition in due]


def say(state: State, alert: Alert, transition: Transition, now: float) -> Notice:
    """Puts the alert in its place, and the notice of it."""
    alert = replace(
        alert, said=now, serial=alert.serial + 1, held=alert.firing, said_severity=alert.severity,
        said_joined=alert.joined,
    )  # fmt: skip
    state.alerts[alert.key] = alert
    return Notice(notice_id(alert), transition, alert)


def silence(state: State, now: float, options: AlertOptions) -> None:
    """Settles which alerts are muted, and which are explained by broken data."""
    causes = sorted((a for a in state.open() if a.broken), key=lambda a: (a.started, a.key))
    for alert in list(state.open()):
        muted = options.muted(alert, now)
        suppression = None if muted else state.suppression(alert.key)
        if suppression is not None:
            muted = f"false alarm by {suppression.by}, until {rfc3339(suppression.until)}"
            suppression.suppressed += not alert.muted and not alert.held
        leader = alert.leader if state.find_open(alert.leader) is not None else ""
        cause = None if leader else next((c for c in causes if _explains(c, alert, options)), None)
        inhibited = "" if cause is None else cause.leader or cause.key
        if (muted, leader, inhibited) != (alert.muted, alert.leader, alert.inhibited):
            due = None if muted or inhibited else alert.deadline
            state.alerts[alert.key] = replace(alert, muted=muted, leader=leader, inhibited=inhibited, deadline=due)


def deadline(state: State, alert: Alert, options: AlertOptions) -> float | None:
    """By when somebody must rule, from now on, by the strictest rule of what it leads; or mend, where that is ruled."""
    if not alert.firing:
        return None
    if alert.verdict is not None:
        return state.now + options.fix_within if alert.verdict.ruling is Ruling.UNINTENDED else None
    times = [rule.sla for rule in _rules(state, alert, options) if rule.sla is not None]
    return state.now + min(times) if times else None


def urgency(found: Symptom | Alert, *, publicity: bool) -> tuple[bool, int, float, bool, str]:
    """What the world sees comes first, then the gravest, the likeliest cause, what is of all rows."""
    rank = found.facts.get("rank", 1.0)
    likeliest = rank if isinstance(rank, float) else 1.0
    return not publicity, -found.severity.rank, likeliest, bool(found.scope), found.key


def _lead(state: State) -> None:
    """Leaders are as grave, and as lately seen, as what they lead."""
    led: dict[str, list[Alert]] = {alert.key: [] for alert in state.open() if alert.members}
    for alert in state.open():
        if alert.leader and not alert.muted:
            led.setdefault(alert.leader, []).append(alert)
    for key, alerts in led.items():
        alerts.sort(key=lambda a: urgency(a, publicity=a.publicity))
        head = state.alerts[key]
        state.alerts[key] = replace(
            head,
            severity=max((head.severity, *(a.severity for a in alerts)), key=lambda s: s.rank),
            last_seen=max((head.last_seen, *(a.last_seen for a in alerts))),
            publicity=head.publicity or any(a.publicity for a in alerts),
            members=tuple(
                Member(a.key, a.check, a.column, a.scope, a.severity, a.started, a.text[:_SAID])
                for a in alerts[:_SHOWN]
            ),
        )


def _explains(cause: Alert, alert: Alert, options: AlertOptions) -> bool:
    """Broken data are why other things move: their column at any time, the rest of the model from about then on."""
    if alert.broken or alert.check == OVERFLOW or cause.scope not in ("", alert.scope):
        return False
    near = abs(cause.started - alert.started) < options.group_within
    return not cause.column or cause.column == alert.column or near


def _transition(alert: Alert, now: float, options: AlertOptions) -> Transition | None:
    """What is due to be said of it, by how it is and by what was said of it last."""
    if not alert.firing:
        if not alert.held:
            return None
        if alert.resolved is None:
            return Transition.SILENCED
        unintended = alert.verdict is not None and alert.verdict.ruling is Ruling.UNINTENDED
        return Transition.FIXED if unintended else Transition.RESOLVED
    found = alert.last_seen == now
    if not alert.held:
        came = Transition.REOPENED if alert.serial else Transition.OPENED
        return came if found else None  # what is no longer silent is told when it is found again
    if alert.deadline is not None and now >= alert.deadline:
        return Transition.ESCALATED
    grown = alert.joined > alert.said_joined and now - alert.started >= options.group_within
    rose = alert.severity.rank > alert.said_severity.rank
    return Transition.UPDATED if rose or grown or (found and now - alert.said >= options.repeat) else None


def _due(state: State, alert: Alert, transition: Transition, options: AlertOptions) -> Alert:
    """The alert with the deadline that the transition gives it, and the severity that one which passed does."""
    if transition is Transition.ESCALATED:
        gravest = max((rule.escalate for rule in _rules(state, alert, options)), key=lambda s: s.rank)
        return replace(alert, severity=max((alert.severity, gravest), key=lambda s: s.rank), deadline=None)
    if transition in (Transition.OPENED, Transition.REOPENED):
        return replace(alert, deadline=deadline(state, alert, options))
    return alert


def _rules(state: State, alert: Alert, options: AlertOptions) -> list[Rule]:
    """Those for an alert and for what it leads."""
    return [options.rule(alert), *(options.rule(a) for a in state.open() if a.leader == alert.key)]
