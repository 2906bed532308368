"""A server process of a test's own: started on loopback, waited for, ended by its pid and by nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self


class ServerFailed(AssertionError):
    """The server ended or did not answer in time; the message holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that the kernel says is free. Somebody else may take it before we do; starting fails then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], seconds: float, what: str, pause: float = 0.05) -> None:
    """Ask `ready` until it says yes; raises TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


class Server:
    """One server that can be started, stopped, killed and started again on the same port and the same data.

    `ready` is asked until it says yes, for `patience` seconds; an OSError from it means not yet.
    Its standard output and error go to `<directory>/<name>.log`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        directory: Path,
        ready: Callable[[], bool],
        patience: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._command = [str(part) for part in command]
        self._directory = directory
        self._ready = ready
        self._patience = patience
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        """Start and return once it answers; nothing to do if it runs. Raises ServerFailed."""
        if self.alive:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops us in order
            )
        try:
            wait_until(self._answers, self._patience, f"{self.name} to answer")
        except TimeoutError as error:
            self.kill()
            raise ServerFailed(f"{error}\n{self._tail()}") from None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, patience: float = 15) -> int | None:
        """End it in order (SIGTERM), by force after `patience` seconds; its exit code, None if it did not run."""
        return self._end(signal.SIGTERM, patience)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL); it has no chance to save anything."""
        self._end(signal.SIGKILL, 15)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _answers(self) -> bool:
        if not self.alive:
            raise ServerFailed(f"{self.name} ended by itself\n{self._tail()}")
        with contextlib.suppress(OSError):
            return self._ready()
        return False

    def _end(self, how: signal.Signals, patience: float) -> int | None:
        if self._process is None:
            return None
        self._process.send_signal(how)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError):  # what it started and left behind, in the session that is its own
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.returncode
        self._process = None
        return code

    def _tail(self, lines: int = 40) -> str:
        """The end of the log, for the message of a failure."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- the end of {self.log.name} of {len(text)} lines", *text[-lines:]])
