"""Runs a module, as `python -m` does, in a process that ends when the one that started it has: `... bound MODULE ...`.

Its standard input is a pipe of which nobody but that process has the other end, and into which nothing is written. The
kernel closes it however that process dies, by SIGKILL too, and on every system; a signal on the parent's death (Linux
has one) hangs on the thread that forked, and had to be asked for between fork and exec.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_watch, name="parent", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
