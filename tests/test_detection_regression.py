"""The detection benchmark's short form: counts that may not get worse. No times, so a slow machine cannot fail it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.detection import default_detector, prepare, report, run, watch
from benchmarks.labelled import NEAR_BENCH, Case, by_path, shortened, suites
from detectors.core import number
from detectors.profile import rows_of

SHARED = Path(__file__).parents[2] / "shared"


class Line(NamedTuple):
    """What the short form of a suite may not be worse than: measured, and a margin."""

    false_alarms: float  # per 10,000 events, as alarms come one by one in so short a form
    found: float  # share of the changes
    cost: float  # mean delay in events, a miss as long as its stretch


# Without `perf`, whose models take longer to train than all of this.
LINES = {
    "null_iid": Line(2.5, 1.0, 0.0),
    "inject": Line(2.5, 1.0, 400.0),
    "multi": Line(4.0, 1.0, 80.0),
    "digits": Line(5.0, 1.0, 400.0),
    "sms": Line(3.0, 1.0, 200.0),
    "gas": Line(10.0, 1.0, 30.0),
}


def moving(seed: int) -> Case:
    """Two columns, one of which moves by half a deviation."""
    rng = np.random.default_rng(seed)
    calm, rows = rng.normal(size=(500, 2)), rng.normal(size=(1_500, 2))
    rows[750:, 0] += 0.5
    named = [{f"x{i:02d}": number(part[:, i].copy()) for i in range(2)} for part in (calm, rows)]
    return Case("multi", f"moving#{seed}", "one", named[0], named[1], [(0, 750)], [(750, 1_500)], [0])


@pytest.mark.parametrize("seed", range(3))
def test_whole_windows_and_single_rows_bring_the_same_alarms(seed: int) -> None:
    case = moving(seed)
    detector = default_detector()
    reference, rows = prepare(case)
    names = reference.layout.columns
    start = detector.start(reference, names)
    _, by_rows = detector.step_rows(start, rows_of(reference.layout, rows))
    assert by_rows
    # a window closes what is over and learns it anew, so later alarms may differ
    assert watch(case).alarms[0] == by_rows[0].row


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    place = SHARED / NEAR_BENCH
    if not place.exists():
        pytest.skip(f"the bench's streams are not at {place}")
    pytest.importorskip("pandas", reason="the bench reads its data with pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bench's own
        bench = by_path(place)
        every = suites(bench, SHARED / "data")
        truth, outcomes = run((case for name in LINES for case in shortened(every[name]())), 0)
    found: dict[tuple[str, str], Any] = by_path(place.with_name("score.py")).figures(
        truth, report(truth, outcomes)["alarms"]
    )
    return {key[0]: figure for key, figure in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", LINES)
def test_no_suite_is_found_less_of_or_cries_wolf_more_than_it_did(figures: dict[str, Any], suite: str) -> None:
    line, figure = LINES[suite], figures[suite]
    quiet = 0.0 if figure["fa10k"] is None else figure["fa10k"]
    assert quiet <= line.false_alarms
    if figure["changes"]:
        assert figure["found"] >= line.found
        assert figure["cost"] <= line.cost
