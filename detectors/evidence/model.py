"""The evidence of a whole model: its columns' streams of evidence, added up under one promise.

A column has one or more streams, each an e-detector; the weights of all streams sum to 1, so their weighted sum is an
e-detector, too, whatever the dependence between them, and alarms at the promise.

| stream | of | finds |
| --- | --- | --- |
| ranks | numbers | any lasting change of law |
| guard | numbers | what crept away from the reference, beyond a tolerance |
| rates | numbers that are 0 or 1 | a changed rate |
| words, common | categories | changed shares, of all words and of the commonest |
| missing | all | a changed rate of missing values |
| ties | the row | a dependence between columns that broke, though each column is as it was |

All of these ask that quiet rows could have come in any order. A stream whose reference shows memory or season is given
to `Returns` instead, under the same name with `slow` before it, and the promise is then approximate. Where event times
show what the hour of the day or week explains of a number, that is taken off first (`phases`), and ranks are then held
against rows drawn from the whole of the reference, for its newest may be of one hour only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints, Mask, Role
from detectors.draw import uniforms
from detectors.encode import restored
from detectors.evidence import Evidence, grafted, joint, phases
from detectors.evidence.binary import Binary, Rate
from detectors.evidence.category import Category, Shares
from detectors.evidence.guard import Fixed, Guard
from detectors.evidence.joint import Joint
from detectors.evidence.memory import LIKELY, SURE, measure
from detectors.evidence.merge import attributed
from detectors.evidence.phases import Season
from detectors.evidence.ranks import Ranks, Seen, part_for_cells
from detectors.evidence.returns import Returns, Watch, beside
from detectors.profile import MISSING, Layout, Sample
from detectors.reference import Reference

TIES = 0x7135  # seed of the numbers that break ties: other bits than the row sample and the label draw use
PLACE = 0x9E3779B97F4A7C15  # odd: no two places alike
COMMON = 3  # words of a category whose rates are watched one by one
TIE_CELLS = 16  # of what ties make of a row: no value of it is told apart from its like
TIED = 0.25  # of the model's stake that is on ties between columns
AGAIN, SOON = 4, 256  # an alarm comes again within so many times the rows that it took, at least so many rows
WANDERS, WITHIN = 5, 4096  # alarms in so many rows; two changes, each told twice, are four
RECENT, FEWEST = 1024, 200  # rows of a column that alarmed, kept, and those it takes to learn how it wanders
ROW = ""  # the column that stands for the row as a whole


class Part(msgspec.Struct, frozen=True):
    """Streams of one engine."""

    at: NDArray[np.int64]  # (streams,) column of the engine's matrix of the rows
    of: NDArray[np.int64]  # (streams,) position of the watched column
    weight: NDArray[np.float64]  # (streams,); over all parts they sum to 1
    state: Any


class Restless(msgspec.Struct, frozen=True):
    """A column that alarmed: should it go on alarming, it wanders, and ranks and ties are not for it."""

    alarms: list[int]  # the model's rows at them
    values: NDArray[np.float64]  # of a ranked column, the last 1,024 since


class Memory(msgspec.Struct, frozen=True):
    """What is remembered of a model; plain data."""

    columns: list[str]  # watched, and `ROW` at the end
    parts: dict[str, Part]
    joint: Joint
    seasons: list[Season]  # of number columns
    evidence: NDArray[np.float64]  # (columns,) weighted, after the last row; its sum is the model's
    rows: int  # seen
    calm: int  # of them, up to the last one at which the model's evidence was under a hundredth of the promise
    doubted: dict[str, int]  # columns that alarmed, and the number of rows up to which they may confirm it
    restless: dict[str, Restless]  # columns that are ranked, and the row, if they alarmed within the last 4,096 rows


class Alarm(NamedTuple):
    """The model's evidence reached the promise."""

    row: int  # of the rows given
    took: int  # rows that it took, from the last at which the evidence was low
    evidence: float  # in parts of the promise, 1 and above
    shares: dict[str, float]  # of it, of the columns that moved, the most first

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.shares)


class _Engine(NamedTuple):
    """How a part of the evidence is made: from which matrix of the rows, by what, remembered as what."""

    matrix: Callable[[Sample, Joint], Floats]
    evidence: Evidence
    state: type[msgspec.Struct]


def _numbers(rows: Sample, _: Joint) -> Floats:
    return rows.numbers


def _codes(rows: Sample, _: Joint) -> Floats:
    return np.where(rows.codes == MISSING, np.nan, rows.codes)


def _common(rows: Sample, _: Joint) -> Floats:
    """Whether a category is its k-th word, end to end (n, categories * COMMON)."""
    flags = np.where(
        rows.codes[..., None] == MISSING, np.nan, rows.codes[..., None] == np.arange(COMMON, dtype=np.int32)
    )
    return flags.reshape(len(rows.codes), -1)


def _missing(rows: Sample, _: Joint) -> Floats:
    return np.concatenate([np.isnan(rows.numbers), rows.codes == MISSING], axis=1).astype(np.float64)


def _tied(rows: Sample, ties: Joint) -> Floats:
    return ties.columns(rows.numbers, rows.codes)


_ENGINES: dict[str, _Engine] = {
    "ranks": _Engine(_numbers, Ranks(), Seen),
    "guard": _Engine(_numbers, Guard(), Fixed),
    "rates": _Engine(_numbers, Binary(), Rate),
    "words": _Engine(_codes, Category(), Shares),
    "common": _Engine(_common, Binary(), Rate),
    "missing": _Engine(_missing, Binary(), Rate),
    "ties": _Engine(_tied, Ranks(TIE_CELLS, atoms=False), Seen),
}
SLOW = "slow "  # a stream with memory
_ENGINES |= {
    SLOW + name: _Engine(_ENGINES[name].matrix, Returns(), Watch)
    for name in ("ranks", "rates", "common", "missing", "ties")
}
_LEVELLED = {"ranks", "guard", SLOW + "ranks"}  # they see number columns without their season
_SHARES = {"ranks": 0.85, "guard": 0.1, "rates": 0.95, "words": 0.45, "common": 0.5, "missing": 0.05}  # of a column


# How far a row is from the reference's rows. Where those wander neither these nor ties are watched: on test beds three
# in four false alarms were theirs (101 against 24 per 10,000), at the price of two changes in 16.
_OF_REFERENCE = {"novelty", "cluster_distance", "non_representative"}


class Watched(NamedTuple):
    """What is asked for a column."""

    name: str
    weight: float = 1.0  # relative to the other columns
    side: int = 0  # 1 = only higher values count as a change, -1 = lower, 0 = any change


def start(reference: Reference, columns: Sequence[Watched], tolerance: float) -> Memory:
    """The memory before the first row. Of the columns, those that are neither number nor category are left out."""
    layout, rows = reference.layout, reference.rows
    seasons, newest, drawn = _levelled(rows, reference.profile.sample)
    wanders = _wanders(reference, seasons)
    known = {*layout.numbers, *layout.categories} - (_OF_REFERENCE if wanders else set())
    columns = [column for column in columns if column.name in known]
    streams = _streams(layout, [column.name for column in columns])
    side = np.array([column.side for column in columns], np.int64)
    weight = np.array([column.weight for column in columns])
    first = part_for_cells(len(rows.keys))  # the ties are fitted on these rows, and ranked among the others
    ties = joint.fit(rows.numbers[:first], rows.codes[:first])
    watched = np.isin(layout.numbers + layout.categories, [column.name for column in columns])
    # of surprises, products and the total; a column that varies alone is tied to none, and its total would be itself
    several = np.count_nonzero(watched & _varied(rows)) > 1
    worth = ties.worth * np.array([*watched, *watched, several])
    tied = np.flatnonzero(worth) if several and not wanders else np.zeros(0, np.int64)
    weight = weight / max(weight.sum(), 1e-300) * (1 - TIED if tied.size else 1)
    parts: dict[str, Part] = {}
    for name, (at, of, share) in streams.items():
        given = (newest, drawn) if name in _LEVELLED else (rows, rows)
        sure = LIKELY if wanders else SURE
        parts |= _parts(name, *given, sure, ties, Streams(at, of, weight[of] * share, side[of]), tolerance)
    if tied.size:
        row, either = np.full(tied.size, len(columns)), np.zeros(tied.size, np.int64)
        streams_of_row = Streams(tied, row, TIED * worth[tied] / worth.sum(), either)
        rest = rows.take(slice(first, None))
        parts |= _parts("ties", rest, rest, SURE, ties, streams_of_row, tolerance)
    names = [*(column.name for column in columns), ROW]
    return Memory(names, parts, ties, seasons, np.zeros(len(columns) + 1), 0, 0, {}, {})


def _varied(rows: Sample) -> Mask:
    """Columns (numbers + categories,) that hold more than one value."""
    values = np.concatenate([rows.numbers, rows.codes], axis=1)
    return np.asarray(np.fmax.reduce(values, initial=-np.inf) > np.fmin.reduce(values, initial=np.inf))


def _levelled(newest: Sample, drawn: Sample) -> tuple[list[Season], Sample, Sample]:
    """The seasons of a reference, and its newest rows and those drawn from all of it, by time, without them.

    Without any season the newest stand for all of it.
    """
    known = phases.learn(drawn.times, drawn.numbers)
    if not known.seasons:
        return [], newest, newest
    drawn = drawn.take(np.lexsort((drawn.keys, drawn.times)))
    newest, drawn = (rows._replace(numbers=known.reference(rows.times, rows.numbers)) for rows in (newest, drawn))
    return known.seasons, newest, drawn


def _wanders(reference: Reference, seasons: Sequence[Season]) -> bool:
    """Whether a quarter of the number columns that no scorer made have memory: more than a clock among them, or chance.

    The rows then leave the reference's without any change, and so does all that is measured against whole rows.
    """
    numbers = reference.layout.numbers
    raw = np.array([reference.role(name) is not Role.DERIVED for name in numbers], np.bool_)
    slow = np.zeros(len(numbers), np.bool_)
    slow[raw] = measure(reference.rows.numbers[:, raw]).tau > 1
    for season in seasons:
        slow[season.of] = True
    return bool((slow & raw).sum() > raw.sum() / 4)


def _streams(layout: Layout, names: Sequence[str]) -> dict[str, tuple[Ints, Ints, Floats]]:
    """Of each engine: the columns of its matrix, whose they are, and their share of that column's weight."""
    place = {name: i for i, name in enumerate(names)}
    found: dict[str, list[tuple[int, int, float]]] = {name: [] for name in _SHARES}
    for f, name in enumerate(layout.numbers):
        if name in place:
            values = layout.edges[f, 1 : layout.above[f]]
            kinds = ("rates",) if values.size and np.isin(values, (0.0, 1.0)).all() else ("ranks", "guard")
            for kind in (*kinds, "missing"):
                found[kind].append((f, place[name], _SHARES[kind]))
    for c, name in enumerate(layout.categories):
        if name in place:
            # of two words the one says all of the other
            common = range(min(COMMON, max(len(layout.words[c]) - 1, 1)))
            found["words"].append((c, place[name], _SHARES["words"]))
            found["common"] += [(c * COMMON + k, place[name], _SHARES["common"] / len(common)) for k in common]
            found["missing"].append((len(layout.numbers) + c, place[name], _SHARES["missing"]))
    return {
        kind: (
            np.array([at for at, _, _ in rows], np.int64),
            np.array([of for _, of, _ in rows], np.int64),
            np.array([share for _, _, share in rows]),
        )
        for kind, rows in found.items()
    }


class Streams(NamedTuple):
    """What a part is made for; all (streams,), as in `Part`."""

    at: Ints
    of: Ints
    weight: Floats
    side: Ints


def _parts(
    name: str, newest: Sample, drawn: Sample, sure: float, ties: Joint, streams: Streams, tolerance: float
) -> dict[str, Part]:
    """The streams of one engine, those with memory apart; of those that only the exact form can serve, none."""
    slow = measure(_ENGINES[name].matrix(newest, ties)[:, streams.at], sure).tau > 1
    if drawn is not newest:  # what wanders over days does not show in the newest rows of a busy model
        slow |= measure(_ENGINES[name].matrix(drawn, ties)[:, streams.at], sure).tau > 1
    found = {}
    for kind, chosen, rows in ((name, ~slow, drawn), (SLOW + name, slow, newest)):
        if chosen.any() and kind in _ENGINES:
            at = streams.at[chosen]
            state = _fit(kind, rows, ties, at, streams.side[chosen], tolerance)
            found[kind] = Part(at, streams.of[chosen], streams.weight[chosen], state)
    return found


def _fit(name: str, rows: Sample, ties: Joint, at: Ints, sides: Ints, tolerance: float) -> Any:
    matrix = _ENGINES[name].matrix(rows, ties)[:, at]
    if name == "guard":
        return Guard(tolerance).fit(matrix, sides)
    engine = _ENGINES[name].evidence
    return engine.fit(matrix, sides) if isinstance(engine, Ranks | Binary) else engine.fit(matrix)


def read(memory: Any) -> Memory:
    """The memory as it was, also where it comes out of a checkpoint. Undecodable when it is none."""
    if isinstance(memory, Memory):
        return memory
    found = restored(memory, Memory)
    parts = {
        name: msgspec.structs.replace(part, state=restored(part.state, _ENGINES[name].state))
        for name, part in found.parts.items()
    }
    return msgspec.structs.replace(found, parts=parts)


def step(memory: Memory, rows: Sample, time: Floats, promise: float) -> tuple[Memory, list[Alarm]]:
    """The memory after rows in their order, and the alarms among them. `time` (n,) is what passes with each row.

    An alarm throws all evidence away. If it was true it comes again, in about as many rows as before, and confirms the
    first; only then the column is learned anew, so a further change is a further alarm. If it was false, nothing that
    was known of the column is lost. Stepping in any pieces gives the same.
    """
    alarms: list[Alarm] = []
    begin = 0
    while begin < len(time):
        rest = rows.take(slice(begin, None))
        after, total = _stepped(memory, rest, time[begin:], promise)
        reached = np.flatnonzero(total >= promise)
        if not reached.size:
            memory = _heard(after, rest)
            break
        end = begin + int(reached[0]) + 1
        if end < len(time):
            after, _ = _stepped(memory, rows.take(slice(begin, end)), time[begin:end], promise)
        share = after.evidence / promise
        moved = attributed(share, np.ones(share.size), 1.0)
        moved[share.argmax()] = True  # many weak ones may have raised it together
        shares = {after.columns[i]: float(share[i]) for i in np.argsort(-share, kind="stable").tolist() if moved[i]}
        sure = {name for name in shares if after.doubted.get(name, -1) >= after.rows}
        took = after.rows - after.calm
        alarms.append(Alarm(end - 1, took, float(share.sum()), shares))
        until = after.rows + max(AGAIN * took, SOON)
        doubted = {name: rows for name, rows in after.doubted.items() if name not in sure and rows >= after.rows}
        # a stream with memory says nothing before it has come to rest, so its next alarm confirms none
        doubted |= {name: until for name in shares if name not in {*sure, *_slow(after)}}
        after = _heard(after, rows.take(slice(begin, end)))
        after = msgspec.structs.replace(
            _restarted(after, np.isin(after.columns, list(sure)), moved), calm=after.rows, doubted=doubted
        )
        memory = _without_wanderers(after, shares)
        begin = end
    return memory, alarms


def refit(memory: Memory, columns: Sequence[str], rows: Sample, tolerance: float) -> Memory:
    """The memory with these columns as `start` had them, from rows of the reference."""
    chosen = np.isin(memory.columns, list(columns))
    parts = dict(memory.parts)
    drawn = _levelled(rows, rows)[2] if memory.seasons else rows
    for name, part in memory.parts.items():
        streams = np.flatnonzero(chosen[part.of])
        if streams.size and name in _SHARES:  # an exact one; the others follow the column anyway
            sides = getattr(part.state, "sides", np.zeros(part.at.size, np.int64))[streams]
            given = drawn if name in _LEVELLED else rows
            fresh = _fit(name, given, memory.joint, part.at[streams], sides, tolerance)
            parts[name] = msgspec.structs.replace(part, state=grafted(part.state, streams, fresh))
    return msgspec.structs.replace(memory, parts=parts)


def approximate(memory: Memory) -> tuple[str, ...]:
    """The columns that make the promise an approximate one: their reference shows memory or season."""
    seasonal = {f for season in memory.seasons for f in season.of.tolist()}
    found = {
        int(part.of[i])
        for name, part in memory.parts.items()
        for i, f in enumerate(part.at.tolist())
        if name in _LEVELLED and f in seasonal
    }
    slow = _slow(memory)
    return tuple(name for i, name in enumerate(memory.columns) if name != ROW and (name in slow or i in found))


def _slow(memory: Memory) -> set[str]:
    return {memory.columns[i] for name, part in memory.parts.items() if name.startswith(SLOW) for i in part.of.tolist()}


def _stepped(memory: Memory, rows: Sample, time: Floats, promise: float) -> tuple[Memory, Floats]:
    """The memory after the rows, and the model's evidence (n,) after each."""
    n = len(time)
    # one number a row serves all streams: the sum of e-detectors may depend on each other as they like; the place in
    # the stream is in it, or events sent again would bring the same luck again
    places = np.arange(memory.rows, memory.rows + n, dtype=np.uint64)
    luck = uniforms(rows.keys ^ (places * np.uint64(PLACE)), TIES)[:, None]
    found = np.zeros((n, len(memory.columns)))
    levelled = _level(memory, rows)
    parts = {}
    for name, part in memory.parts.items():
        matrix, engine, _ = _ENGINES[name]
        ties = np.broadcast_to(luck, (n, part.at.size))
        with np.errstate(over="ignore", invalid="ignore"):  # rows after an alarm, which are stepped again
            given = levelled if name in _LEVELLED else rows
            state, evidence = engine.step(part.state, matrix(given, memory.joint)[:, part.at], ties, time)
            of, weighed = _by_column(evidence, part)
            found[:, of] += weighed
        parts[name] = msgspec.structs.replace(part, state=state)
    total = found.sum(axis=1)
    low = np.flatnonzero(total < promise / 100)
    calm = memory.rows + int(low[-1]) + 1 if low.size else memory.calm
    after = msgspec.structs.replace(memory, parts=parts, evidence=found[-1], rows=memory.rows + n, calm=calm)
    return after, total


def _by_column(evidence: Floats, part: Part) -> tuple[Ints, Floats]:
    """The watched columns that a part has streams of, and their weighed evidence (n, columns) summed."""
    order = np.argsort(part.of, kind="stable")
    of, first = np.unique(part.of[order], return_index=True)
    # ranks of a column that was found to wander weigh nothing, and may be endless
    weighed = np.where(part.weight > 0, evidence * part.weight, 0.0)
    return of, np.add.reduceat(weighed[:, order], first, axis=1)


def _restarted(memory: Memory, anew: Mask, moved: Mask) -> Memory:
    """All evidence thrown away, and columns learned anew; with any, the ties: those to it have changed, too.

    Streams with memory hold no evidence beyond what their last rows show: only those of what moved have had their say.
    """
    parts = {}
    for name, part in memory.parts.items():
        engine, state = _ENGINES[name].evidence, part.state
        if name.startswith(SLOW):
            streams = moved[part.of]
        else:
            state = engine.restart(state, np.arange(part.at.size))
            streams = anew[part.of] | (name == "ties" and anew.any())
        parts[name] = msgspec.structs.replace(part, state=engine.relearn(state, np.flatnonzero(streams)))
    return msgspec.structs.replace(memory, parts=parts, evidence=np.zeros(len(memory.columns)))


def _level(memory: Memory, rows: Sample) -> Sample:
    return rows._replace(numbers=phases.apart(memory.seasons, rows.times, rows.numbers)) if memory.seasons else rows


# -- columns that wander though their reference did not


def _heard(memory: Memory, rows: Sample) -> Memory:
    """The memory with the rows' values of restless columns; those that have long been calm are forgotten."""
    if not memory.restless:
        return memory
    ranks, numbers = memory.parts.get("ranks"), _level(memory, rows).numbers
    restless = {}
    for name, held in memory.restless.items():
        alarms = [row for row in held.alarms if row > memory.rows - WITHIN]
        values = held.values
        if name != ROW and ranks is not None:
            new = numbers[:, ranks.at[ranks.of == memory.columns.index(name)][0]]
            values = np.concatenate([values, new[~np.isnan(new)]])[-RECENT:]
        if alarms:
            restless[name] = Restless(alarms, values)
    return msgspec.structs.replace(memory, restless=restless)


def _without_wanderers(memory: Memory, alarmed: Iterable[str]) -> Memory:
    """Another alarm noted of ranked columns and the row; of those that go on alarming, ranks and ties are given up.

    A column is given to `Returns` for good, which learns from its own recent rows what it does in calm, and makes the
    promise approximate from here. Ties that break again and again are of a row that wanders, and watched no longer.
    """
    ranks = memory.parts.get("ranks")
    ranked = set() if ranks is None else {memory.columns[i] for i in ranks.of[ranks.weight > 0].tolist()}
    restless = dict(memory.restless)
    for name in (ranked | {ROW}).intersection(alarmed):
        held = restless.pop(name, Restless([], np.zeros(0)))
        held = Restless([*held.alarms, memory.rows], held.values)
        if len(held.alarms) >= WANDERS and name == ROW:
            left = {kind: part for kind, part in memory.parts.items() if kind not in ("ties", SLOW + "ties")}
            memory = msgspec.structs.replace(memory, parts=left)
        elif len(held.alarms) >= WANDERS and held.values.size >= FEWEST:
            memory = _returned(memory, memory.columns.index(name), held.values)
        else:
            restless[name] = held
    return msgspec.structs.replace(memory, restless=restless)


def _returned(memory: Memory, column: int, values: Floats) -> Memory:
    """The memory with `Returns`, fitted on these values, in place of a column's ranks and guard."""
    parts = dict(memory.parts)
    weight = 0.0
    for name in ("ranks", "guard"):
        part = parts[name]
        weight += float(part.weight[part.of == column].sum())
        parts[name] = msgspec.structs.replace(part, weight=np.where(part.of == column, 0.0, part.weight))
    at, state = parts["ranks"].at[parts["ranks"].of == column], Returns().fit(values[:, None])
    new = Part(at, np.array([column]), np.array([weight]), state)
    old = parts.get(SLOW + "ranks")
    if old is not None:
        new = Part(
            np.append(old.at, new.at), np.append(old.of, new.of), np.append(old.weight, new.weight),
            beside(old.state, state),
        )  # fmt: skip
    return msgspec.structs.replace(memory, parts=parts | {SLOW + "ranks": new})
