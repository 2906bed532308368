"""Finding the record that kills the process, with processes that are really killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from monitor.event import Partition
from monitor.journal import Journal, deadly, kills

PARTITION = Partition("t", 3)


def die_at_work(path: Path, first: int, last: int) -> None:
    """A process that is killed while it works on these records."""
    child = os.fork()
    if child == 0:
        Journal(path).begin(PARTITION, first, last)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_records_are_suspect_on_the_third_start_after_two_died_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    die_at_work(path, 100, 199)
    assert not Journal(path).suspects(PARTITION, 150)
    die_at_work(path, 120, 170)  # polls are cut otherwise after a restart
    third = Journal(path)
    assert third.suspects(PARTITION, 150)
    assert third.suspects(PARTITION, 50), "read before, it may have waited in an open window"
    assert not third.suspects(PARTITION, 171)
    assert not third.suspects(Partition("t", 4), 150)


def test_deaths_at_different_places_suspect_nobody(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    die_at_work(path, 0, 9)
    die_at_work(path, 10, 19)
    assert not Journal(path).suspects(PARTITION, 0)


def test_a_death_between_records_leaves_no_suspicion(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for _ in range(3):
        journal = Journal(path)
        journal.begin(PARTITION, 5, 6)
        journal.end()
        journal.close()
    assert not Journal(path).suspects(PARTITION, 5)


def test_a_suspect_is_forgotten_when_a_checkpoint_lies_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for _ in range(2):
        die_at_work(path, 5, 6)
    journal = Journal(path)
    assert journal.suspects(PARTITION, 5)
    journal.passed(PARTITION, 7)
    assert not journal.suspects(PARTITION, 5)
    journal.close()
    assert not Journal(path).suspects(PARTITION, 5)


def test_a_torn_note_is_no_note(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"\x99garbage")
    assert not Journal(path).suspects(PARTITION, 0)


def test_only_what_ends_the_process_kills() -> None:
    assert kills(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert not kills(lambda: None)
    assert not kills(lambda: 1 / 0)


def test_those_that_kill_are_found_among_many() -> None:
    def work(items: Sequence[int]) -> None:
        if {3, 700} & set(items):
            os.kill(os.getpid(), signal.SIGKILL)

    assert deadly(range(1000), work) == [3, 700]
    assert deadly(range(4, 700), work) == []
