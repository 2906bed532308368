"""What the daemon and its children say to each other: plain values behind their length, on a socket pair."""

from __future__ import annotations

import socket
import time
from typing import Any, TypeVar

import msgspec

from alerting.s3 import S3Server
from detectors.core import Floats
from detectors.encode import decode, encode
from monitor.committee.options import Architecture

T = TypeVar("T")

BATCH = 256  # rows asked at once
LARGEST = 1 << 28  # bytes of a message: 256 rows of a hundred thousand numbers


class Wanted(msgspec.Struct, frozen=True):
    """A member's file, and its digest where it is pinned."""

    path: str
    sha256: str | None


class FetchJob(msgspec.Struct, frozen=True, tag="fetch"):
    """Bring these files into `cache`, each named by its digest."""

    wanted: tuple[Wanted, ...]
    cache: str
    largest: int
    s3: S3Server


class Member(msgspec.Struct, frozen=True):
    """A file in the cache and what to make of it."""

    path: str  # where it came from, for messages and for its ending
    sha256: str
    architecture: Architecture | None
    logits: bool


class ScoreJob(msgspec.Struct, frozen=True, tag="score"):
    """Load these members, then answer `Rows` until the socket closes."""

    members: tuple[Member, ...]
    cache: str
    passes: int  # 1: dropout is off
    device: str
    memory: int
    threads: int


class Refusal(msgspec.Struct, frozen=True):
    """Why a file is not used: a word to count it by, and what to tell."""

    cause: str
    text: str


class Fetched(msgspec.Struct, frozen=True):
    """Digests in the order asked, or the first refusal."""

    digests: tuple[str, ...] = ()
    refusal: Refusal | None = None


class Loaded(msgspec.Struct, frozen=True):
    """The committee is ready, or why it is not."""

    inputs: int = 0  # numbers in a row
    classes: int = 0
    refusal: Refusal | None = None


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """Rows to be answered: `keys` uint64 (n,), `inputs` float64 (n, d), all finite."""

    keys: Any
    inputs: Any


class Answers(msgspec.Struct, frozen=True, array_like=True):
    """`members` float64 (n, voices x classes), chances; a row of NaN where a member gave none."""

    members: Floats


def send(peer: socket.socket, value: Any) -> None:
    """Raises OSError when the peer is gone or does not read within the socket's time-out."""
    data = encode(value)
    peer.sendall(len(data).to_bytes(4, "little") + data)


def receive(peer: socket.socket, kind: Any, seconds: float | None = None) -> Any:
    """The next message, a `kind`. OSError when the peer is gone or silent for `seconds` in all; Undecodable when what
    it says is no `kind`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    length = int.from_bytes(_exactly(peer, 4, deadline), "little")
    if length > LARGEST:
        raise ConnectionError(f"a message of {length} bytes")
    return decode(memoryview(_exactly(peer, length, deadline)), kind)


def _exactly(peer: socket.socket, count: int, deadline: float | None) -> bytearray:
    data = bytearray(count)
    filled = 0
    while filled < count:
        if deadline is not None:
            peer.settimeout(max(deadline - time.monotonic(), 1e-6))  # 0 would mean: do not wait at all
        got = peer.recv_into(memoryview(data)[filled:])
        if not got:
            raise ConnectionError("the other end closed")
        filled += got
    return data
