from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from monitor.decode import Own
from monitor.event import Partition, Record
from monitor.sources import files
from monitor.sources.files import FilesOptions, FilesSource


def sought(path: Path, start: int | None = None, *, follow: bool = False) -> FilesSource:
    source = FilesOptions(str(path), follow).open()
    assert source.poll(0).gained == (Partition(str(path), 0),)
    source.seek(Partition(str(path), 0), start)
    return source


def read(source: FilesSource) -> list[Record]:
    """Everything there is for now, or until the end."""
    found: list[Record] = []
    while True:
        polled = source.poll(0)
        for records in polled.records.values():
            found += records  # type: ignore[arg-type]  # files give this kind of record
        if polled.ended or not polled.records:
            return found


def rows(records: list[Record]) -> list[tuple[int, bytes | None]]:
    return [(record.offset, record.value) for record in records]


@pytest.mark.parametrize("name", ["e.jsonl", "e.ndjson", "e.json", "e.jsonl.gz", "e.jsonl.zst"])
def test_each_line_is_a_record_as_it_stands_and_blank_ones_only_count(tmp_path: Path, name: str) -> None:
    data = b'{"a":1}\n\n not json \r\n{"b":2}'
    pack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / name
    path.write_bytes(pack.get(path.suffix, bytes)(data))
    source = sought(path)
    assert rows(read(source)) == [(0, b'{"a":1}'), (2, b" not json \r"), (3, b'{"b":2}')]
    assert source.poll(0).ended


@given(
    contents=st.lists(st.lists(st.binary(max_size=12).filter(lambda b: b"\n" not in b), max_size=5), max_size=4),
    start=st.integers(0, 25),
)
def test_a_directory_is_one_row_of_rows_and_reading_starts_at_any_of_them(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[bytes]], start: int
) -> None:
    directory = tmp_path_factory.mktemp("events")
    for number, lines in enumerate(contents):
        (directory / f"{number}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (directory / "README.md").write_text("not one of them\n")
    lines = [line for several in contents for line in several]
    assert rows(read(sought(directory, start))) == [
        (n, line) for n, line in enumerate(lines) if n >= start and line.strip()
    ]


@given(st.binary(max_size=60), st.integers(1, 9))
def test_lines_are_the_same_whatever_the_block(data: bytes, block: int) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(block)

    *lines, rest = data.split(b"\n")
    assert list(files._lines(Slow(data), lambda: False)) == lines + ([rest] if rest else [])  # noqa: SLF001


def test_a_line_too_long_to_hold_is_cut_and_the_next_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BLOCK", 10)
    monkeypatch.setattr(files, "_LONGEST", 30)
    (tmp_path / "e.jsonl").write_bytes(b"x" * 100 + b"\nnext\n" + b"y" * 100)
    assert rows(read(sought(tmp_path / "e.jsonl"))) == [(0, b"x" * 30), (1, b"next"), (2, b"y" * 30)]


def test_a_file_being_written_gives_complete_lines_only_and_then_the_next_file(tmp_path: Path) -> None:
    first = tmp_path / "1.jsonl"
    first.write_bytes(b"a\nb")
    source = sought(tmp_path, follow=True)
    assert rows(read(source)) == [(0, b"a")]
    with first.open("ab") as file:
        file.write(b"b\nc")
    assert rows(read(source)) == [(1, b"bb")]
    (tmp_path / "2.jsonl").write_bytes(b"d\n")
    assert rows(read(source)) == [(2, b"c"), (3, b"d")]
    assert not source.poll(0).ended


def test_csv_and_parquet_rows_are_our_own_events(tmp_path: Path) -> None:
    schema: dict[str, list[Any]] = {
        "id": ["e1", "e2"],
        "time": [1_700_000_000.5, 1_700_000_001.0],
        "price": [1.5, None],
        "day": ["mon", "tue"],
        "weekend": [False, True],
        "count": [3, 4],
        "label": ["up", "down"],
        "latency": [0.25, 0.5],
    }
    pq.write_table(pa.table(schema), tmp_path / "e.parquet")
    (tmp_path / "e.csv").write_text(
        'id,time,price,day,weekend,count,label,latency\ne1,1700000000.5,1.5,"mon",false,3,up,0.25\n'
        "e2,1700000001,,tue,True,4,down,0.5\n"
    )
    expected = [
        {
            "id": "e1",
            "model": "",
            "time": 1_700_000_000.5,
            "inputs": {"price": 1.5, "day": "mon", "weekend": False, "count": 3},
            "outputs": {"label": "up"},
            "latency": 0.25,
            "extra": {},
        },
        {
            "id": "e2",
            "model": "",
            "time": 1_700_000_001.0,
            "inputs": {"price": None, "day": "tue", "weekend": True, "count": 4},
            "outputs": {"label": "down"},
            "latency": 0.5,
            "extra": {},
        },
    ]
    for name in ("e.csv", "e.parquet"):
        records = read(sought(tmp_path / name))
        assert [json.loads(record.value or b"") for record in records] == expected, name
        assert [record.offset for record in records] == [0, 1]
        assert rows(read(sought(tmp_path / name, 1))) == rows(records[1:])
        decoded = Own().open().decode(records, {})
        assert not decoded.bad
        assert [event.id for events in decoded.events.values() for event in events] == ["e1", "e2"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("2.jsonl.gz", gzip.compress(b"x\n" * 9000, mtime=0)[:-9]),
        ("2.jsonl.gz", b"no gzip"),
        ("2.jsonl.zst", b"no zstd"),
        ("2.parquet", b"no parquet"),
        ("2.csv", b"a,b\n\xff\xfe,1\n"),
    ],
)
def test_a_broken_file_is_left_and_the_next_one_read(
    tmp_path: Path, name: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1.jsonl").write_bytes(b"a\n")
    (tmp_path / name).write_bytes(data)
    (tmp_path / "3.jsonl").write_bytes(b"z\n")
    values = [value for _, value in rows(read(sought(tmp_path)))]
    assert (values[0], values[-1]) == (b"a", b"z")
    assert f"{name}: left at row" in caplog.text


def test_while_paused_nothing_comes(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_bytes(b"a\n")
    source = sought(tmp_path / "e.jsonl")
    source.pause(True)
    assert not source.poll(0).records
    assert not source.poll(0).ended
    source.pause(False)
    assert rows(read(source)) == [(0, b"a")]


def test_what_cannot_be_read_is_told_at_opening(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FilesOptions(str(tmp_path / "nowhere.jsonl")).open()
    (tmp_path / "e.xlsx").touch()
    with pytest.raises(ValueError, match=r"unknown kind; \.jsonl"):
        FilesOptions(str(tmp_path / "e.xlsx")).open()
