"""What is written down of a model as runs: episodes of drift, campaigns, requests to retrain, versions compared.

The judge holds one `Tracker` a model and shows it each judged window. It only looks: what a run is and when it ends is
decided elsewhere. Reports follow from what the exchange carries, so a replay makes the same ones; they go out through
the outbox like alerts, and a tracking server that is down delays nothing.

What a reader would get wrong: a run is measured the oftener the younger it is, a number at a time every 60th of its
age. So an hour and a year both come to a few hundred points, and none has to be thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from alerting import lifecycle
from alerting.alert import Alert, rfc3339
from alerting.labeling.task import Returned
from alerting.retraining import Request, Status, part_of
from alerting.text import details
from alerting.tracking.chart import chart
from alerting.tracking.report import Kind, Point, Report, finite, run_id
from monitor import campaign, comparison, retraining
from monitor.renewal import Renewal
from monitor.retraining import Performance
from monitor.snapshot import ComparisonView

MOST = 100  # runs of a model that are tracked at once; of a campaign, a request and a comparison there is one each
AT_ONCE = 10  # times measured after which a run is told, though nothing else happened
LABELS = 1_000  # returned labels after which a campaign is told
_AGE = 60.0
# Alerts that say what a campaign, a request or a comparison comes to, which have runs of their own.
_OWN = frozenset({campaign.CHECK, retraining.CHECK, comparison.CHECK})


class Going(msgspec.Struct):
    """A run that goes on."""

    id: str
    kind: Kind
    name: str
    started: float  # event time
    params: dict[str, str]  # as they were when it began
    mark: str = ""  # of what was told last: another one is told at once
    measured: float | None = None  # event time
    points: list[Point] = []
    told: int = 0  # of the points
    times: int = 0  # measured since it was told
    labels: list[str] = []  # not told yet, a line of JSON each
    given: int = 0  # labels told


class State(msgspec.Struct):
    """Plain data, saved with the judge's checkpoint."""

    going: dict[str, Going] = {}  # by id of the run


class _Seen(NamedTuple):
    """A run as it stands."""

    id: str
    kind: Kind
    name: str
    started: float
    mark: str
    note: str
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    numbers: Callable[[], dict[str, float | None]] = dict
    files: Callable[[], dict[str, str]] = dict
    over: bool = False
    failed: bool = False


class Tracker:
    """One model's. `config` is the digest of the configuration, which runs are marked with."""

    def __init__(self, model: str, config: str, window: float) -> None:
        self._model, self._config, self._window = model, config, window
        self.state = State()
        self.untracked = 0  # runs that go on at the last look and are not tracked, as `MOST` are

    def take_labels(self, returned: Iterable[Returned]) -> None:
        """Final labels: those of a campaign are listed in its run."""
        for going in self.state.going.values():
            if going.kind is Kind.CAMPAIGN:
                going.labels += [_line(one) for one in returned if one.label is not None]

    def take(
        self,
        alerts: lifecycle.State,
        renewal: Renewal | None,
        performance: Callable[[], Performance],
        reference: str,
    ) -> list[Report]:
        """What is to be told after a judged window, or after a word. `reference` is the version judged by."""
        now, going = alerts.now, self.state.going
        seen = {run.id: run for run in self._runs(now, alerts, renewal, performance)}
        seen |= {run.id: _gone(run, renewal) for run in going.values() if run.id not in seen}
        reports, self.untracked = [], 0
        for run in seen.values():
            if run.id not in going:
                if run.over:
                    continue
                if len(going) >= MOST:
                    self.untracked += 1
                    continue
                params = {"reference": reference, "config": self._config, "version": performance().version}
                params = {key: text for key, text in {**params, **run.params}.items() if text}
                going[run.id] = Going(run.id, run.kind, run.name, run.started, params)
            self._measure(going[run.id], run, now)
            if self._is_due(going[run.id], run):
                reports.append(self._report(going[run.id], run, now))
            if run.over:
                del going[run.id]
        return reports

    def _measure(self, going: Going, run: _Seen, now: float) -> None:
        spacing = max(self._window, (now - going.started) / _AGE)
        if going.measured is not None and now - going.measured < spacing and run.mark == going.mark:
            return
        if now != going.measured:
            going.times += 1
        going.measured = now
        step = round(now - going.started)
        going.points += [Point(name, value, now, step) for name, value in finite(run.numbers()).items()]

    def _is_due(self, going: Going, run: _Seen) -> bool:
        return run.over or run.mark != going.mark or going.times >= AT_ONCE or len(going.labels) >= LABELS

    def _report(self, going: Going, run: _Seen, now: float) -> Report:
        points = tuple(going.points[going.told :])
        files = run.files()
        if going.labels:
            files[f"labels/{going.given:06}.jsonl"] = "\n".join([*going.labels, ""])
        if run.over:
            files["chart.svg"] = chart(going.name, _series(going.points))
        going.mark, going.told, going.times = run.mark, len(going.points), 0
        going.given, going.labels = going.given + len(going.labels), []
        return Report(
            run=going.id,
            kind=going.kind,
            model=self._model,
            name=going.name,
            started=going.started,
            at=now,
            ended=run.over,
            failed=run.failed,
            note=run.note,
            params=going.params,
            tags=dict(run.tags),
            points=points,
            files=files,
        )

    # -- what there is

    def _runs(
        self, now: float, alerts: lifecycle.State, renewal: Renewal | None, performance: Callable[[], Performance]
    ) -> Iterator[_Seen]:
        if renewal is not None:
            yield from self._campaign(renewal, performance)
            yield from (self._request(request, performance) for request in renewal.requests)
            yield from self._comparison(renewal.comparison, now)
        # Who was told of an alert sees its run; what is told with another, or not at all, has none.
        yield from (
            self._episode(alert) for alert in alerts.alerts.values() if alert.serial and alert.check not in _OWN
        )

    def _episode(self, alert: Alert) -> _Seen:
        words = {"check": alert.check, "column": alert.column, "scope": alert.scope}
        tags = {"severity": alert.severity.value, "outcome": _outcome(alert)}
        if alert.verdict is not None:
            tags |= {"verdict": alert.verdict.ruling.value, "verdict.by": alert.verdict.by}
            tags |= {"verdict.why": alert.verdict.why}
        return _Seen(
            run_id(Kind.EPISODE, alert.key, repr(alert.started)),
            Kind.EPISODE,
            _named("drift", alert.key, rfc3339(alert.started)),
            alert.started,
            mark=str(alert.serial),
            note=details(alert),
            params=words,
            tags=tags,
            numbers=lambda: {"score": alert.score, "limit": alert.limit, "joined": float(alert.joined)},
            files=lambda: {"alert.json": _json(alert.document())},
            over=not alert.held,
        )

    def _campaign(self, renewal: Renewal, performance: Callable[[], Performance]) -> Iterator[_Seen]:
        going = renewal.state.labeling.campaign
        if going is None:
            return
        latest = {} if not going.batches else {f"batch {name}": said[0] for name, said in going.batches[-1].items()}
        spent = {"labels": float(going.labels), "money": going.money, "training_seconds": going.compute}
        yield _Seen(
            run_id(Kind.CAMPAIGN, self._model, repr(going.since)),
            Kind.CAMPAIGN,
            _named("campaign", self._model, rfc3339(going.since)),
            going.since,
            mark="going",
            note="Labels are asked for, as something moved.",
            tags={"outcome": ""},
            numbers=lambda: {
                **_measures(performance()),
                **latest,
                **spent,
                "kappa": next(iter(going.kappas[-1:]), None),
            },
        )

    def _request(self, request: Request, performance: Callable[[], Performance]) -> _Seen:
        status = request.status
        sides = {"before": request.before, "after": request.after}
        told = {f"{name}_{side}": m.value for side, measures in sides.items() for name, m in measures.items()}
        return _Seen(
            run_id(Kind.RETRAINING, request.id),
            Kind.RETRAINING,
            _named("retraining", self._model, rfc3339(request.made)),
            request.made,
            mark=f"{status.value} {len(request.moves)} {request.new_version} {request.run}",
            note=request.text,
            params={"request": request.id, "cause": request.cause.value, "mode": request.mode},
            tags={
                "status": status.value, "verdict": request.verdict, "new_version": request.new_version,
                "trainer.run": request.run,
            },
            numbers=lambda: {
                **_measures(performance()), **told, "train": float(request.train), "evaluate": float(request.evaluate),
            },
            files=lambda: {"request.json": _json(request.document())},
            over=status.over,
            failed=status.over and status is not Status.CLOSED,
        )  # fmt: skip

    def _comparison(self, view: ComparisonView | None, now: float) -> Iterator[_Seen]:
        if view is None or not (view.compared or view.labels):
            return
        run = run_id(Kind.COMPARISON, self._model, view.stable, view.candidate)
        known = self.state.going.get(run)
        yield _Seen(
            run,
            Kind.COMPARISON,
            _named("versions", self._model, view.stable, view.candidate),
            now if known is None else known.started,
            mark=view.outcome,
            note=f"{view.outcome}: {view.why}",
            params={"stable": view.stable, "candidate": view.candidate, "mode": view.mode},
            tags={"outcome": view.outcome},
            numbers=lambda: {
                "compared": float(view.compared), "churn": view.churn, "labels": float(view.labels), "gap": view.gap,
                "gap_low": view.low, "gap_high": view.high, "flips": view.flips,
            },
            files=lambda: {"comparison.json": _json(view)},
        )  # fmt: skip


def _gone(going: Going, renewal: Renewal | None) -> _Seen:
    """A run that is no more: how a campaign ends; others were forgotten, or are not configured any longer."""
    ended = None if renewal is None or going.kind is not Kind.CAMPAIGN else renewal.state.labeling.ended
    outcome, note = ("", "It is watched no longer.") if ended is None else (ended.rule, ended.text)
    return _Seen(
        going.id, going.kind, going.name, going.started, mark="over", note=note, tags={"outcome": outcome}, over=True
    )


def _named(*words: str) -> str:
    return " ".join(filter(None, words))


def _outcome(alert: Alert) -> str:
    if alert.resolved is not None:
        return "resolved"
    return "open" if alert.held else "silenced"


def _measures(performance: Performance) -> dict[str, float]:
    """Of all rows, each with its interval. Those of classes and slices are too many, and in the request's document."""
    whole = {name: m for name, m in performance.measures.items() if " of " not in name}
    ends = {f"{name}_{end}": value for name, m in whole.items() for end, value in (("low", m.low), ("high", m.high))}
    return {name: m.value for name, m in whole.items()} | ends


def _series(points: Iterable[Point]) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        series.setdefault(point.name, []).append((point.at, point.value))
    return series


def _line(one: Returned) -> str:
    return _json({
        "task": one.task, "event": one.event, "time": one.time, "version": one.version, "answer": one.answer,
        "label": one.label, "part": one.part, "pi": one.pi, "stands_for": one.stands_for, "batch": one.batch,
        "set": part_of(one.task),
    })  # fmt: skip


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
