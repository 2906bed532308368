"""`make bench`: every figure of the README that is measured here, each in a process of its own, one after the other.

With names it runs those alone. Those that need streams or labelled data run where a folder `shared` lies beside the
project, and are named as left out where none does. `DRIFTD_STREAMS` names a folder of the labeling bench's file streams
(its README says which); without it those are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_SHARED = Path(__file__).parents[2] / "shared"
_DATA = ("--data", str(_SHARED / "data"))
_STREAMS = ("--streams", os.environ.get("DRIFTD_STREAMS", ""))

ALONE = ("decode", "profile", "window_check", "evidence_cost", "footprint", "hot_path", "queue")
ON_DATA = {
    "detection": (*_DATA, "--by-kind"),
    "novelty": _DATA,
    "performance": _DATA,
    "root_cause": _DATA,
    "units": _DATA,
    "selection": _STREAMS,
    "estimates": (*_DATA, *_STREAMS),
    "policy": _STREAMS,
    "stopping": _STREAMS,
    "comparison": _STREAMS,
}


def main() -> int:
    failed = []
    for part in sys.argv[1:] or (*ALONE, *ON_DATA):
        print(f"== {part}", flush=True)
        if part in ON_DATA and not _SHARED.is_dir():
            print("left out: it needs the folder `shared` beside the project")
            continue
        with tempfile.TemporaryDirectory() as out:
            given = (*ON_DATA.get(part, ()), *(("--out", out) if part == "detection" else ()))
            done = subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *given], check=False)
        failed += [part] * (done.returncode != 0)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
