from __future__ import annotations

import signal
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


def test_a_part_that_dies_stops_the_story_with_its_last_words(tmp_path: Path) -> None:
    child = Child("model server", ["-c", "raise SystemExit('no digits today')"], tmp_path)
    with pytest.raises(Failed, match=r"model server stopped with exit code 1.\nno digits today"):
        wait_for(child)
    child.stop()


def test_a_part_that_ends_well_has_ended(tmp_path: Path) -> None:
    child = Child("model server", ["-c", "pass"], tmp_path)
    assert wait_for(child)
    child.stop()


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
