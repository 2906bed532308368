"""`make bench`: every figure of the README that is measured here, each in a process of its own, one after the other."""

from __future__ import annotations

import subprocess
import sys

PARTS = ("decode", "profile", "window_check", "footprint", "hot_path")


def main() -> int:
    wanted = sys.argv[1:] or PARTS
    failed = 0
    for part in wanted:
        print(f"== {part}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{part}"], check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
