"""The queues that one contract is tried on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.queue import LabelQueue
from alerting.labeling.rules import QueueRules
from tests.alerting.labels import PLAIN

_databases = itertools.count()


@pytest.fixture(params=["sqlite", "mongo"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., LabelQueue]]:
    """Opens one queue as often as asked, as so many processes would; by rules of its own where some are given."""
    options: QueueOptions
    if request.param == "sqlite":
        options = SqliteQueue(str(tmp_path / "deep" / "labels.sqlite"))
    else:
        url = request.getfixturevalue("mongo").url
        options = MongoQueue(url, database=f"queue{next(_databases)}")
    queues: list[LabelQueue] = []

    def open_one(rules: QueueRules = PLAIN) -> LabelQueue:
        queues.append(replace(options, rules=rules).open())
        return queues[-1]

    yield open_one
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(opened: Callable[..., LabelQueue]) -> LabelQueue:
    return opened()
