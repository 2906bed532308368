"""Destinations of notices, one module each: frozen options with `open()`, and what it returns with `send`, `close`."""

from __future__ import annotations

from alerting.sinks.alertmanager import Alertmanager
from alerting.sinks.log import Log
from alerting.sinks.webhook import Webhook

SinkOptions = Log | Webhook | Alertmanager

SINKS: dict[str, type[SinkOptions]] = {"log": Log, "webhook": Webhook, "alertmanager": Alertmanager}
