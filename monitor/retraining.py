"""The judge's side of retraining, for one model: what the policy looks at, the requests, which version is in service.

Everything is decided in event time and from what the exchange carries, so a replay asks for the same retrainings by the
same ids. What a reader would get wrong: a new version counts as in service when it answers most rows, three windows in
a row; a canary or a shadow, that answers as many rows as the old one at most, does not.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from alerting import lifecycle
from alerting.alert import Ruling, Severity, Symptom
from alerting.labeling.task import Returned
from alerting.policy import Case, Drop, Gates, Price, Standing, weigh
from alerting.retraining import (
    Measured,
    Mode,
    Request,
    Span,
    Status,
    Step,
    Word,
    moved,
    part_of,
    request_id,
    told,
)
from detectors.profile import Profile
from detectors.reference import Reference
from detectors.stopping import StopRules
from detectors.units import Seconds
from monitor.decode.columns import word

log = logging.getLogger(__name__)

CHECK = "retraining"  # name of the check whose alert is open while a request waits for a person, or its run failed
LABELS = 10_000  # of rows since the last request's, that are counted; of more the newest
REQUESTS = 50  # kept, the newest
TAKEN = 0.6  # share of a window's rows by which a version shows that it is in service
MIXED = 0.3  # share of them from which on an announced version is no canary, but coming into service
WINDOWS = 3  # with rows, in a row, that it must show so
PATIENCE = 24  # spans that a new version's first labels are waited for


class RetrainingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When retraining is asked for. driftd trains nothing itself: `retraining_targets` says who is asked."""

    mode: Annotated[
        Mode,
        Meta(
            description="`shadow` only notes what it would ask; `manual` waits for a person to confirm; `assisted` "
            "sends after a while unless a person stops it; `automatic` sends at once."
        ),
    ] = "shadow"
    after: Annotated[Seconds, Meta(ge=0, description="Event time after which `assisted` sends.")] = 4 * 3600.0
    every: Annotated[
        Seconds, Meta(gt=0, description="Event time between looks; also the span that gains are reckoned in.")
    ] = 3600.0
    price: Annotated[Price, Meta(description="What retraining and errors cost.")] = Price()
    gates: Annotated[Gates, Meta(description="What must be there before it is asked for, and what asks by itself.")] = (
        Gates()
    )
    stop: Annotated[StopRules, Meta(description="When the labeling of an episode of drift has done its work.")] = (
        StopRules()
    )
    labels_uri: Annotated[
        str, Meta(description="Where trainers fetch a label set, such as https://driftd/v1/labels/set/{id}.")
    ] = "/v1/labels/set/{id}"


class Performance(NamedTuple):
    """What labels say of the model now."""

    version: str = ""  # that they are of; empty where events name none
    drop: Drop | None = None
    measures: Mapping[str, Measured] = {}
    fell: tuple[str, ...] = ()  # classes and slices

    def of(self, version: str) -> Performance:
        """The same where it is of this version, else what is known of one that has no labels."""
        return self if self.version == version or not (self.version and version) else Performance(version)


class Seen(NamedTuple):
    """A judged window, as far as retraining goes."""

    end: float  # event time
    rows: int
    versions: Mapping[str, int]  # rows by the version that answered them
    profile: Profile
    alerts: lifecycle.State
    performance: Callable[[], Performance]


class Turn(msgspec.Struct):
    """What a window or a word leads to."""

    requests: list[Request] = []  # to be told to the targets
    symptoms: list[Symptom] = []
    deployed: str | None = None  # the version that came into service
    answered: bool = False  # it answers a request: the reference is to be its own


class _Label(msgspec.Struct, frozen=True, array_like=True):
    name: str
    time: float
    part: str
    answer: str = ""  # the model's


class State(msgspec.Struct):
    """Plain data, saved with the judge's checkpoint."""

    version: str = ""  # in service; empty while events name none
    since: float | None = None  # event time at which it came into service, or judging began
    rising: str = ""  # another one that shows it is in service
    rose: int = 0  # windows in a row
    labels: dict[str, _Label] = {}  # by task
    forgotten: int = 0  # labels beyond `LABELS`
    labels_since: float = -math.inf  # event time of the rows whose labels are new
    requests: list[Request] = []  # oldest first
    made: int = 0
    span: int | None = None  # number of the last one looked at
    rows: int = 0  # in this span so far
    ruled: float = 0.0  # of them, answers that rules changed
    events: float = 0.0  # a span, as the last whole ones had them
    rules: float = 0.0  # share in the last whole span
    flips: float | None = None  # share of answers that turned wrong, as last compared
    quiet: float = -math.inf  # event time before which nothing is asked
    case: str = ""  # what the policy said last
    new: list[str] = []  # classes that the reference lacks, of which there are labels enough to believe them


class Retraining:
    """Fed each judged window, each label and each word; owns the model's requests."""

    def __init__(self, model: str, options: RetrainingOptions) -> None:
        self._model, self._options = model, options
        self.state = State()

    @property
    def open(self) -> Request | None:
        """The request that something may still become of; there is one at most."""
        requests = self.state.requests
        return requests[-1] if requests and not requests[-1].status.over else None

    def arriving(self, versions: Mapping[str, int]) -> str:
        """The version, of those that answered a window's rows, that a trainer announced and that comes into service
        now; empty where there is none. Rows by version, as in `Seen`."""
        named = sum(versions.values())
        announced = [r.new_version for r in self.state.requests if r.status is Status.FINISHED and r.new_version]
        return next(
            (v for v in announced if v != self.state.version and versions.get(v, 0) > MIXED * named),
            "",
        )

    # -- what is told

    def take_labels(self, returned: Iterable[Returned]) -> None:
        """Final labels. One that comes again replaces what it said before."""
        labels = self.state.labels
        for one in returned:
            if one.time is not None and one.label is not None and one.time >= self.state.labels_since:
                answer = word(one.answer) or ""
                labels[one.task] = _Label(word(one.label) or "", one.time, part_of(one.task), answer)
        while len(labels) > LABELS:
            del labels[next(iter(labels))]
            self.state.forgotten += 1

    def take_word(self, said: Word, now: float) -> Turn:
        """A person's or a trainer's word on a request; one that came too late changes nothing. `now` is event time."""
        turn = Turn()
        for i, request in enumerate(self.state.requests):
            if request.id != said.request:
                continue
            new = told(request, said)
            if new is request:
                break
            log.info("model %s: retraining request %s is %s, says %s", self._model, new.id, new.status.value, said.by)
            if new.status is Status.FAILED or new.status is Status.STOPPED:
                self.state.quiet = now + self._options.gates.cool_down
            if said.step is Step.CONFIRMED or (new.status.over and _was_sent(new)):
                turn.requests.append(new)
            self.state.requests[i] = new
            if said.step is Step.FINISHED and not self.state.version:
                self._deploy(said.version, now, turn)  # events name no version: the trainer's word is all there is
            break
        return turn

    # -- windows

    def take(self, seen: Seen, reference: Reference) -> Turn:
        """A judged window, in order."""
        turn, state, options = Turn(), self.state, self._options
        if state.since is None:
            state.since = seen.end
        self._follow_version(seen, turn)
        self._await_time(seen.end, turn)
        self._close(seen, turn)
        span = math.floor(seen.end / options.every)
        if state.span is None:
            state.span = span
        elif span > state.span:
            spans = span - state.span
            state.events, state.rules = state.rows / spans, state.ruled / max(state.rows, 1)
            state.span, state.rows, state.ruled = span, 0, 0.0
            self._look(seen, reference, turn)
        state.rows += seen.rows
        state.ruled += seen.rows * _present(seen.profile, "rule")
        turn.symptoms += self._waiting(seen.end) + self._failing(seen.end)
        return turn

    def _follow_version(self, seen: Seen, turn: Turn) -> None:
        state = self.state
        named = sum(seen.versions.values())
        if not named:
            return
        most, rows = max(seen.versions.items(), key=lambda pair: (pair[1], pair[0]))
        if most == state.version or rows < TAKEN * named:
            state.rising, state.rose = "", 0
            return
        state.rose = state.rose + 1 if most == state.rising else 1
        state.rising = most
        if not state.version:
            state.version, state.rising, state.rose = most, "", 0
        elif state.rose >= WINDOWS:
            self._deploy(most, seen.end, turn)

    def _deploy(self, version: str, now: float, turn: Turn) -> None:
        """A new version came into service, asked for or not."""
        state, request = self.state, self.open
        log.info("model %s: version %s is in service", self._model, version or "(unnamed)")
        turn.deployed = version
        state.version, state.rising, state.rose, state.since = version, "", 0, now
        state.quiet = now + self._options.gates.cool_down
        state.labels_since = now
        if request is not None and request.status in (Status.SENT, Status.STARTED, Status.FINISHED):
            if request.status is not Status.FINISHED:
                request = moved(request, Status.FINISHED, now, "events", f"version {version} answers most rows")
            state.requests[-1] = replace(request, new_version=version)
            state.labels_since = request.span.end  # what came after it was asked is still to be learned
            turn.answered = True
        elif request is not None:
            self._end(moved(request, Status.SUPERSEDED, now, "events", f"version {version} came without it"), turn)
        state.labels = {task: label for task, label in state.labels.items() if label.time >= state.labels_since}

    def _await_time(self, now: float, turn: Turn) -> None:
        request = self.open
        if request is not None and request.status is Status.WAITING and request.due is not None and now >= request.due:
            sent = moved(request, Status.SENT, now, "driftd", "nobody stopped it in time")
            self.state.requests[-1] = sent
            turn.requests.append(sent)

    def _close(self, seen: Seen, turn: Turn) -> None:
        """The new version is in service and its first labels are there, or have not come for long."""
        state, request = self.state, self.open
        if request is None or request.status is not Status.FINISHED or state.since is None:
            return
        if state.version and request.new_version != state.version:
            return
        performance = seen.performance().of(state.version)
        labels = sum(label.time >= state.since for label in state.labels.values())
        known = performance.drop is not None and labels >= self._options.gates.labels
        if known or seen.end - state.since > PATIENCE * self._options.every:
            after = dict(performance.measures) if known else {}
            self._end(replace(moved(request, Status.CLOSED, seen.end, "driftd"), after=after), turn)

    def _end(self, request: Request, turn: Turn) -> None:
        self.state.requests[-1] = request
        if _was_sent(request):
            turn.requests.append(request)

    # -- the policy

    def _look(self, seen: Seen, reference: Reference, turn: Turn) -> None:
        state, options, performance = self.state, self._options, seen.performance().of(self.state.version)
        excluded = _excluded(seen.alerts, seen.end)
        usable = [one for one in state.labels.values() if not any(s.start <= one.time < s.end for s in excluded)]
        began = _lesson(seen.alerts, state.labels_since)
        lesson = [one for one in usable if one.time >= began]
        by_class = Counter(one.name for one in lesson)
        age = seen.end - (seen.end if state.since is None else state.since)
        known = _words(reference)
        # a new version answers its new classes long before there is a reference of its own
        new = sorted(by_class.keys() - known - {one.answer for one in usable}) if known else []
        state.new = [name for name in new if by_class[name] >= options.gates.new_class]
        standing = Standing(
            drop=performance.drop,
            spans=age / options.every,
            events=state.events,
            age=age,
            labels=len(lesson),
            by_class=by_class,
            fell=tuple(name for name in performance.fell if name in known),
            new=tuple(new),
            rules=state.rules,
            flips=state.flips,
            barred=self._barred(seen),
        )
        case = weigh(standing, options.price, options.gates)
        state.case = case.text
        if case.cause is None:
            return
        request = self._made(case, seen, performance, usable, excluded)
        state.requests = [*state.requests, request][-REQUESTS:]
        state.made += 1
        state.quiet = seen.end + options.gates.cool_down
        log.info("model %s: retraining request %s (%s): %s", self._model, request.id, request.status.value, case.text)
        if request.status is Status.SENT:
            turn.requests.append(request)

    def _barred(self, seen: Seen) -> str:
        broken = next((alert.key for alert in seen.alerts.open() if alert.broken), "")
        wrong = next((e.key for e in seen.alerts.episodes if e.end is None and e.ruling is Ruling.UNINTENDED), "")
        if broken:
            return f"The data are broken ({broken}): they are to be mended, not learned."
        if wrong:
            return f"{wrong} was judged unintended: it is to be mended, not learned."
        if self.open is not None:
            return f"Request {self.open.id} is {self.open.status.value}."
        return "The last request, or version, is too young." if seen.end < self.state.quiet else ""

    def _made(
        self,
        case: Case,
        seen: Seen,
        performance: Performance,
        usable: Sequence[_Label],
        excluded: Sequence[Span],
    ) -> Request:
        assert case.cause is not None
        state, options = self.state, self._options
        alerts = sorted(seen.alerts.open(), key=lambda alert: alert.key)
        ruling = next((e.ruling for e in reversed(seen.alerts.episodes) if e.ruling is not None), None)
        start = min((one.time for one in usable), default=seen.end)
        request = Request(
            id=request_id(self._model, case.cause, state.version, state.made),
            model=self._model,
            version=state.version,
            mode=options.mode,
            cause=case.cause,
            text=case.text,
            alerts=tuple(alert.key for alert in alerts[:20]),
            detectors=tuple(sorted({alert.check for alert in alerts})[:20]),
            verdict="" if ruling is None else ruling.value,
            made=seen.end,
            span=Span(max(start, state.labels_since), seen.end),
            excluded=tuple(span for span in excluded if span.end > start),
            train=sum(one.part == "train" for one in usable),
            evaluate=sum(one.part == "eval" for one in usable),
            by_class=dict(Counter(one.name for one in usable).most_common(100)),
            before=dict(performance.measures),
            fell=performance.fell[:20],
            labels_uri=options.labels_uri,
            stop_rules=msgspec.to_builtins(options.stop),
            due=seen.end + options.after if options.mode == "assisted" else None,
            status=Status.PROPOSED,
        )
        match options.mode:
            case "automatic":
                return moved(request, Status.SENT, seen.end, "driftd")
            case "manual" | "assisted":
                return moved(request, Status.WAITING, seen.end, "driftd")
        return moved(request, Status.PROPOSED, seen.end, "driftd")

    def _waiting(self, now: float) -> list[Symptom]:
        """What keeps the alert open by which people learn that a request waits for them."""
        request = self.open
        if request is None or request.status is not Status.WAITING:
            return []
        until = "" if request.due is None else " or its time"
        text = f"Retraining request {request.id} waits for a person{until}: {request.text}"
        facts: dict[str, float | str] = {"request": request.id, "cause": request.cause.value}
        return [
            Symptom(self._model, CHECK, "", request.made, now, 1.0, 0.0, text, Severity.INFO, facts),
        ]

    def _failing(self, now: float) -> list[Symptom]:
        """What keeps an alert open while the last request's run has failed and none follows: until another may."""
        state = self.state
        request = state.requests[-1] if state.requests else None
        if request is None or request.status is not Status.FAILED or now >= state.quiet:
            return []
        last = request.moves[-1]
        text = f"Retraining request {request.id} failed, says {last.by}: {last.why or 'for no reason given'}"
        facts: dict[str, float | str] = {"request": request.id, "cause": request.cause.value, "run": request.run}
        return [Symptom(self._model, CHECK, "", request.made, now, 1.0, 0.0, text, Severity.WARNING, facts)]


def _was_sent(request: Request) -> bool:
    return any(move.status is Status.SENT for move in request.moves)


def _lesson(alerts: lifecycle.State, since: float) -> float:
    """Event time from which on labels teach what changed: where the first episode began that goes on, or was ruled to
    be intended; `since` where there is none. Labels of before are trained on as well, but are no reason to train."""
    begun = (e.start for e in alerts.episodes if e.end is None or e.ruling is Ruling.INTENDED)
    return min((start for start in begun if start >= since), default=since)


def _excluded(alerts: lifecycle.State, now: float) -> list[Span]:
    """Stretches of event time that nothing is to be learned from."""
    return [
        Span(episode.start, now if episode.end is None else episode.end)
        for episode in alerts.episodes
        if episode.broken or episode.ruling is Ruling.UNINTENDED
    ]


def _present(profile: Profile, column: str) -> float:
    """Share of rows that have a value; 0 of a column that the reference lacks."""
    place = profile.layout.index.get(column)
    return 0.0 if place is None or not profile.rows else 1.0 - float(profile.missing_share[place])


def _words(reference: Reference) -> frozenset[str]:
    """Classes that the model answered in the reference."""
    layout = reference.layout
    return frozenset(layout.words[layout.categories.index("label")]) if "label" in layout.categories else frozenset()
