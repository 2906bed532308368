"""One event explained: what is known of it from the label queue, the last windows and the alerts, and how it lies in
the reference.

What a reader would get wrong: the daemon keeps no events. It knows those that label tasks were made of, and the sampled
rows of the last windows with the examples of alerts; any other has to be brought by who asks.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from alerting.alert import Alert
from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import ClassScore, LabelTask, Used, Value, task_id
from detectors.core import Batch, Kind, Role, Scorer
from detectors.explain import Explained, Explainer, Feature
from detectors.profile import NUMERIC, Profile
from detectors.reference import Reference
from monitor.decode import Auto
from monitor.decode.columns import to_batch
from monitor.event import TAKEN, Event, Record, Schema
from monitor.recent import Recent
from monitor.scopes import RARE, SLICE, Scopes

MODELS = 4  # references of which is kept what explaining works out: 5 MB each
UNKNOWN = "a word that the reference lacks"
TASK, RECENT, GIVEN = "a label task", "a row of a recent window", "the event as given"


class Held(NamedTuple):
    """What the daemon holds of a model that events can be explained by."""

    reference: Reference
    schema: Schema  # by which its events are read
    scorers: Mapping[str, Scorer]
    scopes: Scopes
    dataset: str
    recent: Recent
    window: float  # length of a base window, seconds


class Label(msgspec.Struct, frozen=True):
    """Somebody's answer to the event's label task."""

    value: Value
    by: str
    at: float  # UTC seconds


class Then(msgspec.Struct, frozen=True):
    """An alert that was open at the time of the event, as far as it is still shown."""

    key: str
    severity: str
    text: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why one event came out as it did, as far as a monitor can tell."""

    event: str
    model: str
    version: str  # of the model; empty: not told
    time: float | None  # event time, UTC seconds
    known_from: tuple[str, ...]  # TASK, RECENT, GIVEN
    reference: str  # version of it
    answer: Value
    scores: tuple[ClassScore, ...]
    uri: str
    path: str  # modules that the event took
    rule: str  # that changed the answer
    slices: tuple[str, ...]  # configured ones that it belongs to
    why_drawn: str  # why a label was asked for; empty: none was
    labels: tuple[Label, ...]
    final: Value
    label_sets: Used
    alerts: tuple[Then, ...]
    explained: Explained


class _Known(NamedTuple):
    batch: Batch  # one scored row, of the columns that are known
    sources: tuple[str, ...]


class Unexplained(Exception):
    """The event cannot be explained; the text says why and what to do."""


class Explaining:
    """Explains events. One thread at a time; it may wait for the queue's server. Raises QueueError for one that is
    away."""

    def __init__(self, queue: LabelQueue) -> None:
        self._queue = queue
        self._explainers: OrderedDict[str, Explainer] = OrderedDict()  # by version of the reference, newest last

    def by_id(self, event: str, models: Mapping[str, Held], alerts: Sequence[Alert]) -> Explanation:
        """Of an event of one of the models. Raises Unexplained."""
        for model, held in models.items():
            task = self._task(event, model, held)
            row = held.recent.find(event)
            if task is not None or row is not None:
                return self._explain(event, model, held, _known(task, row, held), task, alerts)
        raise Unexplained(
            f"nothing is known of event {event[:200]!r}: no label was asked for, and it is neither an example of an "
            "alert nor in the sample of one of the last windows; bring the event itself (`driftd explain --event FILE`)"
        )

    def brought(self, record: bytes, models: Mapping[str, Held], alerts: Sequence[Alert]) -> Explanation:
        """Of a record of one event, in any format the daemon reads, by the model that it names or the only one there
        is. Raises Unexplained."""
        decoded = Auto().open().decode([Record(record)], {})
        events = [event for events in decoded.events.values() for event in events]
        if len(events) != 1:
            why = decoded.bad[0].message if decoded.bad else f"it holds {len(events)} events, wanted is one"
            raise Unexplained(f"the record cannot be used: {why}")
        event = events[0]
        name = next(iter(models)) if len(models) == 1 else event.model
        if name not in models:
            raise Unexplained(
                f"the event names the model {name[:200]!r}; say which of these it is: {', '.join(models)}"
            )
        held = models[name]
        batch = held.reference.scored(to_batch([event], held.schema), held.scorers)
        known = _Known(batch, (GIVEN,))
        return self._explain(event.id, name, held, known, self._task(event.id, name, held), alerts)

    def _task(self, event: str, model: str, held: Held) -> LabelTask | None:
        """The event's label task. Those that check labelers have other ids and are never found."""
        return self._queue.get(task_id(held.dataset, model, event))

    def _explainer(self, reference: Reference) -> Explainer:
        kept = self._explainers
        if reference.version not in kept:
            kept[reference.version] = Explainer(reference)
            if len(kept) > MODELS:
                kept.popitem(last=False)
        kept.move_to_end(reference.version)
        return kept[reference.version]

    def _explain(
        self, event: str, model: str, held: Held, known: _Known, task: LabelTask | None, alerts: Sequence[Alert]
    ) -> Explanation:
        batch = known.batch
        time = float(batch.times[0])
        scopes: dict[str, Profile] = {}
        held.scopes.count(batch, held.reference.layout, scopes)
        explained = self._explainer(held.reference).explain(batch)
        return Explanation(
            event=event,
            model=model,
            version=_word(batch, "version") if task is None else task.model.version,
            time=time if math.isfinite(time) else None,
            known_from=known.sources,
            reference=held.reference.version,
            answer=_answer(batch) if task is None else task.prediction.label,
            scores=() if task is None else task.prediction.scores,
            uri="" if task is None else task.uri,
            path=_word(batch, "path"),
            rule=_word(batch, "rule"),
            slices=tuple(name.removeprefix(SLICE) for name in scopes if name.startswith(SLICE)),
            why_drawn="" if task is None else task.reason,
            labels=() if task is None else tuple(Label(a.value, a.by, a.at) for a in task.labels if not a.late),
            final=None if task is None or task.final is None else task.final.value,
            label_sets=Used() if task is None else task.used,
            alerts=tuple(
                Then(alert.key, alert.severity.value, alert.text)
                for alert in alerts
                if alert.model == model and _open(alert, time, held.window)
            ),
            explained=replace(explained, features=tuple(_shown(feature) for feature in explained.features)),
        )


def _known(task: LabelTask | None, row: Batch | None, held: Held) -> _Known:
    """Of both what they say; the task has words that the reference lacks, the row what was derived."""
    if task is None:
        assert row is not None
        return _Known(row, (RECENT,))
    said = _as_asked(task, held.reference)
    if row is None:
        return _Known(said, (TASK,))
    return _Known(Batch(row.keys, row.times, row.ids, row.offsets, {**row.columns, **said.columns}), (TASK, RECENT))


def _as_asked(task: LabelTask, reference: Reference) -> Batch:
    """The row that a task tells of: inputs, answer and version."""
    inputs = {named.name: named.value for named in task.inputs}
    shown = tuple(
        spec
        for spec in reference.schema
        if spec.name in ("label", "version") or (spec.role is Role.INPUT and spec.name in inputs)
    )
    event = Event(
        id=task.event.id,
        time=math.nan if task.event.time is None else task.event.time,
        version=task.model.version or None,
        inputs={_input(name): value for name, value in inputs.items()},
        label=task.prediction.label,
    )
    return to_batch([event], shown)


def _input(column: str) -> str:
    """What events call the input of a column."""
    name = column.removeprefix("input.")
    return name if name in TAKEN else column


def _open(alert: Alert, time: float, window: float) -> bool:
    """Whether the event may have led to the alert or came while it was open; it starts with its first window's end."""
    return alert.started - window <= time and (alert.resolved is None or time <= alert.resolved)


def _word(batch: Batch, name: str) -> str:
    """The value of a column of words; empty where it is missing."""
    column = batch.get(name)
    if column is None or column.kind is not Kind.CATEGORY or column.values[0] < 0:
        return ""
    word = column.words[int(column.values[0])]
    return UNKNOWN if word == RARE else word


def _answer(batch: Batch) -> str | float | None:
    for name in ("label", "value"):
        column = batch.get(name)
        if column is not None and column.kind in NUMERIC:
            return float(column.values[0]) if np.isfinite(column.values[0]) else None
    return _word(batch, "label") or None


def _shown(feature: Feature) -> Feature:
    return replace(feature, value=UNKNOWN) if feature.value == RARE else feature
