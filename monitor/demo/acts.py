"""The script: what happens to the shelf camera, when, and which alerts should tell of it.

Times are event time, in seconds from the story's start. An alert belongs to the act in which it opened. Between two
disturbances the camera is well again for ten minutes, so that alerts of one act are gone before the next begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

RATE = 20  # events a second of event time
BURST = 10.0  # seconds of event time a request to the daemon carries
NEW_SHARE = 0.5  # of the pictures while new products are on the shelf
GAIN, OFFSET = 1.2, 0.05  # what the camera makes of a pixel of 0..1 when its gain has changed
LOST = "edge_energy"  # the feature that goes missing
SETTLE = 330.0  # of a span of five minutes and a window: so long a span still holds the act before, and may open alerts


class Scene(NamedTuple):
    """What the camera's world is like."""

    gain: bool = False  # every pixel comes out brighter
    new: bool = False  # products are on the shelf that the first version never saw
    lost: bool = False  # a feature does not arrive


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
    scene: Scene = Scene()
    signs: tuple[Sign, ...] = ()  # none: nothing should open

    @property
    def calm(self) -> bool:
        return not self.signs


_CALM = "The shelf looks as it did when the model was accepted. The daemon should have nothing to say."
_REPAIRED = "Put right. Open alerts should resolve by themselves and nothing new should open."

_DOUBT = frozenset(
    {"entropy", "confidence", "margin", "least_confidence", "ratio"}
    | {"disagreement", "vote_entropy", "members_agree", "members_disagree"}
)

ACTS = (
    Act("calm", 600, _CALM),
    Act(
        "the camera's gain changes",
        600,
        "After an update every pixel comes out a fifth brighter and a little raised. Nothing crashes: the model goes "
        "on answering, on pictures it was never tested on.",
        Scene(gain=True),
        (Sign("brightness moved", frozenset({"brightness"})),),
    ),
    Act("repaired", 600, _REPAIRED),
    Act(
        "new products arrive, to stay",
        2700,
        "Two products come to the shelf that the model was never shown (the digits 8 and 9; it knows 0 to 7). It "
        "cannot say 'unknown': it gives each of them an old name. The person on call rules that this is intended; "
        "labelers say what the pictures show; the daemon asks for retraining.",
        Scene(new=True),
        (
            Sign("the model is in doubt", _DOUBT),
            Sign("inputs look novel", frozenset({"novelty"})),
        ),
    ),
    Act(
        "the new version knows them",
        900,
        "Version 2 was trained with the labels that came back. The world is as it was a moment ago, and the model is "
        "right again: the daemon should have nothing to say.",
        Scene(new=True),
    ),
    Act(
        "a feature goes missing",
        600,
        f"A client stops sending {LOST}. The model server fills the gap with the training mean, as many do, so answers "
        "keep coming and nobody downstream can tell.",
        Scene(new=True, lost=True),
        (Sign(f"{LOST} missing", frozenset({LOST}), frozenset({"missing", "schema"})),),
    ),
    Act("calm again", 600, _REPAIRED, Scene(new=True)),
)
NEW = next(i for i, act in enumerate(ACTS) if act.scene.new)  # the act that teaches
TAUGHT = NEW + 1

LENGTH = sum(act.seconds for act in ACTS)


def starts() -> Iterator[float]:
    """Start of each act."""
    start = 0.0
    for act in ACTS:
        yield start
        start += act.seconds


def starts_between(since: float, until: float) -> Iterator[float]:
    """Starts of acts from `since` on and before `until`.

    >>> list(starts_between(600.0, 1201.0)), list(starts_between(601.0, 1200.0))
    ([600.0, 1200.0], [])
    """
    return (start for start in starts() if since <= start < until)


def act_at(second: float) -> int:
    """Index of the act that plays at this second; after the end the last one.

    >>> act_at(0.0), act_at(599.0), act_at(600.0), act_at(LENGTH + 1.0)
    (0, 0, 1, 6)
    """
    return max(i for i, start in enumerate(starts()) if start <= second)
