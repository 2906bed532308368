"""What is told of a run: an episode of drift, a campaign of labeling, a request to retrain, two versions compared.

A run is told in several reports, in order: each brings the numbers that are new, and says how the run stands by now.
What a reader would get wrong: the run's id is made of causes and is ours. A tracking server gives runs ids of its own;
it is asked for the run that carries ours, so a report that comes again adds nothing.
"""

from __future__ import annotations

import hashlib
import math
from enum import StrEnum
from typing import NamedTuple

import msgspec

from alerting.outbox import Item


class Kind(StrEnum):
    """What a run is of."""

    EPISODE = "episode"  # an alert, from opened to resolved
    CAMPAIGN = "campaign"  # labels asked for because of what moved
    RETRAINING = "retraining"  # a request, from made to closed
    COMPARISON = "comparison"  # two live versions


class Point(NamedTuple):
    """A number at a time. Never NaN or infinite: some stores break on them."""

    name: str
    value: float
    at: float  # event time, UTC seconds
    step: int  # seconds of event time since the run's start


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands, and its numbers since the report before."""

    run: str  # id, see `run_id`
    kind: Kind
    model: str
    name: str  # for people
    started: float  # event time, UTC seconds
    at: float  # of this report
    ended: bool = False  # it may go on all the same, where an alert comes back
    failed: bool = False  # it ended without what it was for
    note: str = ""  # in words
    params: dict[str, str] = {}  # what was given when it began: the same in each report
    tags: dict[str, str] = {}  # what may change
    points: tuple[Point, ...] = ()
    files: dict[str, str] = {}  # by path; one of the same path replaces what was there

    def item(self, destination: str, created: float) -> Item:
        """For the outbox; the reports of a run reach their destination in order."""
        payload = msgspec.msgpack.encode(self)
        # at one event time it may be told twice, as a person's word does not move time
        name = f"{self.run}.{hashlib.sha256(payload).hexdigest()[:12]}"
        return Item(name, destination, payload, created, about=self.run)


def report_in(item: Item) -> Report:
    """The report that `Report.item` packed."""
    return msgspec.msgpack.decode(item.payload, type=Report)


def run_id(kind: Kind, *causes: str) -> str:
    """Made of what the run is of, so that it is the same run after a crash and in another report.

    >>> run_id(Kind.CAMPAIGN, "shelf", "600.0") == run_id(Kind.CAMPAIGN, "shelf", "600.0")
    True
    """
    told = "|".join(f"{len(cause)}:{cause}" for cause in (kind.value, *causes))
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def finite(numbers: dict[str, float | None]) -> dict[str, float]:
    """Those that may be told.

    >>> finite({"accuracy": 0.9, "gap": float("nan"), "kappa": None})
    {'accuracy': 0.9}
    """
    return {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}
