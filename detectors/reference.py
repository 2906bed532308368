"""The reference: what a model's events looked like when all was well.

Built once, from training rows in two passes of constant memory or from the first events of a stream, and kept as one
file; the rows themselves are not needed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from detectors.core import Batch, ColumnSpec, Kind, Role, Scorer, concat
from detectors.encode import Undecodable, decode, encode
from detectors.profile import Layout, Profile, Sample, lay_out, rows_of

FORMAT = 3
KEPT = 20_000  # rows that edges, words and scorers are fitted on: a quantile is then off by under 0.4 % in rank
SAMPLE = 2_000  # rows kept inside the reference's profile, drawn at random
ROWS = 4_096  # newest rows kept in the order they came: memory and season show only there


class _File(msgspec.Struct, frozen=True):
    format: int
    model: str
    source: str
    created: float
    schema: tuple[ColumnSpec, ...]
    layout: Layout
    profile: bytes
    fitted: dict[str, Any]
    rows: tuple[Any, ...]


class Reference(msgspec.Struct, frozen=True, dict=True):
    """A model's reference: schema, layout, profile, and what each scorer fitted on it."""

    model: str
    source: str  # in words, e.g. "training rows of loans.parquet"
    created: float  # UTC seconds
    schema: tuple[ColumnSpec, ...]  # the raw columns; derived ones are in the layout only
    layout: Layout
    profile: Profile
    fitted: dict[str, Any]  # by scorer name
    rows: Sample  # the newest 4,096, in the order they came

    def __repr__(self) -> str:
        return f"Reference({self.model!r}, {self.version}, {len(self.layout.columns)} columns, {self.source!r})"

    @cached_property
    def version(self) -> str:
        """Digest of what it says; two references that judge alike have the same version."""
        return hashlib.sha256(self.profile.encode() + encode((self.fitted, *self.rows))).hexdigest()[:12]

    def role(self, column: str) -> Role:
        return self._roles.get(column, Role.DERIVED)

    @cached_property
    def _roles(self) -> Mapping[str, Role]:
        return {spec.name: spec.role for spec in self.schema}

    def scored(self, batch: Batch, scorers: Mapping[str, Scorer]) -> Batch:
        """The batch with the scorers' columns added."""
        return scored(batch, scorers, self.fitted)

    def encode(self) -> bytes:
        return encode(
            _File(
                FORMAT, self.model, self.source, self.created, self.schema, self.layout, self.profile.encode(),
                self.fitted, tuple(self.rows),
            )
        )  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Reference:
        """Undecodable when the bytes are no reference or of a format this version does not know."""
        held = decode(data, _File)
        if held.format != FORMAT:
            raise Undecodable(f"reference of format {held.format}; this version reads {FORMAT}")
        profile = Profile.decode(held.layout, held.profile)
        return cls(
            held.model, held.source, held.created, held.schema, held.layout, profile, held.fitted, Sample(*held.rows)
        )


def scored(batch: Batch, scorers: Mapping[str, Scorer], fitted: Mapping[str, Any]) -> Batch:
    """The batch with the scorers' columns added, in their order; a later one sees the columns of those before."""
    for name, scorer in scorers.items():
        new = scorer.score(batch, fitted.get(name))
        if new:
            batch = Batch(batch.keys, batch.times, batch.ids, batch.offsets, {**batch.columns, **new})
    return batch


def describe(batch: Batch, roles: Mapping[str, Role]) -> tuple[ColumnSpec, ...]:
    """The schema of a raw batch."""
    return tuple(
        ColumnSpec(name, c.kind, roles.get(name, Role.INPUT), c.values.shape[1], tuple(c.words))
        if c.kind is Kind.VECTOR
        else ColumnSpec(name, c.kind, roles.get(name, Role.INPUT))
        for name, c in batch.columns.items()
    )


def _lowest_rows(parts: Sequence[Batch], k: int) -> Batch:
    whole = concat(parts)
    return whole if len(whole) <= k else whole.take(np.sort(np.argpartition(whole.keys, k)[:k]))


def build(
    model: str,
    chunks: Callable[[], Iterable[Batch]],
    scorers: Mapping[str, Scorer],
    *,
    roles: Mapping[str, Role],
    source: str,
    created: float,
) -> Reference:
    """A reference of all rows that `chunks()` yields; it is called twice and must yield the same both times.

    The first pass keeps the 20,000 rows of lowest key, on which scorers are fitted, edges cut and words ranked; the
    second counts every row. ValueError when there is not a row.
    """
    kept: Batch | None = None
    for chunk in chunks():
        if len(chunk):
            kept = _lowest_rows([chunk] if kept is None else [kept, chunk], KEPT)
    if kept is None:
        raise ValueError("a reference needs at least one row")
    fitted: dict[str, Any] = {}
    seen = kept
    for name, scorer in scorers.items():
        fitted[name] = scorer.fit(seen)
        seen = scored(seen, {name: scorer}, fitted)
    counted = {name: column for name, column in seen.columns.items() if roles.get(name) is not Role.TRUTH}
    layout = lay_out(Batch(seen.keys, seen.times, seen.ids, seen.offsets, counted))
    profile = Profile(layout, SAMPLE)
    newest: list[Sample] = []
    for chunk in chunks():
        if len(chunk):
            whole = scored(chunk, scorers, fitted)
            profile.update(whole)
            newest.append(rows_of(layout, whole.take(slice(-ROWS, None))))
            while sum(len(part.keys) for part in newest[1:]) >= ROWS:
                del newest[0]
    rows = Sample(*(np.concatenate(parts)[-ROWS:] for parts in zip(*newest, strict=True)))
    return Reference(model, source, created, describe(kept, roles), layout, profile, fitted, rows)


def build_from(model: str, rows: Batch, scorers: Mapping[str, Scorer], **said: Any) -> Reference:
    """The same from rows in memory, in blocks that stay in the cache."""

    def chunks() -> Iterator[Batch]:
        for start in range(0, len(rows), 8192):
            yield rows.take(slice(start, start + 8192))

    return build(model, chunks, scorers, **said)
