"""Stage 1: records of a source become window partials on the exchange.

One thread owns an `Ingest`. Its state is kept per lane (see `Partition`): offsets, open windows, halves that wait for
their pair, messages not yet sent. A lane's blob is whole by itself: load it, seek to its offsets, go on. Messages
leave before the blob is saved, because re-reading makes the same ones again; those that re-reading might not make
again (closed by the clock) are saved first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np

from detectors.core import Batch, Floats, Ints, Scorer
from detectors.encode import Undecodable, decode, decode_batch, encode, encode_batch
from detectors.reference import Reference
from detectors.selection import Pools
from monitor.decode.columns import to_batch
from monitor.event import Bad, Decoder, Event, Half, Label, Partition, Raw, Record, Schema
from monitor.examples import Ids, of_sample, remember
from monitor.exchange import ENDED, Closed, Counted, Partial, to_bytes
from monitor.gauges import Gauges, Tally, Turn
from monitor.join import Joiner
from monitor.journal import deadly
from monitor.labels import Hour, LabelOptions, Outcomes, outcomes_of
from monitor.metrics import Meters
from monitor.references import References
from monitor.sampling import SamplingOptions
from monitor.scopes import Scopes, Slice
from monitor.versions import Met, Versions, count_versions, versions_of
from monitor.windows import Rows, WindowOptions, advances, by_window, settle_times

log = logging.getLogger(__name__)

FORMAT = 2
NO_LABELS: Mapping[str, LabelOptions] = {}
NO_HOURS: Mapping[int, Hour] = {}
PACED = 5.0  # seconds of arrival between looks at how fast event time passes
_DEADLY = "reading it ended the process twice"


class Model(Protocol):
    """What ingest has to know of a configured model."""

    @property
    def name(self) -> str: ...
    @property
    def learn(self) -> int: ...  # events to learn a reference from
    @property
    def classes(self) -> Sequence[str]: ...
    def scorers(self, schema: Schema) -> Mapping[str, Scorer]: ...
    @property
    def sampling(self) -> SamplingOptions | None: ...
    @property
    def scopes(self) -> Scopes: ...
    @property
    def protected(self) -> Mapping[str, Slice]: ...  # slices that versions are compared in


class _Window:
    """An open window of a model in a lane."""

    __slots__ = ("draw", "events", "ids", "origin", "raw", "rows", "tallies", "versions", "waiting")

    def __init__(self, origin: Partition) -> None:
        self.origin = origin  # what a label task says of where its event lies
        self.rows = 0
        self.tallies: list[Tally] = []  # the first is what rows are offered and kept by
        self.waiting = Rows()
        self.events: list[Event] = []  # while the reference is being learned
        self.raw: list[Event] = []  # where another is to be
        self.draw: Pools | None = None
        self.versions: dict[str, int] = {}  # rows by version
        self.ids: Ids = {}


class _Stream:
    """A model in a lane. Its windows close by its own events: models that share a topic do not disturb each other."""

    __slots__ = ("below", "late", "newest", "open", "serial", "turn")

    def __init__(self) -> None:
        self.newest: dict[str, float] = {}  # newest event time by topic
        self.below: int | None = None  # windows under this number are closed
        self.serial = 0
        self.open: dict[int, _Window] = {}
        self.late: dict[int, _Window] = {}
        self.turn: Turn | None = None

    def begin(self, coming: str) -> None:
        """Counts windows that are not begun yet on the coming reference as well; on none but one's own if empty."""
        if coming and (self.turn is None or self.turn[0] != coming):
            begun = [-(1 << 62) if self.below is None else self.below, *(number + 1 for number in self.open)]
            self.turn = coming, max(begun)
        elif not coming:
            self.turn = None

    @property
    def mark(self) -> float:
        """Event time up to which everything has come, as far as its topics tell."""
        return min(self.newest.values(), default=-math.inf)

    @property
    def reached(self) -> float:
        """The newest event time of all."""
        return max(self.newest.values(), default=-math.inf)


class _Lane:
    __slots__ = ("arrived", "joiner", "offsets", "outcomes", "quiet", "save_first", "streams", "unsent", "versions")

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}  # next offset by topic
        self.streams: dict[str, _Stream] = {}
        self.joiner = Joiner()
        self.outcomes: dict[str, Outcomes] = {}  # of each model whose labels are joined
        self.versions: dict[str, Versions] = {}  # of each model whose versions are compared
        self.unsent: list[bytes] = []
        self.save_first = False
        self.quiet: float | None = None  # clock time since when nothing came
        self.arrived = math.nan  # when its newest record reached the source

    def followers(self, model: str) -> Iterator[tuple[str, Outcomes | Versions]]:
        """What the model's rows are kept by, to become rows of other models once more is known; by these names."""
        if model in self.outcomes:
            yield outcomes_of(model), self.outcomes[model]
        if model in self.versions:
            yield versions_of(model), self.versions[model]


class _Pace:
    """Whether event time passes as fast as the clock. A replay at speed may cross the clock's time and is not live."""

    def __init__(self) -> None:
        self.even = True
        self._since: tuple[float, float] | None = None  # arrival, newest event time

    def see(self, arrived: float, newest: float) -> None:
        if not math.isfinite(newest) or (self._since is not None and arrived - self._since[0] < PACED):
            return
        if self._since is not None:
            self.even = 0.5 <= (newest - self._since[1]) / (arrived - self._since[0]) <= 2.0
        self._since = (arrived, newest)


class _SavedWindow(msgspec.Struct, frozen=True):
    window: int
    late: bool
    origin: tuple[str, int]
    rows: int
    counts: list[Counted]
    waiting: bytes | None
    events: list[Event]
    raw: list[Event]
    draw: Pools | None
    versions: dict[str, int] = {}
    ids: Ids = {}


class _SavedStream(msgspec.Struct, frozen=True):
    newest: dict[str, float]
    below: int | None
    serial: int
    windows: list[_SavedWindow]
    turn: Turn | None = None


class _SavedLane(msgspec.Struct, frozen=True):
    format: int
    offsets: dict[str, int]
    streams: dict[str, _SavedStream]
    joiner: Any
    outcomes: dict[str, Any]
    unsent: list[bytes]
    versions: dict[str, Any] = {}


class Ingest:
    """Stage 1 over one source. `models` by name; the model named "" takes the events of every other name.

    `labels` of those whose late labels are joined to their predictions; the rows that come of it go to the model
    `outcomes_of` each, which is among `models`, too. Versions are compared where `versions_of` a model is.
    """

    def __init__(
        self,
        name: str,
        *,
        decoder: Decoder,
        models: Mapping[str, Model],
        labels: Mapping[str, LabelOptions] = NO_LABELS,
        options: WindowOptions,
        references: Callable[[str], Reference | None],
        send: Callable[[Sequence[bytes]], object],
        save: Callable[[str, bytes], None],
        load: Callable[[str], bytes | None],
        set_aside: Callable[[Partition, Raw, Bad], None],
        meters: Meters,
        successors: References | None = None,
    ) -> None:
        self.name = name
        self._decoder = decoder
        self._models = models
        self._labels = labels
        self._compared = [n for n, model in models.items() if model.scopes.versions and versions_of(n) in models]
        following = {*map(outcomes_of, labels), *map(versions_of, self._compared)}
        self._fed = [name for name in models if name not in following]  # by events of their own
        self._options = options
        self._send, self._save, self._load = send, save, load
        self._set_aside = set_aside
        self._meters = meters
        self._gauges = Gauges(models, references, successors)
        self._lanes: dict[int, _Lane] = {}
        self._skew: float | None = None  # arrival minus event time of the newest row: how live the source is
        self._pace = _Pace()
        self._looked = -math.inf
        self.look()

    @property
    def owns_lanes(self) -> bool:
        """Whether any partition was given to it."""
        return bool(self._lanes)

    @property
    def newest(self) -> float | None:
        """Event time up to which all lanes have come, None before the first event."""
        marks = [s.mark for lane in self._lanes.values() for s in lane.streams.values() if s.newest]
        return min(marks, default=None)

    # -- references

    def look(self) -> None:
        """Asks for the references that were not there yet, and what takes the place of those that were."""
        self._gauges.look()
        for lane in self._lanes.values():
            self._begin_turns(lane)

    def _begin_turns(self, lane: _Lane) -> None:
        for model, stream in lane.streams.items():
            stream.begin(self._gauges.coming(model))

    def _route(self, name: str) -> str | None:
        """The model that takes events of this name: of that name, or the one that takes all, or the only one."""
        if name in self._fed:
            return name
        if "" in self._fed:
            return ""
        return self._fed[0] if not name and len(self._fed) == 1 else None

    def schemas(self) -> Mapping[str, Schema]:
        """Schemas of the models whose reference is known."""
        return self._gauges.schemas()

    # -- records

    def take(self, partition: Partition, records: Sequence[Raw]) -> None:
        """Works the records of a partition into their windows. Never raises for what is in them."""
        lane = self._lanes[partition.number]
        lane.quiet = None
        lane.arrived = records[-1].timestamp / 1000
        decoded = self._decoder.decode(records, self.schemas())
        lane.offsets[partition.topic] = records[-1].offset + 1
        by_offset: dict[int, Raw] = {}
        if decoded.bad:
            by_offset = {r.offset: r for r in records}
            for bad in decoded.bad:
                self._refuse(partition, by_offset[bad.offset], bad)
        if decoded.cut:
            self._meters.cut_events.labels(self.name).inc(decoded.cut)
        labels = self._labels_by_model(lane, decoded.labels)
        batches = {model: [batch] for model, batch in decoded.batches.items()}
        events = decoded.events
        if decoded.halves:
            self._pair(lane, decoded.halves, batches, events)
        for name, parts in batches.items():
            model = self._known(partition, records, name, (int(o) for b in parts for o in b.offsets))
            if model is not None:
                for batch in parts:
                    self._take_rows(lane, partition, model, batch, records, labels.pop(model, ()))
        for name, found in events.items():
            model = self._known(partition, records, name, (e.offset for e in found))
            schema = None if model is None else self._gauges.schema(model)
            if model is not None and schema is not None and model in self._gauges.wanted:
                batch = to_batch(found, schema)
                self._take_rows(lane, partition, model, batch, records, labels.pop(model, ()), found)
            elif model is not None:
                self._take_events(lane, partition, model, found, records)
        for model, rest in labels.items():
            lane.outcomes[model].hold(rest, np.full(len(rest), self._stream(lane, model).reached))
        newest = max((s.mark for s in lane.streams.values()), default=math.nan)
        self._skew = lane.arrived - newest
        self._pace.see(lane.arrived, newest)
        self._flush(partition.number, lane)

    # -- records that end the process

    def without_deadly(self, partition: Partition, records: Sequence[Raw]) -> Sequence[Raw]:
        """The records that can be survived; the others are set aside, and reading goes on behind all of them."""
        found = {record.offset for record in deadly(records, self._rehearse)}
        for record in records:
            if record.offset in found:
                self._refuse(partition, record, Bad(record.offset, "deadly", _DEADLY))
        self._lanes[partition.number].offsets[partition.topic] = records[-1].offset + 1
        return [record for record in records if record.offset not in found]

    def sift(self, partition: Partition) -> None:
        """Sets aside rows of the lane's open windows that cannot be survived: read before the checkpoint, scored after.
        Their letters tell the place alone, since their bytes were read long ago."""
        for model, stream in self._lanes[partition.number].streams.items():
            for window in (*stream.open.values(), *stream.late.values()):
                rest = window.waiting.rest()
                if rest is None:
                    continue
                found = deadly(range(len(rest)), partial(self._try, model, rest))
                for row in found:
                    offset = int(rest.offsets[row])
                    record = Record(None, offset=offset, timestamp=int(rest.times[row] * 1000))
                    self._refuse(window.origin, record, Bad(offset, "deadly", f"{_DEADLY}; event {rest.ids[row]}"))
                window.rows -= len(found)
                window.waiting = Rows([rest.take(np.delete(np.arange(len(rest)), found))])

    def _rehearse(self, records: Sequence[Raw]) -> None:
        """What `take` does to records, without any effect."""
        decoded = self._decoder.decode(records, self.schemas())
        for name, batch in decoded.batches.items():
            model = self._route(name)
            if model is not None and len(batch):
                self._try(model, batch, range(len(batch)))

    def _try(self, model: str, batch: Batch, rows: Sequence[int]) -> None:
        window = _Window(Partition("", 0))
        window.tallies = self._gauges.tallies(model, 1 << 62, None)
        self._count(model, window, batch.take(np.array(rows)))

    def _known(self, partition: Partition, records: Sequence[Raw], name: str, offsets: Iterable[int]) -> str | None:
        model = self._route(name)
        if model is None:
            by_offset = {r.offset: r for r in records}
            for offset in dict.fromkeys(offsets):
                self._refuse(partition, by_offset[offset], Bad(offset, "unknown_model", f"no model {name!r} here"))
        return model

    def _refuse(self, partition: Partition, record: Raw, bad: Bad) -> None:
        self._meters.bad.labels(self.name, bad.cause).inc()
        self._set_aside(partition, record, bad)

    def _labels_by_model(self, lane: _Lane, labels: Sequence[Label]) -> dict[str, Sequence[Label]]:
        """Those that are joined, by the model that they are for."""
        found: dict[str, list[Label]] = {}
        for label in labels:
            found.setdefault(self._route(label.model) or "", []).append(label)
        for model, some in found.items():
            self._meters.labels.labels(model).inc(len(some))
        if found:  # which rows came before a label of another topic depends on how the topics were polled
            lane.save_first |= len(lane.offsets) > 1
        return {model: some for model, some in found.items() if model in lane.outcomes}

    def _pair(
        self,
        lane: _Lane,
        halves: Sequence[Half],
        batches: dict[str, list[Batch]],
        events: dict[str, list[Event]],
    ) -> None:
        lane.save_first |= len(lane.offsets) > 1  # which half came first depends on how two topics were polled
        paired: dict[str, list[Event]] = {}
        for event in lane.joiner.pair(halves):
            paired.setdefault(event.model, []).append(event)
        for side, orphans in lane.joiner.take_orphans().items():
            self._meters.orphans.labels(self.name, side).inc(orphans)
        for name, found in paired.items():
            model = self._route(name) or ""
            schema = self._gauges.schema(model)
            if schema is None or model in self._gauges.wanted:
                events.setdefault(name, []).extend(found)
            else:
                batches.setdefault(name, []).append(to_batch(found, schema))

    # -- windows

    def _stream(self, lane: _Lane, model: str) -> _Stream:
        stream = lane.streams.get(model)
        if stream is None:
            stream = lane.streams[model] = _Stream()
        return stream

    def _take_rows(
        self,
        lane: _Lane,
        partition: Partition,
        model: str,
        batch: Batch,
        records: Sequence[Raw],
        labels: Sequence[Label],
        raw: Sequence[Event] = (),
    ) -> None:
        """`raw`: the same rows as they came, where those are asked for."""

        def add(into: dict[int, _Window], number: int, rows: slice | Ints) -> None:
            some = batch.take(rows)
            self._add_rows(lane, partition, model, into, number, some)
            if raw:
                self._add_raw(model, into[number], [raw[i] for i in np.arange(len(raw))[rows].tolist()], some.times)

        batch.times = self._settled(lane, partition, model, batch.times, batch.offsets, records)
        if labels:
            reached = np.maximum.accumulate(np.append(self._stream(lane, model).reached, batch.times))
            before = np.searchsorted(batch.offsets, [label.offset for label in labels])
            lane.outcomes[model].hold(labels, reached[before])
        self._distribute(lane, partition, model, batch.times, add)

    def _add_rows(
        self, lane: _Lane, origin: Partition, model: str, into: dict[int, _Window], number: int, rows: Batch
    ) -> None:
        window = into.get(number)
        if window is None:
            window = into[number] = _Window(origin)
        if not window.tallies:
            window.tallies = self._gauges.tallies(model, number, self._stream(lane, model).turn)
        window.rows += len(rows)
        for block in window.waiting.add(rows):
            self._keep(lane, model, self._count(model, window, block))

    def _add_raw(self, model: str, window: _Window, events: Sequence[Event], times: Floats) -> None:
        room = max(0, self._models[model].learn - len(window.raw))
        for event, time in zip(events[:room], times[:room].tolist(), strict=True):
            event.time = time
            window.raw.append(event)

    def _add_event(self, origin: Partition, model: str, into: dict[int, _Window], number: int, event: Event) -> None:
        window = into.setdefault(number, _Window(origin))
        window.rows += 1
        if len(window.events) < self._models[model].learn:
            window.events.append(event)

    def _take_events(
        self, lane: _Lane, partition: Partition, model: str, events: Sequence[Event], records: Sequence[Raw]
    ) -> None:
        offsets = np.array([e.offset for e in events], np.int64)
        times = self._settled(lane, partition, model, np.array([e.time for e in events], np.float64), offsets, records)

        def add(into: dict[int, _Window], number: int, rows: slice | Ints) -> None:
            for i in np.arange(len(events))[rows].tolist():
                events[i].time = float(times[i])
                self._add_event(partition, model, into, number, events[i])

        self._distribute(lane, partition, model, times, add)

    def _settled(
        self, lane: _Lane, partition: Partition, model: str, times: Floats, offsets: Ints, records: Sequence[Raw]
    ) -> Floats:
        """The rows' times as far as they can be believed."""
        self._meters.events.labels(self.name).inc(len(times))
        ahead = self._options.ahead
        latest = float(times.max())  # NaN, and times far apart, go the long way
        if latest <= records[0].timestamp / 1000 + ahead and latest <= float(times.min()) + ahead:
            return times
        arrived = np.fromiter((r.timestamp for r in records), np.float64, len(records)) / 1000
        places = np.searchsorted(np.fromiter((r.offset for r in records), np.int64, len(records)), offsets)
        newest = self._stream(lane, model).newest.get(partition.topic, -math.inf)
        times, wrong = settle_times(times, newest, arrived[np.minimum(places, len(records) - 1)], ahead)
        if wrong:
            self._meters.clock_errors.labels(self.name).inc(wrong)
        return times

    def _distribute(
        self,
        lane: _Lane,
        partition: Partition,
        model: str,
        times: Floats,
        add: Callable[[dict[int, _Window], int, slice | Ints], None],
    ) -> None:
        """Rows to their windows, late ones apart; windows close between the rows where the newest time passes them."""
        stream = self._stream(lane, model)
        topic, options = partition.topic, self._options
        windows = np.floor(times / options.size).astype(np.int64)
        newest = stream.newest.get(topic, -math.inf)
        others = min((t for name, t in stream.newest.items() if name != topic), default=math.inf)
        stream.newest[topic] = max(newest, float(times.max()))
        closing = advances(times, newest, others, stream.below, options)
        floor = np.full(len(times), -(1 << 62) if stream.below is None else stream.below)
        for stop, below in closing:
            floor[stop:] = below
        late = windows < floor
        # A row that is not late comes before its window closes, so all of them are in when the first one does.
        tardy = np.flatnonzero(late)
        for number, rows in by_window(windows, np.flatnonzero(~late) if tardy.size else None):
            add(stream.open, number, rows)
        for stop, below in closing:
            before = np.searchsorted(tardy, stop)
            self._add_late(stream, windows, tardy[:before], add)
            tardy = tardy[before:]
            self._close(partition.number, lane, model, stream, below)
        self._add_late(stream, windows, tardy, add)

    def _add_late(
        self,
        stream: _Stream,
        windows: Ints,
        rows: Ints,
        add: Callable[[dict[int, _Window], int, slice | Ints], None],
    ) -> None:
        if rows.size:
            for number, some in by_window(windows, rows):
                add(stream.late, number, some)

    def _count(self, model: str, window: _Window, block: Batch) -> Batch:
        """The rows with the scorers' columns, counted."""
        plan, (first, *others) = self._models[model], window.tallies
        rows = first.gauge.scored(block)
        beyond = first.count(rows, plan.scopes)
        for tally in others:
            tally.count(tally.gauge.scored(block), plan.scopes)
        remember(window.ids, rows, first.profile)
        count_versions(rows, window.versions)
        if beyond:
            self._meters.unwatched_versions.labels(plan.name).inc(beyond)
        if first.gauge.offer is not None:
            if window.draw is None:
                window.draw = first.gauge.offer.start()
            first.gauge.offer.take(window.draw, rows, window.origin)
        return rows

    def _keep(self, lane: _Lane, model: str, rows: Batch) -> None:
        for _, follower in lane.followers(model):
            follower.keep(rows)

    def _close(
        self,
        number: int,
        lane: _Lane,
        model: str,
        stream: _Stream,
        below: int,
        hours: Mapping[int, Hour] = NO_HOURS,
        met: Sequence[Met] = (),
    ) -> None:
        """Closes the stream's windows under `below`; late rows so far leave with them."""
        if stream.below is not None and below <= stream.below:
            return
        partials = [
            self._finish(lane, model, stream.open.pop(number_), number_, late=False)
            for number_ in sorted(n for n in stream.open if n < below)
        ]
        partials += [self._finish(lane, model, window, n, late=True) for n, window in sorted(stream.late.items())]
        stream.late.clear()
        stream.below = below
        self._say(number, lane, model, stream, partials, hours=hours, met=met)
        for name, follower in lane.followers(model):
            self._close_following(number, lane, model, name, follower, below)

    def _close_following(
        self, number: int, lane: _Lane, model: str, name: str, follower: Outcomes | Versions, below: int
    ) -> None:
        """Joins what came before the windows under `below` ended, and closes these for what comes of it."""
        size = self._options.size
        stream, origin = self._stream(lane, name), Partition(name, number)
        since = below - 1 if stream.below is None else stream.below
        events = follower.join(below * size, since * size)
        schema = self._gauges.schema(name)
        if events and schema is not None:
            batch = to_batch(events, schema)
            for window, rows in by_window(np.floor(batch.times / size).astype(np.int64)):
                some = batch.take(rows)
                self._add_rows(lane, origin, name, stream.open, window, some)
                if name in self._gauges.wanted:
                    raw = [events[i] for i in np.arange(len(events))[rows].tolist()]
                    self._add_raw(name, stream.open[window], raw, some.times)
        else:
            for event in events:
                self._add_event(origin, name, stream.open, math.floor(event.time / size), event)
        counter = self._meters.outcomes if isinstance(follower, Outcomes) else self._meters.version_answers
        for became, count in follower.take_counts().items():
            counter.labels(model, became).inc(count)
        if stream.below is None or below > stream.below:
            if isinstance(follower, Outcomes):
                self._close(number, lane, name, stream, below, hours=follower.take_hours())
            else:
                self._close(number, lane, name, stream, below, met=follower.take_met())

    def _finish(self, lane: _Lane, model: str, window: _Window, number: int, *, late: bool) -> Partial:
        rest = window.waiting.rest()
        if rest is not None:
            self._keep(lane, model, self._count(model, window, rest))
        counts = [tally.encode() for tally in window.tallies if tally.profile.rows]
        ids = of_sample(window.ids, window.tallies[0].profile) if counts else {}
        return Partial(
            number, window.rows, counts, window.events, window.raw, window.draw, late, window.versions, ids
        )  # fmt: skip

    def _say(
        self,
        number: int,
        lane: _Lane,
        model: str,
        stream: _Stream,
        partials: list[Partial],
        below: int | None = None,
        hours: Mapping[int, Hour] = NO_HOURS,
        met: Sequence[Met] = (),
    ) -> None:
        stream.serial += 1
        message = Closed(
            model,
            self._lane_name(number),
            stream.serial,
            stream.below if below is None else below,
            partials,
            stream.turn,
            stream.mark,
            lane.arrived,
            dict(hours),
            list(met),
        )
        lane.unsent.append(to_bytes(message))

    def _lane_name(self, number: int) -> str:
        return f"{self.name}/{number}"

    def _flush(self, number: int, lane: _Lane) -> None:
        if not lane.unsent:
            return
        if lane.save_first:
            self._save_lane(number, lane)
        self._send(lane.unsent)
        lane.unsent = []
        lane.save_first = False

    # -- the clock

    @property
    def _live(self) -> bool:
        """Whether event time is the clock's."""
        near = self._skew is not None and abs(self._skew) < max(60.0, 2 * self._options.size)
        return near and self._pace.even

    def due(self, now: float) -> float:
        """Clock time at which `tick` may next have something to close."""
        options = self._options
        if not self._live:
            unfinished = [
                lane
                for lane in self._lanes.values()
                if any(s.open or s.late for s in lane.streams.values()) or any(o.fresh for o in lane.outcomes.values())
            ]
            return min((lane.quiet + options.grace for lane in unfinished if lane.quiet is not None), default=math.inf)
        behind = options.lateness + options.idle
        return (math.floor((now - behind) / options.size) + 1) * options.size + behind

    def tick(self, now: float, lag: Mapping[Partition, int], *, ended: bool = False) -> None:
        """Closes what only the clock can close: windows of lanes that are caught up and silent.

        `now` UTC seconds. A live source's windows close when the clock passes their end; one whose event time is not
        the clock's closes what is open after `grace` of silence. `ended`: nothing will ever come again, so close all.
        """
        options = self._options
        if now - self._looked >= 1.0 or self._gauges.outdated:
            self._looked = now
            self.look()
        behind = {p.number for p, n in lag.items() if n}
        live = self._live
        for number, lane in self._lanes.items():
            if number in behind and not ended:
                lane.quiet = None
                continue
            if lane.quiet is None:
                lane.quiet = now
            silent = now - lane.quiet
            for model in self._fed:
                stream = self._stream(lane, model)
                below = stream.below
                if ended:
                    below = self._furthest(model, with_open=True)
                elif live:
                    below = math.floor((now - options.lateness - options.idle) / options.size)
                elif silent >= options.grace:
                    below = self._furthest(model, with_open=True)
                # before the first event there is no event time to close windows by
                begun = stream.below is not None or any(s.newest for s in self._streams_of(model))
                if begun and below is not None and (stream.below is None or below > stream.below):
                    lane.save_first = True
                    self._close(number, lane, model, stream, below)
                self._close_last_labels(number, lane, model, ended=ended, silent=silent)
                if ended:
                    for name in (model, *(name for name, _ in lane.followers(model))):
                        self._say(number, lane, name, self._stream(lane, name), [], ENDED)
            self._flush(number, lane)

    def _close_last_labels(self, number: int, lane: _Lane, model: str, *, ended: bool, silent: float) -> None:
        """Labels that come after the last event do not wait for another one."""
        if model not in lane.outcomes:
            return
        stream = self._stream(lane, outcomes_of(model))
        if lane.outcomes[model].fresh and stream.below is not None and (ended or silent >= self._options.grace):
            lane.save_first = True
            self._close_following(number, lane, model, outcomes_of(model), lane.outcomes[model], stream.below + 1)

    def _streams_of(self, model: str) -> list[_Stream]:
        return [lane.streams[model] for lane in self._lanes.values() if model in lane.streams]

    def _furthest(self, model: str, *, with_open: bool) -> int | None:
        """Past the newest window that any lane has of the model; None when there is none."""
        ends = [s.below for s in self._streams_of(model) if s.below is not None]
        if with_open:
            ends += [n + 1 for s in self._streams_of(model) for n in (*s.open, *s.late)]
        return max(ends, default=None)

    # -- lanes come and go

    def gain(self, partition: Partition) -> int | None:
        """Loads the lane's state where it is not at hand; the offset to go on from, None where it was never read."""
        lane = self._lanes.get(partition.number)
        if lane is None:
            data = self._load(self._lane_name(partition.number))
            lane = self._new_lane() if data is None else self._load_lane(data)
            self._lanes[partition.number] = lane
            for model in self._models:
                stream = self._stream(lane, model)
                stream.begin(self._gauges.coming(model))
                if not stream.serial:  # announced, so that the judge waits for this lane from its first window on
                    self._say(partition.number, lane, model, stream, [])
            self._flush(partition.number, lane)
        return lane.offsets.get(partition.topic)

    def _new_lane(self) -> _Lane:
        lane = _Lane()
        lane.outcomes = {
            model: Outcomes(options, partial(self._gauges.reference, model), partial(self._gauges.names, model))
            for model, options in self._labels.items()
        }
        lane.versions = {
            model: Versions(self._options.size, partial(self._gauges.reference, model), self._models[model].protected)
            for model in self._compared
        }
        return lane

    def drop(self, partition: Partition) -> None:
        """Forgets the lane; its last checkpoint is the truth."""
        self._lanes.pop(partition.number, None)

    # -- checkpoints

    def checkpoint(self) -> dict[Partition, int]:
        """Saves every lane; the offsets that may be committed now."""
        for number, lane in self._lanes.items():
            self._flush(number, lane)
            self._save_lane(number, lane)
        return {
            Partition(topic, number): offset
            for number, lane in self._lanes.items()
            for topic, offset in lane.offsets.items()
        }

    def _save_lane(self, number: int, lane: _Lane) -> None:
        streams = {}
        for model, stream in lane.streams.items():
            windows = [
                _saved(number_, window, late=late)
                for late, some in ((False, stream.open), (True, stream.late))
                for number_, window in some.items()
            ]
            streams[model] = _SavedStream(stream.newest, stream.below, stream.serial, windows, stream.turn)
        outcomes = {model: joiner.state() for model, joiner in lane.outcomes.items()}
        versions = {model: answers.state() for model, answers in lane.versions.items()}
        blob = _SavedLane(FORMAT, lane.offsets, streams, lane.joiner.state(), outcomes, lane.unsent, versions)
        self._save(self._lane_name(number), encode(blob))

    def _load_lane(self, data: bytes) -> _Lane:
        lane = self._new_lane()
        try:
            saved = decode(data, _SavedLane)
        except Undecodable as error:
            log.warning("a lane's checkpoint cannot be read, starting anew where the source says: %s", error)
            return lane
        lane.offsets = saved.offsets
        lane.unsent = saved.unsent
        lane.joiner = Joiner.restore(saved.joiner)
        for model, joiner in lane.outcomes.items():
            if model in saved.outcomes:
                joiner.restore(saved.outcomes[model])
        for model, answers in lane.versions.items():
            if model in saved.versions:
                answers.restore(saved.versions[model])
        for model, held in saved.streams.items():
            if model not in self._models:
                continue
            stream = lane.streams[model] = _Stream()
            stream.newest, stream.below, stream.serial = held.newest, held.below, held.serial
            stream.turn = held.turn
            for kept in held.windows:
                window = self._restored(model, kept)
                (stream.late if kept.late else stream.open)[kept.window] = window
        return lane

    def _restored(self, model: str, kept: _SavedWindow) -> _Window:
        window = _Window(Partition(*kept.origin))
        window.rows, window.events = kept.rows, kept.events
        window.raw, window.draw, window.versions, window.ids = kept.raw, kept.draw, kept.versions, kept.ids
        if kept.waiting is not None:
            window.waiting = Rows([decode_batch(kept.waiting)])
        if self._gauges.reference(model) is not None:
            found = [self._gauges.restored(model, counted) for counted in kept.counts]
            window.tallies = [tally for tally in found if tally is not None]
            if not window.tallies and (kept.counts or kept.waiting is not None):
                window.tallies, window.ids = self._gauges.tallies(model, kept.window, None), {}
                log.warning(
                    "model %s: the reference changed; window %d counts only what comes from here on", model, kept.window
                )
        return window


def _saved(number: int, window: _Window, *, late: bool) -> _SavedWindow:
    rest = window.waiting.rest()
    return _SavedWindow(
        number,
        late,
        (window.origin.topic, window.origin.number),
        window.rows,
        [tally.encode() for tally in window.tallies],
        None if rest is None else encode_batch(rest),
        window.events,
        window.raw,
        window.draw,
        window.versions,
        window.ids,
    )
