from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from monitor.log import DiskLog, Fsync, Full, InUse, Log, MemoryLog, scan


def small(path: Path, *, max_bytes: int = 1 << 20) -> DiskLog:
    return DiskLog(path, segment_bytes=64, max_bytes=max_bytes, fsync=Fsync.NEVER)


@pytest.fixture(params=["disk", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    return small(tmp_path, max_bytes=200) if request.param == "disk" else MemoryLog(200)


class AsAList(RuleBasedStateMachine):
    """Whatever is done to it, a log on disk shows what a list would, and what the log in memory shows."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.disk = small(self.path)
        self.memory = MemoryLog()
        self.items: list[bytes] = []

    @rule(items=st.lists(st.binary(max_size=40), max_size=6))
    def append(self, items: list[bytes]) -> None:
        assert self.disk.append(items) == self.memory.append(items) == len(self.items)
        self.items += items

    @rule()
    def reopen(self) -> None:
        self.disk.close()
        self.disk = small(self.path)

    @rule(part=st.floats(0, 1.2))
    def trim(self, part: float) -> None:
        offset = int(part * len(self.items))
        self.disk.trim(offset)
        self.memory.trim(offset)
        assert self.disk.start <= self.memory.start

    @rule(part=st.floats(0, 1), max_items=st.integers(1, 9), max_bytes=st.integers(1, 99))
    def read_a_little(self, part: float, max_items: int, max_bytes: int) -> None:
        offset = max(int(part * len(self.items)), self.memory.start)
        read = self.disk.read(offset, max_items=max_items, max_bytes=max_bytes)
        assert read == self.memory.read(offset, max_items=max_items, max_bytes=max_bytes)
        assert bool(read) == (offset < len(self.items))

    @invariant()
    def shows_the_list(self) -> None:
        assert self.disk.end == self.memory.end == len(self.items)
        for log in (self.disk, self.memory):
            assert log.read(0) == list(enumerate(self.items))[log.start :]
        assert list(scan(self.path)) == self.disk.read(0)
        assert self.disk.size == sum(f.stat().st_size for f in self.path.glob("*.log"))
        assert self.disk.torn_bytes == self.disk.damaged == 0

    def teardown(self) -> None:
        self.disk.close()
        shutil.rmtree(self.path)


AsAList.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_a_log_is_a_list = AsAList.TestCase


def test_offsets_are_found_in_segments_longer_than_a_mark_and_after_reopening(tmp_path: Path) -> None:
    items = [b"%d" % n * 300 for n in range(1000)]
    log = DiskLog(tmp_path, segment_bytes=600_000, fsync=Fsync.NEVER)
    for n in range(0, 1000, 10):
        log.append(items[n : n + 10])
    for reopened in (False, True):
        if reopened:
            log.close()
            log = DiskLog(tmp_path)
        for offset in (999, 0, 500, 321, 322, 998):
            assert log.read(offset, max_items=1) == [(offset, items[offset])]


def test_a_full_log_refuses_all_items_and_takes_them_after_the_reader_has_trimmed(log: Log) -> None:
    log.append([b"x" * 50, b"y" * 50])
    with pytest.raises(Full):
        log.append([b"z" * 20, b"z" * 70])
    assert log.end == 2
    log.trim(2)
    assert log.append([b"z" * 20, b"z" * 70]) == 2
    assert log.read(0) == [(2, b"z" * 20), (3, b"z" * 70)]


def test_what_was_added_at_once_goes_at_once_though_nothing_is_added_after_it(tmp_path: Path) -> None:
    with closing(DiskLog(tmp_path, segment_bytes=1_000, max_bytes=10_000)) as log:
        log.append([b"x" * 100] * 50)
        log.trim(49)
        assert log.size > 5_000
        log.trim(50)
        assert (log.size, log.start, log.end) == (0, 50, 50)
        assert log.append([b"y"]) == 50
        assert log.read(0) == [(50, b"y")]


def test_items_that_could_never_fit_are_an_error_of_the_caller(log: Log) -> None:
    with pytest.raises(ValueError, match="at most 200"):
        log.append([b"x" * 300])


def test_a_reader_is_given_one_item_however_large(log: Log) -> None:
    log.append([b"a", b"b" * 100, b"c"])
    assert log.read(1, max_bytes=1) == [(1, b"b" * 100)]


def test_a_waiting_reader_is_woken_by_an_append_and_by_closing(log: Log) -> None:
    woken: list[bool] = []

    def wait() -> None:
        woken.append(log.wait(0, 30))
        woken.append(log.wait(1, 30))

    reader = threading.Thread(target=wait)
    reader.start()
    log.append([b"x"])
    while not woken:
        time.sleep(0.001)
    assert reader.is_alive()
    log.close()
    reader.join(30)
    assert woken == [True, False]


def test_waiting_ends_after_its_time(log: Log) -> None:
    assert not log.wait(0, 0.01)


@pytest.mark.parametrize("lost", range(1, 8 + 40))
def test_a_torn_item_is_cut_off_and_counted(tmp_path: Path, lost: int) -> None:
    log = DiskLog(tmp_path)
    log.append([b"whole", b"x" * 39])
    log.close()
    segment = next(tmp_path.glob("*.log"))
    os.truncate(segment, segment.stat().st_size - lost)
    assert list(scan(tmp_path)) == [(0, b"whole")]
    log = DiskLog(tmp_path)
    assert log.torn_bytes == 47 - lost
    assert log.append([b"next"]) == 1
    assert log.read(0) == [(0, b"whole"), (1, b"next")]


def test_zeros_after_a_power_cut_are_no_items(tmp_path: Path) -> None:
    DiskLog(tmp_path).close()
    segment = next(tmp_path.glob("*.log"))
    segment.write_bytes(bytes(4096))
    log = DiskLog(tmp_path)
    assert (log.end, log.torn_bytes) == (0, 4096)


def test_a_damaged_item_costs_its_segment_and_readers_go_on_with_the_next(tmp_path: Path) -> None:
    log = small(tmp_path)
    for n in range(9):
        log.append([b"%d" % n * 20])
    first = min(tmp_path.glob("*.log"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    assert [offset for offset, _ in log.read(0)] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert log.damaged == 1
    assert [offset for offset, _ in scan(tmp_path)] == [0, 2, 3, 4, 5, 6, 7, 8]


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    first = DiskLog(tmp_path)
    with pytest.raises(InUse, match="another process"):
        DiskLog(tmp_path)
    first.close()
    DiskLog(tmp_path).close()


def test_a_full_disk_is_full_and_leaves_no_half_of_an_append(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from contextlib import closing
from pathlib import Path
from monitor.log import DiskLog, Full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = DiskLog(Path(sys.argv[1]))
log.append([b"kept"])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    log.append([b"x" * 500, b"y" * 600])
except Full as error:
    print(error, log.append([b"small"]), len(log.read(0)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("File too large 1 2\n")
    assert list(scan(tmp_path)) == [(0, b"kept"), (1, b"small")]


WRITER = """
import sys
from contextlib import closing
from pathlib import Path
from monitor.log import DiskLog, Fsync
log = DiskLog(Path(sys.argv[1]), segment_bytes=20_000, fsync=Fsync.NEVER)
while True:
    end = log.append([b"%d " % n * (1 + n % 400) for n in range(log.end, log.end + 5)]) + 5
    sys.stdout.write(f"{end}\\n")
    sys.stdout.flush()
"""


def test_every_acknowledged_item_survives_kill_9_and_nothing_else_appears(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    acknowledged = 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(rng.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        writer.stdout.close()
        items = list(scan(tmp_path))
        assert len(items) >= acknowledged, f"seed {seed}"
        assert items == [(n, b"%d " % n * (1 + n % 400)) for n in range(len(items))], f"seed {seed}"


def test_readers_and_a_trimming_writer_do_not_disturb_each_other(tmp_path: Path) -> None:
    log = DiskLog(tmp_path, segment_bytes=5_000, fsync=Fsync.NEVER)
    total, wrong = 20_000, []
    done = [0, 0]

    def follow(me: int) -> None:
        offset = 0
        while offset < total and log.wait(offset, 30):
            for found, item in log.read(offset, max_bytes=3_000):
                if found != offset or item != b"%d" % found:
                    wrong.append((offset, found, item))
                offset = found + 1
            done[me] = offset

    readers = [threading.Thread(target=follow, args=(me,)) for me in (0, 1)]
    for reader in readers:
        reader.start()
    for n in range(0, total, 20):
        log.append([b"%d" % k for k in range(n, n + 20)])
        log.trim(min(done))
    for reader in readers:
        reader.join(60)
    assert done == [total, total]
    assert not wrong
    assert log.damaged == 0
    log.trim(total)
    assert log.size < 5_100
