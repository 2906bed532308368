"""Blocking calls, such as those of the label queue, kept off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from alerting.labeling.queue import QueueError
from monitor.api.problem import Problem

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4  # a queue makes one move at a time, or waits for its server: more would only hold more memory
WAITING = 64  # calls that wait for a thread; who comes then is told to come again, so a dead server holds nobody long
_AGAIN = 5.0  # seconds


class Pool:
    """A few threads, and a bounded number of calls that wait for one. `run` is for one event loop."""

    def __init__(self, name: str = "labels", threads: int = THREADS, waiting: int = WAITING) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._name, self._most = name, threads + waiting
        self._inside = 0

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call returns. Its errors are told as those of a queue: 404 no such task, 422 what was given is
        refused, 503 the queue is away."""
        if self._inside >= self._most:
            raise Problem(503, f"too many wait already ({self._name})", after=_AGAIN)
        self._inside += 1
        try:
            return await asyncio.wrap_future(self._threads.submit(call, *args, **kwargs))
        except QueueError as error:
            if error.retry:
                raise Problem(503, str(error), after=_AGAIN) from error
            raise Problem(422, str(error)) from error
        except KeyError as error:
            raise Problem(404, str(error.args[0])) from error
        except ValueError as error:
            raise Problem(422, str(error)) from error
        finally:
            self._inside -= 1

    def close(self) -> None:
        """Calls that have not begun are forgotten."""
        self._threads.shutdown(wait=False, cancel_futures=True)
