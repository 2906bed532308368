"""Runs that requests to retrain started, followed at their targets until they end.

What a reader would get wrong: nothing is started here, and nothing is kept over a restart. What a target says of a run
becomes a word on the request, laid on the exchange as a trainer's own word is, so the judge comes to the same after a
crash and a replay repeats it. Where several targets run one request, it has failed only when all of its runs have.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable
from uuid import uuid4

from apscheduler.schedulers.base import BaseScheduler

from alerting.deliver import Backoff, Undelivered
from alerting.retraining import Request, Status, Step, Word
from alerting.targets.run import Find, Run, State
from monitor.log import Full
from monitor.metrics import Meters

log = logging.getLogger(__name__)

ROUND = 5.0  # seconds between looks at what is due
_AT_ONCE = 20  # runs asked for of one target in a round; of more, those that were not asked for longest
_ORDER = (State.DONE, State.RUNNING, State.QUEUED, State.FAILED)  # of several runs the first tells how it stands
_STEPS = {State.DONE: Step.FINISHED, State.RUNNING: Step.STARTED, State.FAILED: Step.FAILED}
# what a run may say of a request that stands so; one that failed is followed on, as a target may run it again
_SAYS = {
    Status.SENT: frozenset(_STEPS.values()),
    Status.STARTED: frozenset({Step.FINISHED, Step.FAILED}),
    Status.FAILED: frozenset({Step.FINISHED, Step.STARTED}),
}


@runtime_checkable
class Followed(Protocol):
    """A configured target that tells of its runs. The function that `runs` gives is used by one thread."""

    @property
    def name(self) -> str: ...
    @property
    def follow(self) -> float: ...  # seconds between two looks at a run; 0: it is not looked at
    def runs(self) -> Find: ...


class _Target:
    """One target: when which run is due, and what is waited for after a failure."""

    def __init__(self, options: Followed) -> None:
        self.name, self.every, self.find = options.name, options.follow, options.runs()
        self.asked: dict[str, float] = {}  # by request
        self.runs: dict[str, Run] = {}  # likewise, as last seen
        self.failures = 0
        self.blocked = 0.0

    def due(self, requests: Iterable[Request], now: float) -> list[Request]:
        """Those to ask for now, the longest unasked first."""
        if now < self.blocked:
            return []
        since = {request.id: self.asked.get(request.id, -self.every) for request in requests}
        waiting = [request for request in requests if now - since[request.id] >= self.every]
        return sorted(waiting, key=lambda request: since[request.id])[:_AT_ONCE]

    def forget_all_but(self, requests: Iterable[Request]) -> None:
        known = {request.id for request in requests}
        self.asked = {name: at for name, at in self.asked.items() if name in known}
        self.runs = {name: run for name, run in self.runs.items() if name in known}


class Runs:
    """The followed targets. `requests` gives those of all models, the newest of each first; `tell` takes a word to the
    judge and raises `Full` while there is no room. ValueError or OSError where a target cannot be opened.
    """

    def __init__(
        self,
        targets: Iterable[object],
        requests: Callable[[], Sequence[Request]],
        tell: Callable[[str, str, Word], None],
        *,
        backoff: Backoff,
        meters: Meters,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._targets = [_Target(one) for one in targets if isinstance(one, Followed) and one.follow]
        self._requests, self._tell = requests, tell
        self._backoff, self._meters, self._clock = backoff, meters, clock
        self._rng = random.Random()
        self._said: dict[str, Step] = {}  # by request, the last word
        self._failed: set[str] = set()  # requests whose run was seen to have failed

    def schedule(self, jobs: BaseScheduler) -> None:
        """Looks as long as the jobs run."""
        if self._targets:
            jobs.add_job(self.round, "interval", seconds=ROUND, id="runs")

    def round(self) -> None:
        """Asks for what is due and says what is new. A failure is counted, and waited after; it never raises."""
        followed = list(_newest(self._requests()))
        for target in self._targets:
            target.forget_all_but(followed)
            self._ask(target, followed)
            states = Counter(run.state for run in target.runs.values())
            for state in State:
                self._meters.runs.labels(target.name, state.value).set(states[state])
        known = {request.id for request in followed}
        self._failed &= known
        self._said = {name: step for name, step in self._said.items() if name in known}
        for request in followed:
            self._say(request)

    def _ask(self, target: _Target, followed: Sequence[Request]) -> None:
        now = self._clock()
        for request in target.due(followed, now):
            try:
                found = target.find(request)
            except Undelivered as error:
                target.failures += 1
                target.blocked = now + self._backoff.wait(target.failures, error.after, self._rng)
                self._meters.run_failures.labels(target.name).inc()
                if target.failures == 1:
                    log.warning("target %s does not tell of its runs: %s", target.name, error)
                return
            target.failures, target.asked[request.id] = 0, now
            if found is not None:
                target.runs[request.id] = found

    def _say(self, request: Request) -> None:
        runs = {target.name: target.runs[request.id] for target in self._targets if request.id in target.runs}
        if not runs:
            return
        by, run = min(runs.items(), key=lambda pair: _ORDER.index(pair[1].state))
        step = _STEPS.get(run.state)
        if step is Step.FAILED:
            self._failed.add(request.id)
        if step is None or step not in _SAYS[request.status] or self._said.get(request.id) is step:
            return
        if request.status is Status.FAILED and request.id not in self._failed:
            return  # somebody else says that it failed, and knows better than a run that goes on
        word = Word(request=request.id, step=step, by=by, at=self._clock(), why=run.why, run=f"{by}: {run.name}")
        try:
            self._tell(uuid4().hex, request.model, word)
        except Full:
            return  # said again in the next round
        self._said[request.id] = step


def _newest(requests: Iterable[Request]) -> Iterator[Request]:
    """Of each model the newest request, where a run of it may be told of."""
    models: dict[str, Request] = {}
    for request in requests:
        models.setdefault(request.model, request)
    return (request for request in models.values() if request.status in _SAYS)
