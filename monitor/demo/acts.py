"""The script: what happens to the shelf camera, when, and which alerts should tell of it.

Times are event time, in seconds from the start of a cycle. An alert belongs to the act in which it opened. Between
two disturbances the camera is well again for ten minutes, so that alerts of one act are gone before the next begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import cycle
from typing import NamedTuple

UNSEEN_SHARE = 0.5  # of the pictures while new products are on the shelf
GAIN, OFFSET = 1.2, 0.05  # what the camera makes of a pixel of 0..1 when its gain has changed
LOST = "edge_energy"  # the feature that goes missing
SETTLE = 330.0  # of a span of five minutes and a window: so long a span still holds the act before, and may open alerts


class Trouble(StrEnum):
    """What is wrong with the camera's world."""

    NONE = "none"
    GAIN = "gain"
    UNSEEN = "unseen"
    MISSING = "missing"


class Sign(NamedTuple):
    """Something that the daemon must notice: an alert on one of `columns`, by one of `checks` (none: by any)."""

    words: str
    columns: frozenset[str]
    checks: frozenset[str] = frozenset()

    def shown_by(self, check: str, column: str) -> bool:
        return column in self.columns and (not self.checks or check in self.checks)


class Act(NamedTuple):
    """A stretch of the story."""

    title: str
    seconds: float
    story: str  # what happens, and why anyone should care
    trouble: Trouble = Trouble.NONE
    signs: tuple[Sign, ...] = ()


_CALM = "The shelf looks as it did when the model was accepted. The daemon should have nothing to say."
_REPAIRED = "Put right. Open alerts should resolve by themselves and nothing new should open."

ACTS = (
    Act("calm", 1200, _CALM),
    Act(
        "the camera's gain changes",
        900,
        "After an update every pixel comes out a fifth brighter and a little raised. Nothing crashes: the model goes "
        "on answering, on pictures it was never tested on.",
        Trouble.GAIN,
        (Sign("brightness moved", frozenset({"brightness"})),),
    ),
    Act("repaired", 600, _REPAIRED),
    Act(
        "products never seen in training",
        900,
        "Two new products arrive (the digits 8 and 9; the model knows 0 to 7). It cannot say 'unknown': it gives each "
        "of them an old name.",
        Trouble.UNSEEN,
        (
            Sign("uncertainty rose", frozenset({"entropy", "confidence", "margin", "least_confidence", "ratio"})),
            Sign("committee split", frozenset({"disagreement", "vote_entropy", "members_agree"})),
            Sign("inputs look novel", frozenset({"novelty"})),
        ),
    ),
    Act("sold out again", 600, _REPAIRED),
    Act(
        "a feature goes missing",
        900,
        f"A client stops sending {LOST}. The model server fills the gap with the training mean, as many do, so answers "
        "keep coming and nobody downstream can tell.",
        Trouble.MISSING,
        (Sign(f"{LOST} missing", frozenset({LOST}), frozenset({"missing", "schema"})),),
    ),
    Act("calm again", 900, _REPAIRED),
)

CYCLE = sum(act.seconds for act in ACTS)


def timeline() -> Iterator[tuple[float, Act]]:
    """Each act of one cycle with its start."""
    start = 0.0
    for act in ACTS:
        yield start, act
        start += act.seconds


def starts_between(since: float, until: float) -> Iterator[float]:
    """Starts of acts, in seconds since the very start, from `since` on and before `until`; the cycle repeats.

    >>> list(starts_between(1200.0, CYCLE + 1.0))[-2:], list(starts_between(1201.0, 2100.0))
    ([5100.0, 6000.0], [])
    """
    start = 0.0
    for act in cycle(ACTS):
        if start >= until:
            return
        if start >= since:
            yield start
        start += act.seconds


def act_at(second: float) -> int:
    """Index of the act that plays at this second since the very start; the cycle repeats.

    >>> act_at(0.0), act_at(1199.0), act_at(1200.0), act_at(CYCLE + 1.0)
    (0, 0, 1, 0)
    """
    second %= CYCLE
    return max(i for i, (start, _) in enumerate(timeline()) if start <= second)
