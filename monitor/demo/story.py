"""One run of the story: what the daemon noticed, what people did about it, and what became of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from monitor.demo.acts import ACTS, LENGTH, NEW, TAUGHT, starts
from monitor.demo.diary import Diary, Estimate, Labelled, ModelStatus, News, Noticed, Request
from monitor.demo.staff import Deed, Labelers, OnCall, Truths

RECOVERED = 0.05  # of accuracy below the first act's that counts as recovered
SPAN = 300.0  # seconds of event time that one of the daemon's estimates is of, as it is configured here
WINDOW = 10.0  # seconds of a window; the one that ends as a span begins counts as of that span


class Reckoning(NamedTuple):
    """An act in figures. What is true nobody but the story knows."""

    act: int
    worst: float  # share of right answers in the worst five minutes
    truth: float  # in the very stretch that `estimate` is of
    estimate: Estimate | None  # the daemon's, as the act ended
    labels: int  # given by then

    @property
    def held(self) -> bool:
        """Whether the truth lies in the estimate's interval."""
        return self.estimate is not None and self.estimate.low <= self.truth <= self.estimate.high


class Recovery(NamedTuple):
    """The true accuracy on the way down and up again."""

    before: float  # in the first act
    fallen: float  # in the worst five minutes with the new products
    after: float  # in the act of the new version


class _Ending(NamedTuple):
    """What the daemon said when it was last seen in an act."""

    labelled: Labelled
    second: float  # UTC seconds of event time up to which it had judged
    labels: int


class Story:
    """Fed with looks at the daemon; `start` is the event time of the first act, UTC seconds."""

    def __init__(self, start: float, truths: Truths, on_call: OnCall, labelers: Labelers) -> None:
        self.start = start
        self._diary = Diary(start)
        self._truths, self._on_call, self._labelers = truths, on_call, labelers
        self._model = ModelStatus("")
        self._ends: dict[int, _Ending] = {}  # by act

    def read(self, model: ModelStatus, act: int) -> tuple[list[News], list[Deed]]:
        """What a look tells, and what the person on call did upon it."""
        self._model = model
        self._ends[act] = _Ending(model.labelled or Labelled(), model.window_end or self.start, self._labelers.labels)
        return self._diary.read(model), self._on_call.look(model, act)

    def acts(self) -> list[Noticed]:
        """What was noticed, act by act."""
        return self._diary.acts(LENGTH)

    def reckonings(self) -> Iterator[Reckoning]:
        """Each act in figures, as far as it was played."""
        for act, ending in sorted(self._ends.items()):
            worst = self._worst(act)
            if math.isnan(worst):
                continue
            labelled = ending.labelled
            end = ending.second if labelled.end is None else labelled.end
            since, until = end - SPAN - WINDOW, end - WINDOW
            if since < ending.second:  # a span that still goes on is known as far as it was judged
                until = min(until, ending.second)
            truth = self._truths.accuracy(since, until)
            yield Reckoning(act, worst, truth, labelled.tracked, ending.labels)

    @property
    def recovery(self) -> Recovery | None:
        """How the model fell and came back; None unless all of it was played."""
        found = Recovery(self._true(0), self._worst(NEW), self._true(TAUGHT))
        return None if any(map(math.isnan, found)) else found

    def _true(self, act: int) -> float:
        """Share of right answers in an act; NaN where it was not played."""
        begins, ends = self._times(act)
        return self._truths.accuracy(begins, ends)

    def _worst(self, act: int) -> float:
        """The same in the worst of its stretches of `SPAN`."""
        begins, ends = self._times(act)
        found = (
            self._truths.accuracy(begins + i * SPAN, begins + (i + 1) * SPAN)
            for i in range(int((ends - begins) // SPAN))
        )
        return min((share for share in found if not math.isnan(share)), default=math.nan)

    def _times(self, act: int) -> tuple[float, float]:
        """Of event time, UTC seconds, in which an act begins and ends."""
        begins = self.start + list(starts())[act]
        return begins, begins + ACTS[act].seconds

    @property
    def request(self) -> Request | None:
        """The request to retrain that the new version answered, else the last one."""
        requests = self._model.requests
        return next((r for r in requests if r.status == "closed"), requests[0] if requests else None)

    def failures(self) -> list[str]:
        """What should have happened and did not; empty when all is well."""
        found = [f"act {n.act + 1}, {ACTS[n.act].title}: {_lacking(n)}" for n in self.acts() if not n.well]
        if not self._on_call.intended:
            found.append("no verdict 'intended' was taken")
        if not self._labelers.labels:
            found.append("no label was given")
        if self.request is None or self.request.status != "closed":
            found.append("no request to retrain was closed by a new version")
        recovery = self.recovery
        if recovery is None:
            found.append("it was not played to its end")
        elif not recovery.fallen < recovery.before - 2 * RECOVERED:
            found.append("the model did not fail at the new products")
        elif recovery.after < recovery.before - RECOVERED:
            found.append("the new version is not as right as the first one was")
        held = [reckoning.held for reckoning in self.reckonings()]
        if 2 * sum(held) <= len(held):
            found.append("in half of the acts or more the estimate's interval misses the truth")
        return found


def _lacking(noticed: Noticed) -> str:
    missed = [sign.words for sign in noticed.missed]
    wrong = [f"{alert.check} on {alert.column or 'the model'}" for alert in noticed.unexpected]
    return "; ".join(
        [f"not noticed: {', '.join(missed)}"] * bool(missed) + [f"not expected: {', '.join(wrong)}"] * bool(wrong)
    )
