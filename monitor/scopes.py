"""Scopes: the parts of a model's rows that the same checks watch on their own, as slices and as versions.

What a reader would get wrong: a scope is counted on the model's own cells and needs no reference file of its own. Its
reference are those kept rows of the model's that belong to it, so a slice may be declared long after the reference was
built. Rows whose value is missing belong to no slice. Text and vector columns are counted for the model alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from detectors.core import Batch, Column, Kind, Mask, category, concat, from_columns, number
from detectors.profile import NUMERIC, OTHER, Layout, Profile, Sample, rows_of
from detectors.reference import Reference

WHOLE = ""  # the scope of all rows
SLICE, VERSION = "slice:", "version:"  # how the names of the others begin
LEAST = 100  # rows of the reference under which a scope is not judged: its first windows would be its only standard
SHARE = 0.5  # of the promise, that the scopes of a model get together

Value = str | float | bool


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"among": "in"}):
    """Rows by the value of one column."""

    column: Annotated[str, Meta(min_length=1, description="A number, flag or category, derived ones included.")]
    equals: Annotated[Value | None, Meta(description="Rows with this value.")] = None
    among: Annotated[tuple[Value, ...], Meta(description="Rows with one of these values.", max_length=1000)] = ()
    below: Annotated[float | None, Meta(description="Rows with a number under this.")] = None
    at_least: Annotated[float | None, Meta(description="Rows with this number or more.")] = None

    def __post_init__(self) -> None:
        ways = (self.equals is not None) + bool(self.among) + (self.below is not None or self.at_least is not None)
        if ways != 1:
            raise ValueError("a slice says either `equals`, or `in`, or `below` and `at_least`")

    def rows(self, batch: Batch) -> Mask:
        """Which rows of the batch belong to it (n,).

        >>> from detectors.core import from_columns
        >>> Slice("age", below=25.0).rows(from_columns({"age": number([20.0, 40.0, np.nan])})).tolist()
        [True, False, False]
        """
        column = batch.get(self.column)
        values = self.among if self.equals is None else (self.equals,)
        if column is None:
            return np.zeros(len(batch), np.bool_)
        if column.kind is Kind.CATEGORY:
            words = {_word(value) for value in values}
            table = np.array([word in words for word in column.words] + [False])  # the last serves code -1
            return np.asarray(table[column.values])
        if column.kind not in NUMERIC:
            return np.zeros(len(batch), np.bool_)
        if values:
            return np.isin(column.values, [float(value) for value in values if not isinstance(value, str)])
        low, high = (
            (-np.inf if self.at_least is None else self.at_least),
            (np.inf if self.below is None else self.below),
        )
        return np.asarray((column.values >= low) & (column.values < high))

    def holds(self, value: Value | None) -> bool:
        """Whether a row with this value of the column belongs to it; one without a value does not."""
        if value is None:
            return False
        column = category([value]) if isinstance(value, str) else number([float(value)])
        return bool(self.rows(from_columns({self.column: column}))[0])


def _word(value: Value) -> str:
    """A value as a category column holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


class Scopes(msgspec.Struct, frozen=True):
    """The scopes of a model. Bounded: as many as are declared, and `versions` model versions."""

    slices: Mapping[str, Slice] = {}
    versions: int = 0

    def __bool__(self) -> bool:
        return bool(self.slices or self.versions)

    @property
    def share(self) -> float:
        """What a scope gets of the model's promise: half of it goes to all scopes together."""
        return SHARE / max(len(self.slices) + self.versions, 1)

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the scopes that are there from the start."""
        return tuple(f"{SLICE}{name}" for name in self.slices)

    def count(self, rows: Batch, layout: Layout, into: dict[str, Profile]) -> int:
        """Counts scored rows of a window in the profiles of their scopes; how many belong to versions beyond the bound.

        The bound is reached by the versions that come first, so the same rows in the same order count the same.
        """
        names = (*layout.numbers, *layout.categories)
        columns = {name: column for name in names if (column := rows.get(name)) is not None}
        counted = Batch(rows.keys, rows.times, rows.ids, rows.offsets, columns)
        beyond = 0
        for scope, mask in self._parts(rows):
            if not mask.any():
                continue
            if scope not in into:
                if scope.startswith(VERSION) and sum(name.startswith(VERSION) for name in into) >= self.versions:
                    beyond += int(mask.sum())
                    continue
                into[scope] = Profile(layout.valued)
            into[scope].update(counted if mask.all() else counted.take(mask))
        return beyond

    def _parts(self, rows: Batch) -> Iterator[tuple[str, Mask]]:
        for name, slice_ in self.slices.items():
            yield f"{SLICE}{name}", slice_.rows(rows)
        column = rows.get("version") if self.versions else None
        if column is not None and column.kind is Kind.CATEGORY:
            present, first = np.unique(column.values, return_index=True)
            for code in present[np.argsort(first)].tolist():
                if code >= 0:
                    yield f"{VERSION}{column.words[code]}", np.asarray(column.values == code)

    def reference(self, reference: Reference, scope: str) -> Reference | None:
        """What a scope is held against; None where the reference has too few rows of it.

        A version is held against all rows of the model's reference, a slice against its own.
        """
        layout = reference.layout.valued
        newest, drawn = (batch_of(layout, sample) for sample in (reference.rows, reference.profile.sample))
        drawn = drawn.take(~np.isin(drawn.keys, newest.keys))  # rows that are in both count once
        if scope.startswith(SLICE):
            own = self.slices[scope.removeprefix(SLICE)]
            newest, drawn = (batch.take(own.rows(batch)) for batch in (newest, drawn))
        profile = Profile(layout, reference.profile.size)
        profile.update(newest)
        profile.update(drawn)
        if scope.startswith(SLICE) and profile.rows < LEAST:
            return None
        ordered = newest if len(newest) >= LEAST else concat([drawn, newest])
        return replace(reference, layout=layout, profile=profile, rows=rows_of(layout, ordered))


def batch_of(layout: Layout, sample: Sample) -> Batch:
    """The rows of a sample as columns again. Words the reference lacks come back as one it lacks."""
    columns = {name: number(sample.numbers[:, i]) for i, name in enumerate(layout.numbers)}
    for c, name in enumerate(layout.categories):
        words = layout.words[c]
        codes = np.where(sample.codes[:, c] == OTHER, len(words), sample.codes[:, c]).astype(np.int32)
        columns[name] = Column(Kind.CATEGORY, codes, (*words, RARE))
    ids = np.full(len(sample.keys), "", object)
    return Batch(sample.keys, sample.times, ids, np.zeros(len(sample.keys), np.int64), columns)


RARE = "\0"  # stands for such a word: no event's word has this character
