"""From what a check measured to its scores and findings: the one rule by which every check decides, and its words.

A column is found only when the change is large (score over `limit`) and no accident (p-value, corrected over the
columns of the look, within `alpha`). Neither is enough: in a million rows every difference is significant, and in ten
rows every difference is large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np

from detectors.checks.naming import name_change
from detectors.core import Finding, Floats, Ints, Scores
from detectors.many import Correction, adjusted
from detectors.profile import Layout, Profile

Alpha = Annotated[
    float,
    msgspec.Meta(gt=0, lt=1, description="Highest chance of a false finding in one look, after the correction."),
]
Over = Annotated[
    Correction,
    msgspec.Meta(
        description="Correction over the columns of a look: `holm` and `bonferroni` hold the chance of even one false "
        "finding, `bh` and `by` the share of false ones among those found, `none` the chance of each column."
    ),
]
MinRows = Annotated[
    int,
    msgspec.Meta(ge=1, description="Values that a column needs, now and in the reference, to be measured at all."),
]


class Corrected(Protocol):
    """The parameters that most checks have."""

    @property
    def limit(self) -> float: ...
    @property
    def min_rows(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def correction(self) -> Correction: ...


class Rule(NamedTuple):
    """When a measured column is a found one."""

    limit: float
    min_rows: int
    alpha: float = 1.0
    correction: Correction = "none"

    @classmethod
    def of(cls, check: Corrected) -> Rule:
        """That of a check with the usual parameters."""
        return cls(check.limit, check.min_rows, check.alpha, check.correction)


class Measured(NamedTuple):
    """What a check measured, all arrays (columns,). NaN = not measured; `p_value` None = the score alone decides.

    A p-value given as a function is worked out only where a score is over the limit: elsewhere it can find nothing, and
    in calm data, which is nearly all, it would be half the cost of the look.
    """

    names: tuple[str, ...]
    score: Floats
    p_value: Floats | Callable[[], Floats] | None
    now: Ints  # values counted
    was: Ints  # the same in the reference


class Words(NamedTuple):
    """What a check says of one found column: a sentence on what moved, and facts for machines."""

    text: str
    facts: Mapping[str, float | str]


def verdict(rule: Rule, measured: Measured, say: Callable[[int], Words], effect: str, unit: str = "") -> Scores:
    """Scores of all columns and the findings among them. `say(i)` words the i-th column, called only when found.

    `effect` names the score in the text, `unit` is its unit; a share is told in percent.
    """
    names, score, p_value, now, was = measured
    enough = (now >= rule.min_rows) & (was >= rule.min_rows)
    score = np.where(enough, score, np.nan)
    found = score > rule.limit
    sure = None
    if callable(p_value):
        p_value = p_value() if found.any() else None
    if p_value is not None:
        p_value = np.where(enough, p_value, np.nan)
        sure = adjusted(p_value, rule.correction)
        found &= sure <= rule.alpha
    findings = []
    for i in np.flatnonzero(found).tolist():
        words = say(i)
        chance = None if sure is None else float(sure[i])
        text = (
            f"{words.text}. {effect} {_size(score[i], unit)}, limit {_size(rule.limit, unit)}"
            f"{'' if chance is None else ', ' + chance_text(chance)}, {now[i]:,} rows against {was[i]:,}."
        )
        facts: dict[str, float | str] = {"rows": float(now[i]), "reference_rows": float(was[i])}
        facts |= {name: fact if isinstance(fact, str) else float(fact) for name, fact in words.facts.items()}
        findings.append(
            Finding(names[i], float(score[i]), rule.limit, text, chance, float(score[i]), unit or effect.lower(), facts)
        )
    return Scores(names, score, findings, p_value)


def _size(value: float, unit: str) -> str:
    return share_text(value) if unit == "share" else f"{value:.3g} {unit}".rstrip()


# -- which columns


def positions(names: Sequence[str], columns: Sequence[str]) -> Ints:
    """Where the wanted columns lie in `names`, ascending; a wanted one that is not there is left out."""
    wanted = set(columns)
    return np.array([i for i, name in enumerate(names) if name in wanted], np.int64)


def named(names: Sequence[str], at: Ints) -> tuple[str, ...]:
    """The names at these positions."""
    return tuple(names[i] for i in at.tolist())


def chosen(names: Sequence[str], columns: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """`positions` of the wanted columns, and their names in that order."""
    at = positions(names, columns)
    return at, named(names, at)


def word_table(profile: Profile, at: Ints) -> Ints:
    """Rows per word of the chosen category columns side by side (len(at), widest + 1), padded with 0; unseen last."""
    layout = profile.layout
    lengths = np.diff(layout.starts)
    table = np.zeros((lengths.size, int(lengths.max(initial=0)) + 1), np.int64)
    # row by row, which is how the words lie end to end
    table[np.arange(table.shape[1]) < lengths[:, None]] = profile.words
    table[:, -1] = profile.unseen
    return table[at]


# -- words


def value_text(value: float) -> str:
    """A value of a column, four digits.

    >>> value_text(1234.567), value_text(0.25)
    ('1235', '0.25')
    """
    return f"{value:.4g}"


def share_text(share: float) -> str:
    """A share in percent.

    >>> share_text(0.1234), share_text(1.0)
    ('12.3 %', '100 %')
    """
    return f"{100 * share:.3g} %"


def chance_text(p_value: float) -> str:
    """A p-value; below 1e-12 nobody needs the digits.

    >>> chance_text(0.00042), chance_text(0.0)
    ('p = 0.00042', 'p < 1e-12')
    """
    return "p < 1e-12" if p_value < 1e-12 else f"p = {p_value:.2g}"


_MARKS = (("median", 0.5), ("5 % quantile", 0.05), ("95 % quantile", 0.95))


def moved_number(current: Profile, reference: Profile, f: int) -> Words:
    """What moved in a number column: its mean, or a quantile that moved over twice as far; and what that is called."""
    name = current.layout.numbers[f]
    changes = [("mean", float(reference.mean[f]), float(current.mean[f]))]
    changes += [(mark, reference.quantile(name, q), current.quantile(name, q)) for mark, q in _MARKS]
    mean, far = changes[0], max(changes[1:], key=lambda c: abs(c[2] - c[1]))
    what, before, after = far if abs(far[2] - far[1]) > 2 * abs(mean[2] - mean[1]) else mean
    text = f"{name} moved: its {what} went from {value_text(before)} to {value_text(after)}"
    facts: dict[str, float | str] = {"statistic": what, "before": before, "after": after}
    naming = name_change(current, reference, name)
    return Words(text, facts) if naming is None else Words(f"{text}; {naming.text}", facts | naming.facts)


def moved_word(layout: Layout, c: int, now: Ints, was: Ints) -> Words:
    """What moved in a category column: the word whose share of the rows changed most. Rows of `word_table`."""
    name, words = layout.categories[c], layout.words[c]
    before, after = was / max(was.sum(), 1), now / max(now.sum(), 1)
    i = int(np.abs(after - before).argmax())
    word = repr(words[i]) if i < len(words) else "words that the reference lacks"
    text = f"{name} moved: {word} went from {share_text(before[i])} to {share_text(after[i])} of its rows"
    return Words(text, {"statistic": f"share of {word}", "before": float(before[i]), "after": float(after[i])})
