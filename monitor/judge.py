"""Stage 2: window partials of all lanes become judged windows, findings, alerts and label tasks.

One thread owns a `Judge`. It is a function of the exchange's messages in their order: killed and started again from
its checkpoint it comes to the same windows, the same notices with the same ids, the same label tasks. The clock it is
given only measures the delay.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import Protocol

import msgspec

from alerting import lifecycle, verdicts
from alerting.alert import Alert, Look, Notice, Symptom, Verdict
from alerting.labeling.task import Draw, Labels, Withdrawal
from alerting.retraining import Request, Word
from alerting.tracking.report import Report
from detectors.core import Finding, Role, Scorer
from detectors.encode import Undecodable, decode, encode
from detectors.profile import Layout, Profile, merged
from detectors.reference import Reference, scored
from monitor.accuracy import CHECK as LABELED
from monitor.accuracy import Accuracy, AccuracyOptions, concept
from monitor.accuracy import State as Labelled
from monitor.classes import choices, schema_of
from monitor.decode.columns import to_batch
from monitor.event import Event, Schema
from monitor.examples import Ids, remember, with_examples
from monitor.exchange import ENDED, Closed, Message, Partial, Told
from monitor.explain import Held
from monitor.labels import Hour, outcomes_of
from monitor.metrics import Meters
from monitor.recent import Recent
from monitor.references import References
from monitor.renewal import Renewal, Turn
from monitor.renewal import State as Renewing
from monitor.retraining import Performance
from monitor.sampling import SamplingOptions
from monitor.scopes import VERSION, WHOLE, Scopes
from monitor.show import Shown
from monitor.snapshot import Snapshot
from monitor.succession import Succession, Successor, reference_of
from monitor.tasks import Sampler, Sampling
from monitor.tracking import State as Tracking
from monitor.tracking import Tracker
from monitor.versions import versions_of
from monitor.watch import Check, SavedWatch, Watch

log = logging.getLogger(__name__)

FORMAT = 3
EMPTY = 60  # windows without a row that are judged one after the other; a longer gap in event time is jumped
AWAY = 30  # windows without a row after which a version gives its place to a new one
TOLD = 10_000  # ids of what was told that are kept, to know what comes again
HOURS = 14 * 24  # of event time, of which it is remembered what labels said
TEXTS = 20  # of the last findings, kept to be shown


class Model(Protocol):
    """What the judge has to know of a configured model."""

    @property
    def name(self) -> str: ...
    @property
    def learn(self) -> int: ...
    @property
    def declared(self) -> Schema | None: ...  # columns that are configured, None = whatever the events have
    @property
    def classes(self) -> Sequence[str]: ...  # by their place in a list of scores; empty: not told
    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def sampling(self) -> SamplingOptions | None: ...
    @property
    def accuracy(self) -> AccuracyOptions: ...  # by the labels of what is sampled
    @property
    def scopes(self) -> Scopes: ...
    @property
    def scope_checks(self) -> Sequence[Check]: ...
    @property
    def dataset(self) -> str: ...  # that label tasks belong to
    def renewal(self) -> Renewal | None: ...  # what its alerts and labels lead to
    def scorers(self, schema: Schema) -> Mapping[str, Scorer]: ...


class Effects(msgspec.Struct):
    """What judging asks of the outside; ids are made of causes, so doing it twice is harmless."""

    symptoms: list[Symptom] = []
    notices: list[Notice] = []
    draws: list[Draw] = []
    withdrawals: list[Withdrawal] = []
    requests: list[Request] = []
    reports: list[Report] = []


class _Lane(msgspec.Struct):
    serial: int = 0
    below: int | None = None
    turn: tuple[str, int] | None = None  # as in `Closed`


class _State(msgspec.Struct):
    """Of a model; with its history all that a restart needs."""

    lanes: dict[str, _Lane] = {}
    pending: dict[int, dict[str, list[Partial]]] = {}  # by window and lane
    below: int | None = None  # windows under it are judged
    learned: list[Event] = []
    alerts: lifecycle.State = msgspec.field(default_factory=lifecycle.State)
    sampling: Sampling | None = None
    hours: dict[int, dict[str, Hour]] = {}  # of late labels: by event time and lane
    events: int = 0
    late: int = 0
    windows: int = 0
    tasks: int = 0
    told: dict[str, None] = {}  # ids of what was told, the newest
    succession: Succession = msgspec.field(default_factory=Succession)
    labelled: Labelled | None = None
    renewal: Renewing | None = None
    tracking: Tracking | None = None


class _Saved(msgspec.Struct, frozen=True):
    format: int
    state: _State
    reference: str
    scopes: dict[str, SavedWatch]


class _Desk:
    """One model on the judge's table."""

    def __init__(
        self, key: str, plan: Model, window: float, successors: References | None, tracking: str | None
    ) -> None:
        self.key = key
        self.plan = plan
        self.window = window
        self.state = _State()
        self.reference: Reference | None = None
        self.schema: Schema = ()  # by which its events are read
        self.scorers: Mapping[str, Scorer] = {}
        self.watches: dict[str, Watch] = {}  # by scope; once there is a reference, the whole model first
        self.sampler = None if plan.sampling is None else Sampler(plan.name, plan.sampling, plan.dataset)
        self.accuracy = None if plan.sampling is None else Accuracy(plan.name, plan.accuracy, plan.scopes.slices)
        self.successor = None if successors is None else Successor(key, plan, successors)
        self.renewal = plan.renewal()
        self.tracker = None if tracking is None else Tracker(plan.name, tracking, window)
        self.texts: deque[str] = deque(maxlen=TEXTS)
        self.recent = Recent()

    def performance(self) -> Performance:
        """What labels say of the model now."""
        if self.accuracy is None:
            return Performance()
        known = self.accuracy
        return Performance(known.view.version, known.drop(), known.measured(), known.fell())

    def judge_by(self, reference: Reference) -> None:
        """Watches the model and its slices against this reference, with nothing remembered."""
        self.reference = reference
        self.schema = schema_of(self.plan.name, reference, self.plan.classes)
        self.scorers = self.plan.scorers(reference.schema)
        if self.accuracy is not None:
            self.accuracy.judge_by(reference)
        self.watches = {WHOLE: Watch(WHOLE, self.plan.checks, reference)}
        for scope in self.plan.scopes.declared:
            self.add(scope)

    def add(self, scope: str) -> None:
        """Watches a part of the rows, if the reference knows enough of them."""
        assert self.reference is not None
        own = self.plan.scopes.reference(self.reference, scope)
        if own is None:
            log.warning("model %s: the reference has too few rows of %s: it is not judged", self.plan.name, scope)
        else:
            self.watches[scope] = Watch(scope, self.plan.scope_checks, own)

    def renews(self, versions: Mapping[str, int]) -> bool:
        """Whether a version that was asked for answers these rows and has no reference of its own yet: its answers may
        be of other classes and its scores of another length, and the old reference would only say that it is new."""
        if self.renewal is not None and self.renewal.arriving(versions):
            return True
        return self.successor is not None and versions.get(self.successor.awaited, 0) > 0

    def admit(self, window: int, scopes: Collection[str]) -> None:
        """Watches versions that are new in this window, where there is room or another has been away for long."""
        most = self.plan.scopes.versions
        for scope in sorted(scopes):
            if not scope.startswith(VERSION) or scope in self.watches:
                continue
            versions = [watch for name, watch in self.watches.items() if name.startswith(VERSION)]
            if len(versions) >= most:
                oldest = min(versions, key=lambda watch: (watch.seen, watch.scope))
                if window - oldest.seen <= AWAY:
                    continue
                del self.watches[oldest.scope]
            self.add(scope)


class Judge:
    """Stage 2 over the models it owns. `window` is the base window's length in seconds."""

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        window: float,
        alerts: lifecycle.AlertOptions,
        references: Callable[[str], Reference | None],
        learned: Callable[[Reference], None],
        clock: Callable[[], float],
        meters: Meters,
        successors: References | None = None,
        tracking: str | None = None,  # digest of the configuration that runs are marked with; None: there are none
    ) -> None:
        self._alerts = alerts
        self._window = window
        self._learned = learned
        self._clock = clock
        self._meters = meters
        self._desks = {key: _Desk(key, plan, window, successors, tracking) for key, plan in models.items()}
        # each model with the one that its labels become, and that one with the model
        self._outcomes = {name: outcomes_of(name) for name in models if outcomes_of(name) in models}
        self._answers = {outcomes: name for name, outcomes in self._outcomes.items()}
        self._compared = {versions_of(name): name for name in models}
        self._unasked = {*self._answers, *map(versions_of, models)}  # not shown until they have events
        for name, desk in self._desks.items():
            reference = references(name)
            if reference is not None:
                desk.judge_by(reference)
        self._shown: dict[str, Shown] = {name: self._show(desk) for name, desk in self._desks.items()}

    # -- messages

    def take(self, message: Message, effects: Effects) -> None:
        """One message of the exchange. What it leads to is added to `effects`."""
        desk = self._desks.get(message.model)
        if desk is None:
            return
        if isinstance(message, Told):
            self._take_told(desk, message, effects)
        else:
            self._take_closed(desk, message, effects)

    def _take_told(self, desk: _Desk, message: Told, effects: Effects) -> None:
        told = desk.state.told
        if message.id in told:
            self._meters.duplicates.inc()
            return
        told[message.id] = None
        if len(told) > TOLD:
            del told[next(iter(told))]
        if isinstance(message.act, Verdict):
            self._take_verdict(desk, message.act, effects)
        elif isinstance(message.act, Labels) and desk.accuracy is not None:
            desk.accuracy.take(message.act.returned)
            if desk.tracker is not None:
                desk.tracker.take_labels(message.act.returned)
            if desk.renewal is not None:
                desk.renewal.take_labels(message.act.returned)
        elif isinstance(message.act, Word) and desk.renewal is not None:
            self._renew(desk, desk.renewal.take_word(message.act, desk.state.alerts.now), effects)
        self._track(desk, effects)
        self._shown[desk.key] = self._show(desk)

    def _take_verdict(self, desk: _Desk, verdict: Verdict, effects: Effects) -> None:
        done = verdicts.rule(desk.state.alerts, verdict, self._alerts)
        log.info("model %s: verdict %s on %s: %s", desk.plan.name, verdict.ruling.value, verdict.key, done.outcome)
        effects.withdrawals += done.withdrawals
        if done.learn is not None and desk.successor is not None and desk.reference is not None:
            desk.successor.heed(done.learn, f"{verdict.ruling.value}: {verdict.key}, by {verdict.by}")
        self._say(desk, done.notices, effects)

    def _renew(self, desk: _Desk, turn: Turn, effects: Effects) -> None:
        """What retraining and comparing versions lead to."""
        effects.requests += turn.requests
        effects.draws += [_offering(draw, desk.schema) for draw in turn.draws]
        if turn.answered and desk.successor is not None and desk.reference is not None:
            version = turn.deployed or ""
            desk.successor.begin(f"version {version} answers a request to retrain", of=version)
        desk.state.tasks += sum(len(draw.tasks) for draw in turn.draws)
        for request in turn.requests:
            self._meters.retraining.labels(desk.plan.name, request.status.value).inc()

    def _say(self, desk: _Desk, notices: Sequence[Notice], effects: Effects) -> None:
        effects.notices += notices
        for notice in notices:
            self._meters.transitions.labels(desk.plan.name, notice.transition.value).inc()

    def _take_closed(self, desk: _Desk, message: Closed, effects: Effects) -> None:
        state = desk.state
        lane = state.lanes.setdefault(message.lane, _Lane())
        if message.serial <= lane.serial:
            self._meters.duplicates.inc()
            return  # sent again after a crash
        lane.serial, lane.below, lane.turn = message.serial, message.below, message.turn
        for hour, known in message.hours.items():
            state.hours.setdefault(hour, {})[message.lane] = known
        while len(state.hours) > HOURS:
            del state.hours[min(state.hours)]
        compared = self._desks.get(self._compared.get(desk.key, desk.key))
        if message.met and compared is not None and compared.renewal is not None:
            compared.renewal.take_met(message.met)
        for partial in message.partials:
            if partial.late or (state.below is not None and partial.window < state.below):
                self._take_late(desk, partial)
            else:
                state.pending.setdefault(partial.window, {}).setdefault(message.lane, []).append(partial)
        self._judge_complete(desk, message, effects)

    def _take_late(self, desk: _Desk, partial: Partial) -> None:
        desk.state.late += partial.rows
        desk.state.events += partial.rows

    def _judge_complete(self, desk: _Desk, message: Closed, effects: Effects) -> None:
        state = desk.state
        if any(lane.below is None for lane in state.lanes.values()):
            return
        floors = [lane.below for lane in state.lanes.values() if lane.below is not None and lane.below != ENDED]
        upto = min(floors, default=max(state.pending, default=-1) + 1)
        if state.below is None:
            state.below = min([*state.pending, upto])
        rows = 0
        while state.below < upto:
            window = state.below
            if window not in state.pending:
                following = min((n for n in state.pending if n > window), default=upto)
                if min(following, upto) - window > EMPTY:
                    state.below = min(following, upto)
                    continue
            self._succeed(desk, window)
            # in the order of the lanes, not of their messages: sums of floats and the first of equals stay the same
            lanes = sorted(state.pending.pop(window, {}).items())
            partials = [partial for _, some in lanes for partial in some]
            rows += sum(p.rows for p in partials)
            self._judge_window(desk, window, partials, effects)
            state.below = window + 1
        if rows and not math.isnan(message.arrived):  # a lane restored and then only closed has had no arrival
            self._meters.judged_delay.labels(desk.plan.name).observe(max(0.0, self._clock() - message.arrived))
        self._shown[desk.key] = self._show(desk)

    def _succeed(self, desk: _Desk, window: int) -> None:
        """Turns to the next reference, where there is one and every lane has counted this window on it."""
        if desk.successor is None or desk.reference is None:
            return
        turns = [lane.turn for lane in desk.state.lanes.values() if lane.below != ENDED]
        due = desk.successor.due(turns, desk.state.pending)
        if due is not None and window >= due:
            following = desk.successor.turn(window, desk.reference)
            if following is not None:
                desk.judge_by(following)

    # -- windows

    def _judge_window(self, desk: _Desk, window: int, partials: Sequence[Partial], effects: Effects) -> None:
        state = desk.state
        state.windows += 1
        state.events += sum(p.rows for p in partials)
        if desk.reference is None:
            self._learn(desk, partials)
            return
        if desk.successor is not None:
            desk.successor.gather(partials)
        ids: Ids = {key: name for partial in partials for key, name in partial.ids.items()}
        profile, parts = self._profiles(desk, desk.reference, partials, ids)
        profiles = {WHOLE: profile, **parts}
        versions = _versions(partials)
        symptoms, looked = ([], set()) if desk.renews(versions) else self._look(desk, window, profiles)
        references = {scope: watch.reference.profile for scope, watch in desk.watches.items()}
        symptoms = with_examples(symptoms, profiles, references, ids)
        desk.recent.take(profile.layout.valued, profile.sample, ids, [name for s in symptoms for name in s.examples])
        end = (window + 1) * desk.window
        if desk.accuracy is not None:
            desk.accuracy.pass_time(end)
            found = desk.accuracy.look(end, _open(desk, Role.INPUT))
            if found is not None:
                symptoms += found
                desk.texts.extend(symptom.text for symptom in found)
                looked.add(Look(desk.plan.name, LABELED))
        if desk.renewal is not None:
            turn = desk.renewal.take(
                end, desk.window, versions, profiles, desk.reference, state.alerts, desk.performance
            )
            self._renew(desk, turn, effects)
            symptoms += turn.symptoms
            looked.update(desk.renewal.looks)
        effects.symptoms.extend(symptoms)
        notices = lifecycle.step(state.alerts, symptoms, looked, end, self._alerts)
        effects.withdrawals += verdicts.mended(state.alerts, notices)
        self._say(desk, notices, effects)
        if desk.sampler is not None:
            # a campaign that has ended asks for no more than usual, though its alerts are open
            asking = state.alerts.open() if desk.renewal is None or desk.renewal.labeling else ()
            lift = None if desk.accuracy is None else desk.accuracy.lift
            draw = desk.sampler.take(window, desk.window, partials, profile, desk.reference, asking, lift)
            if draw is not None:
                if desk.accuracy is not None:
                    desk.accuracy.drawn(draw)
                effects.draws.append(_offering(draw, desk.schema))
                state.tasks += len(draw.tasks)
        self._track(desk, effects)

    def _track(self, desk: _Desk, effects: Effects) -> None:
        """What is to be written down of runs, once something is judged."""
        if desk.tracker is None or desk.reference is None:
            return
        effects.reports += desk.tracker.take(desk.state.alerts, desk.renewal, desk.performance, desk.reference.version)
        self._meters.untracked.labels(desk.plan.name).set(desk.tracker.untracked)

    def _profiles(
        self, desk: _Desk, reference: Reference, partials: Sequence[Partial], ids: Ids
    ) -> tuple[Profile, dict[str, Profile]]:
        """Of the window, and of each scope that has rows in it. Adds the ids of rows that are counted only here."""
        layout = reference.layout
        wholes: list[Profile] = []
        parts: dict[str, list[Profile]] = {}
        for partial in partials:
            if partial.counts:
                try:
                    counted = next((c for c in partial.counts if c.reference == reference.version), None)
                    if counted is None:
                        raise Undecodable("its rows were counted on another reference")
                    decoded = {name: Profile.decode(layout.valued, part) for name, part in counted.scopes.items()}
                    wholes.append(Profile.decode(layout, counted.profile))
                except Undecodable as error:
                    log.warning(
                        "model %s: a partial of window %d is left out: %s", desk.plan.name, partial.window, error
                    )
                    self._meters.lost_partials.inc()
                    continue
                for name, part in decoded.items():
                    parts.setdefault(name, []).append(part)
            if partial.events:  # decoded before the reference was there
                rows = scored(to_batch(partial.events, desk.schema), desk.scorers, reference.fitted)
                whole, own = Profile(layout), dict[str, Profile]()
                whole.update(rows)
                remember(ids, rows, whole)
                desk.plan.scopes.count(rows, layout, own)
                wholes.append(whole)
                for name, part in own.items():
                    parts.setdefault(name, []).append(part)
        return _joined(layout, wholes), {name: _joined(layout.valued, some) for name, some in parts.items()}

    def _learn(self, desk: _Desk, partials: Sequence[Partial]) -> None:
        state, plan = desk.state, desk.plan
        for partial in partials:
            state.learned.extend(partial.events)
        if len(state.learned) < plan.learn:
            return
        events = state.learned
        reference = reference_of(plan, events, f"the first {len(events)} events")
        log.info(
            "model %s: learned its reference from the first %d events: %d columns; judging begins",
            plan.name, len(events), len(reference.layout.columns),
        )  # fmt: skip
        self._learned(reference)
        desk.judge_by(reference)
        state.learned = []

    def _look(self, desk: _Desk, window: int, profiles: Mapping[str, Profile]) -> tuple[list[Symptom], set[Look]]:
        """All checks of all scopes. What is found of the whole model is not said again of its parts."""
        name = desk.plan.name
        desk.admit(window, profiles)
        symptoms: list[Symptom] = []
        # the alerts of a version that is watched no longer are over
        looked = {alert.look for alert in desk.state.alerts.open() if alert.scope not in desk.watches}
        told = {(alert.check, alert.column) for alert in desk.state.alerts.open() if alert.scope == WHOLE}
        for scope, watch in desk.watches.items():
            current = profiles.get(scope)
            for check, scores in watch.take(window, Profile(watch.reference.layout) if current is None else current):
                looked.add(Look(name, check.name, scope))
                if check.name in watch.forgotten:
                    log.warning(
                        "model %s: what check %s%s remembered cannot be read, it begins anew: %s",
                        name, check.name, f" of {scope}" if scope else "", watch.forgotten[check.name],
                    )  # fmt: skip
                    self._meters.lost_memories.labels(name).inc()
                found = scores.findings
                if scope == WHOLE:
                    told |= {(check.name, finding.column) for finding in found}
                else:
                    found = [finding for finding in found if (check.name, finding.column) not in told]
                if not found:
                    continue
                self._meters.findings.labels(name, check.name).inc(len(found))
                new = [self._symptom(desk, scope, check, finding, window) for finding in found]
                desk.texts.extend(symptom.text for symptom in new)
                symptoms += new
        return symptoms, looked

    def _symptom(self, desk: _Desk, scope: str, check: Check, finding: Finding, window: int) -> Symptom:
        facts = dict(finding.facts)
        for name in ("p_value", "effect"):
            value = getattr(finding, name)
            if value is not None and math.isfinite(value):
                facts[name] = value
        if finding.effect_unit:
            facts["effect_unit"] = finding.effect_unit
        text = f"{scope.replace(':', ' ', 1)}: {finding.text}" if scope else finding.text
        beside = self._beside(desk, finding.column)
        if beside:
            facts["beside"], text = beside, f"{text} {beside}"
        return Symptom(
            model=desk.plan.name, check=check.name, column=finding.column,
            start=(window + 1 - check.windows) * desk.window, end=(window + 1) * desk.window,
            score=finding.score, limit=finding.limit, text=text, severity=check.severity, facts=facts, scope=scope,
            broken=check.broken,
        )  # fmt: skip

    def _beside(self, desk: _Desk, column: str) -> str:
        """What errors that moved mean beside inputs that did or did not, and the other way round, as known so far."""
        if desk.key in self._answers and column in ("error", "loss", "surprise", "tilt"):
            moved = _open(self._desks[self._answers[desk.key]], Role.INPUT)
            return concept(moved)
        outcomes = self._desks.get(self._outcomes.get(desk.key, ""))
        if outcomes is None or outcomes.reference is None or desk.reference is None:
            return ""
        if desk.reference.role(column) is not Role.INPUT:
            return ""
        moved = [name for name in _open(outcomes, Role.OUTPUT) if name in ("error", "loss")]
        return "The errors moved as well." if moved else "The errors of the labels known so far did not move."

    # -- checkpoints

    def checkpoint(self) -> bytes:
        """Everything a restart needs, as one blob."""
        saved = {}
        for name, desk in self._desks.items():
            if desk.successor is not None:
                desk.state.succession = desk.successor.state
            desk.state.sampling = None if desk.sampler is None else desk.sampler.state
            desk.state.labelled = None if desk.accuracy is None else desk.accuracy.state
            desk.state.renewal = None if desk.renewal is None else desk.renewal.state
            desk.state.tracking = None if desk.tracker is None else desk.tracker.state
            version = "" if desk.reference is None else desk.reference.version
            scopes = {scope: watch.save() for scope, watch in desk.watches.items()}
            saved[name] = _Saved(FORMAT, desk.state, version, scopes)
        return encode(saved)

    def restore(self, data: bytes) -> None:
        """Goes on from a checkpoint. Undecodable when it cannot be read; then nothing has changed."""
        for name, saved in decode(data, dict[str, _Saved]).items():
            desk = self._desks.get(name)
            if desk is None:
                continue
            desk.state = saved.state
            if desk.sampler is not None and saved.state.sampling is not None:
                desk.sampler.state = saved.state.sampling
            if desk.accuracy is not None and saved.state.labelled is not None:
                desk.accuracy.state = saved.state.labelled
            if desk.renewal is not None and saved.state.renewal is not None:
                desk.renewal.state = saved.state.renewal
            if desk.tracker is not None and saved.state.tracking is not None:
                desk.tracker.state = saved.state.tracking
            if desk.successor is not None:
                desk.successor.state = saved.state.succession
                former = desk.successor.judged_by(saved.reference, desk.reference)
                if former is not None:
                    desk.judge_by(former)
            if desk.reference is not None and saved.reference == desk.reference.version:
                self._restore_scopes(desk, saved.scopes)
            self._shown[name] = self._show(desk)

    def _restore_scopes(self, desk: _Desk, scopes: Mapping[str, SavedWatch]) -> None:
        """In the order they were watched in; versions come back, a slice that is no longer declared does not."""
        for scope, saved in scopes.items():
            if scope not in desk.watches and scope.startswith(VERSION) and desk.plan.scopes.versions:
                desk.add(scope)
            if scope in desk.watches:
                lost = desk.watches[scope].restore(saved)
                if lost:
                    log.warning("model %s: %d windows of the history cannot be read", desk.plan.name, lost)

    # -- showing

    def _show(self, desk: _Desk) -> Shown:
        state = desk.state
        reference = desk.reference
        whole = desk.watches.get(WHOLE)
        return Shown(
            model=desk.plan.name,
            reference=reference,
            window=desk.window,
            last=None if whole is None or whole.last is None else (whole.seen, whole.last),
            learning=None if reference else (len(state.learned), desk.plan.learn),
            scores={scope: dict(watch.scores) for scope, watch in desk.watches.items()},
            alerts=tuple(state.alerts.alerts.values()),
            ruled=tuple(map(copy, state.alerts.ruled)),
            suppressions=tuple(map(copy, state.alerts.suppressions)),
            false_alarms={key: record.count for key, record in state.alerts.false_alarms.items() if record.count},
            texts=tuple(desk.texts),
            events=state.events,
            late=state.late,
            windows=state.windows,
            tasks=state.tasks,
            promises=tuple(p for watch in desk.watches.values() for p in watch.promises(desk.window)),
            doubt=self._doubt(desk),
            labelled=None if desk.accuracy is None else desk.accuracy.view,
            renewal=None if desk.renewal is None else desk.renewal.view,
            hours=tuple((hour, sum(lanes.values(), Hour())) for hour, lanes in sorted(state.hours.items())),
        )

    def _doubt(self, desk: _Desk) -> str:
        """Why estimates of the model's performance are not valid, as its labels have it."""
        outcomes = self._desks.get(self._outcomes.get(desk.key, ""))
        alerts = [] if outcomes is None else outcomes.state.alerts.open()
        return next((alert.text for alert in alerts if alert.check == "calibration"), "")

    def snapshot(self) -> Snapshot:
        """For any thread: what was last judged. Column values are worked out here, when somebody looks."""
        shown = [s for key, s in tuple(self._shown.items()) if s.events or key not in self._unasked]
        return Snapshot(tuple(s.view for s in shown))

    def held(self) -> dict[str, Held]:
        """For any thread: by model, what single events can be explained by; none of a model that is still learned."""
        found = {}
        for key, desk in self._desks.items():
            reference, plan = desk.reference, desk.plan
            if reference is not None and key not in self._unasked:
                found[plan.name] = Held(
                    reference, desk.schema, desk.scorers, plan.scopes, plan.dataset, desk.recent, desk.window
                )
        return found

    def requests(self) -> list[Request]:
        """For any thread: retraining requests, the newest of each model first."""
        return [
            r for desk in self._desks.values() if desk.renewal is not None for r in tuple(desk.renewal.requests)[::-1]
        ]

    def alerts(self) -> list[Alert]:
        """For any thread: the open alerts and those resolved lately, as they were after the last window."""
        return [alert for shown in tuple(self._shown.values()) for alert in shown.alerts]


def _offering(draw: Draw, schema: Schema) -> Draw:
    """The draw with what labelers may choose from."""
    classes = choices(schema)
    tasks = tuple(msgspec.structs.replace(task, classes=classes) for task in draw.tasks)
    return msgspec.structs.replace(draw, tasks=tasks) if classes else draw


def _versions(partials: Sequence[Partial]) -> Counter[str]:
    """Rows by the version that answered them."""
    counts: Counter[str] = Counter()
    for partial in partials:
        counts.update(partial.versions)
    return counts


def _open(desk: _Desk, role: Role) -> list[str]:
    """Columns of a role that have an open alert."""
    reference = desk.reference
    if reference is None:
        return []
    return sorted({a.column for a in desk.state.alerts.open() if a.column and reference.role(a.column) is role})


def _joined(layout: Layout, parts: Sequence[Profile]) -> Profile:
    return parts[0] if len(parts) == 1 else merged(layout, parts)
