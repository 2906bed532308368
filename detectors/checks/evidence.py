"""The default check: one promise for the whole model, kept whoever looks whenever.

What is promised is an expected time to a false alarm, in events or in event time, over all columns of the model
together (`detectors.evidence.model`). What passes with a row is an event, or its part of the seconds since the last
window; so the rows sampled from a busy window stand for all of its rows.

After an alarm an incident is open for each column that moved: it is found again in every window for as long as the
column differs from the reference, however the evidence, which learns the new regime, thinks about it. So an alert stays
open exactly as long as the change lasts, a further change is a further alarm, and a lasting one is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import sqrt
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.checks.verdict import Words, moved_number, moved_word, share_text, word_table
from detectors.core import Finding, Floats, Scores
from detectors.encode import restored
from detectors.evidence import model
from detectors.evidence.joint import Joint
from detectors.evidence.model import ROW, Alarm, Watched
from detectors.profile import Profile, Sample
from detectors.reference import Reference
from detectors.units import Seconds, seconds_text

DAY = 86_400.0
LEAST = 1.0  # seconds that pass with a window at least, or where event times stand still nothing would ever be found
PAUSE = 3600.0  # and at most: of the months since a reference file's last row, or of a stop, nothing was watched
GROUPS = 10  # of the reference, on which an open incident's column is compared with it
CALM = 2.0  # standard deviations over its mean up to which the comparison says that the column is back
ENOUGH = 4  # times the rows that the alarm took: what a look back needs, so that a change found is not lost again

Patterns = tuple[str, ...]


class Incident(msgspec.Struct, frozen=True):
    """A column that moved, and what it looks like since."""

    since: float  # event time of its first alarm
    evidence: float  # of the model at the alarm, in parts of the promise
    share: float  # of it the column's own
    rows: float  # of the model that the alarm took
    counts: NDArray[np.float64]  # of values in the reference's cells, or of words, then of missing; they decay
    squares: float  # sum of squared weights of the rows in `counts`


class Memory(msgspec.Struct, frozen=True):
    """What the check remembers."""

    model: Any  # `detectors.evidence.model.Memory`
    incidents: dict[str, Incident]
    clock: float  # event time of the last row


class EDetector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="e_detector"):
    """At most one false alarm per `time`, or per so many `events`, for all columns of the model together.

    E-detectors (Shin, Ramdas, Rinaldo 2022) on sequential ranks (Vovk et al. 2005), betting on shifts, spreads, atoms
    and any lasting shape, and on broken ties between columns. The promise is exact while rows are exchangeable,
    whatever their laws, their dependence on each other and the size of the reference; nothing is tuned. At a promise of
    10,000 events a shift of 1, 0.5 and 0.25 deviations of a lone column is found after about 22, 56 and 210 rows; among
    60 columns it takes half as many again. Blind to a change that lasts less than some rows, and to text and vectors
    but for the number columns that scorers make of them.
    """

    time: Annotated[
        Seconds,
        msgspec.Meta(
            gt=0,
            description="Event time for which at most one false alarm is promised. A month: rare enough that each is "
            "worth a look, and a tenth of it would find changes only a fifth sooner.",
        ),
    ] = 30 * DAY
    events: Annotated[
        int, msgspec.Meta(ge=0, description="The promise in events instead of time; 0 = it is in `time`.")
    ] = 0
    tolerance: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            lt=1,
            description="A slow departure from the reference within this is none, 2 P(new > old) - 1; 0.05 is a shift "
            "by 0.09 deviations.",
        ),
    ] = 0.05
    higher: Annotated[Patterns, msgspec.Meta(description="Columns of which only a rise counts.")] = (
        "entropy", "disagreement", "vote_entropy", "members_disagree", "bald", "novelty", "error", "latency",
        "unseen_words", "versions_disagree", "versions_gap",
    )  # fmt: skip
    lower: Annotated[Patterns, msgspec.Meta(description="Columns of which only a fall counts.")] = (
        "confidence", "consensus", "margin",
    )  # fmt: skip
    weights: Annotated[
        Mapping[str, float],
        msgspec.Meta(description="Share of the promise by column pattern, relative to 1 for a column not named here."),
    ] = {}

    @property
    def promise(self) -> float:
        """In what passes with rows: events or seconds."""
        return float(self.events or self.time)

    def approximate(self, memory: Any) -> tuple[str, ...]:
        """Columns of which the promise is approximate; without any it is exact while rows are exchangeable."""
        return model.approximate(_read(memory).model)

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        watched = [Watched(name, self._weight(name), self._side(name)) for name in columns]
        return Memory(model.start(reference, watched, self.tolerance), {}, reference.profile.last)

    def _side(self, name: str) -> int:
        return int(_any(self.higher, name)) - int(_any(self.lower, name))

    def _weight(self, name: str) -> float:
        return next((weight for pattern, weight in self.weights.items() if fnmatchcase(name, pattern)), 1.0)

    def step_rows(self, memory: Memory, rows: Sample, time: Floats | None = None) -> tuple[Memory, list[Alarm]]:
        """The memory after rows in their order, and the alarms among them. `time` (n,) is what passes with each row.

        Left out, it is 1 where the promise counts events, else the seconds since the row before.
        """
        if not len(rows.keys):
            return memory, []
        if time is None:
            time = np.ones(len(rows.times)) if self.events else np.diff(rows.times, prepend=memory.clock).clip(0)
        held, alarms = model.step(memory.model, rows, time, self.promise)
        clock = max(memory.clock, float(rows.times[-1]))
        return msgspec.structs.replace(memory, model=held, clock=clock), alarms

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Memory, Scores]:
        memory = _read(memory)
        sample = current.sample
        rows = model.taken(sample, np.lexsort((sample.keys, sample.times)))
        n = len(rows.keys)
        passed = current.rows if self.events else min(max(current.last - memory.clock, LEAST), PAUSE)
        memory, alarms = self.step_rows(memory, rows, np.full(n, passed / max(n, 1)))
        counter = _Counter(reference, memory.model.joint)
        incidents = {name: _followed(held, *counter(name, current)) for name, held in memory.incidents.items()}
        back = [name for name, held in incidents.items() if _is_back(held, *counter(name, reference))]
        for name in back:
            del incidents[name]
        for alarm in alarms:
            since = float(rows.times[alarm.row])
            took = alarm.took * max(current.rows / n, 1.0)
            for name, share in alarm.shares.items():
                first = incidents[name].since if name in incidents else since
                incidents[name] = Incident(first, alarm.evidence, share, took, *counter(name, current))
        held = model.refit(memory.model, back, reference.sample, self.tolerance) if back else memory.model
        memory = Memory(held, incidents, memory.clock)
        findings = [self._finding(name, memory, current, counter) for name in incidents]
        names = tuple(held.columns[:-1])
        scores = held.evidence[:-1] / self.promise
        for i, name in enumerate(names):
            if name in incidents:
                scores[i] = incidents[name].evidence
        return memory, Scores(names, scores, findings)

    def _finding(self, name: str, memory: Memory, current: Profile, counter: _Counter) -> Finding:
        incident = memory.incidents[name]
        was, _ = counter(name, counter.reference)
        apart = float(np.abs(incident.counts / max(incident.counts.sum(), 1) - was / max(was.sum(), 1)).sum()) / 2
        words = _words(name, apart, current, counter.reference)
        slow = model.approximate(memory.model)
        kept = f"approximate, as {len(slow)} columns have memory" if slow else "exact while rows are exchangeable"
        text = (
            f"{words.text}. The model's evidence reached {incident.evidence:.3g} times what one false alarm per "
            f"{self._promised()} asks for, {kept}."
        )
        facts = dict(words.facts) | {
            "evidence": incident.share * self.promise,
            "promise": self.promise,
            "since": incident.since,
        }
        return Finding(name, incident.evidence, 1.0, text, None, apart, "share of rows", facts)

    def _promised(self) -> str:
        return f"{self.events:,} events" if self.events else seconds_text(self.time)


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _read(memory: Any) -> Memory:
    """The memory as it was, also where it comes out of a checkpoint."""
    found = memory if isinstance(memory, Memory) else restored(memory, Memory)
    return msgspec.structs.replace(found, model=model.read(found.model))


# -- open incidents


class _Counter(NamedTuple):
    """Counts a column in profiles: as cells or words, missing last; the row as a whole by how well it goes together."""

    reference: Profile
    ties: Joint

    def __call__(self, name: str, profile: Profile) -> tuple[Floats, float]:
        """Rows by cell, as floats, and their number."""
        layout = profile.layout
        if name == ROW:
            tenths = np.nanquantile(self._surprise(self.reference), np.arange(1, GROUPS) / GROUPS)
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
        return self.ties.columns(profile.sample.numbers, profile.sample.codes)[:, -1]


def _followed(incident: Incident, counts: Floats, rows: float) -> Incident:
    """The incident with one more window: older ones decay over so many rows as it takes to see the change again."""
    keep = 0.5 ** (rows / (ENOUGH * incident.rows))
    return msgspec.structs.replace(
        incident, counts=keep * incident.counts + counts, squares=keep**2 * incident.squares + rows
    )


def _is_back(incident: Incident, was: Floats, rows_before: float) -> bool:
    """Whether the column is again as in the reference, by a chi-square statistic no larger than chance makes it."""
    weight = float(incident.counts.sum())
    rows = weight**2 / max(incident.squares, 1e-300)
    if rows < min(incident.rows, ENOUGH * GROUPS):
        return False
    now = _grouped(incident.counts / max(weight, 1.0), was)
    was = _grouped(was / max(was.sum(), 1.0), was)
    pooled = (now * rows + was * rows_before) / (rows + rows_before)
    apart = (now - was) ** 2 / np.where(pooled > 0, pooled, 1.0)
    freedom = max(int(np.count_nonzero(pooled)) - 1, 1)
    statistic = float(np.sum(apart)) / (1 / rows + 1 / rows_before)
    return statistic < freedom + CALM * sqrt(2 * freedom)


def _grouped(shares: Floats, was: Floats) -> Floats:
    """Shares of cells in groups of about a tenth of the reference; what it never had and missing are for themselves."""
    middle = (np.cumsum(was) - was / 2) / max(was.sum(), 1)
    group = np.minimum((middle * GROUPS).astype(np.int64), GROUPS - 1)
    group[was == 0] = GROUPS
    group[-1] = GROUPS + 1
    return np.bincount(group, shares, GROUPS + 2).astype(np.float64)


# -- words


def _words(name: str, apart: float, current: Profile, reference: Profile) -> Words:
    """What moved, told by the window; missing values where they are most of the share `apart` of rows that did."""
    layout = current.layout
    if name == ROW:
        return Words("The columns no longer go together as in the reference, though each may look as before", {})
    gone, was_gone = (_missing_share(name, profile) for profile in (current, reference))
    if abs(gone - was_gone) > 0.5 * apart:
        text = f"{name} moved: missing values went from {share_text(was_gone)} to {share_text(gone)} of its rows"
        return Words(text, {"statistic": "missing", "before": was_gone, "after": gone})
    if name in layout.numbers:
        f = layout.numbers.index(name)
        if np.isin(layout.edges[f, 1 : layout.above[f]], (0.0, 1.0)).all():
            before, after = float(reference.mean[f]), float(current.mean[f])
            text = f"{name} moved: its rate went from {share_text(before)} to {share_text(after)}"
            return Words(text, {"statistic": "rate", "before": before, "after": after})
        return moved_number(current, reference, f)
    c = np.array([layout.categories.index(name)])
    return moved_word(layout, int(c[0]), word_table(current, c)[0], word_table(reference, c)[0])


def _missing_share(name: str, profile: Profile) -> float:
    return float(profile.missing[profile.layout.index[name]]) / max(profile.rows, 1)
