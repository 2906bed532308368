"""Alerts, and what people say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from alerting.alert import Alert, Ruling, Verdict
from detectors.units import parse_seconds
from monitor.api.daemon import Daemon
from monitor.api.endpoint import Call, Endpoint
from monitor.api.problem import Problem
from monitor.decode.times import parse_time
from monitor.exchange import Told
from monitor.people import Right
from monitor.snapshot import ModelView, VerdictView

_GIVEN = 1000  # verdicts remembered until the judge shows them
_WORD = Meta(max_length=64)


class Which(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts."""

    state: Annotated[
        Literal["open", "resolved", "all"], Meta(description="Resolved ones are kept for a quarter of an hour.")
    ] = "open"
    model: Annotated[str, Meta(description="Of this model alone.")] = ""


class Alerts(msgspec.Struct, frozen=True):
    """Alerts as they were after the last judged window; times are event time, UTC seconds."""

    alerts: tuple[Alert, ...]


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person says of an alert."""

    ruling: Annotated[
        Ruling | None,
        Meta(description="What it was; may be left out where an earlier verdict is confirmed or revoked."),
    ] = None
    why: Annotated[str, Meta(max_length=2000, description="For whoever reads it later.")] = ""
    until: Annotated[
        str,
        Meta(
            max_length=40,
            description="Of a false alarm: how long the same is not told of, such as `7d`, or until when, such as "
            "`2026-12-01T00:00:00Z`, in event time. Empty: as configured.",
        ),
    ] = ""
    confirms: Annotated[str, _WORD, Meta(description="Id of the verdict that this one repeats.")] = ""
    revokes: Annotated[str, _WORD, Meta(description="Id of the verdict that this one takes back.")] = ""


class OfAlert(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which verdicts."""

    key: Annotated[str, Meta(description="On this alert alone.")] = ""
    model: Annotated[str, Meta(description="On alerts of this model alone.")] = ""


class Ruled(msgspec.Struct, frozen=True):
    """A verdict as the judge took it. `driftd replay --told` reads it back."""

    id: str
    model: str  # as the exchange calls it: empty where one model takes every event
    verdict: Verdict
    time: float  # event time at which it was taken, UTC seconds
    outcome: str  # what came of it, in words
    confirmed: str  # id of the verdict that was the second word
    revoked: str  # id of the verdict that took it back


class Verdicts(msgspec.Struct, frozen=True):
    """Verdicts, the newest of each model first."""

    verdicts: tuple[Ruled, ...]


class Rulings:
    """Takes verdicts in. Used by one thread. `clock` gives UTC seconds."""

    def __init__(self, daemon: Daemon, clock: Callable[[], float]) -> None:
        self._daemon = daemon
        self._clock = clock
        self._given: dict[str, Verdict] = {}

    def endpoints(self) -> list[Endpoint]:
        """Of alerts and verdicts."""
        return [
            Endpoint("GET", "/v1/alerts", self.alerts_list, "The alerts.", Alerts, query=Which),
            Endpoint("GET", "/v1/verdicts", self.verdicts_list, "The verdicts.", Verdicts, query=OfAlert),
            Endpoint(
                "POST",
                "/v1/alerts/{key:path}/verdict",
                self.verdict_give,
                "Say what an alert was. It counts once the judge has come to it, in the order of the windows.",
                Verdict,
                may=(Right.VERDICT,),
                body=Said,
                example=Said(Ruling.FALSE_ALARM, "the lamp was changed", until="7d"),
                status=202,
                problems={404: "No such alert.", 409: "It contradicts what was said before."},
            ),
        ]

    async def alerts_list(self, call: Call) -> Alerts:
        which: Which = call.query
        return Alerts(
            tuple(
                alert
                for alert in self._daemon.alerts()
                if which.state in ("all", "open" if alert.resolved is None else "resolved")
                and which.model in ("", alert.model)
            )
        )

    async def verdicts_list(self, call: Call) -> Verdicts:
        which: OfAlert = call.query
        models = [view for view in self._daemon.snapshot().models if which.model in ("", view.model)]
        return Verdicts(
            tuple(
                _ruled(self._daemon.exchange_name(view.model) or "", v)
                for view in models
                for v in view.verdicts
                if which.key in ("", v.key)
            )
        )

    async def verdict_give(self, call: Call) -> Verdict:
        return self.give(call.path["key"], call.body, call.by, call.id)

    def give(self, key: str, said: Said, by: str, name: str) -> Verdict:
        """Tells the judge of a verdict with this id. Problem 404, 409 or 422 says why not; `Full` passes through."""
        if name in self._given:
            return self._given[name]
        view = self._model(key)
        ruling = said.ruling
        for earlier in filter(None, (said.confirms, said.revokes)):
            first = self._earlier(key, view, earlier)
            ruling = ruling or first
            if earlier == said.confirms and first is not ruling:
                raise Problem(409, f"verdict {earlier} said {first.value!r}, which {ruling.value!r} does not confirm")
        if ruling is None:
            raise Problem(422, f"`ruling` is missing, one of: {', '.join(Ruling)}")
        verdict = Verdict(
            id=name,
            key=key,
            ruling=ruling,
            by=by,
            at=self._clock(),
            why=said.why,
            until=_until(said, ruling, view),
            confirms=said.confirms,
            revokes=said.revokes,
        )
        model = self._daemon.exchange_name(view.model)
        if model is None:
            raise Problem(404, f"no model {view.model!r}")
        self._daemon.tell([Told(name, model, verdict)])
        self._given[name] = verdict
        if len(self._given) > _GIVEN:
            del self._given[next(iter(self._given))]
        return verdict

    def known(self, key: str) -> tuple[Alert | None, tuple[VerdictView, ...]]:
        """The alert, if it is open or was until lately, and the verdicts on it, newest first."""
        alert = next((alert for alert in self._daemon.alerts() if alert.key == key), None)
        models = self._daemon.snapshot().models
        return alert, tuple(v for view in models for v in view.verdicts if v.key == key)

    def given(self, name: str, key: str) -> bool:
        """Whether a verdict with this id was given on this alert since the start."""
        return name in self._given and self._given[name].key == key

    def _model(self, key: str) -> ModelView:
        """The model of an alert that is open, was until lately, or was ruled on."""
        models = {view.model: view for view in self._daemon.snapshot().models}
        for alert in self._daemon.alerts():
            if alert.key == key and alert.model in models:
                return models[alert.model]
        for view in models.values():
            if any(verdict.key == key for verdict in view.verdicts):
                return view
        raise Problem(404, f"no alert {key[:200]!r}; `GET /v1/alerts` lists them")

    def _earlier(self, key: str, view: ModelView, name: str) -> Ruling:
        """The ruling of a verdict on this alert that still stands."""
        shown = next((v for v in view.verdicts if v.id == name), None)
        found = shown or self._given.get(name)
        if found is None or found.key != key:
            raise Problem(409, f"there is no verdict {name!r} on this alert")
        if shown is not None and shown.revoked:
            raise Problem(409, f"verdict {name} was taken back by {shown.revoked}")
        return Ruling(found.ruling)


def _ruled(model: str, v: VerdictView) -> Ruled:
    verdict = Verdict(
        id=v.id, key=v.key, ruling=Ruling(v.ruling), by=v.by, at=v.at, why=v.why, until=v.until, confirms=v.confirms,
        revokes=v.revokes,
    )  # fmt: skip
    return Ruled(v.id, model, verdict, v.time, v.outcome, v.confirmed, v.revoked)


def _until(said: Said, ruling: Ruling, view: ModelView) -> float | None:
    """In event time, which replays and catching up set apart from the clock."""
    if not said.until:
        return None
    if ruling is not Ruling.FALSE_ALARM:
        raise Problem(422, "`until` belongs to a false alarm")
    until = parse_time(said.until)
    if math.isnan(until):
        try:
            until = view.window_end + parse_seconds(said.until)
        except ValueError as error:
            raise Problem(422, f"`until`: {error}, or a time such as 2026-12-01T00:00:00Z") from error
    if not until > view.window_end:
        raise Problem(422, "`until` lies in the past of the events")
    return until
