"""The one registry of Prometheus metrics: counters of ourselves, and the series of the models (`monitor.series`).

Counters belong to whoever counts.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from monitor.series import Described, Series
from monitor.snapshot import Snapshot

_FAST = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_SAVING = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# `_created` series would double the counters and no rule of ours reads them
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Meters:
    """Every metric of the process. Counting is thread-safe and costs about 1 us; count batches, not events.

    `snapshot` gives what the judge last showed. `columns` and `label_values` cap what is shown of a model: how many
    columns, and how many words of a category; the rest appears as `__other__` and is counted. `silences` gives the
    seconds since each long-lived thread last went round.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot] = Snapshot,
        *,
        silences: Callable[[], Mapping[str, float]] = dict,
        columns: int = 200,
        label_values: int = 20,
    ) -> None:
        self.registry = CollectorRegistry()
        self._described: list[Described] = []

        self.events = self._counter("events", "Events decoded.", "source")
        self.bad = self._counter("bad_records", "Records that could not be read, by cause.", "source", "cause")
        self.dead_letters = self._counter("dead_letters", "Records set aside with their cause.", "destination")
        self.dead_letters_lost = self._counter(
            "dead_letters_dropped", "Dead letters not kept because their destination was full.", "destination"
        )
        self.orphans = self._counter(
            "orphans", "Requests or responses whose other half did not come in time.", "source", "side"
        )
        self.duplicates = self._counter("repeated_messages", "Messages on the exchange the judge had already.")
        self.clock_errors = self._counter("clock_errors", "Events with an impossible time, taken as of now.", "source")
        self.cut_events = self._counter(
            "cut_events", "Events with more fields than are read of one; the first were.", "source"
        )
        self.labels = self._counter("late_labels", "Labels that came back for earlier events.", "model")
        self.outcomes = self._counter(
            "label_outcomes",
            "What became of late labels: joined, repeated, corrected, unknown (no prediction is kept under the id), "
            "thinned (beyond the share of ids that is kept), lost; and predictions expired without one.",
            "model",
            "outcome",
        )
        self.version_answers = self._counter(
            "version_answers",
            "What became of answers that versions are compared by: compared with an earlier one of another version, "
            "repeated, incomparable, alone (no other version answered), dropped (beyond the share that is kept).",
            "model",
            "outcome",
        )
        self.lost_partials = self._counter(
            "lost_partials", "Parts of windows that could not be read, or were counted on another reference."
        )
        self.lost_memories = self._counter(
            "lost_memories", "Checks that began anew, for the checkpoint's memory of them could not be read.", "model"
        )
        self.untracked = self._gauge(
            "untracked_runs", "Runs that go on and are not tracked, as too many are tracked at once.", "model"
        )
        self.findings = self._counter("findings", "Findings, by check.", "model", "check")
        self.transitions = self._counter(
            "alert_transitions", "Alerts opened, updated, resolved.", "model", "transition"
        )
        self.retraining = self._counter(
            "retraining_requests", "Requests to retrain that were sent, or came to an end.", "model", "status"
        )
        self.checkpoints = self._histogram("checkpoint_seconds", "Time to save a checkpoint.", _SAVING, "stage")
        self.checkpoint_failures = self._counter("checkpoint_failures", "Checkpoints that could not be saved.", "stage")
        self.lag_records = self._gauge(
            "consumer_lag_records", "Records behind the end of a partition.", "topic", "partition"
        )
        self.lag_seconds = self._gauge(
            "consumer_lag_seconds", "Age, by event time, of the newest event read from a source.", "source"
        )
        self.unwatched_versions = self._counter(
            "unwatched_version_events", "Events of a model version beyond `models[].versions`.", "model"
        )
        self.passed_over = self._counter(
            "source_objects_passed_over",
            "Objects of a bucket that were gone, changed or too large when their turn came.",
            "source",
        )
        self.last_poll = self._gauge(
            "source_last_poll_timestamp_seconds", "When a source was last asked for records.", "source"
        )
        self.paused = self._gauge("source_paused", "1 while a source is paused because what follows is full.", "source")
        self.commit_failures = self._counter(
            "commit_failures", "Offset commits refused; the checkpoint holds all the same.", "source"
        )
        self.outbox_bytes = self._gauge("outbox_bytes", "Bytes that wait to be delivered.")
        self.outbox_items = self._gauge("outbox_items", "Notices and label tasks that wait.", "destination")
        self.deliveries = self._counter("deliveries", "Items delivered.", "destination")
        self.delivery_failures = self._counter("delivery_failures", "Attempts to deliver that failed.", "destination")
        self.delivery_refused = self._gauge(
            "delivery_refused_items", "Items set aside because their destination refused one of them.", "destination"
        )
        self.delivery_down = self._gauge(
            "delivery_circuit_open", "1 while a destination is down and tried with one item at a time.", "destination"
        )
        self.judged_delay = self._histogram(
            "event_judged_delay_seconds",
            "From an event's arrival at the source to its window being judged, one newest event a window.",
            _FAST,
            "model",
        )
        self.log_truncations = self._counter(
            "log_truncations", "Torn ends cut off a local log when it was opened.", "log"
        )
        self.log_bytes = self._gauge("log_bytes", "Bytes held by a local log.", "log")
        self.intake_requests = self._counter("intake_requests", "HTTP intake requests, by status.", "status")
        self.api_requests = self._counter("api_requests", "HTTP requests that act or ask, by status.", "act", "status")
        self.intake_bytes = self._counter("intake_bytes", "Bytes of bodies taken in over HTTP, as sent.")
        self.scrape_failures = self._counter("model_server_scrape_failures", "Scrapes of the model server that failed.")
        self.committee_up = self._gauge("committee_up", "1 while a hosted committee is ready to be asked.", "model")
        self.committee_loads = self._counter(
            "committee_loads", "Times a hosted committee's child was started and loaded its models.", "model"
        )
        self.committee_refused = self._counter(
            "committee_refused",
            "Times a hosted committee's files were not to be had or not to be used.",
            "model",
            "cause",
        )
        self.committee_missed = self._counter(
            "committee_missed_events", "Events a hosted committee should have answered and did not.", "model"
        )
        self.label_tasks = self._gauge("label_queue_tasks", "Label tasks of the queue, by status.", "dataset", "status")
        self.label_agreement = self._gauge(
            "label_agreement_ratio",
            "Krippendorff's alpha of the last 10,000 labels: 1 where labelers always agree, 0 as by chance.",
            "dataset",
        )
        self.collected_labels = self._counter(
            "collected_labels", "Finished labels of the queue that were handed to the judge.", "model"
        )
        self.unwanted_labels = self._counter(
            "unwanted_labels", "Finished labels of models that are not configured any more."
        )
        self.collect_failures = self._counter(
            "label_collect_failures", "Rounds in which finished labels could not be taken over; the next goes on."
        )
        self.tool_success = self._gauge(
            "labeling_tool_last_success_timestamp_seconds", "When a labeling tool was last looked at; 0: never.", "tool"
        )
        self.tool_failures = self._counter("labeling_tool_failures", "Looks at a labeling tool that failed.", "tool")
        self.tool_tasks = self._counter("labeling_tool_tasks", "Tasks handed over to a labeling tool.", "tool")
        self.tool_refused = self._counter(
            "labeling_tool_refused_tasks", "Tasks that a labeling tool cannot hold; others label them.", "tool"
        )
        self.tool_withdrawn = self._counter(
            "labeling_tool_withdrawn_tasks", "Tasks taken back from a labeling tool: nobody need label them.", "tool"
        )
        self.tool_replies = self._counter(
            "labeling_tool_replies",
            "What became of a tool's replies, each time they were read: accepted, late (the lease had passed on), "
            "skipped, unknown (no task of this queue), faults (no label could be read).",
            "tool",
            "outcome",
        )
        self.runs = self._gauge(
            "retraining_runs",
            "Runs of requests to retrain that are followed, as their target last told.",
            "target",
            "state",
        )
        self.run_failures = self._counter(
            "retraining_run_failures", "Times that a target did not tell of its runs; it is asked again.", "target"
        )
        self.jobs_passed_over = self._counter(
            "jobs_passed_over", "Times a job was due while it was still at work, and passed over.", "job"
        )
        self.errors = self._counter("thread_errors", "Unforeseen errors at the top of a thread, by thread.", "thread")

        self._describe("build", "info", ("version", "python"), "Version of driftd and of Python.")
        self._describe(
            "thread_alive_timestamp_seconds", "gauge", ("thread",), "When a long-lived thread last went round."
        )
        self.registry.register(_Process(silences))
        models = Series(snapshot, columns, label_values)
        self._described += models.described()
        self.registry.register(models)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        # its counters say whether the cyclic collector, which costs decoders dearly, was left on
        GCCollector(registry=self.registry)

    def described(self) -> tuple[Described, ...]:
        """Every metric of ours, for the reference documentation."""
        return tuple(self._described)

    def value(self, name: str) -> float:
        """Sum of a metric over its labels, by its scraped name; 0 when it has no series yet."""
        asked = self.registry.restricted_registry([name])  # collects only the one
        return math.fsum(sample.value for metric in asked.collect() for sample in metric.samples if sample.name == name)

    def _describe(self, name: str, kind: str, labels: Sequence[str], text: str) -> None:
        self._described.append(Described.of(name, kind, tuple(labels), text))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._describe(name, "counter", labels, text)
        return Counter(f"driftd_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", labels, text)
        return Gauge(f"driftd_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self._describe(name, "histogram", labels, text)
        return Histogram(f"driftd_{name}", text, labels, registry=self.registry, buckets=buckets)


class _Process(Collector):
    """What is known of the process without counting: its version, and when its threads last went round."""

    def __init__(self, silences: Callable[[], Mapping[str, float]]) -> None:
        self._silences = silences

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not ask for threads before there are any."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily("driftd_build", "Version of driftd and of Python.")
        build.add_metric([], {"version": version(), "python": platform.python_version()})
        yield build
        alive = GaugeMetricFamily(
            "driftd_thread_alive_timestamp_seconds", "When a long-lived thread last went round.", labels=["thread"]
        )
        for thread, silence in self._silences().items():
            alive.add_metric([thread], time.time() - silence)
        yield alive


def version() -> str:
    """Driftd's own."""
    try:
        return importlib.metadata.version("driftd")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


def reference() -> str:
    """The page that lists every metric, in Markdown."""
    lines = [
        "# Metrics",
        "",
        "Served at `/metrics`. Made by `python -m monitor.manual`; do not edit. Times are UTC seconds, ratios 0 to 1.",
        "Beside these stand the usual `process_*`, `python_*` metrics (memory, CPU, open files, garbage collector).",
        "",
        "| metric | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for metric in Meters().described():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
