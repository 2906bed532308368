"""Stage 2: window partials of all lanes become judged windows, findings, alerts and label tasks.

One thread owns a `Judge`. It is a function of the exchange's messages in their order: killed and started again from
its checkpoint it comes to the same windows, the same notices with the same ids, the same label tasks. The clock it is
given only measures the delay.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

import msgspec

from alerting import lifecycle
from alerting.alert import Alert, Look, Notice, Severity, Symptom
from alerting.labeling.queue import Draw
from detectors.core import Detector, Scorer, Scores, Sequential
from detectors.encode import Undecodable, decode, encode
from detectors.profile import Profile, merged
from detectors.reference import Reference, build_from, scored
from monitor.decode.columns import infer, to_batch
from monitor.event import Event, Schema
from monitor.exchange import ENDED, Closed, Partial
from monitor.history import History, Kept
from monitor.metrics import Meters
from monitor.sampling import Budget, Sampler, SamplingOptions
from monitor.show import Shown
from monitor.snapshot import Snapshot

log = logging.getLogger(__name__)

FORMAT = 1
EMPTY = 60  # windows without a row that are judged one after the other; a longer gap in event time is jumped
TEXTS = 20  # of the last findings, kept to be shown


class Check(msgspec.Struct, frozen=True):
    """A detector, on which columns, over how long, against what."""

    name: str  # unique within the model; part of an alert's identity
    detector: Detector | Sequential
    columns: tuple[str, ...] = ("*",)  # names or patterns
    windows: int = 1  # base windows looked at together
    against: str = "reference"  # | "previous": the windows before
    severity: Severity = Severity.WARNING

    @property
    def every(self) -> int:
        """A long span is looked at ten times within its length: oftener costs and shows nothing new."""
        return max(1, self.windows // 10)


class Model(Protocol):
    """What the judge has to know of a configured model."""

    @property
    def name(self) -> str: ...
    @property
    def learn(self) -> int: ...
    @property
    def declared(self) -> Schema | None: ...  # columns that are configured, None = whatever the events have
    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def sampling(self) -> SamplingOptions | None: ...
    @property
    def dataset(self) -> str: ...  # that label tasks belong to
    def scorers(self, schema: Schema) -> Mapping[str, Scorer]: ...


class Effects(msgspec.Struct):
    """What judging asks of the outside; ids are made of causes, so doing it twice is harmless."""

    symptoms: list[Symptom] = []
    notices: list[Notice] = []
    draws: list[Draw] = []


class _Lane(msgspec.Struct):
    serial: int = 0
    below: int | None = None


class _State(msgspec.Struct):
    """Of a model; with its history all that a restart needs."""

    lanes: dict[str, _Lane] = {}
    pending: dict[int, list[Partial]] = {}
    below: int | None = None  # windows under it are judged
    learned: list[Event] = []
    memories: dict[str, Any] = {}
    alerts: lifecycle.State = msgspec.field(default_factory=lifecycle.State)
    sampling: Budget | None = None
    events: int = 0
    late: int = 0
    windows: int = 0
    tasks: int = 0


class _Saved(msgspec.Struct, frozen=True):
    format: int
    state: _State
    reference: str
    history: list[Kept]


class _Standard:
    """What a model is judged by: its reference, and all that is counted on it."""

    def __init__(self, plan: Model, reference: Reference) -> None:
        self.reference = reference
        self.scorers = plan.scorers(reference.schema)
        spans = [c.windows * (2 if c.against == "previous" else 1) for c in plan.checks]
        self.history = History(reference.layout, max(spans, default=1))
        names = reference.layout.columns
        self.columns = {
            c.name: tuple(n for n in names if any(fnmatchcase(n, p) for p in c.columns)) for c in plan.checks
        }


class _Desk:
    """One model on the judge's table."""

    def __init__(self, key: str, plan: Model, window: float) -> None:
        self.key = key
        self.plan = plan
        self.window = window
        self.state = _State()
        self.standard: _Standard | None = None
        self.sampler = None if plan.sampling is None else Sampler(plan.name, plan.sampling, plan.dataset)
        self.scores: dict[str, tuple[float, Scores]] = {}
        self.texts: deque[str] = deque(maxlen=TEXTS)
        self.last: tuple[int, Profile] | None = None


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
    ) -> None:
        self._alerts = alerts
        self._window = window
        self._learned = learned
        self._clock = clock
        self._meters = meters
        self._desks = {key: _Desk(key, plan, window) for key, plan in models.items()}
        for name, desk in self._desks.items():
            reference = references(name)
            if reference is not None:
                desk.standard = _Standard(desk.plan, reference)
        self._shown: dict[str, Shown] = {name: self._show(desk) for name, desk in self._desks.items()}

    # -- messages

    def take(self, message: Closed, effects: Effects) -> None:
        """One message of the exchange. What it leads to is added to `effects`."""
        desk = self._desks.get(message.model)
        if desk is None:
            return
        state = desk.state
        lane = state.lanes.setdefault(message.lane, _Lane())
        if message.serial <= lane.serial:
            self._meters.duplicates.inc()
            return  # sent again after a crash
        lane.serial, lane.below = message.serial, message.below
        for partial in message.partials:
            if partial.late or (state.below is not None and partial.window < state.below):
                self._take_late(desk, partial)
            else:
                state.pending.setdefault(partial.window, []).append(partial)
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
            partials = state.pending.pop(window, [])
            rows += sum(p.rows for p in partials)
            self._judge_window(desk, window, partials, effects)
            state.below = window + 1
        if rows and not math.isnan(message.arrived):  # a lane restored and then only closed has had no arrival
            self._meters.judged_delay.labels(desk.plan.name).observe(max(0.0, self._clock() - message.arrived))
        self._shown[desk.key] = self._show(desk)

    # -- windows

    def _judge_window(self, desk: _Desk, window: int, partials: Sequence[Partial], effects: Effects) -> None:
        state = desk.state
        state.windows += 1
        state.events += sum(p.rows for p in partials)
        standard = desk.standard
        if standard is None:
            self._learn(desk, partials)
            return
        profile = self._profile(desk, standard, partials)
        standard.history.push(window, profile)
        if profile.rows:
            desk.last = (window, profile)
        symptoms, looked = self._look(desk, standard, window, profile)
        effects.symptoms.extend(symptoms)
        end = (window + 1) * desk.window
        for notice in lifecycle.step(state.alerts, symptoms, looked, end, self._alerts):
            effects.notices.append(notice)
            self._meters.transitions.labels(desk.plan.name, notice.transition.value).inc()
        if desk.sampler is not None:
            open_alerts = [a.key for a in state.alerts.open()]
            draw = desk.sampler.take(window, desk.window, partials, profile, open_alerts)
            if draw is not None:
                effects.draws.append(draw)
                state.tasks += len(draw.tasks)

    def _profile(self, desk: _Desk, standard: _Standard, partials: Sequence[Partial]) -> Profile:
        reference = standard.reference
        parts = []
        for partial in partials:
            if partial.profile is not None:
                try:
                    parts.append(Profile.decode(reference.layout, partial.profile))
                except Undecodable as error:
                    log.warning(
                        "model %s: a partial of window %d is left out: %s", desk.plan.name, partial.window, error
                    )
                    self._meters.lost_partials.inc()
            if partial.events:  # decoded before the reference was there
                part = Profile(reference.layout)
                part.update(scored(to_batch(partial.events, reference.schema), standard.scorers, reference.fitted))
                parts.append(part)
        return parts[0] if len(parts) == 1 else merged(reference.layout, parts)

    def _learn(self, desk: _Desk, partials: Sequence[Partial]) -> None:
        state, plan = desk.state, desk.plan
        for partial in partials:
            state.learned.extend(partial.events)
        if len(state.learned) < plan.learn:
            return
        events = state.learned
        schema = plan.declared or infer(events)
        rows = to_batch(events, schema)
        reference = build_from(
            plan.name,
            rows,
            plan.scorers(schema),
            roles={spec.name: spec.role for spec in schema},
            source=f"the first {len(events)} events",
            created=float(rows.times.max()),
        )
        log.info(
            "model %s: learned its reference from the first %d events: %d columns; judging begins",
            plan.name, len(events), len(reference.layout.columns),
        )  # fmt: skip
        self._learned(reference)
        desk.standard = _Standard(plan, reference)
        state.learned, state.memories = [], {}  # memories are in the old reference's units

    def _look(self, desk: _Desk, standard: _Standard, window: int, profile: Profile) -> tuple[list[Symptom], set[Look]]:
        symptoms: list[Symptom] = []
        looked: set[Look] = set()
        spans: dict[tuple[int, int], Profile] = {(window, 1): profile}

        def over(last: int, windows: int) -> Profile:
            if (last, windows) not in spans:
                spans[last, windows] = standard.history.over(last, windows)
            return spans[last, windows]

        for check in desk.plan.checks:
            if (window + 1) % check.every:
                continue
            current = over(window, check.windows)
            against = standard.reference.profile
            if check.against == "previous":
                against = over(window - check.windows, check.windows)
            found = self._run(desk, check, current, against, standard)
            looked.add(Look(desk.plan.name, check.name))
            desk.scores[check.name] = (_limit(check.detector), found)
            if not found.findings:
                continue
            self._meters.findings.labels(desk.plan.name, check.name).inc(len(found.findings))
            for finding in found.findings:
                facts = dict(finding.facts)
                for name in ("p_value", "effect"):
                    value = getattr(finding, name)
                    if value is not None and math.isfinite(value):
                        facts[name] = value
                if finding.effect_unit:
                    facts["effect_unit"] = finding.effect_unit
                desk.texts.append(finding.text)
                symptoms.append(
                    Symptom(
                        model=desk.plan.name, check=check.name, column=finding.column,
                        start=(window + 1 - check.windows) * desk.window, end=(window + 1) * desk.window,
                        score=finding.score, limit=finding.limit, text=finding.text, severity=check.severity,
                        facts=facts,
                    )
                )  # fmt: skip
        return symptoms, looked

    def _run(self, desk: _Desk, check: Check, current: Profile, against: Profile, standard: _Standard) -> Scores:
        detector, columns = check.detector, standard.columns[check.name]
        if not isinstance(detector, Sequential):
            return detector.check(current, against, columns)
        memories = desk.state.memories
        if check.name not in memories:
            memories[check.name] = detector.start(standard.reference, columns)
        memories[check.name], scores = detector.step(memories[check.name], current, against, columns)
        return scores

    # -- checkpoints

    def checkpoint(self) -> bytes:
        """Everything a restart needs, as one blob."""
        saved = {}
        for name, desk in self._desks.items():
            desk.state.sampling = None if desk.sampler is None else desk.sampler.state
            standard = desk.standard
            version = standard.reference.version if standard else ""
            history = standard.history.save() if standard else []
            saved[name] = _Saved(FORMAT, desk.state, version, history)
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
            if desk.standard is not None and saved.reference == desk.standard.reference.version:
                lost = desk.standard.history.restore(saved.history)
                if lost:
                    log.warning("model %s: %d windows of the history cannot be read", name, lost)
            self._shown[name] = self._show(desk)

    # -- showing

    def _show(self, desk: _Desk) -> Shown:
        state = desk.state
        reference = desk.standard.reference if desk.standard else None
        return Shown(
            model=desk.plan.name,
            reference=reference,
            window=desk.window,
            last=desk.last,
            learning=None if reference else (len(state.learned), desk.plan.learn),
            scores=dict(desk.scores),
            alerts=tuple(state.alerts.alerts.values()),
            texts=tuple(desk.texts),
            events=state.events,
            late=state.late,
            windows=state.windows,
            tasks=state.tasks,
        )

    def snapshot(self) -> Snapshot:
        """For any thread: what was last judged. Column values are worked out here, when somebody looks."""
        return Snapshot(tuple(shown.view for shown in tuple(self._shown.values())))

    def alerts(self) -> list[Alert]:
        """For any thread: the open alerts and those resolved lately, as they were after the last window."""
        return [alert for shown in tuple(self._shown.values()) for alert in shown.alerts]


def _limit(detector: Any) -> float:
    return float(getattr(detector, "limit", math.nan))
