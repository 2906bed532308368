"""CloudEvents 1.0: the envelope of what we tell over Kafka and HTTP.

Binary mode, the default, leaves the data as the body and puts the attributes into headers; structured mode is one JSON
document. The id is made of causes, so a consumer that saw it before drops the repeat.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from alerting.alert import Notice, Transition, rfc3339

Mode = Literal["binary", "structured"]

_JSON = "application/json"
_WHOLE = "application/cloudevents+json; charset=UTF-8"
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")  # what a header holds as it is


class Type(StrEnum):
    """What happened; `dataschema` is derived from it."""

    ALERT_FIRING = "io.driftd.alert.firing"
    ALERT_RESOLVED = "io.driftd.alert.resolved"
    ALERT_VERDICT = "io.driftd.alert.verdict"
    SAMPLING_REQUESTED = "io.driftd.sampling.requested"
    RETRAINING_REQUESTED = "io.driftd.retraining.requested"
    RETRAINING_COMPLETED = "io.driftd.retraining.completed"


class Wire(NamedTuple):
    """An event as a protocol carries it."""

    headers: dict[str, str]
    body: bytes


class CloudEvent(msgspec.Struct, frozen=True):
    """One event about a model."""

    id: str
    type: Type
    source: str  # a URI reference, such as /<namespace>/<deployment>
    model: str  # its subject and its partition key
    time: float  # UTC seconds
    data: dict[str, Any]  # plain JSON

    def http(self, mode: Mode = "binary") -> Wire:
        """As a POST carries it. Characters that a header cannot hold are percent-encoded, as the HTTP binding says."""
        if mode == "structured":
            return Wire({"Content-Type": _WHOLE}, self._document())
        attributes = {f"ce-{name}": quote(value, safe=_PLAIN) for name, value in self._attributes().items()}
        return Wire({"Content-Type": _JSON, **attributes}, msgspec.json.encode(self.data))

    def kafka(self, mode: Mode = "binary") -> Wire:
        """As a record carries it, whose key is the model; header values are UTF-8."""
        if mode == "structured":
            return Wire({"content-type": _WHOLE}, self._document())
        attributes = {f"ce_{name}": value for name, value in self._attributes().items()}
        return Wire({"content-type": _JSON, **attributes}, msgspec.json.encode(self.data))

    def _document(self) -> bytes:
        return msgspec.json.encode({**self._attributes(), "datacontenttype": _JSON, "data": self.data})

    def _attributes(self) -> dict[str, str]:
        kind = self.type.removeprefix("io.driftd.").partition(".")[0]
        named = {"subject": self.model, "partitionkey": self.model} if self.model else {}  # neither may be empty
        return {
            "specversion": "1.0",
            "id": self.id,
            "type": self.type.value,
            "source": self.source,
            "time": rfc3339(self.time),
            "dataschema": f"urn:driftd:{kind}:1",
            **named,
        }


def of_notice(notice: Notice, source: str) -> CloudEvent:
    """An alert's transition; its time is event time."""
    alert = notice.alert
    if notice.transition is Transition.VERDICT:
        kind = Type.ALERT_VERDICT
    else:
        kind = Type.ALERT_FIRING if alert.firing else Type.ALERT_RESOLVED
    return CloudEvent(notice.id, kind, source, alert.model, alert.said, notice.document())
