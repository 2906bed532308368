"""`driftd explain`: one event beside the reference, and what is known of it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.commands.remote import Remote, quoted, remote
from monitor.commands.terminal import command, fail, moment, say, table

if TYPE_CHECKING:
    from monitor.commands.terminal import Commands

_FEATURES = 20  # shown of an event, those its answer hung on and the most unusual


def add(commands: Commands) -> None:
    """Adds `driftd explain` to the parser."""
    explain = command(commands, "explain", _explain, "say why one event came out as it did, as far as can be told")
    explain.add_argument("event", nargs="?", default="", metavar="EVENT_ID", help="one that the daemon knows")
    explain.add_argument(
        "--event", dest="file", metavar="FILE", help="the event itself, as it was sent; `-` reads standard input"
    )
    explain.add_argument("--model", default="", help="whose event it is")
    explain.add_argument("--json", action="store_true", help="one JSON object, for programs")
    remote(explain)


def _explain(given: argparse.Namespace) -> int:
    if bool(given.event) == bool(given.file):
        fail("name an event by its id, or give it by --event FILE", 2)
    daemon = Remote(given)
    if given.file:
        found = daemon.send("/v1/explain", _read(given.file), model=given.model)
    else:
        found = daemon.get(f"/v1/explain/{quoted(given.event)}", model=given.model)
    if given.json:
        say(json.dumps(found))
    else:
        _tell(found)
    return 0


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def _tell(found: dict[str, Any]) -> None:
    """For a person: what is known, what it is like, what is unusual, what the answer hung on."""
    explained = found["explained"]
    table(("event", found["event"]), [line for line in _known(found) if line[1]])
    say("")
    if explained["percentile"] is not None:
        say(f"{explained['percentile']:.0%} of the reference's events lie nearer to their nearest than this one.")
        if explained["left_out"]:
            say(f"{explained['left_out']} further inputs are not compared.")
        table(
            ("nearest in the reference", "answer", "deviations away", "differs most in"),
            [
                (moment(one["time"]), _value(one["answer"]), f"{one['distance']:.2f}", ", ".join(one["differs"]))
                for one in explained["nearest"]
            ],
        )
        say("")
    say(_surrogate(explained["surrogate"]))
    like = f"typical of {_value(explained['like'])}" if explained["like"] is not None else "typical"
    shown = explained["features"][:_FEATURES]
    table(
        ("column", "value", "in the reference", like, "part in the answer"),
        [(f["column"], _value(f["value"]), _rank(f), _value(f["typical"]), _part(f["attribution"])) for f in shown],
    )
    if len(explained["features"]) > len(shown):
        say(f"... and {len(explained['features']) - len(shown)} more columns; --json has them all")


def _known(found: dict[str, Any]) -> list[tuple[str, str]]:
    sets = found["label_sets"]
    return [
        ("known from", ", ".join(found["known_from"])),
        ("model", f"{found['model']} {found['version']}".strip()),
        ("reference", found["reference"]),
        ("time", "" if found["time"] is None else moment(found["time"])),
        ("answer", _value(found["answer"])),
        ("scores", ", ".join(f"{s['name']} {_value(s['value'])}" for s in found["scores"][:5])),
        ("lies at", found["uri"]),
        ("path", found["path"]),
        ("rule", found["rule"]),
        ("slices", ", ".join(found["slices"])),
        ("asked for", found["why_drawn"]),
        ("labels", ", ".join(f"{_value(one['value'])} ({one['by']})" for one in found["labels"])),
        ("final label", "" if found["final"] is None else _value(found["final"])),
        ("trained on in", ", ".join(sets["train"])),
        ("tested on in", ", ".join(sets["eval"])),
        *(("alert then", f"{one['severity']} {one['key']}: {one['text']}") for one in found["alerts"]),
    ]


def _surrogate(surrogate: dict[str, Any]) -> str:
    of, fidelity = surrogate["of"], surrogate["fidelity"]
    if surrogate["refused"]:
        tried = "" if fidelity is None else f" (fidelity {fidelity:.2f})"
        return f"What the answer hung on cannot be told: {surrogate['refused']}{tried}."
    return (
        f"By a surrogate of fidelity {fidelity:.2f}: {of} is {surrogate['says']:.3g}; "
        f"{surrogate['around']:.3g} with the strongest inputs as in the nearest events."
    )


def _rank(feature: dict[str, Any]) -> str:
    if feature["rank"] is not None:
        ends = {0.0: "below all", 1.0: "above all"}
        return ends.get(feature["rank"], f"over {feature['rank']:.1%}")
    return "" if feature["share"] is None else f"{feature['share']:.1%} have it"


def _part(part: float | None) -> str:
    return "" if part is None else f"{part:+.3f}"


def _value(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
