"""The model server of the story, in a process of its own: trains, records a reference, then serves and reports.

All it knows of the daemon is the address that takes its events, and what it needs to answer a request to retrain. Event
time runs `speed` times faster than the clock, and everything that happens in it, up to the last bit of noise, follows
from the seed, but for when the new version comes and which labels it learned.
"""

from __future__ import annotations

import argparse
import http.client
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np

from detectors.core import Floats
from monitor.demo.acts import ACTS, BURST, GAIN, LENGTH, LOST, NEW_SHARE, OFFSET, RATE, Scene, act_at
from monitor.demo.camera import Products, assortment, measure, shoot
from monitor.demo.committee import Committee
from monitor.demo.trainer import Keys, Trainer

MODEL = "shelf-camera"
TRAINING, COMMISSIONING = 4_000, 12_000  # pictures taken for either; the latter make ten minutes of service
PATIENCE = 60.0  # seconds of the clock to try again while the daemon does not answer, or stays behind
BEHIND = 120.0  # seconds of event time that the daemon may be behind before the camera waits for it: 3 s of the clock

_ACCEPTANCE, _SERVICE = 3, 4  # streams of pictures
_CAMERAS = np.array(["north-1", "north-2", "south-1", "south-2"])
_PATHS = np.array(["crop>classify", "crop>deskew>classify"])


class Unreachable(Exception):
    """The daemon did not take events for a minute; nothing to do but stop."""


class Burst(NamedTuple):
    """What was served in a stretch of event time, as JSON lines."""

    events: bytes  # what the daemon is told
    truths: bytes  # what nobody but the story's people knows: the event's id and time, version, answer and product


class Shelf:
    """The committee in service before its shelf: makes events for any stretch of event time.

    A picture follows from its event's id, so the shelf finds again what it once saw when somebody labels it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        training, self._shelf, self._new = assortment(seed)
        self._training = shoot(training, TRAINING, np.random.default_rng([seed, 2]))
        self._committee = self._trained(self._training)
        self.version = "1"

    def commission(self, start: float) -> Iterator[bytes]:
        """Event lines of acceptance, in bursts, ending at `start`: known products that no member was trained on.

        Training pictures themselves would make a dishonest reference: a model is surer of what it was trained on.
        """
        bursts = int(COMMISSIONING / RATE / BURST)
        for i in range(bursts):
            yield self.serve(start - (bursts - i) * BURST, Scene(), stream=_ACCEPTANCE, number=i).events

    def serve(self, since: float, scene: Scene, *, number: int, stream: int = _SERVICE) -> Burst:
        """The burst that begins at `since`, UTC seconds."""
        seen = self._pictures(scene, number, stream)
        rng = np.random.default_rng([self._seed, stream, number, 1])
        n = len(seen.labels)
        times = (since + np.sort(rng.random(n)) * BURST).round(3).tolist()
        features = measure(seen.pixels)
        lost = {LOST: np.full(n, np.nan)} if scene.lost else {}
        answers = self._committee.answer(seen.pixels, _matrix(features | lost))
        sent = [name for name in features if name not in lost]
        # Drawn, not measured: with event time at 60 times the clock a measured latency would mean nothing.
        latency = 0.008 * np.exp(0.3 * rng.standard_normal(n))
        ids = [f"{self._seed}-{stream}-{number}-{i}" for i in range(n)]
        columns = zip(
            ids,
            times,
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
        events = [
            {
                "id": name,
                "time": at,
                "model": MODEL,
                "version": self.version,
                "inputs": {"camera": camera, **dict(zip(sent, inputs, strict=True))},
                "outputs": {"label": _named(label), "scores": scores, "members": members, "embedding": hidden},
                "latency": seconds,
                "path": path,
            }
            for name, at, camera, inputs, label, scores, members, hidden, seconds, path in columns
        ]
        truths = [
            {"id": name, "time": at, "version": self.version, "answer": _named(answer), "truth": _named(truth)}
            for name, at, answer, truth in zip(
                ids, times, answers.labels.tolist(), seen.labels.tolist(), strict=True
            )
        ]  # fmt: skip
        return Burst(_lines(events), _lines(truths))

    def retrained(self, labels: Mapping[str, str]) -> tuple[Committee, float]:
        """A committee that learned these labels too, by event id, and its accuracy on what it learned.

        As the request recommends the new ones weigh together as much as the old ones, none more than 20 of those.
        Raises ValueError when there is none.
        """
        if not labels:
            raise ValueError("no label to learn from")
        parts = [self._training]
        weight = min(20, max(1, round(TRAINING / len(labels))))
        for number, rows in _by_burst(labels).items():
            pictures = self._pictures(ACTS[act_at(number * BURST)].scene, number, _SERVICE).pixels[list(rows)]
            parts += [Products(pictures, np.array([int(label) for label in rows.values()]))] * weight
        whole = Products(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        committee = self._trained(whole)
        right = committee.answer(whole.pixels, _matrix(measure(whole.pixels))).labels == whole.labels
        return committee, float(right.mean())

    def adopt(self, committee: Committee, version: str) -> None:
        """From the next burst on this one answers."""
        self._committee, self.version = committee, version

    def _trained(self, seen: Products) -> Committee:
        return Committee(seen.pixels, _matrix(measure(seen.pixels)), seen.labels, self._seed)

    def _pictures(self, scene: Scene, number: int, stream: int) -> Products:
        """What the camera saw in a burst."""
        rng = np.random.default_rng([self._seed, stream, number])
        n = int(RATE * BURST)
        seen = shoot(self._shelf, n, rng)
        if scene.new:
            new, at = shoot(self._new, n, rng), rng.random(n) < NEW_SHARE
            seen = Products(np.where(at[:, None], new.pixels, seen.pixels), np.where(at, new.labels, seen.labels))
        return Products(seen.pixels * GAIN + OFFSET, seen.labels) if scene.gain else seen


def _named(product: int) -> str:
    return f"product-{product}"


def _lines(values: Iterable[Any]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


def _by_burst(labels: Mapping[str, str]) -> dict[int, dict[int, str]]:
    """Products by the burst's number and the place in it; what the camera never saw is left out."""
    found: dict[int, dict[int, str]] = {}
    for name, label in labels.items():
        _, _, stream_number_place = name.partition("-")
        stream, number, place = (int(part) for part in stream_number_place.split("-"))
        if stream == _SERVICE:
            found.setdefault(number, {})[place] = label.removeprefix("product-")
    return found


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


class Clock:
    """Event time, `speed` times as fast as the clock, from the first burst on. It stands still while the daemon is far
    behind: on a slow machine the story takes longer, and is the same."""

    def __init__(self, speed: float, behind: Path) -> None:
        self._speed, self._behind = speed, behind
        self._began: float | None = None

    def start(self) -> None:
        """Now it is second 0, unless it has started."""
        self._began = self._began or time.monotonic()

    def wait(self, second: float) -> None:
        """Until it is so late. Raises Unreachable when the daemon does not catch up in a minute."""
        if self._began is None:
            return
        time.sleep(max(0.0, self._began + second / self._speed - time.monotonic()))
        stood = time.monotonic()
        while self._lag() > BEHIND:
            if time.monotonic() - stood > PATIENCE:
                raise Unreachable(f"it is {self._lag():.0f} s of event time behind, and stays it")
            time.sleep(0.1)
        self._began += time.monotonic() - stood

    def _lag(self) -> float:
        try:
            return float(self._behind.read_bytes() or 0.0)
        except FileNotFoundError:
            return 0.0


def _write_whole(path: Path, lines: Iterator[bytes]) -> None:
    """A reader that finds the file finds all of it."""
    half = path.with_suffix(".part")
    with half.open("wb") as file:
        file.writelines(lines)
    half.rename(path)


def main() -> None:
    """Trains, records, serves: `python -m monitor.demo.server --rows FILE --url URL --start SECONDS ...`."""
    parser = argparse.ArgumentParser(prog="monitor.demo.server", description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="where to write the commissioning events")
    parser.add_argument("--truths", type=Path, required=True, help="where to write what the pictures show")
    parser.add_argument(
        "--behind", type=Path, required=True, help="who watches writes here how far the daemon is behind"
    )
    parser.add_argument("--url", required=True, help="the daemon's address")
    parser.add_argument("--port", type=int, required=True, help="where requests to retrain are taken")
    parser.add_argument("--keys", type=Path, required=True, help="JSON file: the daemon's token and signing secret")
    parser.add_argument("--start", type=float, required=True, help="event time of the first act, UTC seconds")
    parser.add_argument("--speed", type=float, default=40.0, help="seconds of event time a second of the clock")
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    shelf = Shelf(said.seed)
    _write_whole(said.rows, shelf.commission(said.start))
    keys = msgspec.json.decode(said.keys.read_bytes(), type=Keys)
    with (
        closing(Daemon(said.url)) as daemon,
        Trainer(shelf.retrained, shelf.adopt, said.url, said.port, keys) as trainer,
    ):
        _serve_acts(shelf, daemon, trainer, said.truths, said.start, Clock(said.speed, said.behind))


def _serve_acts(shelf: Shelf, daemon: Daemon, trainer: Trainer, truths: Path, start: float, clock: Clock) -> None:
    with truths.open("ab") as known:
        for number in range(int(LENGTH / BURST)):
            second = number * BURST
            trainer.deploy()
            burst = shelf.serve(start + second, ACTS[act_at(second)].scene, number=number)
            clock.wait(second)
            known.write(burst.truths)
            known.flush()  # before the event, or a labeler could be asked what nobody knows yet
            daemon.post(burst.events)
            clock.start()  # once the daemon has taken its first burst


if __name__ == "__main__":
    main()
