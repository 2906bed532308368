"""Labeling tools, live: one module each, frozen options with `open()`, which gives a `Tool`."""

from __future__ import annotations

from alerting.labeling.tools.label_studio import LabelStudio

ToolOptions = LabelStudio

TOOLS: dict[str, type[ToolOptions]] = {"label_studio": LabelStudio}
