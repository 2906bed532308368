"""What the daemon takes from the machine: start, resident memory with a 60-column model, growth, idle CPU, delay.

A real daemon process on its embedded default takes events of `hot_path` by HTTP. Memory is VmRSS of the process. Delay
is from the end of a base window to its figures on /status, on a live stream of 100 events a second: an event waits at
most one base window more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.hot_path import events, make_reference

RIVER: list[dict[str, object]] = [
    {"detector": {"kind": "adwin"}, "columns": ["*"]},
    {"detector": {"kind": "page_hinkley"}, "columns": ["*"]},
]


class Daemon:
    """A daemon process and what the kernel says of it."""

    def __init__(
        self, folder: Path, reference: Path | None, window: str, checks: list[dict[str, object]] | None
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        model: dict[str, object] = {"name": "bench"}
        if reference is not None:
            model["reference"] = {"path": str(reference)}
        if checks is not None:
            model["checks"] = checks
        config = folder / "driftd.yaml"
        config.write_text(
            json.dumps(
                {
                    "models": [model],
                    "window": {"size": window},
                    "state": {"path": str(folder / "state")},
                    "web": {"port": self.port},
                    "log": {"level": "error"},
                }
            )
        )
        began = time.monotonic()
        self.process = subprocess.Popen([sys.executable, "-m", "monitor", "run", "-c", str(config)])
        while True:
            try:
                self.get("/readyz")
                break
            except OSError:
                if time.monotonic() - began > 60:
                    raise
                time.sleep(0.02)
        self.started = time.monotonic() - began

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            data: bytes = answer.read()
        return data

    def post(self, lines: list[bytes]) -> None:
        """Waits where the intake is full, as a sender would."""
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/v1/events", b"\n".join(lines), {"content-type": "application/x-ndjson"}
            )
            try:
                urllib.request.urlopen(request, timeout=60).close()
                return
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.5)

    def judged(self) -> dict[str, float]:
        models = json.loads(self.get("/status"))["models"]
        found: dict[str, float] = models[0]
        return found

    @property
    def resident(self) -> float:
        """MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def cpu(self) -> float:
        """Seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    reference: Path | None, window: str = "10s", checks: list[dict[str, object]] | None = None
) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder), reference, window, checks)
        try:
            yield daemon
        finally:
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.wait(60)


def memory(reference: Path, n: int, checks: list[dict[str, object]] | None) -> list[float]:
    """MB after a tenth of the events, and after each further tenth."""
    found: list[float] = []
    with running(reference, checks=checks) as daemon:
        lines: list[bytes] = []
        sent = 0
        for line in events(n, seed=1):
            lines.append(line)
            if len(lines) == 2000:
                daemon.post(lines)
                sent += len(lines)
                lines = []
                if sent % max(2000, n // 10 // 2000 * 2000) == 0:
                    while daemon.judged()["events"] < sent - 4000:
                        time.sleep(0.2)
                    found.append(daemon.resident)
    return found


def idle(reference: Path, seconds: float) -> tuple[float, float]:
    """Start in seconds; share of a core while nothing comes."""
    with running(reference) as daemon:
        time.sleep(2)
        before, at = daemon.cpu, time.monotonic()
        time.sleep(seconds)
        return daemon.started, (daemon.cpu - before) / (time.monotonic() - at)


def delays(reference: Path, seconds: float, window: float) -> list[float]:
    """Seconds from the end of each base window to its figures on /status."""
    found: list[float] = []
    with running(reference, window=f"{window:g}s") as daemon:
        source, seen, until = events(100_000, seed=3), 0.0, time.time() + seconds
        while (now := time.time()) < until:
            lines = []
            for _ in range(5):
                event = json.loads(next(source))
                event["time"] = now
                lines.append(json.dumps(event).encode())
            daemon.post(lines)
            end = daemon.judged()["window_end"]
            if end and end > seen:
                found.append(time.time() - end)
                seen = end
            time.sleep(max(0.0, 0.05 - (time.time() - now)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="5000000 for the soak")
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        make_reference(reference)
        started, share = idle(reference, given.seconds / 2)
        print(f"start to ready {started:.2f} s (goal 2); idle {100 * share:.2f} % of a core (goal 1)")
        kinds: list[tuple[str, list[dict[str, object]] | None, int]] = [
            ("default checks", None, 110),
            ("with river's detectors", RIVER, 150),
        ]
        for name, checks, goal in kinds:
            sizes = memory(reference, given.events, checks)
            print(
                f"resident memory, 60 columns, {name}: {sizes[-1]:.0f} MB after {given.events:,} events (goal {goal}), "
                f"{sizes[-1] - sizes[len(sizes) // 2]:+.1f} MB over their second half"
            )
        late = sorted(delays(reference, given.seconds, 1.0))
        worst = late[min(len(late) - 1, int(0.99 * len(late)))]
        print(
            f"window end to /status: median {late[len(late) // 2]:.2f} s, p99 {worst:.2f} s over {len(late)} windows "
            "of 1 s (goal: under 1 s, so an event shows within a base window and 1 s)"
        )


if __name__ == "__main__":
    main()
