"""How far labelers agree, how good each is, and how sure their vote is. Pure arithmetic on small lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from alerting.labeling.task import Value

ENOUGH = 30  # labels beside others', or of known tasks, below which a labeler's accuracy is not told; so of each class
_RIGHT, _PRIOR = 19.0, 20.0  # prior of a labeler's accuracy, Beta: 0.95, worth 20 labels
_ROUNDS, _STILL = 100, 1e-6  # of the fixed point: at most so many, until no accuracy moves by more
_NEARLY = 1e-3  # the same of a confusion's chances, which are known to some hundredths


def word(value: Value) -> str:
    """The value as the name of a class: a flag as JSON calls it, anything else as it prints.

    >>> word(True), word(1), word("can")
    ('true', '1', 'can')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def measured(values: Iterable[Value]) -> bool:
    """Whether the labels are measurements rather than classes: numbers, not all of them whole."""
    kinds = {type(value) for value in values}
    return float in kinds and kinds <= {float, int}


def raw(units: Iterable[Sequence[Value]]) -> float | None:
    """Share of pairs of labels of one task that are equal. None: no task has two."""
    equal = pairs = 0
    for labels in units:
        n = len(labels)
        pairs += n * (n - 1) // 2
        equal += sum(count * (count - 1) // 2 for count in Counter(map(word, labels)).values())
    return equal / pairs if pairs else None


def alpha(units: Iterable[Sequence[Value]]) -> float | None:
    """Krippendorff's alpha (2004): 1 - observed over expected disagreement; 1 is perfect, 0 is chance.

    Any number of labelers, each task by some of them. Classes differ or not; measurements (see `measured`) differ by
    the square of their distance. None where no task has two labels, or all labels ever given are equal: then nothing
    tells agreement from a question with one answer.

    >>> alpha([["a", "a"], ["b", "b"], ["a", "b"]])
    0.4444444444444444
    """
    several = [labels for labels in units if len(labels) > 1]
    pooled = [value for labels in several for value in labels]
    if measured(pooled):
        # sum over pairs (c, k), c before k, of (c - k)^2 = m * sum of squares - square of the sum
        observed = sum(_squares(labels) / (len(labels) - 1) for labels in several)
        expected = _squares(pooled) / (len(pooled) - 1)
    else:
        observed = sum(_unequal(labels) / (len(labels) - 1) for labels in several)
        expected = _unequal(pooled) / (len(pooled) - 1) if pooled else 0.0
    return 1 - observed / expected if expected else None


def _squares(values: Sequence[Value]) -> float:
    numbers = [float(value) for value in values]  # type: ignore[arg-type]  # measured: all are numbers
    center = math.fsum(numbers) / len(numbers)
    return 2 * len(numbers) * math.fsum((number - center) ** 2 for number in numbers)


def _unequal(values: Sequence[Value]) -> float:
    n = len(values)
    return float(n * n - sum(count * count for count in Counter(map(word, values)).values()))


def class_alpha(units: Iterable[Sequence[Value]], most: int = 20) -> dict[str, float | None]:
    """Alpha of each class against the rest, for the `most` frequent classes: which one labelers do not tell apart."""
    several = [[word(value) for value in labels] for labels in units if len(labels) > 1]
    frequent = Counter(value for labels in several for value in labels).most_common(most)
    return {name: alpha([[value == name for value in labels] for labels in several]) for name, _ in frequent}


def vote(values: Sequence[Value]) -> tuple[Value, bool]:
    """The most frequent label, the first given of several; and whether more than half say so. Of measurements the
    median, on which there is nothing to disagree."""
    if measured(values):
        return median(values), True  # type: ignore[type-var]  # all are numbers
    counts = Counter(map(word, values))
    best, most = counts.most_common(1)[0]
    return next(value for value in values if word(value) == best), 2 * most > len(values)


Confusion = Mapping[str, Mapping[str, float]]
"""By the true class the chance of each label, of one labeler."""


def posterior(
    votes: Sequence[tuple[str, Value]],
    accuracy: Mapping[str, float],
    classes: int,
    confusion: Mapping[str, Confusion] = {},
) -> float:
    """Chance that the most likely class of these votes (labeler, label) is right: labelers err independently, all
    classes are alike before (Dawid and Skene 1979).

    A labeler whose `confusion` is known for a class answers it by that; else a wrong answer is any other class alike
    (the one-coin model). The model whose prediction is judged has no vote: it would be a witness to itself. Blind to
    labelers who err together. A labeler that is not in `accuracy` (0 to 1, both excluded) is right in 0.95.

    >>> round(posterior([("ann", "a")], {}, 2), 2), round(posterior([("ann", "a"), ("bob", "b")], {}, 2), 2)
    (0.95, 0.5)

    Bob calls half of the tins jars, so that he says jar tells less than that he says tin:

    >>> bob = {"bob": {"tin": {"tin": 0.5, "jar": 0.5}, "jar": {"tin": 0.02, "jar": 0.98}}}
    >>> [round(posterior([("bob", said)], {}, 2, bob), 2) for said in ("jar", "tin")]
    [0.66, 0.96]
    """
    chances = _chances(votes, accuracy, max(classes, 2), confusion)
    return max(chances[word(value)] for _, value in votes)


class Skill(NamedTuple):
    """How good a labeler is, from so many labels that could be checked."""

    accuracy: float
    checked: int
    confusion: Confusion  # of the classes that were met often enough


def skills(units: Sequence[Sequence[tuple[str, Value]]], known: Sequence[tuple[str, bool]] = ()) -> dict[str, Skill]:
    """Each labeler's accuracy and confusion, from tasks that several labeled (labeler, label) and known ones (labeler,
    right).

    The model of Dawid and Skene (1979): what is true of a task and who is right how often are worked out from each
    other, by expectation and maximisation. The accuracy is that of one coin for all classes, under a prior of 0.95
    worth 20 labels; known tasks weigh what they are. From there a labeler's answers to a class that came to `ENOUGH` of
    the tasks get a distribution of their own, under a prior of what the accuracy says, worth 20 labels too. Blind to
    labelers who err together, and where only two ever label the same tasks to which of them confuses two classes.

    >>> units = [[("ann", "a"), ("bob", "a"), ("cid", "b")]] * 40
    >>> {name: round(skill.accuracy, 2) for name, skill in skills(units).items()}
    {'ann': 0.98, 'bob': 0.98, 'cid': 0.32}
    >>> {said: round(chance, 2) for said, chance in skills(units)["cid"].confusion["a"].items()}
    {'a': 0.11, 'b': 0.89}
    """
    alike = Counter(  # many tasks are labeled alike: one count, one look
        tuple(sorted((by, word(value)) for by, value in unit))
        for unit in units
        if len(unit) > 1 and not measured(value for _, value in unit)
    )
    names = sorted({name for unit in alike for _, name in unit})
    classes = max(2, len(names))
    checked, right = Counter(by for by, _ in known), Counter(by for by, fine in known if fine)
    for unit, times in alike.items():
        for by, _ in unit:
            checked[by] += times
    accuracy = dict.fromkeys(checked, _RIGHT / _PRIOR)
    for _ in range(_ROUNDS):
        expected = {by: float(right[by]) for by in checked}
        for unit, times in alike.items():
            chances = _chances(unit, accuracy, classes)
            for by, name in unit:
                expected[by] += times * chances[name]
        new = {by: (expected[by] + _RIGHT) / (checked[by] + _PRIOR) for by in checked}
        moved = max((abs(new[by] - accuracy[by]) for by in new), default=0.0)
        accuracy = new
        if moved < _STILL:
            break
    confusion = _confusion(alike, accuracy, names)
    return {by: Skill(accuracy[by], checked[by], confusion.get(by, {})) for by in accuracy}


def _confusion(
    alike: Mapping[tuple[tuple[str, str], ...], int], accuracy: Mapping[str, float], names: Sequence[str]
) -> dict[str, Confusion]:
    """Of each labeler, from votes alike and how often they came; what has too few of them is left to the accuracy."""
    classes = max(2, len(names))
    found: dict[str, Confusion] = {}
    for _ in range(_ROUNDS):
        # expected: by labeler, true class and label
        counts: dict[str, dict[str, dict[str, float]]] = {}
        for unit, times in alike.items():
            chances = _chances(unit, accuracy, classes, found)
            for by, said in unit:
                for truth, chance in chances.items():
                    row = counts.setdefault(by, {}).setdefault(truth, {})
                    row[said] = row.get(said, 0.0) + times * chance
        new: dict[str, Confusion] = {}
        for by, rows in counts.items():
            other = (1 - accuracy[by]) / (classes - 1)
            met = {truth: math.fsum(row.values()) for truth, row in rows.items()}
            new[by] = {
                truth: {
                    said: (row.get(said, 0.0) + _PRIOR * (accuracy[by] if said == truth else other))
                    / (met[truth] + _PRIOR)
                    for said in names
                }
                for truth, row in rows.items()
                if met[truth] >= ENOUGH
            }
        still = all(_near(found.get(by, {}), rows) for by, rows in new.items())
        found = new
        if still:
            break
    return found


def _near(old: Confusion, new: Confusion) -> bool:
    """Whether no chance moved by more than `_NEARLY`."""
    return old.keys() == new.keys() and all(
        abs(old[truth][said] - chance) < _NEARLY for truth, row in new.items() for said, chance in row.items()
    )


def _chances(
    votes: Sequence[tuple[str, Value]],
    accuracy: Mapping[str, float],
    classes: int,
    confusion: Mapping[str, Confusion] = {},
) -> dict[str, float]:
    """Of each class that somebody voted for, or whose confusion by one of them is known, to be the true one."""
    said = [(by, word(value)) for by, value in votes]
    names = dict.fromkeys(name for _, name in said)
    names |= dict.fromkeys(name for by, _ in said for name in confusion.get(by, {}))
    log = dict.fromkeys(names, 0.0)
    rest = 0.0  # of each other class
    for by, label in said:
        a = accuracy.get(by, _RIGHT / _PRIOR)
        right, wrong = math.log(a), math.log((1 - a) / (classes - 1))
        rest += wrong
        rows = confusion.get(by, {})
        for name in log:
            row = rows.get(name)
            chance = None if row is None else row.get(label)
            log[name] += math.log(chance) if chance else right if name == label else wrong
    top = max(*log.values(), rest)
    weights = {name: math.exp(each - top) for name, each in log.items()}
    total = sum(weights.values()) + max(0, classes - len(weights)) * math.exp(rest - top)
    return {name: weight / total for name, weight in weights.items()}
