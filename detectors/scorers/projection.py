"""Fixed random projections of an embedding: a few numbers through which every check can watch it."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from detectors.core import Batch, Column, Floats, Mask, number
from detectors.scorers.matrix import Columns, chosen, matrix, scales, standardised

FEWEST = 20  # rows under which a scale is not worth fitting


class _Fitted(NamedTuple):
    columns: list[str]
    center: Floats  # (columns,)
    inverse: Floats  # (columns,) 1 / deviation, one for all of a vector; 0 for a constant column
    signs: Mask  # (projections, columns): True = +1, False = -1


class Projection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="projection"):
    """Columns `projection_0`, ...: sums of the standardised values with fixed random signs (Achlioptas 2003).

    A change of the mean of an embedding of size d by a vector of length c, in deviations, moves one projection by about
    c / sqrt(d), so the largest of 16 by twice that: it needs no guess as to where the change will be. What moves
    few of many dimensions is better seen by `novelty`, and a change that keeps all projections' laws by neither. A row
    is missing when all its values are, or where the embedding has another length. 16 columns cost 10 us an event of 384
    dimensions in batches of 250.
    """

    columns: Columns = ()
    count: Annotated[int, msgspec.Meta(description="Projections, a column each.", ge=1, le=64)] = 16
    seed: Annotated[int, msgspec.Meta(description="Another seed has other signs.", ge=0)] = 0

    def fit(self, rows: Batch) -> Any:
        columns = chosen(rows, self.columns)
        values, is_vector = matrix(rows, columns)
        center, inverse = scales(values, is_vector)
        if len(rows) < FEWEST or not inverse.any():
            return None
        signs = np.random.default_rng(self.seed).random((self.count, len(center))) < 0.5
        return _Fitted(columns, center, inverse, signs)._asdict()

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        if fitted is None:
            return {}
        known = _Fitted(**fitted)
        if not any(name in rows.columns for name in known.columns):
            return {}
        names = [f"projection_{i}" for i in range(len(known.signs))]
        values, _ = matrix(rows, known.columns)
        if len(values) != len(known.center) or not len(rows):
            return {name: number(np.full(len(rows), np.nan)) for name in names}
        if len(rows) == 1:
            values = np.repeat(values, 2, axis=1)  # see `novelty`: a lone row would be added up in another order
        standard, missing = standardised(values, known.center, known.inverse)
        used = max(int((known.inverse > 0).sum()), 1)
        along = np.einsum("jn,kj->kn", standard, np.where(known.signs, 1.0, -1.0)) / np.sqrt(used)
        along[:, missing] = np.nan
        return {name: number(along[i, : len(rows)]) for i, name in enumerate(names)}
