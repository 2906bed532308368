"""Figures, as ratios to a peer or a floor within one run."""

import monitor  # noqa: F401  # one thread of arithmetic, as in the daemon
