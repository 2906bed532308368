"""The values of alerting: what was found (`Symptom`, the only input), what is open (`Alert`), what is said (`Notice`)."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """By the names that Prometheus rules use."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


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

    @property
    def key(self) -> str:
        """Identity of the alert it belongs to: nothing that changes from window to window."""
        return f"{self.model}/{self.check}/{self.column}"


class Transition(StrEnum):
    OPENED = "opened"
    UPDATED = "updated"
    RESOLVED = "resolved"


class Alert(msgspec.Struct):
    """An open alert, or one resolved a short while ago. State of the life cycle: plain data."""

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
    serial: int = 0  # transitions so far; makes a notice's id
    resolved: float | None = None
    said: float = 0.0  # event time of the last notice


class Notice(msgspec.Struct, frozen=True):
    """One transition of an alert, on its way to the destinations. A repeat after a crash has the same id."""

    id: str
    transition: Transition
    alert: Alert


def notice_id(alert: Alert) -> str:
    """Made from causes alone: the same transition has the same id after a crash and in a replay."""
    return hashlib.sha256(f"{alert.key}|{alert.started!r}|{alert.serial}".encode()).hexdigest()[:32]
