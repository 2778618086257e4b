"""One hour of 10 000 light sensors, 1-min data, from MongoDB through the lake to Druid, on servers of its own.

Each sensor has a place of its own and two years of sums; the lake has no other slots, so that the alarms have nothing
to read but the hour. What they take after 31 days of slots is measured beside it: followed anew, and from what is kept
at the day's beginning, as each hour after the day's first does.
"""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
from dateutil.relativedelta import relativedelta

from benchmarks.form import Figure
from benchmarks.servers import import_rows, own_stack
from couchbase_admin.registry import Registry
from flink_jobs import incidents, rich_sensor_light, write_sensor_light
from flink_jobs.incidents import LIGHTS
from flink_jobs.slots import HOUR, LIGHT, make_slots, milliseconds, periods
from selfgen import evidence, lake, light_history, orientation, solar
from selfgen.clients import druid, mongo
from selfgen.columns import LIGHT_SUMS
from selfgen.recompute import ALARM_CONTEXT_DAYS
from selfgen.settings import Settings
from selfgen.solar import HOUR_MS

SENSORS = 10_000
MINUTE_MS = 60_000
#: Local hours with light, from and to.
DAY = 7, 21
#: 13:00 on a day of summer in Madrid; and when the next local day begins there.
NOON, MIDNIGHT = datetime(2026, 6, 20, 11, tzinfo=UTC), datetime(2026, 6, 20, 22, tzinfo=UTC)


def run(settings: Settings) -> list[Figure]:
    """Measure noon, its day's first hour that is computed; and the writing of the hour after it, and of midnight."""
    servers = ("kafka", "mongodb", "couchbase", "druid", "flink")
    with own_stack(settings.model_copy(update={"raw_retention_days": 10_000.0}), "light_hour", *servers) as own:
        sensors = _register(own)
        _fill(own, sensors)
        _land(own, sensors)
        figures = _noon(own)
        _move(own, NOON + HOUR)
        began = time.perf_counter()
        write_sensor_light.run(own, NOON + HOUR, NOON + 2 * HOUR)
        figures.append(Figure("the hour after: lake → Druid", round(time.perf_counter() - began, 1), "s"))
        _move(own, MIDNIGHT)
        began = time.perf_counter()
        written = write_sensor_light.run(own, MIDNIGHT, MIDNIGHT + HOUR)
        return [
            *figures,
            Figure("the hour in which the local day begins: lake → Druid", round(time.perf_counter() - began, 1), "s"),
            Figure("the same: rows of light_surface", written["light_surface"], "rows"),
            *_with_past(own),
        ]


def _register(settings: Settings) -> pd.DataFrame:
    """Register the sensors, ten at each client, each at a place of its own; return their ids and places."""
    number = np.arange(SENSORS)
    sensors = pd.DataFrame(
        {
            "element_id": [f"light-{one:05}" for one in number],
            "latitude": 37 + 6 * (number % 100) / 100,
            "longitude": -8 + 11 * (number // 100) / 100,
        }
    )
    rows = ["type,kind,client_id,name,postal_code,latitude,longitude,light_id,power_cap,element_id,init_date"]
    rows += [f"client,,C{one},Name {one},{28000 + one % 100},40.4,-3.7,,,," for one in range(SENSORS // 10)]
    rows += [f"light,,,,,,,{one},4000,," for one in sensors["element_id"]]
    rows += [
        f"install,light,C{row.Index // 10},,,{row.latitude},{row.longitude},,,{row.element_id},2024-05-01"
        for row in sensors.itertuples()
    ]
    import_rows(settings, rows)
    return sensors


def _fill(settings: Settings, sensors: pd.DataFrame) -> None:
    """Put sums into the lake: a noon of each of the 24 months before that count."""
    random = np.random.default_rng(1)
    for back in range(2, 25):
        noon = (NOON - relativedelta(months=back)).replace(day=1)
        parts = dict(zip(LIGHT_SUMS, random.uniform(10, 900, (len(LIGHT_SUMS), len(sensors))), strict=True))
        hours = sensors.assign(slot_start=milliseconds(noon), generated=500.0, steady=0.0, **parts)
        lake.replace_hour(settings.lake_dir, LIGHT.kind, noon, pa.Table.from_pandas(hours, preserve_index=False))
        light_history.replace(settings.lake_dir, LIGHT.kind, [noon.replace(hour=0)])


def _land(settings: Settings, sensors: pd.DataFrame) -> None:
    """Put the hour's readings into MongoDB as the landing does."""
    mongo.ensure_collections(settings)
    stored, random = mongo.database(settings)["topic"], np.random.default_rng(2)
    ids, start_ms = sensors["element_id"].tolist(), milliseconds(NOON)
    for moment in range(start_ms, start_ms + HOUR_MS + 1, MINUTE_MS):
        identities = mongo.reading_ids(LIGHT.kind, np.full(len(ids), moment), ids)
        values = random.uniform(300, 900, len(ids))
        at = datetime.fromtimestamp(moment / 1000, UTC)
        stored.insert_many(
            [
                {
                    "_id": identity,
                    "topic_id": LIGHT.kind,
                    "timestamp": at,
                    "element_id": one,
                    "msg_value": {"light_id": one, "timestamp": moment, "irradiance": round(value, 1)},
                }
                for identity, one, value in zip(identities, ids, values.tolist(), strict=True)
            ],
            ordered=False,
        )


def _noon(settings: Settings) -> list[Figure]:
    began = time.perf_counter()
    rich_sensor_light.run(settings, [(NOON, NOON + HOUR)])
    between = time.perf_counter()
    written = write_sensor_light.run(settings, NOON, NOON + HOUR)
    ended = time.perf_counter()
    in_lake = lake.read(settings.lake_dir, LIGHT.kind, NOON, NOON + HOUR, ["element_id"]).num_rows
    [found] = druid.query(settings, "SELECT COUNT(*) AS n FROM sensor_report")
    if not in_lake == written["sensor_report"] == found["n"] == SENSORS:
        raise AssertionError(f"{in_lake} slots in the lake, {written} rows written, {found['n']} in Druid")
    sun = _sun_alone(settings, NOON)
    return [
        Figure("noon: MongoDB → lake", round(between - began, 1), "s"),
        Figure("noon: lake → Druid", round(ended - between, 1), "s"),
        Figure("noon: both", round(ended - began, 1), "s"),
        Figure("noon: the sun's position, of both", round(100 * sun / (ended - began), 1), "%"),
    ]


def _move(settings: Settings, hour: datetime) -> None:
    """Put noon's slots into the lake as those of another hour; dark, where that is in the night."""
    table = lake.read(settings.lake_dir, LIGHT.kind, NOON, NOON + HOUR)
    later = milliseconds(hour) - milliseconds(NOON)
    local = hour + timedelta(hours=2)
    moved = table.to_pandas().assign(local_date=f"{local:%Y-%m-%d}")
    moved[["slot_start", "slot_end"]] += later
    if not DAY[0] <= local.hour < DAY[1]:
        moved = moved.assign(generated=0.0, greatest=0.0, possible=0.0, daylight=0, steady=np.nan, dark=0.0)
        moved[list(LIGHT_SUMS)] = 0.0
    lake.replace_hour(
        settings.lake_dir, LIGHT.kind, hour, pa.Table.from_pandas(moved, table.schema, preserve_index=False)
    )


def _sun_alone(settings: Settings, hour: datetime) -> float:
    """Return what the sun's positions of the hour take: the same computing once more in this process, and timed."""
    spent = 0.0
    position = solar.sun

    def timed(*arguments: object) -> solar.Sun:
        nonlocal spent
        began = time.perf_counter()
        try:
            return position(*arguments)  # type: ignore[arg-type]
        finally:
            spent += time.perf_counter() - began

    start_ms = milliseconds(hour)
    readings = mongo.read_readings(settings, LIGHT.kind, start_ms, start_ms + HOUR_MS + MINUTE_MS, LIGHT.fields)
    with closing(Registry(settings)) as registry:
        history = periods(registry, LIGHT, readings["element_id"].unique())
    for module in (solar, orientation, evidence):
        module.sun = timed  # type: ignore[attr-defined]
    try:
        made = make_slots(readings, history, LIGHT, start_ms, start_ms + HOUR_MS, max_gap_s=settings.max_gap_s)
        rich_sensor_light.with_contributions(made, readings)
        write_sensor_light.reports(settings.lake_dir, hour, hour + HOUR)
    finally:
        for module in (solar, orientation, evidence):
            module.sun = position  # type: ignore[attr-defined]
    return spent


def _with_past(settings: Settings) -> list[Figure]:
    """Give the sensors the 31 days before, and time the alarms of an hour."""
    hour = NOON - timedelta(days=ALARM_CONTEXT_DAYS)
    while hour < NOON:
        _move(settings, hour)
        hour += HOUR
    staging = settings.build_dir / "incidents"
    figures = []
    with closing(Registry(settings)) as registry:
        for how in ("followed anew", "from what is kept"):
            began = time.perf_counter()
            incidents.alarms(settings, registry, LIGHTS, NOON, NOON + HOUR, staging / LIGHTS.name)
            lake.adopt(settings.lake_dir, LIGHTS.name, staging)
            seconds = time.perf_counter() - began
            figures.append(Figure(f"alarms of an hour after 31 days, {how}", round(seconds, 1), "s"))
    return figures
