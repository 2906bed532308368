from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.event import Partition
from monitor.log import DiskLog, Fsync, MemoryLog
from monitor.sources.http import HttpSource, frame

HTTP = Partition("http", 0)


def sought(log: DiskLog | MemoryLog, start: int | None = None) -> HttpSource:
    source = HttpSource(log)
    assert source.poll(0).gained == (HTTP,)
    assert source.poll(0).records == {}
    source.seek(HTTP, start)
    return source


@given(st.lists(st.tuples(st.text(), st.binary())), st.binary(), st.integers(0, 1 << 50))
def test_what_was_framed_comes_back_as_it_was(headers: list[tuple[str, bytes]], body: bytes, arrived: int) -> None:
    log = MemoryLog()
    log.append([frame(headers, body, arrived)])
    (record,) = sought(log).poll(0).records[HTTP]
    assert (list(record.headers), record.value, record.timestamp, record.offset) == (headers, body, arrived, 0)


def test_reading_goes_on_from_a_checkpoint_and_committing_lets_the_log_forget(tmp_path: Path) -> None:
    log = DiskLog(tmp_path, segment_bytes=200, fsync=Fsync.NEVER)
    for n in range(40):
        log.append([frame([], b"%d" % n * 10, n)])
    source = sought(log, 35)
    polled = source.poll(0)
    assert [record.offset for record in polled.records[HTTP]] == [35, 36, 37, 38, 39]
    assert polled.lag == {HTTP: 0}
    source.commit({HTTP: 38})
    assert 30 < log.start <= 38
    log.close()


def test_a_checkpoint_beyond_what_a_power_cut_left_goes_on_with_what_comes(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    log.append([frame([], b"1", 1)])
    source = sought(log, 5)
    log.append([frame([], b"2", 2)])
    assert [record.value for record in source.poll(0).records[HTTP]] == [b"2"]
    assert "4 events taken in were lost" in caplog.text


def test_while_paused_nothing_comes_and_the_lag_grows() -> None:
    log = MemoryLog()
    source = sought(log)
    source.pause(True)
    log.append([frame([], b"1", 1)])
    polled = source.poll(0)
    assert (polled.records, polled.lag) == ({}, {HTTP: 1})
    source.pause(False)
    assert len(source.poll(0).records[HTTP]) == 1
