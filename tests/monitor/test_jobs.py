from __future__ import annotations

import logging
import threading

import pytest

from monitor.jobs import scheduler
from monitor.metrics import Meters
from tests.services.process import wait_until


def test_a_job_that_is_due_while_it_is_at_work_is_counted_and_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    meters, rounds, go_on = Meters(), [0], threading.Event()
    jobs = scheduler(meters)

    def slow() -> None:
        rounds[0] += 1
        go_on.wait(30)

    with caplog.at_level(logging.DEBUG):
        jobs.add_job(slow, "interval", seconds=0.01, id="slow")
        jobs.start()
        try:
            wait_until(lambda: meters.value("driftd_jobs_passed_over_total") >= 3, 30, "it to be passed over")
            assert rounds == [1]  # never twice at once
            go_on.set()
            wait_until(lambda: rounds[0] > 1, 30, "the next round")
        finally:
            go_on.set()
            jobs.shutdown()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
