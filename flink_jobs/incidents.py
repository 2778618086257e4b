"""Alarms, followed through the lake from day to day: what is open at a day's beginning is kept there.

    LAKE/panel_incidents/date=YYYY-MM-DD/hour=00/data.parquet
    LAKE/light_incidents/…

A day's file has the state of the alarms before it (`selfgen.alarms.follow_slots`), and since when each element is
known, from which on its silence tells something. So an hour's alarms need the slots of its own day; of light sensors
also what they saw of clear skies in the weeks before, a few numbers a slot. Like the running sums, what is kept is
removed when an hour before it changes; where it is not there, the days since the last one that is are followed again,
and 31 of them where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from flink_jobs.rich_panel import OF_PANELS
from flink_jobs.rich_sensor_light import OF_LIGHT
from flink_jobs.slots import CLEAR_SKY_TOLD, LIGHT, PANEL, SLOT, Source, milliseconds, periods, schema, with_absent
from selfgen import calendar, lake, soiling
from selfgen.alarms import NO_STATE, follow_slots, with_seen
from selfgen.columns import ENRICHMENT, Column, names
from selfgen.energy import NOBODYS_ZONE
from selfgen.light_history import ClearLevels
from selfgen.recompute import ALARM_CONTEXT_DAYS
from selfgen.running_sums import day_of
from selfgen.settings import Settings


@dataclass(frozen=True)
class Followed:
    """A kind of element whose alarms are followed: where its slots are, and which of their columns alarms are made of.

    `judge` adds to the slots of `[start, end)` what follows from others in the lake, given its folder.
    """

    source: Source
    datasource: str
    extra: tuple[Column, ...]
    columns: tuple[str, ...]
    judge: Callable[[Path, pd.DataFrame, datetime, datetime], pd.DataFrame] = lambda _folder, slots, _start, _end: slots

    @property
    def name(self) -> str:
        """The data set of the lake in which is kept what is open."""
        return f"{self.source.kind}_incidents"


#: Columns of each kind's slots that alarms are made of.
OF_ALL = (
    "element_id", "slot_start", "slot_end", "generated", "greatest", "completeness", "samples", "stale", "daylight",
    "power_cap", "variable_data", "dark", *(column.name for column in ENRICHMENT),
)  # fmt: skip
#: Rows of the state that tell since when an element is known; no alarm has this code.
SEEN = "seen"
#: Slots that are followed at once take some hundred MiB.
MOST_SLOTS = 500_000
LONGEST = timedelta(days=7)
_DAY = timedelta(days=1)


#: Columns that tell what a light sensor saw of a clear sky, and in which slots they tell anything.
OF_CLEAR_SKY = (
    "element_id", "slot_start", "latitude", "longitude", "variable_data", "generated", "steady", "dark", "clear_beam",
    "clear_sky",
)  # fmt: skip
TELLS = (pc.field("clear_beam") > 0) | (pc.field("dark") > 0)
#: Light sensors whose clear skies are looked at at once: of a month they take some hundred MiB.
SENSORS_AT_ONCE = 1000


def with_clear_sky(folder: Path, slots: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
    """Add to the slots of light sensors that start in `[start, end)` what they saw of a clear sky's light."""
    low, high = start - timedelta(milliseconds=2 * soiling.RECENT_MS), end + CLEAR_SKY_TOLD
    table = lake.read(folder, LIGHT.kind, low, high, OF_CLEAR_SKY, where=TELLS)
    if not table.num_rows:
        return slots.assign(seen=np.nan, hidden=False)
    levels, sensors, parts = ClearLevels(folder), table["element_id"].unique(), []
    for first in range(0, len(sensors), SENSORS_AT_ONCE):
        some = table.filter(pc.is_in(table["element_id"], sensors[first : first + SENSORS_AT_ONCE])).to_pandas()
        seen = with_seen(some.assign(level=levels.of(some)))
        here = seen["slot_start"].between(milliseconds(start), milliseconds(end), inclusive="left")
        parts.append(seen.loc[here, ["element_id", "slot_start", "seen", "hidden"]])
    found = slots.merge(pd.concat(parts), on=["element_id", "slot_start"], how="left", validate="many_to_one")
    return found.assign(hidden=found["hidden"].eq(True))


PANELS = Followed(
    PANEL,
    "panel_alarm",
    OF_PANELS,
    (*OF_ALL, "estimated", "expected_gen", "performance_ratio", "meter_resets", "flat"),
)
LIGHTS = Followed(LIGHT, "sensor_alarm", OF_LIGHT, (*OF_ALL, "possible", "owned"), with_clear_sky)


def alarms(
    settings: Settings, registry: Any, followed: Followed, start: datetime, end: datetime, staging: Path
) -> pd.DataFrame:
    """Return the alarms, with `timestamp`, of the UTC hours `[start, end)`.

    The states of the days that are followed are left in `staging`, for the holder of the lake's lock to publish.
    """
    folder, kind = settings.lake_dir, followed.source.kind
    now, state = _known(folder, followed.name, day_of(start))
    found = [_none(followed)]
    while now < end:
        until = _piece(folder, kind, now, end)
        table = lake.read(folder, kind, now, until, followed.columns, schema=schema((*SLOT, *followed.extra)))
        if table.num_rows or len(state):
            slots = followed.judge(folder, table.to_pandas(), now, until)
            rows, state = _follow(registry, followed, slots, state, milliseconds(now), milliseconds(until))
            found.append(rows[rows["timestamp"].between(milliseconds(start), milliseconds(end), inclusive="left")])
        now = until
        if now == day_of(now):
            lake.stage_hour(staging, now, pa.Table.from_pandas(state, preserve_index=False))
    found = [rows for rows in found if len(rows)] or found[:1]
    return pd.concat(found, ignore_index=True)


def _none(followed: Followed) -> pd.DataFrame:
    return pd.DataFrame(columns=["timestamp", *names(followed.datasource)])


def _known(folder: Path, name: str, day: datetime) -> tuple[datetime, pd.DataFrame]:
    """Return the last day up to this one whose state is there, and its state; else 31 days before, and none."""
    known = [one for one in lake.hours(folder, name) if one <= day]
    if not known:
        return day - timedelta(days=ALARM_CONTEXT_DAYS), NO_STATE
    return known[-1], lake.read(folder, name, known[-1], known[-1] + lake.HOUR).to_pandas()


def _piece(folder: Path, kind: str, start: datetime, end: datetime) -> datetime:
    """Return the end of what is followed at once: some days, to a midnight where the range has one left."""
    rows = max(lake.count_rows(folder, kind, start), 1)
    days = timedelta(days=min(max(MOST_SLOTS // (24 * rows), 1), LONGEST // _DAY))
    last_midnight = day_of(end)
    return min(day_of(start) + days, last_midnight) if start < last_midnight else end


def _follow(
    registry: Any, followed: Followed, slots: pd.DataFrame, state: pd.DataFrame, start_ms: int, end_ms: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    source, known = followed.source, state["code"] == SEEN
    seen = state[known].set_index("element_id")["started"]
    first = slots.groupby("element_id")["slot_start"].min()
    seen = pd.concat([seen, first[~first.index.isin(seen.index)]]).astype(np.int64)
    silent = _silent(slots, seen, start_ms, end_ms)
    if len(silent):
        every = with_absent(slots, periods(registry, source, silent), end_ms, start_ms=start_ms, seen=seen)
    else:
        every = slots
    rows, after = follow_slots(every, source.kind, state[~known]) if len(every) else (_none(followed), state[~known])
    told = {"element_id": seen.index, "code": SEEN, "client_id": "", "started": seen.to_numpy(), "open": False}
    told = pd.DataFrame(told)
    after = pd.concat([after, told], ignore_index=True) if len(after) else told.reindex(columns=after.columns)
    return rows, after.fillna(0).astype(NO_STATE.dtypes.to_dict())


def _silent(slots: pd.DataFrame, seen: pd.Series, start_ms: int, end_ms: int) -> list[str]:
    """Return the elements that may not have each of their clock's slots: only of them the registry has to be asked."""
    zoned = slots.assign(time_zone=slots["time_zone"].fillna(NOBODYS_ZONE)).groupby("element_id")
    by_element = zoned.agg(slots=("slot_start", "nunique"), zone=("time_zone", "last"), clocks=("time_zone", "nunique"))
    of_element = by_element.reindex(seen.index)
    begin = seen.clip(lower=start_ms)
    zones = of_element["zone"].fillna(NOBODYS_ZONE)
    least = pd.Series(0, index=seen.index)
    for zone, mine in begin.groupby(zones, sort=False):
        starts, _ = calendar.slots(str(zone), int(mine.min()), end_ms)
        least[mine.index] = len(starts) - np.searchsorted(starts, mine.to_numpy())
    # the slots of several clocks cannot be counted by one of them
    doubtful = (of_element["slots"].fillna(0) < least) | (of_element["clocks"] > 1)
    return list(seen.index[doubtful.to_numpy()])
