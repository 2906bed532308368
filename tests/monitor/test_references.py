"""Which references rows are counted on: what the judge said last, and by what schema events are read meanwhile."""

from __future__ import annotations

import random

import pytest

from detectors.reference import Reference
from monitor.config import ModelOptions, ReferenceOptions
from monitor.decode.columns import to_batch
from monitor.event import Event
from monitor.gauges import Gauges
from monitor.plan import Plan
from monitor.references import References, Standing
from monitor.store import MemoryStore
from monitor.succession import reference_of

MODELS = {"shelf": Plan(ModelOptions("shelf", ReferenceOptions(learn=100), sampling=None, labels=None), 10.0)}


def events(classes: int, n: int = 100) -> list[Event]:
    rng = random.Random(classes)
    return [
        Event(id=f"e{i}", time=float(i), inputs={"x": rng.random()}, scores=[rng.random() for _ in range(classes)])
        for i in range(n)
    ]


class Shelf:
    """A model judged by a reference of two classes, and one of three that may take its place."""

    def __init__(self) -> None:
        self.references = References(MODELS, MemoryStore())
        self.two, self.three = (reference_of(MODELS["shelf"], events(n), f"{n} classes") for n in (2, 3))
        self.references.learned(self.two)
        self.references.keep("shelf", self.three)
        self.gauges = Gauges(MODELS, self.references.find, self.references)

    def say(self, standing: Standing) -> None:
        self.references.stand("shelf", standing)
        self.gauges.look()

    def scores_read(self) -> list[int]:
        """Numbers that are read of events by versions of two and of three classes."""
        schema = self.gauges.schema("shelf")
        assert schema is not None
        read = [to_batch(events(n, 1), schema)["scores"] for n in (2, 3)]
        return [0 if column.missing()[0] else column.values.shape[1] for column in read]


@pytest.fixture
def shelf() -> Shelf:
    made = Shelf()
    made.gauges.look()
    return made


def test_events_are_read_by_what_comes_as_soon_as_rows_are_counted_on_it(shelf: Shelf) -> None:
    assert shelf.scores_read() == [2, 0]
    shelf.say(Standing(1, made=shelf.three.version))  # only made: nothing is counted on it yet
    assert (shelf.scores_read(), shelf.gauges.coming("shelf")) == ([2, 0], "")
    shelf.say(Standing(2, made=shelf.three.version, next=shelf.three.version))
    assert (shelf.scores_read(), shelf.gauges.coming("shelf")) == ([0, 3], shelf.three.version)
    reference = shelf.gauges.reference("shelf")
    assert reference is not None
    assert reference.version == shelf.two.version  # though it is still judged by the old one


@pytest.mark.parametrize("taken", [True, False])
def test_events_are_read_by_what_is_judged_by_once_nothing_is_to_come(shelf: Shelf, *, taken: bool) -> None:
    shelf.references.keep("shelf", shelf.two)
    shelf.say(Standing(1, made=shelf.three.version, next=shelf.three.version))
    current, before = (shelf.three.version, (shelf.two.version,)) if taken else ("", ())
    shelf.say(Standing(2, current=current, since=7, before=before, made=shelf.three.version))
    assert shelf.scores_read() == ([0, 3] if taken else [2, 0])


def test_events_that_are_asked_for_as_they_came_are_read_by_no_schema(shelf: Shelf) -> None:
    assert set(shelf.gauges.schemas()) == {"shelf"}
    shelf.say(Standing(1, wanted=True))
    assert shelf.gauges.schemas() == {}
    assert shelf.scores_read() == [2, 0]


@pytest.mark.parametrize("serial", [1, 2])
def test_what_is_said_again_after_a_crash_undoes_nothing_that_was_said_since(shelf: Shelf, serial: int) -> None:
    newest = Standing(2, current=shelf.three.version, since=7)
    shelf.say(newest)
    shelf.say(Standing(serial, wanted=True))  # of a judge that began again from an older checkpoint
    assert shelf.references.standing("shelf") == newest
    assert kept(shelf) == shelf.three.version
    shelf.say(Standing(3, wanted=True))
    assert shelf.references.standing("shelf") == Standing(3, wanted=True)
    assert kept(shelf) is None  # nobody names it any more


def kept(shelf: Shelf) -> str | None:
    found: Reference | None = shelf.references.version("shelf", shelf.three.version)
    return None if found is None else found.version
