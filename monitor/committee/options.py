"""What a configuration says of a hosted committee. Nothing here imports torch before a network is built."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from alerting.s3 import S3Server
from detectors.units import Bytes, Seconds

DIGEST = "^[0-9a-f]{64}$"


class Mlp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mlp"):
    """A `torch.nn.Sequential` of Linear, activation, Dropout (only where `dropout` is over 0), Linear and so on: its
    weights are named by their place in that row, `0.weight` and `0.bias` first. Two sizes are a linear model."""

    sizes: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=2, description="Inputs, hidden layers, outputs.")
    ]
    activation: Annotated[
        Literal["relu", "gelu", "tanh", "sigmoid"], Meta(description="Behind every layer but the last.")
    ] = "relu"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="Share of hidden units that training left out.")] = 0.0

    @property
    def inputs(self) -> int:
        """Numbers in a row."""
        return self.sizes[0]

    def network(self) -> Any:
        """The module, its weights yet to be loaded."""
        from torch import nn

        activations = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
        layers: list[Any] = []
        for width, following in pairwise(self.sizes):
            if layers:
                layers.append(activations[self.activation]())
                layers += [nn.Dropout(self.dropout)] if self.dropout else []
            layers.append(nn.Linear(width, following))
        return nn.Sequential(*layers)


class Conv(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="conv"):
    """A small network for pictures, a `torch.nn.Sequential`: Unflatten, then for each of `channels` Conv2d (3 x 3,
    padded), ReLU and MaxPool2d (2), then Flatten, Dropout (only where `dropout` is over 0) and Linear."""

    shape: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(min_length=3, max_length=3, description="Channels, height, width that a row of inputs is folded into."),
    ]
    channels: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, description="Channels behind each convolution.")
    ]
    classes: Annotated[int, Meta(ge=1, description="Outputs.")]
    dropout: Annotated[float, Meta(ge=0, lt=1, description="Share of the last layer's inputs left out.")] = 0.0

    @property
    def inputs(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape)

    def network(self) -> Any:
        """The module, its weights yet to be loaded."""
        from torch import nn

        depth, height, width = self.shape
        layers: list[Any] = [nn.Unflatten(1, self.shape)]
        for before, after in pairwise((depth, *self.channels)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        halvings = 2 ** len(self.channels)
        left = self.channels[-1] * (height // halvings) * (width // halvings)
        layers += [nn.Flatten(), *([nn.Dropout(self.dropout)] if self.dropout else []), nn.Linear(left, self.classes)]
        return nn.Sequential(*layers)


class Own(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="own"):
    """A `torch.nn.Module` of your own, from a package that is installed beside driftd. Only the child imports it."""

    name: Annotated[str, Meta(pattern=r"^[\w.]+:\w+$", description="As `package.module:Name`.")]
    inputs: Annotated[int, Meta(ge=1, description="Numbers in a row.")]
    options: Annotated[dict[str, Any], Meta(description="Arguments it is made with.")] = {}

    def network(self) -> Any:
        """The module, its weights yet to be loaded."""
        module, _, name = self.name.partition(":")
        return getattr(importlib.import_module(module), name)(**self.options)


Architecture = Mlp | Conv | Own


class MemberOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member: a file of tensors, never a pickle."""

    path: Annotated[
        str,
        Meta(
            pattern=r"\.(pt2|safetensors|pt|pth)$",
            description="A file, or `s3://bucket/key`: `.pt2` is an exported program; `.safetensors`, and `.pt` or "
            "`.pth` as a state dict, hold the weights of an `architecture`. Anything that would have to be unpickled "
            "is refused.",
        ),
    ]
    sha256: Annotated[
        Annotated[str, Meta(pattern=DIGEST)] | None,
        Meta(
            description="The file's digest in hex; any other file is refused unread. Empty: the first word of "
            "`<path>.sha256`, as `sha256sum` writes it; when that changes the new file is loaded without a restart. "
            "Whoever can write there can change the model."
        ),
    ] = None
    architecture: Annotated[
        Architecture | None, Meta(description="What the weights belong to; an exported program brings its own.")
    ] = None
    output: Annotated[
        Literal["logits", "chances"], Meta(description="What the model gives for a row: one number for each class.")
    ] = "logits"

    def __post_init__(self) -> None:
        """ValueError where file and architecture do not go together."""
        program = self.path.endswith(".pt2")
        if program and self.architecture is not None:
            raise ValueError(f"{self.path} is an exported program and brings its own architecture; leave it out")
        if not program and self.architecture is None:
            raise ValueError(f"{self.path} holds weights alone; `architecture` must say what they belong to")


class DropoutOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every member is asked several times with its dropout left on (Gal and Ghahramani 2016). Which units fall depends
    on the event's id, so a replay gives the same answers."""

    passes: Annotated[int, Meta(ge=2, le=100, description="Times that a row is asked.")] = 20


class ChildLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the child process. Where one bites the child is ended and started anew."""

    memory: Annotated[
        Bytes, Meta(ge=2**30, description="Memory it may allocate; importing torch takes 0.75 GiB of it.")
    ] = 2 * 2**30
    batch: Annotated[
        Seconds, Meta(gt=0, le=60, description="Longest time for 256 rows; the stream waits that long at most.")
    ] = 5.0
    start: Annotated[Seconds, Meta(gt=0, le=600, description="Longest time to load, importing torch included.")] = 120.0
    file: Annotated[Bytes, Meta(ge=1, description="Largest file of a member.")] = 2**30
    threads: Annotated[int, Meta(ge=1, le=64, description="Threads it computes with.")] = 1


class CommitteeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models that driftd asks itself, in a child process; their answers are column `members`. Where the reference's
    events bring `members` of their own, those are used."""

    members: Annotated[tuple[MemberOptions, ...], Meta(min_length=1, description="Who is asked.")]
    inputs: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="What they are asked with, in this order: number, flag and vector columns, such as `embedding`."
            " A row that lacks any of them has no answers.",
        ),
    ]
    dropout: Annotated[
        DropoutOptions | None, Meta(description="Makes a committee of a single member; empty: dropout is off.")
    ] = None
    poll: Annotated[Seconds, Meta(ge=1, description="Time between looks for new digests and missing files.")] = 60.0
    device: Annotated[str, Meta(pattern=r"^(cpu|cuda(:\d+)?)$", description="Where they compute.")] = "cpu"
    limits: Annotated[ChildLimits, Meta(description="Bounds of the child process.")] = ChildLimits()
    s3: Annotated[S3Server, Meta(description="The server behind `s3://` paths.")] = S3Server()

    def __post_init__(self) -> None:
        """ValueError where there is nobody to disagree."""
        if self.voices < 2:
            raise ValueError("one voice cannot disagree; name more members, or let `dropout` ask one several times")

    @property
    def passes(self) -> int:
        """Times that each member is asked."""
        return self.dropout.passes if self.dropout is not None else 1

    @property
    def voices(self) -> int:
        """Answers to a row."""
        return len(self.members) * self.passes
