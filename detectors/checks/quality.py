"""Is the data whole: missing values, wrong kinds, absent columns, values and words never seen, stuck columns.

The reference may be imperfect and is itself a sample. So a share of bad rows is held against the largest share that the
reference's own rows still speak for (Wilson 1927, three standard errors up), and never less than the share allowed: p
is the chance of as many bad rows at that share. Nothing is assumed of the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import numpy as np

from detectors.checks.dependence import worth
from detectors.checks.tails import binomial_tail, upper_share
from detectors.checks.verdict import (
    Alpha,
    Measured,
    MinRows,
    Over,
    Rule,
    Words,
    chosen,
    named,
    positions,
    share_text,
    value_text,
    verdict,
    word_table,
)
from detectors.core import Floats, Ints, Scores, Wrong
from detectors.profile import Profile

Rise = Annotated[
    float, msgspec.Meta(ge=0, le=1, description="Found when the share of bad rows rose by more than this share.")
]
NAMED = 3  # new words told in a finding's text
ARRIVED = {
    Wrong.OTHER: "something else", Wrong.TEXT: "text", Wrong.NUMBER: "a number", Wrong.BOOLEAN: "true or false",
    Wrong.LIST: "a list", Wrong.OBJECT: "an object", Wrong.LENGTH: "a vector of another length",
    Wrong.BOUNDS: "a number out of bounds",
}  # fmt: skip
NOUNS = {"path": "paths", "rule": "rules", "version": "versions", "label": "labels"}  # what the words of a column are


def _share(bad: Ints, rows: Ints) -> Floats:
    return np.where(rows > 0, bad / np.maximum(rows, 1), np.nan)


def _rise(bad: Ints, now: Ints, bad_before: Ints, was: Ints, limit: float) -> tuple[Floats, Callable[[], Floats]]:
    """Rise of the share of bad rows, and the chance of as many bad rows where it rose by no more than `limit`.

    A share at its limit is thus a finding in one window of ten thousand, not in every other.
    """
    before = _share(bad_before, was)
    return (
        _share(bad, now) - before,
        lambda: binomial_tail(bad, now, np.maximum(upper_share(bad_before, was), np.minimum(before + limit, 1.0))),
    )


def _rows(profile: Profile, at: Ints) -> Ints:
    return np.full(at.size, profile.rows, np.int64)


class Missing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="missing"):
    """More rows without a value than the reference has. Score: rise of the share of missing rows.

    A value of a wrong kind is missing too. Blind to which rows lack it and to values that stand in for none (0, -1,
    "n/a"): those move the distribution, see `ks` and `chi_square`.
    """

    limit: Rise = 0.02
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 20

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        at, names = chosen(current.layout.columns, columns)
        now, was = current.missing[at], reference.missing[at]

        def say(i: int) -> Words:
            before, after = was[i] / reference.rows, now[i] / current.rows
            state = "is absent from every row" if after == 1 else f"is missing in {share_text(after)} of the rows"
            return Words(f"{names[i]} {state}, before in {share_text(before)}", {"before": before, "after": after})

        rows, rows_before = _rows(current, at), _rows(reference, at)
        rise, chance = _rise(now, rows, was, rows_before, self.limit)
        return verdict(Rule.of(self), Measured(names, rise, chance, rows, rows_before), say, "Rise", "share")


class WrongType(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wrong_type"):
    """Values of another kind than the reference has: text for a number, a list for a scalar.

    A rule, not a test: with `limit` 0 it speaks from the first such row on. Score: rise of the share of rows with a
    value of a wrong kind. Blind to changes within a kind, such as a number that now counts something else.
    """

    limit: Rise = 0.001
    min_rows: MinRows = 1

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        at, names = chosen(current.layout.columns, columns)
        arrived, arrived_before = current.arrived[at], reference.arrived[at]
        now, was = arrived.sum(axis=1), arrived_before.sum(axis=1)
        layout = current.layout
        counts = (len(layout.numbers), len(layout.categories), len(layout.others))
        due = np.repeat(["a number", "a word", "a text or a vector"], counts)[at]

        def say(i: int) -> Words:
            before, after = was[i] / reference.rows, now[i] / current.rows
            more = arrived[i] / current.rows - arrived_before[i] / reference.rows
            kinds = [Wrong(1 + k) for k in np.argsort(-more, kind="stable").tolist() if more[k] > 0]
            told = " and ".join(
                f"as {ARRIVED[kind]} in {share_text(arrived[i, kind - 1] / current.rows)}" for kind in kinds
            )
            text = f"{names[i]} arrived {told} of the rows, where it was {due[i]}"
            facts = {"before": before, "after": after, "arrived": ", ".join(kind.name.lower() for kind in kinds)}
            return Words(text, facts)

        rows, rows_before = _rows(current, at), _rows(reference, at)
        rise, _ = _rise(now, rows, was, rows_before, self.limit)
        measured = Measured(names, rise, None, rows, rows_before)
        return verdict(Rule(self.limit, self.min_rows), measured, say, "Rise", "share")


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="schema"):
    """A column of the reference that no row has any more, or one that no row of the reference had and now some have.

    Score: change of the share of rows that have the column, 0 while it is there in some. Blind to columns that the
    reference does not know (they are counted where events are decoded) and to a column that only became rarer.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="Found when over this share of the rows lost or won the column.")
    ] = 0.5
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 5

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        at, names = chosen(current.layout.columns, columns)
        rows, rows_before = _rows(current, at), _rows(reference, at)
        lacking, lacking_before = current.missing[at], reference.missing[at]
        gone, new = lacking == rows, lacking_before == rows_before
        lost, lost_chance = _rise(lacking, rows, lacking_before, rows_before, 0.0)
        won, won_chance = _rise(rows - lacking, rows, rows_before - lacking_before, rows_before, 0.0)

        def say(i: int) -> Words:
            if gone[i]:
                return Words(f"{names[i]} is absent: none of the rows has it", {"change": "gone"})
            return Words(f"{names[i]} is new: no row of the reference had it", {"change": "new"})

        changed = gone != new
        score = np.where(changed, np.where(gone, lost, won), 0.0)

        def chance() -> Floats:
            return np.where(changed, np.where(gone, lost_chance(), won_chance()), 1.0)

        return verdict(Rule.of(self), Measured(names, score, chance, rows, rows_before), say, "Rows changed", "share")


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="range"):
    """Numbers outside the range of the reference's rows. Score: rise of the share of values outside.

    The range is that of the rows the layout was cut on, so a large reference has values outside it as well; they are
    what the share is held against. Blind to everything inside the range.
    """

    limit: Rise = 0.01
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 20

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        layout = current.layout
        at = positions(layout.numbers, columns)
        names, above = named(layout.numbers, at), layout.above[at]

        def outside(profile: Profile) -> tuple[Ints, Ints]:
            cells = profile.cells[at]
            return cells[:, 0] + cells[np.arange(at.size), above], cells.sum(axis=1)

        (bad, now), (bad_before, was) = outside(current), outside(reference)

        def say(i: int) -> Words:
            low, high = layout.edges[at[i], 0], layout.edges[at[i], above[i] - 1]
            lowest, highest = current.low[at[i]], current.high[at[i]]
            text = (
                f"{names[i]} left the range {value_text(low)} to {value_text(high)} in {share_text(bad[i] / now[i])} "
                f"of its values, which now go from {value_text(lowest)} to {value_text(highest)}"
            )
            return Words(text, {"low": low, "high": high, "lowest": lowest, "highest": highest})

        rise, chance = _rise(bad, now, bad_before, was, self.limit)
        return verdict(Rule.of(self), Measured(names, rise, chance, now, was), say, "Rise", "share")


class NewCategory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="new_category"):
    """Words of a category column that the reference lacks. Score: rise of the share of rows with such a word.

    The reference of a column with many rare words has not seen them all. The share of its words seen just once
    estimates how many of the next rows bring a new one (Good 1953), and counts as its own share. Blind to known words
    that became rare or frequent: `chi_square`.
    """

    limit: Rise = 0.005
    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 20

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        layout = current.layout
        at, names = chosen(layout.categories, columns)

        def seen(profile: Profile) -> Ints:
            return profile.rows - profile.missing[len(layout.numbers) + at]

        now, was, new = seen(current), seen(reference), current.unseen[at]
        once = np.minimum((word_table(reference, at)[:, :-1] == 1).sum(axis=1) + reference.unseen[at], was)

        def say(i: int) -> Words:
            held = current.unseen_words[at[i]]
            first = sorted(held, key=lambda word: (-held[word], word))[:NAMED]
            more = f" and {len(held) - NAMED:,} more" if len(held) > NAMED else ""
            told = ", ".join(f"{word!r} ({held[word]:,})" for word in first)
            what = NOUNS.get(names[i], "words")
            text = f"{names[i]} has {what} never seen before in {share_text(new[i] / now[i])} of its rows: {told}{more}"
            return Words(text, {"words": ", ".join(first), "distinct": float(len(held))})

        rise, chance = _rise(new, now, once, was, self.limit)
        return verdict(Rule.of(self), Measured(names, rise, chance, now, was), say, "Rise", "share")


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """A column that varied and now has one value only: a stuck sensor, a default filled in. Score: 1 if so, else 0.

    p is the chance that all rows fall where the value lies in the reference, so a flag that is rarely set may rest;
    rows that are alike because they are neighbours count for fewer (`dependence.worth`). Blind to a column stuck in
    some rows only, see `stuck`.
    """

    alpha: Alpha = 0.0001
    correction: Over = "holm"
    min_rows: MinRows = 20

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        layout = current.layout
        numbers, categories = positions(layout.numbers, columns), positions(layout.categories, columns)
        names = named(layout.numbers, numbers) + named(layout.categories, categories)
        tables = [(p.cells[numbers], word_table(p, categories)) for p in (current, reference)]
        (cells, words), (cells_before, words_before) = tables
        # a word that the reference lacks may be one of many
        one_word = (words[:, :-1].max(axis=1, initial=0) == words.sum(axis=1)) & (words.sum(axis=1) > 0)
        stuck = np.concatenate([current.low[numbers] == current.high[numbers], one_word])
        varied = np.concatenate([reference.low[numbers] < reference.high[numbers], (words_before > 0).sum(axis=1) > 1])
        now = np.concatenate([cells.sum(axis=1), words.sum(axis=1)])
        was = np.concatenate([cells_before.sum(axis=1), words_before.sum(axis=1)])
        there = np.concatenate([_where_most(cells, cells_before), _where_most(words, words_before)])

        def say(i: int) -> Words:
            if i < numbers.size:
                f = numbers[i]
                before = f"it went from {value_text(reference.low[f])} to {value_text(reference.high[f])}"
                value = value_text(current.low[f])
            else:
                c = categories[i - numbers.size]
                before = f"it had {int((words_before[i - numbers.size] > 0).sum()):,} words"
                value = repr(layout.words[c][int(words[i - numbers.size].argmax())])
            return Words(f"{names[i]} is stuck at {value} in every row; in the reference {before}", {"value": value})

        found = stuck & varied

        def chance() -> Floats:
            sample, cell = reference.sample, words.argmax(axis=1)
            alike = np.concatenate([sample.numbers[:, numbers], sample.codes[:, categories] == cell], axis=1)
            free = np.maximum(now / worth(current, reference, alike), 1).astype(np.int64)
            return np.where(found, binomial_tail(free, free, upper_share(there, was)), 1.0)

        measured = Measured(names, found.astype(np.float64), chance, now, was)
        return verdict(Rule(0.0, self.min_rows, self.alpha, self.correction), measured, say, "Stuck")


def _where_most(now: Ints, was: Ints) -> Ints:
    """Per row of two tables (columns, cells), what `was` counts in the cell where `now` counts most."""
    return np.asarray(was[np.arange(len(was)), now.argmax(axis=1)])
