"""A bucket as a labeling tool: items for whoever reads it, labels from whoever writes them there.

Items go to `<prefix>/<dataset>/<batch>/`, one object each and then `manifest.jsonl`, so that who sees the manifest has
all of them. Labels come from `<prefix>/labels/`, in files of any of the formats. What a reader would get wrong: every
key follows from what it holds, so handing over again after a crash writes the same objects, not more of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from alerting.deliver import Undelivered
from alerting.labeling.formats import FORMATS, Fault, Reply, cvat
from alerting.labeling.task import Asked
from alerting.labeling.tools.tool import HandOver, Pulled, Unproven
from alerting.s3 import S3Access, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CopySourceTypeDef

MANIFEST = "manifest.jsonl"
_LABELS = "labels"

_LARGEST = 256 << 20  # bytes of a file of labels


class S3Bucket(HandOver, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="s3"):
    """A bucket that items are handed over to, and labels come back from."""

    bucket: Annotated[str, Meta(min_length=3, description="Bucket; it must exist.")]
    prefix: Annotated[str, Meta(description="Put before every key, a slash between.")] = ""
    server: Annotated[S3Access, Meta(description="How it is reached.")] = S3Access()
    format: Annotated[
        Literal["jsonl", "label-studio", "cvat", "ground-truth", "prodigy", "doccano", "fiftyone"],
        Meta(description="Of the items that go out, and of the labels that come back."),
    ] = "jsonl"
    copy: Annotated[
        bool,
        Meta(
            description="Copy what lies at an item's `s3://` address beside it, named by the item, for tools that know "
            "pictures by their names alone."
        ),
    ] = False
    name: Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,60}$", description="Unique among all tools.")] = "s3"

    def __post_init__(self) -> None:
        if self.format == "cvat" and not self.copy:
            raise ValueError("a manifest of CVAT names only pictures that lie beside it: set copy")

    def open(self) -> S3BucketTool:
        """The live tool; ValueError for settings that make no sense to the S3 client."""
        return S3BucketTool(self)


class S3BucketTool:
    """The opened `S3Bucket`. See `Tool`."""

    def __init__(self, options: S3Bucket) -> None:
        self._options, self._format = options, FORMATS[options.format]
        self._root = f"{options.prefix.rstrip('/')}/" if options.prefix else ""
        self._client = s3_client(options.server)
        self._read: dict[str, str] = {}  # files of labels read, and their content's tag

    def push(self, batch: str, tasks: Sequence[Asked]) -> Mapping[str, str]:
        made = {}
        for dataset in sorted({task.dataset for task in tasks}):
            folder = f"{self._root}{_quoted(dataset)}/{batch}/"
            ours = {task.task: self._item(folder, task) for task in tasks if task.dataset == dataset}
            for name, item in ours.items():
                made[name] = f"{folder}{name}.json"
                self._create(made[name], item)
            self._complete(folder + MANIFEST, list(ours.values()))
        return made

    def withdraw(self, there: Mapping[str, str]) -> None:
        for folder, names in by_folder(there).items():
            # CVAT counts the lines of a manifest and reads the pictures by it as long as it has a task of them
            kept = self._options.format == "cvat"
            if not kept:
                self._strike(f"{folder}/{MANIFEST}", names)
            for name in sorted(names):
                with self._told(folder):
                    for key, _ in [*self._listed(f"{folder}/{name}.")]:
                        if key.endswith(".json") or not kept:
                            self._client.delete_object(Bucket=self._options.bucket, Key=key)

    def pull(self, *, everything: bool) -> Iterator[Pulled]:
        if everything:
            self._read = {}
            yield from self._there()
        read = {}
        for key, tag in self._listed(f"{self._root}{_LABELS}/"):
            if self._read.get(key) != tag and not key.endswith("/"):
                yield Pulled(replies=tuple(self._labels(key)))
            read[key] = tag
        self._read = read

    def hooked(self, headers: Mapping[str, str], body: bytes) -> Pulled:
        raise Unproven("a bucket calls no webhooks")

    def close(self) -> None:
        self._client.close()

    def _there(self) -> Iterator[Pulled]:
        """Items that the bucket holds: what was handed over when a crash kept us from noting it."""
        keys = (key for key, _ in self._listed(self._root) if not key.startswith(f"{self._root}{_LABELS}/"))
        yield Pulled(there={PurePosixPath(key).stem: key for key in keys if key.endswith(".json")})

    def _labels(self, key: str) -> Iterator[Reply | Fault]:
        with self._told(key):
            data = self._client.get_object(Bucket=self._options.bucket, Key=key)["Body"].read(_LARGEST + 1)
        if len(data) > _LARGEST:
            return iter((Fault(key, f"more than {_LARGEST} bytes"),))
        return self._format.read(data)

    def _item(self, folder: str, task: Asked) -> bytes:
        """As it is written; what lies at its address is copied before, within the server, where that is wanted."""
        source, bucket = urlsplit(task.uri), self._options.bucket
        if not self._options.copy or source.scheme != "s3":
            return msgspec.json.encode(self._format.item(task))
        name = task.task + PurePosixPath(source.path).suffix
        # A manifest names pictures by their way from where it lies: copies lie beside it.
        address = name if self._options.format == "cvat" else f"s3://{bucket}/{folder}{name}"
        item = msgspec.json.encode(self._format.item(replace(task, uri=address)))  # before the copy: it may be unfit
        with self._told(folder + name):
            origin: CopySourceTypeDef = {"Bucket": source.netloc, "Key": source.path.lstrip("/")}
            self._client.copy_object(Bucket=bucket, Key=folder + name, CopySource=origin)
        return item

    def _complete(self, key: str, lines: Sequence[bytes]) -> None:
        """Writes the manifest, last; with the lines that are there already where part of the batch went before."""
        head = cvat.HEAD if self._options.format == "cvat" else b""
        if self._create(key, head + b"".join(line + b"\n" for line in lines)):
            return
        bucket = self._options.bucket
        with self._told(key):
            held = self._client.get_object(Bucket=bucket, Key=key)
            there = held["Body"].read().removeprefix(head).splitlines()
            merged = list(dict.fromkeys([*there, *lines]))
            if len(merged) > len(there):
                whole = head + b"".join(line + b"\n" for line in merged)
                self._client.put_object(Bucket=bucket, Key=key, Body=whole, IfMatch=held["ETag"])

    def _strike(self, key: str, names: AbstractSet[str]) -> None:
        """Takes the lines of these items out of a manifest, so that nobody looks for them."""
        from botocore.exceptions import ClientError

        bucket = self._options.bucket
        with self._told(key):
            try:
                held = self._client.get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    return
                raise
            there = held["Body"].read().splitlines(keepends=True)
            left = [line for line in there if not any(name.encode() in line for name in names)]
            if len(left) < len(there):
                self._client.put_object(Bucket=bucket, Key=key, Body=b"".join(left), IfMatch=held["ETag"])

    def _create(self, key: str, body: bytes) -> bool:
        """Puts an object where there is none; whether it did."""
        from botocore.exceptions import ClientError

        with self._told(key):
            try:
                self._client.put_object(
                    Bucket=self._options.bucket, Key=key, Body=body, IfNoneMatch="*", ContentType="application/json"
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "PreconditionFailed":
                    return False
                raise
        return True

    def _listed(self, prefix: str) -> Iterator[tuple[str, str]]:
        with self._told(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._options.bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"], item["ETag"]

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise Undelivered(f"s3://{self._options.bucket}/{key}: {error}", retry=True) from error


def by_folder(there: Mapping[str, str]) -> dict[str, set[str]]:
    """Names of items by the folder that their keys lie in."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, key in there.items():
        found[str(PurePosixPath(key).parent)].add(name)
    return found


def _quoted(dataset: str) -> str:
    """As a folder, which must not be that of the labels."""
    return quote(dataset, safe="") if dataset != _LABELS else f"%{ord(dataset[0]):X}{dataset[1:]}"
