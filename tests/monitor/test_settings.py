"""What is refused, in which words, and what never shows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from detectors.units import Bytes, Seconds, bytes_text, parse_bytes, parse_seconds, seconds_text
from monitor.settings import NODES, Refused, Secret, read


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Near(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="near"):
    wait: Annotated[Seconds, Meta(gt=0, le=60)] = 10.0
    names: tuple[str, ...] = ()


class Far(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="far"):
    port: Annotated[int, Meta(ge=1, le=65535)] = 80
    password: Secret = Secret("")
    size: Bytes = 10
    url: Annotated[str, Meta(pattern="^https?://")] = "http://x"


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    part: Annotated[Any, Meta(extra={"table": {"near": Near, "far": Far}, "inline": True})]
    name: str = ""


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    place: Near | Far = Near()
    items: Annotated[tuple[Item, ...], Meta(min_length=1)] = (Item(Near()),)
    labels: dict[str, str] = {}
    colour: Colour = Colour.RED
    level: Literal["low", "high"] = "low"
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    on: bool = False
    count: int | None = None
    anything: Any = None
    table: Annotated[Any, Meta(extra={"table": {"near": Near, "lazy": "tests.monitor.test_settings:Far"}})] = Near()


class Whichever(msgspec.Struct, frozen=True):
    def __post_init__(self) -> None:
        raise ValueError("never fits")


def refusals(text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as caught:
        read(text, Whole, environ)
    return caught.value.problems


def refusal(text: str, **environ: str) -> str:
    (problem,) = refusals(text, **environ)
    return problem


def test_nothing_given_is_every_default() -> None:
    assert read("", Whole) == Whole()
    assert read("# only a comment\n", Whole) == Whole()


def test_a_full_file_becomes_the_structs() -> None:
    text = """
    place: {kind: far, port: 8080, size: 64MiB}
    items:
      - {kind: near, wait: 1m, name: first}
      - kind: far
        name: second
    labels: {team: ml}
    colour: blue
    level: high
    share: 1
    on: true
    count: 3
    anything: {a: [1, x, null, 2026-01-01]}
    table: {kind: lazy, port: 9}
    """
    assert read(text, Whole) == Whole(
        place=Far(port=8080, size=64 << 20),
        items=(Item(Near(wait=60.0), "first"), Item(Far(), "second")),
        labels={"team": "ml"}, colour=Colour.BLUE, level="high", share=1.0, on=True, count=3,
        anything={"a": [1, "x", None, "2026-01-01"]}, table=Far(port=9),
    )  # fmt: skip


def test_a_bare_kind_stands_for_its_defaults() -> None:
    assert read("place: far\ntable: lazy", Whole) == Whole(place=Far(), table=Far())


def test_a_part_of_the_users_own_is_imported_by_name() -> None:
    assert read("table: {kind: 'tests.monitor.test_settings:Far', port: 7}", Whole).table == Far(port=7)
    assert "cannot take os:nothing: module 'os' has no attribute" in refusal("table: os:nothing")
    assert "it is no msgspec.Struct" in refusal("table: os:path")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plaec: near", ("$.plaec (line 1): no such key; did you mean place? allowed: place, items, labels, colour, "
                        "level, share, on, count, anything, table")),
        ("place: {kind: nera}", "$.place.kind (line 1): 'nera' is no kind; did you mean near? allowed: near, far"),
        ("place: {port: 1}", "$.place (line 1): a mapping was given; `kind` is missing, one of: near, far"),
        ("place: [near]", "$.place (line 1): a list of 1 was given; allowed: a mapping with `kind`, one of: near, far"),
        ("place: {kind: near, wait: 5}",
         "$.place.wait (line 1): '5' was given; allowed: write for example 500ms, 10s, 5m, 1h30m or 7d"),
        ("place: {kind: near, wait: 2m}", "$.place.wait (line 1): '2m' was given; must be over 0s, at most 1m"),
        ("place: {kind: far, port: 0}", "$.place.port (line 1): '0' was given; must be at least 1, at most 65535"),
        ("place: {kind: far, port: yes}", ("$.place.port (line 1): 'yes' was given; allowed: a whole number, at least "
                                          "1, at most 65535")),
        ("place: {kind: far, url: ftp://x}", "$.place.url (line 1): 'ftp://x' was given; must be like /^https?:///"),
        ("items: []", "$.items (line 1): a list of 0 was given; must be at least 1 long"),
        ("items:\n- kind: near\n- kind: far\n  port: x", ("$.items[1].port (line 4): 'x' was given; allowed: a whole "
                                                        "number, at least 1, at most 65535")),
        ("items: [{kind: far, wait: 3s}]", "$.items[0].wait (line 1): no such key; allowed: port, password, size, url"),
        ("labels: {team: 3}", "$.labels.team (line 1): '3' was given; allowed: a text; quote it to make it a text"),
        ("colour: green", "$.colour (line 1): 'green' was given; allowed: one of red, blue"),
        ("level: mid", "$.level (line 1): 'mid' was given; allowed: one of high, low"),
        ("share: .nan", "$.share (line 1): '.nan' was given; must be at least 0, at most 1"),
        ("share: 1.5", "$.share (line 1): '1.5' was given; must be at least 0, at most 1"),
        ("on: 1", "$.on (line 1): '1' was given; allowed: true or false"),
        ("count: 1.5", "$.count (line 1): '1.5' was given; allowed: a whole number"),
        ("level: low\nlevel: high", "$.level (line 2): the key is there twice"),
        ("labels: {a: b, a: c}", "$.labels (line 1): 'a' was given; the key is there twice"),
        ("level:", "$.level (line 1): nothing was given; allowed: one of high, low"),
        ("[1]", ("$ (line 1): a list of 1 was given; allowed: a mapping of place, items, labels, colour, level, share, "
                "on, count, anything, table")),
    ],
)  # fmt: skip
def test_a_refusal_tells_where_what_and_what_is_allowed(text: str, problem: str) -> None:
    assert refusals(text)[0] == problem


def test_all_problems_are_told_at_once() -> None:
    assert len(refusals("level: mid\nshare: 2\nplace: {kind: far, port: x, size: 3}")) == 4


def test_needed_keys_are_named() -> None:
    class Needs(msgspec.Struct, frozen=True):
        path: Annotated[str, Meta(description="Where it lies.")]

    with pytest.raises(Refused, match=r"^\$\.path: missing; wanted: a text, Where it lies\.$"):
        read("", Needs)


def test_what_a_struct_itself_refuses_is_told_with_its_place() -> None:
    class Holds(msgspec.Struct, frozen=True):
        inner: Whichever

    with pytest.raises(Refused, match=r"^\$\.inner \(line 1\): never fits$"):
        read("inner: {}", Holds)


def test_values_are_replaced_from_the_environment_and_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from file\n")
    text = """
    place: {kind: far, port: "${PORT}", password: "${file:%s}", url: "http://${HOST:-localhost}:${PORT}"}
    items: [{kind: near, names: "${NAMES:-a:1, b:2}", wait: "${WAIT:-3s}"}]
    on: ${ON:-true}
    labels: {literal: "$${PORT}", text: "${PORT}"}
    """
    got = read(text % secret, Whole, {"PORT": "99"})
    assert got.place == Far(port=99, password=Secret("from file"), url="http://localhost:99")
    assert got.items[0].part == Near(wait=3.0, names=("a:1", "b:2"))
    assert got.on is True
    assert got.labels == {"literal": "${PORT}", "text": "99"}


def test_an_empty_replacement_leaves_out_what_may_be_left_out() -> None:
    assert read("count: ${COUNT:-}", Whole, {}).count is None
    assert read("count: ${COUNT:-}", Whole, {"COUNT": "3"}).count == 3
    assert "allowed: one of high, low" in refusal("level: ${LEVEL:-}")
    assert "the environment has no COUNT" in refusal("count: ${COUNT}")


def test_what_cannot_be_replaced_is_named() -> None:
    assert "the environment has no NOPE; set it or write ${NOPE:-default}" in refusal("level: ${NOPE}")
    assert "cannot read /nowhere: No such file" in refusal("level: ${file:/nowhere}")


def test_a_replaced_value_cannot_break_out_of_its_place() -> None:
    evil = "x, port: 1}\nlevel: high"
    got = read("labels: {a: '${EVIL}'}", Whole, {"EVIL": evil})
    assert got == Whole(labels={"a": evil})


def test_secrets_show_neither_in_refusals_nor_in_reprs() -> None:
    environ = {"PASSWORD": "s3cret", "PORT": "s3cret"}
    shown = repr(read("place: {kind: far, password: '${PASSWORD}'}", Whole, environ))
    shown += "".join(refusals("place: {kind: far, port: '${PORT}'}", **environ))
    shown += "".join(refusals("place: {kind: far, password: [s3cret]}"))
    shown += "".join(refusals("place: {kind: far, url: 'mongodb://me:s3cret@host'}"))
    with pytest.raises(Refused) as caught:
        read("password: 12345678", Far)
    assert "s3cret" not in shown
    assert "12345678" not in str(caught.value)


def test_anchors_are_resolved_but_not_without_end() -> None:
    assert read("labels: &a {x: y}\nanything: *a", Whole).anything == {"x": "y"}
    lines = ["anything:", "  - &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert f"more than {NODES} values" in refusal("\n".join(lines))
    assert "40 levels" in refusal("anything: &loop [*loop]")


@pytest.mark.parametrize(
    "text", ["[", "a: b: c", "\t- x", "a: &x", "%YAML 9.9\n---\na", "a\n---\nb", "!!python/object:os.system x", "\x00"]
)
def test_what_is_no_yaml_is_refused(text: str) -> None:
    assert refusals(text)


def test_no_tag_makes_an_object() -> None:
    assert read("anything: !!python/object/apply:os.getcwd []", Whole).anything == []


@settings(deadline=None)
@given(st.text(max_size=200))
@example("[" * 1000)
@example("? {a: b}\n: c")
@example("labels: {[1]: x}")
@example("items: {{a: b}: c}")
@example("<<: {level: high}")
@example("anything: {[1, 2]: x}")
@example("!!binary x")
@example("place: !!set {a, b}")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        got: object = read(text, Whole, {})
    except Refused as refused:
        got = refused.problems
    assert got is not None


DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(DOCUMENTS)
def test_any_document_under_any_key_is_read_or_refused(document: Any) -> None:
    text = yaml.safe_dump(dict.fromkeys(("place", "items", "labels", "table", "count"), document))
    try:
        got: object = read(text, Whole, {})
    except Refused as refused:
        got = refused.problems
    assert got


@given(st.integers(0, 10**9).map(lambda ms: ms / 1000))
def test_durations_are_read_back_as_written(seconds: float) -> None:
    assert parse_seconds(seconds_text(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(0, 2**50))
def test_sizes_are_read_back_as_written(size: int) -> None:
    assert parse_bytes(bytes_text(size)) == size


@pytest.mark.parametrize("text", ["", "10", "s", "-5s", "5 years", "1e3s", "10s5", "1h 30", "ten s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["", "10", "MiB", "-5B", "5mb", "1 2B", "1KB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes(text)
