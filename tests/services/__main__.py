"""`python -m tests.services install [NAME ...]`: fetch and build the real servers that tests start.

Without names, those that `make test` wants; Label Studio and MLflow are asked for by name.
"""

from __future__ import annotations

import argparse
import sys

from tests.services import kafka, mongo, prometheus, tools, toxiproxy
from tests.services.install import InstallFailed, install

if __name__ == "__main__":
    usual = (kafka.RECIPE, mongo.RECIPE, prometheus.RECIPE, toxiproxy.RECIPE)
    recipes = {recipe.name: recipe for recipe in (*usual, *tools.RECIPES)}
    parser = argparse.ArgumentParser(prog="python -m tests.services")
    parser.add_argument("command", choices=["install"])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(recipes)}; all but the tools when left out"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(recipes):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    try:
        install([recipes[name] for name in chosen.names] or usual)
    except InstallFailed as error:
        sys.exit(f"\n{error}")
