"""A configured model as the stages take it: names resolved, spans in base windows, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from detectors.checks import DEFAULT_CHECKS, LABEL_CHECKS, VERSION_CHECKS, DefaultCheck
from detectors.checks.evidence import EDetector
from detectors.checks.quality import Constant, Missing
from detectors.checks.window import WholeWindow
from detectors.core import ColumnSpec, Kind, Role, Scorer
from detectors.scorers.committee import Committee
from monitor.config import CheckOptions, Config, ModelOptions, ReferenceOptions
from monitor.event import Schema
from monitor.labels import SCHEMA as OUTCOMES
from monitor.labels import LabelOptions, outcomes_of
from monitor.renewal import Renewal
from monitor.sampling import SamplingOptions
from monitor.scopes import SHARE, Scopes
from monitor.versions import LEARN, versions_of
from monitor.versions import SCHEMA as COMPARED
from monitor.watch import Check

if TYPE_CHECKING:
    from monitor.committee.host import Host

ANY = "default"  # what the model that takes every event is called
MEMBERS = ColumnSpec("members", Kind.VECTOR, Role.DERIVED)
SERVER_LEARNS = 3600.0  # seconds of scrapes that a server's reference is learned from
# of what rules say, a new word or a value out of range is told of all rows already
_OF_SCOPES = (EDetector, WholeWindow, Missing, Constant)


class Plan:
    """What `monitor.ingest` and `monitor.judge` ask of a model."""

    def __init__(
        self,
        options: ModelOptions,
        window: float,
        hosted: Host | None = None,
        checks: Sequence[DefaultCheck] = DEFAULT_CHECKS,
    ) -> None:
        self._options = options
        self._default = checks
        self._hosted = hosted
        self._window = window
        self.name = options.name or ANY  # as metrics and alerts show it
        self.learn = options.reference.learn
        self.path = options.reference.path or None  # empty: a variable that was not set
        self.dataset = self.name
        self.declared = options.columns
        self.classes = options.classes or ()  # by their place in a list of scores
        sampling = options.sampling
        self.sampling: SamplingOptions | None = sampling if sampling is not None and sampling.per_hour else None
        self.accuracy = options.accuracy
        self.retraining = None if self.sampling is None else options.retraining
        self.compare = options.compare
        self.protected = {name: (options.slices or {})[name] for name in self.compare.protected} if self.compare else {}
        self.scopes = Scopes(options.slices or {}, options.watched)
        self.labels = options.labels

    def scorers(self, schema: Schema) -> Mapping[str, Scorer]:
        """By name; the default ones depend on the columns there are. A hosted committee goes before them all."""
        if self._hosted is None or any(spec.name == MEMBERS.name for spec in schema):
            return self._options.scorers_of(schema)
        found = self._options.scorers_of((*schema, MEMBERS))
        voices = self._hosted.voices
        return {"hosted": self._hosted} | {
            name: replace(scorer, members=voices) if isinstance(scorer, Committee) and not scorer.members else scorer
            for name, scorer in found.items()
        }

    def renewal(self) -> Renewal | None:
        """What its alerts and labels lead to; None where no labels are asked for."""
        if self.retraining is None or self.sampling is None:
            return None
        return Renewal(
            self.name, self.dataset, self.retraining, self.compare, self.sampling.budget.price, self.protected
        )

    @cached_property
    def checks(self) -> Sequence[Check]:
        """The configured checks, or the default ones with spans drawn to the nearest number of base windows."""
        return [_sharing(check, 1.0 - SHARE if self.scopes else 1.0) for check in self._checks]

    @cached_property
    def scope_checks(self) -> Sequence[Check]:
        """Those of each slice and version: the configured ones, or of the default ones what a part may show alone."""
        found = [c for c in self._checks if self._options.checks is not None or isinstance(c.detector, _OF_SCOPES)]
        return [_sharing(check, self.scopes.share) for check in found]

    @cached_property
    def _checks(self) -> Sequence[Check]:
        if self._options.checks is not None:
            return [self._configured(check) for check in self._options.checks]
        return [
            _sharing(Check(d.name, d.detector, tuple(d.columns), self._windows(d.over), d.against), d.share)
            for d in self._default
        ]

    def _configured(self, check: CheckOptions) -> Check:
        return Check(
            check.called, check.detector, check.columns, self._windows(check.over), check.against, check.severity
        )

    def _windows(self, over: float | None) -> int:
        return 1 if over is None else max(1, round(over / self._window))


def _sharing(check: Check, share: float) -> Check:
    """The check with its part of the model's one promise, where it makes one."""
    detector = check.detector
    if share == 1.0 or not isinstance(detector, EDetector | WholeWindow):
        return check
    part = replace(detector, time=detector.time / share, events=round(detector.events / share))
    return replace(check, detector=part, share=check.share * share)


def server_of(model: str) -> str:
    """Name under which the metrics of a model's server are watched."""
    return f"{model}.server" if model else "server"


def plans(config: Config, hosted: Mapping[str, Host] = {}) -> dict[str, Plan]:
    """By the name that events give, "" for the model that takes all others.

    A model whose server is scraped brings another one for what the server says, one whose labels are joined another for
    what becomes of its answers, one whose versions are watched another for how often their answers to one event differ.
    """
    window = config.window.size
    found = {options.name: Plan(options, window, hosted.get(options.name)) for options in config.models}
    for options in config.models:
        if options.model_server is not None:
            reference = ReferenceOptions(learn=max(100, round(SERVER_LEARNS / options.model_server.every)))
            server = ModelOptions(name=server_of(options.name), reference=reference, sampling=None, labels=None)
            found[server.name] = Plan(server, window)
        if options.labels is not None and outcomes_of(options.name) not in found:
            reference = ReferenceOptions(learn=options.labels.learn)
            outcomes = ModelOptions(
                outcomes_of(options.name), reference, OUTCOMES, scorers=(), sampling=None, labels=None
            )
            found[outcomes.name] = Plan(outcomes, window, checks=LABEL_CHECKS)
        if options.watched and versions_of(options.name) not in found:
            reference = ReferenceOptions(learn=LEARN)
            compared = ModelOptions(
                versions_of(options.name), reference, COMPARED, scorers=(), sampling=None, labels=None
            )
            found[compared.name] = Plan(compared, window, checks=VERSION_CHECKS)
    return found


def labelled(models: Mapping[str, Plan]) -> dict[str, LabelOptions]:
    """Those of the models whose late labels are joined."""
    return {
        name: plan.labels for name, plan in models.items() if plan.labels is not None and outcomes_of(name) in models
    }
