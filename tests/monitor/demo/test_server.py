from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from detectors.core import Floats
from monitor.demo.acts import BURST, GAIN, LOST, OFFSET, RATE, Scene
from monitor.demo.camera import assortment, measure, shoot
from monitor.demo.server import BEHIND, Clock, Daemon, Shelf, Unreachable

START = 1_000_000.0


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf(seed=0)


def events(lines: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in lines.splitlines()]


def entropy(served: list[dict[str, Any]]) -> Floats:
    scores = np.array([event["outputs"]["scores"] for event in served])
    return np.asarray(-(scores * np.log(scores + 1e-12)).sum(axis=1))


def test_all_follows_from_the_seed(shelf: Shelf) -> None:
    again = Shelf(seed=0)
    assert again.serve(START, Scene(new=True), number=7) == shelf.serve(START, Scene(new=True), number=7)
    assert shelf.serve(START, Scene(), number=8) != shelf.serve(START, Scene(), number=7)


def test_a_burst_fills_its_stretch_of_event_time_in_order(shelf: Shelf) -> None:
    times = [event["time"] for event in events(shelf.serve(START, Scene(), number=1).events)]
    assert len(times) == RATE * BURST
    assert times == sorted(times)
    assert START <= times[0] < times[-1] <= START + BURST


def test_the_model_is_good_at_what_it_knows_and_its_doubt_is_honest(shelf: Shelf) -> None:
    accepted = [event for i, lines in enumerate(shelf.commission(START)) if i < 10 for event in events(lines)]
    served = [event for n in range(10) for event in events(shelf.serve(START, Scene(), number=n).events)]
    known, lately = entropy(accepted), entropy(served)
    standard_error = np.hypot(known.std(), lately.std()) / np.sqrt(len(known))
    assert abs(known.mean() - lately.mean()) < 4 * standard_error
    assert not {event["id"] for event in accepted} & {event["id"] for event in served}
    assert lately.mean() < 0.5  # of at most log 8 = 2.08


def test_products_never_seen_leave_the_committee_in_doubt(shelf: Shelf) -> None:
    calm = entropy(events(shelf.serve(START, Scene(), number=1).events))
    new = entropy(events(shelf.serve(START, Scene(new=True), number=1).events))
    assert new.mean() > calm.mean() + calm.std() / 2


def test_the_lost_feature_is_lost_and_answers_keep_coming(shelf: Shelf) -> None:
    calm = events(shelf.serve(START, Scene(), number=1).events)
    lost = events(shelf.serve(START, Scene(lost=True), number=1).events)
    assert all(LOST not in event["inputs"] for event in lost)
    assert all(LOST in event["inputs"] for event in calm)
    same = [a["outputs"]["label"] == b["outputs"]["label"] for a, b in zip(calm, lost, strict=True)]
    assert np.mean(same) > 0.9


def test_the_gain_is_an_affine_change_that_clips_nothing() -> None:
    _, products, _ = assortment(seed=0)
    pixels = shoot(products, 500, np.random.default_rng(0)).pixels
    healthy, changed = measure(pixels), measure(pixels * GAIN + OFFSET)
    for name in ("brightness", "darkest", "brightest", "row_1", "column_8"):
        assert changed[name] == pytest.approx(healthy[name] * GAIN + OFFSET)
    assert np.quantile(pixels * GAIN + OFFSET, 0.999) < 1.0


def test_training_products_and_the_shelf_share_no_picture() -> None:
    training, products, new = assortment(seed=0)
    assert not {p.tobytes() for p in training.pixels} & {p.tobytes() for p in products.pixels}
    assert set(new.labels.tolist()) == {8, 9}
    assert set(training.labels.tolist()) == set(products.labels.tolist()) == set(range(8))


class _Intake(BaseHTTPRequestHandler):
    answers: ClassVar[list[int]]
    bodies: ClassVar[list[bytes]]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.answers.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        pass


@pytest.fixture
def intake() -> Iterator[tuple[str, type[_Intake]]]:
    class Handler(_Intake):
        answers: ClassVar[list[int]] = []
        bodies: ClassVar[list[bytes]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler
        server.shutdown()
        thread.join()


def test_a_burst_that_is_not_taken_is_posted_again(intake: tuple[str, type[_Intake]]) -> None:
    url, handler = intake
    handler.answers += [503, 202]
    with closing(Daemon(url)) as daemon:
        daemon.post(b"line\n")
    assert handler.bodies == [b"line\n", b"line\n"]


def test_a_refusal_is_not_tried_again(intake: tuple[str, type[_Intake]]) -> None:
    url, handler = intake
    handler.answers += [413, 202]
    with closing(Daemon(url)) as daemon, pytest.raises(Unreachable, match="413"):
        daemon.post(b"line\n")
    assert len(handler.bodies) == 1


def test_the_camera_waits_for_a_daemon_that_falls_behind(tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    clock = Clock(1e6, behind)
    clock.wait(1e9)  # before the first burst there is nothing to wait for
    clock.start()
    clock.wait(10.0)
    behind.write_text(f"{BEHIND + 1}")
    waiting = threading.Thread(target=clock.wait, args=(20.0,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    behind.write_text("0.0")
    waiting.join(10.0)
    assert not waiting.is_alive()


def test_a_daemon_that_does_not_catch_up_ends_the_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.demo.server.PATIENCE", 0.2)
    behind = tmp_path / "behind"
    behind.write_text(f"{BEHIND + 1}")
    clock = Clock(1e6, behind)
    clock.start()
    with pytest.raises(Unreachable, match="behind"):
        clock.wait(10.0)
