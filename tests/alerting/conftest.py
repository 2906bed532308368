"""The queues that one contract is tried on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.queue import LabelQueue
from alerting.labeling.rules import QueueRules
from tests.alerting.labels import PLAIN

_databases = itertools.count()


@pytest.fixture(params=["sqlite", "mongo"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., LabelQueue]]:
    """Opens one queue as often as asked, as so many processes would; by rules of its own where some are given, and from
    then on an empty one where a `fresh` one is asked for."""
    queues: list[LabelQueue] = []
    names = [f"queue{next(_databases)}"]

    def options(rules: QueueRules) -> QueueOptions:
        if request.param == "sqlite":
            return SqliteQueue(str(tmp_path / "deep" / f"{names[-1]}.sqlite"), rules=rules)
        return MongoQueue(request.getfixturevalue("mongo").url, database=names[-1], rules=rules)

    def open_one(rules: QueueRules = PLAIN, *, fresh: bool = False) -> LabelQueue:
        if fresh:
            names.append(f"queue{next(_databases)}")
        queues.append(options(rules).open())
        return queues[-1]

    yield open_one
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(opened: Callable[..., LabelQueue]) -> LabelQueue:
    return opened()
