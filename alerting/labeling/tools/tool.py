"""The contract of labeling tools, and what is configured of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.labeling.formats import Fault, Reply
from alerting.labeling.task import Asked


class HandOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How tasks go to a tool and come back."""

    dataset: Annotated[str | None, Meta(description="Tasks of this dataset only; empty: of all.")] = None
    every: Annotated[Seconds, Meta(ge=1, description="Between looks for new tasks and for changed labels.")] = 30.0
    reconcile: Annotated[
        Seconds, Meta(ge=60, description="Between complete comparisons with the tool, which close every gap.")
    ] = 3600.0
    most: Annotated[
        int, Meta(ge=1, le=100_000, description="Tasks at the tool without a label, at most; others stay in the queue.")
    ] = 200
    lease: Annotated[
        Seconds, Meta(ge=60, description="How long a task is the tool's alone; then others are offered it as well.")
    ] = 7 * 86_400.0
    prediction: Annotated[
        bool, Meta(description="Show the model's answer. It saves labelers time, and leads them.")
    ] = True


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool said of some tasks."""

    replies: tuple[Reply | Fault, ...] = ()
    there: Mapping[str, str] = {}  # tasks of ours that it has, {our id: its own}
    whole: bool = False  # the replies are all that it has of those tasks: what is not among them was deleted


class Tool(Protocol):
    """A labeling tool, open. One thread calls it, save `hooked`, which any may. All raise `Undelivered`, whose `retry`
    says whether the tool is in trouble or refuses what it was given."""

    def push(self, batch: str, tasks: Sequence[Asked]) -> Mapping[str, str]:
        """Hand over all of them, or none; returns {our id: its own}. `batch` is a name for them together, and the same
        when the same tasks come again. A task that the tool has already may be there twice then, unless its own means
        prevent it: before, `pull(everything=True)` tells what is there. Raises Unfit for a task it cannot hold."""

    def withdraw(self, there: Mapping[str, str]) -> None:
        """Take tasks back that nobody need label any more, {our id: its own}. One that is gone already is fine."""

    def pull(self, *, everything: bool) -> Iterator[Pulled]:
        """What it says of tasks that changed since the last call; or of all there are."""

    def hooked(self, headers: Mapping[str, str], body: bytes) -> Pulled:
        """What a call of its webhook says. Raises `Unproven` unless it comes from the tool, ValueError for a body that
        makes no sense. Header names in small letters."""

    def close(self) -> None: ...


class Unproven(Exception):
    """A call that does not prove to come from the tool."""
