"""The label queue in MongoDB 4.4 or newer, for labelers on many machines.

A move is one conditional update of one document: no transactions, no sessions, no pipelines. Of two at once, one wins.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from pymongo import ASCENDING, DESCENDING, MongoClient, ReturnDocument, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, ConfigurationError, OperationFailure, PyMongoError

from alerting.labeling import MongoQueue
from alerting.labeling.moves import ATTEMPTS, answered, skipped
from alerting.labeling.queue import Outcome, QueueError
from alerting.labeling.task import LabelBatch, LabelingStatus, LabelTask, Value, bounded, document

T = TypeVar("T")

_DUPLICATE = 11000
_CHUNK = 1_000  # documents an insert: 2 MB at the usual 2 KB

_ORDER = [("priority", DESCENDING), ("date", ASCENDING), ("select.rank", ASCENDING), ("_id", ASCENDING)]


class MongoLabelQueue:
    """The opened `MongoQueue`. See `LabelQueue`."""

    def __init__(self, options: MongoQueue) -> None:
        milliseconds = max(1, int(options.timeout * 1000))
        with _told():
            self._client: MongoClient[dict[str, Any]] = MongoClient(
                options.url,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                socketTimeoutMS=milliseconds,
                appname="driftd",
                tz_aware=True,
                connect=False,
            )
            database = self._client.get_database(
                options.database, write_concern=WriteConcern(w="majority", j=True, wtimeout=milliseconds)
            )
        self._tasks = database[options.tasks]
        self._batches = database[options.batches]
        self._indexed = False
        self._released = float("-inf")

    def put(self, tasks: Sequence[LabelTask], batch: LabelBatch) -> int:
        documents = [document(bounded(task)) for task in tasks]
        with _told():
            self._index()
            new = sum(_insert(self._tasks, documents[i : i + _CHUNK]) for i in range(0, len(documents), _CHUNK))
            _insert(self._batches, [document(batch)])
            return new

    def claim(self, labeler: str, now: float, lease_seconds: float) -> LabelTask | None:
        with _told():
            self._release(now)
            found = self._tasks.find_one_and_update(
                {"Labeling status": LabelingStatus.IN_QUEUE.value, "skips.by": {"$ne": labeler}},
                {
                    "$set": {
                        "Labeling status": LabelingStatus.LEASED.value,
                        "Labeler": labeler,
                        "lease": {"owner": labeler, "token": secrets.token_hex(16), "until": now + lease_seconds},
                    },
                    "$inc": {"attempts": 1, "rev": 1},
                },
                sort=_ORDER,
                return_document=ReturnDocument.AFTER,
            )
        return _task(found) if found else None

    def submit(self, task_id: str, token: str, label: Value, by: str, now: float) -> Outcome:
        return self._move(task_id, lambda task: answered(task, token, label, by, now))

    def skip(self, task_id: str, token: str, by: str, now: float, reason: str = "") -> None:
        self._move(task_id, lambda task: (skipped(task, token, by, now, reason), None))

    def get(self, task_id: str) -> LabelTask | None:
        with _told():
            found = self._tasks.find_one({"_id": task_id})
        return _task(found) if found else None

    def batch(self, batch_id: str) -> LabelBatch | None:
        with _told():
            found = self._batches.find_one({"_id": batch_id})
        return msgspec.convert(found, LabelBatch) if found else None

    def counts(self) -> dict[str, int]:
        with _told():
            groups = list(self._tasks.aggregate([{"$group": {"_id": "$Labeling status", "n": {"$sum": 1}}}]))
        return {group["_id"]: group["n"] for group in groups}

    def labeled_since(self, time: float, limit: int = 1000) -> list[LabelTask]:
        with _told():
            order = [("final.at", ASCENDING), ("_id", ASCENDING)]
            return [_task(found) for found in self._tasks.find({"final.at": {"$gte": time}}, sort=order, limit=limit)]

    def close(self) -> None:
        self._client.close()

    def _index(self) -> None:
        if not self._indexed:
            self._tasks.create_index([("Labeling status", ASCENDING), *_ORDER])
            self._tasks.create_index([("lease.until", ASCENDING)])
            self._tasks.create_index([("final.at", ASCENDING)])
            self._indexed = True

    def _release(self, now: float) -> None:
        """Leases that ran out: back to the queue, or given up. At most once a second: it may read every lease."""
        if abs(now - self._released) < 1.0:
            return
        self._released = now
        over: dict[str, Any] = {"Labeling status": LabelingStatus.LEASED.value, "lease.until": {"$lte": now}}
        for attempts, status in (
            ({"$gte": ATTEMPTS}, LabelingStatus.UNCLEAR),
            ({"$lt": ATTEMPTS}, LabelingStatus.IN_QUEUE),
        ):
            self._tasks.update_many(
                {**over, "attempts": attempts},
                {"$set": {"Labeling status": status.value, "Labeler": "TBD", "lease": None}, "$inc": {"rev": 1}},
            )

    def _move(self, task_id: str, move: Callable[[LabelTask], tuple[LabelTask, T]]) -> T:
        """Apply a pure move to the task as it is; again when someone else moved it meanwhile."""
        while True:
            before = self.get(task_id)
            if before is None:
                raise KeyError(f"no label task {task_id}")
            after, outcome = move(before)
            if after is before:
                return outcome
            with _told():
                done = self._tasks.replace_one({"_id": task_id, "rev": before.rev}, document(after))
            if done.matched_count:
                return outcome


def _insert(collection: Collection[dict[str, Any]], documents: Sequence[dict[str, Any]]) -> int:
    """Insert those whose `_id` is new; returns how many were."""
    if not documents:
        return 0
    try:
        return len(collection.insert_many(documents, ordered=False).inserted_ids)
    except BulkWriteError as error:
        errors = error.details["writeErrors"]
        if any(e["code"] != _DUPLICATE for e in errors) or error.details["writeConcernErrors"]:
            raise
        return len(documents) - len(errors)  # not `nInserted`, which mongo-java-server gets wrong


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BulkWriteError as error:
        refused = [e for e in error.details["writeErrors"] if e["code"] != _DUPLICATE]
        failed = refused or error.details["writeConcernErrors"]
        words = f"MongoDB did not store all documents: {failed[0].get('errmsg', 'no reason given')}"
        raise QueueError(words, retry=not refused) from error
    except OperationFailure as error:
        raise QueueError(f"MongoDB refuses: {(error.details or {}).get('errmsg', error.code)}") from error
    except (ConfigurationError, ValueError) as error:  # a wrong port, for one, is a ValueError
        raise QueueError("the MongoDB connection string, or the version of the server, does not fit") from error
    except PyMongoError as error:
        raise QueueError(f"MongoDB cannot be reached: {type(error).__name__}") from error


def _task(found: Mapping[str, Any]) -> LabelTask:
    return msgspec.convert(found, LabelTask)
