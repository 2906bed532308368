"""Slice search: a change may be everywhere, or only in the rows that fulfil one or two conditions.

Every pair of conditions is tried, as matrix products over the rows; what luck finds among thousands of slices is taken
off. In the spirit of SliceLine (Sagadeeva, Boehm 2021), with evidence in place of its score.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from math import log

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints, Mask
from detectors.evidence.normal import log_bayes
from detectors.profile import Layout

WORDS = 12  # of a category, the most frequent first
PAIRED = 128  # conditions that are tried in pairs, those that show most by themselves
ROWS = 10  # now, and three times as many in the reference: a slice with fewer is not worth naming
PLAIN = 5.0  # nats over a change everywhere, luck taken off: a slice named wrongly sends people the wrong way


class Slice(msgspec.Struct, frozen=True):
    """The rows in which a change lies: all that fulfil the one or two conditions."""

    conditions: tuple[str, ...]  # e.g. "age <= 31", "region = 'north'"
    evidence: float  # nats by which the change is rather there than everywhere, luck taken off
    inside: float  # mean move of these rows, in standard deviations of the moved column
    outside: float
    rows: int  # of those since the change


class Rows(msgspec.Struct, frozen=True):
    """Rows and the value (n,) that moved in them, standardised by the reference; NaN = missing."""

    numbers: NDArray[np.float32]
    codes: NDArray[np.int32]
    moved: Floats


def concentrated(now: Rows, was: Rows, layout: Layout, without: Collection[str] = ()) -> Slice | None:
    """The slice that explains the change of `moved` plainly better than a change of all rows; None where none does.

    Within a slice, rows are held against the reference's rows of the same slice, so a shift of the mix alone makes no
    slice stand out. `without` are columns that make no conditions: the moved one and those that move with it. Numbers
    are cut in thirds, or by value where they have few; a category by its 12 most frequent words.
    """
    known, held = ~np.isnan(now.moved), ~np.isnan(was.moved)
    texts, owner, after, before = _conditions(now, was, layout, without)
    after, before = after[known], before[held]
    new, old = now.moved[known], was.moved[held]
    alone = _evidence(after.sum(axis=0), after.T @ new, before.sum(axis=0), before.T @ old)
    first = np.argsort(-np.nan_to_num(alone, nan=-np.inf), kind="stable")[:PAIRED]
    a, b = after[:, first], before[:, first]
    pairs = _evidence(a.T @ a, a.T @ (a * new[:, None]), b.T @ b, b.T @ (b * old[:, None]))
    pairs[(owner[first][:, None] == owner[first]) | np.tri(first.size, dtype=np.bool_)] = np.nan
    single, double = _best(alone), _best(pairs)
    evidence, at = max(single, (double[0], tuple(int(first[i]) for i in double[1])))
    all_rows = (np.array([float(x)]) for x in (new.size, new.sum(), old.size, old.sum()))
    evidence -= float(np.nan_to_num(_evidence(*all_rows))[0])
    if not evidence >= PLAIN:
        return None
    inside, base = after[:, at].all(axis=1), before[:, at].all(axis=1)
    rest = new[~inside].mean() - old[~base].mean() if not (inside.all() or base.all()) else np.nan
    conditions = tuple(texts[i] for i in at)
    return Slice(conditions, evidence, float(new[inside].mean() - old[base].mean()), float(rest), int(inside.sum()))


def _evidence(rows: Floats, total: Floats, base_rows: Floats, base_total: Floats) -> Floats:
    """Nats that the slices' mean moved, from their rows and sums now and in the reference; NaN = too few rows."""
    enough = (rows >= ROWS) & (base_rows >= 3 * ROWS)
    n, m = np.maximum(rows, 1.0), np.maximum(base_rows, 1.0)
    worth = n * m / (n + m)
    return np.where(enough, log_bayes(worth * (total / n - base_total / m) ** 2, worth), np.nan)


def _best(evidence: Floats) -> tuple[float, tuple[int, ...]]:
    """The highest evidence and where it stands, the log of how many were tried taken off; -inf where none was."""
    tried = int(np.isfinite(evidence).sum())
    if not tried:
        return -np.inf, ()
    at = np.unravel_index(int(np.nanargmax(evidence)), evidence.shape)
    return float(evidence[at]) - log(tried), tuple(int(i) for i in at)


def _conditions(
    now: Rows, was: Rows, layout: Layout, without: Collection[str]
) -> tuple[list[str], Ints, Floats, Floats]:
    """Texts of the conditions, column of each, and who fulfils them: (n, conditions) now and (m, conditions) before."""
    texts: list[str] = []
    owner: list[int] = []
    after: list[Mask] = []
    before: list[Mask] = []
    for f, name in enumerate(layout.numbers):
        if name in without:
            continue
        new, old = now.numbers[:, f], was.numbers[:, f]
        for text, low, high in ranges(name, old[~np.isnan(old)]):
            texts.append(text)
            owner.append(f)
            after.append((new > low) & (new <= high))
            before.append((old > low) & (old <= high))
    for c, name in enumerate(layout.categories):
        if name in without:
            continue
        for w, word in enumerate(layout.words[c][:WORDS]):
            texts.append(f"{name} = {word!r}")
            owner.append(len(layout.numbers) + c)
            after.append(now.codes[:, c] == w)
            before.append(was.codes[:, c] == w)
    if not texts:
        return [], np.zeros(0, np.int64), np.zeros((len(now.moved), 0)), np.zeros((len(was.moved), 0))
    fulfilled_now, fulfilled_was = (np.stack(masks, axis=1).astype(np.float64) for masks in (after, before))
    return texts, np.array(owner), fulfilled_now, fulfilled_was


def ranges(name: str, known: NDArray[np.float32]) -> list[tuple[str, float, float]]:
    """Conditions on a number, each a text and a range, the lower end left out."""
    inf = float("inf")
    distinct = np.unique(known).tolist()
    if len(distinct) < 2:
        return []
    if len(distinct) <= 4:
        return [(f"{name} = {value:.4g}", low, value) for low, value in zip([-inf, *distinct], distinct, strict=False)]
    cuts = np.unique(np.quantile(known, [1 / 3, 2 / 3], method="lower")).tolist()
    cuts = [cut for cut in cuts if cut < distinct[-1]] or distinct[-2:-1]
    texts = [
        f"{name} <= {cuts[0]:.4g}",
        *(f"{a:.4g} < {name} <= {b:.4g}" for a, b in pairwise(cuts)),
    ]
    return list(zip([*texts, f"{name} > {cuts[-1]:.4g}"], [-inf, *cuts], [*cuts, inf], strict=True))
