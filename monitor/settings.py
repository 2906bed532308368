"""YAML text -> frozen structs, every refusal with the path of its key.

The structs themselves are the schema: a field's type, bounds and description are read with `msgspec.inspect`, here and
by `monitor.manual`. What a reader would get wrong: `${NAME}` is replaced value by value while decoding, never in the
text, so a secret cannot break out of its place and no refusal ever shows one.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from msgspec import inspect
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from alerting.secret import Secret
from detectors.units import bytes_text, parse_bytes, parse_seconds, seconds_text

T = TypeVar("T")

LARGEST = 1 << 20  # bytes of a file: a thousand models with all their columns declared fit
NODES = 50_000  # values after anchors are resolved, so an alias cannot multiply without end
DEPTH = 40

_SUBSTITUTE = re.compile(r"\$(\$\{)|\$\{(file:)?([^}:]*)(?::-([^}]*))?\}")
_SECRET_KEY = re.compile(r"password|secret|token", re.IGNORECASE)
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_UNTOLD = 2**53  # a limit as large as this says no more than "a whole number"
_BAD: Final = object()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_RESOLVER = yaml.resolver.Resolver()
_CORE_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))


class Refused(Exception):
    """A configuration that cannot be used. Correct what `problems` name and start again.

    Each problem is one line: where, what was given, what is allowed.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def read(text: str, wanted: type[T], environ: Mapping[str, str] | None = None) -> T:
    """The struct that a YAML text describes. Refused names every problem at once.

    `${NAME}` and `${NAME:-default}` in a value are replaced from `environ`, `${file:/run/secrets/x}` by a file's
    stripped text; `$${` stands for a literal `${`. A replaced value is split at commas where a list is wanted, and
    leaves the key out where it is empty and the key may be left out.
    """
    if len(text) > LARGEST:
        raise Refused([f"$: {len(text)} characters; a configuration has at most {LARGEST}"])
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise Refused([f"$: not YAML{where}: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused([f"$: not YAML: {error}"]) from error
    reader = _Reader(os.environ if environ is None else environ)
    value = reader.read(inspect.type_info(wanted), MappingNode(_MAP, []) if root is None else root, "$", 0)
    if reader.problems:
        raise Refused(reader.problems)
    return value  # type: ignore[no-any-return]  # `read` builds exactly `wanted`


class Kinds(Mapping[str, inspect.StructType]):
    """Interchangeable structs by their `kind`. One is imported when it is asked for, not when it is listed."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> inspect.StructType:
        entry = self.entries[name]
        return entry if isinstance(entry, inspect.StructType) else _struct(resolve(entry))

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def kinds(kind: inspect.Type) -> Kinds | None:
    """The interchangeable structs of a field: a union of tagged structs, a table, or one tagged struct. None for a
    field of another type."""
    match kind:
        case inspect.Metadata(extra={"table": table}):
            return Kinds(table)
        case inspect.Metadata(type=inner):
            return kinds(inner)
        case inspect.StructType(tag=tag) if tag is not None:
            return Kinds({str(tag): kind})
        case inspect.UnionType(types=types):
            members = [kinds(member) for member in types if not isinstance(member, inspect.NoneType)]
            if all(member is not None for member in members):
                return Kinds({name: entry for member in members if member for name, entry in member.entries.items()})
    return None


def resolve(entry: Any) -> Any:
    """A table's entry: the class itself, or the text "package.module:Name" of one that is imported only when used."""
    if not isinstance(entry, str):
        return entry
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def inline(kind: inspect.StructType) -> inspect.Field | None:
    """The field of a struct whose keys stand beside the struct's own, if there is one."""
    for field in kind.fields:
        if isinstance(field.type, inspect.Metadata) and (field.type.extra or {}).get("inline"):
            return field
    return None


def unit_of(kind: inspect.Type) -> str:
    """The unit of a duration or size ("seconds", "bytes"), or nothing."""
    match kind:
        case inspect.Metadata(extra={"unit": str(unit)}):
            return unit
        case inspect.Metadata(type=inner):
            return unit_of(inner)
        case inspect.UnionType(types=[inner, inspect.NoneType()] | [inspect.NoneType(), inner]):
            return unit_of(inner)
    return ""


def bounds(kind: inspect.Type, write: Callable[[float], str] = "{:g}".format) -> list[str]:
    """The limits of a number, text or list, in words."""
    words = {"gt": "over", "ge": "at least", "lt": "under", "le": "at most"}
    told = {word: limit for name, word in words.items() if (limit := getattr(kind, name, None)) is not None}
    found = [f"{word} {write(limit)}" for word, limit in told.items() if abs(limit) < _UNTOLD]
    found += [
        f"{word} {limit} long"
        for name, word in (("min_length", "at least"), ("max_length", "at most"))
        if (limit := getattr(kind, name, None)) is not None
    ]
    pattern = getattr(kind, "pattern", None)
    return found + ([f"like /{pattern}/"] if pattern else [])


_PLAIN_TYPES = {
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a text",
    inspect.CustomType: "a text",
    inspect.NoneType: "nothing",
}
_MAP = "tag:yaml.org,2002:map"


def _struct(cls: Any) -> inspect.StructType:
    kind = inspect.type_info(cls) if isinstance(cls, type) else None
    if not isinstance(kind, inspect.StructType):
        raise TypeError("it is no msgspec.Struct, whose fields would be its options")
    return kind


def _within(kind: inspect.Type, value: Any) -> bool:
    """Whether a value keeps the limits of its type. Limits of msgspec: None where there is none."""
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "gt": lambda v, limit: v > limit,
        "ge": lambda v, limit: v >= limit,
        "lt": lambda v, limit: v < limit,
        "le": lambda v, limit: v <= limit,
        "min_length": lambda v, limit: len(v) >= limit,
        "max_length": lambda v, limit: len(v) <= limit,
        "pattern": lambda v, limit: re.search(limit, v) is not None,
    }
    return all(test(value, limit) for name, test in tests.items() if (limit := getattr(kind, name, None)) is not None)


class _Reader:
    """One pass over the nodes of a document; problems are gathered, not raised, so all are told at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._nodes = 0

    def read(self, kind: inspect.Type, node: Node, path: str, depth: int) -> Any:
        self._enter(path, depth)
        if isinstance(kind, inspect.Metadata):
            extra = kind.extra or {}
            if "unit" in extra:
                return self._quantity(kind.type, extra["unit"], node, path)
            if "table" not in extra:
                return self.read(kind.type, node, path, depth)
            return self._tagged(Kinds(extra["table"]), node, path, depth)
        if isinstance(kind, inspect.UnionType):
            return self._union(kind, node, path, depth)
        if isinstance(kind, inspect.StructType):
            tagged = kinds(kind)
            return self._struct(kind, node, path, depth) if tagged is None else self._tagged(tagged, node, path, depth)
        if isinstance(kind, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
            return self._list(kind, node, path, depth)
        if isinstance(kind, inspect.DictType):
            return self._dict(kind, node, path, depth)
        return self._plain(node, path, depth) if isinstance(kind, inspect.AnyType) else self._leaf(kind, node, path)

    def _enter(self, path: str, depth: int) -> None:
        self._nodes += 1
        if self._nodes > NODES or depth > DEPTH:
            raise Refused([f"{path[:80]}: more than {NODES} values or {DEPTH} levels; is an anchor repeated?"])

    def _refuse(self, path: str, node: Node, allowed: str) -> Any:
        self.problems.append(f"{path}{_line(node)}: {_given(node, path)}; {allowed}")
        return _BAD

    # -- structs

    def _union(self, kind: inspect.UnionType, node: Node, path: str, depth: int) -> Any:
        members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
        if len(members) < len(kind.types) and (_is_null(node) or self._replaced_by_nothing(node)):
            return None
        tagged = kinds(kind)
        if tagged is not None:
            return self._tagged(tagged, node, path, depth)
        if len(members) == 1:
            return self.read(members[0], node, path, depth)
        for member in members:
            attempt = _Reader(self._environ)
            attempt._nodes = self._nodes
            value = attempt.read(member, node, path, depth)
            if not attempt.problems:
                return value
        suited = [m for m in members if _suits(m, node)]
        if len(suited) == 1:  # its own problems say more than "one of these"
            return self.read(suited[0], node, path, depth)
        return self._refuse(path, node, "allowed: " + " or ".join(map(type_text, members)))

    def _replaced_by_nothing(self, node: Node) -> bool:
        """Whether it is such as `${NAME:-}` without a NAME: for what may be left out, it is left out."""
        return isinstance(node, ScalarNode) and node.value != "" and _replaced(node.value, self._environ) == ("", [])

    def _tagged(self, table: Kinds, node: Node, path: str, depth: int) -> Any:
        """A mapping with `kind`, or the kind's bare name where all its options have defaults."""
        if isinstance(node, ScalarNode) and not _is_null(node):
            name: Any = self._text(node, path)
            body: Node = MappingNode(_MAP, [], node.start_mark, node.end_mark)
        elif isinstance(node, MappingNode):
            tags = [value for key, value in node.value if key.value == "kind"]
            rest = [(key, value) for key, value in node.value if key.value != "kind"]
            body = MappingNode(_MAP, rest, node.start_mark, node.end_mark)
            if len(tags) > 1:
                return self._refuse(f"{path}.kind", tags[1], "the key is there twice")
            if not tags and len(table) > 1:
                return self._refuse(path, node, f"`kind` is missing, one of: {', '.join(table)}")
            name = self._text(tags[0], f"{path}.kind") if tags else next(iter(table))
        else:
            return self._refuse(path, node, f"allowed: a mapping with `kind`, one of: {', '.join(table)}")
        if name is _BAD:
            return _BAD
        if name in table:
            return self._struct(table[name], body, path, depth)
        if ":" in name:  # a user's own part: its module and name
            try:
                return self._struct(_struct(resolve(name)), body, path, depth)
            except (ImportError, AttributeError, TypeError, ValueError) as error:
                return self._refuse(f"{path}.kind", node, f"cannot take {name}: {error}")
        self.problems.append(f"{path}.kind{_line(node)}: {name!r} is no kind; {_nearest(name, table)}")
        return _BAD

    def _struct(self, kind: inspect.StructType, node: Node, path: str, depth: int) -> Any:
        if not isinstance(node, MappingNode):
            return self._refuse(path, node, f"allowed: a mapping of {', '.join(f.encode_name for f in kind.fields)}")
        fields = {field.encode_name: field for field in kind.fields}
        given: dict[str, Any] = {}
        pairs = node.value
        inlined = inline(kind)
        if inlined is not None:  # the keys that are not ours are those of the part beside which ours stand
            del fields[inlined.encode_name]
            beside = [pair for pair in pairs if pair[0].value not in fields]
            pairs = [pair for pair in pairs if pair[0].value in fields]
            body = MappingNode(_MAP, beside, node.start_mark, node.end_mark)
            given[inlined.name] = self.read(inlined.type, body, path, depth)
        for key, value in pairs:
            name = key.value if isinstance(key, ScalarNode) else "?"
            if name not in fields:
                self.problems.append(f"{path}.{name}{_line(key)}: no such key; {_nearest(name, fields)}")
            elif fields[name].name in given:
                self.problems.append(f"{path}.{name}{_line(key)}: the key is there twice")
            else:
                given[fields[name].name] = self.read(fields[name].type, value, f"{path}.{name}", depth + 1)
        for name, field in fields.items():
            if field.required and field.name not in given:
                given[field.name] = _BAD
                text = f"{path}.{name}{_line(node)}: missing; wanted: {type_text(field.type)}"
                self.problems.append(f"{text}, {said}" if (said := description(field.type)) else text)
        if any(value is _BAD for value in given.values()):
            return _BAD
        try:
            return kind.cls(**given)
        except ValueError as error:
            self.problems.append(f"{path}{_line(node)}: {error}")
            return _BAD

    # -- collections

    def _list(
        self,
        kind: inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType,
        node: Node,
        path: str,
        depth: int,
    ) -> Any:
        if isinstance(node, ScalarNode) and "${" in node.value:
            text = self._text(node, path)
            if text is _BAD:
                return _BAD
            parts = [ScalarNode(_STR, part.strip(), node.start_mark) for part in text.split(",") if part.strip()]
            node = SequenceNode("tag:yaml.org,2002:seq", parts, node.start_mark, node.end_mark)
        if not isinstance(node, SequenceNode):
            return self._refuse(path, node, f"allowed: {type_text(kind)}")
        values = [self.read(kind.item_type, item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        if any(value is _BAD for value in values):
            return _BAD
        if not _within(kind, values):
            return self._refuse(path, node, f"must be {', '.join(bounds(kind))}")
        make = {inspect.VarTupleType: tuple, inspect.SetType: set, inspect.FrozenSetType: frozenset}
        return make.get(type(kind), list)(values)

    def _dict(self, kind: inspect.DictType, node: Node, path: str, depth: int) -> Any:
        if not isinstance(node, MappingNode):
            return self._refuse(path, node, f"allowed: {type_text(kind)}")
        values: dict[Any, Any] = {}
        for key, value in node.value:
            name = self.read(kind.key_type, key, path, depth + 1)
            if name in values:
                self._refuse(path, key, "the key is there twice")
            values[name] = self.read(kind.value_type, value, f"{path}.{getattr(key, 'value', '?')}", depth + 1)
        if any(part is _BAD for pair in values.items() for part in pair):
            return _BAD
        return values if _within(kind, values) else self._refuse(path, node, f"must be {', '.join(bounds(kind))}")

    # -- single values

    def _text(self, node: Node, path: str) -> Any:
        """The text of a scalar, `${...}` replaced."""
        if not isinstance(node, ScalarNode):
            return self._refuse(path, node, "allowed: a text")
        text, lacking = _replaced(node.value, self._environ)
        return self._refuse(path, node, "; ".join(lacking)) if lacking else text

    def _quantity(self, kind: inspect.Type, unit: str, node: Node, path: str) -> Any:
        text = self._text(node, path)
        if text is _BAD:
            return _BAD
        try:
            value = parse_seconds(text) if unit == "seconds" else parse_bytes(text)
        except ValueError as error:
            return self._refuse(path, node, f"allowed: {str(error).partition('; ')[2]}")
        if _within(kind, value):
            return value
        write = seconds_text if unit == "seconds" else (lambda size: bytes_text(int(size)))
        return self._refuse(path, node, f"must be {', '.join(bounds(kind, write))}")

    def _leaf(self, kind: inspect.Type, node: Node, path: str) -> Any:
        if not isinstance(node, ScalarNode):
            return self._refuse(path, node, f"allowed: {type_text(kind)}")
        replaced = "${" in node.value
        text = self._text(node, path)
        if text is _BAD:
            return _BAD
        # a replaced value is what it says; a written one is what YAML takes it for
        value = _scalar(text, plain=True) if replaced else _scalar(node.value, plain=node.style is None)
        found = _BAD
        match kind:
            case inspect.StrType() if replaced or isinstance(value, str):
                found = text
            case inspect.CustomType(cls=cls) if cls is Secret and (replaced or isinstance(value, str)):
                found = Secret(text)
            case inspect.BoolType() if isinstance(value, bool):
                found = value
            case inspect.IntType() if isinstance(value, int) and not isinstance(value, bool):
                found = value
            case inspect.FloatType() if isinstance(value, int | float) and not isinstance(value, bool):
                found = float(value)
            case inspect.EnumType(cls=cls) if value in [member.value for member in cls]:
                found = cls(value)
            case inspect.LiteralType(values=values) if value in values:
                found = value
            case inspect.NoneType() if value is None:
                return None
        if found is _BAD:
            quote = "; quote it to make it a text" if isinstance(kind, inspect.StrType) and value is not None else ""
            return self._refuse(path, node, f"allowed: {type_text(kind)}{quote}")
        if not _within(kind, found) or (isinstance(found, float) and math.isnan(found)):  # NaN passes no limit
            return self._refuse(path, node, f"must be {', '.join(bounds(kind)) or 'a number'}")
        return found

    def _plain(self, node: Node, path: str, depth: int) -> Any:
        """A value of a field that takes anything."""
        self._enter(path, depth)
        if isinstance(node, SequenceNode):
            return [self._plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return {str(key.value): self._plain(value, f"{path}.{key.value}", depth + 1) for key, value in node.value}
        text = self._text(node, path)
        return text if text is _BAD else _scalar(text, plain=getattr(node, "style", None) is None)


_STR = "tag:yaml.org,2002:str"


def _replaced(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with every `${...}` replaced, and what was lacking, in words."""
    lacking: list[str] = []

    def replace(match: re.Match[str]) -> str:
        literal, is_file, name, default = match.groups()
        if literal:
            return "${"
        if is_file:
            try:
                return Path(name).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                lacking.append(f"cannot read {name}: {getattr(error, 'strerror', None) or error}")
                return ""
        found = environ.get(name) or default
        if found is None:
            lacking.append(f"the environment has no {name}; set it or write ${{{name}:-default}}")
        return found or ""

    return _SUBSTITUTE.sub(replace, text), lacking


def _scalar(text: str, *, plain: bool) -> Any:
    """What YAML takes a scalar for; dates stay text, for no option is one."""
    if not plain:
        return text
    tag = _RESOLVER.resolve(ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # gap in types-pyyaml
    if tag not in _CORE_TAGS:
        return text
    return _CONSTRUCTOR.construct_object(ScalarNode(tag, text))


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style is None and _scalar(node.value, plain=True) is None


def _suits(kind: inspect.Type, node: Node) -> bool:
    if isinstance(kind, inspect.Metadata):
        return _suits(kind.type, node)
    if isinstance(node, MappingNode):
        return isinstance(kind, inspect.StructType | inspect.DictType) or kinds(kind) is not None
    if isinstance(node, SequenceNode):
        return isinstance(kind, inspect.ListType | inspect.VarTupleType)
    return not isinstance(kind, inspect.StructType | inspect.DictType | inspect.ListType | inspect.VarTupleType)


def _line(node: Node) -> str:
    return "" if node.start_mark is None else f" (line {node.start_mark.line + 1})"


def _given(node: Node, path: str) -> str:
    if isinstance(node, MappingNode):
        return "a mapping was given" if node.value else "nothing was given"
    if isinstance(node, SequenceNode):
        return f"a list of {len(node.value)} was given"
    if _is_null(node):
        return "nothing was given"
    if _SECRET_KEY.search(path.rpartition(".")[2]):
        return "a hidden value was given"
    text = _CREDENTIALS.sub("//***@", node.value)
    return f"{text if len(text) <= 60 else text[:57] + '...'!r} was given"


def _nearest(name: str, allowed: Mapping[str, Any]) -> str:
    close = get_close_matches(name, allowed, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}allowed: {', '.join(allowed) or 'nothing'}"


def description(kind: inspect.Type) -> str:
    """What a field's `Meta` says of it, one line."""
    if not isinstance(kind, inspect.Metadata):
        return ""
    said = (kind.extra_json_schema or {}).get("description", "")
    return " ".join(str(said).split()) or description(kind.type)


def type_text(kind: inspect.Type) -> str:
    """A type as the person who writes YAML sees it."""
    choice = kinds(kind)
    if choice is not None:
        return "one of " + ", ".join(choice) if len(choice) > 1 else "a mapping"
    unit = unit_of(kind)
    if unit:
        return "a duration such as 10s" if unit == "seconds" else "a size such as 64MiB"
    match kind:
        case inspect.Metadata(type=inner):
            return type_text(inner)
        case inspect.UnionType(types=types):
            return " or ".join(type_text(member) for member in types if not isinstance(member, inspect.NoneType))
        case inspect.StructType():
            return "a mapping"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return "a list of " + _several(type_text(item))
        case inspect.DictType(value_type=value):
            return "a mapping of names to " + _several(type_text(value))
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(str(member.value) for member in cls)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
    return ", ".join([_PLAIN_TYPES.get(type(kind), "anything"), *bounds(kind)])


def _several(one: str) -> str:
    """The plural.

    >>> _several("a text, at least 1 long"), _several("one of a, b")
    ('texts, at least 1 long', 'any of a, b')
    """
    if one.startswith("one of"):
        return "any" + one.removeprefix("one")
    noun, comma, rest = one.removeprefix("a ").partition(",")
    return f"{noun}s{comma}{rest}"


__all__ = [
    "Kinds", "Refused", "Secret", "bounds", "description", "inline", "kinds", "read", "resolve", "type_text", "unit_of",
]  # fmt: skip
