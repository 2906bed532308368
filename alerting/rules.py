"""Rules of the configuration: how grave an alert is, by when someone must rule on it, what is not told at all."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from alerting.alert import Seconds, Severity

Pattern = Annotated[str, Meta(examples=["input.*"])]


class Matchable(Protocol):
    """What a rule can be about: a symptom, or an alert."""

    @property
    def model(self) -> str: ...
    @property
    def check(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def scope(self) -> str: ...


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts; all that is given must match. `*` stands for any text, `?` for a letter.

    >>> from alerting.alert import Look, Symptom
    >>> found = Symptom("shelf", "psi", "input.x", 0, 1, 0.4, 0.2, "x moved", scope="slice:acme")
    >>> When(column="input.*", scope="slice:*").matches(found), When(check="missing").matches(found)
    (True, False)
    """

    model: Annotated[Pattern, Meta(description="Model.")] = "*"
    check: Annotated[Pattern, Meta(description="Check.")] = "*"
    column: Annotated[Pattern, Meta(description="Column; the empty name is the model as a whole.")] = "*"
    scope: Annotated[
        Pattern, Meta(description="Part of the rows, such as `slice:young` or `version:*`; the empty name is all rows.")
    ] = "*"

    def matches(self, found: Matchable) -> bool:
        """Whether a rule with this `when` is about it."""
        return (
            (self.model == "*" or fnmatchcase(found.model, self.model))
            and (self.check == "*" or fnmatchcase(found.check, self.check))
            and (self.column == "*" or fnmatchcase(found.column, self.column))
            and (self.scope == "*" or fnmatchcase(found.scope, self.scope))
        )


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an alert is to those who are told."""

    when: Annotated[When, Meta(description="Which alerts it is about.")] = When()
    severity: Annotated[Severity | None, Meta(description="Takes the place of the check's; empty: leaves it.")] = None
    sla: Annotated[
        Annotated[Seconds, Meta(gt=0)] | None,
        Meta(description="Time in which someone must give a verdict, or acknowledge; empty: no such time."),
    ] = None
    escalate: Annotated[Severity, Meta(description="Severity once that time has passed.")] = Severity.CRITICAL
    publicity: Annotated[
        bool, Meta(description="The world will see it: told first, and first to have a place under `max_open`.")
    ] = False


class Mute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Alerts that open and are shown, and that nobody is told of."""

    when: Annotated[When, Meta(description="Which alerts it is about.")] = When()
    until: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Event time at which it ends, such as `2026-12-24T08:00:00Z`; empty: never."),
    ] = None
    why: Annotated[str, Meta(max_length=200, description="Shown beside the alert.")] = ""

    def holds(self, found: Matchable, now: float) -> bool:
        """Whether it keeps this silent at `now`, event time."""
        return (self.until is None or now < self.until.timestamp()) and self.when.matches(found)
