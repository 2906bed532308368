"""What travels inside the service before it is columns: records, events, late labels, halves of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from detectors.core import Batch, ColumnSpec


class Partition(NamedTuple):
    """A partition of a source. State is kept by `number` (the lane): partitions of two topics with the same number,
    such as the requests and responses of one key, share it, so a pair meets whichever topic its halves came by."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Raw(Protocol):
    """A record as kafka-python hands it over, and as `Record` mimics it: read by attribute, never copied."""

    @property
    def value(self) -> bytes | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...  # milliseconds UTC, when the record reached the source


class Record(NamedTuple):
    """A record of the other sources: HTTP, files, confluent-kafka."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    offset: int = 0
    timestamp: int = 0


class Event(msgspec.Struct, kw_only=True):
    """One inference, whatever its format was. Values are as JSON gave them; None = absent.

    Column names: each input carries its own; the rest are reserved (`RESERVED`, `DERIVED`), and an input or extra of
    such a name becomes `input.<name>`. Nested inputs are flattened with dots.
    """

    id: str
    time: float  # UTC seconds
    model: str = ""
    version: str | None = None
    inputs: dict[str, Any] = {}
    label: Any = None  # outputs.label: the class that the model chose
    value: Any = None  # outputs.value: a regression's answer
    confidence: Any = None  # outputs.confidence, where the model gives it itself
    scores: Any = None  # outputs.scores: one per class; list, or object class -> score
    members: Any = None  # outputs.members: one list of scores per committee member
    embedding: Any = None
    boxes: Any = None  # outputs.boxes: parts of a picture, see `monitor.decode.boxes`
    latency: Any = None  # seconds
    status: Any = None
    path: Any = None  # modules the event took, joined with ">"
    rule: Any = None  # the rule that changed the answer
    user: Any = None
    extra: dict[str, Any] = {}
    offset: int = 0  # of the record it came in


RESERVED = (
    "label", "value", "confidence", "scores", "members", "embedding", "boxes", "latency", "status", "path", "rule",
    "user", "version",
)  # fmt: skip

# What scorers derive; an input of such a name would be written over.
DERIVED = (
    "least_confidence", "margin", "ratio", "entropy", "vote_entropy", "disagreement", "members_disagree", "novelty",
    "cluster_distance", "non_representative", "rarity", "expected_correct",
)  # fmt: skip
TAKEN = frozenset(RESERVED + DERIVED)


class Label(msgspec.Struct, kw_only=True):
    """A late label: what the answer to event `id` should have been."""

    id: str
    time: float  # when the label came to be
    model: str = ""
    label: Any = None
    value: Any = None
    offset: int = 0


class Half(msgspec.Struct, kw_only=True):
    """A request or a response that waits for the other by id. `event` holds the side's part of the event."""

    id: str
    side: str  # "request" | "response"
    event: Event
    timed: bool = False  # `event.time` is the moment of this side, so response minus request is the latency


class Bad(NamedTuple):
    """A record that could not be read: where it lies, a short cause for the counter's label, and words."""

    offset: int
    cause: str  # one of a fixed list: malformed, too_deep, too_large, no_id, wrong_shape, unknown_model, ...
    message: str


@dataclass(slots=True)
class Decoded:
    """What a decoder made of some records of one partition, in record order within each field.

    Events of a model whose schema is known come as `batches`, by model; of one still being learned as `events`.
    """

    batches: dict[str, Batch] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    halves: list[Half] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    cut: int = 0  # events with more fields than are read of one; the first ones were


Schema = tuple[ColumnSpec, ...]


class Decoder(Protocol):
    """Bytes -> events. Called on the ingest thread with the records of one partition; never raises on data."""

    def decode(self, records: Sequence[Raw], schemas: Mapping[str, Schema]) -> Decoded: ...
