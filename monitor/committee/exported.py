"""Exported programs (`.pt2`), read without torch.export.load.

That function unpickles sample inputs and whatever tensor says it is a pickle, evaluates the sizes' expressions as
Python, and takes any dotted name below `torch` for an operator. What a program needs for its answers is a list of
operators with their arguments, and raw tensors; this reads just those, knows the operators of ATen and arithmetic on
sizes, and refuses everything else.
"""

from __future__ import annotations

import math
import operator
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from monitor.committee.dropout import Dropout
from monitor.committee.fetch import Unusable

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_DROPOUTS = {"dropout", "dropout_", "native_dropout", "feature_dropout", "feature_dropout_"}
_SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "eq", "ne", "lt", "le", "gt", "ge")
} | {f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")}  # fmt: skip
# The archive's own numbers of types; those that hold what a model computes with.
_TYPES = (
    "", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "", "", "", "bool", "bfloat16",
)  # fmt: skip
_MEMORY = ("", "contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
_AS_THEY_ARE = {"as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_strings", "as_int_lists"}
_MOST_ROWS = 4096


class _Argument(msgspec.Struct, frozen=True):
    name: str
    arg: dict[str, Any]
    kind: int | None = None  # 2: by name


class _Node(msgspec.Struct, frozen=True):
    target: str
    inputs: list[_Argument]
    outputs: list[dict[str, Any]]


class _TensorMeta(msgspec.Struct, frozen=True):
    dtype: int
    sizes: list[dict[str, Any]]
    strides: list[dict[str, Any]]
    storage_offset: dict[str, Any]


class _Graph(msgspec.Struct, frozen=True):
    nodes: list[_Node]
    tensor_values: dict[str, _TensorMeta]


class _Signature(msgspec.Struct, frozen=True):
    input_specs: list[dict[str, Any]]
    output_specs: list[dict[str, Any]]


class _GraphModule(msgspec.Struct, frozen=True):
    graph: _Graph
    signature: _Signature


class _Document(msgspec.Struct, frozen=True):
    graph_module: _GraphModule


class _Payload(msgspec.Struct, frozen=True):
    path_name: str
    use_pickle: bool
    tensor_meta: _TensorMeta | None = None


class _Payloads(msgspec.Struct, frozen=True):
    config: dict[str, _Payload]


class _Step(NamedTuple):
    call: Callable[..., Any]
    positional: Sequence[dict[str, Any]]
    named: Mapping[str, dict[str, Any]]
    outputs: Sequence[dict[str, Any]]


class Program:
    """A program that takes one tensor of rows and gives one tensor of answers."""

    def __init__(self, archive: zipfile.ZipFile, device: str, dropout: Dropout) -> None:
        """Unusable for what is no such program or would have to be unpickled."""
        names = archive.namelist()
        models = [name for name in names if "/models/" in name]
        if len(models) != 1 or not models[0].endswith(".json"):
            raise Unusable("unreadable", f"an exported program holds one models/*.json, this {len(models)}")
        self._root = models[0].partition("/models/")[0]
        self._model = models[0].rpartition("/")[2].removesuffix(".json")
        self._archive, self._device, self._dropout = archive, device, dropout
        module = _read(archive, models[0], _Document).graph_module
        self._known = self._tensors(module.signature)
        asked = [s["user_input"]["arg"] for s in module.signature.input_specs if "user_input" in s]
        given = [s["user_output"]["arg"] for s in module.signature.output_specs if "user_output" in s]
        if len(asked) != 1 or len(given) != 1 or "as_tensor" not in asked[0] or "as_tensor" not in given[0]:
            raise Unusable("unfit", "a member takes one tensor of rows and gives one tensor of answers")
        self._asked, self._given = asked[0]["as_tensor"]["name"], given[0]["as_tensor"]["name"]
        meta = module.graph.tensor_values[self._asked]
        first, *rest = meta.sizes
        if not all("as_int" in size for size in rest):
            raise Unusable("unfit", "only the number of rows may be left open")
        self.rows: int | None = first.get("as_int")  # None: any number at once
        if self.rows is not None and not 1 <= self.rows <= _MOST_ROWS:
            raise Unusable("unfit", f"answers {self.rows} rows at once")
        self._shape = tuple(int(size["as_int"]) for size in rest)
        self.inputs = math.prod(self._shape)
        self._dtype = self._type(meta.dtype)
        self._steps = [self._step(node) for node in module.graph.nodes]

    def __call__(self, rows: Any) -> Any:
        """Answers to rows (n, inputs)."""
        values = {**self._known, self._asked: rows.reshape(len(rows), *self._shape).to(self._dtype)}
        for step in self._steps:
            result = step.call(
                *(self._value(arg, values) for arg in step.positional),
                **{name: self._value(arg, values) for name, arg in step.named.items()},
            )
            if len(step.outputs) == 1:
                _bind(step.outputs[0], result, values)
            else:
                for output, part in zip(step.outputs, result, strict=True):
                    _bind(output, part, values)
        return values[self._given]

    # -- what it is made of

    def _tensors(self, signature: _Signature) -> dict[str, Any]:
        """Parameters, buffers and constants by their names in the graph."""
        held: dict[str, Any] = {}
        for folder, kind in (("weights", "model_weights"), ("constants", "model_constants")):
            listing = f"{self._root}/data/{folder}/{self._model}{kind.removeprefix('model')}_config.json"
            for name, payload in _read(self._archive, listing, _Payloads).config.items():
                held[name] = self._tensor(f"{self._root}/data/{folder}/{payload.path_name}", payload)
        known = {}
        for spec in signature.input_specs:
            [(kind, said)] = spec.items()
            if kind == "user_input":
                continue
            name = said.get(f"{kind}_name")
            if name not in held:
                raise Unusable("unfit", f"input of kind {kind} is not known")
            known[said["arg"]["name"]] = held[name]
        return known

    def _tensor(self, name: str, payload: _Payload) -> Any:
        import torch

        meta = payload.tensor_meta
        if payload.use_pickle or meta is None:
            raise Unusable("pickle", f"{name} is a pickle")
        sizes, strides = ([int(n["as_int"]) for n in each] for each in (meta.sizes, meta.strides))
        data = bytearray(self._archive.read(name))
        flat = torch.frombuffer(data, dtype=self._type(meta.dtype)) if data else torch.zeros(0)
        tensor = torch.as_strided(flat, sizes, strides, int(meta.storage_offset["as_int"]))
        return tensor.to(self._device)

    def _step(self, node: _Node) -> _Step:
        call = _SIZES.get(node.target) or self._operator(node)
        named = {a.name: a.arg for a in node.inputs if a.kind != 1}
        return _Step(call, [a.arg for a in node.inputs if a.kind == 1], named, node.outputs)

    def _operator(self, node: _Node) -> Callable[..., Any]:
        import torch

        found = _ATEN.fullmatch(node.target)
        packet = getattr(torch.ops.aten, found[1], None) if found and not found[1].startswith("from_file") else None
        operation: Callable[..., Any] | None = getattr(packet, found[2], None) if found and packet else None
        if operation is None or found is None:
            raise Unusable("unfit", f"operator {node.target} is not known")
        return self._dropped(found[1], self._dropout.layer()) if found[1] in _DROPOUTS else operation

    def _dropped(self, name: str, layer: int) -> Callable[..., Any]:
        def dropped(input: Any, p: float, train: bool | None = None) -> Any:  # noqa: A002, ARG001 - as ATen calls it
            out = self._dropout.apply(layer, input, p, input.shape[1] if name.startswith("feature") else None)
            return (out, None) if name.startswith("native") else out

        return dropped

    # -- values

    def _type(self, number: int) -> Any:
        import torch

        name = _TYPES[number] if 0 <= number < len(_TYPES) else ""
        if not name:
            raise Unusable("unfit", f"tensors of type {number} are not known")
        return getattr(torch, name)

    def _value(self, arg: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """An argument as the operator takes it."""
        import torch

        [(kind, said)] = arg.items()
        if kind in _AS_THEY_ARE:
            return said
        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return values[said["name"]]
            case "as_tensors":
                return [values[one["name"]] for one in said]
            case "as_name":
                return values[said]
            case "as_float":
                return float(said)
            case "as_floats":
                return [float(one) for one in said]
            case "as_optional_tensor" | "as_sym_int" | "as_sym_bool" | "as_sym_float":
                return self._value(said, values)
            case "as_optional_tensors" | "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
                return [self._value(one, values) for one in said]
            case "as_scalar_type":
                return self._type(said)
            case "as_memory_format":
                return getattr(torch, _MEMORY[said])
            case "as_layout":
                return torch.strided
            case "as_device":
                return torch.device(self._device)
        raise Unusable("unfit", f"argument of kind {kind} is not known")


def _bind(output: Mapping[str, Any], result: Any, values: dict[str, Any]) -> None:
    [(kind, said)] = output.items()
    if kind == "as_tensors":
        values.update((one["name"], part) for one, part in zip(said, result, strict=True))
    elif kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        values[said.get("name") or said["as_name"]] = result


def _read(archive: zipfile.ZipFile, name: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(archive.read(name), type=kind)
    except (KeyError, msgspec.MsgspecError) as error:
        raise Unusable("unreadable", f"{name}: {error}") from error
