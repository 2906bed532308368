"""`python -m tests.services install [NAME ...]`: fetch and build the real servers that tests start."""

from __future__ import annotations

import argparse
import sys

from tests.services.install import RECIPES, InstallFailed, install

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.services")
    parser.add_argument("command", choices=["install"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(RECIPES)}; all when left out")
    chosen = parser.parse_args()
    try:
        install(chosen.names)
    except InstallFailed as error:
        sys.exit(f"\n{error}")
