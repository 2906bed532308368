"""Durations and sizes: text with a unit at the edge, plain numbers inside.

A field typed `Seconds` or `Bytes` is an ordinary float or int. The annotation only tells the reader of configuration
that YAML writes it as "10s" or "64MiB", and the generated documentation that it has a unit.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

Seconds = Annotated[
    float,
    msgspec.Meta(extra={"unit": "seconds"}, extra_json_schema={"examples": ["10s", "1h30m"]}),
]
Bytes = Annotated[
    int,
    msgspec.Meta(extra={"unit": "bytes"}, extra_json_schema={"examples": ["64MiB", "500kB"]}),
]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_PART = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]+)")


def parse_seconds(text: str) -> float:
    """Seconds of "500ms", "10s", "5m", "1h30m", "7d", "2w". ValueError says what a duration looks like.

    >>> parse_seconds("1h30m"), parse_seconds("500ms"), parse_seconds("0")
    (5400.0, 0.5, 0.0)
    """
    if text.strip() == "0":
        return 0.0
    total, at = 0.0, 0
    trimmed = text.strip()
    while at < len(trimmed):
        part = _PART.match(trimmed, at)
        if part is None or part[2] not in _SECONDS:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        at = part.end()
    if not trimmed or at < len(trimmed):
        raise ValueError(f"{text!r} is no duration; write for example 500ms, 10s, 5m, 1h30m or 7d")
    return total


def parse_bytes(text: str) -> int:
    """Bytes of "512B", "10kB", "64MiB", "1.5GiB". ValueError says what a size looks like.

    >>> parse_bytes("64MiB"), parse_bytes("10kB")
    (67108864, 10000)
    """
    if text.strip() == "0":
        return 0
    part = _PART.fullmatch(text.strip())
    if part is None or part[2] not in _BYTES:
        raise ValueError(f"{text!r} is no size; write for example 512B, 10kB, 64MiB or 1GiB")
    return round(float(part[1]) * _BYTES[part[2]])


def seconds_text(seconds: float) -> str:
    """The shortest way to write a duration; `parse_seconds` reads it back.

    >>> seconds_text(5400), seconds_text(0.5), seconds_text(1.25), seconds_text(0)
    ('90m', '500ms', '1.25s', '0s')
    """
    if not seconds:
        return "0s"
    for unit in ("w", "d", "h", "m", "s"):
        count = seconds / _SECONDS[unit]
        if count == int(count):
            return f"{int(count)}{unit}"
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{number:.6f}".rstrip("0").rstrip(".") + unit


def bytes_text(size: int) -> str:
    """The shortest way to write a size; `parse_bytes` reads it back.

    >>> bytes_text(64 * 2**20), bytes_text(10**6), bytes_text(1500)
    ('64MiB', '1MB', '1500B')
    """
    for unit in ("GiB", "MiB", "KiB", "GB", "MB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"
