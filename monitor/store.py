"""Named blobs: checkpoints, references, reports. A put is whole or not at all, and survives a power cut.

In every store a failed call raises `OSError` and the blob as it was still stands: try again later. A name that is not
one raises `ValueError`.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from monitor.log import sync_directory

# What every file system takes. "%" is in it so that a model's name fits with urllib's `quote(name, safe="")`.
_NAME = re.compile(r"[A-Za-z0-9_%=@-][A-Za-z0-9._%=@-]*(?:/[A-Za-z0-9_%=@-][A-Za-z0-9._%=@-]*)*")
_LONGEST = 200
_SUFFIX = ".blob"  # so that "a" and "a/b" can both be names in a directory
_HALF_WRITTEN = ".put-"


class Store(Protocol):
    """Calls may come from any thread; two puts of one name at once leave one of the two."""

    def put(self, name: str, data: bytes) -> None:
        """Creates or replaces. A name is words of letters, digits and `._%=@-` joined by slashes, 200 characters at
        most, no word beginning with a dot."""

    def get(self, name: str) -> bytes | None:
        """None where there is none."""

    def list(self, prefix: str = "") -> list[str]:
        """Names that begin with the text `prefix`, sorted."""

    def delete(self, name: str) -> None:
        """Nothing happens where there is none."""


class MemoryStore:
    """Ends with the process: for replay."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self._blobs[_checked(name)] = data

    def get(self, name: str) -> bytes | None:
        return self._blobs.get(_checked(name))

    def list(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self._blobs if name.startswith(prefix))

    def delete(self, name: str) -> None:
        self._blobs.pop(_checked(name), None)


class DirectoryStore:
    """A file per blob. A put costs two syncs, 2 to 20 ms on an ordinary disk."""

    def __init__(self, path: Path) -> None:
        """Makes the directory, and clears it of what a killed process left half-written. One process at a time."""
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        for left in path.rglob(_HALF_WRITTEN + "*"):
            left.unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        target = self._file(name)
        self._make(target.parent)
        write_atomically(target, data)

    def get(self, name: str) -> bytes | None:
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> list[str]:
        names = (str(p.relative_to(self._path))[: -len(_SUFFIX)] for p in self._path.rglob("*" + _SUFFIX))
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        file = self._file(name)
        with suppress(FileNotFoundError):
            file.unlink()
            sync_directory(file.parent)

    def _file(self, name: str) -> Path:
        return self._path / (_checked(name) + _SUFFIX)

    def _make(self, directory: Path) -> None:
        if not directory.is_dir():
            self._make(directory.parent)
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)


def write_atomically(target: Path, data: bytes) -> None:
    """Makes or replaces a file, whole or not at all, power cuts included. Raises `OSError`."""
    descriptor, written = tempfile.mkstemp(prefix=_HALF_WRITTEN, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(written).replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(written).unlink()
        raise
    sync_directory(target.parent)


def _checked(name: str) -> str:
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a name in a store")
    return name
