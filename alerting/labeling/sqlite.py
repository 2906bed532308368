"""The label queue in one SQLite file: the embedded default.

Every move is a transaction that takes the write lock first, so threads and processes cannot lease the same task.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from alerting.labeling.moves import answered, leased, returned, skipped
from alerting.labeling.queue import Outcome, QueueError
from alerting.labeling.task import LabelBatch, LabelingStatus, LabelTask, Value, bounded

_BUSY = 10.0  # seconds to wait for another process's transaction; one takes milliseconds

# The document is the truth; the columns beside it repeat what is searched and ordered by.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, priority REAL NOT NULL, drawn REAL NOT NULL, rank INTEGER NOT NULL,
    until REAL, labeled_at REAL, document BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS served ON tasks (status, priority DESC, drawn, rank, id);
CREATE INDEX IF NOT EXISTS leases ON tasks (until) WHERE until IS NOT NULL;
CREATE INDEX IF NOT EXISTS answers ON tasks (labeled_at) WHERE labeled_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS skips (task TEXT NOT NULL, labeler TEXT NOT NULL, PRIMARY KEY (task, labeler)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;
"""


class SqliteLabelQueue:
    """An opened `SqliteQueue`: one connection, one lock. See `LabelQueue`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with _told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)

    def put(self, tasks: Sequence[LabelTask], batch: LabelBatch) -> int:
        rows = [_row(bounded(task)) for task in tasks]
        with self._move() as db:
            before = db.total_changes
            db.executemany("INSERT OR IGNORE INTO tasks VALUES (?,?,?,?,?,?,?,?)", rows)
            new = db.total_changes - before
            db.execute("INSERT OR IGNORE INTO batches VALUES (?,?)", (batch.id, msgspec.json.encode(batch)))
            return new

    def claim(self, labeler: str, now: float, lease_seconds: float) -> LabelTask | None:
        with self._move() as db:
            for (document,) in db.execute("SELECT document FROM tasks WHERE until <= ?", (now,)).fetchall():
                _store(db, returned(_task(document)))
            found = db.execute(
                "SELECT document FROM tasks WHERE status = ?"
                " AND NOT EXISTS (SELECT 1 FROM skips WHERE task = tasks.id AND labeler = ?)"
                " ORDER BY priority DESC, drawn, rank, id LIMIT 1",
                (LabelingStatus.IN_QUEUE, labeler),
            ).fetchone()
            if found is None:
                return None
            task = leased(_task(found[0]), labeler, secrets.token_hex(16), now + lease_seconds)
            _store(db, task)
            return task

    def submit(self, task_id: str, token: str, label: Value, by: str, now: float) -> Outcome:
        with self._move() as db:
            task, outcome = answered(_find(db, task_id), token, label, by, now)
            _store(db, task)
            return outcome

    def skip(self, task_id: str, token: str, by: str, now: float, reason: str = "") -> None:
        with self._move() as db:
            before = _find(db, task_id)
            task = skipped(before, token, by, now, reason)
            if task is not before:
                _store(db, task)
                db.execute("INSERT OR IGNORE INTO skips VALUES (?,?)", (task_id, by))

    def get(self, task_id: str) -> LabelTask | None:
        with self._look() as db:
            found = db.execute("SELECT document FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return _task(found[0]) if found else None

    def batch(self, batch_id: str) -> LabelBatch | None:
        with self._look() as db:
            found = db.execute("SELECT document FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return msgspec.json.decode(found[0], type=LabelBatch) if found else None

    def counts(self) -> dict[str, int]:
        with self._look() as db:
            return dict(db.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall())

    def labeled_since(self, time: float, limit: int = 1000) -> list[LabelTask]:
        with self._look() as db:
            found = db.execute(
                "SELECT document FROM tasks WHERE labeled_at >= ? ORDER BY labeled_at, id LIMIT ?", (time, limit)
            ).fetchall()
        return [_task(document) for (document,) in found]

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _look(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told():
            yield self._db

    @contextmanager
    def _move(self) -> Iterator[sqlite3.Connection]:
        with self._look() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise QueueError(f"label queue file: {error}") from error


def _task(document: bytes) -> LabelTask:
    return msgspec.json.decode(document, type=LabelTask)


def _find(db: sqlite3.Connection, task_id: str) -> LabelTask:
    found = db.execute("SELECT document FROM tasks WHERE id = ?", (task_id,)).fetchone()
    if found is None:
        raise KeyError(f"no label task {task_id}")
    return _task(found[0])


def _row(task: LabelTask) -> tuple[str, str, float, float, int, float | None, float | None, bytes]:
    return (
        task.id,
        task.labeling_status,
        task.priority,
        task.date.timestamp(),
        task.select.rank,
        task.lease.until if task.lease else None,
        task.final.at if task.final else None,
        msgspec.json.encode(task),
    )


def _store(db: sqlite3.Connection, task: LabelTask) -> None:
    db.execute("REPLACE INTO tasks VALUES (?,?,?,?,?,?,?,?)", _row(task))
