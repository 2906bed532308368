"""The model server's own Prometheus endpoint as a source: each scrape is one row of software metrics.

A gauge is a column as it stands; a counter becomes its rate per second since the scrape before. So memory, load and
queue lengths of the server are checked like any other column, under a model of their own.
"""

from __future__ import annotations

import json
import logging
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from detectors.units import Seconds
from monitor.event import Partition, Record
from monitor.sources import Polled

log = logging.getLogger(__name__)

LARGEST = 8 << 20  # bytes of an exposition that are read
COLUMNS = 200  # of a scrape, the first by name
RATED = ("counter",)
LEVELS = ("gauge", "unknown")


class ScrapeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Prometheus endpoint of the server that runs the model."""

    url: Annotated[
        str, msgspec.Meta(description="Where the server shows its metrics.", pattern="^https?://", min_length=10)
    ]
    every: Annotated[Seconds, msgspec.Meta(description="Between scrapes.", ge=1)] = 15.0
    timeout: Annotated[Seconds, msgspec.Meta(description="Longest wait for an answer.", gt=0)] = 5.0
    metrics: Annotated[
        tuple[str, ...], msgspec.Meta(description="Names or patterns of the metrics taken.", min_length=1)
    ] = ("process_resident_memory_bytes", "process_cpu_seconds_total", "*_queue*", "*_load*")


Samples = Mapping[str, tuple[str, float]]  # column -> kind, value


def samples(exposition: str, patterns: tuple[str, ...]) -> dict[str, tuple[str, float]]:
    r"""Columns of an exposition by name, with `counter` or `gauge` and the value. ValueError when it is none.

    >>> samples('# TYPE mem gauge\nmem 5\n# TYPE n_total counter\nn_total{a="b"} 2\n', ("*",))
    {'mem': ('gauge', 5.0), 'n_total{a=b}': ('counter', 2.0)}
    """
    return dict(sorted(_samples(exposition, patterns))[:COLUMNS])


def _samples(exposition: str, patterns: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, float]]]:
    for family in text_string_to_metric_families(exposition):
        if family.type not in RATED + LEVELS:
            continue
        for sample in family.samples:
            if sample.name.endswith("_created") or not any(fnmatchcase(sample.name, p) for p in patterns):
                continue
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            kind = "counter" if family.type in RATED else "gauge"
            yield f"{sample.name}{{{labels}}}" if labels else sample.name, (kind, float(sample.value))


def row(now: Samples, before: Samples, seconds: float) -> dict[str, float]:
    """Values of one scrape: levels as they are, counters as rates; a counter that fell has restarted from 0."""
    out = {}
    for name, (kind, value) in now.items():
        if kind == "gauge":
            out[name] = value
        elif name in before and seconds > 0:
            rise = value - before[name][1]
            out[name] = (rise if rise >= 0 else value) / seconds
    return {name: value for name, value in out.items() if math.isfinite(value)}


class ScrapeSource:
    """See `Source`. A scrape that fails is counted and gives no row: the volume check sees the silence."""

    def __init__(self, options: ScrapeOptions, model: str, failed: Callable[[], None]) -> None:
        self._options, self._model, self._failed = options, model, failed
        self._partition = Partition(f"scrape {model}", 0)
        self._known = False
        self._before: Samples = {}
        self._at = -math.inf  # monotonic time of the last scrape that worked
        self._due = time.monotonic()
        self._offset = 0
        self._paused = False

    def poll(self, timeout: float) -> Polled:
        if not self._known:
            self._known = True
            return Polled(gained=[self._partition])
        now = time.monotonic()
        if self._paused or now < self._due:
            time.sleep(min(timeout, max(0.0, self._due - now)) if not self._paused else timeout)
            return Polled(lag={self._partition: 0})
        self._due = now + self._options.every
        try:
            found = samples(self._get(), self._options.metrics)
        except (OSError, ValueError, urllib.error.URLError) as error:
            log.warning("the model server's metrics cannot be read: %s", error)
            self._failed()
            return Polled(lag={self._partition: 0})
        values, self._before = row(found, self._before, now - self._at), found
        self._at = now
        if not values:
            return Polled(lag={self._partition: 0})
        at = time.time()
        said = {"id": f"{self._model}@{at:.3f}", "time": at, "model": self._model, "inputs": values}
        self._offset += 1
        record = Record(json.dumps(said).encode(), offset=self._offset - 1, timestamp=int(at * 1000))
        return Polled({self._partition: [record]}, lag={self._partition: 0})

    def _get(self) -> str:
        # the address is http(s): its pattern is checked where it is configured
        request = urllib.request.Request(self._options.url, headers={"accept": "text/plain;version=0.0.4"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=self._options.timeout) as answer:  # noqa: S310
            data: bytes = answer.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        return data.decode("utf-8")

    def seek(self, partition: Partition, offset: int | None) -> None:
        self._offset = offset or 0

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        pass  # a scrape cannot be read again

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def close(self) -> None:
        pass
