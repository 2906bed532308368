"""A busy window as a whole: all of its rows against the reference, at the model's one promise.

The e-detector steps on a sample of a busy window's rows, so in a window of 10,000 a shift by a twentieth of a deviation
is beneath it for hours; the counts, which hold every row, show it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from detectors.checks.dependence import worth
from detectors.checks.evidence import DAY, LEAST, PAUSE
from detectors.checks.shift import Pair, paired
from detectors.checks.tails import kolmogorov_tail, normal_tail
from detectors.checks.verdict import Measured, MinRows, Rule, verdict
from detectors.core import Floats, Ints, Scores
from detectors.encode import restored
from detectors.evidence.memory import measure
from detectors.profile import MISSING, Profile
from detectors.reference import Reference
from detectors.units import Seconds

TESTS = 3  # of a number
SURE = 0.001  # share of false columns among those named beside the one that raised the alarm
MOST = 0.05  # chance of a false alarm in a window, however much of the promise falls to it


class Memory(msgspec.Struct, frozen=True):
    """What the check remembers."""

    columns: list[str]  # without memory
    clock: float  # event time of the last row


class WholeWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="whole_window"):
    """At most one false alarm per `time`, or per so many `events`, by tests on all rows of each window.

    A window is held to the share of the promise that falls to it, over all columns (Bonferroni), so false alarms add up
    to the promise whatever the columns' dependence; once a window is over it, further columns are named at a false
    discovery rate of 0.001 (Benjamini, Hochberg 1995). A number's p-value is three times the smallest of three: of mean
    rank (Wilcoxon 1945, ties included), of squared distance from the middle rank (Mood 1954), and of the largest gap
    (Smirnov 1939); a category's that of its most changed word, times its words. A score's exact variance is that of a
    draw without replacement from window and reference together; tails are the normal law's, widened as Bernstein's
    inequality (1924) asks for lopsided scores, so a rare word raises none too easily. Among 10,000 rows of 60 columns a
    shift by 0.05 deviations is found mostly at once. Silent on columns with memory in the reference's rows, which the
    e-detector follows; rows that are alike because they are neighbours count for fewer (`dependence.worth`). Blind to
    what keeps every column's own law.
    """

    time: Annotated[
        Seconds, msgspec.Meta(gt=0, description="Event time for which at most one false alarm is promised.")
    ] = 30 * DAY
    events: Annotated[
        int, msgspec.Meta(ge=0, description="The promise in events instead of time; 0 = it is in `time`.")
    ] = 0
    limit: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            lt=1,
            description="Share of the rows that have to lie elsewhere, or it is no change however certain: 0.015 is a "
            "normal law moved by 0.04 deviations.",
        ),
    ] = 0.015
    min_rows: MinRows = 500

    @property
    def promise(self) -> float:
        """In what passes with a window: events or seconds."""
        return float(self.events or self.time)

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        rows, layout = reference.rows, reference.layout
        codes = np.where(rows.codes == MISSING, np.nan, rows.codes)
        slow = measure(np.concatenate([rows.numbers, codes], axis=1)).tau > 1
        known = dict(zip([*layout.numbers, *layout.categories], slow.tolist(), strict=True))
        return Memory([name for name in columns if not known.get(name, True)], reference.profile.last)

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Memory, Scores]:
        memory = memory if isinstance(memory, Memory) else restored(memory, Memory)
        if not current.rows:
            return memory, Scores((), np.zeros(0))
        passed = current.rows if self.events else min(max(current.last - memory.clock, LEAST), PAUSE)
        memory = msgspec.structs.replace(memory, clock=max(memory.clock, current.last))
        pair = paired(current, reference, memory.columns)
        rows = np.stack([pair.rows(current), pair.rows(reference)])
        gap = pair.gaps()
        enough = (rows >= self.min_rows).all(axis=0)
        far = enough & (gap > self.limit)
        p_value = np.full(gap.size, np.nan)
        if far.any():  # elsewhere it finds nothing
            names = [pair.names[i] for i in np.flatnonzero(far).tolist()]
            p_value[far] = _chances(paired(current, reference, names))
        tried = max(int(enough.sum()), 1)
        level = min(passed / self.promise, MOST) / tried
        raised = (p_value[far] <= level).any()
        rule = Rule(self.limit, self.min_rows, max(level, _discovered(p_value[far], tried)) if raised else level)
        measured = Measured(pair.names, gap, p_value, *rows)
        return memory, verdict(rule, measured, pair.say, "Rows that lie elsewhere", "share")


def _discovered(p_value: Floats, tried: int) -> float:
    """The p-value up to which no more than `SURE` of the columns found are false, on average; 0 = none."""
    ascending = np.sort(p_value)
    found = np.flatnonzero(ascending <= SURE * np.arange(1, ascending.size + 1) / tried)
    return float(ascending[found[-1]]) if found.size else 0.0


def _chances(pair: Pair) -> Floats:
    """p-values (columns,), the window's rows counted as many as they are worth."""
    cells, words = pair.counts()
    rows = np.stack([pair.rows(pair.current), pair.rows(pair.reference)]).astype(np.float64)
    sample = pair.reference.sample
    values = np.concatenate([sample.numbers[:, pair.numbers], sample.codes[:, pair.categories]], axis=1)
    rows[0] /= worth(pair.current, pair.reference, values)
    f = pair.numbers.size
    return np.concatenate([_number_chances(cells, rows[:, :f]), _word_chances(words, rows[:, f:])])


def _number_chances(cells: Ints, rows: Floats) -> Floats:
    shares, pooled = _shares(cells, rows)
    both = _together(rows)
    gap = np.abs(np.cumsum(shares[0] - shares[1], axis=1)).max(axis=1, initial=0.0)
    rank = np.cumsum(pooled, axis=1) - pooled / 2 - 0.5
    chances = [_mean_chance(shares, pooled, scores, both) for scores in (rank, rank**2)]
    least = np.minimum.reduce([*chances, kolmogorov_tail(gap, both)])
    return np.asarray(np.minimum(TESTS * least, 1.0))


def _word_chances(words: Ints, rows: Floats) -> Floats:
    """Every word's share as the mean of a score that is 1 for it and 0 else."""
    shares, pooled = _shares(words, rows)
    both = _together(rows)[:, None]
    spread = np.sqrt(pooled * (1 - pooled))
    spread = np.where(spread > 0, spread, np.inf)
    z = np.abs(shares[0] - shares[1]) * np.sqrt(both) / spread
    chance = _tail(z, np.maximum(pooled, 1 - pooled) / spread, both)
    tried = (pooled > 0).sum(axis=1)
    return np.asarray(np.minimum(tried * chance.min(axis=1, initial=1.0), 1.0))


def _shares(counts: Ints, rows: Floats) -> tuple[Floats, Floats]:
    """Of either side (2, columns, cells), and of both together (columns, cells) where they are worth `rows`."""
    shares = np.asarray(counts / np.maximum(counts.sum(axis=2), 1)[..., None])
    return shares, np.asarray((shares * rows[..., None]).sum(axis=0) / np.maximum(rows.sum(axis=0), 1.0)[:, None])


def _together(rows: Floats) -> Floats:
    """What rows (2, columns) of two sides are worth in a comparison: n m / (n + m)."""
    return np.asarray(rows[0] * rows[1] / np.maximum(rows.sum(axis=0), 1.0))


def _mean_chance(shares: Floats, pooled: Floats, scores: Floats, rows: Floats) -> Floats:
    """Two-sided p-values (columns,) of the difference of two mean scores (columns, cells)."""
    middle = (pooled * scores).sum(axis=1, keepdims=True)
    off = np.abs(scores - middle)
    spread = np.sqrt((pooled * off**2).sum(axis=1))
    safe = np.where(spread > 0, spread, np.inf)
    z = np.abs(((shares[0] - shares[1]) * scores).sum(axis=1)) * np.sqrt(rows) / safe
    return _tail(z, np.where(pooled > 0, off, 0.0).max(axis=1, initial=0.0) / safe, rows)


def _tail(z: Floats, reach: Floats, rows: Floats) -> Floats:
    """Two-sided chance of a standardised mean of bounded scores, `reach` deviations at most each.

    The normal law's at z / sqrt(1 + z reach / (3 sqrt(rows))): Bernstein's exponent, which is also Cramer's first
    correction (1938) for the most lopsided scores, and nothing for ranks of some hundred rows.

    >>> z = (12 - 2) / np.sqrt(2 * 0.999)  # 12 of 2,000 rows where 2 are expected: 1.4e-6 on one side
    >>> _tail(np.array([z]), np.array([0.999 / np.sqrt(0.001 * 0.999)]), np.array([2000.0])).round(6).tolist()
    [1.5e-05]
    """
    widened = z / np.sqrt(1 + z * reach / (3 * np.sqrt(np.maximum(rows, 1.0))))
    return 2 * normal_tail(widened.ravel()).reshape(widened.shape)
