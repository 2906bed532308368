"""Finds the record that kills the process.

Before records are worked on their place is noted, and struck out after. A start that finds a note not struck out knows
where the last one died; when two starts in a row died in the same place, the third tries in a child process first what
it reads up to there, and what kills the child is set aside. Up to there, since a record in an open window may kill long
after it was read, when records behind it close the window. A process killed from outside leaves the same note, which is
why suspicion alone never costs a record: only a child's death does.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from monitor.event import Partition

log = logging.getLogger(__name__)

T = TypeVar("T")

STRIKES = 2  # starts that died in one place before its records are tried one by one
PATIENCE = 10.0  # seconds a child may take; one that hangs does not kill, and passes


class _Note(msgspec.Struct):
    topic: str
    number: int
    first: int
    last: int
    at_work: bool
    strikes: int = 0

    def overlaps(self, partition: Partition, first: int, last: int) -> bool:
        return (self.topic, self.number) == partition and self.first <= last and first <= self.last


class Journal:
    """One file, rewritten in place: 2 us a note. One thread uses it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._suspect: _Note | None = None
        data = os.read(self._file, 4096)
        try:
            note = msgspec.msgpack.decode(data[2 : 2 + int.from_bytes(data[:2], "big")], type=_Note) if data else None
        except msgspec.MsgspecError:
            note = None  # died while writing the note: no record was at work yet
        if note is not None and (note.at_work or note.strikes):
            if note.at_work:
                note.strikes += 1
            self._suspect = note
            if note.strikes >= STRIKES:
                log.warning(
                    "%d starts died at %s/%d, offsets %d to %d: what is read up to there is tried in a child process",
                    note.strikes, note.topic, note.number, note.first, note.last,
                )  # fmt: skip

    def begin(self, partition: Partition, first: int, last: int) -> None:
        """These records are being worked on."""
        held = self._suspect
        strikes = held.strikes if held is not None and held.overlaps(partition, first, last) else 0
        self._write(_Note(partition.topic, partition.number, first, last, True, strikes))

    def end(self) -> None:
        """They are done, or were never to blame."""
        held = self._suspect
        self._write(held if held is not None else _Note("", 0, 0, -1, False))

    def passed(self, partition: Partition, offset: int) -> None:
        """A checkpoint reaches up to `offset`: a suspect before it is behind us."""
        held = self._suspect
        if held is not None and (held.topic, held.number) == partition and offset > held.last:
            self._suspect = None
            self.end()

    def suspects(self, partition: Partition, first: int) -> bool:
        """Whether records from this offset on are to be tried in a child first."""
        held = self._suspect
        if held is None or held.strikes < STRIKES:
            return False
        return (held.topic, held.number) == partition and first <= held.last

    def _write(self, note: _Note) -> None:
        if not note.at_work and self._suspect is note:
            note = msgspec.structs.replace(note, at_work=False)
        data = msgspec.msgpack.encode(note)
        os.pwrite(self._file, len(data).to_bytes(2, "big") + data, 0)

    def close(self) -> None:
        os.close(self._file)


def deadly(items: Sequence[T], work: Callable[[Sequence[T]], object]) -> list[T]:
    """Those that end the process when worked on, found by halving: as a rule one child says that all are well.

    Blind to items that kill only together.
    """
    if not items or not kills(lambda: work(items)):
        return []
    if len(items) == 1:
        return list(items)
    half = len(items) // 2
    return deadly(items[:half], work) + deadly(items[half:], work)


def kills(work: Callable[[], object]) -> bool:
    """Whether doing this ends the process: it is done in a child. An exception does not; a hang does not."""
    child = os.fork()
    if child == 0:  # pragma: no cover - runs in the child, which reports by its exit alone
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            work()
        finally:
            os._exit(0)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
