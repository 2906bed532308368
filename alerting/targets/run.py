"""What became of the run that a request started, as the target that runs it tells.

What a reader would get wrong: a run is found by the request's id, which is in its name, and not by an answer to the
post that started it. So nothing has to be kept, and a crash between that answer and our checkpoint loses no run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from alerting.deliver import Undelivered
from alerting.retraining import Request
from alerting.sinks.http import Endpoint

T = TypeVar("T")
_LARGEST = 4 << 20  # bytes of an answer: fifty runs of a GitHub repository are one of them
_WORDS = 500  # characters of a run's last words


class State(StrEnum):
    """Where a run stands, in the words of no target."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Run(NamedTuple):
    """A run as it stands."""

    state: State
    name: str  # the target's own
    why: str = ""  # its last words, of one that failed


Find = Callable[[Request], Run | None]  # None: the target knows of no run; raises Undelivered


def answer(
    endpoint: Endpoint, path: str, kind: type[T], headers: Mapping[str, str] | None = None, *, absent: bool = True
) -> T:
    """What a GET of this path gives. A 404 is decoded as well where what is asked for may be `absent`."""
    body = endpoint.ask("GET", path, None, headers, largest=_LARGEST, accepted=(404,) if absent else ())
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Undelivered(f"{endpoint.name}: the answer about a run is not what it should be", retry=True) from error


def run(
    said: str, name: str, why: str = "", *, running: Collection[str], done: Collection[str], failed: Collection[str]
) -> Run | None:
    """The run whose target calls its state `said`; None where it says nothing, queued where it is another word.

    >>> run("Error", "driftd-1", "no such image", running={"Running"}, done={"Succeeded"}, failed={"Failed", "Error"})
    Run(state=<State.FAILED: 'failed'>, name='driftd-1', why='no such image')
    """
    if not said:
        return None
    if said in failed:
        return Run(State.FAILED, name, (why or said)[:_WORDS])
    return Run(State.DONE if said in done else State.RUNNING if said in running else State.QUEUED, name)
