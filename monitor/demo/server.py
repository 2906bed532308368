"""The model server of the story, in a process of its own: trains, records a reference, then serves and reports.

All it knows of the daemon is the address that takes its events. Event time runs `speed` times faster than the clock,
and everything that happens in it, up to the last bit of noise, follows from the seed.
"""

from __future__ import annotations

import argparse
import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

from detectors.core import Floats
from monitor.demo.acts import ACTS, CYCLE, GAIN, LOST, OFFSET, UNSEEN_SHARE, Trouble, act_at
from monitor.demo.camera import Products, assortment, measure, shoot
from monitor.demo.committee import Committee

MODEL = "shelf-camera"
RATE = 20  # events a second of event time
BURST = 10.0  # seconds of event time a request to the daemon carries
TRAINING, COMMISSIONING = 4_000, 12_000  # pictures taken for either; the latter make ten minutes of service
PATIENCE = 60.0  # seconds of the clock to try again while the daemon does not answer

_CAMERAS = np.array(["north-1", "north-2", "south-1", "south-2"])
_PATHS = np.array(["crop>classify", "crop>deskew>classify"])


class Unreachable(Exception):
    """The daemon did not take events for a minute; nothing to do but stop."""


class Shelf:
    """The trained committee before its shelf: makes events for any stretch of event time."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        training, self._shelf, self._new = assortment(seed)
        shots = shoot(training, TRAINING, np.random.default_rng([seed, 2]))
        self._committee = Committee(shots.pixels, _matrix(measure(shots.pixels)), shots.labels, seed)

    def commission(self, start: float) -> Iterator[bytes]:
        """Event lines of acceptance, in bursts, ending at `start`: known products that no member was trained on.

        Training pictures themselves would make a dishonest reference: a model is surer of what it was trained on.
        """
        bursts = int(COMMISSIONING / RATE / BURST)
        for i in range(bursts):
            yield self.serve(start - (bursts - i) * BURST, Trouble.NONE, stream=3, number=i)

    def serve(self, since: float, trouble: Trouble, *, number: int, stream: int = 4) -> bytes:
        """The event lines of one burst that begins at `since`, UTC seconds."""
        rng = np.random.default_rng([self._seed, stream, number])
        n = int(RATE * BURST)
        times = since + np.sort(rng.random(n)) * BURST
        seen = self._pictures(n, trouble, rng)
        features = measure(seen.pixels)
        lost = {LOST: np.full(n, np.nan)} if trouble is Trouble.MISSING else {}
        answers = self._committee.answer(seen.pixels, _matrix(features | lost))
        sent = [name for name in features if name not in lost]
        # Drawn, not measured: with event time at 60 times the clock a measured latency would mean nothing.
        latency = 0.008 * np.exp(0.3 * rng.standard_normal(n))
        columns = zip(
            times.round(3).tolist(),
            _CAMERAS[rng.choice(len(_CAMERAS), n, p=[0.4, 0.3, 0.2, 0.1])].tolist(),
            _matrix({name: features[name] for name in sent}).round(5).tolist(),
            answers.labels.tolist(),
            answers.scores.round(5).tolist(),
            answers.members.round(5).tolist(),
            answers.embedding.round(4).tolist(),
            latency.round(5).tolist(),
            _PATHS[(rng.random(n) < 0.2).astype(int)].tolist(),
            strict=True,
        )
        return b"".join(
            msgspec.json.encode(
                {
                    "id": f"{self._seed}-{stream}-{number}-{i}",
                    "time": at,
                    "model": MODEL,
                    "version": "1",
                    "inputs": {"camera": camera, **dict(zip(sent, inputs, strict=True))},
                    "outputs": {"label": f"product-{label}", "scores": scores, "members": members, "embedding": hidden},
                    "latency": seconds,
                    "path": path,
                }
            )
            + b"\n"
            for i, (at, camera, inputs, label, scores, members, hidden, seconds, path) in enumerate(columns)
        )

    def _pictures(self, n: int, trouble: Trouble, rng: np.random.Generator) -> Products:
        usual = shoot(self._shelf, n, rng)
        if trouble is Trouble.GAIN:
            return Products(usual.pixels * GAIN + OFFSET, usual.labels)
        if trouble is Trouble.UNSEEN:
            new, at = shoot(self._new, n, rng), rng.random(n) < UNSEEN_SHARE
            return Products(np.where(at[:, None], new.pixels, usual.pixels), np.where(at, new.labels, usual.labels))
        return usual


def _matrix(features: dict[str, Floats]) -> Floats:
    return np.column_stack(list(features.values()))


class Daemon:
    """The address that takes events. A burst is posted again until it is taken, as any careful client does."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=10.0)

    def post(self, lines: bytes) -> None:
        """Raises Unreachable after a minute without success, or at once when the daemon refuses the events."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._connection.request("POST", "/v1/events", lines, {"Content-Type": "application/x-ndjson"})
                answer = self._connection.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # opens anew at the next request
                status, said = 0, str(error).encode()
            else:
                status = answer.status
            if 200 <= status < 300:
                return
            if 400 <= status < 500 or time.monotonic() > until:
                raise Unreachable(f"status {status}: {said[:200].decode(errors='replace')}")
            time.sleep(0.25)

    def close(self) -> None:
        self._connection.close()


def _write_whole(path: Path, lines: Iterator[bytes]) -> None:
    """A reader that finds the file finds all of it."""
    half = path.with_suffix(".part")
    with half.open("wb") as file:
        file.writelines(lines)
    half.rename(path)


def main() -> None:
    """Trains, records, serves: `python -m monitor.demo.server --rows FILE --url URL --start SECONDS`."""
    parser = argparse.ArgumentParser(prog="monitor.demo.server", description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="where to write the commissioning events")
    parser.add_argument("--url", required=True, help="the daemon's address")
    parser.add_argument("--start", type=float, required=True, help="event time of the first act, UTC seconds")
    parser.add_argument("--speed", type=float, default=60.0, help="seconds of event time a second of the clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", action="store_true", help="stop after one cycle of the acts")
    said = parser.parse_args()
    shelf = Shelf(said.seed)
    _write_whole(said.rows, shelf.commission(said.start))
    with closing(Daemon(said.url)) as daemon:
        _serve_acts(shelf, daemon, said.start, said.speed, once=said.once)


def _serve_acts(shelf: Shelf, daemon: Daemon, start: float, speed: float, *, once: bool) -> None:
    began: float | None = None
    for number in count():
        second = number * BURST
        if once and second >= CYCLE:
            return
        lines = shelf.serve(start + second, ACTS[act_at(second)].trouble, number=number)
        if began is not None:
            time.sleep(max(0.0, began + second / speed - time.monotonic()))
        daemon.post(lines)
        began = began or time.monotonic()  # the story's clock starts when the daemon has taken its first burst


if __name__ == "__main__":
    main()
