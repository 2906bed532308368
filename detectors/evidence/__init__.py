"""Evidence that a stream has changed, in a unit that adds up: e-detectors and what they are made of.

An e-detector (Shin, Ramdas, Rinaldo 2022) is a process M that, while nothing changes, grows by no more than the time
that passes: E[M at any stopping time] <= E[time until then]. Alarming at M >= T therefore gives an expected time to a
false alarm of at least T, whoever looks whenever. A weighted mean of e-detectors is an e-detector under any dependence
between them, which is how one promise covers all columns of a model.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from detectors.core import Floats, Ints

T = TypeVar("T", bound=msgspec.Struct)


class Evidence(Protocol):
    """An e-detector over columns side by side. Parameters are frozen; the state is plain data that `encode` takes.

    `step` never changes the state it is given: the caller may step the same rows again up to an alarm.
    """

    def fit(self, rows: Floats) -> Any:
        """The state from reference rows (m, columns) in the order they came; NaN = missing."""

    def step(self, state: Any, rows: Floats, ties: Floats, time: Floats) -> tuple[Any, Floats]:
        """The state after `rows` (n, columns), NaN = missing, and the evidence M (n, columns) after each row.

        `ties` (n, columns) are uniform numbers in (0, 1), a hash of row and column, that break ties; `time` (n,) what
        passes with each row, in the unit of the promise: 1 where it counts events. A missing value leaves its column's
        evidence as it was but for the time. Stepping in any pieces gives the same numbers bit for bit.
        """

    def restart(self, state: Any, columns: Any) -> Any:
        """The state with the evidence of `columns` (index or mask) thrown away, as after an alarm."""

    def relearn(self, state: Any, columns: Any) -> Any:
        """The same, and what `columns` are from now on is learned anew as their normal: a later change is a new one."""


def grafted(state: T, columns: Ints, fresh: T) -> T:
    """The state with `columns` (k,) taken from a fresh one of k columns.

    For states that are structs of arrays, nested at will, in which the last axis of every array is the column.
    """
    found = {}
    for name in state.__struct_fields__:
        old, new = getattr(state, name), getattr(fresh, name)
        if isinstance(old, np.ndarray):
            whole = old.copy()
            whole[..., columns] = new
            found[name] = whole
        else:
            found[name] = grafted(old, columns, new)
    return type(state)(**found)
