"""Brings members' files into a directory, each under its SHA-256. No byte is looked into before its digest is right."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Protocol

from alerting.s3 import S3Server, s3_client
from monitor.committee.options import DIGEST
from monitor.committee.wire import Fetched, FetchJob, Refusal, Wanted

_PIECE = 1 << 20
_HALF = ".half-"


class Unusable(Exception):
    """A file that is not used. `cause` is the word it is counted by."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def fetch(job: FetchJob) -> Fetched:
    """Every wanted file, or the reason for the first that is not to be had."""
    cache = Path(job.cache)
    for left in cache.glob(_HALF + "*"):
        left.unlink(missing_ok=True)
    try:
        return Fetched(tuple(_one(wanted, cache, job) for wanted in job.wanted))
    except Unusable as error:
        return Fetched(refusal=Refusal(error.cause, str(error)))


def _one(wanted: Wanted, cache: Path, job: FetchJob) -> str:
    digest = wanted.sha256 or _beside(wanted.path, job.s3)
    if (cache / digest).exists():
        return digest
    seen = hashlib.sha256()
    descriptor, half = tempfile.mkstemp(prefix=_HALF, dir=cache)
    try:
        with os.fdopen(descriptor, "wb") as file, _opened(wanted.path, job.s3) as source:
            size = 0
            while piece := _read(source, wanted.path):
                size += len(piece)
                if size > job.largest:
                    raise Unusable("too_large", f"{wanted.path}: over {job.largest} bytes")
                seen.update(piece)
                file.write(piece)
        if seen.hexdigest() != digest:
            raise Unusable("wrong_digest", f"{wanted.path}: SHA-256 is {seen.hexdigest()}, wanted {digest}")
        Path(half).replace(cache / digest)
    finally:
        with suppress(FileNotFoundError):
            Path(half).unlink()
    return digest


def _beside(path: str, s3: S3Server) -> str:
    with _opened(path + ".sha256", s3) as source:
        first = _read(source, path, 4096).split(None, 1)
    digest = first[0].decode(errors="replace").lower() if first else ""
    if not re.fullmatch(DIGEST, digest):
        raise Unusable("no_digest", f"{path}.sha256: begins with no SHA-256 in hex")
    return digest


def _opened(path: str, s3: S3Server) -> AbstractContextManager[_Readable]:
    if not path.startswith("s3://"):
        try:
            return Path(path).open("rb")
        except OSError as error:
            raise Unusable("missing", f"{path}: {error.strerror}") from error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = path.removeprefix("s3://").partition("/")
    try:
        return closing(s3_client(s3).get_object(Bucket=bucket, Key=key)["Body"])
    except (BotoCoreError, ClientError) as error:
        raise Unusable("missing", f"{path}: {error}") from error


def _read(source: _Readable, path: str, size: int = _PIECE) -> bytes:
    try:
        return source.read(size)
    except Exception as error:  # botocore passes on what urllib3 and http.client raise, which share no base
        raise Unusable("missing", f"{path}: broke off: {error}") from error
