"""Calm is calm: the shelf camera before a shelf like the one it was accepted on raises nothing, whatever the seed.

`make soak` plays twenty seeds; each has its own committee, its own reference and its own twenty minutes.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from monitor import app
from monitor.__main__ import main
from monitor.config import parse
from monitor.demo.acts import BURST, Scene
from monitor.demo.server import MODEL, Shelf

SEEDS = int(os.environ.get("DRIFTD_CALM_SEEDS", "2"))
START = 1_790_000_000.0
CALM = 1_200.0  # seconds of event time


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 100 + SEEDS))
def test_calm_raises_nothing(seed: int, tmp_path: Path) -> None:
    shelf = Shelf(seed)
    accepted, calm, reference = tmp_path / "accepted.jsonl", tmp_path / "calm.jsonl", tmp_path / "reference"
    accepted.write_bytes(b"".join(shelf.commission(START)))
    bursts = range(int(CALM / BURST))
    calm.write_bytes(b"".join(shelf.serve(START + i * BURST, Scene(), number=i).events for i in bursts))
    assert main(["reference", "build", str(accepted), "-o", str(reference), "--model", MODEL]) == 0
    config = {"sources": [{"kind": "http"}], "models": [{"name": MODEL, "reference": {"path": str(reference)}}]}
    out = io.StringIO()
    assert app.replay(parse(json.dumps(config)), [str(calm)], out) == 0
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[-1]["events"] == len(calm.read_bytes().splitlines())
    assert [line for line in lines if line.get("transition") == "opened"] == []
