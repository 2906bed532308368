"""The life of an alert, from opened to resolved. Pure: event time is handed in, notices are handed out.

What a reader would get wrong: an alert does not resolve because time passed. It resolves when its check *looked*, and
found nothing, for `clear_after`; a model that fell silent keeps its alerts. Which of the open ones are told of is
`alerting.telling`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from alerting import telling
from alerting.alert import OVERFLOW, Alert, Look, Notice, Ruling, Seconds, Severity, Symptom, Verdict
from alerting.rules import Mute, Rule

REMEMBERED = 900.0  # seconds of event time a resolved alert is kept, so that Alertmanager is told more than once
EPISODES = 200  # kept of a model, the newest
_FACTS, _TEXT = 20, 2_000  # facts of an alert, characters of a text: 1,000 full alerts stay under 50 MB
_MARK = 200  # characters of a fact's name or value
_NO_RULE = Rule()


class AlertOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an alert opens, repeats and resolves. All times are event time."""

    confirm: Annotated[int, Meta(ge=1, description="Looks in a row that must find something before it opens.")] = 1
    clear_after: Annotated[
        Seconds,
        Meta(
            ge=0,
            description="How long its check must look and find nothing before an alert resolves; doubled with each "
            "time it came back, up to `cooldown`.",
        ),
    ] = 60.0
    cooldown: Annotated[
        Seconds, Meta(ge=0, description="What comes back within this time goes on as the same alert.")
    ] = 900.0
    group_within: Annotated[
        Seconds,
        Meta(
            ge=0,
            description="What a model shows within this time of an alert's start is told with it, or where data are "
            "broken explained by it; 0: each column on its own.",
        ),
    ] = 600.0
    repeat: Annotated[
        Seconds,
        Meta(ge=0, description="Shortest time between notices of an open alert; a risen severity is told at once."),
    ] = 3600.0
    max_open: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Open alerts at most; one alert per model counts what is beyond."),
    ] = 1000
    rules: Annotated[
        tuple[Rule, ...], Meta(max_length=1000, description="What alerts are to those who are told; the first counts.")
    ] = ()
    mutes: Annotated[tuple[Mute, ...], Meta(max_length=1000, description="What is not told.")] = ()
    false_alarm: Annotated[
        Seconds, Meta(gt=0, description="How long a false alarm is not told again, where its verdict says no end.")
    ] = 7 * 86400.0
    fix_within: Annotated[
        Seconds, Meta(gt=0, description="Time to mend what is unintended; then its alert escalates.")
    ] = 86400.0

    def rule(self, found: Symptom | Alert) -> Rule:
        """The first that matches."""
        return next((rule for rule in self.rules if rule.when.matches(found)), _NO_RULE)

    def muted(self, found: Symptom | Alert, now: float) -> str:
        """Why it is not told, in words; empty where it is."""
        mute = next((mute for mute in self.mutes if mute.holds(found, now)), None)
        return "" if mute is None else mute.why or "by configuration"


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


class Episode(msgspec.Struct):
    """A stretch of event time in which something was the matter, from its first sign until the alert resolved."""

    model: str
    key: str  # of the alert that led it
    start: float
    end: float | None = None  # None: it goes on
    ruling: Ruling | None = None  # intended once it was confirmed; unintended: its rows are to be left out
    broken: bool = False  # the data were


class Ruled(msgspec.Struct):
    """A verdict as it was taken."""

    verdict: Verdict
    time: float  # event time
    outcome: str  # what came of it, in words
    key: str  # of the alert that it was taken to be on: the leader of the one it names
    confirmed: str = ""  # id of the verdict that was the second word
    revoked: str = ""  # id of the verdict that took it back


class Suppression(msgspec.Struct):
    """What a verdict of a false alarm keeps silent."""

    verdict: str  # its id
    by: str
    keys: tuple[str, ...]
    until: float  # event time
    suppressed: int = 0  # alerts so far


class FalseAlarms(msgspec.Struct):
    """The own record of a threshold, that is of a check on a column of a scope."""

    count: int = 0
    last: float = 0.0  # event time


class State(msgspec.Struct):
    """Everything the life cycle remembers of a model. Plain data: saved with a checkpoint, never merged."""

    alerts: dict[str, Alert] = {}  # by key; the open ones, and those resolved less than `REMEMBERED` ago
    pending: dict[str, Pending] = {}
    beyond: list[Beyond] = []  # at most one a look
    unremembered: int = 0  # symptoms whose count of looks started anew, because as many as `max_open` were pending
    now: float = 0.0  # event time of the last step
    episodes: list[Episode] = []  # oldest first
    ruled: list[Ruled] = []  # newest first
    suppressions: list[Suppression] = []
    false_alarms: dict[str, FalseAlarms] = {}  # by key of the alert

    def open(self) -> Iterator[Alert]:
        """The alerts that are open now."""
        return (alert for alert in self.alerts.values() if alert.resolved is None)

    def find_open(self, key: str) -> Alert | None:
        """The open alert of this key."""
        alert = self.alerts.get(key)
        return alert if alert is not None and alert.resolved is None else None

    def episode(self, key: str) -> Episode | None:
        """The last that this alert led."""
        return next((episode for episode in reversed(self.episodes) if episode.key == key), None)

    def suppression(self, key: str) -> Suppression | None:
        """What keeps an alert of this key silent, by a verdict."""
        return next((s for s in self.suppressions if key in s.keys), None)


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
    state.now = now
    found = _gravest(_ranked(symptoms, options))
    looks = {*looked, *(symptom.look for symptom in found.values())}
    _forget(state, found, looks, now, options)
    # A check that found nothing for long enough frees its place before a new alert asks for one.
    _calm(state, {a.key for a in state.open() if a.look in looks}, found, now, options)
    _overflow(state, _take(state, found, now, options), looks, now, options)
    return telling.tell(state, now, options)


# -- symptoms


def _ranked(symptoms: Iterable[Symptom], options: AlertOptions) -> Iterator[Symptom]:
    """With the severity that the rules give them."""
    for symptom in symptoms:
        severity = options.rule(symptom).severity if options.rules else None
        yield symptom if severity is None else replace(symptom, severity=severity)


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


def _forget(state: State, found: Mapping[str, Symptom], looks: set[Look], now: float, options: AlertOptions) -> None:
    kept = max(REMEMBERED, options.cooldown)
    for key in [k for k, a in state.alerts.items() if a.resolved is not None and now - a.resolved > kept]:
        del state.alerts[key]
    for key in [k for k, p in state.pending.items() if k not in found and p.look in looks]:
        del state.pending[key]
    state.suppressions = [s for s in state.suppressions if now < s.until]


def _calm(state: State, keys: set[str], found: Mapping[str, Symptom], now: float, options: AlertOptions) -> None:
    """The checks of these alerts looked, and of some found nothing. A leader resolves with the last that it leads."""
    quiet = [state.alerts[key] for key in sorted(keys - found.keys())]
    calm = [replace(alert, quiet=now if alert.quiet is None else alert.quiet) for alert in quiet]
    state.alerts.update((alert.key, alert) for alert in calm)
    over = [alert for alert in calm if _is_over(alert, now, options)]
    state.alerts.update((alert.key, replace(alert, resolved=now)) for alert in over if alert.leader)
    led = {alert.leader for alert in state.open() if not alert.muted}
    for key in {alert.leader or alert.key for alert in over} - led - found.keys():
        alert = state.find_open(key)
        if alert is not None and _is_over(alert, now, options):
            state.alerts[key] = replace(alert, resolved=now)
            episode = state.episode(key)
            if episode is not None:
                episode.end = now


def _is_over(alert: Alert, now: float, options: AlertOptions) -> bool:
    """Quiet for long enough: an alert that keeps coming back has to be quiet for longer, so flapping is told seldom."""
    longest = max(options.clear_after, options.cooldown)
    wanted = min(options.clear_after * 2.0 ** min(alert.relapses, 60), longest)
    return alert.quiet is not None and now - alert.quiet >= wanted


def _take(state: State, found: Mapping[str, Symptom], now: float, options: AlertOptions) -> list[Symptom]:
    """Symptoms into alerts, the most urgent first; those for which there is no place are returned."""
    beyond: list[Symptom] = []
    heads = _heads(state, now, options)
    places = options.max_open - sum(alert.check != OVERFLOW for alert in state.open())
    ruled = [(symptom, options.rule(symptom)) for symptom in found.values()]
    for symptom, rule in sorted(ruled, key=lambda pair: telling.urgency(pair[0], publicity=pair[1].publicity)):
        known = state.alerts.get(symptom.key)
        if known is not None and known.resolved is None:
            _update(state, known, symptom, now)
            continue
        first = _confirmed(state, symptom, now, options)
        if first is None:
            continue
        if places <= 0 and rule.publicity:
            places += _displace(state)
        if places <= 0:
            beyond.append(symptom)
            continue
        places -= 1
        state.pending.pop(symptom.key, None)
        if known is not None and known.resolved is not None and now - known.resolved < options.cooldown:
            places -= _reopen(state, known, symptom, now)
            continue
        if options.muted(symptom, now) or state.suppression(symptom.key):
            _open(state, symptom, first, now)
            continue
        leader = heads.get(symptom.broken, "")
        _open(state, symptom, first, now, leader, publicity=rule.publicity)
        if not leader:
            state.episodes = [
                *state.episodes,
                Episode(symptom.model, symptom.key, symptom.since, broken=symptom.broken),
            ]
            del state.episodes[:-EPISODES]
            if options.group_within:
                heads[symptom.broken] = symptom.key
    return beyond


def _heads(state: State, now: float, options: AlertOptions) -> dict[bool, str]:
    """Alerts that what is new belongs to, by whether the data are broken: the last that began a short while ago."""
    young = [a for a in state.open() if not (a.leader or a.muted) and a.check != OVERFLOW]
    young = [a for a in young if now - a.started < options.group_within]
    return {a.broken: a.key for a in sorted(young, key=lambda a: (a.started, a.key))}


def _displace(state: State) -> int:
    """Makes a place for what the world sees: of those that are led, the least urgent gives its own. How many places."""
    led = [alert for alert in state.open() if alert.leader and not alert.publicity]
    if not led:
        return 0
    del state.alerts[max(led, key=lambda a: telling.urgency(a, publicity=False)).key]
    return 1


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


def _open(
    state: State, symptom: Symptom, started: float, now: float, leader: str = "", *, publicity: bool = False
) -> None:
    before = next((r.verdict for r in state.ruled if r.verdict.key == symptom.key and not r.revoked), None)
    state.alerts[symptom.key] = Alert(
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
        broken=symptom.broken,
        since=symptom.since,
        leader=leader,
        publicity=publicity,
        before=before,
    )
    if leader:
        head = state.alerts[leader]
        state.alerts[leader] = replace(head, joined=head.joined + 1)


def _update(state: State, alert: Alert, symptom: Symptom, now: float) -> None:
    state.alerts[alert.key] = replace(
        alert,
        severity=max(symptom.severity, alert.severity, key=lambda s: s.rank),
        last_seen=now,
        quiet=None,
        text=symptom.text[:_TEXT],
        score=symptom.score,
        limit=symptom.limit,
        facts=_bounded(symptom.facts),
        examples=symptom.examples or alert.examples,
    )


def _reopen(state: State, alert: Alert, symptom: Symptom, now: float) -> int:
    """It goes on as the same alert; with one that is led its leader, if that is over. How many that are besides."""
    besides = 0
    head = state.alerts.get(alert.leader)
    if head is None:
        alert = replace(alert, leader="")
    elif head.resolved is not None:
        state.alerts[head.key] = replace(head, resolved=None, relapses=head.relapses + 1, quiet=now)
        besides = 1
    _update(state, replace(alert, resolved=None, relapses=alert.relapses + 1), symptom, now)
    episode = state.episode(alert.leader or alert.key)
    if episode is not None:
        episode.end = None
    return besides


def _bounded(facts: dict[str, float | str]) -> dict[str, float | str]:
    first = islice(facts.items(), _FACTS)
    return {name[:_MARK]: fact[:_MARK] if isinstance(fact, str) else fact for name, fact in first}


# -- what is beyond the bound


def _overflow(state: State, beyond: Sequence[Symptom], looks: set[Look], now: float, options: AlertOptions) -> None:
    """One alert per model for the symptoms that found no place, counted as each check's last look left them."""
    state.beyond = [b for b in state.beyond if b.look not in looks]
    held: dict[Look, list[Symptom]] = {}
    for symptom in beyond:
        held.setdefault(symptom.look, []).append(symptom)
    for look, some in sorted(held.items()):
        state.beyond.append(Beyond(look, len(some), max((s.severity for s in some), key=lambda s: s.rank)))
    for model in sorted({look.model for look in looks}):
        summary = _summary(model, [b for b in state.beyond if b.look.model == model], now, options)
        alert = state.alerts.get(summary.key)
        is_open = alert is not None and alert.resolved is None
        if not summary.score:
            _calm(state, {summary.key} if is_open else set(), {}, now, options)
        elif alert is None:
            _open(state, summary, now, now)
        elif is_open:
            _update(state, alert, summary, now)
        else:
            _reopen(state, alert, summary, now)


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
