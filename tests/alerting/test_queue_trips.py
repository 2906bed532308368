"""What a label costs a MongoDB server: how many commands, and that none of them reads more than it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import monitoring

from alerting.labeling import MongoQueue
from alerting.labeling.queue import LabelQueue
from tests.alerting.labels import BATCH, NOW, PLAIN, claim, label, task
from tests.services.mongo import Mongo

WAITING = 300  # more than a line has at hand, so that there are shelves


class Heard(monitoring.CommandListener):
    """Commands of all clients of this process, while somebody listens: pymongo never lets go of a listener."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.commands is not None:
            self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Was started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Was started."""


HEARD = Heard()
monitoring.register(HEARD)


@contextmanager
def listening() -> Iterator[list[dict[str, Any]]]:
    HEARD.commands = []
    try:
        yield HEARD.commands
    finally:
        HEARD.commands = None


@pytest.fixture
def opened(mongo: Mongo, request: pytest.FixtureRequest) -> Iterator[tuple[LabelQueue, LabelQueue]]:
    options = MongoQueue(mongo.url, database=request.node.name, rules=PLAIN)
    queues = options.open(), options.open()
    queues[0].put([task(i) for i in range(WAITING)], BATCH, NOW)
    yield queues
    for queue in queues:
        queue.close()


def terms(command: dict[str, Any]) -> list[set[str]]:
    """The fields that a command looks for."""
    asked = [command["filter"]] if "find" in command else []
    asked += [each["q"] for each in command.get("updates", [])]
    asked += [each["q"] for each in command.get("deletes", [])]
    return [set(each) for each in asked]


def test_a_label_costs_seven_commands_where_one_server_asks_and_nine_where_several_do(
    opened: tuple[LabelQueue, LabelQueue],
) -> None:
    alone, other = opened
    for _ in range(3):  # by then it knows the desk by heart
        label(alone, "ann", "can")
    with listening() as heard:
        name, token = claim(alone, "ann")
        alone.submit(name, token, "can", "ann", NOW)
    names = [next(iter(command)) for command in heard]
    # datasets; desk, task there and back; task there and back, desk
    assert names == ["find", "update", "find", "update", "find", "update", "update"]
    assert all(found in ({"_id"}, {"_id", "rev"}) for command in heard for found in terms(command))
    label(other, "bob", "can")
    label(alone, "ann", "can")
    with listening() as heard:
        for queue, by in ((other, "bob"), (alone, "ann"), (other, "bob"), (alone, "ann")):
            label(queue, by, "can")
    assert len(heard) == 4 * (9 + 1)  # `label` looks at what came of it


def test_whoever_is_overtaken_looks_again(opened: tuple[LabelQueue, LabelQueue]) -> None:
    alone, other = opened
    given = [claim(alone, "ann")[0] for _ in range(9)]  # by then it knows the desk by heart
    given += [claim(other, "bob")[0] for _ in range(3)]
    given += [claim(alone, "ann")[0] for _ in range(WAITING - 12)]
    assert given == [task(i).id for i in range(WAITING)]
    assert alone.claim("ann", NOW, 60) is None
    other.put([task(WAITING)], BATCH, NOW)
    assert claim(alone, "ann")[0] == task(WAITING).id  # that there was nothing is not believed by heart
