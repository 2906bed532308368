"""Wiring: the only module that sees the whole configuration. Built before anything runs, stopped in reverse order."""

from __future__ import annotations

import gc
import logging
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import msgspec
from prometheus_client import Counter

from alerting.alert import Alert, Verdict
from alerting.deliver import Circuit, Condition, Delivery, Sink
from alerting.labeling.queue import Progress, QueueError, QueueSink
from alerting.retraining import Request, Word
from monitor.api.acts import Acts
from monitor.committee.host import host_all, hosting
from monitor.config import Config, LogOptions, OpensIn, exposed, kind_of
from monitor.decode import Own
from monitor.decode.times import parse_time
from monitor.event import Bad, Decoder, Partition, Raw
from monitor.exchange import Closed, Message, Told, from_bytes, to_bytes
from monitor.explain import Held
from monitor.handover import HandOver
from monitor.ingest import Ingest
from monitor.intake import Received
from monitor.jobs import scheduler
from monitor.journal import Journal
from monitor.judge import Effects, Judge
from monitor.log import DiskLog, InUse, MemoryLog
from monitor.loop import IngestLoop, JudgeLoop, Stage, sender
from monitor.memory import keep_one_heap
from monitor.metrics import Meters
from monitor.people import People, resident
from monitor.plan import Plan, labelled, plans, server_of
from monitor.references import References, Unreadable
from monitor.runs import Runs
from monitor.snapshot import Snapshot
from monitor.sources import Source
from monitor.sources.http import HttpOptions, HttpSource, frame
from monitor.sources.scrape import ScrapeSource
from monitor.store import DirectoryStore, MemoryStore
from monitor.web import Unbound, Web

log = logging.getLogger(__name__)

MEASURED = 5.0  # seconds between looks at counts that others keep
AT_ONCE = 500  # records of a replay between two looks at what the judge asks of ingest
PATIENCE = 10.0  # seconds that destinations get at the end; Kubernetes gives the whole process 30


class Unstartable(Exception):
    """The daemon cannot start; the text says what to change. Exit code 2."""


class App:
    """The running daemon. Everything that can fail is done in the constructor, before the first thread starts."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._models = plans(config)
        self._stopping = threading.Event()
        self._appending = threading.Lock()  # of the exchange, which has several writers
        self._ready = False
        root = Path(config.state.path)
        try:
            store = DirectoryStore(root / "store")
            limits = config.limits
            # The soft budget pauses sources; the hard bound, twice that, is for what is already on its way. A segment
            # goes only whole, once all of it is judged: were one as large as the budget, the pause would never end.
            self._exchange = DiskLog(
                root / "exchange",
                segment_bytes=min(16 << 20, limits.exchange_bytes // 4),
                max_bytes=2 * limits.exchange_bytes,
            )
            self._intake = DiskLog(root / "intake", max_bytes=limits.intake_bytes) if config.intake else None
            self._dead = config.dead_letters.open(root / "dead-letters")
            people = People([p for p in config.web.people if p.token] or [resident(root)])
        except (OSError, InUse) as error:
            raise Unstartable(f"state in {root}: {error}") from error
        self.meters = Meters(
            self.snapshot, silences=self.silences, columns=limits.shown_columns, label_values=limits.shown_words
        )
        self._committees = host_all(config.models, root / "committee", self.meters)
        self._models = plans(config, self._committees)
        references = References(self._models, store)
        self._judge = Judge(
            self._models,
            window=config.window.size,
            alerts=config.alerts,
            references=references.find,
            learned=references.learned,
            successors=references,
            clock=time.time,
            meters=self.meters,
            tracking=config.digest if config.tracking else None,
        )
        self._delivery = Delivery(self._destinations(), config.alerts.backoff)
        self._judging = JudgeLoop(
            self._judge,
            self._exchange,
            store=store,
            delivery=self._delivery,
            destinations=[sink.name for sink in config.alerts.sinks],
            labels=config.queue.name,
            targets=[target.name for target in config.retraining_targets],
            trackers=[tracker.name for tracker in config.tracking],
            budget=limits.outbox_bytes,
            every=config.state.checkpoint_every,
            meters=self.meters,
        )
        send = sender(self._exchange, self._stopping, self._appending)
        self._ingesting = []
        for name, source, decoder, models in self._sources():
            ingest = Ingest(
                name,
                decoder=decoder,
                models=models,
                labels=labelled(models),
                options=config.window,
                references=references.find,
                successors=references,
                send=send,
                save=lambda name, data: store.put(f"ingest/{name}", data),
                load=lambda name: store.get(f"ingest/{name}"),
                set_aside=self._dead.put,
                meters=self.meters,
            )
            loop = IngestLoop(
                source,
                ingest,
                journal=Journal(root / f"journal-{quote(name, safe='')}"),
                exchange=self._exchange,
                budget=limits.exchange_bytes,
                every=config.state.checkpoint_every,
                meters=self.meters,
            )
            self._ingesting.append(loop)
        try:
            self._handover = HandOver(
                config.labeling_tools, config.queue.open, backoff=config.alerts.backoff, meters=self.meters
            )
            self._acts = Acts(config.queue, self, self._handover, self.meters, intake=config.intake)
        except (OSError, ValueError, QueueError) as error:
            raise Unstartable(f"labeling: {error}") from error
        try:
            self._runs = Runs(
                config.retraining_targets,
                self._judge.requests,
                self._hear,
                backoff=config.alerts.backoff,
                meters=self.meters,
            )
        except (OSError, ValueError) as error:
            raise Unstartable(f"retraining target: {error}") from error
        self._web = Web(config.web, self, self.meters, people, self._acts.endpoints(), intake=config.intake)
        self._counted: dict[str, int] = {}
        self._jobs = scheduler(self.meters)
        self._jobs.add_job(self._measure, "interval", seconds=MEASURED, id="measure")
        self._handover.schedule(self._jobs)
        self._acts.schedule(self._jobs)
        self._runs.schedule(self._jobs)

    def _sources(self) -> Iterator[tuple[str, Source, Decoder, Mapping[str, Plan]]]:
        """Each configured source with the models it feeds, then the servers that are scraped."""
        servers = {server_of(m.name): m.model_server for m in self._config.models if m.model_server is not None}
        fed = {name: plan for name, plan in self._models.items() if name not in servers}
        for source in self._config.sources:
            yield source.called, self._open(source.called, source.options), source.decoder.open(), fed
        for name, options in servers.items():
            live = ScrapeSource(options, name, self.meters.scrape_failures.inc)
            yield f"scrape-{name}", live, Own().open(), {name: self._models[name]}

    def _destinations(self) -> dict[str, Sink]:
        queue = self._config.queue
        home = self._config.web.url
        opening: dict[str, Callable[[], Sink]] = {
            sink.name: partial(sink.open, home) for sink in self._config.alerts.sinks
        }
        opening[queue.name] = lambda: QueueSink(queue.open(), time.time)
        opening |= {target.name: target.open for target in self._config.retraining_targets}
        opening |= {tracker.name: tracker.open for tracker in self._config.tracking}
        opened: dict[str, Sink] = {}
        for name, opens in opening.items():
            try:
                opened[name] = opens()
            except (OSError, ValueError, QueueError) as error:
                raise Unstartable(f"destination {name}: {error}") from error
        return opened

    def _open(self, name: str, options: Any) -> Source:
        if isinstance(options, HttpOptions):
            assert self._intake is not None
            return HttpSource(self._intake)
        try:
            if isinstance(options, OpensIn):
                root = Path(self._config.state.path) / f"source-{quote(name, safe='')}"
                return options.open_in(root, self.meters.passed_over.labels(name).inc)
            source: Source = options.open()
        except (OSError, ValueError, ImportError, InUse) as error:
            raise Unstartable(f"source: {error}") from error
        return source

    def _measure(self) -> None:
        """Brings counts that others keep into the metrics. Runs on the scheduler's thread."""
        meters = self.meters
        for name, held in (("exchange", self._exchange), ("intake", self._intake)):
            if held is not None:
                meters.log_bytes.labels(name).set(held.size)
                self._count(meters.log_truncations.labels(name), name, held.torn_bytes > 0)
        for destination, condition in self._delivery.conditions().items():
            self._count(meters.deliveries.labels(destination), f"delivered {destination}", condition.delivered)
            self._count(meters.delivery_failures.labels(destination), f"failed {destination}", condition.failures)
            meters.delivery_refused.labels(destination).set(condition.refused)
            meters.delivery_down.labels(destination).set(condition.circuit is not Circuit.CLOSED)
        kind = kind_of(self._config.dead_letters)
        self._count(meters.dead_letters.labels(kind), "dead letters", self._dead.written)
        self._count(meters.dead_letters_lost.labels(kind), "dead letters lost", self._dead.lost)

    def _count(self, counter: Counter, name: str, total: int) -> None:
        """Raises a counter to a total that somebody else keeps."""
        counter.inc(total - self._counted.get(name, 0))
        self._counted[name] = total

    # -- what the web server shows and feeds

    def snapshot(self) -> Snapshot:
        return self._judge.snapshot() if hasattr(self, "_judge") else Snapshot()

    def alerts(self) -> Sequence[Alert]:
        return self._judge.alerts()

    def requests(self) -> Sequence[Request]:
        return self._judge.requests()

    def progress(self) -> Sequence[Progress]:
        return self._acts.progress

    def held(self) -> Mapping[str, Held]:
        return self._judge.held()

    def exchange_name(self, model: str) -> str | None:
        return next((key for key, plan in self._models.items() if plan.name == model), None)

    def silences(self) -> Mapping[str, float]:
        now = time.monotonic()
        return {stage.name: now - stage.alive for stage in self._stages() if not stage.ended.is_set()}

    @property
    def backlog(self) -> int:
        """Messages on the exchange that the judge has not taken yet."""
        return self._judging.backlog

    def not_ready(self) -> Sequence[str]:
        return [f"{loop.name}: {loop.waiting}" for loop in self._ingesting if loop.waiting]

    def destinations(self) -> Mapping[str, Condition]:
        return self._delivery.conditions()

    def take(self, received: Sequence[Received]) -> None:
        assert self._intake is not None
        now = int(time.time() * 1000)
        self._intake.append([frame(item.headers, item.body, now) for item in received])

    def tell(self, told: Sequence[Told]) -> None:
        """Lays what was told on the exchange, where it is safe. Raises `Full`, at once."""
        with self._appending:
            self._exchange.append([to_bytes(one) for one in told])

    def _hear(self, told_id: str, model: str, word: Word) -> None:
        """A target's word on a request. Raises `Full`."""
        key = self.exchange_name(model)
        if key is not None:
            self.tell([Told(told_id, key, word)])

    # -- running

    def _stages(self) -> list[Stage]:
        return [*self._ingesting, self._judging]

    def start(self) -> None:
        """Starts every thread. Raises Unbound."""
        if exposed(self._config):
            log.warning("events are taken in from the network without a token: set web.token")
        self._web.start()
        log.info("listening on http://%s:%d", self._config.web.host, self._web.port)
        # what is loaded by now lives as long as the process: the cyclic collector need not look at it again
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._jobs.start()
        for committee in self._committees.values():
            committee.watch()
        for stage in self._stages():
            stage.start()

    def wait(self) -> int:
        """Until told to stop, until every source has ended, or until a stage fails; then shuts down. The exit code."""
        while not self._stopping.wait(0.2):
            failed = [stage for stage in self._stages() if stage.error is not None]
            if failed:
                log.error("%s failed; stopping, so that a supervisor starts anew", failed[0].name)
                break
            if all(loop.ended.is_set() for loop in self._ingesting):
                break
        return self._shut_down()

    def stop(self) -> None:
        """From a signal handler or another thread."""
        self._stopping.set()

    def _shut_down(self) -> int:
        """Sources first, so that what was read is judged; then the judge; then what it said is delivered."""
        self._stopping.set()
        self._handover.stop()
        clean = True
        for stage in self._stages():
            stage.stop()
            clean &= stage.join(PATIENCE) and stage.error is None
        if clean:
            self._judging.settle(PATIENCE)
        for committee in self._committees.values():
            committee.close()
        self._jobs.shutdown()
        self._web.stop()
        self._handover.close()
        self._acts.close()
        self._dead.close()
        for held in (self._exchange, self._intake):
            if held is not None:
                held.close()
        return 0 if clean else 1


class _JsonLines(logging.Formatter):
    """A log record as one JSON object, for a collector."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def set_up_logging(options: LogOptions) -> None:
    """The daemon's own log, on standard error. Of libraries only warnings, since their reasons are ours to tell."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if options.format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("monitor", "alerting", "detectors", "driftd"):
        logging.getLogger(name).setLevel(options.level.upper())
    if options.level != "debug":
        for name in ("kafka", "confluent_kafka"):  # ten error lines per failed attempt to connect; we say it in one
            logging.getLogger(name).setLevel(logging.CRITICAL)


def run(config: Config) -> int:
    """`driftd run`: until SIGTERM or SIGINT; a second one ends at once."""
    keep_one_heap()
    set_up_logging(config.log)
    try:
        app = App(config)
    except (Unstartable, Unreadable) as error:
        sys.stderr.write(f"driftd: {error}\n")
        return 2

    def told(number: int, _frame: Any) -> None:
        log.info("%s: finishing what is at hand", signal.Signals(number).name)
        signal.signal(number, signal.SIG_DFL)
        app.stop()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    try:
        app.start()
    except Unbound as error:
        sys.stderr.write(f"driftd: {error}\n")
        return 2
    return app.wait()


class Ruled(msgspec.Struct, frozen=True):
    """A line of `driftd verdicts --json`, as far as a replay needs it."""

    id: str
    model: str  # as the exchange calls it
    verdict: Verdict
    time: float  # event time at which it was taken


def ruled_in(file: Path) -> list[Ruled]:
    """The verdicts of a file. Raises OSError, and Unstartable where a line is none."""
    try:
        return [msgspec.json.decode(line, type=Ruled) for line in file.read_bytes().splitlines() if line.strip()]
    except msgspec.DecodeError as error:
        raise Unstartable(f"{file}: not what `driftd verdicts --json` prints: {error}") from error


def replay(config: Config, places: Sequence[str], out: TextIO, told: Sequence[Ruled] = ()) -> int:
    """`driftd replay`: the same pipeline over recorded events, findings as JSON lines; nothing else is touched.

    Windows close by event time alone, one thread does everything in order, and nothing outlives the run: twice the
    same input is twice the same output. A verdict is taken once judging has come to its event time.
    """
    meters = Meters()
    with hosting(config.models, meters) as committees:
        return _replay(config, places, out, told, plans(config, committees), meters)


def _replay(
    config: Config,
    places: Sequence[str],
    out: TextIO,
    told: Sequence[Ruled],
    models: Mapping[str, Plan],
    meters: Meters,
) -> int:
    waiting: dict[str, deque[Ruled]] = {}
    for ruled in sorted(told, key=lambda ruled: ruled.time):
        waiting.setdefault(ruled.model, deque()).append(ruled)
    store, exchange = MemoryStore(), MemoryLog()
    references = References(models, store)
    judge = Judge(
        models,
        window=config.window.size,
        alerts=config.alerts,
        references=references.find,
        learned=references.learned,
        successors=references,
        clock=lambda: 0.0,
        meters=meters,
    )
    set_aside = 0

    def refused(partition: Partition, record: Raw, bad: Bad) -> None:
        nonlocal set_aside
        set_aside += 1
        _line(out, {"refused": str(partition), "offset": record.offset, "cause": bad.cause, "message": bad.message})

    def judge_all() -> None:
        effects = Effects()
        for offset, data in exchange.read(exchange.start, max_bytes=1 << 40):
            message = from_bytes(data)
            for ruled in _before(message, waiting.get(message.model, deque()), config.window.size):
                judge.take(Told(ruled.id, ruled.model, ruled.verdict), effects)
            judge.take(message, effects)
            exchange.trim(offset + 1)
        for symptom in effects.symptoms:
            _line(out, {"finding": msgspec.to_builtins(symptom)})
        for notice in effects.notices:
            alert = notice.alert
            _line(out, {"alert": alert.key, "transition": notice.transition, "at": alert.said, "text": alert.text})

    for number, (source, decoder) in enumerate(_recorded(config, places)):
        ingest = Ingest(
            f"replay-{number}",
            decoder=decoder,
            models=models,
            labels=labelled(models),
            options=config.window,
            references=references.find,
            successors=references,
            send=exchange.append,
            save=store.put,
            load=store.get,
            set_aside=refused,
            meters=meters,
        )
        ended = False
        while not ended:
            polled = source.poll(1.0)
            for partition in polled.gained:
                source.seek(partition, ingest.gain(partition))
            for partition, records in polled.records.items():
                for start in range(0, len(records), AT_ONCE):
                    ingest.take(partition, records[start : start + AT_ONCE])
                    judge_all()
                    ingest.look()  # what follows on a reference, its first one too, holds for the records after it
            ended = polled.ended
        ingest.tick(0.0, {}, ended=True)
        judge_all()
        source.close()
    for view in judge.snapshot().models:
        _line(out, {
            "summary": view.model, "events": view.events, "late": view.late, "windows": view.windows,
            "refused": set_aside, "reference": view.reference_source, "learning": view.learning,
            "label_tasks": view.label_tasks,
        })  # fmt: skip
    return 0


def _before(message: Message, waiting: deque[Ruled], size: float) -> Iterator[Ruled]:
    """Those that were taken before the windows that the message closes."""
    if isinstance(message, Closed) and message.below is not None:
        while waiting and message.below * size > waiting[0].time:
            yield waiting.popleft()


def _recorded(config: Config, places: Sequence[str]) -> Iterator[tuple[Source, Decoder]]:
    """Sources with an end: files and directories, or what the configured Kafka topics held.

    `kafka:SINCE..UNTIL` takes times such as 2026-11-22T10:00:00Z or offsets such as @1200, in every partition; either
    left out means the oldest and the newest.
    Raises Unstartable.
    """
    for place in places:
        kind, colon, span = place.partition(":")
        if kind == "kafka" and colon and not Path(place).exists():
            yield from _ranges(config, place, span)
            continue
        from monitor.sources.files import FilesOptions

        try:
            yield FilesOptions(path=place).open(), config.sources[0].decoder.open()
        except (OSError, ValueError) as error:
            raise Unstartable(f"{place}: {error}") from error


def _ranges(config: Config, place: str, span: str) -> Iterator[tuple[Source, Decoder]]:
    from monitor.sources.kafka import KafkaOptions

    found = [source for source in config.sources if isinstance(source.options, KafkaOptions)]
    since, dots, until = span.partition("..")
    if not found or not dots:
        raise Unstartable(f"{place}: wanted kafka:SINCE..UNTIL, and a Kafka source in the configuration")
    from monitor.sources.kafka_python import KafkaRange, Offset

    def point(text: str) -> float | Offset | None:
        if not text:
            return None
        if text.startswith("@") and text[1:].isdecimal():
            return Offset(text[1:])
        time = parse_time(text)
        if math.isnan(time):
            raise Unstartable(
                f"{place}: {text!r} is neither a time such as 2026-11-22T10:00:00Z nor an offset as @1200"
            )
        return time

    for source in found:
        assert isinstance(source.options, KafkaOptions)
        try:
            yield KafkaRange(source.options, since=point(since), until=point(until)), source.decoder.open()
        except (ConnectionError, LookupError, OSError) as error:
            raise Unstartable(f"{place}: {error}") from error


def _line(out: TextIO, said: Mapping[str, Any]) -> None:
    out.write(msgspec.json.encode(said).decode() + "\n")
