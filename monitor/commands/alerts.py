"""`driftd alerts`, `driftd verdict`, `driftd verdicts`: what is open, and what people say of it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from monitor.commands.remote import Remote, quoted, remote
from monitor.commands.terminal import command, fail, moment, say, table

if TYPE_CHECKING:
    from monitor.commands.terminal import Commands

_RULINGS = {name.replace(" ", "-"): name for name in ("intended", "unintended", "false alarm", "acknowledged")}


def add(commands: Commands) -> None:
    """Adds them to the parser."""
    alerts = command(commands, "alerts", _alerts, "list the open alerts of a running daemon")
    alerts.add_argument("--model", default="", help="of this model alone")
    alerts.add_argument("--resolved", action="store_true", help="also those resolved lately")

    verdict = command(commands, "verdict", _verdict, "say what an alert was")
    verdict.add_argument("key", metavar="KEY", help="the alert's, as `driftd alerts` lists it")
    verdict.add_argument(
        "ruling",
        nargs="?",
        choices=_RULINGS,
        help="intended: the world changed for good, learn it; unintended: something broke, mend it and learn nothing "
        "of it; false-alarm: nothing happened; acknowledged: somebody looks at it; left out with --confirm or --revoke",
    )
    verdict.add_argument("--why", default="", help="for whoever reads it later")
    verdict.add_argument("--until", default="", help="of a false alarm: how long it is not told again, 7d or a time")
    verdict.add_argument("--confirm", default="", metavar="ID", help="the second word on this verdict of `intended`")
    verdict.add_argument("--revoke", default="", metavar="ID", help="take this verdict back")

    verdicts = command(commands, "verdicts", _verdicts, "list the verdicts and what came of them")
    verdicts.add_argument("--model", default="", help="on alerts of this model alone")
    verdicts.add_argument("--key", default="", help="on this alert alone")

    for parser in (alerts, verdict, verdicts):
        parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
        remote(parser)


def _alerts(given: argparse.Namespace) -> int:
    found = Remote(given).get("/v1/alerts", model=given.model, state="all" if given.resolved else "open")["alerts"]
    if given.json:
        return _lines(found)
    order = {"critical": 0, "warning": 1}
    found.sort(
        key=lambda a: (
            a["resolved"] is not None,
            bool(a["leader"]),
            not a["publicity"],
            order.get(a["severity"], 2),
            a["started"],
        )
    )
    table(
        ("severity", "alert", "since", "how it stands", "what"),
        [(a["severity"], a["key"], moment(a["started"]), _standing(a), a["text"]) for a in found],
    )
    return 0


def _verdict(given: argparse.Namespace) -> int:
    if given.ruling is None and not given.confirm and not given.revoke:
        fail(f"say what it was: {', '.join(_RULINGS)}", 2)
    body = {
        "ruling": _RULINGS.get(given.ruling),
        "why": given.why,
        "until": given.until,
        "confirms": given.confirm,
        "revokes": given.revoke,
    }
    verdict = Remote(given).post(f"/v1/alerts/{quoted(given.key)}/verdict", body)
    if given.json:
        return _lines([verdict])
    say(f"{verdict['id']}: {verdict['ruling']}, by {verdict['by']}. `driftd verdicts` says what came of it.")
    if verdict["ruling"] == "intended" and not given.confirm and not given.revoke:
        say(f"Nothing is learned before a second word: driftd verdict {given.key} --confirm {verdict['id']}")
    return 0


def _verdicts(given: argparse.Namespace) -> int:
    found = Remote(given).get("/v1/verdicts", model=given.model, key=given.key)["verdicts"]
    if given.json:
        return _lines(found)
    table(
        ("verdict", "alert", "ruling", "by", "when", "why", "what came of it"),
        [
            (one["id"], said["key"], said["ruling"], said["by"], moment(said["at"]), said["why"], _came_of(one))
            for one in found
            for said in [one["verdict"]]
        ],
    )
    return 0


def _lines(found: list[Any]) -> int:
    for one in found:
        say(json.dumps(one))
    return 0


def _standing(alert: dict[str, Any]) -> str:
    """Why nobody need act, or until when somebody must."""
    verdict, deadline = alert["verdict"], alert["deadline"]
    said = [
        "resolved" if alert["resolved"] is not None else "",
        f"{verdict['ruling']}, says {verdict['by']}" if verdict else "",
        f"told with {alert['leader']}" if alert["leader"] else "",
        f"explained by {alert['inhibited']}" if alert["inhibited"] else "",
        f"muted: {alert['muted']}" if alert["muted"] else "",
        f"due {moment(deadline)}" if deadline is not None else "",
    ]
    return "; ".join(filter(None, said)) or "open"


def _came_of(ruled: dict[str, Any]) -> str:
    return f"{ruled['outcome']} (taken back by {ruled['revoked']})" if ruled["revoked"] else str(ruled["outcome"])
