"""Finished labels from the queue to the judge, through the exchange; and the queue's own housekeeping.

What a reader would get wrong: a label goes to the judge at least once. It is acknowledged to the queue only when it
lies on the exchange; if the process dies between the two it is told again, and the judge knows it by task and revision.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence

import msgspec

from alerting.labeling.queue import LabelQueue, Progress, QueueError
from alerting.labeling.task import LabelingStatus, Labels, Returned
from monitor.exchange import Told
from monitor.log import Full
from monitor.metrics import Meters

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between rounds
LOOK = 60.0  # seconds between looks at how labeling goes on, which read the last 10,000 labels of each dataset
AT_ONCE = 500  # labels of a message: 200 KB, so that many that come at once do not stop the judge for long


class Collector:
    """`round` is called by one thread every few seconds. `exchange_name` gives what the exchange calls a model, None
    for one that is not configured any more; `clock` UTC seconds."""

    def __init__(
        self,
        queue: LabelQueue,
        *,
        tell: Callable[[Sequence[Told]], None],
        exchange_name: Callable[[str], str | None],
        meters: Meters,
        clock: Callable[[], float],
        at_once: int = AT_ONCE,
    ) -> None:
        self._queue, self._tell, self._exchange_name = queue, tell, exchange_name
        self._meters, self._clock, self._at_once = meters, clock, at_once
        self._well = True
        self._looked = -math.inf
        self.progress: tuple[Progress, ...] = ()  # of each dataset, as last looked at; any thread may read it

    def round(self) -> None:
        """Hands over all that is finished, then lets the queue do what time does. A queue that is away, or an exchange
        that is full, is counted and told of once; the next round goes on where this one stopped."""
        try:
            while self._hand_over():
                pass
            now = self._clock()
            self._queue.tend(now)
            if now - self._looked >= LOOK:
                self._look(now)
        except (QueueError, Full) as error:
            self._meters.collect_failures.inc()
            if self._well:
                log.warning("finished labels wait: %s", error)
            self._well = False
        else:
            if not self._well:
                log.info("finished labels are taken over again")
            self._well = True

    def _look(self, now: float) -> None:
        self._looked = now
        self.progress = tuple(self._queue.progress(dataset, now) for dataset in self._queue.datasets())
        for one in self.progress:
            for status in LabelingStatus:
                self._meters.label_tasks.labels(one.dataset, status.value).set(one.counts.get(status.value, 0))
            if one.alpha is not None:
                self._meters.label_agreement.labels(one.dataset).set(one.alpha)

    def _hand_over(self) -> bool:
        """One message for each model; whether there may be more."""
        returned = self._queue.finals(self._at_once)
        by_model: dict[str, list[Returned]] = {}
        for one in returned:
            by_model.setdefault(one.model, []).append(one)
        for model, labels in by_model.items():
            name = self._exchange_name(model)
            if name is None:
                self._meters.unwanted_labels.inc(len(labels))
            else:
                self._tell([Told(_id(labels), name, Labels(tuple(labels)))])
                self._meters.collected_labels.labels(model).inc(len(labels))
            self._queue.acknowledge(labels)
        return len(returned) == self._at_once


def _id(labels: Sequence[Returned]) -> str:
    """Of what is said, so the same labels told again are known."""
    return hashlib.sha256(msgspec.json.encode([(label.task, label.rev) for label in labels])).hexdigest()[:32]
