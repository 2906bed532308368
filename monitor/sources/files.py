"""Records from a file or a directory: lines of JSON as they are, rows of CSV and Parquet as our own events.

What a reader would get wrong: a directory is one partition, its rows numbered through all files in the order of their
names. So a file that is taken away, or appears before one already read, shifts the numbers that a checkpoint holds.
"""

from __future__ import annotations

import csv
import gzip
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any, cast

import msgspec
import zstandard

from monitor.decode.columns import row_event
from monitor.event import Partition, Record
from monitor.sources import Polled

log = logging.getLogger(__name__)

LINES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst")
TABLES = (".csv", ".parquet")

_BLOCK = 1 << 20
_LONGEST = 16 << 20  # bytes of a line; what is longer is cut there, so that the decoder sets it aside as too large
_POLL_RECORDS = 2000
_POLL_BYTES = 4 << 20
_LOOK = 0.2  # seconds between looks at a file that may grow
_OUTPUTS = ("label", "value", "scores", "members", "embedding")
_CONTEXT = ("version", "latency", "status", "path", "rule", "user")
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

_encoder = msgspec.json.Encoder()


class FilesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="files"):
    """A file or a directory of events: .jsonl, .ndjson and .json with an event in each line, also with .gz or .zst;
    .csv and .parquet with an event in each row."""

    path: Annotated[
        str, msgspec.Meta(min_length=1, description="File, or directory whose files are read in order of their names")
    ]
    follow: Annotated[
        bool,
        msgspec.Meta(
            description="Wait for more lines and files instead of ending. Files must stay; tables and compressed files "
            "must be whole when they appear"
        ),
    ] = False

    def open(self) -> FilesSource:
        """Raises `OSError` for a path that is not there and `ValueError` for a file of unknown kind."""
        return FilesSource(self)


class FilesSource:
    """See `monitor.sources.Source` for the contract. A file that breaks off is logged and left where it breaks."""

    def __init__(self, options: FilesOptions, *, first: int = 0) -> None:
        """`first` is the number of the first row."""
        self._path = Path(options.path)
        self._follow = options.follow
        self._partition = Partition(options.path, 0)
        self._announced = False
        self._paused = False
        self._rows: Iterator[Record | None] | None = None  # None until its owner has sought
        self._first = self._row = first  # number of the next row
        if not self._path.exists():
            raise FileNotFoundError(2, "no such file or directory", options.path)
        if not self._path.is_dir() and not known(self._path):
            raise ValueError(f"{options.path}: of unknown kind; {', '.join(LINES + TABLES)} are read, lines also with "
                             f"{' or '.join(COMPRESSED)}")  # fmt: skip

    def poll(self, timeout: float) -> Polled:
        if not self._announced:
            self._announced = True
            return Polled(gained=(self._partition,))
        if self._paused or self._rows is None:
            time.sleep(timeout)
            return Polled(lag={self._partition: 1})
        records: list[Record] = []
        size = 0
        for record in self._rows:
            if record is None:
                break
            records.append(record)
            size += len(record.value or b"")
            if len(records) == _POLL_RECORDS or size >= _POLL_BYTES:
                return Polled({self._partition: records}, lag={self._partition: 1})
        else:
            return Polled({self._partition: records} if records else {}, lag={self._partition: 0}, ended=True)
        if not records:
            time.sleep(min(timeout, _LOOK))
        return Polled({self._partition: records} if records else {}, lag={self._partition: 0})

    def seek(self, partition: Partition, offset: int | None) -> None:
        self._rows = self._walk(offset or 0)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Nothing: who reads files keeps the position."""

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def close(self) -> None:
        self._rows = None

    def _walk(self, start: int) -> Iterator[Record | None]:
        """Records from row `start` on, in order; None where there is nothing more for now."""
        self._row = self._first
        file: Path | None = None
        while True:
            following = self._after(file)
            if following is not None:
                file = following
                try:
                    yield from self._table(file, start) if file.suffix in TABLES else self._lines(file, start)
                except (OSError, EOFError, ValueError, zlib.error, zstandard.ZstdError, csv.Error) as error:
                    log.warning("%s: left at row %d of all: %s", file, self._row, error)
            elif self._follow:
                yield None
            else:
                return

    def _after(self, file: Path | None) -> Path | None:
        """The next file by name."""
        if not self._path.is_dir():
            return self._path if file is None else None
        return min((p for p in self._path.iterdir() if (file is None or p > file) and known(p)), default=None)

    def _lines(self, file: Path, start: int) -> Iterator[Record | None]:
        arrived = int(file.stat().st_mtime * 1000)
        growing = self._follow and file.suffix not in COMPRESSED
        with _opened(file) as stream:
            for line in _lines(stream, lambda: growing and self._after(file) is None):
                if line is None:
                    yield None
                    continue
                row, self._row = self._row, self._row + 1
                if row >= start and line.strip():
                    yield Record(line, offset=row, timestamp=arrived)

    def _table(self, file: Path, start: int) -> Iterator[Record]:
        arrived = int(file.stat().st_mtime * 1000)
        for rows in _csv(file) if file.suffix == ".csv" else _parquet(file):
            first, self._row = self._row, self._row + len(rows)
            for row in range(max(first, start), self._row):
                yield Record(_own(rows[row - first], row), offset=row, timestamp=arrived)


def known(file: Path) -> bool:
    """Whether events can be read of a file of this name."""
    plain = file.with_suffix("") if file.suffix in COMPRESSED else file
    return plain.suffix in LINES or file.suffix in TABLES


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file))
    if file.suffix == ".zst":
        return cast("IO[bytes]", zstandard.open(file))
    return file.open("rb")


def _lines(stream: IO[bytes], growing: Callable[[], bool]) -> Iterator[bytes | None]:
    """Lines without their ends; None at the end of a stream that may grow. Only complete lines of such a one."""
    rest = b""
    cut = False  # the rest of a line that was too long is passed over
    while True:
        block = stream.read(_BLOCK)
        if not block and growing():
            yield None
            continue
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if not cut:
                yield line
            cut = False
        if not block:
            if rest and not cut:
                yield rest
            return
        if len(rest) > _LONGEST:
            if not cut:
                yield rest[:_LONGEST]
            rest, cut = b"", True


def _csv(file: Path) -> Iterator[list[dict[str, Any]]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        while rows := [{k: _value(v) for k, v in row.items() if k is not None} for row in islice(reader, 1000)]:
            yield rows


def _value(text: str | None) -> str | float | bool | None:
    if not text:
        return None
    if text in _FLAGS:
        return _FLAGS[text]
    try:
        number = float(text)
    except ValueError:
        return text
    return int(text) if text.lstrip("+-").isdecimal() else number


def _parquet(file: Path) -> Iterator[list[dict[str, Any]]]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=1000):
            yield batch.to_pylist()


def _own(row: Mapping[str, Any], number: int) -> bytes:
    """A row of a table in our own format. Without a time of its own it has none, and its record's time counts."""
    event = row_event(row, number)
    there = {name: value for name in (*_OUTPUTS, *_CONTEXT) if (value := getattr(event, name)) is not None}
    said: dict[str, Any] = {"id": event.id, "model": event.model, "inputs": event.inputs, "extra": event.extra}
    said["outputs"] = {name: there.pop(name) for name in _OUTPUTS if name in there}
    if event.time:
        said["time"] = event.time
    return _encoder.encode(said | there)
