"""The last base windows of a model, and any span of them as one profile."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from detectors.encode import Undecodable
from detectors.profile import Layout, Profile, merged


class Kept(msgspec.Struct, frozen=True):
    """A window as it is saved."""

    window: int
    profile: bytes


class History:
    """Profiles of the last `windows` base windows, newest last. Gaps are windows without a row.

    Row samples are left out: a span's checks read counts only, and 256 rows of 60 columns would be four fifths of
    the memory.
    """

    def __init__(self, layout: Layout, windows: int) -> None:
        self._layout = layout
        self._most = max(windows, 1)
        self._held: deque[tuple[int, Profile]] = deque()
        self._saved: dict[int, bytes] = {}

    def push(self, window: int, profile: Profile) -> None:
        """Adds a window newer than all held. The profile is not changed."""
        self._held.append((window, profile.without_sample()))
        while self._held and self._held[0][0] <= window - self._most:
            old, _ = self._held.popleft()
            self._saved.pop(old, None)

    def over(self, last: int, windows: int) -> Profile:
        """One profile of `windows` base windows, up to and with number `last`."""
        return merged(self._layout, [p for n, p in self._held if last - windows < n <= last])

    def rows(self, last: int, windows: int) -> list[int]:
        """Rows of each of those windows, oldest first, 0 for gaps."""
        of = {n: p.rows for n, p in self._held}
        return [of.get(n, 0) for n in range(last - windows + 1, last + 1)]

    def save(self) -> list[Kept]:
        for number, profile in self._held:
            if number not in self._saved:  # a window that is in here never changes
                self._saved[number] = profile.encode()
        return [Kept(number, self._saved[number]) for number, _ in self._held]

    def restore(self, kept: Sequence[Kept]) -> int:
        """Takes saved windows back; how many could not be read, e.g. counted on another reference."""
        lost = 0
        for one in kept:
            try:
                self._held.append((one.window, Profile.decode(self._layout, one.profile)))
            except Undecodable:
                lost += 1
            else:
                self._saved[one.window] = one.profile
        return lost
