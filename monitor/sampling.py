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

from alerting.labeling import task as labeling
from detectors.core import Batch, Kind
from detectors.draw import Draw, sizes
from detectors.encode import encode
from detectors.profile import Profile
from detectors.units import Seconds
from monitor.event import Partition
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
    most: Annotated[
        int,
        msgspec.Meta(
            description="Label tasks of one draw at most; also what each lane keeps of a window.", ge=1, le=10_000
        ),
    ] = 8
    seed: Annotated[int, msgspec.Meta(description="Another seed draws other events.", ge=0, le=2**63 - 1)] = 0

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


def offer(draw: Draw, rows: Batch, reference: Profile, options: SamplingOptions, origin: Partition) -> None:
    """Offers scored rows to a lane's draw."""
    margin = rows.get("margin")
    doubt = np.full(len(rows), np.nan) if margin is None or margin.kind is not Kind.NUMBER else margin.values
    weight = sizes(doubt, _mean_square(reference), options.floor)

    label, version, scores = rows.get("label"), rows.get("version"), rows.get("scores")

    def kept(i: int) -> Candidate:
        return Candidate(
            id=str(rows.ids[i]),
            time=float(rows.times[i]),
            offset=int(rows.offsets[i]),
            topic=origin.topic,
            number=origin.number,
            label=_word(label, i),
            version=_word(version, i),
            scores=[] if scores is None or scores.kind is not Kind.VECTOR else _finite(scores.values[i]),
            margin=None if np.isnan(doubt[i]) else float(doubt[i]),
        )

    draw.update(rows.keys, weight, kept)


def _mean_square(reference: Profile) -> float:
    """Mean of (1 - margin) squared over the reference's rows; 0 where it has no margin."""
    if "margin" not in reference.layout.numbers:
        return 0.0
    i = reference.layout.numbers.index("margin")
    n = int(reference.cells[i].sum())
    return (1.0 - float(reference.mean[i])) ** 2 + float(reference.squares[i]) / n if n else 0.0


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
    start: int = 0  # first window in the buffer
    rows: int = 0
    sums: dict[str, float] = {}  # over the buffer's rows, for estimates from the labels later
    last: int | None = None  # last window seen


class Sampler:
    """The judge's side for one model: merges lanes and windows, keeps the budget, makes label tasks."""

    def __init__(self, model: str, options: SamplingOptions, dataset: str) -> None:
        self._model, self._options, self._dataset = model, options, dataset
        self.state = Budget()

    def take(
        self, window: int, seconds: float, partials: Sequence[Partial], profile: Profile, alerts: Sequence[str]
    ) -> labeling.Draw | None:
        """One judged window of length `seconds`; the label tasks to make now, None when it is not yet time."""
        options, state = self._options, self.state
        passed = 1 if state.last is None else max(1, window - state.last)
        state.last = window
        # unused tokens carry over one hour at most
        state.tokens = min(state.tokens + passed * seconds * options.per_hour / 3600, max(options.per_hour, 1.0))
        for partial in partials:
            if partial.draw is None or (partial.draw.n, partial.draw.seed) != (options.most, options.seed):
                continue  # made under rules that have changed since
            if state.draw is None:
                state.draw, state.start, state.rows, state.sums = Draw(options.most, options.seed), window, 0, {}
            state.draw.merge(partial.draw)
            state.rows += partial.rows
        if state.draw is None:
            return None
        for name, value in _sums(profile).items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        age = (window + 1 - state.start) * seconds
        full = state.rows >= options.at_least and (state.rows >= options.rows or age >= options.within)
        n = min(int(state.tokens + 1e-9), options.most)
        if n < 1 or not (full or age >= options.at_most):
            return None
        draw = self._tasks(state.draw.first(n), state.start * seconds, (window + 1) * seconds, alerts)
        state.tokens -= len(draw.tasks)
        state.draw = None
        return draw

    def _tasks(self, draw: Draw, start: float, end: float, alerts: Sequence[str]) -> labeling.Draw:
        options, model = self._options, self._model
        config = options.digest
        batch = labeling.LabelBatch(
            id=hashlib.sha256(f"{self._dataset}|{model}|{start}|{end}|{config}".encode()).hexdigest()[:32],
            model=labeling.ModelRef(model),
            N=draw.seen,
            n=len(draw),
            tau=draw.threshold if np.isfinite(draw.threshold) else None,
            sums=dict(self.state.sums),
            config=config,
            seed=options.seed,
            start=start,
            end=end,
        )
        reason = f"drawn while open: {', '.join(alerts[:5])}" if alerts else "drawn"
        tasks = []
        for rank, (row, size, pi) in enumerate(
            zip(draw.rows[: len(draw)], draw.sizes.tolist(), draw.inclusion().tolist(), strict=False)
        ):
            c = msgspec.convert(row, Candidate)
            task = labeling.LabelTask(
                id=labeling.task_id(self._dataset, model, c.id),
                dataset=self._dataset,
                date=labeling.drawn_at(end),
                event=labeling.EventRef(c.id, c.topic, c.number, c.offset, c.time),
                model=labeling.ModelRef(model, c.version or ""),
                prediction=labeling.Prediction(
                    c.label, tuple(labeling.ClassScore(str(i), v) for i, v in enumerate(c.scores)), c.margin
                ),
                select=labeling.Select(
                    part="probability", strategy="squared_doubt", batch=batch.id, pi=float(pi), size=float(size),
                    score=None if c.margin is None else 1.0 - c.margin, rank=rank, config=config, seed=options.seed,
                ),
                reason=reason,
            )  # fmt: skip
            tasks.append(labeling.bounded(task))
        return labeling.Draw(batch, tuple(tasks))


def _sums(profile: Profile) -> dict[str, float]:
    """Count, sum and sum of squares of the model's confidence over a window's rows."""
    if "confidence" not in profile.layout.numbers:
        return {}
    i = profile.layout.numbers.index("confidence")
    n = int(profile.counts[i])
    if not n:
        return {}
    mean = float(profile.mean[i])
    return {"n": float(n), "confidence": n * mean, "confidence_squared": float(profile.squares[i]) + n * mean * mean}
