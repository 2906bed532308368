"""The labeling queue: tasks that ask a human what the answer should have been. Here: where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from alerting.alert import Seconds
from alerting.labeling.queue import LabelQueue
from alerting.labeling.rules import QueueRules


class SqliteQueue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sqlite"):
    """Keeps label tasks in a file. What is put or answered is on the disk when the call returns; a lease outlives any
    kill, and a power cut most times."""

    path: Annotated[str, Meta(min_length=1, description="The file; its directory is made where missing.")] = (
        ".driftd/labels.sqlite"
    )
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "labels"
    rules: Annotated[QueueRules, Meta(description="How the queue works with labelers.")] = QueueRules()

    def open(self) -> LabelQueue:
        """The live queue; QueueError when the file cannot be opened."""
        from alerting.labeling.sqlite import SqliteStore

        return LabelQueue(SqliteStore(Path(self.path)), self.rules)


class MongoQueue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mongo"):
    """Keeps label tasks in MongoDB 4.4 or newer. Writes are acknowledged by the majority and journalled."""

    url: Annotated[str, Meta(pattern="^mongodb(\\+srv)?://", description="Connection string; never shown in a log.")]
    database: Annotated[str, Meta(min_length=1, description="Database of the collections.")] = "driftd"
    tasks: Annotated[str, Meta(min_length=1, description="Collection of label tasks.")] = "label_tasks"
    batches: Annotated[str, Meta(min_length=1, description="Collection of draws.")] = "label_batches"
    states: Annotated[str, Meta(min_length=1, description="Collection of who is served next.")] = "label_states"
    timeout: Annotated[Seconds, Meta(gt=0, description="Longest time to find a server, and for one operation.")] = 5.0
    name: Annotated[str, Meta(min_length=1, description="Name of this destination, unique among all.")] = "labels"
    rules: Annotated[QueueRules, Meta(description="How the queue works with labelers.")] = QueueRules()

    def __repr__(self) -> str:
        return f"MongoQueue(name={self.name!r}, database={self.database!r})"  # the URL may hold a password

    def open(self) -> LabelQueue:
        """The live queue. Connects at the first call, so a server that is down now is no reason not to start;
        QueueError for a connection string that makes no sense."""
        from alerting.labeling.mongo import MongoStore  # 20 MB of driver that SQLite users do without

        return LabelQueue(MongoStore(self), self.rules)


QueueOptions = SqliteQueue | MongoQueue

QUEUES: dict[str, type[QueueOptions]] = {"sqlite": SqliteQueue, "mongo": MongoQueue}
