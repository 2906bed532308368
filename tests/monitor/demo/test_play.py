from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monitor.demo.play import Child, Failed


def wait_for(child: Child) -> bool:
    until = time.monotonic() + 20.0
    while not child.ended():
        assert time.monotonic() < until
        time.sleep(0.01)
    return True


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the code of a module `part` is written."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "part.py"


def test_a_part_that_dies_stops_the_story_with_its_last_words(part: Path, tmp_path: Path) -> None:
    part.write_text("raise SystemExit('no digits today')")
    child = Child("model server", ["part"], tmp_path)
    with pytest.raises(Failed, match=r"model server stopped with exit code 1.\nno digits today"):
        wait_for(child)
    child.stop()


def test_a_part_that_ends_well_has_ended(part: Path, tmp_path: Path) -> None:
    part.write_text("import sys; assert sys.argv[1:] == ['--seed', '1']")
    child = Child("model server", ["part", "--seed", "1"], tmp_path)
    assert wait_for(child)
    child.stop()


def test_a_part_ends_with_a_story_that_is_killed(part: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as known:
        known.settimeout(20.0)
        part.write_text(
            "import signal, socket, sys\n"
            "line = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(line.sendall(b'ended in order')))\n"
            "line.sendall(b'ready, ')\n"
            "while True: signal.pause()\n"
        )
        code = (
            "import signal, sys; from pathlib import Path; from monitor.demo.play import Child; "
            "child = Child('daemon', ['part', sys.argv[1]], Path(sys.argv[2])); signal.pause()"
        )
        story = subprocess.Popen([sys.executable, "-c", code, str(known.getsockname()[1]), str(tmp_path)])
        line, _ = known.accept()
        with line, line.makefile("rb") as said:
            line.settimeout(20.0)
            assert said.read(7) == b"ready, "
            story.kill()
            story.wait()
            assert said.read() == b"ended in order"


def test_the_story_needs_neither_scikit_learn_nor_the_daemons_code_in_its_own_process() -> None:
    code = "import sys, monitor.demo.play; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "scipy", "numpy", "starlette"} & set(loaded)


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a slow machine the story waits for the daemon
def test_every_act_is_noticed_calm_is_calm_and_the_loop_closes() -> None:
    play = [sys.executable, "-m", "monitor", "demo", "--once", "--seed", "1"]
    done = subprocess.run(play, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What the daemon noticed" in done.stdout
    assert "closed; version 2" in done.stdout


def test_ctrl_c_stops_all_parts(tmp_path: Path) -> None:
    play = [sys.executable, "-m", "monitor", "demo"]
    story = subprocess.Popen(play, stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)})
    assert story.stdout is not None
    for line in story.stdout:
        if line.startswith("Act 1"):
            break
    story.send_signal(signal.SIGINT)
    said, _ = story.communicate(timeout=30.0)
    assert story.returncode == 0
    assert "Stopped." in said
    assert list(tmp_path.iterdir()) == []  # nothing left behind, so no process holds a log there
