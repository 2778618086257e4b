"""What was replaced in the lake and has yet to show in Druid: noted before it is replaced, until all that depends is.

So a run that is killed, or that computes slots only, leaves nothing stale: the next run of any sort does what is left.
The note lies beside the lake, and is guarded by its lock (`selfgen.lake.exclusive`). There is one for each kind of
element, and one for each data source that Druid makes of another's hours (`selfgen.columns.ROLLED_UP`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from selfgen import lake, recompute
from selfgen.calendar import DAY_MS, HOUR_MS
from selfgen.columns import ROLLED_UP
from selfgen.recompute import Range
from selfgen.settings import Settings


def noted(settings: Settings, name: str) -> list[Range]:
    """Return the hours of a kind of element, or a data source, whose dependents are not yet replaced; epoch ms."""
    path = _path(settings, name)
    return [(low, high) for low, high in json.loads(path.read_text())] if path.exists() else []


def add(settings: Settings, name: str, hours_ms: Iterable[int]) -> None:
    """Note hours (their starts, epoch ms); durable when it returns."""
    every = recompute.ranges({*hours_ms, *recompute.hours(noted(settings, name))})
    if every:
        write_note(_path(settings, name), every)


def note_days(settings: Settings, source: str, start_ms: int, end_ms: int) -> None:
    """Note the UTC days of hours that are about to be replaced in Druid, of what it sums up by day; durable."""
    low, high = start_ms // DAY_MS * DAY_MS, -(-end_ms // DAY_MS) * DAY_MS
    for datasource, of_source in ROLLED_UP.items():
        if of_source == source:
            add(settings, datasource, range(low, high, HOUR_MS))


def remove(settings: Settings, name: str, done: Range) -> None:
    """Forget the hours of a range, and no others."""
    left = recompute.ranges({*recompute.hours(noted(settings, name))}.difference(recompute.hours([done])))
    write_note(_path(settings, name), left)


def dependents(settings: Settings, kind: str, *, compares: bool) -> list[Range]:
    """Return the hours of the lake whose reports and alarms depend on what is noted; see `selfgen.recompute`."""
    changed = noted(settings, kind)
    if not changed:
        return []
    computed = {round(hour.timestamp()) * 1000 for hour in lake.hours(settings.lake_dir, kind)}
    until_ms = max(computed, default=0) + HOUR_MS
    depend = recompute.hours(recompute.dependents(changed, until_ms, compares=compares))
    return recompute.ranges(computed.intersection(depend))


def clear(settings: Settings, kind: str) -> None:
    """Forget all: Druid serves everything that depends on them."""
    _path(settings, kind).unlink(missing_ok=True)


def _path(settings: Settings, name: str) -> Path:
    return settings.lake_dir / ".runs" / f"{name}-pending.json"


def write_note(path: Path, content: Sequence[Any] | dict[str, Any]) -> None:
    """Put a JSON note in the place of another; durable when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
