"""The command `driftd`. Exit codes: 0 done, 1 failed or something was found wrong, 2 wrong usage or configuration.

Everything heavy is imported by the command that needs it: `driftd --help` answers in a tenth of a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from monitor.commands import alerts, explain, labels, retraining
from monitor.commands.terminal import Command, command, configured, fail, load, say

if TYPE_CHECKING:
    from monitor.config import ModelOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = _parser().parse_args(arguments)
    run: Command = given.command
    try:
        return run(given)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `driftd ... | head`
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="driftd", description="The daemon beside a deployed model: live events in, findings out."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = command(commands, "run", _run, "watch the models of a configuration until stopped")
    configured(run, needed=False)

    replay = command(commands, "replay", _replay, "judge recorded events; findings as JSON lines, no outward effect")
    configured(replay)
    replay.add_argument(
        "events",
        nargs="+",
        metavar="EVENTS",
        help="files or directories; kafka:SINCE..UNTIL reads the configured topics between times or offsets (@1200)",
    )
    replay.add_argument("-o", "--output", type=Path, help="where findings go; standard output when left out")
    replay.add_argument("--told", type=Path, help="verdicts to take at their event time, of `driftd verdicts --json`")

    check = command(commands, "check", _check, "say what is wrong with a configuration")
    configured(check)
    check.add_argument("--connect", action="store_true", help="also try every outside part")

    reference = commands.add_parser("reference", help="what the live events are held against")
    references = reference.add_subparsers(required=True, metavar="COMMAND")
    build = command(references, "build", _reference_build, "make a reference from training rows")
    build.add_argument("data", type=Path, metavar="DATA", help="a Parquet, CSV or JSON-lines file, or a directory")
    build.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    build.add_argument("--model", default="", help="the model's name, as events give it")
    build.add_argument("-c", "--config", type=Path, help="take the model's scorers and classes from it")
    show = command(references, "show", _reference_show, "say what a reference holds")
    show.add_argument("file", type=Path, metavar="FILE")

    config = commands.add_parser("config", help="the configuration's own documentation")
    configs = config.add_subparsers(required=True, metavar="COMMAND")
    command(configs, "schema", _config_schema, "print the JSON Schema")
    command(configs, "example", _config_example, "print a full commented file")

    demo = command(commands, "demo", _demo, "play the shelf camera's story")
    demo.add_argument("--once", action="store_true", help="play once; exit code 1 if an act went unnoticed")
    demo.add_argument("--seed", type=int, default=0, help="another seed takes other pictures")
    demo.add_argument("--speed", type=float, default=40.0, help="how much faster than the clock events pass")

    letters = commands.add_parser("dead-letters", help="records that could not be read")
    listing = command(letters.add_subparsers(required=True, metavar="COMMAND"), "list", _letters, "print them")
    configured(listing)
    listing.add_argument("-n", "--last", type=int, default=20, help="at most so many, the newest; default 20")

    alerts.add(commands)
    labels.add(commands)
    retraining.add(commands)
    explain.add(commands)

    command(commands, "version", _version, "print the version")
    return parser


def _run(given: argparse.Namespace) -> int:
    config = load(given.config)
    from monitor import app

    return app.run(config)


def _replay(given: argparse.Namespace) -> int:
    config = load(given.config)
    from monitor import app

    try:
        told = [] if given.told is None else app.ruled_in(given.told)
        if given.output is None:
            return app.replay(config, given.events, sys.stdout, told)
        with given.output.open("w", encoding="utf-8") as out:
            return app.replay(config, given.events, out, told)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except app.Unstartable as error:
        fail(str(error))


def _check(given: argparse.Namespace) -> int:
    config = load(given.config)
    from monitor.config import exposed

    if exposed(config):
        say(f"Note: $.web.host {config.web.host} lets anyone on the network post events; set $.web.token.")
    if not given.connect:
        say(f"{given.config}: all keys are well.")
        return 0
    from monitor.diagnose import diagnose

    wrong = 0
    for part in diagnose(config):
        wrong += not part.ok
        say(f"{'ok   ' if part.ok else 'WRONG'}  {part.part}: {part.what}")
        if part.hint:
            say(f"       {part.hint}")
    return 1 if wrong else 0


def _reference_build(given: argparse.Namespace) -> int:
    import time

    from monitor.committee.host import hosting
    from monitor.config import ModelOptions
    from monitor.metrics import Meters
    from monitor.plan import Plan
    from monitor.store import write_atomically
    from monitor.training import Training, Unusable

    model = _model(given.config, given.model) if given.config is not None else ModelOptions(name=given.model)
    try:
        rows = Training(given.data, given.model, model.classes or ())
        source = f"training rows of {given.data.name}"
        bar = _Bar(f"reading {given.data} twice", 2 * rows.size)
        with hosting([model], Meters()) as committees, bar:
            scorers = Plan(model, 1.0, committees.get(model.name)).scorers(rows.schema)
            reference = rows.reference(scorers, source=source, created=time.time(), progress=bar.advance)
        write_atomically(given.output, reference.encode())
    except (Unusable, OSError) as error:
        fail(str(error))
    told = f"{reference.profile.rows:,} rows, {len(reference.schema)} columns, {len(scorers)} scorers"
    say(f"{given.output}: {told}, version {reference.version}")
    return 0


def _model(path: Path, name: str) -> ModelOptions:
    found = next((model for model in load(path).models if model.name == name), None)
    if found is None:
        fail(f"{path} has no model {name!r}; name one of its models with --model", 2)
    return found


def _reference_show(given: argparse.Namespace) -> int:
    from detectors.encode import Undecodable
    from detectors.reference import Reference
    from monitor.training import told

    try:
        say(told(Reference.decode(given.file.read_bytes())))
    except (OSError, Undecodable) as error:
        fail(f"{given.file}: {error}")
    return 0


class _Bar:
    """A progress bar where there is a person to look at it."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def advance(self, size: int) -> None:
        self._bar.advance(self._task, size)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _config_schema(_: argparse.Namespace) -> int:
    import json

    from monitor.config import Config
    from monitor.manual import schema

    say(json.dumps(schema(Config), indent=2, ensure_ascii=False))
    return 0


def _config_example(_: argparse.Namespace) -> int:
    from monitor.config import example

    sys.stdout.write(example())
    return 0


def _demo(given: argparse.Namespace) -> int:
    from monitor.demo.play import play

    return play(once=given.once, seed=given.seed, speed=given.speed)


def _letters(given: argparse.Namespace) -> int:
    config = load(given.config)
    from monitor.deadletters import newest

    for letter in newest(config.dead_letters, Path(config.state.path), given.last):
        say(str(letter))
    return 0


def _version(_: argparse.Namespace) -> int:
    from monitor.metrics import version

    say(f"driftd {version()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
