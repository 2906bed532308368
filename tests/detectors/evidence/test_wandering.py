"""A column that goes on alarming is not changing again and again: it wanders, and is watched as such."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.checks.evidence import EDetector
from detectors.core import Floats, from_columns, number
from detectors.encode import decode, encode
from detectors.evidence import model
from detectors.evidence.returns import Returns, beside
from detectors.profile import rows_of
from detectors.reference import Reference, build_from

DETECTOR = EDetector(events=10_000)
NAMES = ("still", "wanders", "remembers")


def rows(n: int, seed: int) -> Floats:
    """Two columns without memory, and one with."""
    noise = np.random.default_rng(seed).normal(size=(n, 3))
    for i in range(1, n):
        noise[i, 2] += 0.9 * noise[i - 1, 2]
    return noise


def batch(values: Floats, first: int) -> Any:
    columns = {name: number(values[:, i]) for i, name in enumerate(NAMES[: values.shape[1]])}
    at = np.arange(first, first + len(values), dtype=np.float64)
    return from_columns(columns, at, [f"row {i}" for i in at])


def reference(columns: int) -> Reference:
    return build_from("m", batch(rows(1_000, 0)[:, :columns], 0), {}, roles={}, source="test", created=0.0)


def watch(columns: int, values: Floats, pieces: int = 500) -> tuple[model.Memory, list[tuple[int, tuple[str, ...]]]]:
    """The memory after the rows, which goes through bytes after every piece, and the alarms."""
    known = reference(columns)
    held = DETECTOR.start(known, known.layout.columns).model
    alarms = []
    for first in range(0, len(values), pieces):
        part = rows_of(known.layout, batch(values[first : first + pieces, :columns], 1_000 + first))
        held, found = model.step(model.read(decode(encode(held), Any)), part, np.ones(len(part.keys)), 10_000.0)
        alarms += [(first + alarm.row, alarm.columns) for alarm in found]
    return held, alarms


def steps(n: int, every: int, seed: int) -> Floats:
    return np.repeat(np.random.default_rng(seed).normal(scale=2, size=-(-n // every)), every)[:n]


def stake(memory: model.Memory, name: str) -> float:
    """Share of the promise that is on the column."""
    of = memory.columns.index(name)
    return sum(float(part.weight[part.of == of].sum()) for part in memory.parts.values())


@pytest.mark.parametrize("columns", [2, 3])
def test_a_column_that_goes_on_alarming_falls_silent_and_the_others_are_still_heard(columns: int) -> None:
    values = rows(6_000, 1)
    values[:, 1] += steps(6_000, 120, 2)
    values[5_500:, 0] += 2.0
    held, alarms = watch(columns, values)
    assert len(alarms) < 15
    assert "wanders" in model.approximate(held)
    assert "still" not in model.approximate(held)
    assert any(5_500 <= row < 5_600 and "still" in names for row, names in alarms)
    assert stake(held, "wanders") == pytest.approx(stake(watch(columns, values[:1])[0], "wanders"))


def test_a_change_beyond_what_it_wanders_is_still_found() -> None:
    values = rows(6_000, 3)
    values[:, 1] += steps(6_000, 120, 4)
    values[5_500:, 1] += 60.0
    _, alarms = watch(2, values)
    assert any(5_500 <= row < 5_520 and "wanders" in names for row, names in alarms)


def test_two_changes_are_two_changes() -> None:
    values = rows(4_000, 5)
    values[1_000:, 1] += 1.5
    values[2_500:, 1] += 1.5
    held, alarms = watch(2, values)
    assert {1_000 <= row < 1_100 or 2_500 <= row < 2_600 for row, _ in alarms} == {True}
    assert model.approximate(held) == ()


def test_pieces_make_no_difference_to_a_column_that_wanders() -> None:
    values = rows(2_000, 6)
    values[:, 1] += steps(2_000, 100, 7)
    one, other = watch(3, values, 2_000), watch(3, values, 77)
    assert one[1] == other[1]
    assert one[0].evidence == pytest.approx(other[0].evidence, rel=1e-6)


def test_columns_put_beside_each_other_go_on_as_alone() -> None:
    returns, values = Returns(), rows(900, 8)
    season = np.sin(np.arange(900) / 8)[:, None] + 0.1 * values[:, :1]  # another longest lag
    one, other = returns.fit(values[:600, 1:]), returns.fit(season[:600])

    def told(state: Any, part: Floats) -> Floats:
        return returns.step(state, part, np.full(part.shape, 0.5), np.ones(len(part)))[1]

    both = told(beside(one, other), np.concatenate([values[600:, 1:], season[600:]], axis=1))
    alone = np.concatenate([told(one, values[600:, 1:]), told(other, season[600:])], axis=1)
    assert np.allclose(both, alone)
