"""A configured model as the stages take it: names resolved, spans in base windows, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from detectors.checks import DEFAULT_CHECKS
from detectors.core import Scorer
from monitor.config import CheckOptions, Config, ModelOptions
from monitor.event import Schema
from monitor.judge import Check
from monitor.sampling import SamplingOptions


class Plan:
    """What `monitor.ingest` and `monitor.judge` ask of a model. `name` is "" for the one that takes every event."""

    def __init__(self, options: ModelOptions, window: float) -> None:
        self._options = options
        self._window = window
        self.name = options.name
        self.learn = options.reference.learn
        self.path = options.reference.path
        self.dataset = options.name or "driftd"
        sampling = options.sampling
        self.sampling: SamplingOptions | None = sampling if sampling is not None and sampling.per_hour else None

    def scorers(self, schema: Schema) -> Mapping[str, Scorer]:
        """By name; the default ones depend on the columns there are."""
        return self._options.scorers_of(schema)

    @cached_property
    def checks(self) -> Sequence[Check]:
        """The configured checks, or the default ones with spans drawn to the nearest number of base windows."""
        if self._options.checks is not None:
            return [self._configured(check) for check in self._options.checks]
        return [Check(d.name, d.detector, tuple(d.columns), self._windows(d.over), d.against) for d in DEFAULT_CHECKS]

    def _configured(self, check: CheckOptions) -> Check:
        return Check(
            check.called, check.detector, check.columns, self._windows(check.over), check.against, check.severity
        )

    def _windows(self, over: float | None) -> int:
        return 1 if over is None else max(1, round(over / self._window))


def plans(config: Config) -> dict[str, Plan]:
    """By model name."""
    return {options.name: Plan(options, config.window.size) for options in config.models}
