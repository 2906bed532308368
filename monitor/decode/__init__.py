"""Decoders: the bytes of a record to events, whatever protocol its producer speaks.

Each kind is a frozen options struct; `open()` gives the live `Decoder`. CloudEvents wrapping, gzip and the headers of
KServe, Seldon and MLServer are understood by every kind: the kind says what the body is.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from detectors.units import Bytes
from monitor.decode.reading import Reading
from monitor.event import Decoder


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    model: Annotated[str, Meta(description="Model of events whose body and headers name none.")] = ""
    max_bytes: Annotated[
        Bytes, Meta(description="Largest body, also once a gzip body is unpacked; a larger one is set aside.", ge=1)
    ] = 1 << 20

    def open(self) -> Decoder:
        """The live decoder; one thread may use it."""
        return Reading(str(self.__struct_config__.tag), self.model, self.max_bytes)


class Auto(_Options, frozen=True, tag="auto"):
    """Headers first, then the look of each body: our own events and labels, V1, V2, CloudEvents, Seldon."""


class Own(_Options, frozen=True, tag="own"):
    """Our own JSON events and late labels (`docs/event.schema.json`), and SageMaker's ground-truth lines."""


class V1(_Options, frozen=True, tag="v1"):
    """TensorFlow Serving's and KServe's V1 bodies; MLflow's dataframe_split and dataframe_records."""


class V2(_Options, frozen=True, tag="v2"):
    """Open Inference Protocol bodies of KServe, Triton, MLServer and Seldon Core 2, the binary extension included."""


class CloudEvents(_Options, frozen=True, tag="cloudevents"):
    """CloudEvents 0.3 and 1.0, binary or structured, around a body of any kind."""


class Seldon(_Options, frozen=True, tag="seldon"):
    """Seldon Core 1's request logger: its own protocol, V1 or V2 as the model speaks, and feedback as labels."""


DECODERS: dict[str, type[_Options]] = {
    "auto": Auto,
    "own": Own,
    "v1": V1,
    "v2": V2,
    "cloudevents": CloudEvents,
    "seldon": Seldon,
}
