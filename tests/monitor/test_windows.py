"""Windows depend on the records' order alone, never on how polls cut them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detectors.core import from_columns, number
from monitor.windows import BLOCK, Rows, WindowOptions, advances, by_window, settle_times

TIMES = st.lists(st.floats(0, 200), min_size=1, max_size=60)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=60)


def pieces(values: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    out, at, i = [], 0, 0
    while at < len(values):
        step = cuts[i % len(cuts)]
        out.append(values[at : at + step])
        at, i = at + step, i + 1
    return out


@given(TIMES, CUTS, st.floats(0, 200))
def test_windows_close_behind_the_same_rows_whatever_poll_they_came_by(
    times: list[float], cuts: list[int], others: float
) -> None:
    options = WindowOptions(size=10.0, lateness=3.0)

    def closed(parts: list[np.ndarray]) -> list[tuple[int, int]]:
        newest, at, below = -np.inf, 0, None
        found: list[tuple[int, int]] = []
        for part in parts:
            for stop, floor in advances(part, newest, others, below, options):
                found.append((at + stop, floor))
                below = floor
            newest, at = max(newest, float(part.max())), at + len(part)
        return found

    assert closed(pieces(np.array(times), cuts)) == closed([np.array(times)])


def test_a_window_closes_when_an_event_passes_its_end_by_the_lateness() -> None:
    options = WindowOptions(size=10.0, lateness=2.0)
    assert advances(np.array([5.0, 11.9, 6.0, 12.0]), -np.inf, np.inf, 0, options) == [(4, 1)]


@given(TIMES, CUTS)
def test_a_wrong_clock_is_set_the_same_whatever_poll_it_came_by(times: list[float], cuts: list[int]) -> None:
    whole, arrived = np.array(times), np.full(len(times), 20.0)

    def settled(parts: list[np.ndarray]) -> list[float]:
        newest, out = -np.inf, []
        for part in parts:
            good, _ = settle_times(part, newest, np.full(len(part), 20.0), 30.0)
            out += good.tolist()
            newest = max(newest, float(good.max()))
        return out

    assert settled(pieces(whole, cuts)) == settle_times(whole, -np.inf, arrived, 30.0)[0].tolist()


def test_a_row_without_a_time_does_not_make_the_rest_of_a_recorded_file_late() -> None:
    times, arrived = np.arange(100.0), np.full(100, 9e6)
    for absent in (np.nan, 9e6):
        times[[0, 50]] = absent
        good, _ = settle_times(times, -np.inf, arrived, 3600.0)
        assert good[[0, 1, 49, 50, 51]].tolist() == [1.0, 1.0, 49.0, 49.0, 51.0]


def test_a_time_that_equals_its_arrival_is_believed_where_rows_arrive_one_by_one() -> None:
    times, arrived = np.array([7300.0, 100.0, 7302.0]), np.array([7300.0, 7301.0, 7302.0])
    assert settle_times(times, 0.0, arrived, 3600.0)[0].tolist() == times.tolist()


def test_a_stream_that_runs_ahead_of_the_clock_step_by_step_is_believed() -> None:
    times = np.arange(0.0, 100_000.0, 60.0)
    good, wrong = settle_times(times, 0.0, np.zeros(len(times)), 3600.0)
    assert wrong == 0
    assert (good == times).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.none() | st.sets(st.integers(0, 39), min_size=1))
def test_each_row_is_in_its_window_once_and_in_order(windows: list[int], chosen: set[int] | None) -> None:
    numbers = np.array(windows)
    part = list(range(len(windows))) if chosen is None else sorted(i for i in chosen if i < len(windows)) or [0]
    seen: dict[int, list[int]] = {}
    for window, rows in by_window(numbers, None if chosen is None else np.array(part)):
        seen.setdefault(window, []).extend(np.arange(len(numbers))[rows].tolist())
    assert seen == {w: [i for i in part if windows[i] == w] for w in sorted({windows[i] for i in part})}


@given(st.lists(st.integers(1, 900), min_size=1, max_size=12))
def test_blocks_are_cut_at_the_same_rows_whatever_came_together(sizes: list[int]) -> None:
    values = np.arange(float(sum(sizes)))
    rows, at, blocks = Rows(), 0, []
    for size in sizes:
        part = from_columns({"x": number(values[at : at + size])})
        blocks += [b["x"].values.tolist() for b in rows.add(part)]
        at += size
    rest = rows.rest()
    expected = [values[i : i + BLOCK].tolist() for i in range(0, len(values) - len(values) % BLOCK, BLOCK)]
    assert blocks == expected
    assert (rest["x"].values.tolist() if rest else []) == values[len(expected) * BLOCK :].tolist()
