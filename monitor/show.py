"""From what the judge last held to what the outside sees. Runs on the thread that asks, never on the judge's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np
from msgspec.structs import replace

from alerting.alert import Alert, Verdict
from alerting.lifecycle import Ruled, Suppression
from detectors.core import Kind, Scores
from detectors.profile import Profile
from detectors.reference import Reference
from monitor.labels import HOUR, Hour
from monitor.snapshot import (
    AlertView,
    ColumnView,
    EstimateView,
    HourView,
    LabelledView,
    ModelView,
    PromiseView,
    RenewalView,
    ScoreView,
    SuppressionView,
    VerdictView,
)
from monitor.watch import Promise

QUANTILES = (0.05, 0.5, 0.95, 0.99)
WORDS = 10  # shares shown of a category column; the rest is `__other__`


class Shown(msgspec.Struct, frozen=True, dict=True):
    """What the judge leaves for showing after each window: references to values that no longer change."""

    model: str
    reference: Reference | None
    window: float
    last: tuple[int, Profile] | None
    learning: tuple[int, int] | None
    scores: dict[str, dict[str, tuple[float, Scores]]]  # by scope and check: the limit, and the last look
    alerts: tuple[Alert, ...]
    ruled: tuple[Ruled, ...]
    suppressions: tuple[Suppression, ...]
    false_alarms: dict[str, int]
    texts: tuple[str, ...]
    events: int
    late: int
    windows: int
    tasks: int
    promises: tuple[Promise, ...]  # of every scope
    doubt: str = ""  # why estimates of the performance are not valid
    hours: tuple[tuple[int, Hour], ...] = ()  # of late labels, by event time
    labelled: LabelledView | None = None  # by labels of what was drawn
    renewal: RenewalView | None = None

    @cached_property
    def view(self) -> ModelView:
        """Worked out once, at the first look after a window."""
        number, profile = self.last if self.last is not None else (None, None)
        return ModelView(
            model=self.model,
            events=self.events,
            late=self.late,
            windows=self.windows,
            window_start=math.nan if number is None else number * self.window,
            window_end=math.nan if number is None else (number + 1) * self.window,
            window_rows=0 if profile is None else profile.rows,
            reference="" if self.reference is None else self.reference.version,
            reference_source="" if self.reference is None else self.reference.source,
            learning=self.learning,
            columns=() if profile is None or self.reference is None else _columns(profile, self.reference),
            scores=tuple(
                view
                for scope, checks in self.scores.items()
                for check, (limit, scores) in checks.items()
                for view in _scores(scope, check, limit, scores)
            ),
            labelled=self.labelled,
            renewal=self.renewal,
            hours=tuple(
                HourView(hour * HOUR, h.rows, h.labelled, h.wrong / h.labelled if h.labelled else math.nan)
                for hour, h in self.hours
            ),
            estimates=tuple(
                EstimateView(check, e.measure, e.of, e.value, e.low, e.high, e.reference, self.doubt or e.doubt)
                for check, (_, scores) in self.scores.get("", {}).items()
                for e in scores.estimates
            ),
            alerts=tuple(alert_view(a) for a in self.alerts if a.resolved is None),
            verdicts=tuple(
                replace(_verdict(r.verdict), time=r.time, outcome=r.outcome, confirmed=r.confirmed, revoked=r.revoked)
                for r in self.ruled
            ),
            suppressions=tuple(SuppressionView(s.verdict, s.keys, s.until, s.suppressed) for s in self.suppressions),
            false_alarms=self.false_alarms,
            label_tasks=self.tasks,
            promises=_promises(self.promises),
            findings=self.texts,
        )


def alert_view(a: Alert) -> AlertView:
    """An alert as it is shown."""
    return AlertView(
        a.key, a.check, a.column, a.severity.value, a.started, a.last_seen, a.text, a.scope,
        leader=a.leader, members=a.joined, inhibited=a.inhibited, muted=a.muted, publicity=a.publicity,
        deadline=a.deadline, relapses=a.relapses, verdict=None if a.verdict is None else _verdict(a.verdict),
        before=None if a.before is None else _verdict(a.before),
    )  # fmt: skip


def _verdict(v: Verdict) -> VerdictView:
    return VerdictView(v.id, v.key, v.ruling.value, v.by, v.at, v.why, v.until, v.confirms, v.revokes)


def _promises(made: Sequence[Promise]) -> tuple[PromiseView, ...]:
    """One of each check: the scopes of a model share its promise, so what they may raise adds up."""
    by_check: dict[str, list[Promise]] = {}
    for promise in made:
        by_check.setdefault(promise.check, []).append(promise)
    return tuple(
        PromiseView(
            check,
            some[0].unit,
            some[0].length,
            math.fsum(p.passed for p in some) / some[0].length,
            sum(p.alarms for p in some),
            tuple(sorted({name for p in some for name in p.approximate})),
            next((p.replayed for p in some if p.replayed is not None), None),
        )
        for check, some in by_check.items()
    )


def _columns(profile: Profile, reference: Reference) -> tuple[ColumnView, ...]:
    layout = profile.layout
    missing, wrong = profile.missing_share, profile.wrong / max(profile.rows, 1)
    deviation = np.sqrt(profile.variance)
    kinds = {spec.name: spec.kind for spec in reference.schema}
    views = []
    for i, name in enumerate(layout.columns):
        in_numbers = i < len(layout.numbers)
        kind = kinds.get(name, Kind.NUMBER if in_numbers else Kind.CATEGORY)
        view = ColumnView(name, kind, reference.role(name), float(missing[i]), float(wrong[i]))
        if in_numbers:
            quantiles = {str(q): profile.quantile(name, q) for q in QUANTILES}
            view = replace(view, mean=float(profile.mean[i]), deviation=float(deviation[i]), quantiles=quantiles)
        elif name in layout.categories:
            view = replace(view, shares=_word_shares(profile, name))
        views.append(view)
    return tuple(views)


def _word_shares(profile: Profile, name: str) -> dict[str, float]:
    layout = profile.layout
    c = layout.categories.index(name)
    counts = profile.word_counts(name)
    total = int(counts.sum()) + int(profile.unseen[c])
    if not total:
        return {}
    shares = {word: float(n) / total for word, n in zip(layout.words[c][:WORDS], counts[:WORDS].tolist(), strict=False)}
    shares["__other__"] = float(counts[WORDS:].sum() + profile.unseen[c]) / total
    return shares


def _scores(scope: str, check: str, limit: float, scores: Scores) -> list[ScoreView]:
    found = {f.column: f for f in scores.findings}
    p_values = [None] * len(scores.columns) if scores.p_value is None else scores.p_value.tolist()
    return [
        ScoreView(check, column, score, found[column].limit if column in found else limit, column in found, p, scope)
        for column, score, p in zip(scores.columns, scores.score.tolist(), p_values, strict=True)
        if not math.isnan(score)
    ]
