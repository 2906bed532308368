"""Notices to Prometheus Alertmanager (API v2), which forgets an alert unless it is told again.

Alertmanager knows an alert by its full label set, so labels hold identity alone: no score, no time. Each member of a
cluster is told everything, as members do not pass alerts on to each other.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from alerting.alert import Alert, Seconds, Severity, rfc3339
from alerting.deliver import Undelivered
from alerting.outbox import Item, notice_in
from alerting.sinks.http import Endpoint
from alerting.text import details

_log = logging.getLogger(__name__)

_POST = 200  # alerts in a post: 1,000 open ones of 1 KB go in five
_LASTS = 4  # resends an alert survives without us; Prometheus uses the same number (rules/alerting.go)

Wire = dict[str, Any]


class Alertmanager(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="alertmanager"):
    """Keeps the open alerts firing in Alertmanager, and resolves them there.

    A notice counts as delivered when one member took it; the others catch up with the next resend. Event time that is
    ahead of the clock is drawn back to the clock, as Alertmanager takes an end in the future for a firing alert.
    """

    urls: Annotated[
        tuple[Annotated[str, Meta(pattern="^https?://")], ...],
        Meta(min_length=1, description="Address of every member of the cluster, never of a balancer before it."),
    ]
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "alertmanager"
    labels: Annotated[
        dict[Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$")], str],
        Meta(description="Labels added to each alert. Changing them makes other alerts of those that are open."),
    ] = {}
    resend: Annotated[
        Seconds, Meta(ge=1, description="How often open alerts are sent again; four missed ones end them.")
    ] = 60.0
    headers: Annotated[dict[str, str], Meta(description="Headers added to each post, such as Authorization.")] = {}
    private: Annotated[
        bool, Meta(description="Whether a member may have a private address or loopback; metadata never may be.")
    ] = True
    timeout: Annotated[Seconds, Meta(gt=0, le=60, description="Longest time for one post, answer included.")] = 5.0
    ca: Annotated[str, Meta(description="PEM file of trusted authorities; empty means those of the system.")] = ""

    def __repr__(self) -> str:
        return f"Alertmanager(name={self.name!r})"  # addresses and headers may hold secrets

    def open(self, home: str = "") -> AlertmanagerSink:
        """The live destination; ValueError for a URL that makes no sense, OSError for a CA file that cannot be read."""
        return AlertmanagerSink(self, home)


class AlertmanagerSink:
    """The opened `Alertmanager`."""

    def __init__(self, options: Alertmanager, home: str) -> None:
        self._home = home
        self.resend = options.resend
        self._labels = options.labels
        self._members = [
            Endpoint(
                url.rstrip("/") + "/api/v2/alerts",
                options.headers,
                options.timeout,
                options.ca,
                private=options.private,
            )
            for url in options.urls
        ]
        self._failing: set[str] = set()

    def send(self, items: Sequence[Item]) -> None:
        now = time.time()
        # Alertmanager takes levels, not transitions: only an alert's last state counts. After a crash the same opening
        # and resolution come again together; posted one by one, the opening could fire what is long resolved.
        last = {alert.key: alert for alert in (notice_in(item).alert for item in items)}
        self._post([w for alert in last.values() for w in (*self._outgrown(alert, now), self._wire(alert, now))])

    def refresh(self, alerts: Sequence[Alert], now: float) -> None:
        """Tell all `alerts` again that a notice told of; `now` is the clock, UTC seconds."""
        told = [self._wire(alert, now) for alert in alerts if alert.serial]
        for i in range(0, len(told), _POST):
            self._post(told[i : i + _POST])

    def close(self) -> None:
        """Connections last one post."""

    def _wire(self, alert: Alert, now: float) -> Wire:
        starts = min(alert.started, now)
        ended = alert.said if alert.resolved is None else alert.resolved  # silenced by its last notice, or resolved
        ends = now + _LASTS * self.resend if alert.firing else max(starts, min(ended, now))
        return {
            **({"generatorURL": self._home} if self._home else {}),
            "labels": self._identity(alert, alert.severity),
            "annotations": _annotations(alert),
            "startsAt": rfc3339(starts),
            "endsAt": rfc3339(ends),
        }

    def _outgrown(self, alert: Alert, now: float) -> Iterable[Wire]:
        """Resolutions of the milder label sets the alert had before its severity rose."""
        for severity in Severity:
            if alert.opened_as.rank <= severity.rank < alert.severity.rank:
                yield {
                    "labels": self._identity(alert, severity),
                    "startsAt": rfc3339(min(alert.started, now)),
                    "endsAt": rfc3339(now),
                }

    def _identity(self, alert: Alert, severity: Severity) -> dict[str, str]:
        return {
            "alertname": _camel(alert.check),
            "severity": severity.value,
            "model": alert.model,
            "check": alert.check,
            "column": alert.column,
            **_part(alert),
            **self._labels,
        }

    def _post(self, alerts: Sequence[Wire]) -> None:
        body = msgspec.json.encode(alerts)
        errors = []
        for member in self._members:
            try:
                member.post(body)
            except Undelivered as error:
                errors.append(error)
                if member.name not in self._failing:
                    _log.warning("Alertmanager member does not take alerts: %s", error)
                self._failing.add(member.name)
            else:
                self._failing.discard(member.name)
        if len(errors) == len(self._members):
            # Where one member is in trouble and another refuses, it is too early to call the payload bad.
            raise next((error for error in errors if error.retry), errors[0])


def _part(alert: Alert) -> dict[str, str]:
    """`slice` or `version`, where the alert is of a part of the model's rows."""
    kind, _, name = alert.scope.partition(":")
    return {kind: name} if kind else {}


def _annotations(alert: Alert) -> dict[str, str]:
    subject = f"column {alert.column} of {alert.model}" if alert.column else alert.model
    subject += "".join(f", {kind} {name}," for kind, name in _part(alert).items())
    annotations = {
        "summary": f"Check {alert.check} finds {subject} outside its limits.",
        "description": details(alert),
        "score": f"{alert.score:.6g}",
        "limit": f"{alert.limit:.6g}",
        "last_seen": rfc3339(alert.last_seen),
    }
    # One annotation for all: names of facts need not be valid names of annotations.
    return annotations | ({"facts": json.dumps(alert.facts, sort_keys=True)} if alert.facts else {})


def _camel(check: str) -> str:
    """Alert name of a check.

    >>> _camel("mean_shift"), _camel("psi-1h")
    ('DriftdMeanShift', 'DriftdPsi1h')
    """
    return "Driftd" + "".join(word[:1].upper() + word[1:] for word in re.split(r"[^0-9A-Za-z]+", check))
