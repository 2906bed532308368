"""A server of MongoDB's wire protocol with atomic operations: mongo-java-server on an H2 file.

No MongoDB server is to be had from the registries. This one does what the label queue is allowed to use (inserts,
duplicate keys, find_one_and_update, indexes) and is right under concurrency; TTL indexes and transactions it lacks.
"""

from __future__ import annotations

from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.services.install import ASSETS, JDK, Recipe, fetch_jars, java, run
from tests.services.process import Server, free_port


def _build() -> None:
    lib = RECIPE.home / "lib"
    fetch_jars("mongo-pom.xml", lib)
    run(["javac", "-cp", f"{lib}/*", "-d", RECIPE.home / "classes", ASSETS / "MongoWire.java"])


RECIPE = Recipe("mongo", "1.47.0", _build, JDK, ["mongo-pom.xml", "MongoWire.java"])


class Mongo(Server):
    """Keeps its port and its file over `kill` and `start`. A quarter of `heap`, as Java writes it, is for documents."""

    def __init__(self, directory: Path, heap: str = "256m") -> None:
        port = free_port()
        self.url = f"mongodb://127.0.0.1:{port}"
        jvm = java(heap, RECIPE.home / "lib", RECIPE.home / "classes")
        command = [*jvm, "MongoWire", str(port), "data.h2"]
        super().__init__("mongo", command, directory=directory, ready=self._serves)

    def _serves(self) -> bool:
        try:
            with MongoClient[dict[str, object]](self.url, serverSelectionTimeoutMS=300) as client:
                client.admin.command("ping")
        except PyMongoError:
            return False
        return True
