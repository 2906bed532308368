"""Retraining: when to ask for it, and what became of a request."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Step(StrEnum):
    """What was done with a request."""

    CONFIRMED = "confirmed"
    STOPPED = "stopped"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


class Word(msgspec.Struct, frozen=True, kw_only=True, tag="retraining"):
    """A person's or a trainer's word on a request. It travels through the exchange, so a replay repeats it."""

    request: str
    step: Step
    by: str
    at: float  # UTC seconds of the clock
    why: str = ""
    version: str = ""  # of the model that came of it
    run: str = ""  # the trainer's own name of its run
