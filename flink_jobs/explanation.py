"""What an analyst asks when a number looks odd: how it came about, from MongoDB, the registry, the lake and Druid."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from flink_jobs.rich_panel import spread_weights
from flink_jobs.slots import HOUR, LONGEST_SLOT_MS, PANEL, milliseconds, owners_of, periods
from selfgen import energy, lake
from selfgen.calendar import HOUR_MS
from selfgen.columns import names
from selfgen.explain import explain, needed
from selfgen.recompute import ranges
from selfgen.settings import Settings

#: Columns of the lake under the names of the reports.
_COLUMNS = {
    "element_id": "element_id",
    "client_id": "client_id",
    "time_zone": "time_zone",
    "slot_start": "slot_start",
    "generated": "power_gen",
    "estimated": "estimated_gen",
    "greatest": "power_max",
    "completeness": "completeness",
    "samples": "samples",
    "expected_gen": "expected_gen",
    "performance_ratio": "performance_ratio",
}


def explain_hour(settings: Settings, panel_id: str, hour: datetime) -> list[dict[str, Any]]:
    """Return an account of each slot of a panel that starts in a UTC hour; empty where nothing is known of it."""
    from contextlib import closing

    from couchbase_admin.registry import Registry

    with closing(Registry(settings)) as registry:
        owners = owners_of(periods(registry, PANEL, [panel_id]))
    start_ms, end_ms = milliseconds(hour), milliseconds(hour + HOUR)
    return explain(
        panel_id,
        _readings(settings, panel_id, start_ms, end_ms),
        owners,
        _slots(settings, panel_id, needed(owners["time_zone"].dropna(), start_ms, end_ms)),
        _reports(settings, panel_id, start_ms, end_ms),
        start_ms,
        end_ms,
        max_gap_s=settings.max_gap_s,
        expected=lambda asked: spread_weights(settings, asked.join(owners.drop(columns=["element_id"]), on="owner")),
    )


def _readings(settings: Settings, panel_id: str, start_ms: int, end_ms: int) -> pd.DataFrame:
    from selfgen.clients.mongo import find_readings

    low, high = energy.reading_range((), start_ms, end_ms + LONGEST_SLOT_MS, max_gap_s=settings.max_gap_s)
    rows = [
        (
            panel_id,
            milliseconds(found["timestamp"]),
            found["msg_value"][PANEL.field],
            found["msg_value"].get(PANEL.meter),
        )
        for found in find_readings(settings, PANEL.kind, panel_id, low, high)
    ]
    readings = pd.DataFrame(rows, columns=["element_id", "time", "value", "energy"])
    return readings.astype({"time": "int64", "value": "float64", "energy": "float64"})


def _slots(settings: Settings, panel_id: str, parts: list[tuple[int, int]]) -> pd.DataFrame:
    """Return the panel's rows of the lake in ranges of slots."""
    hours = {hour for low, high in parts for hour in range(low // HOUR_MS * HOUR_MS, high, HOUR_MS)}
    tables = [
        lake.read(settings.lake_dir, PANEL.kind, *moments, list(_COLUMNS), where=pc.field("element_id") == panel_id)
        for low, high in ranges(hours)
        for moments in [tuple(datetime.fromtimestamp(edge / 1000, UTC) for edge in (low, high))]
    ]
    tables = [table for table in tables if table.num_rows]
    if not tables:
        empty = {name: pd.Series(dtype="float64") for name in _COLUMNS.values()}
        return pd.DataFrame(empty).astype({"slot_start": "int64", "element_id": object, "client_id": object})
    frame = pa.concat_tables(tables).rename_columns(list(_COLUMNS.values())).to_pandas()
    return frame.sort_values("slot_start", kind="stable", ignore_index=True)


def _reports(settings: Settings, panel_id: str, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
    from selfgen.clients import druid

    listed = ", ".join(f'"{name}"' for name in names("panel_report"))
    try:
        return druid.query(
            settings,
            f"SELECT TIMESTAMP_TO_MILLIS(__time) AS slot_start, {listed} FROM panel_report "
            "WHERE panel_id = %(panel)s AND __time >= MILLIS_TO_TIMESTAMP(%(start)s) AND "
            "__time < MILLIS_TO_TIMESTAMP(%(end)s)",
            {"panel": panel_id, "start": start_ms, "end": end_ms},
        )
    except druid.UnknownDatasource:
        return []
