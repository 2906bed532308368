"""Destinations of notices, one module each: frozen options with `open()`, and what it returns with `send`, `close`.

`open` is given the address at which people reach the daemon's page, to link to; empty where nobody knows it.
"""

from __future__ import annotations

from alerting.sinks.alertmanager import Alertmanager
from alerting.sinks.email import Email
from alerting.sinks.kafka import Kafka
from alerting.sinks.log import Log
from alerting.sinks.pagerduty import PagerDuty
from alerting.sinks.slack import Slack
from alerting.sinks.webhook import Webhook

SinkOptions = Log | Webhook | Alertmanager | Slack | PagerDuty | Email | Kafka

SINKS: dict[str, type[SinkOptions]] = {
    "log": Log,
    "webhook": Webhook,
    "alertmanager": Alertmanager,
    "slack": Slack,
    "pagerduty": PagerDuty,
    "email": Email,
    "kafka": Kafka,
}
