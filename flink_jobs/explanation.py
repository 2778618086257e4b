"""What an analyst asks when a number looks odd: how it came about, from MongoDB, the registry, the lake and Druid."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from flink_jobs import bridges
from flink_jobs.rich_panel import spread_weights
from flink_jobs.slots import HOUR, LIGHT, LONGEST_SLOT_MS, PANEL, Source, id_field, milliseconds, owners_of, periods
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


def explain_hour(settings: Settings, element_id: str, hour: datetime, source: Source = PANEL) -> list[dict[str, Any]]:
    """Return an account of each slot of an element that starts in a UTC hour; empty where nothing is known of it."""
    from contextlib import closing

    from couchbase_admin.registry import Registry

    with closing(Registry(settings)) as registry:
        owners = owners_of(periods(registry, source, [element_id]))
    start_ms, end_ms = milliseconds(hour), milliseconds(hour + HOUR)
    readings = _readings(settings, element_id, start_ms, end_ms, source)
    reports = _reports(settings, element_id, start_ms, end_ms, source)
    if source.kind == LIGHT.kind:
        stored = _light_slots(settings, element_id, hour)
        span = start_ms, end_ms
        return explain(element_id, readings, owners, stored, reports, *span, max_gap_s=settings.max_gap_s, kind="light")
    return explain(
        element_id,
        readings,
        owners,
        _slots(settings, element_id, needed(owners["time_zone"].dropna(), start_ms, end_ms)),
        reports,
        start_ms,
        end_ms,
        max_gap_s=settings.max_gap_s,
        expected=lambda asked: spread_weights(settings, asked.join(owners.drop(columns=["element_id"]), on="owner")),
    )


def _readings(settings: Settings, element_id: str, start_ms: int, end_ms: int, source: Source) -> pd.DataFrame:
    from selfgen.clients.mongo import find_readings

    low, high = energy.reading_range((), start_ms, end_ms + LONGEST_SLOT_MS, max_gap_s=settings.max_gap_s)
    near = list(find_readings(settings, source.kind, element_id, low, high))
    rows = [
        (
            element_id,
            milliseconds(found["timestamp"]),
            found["msg_value"][source.field],
            found["msg_value"].get(source.meter),
        )
        for found in [*near, *_ends(settings, element_id, low, high, source)]
    ]
    readings = pd.DataFrame(rows, columns=["element_id", "time", "value", "energy"])
    return readings.astype({"time": "int64", "value": "float64", "energy": "float64"})


def _ends(settings: Settings, element_id: str, low: int, high: int, source: Source) -> list[dict[str, Any]]:
    """Return the readings, before a range and after it, of outages that reach into it and in which a meter counted."""
    from selfgen.clients.mongo import get_readings

    outages = bridges.of_element(settings.lake_dir, element_id, low, high) if source.meter else None
    if outages is None or outages.empty:
        return []
    ends = np.unique(outages[["start", "end"]].to_numpy())
    return get_readings(settings, source.kind, element_id, ends[(ends < low) | (ends >= high)].tolist())


def _light_slots(settings: Settings, light_id: str, hour: datetime) -> pd.DataFrame:
    """Return the light sensor's rows of the lake, with what its reports make of them."""
    from flink_jobs.write_sensor_light import reports

    rows = reports(settings.lake_dir, hour, hour + HOUR, pc.field("element_id") == light_id)
    return rows.rename(columns={"timestamp": "slot_start", "light_id": "element_id"})


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


def _reports(settings: Settings, element_id: str, start_ms: int, end_ms: int, source: Source) -> list[dict[str, Any]]:
    from selfgen.clients import druid

    datasource = {"panel": "panel_report", "light": "sensor_report"}[source.kind]
    listed = ", ".join(f'"{name}"' for name in names(datasource))
    try:
        return druid.query(
            settings,
            f"SELECT TIMESTAMP_TO_MILLIS(__time) AS slot_start, {listed} FROM {datasource} "
            f"WHERE {id_field(source)} = %(element)s AND __time >= MILLIS_TO_TIMESTAMP(%(start)s) AND "
            "__time < MILLIS_TO_TIMESTAMP(%(end)s)",
            {"element": element_id, "start": start_ms, "end": end_ms},
        )
    except druid.UnknownDatasource:
        return []
