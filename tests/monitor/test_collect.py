"""Finished labels reach the judge at least once, whatever fails on the way; and no label twice to its effect."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from alerting.labeling import MongoQueue, SqliteQueue
from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import Labels, ModelRef
from monitor.collect import Collector
from monitor.exchange import Told, from_bytes, to_bytes
from monitor.log import Full
from monitor.metrics import Meters
from tests.alerting.labels import BATCH, NOW, PLAIN, task
from tests.services.process import free_port


class Exchange:
    """Where messages lie, which may be full, or lose its process right after."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.full = self.dies = False

    def tell(self, told: Sequence[Told]) -> None:
        if self.full:
            raise Full("the exchange is full")
        self.told += [one for one in map(from_bytes, map(to_bytes, told)) if isinstance(one, Told)]
        if self.dies:
            raise KeyboardInterrupt

    @property
    def labels(self) -> list[tuple[str, str, object]]:
        found: list[tuple[str, str, object]] = []
        for one in self.told:
            assert isinstance(one.act, Labels)
            found += [(one.model, returned.event, returned.label) for returned in one.act.returned]
        return found


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[LabelQueue]:
    queue = SqliteQueue(path=str(tmp_path / "labels.sqlite"), rules=PLAIN).open()
    yield queue
    queue.close()


def collector(queue: LabelQueue, exchange: Exchange, meters: Meters | None = None, at_once: int = 100) -> Collector:
    return Collector(
        queue, tell=exchange.tell, exchange_name={"shelf": "", "till": "till"}.get, meters=meters or Meters(),
        clock=lambda: NOW, at_once=at_once,
    )  # fmt: skip


def label(queue: LabelQueue, number: int, value: str, updated: str = "1") -> None:
    queue.answer_from_tool(task(number).id, "t", "a", updated, value, "ann", NOW)


def test_finished_labels_are_told_once_by_the_model_they_are_of(queue: LabelQueue) -> None:
    queue.put([task(1), task(2), task(3, model=ModelRef("till")), task(4, model=ModelRef("gone"))], BATCH, NOW)
    exchange, meters = Exchange(), Meters()
    for number in (1, 3, 4):
        label(queue, number, "can")
    for _ in range(3):
        collector(queue, exchange, meters).round()
    assert sorted(exchange.labels) == [("", "event 1", "can"), ("till", "event 3", "can")]
    assert meters.value("driftd_collected_labels_total") == 2
    assert meters.value("driftd_unwanted_labels_total") == 1
    label(queue, 2, "jar")
    collector(queue, exchange).round()
    assert exchange.labels[2:] == [("", "event 2", "jar")]


def test_a_label_that_was_set_right_is_told_again(queue: LabelQueue) -> None:
    queue.put([task(1)], BATCH, NOW)
    exchange = Exchange()
    for value, updated in (("can", "1"), ("jar", "2"), ("can", "1")):
        label(queue, 1, value, updated)
        collector(queue, exchange).round()
    assert [value for *_, value in exchange.labels] == ["can", "jar"]
    first, second = (told.act.returned[0] for told in exchange.told if isinstance(told.act, Labels))
    assert second.rev > first.rev


def test_dying_between_telling_and_acknowledging_tells_again_under_the_same_id(queue: LabelQueue) -> None:
    queue.put([task(1), task(2)], BATCH, NOW)
    label(queue, 1, "can")
    exchange = Exchange()
    exchange.dies = True
    with pytest.raises(KeyboardInterrupt):
        collector(queue, exchange).round()
    exchange.dies = False
    collector(queue, exchange).round()
    collector(queue, exchange).round()
    assert len(exchange.told) == 2
    assert exchange.told[0] == exchange.told[1]


def test_what_finds_no_room_waits_and_is_told_of_once(queue: LabelQueue, caplog: pytest.LogCaptureFixture) -> None:
    queue.put([task(1)], BATCH, NOW)
    label(queue, 1, "can")
    exchange, meters = Exchange(), Meters()
    exchange.full = True
    collecting = collector(queue, exchange, meters)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            collecting.round()
        assert meters.value("driftd_label_collect_failures_total") == 3
        exchange.full = False
        collecting.round()
    assert [(record.levelname, "exchange is full" in record.message) for record in caplog.records] == [
        ("WARNING", True), ("INFO", False),
    ]  # fmt: skip
    assert exchange.labels == [("", "event 1", "can")]


def test_a_dead_queue_ends_nothing() -> None:
    queue = MongoQueue(url=f"mongodb://127.0.0.1:{free_port()}", timeout=0.1).open()
    meters = Meters()
    collector(queue, Exchange(), meters).round()
    assert meters.value("driftd_label_collect_failures_total") == 1
    queue.close()


def test_more_than_a_message_holds_goes_in_several(queue: LabelQueue) -> None:
    queue.put([task(n) for n in range(20)], BATCH, NOW)
    for n in range(20):
        label(queue, n, "can")
    exchange = Exchange()
    collector(queue, exchange, at_once=8).round()
    sizes = [len(told.act.returned) for told in exchange.told if isinstance(told.act, Labels)]
    assert sizes == [8, 8, 4]
    assert len({event for _, event, _ in exchange.labels}) == 20
