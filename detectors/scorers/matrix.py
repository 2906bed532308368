"""The number columns, or the embedding, that a scorer looks at together: which, as a matrix, and on one scale.

Rows are the last axis: sums over columns then run along whole batches, and in the same order in any batch, so that a
stream cut into other batches after a crash scores the same to the last bit.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from detectors.core import Batch, Floats, Kind, Mask
from detectors.scorers.uncertainty import MEASURES

FAR = 10.0  # deviations at which a value is cut, so that one wild value cannot own a window's mean

# What a batch may hold beside the inputs: answers, software measures, and what other scorers derive.
_NO_INPUTS = frozenset({
    "value", "latency", "status", "vote_entropy", "disagreement", "members_disagree", "consensus", "novelty",
    "cluster_distance", "non_representative", "rarity", *MEASURES,
})  # fmt: skip

Columns = Annotated[
    tuple[str, ...],
    msgspec.Meta(
        description="Number columns to look at together, or one vector column. Empty: `embedding` if there is one, "
        "else every number column that no other scorer made and that is neither answer nor latency."
    ),
]


def chosen(rows: Batch, columns: tuple[str, ...]) -> list[str]:
    """The columns as configured, or those that `Columns` promises where none are."""
    if columns:
        return list(columns)
    embedding = rows.get("embedding")
    if embedding is not None and embedding.kind is Kind.VECTOR:
        return ["embedding"]
    inputs = rows.columns.keys() - _NO_INPUTS
    return sorted(n for n in inputs if rows[n].kind is Kind.NUMBER and not n.startswith("projection_"))


def matrix(rows: Batch, columns: list[str]) -> tuple[Floats, bool]:
    """Values (columns, n), NaN where missing, and whether they are a vector's; a column of another kind is missing."""
    first = rows.get(columns[0]) if len(columns) == 1 else None
    if first is not None and first.kind is Kind.VECTOR:
        return np.ascontiguousarray(first.values.T), True
    values = np.full((len(columns), len(rows)), np.nan)
    for i, name in enumerate(columns):
        column = rows.get(name)
        if column is not None and column.kind in (Kind.NUMBER, Kind.FLAG):
            values[i] = column.values
    return values, False


def scales(values: Floats, is_vector: bool) -> tuple[Floats, Floats]:
    """Mean and inverse deviation (columns,), the deviation of a vector being the same for all of its columns, because
    their scale says which matter. The inverse is 0 where a column is constant or empty."""
    known = np.isfinite(values)
    counts = np.maximum(known.sum(axis=1), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        center = np.where(known, values, 0.0).sum(axis=1) / counts
        scale = np.sqrt((np.where(known, values - center[:, None], 0.0) ** 2).sum(axis=1) / counts)
    usable = np.isfinite(center) & np.isfinite(scale) & (scale > 1e-9 * np.abs(center)) & (scale > 1e-150)
    if is_vector and usable.any():
        scale[usable] = np.sqrt(np.mean(scale[usable] ** 2))
    return np.where(usable, center, 0.0), np.where(usable, 1.0 / np.where(usable, scale, 1.0), 0.0)


def standardised(values: Floats, center: Floats, inverse: Floats) -> tuple[Floats, Mask]:
    """Standardised values (columns, n), cut at FAR and 0 where missing, and the rows of which all is missing (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = (values - center[:, None]) * inverse[:, None]
        whole = np.isfinite(out.sum())  # one pass tells whether any value is NaN or inf
    missing: Mask = np.zeros(values.shape[1], np.bool_)
    if not whole:
        unknown = ~np.isfinite(values)
        out[unknown | np.isnan(out)] = 0.0
        missing = np.asarray(unknown.all(axis=0))
    return np.clip(out, -FAR, FAR, out=out), missing
