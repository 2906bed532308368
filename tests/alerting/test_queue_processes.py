"""The short form of `benchmarks.queue`: processes killed -9 in the middle of anything, and a day with a retrain."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.rules import Purse, QueueRules
from benchmarks import queue as benchmark

ONCE = QueueRules(overlap=0.0, review=0.0, known_share=0.0, recheck=False)


@pytest.mark.parametrize("kind", ["sqlite", "mongo"])
def test_kill_9_of_labelers_and_writer_loses_and_doubles_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options: QueueOptions = SqliteQueue(str(tmp_path / "labels.sqlite"), rules=ONCE)
    if kind == "mongo":
        options = MongoQueue(request.getfixturevalue("mongo").url, database="killed", rules=ONCE)
    found = benchmark.integrity(options, 150, tmp_path, kills=1.5, labelers=4)
    assert found["leases"] >= 150
    assert sum(found["killed"].values()) >= 1
    wrong = ("shared tokens", "double leases", "lost labels", "illegal tasks", "labels never told")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert found["tasks beside those put"] == 0


def test_no_labeler_is_idle_through_a_retrain_while_the_purse_has_room(tmp_path: Path) -> None:
    options = SqliteQueue(str(tmp_path / "labels.sqlite"), rules=QueueRules(purse=Purse(per_day=600)))
    found = benchmark.week(options, seconds=0.55 * benchmark.DAY)  # from nine until past one, without draws from noon
    assert found["labels"] == 600
    assert found["idle s"] == 0
    assert found["stopped by the purse s"] > 0
