"""A sensor that stands still, while the stream goes on: the same value for longer than the reference ever had it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np

from detectors.checks.verdict import chosen, named, positions, value_text
from detectors.core import Finding, Floats, Ints, Scores
from detectors.encode import restored
from detectors.profile import Profile, Sample
from detectors.reference import Reference

ROWS = 100  # of the reference's newest rows at least: fewer have no longest run to speak of


class _Run(msgspec.Struct, array_like=True):
    """Of a column: the value it last had, for how many rows now, and the longest run of the reference."""

    value: float
    length: int
    longest: int


class Stuck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="stuck"):
    """The same number in more rows on end than `limit` times the reference's longest run, and than `at_least`.

    Rows are those of the window's sample in order of time, and a run goes on from window to window. In a busy window a
    run of the sample is the longer run of the stream, so a true one is never overrated; it is found some windows later.
    A missing value ends a run. Blind to a value that trembles around where it is stuck, to columns that never varied,
    and where the reference's own rows came in no order.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=1, description="Found when a run is over this many times the reference's longest.")
    ] = 3.0
    at_least: Annotated[int, msgspec.Meta(ge=2, description="And has at least this many rows.")] = 20

    def start(self, reference: Reference, columns: Sequence[str]) -> dict[str, _Run]:
        f = positions(reference.layout.numbers, columns)
        values = reference.rows.numbers[:, f]
        if len(values) < ROWS:
            return {}
        longest = _runs(values, np.full(f.size, np.nan), np.zeros(f.size, np.int64)).max(axis=0)
        names = named(reference.layout.numbers, f)
        return {
            name: _Run(float("nan"), 0, int(longest[i]))
            for i, name in enumerate(names)
            if reference.profile.low[f[i]] < reference.profile.high[f[i]]
        }

    def step(
        self, memory: Mapping[str, _Run], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[dict[str, _Run], Scores]:
        held = {name: restored(run, _Run) for name, run in memory.items()}
        f, names = chosen(current.layout.numbers, [name for name in columns if name in held])
        values = _in_order(current.sample)[:, f]
        scores = Scores(names, np.full(f.size, np.nan))
        if not len(values) or not f.size:
            return held, scores
        before = [held[name] for name in names]
        runs = _runs(values, np.array([r.value for r in before]), np.array([r.length for r in before]))
        at = runs.argmax(axis=0)
        for i, name in enumerate(names):
            run, longest = int(runs[at[i], i]), before[i].longest
            held[name] = _Run(float(values[-1, i]), int(runs[-1, i]), longest)
            scores.score[i] = run / max(longest, 1)
            if scores.score[i] > self.limit and run >= self.at_least:
                scores.findings.append(
                    self._finding(name, float(values[at[i], i]), run, longest, float(scores.score[i]))
                )
        return held, scores

    def _finding(self, name: str, value: float, run: int, longest: int, score: float) -> Finding:
        text = (
            f"{name} is stuck at {value_text(value)}: {run:,} rows on end have it, where the reference never had one "
            f"value in over {longest:,}. That is {score:.3g} times as long, limit {self.limit:g}."
        )
        facts: dict[str, float | str] = {"value": value, "rows": float(run), "reference_rows": float(longest)}
        return Finding(name, score, self.limit, text, None, score, "times", facts)


def _in_order(sample: Sample) -> Floats:
    return sample.numbers[np.lexsort((sample.keys, sample.times))]


def _runs(values: Floats, last: Floats, length: Ints) -> Ints:
    """For how many rows each value (n, columns) has stood, itself included, after `length` rows of `last`; 0 if NaN.

    >>> _runs(np.array([[2.0], [2.0], [5.0]]), np.array([2.0]), np.array([4])).ravel().tolist()
    [5, 6, 1]
    """
    rows = np.arange(len(values))[:, None]
    new = np.concatenate([values[:1] != last, values[1:] != values[:-1]])
    began = np.maximum.accumulate(np.where(new, rows, -1), axis=0)
    return np.where(np.isnan(values), 0, np.where(began < 0, rows + 1 + length, rows - began + 1))
