"""Training rows in files -> a reference, in two passes of constant memory.

Parquet, CSV and JSON lines, one file or a directory of them; JSON lines may be plain rows or events as they were sent.
What a reader would get wrong: the schema is inferred from the first rows alone, and a later value of another kind
counts as wrong instead of failing the build.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from detectors.core import Batch, Kind, Scorer
from detectors.reference import Reference, build
from monitor.classes import named
from monitor.decode import Own
from monitor.decode.columns import from_table, infer, row_event, to_batch
from monitor.event import Event, Record, Schema

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 8192  # rows profiled at once: they stay in the cache
LOOKED_AT = 5000  # rows that the schema is inferred from
_BLOCK = 4 << 20  # bytes of CSV parsed at once

Progress = Callable[[int], None]  # bytes read since the last call


class Unusable(Exception):
    """The rows cannot be used. The text says which file and why."""


class Training:
    """Rows of files, readable as often as needed."""

    def __init__(self, path: Path, model: str = "", classes: Sequence[str] = ()) -> None:
        """Unusable when there is no file of a known kind. `model`: of events, those that name another are left out.
        `classes` by their place in a list of scores."""
        self.files = _files(path)
        self.model = model
        self.size = sum(file.stat().st_size for file in self.files)  # bytes
        self.schema = named(self._schema(), classes)

    def reference(self, scorers: Mapping[str, Scorer], *, source: str, created: float, progress: Progress) -> Reference:
        """A reference of all rows; `progress` is told of every byte twice."""
        roles = {spec.name: spec.role for spec in self.schema}
        return build(self.model, lambda: self.batches(progress), scorers, roles=roles, source=source, created=created)

    def batches(self, progress: Progress) -> Iterator[Batch]:
        """Every row in order, at most CHUNK at a time."""
        first = 0
        for file in self.files:
            for batch in self._batches(file, first, progress):
                first += len(batch)
                yield batch

    def _schema(self) -> Schema:
        events = list(islice(chain.from_iterable(map(self._events, self.files)), LOOKED_AT))
        schema = infer(events)
        if not events:
            raise Unusable(f"{self.files[0]}: holds no row" + (f" of model {self.model!r}" if self.model else ""))
        if not schema:
            raise Unusable(f"{self.files[0]}: no column with values in the first {len(events)} rows")
        return schema

    def _events(self, file: Path) -> Iterator[Event]:
        if not _is_lines(file):
            for table in _tables(file, _ignore):
                yield from (row_event(row, i) for i, row in enumerate(table.to_pylist()))
            return
        decoder = Own().open()
        for lines in _chunked(_lines(file, _ignore)):
            if not _are_events(lines[0]):
                yield from _rows(lines, 0, file)
                continue
            for events in decoder.decode(_records(lines, 0), {}).events.values():
                yield from (event for event in events if event.model in ("", self.model) or not self.model)

    def _batches(self, file: Path, first: int, progress: Progress) -> Iterator[Batch]:
        if not _is_lines(file):
            for table in _tables(file, progress):
                yield from_table(table, self.schema, first)
                first += table.num_rows
            return
        decoder = Own().open()
        for lines in _chunked(_lines(file, progress)):
            if not _are_events(lines[0]):
                yield to_batch(_rows(lines, first, file), self.schema)
            else:
                decoded = decoder.decode(_records(lines, first), {self.model: self.schema})
                yield from decoded.batches.values()
                for model, events in decoded.events.items():
                    if not self.model or model == "":
                        yield to_batch(events, self.schema)
            first += len(lines)


def told(reference: Reference) -> str:
    """What a reference holds, for a terminal."""
    profile, layout = reference.profile, reference.layout
    made = datetime.fromtimestamp(reference.created, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    lines = [
        f"model      {reference.model or '(any)'}",
        f"version    {reference.version}",
        f"made       {made} of {reference.source}, {profile.rows:,} rows",
        f"scorers    {', '.join(reference.fitted) or 'none'}",
        "",
        f"{'column':<32} {'role':<9} {'kind':<9} {'missing':>8}  values",
    ]
    kinds = {spec.name: spec.kind for spec in reference.schema}
    for i, (name, missing) in enumerate(zip(layout.columns, profile.missing_share.tolist(), strict=True)):
        values = ""
        if i < len(layout.numbers):
            middle = ", ".join(f"{profile.quantile(name, q):.4g}" for q in (0.05, 0.5, 0.95))
            values = f"mean {profile.mean[i]:.4g}; 5 %, 50 %, 95 %: {middle}"
        elif name in layout.categories:
            counts = profile.word_counts(name)
            known = layout.words[layout.categories.index(name)]
            shown = [f"{known[j]} {counts[j] / max(profile.rows, 1):.0%}" for j in np.argsort(-counts)[:4]]
            values = f"{len(known)} words: {', '.join(shown)}"
        kind = kinds.get(name, Kind.NUMBER)
        lines.append(f"{name:<32} {reference.role(name):<9} {kind:<9} {missing:>8.1%}  {values}")
    return "\n".join(lines)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _known(file))
        if not found:
            raise Unusable(f"{path}: holds no .parquet, .csv or .jsonl file")
        return found
    if not path.is_file():
        raise Unusable(f"{path}: no such file")
    if not _known(path):
        raise Unusable(f"{path}: of unknown kind; .parquet, .csv, .jsonl and .ndjson are read, lines also with .gz")
    return [path]


def _known(file: Path) -> bool:
    return file.suffix in (".parquet", ".csv") or _is_lines(file)


def _is_lines(file: Path) -> bool:
    return file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json"))


def _tables(file: Path, progress: Progress) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if file.suffix == ".parquet":
            # read page by page: whole row groups of a training set would be hundreds of MB
            with parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as reader:
                rows = max(reader.metadata.num_rows, 1)
                for batch in reader.iter_batches(batch_size=CHUNK):
                    yield pa.Table.from_batches([batch])
                    progress(round(file.stat().st_size * batch.num_rows / rows))
            return
        with file.open("rb") as raw, csv.open_csv(raw, csv.ReadOptions(block_size=_BLOCK)) as reader:
            told = 0
            for batch in reader:
                table = pa.Table.from_batches([batch])
                for start in range(0, table.num_rows, CHUNK):
                    yield table.slice(start, CHUNK)
                progress(raw.tell() - told)
                told = raw.tell()
    except pa.ArrowException as error:
        raise Unusable(f"{file}: {error}") from error


def _lines(file: Path, progress: Progress) -> Iterator[bytes]:
    with file.open("rb") as raw:
        plain: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
        told = 0
        try:
            for number, line in enumerate(plain):
                if line.strip():
                    yield line
                if number % CHUNK == 0:
                    told = _tell(raw, told, progress)
        except (OSError, EOFError) as error:
            raise Unusable(f"{file}: {error}") from error
        _tell(raw, told, progress)


def _tell(raw: IO[bytes], told: int, progress: Progress) -> int:
    at = os.lseek(raw.fileno(), 0, os.SEEK_CUR)  # `tell` is refused while a file is iterated
    progress(at - told)
    return at


def _chunked(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def _are_events(line: bytes) -> bool:
    """Whether lines are events as they are sent, which the live path decodes, or plain rows."""
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return True  # whatever it is, the decoder counts it as bad
    return isinstance(row, dict) and any(isinstance(row.get(key), dict) for key in ("inputs", "features", "outputs"))


def _records(lines: Sequence[bytes], first: int) -> list[Record]:
    return [Record(line, offset=first + i) for i, line in enumerate(lines)]


def _rows(lines: Sequence[bytes], first: int, file: Path) -> list[Event]:
    rows: list[Event] = []
    for i, line in enumerate(lines):
        try:
            row: Any = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise Unusable(f"{file}: row {first + i + 1}: {error}") from error
        if not isinstance(row, dict):
            raise Unusable(f"{file}: row {first + i + 1} is no JSON object")
        rows.append(row_event(row, first + i))
    return rows


def _ignore(_bytes: int) -> None:
    return None
