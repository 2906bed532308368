"""The values every detector speaks: columns, batches, findings, and the protocols of the interchangeable parts.

What can be measured per row is a column. A batch is columns of equal length; scorers add columns to it;
profiles count it; checks compare profiles. Nothing here knows Kafka, YAML, alerts, files or the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from detectors.performance import Estimate
    from detectors.profile import Profile
    from detectors.reference import Reference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.uint8]


class Kind(StrEnum):
    """What the values of a column are."""

    NUMBER = "number"
    FLAG = "flag"  # 0 or 1, NaN where missing; counted as a number
    CATEGORY = "category"
    TEXT = "text"
    VECTOR = "vector"


class Wrong(IntEnum):
    """What arrived where a value of the column's kind was due; 0 stands for a row in which nothing is wrong."""

    OTHER = 1  # not known what; so a mask says it too
    TEXT = 2
    NUMBER = 3
    BOOLEAN = 4
    LIST = 5
    OBJECT = 6
    LENGTH = 7  # a vector, but of another length
    BOUNDS = 8  # a number, but neither 0 nor 1 where a flag was due, or too large to reckon with


class Role(StrEnum):
    """Where a column comes from; metrics and texts name it."""

    INPUT = "input"
    OUTPUT = "output"
    SOFTWARE = "software"  # latency, status, and what was scraped from the model server
    CONTEXT = "context"  # path, rule, user, version, declared extras
    DERIVED = "derived"  # made by a scorer
    TRUTH = "truth"  # what answers should have been: scorers are fitted on it, nothing is counted of it


class ColumnSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A declared or inferred column: its name, the kind of its values, where it comes from."""

    name: Annotated[str, msgspec.Meta(min_length=1, description="As events name it; nested inputs with dots.")]
    kind: Annotated[Kind, msgspec.Meta(description="What its values are; any other value is counted as wrong.")]
    role: Annotated[Role, msgspec.Meta(description="Where it comes from; metrics and texts name it.")] = Role.INPUT
    size: Annotated[int, msgspec.Meta(ge=0, description="Length of a vector; 0 where it varies or does not apply.")] = 0
    names: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Of a vector what its places are called. Of a category what the whole numbers from 0 on stand "
            "for, where it is sometimes told by number. Empty: nobody said."
        ),
    ] = ()


@dataclass(slots=True)
class Column:
    """Values of one column, row by row.

    `values` by kind: number and flag float64 (n,), NaN = missing; category int32 (n,), index into `words`,
    -1 = missing; text object (n,), str or None = missing; vector float64 (n, size), a row of NaN = missing, `words`
    what its places are called, where somebody said. `wrong` (n,) tells by `Wrong` where another value than declared
    arrived, and what; such a row is missing in `values` too. None = nowhere.
    """

    kind: Kind
    values: NDArray[Any]
    words: Sequence[str] = ()
    wrong: Codes | None = None

    def __len__(self) -> int:
        return len(self.values)

    def missing(self) -> Mask:
        """Rows without a value (n,), those with a value of a wrong kind included."""
        if self.kind is Kind.CATEGORY:
            return np.asarray(self.values < 0)
        if self.kind is Kind.TEXT:
            return np.fromiter((v is None for v in self.values), np.bool_, len(self.values))
        nan = np.isnan(self.values)
        return np.asarray(nan.all(axis=1) if self.kind is Kind.VECTOR else nan)

    def take(self, rows: Any) -> Column:
        """The chosen rows: an index array, a mask or a slice."""
        return Column(self.kind, self.values[rows], self.words, None if self.wrong is None else self.wrong[rows])


def _codes(wrong: Codes | Mask | None) -> Codes | None:
    return None if wrong is None else np.asarray(wrong, np.uint8)


def number(values: Iterable[float], wrong: Codes | Mask | None = None, kind: Kind = Kind.NUMBER) -> Column:
    """A number column.

    >>> number([1, 2.5]).values.tolist()
    [1.0, 2.5]
    """
    return Column(kind, np.asarray(values, np.float64), (), _codes(wrong))


def category(values: Iterable[str | None], wrong: Codes | Mask | None = None) -> Column:
    """A category column from its words, None = missing.

    >>> c = category(["a", None, "a", "b"]); c.values.tolist(), list(c.words)
    ([0, -1, 0, 1], ['a', 'b'])
    """
    index: dict[str, int] = {}
    codes = [-1 if v is None else index.setdefault(v, len(index)) for v in values]
    return Column(Kind.CATEGORY, np.asarray(codes, np.int32), tuple(index), _codes(wrong))


def text(values: Iterable[str | None], wrong: Codes | Mask | None = None) -> Column:
    """A text column, None = missing."""
    rows = list(values)
    held = np.empty(len(rows), object)
    held[:] = rows
    return Column(Kind.TEXT, held, (), _codes(wrong))


def vector(values: Any, wrong: Codes | Mask | None = None, names: Sequence[str] = ()) -> Column:
    """A vector column from a matrix (n, size), a row of NaN = missing; `names` of its places."""
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"a vector column takes a matrix of rows, not {matrix.ndim} dimensions")
    return Column(Kind.VECTOR, matrix, tuple(names), _codes(wrong))


def empty(kind: Kind, n: int, size: int = 0) -> Column:
    """A column of which every row is missing."""
    if kind is Kind.CATEGORY:
        return Column(kind, np.full(n, -1, np.int32))
    if kind is Kind.TEXT:
        return Column(kind, np.full(n, None, object))
    return Column(kind, np.full((n, size) if kind is Kind.VECTOR else n, np.nan))


def _join_columns(parts: Sequence[Column]) -> Column:
    first = parts[0]
    if len(parts) == 1:
        return first
    wrong = None
    if any(p.wrong is not None for p in parts):
        wrong = np.concatenate([np.zeros(len(p), np.uint8) if p.wrong is None else p.wrong for p in parts])
    if first.kind is Kind.CATEGORY:
        if all(p.words == first.words for p in parts):
            return Column(first.kind, np.concatenate([p.values for p in parts]), first.words, wrong)
        index: dict[str, int] = {}
        codes = []
        for part in parts:
            # the last entry serves code -1, which stays missing
            table = np.array([index.setdefault(w, len(index)) for w in part.words] + [-1], np.int32)
            codes.append(table[part.values])
        return Column(first.kind, np.concatenate(codes), tuple(index), wrong)
    values = [p.values for p in parts]
    if first.kind is Kind.VECTOR:
        size = max(v.shape[1] for v in values)
        values = [
            v if v.shape[1] == size else np.pad(v, ((0, 0), (0, size - v.shape[1])), constant_values=np.nan)
            for v in values
        ]
    joined = np.concatenate(values)
    # a part in which all are missing has no names; parts of another length or other names leave the whole without any
    names = {tuple(p.words) for p in parts if p.words}
    told = names.pop() if len(names) == 1 else ()
    return Column(first.kind, joined, told if joined.ndim == 2 and len(told) == joined.shape[1] else (), wrong)


@dataclass(slots=True)
class Batch:
    """Rows as columns.

    `keys` uint64 (n,) hash of the event id, which orders every sample; `times` float64 (n,) event time in UTC
    seconds; `ids` object (n,) the event ids; `offsets` int64 (n,) position in the source's partition.
    """

    keys: NDArray[np.uint64]
    times: Floats
    ids: NDArray[np.object_]
    offsets: Ints
    columns: dict[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def get(self, name: str) -> Column | None:
        return self.columns.get(name)

    def take(self, rows: Any) -> Batch:
        """The chosen rows: an index array, a mask or a slice."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Batch(self.keys[rows], self.times[rows], self.ids[rows], self.offsets[rows], columns)


def concat(parts: Sequence[Batch]) -> Batch:
    """Rows of all parts, in order. A column that a part lacks is missing there.

    >>> a = from_columns({"x": number([1.0])}); b = from_columns({"x": number([2.0]), "c": category(["u"])})
    >>> both = concat([a, b]); both["x"].values.tolist(), both["c"].values.tolist()
    ([1.0, 2.0], [-1, 0])
    """
    if len(parts) == 1:
        return parts[0]
    kinds = {name: column for part in parts for name, column in part.columns.items()}
    columns = {}
    for name, like in kinds.items():
        size = like.values.shape[1] if like.kind is Kind.VECTOR else 0
        columns[name] = _join_columns(
            [p.columns[name] if name in p.columns else empty(like.kind, len(p), size) for p in parts]
        )
    return Batch(
        np.concatenate([p.keys for p in parts]),
        np.concatenate([p.times for p in parts]),
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.offsets for p in parts]),
        columns,
    )


def keys_of(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Sampling keys (n,) of event ids: uniform, and the same on every replica and in every replay (XXH3)."""
    return np.fromiter(map(xxh3_64_intdigest, map(str.encode, ids)), np.uint64, len(ids))


def from_columns(columns: Mapping[str, Column], times: Any = None, ids: Sequence[str] | None = None) -> Batch:
    """A batch from columns alone; ids count the rows and times are 0 where not given. For tests and plain files."""
    n = len(next(iter(columns.values()))) if columns else 0
    names = [str(i) for i in range(n)] if ids is None else list(ids)
    held = np.empty(n, object)
    held[:] = names
    at = np.zeros(n) if times is None else np.asarray(times, np.float64)
    return Batch(keys_of(names), at, held, np.arange(n, dtype=np.int64), dict(columns))


class Finding(msgspec.Struct, frozen=True):
    """A column, or the whole (`column` empty), that a check holds against the reference and finds different."""

    column: str
    score: float
    limit: float
    text: str  # one or two plain sentences: what moved, from what to what
    p_value: float | None = None
    effect: float | None = None  # size of the change in `effect_unit`
    effect_unit: str = ""
    facts: dict[str, float | str] = {}


@dataclass(slots=True)
class Scores:
    """What a check measured in one look: a score per column, and the findings among them.

    `score`, `p_value` float64 (len(columns),); NaN = could not be measured (too few rows, constant, absent).
    `estimates` of the model's performance, where the check makes any.
    """

    columns: tuple[str, ...]
    score: Floats
    findings: list[Finding] = field(default_factory=list)
    p_value: Floats | None = None
    estimates: list[Estimate] = field(default_factory=list)


class Scorer(Protocol):
    """Rows -> derived columns. Parameters are frozen; what is fitted on the reference is plain data."""

    def fit(self, rows: Batch) -> Any:
        """Plain msgpack-able data (arrays allowed) from reference rows; None when there is nothing to fit."""

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        """New columns, each len(rows) long; {} when the columns it needs are not there. Never raises on data."""


class Detector(Protocol):
    """Two profiles on the same layout -> scores. Called once a look, on one thread; never raises on data."""

    def check(self, current: Profile, reference: Profile, columns: Sequence[str]) -> Scores: ...


@runtime_checkable
class Sequential(Protocol):
    """The same with a memory, stepped once each base window. The memory is plain data, handed in and out."""

    def start(self, reference: Reference, columns: Sequence[str]) -> Any: ...

    def step(self, memory: Any, current: Profile, reference: Profile, columns: Sequence[str]) -> tuple[Any, Scores]: ...
