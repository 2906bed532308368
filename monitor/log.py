"""Append-only logs with offsets: the exchange between the stages, the HTTP intake, the dead letters.

An offset counts items, not bytes, and never comes back for another item, save for what a power cut took. What
`append` returned for is there after a kill -9; after a power cut only what `sync` (or `Fsync.ALWAYS`) covered is, so a
reader whose checkpoint lies behind `end` goes on from `end`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from crc32c import crc32c

_HEAD = struct.Struct("<II")  # length and checksum, then the item
_SEED = 0x64726966  # start value of the checksum: eight zero bytes, the usual torn tail, are no valid empty item
_SUFFIX = ".log"
_STRIDE = 64 * 1024  # a read skips at most this much to find its offset; 16,000 marks for a log of 1 GiB
_FSYNC_EVERY = 1.0  # seconds

Item = tuple[int, bytes]  # offset, content


class Full(Exception):
    """The log is at its `max_bytes`, or the disk is full; nothing of the call was written. Take nothing more until the
    reader has trimmed."""


class InUse(Exception):
    """Another process writes this log. Stop it, or choose another directory."""


class Fsync(StrEnum):
    """When the disk is made to keep what was appended. A killed process loses nothing with any of them."""

    NEVER = "never"
    INTERVAL = "interval"  # by the first append after a second
    ALWAYS = "always"  # before `append` returns: 1 to 10 ms each


class Log(Protocol):
    """Calls may come from any thread."""

    @property
    def start(self) -> int:
        """Offset of the oldest item kept."""

    @property
    def end(self) -> int:
        """Offset that the next item gets."""

    @property
    def size(self) -> int:
        """Bytes held, framing included."""

    def append(self, items: Sequence[bytes]) -> int:
        """Adds all items or none and returns the offset of the first. Raises `Full`; `ValueError` for items that
        together are more than the log could ever hold."""

    def read(self, offset: int, *, max_bytes: int = 1 << 20, max_items: int = 10_000) -> list[Item]:
        """Items from `offset` on, or from `start` where that is later; at least one if there is any, however large."""

    def wait(self, offset: int, timeout: float) -> bool:
        """Waits until there is an item at or after `offset`; False when the seconds have passed or the log closed."""

    def trim(self, offset: int) -> None:
        """Items before `offset` are no longer needed. May keep some of them."""

    def sync(self) -> None:
        """Returns when everything appended survives a power cut."""

    def close(self) -> None: ...


class MemoryLog:
    """A log that ends with the process: for replay."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self._max_bytes = max_bytes
        self._items: list[bytes] = []
        self._changed = threading.Condition()
        self._closed = False
        self.start = 0
        self.size = 0

    @property
    def end(self) -> int:
        return self.start + len(self._items)

    def append(self, items: Sequence[bytes]) -> int:
        added = _framed_size(items)
        _refuse_giant(added, self._max_bytes)
        with self._changed:
            if self.size + added > self._max_bytes:
                raise Full(f"{self.size} of {self._max_bytes} bytes are in use")
            first = self.end
            self._items.extend(items)
            self.size += added
            self._changed.notify_all()
        return first

    def read(self, offset: int, *, max_bytes: int = 1 << 20, max_items: int = 10_000) -> list[Item]:
        with self._changed:
            first = max(offset, self.start)
            found: list[Item] = []
            for item in self._items[first - self.start : first - self.start + max_items]:
                max_bytes -= len(item)
                if found and max_bytes < 0:
                    break
                found.append((first + len(found), item))
            return found

    def wait(self, offset: int, timeout: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self.end > offset or self._closed, timeout)
            return self.end > offset

    def trim(self, offset: int) -> None:
        with self._changed:
            dropped = self._items[: max(0, offset - self.start)]
            del self._items[: len(dropped)]
            self.start += len(dropped)
            self.size -= _framed_size(dropped)

    def sync(self) -> None:
        pass  # nothing of it is meant to survive

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class DiskLog:
    """A log in a directory of its own, in segments named after their first offset.

    Opening reads only the newest segment; an item torn there by a crash is cut off and counted in `torn_bytes`. An item
    damaged later ends its segment for readers: they go on with the next segment, the gap in the offsets shows what is
    lost, and `damaged` counts it.

    Trimming drops whole segments, so up to `segment_bytes` more than needed stay.
    """

    def __init__(
        self,
        path: Path,
        *,
        segment_bytes: int = 16 << 20,
        max_bytes: int = 1 << 30,
        fsync: Fsync = Fsync.INTERVAL,
    ) -> None:
        """Raises `InUse`, or `OSError` where the directory cannot be made or written."""
        self._path = path
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._changed = threading.Condition()
        self._closed = False
        self._unneeded = 0  # everything before it may go
        self._unsynced = False
        self._synced_at = time.monotonic()
        self.damaged = 0
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path)
        self._segments = _segments(path) or [_Segment(path, 0)]
        newest = self._segments[-1]
        self._file = os.open(newest.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        written = newest.size
        self.end = newest.recover()
        self.torn_bytes = written - newest.size
        if self.torn_bytes:
            os.ftruncate(self._file, newest.size)
        self.size = sum(segment.size for segment in self._segments)

    @property
    def start(self) -> int:
        return self._segments[0].base

    def append(self, items: Sequence[bytes]) -> int:
        added = _framed_size(items)
        _refuse_giant(added, self._max_bytes)
        with self._changed:
            first = self.end
            if not items:
                return first
            self._make_room(added)
            segment = self._segments[-1]
            self._write(b"".join(_framed(items)), segment.size)
            position = segment.size
            for offset, item in enumerate(items, first):
                segment.mark(offset, position)
                position += _HEAD.size + len(item)
            segment.size = position
            self.size += added
            self.end = first + len(items)
            self._changed.notify_all()
        return first

    def read(self, offset: int, *, max_bytes: int = 1 << 20, max_items: int = 10_000) -> list[Item]:
        found: list[Item] = []
        while True:
            with self._changed:
                offset, following = max(offset, self.start), self.end
                if offset >= following:
                    return found
                at = bisect_right(self._segments, offset, key=_base) - 1
                if at + 1 < len(self._segments):
                    following = self._segments[at + 1].base
                segment, limit = self._segments[at], self._segments[at].size
            for item in segment.items(offset, limit):
                if found and (len(found) == max_items or len(item[1]) > max_bytes):
                    return found
                found.append(item)
                max_bytes -= len(item[1])
                offset = item[0] + 1
            if offset < following and following > self.start:  # not just trimmed since
                self.damaged += following - offset
            offset = following

    def wait(self, offset: int, timeout: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self.end > offset or self._closed, timeout)
            return self.end > offset

    def trim(self, offset: int) -> None:
        with self._changed:
            self._unneeded = max(self._unneeded, min(offset, self.end))
            if self._unneeded == self.end and self._segments[-1].size >= self._segment_bytes:
                # Items added together lie in one segment, however large. Whoever waits for room adds none to end it.
                with contextlib.suppress(Full):
                    self._roll()
            self._drop_unneeded()

    def sync(self) -> None:
        with self._changed:
            self._sync()

    def close(self) -> None:
        """Wakes the waiters. What is there can still be read."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            if self._fsync is not Fsync.NEVER:
                self._sync()
            os.close(self._file)
            os.close(self._lock)

    def _make_room(self, added: int) -> None:
        if self.size + added > self._max_bytes:
            # A new segment lets all of the old ones go, now or as soon as the reader is through with them.
            if self._segments[-1].size:
                self._roll()
            self._drop_unneeded()
            if self.size + added > self._max_bytes:
                raise Full(f"{self._path}: {self.size} of {self._max_bytes} bytes are in use")
        if self._segments[-1].size and self._segments[-1].size + added > self._segment_bytes:
            self._roll()

    def _drop_unneeded(self) -> None:
        while len(self._segments) > 1 and self._segments[1].base <= self._unneeded:
            oldest, *self._segments = self._segments
            oldest.path.unlink(missing_ok=True)
            self.size -= oldest.size

    def _roll(self) -> None:
        """Begins a new segment. The old one is made safe first, so that only the newest can be torn."""
        segment = _Segment(self._path, self.end)
        if self._fsync is not Fsync.NEVER:
            self._sync()
        try:
            file = os.open(segment.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o640)
        except OSError as error:
            raise Full(f"{self._path}: {error.strerror}") from error
        if self._fsync is not Fsync.NEVER:
            sync_directory(self._path)
        os.close(self._file)
        self._file = file
        self._segments = [*self._segments, segment]

    def _write(self, data: bytes, position: int) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, position)  # all or nothing
            raise Full(f"{self._path}: {error.strerror}") from error
        self._unsynced = True
        overdue = time.monotonic() - self._synced_at > _FSYNC_EVERY
        if self._fsync is Fsync.ALWAYS or (self._fsync is Fsync.INTERVAL and overdue):
            self._sync()

    def _sync(self) -> None:
        if self._unsynced:
            os.fdatasync(self._file)
            self._unsynced = False
        self._synced_at = time.monotonic()


def scan(path: Path) -> Iterator[Item]:
    """Every readable item of a log that another process may be writing, oldest first. Changes nothing."""
    for segment in _segments(path):
        yield from segment.items(segment.base, segment.size)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory survive a power cut; a file's own sync does not."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class _Segment:
    """One file of a log. Marks, each `_STRIDE` bytes, find an offset without reading the file from its beginning; those
    of a file from before a restart are made as it is read."""

    def __init__(self, directory: Path, base: int, size: int = 0) -> None:
        self.path = directory / f"{base:020d}{_SUFFIX}"
        self.base = base
        self.size = size
        self._marks = [(base, 0)]
        self._marking = threading.Lock()

    def mark(self, offset: int, position: int) -> None:
        if position - self._marks[-1][1] >= _STRIDE:
            with self._marking:
                if position - self._marks[-1][1] >= _STRIDE:  # no other reader has come further meanwhile
                    self._marks.append((offset, position))

    def items(self, offset: int, limit: int) -> Iterator[Item]:
        """Items from `offset` on, within the first `limit` bytes, up to the first damaged one; none once trimmed."""
        at, position = self._marks[bisect_right(self._marks, offset, key=_first) - 1]
        try:
            file = self.path.open("rb", buffering=128 * 1024)
        except FileNotFoundError:
            return
        with file:
            file.seek(position)
            while limit - position >= _HEAD.size:
                self.mark(at, position)
                head = file.read(_HEAD.size)
                if len(head) < _HEAD.size:
                    return
                length, checksum = _HEAD.unpack(head)
                position += _HEAD.size + length
                if position > limit:
                    return
                item = file.read(length)
                if crc32c(item, _SEED) != checksum:
                    return
                if at >= offset:
                    yield at, item
                at += 1

    def recover(self) -> int:
        """Sets `size` to the end of the last whole item and returns the offset after it."""
        whole, self.size, count = self.size, 0, 0
        for _, item in self.items(self.base, whole):
            self.size += _HEAD.size + len(item)
            count += 1
        return self.base + count


def _segments(path: Path) -> list[_Segment]:
    """What is in the directory, oldest first. Of a hole, left by hand or by a broken disk, the readers learn by the
    gap in the offsets."""
    found = sorted(p for p in path.glob("*" + _SUFFIX) if p.stem.isdecimal())
    return [_Segment(path, int(p.stem), p.stat().st_size) for p in found]


def _lock(path: Path) -> int:
    """A descriptor that holds the directory for this process until it is closed or the process ends."""
    file = os.open(path / "lock", os.O_WRONLY | os.O_CREAT, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise InUse(f"{path} is written by another process: stop it, or configure another directory") from error
    return file


def _framed(items: Sequence[bytes]) -> Iterator[bytes]:
    for item in items:
        yield _HEAD.pack(len(item), crc32c(item, _SEED))
        yield item


def _framed_size(items: Sequence[bytes]) -> int:
    return sum(map(len, items)) + _HEAD.size * len(items)


def _refuse_giant(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"{size} bytes at once into a log of at most {max_bytes}")


def _base(segment: _Segment) -> int:
    return segment.base


def _first(mark: tuple[int, int]) -> int:
    return mark[0]
