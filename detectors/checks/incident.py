"""An open incident of the default check: a column that moved, whether it still differs, and what is said of it.

The evidence of an alarm learns the new regime and falls silent; an incident is held open by the column's own counts
since, and is told anew while rows come in that tell more of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.cause import Cause, Move, Recent
from detectors.checks.naming import Naming, name_change, name_rows
from detectors.checks.verdict import Words, share_text, value_text, word_table
from detectors.core import Floats
from detectors.evidence.joint import Joint
from detectors.evidence.model import ROW
from detectors.profile import Layout, Profile

GROUPS = 10  # of the reference, on which an open incident's column is compared with it
CALM = 2.0  # standard deviations over its mean up to which the comparison says that the column is back
ENOUGH = 4  # times the rows that the alarm took: what a look back needs, so that a change found is not lost again
SURPRISED = 512  # rows of the reference that a window's ties are held against: 7 ms at 75 columns
NAMED = 12  # number columns of an alarm that are asked for a name of what happened to them: 5 ms each
BESIDE = 4  # columns named that moved beside the one that is told of


class Incident(msgspec.Struct, frozen=True):
    """A column that moved, and what it looks like since."""

    since: float  # event time of the change, as its first alarm had it
    evidence: float  # of the model at the alarm, in parts of the promise
    share: float  # of it the column's own; 0 where the cause named it and not the evidence
    rows: float  # of the model that the alarm took
    counts: NDArray[np.float64]  # of values in the reference's cells, or of words, then of missing; they decay
    squares: float  # sum of squared weights of the rows in `counts`
    was: NDArray[np.float64]  # the same counts of the reference
    text: str = ""  # what moved, a sentence without its full stop, and in a second what moved beside it, if any
    facts: dict[str, float | str] = {}

    def followed(self, counts: Floats, rows: float) -> Incident:
        """With one more window: older ones decay over so many rows as it takes to see the change again."""
        keep = 0.5 ** (rows / (ENOUGH * self.rows))
        return msgspec.structs.replace(self, counts=keep * self.counts + counts, squares=keep**2 * self.squares + rows)

    def is_back(self) -> bool:
        """Whether the column is again as in the reference, by a chi-square statistic no larger than chance makes it."""
        weight = float(self.counts.sum())
        rows = weight**2 / max(self.squares, 1e-300)
        if rows < min(self.rows, ENOUGH * GROUPS):
            return False
        rows_before = max(float(self.was.sum()), 1.0)
        now, was = _grouped(self.counts / max(weight, 1.0), self.was), _grouped(self.was / rows_before, self.was)
        pooled = (now * rows + was * rows_before) / (rows + rows_before)
        apart = (now - was) ** 2 / np.where(pooled > 0, pooled, 1.0)
        freedom = max(int(np.count_nonzero(pooled)) - 1, 1)
        statistic = float(np.sum(apart)) / (1 / rows + 1 / rows_before)
        return statistic < freedom + CALM * sqrt(2 * freedom)

    @property
    def apart(self) -> float:
        """Share of the rows that lie elsewhere than in the reference."""
        now, was = (counts / max(counts.sum(), 1) for counts in (self.counts, self.was))
        return float(np.abs(now - was).sum()) / 2


def _grouped(shares: Floats, was: Floats) -> Floats:
    """Shares of cells in groups of about a tenth of the reference; what it never had and missing are for themselves."""
    middle = (np.cumsum(was) - was / 2) / max(was.sum(), 1)
    group = np.minimum((middle * GROUPS).astype(np.int64), GROUPS - 1)
    group[was == 0] = GROUPS
    group[-1] = GROUPS + 1
    return np.bincount(group, shares, GROUPS + 2).astype(np.float64)


class Counter(NamedTuple):
    """Counts a column in profiles: as cells or words, missing last; the row as a whole by how well it goes together."""

    reference: Profile
    ties: Joint

    def __call__(self, name: str, profile: Profile) -> tuple[Floats, float]:
        """Rows by cell, as floats, and their number."""
        layout = profile.layout
        if name == ROW:
            surprise = self._surprise(self.reference)
            tenths = np.nanquantile(surprise, np.arange(1, GROUPS) / GROUPS)
            if profile is not self.reference:
                surprise = self._surprise(profile)
            seen = surprise[~np.isnan(surprise)]
            counts = np.append(np.bincount(np.searchsorted(tenths, seen), minlength=GROUPS), surprise.size - seen.size)
            return counts.astype(np.float64), float(surprise.size)
        if name in layout.numbers:
            held = profile.cells[layout.numbers.index(name)]
        else:
            held = word_table(profile, np.array([layout.categories.index(name)]))[0]
        return np.append(held, profile.missing[layout.index[name]]).astype(np.float64), float(profile.rows)

    def _surprise(self, profile: Profile) -> Floats:
        """Of up to SURPRISED rows: the reference's sample is in random order."""
        numbers, codes = profile.sample.numbers[:SURPRISED], profile.sample.codes[:SURPRISED]
        return self.ties.columns(numbers, codes)[:, -1]


# -- what is said


def ranked(names: Collection[str], cause: Cause | None, derived: Collection[str]) -> list[str]:
    """Columns of incidents, the likeliest cause first; one that a scorer made of others comes after those."""
    if cause is None:
        return list(names)
    place = {name: i for i, name in enumerate(cause.ranking)}
    place[ROW] = next((place[move.column] for move in cause.moves if move.torn), len(place))
    return sorted(names, key=lambda name: (name in derived, place[name]))


def told(
    incidents: Mapping[str, Incident], cause: Cause, recent: Recent, current: Profile, reference: Profile
) -> dict[str, Incident]:
    """The incidents, in the order of their rank, with what is said of them now.

    Figures are of the rows since the change, not of the last window, which may be a few rows or half before it.
    """
    layout = reference.layout
    moves = {ROW if move.torn else move.column: move for move in reversed(cause.moves)}
    numbers = [name for name in incidents if name in moves and name in layout.numbers][:NAMED]
    found = {}
    for rank, (name, incident) in enumerate(incidents.items(), 1):
        words = _words(name, moves.get(name), layout)
        text, facts = words.text, {"rank": float(rank), "since": incident.since, **words.facts}
        if cause.slice is not None and name == cause.moves[0].column:
            inside, outside = cause.slice.inside, cause.slice.outside
            where = " and ".join(cause.slice.conditions)
            text += f", where {where} ({inside:+.2g} deviations there, {outside:+.2g} elsewhere)"
            facts["slice"] = where
        text += f", since {_moment(incident.since)}"
        naming = _name(name, cause.rows, recent, current, reference) if name in numbers else None
        if naming is not None:
            text += f"; {naming.text}"
            facts |= naming.facts
        group = next((group for group in cause.groups if name in group), ())
        mates = [other for other in incidents if other in group and other != name]
        if mates:
            facts["group"] = ", ".join([name, *mates])
        others = [other for other in incidents if other not in (name, ROW, *mates)]
        found[name] = msgspec.structs.replace(incident, text=text + _beside(mates, others), facts=facts)
    return found


def _words(name: str, move: Move | None, layout: Layout) -> Words:
    if move is None:
        text = "The columns no longer go together as in the reference, though each may look as before"
        return Words(text if name == ROW else f"{name} moved", {})
    facts: dict[str, float | str] = {"statistic": move.statistic, "before": move.before, "after": move.after}
    if move.torn:
        text = f"{move.column} no longer goes with the other columns: its {move.statistic} went from "
        return Words(f"{text}{move.before:.2f} to {move.after:.2f}", facts)
    before, after = value_text(move.before), value_text(move.after)
    if move.statistic == "mean" and _is_rate(name, layout):
        return Words(f"{name} moved: its rate went from {share_text(move.before)} to {share_text(move.after)}", facts)
    what = "missing values" if move.statistic == "missing" else move.statistic.removeprefix("share of ")
    if what != move.statistic or move.statistic == "missing":
        return Words(
            f"{name} moved: {what} went from {share_text(move.before)} to {share_text(move.after)} of its rows", facts
        )
    return Words(f"{name} moved: its {what} went from {before} to {after}", facts)


def _is_rate(name: str, layout: Layout) -> bool:
    f = layout.numbers.index(name)
    return bool(np.isin(layout.edges[f, 1 : layout.above[f]], (0.0, 1.0)).all())


def _beside(mates: Sequence[str], others: Sequence[str]) -> str:
    """A second sentence, to be gone on with."""
    shown = [f"{_listed(mates[:BESIDE])} in step with it"] if mates else []
    shown += others[: max(BESIDE - len(mates), 1)]
    left = len(mates) + len(others) - len(mates[:BESIDE]) - len(others[: max(BESIDE - len(mates), 1)])
    return f". At the same time moved {_listed([*shown, *([f'{left} more'] if left else [])])}" if shown else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _name(column: str, rows: int, recent: Recent, current: Profile, reference: Profile) -> Naming | None:
    """What happened to a number: by the window where it holds more rows than were kept since the change."""
    if current.rows >= rows:
        return name_change(current, reference, column)
    # the shortest number that reads as the one kept in single precision: cents are whole cents again
    values = recent.numbers[-rows:, reference.layout.numbers.index(column)].astype(str).astype(np.float64)
    return name_rows(values, reference, column)


def _moment(at: float) -> str:
    """Event time in UTC, to the second."""
    return f"{np.datetime64(round(at), 's')}".replace("T", " ") + " UTC"
