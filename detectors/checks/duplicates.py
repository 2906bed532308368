"""Events sent twice: under one id, or as two rows of the same content, far oftener than in the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from detectors.checks.tails import binomial_tail, upper_share
from detectors.checks.verdict import Measured, MinRows, Rule, Words, positions, share_text, verdict
from detectors.core import Scores
from detectors.profile import Profile

ALIKE = 1e-3  # pairs of alike rows in the reference; where more are alike, content tells no row from another


class Duplicates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="duplicates"):
    """Events whose id, or rows whose asked columns, all equal those of another of the window. Score: twins per row.

    Both are counted among the sampled rows, and the surer of the two is told. The sample draws ids, and how often each
    came is exact: of 128, five events in a hundred sent again are found. Alike rows are counted as pairs, whose share
    is the same in a sample as in all rows, so the score does not depend on the size of the window; a stream sent twice
    under new ids is found up to some 2,000 rows a window. p is the binomial chance of as many at the largest share that
    the reference's sample speaks for, twice that for there are two ways. Content is not measured where over one pair in
    1,000 of the reference is alike: there are few columns, or few values. Blind to a twin in another window, and of
    content to text and vectors.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=0, description="Found when rows have more twins in the window, on average.")
    ] = 0.02
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1, description="Highest chance of a false finding in one look.")] = (
        0.0001
    )
    min_rows: MinRows = 50

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        ways = [_by_id(current, reference), _by_content(current, reference, columns)]
        chances = [way.chance() for way in ways]
        surest = int(np.argmin(chances))
        way = ways[surest]

        def say(_: int) -> Words:
            usual = way.before / max(way.drawn_before, 1) * way.drawn
            text = f"Events come more than once: {way.told}, where {usual:.2g} are usual"
            return Words(text, {"by": way.by, way.counted: float(way.hits), "usual": usual})

        measured = Measured(
            ("",), np.array([way.twins]), np.array([min(len(ways) * chances[surest], 1.0)]),
            np.array([current.rows]), np.array([reference.rows]),
        )  # fmt: skip
        return verdict(Rule(self.limit, self.min_rows, self.alpha), measured, say, "Twins", "per row")


class _Way(NamedTuple):
    """In which two rows may be one: how many of the drawn are, now and in the reference."""

    by: str
    counted: str
    hits: int
    drawn: int
    before: int
    drawn_before: int
    twins: float  # per row, those that are usual taken off; NaN = not measured
    told: str

    def chance(self) -> float:
        """Of as many; 1 where nothing was measured."""
        if np.isnan(self.twins) or not self.drawn:
            return 1.0
        hits, drawn, before, drawn_before = (np.array([n]) for n in self[2:6])
        return float(binomial_tail(hits, drawn, upper_share(before, drawn_before))[0])


def _by_id(current: Profile, reference: Profile) -> _Way:
    (now, twins), (was, usual) = (
        (int((p.copies > 1).sum()), float((p.copies * (p.copies - 1)).sum() / max(p.copies.sum(), 1)))
        for p in (current, reference)
    )
    drawn = current.copies.size
    told = f"{now:,} of {drawn:,} sampled ids came again, {share_text(now / max(drawn, 1))}"
    return _Way("id", "ids", now, drawn, was, reference.copies.size, max(twins - usual, 0.0), told)


def _by_content(current: Profile, reference: Profile, columns: Sequence[str]) -> _Way:
    now = _alike(current, columns)
    was = _alike(reference, columns) if now else 0
    drawn, drawn_before = (len(p.sample.keys) * (len(p.sample.keys) - 1) // 2 for p in (current, reference))
    share, usual = now / max(drawn, 1), was / max(drawn_before, 1)
    twins = max(share - usual, 0.0) * max(current.rows - 1, 0) if usual <= ALIKE else np.nan
    told = f"{now:,} pairs among {len(current.sample.keys):,} sampled rows are alike in every column"
    return _Way("content", "pairs", now, drawn, was, drawn_before, twins, told)


def _alike(profile: Profile, columns: Sequence[str]) -> int:
    """Pairs of sampled rows with equal values in all these columns; rows without any value have no twin."""
    layout, sample = profile.layout, profile.sample
    numbers = sample.numbers[:, positions(layout.numbers, columns)]
    codes = sample.codes[:, positions(layout.categories, columns)]
    held = ~np.isnan(numbers).all(axis=1) | (codes >= 0).any(axis=1)
    rows = np.ascontiguousarray(np.concatenate([numbers, codes.astype(np.float64)], axis=1)[held])
    if len(rows) < 2:
        return 0
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, counts = np.unique(whole, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
