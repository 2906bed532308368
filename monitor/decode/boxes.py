"""Boxes of a picture: `outputs.boxes` of an event, kept as one text a row until a labeler is asked.

Left, top, width and height are pixels from the picture's left upper corner, as in `alerting.labeling.task.Box`.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from alerting.labeling.task import Box

BOXES = "boxes"  # the column
MOST = 200  # boxes of a row that are kept, the surest; a label task holds no more
_DECODER = msgspec.json.Decoder(list[Box])


def packed(value: Any) -> str | None:
    """Boxes as JSON gives them, as one text, without those whose place is no finite number; None for anything else.

    >>> packed([{"name": "can", "left": 64, "top": 48, "width": 320, "height": 240, "score": 0.5}])
    '[{"name":"can","left":64.0,"top":48.0,"width":320.0,"height":240.0,"score":0.5}]'
    >>> packed(["can"]) is packed("can") is None
    True
    """
    try:
        boxes = [box for box in msgspec.convert(value, list[Box]) if _placed(box)]
    except msgspec.ValidationError:
        return None
    kept = sorted(boxes, key=lambda box: -_sure(box))[:MOST] if len(boxes) > MOST else boxes
    return msgspec.json.encode(kept).decode()


def unpacked(text: str) -> tuple[Box, ...]:
    """The boxes of such a text."""
    return tuple(_DECODER.decode(text)) if text else ()


def _placed(box: Box) -> bool:
    return all(map(math.isfinite, (box.left, box.top, box.width, box.height)))


def _sure(box: Box) -> float:
    return box.score if box.score is not None and math.isfinite(box.score) else 0.0
