"""The status page: one plain HTML text without scripts, made from the snapshot. Every value is escaped."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from alerting.labeling.queue import Progress
from detectors.units import seconds_text
from monitor.snapshot import (
    AlertView,
    ComparisonView,
    EstimateView,
    HourView,
    LabelledView,
    ModelView,
    PromiseView,
    RenewalView,
    ScoreView,
    Snapshot,
)

REFRESH = 5  # seconds
_NAMED = 5  # columns named of those that make a promise approximate
_FEW = 30  # effective labels under which only the interval is shown
_HOURS = 24  # shown of late labels, the newest
_SEVERITIES = {"critical": -2, "warning": -1}  # the gravest first
_VERDICTS = 10  # shown of a model, the newest; an alert's page has all of its own
_SCORES = 30  # shown of a model: the highest in terms of their limit

# Nothing is loaded from anywhere, and an injected script would not run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1d2733;background:#fff}
h1{font-size:1.3rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #e3e7ec;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums}.hot{color:#b3261e;font-weight:600}.calm{color:#2e7d32}
.dim{color:#66717e}pre{white-space:pre-wrap;font:inherit}
@media(prefers-color-scheme:dark){body{background:#14181d;color:#d7dde4}td,th{border-color:#2c333b}}
"""


def page(snapshot: Snapshot, labeling: Sequence[Progress], health: dict[str, str]) -> str:
    """The page as HTML. `labeling` tells of each dataset; `health` is lines of the daemon itself, what -> how it is."""
    models = "".join(map(_model, snapshot.models)) or "<p class=dim>No model has been seen yet.</p>"
    lines = "".join(f"<tr><td>{escape(what)}<td>{escape(how)}" for what, how in health.items())
    return frame(
        "driftd",
        f"<h1>driftd</h1>{models}{_progress(labeling)}<h2>The daemon</h2><table>{lines}</table>"
        "<p class=dim><a href=/metrics>metrics</a> · <a href=/status>status as JSON</a> · "
        "<a href=/healthz>health</a> · <a href=/openapi.json>HTTP API</a></p>",
        f"<meta http-equiv=refresh content={REFRESH}>",
    )


def frame(title: str, body: str, head: str = "") -> str:
    """A page of ours around what is HTML already."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"{head}<style>{_STYLE}</style>{body}</html>"
    )


def link(key: str) -> str:
    """An alert's key that leads to its page."""
    return f"<a href='/alert?key={quote(key, safe='')}'>{escape(key)}</a>"


def _model(model: ModelView) -> str:
    return (
        f"<h2>{escape(model.model or '(unnamed model)')}</h2><p>{_standing(model)}</p>"
        f"{_promises(model)}{_alerts(model)}{_verdicts(model)}{_findings(model)}"
        f"{_labelled(model.labelled)}{_estimates(model.estimates)}{_hours(model.hours)}"
        f"{_renewal(model.renewal)}{_scores(model.scores)}"
    )


def _standing(model: ModelView) -> str:
    facts = [
        f"{model.events:,} events in {model.windows:,} windows",
        f"last window to {moment(model.window_end)} with {model.window_rows:,} events",
        f"{model.late:,} late",
        f"{model.label_tasks:,} label tasks",
    ]
    if model.learning:
        facts.append(f"learning its reference: {model.learning[0]:,} of {model.learning[1]:,} events")
    if model.reference:
        facts.append(f"reference {model.reference} ({model.reference_source})")
    return escape(" · ".join(facts))


def _promises(model: ModelView) -> str:
    return "".join(f"<p>{escape(promise_text(promise))}</p>" for promise in model.promises)


def promise_text(promise: PromiseView) -> str:
    """What is promised, what that allows so far, what came.

    >>> promise_text(PromiseView("evidence", "seconds", 30 * 86400.0, 0.25, 1))
    'evidence: at most 1 false alarm in 30d for the whole model (exact), so far 0.25; 1 alarm came, true ones included.'
    """
    length = seconds_text(promise.length) if promise.unit == "seconds" else f"{promise.length:,.0f} events"
    came = "1 alarm" if promise.alarms == 1 else f"{promise.alarms:,} alarms"
    slow = promise.approximate
    how = f"approximate, as {len(slow)} columns have memory or season: {', '.join(slow[:_NAMED])}" if slow else "exact"
    if promise.replayed is not None:
        how += f"; {promise.replayed.text}"
    return (
        f"{promise.check}: at most 1 false alarm in {length} for the whole model ({how}), "
        f"so far {promise.allowed:.2g}; {came} came, true ones included."
    )


def _progress(labeling: Sequence[Progress]) -> str:
    """How many tasks stand where; who labels is told to those who have a token."""
    rows = "".join(
        f"<tr><td>{escape(one.dataset)}<td>{escape(', '.join(f'{n:,} {status}' for status, n in one.counts.items()))}"
        f"<td class=n>{one.per_hour:g}<td class=n>{'-' if one.hours_left is None else f'{one.hours_left:.1f} h'}"
        f"<td class=n>{'-' if one.alpha is None else f'{one.alpha:.2f}'}"
        for one in labeling
    )
    head = "<tr><th>dataset<th>tasks<th class=n>labels an hour<th class=n>left<th class=n>agreement"
    return f"<h2>Labeling</h2><table>{head}{rows}</table>" if rows else ""


def _verdicts(model: ModelView) -> str:
    rows = "".join(
        f"<tr><td>{moment(v.at)}<td>{link(v.key)}<td>{escape(v.ruling)}<td>{escape(v.by)}<td>{escape(v.why)}"
        f"<td>{escape(v.outcome)}{'; taken back' if v.revoked else ''}"
        for v in model.verdicts[:_VERDICTS]
    )
    silent = "".join(
        f"<p class=dim>Not told until {moment(s.until)}: {', '.join(map(link, s.keys[:_NAMED]))}"
        f"{' and others' if len(s.keys) > _NAMED else ''}; {s.suppressed:,} alerts so far.</p>"
        for s in model.suppressions
    )
    head = "<tr><th>verdict<th>on<th>ruling<th>by<th>why<th>what came of it"
    return (f"<table>{head}{rows}</table>" if rows else "") + silent


def _alerts(model: ModelView) -> str:
    """Those that are told of by themselves; members are on their leader's page."""
    if not model.alerts:
        return "<p class=calm>No open alert.</p>"
    order = sorted(model.alerts, key=lambda a: (a.silent, not a.publicity, _SEVERITIES.get(a.severity, 0), a.since))
    rows = "".join(
        f"<tr><td class={'dim' if a.silent else 'hot'}>{escape(a.severity)}<td>{link(a.key)}<td>{escape(_about(a))}"
        f"<td>{moment(a.since)}<td>{escape(a.text)}<br><span class=dim>{escape(standing(a))}</span>"
        for a in order
        if not a.leader
    )
    return f"<table><tr><th>open alert<th>key<th>column<th>since<th>what{rows}</table>"


def standing(alert: AlertView) -> str:
    """Why nobody need act on an alert, or until when somebody must."""
    verdict = alert.verdict
    facts = [
        "the world will see it" if alert.publicity else "",
        f"{alert.members} more told with it" if alert.members else "",
        f"told with {alert.leader}" if alert.leader else "",
        f"explained by {alert.inhibited}" if alert.inhibited else "",
        f"muted: {alert.muted}" if alert.muted else "",
        f"came back {alert.relapses} times" if alert.relapses else "",
        f"{verdict.ruling}, says {verdict.by}" if verdict else "nobody has said what it is",
        f"due {moment(alert.deadline)}" if alert.deadline is not None else "",
    ]
    return "; ".join(filter(None, facts))


def _findings(model: ModelView) -> str:
    if not model.findings:
        return ""
    return "<p>Last findings:</p><ul>" + "".join(f"<li>{escape(t)}" for t in reversed(model.findings)) + "</ul>"


def _labelled(view: LabelledView | None) -> str:
    """What labels of drawn events say, beside what is estimated without them."""
    if view is None or math.isnan(view.end):
        return ""
    number = _share if view.measure == "accuracy" else _plain
    told = [
        (f"{view.measure} by the labels of the span to {moment(view.labelled_end)}", view.labels),
        (f"{view.measure} tracked to {moment(view.end)}", view.tracked),
        (f"{view.measure} when version {view.version or '(unnamed)'} came", view.first),
    ]
    told += [(f"{m.name} of {m.of}" if m.of else m.name, m.estimate) for m in view.measures]
    rows = "".join(
        f"<tr><td>{escape(what)}<td class=n>{number(e.value) if e.effective >= _FEW or not e.labels else ''}"
        f"<td class=n>{number(e.low)} to {number(e.high)}<td class=n>{f'{e.effective:.0f}' if e.labels else ''}"
        for what, e in told
        if e is not None
    )
    free = (("mean of the expected chances", view.cbpe), ("by the fall of the mean confidence", view.doc))
    rows += "".join(
        f"<tr><td class=dim>without labels, blind to concept drift: {what}<td class=n>{_share(value)}<td><td>"
        for what, value in free
        if not math.isnan(value)
    )
    rows += "".join(
        f"<tr><td>error where {escape(' and '.join(one.conditions))}, of all {number(one.others)}"
        f"<td class='n hot'>{number(one.error)}<td><td class=n>{one.labels:,} labels"
        for one in view.failing
    )
    refused = f"<p class=hot>No estimate: {escape(view.refused)}.</p>" if view.refused else ""
    head = "<tr><th>by labels<th class=n>now<th class=n>90 % interval<th class=n>effective labels"
    return f"{refused}<table>{head}{rows}</table>"


def _estimates(estimates: tuple[EstimateView, ...]) -> str:
    rows = "".join(
        f"<tr><td>{escape(e.check)}<td>{escape(f'{e.measure} of {e.of}' if e.of else e.measure)}"
        f"<td class=n>{_share(e.value)}<td class=n>{_share(e.low)} to {_share(e.high)}<td class=n>{_share(e.reference)}"
        f"<td>{f'<span class=hot>not valid:</span> {escape(e.doubt)}' if e.doubt else ''}"
        for e in estimates
    )
    head = "<tr><th>check<th>estimated without labels<th class=n>now<th class=n>95 % interval<th class=n>reference<th>"
    return f"<table>{head}{rows}</table>" if rows else ""


def _hours(hours: tuple[HourView, ...]) -> str:
    rows = "".join(
        f"<tr><td>{moment(h.start)}<td class=n>{h.labelled:,} of {h.rows:,}<td class=n>{_share(h.error)}"
        for h in reversed(hours[-_HOURS:])
    )
    head = "<tr><th>hour of the prediction<th class=n>labelled, of those kept<th class=n>wrong"
    return f"<table>{head}{rows}</table>" if rows else ""


def _renewal(view: RenewalView | None) -> str:
    """What alerts and labels lead to: the campaign, requests to retrain, two versions compared."""
    if view is None:
        return ""
    said = [] if view.campaign is None else [f"A campaign of labeling goes on: {view.campaign:,} labels so far."]
    said += [text for text in (view.ended, view.policy and f"Retraining: {view.policy}") if text]
    lines = "".join(f"<p>{escape(text)}</p>" for text in said)
    rows = "".join(
        f"<tr><td>{escape(r.id[:8])}<td>{escape(r.status)}<td>{moment(r.made)}"
        f"<td>{escape(f'{r.version} to {r.new_version}' if r.new_version else r.version)}"
        f"<td class=n>{_share(r.before)}<td class=n>{_share(r.after)}"
        f"<td>{escape(' · '.join(filter(None, (r.text, r.run, r.said))))}"
        for r in view.requests
    )
    head = "<tr><th>retraining<th>stands<th>asked<th>version<th class=n>accuracy then<th class=n>after<th>why"
    return lines + (f"<table>{head}{rows}</table>" if rows else "") + _comparison(view.comparison)


def _comparison(view: ComparisonView | None) -> str:
    if view is None:
        return ""
    moved = ", ".join(f"{a} to {b} {n:,}" for a, b, n in view.moved[:5])
    customers = ", ".join(f"{name} {share:.1%}" for name, share in view.customers[:5])
    facts = [
        f"Version {view.candidate} beside {view.stable}: {view.outcome}, {view.why}",
        f"{view.compared:,} events answered by both, {_share(view.churn)} otherwise",
        f"{_share(view.flips)} turned wrong, by {view.labels:,} labels",
        *([f"answers that moved most: {moved}"] if moved else []),
        *([f"customers: {customers}"] if customers else []),
        *(f"slice {s.name}: {s.low:+.1%} to {s.high:+.1%}, {'safe' if s.spared else 'not safe'}" for s in view.slices),
    ]
    return f"<p>{escape(' · '.join(facts))}</p>"


def _scores(scores: tuple[ScoreView, ...]) -> str:
    measured = [s for s in scores if not math.isnan(s.score)]
    if not measured:
        return ""
    highest = sorted(measured, key=lambda s: s.score / s.limit if s.limit else s.score, reverse=True)[:_SCORES]
    rows = "".join(
        f"<tr><td>{escape(s.check)}<td>{escape(_about(s))}"
        f"<td class='n{' hot' if s.found else ''}'>{s.score:.4g}<td class=n>{s.limit:.4g}"
        for s in highest
    )
    return f"<table><tr><th>check<th>column<th class=n>score<th class=n>limit{rows}</table>"


def _about(told: AlertView | ScoreView) -> str:
    """The column, and of which rows where not of all."""
    column = told.column or "whole model"
    return f"{column}, {told.scope.replace(':', ' ', 1)}" if told.scope else column


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def moment(at: float) -> str:
    """Event time in UTC; it comes from events, so it may be any number."""
    if not math.isfinite(at):
        return "none yet"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"
