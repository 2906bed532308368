"""Profiles from plain values, for the tests of the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detectors.core import Batch, Column, Floats, category, from_columns, number
from detectors.profile import Profile
from detectors.reference import Reference, build_from

Values = Floats | Sequence[float] | Sequence[str | None] | Column


def rows(columns: Mapping[str, Values], times: Floats | None = None) -> Batch:
    """A batch: numbers from numbers, categories from words; all at time 0 where no times are given."""
    return from_columns({name: _column(values) for name, values in columns.items()}, times)


def _column(values: Values) -> Column:
    if isinstance(values, Column):
        return values
    if isinstance(values, np.ndarray):
        return number(values)
    if all(value is None or isinstance(value, str) for value in values):
        return category([value if isinstance(value, str) else None for value in values])
    return number([float(value) for value in values if not isinstance(value, str) and value is not None])


def learned(batch: Batch) -> Reference:
    """The reference that these rows are."""
    return build_from("model", batch, {}, roles={}, source="rows of a test", created=0.0)


def reference(columns: Mapping[str, Values], times: Floats | None = None) -> Profile:
    """The profile of rows on the layout that they ask for."""
    return learned(rows(columns, times)).profile


def window(on: Profile, columns: Mapping[str, Values], times: Floats | None = None) -> Profile:
    """The profile of rows on another profile's layout."""
    profile = Profile(on.layout)
    profile.update(rows(columns, times))
    return profile
