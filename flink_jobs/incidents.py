"""Panels' alarms, followed through the lake from day to day: what is open at a day's beginning is kept there.

    LAKE/panel_incidents/date=YYYY-MM-DD/hour=00/data.parquet

A day's file has the state of the alarms before it (`selfgen.alarms.follow_slots`), and since when each panel is known,
from which on its silence tells something. So an hour's alarms need the slots of its own day. Like the running sums,
what is kept is removed when an hour before it changes; where it is not there, the days before are followed again, 31
of them at most.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from flink_jobs.rich_panel import OF_PANELS
from flink_jobs.slots import PANEL, SLOT, milliseconds, periods, schema, with_absent
from selfgen import calendar, lake
from selfgen.alarms import NO_STATE, follow_slots
from selfgen.columns import ENRICHMENT, names
from selfgen.energy import NOBODYS_ZONE
from selfgen.recompute import ALARM_CONTEXT_DAYS
from selfgen.running_sums import day_of
from selfgen.settings import Settings

NAME = "panel_incidents"
#: Rows of the state that tell since when a panel is known; no alarm has this code.
SEEN = "seen"
#: Columns of the lake that alarms are made of.
COLUMNS = (
    "element_id", "slot_start", "slot_end", "generated", "estimated", "greatest", "completeness", "samples", "stale",
    "daylight", "power_cap", "variable_data", "expected_gen", "performance_ratio", "meter_resets", "flat", "dark",
    *(column.name for column in ENRICHMENT),
)  # fmt: skip
#: Slots that are followed at once take some hundred MiB.
MOST_SLOTS = 500_000
LONGEST = timedelta(days=7)
_DAY = timedelta(days=1)


def alarms(settings: Settings, registry: Any, start: datetime, end: datetime, staging: Path) -> pd.DataFrame:
    """Return the rows of panel_alarm, with `timestamp`, of the UTC hours `[start, end)`.

    The states of the days that are followed are left in `staging`, for the holder of the lake's lock to publish.
    """
    folder = settings.lake_dir
    now, state = _known(folder, day_of(start))
    found = [pd.DataFrame(columns=["timestamp", *names("panel_alarm")])]
    while now < end:
        until = _piece(folder, now, end)
        table = lake.read(folder, PANEL.kind, now, until, COLUMNS, schema=schema((*SLOT, *OF_PANELS)))
        if table.num_rows or len(state):
            rows, state = _follow(registry, table.to_pandas(), state, milliseconds(now), milliseconds(until))
            found.append(rows[rows["timestamp"].between(milliseconds(start), milliseconds(end), inclusive="left")])
        now = until
        if now == day_of(now):
            lake.stage_hour(staging, now, pa.Table.from_pandas(state, preserve_index=False))
    found = [rows for rows in found if len(rows)] or found[:1]
    return pd.concat(found, ignore_index=True)


def _known(folder: Path, day: datetime) -> tuple[datetime, pd.DataFrame]:
    """Return the last day up to this one whose state is there, and its state; else 31 days before, and none."""
    known = [one for one in lake.hours(folder, NAME) if day - timedelta(days=ALARM_CONTEXT_DAYS) <= one <= day]
    if not known:
        return day - timedelta(days=ALARM_CONTEXT_DAYS), NO_STATE
    return known[-1], lake.read(folder, NAME, known[-1], known[-1] + lake.HOUR).to_pandas()


def _piece(folder: Path, start: datetime, end: datetime) -> datetime:
    """Return the end of what is followed at once: some days, to a midnight where the range has one left."""
    rows = max(lake.count_rows(folder, PANEL.kind, start), 1)
    days = timedelta(days=min(max(MOST_SLOTS // (24 * rows), 1), LONGEST // _DAY))
    last_midnight = day_of(end)
    return min(day_of(start) + days, last_midnight) if start < last_midnight else end


def _follow(
    registry: Any, slots: pd.DataFrame, state: pd.DataFrame, start_ms: int, end_ms: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    known = state["code"] == SEEN
    seen = state[known].set_index("element_id")["started"]
    first = slots.groupby("element_id")["slot_start"].min()
    seen = pd.concat([seen, first[~first.index.isin(seen.index)]]).astype(np.int64)
    silent = _silent(slots, seen, start_ms, end_ms)
    if len(silent):
        every = with_absent(slots, periods(registry, PANEL, silent), end_ms, start_ms=start_ms, seen=seen)
    else:
        every = slots
    rows, after = follow_slots(every, PANEL.kind, state[~known]) if len(every) else (_NO_ROWS, state[~known])
    told = pd.DataFrame({"element_id": seen.index, "code": SEEN, "started": seen.to_numpy(), "open": False})
    after = pd.concat([after, told], ignore_index=True) if len(after) else told.reindex(columns=after.columns)
    return rows, after.fillna(0).astype(NO_STATE.dtypes.to_dict())


_NO_ROWS = pd.DataFrame(columns=["timestamp", *names("panel_alarm")])


def _silent(slots: pd.DataFrame, seen: pd.Series, start_ms: int, end_ms: int) -> list[str]:
    """Return the panels that have not each of their clock's slots: only of them the registry has to be asked."""
    by_panel = slots.groupby("element_id").agg(slots=("slot_start", "nunique"), zone=("time_zone", "last"))
    of_panel = by_panel.reindex(seen.index)
    begin = seen.clip(lower=start_ms)
    zones = of_panel["zone"].fillna(NOBODYS_ZONE)
    least = pd.Series(0, index=seen.index)
    for zone, mine in begin.groupby(zones, sort=False):
        starts, _ = calendar.slots(str(zone), int(mine.min()), end_ms)
        least[mine.index] = len(starts) - np.searchsorted(starts, mine.to_numpy())
    return list(seen.index[(of_panel["slots"].fillna(0) < least).to_numpy()])
