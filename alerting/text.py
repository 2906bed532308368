"""The words of a notice: what a person woken at night needs to act, once for all destinations.

A `Message` is plain facts in order of need; `plain`, `mrkdwn` and `html` write it down. Names of columns, words of
categories and event ids come from outside: line breaks and control characters are taken out here, and each way of
writing escapes what it must.
"""

from __future__ import annotations

import html as markup
import math
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from alerting.alert import Alert, Notice, Ruling, Transition, Verdict

TITLE = 120  # characters: what a phone's lock screen and a mail program's list still show
_WHAT = 700  # characters of what was found: some six lines of a phone
_NAMED = 5  # members that are named
_LONGEST = 200  # characters of any other fact that comes from outside


class Line(NamedTuple):
    """One fact. `code` is for a terminal, to be copied as it stands."""

    label: str
    text: str
    code: str = ""


class Message(NamedTuple):
    """A notice in words."""

    title: str  # at most TITLE characters
    lines: tuple[Line, ...]  # at most 13, each without a line break
    link: str  # to the daemon's page; empty where its address is not configured


def message(notice: Notice, home: str = "") -> Message:
    """What to say of a notice. `home` is the address at which people reach the daemon's page.

    >>> from alerting.alert import Severity
    >>> alert = Alert("shelf/psi/weight", "shelf", "psi", "weight", Severity.WARNING, 0.0, 600.0,
    ...     "weight moved: its mean went from 310 to 280.", 0.4, 0.2)
    >>> print(plain(message(Notice("1", Transition.OPENED, alert))))
    WARNING shelf: weight moved: its mean went from 310 to 280.
    What: weight moved: its mean went from 310 to 280.
    Since: 1970-01-01 00:00:00 UTC, last seen 10 min later
    How sure: score 0.4, limit 0.2 (2 times)
    Next: say what it was, or that you look at it: intended, unintended, false-alarm, acknowledged
      driftd verdict shelf/psi/weight acknowledged --why ...
    """
    return Message(_title(notice), tuple(_lines(notice.alert)), home and home.rstrip("/") + "/")


def subject(alert: Alert) -> str:
    """The same for all notices of an alert, so that they make one thread."""
    thing = f"{alert.model or 'model'}: {alert.column or 'all of it'}"
    return _cut(_one_line(f"[driftd] {thing} ({alert.check}{', ' if alert.scope else ''}{alert.scope})"), TITLE)


def details(alert: Alert) -> str:
    """What stands under the title of an alert's notices, a line a fact."""
    return "\n".join(_written(tuple(_lines(alert))))


def plain(told: Message) -> str:
    """For terminals, logs and mail: the title, then a line a fact."""
    return "\n".join([told.title, *_written(told.lines), *([f"Page: {told.link}"] if told.link else [])])


def _written(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        yield f"{line.label}: {line.text}"
        if line.code:
            yield f"  {line.code}"


def mrkdwn(told: Message) -> str:
    """For Slack, where `&`, `<` and `>` are all that is escaped."""
    lines = [f"*{_slack(told.title)}*"]
    for line in told.lines:
        lines.append(f"*{line.label}:* {_slack(line.text)}")
        # a code span ends at a back-tick, which no escape can prevent
        lines += [f"`{_slack(line.code).replace('`', chr(0x2CB))}`"] if line.code else []
    return "\n".join([*lines, *([f"<{_slack(told.link)}|Page>"] if told.link else [])])


def html(told: Message) -> str:
    """For mail: a heading and a table, without style or script."""
    rows = "".join(
        f"<tr><th align=left valign=top>{markup.escape(line.label)}</th><td>{markup.escape(line.text)}"
        + (f"<br><code>{markup.escape(line.code)}</code>" if line.code else "")
        + "</td></tr>"
        for line in told.lines
    )
    link = markup.escape(told.link)
    page = f'<p><a href="{link}">{link}</a></p>' if link else ""
    return f"<html><body><h3>{markup.escape(told.title)}</h3><table>{rows}</table>{page}</body></html>"


# -- what is said


def _title(notice: Notice) -> str:
    alert = notice.alert
    sentence = _one_line(alert.text)
    if alert.column and alert.column not in sentence:
        sentence = f"{_one_line(alert.column)}: {sentence}"
    return _cut(f"{_state(notice)} {_one_line(alert.model) or 'model'}: {sentence}", TITLE)


def _state(notice: Notice) -> str:
    alert, severity = notice.alert, notice.alert.severity.upper()
    match notice.transition:
        case Transition.OPENED:
            return severity
        case Transition.UPDATED:
            return f"{severity} still"
        case Transition.REOPENED:
            return f"{severity} again"
        case Transition.ESCALATED:
            return f"{severity} overdue"
        case Transition.VERDICT:
            return f"Verdict {alert.verdict.ruling}" if alert.verdict else "Verdict revoked"
        case Transition.SILENCED | Transition.RESOLVED | Transition.FIXED:
            return notice.transition.capitalize()


def _lines(alert: Alert) -> Iterator[Line]:
    yield Line("What", _cut(_one_line(alert.text), _WHAT))
    yield Line("Since", _since(alert))
    sure = _sure(alert)
    if sure:
        yield Line("How sure", sure)
    if alert.members:
        yield Line("Also moved", _members(alert))
    where = [alert.scope.replace(":", " ", 1)] if alert.scope else []
    where += [f"rows where {alert.facts['slice']}"] if "slice" in alert.facts else []
    if where:
        yield Line("Where", _cut(_one_line("; ".join(where)), _LONGEST))
    if alert.examples:
        yield Line("Examples", _cut(_one_line(", ".join(alert.examples)), _LONGEST))
    if alert.before is not None:
        yield Line("Last time", _ruled(alert.before))
    if alert.verdict is not None:
        yield Line("Verdict", _ruled(alert.verdict))
    if alert.relapses:
        yield Line("Relapses", f"came back {alert.relapses} times soon after it resolved")
    if alert.inhibited or alert.muted:
        yield Line(
            "Silent", _cut(_one_line(f"explained by {alert.inhibited}" if alert.inhibited else alert.muted), _LONGEST)
        )
    if alert.firing and alert.deadline is not None:
        yield Line("Deadline", f"{_moment(alert.deadline)} to {'mend it' if alert.verdict else 'say what it was'}")
    if alert.firing:
        yield from _next(alert)


def _since(alert: Alert) -> str:
    """Of times in event time, the time between them in words."""
    since = alert.since or alert.started
    if alert.resolved is not None:
        return f"{_moment(since)}, over {_span(alert.resolved - since)} later"
    return f"{_moment(since)}, last seen {_span(alert.last_seen - since)} later"


def _sure(alert: Alert) -> str:
    """How far past its limit, by how much, and how likely by chance, as far as the check says."""
    said = []
    if math.isfinite(alert.score) and math.isfinite(alert.limit):
        times = f" ({alert.score / alert.limit:.3g} times)" if alert.limit > 0 else ""
        said.append(f"score {alert.score:.3g}, limit {alert.limit:.3g}{times}")
    effect, chance = alert.facts.get("effect"), alert.facts.get("p_value")
    if isinstance(effect, float) and math.isfinite(effect):
        said.append(f"effect {effect:+.3g} {_one_line(str(alert.facts.get('effect_unit', '')))}".rstrip())
    if isinstance(chance, float) and math.isfinite(chance):
        said.append(f"p-value {chance:.2g}")
    return "; ".join(said)


def _members(alert: Alert) -> str:
    names = list(dict.fromkeys(_cut(_one_line(m.column or m.check), 40) for m in alert.members))
    rest = max(alert.joined, len(names)) - len(names[:_NAMED])
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest else "")


def _ruled(verdict: Verdict) -> str:
    why = f": {_one_line(verdict.why)}" if verdict.why else ""
    return _cut(f"{verdict.ruling}, by {_one_line(verdict.by)} at {_moment(verdict.at)}{why}", _LONGEST)


def _next(alert: Alert) -> Iterator[Line]:
    if alert.verdict is None:
        text = "say what it was, or that you look at it: intended, unintended, false-alarm, acknowledged"
        yield Line("Next", text, _command(alert.key, "acknowledged", "--why", "..."))
    elif alert.verdict.ruling is Ruling.ACKNOWLEDGED:
        yield Line("Next", "say what it was: intended, unintended, false-alarm", _command(alert.key, "intended"))
    elif alert.verdict.ruling is Ruling.INTENDED and not alert.verdict.confirms:
        confirm = _command(alert.key, "intended", "--confirm", alert.verdict.id)
        yield Line("Next", "a second word makes it the new normal", confirm)


def _command(*words: str) -> str:
    """To be pasted into a shell; none where a name could steer a terminal: the page takes verdicts as well."""
    command = shlex.join(["driftd", "verdict", *words])
    return command if command.isprintable() else ""


# -- writing


def _one_line(text: str) -> str:
    """Without line breaks and characters that steer a terminal or turn the direction of writing."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _moment(time: float) -> str:
    at = datetime.fromtimestamp(min(max(0.0, time), 253402300799.0), UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    """A length of time to two digits or so.

    >>> _span(5.0), _span(600.0), _span(5400.0), _span(200000.0)
    ('5 s', '10 min', '1.5 h', '2.3 days')
    """
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
