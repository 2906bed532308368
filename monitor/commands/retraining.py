"""`driftd retraining`: requests to retrain, and what people say of them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from monitor.commands.remote import Remote, quoted, remote
from monitor.commands.terminal import command, say, table

if TYPE_CHECKING:
    from monitor.commands.terminal import Commands


def add(commands: Commands) -> None:
    """Adds `driftd retraining` to the parser."""
    retraining = commands.add_parser("retraining", help="requests to retrain a model")
    acts = retraining.add_subparsers(required=True, metavar="COMMAND")
    listing = command(acts, "list", _list, "list the requests")
    listing.add_argument("--model", default="", help="of this model alone")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    for name, step, text in (
        ("confirm", "confirmed", "have a request sent"),
        ("stop", "stopped", "have a request not sent, or not wait for it any more"),
    ):
        act = command(acts, name, _word, text)
        act.set_defaults(step=step)
        act.add_argument("request", metavar="REQUEST", help="its id, as `driftd retraining list` tells it")
        act.add_argument("--why", default="", help="for whoever reads it later")
    for parser in acts.choices.values():
        remote(parser)


def _list(given: argparse.Namespace) -> int:
    found = Remote(given).get("/v1/retraining", model=given.model)["requests"]
    if given.json:
        for one in found:
            say(json.dumps(one))
        return 0
    table(
        ("request", "model", "version", "status", "asked", "labels", "run", "why"),
        [
            (
                one["request_id"],
                one["model"],
                one["current_version"],
                one["status"],
                one["requested_at"],
                str(one["data"]["train"]["labels"]),
                one["run"] or "-",
                " ".join((one["reason"]["text"], *(f"{m['by']}: {m['why']}" for m in one["said"] if m["why"]))),
            )
            for one in found
        ],
    )
    return 0


def _word(given: argparse.Namespace) -> int:
    said = Remote(given).post(f"/v1/retraining/{quoted(given.request)}", {"step": given.step, "why": given.why})
    say(f"{said['request']}: {said['step']}, by {said['by']}")
    return 0
