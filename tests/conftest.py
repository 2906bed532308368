"""What every test may ask for, and how properties are tried."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

import monitor  # noqa: F401  # first of ours: it settles that arithmetic has one thread, before numpy is there

pytest_plugins = ["tests.services.fixtures"]

# Two busy cores make any one example slow by chance, which says nothing about the code; the suite's own timeout stays.
# CI tries the same examples each time, so a red run is about the change; at a desk new ones are tried.
settings.register_profile(
    "driftd",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
)
settings.load_profile("driftd")
