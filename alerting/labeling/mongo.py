"""The label queue in MongoDB 4.4 or newer, for labelers on many machines.

A change is one conditional update of one document by `_id` and `rev`: no transactions, no sessions, no pipelines. Of
two at once, one wins and the other looks again.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET
from pymongo import ASCENDING, DESCENDING, MongoClient, ReplaceOne, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, ConfigurationError, OperationFailure, PyMongoError

from alerting.labeling import MongoQueue
from alerting.labeling.queue import QueueError, Time, Wanted
from alerting.labeling.task import LabelBatch, LabelTask, document

T = TypeVar("T")
Documents = Collection[dict[str, Any]]

_DUPLICATE = 11000
_CHUNK = 100  # documents of an operation: 200 KB, so that a slow server is done within the time it has
# Times that a state was as we left it, after which it is believed to be: labelers of one server are spared a round
# trip, and those of many machines, who find it changed after each claim, do not guess in vain.
_ALONE = 4
_PAUSE = 0.25  # seconds at most before another attempt at a state that others change as well


class MongoStore:
    """The opened `MongoQueue`. See `Store`."""

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
        self._tasks: Documents = database[options.tasks]
        self._batches: Documents = database[options.batches]
        self._states: Documents = database[options.states]
        # states as we left them, and how often in a row nobody else had changed them when we came back
        self._left: dict[str, tuple[dict[str, Any], int]] = {}
        self._indexed = False

    def together(self, *, lasting: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, tasks: Sequence[LabelTask]) -> set[str]:
        documents = [document(task) for task in tasks]
        new: set[str] = set()
        with _told():
            self._index()
            for i in range(0, len(documents), _CHUNK):
                new |= _insert(self._tasks, documents[i : i + _CHUNK])
        return new

    def add_batch(self, batch: LabelBatch) -> None:
        with _told():
            _insert(self._batches, [document(batch)])

    def get(self, ids: Sequence[str]) -> list[LabelTask]:
        found: list[LabelTask] = []
        for i in range(0, len(ids), _CHUNK):
            some = list(ids[i : i + _CHUNK])
            with _told():
                one = {"_id": some[0]} if len(some) == 1 else {"_id": {"$in": some}}
                found += map(_task, self._tasks.find(one))
        return found

    def get_batch(self, batch_id: str) -> LabelBatch | None:
        with _told():
            found = self._batches.find_one({"_id": batch_id})
        return msgspec.convert(found, LabelBatch) if found else None

    def swap(self, changed: Sequence[tuple[LabelTask, int]]) -> set[str]:
        swapped: set[str] = set()
        for i in range(0, len(changed), _CHUNK):
            some = changed[i : i + _CHUNK]
            ours = {task.id: task for task, _ in some}
            replaced = [ReplaceOne({"_id": task.id, "rev": rev}, document(task)) for task, rev in some]
            with _told():
                matched = self._tasks.bulk_write(replaced, ordered=False).matched_count
            if 0 < matched < len(some):  # how many is told, not which
                swapped |= {task.id for task in self.get(list(ours)) if task == ours[task.id]}
            elif matched:
                swapped |= ours.keys()
        return swapped

    def swap_batch(self, batch: LabelBatch, rev: int) -> bool:
        with _told():
            done = self._batches.replace_one({"_id": batch.id, "rev": rev}, document(batch))
        return done.matched_count == 1

    def find(self, wanted: Wanted, limit: int, *, newest: bool = False) -> list[LabelTask]:
        order = [("final.at", DESCENDING if newest else ASCENDING), ("_id", ASCENDING)]
        with _told():
            return [_task(found) for found in self._tasks.find(_filter(wanted), sort=order, limit=limit)]

    def census(self, dataset: str) -> Mapping[tuple[str, str], int]:
        group = {"labeling": "$Labeling status", "reviewing": "$Reviewing status"}
        steps = [{"$match": {"Name dataset": dataset, "known": False}}, {"$group": {"_id": group, "n": {"$sum": 1}}}]
        with _told():
            found = list(self._tasks.aggregate(steps))
        return {(each["_id"]["labeling"], each["_id"]["reviewing"]): each["n"] for each in found}

    def earliest(self, what: Time, wanted: Wanted) -> float:
        field = "sla.due" if what == "due" else what
        has: dict[str, Any] = {field: {"$gte": 0.0}}  # a document without it would be the first
        with _told():
            found = self._tasks.find_one(has | _filter(wanted), {field: 1}, sort=[(field, ASCENDING)])
        return math.inf if found is None else found["sla"]["due"] if what == "due" else found[what]

    def remove(self, now: float) -> int:
        with _told():
            return self._tasks.delete_many({"expires_at": {"$lte": now}}).deleted_count

    def update(self, name: str, change: Callable[[bytes], tuple[bytes, T]]) -> T:
        pause = 0.0
        left, alone = self._left.get(name, (None, 0))
        while True:
            guessed, began = alone >= _ALONE, time.monotonic()
            found = left if guessed else self._state(name)
            before = found["data"] if found else b""
            data, result = change(before)
            if data == before and not guessed:
                return result
            if data != before:
                state = {"_id": name, "rev": found["rev"] + 1 if found else 0, "data": data}
                if self._put(state, None if found is None else found["rev"]):
                    ours = left is not None and found is not None and found["rev"] == left["rev"]
                    self._left[name] = state, alone + 1 if ours else 0
                    return result
            left, alone = None, 0
            if not guessed:
                # as long as the attempt took, twice that the next time: a busy server is not asked oftener for it
                pause = min(max(2.0 * pause, time.monotonic() - began), _PAUSE)
                time.sleep(random.uniform(0.0, pause))

    def _state(self, name: str) -> dict[str, Any] | None:
        with _told():
            return self._states.find_one({"_id": name})

    def _put(self, state: dict[str, Any], rev: int | None) -> bool:
        """In the place of the one of this `rev`, None: of none; whether it had not moved on."""
        with _told():
            if rev is not None:
                return self._states.replace_one({"_id": state["_id"], "rev": rev}, state).matched_count == 1
            self._index()
            return bool(_insert(self._states, [state]))

    def load(self, name: str) -> bytes:
        found = self._state(name)
        return found["data"] if found else b""

    def keep(self, name: str, data: bytes) -> None:
        with _told():
            self._states.replace_one({"_id": name}, {"_id": name, "rev": 0, "data": data}, upsert=True)

    def drop(self, name: str) -> None:
        with _told():
            self._states.delete_one({"_id": name})

    def close(self) -> None:
        self._client.close()

    def _index(self) -> None:
        if self._indexed:
            return
        for documents in (self._tasks, self._states):
            # some servers of this protocol use an index only for a filter of exactly its fields
            documents.create_index([("_id", ASCENDING), ("rev", ASCENDING)], unique=True)
        for fields in (
            ["Name dataset", "known", "Labeling status", "Reviewing status"],
            ["Name dataset", "Labeling status", "since"],
            ["select.batch"],
            ["model.name", "event.time"],
            ["final.at", "_id"],
            ["sla.due"],
            ["lease.owner"],
            ["expires_at"],
        ):
            self._tasks.create_index([(field, ASCENDING) for field in fields])
        self._indexed = True


def _insert(collection: Documents, documents: Sequence[dict[str, Any]]) -> set[str]:
    """Insert those whose `_id` is new; returns which."""
    if not documents:
        return set()
    ids = [each["_id"] for each in documents]
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        errors = error.details["writeErrors"]
        if any(e["code"] != _DUPLICATE for e in errors) or error.details["writeConcernErrors"]:
            raise
        there = {e["index"] for e in errors}
        return {name for i, name in enumerate(ids) if i not in there}
    return set(ids)


def _filter(wanted: Wanted) -> dict[str, Any]:
    terms: dict[str, Any] = {
        "Name dataset": wanted.dataset,
        "select.batch": wanted.batch,
        "model.name": wanted.model,
        "lease.owner": wanted.owner,
        "known": wanted.known,
    }
    asked = {name: value for name, value in terms.items() if value is not UNSET}
    if wanted.statuses is not UNSET:
        asked["Labeling status"] = {"$in": [status.value for status in wanted.statuses]}
    if wanted.happened is not UNSET:
        asked["event.time"] = {"$gte": wanted.happened[0], "$lte": wanted.happened[1]}
    if wanted.arrived_by is not UNSET:
        asked["since"] = {"$lte": wanted.arrived_by}
    if wanted.final_from is not UNSET:
        asked["final.at"] = {"$gte": wanted.final_from}
    if wanted.due_by is not UNSET:
        asked |= {"sla.due": {"$lte": wanted.due_by}, "sla.breached": False}
    return asked


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
