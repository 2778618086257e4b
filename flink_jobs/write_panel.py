"""WritePanel: the lake's slots of panels → panel_report and panel_alarm → Druid, replacing exactly those hours.

lake ─► slots of a day ─► running sums since its beginning, over those kept ─► differences from the reference slots
    ─► panel_report
    ─► incidents, from those open at the day's beginning ─► panel_alarm
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flink_jobs import incidents
from flink_jobs.incidents import PANELS
from flink_jobs.reports import Staged, Work, arguments, load
from flink_jobs.reports import stage as stage_files
from flink_jobs.slots import HOUR, PANEL, milliseconds
from selfgen import lake, running_sums
from selfgen.calendar import HOUR_MS
from selfgen.columns import ACCUMULATORS, DATASOURCES, DIFFERENCES
from selfgen.energy import accumulators, differences
from selfgen.running_sums import day_of
from selfgen.settings import Settings

NAME = "write_panel"
DATASOURCE_NAMES = REPORT, ALARM = "panel_report", "panel_alarm"

#: The lake's columns under the reports' names.
NAMES = {
    "element_id": "panel_id",
    "generated": "power_gen",
    "greatest": "power_max",
    "estimated": "estimated_gen",
    "slot_start": "timestamp",
}
_MADE = {f"diff_last_{name}" for name in DIFFERENCES} | {f"acum_{name}" for name in ACCUMULATORS}
_IN_LAKE = {report: of_lake for of_lake, report in NAMES.items()}
#: Columns of the lake that reports are made of.
COLUMNS = (
    "slot_start",
    *(_IN_LAKE.get(one.name, one.name) for one in DATASOURCES[REPORT] if one.name not in _MADE),
    *(f"reference_{name}" for name in DIFFERENCES),
)
#: Reports that are made at once take, with what they compare with, some hundred MiB.
MOST_ROWS = 200_000
#: Hours of reports that a worker makes in a row: a day's sums begin with those kept.
SPLIT_HOURS = 24


def reports(folder: Path, start: datetime, end: datetime) -> Iterator[pd.DataFrame]:
    """Yield the rows of panel_report, with `timestamp`, of slots that start in hours of one UTC day, piece by piece.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the lake.
    start, end : datetime
        UTC hours of one day, `[start, end)`.
    """
    sums = running_sums.before(folder, PANEL.kind, day_of(start))
    earlier = running_sums.slots(folder, PANEL.kind, day_of(start), start)
    while start < end:
        rows = max(lake.count_rows(folder, PANEL.kind, start), 1)
        until = min(start + max(MOST_ROWS // rows, 1) * HOUR, end)
        table = lake.read(folder, PANEL.kind, start, until, COLUMNS)
        begin, start = start, until
        if not table.num_rows:
            continue
        piece = table.to_pandas()
        now = piece.rename(columns=running_sums.SLOT)[list(running_sums.SLOT.values())]
        day = pd.concat([earlier, now], ignore_index=True) if len(earlier) else now
        added = accumulators(day, sums).iloc[len(earlier) :].set_index(piece.index)
        compared = differences(now, _referred(folder, begin, until, piece))
        earlier = day
        references = [f"reference_{name}" for name in DIFFERENCES]
        yield pd.concat([piece.drop(columns=references).rename(columns=NAMES), added, compared], axis=1)


def _referred(folder: Path, start: datetime, end: datetime, piece: pd.DataFrame) -> pd.DataFrame | None:
    """Return the slots outside `[start, end)` that its rows compare with; of no other hours is anything read."""
    starts = np.concatenate([piece[f"reference_{name}"].dropna().to_numpy(np.int64) for name in DIFFERENCES])
    hours = np.unique(starts // HOUR_MS)
    hours = hours[(hours < milliseconds(start) // HOUR_MS) | (hours >= milliseconds(end) // HOUR_MS)]
    spans = np.split(hours, np.flatnonzero(np.diff(hours) > 1) + 1)
    found = [running_sums.slots(folder, PANEL.kind, _moment(s[0]), _moment(s[-1] + 1)) for s in spans if len(s)]
    found = [rows for rows in found if len(rows)]
    return pd.concat(found, ignore_index=True) if found else None


def _moment(hour: int) -> datetime:
    return datetime.fromtimestamp(int(hour) * HOUR_MS / 1000, UTC)


def frames(settings: Settings, registry: Any, folder: Path, piece: Work) -> Iterator[pd.DataFrame]:
    """Yield the rows of a piece of work; incidents to keep are left in the folder."""
    datasource, start, end = piece
    if datasource == REPORT:
        return reports(settings.lake_dir, start, end)
    return iter([incidents.alarms(settings, registry, PANELS, start, end, folder / PANELS.name)])


def work(start: datetime, end: datetime) -> list[Work]:
    """Return what a worker does in one go: the alarms of the range, one after the other; the reports of a day."""
    edges, day = [start], day_of(start) + timedelta(hours=SPLIT_HOURS)
    while day < end:
        edges.append(day)
        day += timedelta(hours=SPLIT_HOURS)
    return [(ALARM, start, end), *((REPORT, low, high) for low, high in zip(edges, [*edges[1:], end], strict=True))]


def stage(settings: Settings, start: datetime, end: datetime) -> Staged:
    """Make the reports and alarms of the UTC hours `[start, end)`; the lake's lock is held."""
    todo = work(start, end)
    for _, low, _ in reversed(todo):  # the last day's are made of those of the days before it, which are kept
        # here, and not by a worker: one that a killed run left behind must not keep sums of what was there before
        running_sums.before(settings.lake_dir, PANEL.kind, day_of(low))
    keep = partial(lake.adopt, settings.lake_dir, PANELS.name)
    return stage_files(settings, NAME, start, end, DATASOURCE_NAMES, todo, frames, keep)


def run(settings: Settings, start: datetime, end: datetime) -> dict[str, int]:
    """Replace the reports and alarms of the UTC hours `[start, end)`; return the rows of each data source."""
    with lake.exclusive(settings.lake_dir, PANEL.kind):
        return load(settings, stage(settings, start, end))


def main() -> None:
    """Run for the hours of the command line."""
    run(*arguments(__doc__))


if __name__ == "__main__":
    main()
