"""How the story looks: a line for what happened, a board of figures at the foot, a table at the end."""

from __future__ import annotations

import time
from collections import deque

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from monitor.demo.acts import ACTS, act_at
from monitor.demo.diary import Estimate, ModelStatus, News, Turn
from monitor.demo.staff import Deed
from monitor.demo.story import Story

_SIGNS = [sign for act in ACTS for sign in act.signs]
_INDENT = 11
_MEANS = {  # by column where it says more, else by check
    "entropy": "The model is less sure of its answers than when it was accepted.",
    "confidence": "The model is less sure of its answers than when it was accepted.",
    "disagreement": "The committee's members contradict one another.",
    "novelty": "Pictures are unlike those that the model was accepted on.",
    "range": "Values lie where none lay in the reference.",
    "evidence": "Values or words come otherwise than in the reference.",
    "shift": "The window as a whole is spread otherwise than the reference.",
    "missing": "Values do not arrive any more.",
}
_RATE_OVER = 4.0  # seconds of the clock that events/s is taken over


def announce(out: Console, second: float) -> None:
    """The act that begins at this second since the story's start."""
    number = act_at(second)
    act = ACTS[number]
    color = "green" if act.calm else "yellow"
    out.print(f"\n[bold {color}]Act {number + 1} of {len(ACTS)}: {act.title}[/]")
    out.print(f"[dim]{act.story}[/]")


def report(out: Console, news: News, now: float) -> None:
    """What happened to alerts, seen at event time `now`, in the daemon's own words."""
    quoted = next((a for a in news.alerts if any(s.shown_by(a.check, a.column) for s in _SIGNS)), news.alerts[0])
    about = quoted.column or "the model as a whole"
    if len(news.alerts) > 1:
        about += f" and {len(news.alerts) - 1} more"
    mark, color = ("!", "red") if news.turn is Turn.OPENED else ("ok", "green")
    line = Text(f"  {time.strftime('%H:%M', time.gmtime(now))} ")
    line.append(f"{mark:>2} {news.turn.value:<9}", color).append(f"{quoted.check} on {about}", "bold")
    out.print(line)
    if news.turn is Turn.OPENED and news.first:
        meaning = _MEANS.get(quoted.column) or _MEANS.get(quoted.check)
        if meaning:
            out.print(Padding(meaning, (0, 0, 0, _INDENT)))
        out.print(Padding(Text(quoted.text, "dim"), (0, 0, 0, _INDENT)))


class Board:
    """The figures at the foot of the terminal."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._model = ModelStatus("")
        self._second = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, model: ModelStatus, second: float) -> None:
        self._model, self._second = model, second
        self._seen.append((time.monotonic(), model.events))
        while self._seen[-1][0] - self._seen[0][0] > _RATE_OVER:
            self._seen.popleft()

    def _figures(self) -> list[tuple[str, str]]:
        (since, before), (now, events) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        rate = (events - before) / (now - since) if now > since else 0.0
        model = self._model
        return [
            ("events/s", f"{rate:,.0f}"),
            ("events", f"{model.events:,}"),
            ("windows", f"{model.windows:,}"),
            ("findings", f"{model.findings}"),
            ("open alerts", f"{len(model.alerts)}"),
            ("label tasks", f"{model.label_tasks}"),
        ]

    def line(self) -> str:
        return "  " + ", ".join(f"{name} {value}" for name, value in self._figures())

    def panel(self) -> Panel:
        figures = Table.grid(padding=(0, 3))
        figures.add_row(*(Text.assemble((value, "bold"), f" {name}") for name, value in self._figures()))
        links = Text(f"page {self._url}/   metrics {self._url}/metrics   Ctrl-C stops", "dim")
        act = act_at(max(self._second - 1.0, 0.0))
        title = f"act {act + 1} of {len(ACTS)}: {ACTS[act].title}" if self._second else "waiting for the first window"
        return Panel(Group(figures, links), title=title, title_align="left", expand=False)


def tell(out: Console, deed: Deed) -> None:
    """What the person on call typed, and how it was answered."""
    out.print(
        Text.assemble(("         > ", "cyan"), (deed.command, "cyan"), ("  " + deed.answer, "dim")), soft_wrap=True
    )


def summary(story: Story) -> Group:
    """Act by act what was noticed and how right the model was; what came of the request to retrain; what went wrong."""
    parts: list[RenderableType] = [_noticed(story), _reckoned(story)]
    if (way := story.recovery) is not None:
        before, fallen, after = (f"{share:.1%}" for share in way)
        parts.append(Text(f"True accuracy: {before} at first, {fallen} at worst, {after} with version 2."))
    request = story.request
    if request is not None:
        before, after = ("unknown" if a is None else f"{a:.1%}" for a in (request.before, request.after))
        said = f"version {request.new_version or 'none'}, accuracy by labels {before} before, {after} after"
        parts.append(Text(f"Retraining {request.id}: {request.status}; {said}."))
    parts += [Text(failure, "bold red") for failure in story.failures()]
    return Group(*parts)


def _noticed(story: Story) -> Table:
    table = Table(title="What the daemon noticed, and after how long by event time", title_justify="left")
    for heading in ("act", "should be noticed", "was noticed by", "after"):
        table.add_column(heading)
    for told in story.acts():
        act = ACTS[told.act]
        for sign in act.signs:
            alert = told.first.get(sign)
            if alert is None:
                table.add_row(act.title, sign.words, "[red]nothing[/]", "")
            else:
                after = max(0.0, alert.since - told.began)
                table.add_row(act.title, sign.words, f"{alert.check} on {alert.column}", f"{after:.0f} s")
        if not act.signs:
            wrong = ", ".join(f"{alert.check} on {alert.column or 'the model'}" for alert in told.unexpected)
            table.add_row(act.title, "nothing", f"[red]{wrong}[/]" if wrong else "nothing", "")
    return table


def _reckoned(story: Story) -> Table:
    title = "True accuracy in the worst and in the last five minutes; the last by labels"
    table = Table(title=title, title_justify="left")
    for heading in ("act", "worst", "last"):
        table.add_column(heading)
    table.add_column("by labels, 90 % interval", no_wrap=True)
    table.add_column("labels spent")
    for told in story.reckonings():
        said = "none" if told.estimate is None else _interval(told.estimate)
        table.add_row(ACTS[told.act].title, f"{told.worst:.1%}", f"{told.truth:.1%}", said, f"{told.labels:,}")
    return table


def _interval(estimate: Estimate) -> str:
    value, low, high = (100.0 * share for share in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f}% ({low:.1f} to {high:.1f})"
