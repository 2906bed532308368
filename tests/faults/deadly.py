"""A user's own scorer with a bug that no `except` catches: named in a configuration as `tests.faults.deadly:Deadly`."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from detectors.core import Batch, Column


class Deadly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="deadly"):
    """Ends the process, as a native library would that crashes, at a word of c0 that begins with "deadly"."""

    def fit(self, rows: Batch) -> Any:
        return None

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        words = rows["c0"].words
        if any(words[code].startswith("deadly") for code in rows["c0"].values if code >= 0):
            os.abort()
        return {}
