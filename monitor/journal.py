"""Finds the record that kills the process.

Before records are worked on their place is noted, and struck out after. A start that finds a note not struck out knows
where the last one died; when two starts in a row died in the same place, the third tries each record there in a child
process first, and what kills the child is set aside. A process killed from outside leaves the same note, which is why
suspicion alone never costs a record: only a child's death does.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from monitor.event import Partition

log = logging.getLogger(__name__)

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
                    "%d starts died at %s/%d, offsets %d to %d: their records are tried one by one in a child process",
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

    def suspects(self, partition: Partition, first: int, last: int) -> bool:
        """Whether records of these offsets are to be tried in a child first."""
        held = self._suspect
        return held is not None and held.strikes >= STRIKES and held.overlaps(partition, first, last)

    def _write(self, note: _Note) -> None:
        if not note.at_work and self._suspect is note:
            note = msgspec.structs.replace(note, at_work=False)
        data = msgspec.msgpack.encode(note)
        os.pwrite(self._file, len(data).to_bytes(2, "big") + data, 0)

    def close(self) -> None:
        os.close(self._file)


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
