"""Events to columns: the schema they suggest, and batches on it.

One place decides what a value of each kind may look like (`column`); the typed path of `typed.py` agrees with it on
every record it takes and leaves it the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors import core
from detectors.core import Batch, Codes, Column, ColumnSpec, Floats, Kind, Role, Wrong
from detectors.scorers.text import ADDRESSES
from monitor.decode.body import flatten
from monitor.decode.boxes import BOXES, packed
from monitor.decode.times import parse_time, parse_times
from monitor.event import RESERVED, TAKEN, Event, Schema

if TYPE_CHECKING:
    import pyarrow as pa

MAX_COLUMNS = 2000  # inferred; those that most events have
MAX_VECTOR = 4096  # numbers of a vector whose length varies: one long row pads all others of its batch

OUTPUTS = ("label", "value", "confidence", "scores", "members", "embedding", BOXES)
SOFTWARE = ("latency", "status")
CONTEXT = ("path", "rule", "user", "version")

_KINDS = {
    "label": Kind.CATEGORY, "value": Kind.NUMBER, "confidence": Kind.NUMBER, "scores": Kind.VECTOR,
    "members": Kind.VECTOR, "embedding": Kind.VECTOR, BOXES: Kind.TEXT, "latency": Kind.NUMBER, "status": Kind.CATEGORY,
    "path": Kind.CATEGORY, "rule": Kind.CATEGORY, "user": Kind.CATEGORY, "version": Kind.CATEGORY,
    "truth": Kind.CATEGORY,
}  # fmt: skip
_ROLES = {
    **dict.fromkeys(OUTPUTS, Role.OUTPUT),
    **dict.fromkeys(SOFTWARE, Role.SOFTWARE),
    **dict.fromkeys(CONTEXT, Role.CONTEXT),
}
TRUTH = "truth"  # an extra of training rows, or a column of a plain table: what the answer should have been


def column_name(name: str) -> str:
    """The column of an input or extra: its own name, or `input.<name>` where that is reserved."""
    return f"input.{name}" if name in TAKEN else name


def word(value: Any) -> str | None:
    """A category value as its word; None when it is no category: a list, an object, a number with a fraction.

    Whole numbers count as their text, as class labels and status codes are often sent so; booleans as true and false.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return ">".join(value)  # a path given as the list of its modules
    return None


def numbers_of(value: Any, names: Sequence[str] = ()) -> list[Any] | None:
    """The numbers of a vector in order: lists of any nesting end to end, objects by sorted name; None = no vector.

    An object of these `names` is in their order; one of as many others is no vector, lest they be taken for these.

    >>> numbers_of({"jar": 0.3, "can": 0.7}), numbers_of({"jar": 0.3, "can": 0.7}, ["jar", "can"])
    ([0.7, 0.3], [0.3, 0.7])
    """
    if isinstance(value, dict):
        if names and len(value) == len(names) and value.keys() != set(names):
            return None
        value = [value[key] for key in (names if len(value) == len(names) else sorted(value))]
    if not isinstance(value, list):
        return None
    out: list[Any] = []
    for item in value:
        if isinstance(item, list | dict):
            inner = numbers_of(item)
            if inner is None:
                return None
            out += inner
        elif item is None or (isinstance(item, int | float) and not isinstance(item, bool)):
            out.append(item)
        else:
            return None
    return out


def _number(value: float) -> float:
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def _arrived(value: Any) -> Wrong:
    """What a value is that was not due."""
    if isinstance(value, bool):
        return Wrong.BOOLEAN
    if isinstance(value, int | float):
        return Wrong.NUMBER
    if isinstance(value, str):
        return Wrong.TEXT
    if isinstance(value, list):
        return Wrong.LIST
    return Wrong.OBJECT if isinstance(value, dict) else Wrong.OTHER


def _told(codes: Sequence[int]) -> Codes | None:
    return np.array(codes, np.uint8) if any(codes) else None


def _numbers(values: Sequence[Any], kind: Kind) -> Column:
    wrong: Codes | None = None
    try:
        if not set(map(type, values)) <= {float, int, type(None)}:
            raise TypeError
        out = np.array(values, np.float64)  # None becomes NaN
    except (TypeError, OverflowError):
        out, codes = np.full(len(values), np.nan), [0] * len(values)
        for row, value in enumerate(values):
            if isinstance(value, int | float) and not (isinstance(value, bool) and kind is Kind.NUMBER):
                out[row] = _number(value)
            elif value is not None:
                codes[row] = _arrived(value)
        wrong = _told(codes)
    out[~np.isfinite(out)] = np.nan
    return flag_column(out, wrong) if kind is Kind.FLAG else core.number(out, wrong)


def flag_column(values: Floats, wrong: Codes | None = None) -> Column:
    """A flag column of numbers, where any but 0, 1 and NaN is wrong."""
    other = (values != 0) & (values != 1) & ~np.isnan(values)
    if not other.any():
        return core.number(values, wrong, Kind.FLAG)
    codes = np.where(other, np.uint8(Wrong.BOUNDS), np.uint8(0) if wrong is None else wrong)
    return core.number(np.where(other, np.nan, values), codes, Kind.FLAG)


def called(text: str | None, names: Sequence[str]) -> str | None:
    """A word, or what it stands for where it is no name itself but the place of one.

    >>> called("1", ["can", "jar"]), called("box", ["can", "jar"]), called("1", ["1", "0"]), called("7", ["can", "jar"])
    ('jar', 'box', '1', '7')
    """
    if text is None or not names or text in names or not (text.isascii() and text.isdecimal()) or len(text) > 9:
        return text
    return names[int(text)] if str(int(text)) == text and int(text) < len(names) else text


def _texts(values: Sequence[Any], read: Callable[[Any], str | None]) -> tuple[list[str | None], Codes | None]:
    words = [None if value is None else read(value) for value in values]
    return words, _told([
        0 if w is not None or value is None else _arrived(value) for value, w in zip(values, words, strict=True)
    ])  # fmt: skip


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return " ".join(value)
    return None


def vectors(values: Sequence[Any], size: int, names: Sequence[str] = ()) -> tuple[Floats, Codes | None]:
    """A matrix (n, size), a row of NaN = missing, and what arrived in rows that are no vector or of another length.

    Size 0 takes any length up to MAX_VECTOR and pads with NaN to the longest.
    """
    rows = [None if value is None else numbers_of(value, names) for value in values]
    limit = size or MAX_VECTOR
    fits = [row is not None and (len(row) == size if size else len(row) <= limit) for row in rows]
    width = size or max((len(row) for row, fit in zip(rows, fits, strict=True) if fit and row is not None), default=0)
    out = np.full((len(values), width), np.nan)
    for at, (row, fit) in enumerate(zip(rows, fits, strict=True)):
        if fit and row is not None:
            out[at, : len(row)] = [math.nan if v is None else _number(v) for v in row]
    return out, _told([
        0 if fit or value is None else _arrived(value) if row is None else Wrong.LENGTH
        for value, row, fit in zip(values, rows, fits, strict=True)
    ])  # fmt: skip


def column(spec: ColumnSpec, values: Sequence[Any]) -> Column:
    """A column from values as JSON gives them; None = missing.

    A value of another kind is missing and told in `wrong`: text for a number (numeric text too), a boolean for a
    number, a list for a scalar, a vector of another length. NaN, infinite and over-large numbers are missing.

    >>> c = column(ColumnSpec("x", Kind.NUMBER), [1, None, "2", [3]]); c.values.tolist(), [*map(int, c.wrong)]
    ([1.0, nan, nan, nan], [0, 0, 2, 5])
    """
    if spec.kind in (Kind.NUMBER, Kind.FLAG):
        return _numbers(values, spec.kind)
    if spec.kind is Kind.VECTOR:
        return core.vector(*vectors(values, spec.size, spec.names), spec.names)
    read = word if spec.kind is Kind.CATEGORY else packed if spec.name == BOXES else _text
    words, wrong = _texts(values, read)
    if spec.kind is Kind.TEXT:
        return core.text(words, wrong)
    return core.category([called(w, spec.names) for w in words] if spec.names else words, wrong)


def _values(events: Sequence[Event], spec: ColumnSpec) -> list[Any]:
    name = spec.name
    if name in RESERVED:
        return [getattr(event, name) for event in events]
    key = name.removeprefix("input.") if name.removeprefix("input.") in TAKEN else name
    if spec.role is Role.INPUT:
        return [event.inputs.get(key) for event in events]
    return [event.extra.get(key) for event in events]


def to_batch(events: Sequence[Event], schema: Schema) -> Batch:
    """Events as columns, every column of the schema that is not derived; see `column` for what is wrong or missing.

    About 0.2 us per value: the path of learning, of odd records and of joined pairs.
    """
    ids = np.empty(len(events), object)
    ids[:] = [event.id for event in events]
    return Batch(
        core.keys_of([event.id for event in events]),
        np.array([event.time for event in events], np.float64),
        ids,
        np.array([event.offset for event in events], np.int64),
        {spec.name: column(spec, _values(events, spec)) for spec in schema if spec.role is not Role.DERIVED},
    )


def _kind(values: Sequence[Any]) -> Kind | None:
    """What most of the values are; None when there are none to go by."""
    votes: Counter[Kind] = Counter()
    for value in values:
        if isinstance(value, bool):
            votes[Kind.FLAG] += 1
        elif isinstance(value, int | float):
            votes[Kind.NUMBER] += 1
        elif isinstance(value, str):
            votes[Kind.CATEGORY] += 1
        elif isinstance(value, list | dict):
            votes[Kind.TEXT if _text(value) is not None else Kind.VECTOR] += 1
    if not votes:
        return None
    kind = votes.most_common(1)[0][0]
    return _kind_of_texts([v for v in values if isinstance(v, str)]) if kind is Kind.CATEGORY else kind


def _kind_of_texts(values: Sequence[str]) -> Kind | None:
    long = sum(map(len, values)) > 40 * len(values)
    wordy = sum(value.count(" ") >= 3 for value in values) * 2 > len(values)
    if long or wordy:
        return Kind.TEXT
    # Names that hardly ever come twice (ids, hashes) have no frequencies to compare: any window would look new.
    if len(values) >= 200 and len(set(values)) * 2 > len(values):
        return None
    return Kind.CATEGORY


def _spec(name: str, values: Sequence[Any], role: Role) -> ColumnSpec | None:
    told = role is Role.CONTEXT and name in ADDRESSES and isinstance(values[0], str)
    kind = Kind.TEXT if told else _KINDS.get(name) or _kind(values)
    if kind is None:
        return None
    size = 0
    names: tuple[str, ...] = ()
    if kind is Kind.VECTOR:
        found = [row for v in values if (row := numbers_of(v)) is not None]
        sizes = Counter(map(len, found))
        if not sizes:
            return None
        common, times = sizes.most_common(1)[0]
        # a length that nearly all share is the vector's; other lengths are then wrong
        size = common if times >= 0.9 * len(found) else 0
        names = _names(values, size)
    return ColumnSpec(name, kind, role, size, names)


def _names(values: Sequence[Any], size: int) -> tuple[str, ...]:
    """What objects call the places of a vector of this size; nothing where they do not nearly all agree."""
    told = Counter(tuple(sorted(value)) for value in values if isinstance(value, dict) and len(value) == size)
    names, times = told.most_common(1)[0] if told else ((), 0)
    return names if times >= 0.9 * len(values) else ()


def infer(events: Iterable[Event]) -> Schema:
    """The schema that events suggest; the majority decides the kind of a column.

    Strings are categories, unless long (over 40 characters on average) or mostly of more than three words: then text.
    String columns of which more than half of 200 or more values are distinct are ids and left out. Lists of numbers,
    nested or not, are vectors. Names without any value are left out.
    """
    values: dict[tuple[Role, str], list[Any]] = {}
    for event in events:
        found = [(Role.INPUT, column_name(name), value) for name, value in event.inputs.items()]
        found += [(_ROLES[name], name, getattr(event, name)) for name in RESERVED]
        found += [
            (Role.TRUTH if name == TRUTH else Role.CONTEXT, column_name(name), value)
            for name, value in event.extra.items()
        ]
        for role, name, value in found:
            if value is not None:
                values.setdefault((role, name), []).append(value)
    kept = sorted(values, key=lambda place: -len(values[place]))[:MAX_COLUMNS]
    names: set[str] = set()
    schema = []
    for role, name in sorted(kept, key=list(values).index) if len(values) > MAX_COLUMNS else values:
        # an extra of an input's name gives way to the input
        spec = None if name in names else _spec(name, values[role, name], role)
        if spec is not None:
            names.add(name)
            schema.append(spec)
    return tuple(schema)


_TIME_NAMES = ("time", "timestamp", "event_time")


def row_event(row: Mapping[str, Any], number: int) -> Event:
    """A row of a plain table as an event: columns of reserved names are outputs and context, `truth` what the answer
    should have been, the rest inputs.

    `id` and `time` (or `timestamp`) are taken as such where present; otherwise the row's number and time 0 serve.
    Keys `inputs.<name>`, `outputs.<name>` and `extra.<name>`, and nested objects of these names, are understood.
    """
    event = Event(id=str(row["id"]) if row.get("id") is not None else str(number), time=0.0, offset=number)
    for name, value in flatten(row).items():
        section, _, rest = name.partition(".")
        if name == "id":
            continue
        if name in _TIME_NAMES:
            at = parse_time(value.timestamp() if hasattr(value, "timestamp") else value)
            event.time = 0.0 if math.isnan(at) else at
        elif name == "model":
            event.model = str(value)
        elif section in ("inputs", "features") and rest:
            event.inputs[rest] = value
        elif (section == "extra" and rest) or name == TRUTH:
            event.extra[rest or name] = value
        elif (plain := rest if section == "outputs" and rest else name) in RESERVED and not _counts_boxes(name, value):
            setattr(event, plain, value)
        else:
            event.inputs[name] = value
    return event


def _counts_boxes(name: str, value: Any) -> bool:
    """Whether a table's column is an input that only bears the name of the boxes in a picture."""
    return name == BOXES and not (value is None or isinstance(value, list))


def from_table(table: pa.Table, schema: Schema, first: int = 0) -> Batch:
    """A batch from an Arrow table whose column names are those of the schema; `first` numbers the first row.

    Numbers and categories go over as arrays (0.02 us per value); what Arrow holds otherwise goes value by value.
    """
    import pyarrow as pa

    n = table.num_rows
    names = {name: name for name in table.column_names}
    for name in table.column_names:
        section, _, rest = name.partition(".")
        if section in ("inputs", "features", "outputs", "extra") and rest:
            names.setdefault(column_name(rest) if section != "outputs" else rest, name)
    if BOXES in names and not pa.types.is_list(table.schema.field(BOXES).type):
        names[column_name(BOXES)] = names.pop(BOXES)
    stamp = next((names[name] for name in _TIME_NAMES if name in names), None)
    times = np.zeros(n) if stamp is None else _arrow_times(table.column(stamp))
    ids = np.empty(n, object)
    ids[:] = [str(v) for v in table.column("id").to_pylist()] if "id" in names else [str(first + i) for i in range(n)]
    columns = {
        spec.name: _arrow_column(spec, table.column(names[spec.name]))
        if spec.name in names
        else core.empty(spec.kind, n, spec.size)
        for spec in schema
        if spec.role is not Role.DERIVED
    }
    return Batch(core.keys_of(ids.tolist()), times, ids, np.arange(first, first + n, dtype=np.int64), columns)


def _arrow_times(values: pa.ChunkedArray) -> Floats:
    import pyarrow as pa

    if pa.types.is_timestamp(values.type):
        micros = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy()
        return np.asarray(micros / 1e6, np.float64)
    return np.nan_to_num(parse_times(values.to_pylist()))


def _arrow_column(spec: ColumnSpec, values: pa.ChunkedArray) -> Column:
    import pyarrow as pa

    kind = values.type
    if spec.kind is Kind.NUMBER and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        held: NDArray[Any] = values.to_numpy().astype(np.float64)
        return core.number(np.where(np.isfinite(held), held, np.nan))
    if spec.kind is Kind.CATEGORY and not spec.names and (pa.types.is_string(kind) or pa.types.is_integer(kind)):
        coded = values.combine_chunks().dictionary_encode()
        whole = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return Column(Kind.CATEGORY, codes, tuple(map(str, whole.dictionary.to_pylist())))
    return column(spec, values.to_pylist())
