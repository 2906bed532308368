"""What a label costs a MongoDB server: how many commands, and that none of them reads more than it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import monitoring

from alerting.labeling import MongoQueue
from alerting.labeling.queue import SLOW, LabelQueue
from alerting.labeling.task import Sla
from tests.alerting.labels import BATCH, NOW, PLAIN, asked_for, claim, label, task
from tests.services.mongo import Mongo

WAITING = 300  # more than a line has at hand, so that there are shelves


class Heard(monitoring.CommandListener):
    """Commands of all clients of this process, while somebody listens: pymongo never lets go of a listener. `meanwhile`
    is done as the next documents of these collections have been read, one by one."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] | None = None
        self.meanwhile: list[tuple[str, Callable[[], object]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.commands is not None:
            self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        read = event.reply.get("cursor", {}).get("ns", "")
        if self.meanwhile and read.endswith(self.meanwhile[0][0]):
            todo, self.meanwhile = self.meanwhile, []  # what is done now is not interrupted itself
            todo[0][1]()
            self.meanwhile = todo[1:]

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


def test_who_asks_in_vain_changes_nothing(opened: tuple[LabelQueue, LabelQueue]) -> None:
    queue, _ = opened
    queue.export_pending("studio", "7", WAITING, NOW, 9e9)
    assert queue.claim("ann", NOW, 60) is None
    with listening() as heard:
        assert queue.claim("ann", NOW + 1, 60) is None
    assert {next(iter(command)) for command in heard} == {"find"}


def scans(commands: list[dict[str, Any]]) -> int:
    return sum(not found <= {"_id", "rev"} for command in commands for found in terms(command))


def test_all_documents_are_looked_at_only_when_there_may_be_something_to_find(
    opened: tuple[LabelQueue, LabelQueue],
) -> None:
    queue, other = opened
    with listening() as heard:
        queue.tend(NOW)
        assert scans(heard) > 0  # nothing is known of them
        del heard[:]
        queue.tend(NOW + SLOW)
        assert scans(heard) == 0
        label(queue, "ann", "can", NOW + SLOW)
        queue.tend(NOW + 2 * SLOW)
        assert scans(heard) == 2  # how labelers do: by last labels, and by canaries
        del heard[:]
        other.tend(NOW + 3 * SLOW)
        queue.put([asked_for(WAITING, sla=Sla(NOW + 4 * SLOW))], BATCH, NOW + 3 * SLOW)
        other.tend(NOW + 4 * SLOW - 1)
        assert scans(heard) == 0
    assert queue.tend(NOW + 5 * SLOW).breached == 1
    assert other.tend(NOW + PLAIN.open_for).expired == WAITING - 1
    assert queue.tend(NOW + PLAIN.open_for + SLOW).expired == 0
    assert other.tend(NOW + PLAIN.open_for + 3 * SLOW).expired == 1
    assert queue.tend(NOW + PLAIN.keep + SLOW).removed == 1
    assert queue.tend(NOW + PLAIN.keep + PLAIN.open_for + 3 * SLOW).removed == WAITING


def test_leases_that_run_out_together_are_looked_at_together(opened: tuple[LabelQueue, LabelQueue]) -> None:
    queue, _ = opened
    assert len(queue.export_pending("studio", "7", WAITING, NOW, 60)) == WAITING
    with listening() as heard:
        assert claim(queue, "ann", NOW + 61)[0] == task(0).id
    assert len(heard) < 40  # twice 100 or 50 documents there and back, and shelves; not 300 times 4


def test_a_task_that_was_taken_while_it_was_looked_at_stays_taken(opened: tuple[LabelQueue, LabelQueue]) -> None:
    queue, other = opened
    name, _ = claim(queue, "ann")
    given = []
    HEARD.meanwhile = [
        ("label_states", lambda: None),  # datasets
        ("label_states", lambda: other.tend(NOW + 61)),
        ("label_tasks", lambda: given.append(claim(other, "bob", NOW + 61)[0])),
    ]
    assert queue.tend(NOW + 61).over == 0
    assert not HEARD.meanwhile
    assert given == [name]
    assert queue.tend(NOW + 122).over == 1  # bob walked away, and is not forgotten
    assert claim(queue, "cid", NOW + 122)[0] == name


def test_whoever_is_overtaken_looks_again(opened: tuple[LabelQueue, LabelQueue]) -> None:
    alone, other = opened
    given = [claim(alone, "ann")[0] for _ in range(9)]  # by then it knows the desk by heart
    given += [claim(other, "bob")[0] for _ in range(3)]
    given += [claim(alone, "ann")[0] for _ in range(WAITING - 12)]
    assert given == [task(i).id for i in range(WAITING)]
    assert alone.claim("ann", NOW, 60) is None
    other.put([task(WAITING)], BATCH, NOW)
    assert claim(alone, "ann")[0] == task(WAITING).id  # that there was nothing is not believed by heart
