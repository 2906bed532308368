"""Who may do what over HTTP: people by their tokens.

What a reader would get wrong: nobody is let in by where they come from. Where nobody has a token the daemon makes one
and keeps it in its state's directory, readable by its own user alone, so that the command line on the same machine
finds it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from alerting.secret import Secret
from monitor.api.problem import Problem

SHORTEST = 16  # characters of a token: what nobody guesses at ten tries a minute
LOCAL = "local"  # name of the person whose token lies in the state's directory
_TRIES = 10  # different wrong tokens that a network may try in `_SPAN`; one wrong token over and over is no guessing
_SPAN = 60.0  # seconds
_NETWORKS = 1000  # whose tries are remembered


class Right(StrEnum):
    """What a person may do."""

    LABEL = "label"
    REVIEW = "review"
    VERDICT = "verdict"
    RETRAIN = "retrain"


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Someone, or a tool, who acts over HTTP."""

    name: Annotated[
        str, Meta(pattern=r"^[^\s\x00-\x1f][^\x00-\x1f]{0,99}$", description="As verdicts and labels say it; unique.")
    ]
    token: Annotated[
        Secret,
        Meta(
            description="What proves it, `Authorization: Bearer ...`, at least 16 characters, given as `${...}`. "
            "Empty: they may do nothing."
        ),
    ]
    may: Annotated[tuple[Right, ...], Meta(min_length=1, description="What they may do.")] = tuple(Right)

    def __post_init__(self) -> None:
        if self.token and len(self.token) < SHORTEST:
            raise ValueError(f"the token has {len(self.token)} characters; at least {SHORTEST} are needed")


class _Known(NamedTuple):
    name: str
    digest: bytes
    may: frozenset[Right]


class People:
    """Everybody who may act. Keeps digests of tokens only. Used by one thread.

    `clock` gives seconds that never go back.
    """

    def __init__(self, persons: Sequence[Person], clock: Callable[[], float] = time.monotonic) -> None:
        self._known = [_Known(p.name, _digest(p.token), frozenset(p.may)) for p in persons if p.token]
        self._clock = clock
        self._tried: dict[str, dict[bytes, float]] = {}  # wrong tokens by network, the network last seen at the end

    def admit(self, token: str, may: Collection[Right], address: str) -> str:
        """The name of whom the token belongs to, if they have one of these rights. Problem 401, 403 or 429 says why
        not. `address` is where the request came from."""
        if not token:
            raise Problem(401, "this needs a token: Authorization: Bearer ...")
        network = _network(address)
        self._restrain(network)
        digest = _digest(token)
        found = None
        for known in self._known:  # all of them, each in constant time: how long it takes tells nothing
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is None:
            self._remember(network, digest)
            raise Problem(401, "nobody has this token")
        if found.may.isdisjoint(may):
            wanted, theirs = " or ".join(sorted(may)), ", ".join(sorted(found.may))
            raise Problem(403, f"{found.name} may not do this: it needs the right to {wanted}; theirs: {theirs}")
        return found.name

    def _restrain(self, network: str) -> None:
        tried = self._tried.get(network, {})
        now = self._clock()
        for digest in [digest for digest, at in tried.items() if now - at >= _SPAN]:
            del tried[digest]
        if len(tried) >= _TRIES:
            after = min(tried.values()) + _SPAN - now
            raise Problem(429, f"{_TRIES} different wrong tokens came from your network; wait a while", after=after)

    def _remember(self, network: str, digest: bytes) -> None:
        tried = self._tried.pop(network, {})
        tried[digest] = self._clock()
        self._tried[network] = tried
        if len(self._tried) > _NETWORKS:
            del self._tried[next(iter(self._tried))]


def resident(home: Path) -> Person:
    """The person of this machine, with every right; the token is made where there is none. OSError if it cannot be."""
    path = home / "token"
    token = read_token(home)
    if token is None or len(token) < SHORTEST:
        token = secrets.token_urlsafe(32)
        fresh = path.with_suffix(f".{secrets.token_hex(4)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
        fresh.replace(path)
    path.chmod(0o600)
    return Person(LOCAL, Secret(token))


def read_token(home: Path) -> str | None:
    """The token of this machine; None where there is none. OSError where it may not be read."""
    try:
        return Secret((home / "token").read_text(encoding="utf-8", errors="replace").strip())
    except FileNotFoundError:
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _network(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 one: whoever has one of its addresses has all of them.

    >>> _network("192.0.2.7"), _network("2001:db8::1:2:3:4"), _network("unix")
    ('192.0.2.7', '2001:db8::', 'unix')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)).network_address)
