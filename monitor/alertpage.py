"""The page of one alert: what it is, what was said of it, and a form to say more. No scripts, and all is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from alerting.alert import Alert, Ruling
from alerting.text import details
from monitor.page import frame, link, moment, standing
from monitor.show import alert_view
from monitor.snapshot import VerdictView

# The form may be sent here and nowhere else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

_MEANINGS = {
    Ruling.ACKNOWLEDGED: "somebody looks at it",
    Ruling.INTENDED: "the world changed for good: learn it, after a second word",
    Ruling.UNINTENDED: "something broke: mend it, and learn nothing of it",
    Ruling.FALSE_ALARM: "nothing happened: do not tell of it again for a while",
}


def alert_page(key: str, alert: Alert | None, verdicts: Sequence[VerdictView], name: str, given: str = "") -> str:
    """The page as HTML. `verdicts` are those on this alert, newest first; `alert` is None when only they are left.

    `name` is the id of the verdict that the form would give: sent twice, it is one. `given` is one just given.
    """
    told = "" if alert is None else f"<pre>{escape(details(alert))}</pre><p>{escape(standing(alert_view(alert)))}</p>"
    thanks = f"<p class=calm>Verdict {escape(given)} is taken; the judge comes to it in a moment.</p>" if given else ""
    return frame(
        f"alert {key}",
        f"<p><a href=/>all models</a></p><h1>{escape(key)}</h1>{thanks}{told}"
        f"{_members(alert)}{_history(verdicts)}{_form(key, verdicts, name)}",
    )


def problem_page(status: int, text: str, back: str) -> str:
    """Why something was not done; `back` is where to go on."""
    return frame(
        "not done", f"<h1>Not done ({status})</h1><p>{escape(text)}</p><p><a href='{escape(back)}'>back</a></p>"
    )


def _members(alert: Alert | None) -> str:
    if alert is None or not alert.members:
        return ""
    rows = "".join(
        f"<tr><td>{escape(m.severity)}<td>{link(m.key)}<td>{moment(m.started)}<td>{escape(m.text)}"
        for m in alert.members
    )
    return f"<h2>Told with it</h2><table><tr><th>severity<th>alert<th>since<th>what{rows}</table>"


def _history(verdicts: Sequence[VerdictView]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(v.id)}</code><td>{escape(v.ruling)}<td>{escape(v.by)}<td>{moment(v.at)}"
        f"<td>{escape(v.why)}<td>{escape(v.outcome)}{f'; taken back by {escape(v.revoked)}' if v.revoked else ''}"
        for v in verdicts
    )
    head = "<tr><th>verdict<th>ruling<th>by<th>when<th>why<th>what came of it"
    return f"<h2>What was said</h2><table>{head}{rows}</table>" if rows else ""


def _form(key: str, verdicts: Sequence[VerdictView], name: str) -> str:
    rulings = "".join(
        f"<label><input type=radio name=ruling value='{ruling}' required> <b>{ruling}</b>: {meaning}</label><br>"
        for ruling, meaning in _MEANINGS.items()
    )
    standing_ones = [v for v in verdicts if not v.revoked and not v.revokes]
    waiting = [v for v in standing_ones if v.ruling == Ruling.INTENDED and not v.confirms and not v.confirmed]
    return (
        "<h2>Say what it was</h2><form method=post action=/alert/verdict accept-charset=utf-8>"
        f"<input type=hidden name=key value='{escape(key)}'><input type=hidden name=id value='{escape(name)}'>"
        f"<p>{rulings}</p><p><label>Why <input name=why size=60 maxlength=2000></label></p>"
        "<p><label>A false alarm for <input name=until size=24 maxlength=40 placeholder='7d, or a time'></label></p>"
        f"{_choice('confirms', 'Second word on', waiting)}{_choice('revokes', 'Take back', standing_ones)}"
        "<p><label>Your token <input type=password name=token required autocomplete=current-password></label> "
        "<button>Say so</button></p></form>"
    )


def _choice(name: str, label: str, verdicts: Sequence[VerdictView]) -> str:
    if not verdicts:
        return ""
    options = "".join(
        f"<option value='{escape(v.id)}'>{escape(v.ruling)}, {escape(v.by)}, {moment(v.at)}</option>" for v in verdicts
    )
    return f"<p><label>{label} <select name={name}><option value=''>nothing</option>{options}</select></label></p>"
