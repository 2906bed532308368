"""The whole configuration as one tree of frozen structs, decoded once.

Each part's options live with the part; here is what holds them together. Nothing is opened, read or connected to.
`monitor.settings` decodes, `monitor.manual` documents.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable
from urllib.parse import quote

import msgspec
from msgspec import Meta

from alerting.alert import Severity
from alerting.deliver import Backoff
from alerting.labeling import QUEUES, QueueOptions, SqliteQueue
from alerting.labeling.tools import TOOLS, ToolOptions
from alerting.lifecycle import AlertOptions
from alerting.sinks import SINKS, SinkOptions
from alerting.sinks.log import Log
from alerting.targets import TARGETS, TargetOptions
from alerting.tracking import TRACKERS, TrackingOptions
from detectors.core import ColumnSpec, Detector, Scorer, Sequential
from detectors.registry import DETECTORS, SCORERS, default_scorers
from detectors.units import Bytes, Seconds, seconds_text
from monitor.accuracy import AccuracyOptions
from monitor.campaign import MEASURES
from monitor.committee.options import CommitteeOptions
from monitor.comparison import CompareOptions
from monitor.deadletters import DEAD_LETTERS, DeadLetterOptions, LocalDeadLetters
from monitor.decode import DECODERS, Auto
from monitor.event import Decoder, Schema
from monitor.labels import LabelOptions
from monitor.manual import describe as _describe
from monitor.manual import example as _example
from monitor.retraining import RetrainingOptions
from monitor.sampling import SamplingOptions
from monitor.scopes import Slice
from monitor.settings import Refused, read
from monitor.sources import Source
from monitor.sources.http import HttpOptions
from monitor.sources.scrape import ScrapeOptions
from monitor.web import WebOptions
from monitor.windows import WindowOptions

# Imported when a configuration names them: no one pays for a client library that is not used.
SOURCES = {
    "kafka": "monitor.sources.kafka:KafkaOptions",
    "confluent": "monitor.sources.kafka:ConfluentOptions",
    "http": "monitor.sources.http:HttpOptions",
    "files": "monitor.sources.files:FilesOptions",
    "s3": "monitor.sources.s3:S3SourceOptions",
}


# What the full example shows where there is no default to show, by path.
_EXAMPLE: dict[str, Any] = {
    "sources[].brokers": ["kafka:9092"],
    "sources[].topics": ["inference"],
    "sources[].path": "events.jsonl",
    "sources[].bucket": "inference",
    "sources[].events.brokers": ["kafka:9092"],
    "sources[].events.topics": ["bucket-events"],
    "models[].name": "shelf",
    "models[].reference.path": "shelf.reference",
    "models[].columns[].name": "temperature",
    "models[].columns[].kind": "number",
    "models[].slices": {"young": {"column": "age", "below": 25}},
    "models[].committee.members[].path": "s3://models/shelf.safetensors",
    "models[].committee.members[].architecture.sizes": [2, 16, 3],
    "models[].committee.members[].architecture.dropout": 0.1,
    "models[].committee.members[].architecture.shape": [1, 8, 8],
    "models[].committee.members[].architecture.channels": [8, 16],
    "models[].committee.members[].architecture.classes": 3,
    "models[].committee.members[].architecture.name": "shelf.models:Network",
    "models[].committee.members[].architecture.inputs": 2,
    "models[].committee.inputs": ["weight", "width"],
    "models[].model_server.url": "http://127.0.0.1:8080/metrics",
    "alerts.sinks[].urls": ["http://alertmanager:9093"],
    "alerts.sinks[].url": "https://hooks.example.org/drift",
    "alerts.sinks[].routing_key": "an-integration-key",
    "alerts.sinks[].host": "mail.example.org",
    "alerts.sinks[].sender": "driftd@example.org",
    "alerts.sinks[].to": ["on-call@example.org"],
    "alerts.sinks[].brokers": ["kafka:9092"],
    "alerts.sinks[].topic": "driftd.alerts",
    "dead_letters.brokers": ["kafka:9092"],
    "dead_letters.topic": "inference.driftd.dlq",
    "web.people[].name": "ada",
    "web.people[].token": "${ADA_TOKEN:-}",
    "labeling.url": "mongodb://mongo:27017",
    "models[].compare.stable": "1",
    "models[].compare.candidate": "2",
    "retraining_targets[].url": "https://trainer.example.org",
    "retraining_targets[].namespace": "ml",
    "retraining_targets[].template": "retrain",
    "retraining_targets[].dag": "retrain",
    "retraining_targets[].pipeline": "id-of-the-pipeline",
    "retraining_targets[].repository": "shop/models",
    "retraining_targets[].token": "token-of-a-robot",
    "retraining_targets[].brokers": ["kafka:9092"],
    "retraining_targets[].topic": "driftd.retraining",
    "tracking[].url": "http://mlflow:5000",
    "tracking[].access_key": "of-a-robot",
    "tracking[].secret_key": "of-a-robot",
    "labeling_tools[].url": "http://label-studio:8080",
    "labeling_tools[].token": "token-of-a-user",
    "labeling_tools[].bucket": "labels",
    "labeling_tools[].project_id": 1,
    "labeling_tools[].storage_id": 1,
}
_HEAD = """# Configuration

One YAML file, read once at start; `driftd check -c FILE` says what is wrong with it. Made by
`python -m monitor.manual`; do not edit. `driftd config example` prints a full commented file, `driftd config schema` a
JSON Schema for editors.

- Every key may be left out unless it is marked **needed**; a key that is not listed here is refused.
- Durations and sizes carry their unit: `500ms`, `10s`, `5m`, `1h30m`, `7d`; `512B`, `10kB`, `64MiB`, `1GiB`.
- `${NAME}` and `${NAME:-default}` in a value are replaced from the environment, `${file:/run/secrets/x}` by a file's
  stripped text; `$${` is a literal `${`. Where a list is wanted, the replaced text is split at commas; where a key may
  be left out, an empty one leaves it out.
- Where a `kind` is chosen, its bare name stands for all of its defaults: `labeling: sqlite`. `package.module:Name` as a
  detector's or scorer's kind takes a part of your own: a frozen `msgspec.Struct` with the methods of `detectors.core`.

"""


SliceName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,60}$")]


class Opens(Protocol):
    """Options of a source: `open` gives the live one. Those of HTTP have none, as it reads the web server's intake."""

    def open(self) -> Source: ...


@runtime_checkable
class OpensIn(Protocol):
    """Options of a source that keeps files of its own in a directory, and tells of what it passes over."""

    def open_in(self, directory: Path, passed_over: Callable[[], None]) -> Source: ...


class Decodes(Protocol):
    """Options of a decoder: `open` gives the live one."""

    def open(self) -> Decoder: ...


if TYPE_CHECKING:
    AnyDetector = Detector | Sequential
    AnySource = Opens | OpensIn | HttpOptions
else:  # msgspec takes no union of protocols; the tables say what may stand here
    AnyDetector = AnySource = Any


class SourceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where events come from and how they are read."""

    options: Annotated[AnySource, Meta(extra={"table": SOURCES, "inline": True})]
    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._-]*$",
            description="Name in metrics and checkpoints, unique; empty: the kind. Renaming it starts it anew.",
        ),
    ] = ""
    decoder: Annotated[Decodes, Meta(description="The format of its records.", extra={"table": DECODERS})] = Auto()

    @property
    def called(self) -> str:
        """Its name, given or not."""
        return self.name or kind_of(self.options)


class ReferenceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model's events are held against."""

    path: Annotated[
        str | None,
        Meta(description="File made by `driftd reference build`. Without one it is learned from the first events."),
    ] = None
    learn: Annotated[
        int, Meta(ge=100, le=20_000, description="Events to learn the reference from where there is no file.")
    ] = 5000


class CheckOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A detector, on which columns, over how long, against what."""

    detector: Annotated[AnyDetector, Meta(description="What is computed, and its limits.", extra={"table": DETECTORS})]
    name: Annotated[
        str, Meta(description="Unique within the model and part of an alert's identity; empty: the detector's kind.")
    ] = ""
    columns: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Columns by name or pattern, such as `latency` or `input.*`.")
    ] = ("*",)
    over: Annotated[
        Annotated[Seconds, Meta(gt=0)] | None,
        Meta(description="Length looked at, a multiple of `window.size`; empty: one base window."),
    ] = None
    against: Annotated[
        Literal["reference", "previous"], Meta(description="The reference, or as long a time just before.")
    ] = "reference"
    severity: Annotated[Severity, Meta(description="Of the alerts it opens.")] = Severity.WARNING

    @property
    def called(self) -> str:
        """Its name, given or not."""
        return self.name or kind_of(self.detector)


class ModelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that is watched."""

    name: Annotated[
        str, Meta(description="As events name it. Empty, for a single model: events of every name belong to it.")
    ] = ""
    reference: Annotated[ReferenceOptions, Meta(description="What its events are held against.")] = ReferenceOptions()
    columns: Annotated[
        tuple[ColumnSpec, ...] | None,
        Meta(description="Columns declared; empty: those that the reference, or what it is learned from, has."),
    ] = None
    classes: Annotated[
        Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(min_length=2, max_length=4096)]
        | None,
        Meta(
            description="What the places of `outputs.scores` are called, where that is a list, such as `[can, jar]`: "
            "an answer `1` is then a `jar`, and labelers choose from these names. Empty: the names that scores come "
            "by; without them labelers are offered no choices."
        ),
    ] = None
    scorers: Annotated[
        tuple[Annotated[Scorer, Meta(extra={"table": SCORERS})], ...] | None,
        Meta(description="What derives columns from rows; empty: all that the model's columns allow."),
    ] = None
    checks: Annotated[
        tuple[CheckOptions, ...] | None, Meta(description="What is looked for; empty: the default checks.")
    ] = None
    slices: Annotated[
        Annotated[dict[SliceName, Slice], Meta(max_length=32)] | None,
        Meta(description="Parts of the rows, by name, that are watched on their own; empty: none."),
    ] = None
    versions: Annotated[
        int,
        Meta(
            ge=0,
            le=32,
            description="Model versions, the newest ones, that are watched on their own; 0: none. Where several answer "
            "the same event (a shadow, a canary), how often their answers differ is watched as a model named "
            "`<name>.versions`, which may be configured like any other.",
        ),
    ] = 0
    sampling: Annotated[SamplingOptions | None, Meta(description="Which events go to labelers; empty: none.")] = (
        SamplingOptions()
    )
    accuracy: Annotated[
        AccuracyOptions, Meta(description="How good the model is, by the labels of what is sampled.")
    ] = AccuracyOptions()
    retraining: Annotated[RetrainingOptions | None, Meta(description="When retraining is asked for; empty: never.")] = (
        RetrainingOptions()
    )
    compare: Annotated[CompareOptions | None, Meta(description="Two live versions that are compared; empty: none.")] = (
        None
    )
    committee: Annotated[
        CommitteeOptions | None,
        Meta(description="Models that driftd asks about each event itself; empty: none but what events bring."),
    ] = None
    labels: Annotated[
        LabelOptions | None,
        Meta(
            description="Late labels joined to their predictions, watched as a model named `<name>.labels`, which may "
            "be configured like any other; empty: only counted."
        ),
    ] = LabelOptions()
    model_server: Annotated[
        ScrapeOptions | None,
        Meta(description="The model server's own metrics, watched as a model named `<name>.server`; empty: not read."),
    ] = None

    @property
    def watched(self) -> int:
        """Versions that are watched on their own: two at least where two are compared."""
        return self.versions if self.compare is None else max(self.versions, 2)

    def scorers_of(self, schema: Schema) -> dict[str, Scorer]:
        """Its scorers by name, those of the default chosen by its columns."""
        if self.scorers is None:
            return default_scorers(schema)
        return dict(zip(_numbered(map(kind_of, self.scorers)), self.scorers, strict=True))


class Alerts(AlertOptions, frozen=True, forbid_unknown_fields=True):
    """When alerts open and resolve, and who is told."""

    sinks: Annotated[
        tuple[Annotated[SinkOptions, Meta(extra={"table": SINKS})], ...],
        Meta(description="Where notices go, each at its own pace."),
    ] = (Log(),)
    backoff: Annotated[Backoff, Meta(description="Waits between attempts to deliver.")] = Backoff()


class StateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a restart needs."""

    path: Annotated[str, Meta(min_length=1, description="Directory of checkpoints, logs and learned references.")] = (
        ".driftd"
    )
    checkpoint_every: Annotated[
        Seconds, Meta(gt=0, le=600, description="Time between checkpoints: what is read again after a crash.")
    ] = 5.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds. Each has a metric that shows when it bites."""

    exchange_bytes: Annotated[
        Bytes, Meta(ge=2**20, description="Between the stages; beyond it sources are paused.")
    ] = 256 * 2**20
    intake_bytes: Annotated[
        Bytes, Meta(ge=2**20, description="Taken in over HTTP and not yet read; beyond it senders get 503.")
    ] = 256 * 2**20
    outbox_bytes: Annotated[
        Bytes, Meta(ge=2**16, description="Waiting for delivery; beyond it the judge and then the sources pause.")
    ] = 64 * 2**20
    shown_columns: Annotated[
        int, Meta(ge=0, description="Columns of a model in metrics; the rest appears as `__other__`.")
    ] = 200
    shown_words: Annotated[
        int, Meta(ge=0, description="Words of a category in metrics; the rest appears as `__other__`.")
    ] = 20


class LogOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon says of itself, on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="From this on.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="For people or for a log collector.")] = "text"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """driftd's configuration. Every key may be left out; the default takes events over HTTP and needs no other
    service."""

    sources: Annotated[
        tuple[SourceOptions, ...], Meta(min_length=1, description="Where events come from; read in one process.")
    ] = (SourceOptions(HttpOptions()),)
    window: Annotated[WindowOptions, Meta(description="Base windows.")] = WindowOptions()
    models: Annotated[
        tuple[ModelOptions, ...],
        Meta(min_length=1, description="What is watched; by default every event as one model."),
    ] = (ModelOptions(),)
    alerts: Annotated[Alerts, Meta(description="Alerts and their destinations.")] = Alerts()
    labeling: Annotated[
        QueueOptions | None,
        Meta(description="Where label tasks are kept; empty: SQLite in `state.path`.", extra={"table": QUEUES}),
    ] = None
    labeling_tools: Annotated[
        tuple[Annotated[ToolOptions, Meta(extra={"table": TOOLS})], ...],
        Meta(description="Labeling tools that tasks are handed over to, and labels come back from."),
    ] = ()
    retraining_targets: Annotated[
        tuple[Annotated[TargetOptions, Meta(extra={"table": TARGETS})], ...],
        Meta(description="Where requests to retrain go, each at its own pace."),
    ] = ()
    tracking: Annotated[
        tuple[Annotated[TrackingOptions, Meta(extra={"table": TRACKERS})], ...],
        Meta(
            description="Where episodes of drift, labeling campaigns, requests to retrain and comparisons of versions "
            "are written as runs, each at its own pace."
        ),
    ] = ()
    dead_letters: Annotated[
        DeadLetterOptions,
        Meta(description="Where records that cannot be read are set aside.", extra={"table": DEAD_LETTERS}),
    ] = LocalDeadLetters()
    state: Annotated[StateOptions, Meta(description="What a restart needs.")] = StateOptions()
    web: Annotated[WebOptions, Meta(description="The HTTP server.")] = WebOptions()
    limits: Annotated[Limits, Meta(description="Bounds.")] = Limits()
    log: Annotated[LogOptions, Meta(description="The daemon's own log.")] = LogOptions()

    @property
    def queue(self) -> QueueOptions:
        """Where label tasks are kept, by default beside the rest of the state."""
        return self.labeling or SqliteQueue(path=str(Path(self.state.path) / "labels.sqlite"))

    @property
    def digest(self) -> str:
        """Another one wherever anything but a secret is configured otherwise."""
        return hashlib.sha256(msgspec.msgpack.encode(self, enc_hook=repr)).hexdigest()[:12]

    @property
    def intake(self) -> bool:
        """Whether events are taken in over HTTP."""
        return any(isinstance(source.options, HttpOptions) for source in self.sources)


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file. Refused tells every problem with its key, what was given and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from error
    return parse(text, environ)


def parse(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a text. Raises Refused."""
    config = read(text, Config, environ)
    problems = list(_contradictions(config))
    if problems:
        raise Refused(problems)
    return config


def example() -> str:
    """A full commented file, every key with its default."""
    return _example(Config, _EXAMPLE)


def reference() -> str:
    """The reference page, in Markdown."""
    return _HEAD + _describe(Config)


def kind_of(part: Any) -> str:
    """The `kind` by which YAML names a part; of a user's own, its class."""
    return str(part.__struct_config__.tag or type(part).__name__)


def exposed(config: Config) -> bool:
    """Whether anyone on the network may post events: worth a warning, and sometimes what is wanted."""
    host = config.web.host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return config.intake and not loopback and not config.web.token


def _numbered(names: Iterable[str]) -> Iterator[str]:
    """Each name; the second of a kind becomes `kind-2`."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


_LONGEST_NAME = 150  # bytes of a model's name, quoted: a store's names have 200, of which versions take a part


def _contradictions(config: Config) -> Iterator[str]:
    """What each part allows and the whole does not."""
    names = [source.called for source in config.sources]
    yield from _twice(names, "$.sources[{}].name", "give each source a name of its own")
    intakes = [i for i, source in enumerate(config.sources) if isinstance(source.options, HttpOptions)]
    if len(intakes) > 1:
        yield f"$.sources[{intakes[1]}].kind: http is there twice; one intake takes the events of every model"
    models = [model.name for model in config.models]
    yield from _twice(models, "$.models[{}].name", "give each model a name of its own")
    if len(models) > 1 and "" in models:
        yield f"$.models[{models.index('')}].name: missing; only a single model may do without one"
    for i, name in enumerate(models):
        if name.startswith(".") or len(quote(name, safe="")) > _LONGEST_NAME:
            yield f"$.models[{i}].name: {name[:80]!r} cannot name files; no dot first, {_LONGEST_NAME} bytes at most"
    for i, model in enumerate(config.models):
        yield from _check_contradictions(config, model, f"$.models[{i}]")
    destinations = [sink.name for sink in config.alerts.sinks]
    yield from _twice(destinations, "$.alerts.sinks[{}].name", "give each destination a name of its own")
    people = config.web.people
    yield from _twice(
        [person.name for person in people], "$.web.people[{}].name", "give each person a name of their own"
    )
    tokens = [person.token for person in people]
    yield from (
        f"$.web.people[{i}].token: another person has the same; give each person a token of their own"
        for i, token in enumerate(tokens)
        if token and token in tokens[:i]
    )
    tools = [tool.name for tool in config.labeling_tools]
    yield from _twice(tools, "$.labeling_tools[{}].name", "give each tool a name of its own")
    targets = [target.name for target in config.retraining_targets]
    yield from _twice(targets, "$.retraining_targets[{}].name", "give each target a name of its own")
    for i, target in enumerate(targets):
        if target in (*destinations, config.queue.name):
            yield f"$.retraining_targets[{i}].name: {target!r} is the name of another destination; choose another"
    trackers = [tracker.name for tracker in config.tracking]
    yield from _twice(trackers, "$.tracking[{}].name", "give each tracker a name of its own")
    for i, tracker in enumerate(trackers):
        if tracker in (*destinations, *targets, config.queue.name):
            yield f"$.tracking[{i}].name: {tracker!r} is the name of another destination; choose another"
    if config.queue.name in destinations:
        place = f"$.alerts.sinks[{destinations.index(config.queue.name)}].name"
        yield f"{place}: {config.queue.name!r} is the name of the labeling queue; choose another"


def _check_contradictions(config: Config, model: ModelOptions, path: str) -> Iterator[str]:
    yield from _twice(list(model.classes or ()), path + ".classes[{}]", "give each class a name of its own")
    compare = model.compare
    if compare is not None and compare.stable == compare.candidate:
        yield f"{path}.compare.candidate: {compare.candidate!r} is the stable version; name the other one"
    if compare is not None and (model.retraining is None or model.sampling is None):
        yield f"{path}.compare: needs the model's sampling and retraining, which are empty"
    for i, name in enumerate(() if compare is None else compare.protected):
        if name not in (model.slices or {}):
            yield f"{path}.compare.protected[{i}]: {name!r} is none of the model's slices; declare it there"
    goals = () if model.retraining is None else model.retraining.stop.goals
    for name in goals:
        if name not in MEASURES:
            yield f"{path}.retraining.stop.goals: {name!r} is no measure; there are {', '.join(MEASURES)}"
    checks = model.checks or ()
    yield from _twice(
        [check.called for check in checks], path + ".checks[{}].name", "give each check a name of its own"
    )
    size = config.window.size
    for i, check in enumerate(checks):
        if check.over is None:
            continue
        windows = check.over / size
        where = f"{path}.checks[{i}].over"
        if windows < 1 or abs(windows - round(windows)) > 1e-9:
            yield f"{where}: {seconds_text(check.over)} is no multiple of the base window, {seconds_text(size)}"
        elif round(windows) > 1 and hasattr(check.detector, "step"):
            yield f"{where}: {kind_of(check.detector)} remembers by itself and looks at each base window; leave it out"


def _twice(names: list[str], where: str, remedy: str) -> Iterator[str]:
    for i, name in enumerate(names):
        if name in names[:i]:
            yield f"{where.format(i)}: {name!r} is there twice; {remedy}"
