"""The label queue in one SQLite file: the embedded default.

Every change is a transaction that takes the write lock first, so threads and processes come one after the other. The
disk is waited for only once the lock is given back, and by none but those whose change must outlive a power cut: with
SQLite's own synchronous=FULL sixteen labelers wait in line for each other's disk, whose slowest answers take 100 ms.
What reads much has a connection of its own, and nobody who changes something waits for it.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from alerting.labeling.queue import QueueError, Time, Wanted
from alerting.labeling.task import LabelBatch, LabelTask

T = TypeVar("T")

_BUSY = 10.0  # seconds to wait for another process's transaction; one takes milliseconds
_STALL = 0.5  # seconds at most that all wait for whoever still reads the log, which then is shortened another time

_LOG = 2**24  # bytes of the log at which it is moved into the file: 300 changes

# The document is the truth; the columns beside it repeat what is searched by. Rows have a number of their own: without
# one, a document of more than 1 KB takes a whole page beside its row (500 MB for 100,000 tasks instead of 160).
_SCHEMA = """
CREATE TABLE IF NOT EXISTS label_tasks (
    id TEXT PRIMARY KEY, rev INTEGER NOT NULL, dataset TEXT NOT NULL, status TEXT NOT NULL, review TEXT NOT NULL,
    batch TEXT NOT NULL, model TEXT NOT NULL, happened REAL, since REAL NOT NULL, final_at REAL, due REAL, owner TEXT,
    known INTEGER NOT NULL, expires_at REAL, document BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS task_states ON label_tasks (dataset, known, status, review);
CREATE INDEX IF NOT EXISTS task_ages ON label_tasks (dataset, status, since);
CREATE INDEX IF NOT EXISTS task_batches ON label_tasks (batch);
CREATE INDEX IF NOT EXISTS task_events ON label_tasks (model, happened);
DROP INDEX IF EXISTS task_finals;
CREATE INDEX IF NOT EXISTS task_final_labels ON label_tasks (final_at, id, dataset, known) WHERE final_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS task_dues ON label_tasks (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS task_owners ON label_tasks (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS task_ends ON label_tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS label_batches (id TEXT PRIMARY KEY, rev INTEGER NOT NULL, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS label_states (name TEXT PRIMARY KEY, data BLOB NOT NULL);
"""
_INSERT = "INSERT OR IGNORE INTO label_tasks VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_UPDATE = """
UPDATE label_tasks SET rev=?, dataset=?, status=?, review=?, batch=?, model=?, happened=?, since=?, final_at=?, due=?,
    owner=?, known=?, expires_at=?, document=? WHERE id=? AND rev=?
"""
_KEEP = "INSERT INTO label_states VALUES (?,?) ON CONFLICT (name) DO UPDATE SET data = excluded.data"


class SqliteStore:
    """An opened `SqliteQueue`. See `Store`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()  # a change of a state may load and keep others
        self._aside = threading.Lock()
        with _told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _connect(path, _BUSY)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            self._db.executescript(_SCHEMA)
            self._second = _connect(path, _STALL)
            self._log = os.open(f"{path}-wal", os.O_RDWR)  # is there as long as a connection is

    @contextmanager
    def together(self, *, lasting: bool = True) -> Iterator[None]:
        with self._change(lasting=lasting):
            yield

    def add(self, tasks: Sequence[LabelTask]) -> set[str]:
        new: set[str] = set()
        with self._change() as db:
            for task in tasks:
                if db.execute(_INSERT, (task.id, *_row(task))).rowcount:
                    new.add(task.id)
        return new

    def add_batch(self, batch: LabelBatch) -> None:
        with self._change() as db:
            db.execute(
                "INSERT OR IGNORE INTO label_batches VALUES (?,?,?)", (batch.id, batch.rev, msgspec.json.encode(batch))
            )

    def get(self, ids: Sequence[str]) -> list[LabelTask]:
        wanted = msgspec.json.encode(ids).decode()
        with self._look() as db:
            found = db.execute(
                "SELECT document FROM label_tasks WHERE id IN (SELECT value FROM json_each(?))", (wanted,)
            ).fetchall()
        return _tasks(found)

    def get_batch(self, batch_id: str) -> LabelBatch | None:
        with self._look() as db:
            found = db.execute("SELECT document FROM label_batches WHERE id = ?", (batch_id,)).fetchone()
        return msgspec.json.decode(found[0], type=LabelBatch) if found else None

    def swap(self, changed: Sequence[tuple[LabelTask, int]]) -> set[str]:
        with self._change() as db:
            return {task.id for task, rev in changed if db.execute(_UPDATE, (*_row(task), task.id, rev)).rowcount}

    def swap_batch(self, batch: LabelBatch, rev: int) -> bool:
        with self._change() as db:
            row = (batch.rev, msgspec.json.encode(batch), batch.id, rev)
            return db.execute("UPDATE label_batches SET rev=?, document=? WHERE id=? AND rev=?", row).rowcount == 1

    def find(self, wanted: Wanted, limit: int, *, newest: bool = False) -> list[LabelTask]:
        terms, values = _where(wanted)
        order = "DESC" if newest else "ASC"
        statement = f"SELECT document FROM label_tasks WHERE {terms} ORDER BY final_at {order}, id LIMIT ?"  # noqa: S608
        with self._read() as db:
            found = db.execute(statement, [*values, limit]).fetchall()
        return _tasks(found)

    def census(self, dataset: str) -> Mapping[tuple[str, str], int]:
        with self._read() as db:
            found = db.execute(
                "SELECT status, review, count(*) FROM label_tasks WHERE dataset = ? AND known = 0 GROUP BY 1, 2",
                (dataset,),
            ).fetchall()
        return {(status, review): count for status, review, count in found}

    def earliest(self, what: Time, wanted: Wanted) -> float:
        terms, values = _where(wanted)
        statement = f"SELECT min({what}) FROM label_tasks WHERE {what} IS NOT NULL AND {terms}"  # noqa: S608
        with self._read() as db:
            (found,) = db.execute(statement, values).fetchone()
        return math.inf if found is None else found

    def remove(self, now: float) -> int:
        with self._change() as db:
            return db.execute("DELETE FROM label_tasks WHERE expires_at <= ?", (now,)).rowcount

    def update(self, name: str, change: Callable[[bytes], tuple[bytes, T]]) -> T:
        with self._change() as db:
            found = self.load(name)
            data, result = change(found)
            if data != found:
                db.execute(_KEEP, (name, data))
            return result

    def load(self, name: str) -> bytes:
        with self._look() as db:
            found = db.execute("SELECT data FROM label_states WHERE name = ?", (name,)).fetchone()
        return found[0] if found else b""

    def keep(self, name: str, data: bytes) -> None:
        with self._change() as db:
            db.execute(_KEEP, (name, data))

    def drop(self, name: str) -> None:
        with self._change() as db:
            db.execute("DELETE FROM label_states WHERE name = ?", (name,))

    def close(self) -> None:
        with self._lock, self._aside:
            self._second.close()
            self._db.close()
            os.close(self._log)

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """To read much, of what is committed."""
        with self._aside, _told():
            yield self._second

    @contextmanager
    def _look(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told():
            yield self._db

    @contextmanager
    def _change(self, *, lasting: bool = True) -> Iterator[sqlite3.Connection]:
        with self._look() as db:
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        if lasting:
            with _told():
                os.fdatasync(self._log)  # what was moved from it into the file meanwhile is on the disk already
        if os.fstat(self._log).st_size > _LOG:
            self._shorten()

    def _shorten(self) -> None:
        """Moves the log into the file: most of it beside the changes of others, who wait for the rest."""
        with self._read() as db:
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy:  # nobody else is at it
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise QueueError(f"label queue file: {error}") from error


def _tasks(rows: Iterable[tuple[bytes]]) -> list[LabelTask]:
    return [msgspec.json.decode(document, type=LabelTask) for (document,) in rows]


def _row(task: LabelTask) -> tuple[Any, ...]:
    return (
        task.rev,
        task.dataset,
        task.labeling_status,
        task.reviewing_status,
        task.select.batch,
        task.model.name,
        task.event.time,
        task.since,
        task.final.at if task.final else None,
        task.sla.due if task.sla and not task.sla.breached else None,
        task.lease.owner if task.lease else None,
        task.known,
        task.expires_at,
        msgspec.json.encode(task),
    )


def _where(wanted: Wanted) -> tuple[str, list[Any]]:
    # With statistics of no table SQLite takes an equality for the narrowest term and reads the whole dataset (7 s of
    # 100,000 tasks); a plus keeps it from that where there is a term that is met by few.
    narrow = (wanted.final_from, wanted.due_by, wanted.owner, wanted.batch, wanted.happened)
    plus = "" if all(term is UNSET for term in narrow) else "+"
    terms = {
        f"{plus}dataset = ?": wanted.dataset,
        "batch = ?": wanted.batch,
        "model = ?": wanted.model,
        "since <= ?": wanted.arrived_by,
        "final_at >= ?": wanted.final_from,
        "due <= ?": wanted.due_by,
        "owner = ?": wanted.owner,
        f"{plus}known = ?": wanted.known,
    }
    asked = {term: [value] for term, value in terms.items() if value is not UNSET}
    if wanted.statuses is not UNSET:
        asked[f"{plus}status IN ({','.join('?' * len(wanted.statuses))})"] = [*wanted.statuses]
    if wanted.happened is not UNSET:
        asked["happened BETWEEN ? AND ?"] = [*wanted.happened]
    return " AND ".join(asked) or "1", [value for values in asked.values() for value in values]
