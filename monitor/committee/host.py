"""A committee from the daemon's side: its child is started, asked, ended when it fails, and replaced by a newer one."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import numpy as np

from detectors.core import Batch, Column, Floats, Kind, Mask, vector
from detectors.encode import Undecodable, decode, encode
from monitor.committee.options import CommitteeOptions
from monitor.committee.wire import (
    BATCH,
    Answers,
    Fetched,
    FetchJob,
    Loaded,
    Member,
    Refusal,
    Rows,
    ScoreJob,
    Wanted,
    receive,
    send,
)
from monitor.metrics import Meters
from monitor.plan import ANY
from monitor.store import write_atomically

if TYPE_CHECKING:
    from monitor.config import ModelOptions

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK = 0.5  # seconds between looks whether the child lives
LONGEST_BACKOFF = 60.0  # seconds between starts of a child that keeps dying
SETTLED = 60.0  # seconds a child lives before its death counts as the first
_ACCEPTED = "accepted"

Members = tuple[Member, ...]


class _Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class _Child:
    """A process of `monitor.committee` and the socket to it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._peer, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-m", "monitor.committee", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environ,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, value: Any, kind: type[T], seconds: float) -> T:
        """Its answer. OSError or Undecodable when it is dead, hangs or talks nonsense: it is of no more use then."""
        self._peer.settimeout(seconds)
        send(self._peer, value)
        answer: T = receive(self._peer, kind, seconds)
        return answer

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._peer.close()
        self._process.kill()
        self._process.wait()


class Host:
    """The committee of one model, as a scorer that gives column `members`: chances, members end to end.

    `open` loads it, `watch` keeps it alive and up to date in a thread of its own, `close` ends both. Asking is safe
    from any thread and waits no longer than `limits.batch` for 256 rows. A row has no members (NaN) where an input is
    missing, while no child is ready, and where the child died over its batch; those are not asked again, so a stream
    that is read twice may find them in other rows.
    """

    def __init__(self, model: str, options: CommitteeOptions, cache: Path, meters: Meters) -> None:
        """`cache`: a directory of its own, where accepted files outlive what happens to the originals."""
        self.model = model
        self.voices = options.voices
        self._options, self._cache, self._meters = options, cache, meters
        self._home = os.getpid()
        self._lock = threading.Lock()  # one batch is with the child at a time
        self._child: _Child | None = None
        self._loaded = Loaded()
        self._loading: _Child | None = None  # the one that is being started
        self._accepted: Members = ()  # what is at work, or was before the child died
        self._unfit: Members = ()  # what a child refused lately: it would do so again
        self._told = ""
        self._started, self._backoff, self._not_before = 0.0, 0.0, 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"committee {model}", daemon=True)
        meters.committee_up.labels(model).set(0)

    # -- as a scorer

    def fit(self, rows: Batch) -> Any:
        """How wide its answers are, so that they stay columns while no child is ready."""
        return {"width": self._width} if self._width else None

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        """`members`, where events bring none."""
        width = self._width or (fitted or {}).get("width", 0)
        if "members" in rows.columns or not width:
            return {}
        out = np.full((len(rows), width), np.nan)
        inputs, whole = self._inputs(rows)
        asked = np.flatnonzero(whole)
        for start in range(0, len(asked), BATCH):
            some = asked[start : start + BATCH]
            found = self._ask(rows.keys[some], inputs[some])
            if found is not None and found.shape == (len(some), width):
                out[some] = found
            else:
                self._meters.committee_missed.labels(self.model).inc(len(some))
        return {"members": vector(out)}

    @property
    def _width(self) -> int:
        return self._loaded.classes * self.voices

    def _inputs(self, rows: Batch) -> tuple[Floats, Mask]:
        """What the members are asked with (n, inputs), and which rows have all of it (n,)."""
        parts = []
        for name in self._options.inputs:
            column = rows.get(name)
            if column is None or column.kind not in (Kind.NUMBER, Kind.FLAG, Kind.VECTOR):
                return np.zeros((len(rows), 0)), np.zeros(len(rows), np.bool_)
            parts.append(column.values.reshape(len(rows), -1))
        inputs: Floats = np.concatenate(parts, axis=1)
        return inputs, np.asarray(np.isfinite(inputs).all(axis=1))

    def _ask(self, keys: Any, inputs: Floats) -> Floats | None:
        if os.getpid() != self._home:
            return None  # a fork that tries out deadly records: the socket is not its own
        with self._lock:
            child = self._child
            if child is None or inputs.shape[1] != self._loaded.inputs:
                return None
            try:
                return child.ask(Rows(keys, inputs), Answers, self._options.limits.batch).members
            except (OSError, Undecodable) as error:
                log.warning("the committee of model %s is ended: %s", self.model, _said(error))
                self._drop()
                return None

    # -- its life

    @property
    def refusal(self) -> str:
        """Why the files as they are now are not at work; empty where they are."""
        return self._told

    def open(self) -> None:
        """Loads what is configured, or what was accepted last; takes up to `limits.start` for each."""
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(OSError, Undecodable):
            accepted = decode((self._cache / _ACCEPTED).read_bytes(), Members)
            self._accepted = accepted if len(accepted) == len(self._options.members) else ()
        self._renew()
        self._revive()

    def watch(self) -> None:
        """From now on it is kept alive and up to date."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and the child, one that is still loading included."""
        self._stopping.set()
        while self._thread.is_alive():
            loading = self._loading
            if loading is not None:
                loading.kill()
            self._thread.join(TICK)
        with self._lock:
            self._drop()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stopping.wait(TICK):
            try:
                with self._lock:
                    if self._child is not None and not self._child.alive:
                        log.warning("the committee of model %s died", self.model)
                        self._drop()
                if time.monotonic() - looked >= self._options.poll:
                    self._renew()
                    looked = time.monotonic()
                self._revive()
            except Exception:
                log.exception("the committee of model %s: trying again", self.model)
                self._meters.errors.labels(self._thread.name).inc()
                self._put_off()

    def _drop(self) -> None:
        """Ends the child; the lock is held."""
        if self._child is None:
            return
        self._child.end()
        self._child = None
        self._meters.committee_up.labels(self.model).set(0)
        if time.monotonic() - self._started < SETTLED:
            self._put_off()
        else:
            self._backoff = self._not_before = 0.0

    def _put_off(self) -> None:
        """The next start waits, each time twice as long."""
        self._backoff = min(max(1.0, 2 * self._backoff), LONGEST_BACKOFF)
        self._not_before = time.monotonic() + self._backoff

    def _renew(self) -> None:
        """Fetches what is configured; where that is something new, and loads, it takes over."""
        if self._accepted and self._accepted == self._members([m.sha256 or "" for m in self._options.members]):
            return  # all are pinned: nothing else may come
        try:
            members = self._fetched()
            if members not in (self._accepted, self._unfit):
                self._take_over(members)
        except _Refused as refused:
            self._tell(refused.refusal)

    def _revive(self) -> None:
        """Starts anew what was at work."""
        if self._child is not None or not self._accepted or time.monotonic() < self._not_before:
            return
        try:
            self._take_over(self._accepted)
        except _Refused as refused:
            self._tell(refused.refusal)
            self._put_off()

    def _fetched(self) -> Members:
        options = self._options
        wanted = tuple(Wanted(member.path, member.sha256) for member in options.members)
        job = FetchJob(wanted, str(self._cache), options.limits.file, options.s3)
        child, fetched = self._start(_environ(outside=True), job, Fetched)
        child.end()
        if fetched.refusal is not None:
            raise _Refused(fetched.refusal)
        return self._members(fetched.digests)

    def _members(self, digests: Sequence[str]) -> Members:
        return tuple(
            Member(member.path, digest, member.architecture, member.output == "logits")
            for member, digest in zip(self._options.members, digests, strict=True)
        )

    def _take_over(self, members: Members) -> None:
        """A new child with these members in place of the old one, which works on until it is ready."""
        limits = self._options.limits
        environ = _environ(outside=False, cuda=self._options.device != "cpu", threads=limits.threads)
        job = ScoreJob(
            members, str(self._cache), self._options.passes, self._options.device, limits.memory, limits.threads
        )
        child, loaded = self._start(environ, job, Loaded)
        refusal = loaded.refusal
        if refusal is None and self._loaded.classes not in (0, loaded.classes):
            text = f"{loaded.classes} classes, where the committee before had {self._loaded.classes}"
            refusal = Refusal("unfit", text)
        if refusal is not None:
            child.end()
            self._unfit = members
            raise _Refused(refusal)
        with self._lock:
            old, self._child, self._loaded = self._child, child, loaded
            self._started, self._told = time.monotonic(), ""
        if old is not None:
            old.end()
        self._accept(members)
        self._meters.committee_loads.labels(self.model).inc()
        self._meters.committee_up.labels(self.model).set(1)
        log.info(
            "model %s: a committee of %d, %d numbers in, %d classes out: %s",
            self.model, self.voices, loaded.inputs, loaded.classes, ", ".join(m.sha256[:12] for m in members),
        )  # fmt: skip

    def _start(self, environ: dict[str, str], job: FetchJob | ScoreJob, kind: type[T]) -> tuple[_Child, T]:
        """A new child, and its first answer."""
        self._loading = child = _Child(environ)
        try:
            return child, child.ask(job, kind, self._options.limits.start)
        except (OSError, Undecodable) as error:
            child.end()
            what = "fetching" if isinstance(job, FetchJob) else "loading"
            raise _Refused(Refusal("died", f"{what} ended the process: {_said(error)}")) from error
        finally:
            self._loading = None

    def _accept(self, members: Members) -> None:
        """What a restart goes on with, whatever has become of the originals; other files leave the cache."""
        self._accepted = members
        write_atomically(self._cache / _ACCEPTED, encode(members))
        kept = {_ACCEPTED, *(member.sha256 for member in members)}
        for file in self._cache.iterdir():
            if file.name not in kept:
                file.unlink(missing_ok=True)

    def _tell(self, refusal: Refusal) -> None:
        """Counts each refusal, tells a new one."""
        self._meters.committee_refused.labels(self.model, refusal.cause).inc()
        if refusal.text != self._told:
            stays = "the one at work stays" if self._child is not None else "there is none at work"
            log.error("committee of model %s refused, %s: %s", self.model, stays, refusal.text)
            self._told = refusal.text


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def host_all(models: Iterable[ModelOptions], root: Path, meters: Meters) -> dict[str, Host]:
    """The committees among these models by the model's name, loaded as far as they can be."""
    found = {}
    for model in models:
        if model.committee is not None:
            shown = model.name or ANY
            found[model.name] = Host(shown, model.committee, root / quote(shown, safe=""), meters)
            found[model.name].open()
    return found


@contextmanager
def hosting(models: Iterable[ModelOptions], meters: Meters) -> Iterator[dict[str, Host]]:
    """The same for a run over recorded events, of which nothing is kept."""
    with TemporaryDirectory(prefix="driftd-") as cache:
        hosts = host_all(models, Path(cache), meters)
        try:
            for host in hosts.values():
                host.watch()
            yield hosts
        finally:
            for host in hosts.values():
                host.close()


def _environ(*, outside: bool, cuda: bool = False, threads: int = 1) -> dict[str, str]:
    """Surroundings of a child: the one that fetches gets ours, for its credentials; the one that runs models gets as
    little as torch needs."""
    path = os.pathsep.join(filter(None, sys.path))
    if outside:
        return {**os.environ, "PYTHONPATH": path}
    given = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    hidden = {} if cuda else {"CUDA_VISIBLE_DEVICES": ""}
    return {**given, **hidden, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
