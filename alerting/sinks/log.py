"""Notices as JSON lines on the process's own log: the destination that needs nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Severity
from alerting.outbox import Item, notice_in

_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.ERROR}

_MEMBERS = 5  # named in a line: 40 of them are 12 KB, more than many log collectors take


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="log"):
    """Writes each notice as one line of JSON, at the level of its severity. Of the alerts that it leads the line names
    the first five, and `more_members` counts the others."""

    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "log"
    logger: Annotated[str, Meta(description="Logger the lines are written to.")] = "driftd.alerts"

    def open(self, home: str = "") -> LogSink:
        """The live destination."""
        return LogSink(logging.getLogger(self.logger))


class LogSink:
    """The opened `Log`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def send(self, items: Sequence[Item]) -> None:
        for notice in map(notice_in, items):
            said = notice.document()
            said["more_members"] = max(len(said["members"]) - _MEMBERS, 0)
            said["members"] = said["members"][:_MEMBERS]
            self._logger.log(_LEVELS[notice.alert.severity], "%s", json.dumps(said))

    def close(self) -> None:
        """Nothing to release."""
