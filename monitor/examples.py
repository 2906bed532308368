"""Example events of a finding: ids of sampled rows that show the column's change most clearly.

A profile's row sample has keys and values but no ids; a window carries those beside it. A rarer scope has as many
examples as its rows take part in the sample of all rows, which may be none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from msgspec.structs import replace

from alerting.alert import Symptom
from detectors.core import Batch, Floats, Ints
from detectors.profile import MISSING, OTHER, Profile

SHOWN = 3  # examples of a finding
LONGEST = 200  # characters of an id that is kept: one that is cut would find nothing
_TENTHS = 10  # groups of a number's reference values, equally many in each
# of a finding about whole rows: columns that say by themselves how unusual a row is, the most general first
_UNUSUAL = ("novelty", "surprise", "rarity", "entropy")

Ids = dict[int, str]  # of sampled rows, by their key


def remember(ids: Ids, rows: Batch, profile: Profile) -> None:
    """Keeps the ids of those rows that the profile, having just counted them, has in its sample."""
    sampled = profile.sample.keys
    if not sampled.size:
        return
    for i in np.flatnonzero(rows.keys <= sampled[-1]).tolist():
        if len(rows.ids[i]) <= LONGEST:
            ids[int(rows.keys[i])] = str(rows.ids[i])
    if len(ids) > 2 * profile.size:
        for key in ids.keys() - set(sampled.tolist()):
            del ids[key]


def of_sample(ids: Ids, profile: Profile) -> Ids:
    """The ids of the rows that are in the profile's sample now."""
    return {key: ids[key] for key in profile.sample.keys.tolist() if key in ids}


def with_examples(
    symptoms: Iterable[Symptom], profiles: Mapping[str, Profile], references: Mapping[str, Profile], ids: Ids
) -> list[Symptom]:
    """The symptoms of a window, each with examples where any can be named; profiles and references by scope."""
    picked: dict[tuple[str, str], tuple[str, ...]] = {}
    told = []
    for symptom in symptoms:
        place = symptom.scope, symptom.column
        if place not in picked:
            current, reference = (held.get(symptom.scope) for held in (profiles, references))
            if current is None or reference is None:
                picked[place] = ()
            else:
                picked[place] = pick(symptom.column, current, reference, ids)
        told.append(replace(symptom, examples=picked[place]) if picked[place] else symptom)
    return told


def pick(column: str, current: Profile, reference: Profile, ids: Mapping[int, str]) -> tuple[str, ...]:
    """Ids of up to three sampled rows of `current` for a finding of this column; empty means of rows as a whole.

    The values of a number are grouped by tenths of the reference, those of a category by word; the missing make a group
    of their own. Rows come from the group that gained most against the reference, then from the next. Nothing but the
    profiles is used, so the same window gives the same examples.
    """
    layout, sample = current.layout, current.sample
    known = np.array([key in ids for key in sample.keys.tolist()], np.bool_)
    if not known.any():
        return ()
    if not column:
        column = next((name for name in _UNUSUAL if name in layout.numbers), "")
        if not column:
            return ()
        values = sample.numbers[:, layout.numbers.index(column)]
        order = np.lexsort((sample.keys, -np.nan_to_num(values, nan=-np.inf)))
    elif column in layout.numbers:
        order = _by_number(layout.numbers.index(column), current, reference)
    elif column in layout.categories:
        order = _by_word(layout.categories.index(column), current, reference)
    else:
        return ()
    chosen = order[known[order]][:SHOWN]
    return tuple(ids[key] for key in sample.keys[chosen].tolist())


def _by_number(f: int, current: Profile, reference: Profile) -> Ints:
    layout, sample = current.layout, current.sample
    at = layout.index[layout.numbers[f]]
    group_of = _tenths(reference.cells[f])

    def counts(profile: Profile) -> Floats:
        return np.append(np.bincount(group_of, profile.cells[f], _TENTHS), profile.missing[at]).astype(np.float64)

    gain = _gain(counts(current), counts(reference))
    values = sample.numbers[:, f]
    missing = np.isnan(values)
    group = np.where(missing, _TENTHS, group_of[np.searchsorted(layout.edges[f], values)])
    # in the outer tenths the most extreme values, in those between the most frequent ones, as a stuck sensor repeats
    _, place, often = np.unique(values, return_inverse=True, return_counts=True)
    clear = np.select([missing, group == 0, group == _TENTHS - 1], [0.0, -values, values], often[place])
    return np.asarray(np.lexsort((sample.keys, -clear, -gain[group])))


def _tenths(cells: Ints) -> Ints:
    """Which tenth of the reference's values each cell is of; what is below or above all of them is of an outer one."""
    before = np.cumsum(cells) - cells
    middle = (before + cells / 2) / max(int(cells.sum()), 1)
    return np.minimum((middle * _TENTHS).astype(np.int64), _TENTHS - 1)


def _by_word(c: int, current: Profile, reference: Profile) -> Ints:
    layout, sample = current.layout, current.sample
    name = layout.categories[c]
    at = layout.index[name]

    def counts(profile: Profile) -> Floats:
        held = np.append(profile.word_counts(name), [profile.unseen[c], profile.missing[at]])
        return held.astype(np.float64)

    gain = _gain(counts(current), counts(reference))
    codes = sample.codes[:, c]
    words = len(layout.words[c])
    group = np.where(codes == OTHER, words, np.where(codes == MISSING, words + 1, codes))
    return np.asarray(np.lexsort((sample.keys, -gain[group])))


def _gain(now: Floats, was: Floats) -> Floats:
    """What each group adds to the likelihood ratio of a change: rows times the log of how much its share grew."""
    share, before = (now + 0.5) / (now.sum() + 0.5 * now.size), (was + 0.5) / (was.sum() + 0.5 * was.size)
    return np.asarray(share * np.log(share / before))
