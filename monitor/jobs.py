"""What the daemon does every so often, by the clock and beside its stages."""

from __future__ import annotations

import logging

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.schedulers.background import BackgroundScheduler

from monitor.metrics import Meters


def scheduler(meters: Meters) -> BackgroundScheduler:
    """Not started yet. Jobs have an `id`, by which is counted where one is due while it is still at work: under load
    that is to be expected, it is passed over and what was due is done the next time.

    A job that begins late does so nonetheless, and once for all the times it was due.
    """
    logger = logging.getLogger(f"{__name__}.scheduler")
    logger.setLevel(logging.ERROR)  # below it says what is counted here, each time
    jobs = BackgroundScheduler(
        daemon=True, logger=logger, job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
    )

    def passed_over(event: JobSubmissionEvent) -> None:
        meters.jobs_passed_over.labels(event.job_id).inc()

    jobs.add_listener(passed_over, EVENT_JOB_MAX_INSTANCES)
    return jobs
