"""Which events may go to labelers: the rules, and ingest's side of them.

Each lane offers its scored rows. Kept of a window are the lowest keys of the draw, and by reason a few rows that may be
asked for in any case. Which of the latter are kept has nothing to do with the keys of the draw: what is taken for
certain must not tell which of the others are left. The judge merges what the lanes kept and decides (`monitor.tasks`),
all of it in event time and from hashes, so a replay draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from math import isfinite
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from detectors.core import Batch, Column, Floats, Ints, Kind, Mask, Role
from detectors.draw import Draw, Kept, Keys
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
            sure.offer(-np.nan_to_num(wants), size, ids, held.candidates, rows.keys)
        else:
            size = sizes(wants, options.floor) * balance(rows.get("label"), self._factors)
        pools.draw.update(ids, size, held.candidates, rows.keys)
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
    """What may be kept of the rows of a block; candidates are made only of rows that are kept, column by column: row by
    row, 50 of 250 with 62 values each took half of ingest's time."""

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
        self._inputs, self._places = inputs, places
        self.said = said

    @cached_property
    def _lie(self) -> Floats:
        return np.zeros((len(self._rows), 0)) if self._places is None else self._places.rows(self._rows)

    def placed(self, which: Sequence[int]) -> list[Candidate]:
        """The rows with where they lie."""
        return self._made(which, self._lie[which].tolist())

    def of(self, among: Ints) -> Kept:
        """The same by their numbers among some of the rows."""
        return lambda which: self.placed(among[which].tolist())

    def candidates(self, which: Sequence[int]) -> list[Candidate]:
        """The rows without it."""
        return self._made(which, [[] for _ in which])

    def _made(self, which: Sequence[int], places: Sequence[list[float]]) -> list[Candidate]:
        rows, n = self._rows.take(which), len(which)
        scores = rows.get("scores")
        highest, values = _highest(scores, n)
        words = () if scores is None else scores.words
        # the same of all rows, as the batch's sum is: one that the calibration does not know is as expected as the rest
        expected = rows.get("expected_correct") or rows.get("confidence")
        parts = (  # in the order of a candidate's fields
            map(str, rows.ids),
            rows.times.tolist(),
            rows.offsets.tolist(),
            [self._origin.topic] * n,
            [self._origin.number] * n,
            _words(rows.get("label"), n),
            _words(rows.get("version"), n),
            values,
            _numbers(rows.get("margin"), n),
            _nats(rows.get("entropy"), scores, n),
            _numbers(expected, n),
            _finite(self._wants[which]),
            addresses(rows),
            ({reason: texts[i] for reason, texts in self.said.items() if texts and texts[i]} for i in which),
            inputs_shown(rows, self._inputs),
            places,
            ([words[at] for at in some] if words else [] for some in highest),
            _boxes(rows.get("boxes"), n),
            _pictures(rows),
        )
        return [Candidate(*part) for part in zip(*parts, strict=True)]


def inputs_shown(rows: Batch, names: Sequence[str]) -> list[list[tuple[str, str | float | bool]]]:
    """Of each row the values of these columns, as a labeler is shown them; those that are missing left out."""
    columns = [(name, column) for name in names if (column := rows.get(name)) is not None]
    names = [name for name, _ in columns]
    shown = zip(*(_shown(column) for _, column in columns), strict=True) if columns else [()] * len(rows)
    return [[pair for pair in zip(names, row, strict=True) if pair[1] is not None] for row in shown]


def addresses(rows: Batch) -> list[str]:
    """Of each row where its picture or other content lies; empty where nobody said."""
    columns = [column for name in ADDRESSES if (column := rows.get(name)) is not None]
    found = zip(*(_shown(column) for column in columns), strict=True) if columns else [()] * len(rows)
    return [next((uri for uri in row if isinstance(uri, str)), "") for row in found]


def _objections(feedback: Column | None, label: Column | None, n: int) -> list[str]:
    """What users say against the answers (n,), [] where nobody does."""
    if feedback is None:
        return []
    if feedback.kind in NUMERIC:
        found = ["the user objects" if value else "" for value in np.nan_to_num(feedback.values).tolist()]
    elif feedback.kind is Kind.CATEGORY:
        both = zip(_words(feedback, n), _words(label, n), strict=True)
        found = [f"the user says {said[:INPUT]!r}" if said and said != answer else "" for said, answer in both]
    else:
        return []
    return found if any(found) else []


def _is(column: Column | None, word: str, n: int) -> Mask:
    """Which rows (n,) have this word."""
    if column is None or column.kind is not Kind.CATEGORY or word not in column.words:
        return np.zeros(n, np.bool_)
    return np.asarray(column.values == list(column.words).index(word))


def _words(column: Column | None, n: int) -> list[str | None]:
    """Of each row (n,); None where it has none."""
    if column is None or column.kind is not Kind.CATEGORY:
        return [None] * n
    return [str(column.words[code]) if code >= 0 else None for code in column.values.tolist()]


def _numbers(column: Column | None, n: int) -> list[float | None]:
    return _finite(column.values) if column is not None and column.kind in NUMERIC else [None] * n


def _finite(values: Floats) -> list[float | None]:
    return [value if isfinite(value) else None for value in values.tolist()]


def _nats(entropy: Column | None, scores: Column | None, n: int) -> list[float | None]:
    """Entropies (n,) in nats of the shares of the most there can be."""
    if entropy is None or entropy.kind not in NUMERIC or scores is None or scores.kind is not Kind.VECTOR:
        return [None] * n
    return _finite(entropy.values * np.log(max(scores.values.shape[1], 2)))


def _shown(column: Column) -> list[str | float | bool | None]:
    """A column's values as a labeler is shown them."""
    if column.kind is Kind.VECTOR:
        return [None] * len(column)
    if column.kind in NUMERIC:
        numbers = _finite(column.values)
        return [n if n is None else bool(n) for n in numbers] if column.kind is Kind.FLAG else [*numbers]
    texts = _words(column, len(column)) if column.kind is Kind.CATEGORY else column.values.tolist()
    return [None if text is None else str(text)[:INPUT] for text in texts]


def _highest(scores: Column | None, n: int) -> tuple[list[list[int]], list[list[float]]]:
    """Of each row (n,) the places of its highest scores, in their order, and these scores."""
    if scores is None or scores.kind is not Kind.VECTOR:
        return [[] for _ in range(n)], [[] for _ in range(n)]
    order = np.sort(np.argsort(-scores.values, axis=1, kind="stable")[:, :SCORES], axis=1)
    values = np.take_along_axis(scores.values, order, axis=1)
    both = list(zip(order.tolist(), values.tolist(), np.isfinite(values).tolist(), strict=True))
    return [[*compress(at, known)] for at, _, known in both], [[*compress(score, known)] for _, score, known in both]


def _boxes(column: Column | None, n: int) -> list[str]:
    if column is None or column.kind is not Kind.TEXT:
        return [""] * n
    return ["" if value is None else str(value) for value in column.values.tolist()]


def _pictures(rows: Batch) -> list[tuple[int, int] | None]:
    """Of each row width and height in pixels, where the event tells both."""
    sides = [_numbers(rows.get(name), len(rows)) for name in ("picture.width", "picture.height")]
    return [
        (round(wide), round(high))
        if wide is not None and high is not None and 1 <= min(wide, high) <= max(wide, high) <= _LARGEST_SIDE
        else None
        for wide, high in zip(*sides, strict=True)
    ]
