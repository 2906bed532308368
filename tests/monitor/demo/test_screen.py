from __future__ import annotations

import io
from pathlib import Path

import msgspec
from rich.console import Console

from monitor.demo.acts import ACTS, NEW, starts
from monitor.demo.api import Api
from monitor.demo.diary import Estimate, Labelled, ModelStatus, News, OpenAlert, Score, Turn
from monitor.demo.screen import Board, announce, report, summary
from monitor.demo.staff import Labelers, OnCall, Truths
from monitor.demo.story import Story

START = 1_700_000_000.0  # 22:13:20 UTC


def plain() -> Console:
    """A console without a terminal, as in CI."""
    return Console(file=io.StringIO(), width=160)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def alert(column: str, check: str = "psi", since: float = START, text: str = "It moved.") -> OpenAlert:
    return OpenAlert(f"m/{check}/{column}", check, column, since, text)


def test_an_act_is_announced_with_its_place_in_the_story_and_what_it_means() -> None:
    console = plain()
    announce(console, list(starts())[NEW])
    assert "Act 4 of 7: new products arrive, to stay" in said(console)
    assert "cannot say 'unknown'" in said(console)


def test_of_many_alerts_of_a_check_the_one_that_the_act_is_about_is_quoted() -> None:
    console = plain()
    about = alert("brightness", text="The mean of brightness rose [from 0.28 to 0.39].")
    report(console, News(Turn.OPENED, (alert("column_1"), about, alert("column_2"))), START)
    assert "22:13  ! opened   psi on brightness and 2 more" in said(console)
    assert about.text in said(console)  # brackets are the daemon's, not markup


def test_a_resolved_alert_is_one_line() -> None:
    console = plain()
    report(console, News(Turn.RESOLVED, (alert("", "volume"),)), START)
    assert said(console).splitlines() == ["  22:13 ok resolved volume on the model as a whole"]


def test_the_board_shows_what_the_daemon_counts_and_where_to_look() -> None:
    console, board = plain(), Board("http://127.0.0.1:4711")
    board.update(ModelStatus("m", 12_345, 61, None, (Score(found=True), Score(found=False)), (alert("a"),), 9), 10.0)
    console.print(board.panel())
    for words in (
        "12,345 events",
        "61 windows",
        "1 findings",
        "1 open alerts",
        "9 label tasks",
        "http://127.0.0.1:4711/metrics",
    ):
        assert words in said(console)
    assert "open alerts 1" in board.line()


def test_the_summary_names_what_went_unnoticed_what_the_calm_raised_and_how_right_the_model_was(
    tmp_path: Path,
) -> None:
    truths, console = tmp_path / "truths", plain()
    lines = [
        {"id": f"{i}", "time": START + i, "version": "1", "answer": "a", "truth": "a" if i % 4 else "b"}
        for i in range(100)
    ]
    truths.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines) + b'{"id": "half a l')
    nobody = Api("127.0.0.1:1")
    story = Story(START, Truths(truths), OnCall(nobody, 1e9), Labelers([], Truths(truths)))
    gain = alert("brightness", since=START + list(starts())[1] + 30.0)
    early = alert("latency", "level", START + 500.0)
    labelled = Labelled(Estimate(0.76, 0.7, 0.82), START + 300.0)
    story.read(ModelStatus("m", window_end=START + 100.0, alerts=(gain, early), labelled=labelled), 0)
    console.print(summary(story))
    rows = said(console).splitlines()
    assert any("brightness moved" in row and "psi on brightness" in row and "30 s" in row for row in rows)
    assert any("inputs look novel" in row and row.count("nothing") == 1 for row in rows)
    assert any(row.startswith(f"│ {ACTS[0].title}") and "level on latency" in row for row in rows)
    assert any("75.0%" in row and "76.0% (70.0 to 82.0)" in row for row in rows)
    assert any("no request to retrain was closed" in row for row in rows)
