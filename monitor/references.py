"""References by model: where they lie, and which of them rows are counted on while a new one takes its place.

The judge builds and chooses; every ingest counts. Between the two lies a `Standing` in the store, so that neither
assumes the other in its process. What a reader would get wrong: a reference does not change at a moment but at a
window. Lanes count rows on the old and the new one, each from a window of its own choice on, and say so; the judge
turns at a window that all of them have counted on both. No row is lost, and none is held against a layout not its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from detectors.encode import Undecodable, decode, encode
from detectors.reference import Reference
from monitor.store import Store

log = logging.getLogger(__name__)


class Unreadable(Exception):
    """A configured reference cannot be read; the text says what to change."""


class Model(Protocol):
    """What has to be known of a configured model."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...  # of a configured reference


class Standing(msgspec.Struct, frozen=True):
    """What a model's rows are to be counted on, where it is not the first reference alone."""

    serial: int = 0  # of what was said; after a crash it is said again
    current: str = ""  # version of what is judged by; empty: the configured file, or what was learned first
    since: int = 0  # first window judged by it
    before: tuple[str, ...] = ()  # versions judged by before, the last first: windows under `since` are counted on it
    next: str = ""  # version that rows are counted on as well, until the judge turns to it
    made: str = ""  # version of one that is built and waits for a second word
    wanted: bool = False  # events as they came are asked for, to build another from
    file: str = ""  # version of the configured file that `current` took the place of

    @property
    def versions(self) -> set[str]:
        """All that it names."""
        return {self.current, *self.before, self.next, self.made}


class References:
    """A configured file, or what was learned and lies in the store. From any thread."""

    def __init__(self, models: Mapping[str, Model], store: Store) -> None:
        self._models, self._store = models, store
        self.changes = 0  # how often something was said here that rows may have to be counted by

    def find(self, model: str) -> Reference | None:
        """What is judged by; None while it is being learned. Raises Unreadable for a file that is no reference.

        A configured file that was changed since another took its place is the newer word.
        """
        standing = self.standing(model)
        first = self._first(model)
        if not standing.current or (first is not None and first.version == standing.current):
            return first
        if self._models[model].path is not None and (first is None or first.version != standing.file):
            log.warning(
                "model %s: its reference file was changed and is judged by from now on", self._models[model].name
            )
            self._store.put(self._standing(model), encode(Standing()))
            return first
        return self.version(model, standing.current) or first

    def _first(self, model: str) -> Reference | None:
        path = self._models[model].path
        if path is None:
            return self._stored(model, self._name(model))
        try:
            return Reference.decode(Path(path).read_bytes())
        except OSError as error:
            raise Unreadable(f"reference of model {model!r}: {path}: {error.strerror}") from error
        except Undecodable as error:
            raise Unreadable(
                f"reference of model {model!r}: {path} is no reference ({error}); make one with "
                "`driftd reference build`"
            ) from error

    def version(self, model: str, version: str) -> Reference | None:
        """One that was kept; None when it is not there any more."""
        return self._stored(model, f"{self._name(model)}/{version}")

    def _stored(self, model: str, name: str) -> Reference | None:
        data = self._store.get(name)
        if data is None:
            return None
        try:
            return Reference.decode(data)
        except Undecodable as error:
            log.warning("a learned reference of model %r cannot be read and is learned anew: %s", model, error)
            return None

    def learned(self, reference: Reference) -> None:
        """Keeps the first that a model learned."""
        self._store.put(f"reference/{quote(reference.model, safe='')}", reference.encode())
        self.changes += 1

    def keep(self, model: str, reference: Reference) -> None:
        """Keeps one that may take the first one's place, or that was judged by until now."""
        self._store.put(f"{self._name(model)}/{reference.version}", reference.encode())

    def standing(self, model: str) -> Standing:
        """As it was last said."""
        data = self._store.get(self._standing(model))
        if data is None:
            return Standing()
        try:
            return decode(data, Standing)
        except Undecodable as error:
            log.warning("what the rows of model %r are counted on cannot be read: %s", model, error)
            return Standing()

    def stand(self, model: str, standing: Standing) -> None:
        """Says what rows are to be counted on, unless more was said already; forgets references it names no more."""
        if standing.serial <= self.standing(model).serial:
            return
        self._store.put(self._standing(model), encode(standing))
        self.changes += 1
        for name in self._store.list(f"{self._name(model)}/"):
            if name.rpartition("/")[2] not in standing.versions:
                self._store.delete(name)

    def _name(self, model: str) -> str:
        return f"reference/{quote(self._models[model].name, safe='')}"

    def _standing(self, model: str) -> str:
        return f"standing/{quote(self._models[model].name, safe='')}"
