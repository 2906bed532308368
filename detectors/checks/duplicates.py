"""Events sent twice: the same content in two rows of a window, far oftener than rows of the reference are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from detectors.checks.tails import binomial_tail, upper_share
from detectors.checks.verdict import Measured, MinRows, Rule, Words, positions, verdict
from detectors.core import Scores
from detectors.profile import Profile

ALIKE = 1e-3  # pairs of alike rows in the reference; where more are alike, content tells no row from another


class Duplicates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="duplicates"):
    """Rows whose asked columns all equal those of another row of the window. Score: such twins per row.

    Counted as pairs of the row sample: the share of alike pairs is the same in a sample as in all rows, so the score
    does not depend on the size of the window; a stream sent twice is found up to some 2,000 rows a window. p is the
    binomial chance of as many alike pairs at the largest share that the reference's sample speaks for. Not measured
    where over one pair in 1,000 of the reference is alike: there are few columns, or few values. Blind to text, to
    vectors, and to an event whose very id came before, of which a sample holds one row.
    """

    limit: Annotated[
        float, msgspec.Meta(ge=0, description="Found when rows have more twins in the window, on average.")
    ] = 0.02
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1, description="Highest chance of a false finding in one look.")] = (
        0.0001
    )
    min_rows: MinRows = 50

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores:
        pairs = _alike(current, columns)
        before = _alike(reference, columns) if pairs else 0
        drawn, drawn_before = (len(p.sample.keys) * (len(p.sample.keys) - 1) // 2 for p in (current, reference))
        share, share_before = pairs / max(drawn, 1), before / max(drawn_before, 1)
        twins = max(share - share_before, 0.0) * max(current.rows - 1, 0) if share_before <= ALIKE else np.nan
        hits, rows, hits_before, rows_before = (np.array([n]) for n in (pairs, drawn, before, drawn_before))

        def say(_: int) -> Words:
            many = f"{pairs:,} pairs among {len(current.sample.keys):,} sampled rows are alike in every column"
            text = f"Events come more than once: {many}, where {share_before * drawn:.2g} are usual"
            return Words(text, {"pairs": float(pairs), "usual": share_before * drawn})

        measured = Measured(
            ("",), np.array([twins]), binomial_tail(hits, rows, upper_share(hits_before, rows_before)),
            np.array([current.rows]), np.array([reference.rows]),
        )  # fmt: skip
        return verdict(Rule(self.limit, self.min_rows, self.alpha), measured, say, "Twins", "per row")


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
