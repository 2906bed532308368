"""Texts that must never be shown."""

from __future__ import annotations


class Secret(str):
    """A text whose repr hides it, so that no log line or traceback shows it.

    >>> Secret("hunter2")
    '***'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"
