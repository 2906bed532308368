"""One run of the story: what the daemon noticed, what people did about it, and what became of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from monitor.demo.acts import ACTS, LENGTH, NEW, TAUGHT, starts
from monitor.demo.diary import Diary, Estimate, ModelStatus, News, Noticed, Request
from monitor.demo.staff import Deed, Labelers, OnCall, Truths

RECOVERED = 0.05  # of accuracy below the first act's that counts as recovered


class Reckoning(NamedTuple):
    """An act in figures."""

    act: int
    truth: float  # share of right answers, which nobody but the story knows
    estimate: Estimate | None  # the daemon's at the end of the act
    labels: int  # given by then

    @property
    def held(self) -> bool:
        """Whether the truth lies in the estimate's interval."""
        return self.estimate is not None and self.estimate.low <= self.truth <= self.estimate.high


class Story:
    """Fed with looks at the daemon; `start` is the event time of the first act, UTC seconds."""

    def __init__(self, start: float, truths: Truths, on_call: OnCall, labelers: Labelers) -> None:
        self.start = start
        self._diary = Diary(start)
        self._truths, self._on_call, self._labelers = truths, on_call, labelers
        self._model = ModelStatus("")
        self._ends: dict[int, tuple[Estimate | None, int]] = {}  # by act: as it stood when last seen in the act

    def read(self, model: ModelStatus, act: int) -> tuple[list[News], list[Deed]]:
        """What a look tells, and what the person on call did upon it."""
        self._model = model
        self._ends[act] = (model.accuracy, self._labelers.labels)
        return self._diary.read(model), self._on_call.look(model, act)

    def acts(self) -> list[Noticed]:
        """What was noticed, act by act."""
        return self._diary.acts(LENGTH)

    def reckonings(self) -> Iterator[Reckoning]:
        """Each act in figures, as far as it was played."""
        for act, begins in enumerate(starts()):
            since = self.start + begins
            truth = self._truths.accuracy(since, since + ACTS[act].seconds)
            if not math.isnan(truth) and act in self._ends:
                yield Reckoning(act, truth, *self._ends[act])

    @property
    def request(self) -> Request | None:
        """The request to retrain that the new version answered, else the last one."""
        requests = self._model.requests
        return next((r for r in requests if r.status == "closed"), requests[0] if requests else None)

    def failures(self) -> list[str]:
        """What should have happened and did not; empty when all is well."""
        by_act = {reckoning.act: reckoning for reckoning in self.reckonings()}
        found = [f"act {n.act + 1}, {ACTS[n.act].title}: {_lacking(n)}" for n in self.acts() if not n.well]
        if not self._on_call.intended:
            found.append("no verdict 'intended' was taken")
        if not self._labelers.labels:
            found.append("no label was given")
        if self.request is None or self.request.status != "closed":
            found.append("no request to retrain was closed by a new version")
        first, new, taught = (by_act.get(act) for act in (0, NEW, TAUGHT))
        if first is None or new is None or taught is None:
            found.append("it was not played to its end")
        elif not new.truth < first.truth - 2 * RECOVERED:
            found.append("the model did not fail at the new products")
        elif taught.truth < first.truth - RECOVERED:
            found.append("the new version is not as right as the first one was")
        held = [reckoning.held for reckoning in by_act.values()]
        if 2 * sum(held) <= len(held):
            found.append("in half of the acts or more the estimate's interval misses the truth")
        return found


def _lacking(noticed: Noticed) -> str:
    missed = [sign.words for sign in noticed.missed]
    wrong = [f"{alert.check} on {alert.column or 'the model'}" for alert in noticed.unexpected]
    return "; ".join(
        [f"not noticed: {', '.join(missed)}"] * bool(missed) + [f"not expected: {', '.join(wrong)}"] * bool(wrong)
    )
