"""What a model's classes are called: as configured, or as its scores are where they come by name.

A list of scores names nothing, and what V1 and V2 answer with is a place in it. What a reader would get wrong: no name
is concluded from which answer goes with which place. A rule or a threshold behind the model would make it a wrong one,
and labelers would choose from it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from detectors.core import ColumnSpec
from detectors.reference import Reference
from monitor.decode.columns import called
from monitor.event import Schema

log = logging.getLogger(__name__)

CHOICES = 100  # of a label task: nobody looks through a longer list


def named(schema: Schema, classes: Sequence[str]) -> Schema:
    """The schema under which places of `scores` are called, and answers that are places read, as `classes` has it.

    Scores that come by name keep their own order; a list of another length than there are classes stays without names.
    """
    told = tuple(classes)
    return tuple(replace(spec, names=told) if _takes(spec, told) else spec for spec in schema)


def _takes(spec: ColumnSpec, classes: Sequence[str]) -> bool:
    if spec.name == "scores":
        return not spec.names and spec.size == len(classes)
    return spec.name in ("label", "truth")


def schema_of(model: str, reference: Reference, classes: Sequence[str]) -> Schema:
    """The same of a reference that was made before: as it is, and said so, where it knows the classes otherwise."""
    if not classes:
        return reference.schema
    layout = reference.layout
    words = layout.words[layout.categories.index("label")] if "label" in layout.categories else ()
    places = [word for word in words if called(word, classes) != word]
    scores = next((spec.names for spec in reference.schema if spec.name == "scores"), ())
    if not places and (not scores or set(scores) == set(classes)):
        return named(reference.schema, classes)
    log.warning(
        "model %s: its `classes` are not used: its reference was made without them and says %s; build another",
        model, ", ".join((places or scores)[:5]),
    )  # fmt: skip
    return reference.schema


def names_of(schema: Schema) -> tuple[str, ...]:
    """What answers are called that are places in the scores; empty where they are left as they are."""
    return next((spec.names for spec in schema if spec.name == "label"), ())


def choices(schema: Schema) -> tuple[str, ...]:
    """What labelers may choose from; empty where nobody named the classes, or they are too many."""
    scores = next((spec.names for spec in schema if spec.name == "scores"), ())
    found = names_of(schema) or scores
    return found if len(found) <= CHOICES else ()
