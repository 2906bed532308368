"""Documentation made from the configuration's own structs, so that it cannot say anything else than the code.

`schema` for editors and validators, `example` a full commented file, `describe` the reference page. Run as a module it
writes the pages of this repository: `python -m monitor.manual`.
"""

from __future__ import annotations

import inspect as python
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from detectors.units import bytes_text, seconds_text
from monitor.settings import Secret, bounds, description, inline, kinds, type_text, unit_of

Lines = list[str]

_WIDTH = 110
_DURATION = r"^(0|(\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*)+)$"
_SIZE = r"^(0|\d+(\.\d+)?\s*(B|kB|MB|GB|KiB|MiB|GiB))$"
# `${...}` may stand for any value, so each is also allowed to be such a text
_SUBSTITUTED = {"type": "string", "pattern": r"\$\{"}
_TYPES = {
    inspect.StrType: "string",
    inspect.CustomType: "string",
    inspect.DateTimeType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
}
_LIMITS = {
    "gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum", "pattern": "pattern",
}  # fmt: skip


# -- JSON Schema


def schema(root: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a file that `settings.read` takes, `${...}` allowed for every value."""
    definitions: dict[str, Any] = {}
    found = _schema(inspect.type_info(root), definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "$defs": definitions}


def _schema(kind: inspect.Type, definitions: dict[str, Any]) -> dict[str, Any]:
    choice = kinds(kind)
    if choice is not None:
        parts = [_struct_schema(part, definitions, name) for name, part in choice.items()]
        if isinstance(kind, inspect.Metadata) and "table" in (kind.extra or {}):
            parts.append({"type": "object", "properties": {"kind": {"pattern": ":"}}, "required": ["kind"]})
        found: dict[str, Any] = {"anyOf": [*parts, {"type": "string"}]}  # a bare kind stands for its defaults
        return found | ({"description": said} if (said := description(kind)) else {})
    unit = unit_of(kind)
    if unit:
        found = {"anyOf": [{"type": "string", "pattern": _DURATION if unit == "seconds" else _SIZE}, {"const": 0}]}
        return {**found, "anyOf": [*found["anyOf"], _SUBSTITUTED]}
    match kind:
        case inspect.Metadata(type=inner):
            found = _schema(inner, definitions)
            return found | ({"description": said} if (said := description(kind)) else {})
        case inspect.UnionType(types=types):
            return {"anyOf": [_schema(member, definitions) for member in types]}
        case inspect.StructType():
            return _struct_schema(kind, definitions)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            limits = {"minItems": kind.min_length} if kind.min_length else {}
            return {"anyOf": [{"type": "array", "items": _schema(item, definitions), **limits}, _SUBSTITUTED]}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _schema(value, definitions)}
        case inspect.EnumType(cls=cls):
            return {"enum": [member.value for member in cls]}
        case inspect.LiteralType(values=values):
            return {"enum": list(values)}
        case inspect.NoneType():
            return {"type": "null"}
        case inspect.AnyType():
            return {}
    found = {"type": _TYPES[type(kind)]}
    found |= {word: limit for name, word in _LIMITS.items() if (limit := getattr(kind, name, None)) is not None}
    return {"anyOf": [found, _SUBSTITUTED]}


def _struct_schema(kind: inspect.StructType, definitions: dict[str, Any], tag: str = "") -> dict[str, Any]:
    name = f"{kind.cls.__module__}.{kind.cls.__name__}"  # a scorer and a detector may share the last
    if name not in definitions:
        definitions[name] = {}  # a struct may hold itself
        properties: dict[str, Any] = {"kind": {"const": tag}} if tag else {}
        inlined = inline(kind)
        for field in kind.fields:
            if field is not inlined:
                default = _plain_default(field)
                properties[field.encode_name] = _schema(field.type, definitions) | (
                    {} if default is NODEFAULT else {"default": default}
                )
        required = [field.encode_name for field in kind.fields if field.required and field is not inlined]
        found: dict[str, Any] = {
            "type": "object", "description": _doc(kind.cls), "properties": properties, "required": required,
        }  # fmt: skip
        if inlined is None:
            found["additionalProperties"] = False
        else:  # the keys of the chosen kind stand beside ours
            beside: Mapping[str, inspect.StructType] = kinds(inlined.type) or {}
            properties["kind"] = {"type": "string"}
            for part in beside.values():
                _struct_schema(part, definitions)
                for field in part.fields:
                    properties.setdefault(field.encode_name, _schema(field.type, definitions))
        definitions[name] = found
    return {"$ref": f"#/$defs/{name}"}


# -- the reference page


def describe(root: type[msgspec.Struct]) -> str:
    """The reference page in Markdown: a table for each struct, in the order of the file."""
    lines: list[str] = []
    _describe(inspect.type_info(root), "", lines, set())
    return "\n".join(lines) + "\n"


def _describe(kind: inspect.Type, path: str, lines: Lines, seen: set[type]) -> None:
    choice = kinds(kind)
    if choice is not None:
        _describe_choice(choice, path, lines, seen)
        return
    match kind:
        case inspect.StructType():
            _describe_struct(kind, path, lines, seen)
        case inspect.Metadata(type=inner):
            _describe(inner, path, lines, seen)
        case inspect.UnionType(types=types):
            for member in types:
                _describe(member, path, lines, seen)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            _describe(item, path + "[]", lines, seen)
        case inspect.DictType(value_type=value):
            _describe(value, path + ".<name>", lines, seen)


def _describe_choice(choice: Mapping[str, inspect.StructType], path: str, lines: Lines, seen: set[type]) -> None:
    """Kinds of equal keys under one heading, the others each under their own."""
    groups: dict[tuple[str, ...], dict[str, inspect.StructType]] = {}
    for name, part in choice.items():
        if part.cls not in seen:
            groups.setdefault(tuple(_row(field) for field in part.fields), {})[name] = part
    for group in groups.values():
        first = next(iter(group.values()))
        title = f"`{path}` of kind " + ", ".join(f"`{name}`" for name in group)
        docs = [f"- `{name}`: {_doc(part.cls)}" for name, part in group.items()]
        lines += [f"## {title}", "", *(docs if len(group) > 1 else [_doc(first.cls)]), ""]
        seen.update(part.cls for part in group.values())
        _describe_fields(first, path, lines, seen)


def _describe_struct(kind: inspect.StructType, path: str, lines: Lines, seen: set[type]) -> None:
    if kind.cls in seen:
        return
    seen.add(kind.cls)
    lines += [f"## `{path}`" if path else "## The file", "", _doc(kind.cls), ""]
    inlined = inline(kind)
    if inlined is not None:
        beside = ", ".join(f"`{name}`" for name in kinds(inlined.type) or {})
        lines += [f"`kind` is one of {beside}; its keys stand beside these.", ""]
    _describe_fields(kind, path, lines, seen)


def _describe_fields(kind: inspect.StructType, path: str, lines: Lines, seen: set[type]) -> None:
    inlined = inline(kind)
    shown = [field for field in kind.fields if field is not inlined]
    if shown:
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |", *map(_row, shown), ""]
    for field in kind.fields:
        below = path if field is inlined else f"{path}.{field.encode_name}".lstrip(".")
        _describe(field.type, below, lines, seen)


def _row(field: inspect.Field) -> str:
    default = _plain_default(field)
    told = "**needed**" if field.required else "" if default in (NODEFAULT, None, {}) else f"`{_flow(default)}`"
    words = ", ".join([type_text(field.type), *_unit_bounds(field.type)])
    cells = [f"`{field.encode_name}`", words, told, description(field.type)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _unit_bounds(kind: inspect.Type) -> list[str]:
    """Limits of a duration or size; `type_text` tells those of other types."""
    match kind:
        case inspect.Metadata(type=inner, extra={"unit": unit}):
            return bounds(inner, seconds_text if unit == "seconds" else (lambda size: bytes_text(int(size))))
        case inspect.Metadata(type=inner):
            return _unit_bounds(inner)
        case inspect.UnionType(types=types):
            return [words for member in types for words in _unit_bounds(member)]
    return []


# -- the commented example


def example(root: type[msgspec.Struct], given: Mapping[str, Any]) -> str:
    """A full file: every key with its default, or with what `given` says at its path (`sources[].brokers`), under a
    comment that explains it. Of interchangeable kinds a list shows one each; where only one can be chosen, the others
    follow as comments."""
    kind = inspect.type_info(root)
    lines = [f"# {line}".rstrip() for line in textwrap.wrap(_doc(root), _WIDTH)]
    if isinstance(kind, inspect.StructType):
        lines += ["", *_Example(given).struct(kind, "")]
    return "\n".join(lines) + "\n"


class _Example:
    """Lines of YAML for one value after the other. What was explained once is not explained again, and a part that
    was shown is left out where it could stand again."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._said: set[str] = set()
        self._shown: set[type] = set()

    def struct(self, kind: inspect.StructType, path: str, tag: str = "", without: inspect.Field | None = None) -> Lines:
        lines = [f"kind: {tag}"] if tag else []
        self._shown.add(kind.cls)
        for field in kind.fields:
            if field in (without, inline(kind)) or self._known(field):
                continue
            if not path and lines:
                lines.append("")
            place = f"{path}.{field.encode_name}".lstrip(".")
            lines += self._comment(field)
            lines += self._field(field, place)
        return lines

    def _known(self, field: inspect.Field) -> bool:
        choice: Mapping[str, inspect.StructType] = kinds(field.type) or {}
        parts = [part.cls for part in choice.values()]
        below = _struct_in(field.type)
        if not parts and below is not None and _item(field.type) is None:
            parts = [below.cls]
        return bool(parts) and not field.required and all(part in self._shown for part in parts)

    def _comment(self, field: inspect.Field) -> Lines:
        allowed = _allowed(field.type)
        text = " ".join(filter(None, [description(field.type), f"({allowed})" if allowed else ""]))
        if not text or text in self._said:
            return []
        self._said.add(text)
        return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]

    def _field(self, field: inspect.Field, place: str) -> Lines:
        name = field.encode_name
        if place in self._given:
            return [f"{name}: {_flow(self._given[place])}"]
        item = _item(field.type)
        if item is not None and (kinds(item) is not None or _struct_in(item) is not None):
            return [f"{name}:", *self._items(item, place + "[]")]
        choice = kinds(field.type)
        if choice is not None:
            return self._choice(field, choice, place)
        below = _struct_in(field.type)
        if below is not None:
            return [f"{name}:", *_indented(self.struct(below, place))]
        default = _plain_default(field)
        if default is NODEFAULT:
            raise LookupError(f"{place} has no default: give an example of it")
        return [f"# {name}:"] if default is None else [f"{name}: {_flow(default)}"]

    def _choice(self, field: inspect.Field, choice: Mapping[str, inspect.StructType], place: str) -> Lines:
        default = None if field.required else field.default
        chosen = next((tag for tag, part in choice.items() if type(default) is part.cls), next(iter(choice)))
        lines = [f"{field.encode_name}:", *_indented(self.struct(choice[chosen], place, chosen))]
        keys = [f.encode_name for f in choice[chosen].fields]
        for tag, part in choice.items():
            self._shown.add(part.cls)
            if tag == chosen:
                continue
            if [f.encode_name for f in part.fields] == keys:
                doc = textwrap.wrap(f"or kind: {tag}, with the same keys. {_doc(part.cls)}", _WIDTH)
                lines += [f"#   {line}" for line in doc]
            else:
                other = [f"{field.encode_name}:", *_indented(self.struct(part, place, tag))]
                lines += [f"# or: {_doc(part.cls)}", *(f"# {line}" for line in other)]
        return lines

    def _items(self, item: inspect.Type, place: str) -> Lines:
        choice = kinds(item)
        if choice is not None:
            return [line for tag, part in choice.items() for line in _one(self.struct(part, place, tag), part)]
        holder = _struct_in(item)
        assert holder is not None  # asked by the caller
        beside = inline(holder)
        if beside is not None:  # one item for each kind whose keys stand beside the holder's
            return [
                line
                for tag, part in (kinds(beside.type) or {}).items()
                for line in _one([*self.struct(part, place, tag), *self.struct(holder, place)], part)
            ]
        spread = next((f for f in holder.fields if f.required and kinds(f.type) is not None), None)
        if spread is None:
            return _one(self.struct(holder, place), holder)
        lines: Lines = []
        for tag, part in (kinds(spread.type) or {}).items():  # one item for each kind of what an item is made for
            below = f"{place}.{spread.encode_name}"
            chosen = [f"{spread.encode_name}:", *_indented(self.struct(part, below, tag))]
            rest = [] if lines else self.struct(holder, place, without=spread)
            lines += _one([*chosen, *rest], part)
        return lines


def _one(lines: Lines, part: inspect.StructType) -> Lines:
    """An item of a list, under what the part says of itself; its first line that is no comment carries the dash."""
    doc = [f"  # {line}" for line in textwrap.wrap(_doc(part.cls), _WIDTH)]
    start = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    head = [f"  {line}" for line in lines[:start]]
    return [*doc, *head, f"  - {lines[start]}", *(f"    {line}" for line in lines[start + 1 :])]


def _allowed(kind: inspect.Type) -> str:
    """What a value is limited to, where its description and default leave it open."""
    match kind:
        case inspect.Metadata(type=inner):
            limits = _unit_bounds(kind)
            return ", ".join(limits) if limits else "" if kinds(kind) else _allowed(inner)
        case inspect.UnionType(types=[inner, inspect.NoneType()]):
            return _allowed(inner)
        case inspect.EnumType() | inspect.LiteralType():
            return type_text(kind)
        case inspect.IntType() | inspect.FloatType():
            return ", ".join(bounds(kind))
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return _allowed(item).replace("one of", "any of")
    return ""


def _indented(lines: Lines) -> Lines:
    return ["  " + line for line in lines]


def _item(kind: inspect.Type) -> inspect.Type | None:
    """The type of a list's items."""
    match kind:
        case inspect.Metadata(type=inner) if kinds(kind) is None:
            return _item(inner)
        case inspect.UnionType(types=types):
            return next((found for member in types if (found := _item(member)) is not None), None)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return item
    return None


def _struct_in(kind: inspect.Type) -> inspect.StructType | None:
    match kind:
        case inspect.StructType():
            return kind
        case inspect.Metadata(type=inner):
            return _struct_in(inner)
        case inspect.UnionType(types=types):
            return next((found for member in types if (found := _struct_in(member)) is not None), None)
    return None


# -- values


def _plain_default(field: inspect.Field) -> Any:
    """The default as YAML would write it; NODEFAULT where there is none."""
    if field.default is not NODEFAULT:
        return _plain(field.default, unit_of(field.type))
    if field.default_factory is not NODEFAULT:
        return _plain(field.default_factory(), unit_of(field.type))
    return NODEFAULT


def _plain(value: Any, unit: str = "") -> Any:
    if unit and isinstance(value, int | float):
        return seconds_text(value) if unit == "seconds" else bytes_text(int(value))
    if isinstance(value, msgspec.Struct):
        shape = inspect.type_info(type(value))
        assert isinstance(shape, inspect.StructType)  # for the type checker: its class is a struct
        inlined = inline(shape)
        kept = {} if shape.tag is None else {"kind": shape.tag}
        for field in shape.fields:
            held = getattr(value, field.name)
            if field is inlined:
                kept |= _plain(held)
            elif held != field.default:
                kept[field.encode_name] = _plain(held, unit_of(field.type))
        return kept
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _flow(value: Any) -> str:
    """A value on one line of YAML; JSON is YAML, a plain word needs no quotes.

    >>> _flow("10s"), _flow(["*"]), _flow(0.5), _flow("no")
    ('10s', '["*"]', '0.5', '"no"')
    """
    if isinstance(value, str) and value and all(c.isalnum() or c in "._/-" for c in value):
        if value[0].isalnum() and value.lower() not in ("yes", "no", "on", "off", "true", "false", "null", "y", "n"):
            try:
                float(value)
            except ValueError:
                return value
        if value[0] in "./" and len(value) > 1:
            return value
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _doc(cls: type) -> str:
    """The first paragraph of a struct's docstring, on one line."""
    return " ".join((python.getdoc(cls) or "").partition("\n\n")[0].split())


# -- this repository's pages


def pages() -> Iterator[tuple[str, str]]:
    """The generated files, path from the repository's root and content."""
    from monitor import config, metrics

    yield "config/full.yaml", config.example()
    yield "docs/configuration.md", config.reference()
    yield "docs/metrics.md", metrics.reference()


if __name__ == "__main__":
    for place, content in pages():
        (Path(__file__).parents[1] / place).write_text(content, encoding="utf-8")
