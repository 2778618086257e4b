"""Panels' running sums by the day: what the accumulators of a UTC day go on from, kept in the lake.

    LAKE/panel_sums/date=YYYY-MM-DD/hour=00/data.parquet

A day's file has the last row before it of each panel under each client, with its sums. So an hour's report needs the
hours of its own day and no others, however long ago the year began. Sums are made from those of an earlier day, or of
the beginning of the year, by adding the same rows in the same order: where they began makes no difference to any bit.
When an hour of the lake is replaced, the sums after it are removed, and made anew when they are asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from selfgen import lake
from selfgen.calendar import HOUR_MS
from selfgen.columns import ACCUMULATORS
from selfgen.energy import accumulators

NAME = "panel_sums"
#: Columns of the lake's slots that sums are made of, and as what.
SLOT = {
    "element_id": "element_id",
    "client_id": "client_id",
    "time_zone": "time_zone",
    "slot_start": "slot_start",
    "generated": "power_gen",
}
_SUMS = [f"acum_{name}" for name in ACCUMULATORS]
_SCHEMA = pa.schema(
    [
        ("element_id", pa.string()),
        ("client_id", pa.string()),
        ("time_zone", pa.string()),
        ("slot_start", pa.int64()),
        *((name, pa.float64()) for name in _SUMS),
    ]
)
_DAY = timedelta(days=1)
#: On no clock does a year begin longer before, or after, than it does in UTC.
_CLOCKS = timedelta(days=2)
#: Rows that are longer ago are of no period that goes on.
_LONGEST_MS = 400 * 24 * HOUR_MS


def before(folder: Path, kind: str, day: datetime) -> pd.DataFrame:
    """Return the last row before a UTC day of each panel and client: `_SCHEMA`'s columns, for `accumulators`.

    Sums of the days up to it that are not there yet are made, and kept.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the lake; its lock (`lake.exclusive`) is held, or the sums of the day are there.
    kind : str
        The data set of the panels' slots.
    """
    table = lake.read(folder, NAME, day, day + lake.HOUR)
    if table.num_columns:
        kept: pd.DataFrame = table.to_pandas()
        return kept
    # the first of January may still be the last of December
    begin = (day - _DAY).replace(month=1, day=1) - _CLOCKS
    known = [one for one in lake.hours(folder, NAME) if begin < one < day]
    now = known[-1] if known else min(_first_day(folder, kind, begin), day)
    sums: pd.DataFrame = lake.read(folder, NAME, now, now + lake.HOUR, schema=_SCHEMA).to_pandas()
    while now < day:
        rows = slots(folder, kind, now, now + _DAY)
        now += _DAY
        if len(rows):
            sums = _latest(sums, rows.join(accumulators(rows, sums)), round(now.timestamp()) * 1000)
        if now >= begin + _CLOCKS + _DAY:  # on some clock it is still the year before
            lake.replace_hour(folder, NAME, now, pa.Table.from_pandas(sums, schema=_SCHEMA, preserve_index=False))
    return sums


def _first_day(folder: Path, kind: str, begin: datetime) -> datetime:
    hours = [hour for hour in lake.hours(folder, kind) if hour >= begin]
    return day_of(hours[0]) if hours else datetime.max.replace(tzinfo=UTC)


def slots(folder: Path, kind: str, start: datetime, end: datetime) -> pd.DataFrame:
    """Return the slots that start in the UTC hours `[start, end)`, as `accumulators` wants them."""
    table = lake.read(folder, kind, start, end, list(SLOT))
    if not table.num_columns:
        return pd.DataFrame(columns=list(SLOT.values()))
    found: pd.DataFrame = table.rename_columns(list(SLOT.values())).to_pandas()
    return found


def _latest(sums: pd.DataFrame, rows: pd.DataFrame, now_ms: int) -> pd.DataFrame:
    """Return the last row of each panel and client."""
    every = pd.concat([sums, rows[sums.columns]], ignore_index=True) if len(sums) else rows[sums.columns]
    order = np.argsort(every["slot_start"].to_numpy(np.int64), kind="stable")
    last = every.iloc[order].drop_duplicates(["element_id", "client_id"], keep="last")
    return last[last["slot_start"] > now_ms - _LONGEST_MS].reset_index(drop=True)


def day_of(moment: datetime) -> datetime:
    """Return the start of a moment's UTC day."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
