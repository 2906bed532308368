"""The fast path: own-format events of a known schema, bytes to columns without a dict in between.

A record is decoded into structs made for the schema, and blocks of them are turned on their side into arrays. It is
strict on purpose: what does not fit (another kind of value, a NaN literal, no inputs) is refused, and the tolerant
path of `own.py` has the last word on it. On what is taken both agree, which a property test holds.
"""

# CPU per event of 1 KB (50 numbers, 10 categories, label, two scores), measured beside orjson.loads in one run
# (benchmarks/decode.py): orjson.loads alone 1.00, msgspec into these structs 0.53, and the columns, with ids, keys and
# times, on top: see BLOCK. What was tried for the columns, us per event of 3.7 in all: turning rows with zip 0.5,
# struct.pack_into 0.6 (np.array 2.5, np.fromiter 1.8, array.array 1.7), words to codes 0.7; astuple 0.4 (attrgetter
# 2.5). One decode call for a joined array of 128 records: no gain, and one odd record would refuse them all.

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple

from detectors.core import Batch, Column, ColumnSpec, Kind, Mask, Role, keys_of
from monitor.decode.columns import CONTEXT, OUTPUTS, SOFTWARE, vectors, word
from monitor.decode.times import parse_times
from monitor.event import RESERVED, Schema

# Structs of 128 events (1 MB) stay in the cache until they are columns; 250 cost a quarter more, 64 no less.
BLOCK = 128

Path = tuple[str, ...]
_HEAD = ("id", "time", "model")


class Shape(NamedTuple):
    """How a model's events are written, as one of them shows: a guide for making the structs, not a rule for events."""

    inputs: str = "inputs"  # or "features"
    order: tuple[Path, ...] = ()  # of the fields; fields in the order of the struct are found at the first try
    nesting: tuple[tuple[Path, int], ...] = ()  # lists in lists: how deep a vector's are, where it is over 1
    classes: tuple[str, ...] = ()  # of scores given as an object, sorted


def shape_of(body: Mapping[str, Any], schema: Schema) -> Shape:
    """The shape that an event's JSON shows of what the schema watches."""
    inputs = "features" if "inputs" not in body and "features" in body else "inputs"
    watched = {_place(spec) for spec in schema} | {(name,) for name in _HEAD}
    order: list[Path] = []
    nesting: list[tuple[Path, int]] = []

    def walk(path: Path, fields: Mapping[str, Any]) -> None:
        for key, value in fields.items():
            here = (*path, key)
            place = (here[0], ".".join(here[1:])) if len(here) > 1 else here
            if place in watched:
                order.append(here)
                depth, inner = 0, value
                while isinstance(inner, list) and inner and depth < 4:
                    depth, inner = depth + 1, inner[0]
                if depth > 1:
                    nesting.append((place, depth))
            elif isinstance(value, dict) and len(here) < 8:
                walk(here, value)

    walk((), {("inputs" if key == inputs else key): value for key, value in body.items()})
    outputs = body.get("outputs")
    scores = outputs.get("scores") if isinstance(outputs, dict) else None
    return Shape(inputs, tuple(order), tuple(nesting), tuple(sorted(scores)) if isinstance(scores, dict) else ())


def _place(spec: ColumnSpec) -> Path:
    """Where an own-format event carries a column; dots of a name are left for the shape to resolve."""
    name = spec.name
    if name in OUTPUTS:
        return ("outputs", name)
    if name in SOFTWARE or name in CONTEXT:
        return (name,)
    key = name.removeprefix("input.") if name.removeprefix("input.") in RESERVED else name
    return ("inputs" if spec.role is Role.INPUT else "extra", key)


class _Codes(dict[Any, int]):
    """Word -> code in order of first sight. Whole numbers and their text are one word."""

    def __init__(self) -> None:
        super().__init__({None: -1})
        self.words: dict[str, int] = {}

    def __missing__(self, value: Any) -> int:
        text = word(value)
        code = -1 if text is None else self.words.setdefault(text, len(self.words))
        self[value] = code
        return code


class _Numbers:
    """Number and flag columns of a batch, one row of a matrix each, packed in place block by block."""

    def __init__(self, columns: int, rows: int) -> None:
        self.matrix = np.empty((columns, rows))
        self._bytes = memoryview(self.matrix.data).cast("B") if self.matrix.size else memoryview(b"")
        self._stride = rows * 8

    def put(self, at: int, start: int, values: Sequence[Any], pack: Callable[..., None]) -> None:
        try:
            pack(self._bytes, at * self._stride + start * 8, *values)
        except struct.error:  # a null among them
            self.matrix[at, start : start + len(values)] = np.array(values, np.float64)


@dataclass(slots=True)
class _Vectors:
    """One vector column: a matrix for each block."""

    size: int
    depth: int
    blocks: list[Any] = field(default_factory=list)
    wrong: list[Mask | None] = field(default_factory=list)

    def put(self, values: Sequence[Any]) -> None:
        rows = values
        if all(rows) and self.size and not isinstance(rows[0], msgspec.Struct):
            for _ in range(self.depth - 1):
                rows = [list(chain.from_iterable(row)) for row in rows]
            if set(map(len, rows)) == {self.size}:
                try:
                    flat = struct.pack(f"{len(rows) * self.size}d", *chain.from_iterable(rows))
                    self.blocks.append(np.frombuffer(flat).reshape(len(rows), self.size))
                    self.wrong.append(None)
                    return
                except struct.error:  # a null inside
                    pass
        lists = [list(astuple(v)) if isinstance(v, msgspec.Struct) else v for v in values]
        matrix, wrong = vectors(lists, self.size)
        self.blocks.append(matrix)
        self.wrong.append(wrong)

    def column(self) -> Column:
        width = self.size or max((b.shape[1] for b in self.blocks), default=0)
        blocks = [
            b if b.shape[1] == width else np.pad(b, ((0, 0), (0, width - b.shape[1])), constant_values=np.nan)
            for b in self.blocks
        ]
        values = np.concatenate(blocks) if blocks else np.empty((0, width))
        return Column(Kind.VECTOR, values, (), _joined(self.wrong, [len(b) for b in blocks]))


def _joined(parts: Sequence[Mask | None], sizes: Sequence[int]) -> Mask | None:
    if all(part is None for part in parts):
        return None
    return np.concatenate([np.zeros(n, np.bool_) if p is None else p for p, n in zip(parts, sizes, strict=True)])


_NUMBER = float | None
_CATEGORY = str | int | None
_ANY_WORD = str | int | bool | list[str] | None


def _wire_type(spec: ColumnSpec, place: Path, shape: Shape) -> tuple[Any, Any]:
    """The type that a value must have to be taken, and what stands for an absent one."""
    if spec.kind is Kind.NUMBER:
        return _NUMBER, np.nan
    if spec.kind is Kind.FLAG:
        return bool | float | None, np.nan
    if spec.kind is Kind.TEXT:
        return str | None, None
    if spec.kind is Kind.CATEGORY:
        return _ANY_WORD if spec.name in RESERVED else _CATEGORY, None
    if place == ("outputs", "scores") and shape.classes:
        scores = msgspec.defstruct(
            "Scores",
            [(f"f{i}", float) for i in range(len(shape.classes))],
            rename={f"f{i}": name for i, name in enumerate(shape.classes)},
            forbid_unknown_fields=True,
            gc=False,
        )
        return scores | None, None
    wanted: Any = float | None
    for _ in range(dict(shape.nesting).get(place, 1)):
        wanted = list[wanted]
    return wanted | None, None


@dataclass(slots=True)
class _Section:
    """A struct of an event, and what its fields are: a column's place in the schema, or a section in turn."""

    type: type[msgspec.Struct]
    fields: list[int | _Section]
    empty: msgspec.Struct


def _section(tree: Mapping[str, Any], name: str, kinds: Sequence[tuple[Any, Any]]) -> _Section:
    fields: list[int | _Section] = []
    types: list[tuple[str, Any, Any]] = []
    for i, (key, child) in enumerate(tree.items()):
        if isinstance(child, dict):
            inner = _section(child, key, kinds)
            fields.append(inner)
            types.append((f"f{i}", inner.type | None, None))
        else:
            fields.append(child)
            types.append((f"f{i}", *kinds[child]))
    made = msgspec.defstruct(name, types, rename={f"f{i}": key for i, key in enumerate(tree)}, gc=False, eq=False)
    return _Section(made, fields, made())


class Plan:
    """The structs for a schema and a shape, and how their fields become columns. Costs a millisecond to make."""

    def __init__(self, schema: Schema, shape: Shape) -> None:
        self.specs = [spec for spec in schema if spec.role is not Role.DERIVED]
        self.schema = schema
        self.shape = shape
        places = [_place(spec) for spec in self.specs]
        spelled = {(path[0], ".".join(path[1:])): path for path in shape.order if len(path) > 2}
        literal = set(shape.order)
        paths = []
        other = set()
        for place in places:
            path = place
            if len(place) == 2 and "." in place[1] and place[0] in ("inputs", "extra"):
                # A dotted name is either a key or a way through objects. The shape says which; a record that seems
                # to hold the other spelling is refused, so that its value is not overlooked.
                parts = place[1].split(".")
                path = place if place in literal else spelled.get((place[0], place[1]), (place[0], *parts))
                starts = {".".join(parts[:n]) for n in range(1, len(parts) + 1)} - {path[1]}
                other |= {msgspec.json.encode(start) for start in starts}
            paths.append(path)
        # a key that is a column of its own elsewhere says nothing about spelling
        self._other_spellings = sorted(other - {msgspec.json.encode(path[-1]) for path in paths})
        kinds = [_wire_type(spec, place, shape) for spec, place in zip(self.specs, places, strict=True)]
        head: list[tuple[Any, Any]] = [(str | int | None, None), (str | float | None, None), (str | None, None)]
        self._head = len(kinds)
        tree = self._tree(paths)
        self._inputs = list(tree).index("inputs")
        if shape.inputs != "inputs":
            tree = {(shape.inputs if key == "inputs" else key): child for key, child in tree.items()}
        self._top = _section(tree, "Event", kinds + head)
        self._decode = msgspec.json.Decoder(self._top.type).decode
        self._numbers = {
            i: at for at, i in enumerate(j for j, s in enumerate(self.specs) if s.kind in (Kind.NUMBER, Kind.FLAG))
        }
        self._depths = [dict(shape.nesting).get(place, 1) for place in places]

    def _tree(self, paths: Sequence[Path]) -> dict[str, Any]:
        """Fields as nested dicts, in the order that the shape's event had; leaves are places in `specs`."""
        leaves: dict[Path, int] = {path: i for i, path in enumerate(paths)}
        leaves |= {(name,): self._head + i for i, name in enumerate(_HEAD)}
        order = [path for path in self.shape.order if path in leaves]
        tree: dict[str, Any] = {}
        for path in dict.fromkeys((*order, *leaves)):
            here: Any = tree
            for key in path[:-1]:
                here = here.setdefault(key, {}) if isinstance(here, dict) else None
            if isinstance(here, dict) and path[-1] not in here:
                here[path[-1]] = leaves[path]
        tree.setdefault("inputs", {})
        return tree

    def rows(self, block: Sequence[bytes]) -> tuple[list[Any], list[int]]:
        """The block's records as tuples of their top struct's fields, and the places of the refused ones."""
        made: list[Any] = []
        refused: list[int] = []
        # `extend` keeps what came before the record that raised, and the iterator goes on behind it: a block with an
        # odd record costs one exception more, and no second pass.
        decoding = map(self._decode, block)
        while True:
            try:
                made.extend(decoding)
                break
            except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
                refused.append(len(made) + len(refused))
        rows = list(map(astuple, made))
        blind = [i for i, row in enumerate(rows) if row[self._inputs] is None]
        if blind or self._other_spellings:
            taken = _others(len(block), refused)
            blind += [
                i
                for i, at in enumerate(taken)
                if rows[i][self._inputs] is not None and any(s in block[at] for s in self._other_spellings)
            ]
            refused = sorted({*refused, *(taken[i] for i in blind)})
            gone = set(blind)
            rows = [row for i, row in enumerate(rows) if i not in gone]
        return rows, refused

    def turn(self, rows: Sequence[tuple[Any, ...]]) -> dict[int, Sequence[Any]]:
        """Rows of the top struct -> values by place in `specs`; the places after the last are id, time and model."""
        found: dict[int, Sequence[Any]] = {}
        waiting: list[tuple[_Section, Iterable[tuple[Any, ...]]]] = [(self._top, rows)]
        while waiting:
            section, tuples = waiting.pop()
            for what, values in zip(section.fields, zip(*tuples, strict=True), strict=True):
                if isinstance(what, int):
                    found[what] = values
                else:
                    waiting.append((what, [astuple(what.empty if v is None else v) for v in values]))
        return found

    def decode(self, bodies: Sequence[bytes], accept: Callable[[Any], bool] | None) -> Typed:
        """Columns of the bodies that fit. `accept` looks at an event's model; None takes all."""
        n, head = len(bodies), self._head
        numbers = _Numbers(len(self._numbers), n)
        kinds = {i: spec.kind for i, spec in enumerate(self.specs)}
        codes = {i: (_Codes(), np.empty(n, np.int32)) for i, kind in kinds.items() if kind is Kind.CATEGORY}
        texts: dict[int, list[Any]] = {i: [] for i, kind in kinds.items() if kind is Kind.TEXT}
        vector = {i: _Vectors(self.specs[i].size, self._depths[i]) for i, kind in kinds.items() if kind is Kind.VECTOR}
        out = Typed()
        start = 0
        for begin in range(0, n, BLOCK):
            block = bodies[begin : begin + BLOCK]
            rows, refused = self.rows(block)
            taken = range(begin, begin + len(block))
            kept: Sequence[int] = [begin + i for i in _others(len(block), refused)] if refused else taken
            out.refused += [begin + i for i in refused]
            if not rows:
                continue
            found = self.turn(rows)
            models = found[head + 2]
            if accept is not None and not all(map(accept, dict.fromkeys(models))):
                mine = [accept(model) for model in models]
                out.refused += [i for i, own in zip(kept, mine, strict=True) if not own]
                kept = [i for i, own in zip(kept, mine, strict=True) if own]
                rows = [row for row, own in zip(rows, mine, strict=True) if own]
                if not rows:
                    continue
                found = self.turn(rows)
            out.rows += kept
            out.ids += found[head]
            out.times += found[head + 1]
            pack = struct.Struct(f"{len(rows)}d").pack_into
            for i, at in self._numbers.items():
                if i in found:
                    numbers.put(at, start, found[i], pack)
                else:
                    numbers.matrix[at, start : start + len(rows)] = np.nan
            for i, (book, values) in codes.items():
                values[start : start + len(rows)] = _coded(book, found.get(i), len(rows), self.specs[i])
            for i, held in texts.items():
                held.extend(found.get(i) or [None] * len(rows))
            for i, part in vector.items():
                part.put(found.get(i) or [None] * len(rows))
            start += len(rows)
        out.refused.sort()
        for i, spec in enumerate(self.specs):
            if i in codes:
                book, values = codes[i]
                out.columns[spec.name] = Column(Kind.CATEGORY, values[:start], tuple(book.words))
            elif i in texts:
                held_text = np.empty(start, object)
                held_text[:] = texts[i]
                out.columns[spec.name] = Column(Kind.TEXT, held_text)
            elif i in vector:
                out.columns[spec.name] = vector[i].column()
            else:
                out.columns[spec.name] = _number_column(spec.kind, numbers.matrix[self._numbers[i], :start])
        return out


def _number_column(kind: Kind, values: Any) -> Column:
    wrong: Mask | None = None
    if kind is Kind.FLAG:
        other = (values != 0) & (values != 1) & ~np.isnan(values)
        if other.any():
            values[other] = np.nan
            wrong = other
    return Column(kind, values, (), wrong)


def _coded(book: _Codes, values: Sequence[Any] | None, n: int, spec: ColumnSpec) -> Any:
    if values is None:
        return np.full(n, -1, np.int32)
    if spec.name in RESERVED and not set(map(type, values)) <= {str, int, type(None)}:
        values = [word(v) for v in values]  # lists, and true, which as a key would be 1
    return np.fromiter(map(book.__getitem__, values), np.int32, n)


def _others(n: int, refused: Sequence[int]) -> list[int]:
    gone = set(refused)
    return [i for i in range(n) if i not in gone]


@dataclass(slots=True)
class Typed:
    """What the fast path made: columns of the records at `rows`, and the places of the refused ones."""

    columns: dict[str, Column] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)  # text, or as JSON gave them
    times: list[Any] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def batch(self, offsets: Sequence[int], name: Callable[[int], str], time: Callable[[int], float]) -> Batch:
        """The batch. `name` and `time` give what a record at a place lacks."""
        if set(map(type, self.ids)) != {str}:
            self.ids = [
                str(id_) if id_ is not None and id_ != "" else name(at)
                for id_, at in zip(self.ids, self.rows, strict=True)
            ]
        ids = np.empty(len(self.rows), object)
        ids[:] = self.ids
        times = parse_times(self.times)
        if None in self.times:
            for row, value in enumerate(self.times):
                if value is None:
                    times[row] = time(self.rows[row])
        return Batch(keys_of(self.ids), times, ids, np.array([offsets[i] for i in self.rows], np.int64), self.columns)
