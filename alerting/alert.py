"""The values of alerting: what was found (`Symptom`, the only input), is open (`Alert`), is said (`Notice`)."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec

# The mark by which configuration reads "10s" into plain seconds; the same as `detectors.units.Seconds`, which this
# package may not import.
Seconds = Annotated[float, msgspec.Meta(extra={"unit": "seconds"}, extra_json_schema={"examples": ["10s", "1h30m"]})]

OVERFLOW = "too_many_alerts"  # check name of the alert that stands for those beyond `AlertOptions.max_open`


class Severity(StrEnum):
    """By the names that Prometheus rules use."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Position from the mildest, 0, to the gravest."""
        return tuple(Severity).index(self)


class Look(NamedTuple):
    """Whose look something is: a check's, at a model or at a part of its rows."""

    model: str
    check: str
    scope: str = ""  # empty: all rows of the model; else such as `slice:young` or `version:3`


class Symptom(msgspec.Struct, frozen=True):
    """Something a check found in a model's window. Times are event time, UTC seconds."""

    model: str
    check: str
    column: str  # empty: the model as a whole
    start: float
    end: float
    score: float
    limit: float
    text: str
    severity: Severity = Severity.WARNING
    facts: dict[str, float | str] = {}
    scope: str = ""  # as in `Look`
    broken: bool = False  # the data are broken (missing, of a wrong kind, stuck): that explains what moves with it
    examples: tuple[str, ...] = ()  # ids of events that show it most clearly

    @property
    def since(self) -> float:
        """Event time at which the change began, as far as is known; no later than the window it was found in."""
        told = self.facts.get("since", self.start)
        return min(told, self.start) if isinstance(told, float) else self.start

    @property
    def key(self) -> str:
        """Identity of the alert it belongs to: nothing that changes from window to window."""
        return f"{self.model}/{self.check}/{self.column}" + (f"@{self.scope}" if self.scope else "")

    @property
    def look(self) -> Look:
        """The look that found it."""
        return Look(self.model, self.check, self.scope)


class Transition(StrEnum):
    """What happened to an alert. Whether receivers should hold it for open is `Alert.firing`, after each of these."""

    OPENED = "opened"
    UPDATED = "updated"
    ESCALATED = "escalated"  # its deadline passed
    SILENCED = "silenced"  # muted, or inhibited by the cause that explains it: receivers close it
    REOPENED = "reopened"  # came back soon after it resolved, or is silent no more
    VERDICT = "verdict"  # a person ruled
    RESOLVED = "resolved"
    FIXED = "fixed"  # resolved, after a verdict that it be mended


class Ruling(StrEnum):
    """What a person says an alert was."""

    INTENDED = "intended"  # the world changed for good: learn it
    UNINTENDED = "unintended"  # something broke: mend it, learn nothing of it
    FALSE_ALARM = "false alarm"  # nothing happened
    ACKNOWLEDGED = "acknowledged"  # not known yet, somebody looks at it


class Verdict(msgspec.Struct, frozen=True, kw_only=True, tag="verdict"):
    """A person's word on an alert. It travels through the exchange, so a replay repeats it."""

    id: str
    key: str  # of the alert
    ruling: Ruling
    by: str
    at: float  # UTC seconds of the clock
    why: str = ""
    until: float | None = None  # of a false alarm: UTC seconds of event time up to which the same is not told again
    confirms: str = ""  # id of the verdict that this one repeats: what cannot be undone waits for a second word
    revokes: str = ""  # id of the verdict that this one takes back


class Member(msgspec.Struct, frozen=True):
    """What moved together with an alert's own column, and is told of with it alone."""

    key: str
    check: str
    column: str
    scope: str
    severity: Severity
    started: float
    text: str


class Alert(msgspec.Struct, frozen=True):
    """An open alert, or one resolved a short while ago. A value: the life cycle puts a new one in its place."""

    key: str
    model: str
    check: str
    column: str
    severity: Severity
    started: float  # event time of the first symptom's window end; constant until resolved
    last_seen: float
    text: str
    score: float
    limit: float
    facts: dict[str, float | str] = {}
    serial: int = 0  # transitions told so far; makes a notice's id
    resolved: float | None = None
    said: float = 0.0  # event time of the last notice
    held: bool = False  # by that notice, receivers hold it for open
    said_severity: Severity = Severity.INFO  # in that notice
    said_joined: int = 0  # in that notice
    opened_as: Severity = Severity.WARNING  # severity at opening; it only rises while the alert is open
    quiet: float | None = None  # event time of the first clean look since `last_seen`
    scope: str = ""  # as in `Look`
    broken: bool = False  # as of a `Symptom`
    since: float = 0.0  # event time at which the change began, as far as its symptoms know
    relapses: int = 0  # times it came back soon after it resolved
    leader: str = ""  # key of the alert that this one is a member of, and told with
    members: tuple[Member, ...] = ()  # open ones that this alert leads, ranked, the first 50
    joined: int = 0  # members it ever had
    inhibited: str = ""  # key of the alert whose cause explains this one
    muted: str = ""  # by which rule or verdict, in words
    publicity: bool = False  # a rule says that the world will see it: it comes first
    deadline: float | None = None  # event time by which a person must rule, or what is unintended be mended
    verdict: Verdict | None = None  # the last on this alert, none after it was revoked
    before: Verdict | None = None  # the last on the same thing, of an alert before this one
    examples: tuple[str, ...] = ()  # ids of events that showed it most clearly at the last look

    @property
    def look(self) -> Look:
        """The look that keeps it open, or resolves it."""
        return Look(self.model, self.check, self.scope)

    @property
    def silent(self) -> bool:
        """Whether it is not told of by itself, though it may be open."""
        return bool(self.leader or self.inhibited or self.muted)

    @property
    def firing(self) -> bool:
        """Whether receivers should hold it for open."""
        return self.resolved is None and not self.silent

    def document(self) -> dict[str, Any]:
        """Plain JSON, times in RFC 3339, null for a number that is not finite."""
        return {
            "key": self.key,
            "model": self.model,
            "check": self.check,
            "column": self.column,
            "scope": self.scope,
            "severity": self.severity.value,
            "started": rfc3339(self.started),
            "last_seen": rfc3339(self.last_seen),
            "resolved": None if self.resolved is None else rfc3339(self.resolved),
            "firing": self.firing,
            "deadline": None if self.deadline is None else rfc3339(self.deadline),
            "text": self.text,
            "score": _finite(self.score),
            "limit": _finite(self.limit),
            "facts": {name: fact if isinstance(fact, str) else _finite(fact) for name, fact in self.facts.items()},
            "examples": list(self.examples),
            "members": [{"key": m.key, "column": m.column, "text": m.text} for m in self.members],
            "joined": self.joined,
            "relapses": self.relapses,
            "publicity": self.publicity,
            "inhibited": self.inhibited,
            "muted": self.muted,
            "verdict": None if self.verdict is None else _ruled(self.verdict),
            "before": None if self.before is None else _ruled(self.before),
        }


class Notice(msgspec.Struct, frozen=True):
    """One transition of an alert, on its way to the destinations. A repeat after a crash has the same id."""

    id: str
    transition: Transition
    alert: Alert

    def document(self) -> dict[str, Any]:
        """What receivers are told: plain JSON."""
        return {"id": self.id, "transition": self.transition.value, **self.alert.document()}


def _ruled(verdict: Verdict) -> dict[str, str]:
    return {"id": verdict.id, "ruling": verdict.ruling.value, "by": verdict.by, "why": verdict.why}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def rfc3339(time: float) -> str:
    """UTC seconds as text, to the millisecond; an absurd event time is drawn to the year 1970 or 9999.

    >>> rfc3339(0.5), rfc3339(1e300)
    ('1970-01-01T00:00:00.500Z', '9999-12-31T23:59:59.000Z')
    """
    at = datetime.fromtimestamp(min(max(time, 0.0), 253402300799.0), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def notice_id(alert: Alert) -> str:
    """Made from causes alone: the same transition has the same id after a crash and in a replay."""
    return hashlib.sha256(f"{alert.key}|{alert.started!r}|{alert.serial}".encode()).hexdigest()[:32]
