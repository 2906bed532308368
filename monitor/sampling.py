"""Which events go to the labelers: one draw with known probabilities over a buffer of windows, within a budget.

Ingest offers each lane's rows; the judge merges the lanes' draws, and when the buffer is large or old enough takes as
many rows as the budget has tokens. All of it in event time and from hashes of event ids, so a replay draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from detectors.core import Batch, Kind
from detectors.draw import Draw, sizes
from detectors.encode import encode
from detectors.profile import Profile
from detectors.units import Seconds
from monitor.exchange import Partial

SCORES = 20  # largest scores kept of an event's prediction


class SamplingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Order sampling on the squared doubt (1 - margin), mixed with a uniform floor."""

    per_hour: Annotated[
        float, msgspec.Meta(description="Label tasks made per hour of event time; 0 makes none.", ge=0)
    ] = 50.0
    floor: Annotated[
        float,
        msgspec.Meta(description="Weight of the uniform part; the rest follows the squared doubt.", gt=0, le=1),
    ] = 0.2
    rows: Annotated[
        int, msgspec.Meta(description="Events after which a draw is made, once `at_least` have come.", ge=1)
    ] = 2000
    within: Annotated[
        Seconds, msgspec.Meta(description="Or time after which it is made, once `at_least` events have come.", gt=0)
    ] = 60.0
    at_least: Annotated[int, msgspec.Meta(description="Events that a draw waits for.", ge=1)] = 200
    at_most: Annotated[
        Seconds, msgspec.Meta(description="Time after which a draw is made however few have come.", gt=0)
    ] = 900.0
    most: Annotated[int, msgspec.Meta(description="Label tasks of one draw at most.", ge=1, le=10_000)] = 64
    seed: Annotated[int, msgspec.Meta(description="Another seed draws other events.", ge=0, lt=2**63)] = 0

    @property
    def digest(self) -> str:
        """What a label task says of the rules it was drawn by."""
        return hashlib.sha256(encode(self)).hexdigest()[:12]


class Candidate(msgspec.Struct, frozen=True):
    """What is kept of a row that may be labeled."""

    id: str
    time: float
    offset: int
    topic: str
    number: int
    label: str | None
    version: str | None
    scores: list[float]
    margin: float | None


class Drawn(msgspec.Struct, frozen=True):
    """A row that shall be labeled, and how it came to be chosen."""

    model: str
    candidate: Candidate
    size: float
    pi: float  # probability that it was drawn
    rank: int  # order of service; any prefix is a draw of its own
    batch: str  # of the draw
    n: int  # rows drawn
    population: int  # rows drawn from
    threshold: float  # key of the first row not drawn; inf where all were
    config: str
    seed: int
    reasons: list[str]  # alerts open at the time
    start: float  # event time covered, UTC seconds
    end: float


def offer(draw: Draw, rows: Batch, reference: Profile, options: SamplingOptions, topic: str, number: int) -> None:
    """Offers scored rows to a lane's draw."""
    margin = rows.get("margin")
    doubt = np.full(len(rows), np.nan) if margin is None or margin.kind is not Kind.NUMBER else margin.values
    weight = sizes(doubt, _mean_square(reference), options.floor)

    def kept(i: int) -> Any:
        label, version, scores = rows.get("label"), rows.get("version"), rows.get("scores")
        return msgspec.to_builtins(
            Candidate(
                id=str(rows.ids[i]),
                time=float(rows.times[i]),
                offset=int(rows.offsets[i]),
                topic=topic,
                number=number,
                label=_word(label, i),
                version=_word(version, i),
                scores=[] if scores is None or scores.kind is not Kind.VECTOR else _finite(scores.values[i]),
                margin=None if np.isnan(doubt[i]) else float(doubt[i]),
            )
        )

    draw.update(rows.keys, weight, kept)


def _mean_square(reference: Profile) -> float:
    """Mean of (1 - margin) squared over the reference's rows; 0 where it has no margin."""
    if "margin" not in reference.layout.numbers:
        return 0.0
    i = reference.layout.numbers.index("margin")
    mean, variance = float(reference.mean[i]), float(reference.variance[i])
    found = (1.0 - mean) ** 2 + variance
    return found if found == found else 0.0  # noqa: PLR0124 - NaN without rows


def _word(column: Any, i: int) -> str | None:
    if column is None or column.kind is not Kind.CATEGORY:
        return None
    code = int(column.values[i])
    return None if code < 0 else str(column.words[code])


def _finite(values: Any) -> list[float]:
    return [float(v) for v in values[:SCORES] if np.isfinite(v)]


class Budget(msgspec.Struct):
    """Tokens, and the buffer that waits to be drawn from. Plain data, saved with the judge's checkpoint."""

    tokens: float = 0.0
    draw: Draw | None = None
    start: int | None = None  # first window in the buffer
    rows: int = 0
    drawn: int = 0  # draws made
    last: int | None = None  # last window seen


class Sampler:
    """The judge's side: merges lanes and windows, keeps the budget."""

    def __init__(self, model: str, options: SamplingOptions) -> None:
        self._model, self._options = model, options
        self.state = Budget()

    def take(self, window: int, seconds: float, partials: Sequence[Partial], open_alerts: Sequence[str]) -> list[Drawn]:
        """One judged window of length `seconds`; the rows to label now, in order of service."""
        options, state = self._options, self.state
        passed = 1 if state.last is None else max(1, window - state.last)
        state.last = window
        # unused tokens carry over one hour at most
        state.tokens = min(state.tokens + passed * seconds * options.per_hour / 3600, max(options.per_hour, 1.0))
        for partial in partials:
            if partial.draw is None or (partial.draw.n, partial.draw.seed) != (options.most, options.seed):
                continue  # drawn by rules that have changed since
            if state.start is None:
                state.start = window
            if state.draw is None:
                state.draw = Draw(options.most, options.seed)
            state.draw.merge(partial.draw)
            state.rows += partial.rows
        if state.start is None or state.draw is None:
            return []
        age = (window + 1 - state.start) * seconds
        full = state.rows >= options.at_least and (state.rows >= options.rows or age >= options.within)
        if not full and age < options.at_most:
            return []
        n = min(int(state.tokens + 1e-9), options.most)
        if n < 1:
            return []
        drawn = self._release(state.draw.first(n), window, seconds, open_alerts)
        state.tokens -= len(drawn)
        state.draw, state.start, state.rows = None, None, 0
        return drawn

    def _release(self, draw: Draw, window: int, seconds: float, open_alerts: Sequence[str]) -> list[Drawn]:
        state, options = self.state, self._options
        assert state.start is not None
        state.drawn += 1
        start, end = state.start * seconds, (window + 1) * seconds
        batch = hashlib.sha256(f"{self._model}|{start}|{end}|{options.digest}".encode()).hexdigest()[:24]
        return [
            Drawn(
                self._model, msgspec.convert(row, Candidate), float(size), float(pi), rank, batch, len(draw), draw.seen,
                draw.threshold, options.digest, options.seed, list(open_alerts[:10]), start, end,
            )
            for rank, (row, size, pi) in enumerate(
                zip(draw.rows[: len(draw)], draw.sizes.tolist(), draw.inclusion().tolist(), strict=False)
            )
        ]  # fmt: skip
