"""Every command and every example of README.md does what the text says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from monitor.config import load, parse
from monitor.decode import DECODERS
from monitor.event import Record
from tests.services.daemon import Daemon
from tests.services.web import ask

ROOT = Path(__file__).resolve().parents[1]
ACTS = [  # on a running daemon
    "driftd alerts -c driftd.yaml",
    'driftd verdict KEY intended --why "new products" -c driftd.yaml',
    "driftd verdict KEY --confirm ID -c driftd.yaml",
    "driftd labels work -c driftd.yaml",
    "driftd labels progress -c driftd.yaml",
    "driftd retraining list -c driftd.yaml",
    "driftd explain EVENT -c driftd.yaml",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language, in the order of the text."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(document: str = README) -> list[str]:
    fenced = re.findall(r"^```sh\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    return [line.partition("#")[0].strip() for block in fenced for line in block.splitlines() if line.strip()]


def driftd(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The command as a reader would type it, in a directory of his own."""
    words = shlex.split(command)
    assert words[0] == "driftd"
    call = [sys.executable, "-m", "monitor", *words[1:]]
    return subprocess.run(
        call,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(ROOT), "MONGO_URL": "mongodb://127.0.0.1:9"},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's directory: the README's configuration, training rows, recorded events."""
    path = tmp_path_factory.mktemp("reader")
    (path / "driftd.yaml").write_text(blocks("yaml")[0])
    rng = np.random.default_rng(0)
    rows = {"brightness": rng.normal(size=2_000), "camera": rng.choice(["north-1", "south-1"], 2_000)}
    parquet.write_table(pa.table(rows), path / "training.parquet")
    events = [
        {"id": str(i), "time": 1_700_000_000 + i / 10, "model": "shelf-camera", "inputs": {"brightness": 9.0}}
        for i in range(600)
    ]
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_every_further_example_completes_a_configuration() -> None:
    further = blocks("yaml")[1:]
    assert further
    for example in further:
        assert parse("sources: [{kind: http}]\n" + example).models


def test_every_make_command_is_a_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    everywhere = commands() + commands((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    named = [command.split()[1] for command in everywhere if command.startswith("make ")]
    assert "run" in named
    assert not [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


def test_every_command_is_one_that_these_tests_know() -> None:
    """A new command in the text wants a test of its own here."""
    assert [command for command in commands() if not command.startswith("make ")] == [
        "driftd run -c config/minimal.yaml",
        "driftd reference build training.parquet -o shelf-camera.reference --model shelf-camera",
        "driftd check -c driftd.yaml --connect",
        "driftd replay -c driftd.yaml events.jsonl",
        *ACTS,
    ]


def test_the_configuration_to_run_first_is_there_and_sound() -> None:
    assert load(ROOT / "config" / "minimal.yaml").intake


def test_ten_lines_of_yaml_are_enough_for_ones_own_topic() -> None:
    text = blocks("yaml")[0]
    assert len(text.splitlines()) <= 11
    config = parse(text, {"MONGO_URL": "mongodb://localhost"})
    assert config.models[0].name == "shelf-camera"


def test_the_smallest_event_is_read() -> None:
    line = msgspec.json.encode(msgspec.json.decode(blocks("json")[0]))
    decoded = DECODERS["auto"]().open().decode([Record(line)], {})
    assert decoded.bad == []
    assert [event.id for event in decoded.events["shelf-camera"]] == ["8f3a"]


def test_a_reference_is_built_and_events_are_replayed_against_it(home: Path) -> None:
    build, replay = (next(c for c in commands() if word in c) for word in ("reference build", "replay"))
    built = driftd(build, home)
    assert built.returncode == 0, built.stderr
    played = driftd(replay, home)
    assert played.returncode == 0, played.stderr
    lines = [json.loads(line) for line in played.stdout.splitlines()]
    assert any(line["finding"]["column"] == "brightness" for line in lines if "finding" in line)


@pytest.mark.slow
def test_what_is_open_is_ruled_on_labelled_and_explained_from_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = {
        "name": "shelf", "reference": {"learn": 300}, "checks": [{"detector": "range"}],
        "sampling": {"per_hour": 3600, "at_least": 50},
    }  # fmt: skip
    with Daemon(tmp_path, {"models": [model]}) as daemon:
        sent = 0

        def send(mean: float) -> None:
            nonlocal sent
            events = [
                {
                    "id": f"e{i}", "time": 1_790_000_000 + i / 4, "model": "shelf",
                    "inputs": {"weight": rng.normal() + mean},
                    "outputs": {"label": "can", "scores": rng.dirichlet((1, 1)).tolist()},
                }
                for i in range(sent, sent + 400)
            ]  # fmt: skip
            ask(f"{daemon.url}/v1/events", events)
            sent += 400
            daemon.judged(sent - 100)

        while not daemon.model()["label_tasks"]:  # the first events teach what is normal
            send(0.0)
        send(50.0)
        daemon.wait(lambda: bool(daemon.model()["alerts"]), 30, "an alert")
        named = {"KEY": daemon.model()["alerts"][0]["key"], "EVENT": f"e{sent - 150}", "ID": ""}
        for command in ACTS:
            if "--confirm" in command:
                daemon.wait(lambda: bool(daemon.model()["verdicts"]), 30, "the verdict to be taken")
                named["ID"] = daemon.model()["verdicts"][0]["id"]
            words = [named.get(word, word) for word in shlex.split(command)]
            done = driftd(shlex.join(words), tmp_path)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert done.stdout or "retraining" in command  # nothing was asked for yet


def test_a_check_names_the_part_that_is_not_there(home: Path) -> None:
    done = driftd(next(c for c in commands() if "--connect" in c), home)
    assert done.returncode == 1, done.stderr
    assert "WRONG" in done.stdout


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert not [target for target in targets if not (ROOT / target).exists()], name
