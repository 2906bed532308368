"""What the judge shows to the outside: immutable values, swapped whole, so a reader never waits and never sees half."""

from __future__ import annotations

import msgspec

from detectors.core import Kind, Role
from detectors.estimate import Estimate
from detectors.evidence.calibrate import Replay
from detectors.failing import Failing


class ColumnView(msgspec.Struct, frozen=True):
    """A column in the last judged base window that had rows; NaN = not measured."""

    name: str
    kind: Kind
    role: Role
    missing: float  # share of rows, 0..1
    wrong: float  # share of rows with a value of another kind
    mean: float = float("nan")  # numbers
    deviation: float = float("nan")
    quantiles: dict[str, float] = {}  # "0.05", "0.5", "0.95", "0.99"
    shares: dict[str, float] = {}  # categories: share of the most frequent known words, and "__other__"


class ScoreView(msgspec.Struct, frozen=True):
    """The last score a check gave a column."""

    check: str
    column: str
    score: float
    limit: float
    found: bool
    p_value: float | None = None
    scope: str = ""  # empty: all rows of the model; else such as `slice:young`


class EstimateView(msgspec.Struct, frozen=True):
    """A measure of performance estimated without labels, over the span of the check that makes it."""

    check: str
    measure: str  # accuracy | precision | recall | f1 | roc_auc | share_bbse | share_em
    of: str  # the class, empty where it is of all
    value: float
    low: float  # of the 95 % interval of what the labels of these rows would say
    high: float
    reference: float
    doubt: str = ""  # why it is not valid, in words


class PromiseView(msgspec.Struct, frozen=True):
    """What a check promises for a model and all its slices and versions together, beside what came."""

    check: str
    unit: str  # "seconds" of event time, or "events"
    length: float  # in which there is at most one false alarm
    allowed: float  # false alarms, at most, that the promise expects in what was judged so far
    alarms: int  # that came, true ones included
    approximate: tuple[str, ...] = ()  # columns with memory or season, for which it is no more than approximate
    replayed: Replay | None = None  # what it came to on the reference, where it is approximate


class HourView(msgspec.Struct, frozen=True):
    """An hour of event time as late labels have it by now: slower than windows of arrival, and set right with them."""

    start: float  # UTC seconds
    rows: int  # predictions kept, a fair share of all
    labelled: int  # of them
    error: float  # share of the labelled that were wrong


class MeasureView(msgspec.Struct, frozen=True):
    """A measure by labels, over the last spans together."""

    name: str  # precision | recall | f1 | rmse; accuracy of a slice, or of another version on the same events
    of: str  # class; or a scope, such as `slice:young` or `version:2`
    estimate: Estimate


class LabelledView(msgspec.Struct, frozen=True):
    """A model's performance by the labels of its draws, as known so far; NaN and None = not known."""

    measure: str  # accuracy | mae
    version: str  # in service
    end: float  # of the newest span with a draw, UTC seconds of event time: `tracked`, `cbpe`, `doc` are of it
    tracked: Estimate | None  # by the labels of all spans, followed to the newest
    cbpe: float  # mean of what is expected: blind to concept drift
    doc: float  # difference of confidences: blind to it as well
    labelled_end: float  # of the newest span with labels: `labels` and `refused` are of it
    labels: Estimate | None  # by its own labels alone
    refused: str  # why its labels give no estimate
    first: Estimate | None  # when the version came
    measures: tuple[MeasureView, ...]
    confusion: tuple[tuple[str, str, float], ...]  # answer, truth, share of all rows
    failing: tuple[Failing, ...]  # slices found in which the model errs more
    asked: int  # events held that labels were asked for
    returned: int  # labels that came since the beginning
    late: int  # of them when their span was settled
    unknown: int  # of events that are not held any more


class AlertView(msgspec.Struct, frozen=True):
    """An open alert."""

    key: str
    check: str
    column: str
    severity: str
    since: float  # event time, UTC seconds
    last: float
    text: str
    scope: str = ""  # as of a score
    leader: str = ""  # key of the alert that it is a member of
    members: int = 0  # that it ever had
    inhibited: str = ""  # key of the alert whose cause explains it
    muted: str = ""  # by which rule or verdict, in words
    publicity: bool = False
    deadline: float | None = None  # event time, UTC seconds
    relapses: int = 0
    verdict: VerdictView | None = None  # the last on it
    before: VerdictView | None = None  # the last on the same thing, of an alert before this one

    @property
    def silent(self) -> bool:
        """Whether nobody is told of it by itself."""
        return bool(self.leader or self.inhibited or self.muted)


class VerdictView(msgspec.Struct, frozen=True):
    """A person's word on an alert, and what came of it."""

    id: str
    key: str
    ruling: str
    by: str
    at: float  # UTC seconds of the clock
    why: str
    until: float | None = None  # of a false alarm: event time up to which it is not told again
    confirms: str = ""  # id of the verdict that it is the second word on
    revokes: str = ""  # id of the verdict that it took back
    time: float = float("nan")  # event time at which it was taken, UTC seconds
    outcome: str = ""  # in words
    confirmed: str = ""  # id of the verdict that was the second word
    revoked: str = ""  # id of the verdict that took it back


class SuppressionView(msgspec.Struct, frozen=True):
    """What a verdict of a false alarm keeps silent."""

    verdict: str  # its id
    keys: tuple[str, ...]
    until: float  # event time, UTC seconds
    suppressed: int  # alerts that it kept silent so far


class SliceGapView(msgspec.Struct, frozen=True):
    """A protected slice of a comparison; gap and bounds as of the whole."""

    name: str
    compared: int
    labels: int
    gap: float
    low: float
    high: float
    spared: bool  # known to lose less than what holds a promotion


class ComparisonView(msgspec.Struct, frozen=True):
    """Two live versions held against each other; NaN = not known. Accuracies are the candidate's less the other's."""

    stable: str
    candidate: str
    mode: str  # shadow | canary | blue_green
    outcome: str  # promote | hold | roll back
    why: str
    compared: int  # events that both answered
    churn: float  # share of them with another answer
    labels: int
    gap: float
    low: float  # bounds that hold at every look
    high: float
    flips: float  # share of answers that turned from right to wrong
    moved: tuple[tuple[str, str, int], ...] = ()  # the stable version's class, the candidate's, events; the most
    customers: tuple[tuple[str, float], ...] = ()  # share of other answers, the highest
    slices: tuple[SliceGapView, ...] = ()  # protected ones


class RequestView(msgspec.Struct, frozen=True):
    """A retraining request."""

    id: str
    status: str
    cause: str
    text: str
    made: float  # event time, UTC seconds
    version: str
    new_version: str = ""
    before: float = float("nan")  # accuracy
    after: float = float("nan")
    run: str = ""  # where it runs, by what name
    said: str = ""  # the last word with a reason, and whose


class RenewalView(msgspec.Struct, frozen=True):
    """What the model's alerts and labels lead to."""

    version: str  # in service; empty while events name none
    policy: str  # what was said at the last look
    campaign: int | None = None  # labels of the campaign that goes on
    ended: str = ""  # why the last one ended
    requests: tuple[RequestView, ...] = ()  # newest first
    comparison: ComparisonView | None = None


class ModelView(msgspec.Struct, frozen=True):
    """A model as last judged."""

    model: str
    events: int = 0  # judged since the beginning, restarts included
    late: int = 0  # came after their window was judged; counted, not judged
    windows: int = 0
    window_start: float = float("nan")  # of the last judged window, UTC seconds of event time
    window_end: float = float("nan")
    window_rows: int = 0
    reference: str = ""  # version, empty while it is being learned
    reference_source: str = ""
    learning: tuple[int, int] | None = None  # events so far, events wanted
    columns: tuple[ColumnView, ...] = ()
    scores: tuple[ScoreView, ...] = ()
    estimates: tuple[EstimateView, ...] = ()
    hours: tuple[HourView, ...] = ()  # of a model of late labels
    labelled: LabelledView | None = None  # None: nothing is drawn for labeling
    alerts: tuple[AlertView, ...] = ()
    verdicts: tuple[VerdictView, ...] = ()  # newest first
    suppressions: tuple[SuppressionView, ...] = ()
    false_alarms: dict[str, int] = {}  # verdicts of that kind by the alert's key: the threshold's own record
    promises: tuple[PromiseView, ...] = ()
    label_tasks: int = 0  # made since the beginning
    renewal: RenewalView | None = None
    findings: tuple[str, ...] = ()  # texts of the last findings, newest last, at most 20


class Snapshot(msgspec.Struct, frozen=True):
    """Everything `/metrics`, `/status` and the page show of the judge."""

    models: tuple[ModelView, ...] = ()
