"""The child that scores: loaded, killed, hung, grown too large, replaced. Real processes, one start of torch each."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from detectors.core import Batch, Floats, from_columns, number
from monitor.committee.host import Host
from monitor.committee.options import CommitteeOptions
from monitor.config import parse
from monitor.diagnose import diagnose
from monitor.metrics import Meters
from monitor.settings import Refused
from tests.monitor.committees import CLASSES, INPUTS, NAMES, digest, file, member, network, put
from tests.services.process import wait_until

pytestmark = pytest.mark.timeout(300)  # a start of torch takes 5 s, and 15 on a busy machine
WIDTH = len(NAMES) * CLASSES
COLUMNS = [f"x{i}" for i in range(INPUTS)]


@pytest.fixture
def models(torch: Any, tmp_path: Path) -> Path:
    for name in NAMES:
        put(tmp_path / name, file(torch, name))
    return tmp_path


class Tried(Host):
    """A host with its meters at hand."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.meters = Meters()
        said = {"members": [member(str(directory / name)) for name in NAMES], "inputs": COLUMNS, **options}
        super().__init__("m", msgspec.convert(said, CommitteeOptions), directory / "cache", self.meters)

    def members(self, rows: Batch) -> Floats:
        found: Floats = self.score(rows, {"width": WIDTH})["members"].values
        return found

    def count(self, name: str) -> float:
        return self.meters.value(f"driftd_committee_{name}")


@pytest.fixture
def host(models: Path) -> Iterator[Callable[..., Tried]]:
    made: list[Tried] = []

    def start(**options: Any) -> Tried:
        made.append(Tried(models, **options))
        made[-1].open()
        return made[-1]

    yield start
    for one in made:
        one.close()


def rows(n: int = 40, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return from_columns({name: number(rng.normal(size=n)) for name in COLUMNS})


def children() -> list[int]:
    """Processes of ours that score."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and b"monitor.committee" in command:
            found.append(int(path.parent.name))
    return found


def test_a_killed_child_costs_its_batch_and_comes_back_with_the_same_answers(host: Callable[..., Tried]) -> None:
    committee = host()
    committee.watch()
    before = committee.members(rows())
    assert np.isfinite(before).all()
    [child] = children()
    os.kill(child, signal.SIGKILL)
    started = time.monotonic()
    assert np.isnan(committee.members(rows())).all()
    assert time.monotonic() - started < 1.0
    assert committee.count("missed_events_total") == 40
    wait_until(lambda: committee.count("up") == 1, 120, "the committee to come back")
    assert (committee.members(rows()) == before).all()
    committee.close()
    assert not children()


def test_a_row_that_lacks_an_input_has_no_members(host: Callable[..., Tried]) -> None:
    batch = rows()
    batch["x1"].values[3] = np.nan
    assert np.flatnonzero(np.isnan(host().members(batch)).any(axis=1)).tolist() == [3]


def test_members_that_events_bring_are_left_alone(models: Path) -> None:
    batch = rows()
    batch.columns["members"] = number(np.zeros(40))
    assert Tried(models).score(batch, {"width": WIDTH}) == {}


def test_a_new_digest_beside_the_file_brings_the_new_model_without_a_gap(
    torch: Any, models: Path, host: Callable[..., Tried]
) -> None:
    committee = host(poll=1.0)
    committee.watch()
    before = committee.members(rows())
    put(models / "b.safetensors", file(torch, "b.safetensors", seed=1))

    def changed() -> bool:
        answers = committee.members(rows())
        assert np.isfinite(answers).all()
        return bool((answers != before).any())

    wait_until(changed, 120, "the new model to take over")
    answers = committee.members(rows())
    assert (answers[:, :CLASSES] == before[:, :CLASSES]).all()
    assert len(children()) == 1
    with torch.inference_mode():
        given = torch.tensor(np.stack([rows()[name].values for name in COLUMNS], axis=1), dtype=torch.float32)
        wanted = torch.softmax(network(torch, "b.safetensors", seed=1)(given), 1).numpy()
    assert answers[:, CLASSES : 2 * CLASSES] == pytest.approx(wanted, abs=1e-6)


def test_a_file_that_cannot_be_used_leaves_the_old_committee_at_work(
    torch: Any, models: Path, host: Callable[..., Tried]
) -> None:
    limits = {"file": 1 << 20}
    committee = host(poll=1.0, limits=limits)
    committee.watch()
    before = committee.members(rows())
    path, beside, good = models / "c.pt", models / "c.pt.sha256", file(torch, "c.pt", seed=1)

    def changed() -> None:
        beside.write_text(digest(good))
        path.write_bytes(good[:-1] + b"x")

    def gone() -> None:
        beside.write_text(digest(good))
        path.unlink()

    spoiled: dict[str, Callable[[], object]] = {
        "wrong_digest": changed,
        "missing": gone,
        "no_digest": lambda: beside.write_text("<html>"),
        "too_large": lambda: put(path, good + bytes(1 << 20)),
        "pickle": lambda: put(path, pickle.dumps({"weight": [1.0]})),
    }
    for cause, spoil in spoiled.items():
        spoil()
        labels = {"model": "m", "cause": cause}
        counted = partial(committee.meters.registry.get_sample_value, "driftd_committee_refused_total", labels)
        wait_until(lambda counted=counted: counted() is not None, 120, f"{cause} to be counted")  # type: ignore[misc]
        assert (committee.members(rows()) == before).all()
    restarted = host(limits=limits)
    assert (restarted.members(rows()) == before).all()
    assert restarted.count("refused_total") == 1


def test_a_committee_that_cannot_be_had_is_told_by_the_check_of_outside_parts(tmp_path: Path) -> None:
    path = str(tmp_path / "gone.pt2")
    committee = {"members": [{"path": path, "sha256": "0" * 64}], "inputs": ["x"], "dropout": {}}
    config = parse(json.dumps({"models": [{"committee": committee}], "state": {"path": str(tmp_path)}}))
    [found] = [part for part in diagnose(config) if part.part == "committee of model ''"]
    assert (found.ok, found.what) == (False, f"{path}: No such file or directory")


def test_a_pinned_file_is_the_pinned_one_or_none(torch: Any, models: Path, host: Callable[..., Tried]) -> None:
    pinned = [member(str(models / "a.pt2"), sha256=digest(file(torch, "a.pt2", seed=7))), member(str(models / "c.pt"))]
    committee = host(members=pinned)
    assert committee.count("up") == 0
    assert committee.score(rows(), None) == {}
    (models / "a.pt2").write_bytes(file(torch, "a.pt2", seed=7))
    committee = host(members=pinned)
    assert np.isfinite(committee.score(rows(), None)["members"].values).all()


HANG = """
import torch, time
class Slow(torch.nn.Linear):
    def forward(self, rows):
        if rows[0, 0] > 100:
            time.sleep(60)
        return super().forward(rows)
class Large(torch.nn.Linear):
    def forward(self, rows):
        if rows[0, 0] > 100:
            torch.ones(1 << 30)
        return super().forward(rows)
"""


@pytest.mark.parametrize("name", ["Slow", "Large"])
def test_a_batch_that_hangs_or_swells_the_child_ends_it_and_not_the_stream(
    torch: Any, models: Path, host: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (models / "odd_networks.py").write_text(HANG)
    monkeypatch.syspath_prepend(models)
    put(models / "odd.pt", _saved(torch, torch.nn.Linear(INPUTS, CLASSES)))
    arguments = {"in_features": INPUTS, "out_features": CLASSES}
    odd = {"kind": "own", "name": f"odd_networks:{name}", "inputs": INPUTS, "options": arguments}
    committee = host(
        members=[member(str(models / "c.pt")), {"path": str(models / "odd.pt"), "architecture": odd}],
        limits={"batch": 1.0, "memory": 2 << 30},
    )
    committee.watch()
    good = committee.score(rows(), None)["members"].values
    assert np.isfinite(good).all()
    bad = rows()
    bad["x0"].values[0] = 1e6
    started = time.monotonic()
    assert np.isnan(committee.score(bad, None)["members"].values).all()
    assert time.monotonic() - started < 5
    wait_until(lambda: committee.count("up") == 1, 120, "the committee to come back")
    assert (committee.score(rows(), None)["members"].values == good).all()


def _saved(torch: Any, module: Any) -> bytes:
    held = io.BytesIO()
    torch.save(module.state_dict(), held)
    return held.getvalue()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("members: [{path: a.pt2}], inputs: [x]", "one voice cannot disagree"),
        ("members: [{path: a.pt}, {path: b.pt2}], inputs: [x]", "must say what they belong to"),
        ("members: [{path: a.pkl}], inputs: [x]", "must be like"),
        ("members: [{path: a.pt2, sha256: abc}], inputs: [x]", "must be like"),
        (
            "members: [{path: a.pt2, architecture: {kind: mlp, sizes: [1, 2]}}], inputs: [x]",
            "brings its own architecture",
        ),
    ],
)
def test_a_committee_that_cannot_be_is_refused_at_start(said: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem) as refused:
        parse(f"models: [{{committee: {{{said}}}}}]")
    assert "$.models[0].committee" in str(refused.value)
