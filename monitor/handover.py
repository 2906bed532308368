"""Tasks to labeling tools and labels back: a courier for each tool, at its own pace.

What a reader would get wrong: nothing here is kept over a restart. The queue knows which tasks a tool was given and
which it has; a courier that does not know what the tool has compares the two before it hands anything over, so a crash
between a hand-over and its noting makes no second task.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.base import BaseScheduler

from alerting.deliver import Backoff, Undelivered
from alerting.labeling.back import Back, take_back
from alerting.labeling.formats import Reply, Unfit
from alerting.labeling.moves import tool_owner
from alerting.labeling.queue import LabelQueue, QueueError
from alerting.labeling.task import Asked, LabelingStatus, LabelTask, asked
from alerting.labeling.tools import ToolOptions
from alerting.labeling.tools.tool import Pulled, Tool
from monitor.metrics import Meters

log = logging.getLogger(__name__)

_AT_ONCE = 100  # tasks of one hand-over
_LOOKED = 500  # waiting tasks whose state is read in a round: half a second from a MongoDB that is far
_THREADS = "labeling tools"  # name of the scheduler's threads for them


class Courier:
    """Between the queue and one tool. `round` is called by one thread; `hooked` by any."""

    def __init__(
        self,
        options: ToolOptions,
        tool: Tool,
        queue: LabelQueue,
        *,
        backoff: Backoff,
        meters: Meters,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.every = options.name, options.every
        self._options, self._tool, self._queue = options, tool, queue
        self._backoff, self._meters, self._clock = backoff, meters, clock
        self._rng = random.Random()
        self._compared: float | None = None  # when everything was compared; None: what the tool has is not known
        self._waiting: dict[str, str] = {}  # tasks at the tool without a label, and its own names of them
        self._looked = ""  # of them, the last that was looked at
        self._failures = 0
        self._due = 0.0
        self._lock = threading.Lock()  # of what waits: hooks come by other threads
        self._stopped = False
        meters.tool_success.labels(self.name).set(0)

    def round(self) -> None:
        """Labels back, tasks out. A failure is counted, and waited after; it never raises."""
        now = self._clock()
        if self._stopped or now < self._due:
            return
        try:
            self._pull(now)
            self._withdraw()
            self._push(now)
        except (Undelivered, QueueError) as error:
            self._failures += 1
            self._due = now + self._backoff.wait(self._failures, getattr(error, "after", None), self._rng)
            self._meters.tool_failures.labels(self.name).inc()
            if self._failures == 1:
                log.warning("labeling tool %s: %s", self.name, error)
        else:
            if self._failures:
                log.info("labeling tool %s is well again", self.name)
            self._failures = 0
            self._meters.tool_success.labels(self.name).set(now)

    def hooked(self, headers: Mapping[str, str], body: bytes) -> Back:
        """Takes a call of the tool's webhook. Raises as `Tool.hooked`, and QueueError."""
        return self._take(self._tool.hooked(headers, body), self._clock())

    def stop(self) -> None:
        """From another thread: the round at hand ends with the request at hand."""
        self._stopped = True

    def close(self) -> None:
        """After the last round."""
        self._tool.close()
        self._queue.close()

    def _pull(self, now: float) -> None:
        everything = self._compared is None or now - self._compared >= self._options.reconcile
        for pulled in self._tool.pull(everything=everything):
            if self._stopped:
                return
            if everything and pulled.there:
                self._queue.exported(self.name, pulled.there, now)
            self._take(pulled, now)
        if everything:
            self._note({}, {task for task in self._waiting if not self._awaited(task)})
            self._compared = now

    def _take(self, pulled: Pulled, now: float) -> Back:
        back = take_back(self._queue, self.name, pulled.replies, now)
        replies: dict[str, set[str]] = defaultdict(set)
        for reply in pulled.replies:
            if isinstance(reply, Reply):
                replies[reply.task].add(reply.key)
        if pulled.whole:
            for task in pulled.there:
                self._retract(task, replies[task], now)
        waiting = {task: theirs for task, theirs in pulled.there.items() if not replies[task]}
        self._note(waiting, {task for task, given in replies.items() if given})
        self._count(back)
        return back

    def _note(self, waiting: Mapping[str, str], settled: Collection[str]) -> None:
        with self._lock:
            self._waiting |= waiting
            for task in settled:
                self._waiting.pop(task, None)

    def _awaited(self, task_id: str) -> bool:
        """Whether the task is the tool's still, or to be taken back from it: its time is not over."""
        task = self._queue.get(task_id)
        if task is None or task.labeling_status is LabelingStatus.CANCELLED:
            return task is not None
        return task.lease is not None and task.lease.owner == tool_owner(self.name)

    def _retract(self, task_id: str, given: set[str], now: float) -> None:
        """Labels that the tool gave once and has no more were deleted there."""
        for annotation in self._queue.annotations(task_id, self.name):
            if annotation not in given:
                self._queue.retract_from_tool(task_id, self.name, annotation, now)

    def _withdraw(self) -> None:
        """Takes tasks back from the tool that were cancelled since: what it is left with, nobody needs. Some of those
        that wait, in turn; the comparison finds again what a failure left there."""
        with self._lock:
            waiting = dict(self._waiting)
        some = sorted(waiting)
        at = bisect(some, self._looked)
        looked = (some[at:] + some[:at])[:_LOOKED]
        tasks = [task for task in map(self._queue.get, looked) if task is not None]
        there = {task.id: waiting[task.id] for task in tasks if task.labeling_status is LabelingStatus.CANCELLED}
        if there:
            self._tool.withdraw(there)
            self._note({}, there)
            self._meters.tool_withdrawn.labels(self.name).inc(len(there))
            log.info("labeling tool %s: %d tasks were taken back", self.name, len(there))
        self._looked = looked[-1] if looked else ""

    def _push(self, now: float) -> None:
        options = self._options
        while not self._stopped and (room := min(options.most - len(self._waiting), _AT_ONCE)) > 0:
            tasks = self._queue.export_pending(
                self.name, options.name, room, now, options.lease, dataset=options.dataset
            )
            batches: dict[float, list[LabelTask]] = defaultdict(list)
            for task in tasks:
                batches[now if task.export is None else task.export.at].append(task)
            for at, batch in batches.items():
                self._hand_over(_called(at), [asked(task, prediction=options.prediction) for task in batch], now)
            if len(tasks) < room:
                return

    def _hand_over(self, batch: str, tasks: Sequence[Asked], now: float) -> None:
        """All at once; one by one where the tool refuses some of them."""
        try:
            there = self._tool.push(batch, tasks)
        except (Undelivered, Unfit) as error:
            if isinstance(error, Undelivered) and error.retry:
                self._compared = None  # it may have taken them all the same
                raise
            if len(tasks) > 1:
                for task in tasks:
                    self._hand_over(batch, [task], now)
                return
            self._queue.skip_from_tool(tasks[0].task, self.name, tool_owner(self.name), now, str(error))
            self._meters.tool_refused.labels(self.name).inc()
            return
        self._queue.exported(self.name, there, now)
        self._note(there, ())
        self._meters.tool_tasks.labels(self.name).inc(len(there))

    def _count(self, back: Back) -> None:
        for outcome in ("accepted", "late", "skipped", "unknown", "faults"):
            self._meters.tool_replies.labels(self.name, outcome).inc(getattr(back, outcome))
        if back.shown:
            log.warning("labeling tool %s gave back what is no label: %s", self.name, "; ".join(back.shown))


class HandOver:
    """All couriers, by the names of their tools, each with a thread of its own while it is at work."""

    def __init__(
        self, tools: Sequence[ToolOptions], open_queue: Callable[[], LabelQueue], *, backoff: Backoff, meters: Meters
    ) -> None:
        """Raises OSError, ValueError and QueueError for what cannot be opened."""
        self.couriers = {
            options.name: Courier(options, options.open(), open_queue(), backoff=backoff, meters=meters)
            for options in tools
        }

    def schedule(self, jobs: BaseScheduler) -> None:
        """Each at its pace. A round that takes longer than its tool's pace delays only its own next one."""
        if self.couriers:
            jobs.add_executor(ThreadPoolExecutor(len(self.couriers)), _THREADS)
        for courier in self.couriers.values():
            jobs.add_job(
                courier.round, "interval", seconds=courier.every, executor=_THREADS, next_run_time=datetime.now(UTC),
                id=f"labeling tool {courier.name}",
            )  # fmt: skip

    def stop(self) -> None:
        """Rounds end with the request at hand."""
        for courier in self.couriers.values():
            courier.stop()

    def close(self) -> None:
        """Once no round runs any more."""
        for courier in self.couriers.values():
            courier.close()


def _called(at: float) -> str:
    """A batch by the time at which it was given out.

    >>> _called(0.25)
    '1970-01-01T00-00-00.250'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3]
