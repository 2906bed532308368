"""What ingest hands to the judge: messages on a log, so that neither assumes the other in its process.

A message says how far a lane has closed its windows, and carries what the windows held. Messages of a lane are
numbered; re-reading a source after a crash gives the same messages with the same numbers, and the judge drops those it
has. Where the messages would depend on anything but the records (a window closed by the clock, a pair whose halves
came by two topics), ingest saves them in its checkpoint before it sends them.
"""

from __future__ import annotations

import msgspec

from alerting.alert import Verdict
from alerting.labeling.task import Labels
from alerting.retraining import Word
from detectors.encode import decode, encode
from detectors.selection import Pools
from monitor.event import Event
from monitor.labels import Hour
from monitor.versions import Met

ENDED = 1 << 62  # `below` of a lane whose source has an end and has reached it: nobody need wait for it any more


class Counted(msgspec.Struct, frozen=True):
    """A window's rows as counted on one reference."""

    reference: str  # its version
    profile: bytes
    scopes: dict[str, bytes] = {}  # profiles of the parts of the rows that are watched on their own


class Partial(msgspec.Struct, frozen=True):
    """A lane's part of a window of a model."""

    window: int  # number of the window: start / size
    rows: int
    counts: list[Counted] = []  # of the same rows, each on another reference; none while the first is being learned
    events: list[Event] = []  # instead of them, the first of the window's events, at most the number to learn from
    raw: list[Event] = []  # besides them, the same of a window whose rows another reference may be learned from
    draw: Pools | None = None  # candidates for labeling
    late: bool = False  # of a window closed before: goes to the totals, is not judged
    versions: dict[str, int] = {}  # rows by the version that answered them, of the first few versions seen
    ids: dict[int, str] = {}  # by key, of the rows that the profile has in its sample


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """A lane will give no more rows for windows under number `below`, save late ones."""

    model: str
    lane: str
    serial: int
    below: int | None  # None: nothing closed yet; announces the lane, which the judge then waits for
    partials: list[Partial] = []
    turn: tuple[str, int] | None = None  # a reference counted on as well, by version, and the first window that is
    newest: float = float("nan")  # event time of the newest row behind this message
    arrived: float = float("nan")  # when that row reached the source
    hours: dict[int, Hour] = {}  # of the model's labels: the lane's hours of event time that they changed
    met: list[Met] = []  # of the model's versions: how the lane's answers to the same events differed


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Something that happened outside the events and that judging depends on. Told twice it counts once, by its id.

    It lies on the exchange among the windows, so the judge comes to the same after a crash.
    """

    id: str
    model: str
    act: Verdict | Labels | Word


Message = Closed | Told


def to_bytes(message: Message) -> bytes:
    """As it lies on the exchange."""
    return encode(message)


def from_bytes(data: bytes) -> Message:
    """Back. Undecodable for anything else."""
    return decode(data, Message)  # type: ignore[arg-type]  # a union is a type to msgspec
