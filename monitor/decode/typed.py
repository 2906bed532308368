"""The fast path: own-format events of a known schema, bytes to columns without a dict in between.

A record is decoded into structs made for the schema, and blocks of them are turned on their side into arrays. It is
strict on purpose: what does not fit (another kind of value, a NaN literal, no inputs) is refused, and the tolerant
path of `own.py` has the last word on it. On what is taken both agree, which a property test holds.
"""

# CPU per event of 1 KB (50 numbers, 10 categories, label, version, two scores) beside orjson.loads of the same bytes,
# in one run (benchmarks/decode.py) on two cores that others were using: msgspec into these structs 0.55 of it, with
# columns 1.3, with ids, keys and times 1.5. Tried for the columns, us per event where loads took 4: numbers row by row
# with struct.pack and one transposition 0.7, column by column with zip and struct.pack_into 1.1 (np.array 3,
# np.fromiter 2.3, array.array 2.2); words to codes 0.7; fields with astuple 0.4 (attrgetter 2.5). One decode call for a
# joined array of records gained nothing.

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, starmap
from operator import itemgetter
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple

from detectors.core import Batch, Column, ColumnSpec, Floats, Kind, Role, empty, keys_of
from monitor.decode.boxes import BOXES
from monitor.decode.columns import CONTEXT, OUTPUTS, SOFTWARE, called, column, flag_column, word
from monitor.decode.times import parse_times
from monitor.event import RESERVED, TAKEN, Schema

# Structs of 128 events (1 MB) stay in the cache until they are columns; 250 cost a quarter more, 64 no less.
BLOCK = 128

_RUN = 4  # numbers side by side in an event, from which on packing them row by row is the faster way
_WIDEST = 2048  # numbers of a vector that gets a struct of its own; a wider one stays a list until it is a column
_ID, _TIME, _MODEL = -1, -2, -3  # places of the head's fields; columns have their place in the schema
_HEAD: dict[_Path, _Node | int] = {("id",): _ID, ("time",): _TIME, ("model",): _MODEL}

_WORDS = 512  # of a category column, kept between batches
_NONE = slice(0)

_Path = tuple[str, ...]


class Shape(NamedTuple):
    """How a model's events are written, as one of them shows: a guide for making the structs, not a rule for events."""

    inputs: str = "inputs"  # or "features"
    order: tuple[_Path, ...] = ()  # of the fields; fields in the order of the struct are found at the first try
    sizes: tuple[tuple[_Path, tuple[int, ...]], ...] = ()  # of lists, from the outside in
    classes: tuple[str, ...] = ()  # of scores given as an object, sorted


def shape_of(body: Mapping[str, Any], schema: Schema) -> Shape:
    """The shape that an event's JSON shows of what the schema watches."""
    inputs = "features" if "inputs" not in body and "features" in body else "inputs"
    watched = {_place(spec) for spec in schema} | set(_HEAD)
    order: list[_Path] = []
    sizes: list[tuple[_Path, tuple[int, ...]]] = []

    def walk(path: _Path, fields: Mapping[str, Any]) -> None:
        for key, value in fields.items():
            here = (*path, key)
            place = _dotted(here)
            if place in watched:
                order.append(here)
                if isinstance(value, list):
                    sizes.append((place, _sizes(value)))
            elif isinstance(value, dict) and len(here) < 8:
                walk(here, value)

    walk((), {("inputs" if key == inputs else key): value for key, value in body.items()})
    outputs = body.get("outputs")
    scores = outputs.get("scores") if isinstance(outputs, dict) else None
    return Shape(inputs, tuple(order), tuple(sizes), tuple(sorted(scores)) if isinstance(scores, dict) else ())


def _sizes(value: Any) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    while isinstance(value, list) and value and len(found) < 4:
        found, value = (*found, len(value)), value[0]
    return found


def _dotted(path: _Path) -> _Path:
    """The path with everything below its section as one name."""
    return (path[0], ".".join(path[1:])) if len(path) > 1 else path


def _place(spec: ColumnSpec) -> _Path:
    """Where an own-format event carries a column; whether dots are part of a key is left to the shape."""
    name = spec.name
    if name in OUTPUTS:
        return ("outputs", name)
    if name in SOFTWARE or name in CONTEXT:
        return (name,)
    key = name.removeprefix("input.") if name.removeprefix("input.") in TAKEN else name
    return ("inputs" if spec.role is Role.INPUT else "extra", key)


def _paths(specs: Sequence[ColumnSpec], shape: Shape) -> tuple[list[_Path], list[bytes]]:
    """Where each column is found, and the keys that would tell of another spelling of a dotted name.

    `a.b` is either a key or a way through objects. The shape says which; a record in whose bytes the other spelling
    occurs is refused, lest its value be overlooked.
    """
    seen = {_dotted(path): path for path in shape.order}
    places = [_place(spec) for spec in specs]
    paths = []
    others = set()
    for place in places:
        path = seen.get(place, place)
        if len(place) == 2 and "." in place[1]:
            parts = place[1].split(".")
            path = seen.get(place, (place[0], *parts))
            starts = {".".join(parts[:n]) for n in range(1, len(parts) + 1)} - {path[1]}
            # a start that is a column itself holds no object: the struct refuses one there
            others |= {start for start in starts if start == place[1] or (place[0], start) not in places}
        paths.append(path)
    return paths, sorted(map(msgspec.json.encode, others))


@dataclass(slots=True)
class _Node:
    """Fields by key; a leaf is a column's place in the schema, or one of the head's."""

    children: dict[str, _Node | int] = field(default_factory=dict)
    exact: bool = False  # all of them have to be there, and no other
    array: bool = False

    def put(self, path: _Path, leaf: _Node | int) -> None:
        """Hangs a leaf up, unless a shorter path has ended on its way."""
        here: _Node | int = self
        for key in path[:-1]:
            here = here.children.setdefault(key, _Node()) if isinstance(here, _Node) else here
        if isinstance(here, _Node):
            here.children.setdefault(path[-1], leaf)


def _vector_node(place: int, sizes: Sequence[int]) -> _Node:
    inner: list[_Node | int] = [_vector_node(place, sizes[1:]) if len(sizes) > 1 else place for _ in range(sizes[0])]
    return _Node({str(i): child for i, child in enumerate(inner)}, exact=True, array=True)


_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # a longer one is a float to `body.parse`
_SCALARS: dict[Kind, Any] = {
    Kind.NUMBER: float | None,
    Kind.FLAG: bool | float | None,
    Kind.CATEGORY: str | _Int | None,
    Kind.TEXT: str | None,
}
_ANY_WORD = str | _Int | bool | Annotated[list[str], msgspec.Meta(min_length=1)] | None
_HEAD_TYPES = {_ID: str | _Int | None, _TIME: str | float | None, _MODEL: str | None}


class _Leaf(NamedTuple):
    place: int
    row: int  # of the matrix, -1 for what is no number


@dataclass(slots=True)
class _Section:
    """A struct, and where its fields go.

    Numbers that lie side by side in it also do so in the batch's matrix: such a run is packed row by row and turned at
    once. Of the `rest` each is a section in turn, or a leaf.
    """

    type: type[msgspec.Struct]
    empty: msgspec.Struct
    runs: list[tuple[slice, int]]  # fields, first row of the matrix
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # the rest of a row
    rest: list[_Section | _Leaf]


class _Matrix:
    """The numbers of a batch: a row for each number of an event, a column for each event."""

    def __init__(self, numbers: int, events: int) -> None:
        self.values: Floats = np.empty((numbers, events))
        self._bytes = memoryview(self.values.data).cast("B") if self.values.size else memoryview(b"")

    def put_run(self, first: int, start: int, rows: Sequence[tuple[Any, ...]]) -> None:
        width = len(rows[0])
        try:
            packed = np.frombuffer(b"".join(starmap(struct.Struct(f"{width}d").pack, rows)))
        except struct.error:  # a null among them
            packed = np.array(rows, np.float64)
        self.values[first : first + width, start : start + len(rows)] = packed.reshape(len(rows), width).T

    def put(self, at: int, start: int, values: Sequence[Any]) -> None:
        try:
            struct.pack_into(f"{len(values)}d", self._bytes, (at * self.values.shape[1] + start) * 8, *values)
        except struct.error:
            self.values[at, start : start + len(values)] = np.array(values, np.float64)


class _Codes(dict[Any, int]):
    """Value -> code of its word, in order of first sight. Whole numbers and their text are one word.

    It is kept from batch to batch, since a word costs 1 us at first sight and 0.05 later, until it has _WORDS.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__({None: -1})
        self._names = names  # of whole numbers
        self.index: dict[str, int] = {}
        self._words: tuple[str, ...] = ()

    def __missing__(self, value: Any) -> int:
        text = called(word(value), self._names)
        code = -1 if text is None else self.index.setdefault(text, len(self.index))
        self[value] = code
        return code

    @property
    def words(self) -> tuple[str, ...]:
        """Words by code, as many as there are by now."""
        if len(self._words) < len(self.index):
            self._words = tuple(self.index)
        return self._words


class Plan:
    """The structs for a schema and a shape, and how their fields become columns. Costs a millisecond to make."""

    def __init__(self, schema: Schema, shape: Shape) -> None:
        self.schema = schema
        self.shape = shape
        self._specs = [spec for spec in schema if spec.role is not Role.DERIVED]
        self._numbers = 0  # rows of the matrix
        self._first: dict[int, int] = {}  # by place, the first of a column's rows in the matrix
        self._books: dict[int, _Codes] = {}  # by place
        paths, self._other_spellings = _paths(self._specs, shape)
        top = self._tree(paths)
        self._inputs_at, self._model_at = list(top.children).index("inputs"), list(top.children).index("model")
        top.children = {(shape.inputs if key == "inputs" else key): child for key, child in top.children.items()}
        self._top = self._section("Event", top)
        self._decode = msgspec.json.Decoder(self._top.type).decode

    def _tree(self, paths: Sequence[_Path]) -> _Node:
        """The fields in the order that the shape's event had, those that it lacked behind them."""
        leaves: dict[_Path, _Node | int] = dict(_HEAD)
        for place, (path, spec) in enumerate(zip(paths, self._specs, strict=True)):
            leaves[path] = place
            classes = self.shape.classes
            if path == ("outputs", "scores") and len(classes) == spec.size > 0 and _same(classes, spec.names):
                leaves[path] = _Node(dict.fromkeys(spec.names or classes, place), exact=True)
            elif spec.kind is Kind.VECTOR and 0 < spec.size <= _WIDEST:
                sizes = dict(self.shape.sizes).get(_dotted(path), ())
                leaves[path] = _vector_node(place, sizes if math.prod(sizes) == spec.size and sizes else (spec.size,))
        top = _Node()
        for path in (*self.shape.order, *leaves):
            if path in leaves:
                top.put(path, leaves[path])
        top.children.setdefault("inputs", _Node())
        return top

    def _section(self, name: str, node: _Node) -> _Section:
        types: list[Any] = []
        made: list[_Section | _Leaf] = []
        numbers: list[int] = []  # the matrix's row of each field, -1 for what is no number
        for key, child in node.children.items():
            if isinstance(child, int):
                wanted, row = self._leaf(child)
                made.append(_Leaf(child, row))
            else:
                inner, row = self._section(key, child), -1
                wanted = inner.type if node.array else inner.type | None
                made.append(inner)
            absent = None if row < 0 else math.nan
            types.append((f"f{len(types)}", wanted) if node.exact else (f"f{len(types)}", wanted, absent))
            numbers.append(row)
        struct_type = msgspec.defstruct(
            name if name.isidentifier() else "Inner",
            types,
            rename={f"f{i}": key for i, key in enumerate(node.children)},
            array_like=node.array,
            forbid_unknown_fields=node.exact,
            gc=False,
            eq=False,
        )
        blank = [math.nan if isinstance(child, _Leaf) else child.empty for child in made] if node.exact else []
        runs = _runs(numbers)
        taken = {at for fields, _ in runs for at in range(fields.start, fields.stop)}
        rest = [at for at in range(len(made)) if at not in taken]
        beside = bool(rest) and rest == list(range(rest[0], rest[-1] + 1))
        # a slice is ten times as fast as fields one by one, and gives a tuple for a single field too
        pick = itemgetter(slice(rest[0], rest[-1] + 1)) if beside else itemgetter(*rest) if rest else itemgetter(_NONE)
        return _Section(struct_type, struct_type(*blank), runs, pick, [made[at] for at in rest])

    def _leaf(self, place: int) -> tuple[Any, int]:
        """The type of a leaf, and its row of the matrix, -1 if it is no number."""
        if place < 0:
            return _HEAD_TYPES[place], -1
        spec = self._specs[place]
        if spec.kind in (Kind.NUMBER, Kind.FLAG) or (spec.kind is Kind.VECTOR and 0 < spec.size <= _WIDEST):
            row = self._numbers
            self._first.setdefault(place, row)
            self._numbers += 1
            return _SCALARS[Kind.FLAG if spec.kind is Kind.FLAG else Kind.NUMBER], row
        if spec.kind is Kind.VECTOR:
            wanted: Any = float | None
            for _ in dict(self.shape.sizes).get(_place(spec), (0,)):
                wanted = list[wanted]
            return wanted | None, -1
        if spec.name == BOXES:
            return list[dict[str, str | float | None]] | None, -1
        return (_ANY_WORD if spec.kind is Kind.CATEGORY and spec.name in RESERVED else _SCALARS[spec.kind]), -1

    def decode(self, bodies: Sequence[bytes], accept: Callable[[Any], bool] | None) -> Typed:
        """Columns of the bodies that fit. `accept` looks at an event's model (None = unnamed); without it all do."""
        n = len(bodies)
        matrix = _Matrix(self._numbers, n)
        codes = {at: (self._book(at), np.full(n, -1, np.int32)) for at in self._places(Kind.CATEGORY)}
        others: dict[int, list[Any]] = {at: [] for at in self._places(Kind.TEXT, Kind.VECTOR) if at not in self._first}
        out = Typed()
        start = 0
        for begin in range(0, n, BLOCK):
            block = bodies[begin : begin + BLOCK]
            rows, kept = self._rows(block, accept)
            if len(kept) < len(block):
                out.refused += sorted({*range(begin, begin + len(block))} - {begin + i for i in kept})
            if not rows:
                continue
            stop = start + len(rows)
            found = self._turn(rows, matrix, start)
            out.rows += [begin + i for i in kept]
            out.ids += found[_ID]
            out.times += found[_TIME]
            for at, (book, values) in codes.items():
                if at in found:
                    values[start:stop] = _coded(book, found[at], self._specs[at])
            for at, held in others.items():
                held.extend(found.get(at) or [None] * len(rows))
            start = stop
        for at, spec in enumerate(self._specs):
            if at in codes:
                book, values = codes[at]
                out.columns[spec.name] = Column(Kind.CATEGORY, values[:start], book.words)
            elif at in others:
                out.columns[spec.name] = column(spec, others[at])
            elif at in self._first:
                out.columns[spec.name] = _from_matrix(spec, matrix.values[:, :start], self._first[at])
            else:
                out.columns[spec.name] = empty(spec.kind, start, spec.size)
        return out

    def _book(self, place: int) -> _Codes:
        book = self._books.get(place)
        if book is None or len(book) > _WORDS:
            book = self._books[place] = _Codes(self._specs[place].names)
        return book

    def _places(self, *kinds: Kind) -> list[int]:
        return [at for at, spec in enumerate(self._specs) if spec.kind in kinds]

    def _rows(
        self, block: Sequence[bytes], accept: Callable[[Any], bool] | None
    ) -> tuple[list[tuple[Any, ...]], Sequence[int]]:
        """The events that are taken, as tuples of their fields, and their places in the block."""
        made: list[Any] = []
        refused: set[int] = set()
        # `extend` keeps what came before the record that raised, and the iterator goes on behind it: a block with an
        # odd record costs one exception more, and no second pass.
        decoding = map(self._decode, block)
        while True:
            try:
                made.extend(decoding)
                break
            except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
                refused.add(len(made) + len(refused))
        rows = list(map(astuple, made))
        kept: Sequence[int] = [at for at in range(len(block)) if at not in refused] if refused else range(len(block))
        inputs, model = itemgetter(self._inputs_at), itemgetter(self._model_at)
        strange = [] if accept is None else [name for name in set(map(model, rows)) if not accept(name)]
        if strange or self._other_spellings or not all(map(inputs, rows)):
            fine = [
                inputs(row) is not None
                and model(row) not in strange
                and not any(spelling in block[at] for spelling in self._other_spellings)
                for at, row in zip(kept, rows, strict=True)
            ]
            rows, kept = list(compress(rows, fine)), list(compress(kept, fine))
        return rows, kept

    def _turn(self, rows: Sequence[tuple[Any, ...]], matrix: _Matrix, start: int) -> dict[int, Sequence[Any]]:
        """Puts the numbers of events into the matrix; gives the other values by place."""
        found: dict[int, Sequence[Any]] = {}
        waiting: list[tuple[_Section, Sequence[tuple[Any, ...]]]] = [(self._top, rows)]
        while waiting:
            section, tuples = waiting.pop()
            for fields, first in section.runs:
                matrix.put_run(first, start, list(map(itemgetter(fields), tuples)))
            for what, values in zip(section.rest, zip(*map(section.pick, tuples), strict=True), strict=True):
                if isinstance(what, _Section):
                    present = values if all(values) else [what.empty if v is None else v for v in values]
                    waiting.append((what, list(map(astuple, present))))
                elif what.row >= 0:
                    matrix.put(what.row, start, values)
                else:
                    found[what.place] = values
        return found


def _runs(numbers: Sequence[int]) -> list[tuple[slice, int]]:
    """Stretches of at least _RUN fields that are numbers, and the matrix's row of the first."""
    runs = []
    begin = 0
    for at in range(len(numbers) + 1):
        if at == len(numbers) or numbers[at] < 0:
            if at - begin >= _RUN:
                runs.append((slice(begin, at), numbers[begin]))
            begin = at + 1
    return runs


def _same(classes: Sequence[str], names: Sequence[str]) -> bool:
    """Whether an object of these classes fits a vector whose places are called so, or by nobody."""
    return not names or sorted(classes) == sorted(names)


def _coded(book: _Codes, values: Sequence[Any], spec: ColumnSpec) -> Any:
    if spec.name in RESERVED and not set(map(type, values)) <= {str, int, type(None)}:
        values = [word(value) for value in values]  # lists, and true, which as a key would be 1
    return np.fromiter(map(book.__getitem__, values), np.int32, len(values))


def _from_matrix(spec: ColumnSpec, values: Floats, first: int) -> Column:
    if spec.kind is Kind.VECTOR:
        return Column(Kind.VECTOR, values[first : first + spec.size].T, spec.names)
    return flag_column(values[first]) if spec.kind is Kind.FLAG else Column(Kind.NUMBER, values[first])


@dataclass(slots=True)
class Typed:
    """What the fast path made: columns of the records at `rows`, and the places of the refused ones."""

    columns: dict[str, Column] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)  # as JSON gave them
    times: list[Any] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def batch(self, offsets: Sequence[int], name: Callable[[int], str], time: Callable[[int], float]) -> Batch:
        """The batch, of records at these offsets. `name` and `time` give what the record at a place lacks."""
        names = self.ids
        if set(map(type, names)) != {str} or "" in names:
            names = [name(at) if id_ in (None, "") else str(id_) for id_, at in zip(names, self.rows, strict=True)]
        ids = np.empty(len(names), object)
        ids[:] = names
        times = parse_times(self.times)
        if None in self.times:
            absent = [row for row, value in enumerate(self.times) if value is None]
            times[absent] = [time(self.rows[row]) for row in absent]
        return Batch(keys_of(names), times, ids, np.array([offsets[at] for at in self.rows], np.int64), self.columns)
