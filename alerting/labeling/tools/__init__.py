"""Labeling tools, live: one module each, frozen options with `open()`, which gives a `Tool`."""

from __future__ import annotations

from alerting.labeling.tools.cvat import Cvat
from alerting.labeling.tools.label_studio import LabelStudio
from alerting.labeling.tools.s3 import S3Bucket

ToolOptions = LabelStudio | Cvat | S3Bucket

TOOLS: dict[str, type[ToolOptions]] = {"label_studio": LabelStudio, "cvat": Cvat, "s3": S3Bucket}
