"""A child of the daemon: takes one job from the socket whose number is its argument, and ends with the daemon."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys

from monitor.committee.fetch import Unusable, fetch
from monitor.committee.wire import Answers, FetchJob, Loaded, Refusal, Rows, ScoreJob, receive, send

_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def main() -> None:
    """Fetches, or loads and answers until the socket closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    peer = socket.socket(fileno=int(sys.argv[1]))
    job = receive(peer, FetchJob | ScoreJob)
    if isinstance(job, FetchJob):
        send(peer, fetch(job))
    else:
        _score(peer, job)


def _score(peer: socket.socket, job: ScoreJob) -> None:
    _confine(job.memory)
    try:
        from monitor.committee.score import Committee

        committee = Committee(job)
    except Unusable as error:
        send(peer, Loaded(refusal=Refusal(error.cause, str(error))))
        return
    except MemoryError:
        send(peer, Loaded(refusal=Refusal("memory", f"needs more than {job.memory} bytes")))
        return
    except Exception as error:  # noqa: BLE001 - torch raises what it likes for a file it does not understand
        send(peer, Loaded(refusal=Refusal("unreadable", f"{type(error).__name__}: {error}")))
        return
    send(peer, Loaded(committee.inputs, committee.classes))
    while True:
        try:
            asked = receive(peer, Rows)
        except ConnectionError:
            return
        send(peer, Answers(committee.answer(asked.keys, asked.inputs)))


def _confine(memory: int) -> None:
    """Its own memory, not its address space: torch's CUDA libraries map 3 GB that are never touched."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)


if __name__ == "__main__":
    main()
