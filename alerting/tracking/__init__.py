"""Where runs are written, one module each: frozen options with `open()`, which gives a `Sink` of reports."""

from __future__ import annotations

from alerting.tracking.clearml import ClearMl
from alerting.tracking.mlflow import Mlflow

TrackingOptions = Mlflow | ClearMl

TRACKERS: dict[str, type[TrackingOptions]] = {"mlflow": Mlflow, "clearml": ClearMl}
