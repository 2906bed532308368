from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.store import DirectoryStore, MemoryStore, Store


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "state")


def test_a_blob_is_what_was_put_last(store: Store) -> None:
    assert store.get("ingest/requests/0") is None
    store.put("ingest/requests/0", b"first")
    store.put("ingest/requests/0", bytes(range(256)) * 1000)
    assert store.get("ingest/requests/0") == bytes(range(256)) * 1000


def test_names_are_listed_sorted_by_any_beginning(store: Store) -> None:
    for name in ("b/2", "a", "a/b/c", "b/10", "b2"):
        store.put(name, name.encode())
    assert store.list() == ["a", "a/b/c", "b/10", "b/2", "b2"]
    assert store.list("b/") == ["b/10", "b/2"]
    assert store.list("b") == ["b/10", "b/2", "b2"]
    assert store.list("c") == []
    assert store.get("a") == b"a"


def test_what_was_deleted_is_gone_and_deleting_it_again_is_nothing(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert store.get("a/b") is None
    assert store.list() == []


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.put-x", "a b", "é", "a" * 201])
def test_what_is_no_name_is_refused(store: Store, name: str) -> None:
    for call in (store.get, store.delete, lambda n: store.put(n, b"")):
        with pytest.raises(ValueError, match="cannot be a name"):
            call(name)


@given(st.text("aB._/%~\0", max_size=8))
def test_no_name_leads_out_of_the_directory(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    outer = tmp_path_factory.mktemp("outer")
    store = DirectoryStore(outer / "state")
    try:
        store.put(name, b"x")
    except ValueError:
        return
    assert store.list() == [name]
    assert [p.name for p in outer.iterdir()] == ["state"]


def test_a_put_that_fails_raises_os_error_and_leaves_the_blob_as_it_was(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"kept")
    code = """
import resource, signal, sys
from pathlib import Path
from monitor.store import DirectoryStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = DirectoryStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.put("a", b"x" * 5000)
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert store.get("a") == b"kept"
    assert [p.name for p in tmp_path.iterdir()] == ["a.blob"]


WRITER = """
import sys
from pathlib import Path
from monitor.store import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]))
for n in range(1_000_000):
    store.put("state", b"%d " % n * 1_000_000)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_a_kill_leaves_a_whole_blob_no_older_than_the_last_acknowledged_and_no_litter(tmp_path: Path) -> None:
    for delay in (0.0, 0.003, 0.007, 0.011, 0.017, 0.023, 0.031, 0.041):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        writer.stdout.close()
        store = DirectoryStore(tmp_path)
        blob = store.get("state")
        assert blob is not None
        number = int(blob.split()[0])
        assert number >= acknowledged
        assert blob == b"%d " % number * 1_000_000
        assert [p.name for p in tmp_path.iterdir()] == ["state.blob"]
