"""What people and tools may do about labels and retraining, over one handle of the label queue."""

from __future__ import annotations

import time
from collections.abc import Sequence

from apscheduler.schedulers.background import BackgroundScheduler

from alerting.labeling import QueueOptions
from alerting.labeling.queue import Progress
from monitor.api.brought import Labels
from monitor.api.daemon import Daemon
from monitor.api.endpoint import Endpoint
from monitor.api.explain import Explain
from monitor.api.hooks import Hooks
from monitor.api.labels import Labeling
from monitor.api.pool import Pool
from monitor.api.retraining import Retraining
from monitor.collect import EVERY, Collector
from monitor.handover import HandOver
from monitor.metrics import Meters


class Acts:
    """The queue's side of the HTTP API, and the job that brings finished labels to the judge.

    `intake`: whether an HTTP source reads what the daemon takes in. Raises QueueError when the queue cannot be opened.
    """

    def __init__(
        self, options: QueueOptions, daemon: Daemon, handover: HandOver, meters: Meters, *, intake: bool
    ) -> None:
        self._queue, self._pool, self._handover = options.open(), Pool(), handover
        self._explaining = Pool("explain", threads=1, waiting=8)  # numbers that take a second or two the first time
        self._daemon, self._intake = daemon, intake
        self._collector = Collector(
            self._queue, tell=daemon.tell, exchange_name=daemon.exchange_name, meters=meters, clock=time.time
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
        queue, pool, daemon = self._queue, self._pool, self._daemon
        return [
            *Labeling(queue, pool, time.time).endpoints(),
            *Labels(queue, pool, daemon, time.time, intake=self._intake).endpoints(),
            *Retraining(queue, pool, daemon, time.time).endpoints(),
            *Hooks(self._handover, pool).endpoints(),
            *Explain(queue, self._explaining, daemon).endpoints(),
        ]

    @property
    def progress(self) -> Sequence[Progress]:
        """Of each dataset, as it was up to a minute ago. Any thread may ask."""
        return self._collector.progress

    def schedule(self, jobs: BackgroundScheduler) -> None:
        """Collects as long as the jobs run."""
        jobs.add_job(self._collector.round, "interval", seconds=EVERY, id="collect")

    def close(self) -> None:
        """After the server and the jobs have stopped."""
        self._explaining.close()
        self._pool.close()
        self._queue.close()
