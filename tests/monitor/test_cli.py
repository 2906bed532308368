"""The command line as a person or a script uses it: what it prints, writes, and returns."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from detectors.core import Kind, Role
from detectors.reference import Reference
from monitor.__main__ import main
from monitor.training import Training, Unusable

ROOT = Path(__file__).parents[2]
N = 9000  # more than a chunk


def rows(seed: int = 1) -> list[dict[str, object]]:
    rng = random.Random(seed)
    return [
        {
            "id": f"e{i}", "time": 1_700_000_000 + i, "gain": rng.gauss(3, 1) if i % 10 else None,
            "camera": rng.choice(["north", "south"]), "label": rng.choice(["a", "b"]),
        }
        for i in range(N)
    ]  # fmt: skip


def events(model: str = "shelf") -> list[dict[str, object]]:
    return [
        {
            "id": row["id"], "time": row["time"], "model": model,
            "inputs": {"gain": row["gain"], "camera": row["camera"]},
            "outputs": {"label": row["label"], "scores": [0.75, 0.25]},
        }
        for row in rows()
    ]  # fmt: skip


def write_lines(path: Path, found: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in found)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_csv(path: Path, found: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def write_parquet(path: Path, found: list[dict[str, object]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(found), path)
    return path


def built(data: Path, tmp_path: Path, *more: str) -> Reference:
    out = tmp_path / "out.reference"
    assert main(["reference", "build", str(data), "-o", str(out), *more]) == 0
    return Reference.decode(out.read_bytes())


@pytest.mark.parametrize(
    ("name", "write"),
    [("rows.jsonl", write_lines), ("rows.jsonl.gz", write_lines), ("rows.csv", write_csv),
     ("rows.parquet", write_parquet)],
)  # fmt: skip
def test_a_reference_is_the_same_from_every_kind_of_file(
    tmp_path: Path, name: str, write: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(write)
    reference = built(write(tmp_path / name, rows()), tmp_path, "--model", "shelf")
    assert reference.model == "shelf"
    assert reference.source == f"training rows of {name}"
    assert {s.name: (s.kind, s.role) for s in reference.schema} == {
        "gain": (Kind.NUMBER, Role.INPUT), "camera": (Kind.CATEGORY, Role.INPUT),
        "label": (Kind.CATEGORY, Role.OUTPUT),
    }  # fmt: skip
    profile = reference.profile
    gains = [row["gain"] for row in rows() if isinstance(row["gain"], float)]
    assert profile.rows == N
    assert profile.mean[reference.layout.numbers.index("gain")] == pytest.approx(math.fsum(gains) / len(gains))
    assert profile.missing[reference.layout.columns.index("gain")] == N // 10
    assert "9,000 rows, 3 columns" in capsys.readouterr().out


def test_events_are_decoded_as_they_are_live(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "events.jsonl", events())
    reference = built(data, tmp_path, "--model", "shelf")
    assert reference.profile.rows == N
    assert {"gain", "camera", "label", "scores"} <= {spec.name for spec in reference.schema}
    assert "entropy" in reference.layout.numbers
    assert reference.role("entropy") is Role.DERIVED


def test_events_of_other_models_are_left_out(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "events.jsonl", [*events("other")[:100], *events("shelf")[:300]])
    assert built(data, tmp_path, "--model", "shelf").profile.rows == 300


def test_without_a_name_events_of_every_model_are_taken(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "events.jsonl", [*events("other")[:100], *events("shelf")[:300]])
    assert built(data, tmp_path).profile.rows == 400


def test_a_directory_is_all_of_its_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data / "a.parquet", rows()[:500])
    write_parquet(data / "b.parquet", rows()[500:800])
    (data / "notes.txt").write_text("not rows")
    assert built(data, tmp_path).profile.rows == 800


def test_scorers_are_those_of_the_configuration(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "events.jsonl", events()[:500])
    config = tmp_path / "driftd.yaml"
    config.write_text("models: [{name: shelf, scorers: [{kind: uncertainty, measures: [margin]}]}]")
    reference = built(data, tmp_path, "--model", "shelf", "-c", str(config))
    assert list(reference.fitted) == ["uncertainty"]
    with pytest.raises(SystemExit, match="2"):
        main(["reference", "build", str(data), "-o", str(tmp_path / "x"), "--model", "nope", "-c", str(config)])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.txt", "1", "of unknown kind"),
        ("x.jsonl", "", "holds no row"),
        ("x.csv", "id,time\n1,2\n", "no column with values in the first 1 rows"),
        ("x.jsonl", "[1]\n", "row 1 is no JSON object"),
        ("x.parquet", "no parquet", "Parquet magic bytes not found"),
        ("x.csv", "a,b\n1,2\n3\n", "Expected 2 columns, got 1"),
    ],
)
def test_rows_that_cannot_be_used_are_told(
    tmp_path: Path, name: str, content: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match="1"):
        main(["reference", "build", str(tmp_path / name), "-o", str(tmp_path / "out")])
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no such file"):
        Training(tmp_path / "nowhere.csv")
    with pytest.raises(Unusable, match=r"holds no \.parquet"):
        Training(tmp_path)


def test_progress_adds_up_to_every_byte_twice(tmp_path: Path) -> None:
    for file in (
        write_csv(tmp_path / "a.csv", rows()), write_lines(tmp_path / "a.jsonl", rows()),
        write_lines(tmp_path / "a.jsonl.gz", rows()), write_parquet(tmp_path / "a.parquet", rows()),
    ):  # fmt: skip
        training = Training(file)
        told: list[int] = []
        training.reference({}, source="x", created=0.0, progress=told.append)
        assert sum(told) == pytest.approx(2 * training.size, rel=0.01), file.name


def test_a_reference_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built(write_csv(tmp_path / "rows.csv", rows()), tmp_path)
    capsys.readouterr()
    assert main(["reference", "show", str(tmp_path / "out.reference")]) == 0
    shown = capsys.readouterr().out
    assert "training rows of rows.csv, 9,000 rows" in shown
    assert "camera" in shown
    assert "2 words: " in shown
    (tmp_path / "bad").write_bytes(b"no reference")
    with pytest.raises(SystemExit, match="1"):
        main(["reference", "show", str(tmp_path / "bad")])


def test_check_says_that_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(ROOT / "config" / "minimal.yaml")]) == 0
    assert capsys.readouterr().out.endswith("minimal.yaml: all keys are well.\n")


@pytest.mark.parametrize("command", [["check"], ["run"], ["replay", "x.jsonl"], ["dead-letters", "list"]])
def test_a_wrong_configuration_is_refused_with_exit_code_2(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "driftd.yaml"
    file.write_text("window: {size: 10}\nweb: {prot: 1}\n")
    with pytest.raises(SystemExit) as caught:
        main([*command, "-c", str(file)])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "$.window.size (line 1): '10' was given" in told
    assert "$.web.prot (line 2): no such key; did you mean port?" in told


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in ([], ["nonsense"], ["check"], ["reference", "build", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)


def test_the_schema_and_the_example_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$ref"] == "#/$defs/monitor.config.Config"
    assert main(["config", "example"]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / "full.yaml").read_text(encoding="utf-8")


def test_no_dead_letters_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "driftd.yaml"
    file.write_text(f"state: {{path: {tmp_path / 'state'}}}")
    assert main(["dead-letters", "list", "-c", str(file)]) == 0
    assert capsys.readouterr().out == ""


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, monitor.__main__ as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'msgspec', 'yaml', 'kafka', 'pymongo', 'starlette', 'prometheus_client', 'rich'}\n"
        "sys.exit(len(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "COMMAND" in done.stdout
