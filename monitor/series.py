"""What Prometheus shows of the models: the judge's last snapshot as series, made at scrape time.

A snapshot is immutable, so all values of a window appear together, a scrape never waits for the judge, and the series
of a model that is gone vanish with it. A metric of the models is a line in `_SHOWN`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from detectors.estimate import Estimate
from detectors.evidence.calibrate import Replay
from monitor.snapshot import (
    ColumnView,
    ComparisonView,
    EstimateView,
    LabelledView,
    ModelView,
    PromiseView,
    ScoreView,
    Snapshot,
)

OTHER = "__other__"  # the label value of everything beyond a cap
_LONGEST = 120  # characters of a label value that comes from data
_SUFFIX = {"counter": "_total", "info": "_info"}  # what a scrape adds to a name, by type

Row = tuple[tuple[str, ...], float]  # label values, value


class Described(NamedTuple):
    """A metric as the reference documentation lists it."""

    name: str  # as scraped
    type: str
    labels: tuple[str, ...]
    help: str

    @classmethod
    def of(cls, name: str, kind: str, labels: tuple[str, ...], text: str) -> Described:
        """By the name that it has among ours."""
        return cls(f"driftd_{name}{_SUFFIX.get(kind, '')}", kind, labels, text)


class _Shown(NamedTuple):
    """A metric of the snapshot: how it is declared, and its rows of one model (label values after the model's)."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str
    rows: Callable[[_Capped], Iterable[Row]]


class _Capped(NamedTuple):
    """A model's view with as many columns as may be shown."""

    model: ModelView
    columns: tuple[ColumnView, ...]
    more: tuple[ColumnView, ...]
    scores: tuple[ScoreView, ...]
    more_scores: tuple[ScoreView, ...]
    label_values: int


def _one(value: float) -> Iterator[Row]:
    yield (), value


def _columns(value: Callable[[ColumnView], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        for column in shown.columns:
            yield (column.name, column.role.value), value(column)

    return rows


def _ratios(value: Callable[[ColumnView], float]) -> Callable[[_Capped], Iterator[Row]]:
    """The same with the worst of the columns beyond the cap as `__other__`."""

    def rows(shown: _Capped) -> Iterator[Row]:
        yield from _columns(value)(shown)
        known = [v for column in shown.more if not math.isnan(v := value(column))]
        if known:
            yield (OTHER, OTHER), max(known)

    return rows


def _quantiles(shown: _Capped) -> Iterator[Row]:
    for column in shown.columns:
        for quantile, value in column.quantiles.items():
            yield (column.name, column.role.value, quantile), value


def _shares(shown: _Capped) -> Iterator[Row]:
    for column in shown.columns:
        known = sorted(((s, w) for w, s in column.shares.items() if w != OTHER), key=lambda pair: (-pair[0], pair[1]))
        rest = column.shares.get(OTHER, 0.0) + math.fsum(share for share, _ in known[shown.label_values :])
        for share, word in known[: shown.label_values]:
            yield (column.name, column.role.value, word), share
        if rest or OTHER in column.shares:
            yield (column.name, column.role.value, OTHER), rest


def _scores(value: Callable[[ScoreView], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        for score in shown.scores:
            yield (score.check, score.column, score.scope), value(score)
        worst: dict[tuple[str, str], float] = {}
        for score in shown.more_scores:
            if not math.isnan(v := value(score)):
                look = score.check, score.scope
                worst[look] = max(v, worst.get(look, -math.inf))
        for (check, scope), v in worst.items():
            yield (check, OTHER, scope), v

    return rows


def _estimates(value: Callable[[EstimateView], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        for estimate in shown.model.estimates:
            yield (estimate.check, estimate.measure, estimate.of), value(estimate)

    return rows


def _promises(value: Callable[[PromiseView], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        for promise in shown.model.promises:
            yield (promise.check,), value(promise)

    return rows


def _replays(value: Callable[[Replay], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        for promise in shown.model.promises:
            if promise.replayed is not None:
                yield (promise.check,), value(promise.replayed)

    return rows


def _labelled(shown: _Capped) -> Iterator[Row]:
    hours = shown.model.hours[-24:]
    if hours:
        yield (), sum(hour.labelled for hour in hours) / max(sum(hour.rows for hour in hours), 1)


def _accuracies(value: Callable[[Estimate], float]) -> Callable[[_Capped], Iterator[Row]]:
    """Of each estimator; those without labels have a value alone."""

    def rows(shown: _Capped) -> Iterator[Row]:
        view = shown.model.labelled
        if view is None or view.measure != "accuracy":
            return
        for estimator, found in (("labels", view.labels), ("tracked", view.tracked), ("first", view.first)):
            if found is not None:
                yield (estimator,), value(found)
        for estimator, free in (("cbpe", view.cbpe), ("doc", view.doc)):
            yield (estimator,), value(Estimate(free, math.nan, math.nan, math.nan))

    return rows


def _by_labels(value: Callable[[Estimate], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        view = shown.model.labelled
        if view is None:
            return
        if view.measure != "accuracy" and view.tracked is not None:
            yield (view.measure, ""), value(view.tracked)
        for measure in view.measures:
            yield (measure.name, measure.of), value(measure.estimate)

    return rows


def _labelled_view(value: Callable[[LabelledView], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        if shown.model.labelled is not None:
            yield (), value(shown.model.labelled)

    return rows


def _compared(value: Callable[[ComparisonView], float]) -> Callable[[_Capped], Iterator[Row]]:
    def rows(shown: _Capped) -> Iterator[Row]:
        view = None if shown.model.renewal is None else shown.model.renewal.comparison
        if view is not None:
            yield (view.stable, view.candidate), value(view)

    return rows


def _compared_slices(shown: _Capped) -> Iterator[Row]:
    view = None if shown.model.renewal is None else shown.model.renewal.comparison
    if view is not None:
        yield from (((view.stable, view.candidate, one.name), one.low) for one in view.slices)


def _alerts(shown: _Capped) -> Iterator[Row]:
    for severity in ("info", "warning", "critical"):
        yield (severity,), sum(alert.severity == severity for alert in shown.model.alerts)


def _not_shown(shown: _Capped) -> Iterator[Row]:
    beyond = sum(max(len(column.shares.keys() - {OTHER}) - shown.label_values, 0) for column in shown.columns)
    yield ("column",), len(shown.more)
    yield ("word",), beyond
    yield ("score",), len(shown.more_scores)


def _reference(shown: _Capped) -> Iterator[Row]:
    if shown.model.reference:
        yield (shown.model.reference,), 1.0


_COLUMN = ("column", "role")
_ESTIMATE = ("check", "measure", "class")
_LOOK = ("check", "column", "scope")  # an empty scope, all rows of the model, is no label to Prometheus
_SHOWN = (
    _Shown("judged_events", "counter", (), "Events judged, those before a restart included.",
           lambda s: _one(s.model.events)),
    _Shown("late_events", "counter", (), "Events that came after their window was judged: counted, not judged.",
           lambda s: _one(s.model.late)),
    _Shown("windows_judged", "counter", (), "Base windows judged.", lambda s: _one(s.model.windows)),
    _Shown("label_tasks", "counter", (), "Events drawn for labeling.", lambda s: _one(s.model.label_tasks)),
    _Shown("window_rows", "gauge", (), "Events in the last judged window.", lambda s: _one(s.model.window_rows)),
    _Shown("window_start_timestamp_seconds", "gauge", (), "Start of the last judged window, event time.",
           lambda s: _one(s.model.window_start)),
    _Shown("window_end_timestamp_seconds", "gauge", (),
           "End of the last judged window, event time: the age of every value below.",
           lambda s: _one(s.model.window_end)),
    _Shown("reference", "info", ("version",), "The reference that the model is judged against; absent while learning.",
           _reference),
    _Shown("learning_events", "gauge", (), "Events seen while the reference is being learned; absent afterwards.",
           lambda s: _one(s.model.learning[0]) if s.model.learning else ()),
    _Shown("learning_wanted_events", "gauge", (), "Events that the reference is learned from; absent afterwards.",
           lambda s: _one(s.model.learning[1]) if s.model.learning else ()),
    _Shown("alerts_open", "gauge", ("severity",), "Open alerts.", _alerts),
    _Shown("column_missing_ratio", "gauge", _COLUMN,
           "Share of rows without a value, last window. `__other__`: the worst of the columns not shown.",
           _ratios(lambda c: c.missing)),
    _Shown("column_wrong_ratio", "gauge", _COLUMN,
           "Share of rows with a value of another kind than declared. `__other__`: the worst of those not shown.",
           _ratios(lambda c: c.wrong)),
    _Shown("column_mean", "gauge", _COLUMN, "Mean in the last window, in the column's own unit.",
           _columns(lambda c: c.mean)),
    _Shown("column_deviation", "gauge", _COLUMN, "Standard deviation in the last window, in the column's own unit.",
           _columns(lambda c: c.deviation)),
    _Shown("column_quantile", "gauge", (*_COLUMN, "q"),
           "Quantiles of the last window (`q`: 0.5 is the median), in the column's own unit.", _quantiles),
    _Shown("column_category_ratio", "gauge", (*_COLUMN, "word"),
           "Share of the most frequent words that the reference knows. `__other__`: all the rest.", _shares),
    _Shown("alarms", "counter", ("check",), "Alarms of a check that promises how few are false; true ones included.",
           _promises(lambda p: p.alarms)),
    _Shown("false_alarms_allowed", "counter", ("check",),
           "False alarms, at most, that the promise expects in what was judged so far: beside `driftd_alarms`.",
           _promises(lambda p: p.allowed)),
    _Shown("promise_length", "gauge", ("check", "unit"),
           "Event time in seconds, or events, in which a check promises at most one false alarm of the whole model.",
           lambda s: (((p.check, p.unit), p.length) for p in s.model.promises)),
    _Shown("replay_alarms", "gauge", ("check",),
           "Alarms on quiet rows of the reference, of a check whose promise is approximate: columns have memory.",
           _replays(lambda r: r.alarms)),
    _Shown("replay_alarms_allowed", "gauge", ("check",), "Alarms that the promise allows in these rows.",
           _replays(lambda r: r.promised)),
    _Shown("drift_score", "gauge", _LOOK,
           "Last score of a check; its meaning is the check's. `scope`: such as `slice:young`, empty for all rows. "
           "`__other__`: the highest of the columns not shown.",
           _scores(lambda s: s.score)),
    _Shown("drift_score_limit", "gauge", _LOOK, "Score from which on the check holds it for a finding.",
           _scores(lambda s: s.limit)),
    _Shown("drift_found", "gauge", _LOOK, "1 where the last look was a finding.",
           _scores(lambda s: float(s.found))),
    _Shown("estimated_performance", "gauge", _ESTIMATE,
           "Estimated without labels: accuracy, precision, recall, f1, roc_auc; of a class also its share of the "
           "truths, share_bbse and share_em, right where nothing but these shares moved.",
           _estimates(lambda e: e.value)),
    _Shown("estimated_performance_low", "gauge", _ESTIMATE,
           "Lower end of the 95 % interval of what the labels of the same rows would say.",
           _estimates(lambda e: e.low)),
    _Shown("estimated_performance_high", "gauge", _ESTIMATE, "Upper end of the same interval.",
           _estimates(lambda e: e.high)),
    _Shown("estimated_performance_reference", "gauge", _ESTIMATE, "The same measure on the reference's labels.",
           _estimates(lambda e: e.reference)),
    _Shown("estimated_performance_valid", "gauge", _ESTIMATE,
           "0 while labels speak against the calibration, or rows are unlike all labelled ones; else 1.",
           _estimates(lambda e: float(not e.doubt))),
    _Shown("versions_gap_ratio", "gauge", ("stable", "candidate"),
           "Accuracy of the candidate less the stable version's, by labels.", _compared(lambda v: v.gap)),
    _Shown("versions_gap_ratio_low", "gauge", ("stable", "candidate"),
           "Lower bound of the same, which holds at every look.", _compared(lambda v: v.low)),
    _Shown("versions_gap_ratio_high", "gauge", ("stable", "candidate"), "Upper bound.", _compared(lambda v: v.high)),
    _Shown("versions_slice_gap_ratio_low", "gauge", ("stable", "candidate", "slice"),
           "The lower bound in each protected slice.", _compared_slices),
    _Shown("versions_churn_ratio", "gauge", ("stable", "candidate"),
           "Share of events that the two versions answer otherwise; says nothing of who is right.",
           _compared(lambda v: v.churn)),
    _Shown("versions_flips_ratio", "gauge", ("stable", "candidate"),
           "Share of answers that turn from right to wrong with the candidate, by labels.",
           _compared(lambda v: v.flips)),
    _Shown("accuracy_ratio", "gauge", ("estimator",),
           "Share of right answers. `labels`: of the newest span with labels, by these alone, whatever is drawn for "
           "labeling. `tracked`: of the newest span, by the labels of all, blind to a fall since the last of them. "
           "`first`: by labels, when the version came. `cbpe`: the mean of calibrated chances, and `doc`: by the fall "
           "of the mean confidence, without labels and blind to concept drift.",
           _accuracies(lambda e: e.value)),
    _Shown("accuracy_ratio_low", "gauge", ("estimator",), "Lower end of the 90 % interval.",
           _accuracies(lambda e: e.low)),
    _Shown("accuracy_ratio_high", "gauge", ("estimator",), "Upper end of the 90 % interval.",
           _accuracies(lambda e: e.high)),
    _Shown("accuracy_effective_labels", "gauge", (),
           "Labels of equal weight that would say as much as those of `labels`; under 30, look at the interval only.",
           _labelled_view(lambda v: math.nan if v.labels is None else v.labels.effective)),
    _Shown("accuracy_end_timestamp_seconds", "gauge", (),
           "End of the newest span with labels, event time: the age of `labels`.",
           _labelled_view(lambda v: v.labelled_end)),
    _Shown("accuracy_refused", "gauge", (),
           "1 where the newest labels came back in an order that makes every estimate from them wrong.",
           _labelled_view(lambda v: float(bool(v.refused)))),
    _Shown("labels_returned", "counter", (), "Labels of drawn events that came back.",
           _labelled_view(lambda v: v.returned)),
    _Shown("labels_late", "counter", (), "Of them after their span was settled: for classes and slices only.",
           _labelled_view(lambda v: v.late)),
    _Shown("labels_unknown", "counter", (), "Labels that came back for events that are not held any more.",
           _labelled_view(lambda v: v.unknown)),
    _Shown("measured_performance", "gauge", ("measure", "of"),
           "By the labels of the last spans together: precision, recall and f1 of a class, mae and rmse of numbers in "
           "their own unit, the accuracy of a slice, or of another version on the same events.",
           _by_labels(lambda e: e.value)),
    _Shown("measured_performance_low", "gauge", ("measure", "of"), "Lower end of the 90 % interval.",
           _by_labels(lambda e: e.low)),
    _Shown("measured_performance_high", "gauge", ("measure", "of"), "Upper end of the 90 % interval.",
           _by_labels(lambda e: e.high)),
    _Shown("failing_slices", "gauge", (), "Slices found in which the model errs more; the status has them.",
           _labelled_view(lambda v: len(v.failing))),
    _Shown("labelled_ratio", "gauge", (), "Share of the predictions of the last 24 labelled hours whose label came.",
           _labelled),
    _Shown("not_shown", "gauge", ("what",), "Columns, words and scores beyond the caps, aggregated as `__other__`.",
           _not_shown),
)  # fmt: skip


class Series(Collector):
    """The snapshot as metrics. NaN (not measured) gives no series.

    `columns` and `label_values` cap what is shown of a model: how many columns, and how many words of a category.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], columns: int, label_values: int) -> None:
        self._snapshot = snapshot
        self._columns = columns
        self._label_values = label_values

    def described(self) -> Iterator[Described]:
        for shown in _SHOWN:
            yield Described.of(shown.name, shown.type, ("model", *shown.labels), shown.help)

    def describe(self) -> Iterator[Metric]:
        """Names only, so that registering does not ask for a snapshot before there is one."""
        for shown in _SHOWN:
            yield Metric(f"driftd_{shown.name}", shown.help, shown.type)

    def collect(self) -> Iterator[Metric]:
        models = [self._capped(model) for model in self._snapshot().models]
        for shown in _SHOWN:
            labels = ("model", *shown.labels)
            family = _FAMILIES[shown.type](f"driftd_{shown.name}", shown.help)
            name = f"driftd_{shown.name}{_SUFFIX.get(shown.type, '')}"
            for capped in models:
                for values, value in shown.rows(capped):
                    if not math.isnan(value):
                        told = map(_label, (capped.model.model, *values))
                        family.add_sample(name, dict(zip(labels, told, strict=True)), value)
            yield family

    def _capped(self, model: ModelView) -> _Capped:
        """Columns in the order of the reference; the same ones for scores, and the model as a whole always."""
        kept, more = model.columns[: self._columns], model.columns[self._columns :]
        hidden = {column.name for column in more}
        return _Capped(
            model,
            kept,
            more,
            tuple(score for score in model.scores if score.column not in hidden),
            tuple(score for score in model.scores if score.column in hidden),
            self._label_values,
        )


_FAMILIES: dict[str, Callable[[str, str], Metric]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "info": InfoMetricFamily,
}


def _label(text: str) -> str:
    """A label value of bounded length; two long ones that begin alike stay apart.

    >>> len(_label("x" * 5000))
    120
    """
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: _LONGEST - 9]}~{digest}"
