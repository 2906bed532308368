from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from monitor.demo.acts import ACTS, LENGTH, NEW, TAUGHT, act_at, starts
from monitor.demo.api import Api
from monitor.demo.diary import Estimate, Labelled, ModelStatus
from monitor.demo.screen import summary
from monitor.demo.staff import Labelers, OnCall, Truths
from monitor.demo.story import SPAN, Story

START = 1_700_000_040.0  # acts end four minutes into a span of five
ALIGNED = START + 60.0  # they end as a span does
STEP = 10.0  # seconds of event time between two answers, and between two looks


def right(fallen: float, after: float) -> Callable[[float], float]:
    """Share of right answers by second: the new version comes six minutes before its act, as a trainer is quick."""
    begins = list(starts())
    came = begins[TAUGHT] - 360.0

    def share(second: float) -> float:
        return 0.96 if second < begins[NEW] else fallen if second < came else after

    return share


def played(
    path: Path, share: Callable[[float], float], until: float = LENGTH, start: float = START, behind: float = 0.0
) -> Story:
    """A story of answers that are right so often, and of a daemon whose estimate is the truth of the span it is of;
    what it judged is so many seconds behind what it drew from."""
    truths = path / "truths"
    seconds = [STEP * i / 10 for i in range(int(until / STEP * 10))]
    # the share of right answers so far, rounded: the same in every stretch, without chance
    count, lines = 0.0, []
    for i, second in enumerate(seconds):
        count += share(second)
        answer = "a" if count >= 1.0 - 1e-9 else "b"
        count -= answer == "a"
        lines.append({"id": f"{i}", "time": start + second, "version": "1", "answer": answer, "truth": "a"})
    truths.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    known, nobody = Truths(truths), Api("127.0.0.1:1")
    story = Story(start, known, OnCall(nobody, 1e9), Labelers([], known))
    second = STEP
    while second <= until:
        now = start + second
        end = (now // SPAN + 1) * SPAN  # as the daemon has it: by the end of a window
        value = known.accuracy(end - SPAN - STEP, now)
        estimate = Estimate(value, value - 0.001, value + 0.001)
        story.read(ModelStatus("m", window_end=now - behind, labelled=Labelled(estimate, end)), act_at(second - 1.0))
        second += STEP
    return story


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return played(tmp_path_factory.mktemp("story"), right(0.5, 0.95))


def test_the_truth_beside_an_estimate_is_of_the_stretch_that_the_estimate_is_of(story: Story) -> None:
    reckonings = list(story.reckonings())
    assert [one.act for one in reckonings] == list(range(len(ACTS)))
    assert all(one.held for one in reckonings)
    taught = reckonings[NEW]
    assert taught.truth == pytest.approx(0.95, abs=0.02)  # the new version had come by the end of the act
    assert taught.worst == pytest.approx(0.5, abs=0.02)


def test_a_span_that_has_just_begun_is_of_the_window_before(tmp_path: Path) -> None:
    reckonings = list(played(tmp_path, right(0.5, 0.95), until=1200.0, start=ALIGNED).reckonings())
    assert [one.held for one in reckonings] == [True, True]


def test_a_span_of_which_nothing_is_judged_yet_is_told_whole(tmp_path: Path) -> None:
    story = played(tmp_path, right(0.5, 0.95), until=1200.0, behind=2 * SPAN)
    assert [round(one.truth, 2) for one in story.reckonings()] == [0.96, 0.96]


def test_the_way_down_and_up_is_told_and_what_recovers_is_no_failure(story: Story) -> None:
    assert story.recovery == pytest.approx((0.96, 0.5, 0.95), abs=0.02)
    assert not any("the new version is" in failure or "interval" in failure for failure in story.failures())


@pytest.mark.parametrize(
    ("fallen", "after", "said"),
    [(0.5, 0.85, "not as right as the first one"), (0.9, 0.95, "did not fail at the new products")],
)
def test_what_did_not_fall_or_did_not_recover_is_a_failure(
    fallen: float, after: float, said: str, tmp_path: Path
) -> None:
    assert any(said in failure for failure in played(tmp_path, right(fallen, after)).failures())


def test_a_story_that_stopped_half_way_was_not_played_to_its_end(tmp_path: Path) -> None:
    story = played(tmp_path, right(0.5, 0.95), until=1500.0)
    assert story.recovery is None
    assert "it was not played to its end" in story.failures()
    assert [one.act for one in story.reckonings()] == [0, 1, 2]


def test_the_summary_is_read_in_80_columns(story: Story) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary(story))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    assert any(re.search(r"50\.0% │ 95\.(\d)% │ 95\.\1% \(95\.\d to 95\.\d\)", row) for row in said.splitlines())
    assert "True accuracy: 96.0% at first, 50.0% at worst, 95.0% with version 2." in said
