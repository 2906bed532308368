"""Plays the story in the foreground: starts the model server and the daemon, shows what the daemon says, stops both.

Each is a process of its own. What is shown comes from the daemon's `/status`, nothing from inside.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from monitor.demo.acts import CYCLE, starts_between
from monitor.demo.diary import Diary, ModelStatus, Noticed, Status
from monitor.demo.screen import Board, announce, report, summary

LOOK = 0.25  # seconds of the clock between two looks at /status: a quarter of an event minute at the usual speed
START_WAIT = 90.0  # seconds until training and the reference must be done; they take 8 on one free core
END_WAIT = 20.0  # seconds after the last event for the last windows to be judged; they close 5 after
LINE_EVERY = 10.0  # seconds between two status lines where there is no terminal

_CONFIG = """\
# The daemon of `driftd demo`. What is not said here is the default; `driftd config example` shows everything.
sources:
  - kind: http        # events come by POST /v1/events
web: {{port: {port}}}
state: {{path: {home}/state}}
models:
  - name: shelf-camera
    reference: {{path: {home}/reference}}
"""


class Failed(Exception):
    """The story cannot go on; the text says which part stopped and what it said last."""


def play(*, once: bool, seed: int = 0, speed: float = 60.0, console: Console | None = None) -> int:
    """Plays the acts until stopped, or once; event time runs `speed` times faster than the clock.

    Returns the process's exit code: 0 when all acts were noticed and calm was calm (or the user stopped an endless
    play), 1 when not or when a part of it failed, 130 when the user stopped a play that was to be once.
    """
    out = console or Console(highlight=False)
    home = Path(tempfile.mkdtemp(prefix="driftd-demo-"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        noticed = _play(out, home, once=once, seed=seed, speed=speed)
    except KeyboardInterrupt:
        out.print("\nStopped.")
        code = 130 if once else 0
    except Failed as failure:
        out.print(Text(str(failure), "bold red"), soft_wrap=True)
        out.print(f"Everything it wrote is kept in {home}", soft_wrap=True)
        return 1
    else:
        out.print(summary(noticed))
        code = 0 if all(act.well for act in noticed) else 1
    shutil.rmtree(home, ignore_errors=True)
    return code


def _play(out: Console, home: Path, *, once: bool, seed: int, speed: float) -> list[Noticed]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    start = float(int(time.time() - CYCLE) // 60 * 60)
    rows, config = home / "commissioning.jsonl", home / "driftd.yaml"
    config.write_text(_CONFIG.format(port=port, home=home))
    serve = [
        "-m", "monitor.demo.server", "--rows", str(rows), "--url", url, "--start", str(start), "--speed", str(speed),
        "--seed", str(seed), *(["--once"] if once else []),
    ]  # fmt: skip
    out.print("[bold]The shelf camera[/]: a camera, a model of three members, and driftd beside them.")
    out.print(f"An event minute takes {60 / speed:.3g} s of yours. Configuration: {config}\n", soft_wrap=True)
    with _running("model server", serve, home) as server:
        with _waiting(out, "training the committee on the products 0 to 7"):
            _await(server, rows)
        with _waiting(out, "building the reference: driftd reference build"):
            _build_reference(rows, home / "reference")
        with _running("daemon", ["-m", "monitor", "run", "-c", str(config)], home) as daemon:
            try:
                return _watch(out, server, daemon, Told(url), Diary(start), start)
            finally:
                server.stop()  # before the daemon, which then drains what it was given


class Child:
    """A process of the story, its output in a file."""

    def __init__(self, name: str, arguments: list[str], home: Path) -> None:
        self.name = name
        self._log = home / f"{name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we stop the parts in their order.
            # One thread of arithmetic: more would fight on two cores, and a sum's last bit would depend on how many.
            self._process = subprocess.Popen(  # noqa: S603  # our own modules
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def ended(self) -> bool:
        """Whether it ended well; Failed when it ended in any other way."""
        code = self._process.poll()
        if code:
            said = self._log.read_text(errors="replace").strip().splitlines()[-12:]
            raise Failed("\n".join([f"The {self.name} stopped with exit code {code}.", *said]))
        return code == 0

    def stop(self) -> None:
        """Asks it to end, and ends it after ten seconds. Harmless when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _running(name: str, arguments: list[str], home: Path) -> Iterator[Child]:
    child = Child(name, arguments, home)
    try:
        yield child
    finally:
        child.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _await(server: Child, rows: Path) -> None:
    until = time.monotonic() + START_WAIT
    while not rows.exists():
        server.ended()
        if time.monotonic() > until:
            raise Failed(f"The model server was not trained after {START_WAIT:.0f} s.")
        time.sleep(0.1)


def _build_reference(rows: Path, reference: Path) -> None:
    command = ["-m", "monitor", "reference", "build", str(rows), "-o", str(reference), "--model", "shelf-camera"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Failed(f"The reference could not be built:\n{done.stderr.strip()[-2000:]}")


@contextmanager
def _waiting(out: Console, words: str) -> Iterator[None]:
    began = time.monotonic()
    with out.status(f"{words} ...") if out.is_terminal else nullcontext():
        yield
    out.print(f"  {words}: {time.monotonic() - began:.1f} s")


class Told:
    """What the daemon tells everyone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = url.removeprefix("http://")
        self._decoder = msgspec.json.Decoder(Status)

    def look(self) -> ModelStatus | None:
        """The model's status; None while the daemon does not answer or has not seen the model."""
        connection = http.client.HTTPConnection(self._address, timeout=5.0)
        try:
            connection.request("GET", "/status", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            return None
        return next(iter(self._decoder.decode(body).models), None)


def _watch(out: Console, server: Child, daemon: Child, told: Told, diary: Diary, start: float) -> list[Noticed]:
    """Shows the story until it ends; returns what was noticed of it."""
    board = Board(told.url)
    played, ended_at, next_line = -1.0, None, 0.0
    with Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else nullcontext() as live:
        while True:
            daemon.ended()
            if server.ended() and ended_at is None:
                ended_at = time.monotonic()
            model = told.look()
            if model is not None and model.window_end is not None:
                second = model.window_end - start
                for since in starts_between(played, second):
                    announce(out, since)
                played = second
                for news in diary.read(model):
                    report(out, news, model.window_end)
                board.update(model, second)
            if live is not None:
                live.update(board.panel(), refresh=True)
            elif time.monotonic() >= next_line and played >= 0:
                out.print(board.line())
                next_line = time.monotonic() + LINE_EVERY
            if ended_at is not None and (played >= CYCLE or time.monotonic() > ended_at + END_WAIT):
                if played < CYCLE / 2:
                    raise Failed("The model server has played, but the daemon judged too little of it.")
                return diary.acts(CYCLE)
            time.sleep(LOOK)
