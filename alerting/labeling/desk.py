"""Who is served next: lines of waiting tasks, turns between lines, and the purse. Plain data, no documents, no clock.

What a reader would get wrong: the lines are no second truth. A task's document says what it is; an entry only says
where to look. So an entry may be stale (whoever takes it finds out by the document's conditional update), but a task
that waits must have one: every move is noted in `taken` before it is made and settled after, and what a dead process
left there is looked at again when its time is up.

The order lies here, not in an index of the database, as servers that speak MongoDB's protocol differ in what their
indexes can do, while all find a document by its `_id`. A line keeps its head in the desk, at most a hundred
entries, and the rest in sorted runs of a thousand (`Shelf`) that are fetched when it is their turn: to serve costs the
same with a hundred tasks waiting as with a million.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec

from alerting.labeling.task import Turn

HEAD = 64  # entries of a line kept at hand, at least; at most twice as many are saved with the desk
RUN = 1_000  # entries of a shelf: 60 KB
LOOKED = 2_000  # entries that are looked at for a labeler who may have none of them
HOUR, DAY = 3600.0, 86400.0
_RECENT = 500  # answers of the last hour remembered, for the rate
_PEOPLE = 200  # labelers remembered
# Seconds in which a labeler who asks again and gets nothing changes nothing: sixteen who asked five times a second
# overtook the daemon, which was putting 250 tasks right, for minutes.
_IDLE = 60.0
_PUTS = 50  # times of draws remembered

REVIEW, FINAL, RESERVE = "review", "final", "reserve"  # lines beside those of `Turn`


class Entry(NamedTuple):
    """A task that waits; the lowest is served first."""

    order: float
    at: float  # UTC seconds; of two of one order the older is first
    id: str
    barred: tuple[str, ...] = ()  # who is not asked for it


class Shelf(NamedTuple):
    """A sorted run of entries that is stored elsewhere."""

    first: tuple[float, float, str]
    size: int
    name: str


class Shelves(Protocol):
    """Where runs are stored. One that was loaded is named by no desk any more and goes."""

    def load(self, name: str) -> list[Entry]:
        """Empty for one that is gone."""

    def keep(self, entries: list[Entry]) -> str:
        """Returns the name it is kept under."""


class Line(msgspec.Struct):
    """Entries in order, the first of them at hand."""

    head: list[Entry] = []
    shelves: list[Shelf] = []

    def __len__(self) -> int:
        return len(self.head) + sum(shelf.size for shelf in self.shelves)

    def enter(self, entries: Iterable[Entry]) -> None:
        """Takes them in; one that stands in the head already is put where it belongs now."""
        new = sorted({entry.id: entry for entry in entries}.values())
        if new:
            named = {entry.id for entry in new}
            self.head = list(heapq.merge((e for e in self.head if e.id not in named), new))

    def leave(self, names: Iterable[str]) -> None:
        """Lets go of those that are in the head."""
        gone = frozenset(names)
        self.head = [entry for entry in self.head if entry.id not in gone]

    def first(self, shelves: Shelves, fits: Callable[[Entry], bool] = lambda _: True) -> Entry | None:
        """The first that fits, without taking it away. None among the first `LOOKED` is none."""
        i = 0
        while i < LOOKED:
            if not self._reach(i, shelves):
                return None
            if fits(self.head[i]):
                return self.head[i]
            i += 1
        return None

    def some(self, limit: int, shelves: Shelves) -> list[Entry]:
        """The first `limit`, without taking them away."""
        n = 0
        while n < limit and self._reach(n, shelves):
            n += 1
        return self.head[:n]

    def take(self, entry: Entry) -> None:
        """Takes away one that `first` gave."""
        del self.head[bisect_left(self.head, entry)]

    def _reach(self, i: int, shelves: Shelves) -> bool:
        """Whether there is an entry of index i, which then is at hand, as all before it are."""
        while self.shelves:
            shelf = min(self.shelves)
            if i < len(self.head) and self.head[i][:3] <= shelf.first:
                break
            self.shelves.remove(shelf)
            self.enter(shelves.load(shelf.name))
        return i < len(self.head)

    def tidy(self, shelves: Shelves) -> None:
        """Puts away what is too much to have at hand.

        With what a shelf has room for it is put there, so all but one are half full: a line that takes in little at a
        time would have a shelf for every 65 entries, and a desk of 90 KB with 65,000 waiting, written at each claim.
        """
        if len(self.head) <= 2 * HEAD:
            return
        rest = self.head[HEAD:]
        self.head = self.head[:HEAD]
        for i in range(0, len(rest), RUN):
            run = rest[i : i + RUN]
            roomy = [shelf for shelf in self.shelves if shelf.size + len(run) <= RUN]
            if roomy:
                start = run[0][:3]
                shelf = max(roomy, key=lambda shelf: (shelf.first <= start, shelf.first))
                self.shelves.remove(shelf)
                run = list(heapq.merge(shelves.load(shelf.name), run))
            self.shelves.append(Shelf(run[0][:3], len(run), shelves.keep(run)))


class Taken(NamedTuple):
    """A task that somebody works on, or that is just being moved."""

    until: float  # UTC seconds at which its document is to be looked at again
    paid: float  # UTC seconds at which a label was asked for; 0: none was


class Period(msgspec.Struct):
    """Labels asked for in the hour, the day and the month that are now."""

    hour: int = 0
    day: int = 0
    month: int = 0
    in_hour: int = 0
    in_day: int = 0
    in_month: int = 0

    def at(self, now: float) -> None:
        """Begins anew what has changed."""
        when = datetime.fromtimestamp(min(max(now, 0.0), 253402300799.0), UTC)
        hour, day, month = int(now // HOUR), int(now // DAY), when.year * 12 + when.month
        if hour != self.hour:
            self.hour, self.in_hour = hour, 0
        if day != self.day:
            self.day, self.in_day = day, 0
        if month != self.month:
            self.month, self.in_month = month, 0

    def room(self, caps: tuple[int | None, int | None, int | None]) -> bool:
        """Whether one label more is allowed."""
        counts = (self.in_hour, self.in_day, self.in_month)
        return all(cap is None or count < cap for cap, count in zip(caps, counts, strict=True))

    def pay(self) -> None:
        self.in_hour, self.in_day, self.in_month = self.in_hour + 1, self.in_day + 1, self.in_month + 1

    def refund(self, paid: float) -> None:
        """No label came of what was asked for at `paid`; what was counted in an earlier period stays there."""
        then = Period()
        then.at(paid)
        self.in_hour -= then.hour == self.hour and self.in_hour > 0
        self.in_day -= then.day == self.day and self.in_day > 0
        self.in_month -= then.month == self.month and self.in_month > 0


class Ahead(NamedTuple):
    """Times in UTC seconds before which a look at all documents finds nothing."""

    since: float  # from when on tasks wait
    due: float  # of the first SLA
    expires_at: float  # of the first document that may go

    def sooner(self, other: Ahead) -> Ahead:
        return Ahead(*map(min, self, other))


NEVER = Ahead(math.inf, math.inf, math.inf)


class Desk(msgspec.Struct):
    """One dataset's service. Plain data; whoever changes it has it alone."""

    lines: dict[str, Line] = {}
    taken: dict[str, Taken] = {}
    passes: dict[str, float] = {}  # by turn: when it is due, in served tasks over its share
    clock: float = 0.0  # the pass of the turn served last
    period: Period = msgspec.field(default_factory=Period)
    answers: list[float] = []  # times of the last hour's answers
    seen: dict[str, float] = {}  # labelers by the last time they asked for a task
    puts: list[float] = []  # times of the last draws
    low: int = 0  # ready tasks below which reserves are released; 0: nobody labels
    looked: float = 0.0  # UTC seconds of the last slow look at the documents
    ahead: Ahead = Ahead(0.0, 0.0, 0.0)
    look: str = ""  # a name of the last slow look; another one may have begun meanwhile
    meanwhile: Ahead = NEVER  # of what was moved since it began
    given: int = 0  # answers
    learned: int = -1  # how many had been given when labelers' skills were worked out

    def line(self, name: str) -> Line:
        return self.lines.setdefault(name, Line())

    @property
    def ready(self) -> int:
        """Tasks that can be served, rechecks not among them."""
        return sum(len(self.lines[turn]) for turn in (Turn.DRAWN, Turn.ASKED) if turn in self.lines)

    def serve(
        self, labeler: str, now: float, until: float, shares: Mapping[Turn, float], shelves: Shelves
    ) -> str | None:
        """The id of the next task for this labeler, noted as taken. None: there is none.

        Turns by stride scheduling (Waldspurger, Weihl 1995), a deficit round robin whose state is one number a line:
        the line with the lowest pass is served and its pass grows by 1 / share. A line that was empty for long has no
        claim on the past. What is random in a task (its rank, its part) is served in its own order, so k labelers at
        once hold what one would have got in k turns.
        """
        if now - self.seen.get(labeler, -math.inf) >= _IDLE:
            self.seen[labeler] = now
        while len(self.seen) > _PEOPLE:
            del self.seen[min(self.seen, key=self.seen.__getitem__)]
        fitting: dict[Turn, Entry] = {}
        for turn in (*shares, Turn.RECHECK):
            if turn is Turn.RECHECK and any(t is not Turn.KNOWN for t in fitting):
                break
            entry = self.line(turn).first(shelves, lambda entry: labeler not in entry.barred)
            if entry is not None:
                fitting[turn] = entry
        if all(turn is Turn.KNOWN for turn in fitting):
            return None  # known items alone would be told by that
        turn = min(fitting, key=lambda turn: max(self.passes.get(turn, 0.0), self.clock))
        entry = fitting[turn]
        due = max(self.passes.get(turn, 0.0), self.clock)
        self.clock, self.passes[turn] = due, due + 1.0 / shares.get(turn, 1.0)
        self.line(turn).take(entry)
        self._pay(entry.id, now, until)
        return entry.id

    def serve_review(self, reviewer: str, now: float, until: float, shelves: Shelves) -> str | None:
        """The id of the next task to review, noted as taken."""
        line = self.line(REVIEW)
        entry = line.first(shelves, lambda entry: reviewer not in entry.barred)
        if entry is None:
            return None
        line.take(entry)
        self._pay(entry.id, now, until)
        return entry.id

    def _pay(self, name: str, now: float, until: float) -> None:
        self.taken[name] = Taken(until, now)
        self.period.at(now)
        self.period.pay()

    def over(self, now: float) -> dict[str, Taken]:
        """Tasks whose documents are to be looked at."""
        return {name: taken for name, taken in self.taken.items() if taken.until <= now}

    def watch(self, name: str, until: float) -> None:
        """A move is about to be made: should its maker die, the document is looked at again."""
        if name not in self.taken:
            self.taken[name] = Taken(until, 0.0)

    def extend(self, name: str, until: float) -> None:
        """Whoever works on it has longer."""
        if name in self.taken:
            self.taken[name] = Taken(until, self.taken[name].paid)

    def settle(self, name: str, now: float, *, answered: bool) -> None:
        """Nobody works on it any more; with no answer its label was not asked for."""
        taken = self.taken.pop(name, None)
        if answered:
            self.given += 1
            self.answers = [at for at in (*self.answers[-_RECENT + 1 :], now) if at > now - HOUR]
        elif taken is not None and taken.paid:
            self.period.at(now)
            self.period.refund(taken.paid)

    def foresee(self, ahead: Ahead) -> None:
        """A task was moved."""
        self.ahead, self.meanwhile = self.ahead.sooner(ahead), self.meanwhile.sooner(ahead)

    def begin_look(self, name: str, now: float) -> None:
        """All documents are about to be looked at. Should that fail, it is tried again after as long a time."""
        self.looked, self.look, self.meanwhile = now, name, NEVER

    def end_look(self, name: str, ahead: Ahead) -> None:
        """What is `ahead` was found in the documents since the look began."""
        if self.look == name:
            self.ahead = self.meanwhile.sooner(ahead)

    def put(self, now: float) -> None:
        """A draw came."""
        self.puts = [*self.puts, now][-_PUTS:]

    def active(self, now: float) -> int:
        """Labelers who asked for a task in the last hour."""
        return sum(at > now - HOUR for at in self.seen.values())

    def rate(self, now: float) -> float:
        """Labels an hour, over the last hour."""
        recent = [at for at in self.answers if at > now - HOUR]
        full = len(recent) >= _RECENT
        return len(recent) * HOUR / max(1.0, now - recent[0]) if full else float(len(recent))

    def demand(self, now: float) -> int:
        """Ready tasks that let nobody wait: what is labeled until the next draw, as late as one in twenty comes, and a
        quarter of an hour; 20 for each active labeler at least."""
        gaps = sorted(b - a for a, b in zip(self.puts, self.puts[1:], strict=False))
        late = gaps[int(0.95 * (len(gaps) - 1) + 0.5)] if gaps else 0.0
        return max(int(self.rate(now) * (late + 900.0) / HOUR) + 1, 20 * self.active(now)) if self.active(now) else 0

    def tidy(self, shelves: Shelves) -> None:
        for line in self.lines.values():
            line.tidy(shelves)
