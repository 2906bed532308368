"""Label tasks: what the lanes kept becomes draws, within the budget. The judge holds one `Sampler` a model.

A draw has two parts. What is asked for in any case (rows in the region of an alert, feedback that contradicts, words
never seen, classes with a quota; for some strategies the rows wanted most) has probability 1 and stands for itself. The
rest is one order sample of all other events, whose labels measure the model without bias.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from alerting.alert import Alert, Ruling, Severity
from alerting.labeling import task as labeling
from detectors.core import Floats
from detectors.draw import Draw, held
from detectors.profile import Profile
from detectors.reference import Reference
from detectors.selection import Pools, nearness, places_of, region, resized
from monitor.budget import Purse
from monitor.decode.boxes import unpacked
from monitor.exchange import Partial
from monitor.sampling import ANY, CLASS, FEEDBACK, HELD, NEW, SURE, Candidate, SamplingOptions

log = logging.getLogger(__name__)

FEWEST = 4  # labels that a draw waits for, up to `at_most`: under two nothing is known of their own spread
RESERVE = 2  # times what is asked for, that waits in reserve
ALERTS = 8  # open alerts whose regions are looked for, the gravest
REGION = 2.0  # times oftener than in the reference: rows whose values came so much more make the region of an alert
REPEATS = 20  # labels asked for because of one new word, in all
WORDS = 1_000  # of which that is known
TAKEN = 500  # rows asked for in any case that are remembered, to know what is nearly the same
CLASSES = 100  # whose counts go with a batch
PACE = 0.1  # weight of the newest window in how many events are to be expected
_RANKED = {Severity.INFO: 30.0, Severity.WARNING: 50.0, Severity.CRITICAL: 80.0}
_PRIORITY = {FEEDBACK: 60.0, NEW: 40.0, SURE: 20.0}  # of what no alert asks for; others 40


# from the inputs of rows (n,) and the most that is allowed: factors (n,) of their sizes, and the greatest for any row
Lift = Callable[[Sequence[Sequence[tuple[str, str | float | bool]]], float], tuple[Floats, float]]


class _Taken(msgspec.Struct, frozen=True):
    id: int
    place: list[float]


class Waiting(msgspec.Struct):
    """What has come since the last draw."""

    pools: Pools
    start: int  # first window
    rows: int = 0
    sums: dict[str, float] = {}  # over the rows, for estimates from the labels later
    classes: dict[str, int] = {}  # rows by answer


class Sampling(msgspec.Struct):
    """All that sampling remembers of a model. Plain data, saved with the judge's checkpoint."""

    purse: Purse = msgspec.field(default_factory=Purse)
    waiting: Waiting | None = None
    last: int | None = None  # last window seen
    credit: float = 0.0  # labels that may be asked for in any case
    taken: list[_Taken] = []  # the last of these
    words: dict[str, int] = {}  # labels asked for because of a new word
    pace: float = 0.0  # events in a window, from those before


class _Sure(msgspec.Struct, frozen=True):
    """A row that is asked for in any case."""

    reason: str
    text: str
    row: Candidate
    id: int
    copies: int
    severity: Severity | None = None


class Sampler:
    """The judge's side for one model: merges lanes and windows, keeps the budget, makes label tasks."""

    def __init__(self, model: str, options: SamplingOptions, dataset: str) -> None:
        self._model, self._options, self._dataset = model, options, dataset
        self._digest = options.digest
        self._near: tuple[str, float] = ("", 0.0)  # of which reference, and within what rows are nearly one
        self.state = Sampling()
        if options.strategy.certain == 1.0:
            log.warning(
                "model %s: labels of strategy %s are not usable for monitoring: nothing is left to chance, so they say "
                "nothing of the events that it passes over",
                model, options.asks_by,
            )  # fmt: skip

    def take(
        self,
        window: int,
        seconds: float,
        partials: Sequence[Partial],
        profile: Profile,
        reference: Reference,
        alerts: Iterable[Alert],
        lift: Lift | None = None,
    ) -> labeling.Draw | None:
        """One judged window of length `seconds`; the label tasks to make now, None when it is not yet time.

        `lift` may know only labels of rows that were drawn before: it changes what the waiting ones are wanted.
        """
        options, state = self._options, self.state
        asking = sorted((a for a in alerts if _asks(a)), key=lambda a: (-a.severity.rank, a.started, a.key))
        passed = 1 if state.last is None else max(1, window - state.last)
        state.last = window
        state.purse.earn(passed * seconds, options.per_hour, options.budget, alarmed=bool(asking))
        rows = self._gather(window, partials, profile, reference, asking)
        expected, state.pace = state.pace, state.pace + PACE * (rows - state.pace) if state.pace else float(rows)
        waiting = state.waiting
        if waiting is None or not self._due(waiting, (window + 1 - waiting.start) * seconds):
            return None
        state.waiting = None
        sure, draw, asked = self._draw(waiting, reference, asking, expected, seconds, lift)
        if not sure and not asked:
            return None
        return self._batch(waiting, sure, draw, asked, waiting.start * seconds, (window + 1) * seconds)

    # -- gathering

    def _gather(
        self, window: int, partials: Sequence[Partial], profile: Profile, reference: Reference, alerts: Sequence[Alert]
    ) -> int:
        """Adds a window to what waits; how many events may be drawn from it."""
        options, state = self._options, self.state
        own, rows = Pools(Draw(HELD * options.most, options.seed)), 0
        for partial in partials:
            if partial.draw is None or partial.draw.rules != self._digest:
                continue  # made under rules that have changed since
            own.merge(partial.draw)
            rows += partial.rows
        if not rows:
            return 0
        if state.waiting is None:
            state.waiting = Waiting(Pools(Draw(HELD * options.most, options.seed)), window)
        waiting = state.waiting
        self._ask(own, profile, reference, alerts)
        waiting.pools.merge(own)
        waiting.pools.keep(
            {SURE, FEEDBACK, NEW, *(CLASS + word for word in options.quotas or ()), *(a.key for a in alerts)}
        )
        waiting.rows += rows
        for name, value in _sums(profile).items():
            waiting.sums[name] = waiting.sums.get(name, 0.0) + value
        for word, count in _answers(profile):
            if word in waiting.classes or len(waiting.classes) < CLASSES:
                waiting.classes[word] = waiting.classes.get(word, 0) + count
        return rows

    def _ask(self, pools: Pools, profile: Profile, reference: Reference, alerts: Sequence[Alert]) -> None:
        """Moves those of a window's rows that lie in the region of an alert to a pool of the alert's."""
        rows = pools.asked.pop(ANY, None)
        if rows is None:
            return
        at = {int(key): i for i, key in enumerate(profile.sample.keys.tolist())}
        place = np.array([at.get(int(mark), -1) for mark in rows.marks.tolist()], np.int64)
        for alert in alerts[:ALERTS]:
            # of an alert on the model as a whole, the strangest rows
            odds = np.append(region(profile, reference.profile, alert.column or "novelty"), 0.0)[place]
            inside = np.flatnonzero(odds >= REGION)
            if inside.size:
                pool = pools.pool(alert.key, Draw(self._options.most, self._options.seed))
                some = held([rows.rows[i] for i in inside.tolist()])
                pool.offer(-odds[inside], np.ones(inside.size), rows.ids[inside], some, rows.marks[inside])

    # -- drawing

    def _due(self, waiting: Waiting, age: float) -> bool:
        options, labels = self._options, self.state.purse.labels
        if options.mode == "event":
            return True
        full = waiting.rows >= options.at_least and (waiting.rows >= options.rows or age >= options.within)
        return labels >= 1 and (age >= options.at_most or (full and labels >= min(FEWEST, options.most)))

    def _draw(
        self,
        waiting: Waiting,
        reference: Reference,
        alerts: Sequence[Alert],
        expected: float,
        seconds: float,
        lift: Lift | None,
    ) -> tuple[list[_Sure], Draw, int]:
        """Those asked for in any case, the draw of the others with its reserve, and how many of it are asked for."""
        options, purse = self._options, self.state.purse
        n = min(purse.labels, options.most)
        sure = self._sure(waiting.pools, n, reference, alerts)
        draw = self._sized(waiting.pools, options.floor_alarmed if alerts else options.floor)
        # a raised floor has used the room of what is held
        draw = draw if alerts or lift is None else self._lifted(draw, lift)
        if options.mode == "event":
            draw = draw.under(self._threshold(expected, seconds))
        draw = draw.without(np.array([one.id for one in sure], np.uint64))
        asked = min(n - len(sure), len(draw))
        purse.spend(len(sure) + asked)
        reserve = RESERVE * asked if options.mode == "buffer" else 0
        return sure, draw.first(min(asked + reserve, draw.n)), asked

    def _sized(self, pools: Pools, floor: float) -> Draw:
        options, draw = self._options, pools.draw
        if options.strategy.certain:
            return draw
        # an event by itself is drawn by what came before it
        mean = pools.mean if options.mode == "buffer" else 1.0
        wants = np.array([np.nan if row.want is None else row.want for row in map(_candidate, draw.rows)])
        return resized(draw, wants, options.floor, floor, mean)

    def _lifted(self, draw: Draw, lift: Lift) -> Draw:
        """The draw with rows wanted more where the model was found to fail; at most half of what is held goes."""
        options = self._options
        if options.failing == 1.0 or options.strategy.certain:
            return draw
        factors, most = lift([row.inputs for row in map(_candidate, draw.rows)], options.failing)
        return draw if most == 1.0 else draw.resized(draw.sizes * factors, most)

    def _threshold(self, expected: float, seconds: float) -> float:
        """Labels an event, fixed by what came before: what time brings, twice that where much was saved up, half of it
        where little is left."""
        if not expected:
            return 0.0
        brought = self._options.per_hour * seconds / 3600.0
        saved = self.state.purse.labels / max(FEWEST, brought)
        return brought * min(max(saved, 0.5), 2.0) / expected

    # -- what is asked for in any case

    def _sure(self, pools: Pools, n: int, reference: Reference, alerts: Sequence[Alert]) -> list[_Sure]:
        """At most `take_all` of all labels in the long run, of any one reason half of that; reasons take turns."""
        options, state = self._options, self.state
        if options.strategy.certain:
            share = round(options.strategy.certain * n)
            return [one for one in _pool(pools, SURE, "wanted most") if one.row.want is not None][:share]
        state.credit = min(state.credit + options.take_all * n, options.take_all * options.most)
        room = min(int(state.credit + 1e-9), n - 1)  # what was saved up never takes a whole draw
        if room < 1:
            return []
        each = max(1, room // 2)
        queues = [
            [replace(one, severity=alert.severity) for one in _pool(pools, alert.key, f"in the region of {alert.key}")]
            for alert in alerts
        ]
        queues += [_pool(pools, reason, "asked for") for reason in (FEEDBACK, NEW)]
        queues += [
            _pool(pools, CLASS + word, f"class {word}")[:quota] for word, quota in (options.quotas or {}).items()
        ]
        near = self._nearness(reference)
        found: list[_Sure] = []
        taken = dict.fromkeys((one.reason for queue in queues for one in queue), 0)
        for one in filter(None, chain.from_iterable(zip_longest(*queues))):
            if len(found) < room and taken[one.reason] < each and self._fresh(one, near):
                taken[one.reason] += 1
                found.append(one)
                state.taken = [*state.taken, _Taken(one.id, one.row.place)][-TAKEN:]
        state.credit -= len(found)
        return found

    def _fresh(self, one: _Sure, near: float) -> bool:
        """Whether nothing like it was asked for lately."""
        state = self.state
        if any(taken.id == one.id for taken in state.taken):
            return False
        if one.reason == NEW:
            word = one.row.why.get(NEW, "")
            if state.words.get(word, 0) >= REPEATS:
                return False
            state.words[word] = state.words.pop(word, 0) + 1
            if len(state.words) > WORDS:
                del state.words[next(iter(state.words))]
        places = [taken.place for taken in state.taken if len(taken.place) == len(one.row.place)]
        if not places or not one.row.place:
            return True
        return bool(((np.array(places) - one.row.place) ** 2).sum(axis=1).min() > near**2)

    def _nearness(self, reference: Reference) -> float:
        if self._near[0] != reference.version:
            places = places_of(reference)
            self._near = reference.version, 0.0 if places is None else nearness(reference, places)
        return self._near[1]

    # -- tasks

    def _batch(
        self, waiting: Waiting, sure: Sequence[_Sure], draw: Draw, asked: int, start: float, end: float
    ) -> labeling.Draw:
        options, state = self._options, self.state
        first = draw.first(asked)
        batch = labeling.LabelBatch(
            id=hashlib.sha256(f"{self._dataset}|{self._model}|{start}|{end}|{self._digest}".encode()).hexdigest()[:32],
            model=labeling.ModelRef(self._model),
            N=waiting.pools.draw.seen,
            n=asked,
            reserve=len(draw) - asked,
            tau=first.threshold if math.isfinite(first.threshold) else None,
            sums=dict(waiting.sums),
            classes=tuple(labeling.ClassScore(word, float(count)) for word, count in waiting.classes.items()),
            budget={**state.purse.tokens, "spent": float(state.purse.spent)},
            config=self._digest,
            seed=options.seed,
            start=start,
            end=end,
            dataset=self._dataset,
        )
        select = labeling.Select(
            "", options.asks_by, batch.id, None, config=self._digest, seed=options.seed,
            monitoring=options.strategy.certain < 1.0,
        )  # fmt: skip
        tasks = []
        for rank, one in enumerate(sure):
            part = labeling.Part.FEEDBACK if one.reason == FEEDBACK else labeling.Part.TAKE_ALL
            priority = _PRIORITY.get(one.reason, 40.0) if one.severity is None else _RANKED[one.severity]
            task = self._task(one.row, replace(select, part=part, pi=1.0, rank=rank), one.text, one.id, one.copies, end)
            causes = () if one.severity is None else (one.reason,)
            severity = "" if one.severity is None else one.severity.value
            tasks.append(replace(task, priority=priority, causes=causes, severity=severity))
        chances = first.inclusion().tolist()
        for rank, row in enumerate(map(_candidate, draw.rows[: len(draw)])):
            chosen = replace(
                select, part=labeling.Part.PROBABILITY, pi=chances[rank] if rank < asked else None,
                size=float(draw.sizes[rank]), key=float(draw.keys[rank]), rank=rank,
            )  # fmt: skip
            task = self._task(row, chosen, "drawn", int(draw.ids[rank]), int(draw.copies[rank]), end)
            waits = labeling.LabelingStatus.IN_QUEUE if rank < asked else labeling.LabelingStatus.IN_RESERVE
            tasks.append(replace(task, labeling_status=waits))
        return labeling.Draw(batch, tuple(map(labeling.bounded, tasks)))

    def _task(
        self, row: Candidate, select: labeling.Select, reason: str, content: int, copies: int, end: float
    ) -> labeling.LabelTask:
        version = row.version or ""
        return labeling.LabelTask(
            id=labeling.task_id(self._dataset, self._model, row.id),
            dataset=self._dataset,
            date=labeling.drawn_at(end),
            event=labeling.EventRef(
                row.id, row.topic, row.number, row.offset, row.time, input_hash=content.to_bytes(8, "big").hex()
            ),
            model=labeling.ModelRef(self._model, version),
            prediction=labeling.Prediction(
                row.label,
                tuple(map(labeling.ClassScore, row.classes or [""] * len(row.scores), row.scores)),
                row.margin,
                row.entropy,
                boxes=unpacked(row.boxes),
            ),
            select=replace(select, score=row.want, score_version=version, expected=row.expected),
            reason=reason,
            stands_for=copies,
            inputs=tuple(labeling.Named(name, value) for name, value in row.inputs),
            uri=row.uri,
            picture=None if row.picture is None else labeling.Picture(*row.picture),
        )


def _asks(alert: Alert) -> bool:
    """Whether an alert is worth labels: not one that a person called broken or false, nor one that is explained."""
    ruled = None if alert.verdict is None else alert.verdict.ruling
    return ruled not in (Ruling.UNINTENDED, Ruling.FALSE_ALARM) and not (alert.inhibited or alert.muted)


def _pool(pools: Pools, reason: str, text: str) -> list[_Sure]:
    """The rows of a reason, in its order."""
    pool = pools.asked.get(reason)
    if pool is None:
        return []
    some = zip(map(_candidate, pool.rows), pool.ids.tolist(), pool.copies.tolist(), strict=True)
    return [
        _Sure(reason, f"{text}: {row.why[reason]}" if reason in row.why else text, row, int(name), int(copies))
        for row, name, copies in some
    ][: pool.n]


def _candidate(row: Any) -> Candidate:
    """As it was kept, or as a checkpoint gives it back."""
    return row if isinstance(row, Candidate) else msgspec.convert(row, Candidate)


def _answers(profile: Profile) -> Iterator[tuple[str, int]]:
    """How often each answer came in a window."""
    layout = profile.layout
    if "label" in layout.categories:
        i = layout.categories.index("label")
        yield from zip(layout.words[i], profile.word_counts("label").tolist(), strict=True)
        yield from profile.unseen_words[i].items()


def _sums(profile: Profile) -> dict[str, float]:
    """Over a window's rows: how many have a chance to be right, by `expected_correct` or else confidence, the sum and
    sum of squares of these chances, and that of confidence as if all these rows had one."""
    numbers = profile.layout.numbers
    name = next((name for name in ("expected_correct", "confidence") if name in numbers), None)
    if name is None:
        return {}
    i = numbers.index(name)
    n = int(profile.counts[i])
    if not n:
        return {}
    mean = float(profile.mean[i])
    sums = {"n": float(n), "expected": n * mean, "expected_squared": float(profile.squares[i]) + n * mean * mean}
    if "confidence" in numbers:
        sums["confidence"] = n * float(profile.mean[numbers.index("confidence")])
    return sums
