"""Rows of the last windows that can be found again by their event's id, so that one event can be explained.

They are those of the windows' samples. What a reader would get wrong: they are not in the checkpoint; after a restart
they gather anew, and what a label task says of its event stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

import numpy as np

from detectors.core import Batch
from detectors.profile import Layout, Sample
from monitor.examples import Ids
from monitor.scopes import batch_of

WINDOWS = 16  # 128 rows each: 1 MB of 60 columns
EXAMPLES = 200  # of alerts, whose windows may have passed


class Recent:
    """Rows of a model. One thread takes them in; any may look."""

    def __init__(self) -> None:
        self._windows: deque[tuple[Layout, Sample, dict[str, int]]] = deque(maxlen=WINDOWS)
        self._examples: dict[str, tuple[Layout, Sample]] = {}

    def take(self, layout: Layout, sample: Sample, ids: Ids, examples: Iterable[str]) -> None:
        """A window's sampled rows, the ids of some of them by key, and which of these are examples of a finding."""
        places = {ids[key]: i for i, key in enumerate(sample.keys.tolist()) if key in ids}
        self._windows.append((layout, sample, places))
        for name in examples:
            if name in places:
                self._examples.pop(name, None)
                self._examples[name] = layout, sample.take(np.array([places[name]]))
        for name in list(islice(self._examples, max(0, len(self._examples) - EXAMPLES))):
            del self._examples[name]

    def find(self, event: str) -> Batch | None:
        """The event's scored row without texts and vectors; None when it is not there, or not any more."""
        for layout, sample, places in reversed(tuple(self._windows)):
            if event in places:
                return batch_of(layout, sample.take(np.array([places[event]])))
        held = self._examples.get(event)
        return None if held is None else batch_of(*held)
