"""Which events of a window are shown for a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.alert import Symptom
from detectors.core import Batch, Column, category, from_columns, number
from detectors.profile import Layout, Profile, lay_out, merged
from monitor.examples import LONGEST, SHOWN, Ids, of_sample, pick, remember, with_examples

ROWS = 4_000
RNG = np.random.default_rng(7)
WAS = {
    "weight": RNG.normal(300.0, 10.0, ROWS),
    "colour": RNG.choice(["red", "green", "blue"], ROWS, p=[0.6, 0.39, 0.01]),
}


def batch(columns: Mapping[str, Any], names: Sequence[str] | None = None) -> Batch:
    made: dict[str, Column] = {
        name: category(list(values)) if name == "colour" else number(values) for name, values in columns.items()
    }
    return from_columns(made, ids=names or [f"e{i}" for i in range(len(next(iter(columns.values()))))])


LAYOUT = lay_out(batch(WAS))


def counted(rows: Batch, layout: Layout = LAYOUT) -> tuple[Profile, Ids]:
    """As a window counts rows, some at a time."""
    profile, ids = Profile(layout), Ids()
    for start in range(0, len(rows), 100):
        block = rows.take(slice(start, start + 100))
        profile.update(block)
        remember(ids, block, profile)
    return profile, of_sample(ids, profile)


REFERENCE, _ = counted(batch(WAS))


def now(**changes: Any) -> dict[str, Any]:
    """A window like the reference, with some of its columns changed."""
    rng = np.random.default_rng(8)
    colours = rng.choice(["red", "green"], 120, p=[0.6, 0.4]).astype(object)
    return {"weight": rng.normal(300.0, 10.0, 120), "colour": colours} | changes


def shown(column: str, columns: Mapping[str, Any]) -> list[int]:
    profile, ids = counted(batch(columns))
    return [int(name.removeprefix("e")) for name in pick(column, profile, REFERENCE, ids)]


@pytest.mark.parametrize("shift", [15.0, -15.0, 300.0])
def test_of_a_shift_the_rows_that_went_furthest(shift: float) -> None:
    weight = now()["weight"] + shift
    furthest = np.argsort(-weight * np.sign(shift))[:SHOWN]
    assert shown("weight", now(weight=weight)) == furthest.tolist()


def test_of_a_wider_spread_rows_beyond_what_the_reference_has() -> None:
    weight = 300.0 + 4 * (now()["weight"] - 300.0)
    found = weight[shown("weight", now(weight=weight))]
    assert ((found < WAS["weight"].min()) | (found > WAS["weight"].max())).all()


def test_of_missing_values_rows_where_it_is_missing() -> None:
    weight = now()["weight"]
    weight[[5, 17, 40, 99]] = np.nan
    found = shown("weight", now(weight=weight))
    assert len(found) == SHOWN
    assert set(found) <= {5, 17, 40, 99}


def test_of_a_stuck_number_rows_that_have_the_value() -> None:
    weight = now()["weight"]
    weight[30:90] = 300.0
    assert all(weight[i] == 300.0 for i in shown("weight", now(weight=weight)))


@pytest.mark.parametrize("word", ["blue", "violet", None])
def test_of_a_category_rows_of_the_word_that_became_frequent(word: str | None) -> None:
    colours = now()["colour"]
    colours[[3, 50, 77]] = word
    assert set(shown("colour", now(colour=colours))) == {3, 50, 77}


def test_of_whole_rows_those_that_are_the_most_unusual() -> None:
    novelty = np.random.default_rng(3).normal(0.0, 1.0, 120)
    layout = lay_out(batch(WAS | {"novelty": RNG.normal(0.0, 1.0, ROWS)}))
    profile, ids = counted(batch(now(novelty=novelty)), layout)
    chosen = [int(name.removeprefix("e")) for name in pick("", profile, Profile(layout), ids)]
    assert chosen == np.argsort(-novelty)[:SHOWN].tolist()


def test_nothing_is_shown_where_nothing_is_known() -> None:
    profile, ids = counted(batch(now()))
    assert pick("", profile, REFERENCE, ids) == ()  # no column says how unusual a row is
    assert pick("no such column", profile, REFERENCE, ids) == ()
    assert pick("weight", profile, REFERENCE, {}) == ()
    assert pick("weight", Profile(LAYOUT), REFERENCE, {}) == ()
    _, ids = counted(batch(now(), ["x" * (LONGEST + 1)] * 120))
    assert ids == {}


def test_a_scope_shows_its_own_rows_and_columns_are_picked_once() -> None:
    columns = now(weight=now()["weight"] + 50.0)
    rows = batch(columns)
    whole, ids = counted(rows)
    red = np.flatnonzero(columns["colour"] == "red")
    scope, _ = counted(rows.take(red))

    def symptom(column: str, scope: str = "") -> Symptom:
        return Symptom("shelf", "psi", column, 0.0, 1.0, 1.0, 0.5, "moved", scope=scope)

    asked = [symptom("weight"), symptom("weight", "slice:red"), symptom("weight", "slice:gone"), symptom("other")]
    told = with_examples(asked, {"": whole, "slice:red": scope}, {"": REFERENCE, "slice:red": REFERENCE}, ids)
    assert len(told[0].examples) == SHOWN
    assert {int(name.removeprefix("e")) for name in told[1].examples} <= set(red.tolist())
    assert told[1].examples != ()
    assert (told[2].examples, told[3].examples) == ((), ())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_lanes_and_blocks_do_not_matter(cuts: list[int], order: Any) -> None:
    rng = np.random.default_rng(9)  # more rows than a sample holds
    rows = batch({"weight": rng.normal(320.0, 10.0, 400), "colour": ["red"] * 400})
    parts, start = [], 0
    for cut in [*cuts, len(rows)]:
        parts.append(rows.take(slice(start, start + cut)))
        start += cut
    order.shuffle(parts)
    held = [counted(part) for part in parts if len(part)]
    whole = merged(LAYOUT, [profile for profile, _ in held])
    ids = {key: name for _, some in held for key, name in some.items()}
    for profile, some in held:
        assert some.keys() == set(profile.sample.keys.tolist())
    one, its = counted(rows)
    assert pick("weight", whole, REFERENCE, ids) == pick("weight", one, REFERENCE, its) != ()
