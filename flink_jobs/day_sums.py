"""Sums by day (`selfgen.columns.ROLLED_UP`), which Druid makes of hours that were replaced, once it serves these.

Days are noted before hours of them are replaced (`pending.note_days`), and until their sums are made: by the run that
replaced them, when all else is done, or by the next one of any sort. So no hour waits for sums, and a run that is
killed leaves none stale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flink_jobs import pending
from flink_jobs.runner import SUBJECTS, moments, parts
from selfgen import lake
from selfgen.columns import ROLLED_UP

if TYPE_CHECKING:
    from threading import Event

    from selfgen.settings import Settings


def make(
    settings: Settings,
    kind: str,
    stop: Event | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> int:
    """Have Druid make the sums of all noted days of a kind of element anew, by months; return the rows added up.

    What fails stays noted, as does what is left where `stop` is set meanwhile.
    """
    from selfgen.clients import druid

    added = 0
    for datasource, source in ROLLED_UP.items():
        while source in SUBJECTS[kind].write.DATASOURCE_NAMES and not (stop and stop.is_set()):
            # let go of in between, for hours that are due
            with lake.exclusive(settings.lake_dir, kind):
                todo = parts(pending.noted(settings, datasource))
                if not todo:
                    break
                start, end = moments(todo[0])
                say(f"{datasource}: adds up {start:%Y-%m-%d} to {end:%Y-%m-%d} UTC")
                added += druid.roll_up(settings, datasource, start, end).rows
                pending.remove(settings, datasource, todo[0])
    return added
