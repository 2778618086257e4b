"""Work that is due again and again, by APScheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any


def repeat(work: Callable[[], object], every_s: float, stop: Event) -> None:
    """Have work done now and each `every_s`, here and one at a time, until `stop` is set; raise what it raises.

    Where it takes longer, what was due meanwhile is done once, afterwards. Work at hand when `stop` is set ends first.
    """
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_SCHEDULER_STARTED
    from apscheduler.executors.debug import DebugExecutor
    from apscheduler.schedulers.blocking import BlockingScheduler

    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # errors are raised below
    # the one that does the work in this thread, where signals arrive
    scheduler = BlockingScheduler(timezone=UTC, executors={"default": DebugExecutor()})
    options = {"coalesce": True, "misfire_grace_time": None, "next_run_time": datetime.now(UTC)}
    scheduler.add_job(work, "interval", seconds=every_s, **options)
    errors: list[BaseException] = []

    def failed(event: Any) -> None:
        errors.append(event.exception)
        stop.set()

    def end() -> None:
        stop.wait()
        scheduler.shutdown(wait=False)

    scheduler.add_listener(failed, EVENT_JOB_ERROR)
    scheduler.add_listener(lambda _: Thread(target=end, name="end", daemon=True).start(), EVENT_SCHEDULER_STARTED)
    scheduler.start()
    if errors:
        raise errors[0]
