"""The short form of `benchmarks.queue`: processes killed -9 in the middle of anything, and a day with a retrain."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerting.labeling import MongoQueue, QueueOptions, SqliteQueue
from alerting.labeling.rules import Purse, QueueRules
from benchmarks import queue as benchmark


@pytest.mark.parametrize(("kind", "rules"), [("sqlite", "simple"), ("sqlite", "full"), ("mongo", "simple")])
def test_kill_9_of_labelers_and_writer_loses_and_doubles_nothing(
    kind: str, rules: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    asked = benchmark.RULES[rules]
    options: QueueOptions = SqliteQueue(str(tmp_path / "labels.sqlite"), rules=asked)
    if kind == "mongo":
        options = MongoQueue(request.getfixturevalue("mongo").url, database="killed", rules=asked)
    leases = {"simple": 150, "full": 600}[rules]  # of 250 tasks, so that the reserve and rechecks have their turn
    found = benchmark.integrity(options, leases, tmp_path, kills=1.5, labelers=4)
    assert found["leases"] >= leases
    assert sum(found["killed"].values()) >= 1
    wrong = found.keys() - {"leases", "seconds", "killed", "reviews", "labels", "census"}
    assert len(wrong) == 11
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert (found["reviews"] > 0) == (rules == "full")


def test_no_labeler_is_idle_through_a_retrain_while_the_purse_has_room(tmp_path: Path) -> None:
    options = SqliteQueue(str(tmp_path / "labels.sqlite"), rules=QueueRules(purse=Purse(per_day=600)))
    found = benchmark.week(options, seconds=0.55 * benchmark.DAY)  # from nine until past one, without draws from noon
    assert found["labels"] == 600
    assert found["idle s"] == 0
    assert found["stopped by the purse s"] > 0
