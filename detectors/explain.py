"""One event held against the reference: which events are like it, what is unusual in it, what its answer hung on.

A monitor sees events, not the model. What the answer hung on is therefore asked of a surrogate, trees fitted on the
reference's inputs and answers; it says how truly it stands in, and says nothing where it does not.
"""

from __future__ import annotations

from functools import cached_property
from math import comb, log2

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.boosting import Boosted, boost
from detectors.core import Batch, Floats, Ints, Mask, Role
from detectors.profile import MISSING, OTHER, Sample, rows_of
from detectors.reference import Reference

NEAREST = 5  # reference events that are shown
AROUND = 20  # nearest reference events whose values take the place of the event's own
STRONGEST = 8  # inputs that share out the answer: 256 coalitions are fewer than 200 orders of 8 would ask for
FIDELITY = 0.8  # of the surrogate, under which it is not heard
_MOST = 3.0  # deviations that one input may lie apart: one that is broken must not hide how near the others are
_ASKED = 300  # reference events whose own distances the event's is held against: its percentile has an error of 3
_COMPARED = 4e7  # values that are compared for it, half a second; of very wide events fewer are asked
_WIDEST = 256  # inputs that are compared: 4 MB of the reference's values
_FEWEST = 8  # events of a class, and of the others, that a surrogate is tried on
_PRIOR = 5.0  # rows that a word's mean is drawn to that of all
_KEPT = 32  # surrogates, one a class


class Like(msgspec.Struct, frozen=True):
    """A reference event. Its id is not kept, only when it was."""

    time: float  # UTC seconds; 0 where the reference's rows had none
    answer: str | float | None
    distance: float  # root mean square over the inputs, in deviations; a different word counts as one
    differs: tuple[str, ...]  # inputs that lie farthest apart, at most 3


class Feature(msgspec.Struct, frozen=True):
    """A column of the event beside the reference."""

    column: str
    role: Role
    value: str | float | None  # None: missing
    rank: float | None  # of a number: share of the reference's values below it, of equal ones half; 0..1
    share: float | None  # of a word, or of nothing where it is missing: how many reference events have the same
    typical: str | float | None  # of reference events with the answer that most of the nearest have
    attribution: float | None = None  # part of the answer; None: not among the strongest, or no surrogate


class Surrogate(msgspec.Struct, frozen=True):
    """What stands in for the model. Attributions sum up to `says` minus `around`."""

    of: str  # what it tells: "chance of 'can'", or "value"
    fidelity: float | None = None  # on reference events that it was not fitted on, 0..1; None: there is none
    says: float | None = None  # of the event
    around: float | None = None  # of it with the strongest inputs as in the 20 nearest reference events, on average
    refused: str = ""  # why it is not heard, in words


class Explained(msgspec.Struct, frozen=True):
    """An event held against the reference."""

    percentile: float | None  # share of reference events that lie nearer to their nearest; None: no inputs to compare
    nearest: tuple[Like, ...]
    like: str | float | None  # the answer that most of the 20 nearest have; their median where answers are numbers
    features: tuple[Feature, ...]  # what the answer hung on first, then the most unusual
    surrogate: Surrogate
    left_out: int = 0  # inputs beyond the first 256, which are neither compared nor shown to the surrogate


class _Fitted(msgspec.Struct, frozen=True):
    trees: Boosted
    words: tuple[Floats, ...]  # per used category, the number that stands for each word; the last two: other, missing
    fidelity: float


class Explainer:
    """Explains events by one reference. What is worked out of it is kept, so the second event costs a fraction.

    One thread at a time. Text and vector columns take no part: the reference keeps no values of them.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._sample = reference.profile.sample
        layout = reference.layout
        self._numbers = _places(reference, layout.numbers)
        self._words = _places(reference, layout.categories)[: _WIDEST // 2]
        self._numbers = self._numbers[: _WIDEST - self._words.size]
        every = (*layout.numbers, *layout.categories)
        self._left_out = _places(reference, every).size - self._numbers.size - self._words.size
        self._surrogates: dict[str, _Fitted | str] = {}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that are compared, at most 256."""
        layout = self._reference.layout
        return (*(layout.numbers[i] for i in self._numbers), *(layout.categories[i] for i in self._words))

    def explain(self, event: Batch) -> Explained:
        """Of a scored batch of one row."""
        row = rows_of(self._reference.layout, event)
        if not self.inputs or not len(self._sample.keys):
            return Explained(None, (), None, self._features(event, row, None, {}), Surrogate("", refused=_NO_INPUTS))
        apart = self._apart(row)
        distance = np.sqrt(apart.mean(axis=1))
        distance[self._sample.keys == row.keys[0]] = np.inf  # the event itself, where it was learned from
        order = np.argsort(distance, kind="stable")
        order = order[np.isfinite(distance[order])]
        around = order[:AROUND]
        like = _most(self._answers[around])
        surrogate, parts = self._attributed(event, row, around)
        return Explained(
            float((self._usual < distance[order[0]]).mean()) if order.size else None,
            tuple(self._like(i, distance[i], apart[i]) for i in order[:NEAREST].tolist()),
            like,
            self._features(event, row, like, parts),
            surrogate,
            self._left_out,
        )

    # -- nearness

    def _apart(self, row: Sample) -> Floats:
        """Squared distances (n, inputs) of the reference's sampled events from a row.

        A value beside a missing one lies one deviation apart (as Gower 1971 does with words).
        """
        number = row.numbers[0, self._numbers] / self._spread
        gap = np.abs(self._scaled - number)
        unlike = np.isnan(self._scaled) != np.isnan(number)
        steps = np.where(np.isnan(gap), unlike, np.minimum(gap, _MOST))
        other = self._sample.codes[:, self._words] != row.codes[0, self._words]
        return np.concatenate([steps**2, other.astype(np.float64)], axis=1)

    @cached_property
    def _scaled(self) -> Floats:
        return np.asarray(self._sample.numbers[:, self._numbers] / self._spread)

    @cached_property
    def _spread(self) -> Floats:
        """Deviations (numbers,) by the quartiles, which a few wild values do not move; plain ones where these agree.

        Of a constant a trifle, so any other value lies as far apart as one can.
        """
        values = self._sample.numbers[:, self._numbers]
        low, high = np.array([_quartiles(column) for column in values.T]).reshape(-1, 2).T
        plain = np.sqrt(np.nan_to_num(self._reference.profile.variance[self._numbers]))
        return np.asarray(np.maximum(np.where(high > low, (high - low) / 1.349, plain), 1e-9 * (1.0 + np.abs(low))))

    @cached_property
    def _usual(self) -> Floats:
        """How far reference events lie from their nearest, of a few hundred of them."""
        n, found = len(self._sample.keys), []
        asked = np.clip(_COMPARED / (n * len(self.inputs)), 20, _ASKED)
        for i in range(min(int(asked), n)):
            distance = self._apart(self._sample.take(slice(i, i + 1))).mean(axis=1)
            distance[i] = np.inf
            found.append(distance.min())
        return np.sqrt(found)

    def _like(self, i: int, distance: float, apart: Floats) -> Like:
        farthest = np.argsort(-apart, kind="stable")[:3]
        differs = tuple(self.inputs[j] for j in farthest.tolist() if apart[j] > 0.0)
        return Like(float(self._sample.times[i]), _plain(self._answers[i]), float(distance), differs)

    # -- answers

    @cached_property
    def _answers(self) -> NDArray[np.object_]:
        """Of the sampled events (n,): a word or a number, None where there is none."""
        layout, sample = self._reference.layout, self._sample
        out = np.full(len(sample.keys), None, object)
        if "label" in layout.categories:
            c = layout.categories.index("label")
            words = np.array([*layout.words[c], None, None], object)  # the last two serve OTHER and MISSING
            out[:] = words[sample.codes[:, c]]
        elif self._target is not None:
            values = sample.numbers[:, layout.numbers.index(self._target)]
            out[:] = [None if np.isnan(v) else v for v in values.tolist()]
        return out

    @cached_property
    def _target(self) -> str | None:
        """The column of answers that are numbers."""
        return next((name for name in ("label", "value") if name in self._reference.layout.numbers), None)

    # -- features

    def _features(
        self, event: Batch, row: Sample, like: str | float | None, parts: dict[str, float]
    ) -> tuple[Feature, ...]:
        of_like = self._alike(like)
        found = []
        for f, name in enumerate(self._reference.layout.numbers):
            if name in event.columns:
                found.append(self._number(f, name, float(row.numbers[0, f]), of_like, parts.get(name)))
        for c, name in enumerate(self._reference.layout.categories):
            if name in event.columns:
                found.append(self._word(c, name, event, int(row.codes[0, c]), of_like, parts.get(name)))
        found.sort(key=lambda feature: (-abs(feature.attribution or 0.0), -_unusual(feature)))
        return tuple(found)

    def _alike(self, like: str | float | None) -> Mask:
        """Sampled events with this answer; all, where answers are numbers."""
        if not isinstance(like, str):
            return np.ones(len(self._sample.keys), np.bool_)
        return np.asarray(self._answers == like)

    def _number(self, f: int, name: str, value: float, alike: Mask, part: float | None) -> Feature:
        role = self._reference.role(name)
        held = self._sample.numbers[:, f]
        known, near = held[~np.isnan(held)], held[alike & ~np.isnan(held)]
        typical = float(np.median(near)) if near.size else None
        if np.isnan(value):
            return Feature(name, role, None, None, 1.0 - known.size / max(held.size, 1), typical, part)
        rank = float(((known < value).sum() + 0.5 * (known == value).sum()) / known.size) if known.size else None
        return Feature(name, role, value, rank, None, typical, part)

    def _word(self, c: int, name: str, event: Batch, code: int, alike: Mask, part: float | None) -> Feature:
        layout, profile = self._reference.layout, self._reference.profile
        held = self._sample.codes[alike, c]
        known = held[held >= 0]
        typical = layout.words[c][int(np.bincount(known).argmax())] if known.size else None
        if code == MISSING:
            rows, value = int(profile.missing[layout.index[name]]), None
        else:
            column = event[name]
            value = column.words[int(column.values[0])]
            rows = profile.unseen_words[c].get(value, 0) if code == OTHER else int(profile.word_counts(name)[code])
        share = rows / profile.rows if profile.rows else None
        return Feature(name, self._reference.role(name), value, None, share, typical, part)

    # -- what the answer hung on

    def _attributed(self, event: Batch, row: Sample, around: Ints) -> tuple[Surrogate, dict[str, float]]:
        """Shapley values of the strongest inputs, the others as they are.

        Inputs outside a coalition take the values of the 20 nearest reference events, so what is asked of the
        surrogate stays near to what it was fitted on (Strumbelj, Kononenko 2014, who sample orders; with 8 inputs all
        coalitions are fewer).
        """
        of, answer = self._asked(event, row)
        if not of:
            return Surrogate("", refused=answer), {}
        fitted = self._surrogate(answer)
        if isinstance(fitted, str):
            return Surrogate(of, refused=fitted), {}
        if fitted.fidelity < FIDELITY:
            return Surrogate(of, fitted.fidelity, refused=f"it agrees with the model too seldom (under {FIDELITY})"), {}
        trees, used = fitted.trees, fitted.trees.columns
        own = self._encoded(row, fitted.words)[0, used]
        near = self._encoded(self._sample.take(around), fitted.words)[:, used]
        says = float(trees.predict(own[None])[0])
        effect = says - _mixed(trees, own, near, ~np.eye(used.size, dtype=np.bool_))
        strongest = np.argsort(-np.abs(effect), kind="stable")[:STRONGEST]
        present = np.ones((2**strongest.size, used.size), np.bool_)
        present[:, strongest] = coalitions(strongest.size)
        worth = _mixed(trees, own, near, present)
        names = (self.inputs[i] for i in used[strongest].tolist())
        parts = dict(zip(names, shapley(worth).tolist(), strict=True))
        return Surrogate(of, fitted.fidelity, says, float(worth[0])), parts

    def _asked(self, event: Batch, row: Sample) -> tuple[str, str]:
        """What a surrogate is to tell, and of which class; or nothing, and why."""
        layout = self._reference.layout
        if "label" in layout.categories:
            c = layout.categories.index("label")
            code = int(row.codes[0, c])
            if code == MISSING:
                return "", "the event has no answer"
            if code == OTHER:
                return "", "the reference has no event with this answer"
            return f"chance of {layout.words[c][code]!r}", layout.words[c][code]
        if self._target is None:
            return "", "the reference has no answers"
        return self._target, ""

    def _surrogate(self, answer: str) -> _Fitted | str:
        """Trees that tell this class from the others, or the number; a text says why there are none."""
        if answer not in self._surrogates:
            while len(self._surrogates) >= _KEPT:
                del self._surrogates[next(iter(self._surrogates))]
            self._surrogates[answer] = self._fit(answer)
        return self._surrogates[answer]

    def _fit(self, answer: str) -> _Fitted | str:
        """Fitted on three of four sampled events, tried on the fourth; they lie in an order that is random."""
        logistic = bool(answer)
        known = np.array([a is not None for a in self._answers], np.bool_)
        sample, held = self._sample.take(np.flatnonzero(known)), self._answers[known]
        target = (held == answer).astype(np.float64) if logistic else held.astype(np.float64)
        tried = np.arange(target.size) % 4 == 0
        new, old = target[tried], target[~tried]
        enough = min(new.sum(), new.size - new.sum()) if logistic else new.size
        if enough < _FEWEST or np.ptp(old) == 0.0 or np.ptp(new) == 0.0:
            return "the reference has too few events with this answer, or with another"
        words = tuple(
            _word_means(sample.codes[~tried, c], old, len(self._reference.layout.words[c])) for c in self._words
        )
        rows = self._encoded(sample, words)
        trees = boost(rows[~tried], old, logistic=logistic)
        said = trees.predict(rows[tried][:, trees.columns])
        return _Fitted(trees, words, balanced(said > old.mean(), new > 0) if logistic else explained(said, new))

    def _encoded(self, sample: Sample, words: tuple[Floats, ...]) -> Floats:
        """Inputs (n, inputs) as the trees take them."""
        codes = [table[sample.codes[:, c]] for c, table in zip(self._words, words, strict=True)]
        return np.column_stack([sample.numbers[:, self._numbers], *codes])


_NO_INPUTS = "the reference has no inputs that are numbers or words"


def coalitions(players: int) -> Mask:
    """All coalitions (2^players, players), in the order that `shapley` takes their worth in."""
    return np.asarray((np.arange(2**players)[:, None] >> np.arange(players)) % 2 == 1)


def shapley(worth: Floats) -> Floats:
    """What each player brings (players,), from the worth of every coalition, ordered as in `coalitions` (Shapley 1953).

    The mean over all orders in which players may come, so the parts sum up to what all bring over what none does.
    Castro et al. 2009 sample the orders; up to some ten players all coalitions are sooner asked.

    >>> shapley(np.array([0.0, 1.0, 2.0, 4.0])).tolist()  # alone 1 and 2, together 4
    [1.5, 2.5]
    """
    players = round(log2(worth.size))
    present = coalitions(players)
    size = present.sum(axis=1)
    out = np.zeros(players)
    for i in range(players):
        without = np.flatnonzero(~present[:, i])
        weight = 1.0 / (players * np.array([comb(players - 1, k) for k in size[without].tolist()]))
        out[i] = (weight * (worth[without | (1 << i)] - worth[without])).sum()
    return out


def balanced(said: Mask, true: Mask) -> float:
    """Mean of the shares right among what is and among what is not; 0.5 by chance, however rare the class.

    >>> balanced(np.array([True, False, False]), np.array([True, True, False]))
    0.75
    """
    return float((said[true].mean() + (~said[~true]).mean()) / 2)


def explained(said: Floats, true: Floats) -> float:
    """Share of the variance that is explained, 0 where it is none or less.

    >>> explained(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    1.0
    """
    return max(0.0, float(1.0 - ((said - true) ** 2).mean() / true.var()))


def _mixed(trees: Boosted, own: Floats, near: Floats, present: Mask) -> Floats:
    """What the trees say (m,) with those inputs `present` (m, inputs) as in the event, the others as in `near`."""
    rows = np.where(present[:, None, :], own, near)
    return np.asarray(trees.predict(rows.reshape(-1, own.size)).reshape(rows.shape[:2]).mean(axis=1))


def _word_means(codes: NDArray[np.int32], target: Floats, words: int) -> Floats:
    """The target's mean by word (words + 2,), an order in which trees may cut (Fisher 1958); NaN for words unseen."""
    seen = codes >= 0
    rows = np.bincount(codes[seen], minlength=words)
    sums = np.bincount(codes[seen], target[seen], minlength=words)
    means = np.where(rows > 0, (sums + _PRIOR * target.mean()) / (rows + _PRIOR), np.nan)
    return np.append(means, [np.nan, np.nan])


def _places(reference: Reference, names: tuple[str, ...]) -> Ints:
    return np.array([i for i, name in enumerate(names) if reference.role(name) is Role.INPUT], np.int64)


def _quartiles(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return (float(np.quantile(known, 0.25)), float(np.quantile(known, 0.75))) if known.size else (0.0, 0.0)


def _most(answers: NDArray[np.object_]) -> str | float | None:
    words = [a for a in answers.tolist() if isinstance(a, str)]
    if words:
        return max(sorted(set(words)), key=words.count)
    numbers = [a for a in answers.tolist() if a is not None]
    return float(np.median(numbers)) if numbers else None


def _plain(answer: str | float | None) -> str | float | None:
    return answer if answer is None or isinstance(answer, str) else float(answer)


def _unusual(feature: Feature) -> float:
    """0..1: how far from the middle, or how rare."""
    if feature.rank is not None:
        return abs(2.0 * feature.rank - 1.0)
    return 0.0 if feature.share is None else 1.0 - feature.share
