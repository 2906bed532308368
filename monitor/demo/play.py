"""Plays the story in the foreground: starts the model server and the daemon, shows what the daemon says, stops both.

Each is a process of its own. What is shown comes from the daemon's `/status`, nothing from inside.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from monitor.demo.acts import BURST, LENGTH, RATE, act_at, starts_between
from monitor.demo.api import Api, Refused
from monitor.demo.diary import ModelStatus, Status
from monitor.demo.screen import Board, announce, report, summary, tell
from monitor.demo.staff import LABELERS, Labelers, OnCall, Truths
from monitor.demo.story import Story

SPEED = 40.0  # seconds of event time a second of the clock: what half a core of an older machine keeps up with
LOOK = 0.25  # seconds of the clock between two looks at /status
START_WAIT = 90.0  # seconds until training and the reference must be done; they take 8 on one free core
END_WAIT = 60.0  # seconds after the last event for the last windows to be judged; they close 5 after
SCRIPTED, COURTESY = 1.0, 8.0  # seconds of the clock before the script rules: alone, and where someone watches
_LABELERS = tuple(f"labeler-{i + 1}" for i in range(LABELERS))
LINE_EVERY = 10.0  # seconds between two status lines where there is no terminal

_CONFIG = """\
# The daemon of `driftd demo`. What is not said here is the default; `driftd config example` shows everything.
sources:
  - kind: http        # events come by POST /v1/events
web:
  port: {port}
  people: {people}
state: {{path: {home}/state}}
models:
  - name: shelf-camera
    reference: {{path: {home}/reference}}
    # An hour passes in a minute here, so what is thought of by the hour elsewhere is thought of by the minute.
    sampling: {{per_hour: 1200, most: 15}}
    accuracy: {{span: 5m, patience: 5m}}
    retraining:
      mode: automatic
      every: 1m
      price: {{retrain: 300}}
      # no second request within the story: with 20 labels a minute luck alone may look like a fall worth 300
      gates: {{labels: 100, per_class: 55, new_class: 55, cool_down: 90m}}
retraining_targets:
  - {{kind: webhook, url: "http://127.0.0.1:{trainer}/", secrets: ["{signing}"]}}
"""


class Failed(Exception):
    """The story cannot go on; the text says which part stopped and what it said last."""


def play(*, once: bool, seed: int = 0, speed: float = SPEED, console: Console | None = None) -> int:
    """Plays the acts until stopped, or once; event time runs `speed` times faster than the clock.

    Returns the process's exit code: 0 when all acts were noticed and calm was calm (or the user stopped an endless
    play), 1 when not or when a part of it failed, 130 when the user stopped a play that was to be once.
    """
    out = console or Console(highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number in count(seed):
        home = Path(tempfile.mkdtemp(prefix="driftd-demo-"))
        try:
            story = _play(out, home, once=once, seed=number, speed=speed)
        except KeyboardInterrupt:
            out.print("\nStopped.")
            shutil.rmtree(home, ignore_errors=True)
            return 130 if once else 0
        except Failed as failure:
            out.print(Text(str(failure), "bold red"), soft_wrap=True)
            out.print(f"Everything it wrote is kept in {home}", soft_wrap=True)
            return 1
        out.print(summary(story))
        failed = bool(story.failures())
        if failed:
            out.print(f"Everything it wrote is kept in {home}", soft_wrap=True)
        else:
            shutil.rmtree(home, ignore_errors=True)
        if once:
            return int(failed)
    raise AssertionError


def _play(out: Console, home: Path, *, once: bool, seed: int, speed: float) -> Story:
    port, trainer = _free_port(), _free_port()
    url = f"http://127.0.0.1:{port}"
    start = float(int(time.time() - LENGTH) // 60 * 60)
    rows, truths, behind, config, keys = (
        home / name for name in ("commissioning.jsonl", "truths.jsonl", "behind", "driftd.yaml", "keys.json")
    )
    tokens = {name: secrets.token_urlsafe(24) for name in ("on-call", "trainer", *_LABELERS)}
    signing = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    keys.touch(0o600)
    keys.write_bytes(msgspec.json.encode({"token": tokens["trainer"], "secret": signing}))
    config.touch(0o600)
    config.write_text(_CONFIG.format(port=port, trainer=trainer, home=home, people=_people(tokens), signing=signing))
    truths.touch()
    serve = [
        "monitor.demo.server", "--rows", str(rows), "--truths", str(truths), "--keys", str(keys), "--url", url,
        "--behind", str(behind), "--port", str(trainer), "--start", str(start), "--speed", str(speed),
        "--seed", str(seed),
    ]  # fmt: skip
    out.print("[bold]The shelf camera[/]: a camera, a model of three members, and driftd beside them.")
    out.print(f"An event minute takes {60 / speed:.3g} s of yours. Configuration: {config}\n", soft_wrap=True)
    address = f"127.0.0.1:{port}"
    known = Truths(truths)
    on_call = OnCall(Api(address, tokens["on-call"]), SCRIPTED if once else COURTESY)
    with _running("model server", serve, home) as server:
        with _waiting(out, "training the committee on the products 0 to 7"):
            _await(server, rows)
        with _waiting(out, "building the reference: driftd reference build"):
            _build_reference(rows, home / "reference")
        with (
            _running("daemon", ["monitor", "run", "-c", str(config)], home) as daemon,
            Labelers([Api(address, tokens[name]) for name in _LABELERS], known) as labelers,
        ):
            try:
                return _watch(out, server, daemon, Told(url), Story(start, known, on_call, labelers), behind)
            finally:
                server.stop()  # before the daemon, which then drains what it was given


def _people(tokens: Mapping[str, str]) -> str:
    """Who may do what, as YAML in one line."""
    rights = {"on-call": ["verdict"], "trainer": ["retrain"]}
    found = [{"name": name, "token": token, "may": rights.get(name, ["label"])} for name, token in tokens.items()]
    return msgspec.json.encode(found).decode()


class Child:
    """A module that runs in a process of its own, its output in a file. It ends with us, even where we are killed."""

    def __init__(self, name: str, arguments: list[str], home: Path) -> None:
        self.name = name
        self._log = home / f"{name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we stop the parts in their order.
            # One thread of arithmetic: more would fight on two cores, and a sum's last bit would depend on how many.
            self._process = subprocess.Popen(  # noqa: S603  # our own modules
                [sys.executable, "-m", "monitor.demo.bound", *arguments],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
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
        if self._process.stdin is not None:  # not before: the daemon would take it for a second signal, and hurry
            self._process.stdin.close()


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
        self._daemon = Api(url.removeprefix("http://"))
        self._decoder = msgspec.json.Decoder(Status)
        self.behind = 0.0  # seconds of event time that it was behind when it answered last

    def look(self) -> ModelStatus | None:
        """The model's status; None while the daemon does not answer or has not seen the model."""
        try:
            said = self._decoder.decode(self._daemon.ask("GET", "/status"))
        except (OSError, Refused):
            return None
        self.behind = said.daemon.lag_records / RATE + said.daemon.backlog * BURST
        return next(iter(said.models), None)


def _watch(out: Console, server: Child, daemon: Child, told: Told, story: Story, behind: Path) -> Story:
    """Shows the story until it ends; returns it. The camera reads in `behind` how many seconds the daemon is."""
    board = Board(told.url)
    played, ended_at, next_line = -1.0, None, 0.0
    with Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else nullcontext() as live:
        while True:
            daemon.ended()
            if server.ended() and ended_at is None:
                ended_at = time.monotonic()
            model = told.look()
            behind.with_suffix(".part").write_text(str(told.behind))
            behind.with_suffix(".part").rename(behind)
            if model is not None and model.window_end is not None:
                second = model.window_end - story.start
                for since in starts_between(played, second):
                    announce(out, since)
                played = second
                news, deeds = story.read(model, act_at(max(second - 1.0, 0.0)))
                for one in news:
                    report(out, one, model.window_end)
                for deed in deeds:
                    tell(out, deed)
                board.update(model, second)
            if live is not None:
                live.update(board.panel(), refresh=True)
            elif time.monotonic() >= next_line and played >= 0:
                out.print(board.line())
                next_line = time.monotonic() + LINE_EVERY
            if ended_at is not None and (played >= LENGTH or time.monotonic() > ended_at + END_WAIT):
                if played < LENGTH / 2:
                    raise Failed("The model server has played, but the daemon judged too little of it.")
                return story
            time.sleep(LOOK)
