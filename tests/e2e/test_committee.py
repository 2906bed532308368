"""A committee of three torch models in a bucket, asked by a running daemon about events that it is sent."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.__main__ import main
from tests.monitor.committees import INPUTS, NAMES, digest, file, member
from tests.services.daemon import Daemon
from tests.services.s3 import S3
from tests.services.web import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

START = 1_790_000_000.0
LEARNED = 400
DERIVED = {"vote_entropy", "disagreement", "members_disagree", "consensus"}


def events(first: int, count: int, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    rng = random.Random(first)
    for i in range(first, first + count):
        inputs = {f"x{k}": rng.gauss(0, scale) for k in range(INPUTS)}
        yield {"id": f"e{i}", "time": START + i * 0.1, "model": "shelf", "inputs": inputs, "outputs": {"label": "a"}}


def post(daemon: Daemon, first: int, count: int) -> None:
    ask(f"{daemon.url}/v1/events", list(events(first, count)))


def child(daemon: Daemon) -> int:
    """The process that holds the models."""
    [found] = [
        int(pid)
        for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        if b"monitor.committee" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


@pytest.fixture
def config(torch: Any, s3: S3, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    s3.client().create_bucket(Bucket="committee")
    for name in NAMES:
        put(s3, name, file(torch, name), digest(file(torch, name)))
    committee = {
        "members": [member(f"s3://committee/{name}") for name in NAMES],
        "inputs": [f"x{k}" for k in range(INPUTS)],
        "poll": "1s",
        "s3": {"endpoint": s3.url, "region": s3.region, "path_style": True},
    }
    return {
        "window": {"size": "10s", "lateness": "0s", "grace": "1s"},
        "models": [{"name": "shelf", "reference": {"learn": LEARNED}, "committee": committee}],
    }


def put(s3: S3, name: str, data: bytes, sha256: str) -> None:
    s3.client().put_object(Bucket="committee", Key=name, Body=data)
    s3.client().put_object(Bucket="committee", Key=f"{name}.sha256", Body=f"{sha256}  {name}\n".encode())


def refused(daemon: Daemon, cause: str) -> float:
    found = daemon.series("driftd_committee_refused_total")
    return found.get((("cause", cause), ("model", "shelf")), 0)


def missing(daemon: Daemon) -> dict[str, float]:
    """Share of the last window's events without a derived column of the committee."""
    shown = daemon.series("driftd_column_missing_ratio")
    return {dict(labels)["column"]: value for labels, value in shown.items() if dict(labels)["column"] in DERIVED}


def test_three_models_in_a_bucket_answer_live_events_and_outlive_what_happens_to_them(
    torch: Any, s3: S3, config: dict[str, Any], tmp_path: Path
) -> None:
    with Daemon(tmp_path, config) as daemon:
        post(daemon, 0, LEARNED + 600)
        daemon.judged(500)
        assert missing(daemon) == dict.fromkeys(DERIVED, 0.0)
        held = child(daemon)

        data = pickle.dumps({"weight": [1.0]})
        put(s3, "c.pt", data, digest(data))
        daemon.wait(lambda: refused(daemon, "pickle") > 0, 60, "the pickle to be refused")
        put(s3, "c.pt", file(torch, "c.pt"), digest(file(torch, "c.pt", seed=1)))
        daemon.wait(lambda: refused(daemon, "wrong_digest") > 0, 60, "the wrong digest to be refused")
        assert child(daemon) == held
        post(daemon, 1000, 500)
        judged = daemon.judged(1_400)
        assert missing(daemon) == dict.fromkeys(DERIVED, 0.0)

        os.kill(held, signal.SIGKILL)
        post(daemon, 1500, 500)
        daemon.judged(judged["events"] + 100)
        daemon.wait(lambda: daemon.total("driftd_committee_up") == 1, 120, "the committee to come back")
        post(daemon, 2000, 500)
        daemon.judged(2_400)
        assert missing(daemon) == dict.fromkeys(DERIVED, 0.0)
        assert daemon.resident < 110 << 20
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_a_replay_asks_the_committee_and_says_the_same_twice(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file_, said = tmp_path / "driftd.yaml", tmp_path / "events.jsonl"
    [model] = config["models"]
    model["committee"] |= {"members": model["committee"]["members"][1:2], "dropout": {"passes": 5}}
    model["checks"] = [{"detector": "psi", "columns": sorted(DERIVED), "over": "30s"}]
    file_.write_text(json.dumps(config))
    told = [*events(0, 1_000), *events(1_000, 600, scale=5.0)]
    said.write_text("".join(json.dumps(event) + "\n" for event in told))
    outputs = []
    for _ in range(2):
        assert main(["replay", "-c", str(file_), str(said)]) == 0
        outputs.append(capsys.readouterr().out)
    assert '"column":"consensus"' in outputs[0]
    assert outputs[0] == outputs[1]
