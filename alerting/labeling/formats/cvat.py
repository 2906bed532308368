"""CVAT: a dataset manifest and pre-annotations out; annotations in "CVAT for images 1.1" back, as XML or zipped.

What a reader would get wrong: CVAT's exports name pictures and do not carry our ids. A picture whose name is the
task's id, as those of the S3 hand-over do, is known by it; for any other the manifest that went out has to be put into
the archive of the export, as `manifest.jsonl`.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET
from xml.parsers import expat

import msgspec

from alerting.labeling.formats import wire
from alerting.labeling.formats.wire import Fault, Reply
from alerting.labeling.task import Asked, Box

LARGEST = 256 << 20  # bytes of annotations once unpacked: 100,000 pictures with ten boxes each

_MANIFEST = "manifest.jsonl"
HEAD = b'{"version":"1.0"}\n{"type":"images"}\n'  # of a manifest


class _Entry(msgspec.Struct):
    name: str = ""
    extension: str = ""
    meta: dict[str, Any] = {}


def item(task: Asked) -> dict[str, Any]:
    """A line of the manifest. Raises Unfit for a task without a picture."""
    uri, size = wire.image(task)
    path = name_of(uri)
    return {
        "name": str(path.with_suffix("")), "extension": path.suffix, "width": size.width, "height": size.height,
        "meta": {wire.ID: task.task},
    }  # fmt: skip


def file(items: Sequence[Mapping[str, Any]]) -> bytes:
    """A manifest of the lines."""
    return HEAD + wire.as_lines(items)


def name_of(uri: str) -> PurePosixPath:
    """The path of a picture within its bucket, which is its name in a task.

    >>> str(name_of("s3://shelf/2026/a.jpg"))
    '2026/a.jpg'
    """
    return PurePosixPath(urlsplit(uri).path.lstrip("/"))


def prelabels(tasks: Sequence[Asked]) -> bytes:
    """The models' answers as annotations to upload to the task: a tag for the class, a box for each box."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    for n, task in enumerate(tasks):
        uri, size = wire.image(task)
        about = {"id": str(n), "name": str(name_of(uri)), "width": str(size.width), "height": str(size.height)}
        picture = ET.SubElement(root, "image", about)
        answer = wire.label(task)
        if answer is not None and not wire.predicted(task).boxes:
            ET.SubElement(picture, "tag", {"label": answer, "source": "auto"})
        for box in wire.predicted(task).boxes:
            corners = {
                "xtl": box.left, "ytl": box.top, "xbr": box.left + box.width, "ybr": box.top + box.height,
            }  # fmt: skip
            said = {"label": box.name, "source": "auto", "occluded": "0", "z_order": "0"}
            ET.SubElement(picture, "box", said | {corner: f"{value:.2f}" for corner, value in corners.items()})
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def read(data: bytes) -> Iterator[Reply | Fault]:
    """Replies of an export: pictures with tags or boxes; a picture without any is not labeled yet. Pre-annotations that
    nobody touched count as accepted."""
    try:
        found, manifest = _unpacked(data)
        root, known = _parsed(found), _ids(manifest)
    except (wire.Unreadable, msgspec.DecodeError) as error:
        yield Fault("the file", str(error))
        return
    for picture in root.iter("image"):
        name = picture.get("name", "")
        try:
            yield from _replies(picture, known.get(name) or PurePosixPath(name).stem)
        except ValueError as error:
            yield Fault(f"image {name[:100]!r}", str(error))


def _replies(picture: ET.Element, task: str) -> Iterator[Reply]:
    if not task:
        raise wire.Unreadable("a picture without a name")
    tags = [tag.get("label", "") for tag in picture.iter("tag")]
    boxes = tuple(_box(box) for box in picture.iter("box"))
    value = wire.joined(tags) or wire.joined(box.name for box in boxes)
    if value is not None:
        yield Reply(task=task, value=value, boxes=boxes)


def _box(box: ET.Element) -> Box:
    try:
        left, top, right, low = (float(box.attrib[corner]) for corner in ("xtl", "ytl", "xbr", "ybr"))
    except KeyError as error:
        raise wire.Unreadable(f"a box without {error}") from error
    return Box(box.get("label", ""), left, top, right - left, low - top)


def _ids(manifest: bytes) -> dict[str, str]:
    entries = [msgspec.json.decode(line, type=_Entry) for line in manifest.splitlines()]
    return {e.name + e.extension: e.meta[wire.ID] for e in entries if isinstance(e.meta.get(wire.ID), str)}


def _unpacked(data: bytes) -> tuple[bytes, bytes]:
    """Annotations and, where it lies beside them, the manifest."""
    if not data.startswith(b"PK\x03\x04"):
        return data, b""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            manifest = _member(packed, _MANIFEST) if _MANIFEST in packed.namelist() else b""
            return _member(packed, "annotations.xml"), manifest
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise wire.Unreadable(f"the archive cannot be read: {error}") from error


def _member(packed: zipfile.ZipFile, name: str) -> bytes:
    with packed.open(name) as inside:
        out = inside.read(LARGEST + 1)
    if len(out) > LARGEST:
        raise wire.Unreadable(f"{name} has more than {LARGEST} bytes")
    return out


def _parsed(data: bytes) -> ET.Element:
    """The tree. No document type is read: without one there are no entities, the only way XML grows or reaches out."""
    looking = expat.ParserCreate()
    looking.StartDoctypeDeclHandler = _refuse
    builder = ET.TreeBuilder()
    looking.StartElementHandler = builder.start
    looking.EndElementHandler = builder.end
    try:
        looking.Parse(data, True)
    except expat.ExpatError as error:
        raise wire.Unreadable(f"no XML: {error}") from error
    return builder.close()


def _refuse(*_: object) -> None:
    raise wire.Unreadable("XML with a document type is not read")
