"""What all commands share: their place in the parser, what they print, how they fail."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from monitor.config import Config

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 it has no other name

Command = Callable[[argparse.Namespace], int]


def command(commands: Commands, name: str, run: Command, help_text: str) -> argparse.ArgumentParser:
    """Adds a command that `run` does."""
    parser = commands.add_parser(name, help=help_text, description=help_text[:1].upper() + help_text[1:] + ".")
    parser.set_defaults(command=run)
    return parser


def configured(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """Gives a command the option that names the configuration."""
    text = "the configuration" if needed else "the configuration; without one every default"
    parser.add_argument("-c", "--config", type=Path, required=needed, help=text)


def load(path: Path | None) -> Config:
    """The configuration; ends the program with exit code 2 when it is refused."""
    from monitor.config import Config, load
    from monitor.settings import Refused

    if path is None:
        return Config()
    try:
        return load(path)
    except Refused as refused:
        fail(f"{path} cannot be used:\n" + "\n".join(f"  {problem}" for problem in refused.problems), 2)


def say(text: str) -> None:
    """Prints a line."""
    sys.stdout.write(text + "\n")


def fail(text: str, code: int = 1) -> NoReturn:
    """Ends the program with a reason."""
    sys.stderr.write(text + "\n")
    raise SystemExit(code)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table: drawn for a person at a terminal, else each row a line with tabs between."""
    if not sys.stdout.isatty():
        for row in rows:
            say("\t".join(" ".join(_plain(cell).split()) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*head, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*(Text(_plain(cell)) for cell in row))
    Console().print(drawn)


def moment(at: float) -> str:
    """UTC; event time comes from events, so it may be any number."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"


def _plain(text: str) -> str:
    """Without what would move the cursor or colour the screen: much of what is printed comes from events."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)
