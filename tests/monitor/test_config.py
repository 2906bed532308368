"""The whole configuration: its defaults, what the parts allow and the whole does not, and its generated pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml
from msgspec import inspect
from msgspec.structs import replace

from alerting.labeling import SqliteQueue
from detectors.checks.shift import Psi
from detectors.core import ColumnSpec, Kind
from monitor.config import Config, exposed, load, parse
from monitor.manual import pages, schema
from monitor.settings import Refused, description, inline, kinds, resolve
from monitor.sources.http import HttpOptions

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "config").glob("*.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(Refused) as caught:
        parse(text, {})
    (problem,) = caught.value.problems
    return problem


def test_the_default_takes_events_over_http_on_this_machine_alone() -> None:
    config = parse("")
    assert config == Config()
    assert isinstance(config.sources[0].options, HttpOptions)
    assert config.intake
    assert config.web.host == "127.0.0.1"
    assert [model.name for model in config.models] == [""]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_configuration_that_is_shipped_loads(file: Path) -> None:
    load(file, {})


def test_the_kafka_configuration_takes_its_addresses_from_the_environment() -> None:
    config = load(ROOT / "config" / "kafka.yaml", {
        "KAFKA_BROKERS": "a:1,b:2", "KAFKA_TOPICS": "x", "MONGO_URL": "mongodb://me:s3cret@db", "WEB_PORT": "0",
        "LEARN": "700",
    })  # fmt: skip
    options: Any = config.sources[0].options
    assert (options.brokers, options.topics) == (("a:1", "b:2"), ("x",))
    assert config.web.port == 0
    assert config.models[0].reference.learn == 700
    assert config.queue.name == "labels"
    assert "s3cret" not in repr(config)


def test_the_full_file_holds_every_key_there_is() -> None:
    shown = (ROOT / "config" / "full.yaml").read_text(encoding="utf-8")
    for field in _fields(inspect.type_info(Config), set()):
        assert f"{field}:" in shown, f"config/full.yaml lacks {field}; run `python -m monitor.manual`"


def test_the_full_file_says_what_the_defaults_are() -> None:
    config = load(ROOT / "config" / "full.yaml", {})
    default = Config()
    assert replace(config.web, people=()) == default.web
    for part in ("window", "state", "limits", "log", "dead_letters"):
        assert getattr(config, part) == getattr(default, part)


def test_every_key_is_explained() -> None:
    unexplained = [
        f"{kind.cls.__name__}.{field.encode_name}"
        for kind in _structs(inspect.type_info(Config), set())
        for field in kind.fields
        if field is not inline(kind) and not description(field.type)
    ]
    assert unexplained == []


@pytest.mark.parametrize(("place", "content"), list(pages()), ids=lambda value: value if "\n" not in value else "")
def test_generated_pages_are_fresh(place: str, content: str) -> None:
    assert (ROOT / place).read_text(encoding="utf-8") == content, "run `python -m monitor.manual`"


def test_the_schema_takes_what_we_take_and_refuses_what_we_refuse() -> None:
    validator = jsonschema.Draft202012Validator(schema(Config))
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    json.dumps(validator.schema)
    for file in FILES:
        assert list(validator.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8")))) == [], file
    for text in (
        "widow: {}", "window: {size: 10}", "web: {port: 70000}", "models: [{checks: [{detector: {kind: psy}}]}]",
        "alerts: {sinks: [{kind: log, nmae: x}]}", "labeling: {kind: mongo}",
    ):  # fmt: skip
        assert list(validator.iter_errors(yaml.safe_load(text))) != [], text
        refusal(text)


def test_a_model_s_parts_are_built_from_their_tables() -> None:
    config = parse("""
    models:
      - name: shelf
        columns: [{name: gain, kind: number}]
        scorers: [uncertainty, {kind: novelty, columns: [gain]}, {kind: novelty, columns: [embedding]}]
        checks: [{detector: {kind: psi, limit: 0.3}, over: 5m, severity: critical}]
    """)
    (model,) = config.models
    assert model.columns == (ColumnSpec("gain", Kind.NUMBER),)
    assert list(model.scorers_of(())) == ["uncertainty", "novelty", "novelty-2"]
    assert model.checks is not None
    assert (model.checks[0].called, model.checks[0].over) == ("psi", 300.0)
    assert model.checks[0].detector == Psi(limit=0.3)


def test_label_tasks_lie_beside_the_rest_of_the_state() -> None:
    queue = parse("state: {path: /var/lib/driftd}").queue
    assert queue == SqliteQueue(path="/var/lib/driftd/labels.sqlite")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "sources: [{kind: http}, {kind: files, path: x}, {kind: files, path: y}]",
            "$.sources[2].name: 'files' is there twice; give each source a name of its own",
        ),
        (
            "sources: [{kind: http, name: a}, {kind: http, name: b}]",
            "$.sources[1].kind: http is there twice; one intake takes the events of every model",
        ),
        ("models: [{name: a}, {name: b}, {name: a}]", "$.models[2].name: 'a' is there twice; give each model a name"),
        ("models: [{name: ../../etc}]", "$.models[0].name: '../../etc' cannot name files; no dot first"),
        (
            f"models: [{{name: {'é' * 26}}}]",
            f"$.models[0].name: '{'é' * 26}' cannot name files; no dot first, 150 bytes",
        ),
        ("models: [{name: a}, {}]", "$.models[1].name: missing; only a single model may do without one"),
        (
            "models: [{checks: [{detector: psi}, {detector: psi, over: 1m}]}]",
            "$.models[0].checks[1].name: 'psi' is there twice; give each check a name of its own",
        ),
        (
            "window: {size: 10s}\nmodels: [{checks: [{detector: psi, over: 15s}]}]",
            "$.models[0].checks[0].over: 15s is no multiple of the base window, 10s",
        ),
        (
            "window: {size: 10s}\nmodels: [{checks: [{detector: psi, over: 5s}]}]",
            "$.models[0].checks[0].over: 5s is no multiple of the base window, 10s",
        ),
        (
            "models: [{checks: [{detector: adwin, over: 1m}]}]",
            "$.models[0].checks[0].over: adwin remembers by itself and looks at each base window; leave it out",
        ),
        (
            "models: [{slices: {a: {column: x, below: 9}}, compare: {stable: '1', candidate: '2', protected: [a, b]}}]",
            "$.models[0].compare.protected[1]: 'b' is none of the model's slices; declare it there",
        ),
        ("alerts: {sinks: [log, log]}", "$.alerts.sinks[1].name: 'log' is there twice; give each destination a name"),
        (
            "alerts: {sinks: [{kind: log, name: labels}]}",
            "$.alerts.sinks[0].name: 'labels' is the name of the labeling queue; choose another",
        ),
    ],
)
def test_contradictions_are_told_with_their_place(text: str, problem: str) -> None:
    assert refusal(text).startswith(problem)


def test_an_intake_open_to_the_network_is_noticed() -> None:
    assert not exposed(parse("web: {host: localhost}"))
    assert not exposed(parse("web: {host: '::1'}"))
    assert exposed(parse("web: {host: 0.0.0.0}"))
    assert not exposed(parse("web: {host: 0.0.0.0, token: '${T}'}", {"T": "x"}))
    assert not exposed(parse("web: {host: 0.0.0.0}\nsources: [{kind: files, path: x}]"))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere\.yaml: cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match=r"binary\.yaml: cannot be read"):
        load(tmp_path / "binary.yaml")


def _structs(kind: inspect.Type, seen: set[type]) -> Iterator[inspect.StructType]:
    """Every struct that a configuration may hold."""
    for part in (kinds(kind) or {}).values():
        yield from _structs_of(part, seen)
    match kind:
        case inspect.StructType():
            yield from _structs_of(kind, seen)
        case inspect.Metadata(type=inner) if kinds(kind) is None:
            yield from _structs(inner, seen)
        case inspect.UnionType(types=types) if kinds(kind) is None:
            for member in types:
                yield from _structs(member, seen)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            yield from _structs(item, seen)


def _structs_of(kind: inspect.StructType, seen: set[type]) -> Iterator[inspect.StructType]:
    if kind.cls not in seen:
        seen.add(kind.cls)
        yield kind
        for field in kind.fields:
            yield from _structs(field.type, seen)


def _fields(kind: inspect.Type, seen: set[type]) -> set[str]:
    return {field.encode_name for part in _structs(kind, seen) for field in part.fields if field is not inline(part)}


def test_a_table_s_entry_may_be_text() -> None:
    assert resolve("monitor.sources.http:HttpOptions") is HttpOptions
