"""Which events may go to labelers: the rules, and ingest's side of them.

Each lane offers its scored rows. Kept of a window are the lowest keys of the draw, and by reason a few rows that may be
asked for in any case. Which of the latter are kept has nothing to do with the keys of the draw: what is taken for
certain must not tell which of the others are left. The judge merges what the lanes kept and decides (`monitor.tasks`),
all of it in event time and from hashes, so a replay draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import isfinite, nan
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from detectors.core import Batch, Column, Floats, Ints, Kind, Mask, Role
from detectors.draw import Draw, Keys
from detectors.encode import encode
from detectors.profile import NUMERIC
from detectors.reference import Reference
from detectors.registry import STRATEGIES
from detectors.scorers.text import ADDRESSES
from detectors.selection import (
    Margin,
    Places,
    Pools,
    Strategy,
    answered,
    balance,
    contents_of,
    factors,
    places_of,
    sizes,
)
from detectors.units import Seconds
from monitor.budget import BudgetOptions
from monitor.event import Partition

SCORES = 20  # largest scores kept of an event's prediction
INPUTS, INPUT = 100, 400  # inputs kept of an event, characters of one
HELD = 4  # times the most that may be asked for: the draw's own, its reserve, and room for what a raised floor changes
SAMPLED = 16  # rows of a lane's window, any rows, in which the region of an alert is looked for
_LARGEST_SIDE = 10**6  # pixels of a picture
CLASSES = 50  # that have quotas or shares

# Reasons to be asked for in any case; those of a quota begin with CLASS.
SURE, FEEDBACK, NEW, ANY, CLASS = "sure", "feedback", "new", "any", "class "


class SamplingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Order sampling on doubt with a uniform floor, beside it a few events that are asked for in any case."""

    per_hour: Annotated[float, Meta(description="Label tasks made per hour of event time; 0 makes none.", ge=0)] = 50.0
    budget: Annotated[BudgetOptions, Meta(description="Further bounds, and the burst while an alert is open.")] = (
        BudgetOptions()
    )
    strategy: Annotated[Strategy, Meta(description="What makes an event wanted.", extra={"table": STRATEGIES})] = (
        Margin()
    )
    mode: Annotated[
        Literal["buffer", "event"],
        Meta(
            description="`buffer`: draws are made from what has come since the last one. `event`: of each window at "
            "once, each event with a probability that depends only on what came before the window."
        ),
    ] = "buffer"
    floor: Annotated[
        float, Meta(description="Share of the uniform part; the rest follows what is wanted.", gt=0, le=1)
    ] = 0.25
    floor_alarmed: Annotated[
        float,
        Meta(
            description="The same while an alert is open: the doubt of a model under drift is least to be trusted.",
            gt=0,
            le=1,
        ),
    ] = 0.5
    balance: Annotated[
        bool,
        Meta(description="Whether classes that are seldom answered are wanted more: by the root of how seldom."),
    ] = False
    classes: Annotated[
        Annotated[dict[str, Annotated[float, Meta(gt=0, le=1)]], Meta(max_length=CLASSES)] | None,
        Meta(description="Share of the labels that important classes should get, by answer; in place of `balance`."),
    ] = None
    failing: Annotated[
        float,
        Meta(
            description="Most that events of slices found to fail are wanted over others, by the root of how much more "
            "the model errs there; 1: no more. Not while an alert is open, whose region is asked for instead.",
            ge=1,
            le=2,
        ),
    ] = 2.0
    take_all: Annotated[
        float,
        Meta(
            description="Largest share of the labels for events that are asked for in any case: those in the region "
            "of an alert, with feedback that contradicts, with a word never seen, of a class with a quota.",
            ge=0,
            le=0.7,
        ),
    ] = 0.3
    quotas: Annotated[
        Annotated[dict[str, Annotated[int, Meta(ge=1)]], Meta(max_length=CLASSES)] | None,
        Meta(description="Labels of a draw that an important class gets in any case, by answer, within `take_all`."),
    ] = None
    feedback: Annotated[
        str,
        Meta(
            description="Column with what users say: a flag or number, not 0 where they object, or the answer they "
            "would have given."
        ),
    ] = "feedback"
    rows: Annotated[int, Meta(description="Events after which a draw is made, once `at_least` have come.", ge=1)] = 2000
    within: Annotated[
        Seconds, Meta(description="Or time after which it is made, once `at_least` events have come.", gt=0)
    ] = 60.0
    at_least: Annotated[int, Meta(description="Events that a draw waits for.", ge=1)] = 200
    at_most: Annotated[Seconds, Meta(description="Time after which a draw is made however few have come.", gt=0)] = (
        900.0
    )
    most: Annotated[
        int,
        Meta(description="Label tasks of one draw at most; each lane keeps four times as many.", ge=1, le=10_000),
    ] = 8
    seed: Annotated[int, Meta(description="Another seed draws other events.", ge=0, le=2**63 - 2)] = 0

    def __post_init__(self) -> None:
        if self.floor_alarmed < self.floor:
            raise ValueError("`floor_alarmed` is under `floor`; while an alert is open it can only be raised")

    @property
    def asks_by(self) -> str:
        """The strategy, as configuration names it; of a user's own, its class."""
        own = type(self.strategy)
        return next((name for name, kind in STRATEGIES.items() if kind is own), own.__name__)

    @property
    def digest(self) -> str:
        """What a label task says of the rules it was drawn by."""
        return hashlib.sha256(encode(self)).hexdigest()[:12]


class Candidate(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is kept of a row that may be labeled. Numbers are finite; None = missing."""

    id: str
    time: float
    offset: int
    topic: str
    number: int
    label: str | None
    version: str | None
    scores: list[float] = []
    margin: float | None = None
    entropy: float | None = None
    expected: float | None = None  # chance that the answer is right
    want: float | None = None
    uri: str = ""
    why: dict[str, str] = {}  # what speaks for it, by reason
    inputs: list[tuple[str, str | float | bool]] = []
    place: list[float] = []  # where it lies, for what may be asked for in any case
    classes: list[str] = []  # what the scores are of; empty: nobody said
    boxes: str = ""  # as in the column
    picture: tuple[int, int] | None = None  # width and height in pixels


class Offer:
    """A model's rules with what they need of its reference. One thread."""

    def __init__(self, options: SamplingOptions, reference: Reference) -> None:
        self._options, self._rules = options, options.digest
        self._fitted = options.strategy.fit(reference)
        self._contents = contents_of(reference)
        self._places = places_of(reference)
        balanced = options.classes is not None or options.balance
        self._factors = factors(answered(reference), options.classes) if balanced else {}
        shown = (Kind.NUMBER, Kind.FLAG, Kind.CATEGORY, Kind.TEXT)
        inputs = [spec for spec in reference.schema if spec.role is Role.INPUT and spec.kind in shown]
        self._inputs = [spec.name for spec in inputs[:INPUTS]]
        words = dict(zip(reference.layout.categories, reference.layout.words, strict=True))
        # where the reference has more words than it keeps apart, one that it lacks is nothing new
        full = {name for name, unseen in zip(words, reference.profile.unseen.tolist(), strict=True) if unseen}
        self._known = {
            name: frozenset(known)
            for name, known in words.items()
            if name not in full and reference.role(name) in (Role.INPUT, Role.CONTEXT) and name != "version"
        }

    def start(self) -> Pools:
        """Nothing offered yet."""
        return Pools(Draw(HELD * self._options.most, self._options.seed), rules=self._rules)

    def take(self, pools: Pools, rows: Batch, origin: Partition) -> None:
        """Offers scored rows to a lane's pools of a window."""
        if not len(rows):
            return
        options = self._options
        wants = np.full(len(rows), np.nan) if self._fitted is None else options.strategy.wants(rows, self._fitted)
        pools.count(wants)
        ids = self._contents.ids(rows)
        said = {FEEDBACK: _objections(rows.get(options.feedback), rows.get("label"), len(rows)), NEW: self._new(rows)}
        held = _Held(rows, origin, wants, self._inputs, said, self._places)
        if options.strategy.certain:
            size = np.ones(len(rows))
            sure = pools.pool(SURE, Draw(options.most, options.seed))
            sure.offer(-np.nan_to_num(wants), size, ids, held.candidate, rows.keys)
        else:
            size = sizes(wants, options.floor) * balance(rows.get("label"), self._factors)
        pools.draw.update(ids, size, held.candidate, rows.keys)
        if options.take_all:
            self._ask(pools, rows, ids, held)

    def _ask(self, pools: Pools, rows: Batch, ids: Keys, held: _Held) -> None:
        """Offers the rows that something speaks for, and some of which a later alert may."""
        options = self._options
        label = rows.get("label")
        masks = {reason: np.array([bool(text) for text in said]) for reason, said in held.said.items() if said}
        masks |= {CLASS + word: _is(label, word, len(rows)) for word in options.quotas or ()}
        for reason, mask in masks.items():
            which = np.flatnonzero(mask)
            if which.size:
                # by other numbers than the draw's own
                pool = pools.pool(reason, Draw(options.most, options.seed + 1))
                pool.update(ids[which], np.ones(which.size), held.of(which), rows.keys[which])
        # in the order of the profile's row sample, which knows these rows' values in every column
        pool = pools.pool(ANY, Draw(SAMPLED))
        pool.offer(rows.keys.astype(np.float64), np.ones(len(rows)), ids, held.placed, rows.keys)

    def _new(self, rows: Batch) -> list[str]:
        """What each row (n,) has that the reference never had, as `column 'word'`; empty for most, [] for all."""
        found: list[str] = []
        for name, known in self._known.items():
            column = rows.get(name)
            if column is None or column.kind is not Kind.CATEGORY:
                continue
            new = [f"{name} {word[:INPUT]!r}" if word not in known else "" for word in column.words]
            if any(new):
                told = [*new, ""]
                found = [a or told[code] for a, code in zip(found or [""] * len(rows), column.values, strict=True)]
        return found


class _Held:
    """What may be kept of the rows of a block; a candidate is made only of a row that is kept."""

    def __init__(
        self,
        rows: Batch,
        origin: Partition,
        wants: Floats,
        inputs: Sequence[str],
        said: Mapping[str, Sequence[str]],
        places: Places | None,
    ) -> None:
        self._rows, self._origin, self._wants = rows, origin, wants
        self._inputs = [(name, column) for name in inputs if (column := rows.get(name)) is not None]
        self._places = places
        self.said = said

    @cached_property
    def _lie(self) -> Floats:
        return np.zeros((len(self._rows), 0)) if self._places is None else self._places.rows(self._rows)

    def placed(self, i: int) -> Candidate:
        """The row with where it lies."""
        return replace(self.candidate(i), place=self._lie[i].tolist())

    def of(self, which: Ints) -> Callable[[int], Candidate]:
        """The same by its number among some of the rows."""
        return lambda i: self.placed(int(which[i]))

    def candidate(self, i: int) -> Candidate:
        """The row without it."""
        rows = self._rows
        scores = rows.get("scores")
        highest = _highest(scores, i)
        uris = (as_shown(rows.get(name), i) for name in ADDRESSES)
        # the same of all rows, as the batch's sum is: one that the calibration does not know is as expected as the rest
        expected = rows.get("expected_correct") or rows.get("confidence")
        return Candidate(
            id=str(rows.ids[i]),
            time=float(rows.times[i]),
            offset=int(rows.offsets[i]),
            topic=self._origin.topic,
            number=self._origin.number,
            label=_word(rows.get("label"), i),
            version=_word(rows.get("version"), i),
            scores=[] if scores is None else scores.values[i, highest].tolist(),
            margin=_number(rows.get("margin"), i),
            entropy=_nats(_number(rows.get("entropy"), i), scores),
            expected=_number(expected, i),
            want=float(self._wants[i]) if np.isfinite(self._wants[i]) else None,
            uri=next((uri for uri in uris if isinstance(uri, str)), ""),
            why={reason: texts[i] for reason, texts in self.said.items() if texts and texts[i]},
            inputs=[(name, value) for name, column in self._inputs if (value := as_shown(column, i)) is not None],
            classes=[] if scores is None or not scores.words else [scores.words[at] for at in highest],
            boxes=_boxes(rows.get("boxes"), i),
            picture=_picture(rows, i),
        )


def _objections(feedback: Column | None, label: Column | None, n: int) -> list[str]:
    """What users say against the answers (n,), [] where nobody does."""
    if feedback is None:
        return []
    if feedback.kind in NUMERIC:
        found = ["the user objects" if value else "" for value in np.nan_to_num(feedback.values).tolist()]
    elif feedback.kind is Kind.CATEGORY:
        said = [_word(feedback, i) for i in range(n)]
        found = [f"the user says {s[:INPUT]!r}" if s and s != _word(label, i) else "" for i, s in enumerate(said)]
    else:
        return []
    return found if any(found) else []


def _is(column: Column | None, word: str, n: int) -> Mask:
    """Which rows (n,) have this word."""
    if column is None or column.kind is not Kind.CATEGORY or word not in column.words:
        return np.zeros(n, np.bool_)
    return np.asarray(column.values == list(column.words).index(word))


def _word(column: Column | None, i: int) -> str | None:
    if column is None or column.kind is not Kind.CATEGORY or column.values[i] < 0:
        return None
    return str(column.words[column.values[i]])


def _number(column: Column | None, i: int) -> float | None:
    value = float(column.values[i]) if column is not None and column.kind in NUMERIC else nan
    return value if isfinite(value) else None  # of a lone value numpy's takes 60 times as long


def _nats(entropy: float | None, scores: Column | None) -> float | None:
    """Entropy in nats of the share of the most there can be."""
    if entropy is None or scores is None or scores.kind is not Kind.VECTOR:
        return None
    return float(entropy * np.log(max(scores.values.shape[1], 2)))


def as_shown(column: Column | None, i: int) -> str | float | bool | None:
    """A value as a labeler is shown it."""
    if column is None or column.kind is Kind.VECTOR:
        return None
    if column.kind in NUMERIC:
        number = _number(column, i)
        return bool(number) if number is not None and column.kind is Kind.FLAG else number
    text = _word(column, i) if column.kind is Kind.CATEGORY else column.values[i]
    return None if text is None else str(text)[:INPUT]


def _highest(scores: Column | None, i: int) -> list[int]:
    """Places of a row's highest scores, in their order."""
    if scores is None or scores.kind is not Kind.VECTOR:
        return []
    values = scores.values[i]
    order = np.argsort(-values, kind="stable")[:SCORES]
    return sorted(int(at) for at in order if np.isfinite(values[at]))


def _boxes(column: Column | None, i: int) -> str:
    return "" if column is None or column.kind is not Kind.TEXT or column.values[i] is None else str(column.values[i])


def _picture(rows: Batch, i: int) -> tuple[int, int] | None:
    """Width and height in pixels, where the event tells both."""
    sides = [_number(rows.get(name), i) for name in ("picture.width", "picture.height")]
    width, height = (round(side) if side is not None and 1 <= side <= _LARGEST_SIDE else 0 for side in sides)
    return (width, height) if width and height else None
