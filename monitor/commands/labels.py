"""`driftd labels`: what labelers and reviewers do from a terminal, and scripts with files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.commands.remote import Remote, quoted, remote
from monitor.commands.terminal import command, fail, say, table

if TYPE_CHECKING:
    from monitor.commands.terminal import Commands


def add(commands: Commands) -> None:
    """Adds `driftd labels` to the parser."""
    labels = commands.add_parser("labels", help="label tasks: work on them, review, bring and hand out")
    acts = labels.add_subparsers(required=True, metavar="COMMAND")

    work = command(acts, "work", _work, "label task after task in this terminal")
    following = command(acts, "next", _next, "lease the next task; prints it as JSON, with the token that answers it")
    submit = command(acts, "submit", _submit, "answer a task")
    submit.add_argument("label", metavar="LABEL", help="text; a number or true, false with --value")
    submit.add_argument(
        "--value", action="store_true", help="the label is JSON: a number, true, false, a text in quotes"
    )
    submit.add_argument("--comment", default="", help="for whoever reviews it")
    skip = command(acts, "skip", _skip, "give a task back: you cannot tell")
    skip.add_argument("--reason", default="", help="why")
    reviewing = command(acts, "review-next", _review_next, "lease the next task to review; prints it as JSON")
    review = command(acts, "review", _review, "accept, correct or send back")
    review.add_argument("opinion", choices=("accept", "correct", "send-back"), help="what you think of the label")
    review.add_argument("--label", help="the right one, of a correction")
    review.add_argument("--comment", default="", help="for the labelers")
    progress = command(acts, "progress", _progress, "say how labeling goes on")
    bring = command(acts, "import", _import, "bring labels as a labeling tool exports them")
    bring.add_argument("file", type=Path, metavar="FILE", help="the export")
    plant = command(acts, "plant", _plant, "mix in items whose label is known, to check labelers")
    plant.add_argument("file", type=Path, metavar="FILE", help="a JSON array, as POST /v1/labels/known takes it")
    hand = command(acts, "export", _export, "lease tasks and write them as a file for a labeling tool")
    hand.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    hand.add_argument("--most", type=int, default=100, help="tasks at most; default 100")
    hand.add_argument("--prediction", action="store_true", help="show the labelers what the model answered")

    for parser in (submit, skip, review):
        parser.add_argument("--task", required=True, help="the task's id")
        parser.add_argument("--token", required=True, help="the lease's, as `next` gave it")
    for parser in (work, following, reviewing, progress, hand):
        parser.add_argument("--dataset", help="of this dataset alone")
    for parser in (bring, hand):
        parser.add_argument("--format", default="jsonl", help="how the file is written: jsonl, label-studio, cvat, ...")
        parser.add_argument(
            "--tool", default="", help="who labels; the same when the file comes back. Default: the format"
        )
    progress.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    for parser in acts.choices.values():
        remote(parser)


def _next(given: argparse.Namespace) -> int:
    task = Remote(given).post("/v1/labels/next", _dataset(given))
    if task is None:
        fail("nothing is ready")
    say(json.dumps(task))
    return 0


def _submit(given: argparse.Namespace) -> int:
    said = {"token": given.token, "label": _label(given), "comment": given.comment}
    outcome = Remote(given).post(f"/v1/labels/{quoted(given.task)}/submit", said)["outcome"]
    say(outcome)
    return 0 if outcome == "accepted" else 1


def _label(given: argparse.Namespace) -> Any:
    if not given.value:
        return given.label
    try:
        return json.loads(given.label)
    except ValueError:
        fail(f"{given.label!r} is no JSON; leave --value out for a text", 2)


def _skip(given: argparse.Namespace) -> int:
    Remote(given).post(f"/v1/labels/{quoted(given.task)}/skip", {"token": given.token, "reason": given.reason})
    return 0


def _review_next(given: argparse.Namespace) -> int:
    task = Remote(given).post("/v1/review/next", _dataset(given))
    if task is None:
        fail("nothing is to be reviewed")
    say(json.dumps(task))
    return 0


def _review(given: argparse.Namespace) -> int:
    said = {
        "token": given.token,
        "opinion": given.opinion.replace("-", " "),
        "value": given.label,
        "comment": given.comment,
    }
    outcome = Remote(given).post(f"/v1/labels/{quoted(given.task)}/review", said)["outcome"]
    say(outcome)
    return 0 if outcome == "accepted" else 1


def _progress(given: argparse.Namespace) -> int:
    found = Remote(given).get("/v1/labels/progress", **_dataset(given))["datasets"]
    if given.json:
        for one in found:
            say(json.dumps(one))
        return 0
    for one in found:
        left = one["hours_left"]
        say(f"{one['dataset']}: {one['per_hour']:g} labels in the last hour" + (f", {left:.1f} h left" if left else ""))
        table(("tasks", "number"), [(status, f"{n:,}") for status, n in sorted(one["counts"].items())])
        table(
            ("labeler", "labels", "seconds each", "known items right", "accuracy"),
            [
                (
                    who["name"],
                    f"{who['labels']:,}",
                    "-" if who["seconds"] is None else f"{who['seconds']:.1f}",
                    f"{who['known_right']} of {who['known']}",
                    "-" if who["accuracy"] is None else f"{who['accuracy']:.1%}",
                )
                for who in one["labelers"]
            ],
        )
    return 0


def _plant(given: argparse.Namespace) -> int:
    try:
        known = json.loads(_read(given.file))
    except ValueError as error:
        fail(f"{given.file}: {error}")
    say(f"{Remote(given).post('/v1/labels/known', known)['new']:,} new")
    return 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def _import(given: argparse.Namespace) -> int:
    data = _read(given.file)
    query = f"format={quoted(given.format)}&tool={quoted(given.tool)}"
    taken = Remote(given).send(f"/v1/labels/import?{query}", data)
    counts = [f"{taken[what]:,} {what}" for what in ("accepted", "late", "skipped", "unknown", "faults")]
    say(", ".join(counts))
    for fault in taken["shown"]:
        sys.stderr.write(f"{fault}\n")
    return 1 if taken["faults"] or taken["unknown"] else 0


def _export(given: argparse.Namespace) -> int:
    wanted = {
        "format": given.format,
        "tool": given.tool,
        "most": given.most,
        "prediction": given.prediction,
        **_dataset(given),
    }
    data = Remote(given).fetch("/v1/labels/export", wanted)
    try:
        given.output.write_bytes(data)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    return 0


def _work(given: argparse.Namespace) -> int:
    """Until end of input, or nothing is left. An empty answer skips; the number of a class names it."""
    daemon = Remote(given)
    done = 0
    while (task := daemon.post("/v1/labels/next", _dataset(given))) is not None:
        began = time.monotonic()
        classes = _ask(task)
        try:
            said = input("label, its number, or nothing to skip: ").strip()
        except EOFError:
            said = None
        path = f"/v1/labels/{quoted(task['task'])}"
        if not said:
            daemon.post(f"{path}/skip", {"token": task["token"], "reason": "" if said is None else "cannot tell"})
            if said is None:
                break
            continue
        label = _named(said, classes)
        seconds = time.monotonic() - began
        daemon.post(f"{path}/submit", {"token": task["token"], "label": label, "seconds": seconds})
        done += 1
    say(f"\n{done} labels. " + ("Nothing is left." if task is None else ""))
    return 0


def _ask(task: dict[str, Any]) -> list[str]:
    """Shows a task; returns the classes that may be answered by number."""
    shown = [(named["name"], str(named["value"])) for named in task["inputs"]]
    if task["uri"]:
        shown.append(("where", task["uri"]))
    if task["prediction"]:
        shown.append(("the model says", str(task["prediction"]["label"])))
    table((f"event {task['event']}", ""), shown)
    classes = [str(name) for name in task["classes"]]
    say("  ".join(f"[{i}] {name}" for i, name in enumerate(classes, 1)))
    return classes


def _named(said: str, classes: list[str]) -> str:
    """The class of this name, else of this number, else a new one.

    >>> _named("2", ["can", "jar"]), _named("2", ["1", "2", "3"]), _named("box", ["can"])
    ('jar', '2', 'box')
    """
    numbered = said.isdecimal() and said not in classes and 0 < int(said) <= len(classes)
    return classes[int(said) - 1] if numbered else said


def _dataset(given: argparse.Namespace) -> dict[str, str]:
    return {"dataset": given.dataset} if given.dataset else {}
