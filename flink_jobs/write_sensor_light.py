"""WriteSensorLight: the lake's slots of light sensors → sensor_report, sensor_alarm → Druid, replacing those hours.

lake ─► slots, and the sums of what was measured before their UTC day ─► best orientation ─► producible energy
    ─► sensor_report
    ─► incidents ─► sensor_alarm
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from flink_jobs import slots
from flink_jobs.reports import ALARM_SPLIT_HOURS, Staged, add_alarms, arguments, load
from flink_jobs.reports import stage as stage_job
from flink_jobs.slots import LIGHT
from selfgen import lake
from selfgen.columns import DATASOURCES, Column, names
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

    from selfgen.light_history import History

NAME = "write_sensor_light"
DATASOURCE_NAMES = ("sensor_report", "sensor_alarm")

REPORT = (Column("timestamp", "long", "Time", "ms"), *DATASOURCES["sensor_report"])
#: The lake's columns under the reports' names.
NAMES = {"element_id": "light_id", "generated": "irradiation", "slot_start": "timestamp"}
BEST = ("optimal_tilt", "optimal_azimuth", "gain_vs_horizontal", "confidence")
#: Sensors whose best orientation is found at once: so many fit in the processor's cache and little memory.
AT_ONCE = 500


def reports(folder: Path, start: datetime, end: datetime, where: pc.Expression | None = None) -> pd.DataFrame:
    """Return the rows of sensor_report, with `timestamp`, of slots that start in the UTC hours `[start, end)`.

    Its best orientation is that of everything measured before the slot's UTC day.
    """
    from selfgen.light_history import History

    history, parts, low = History(folder), [], start
    while low < end:
        high = min(low.replace(hour=0) + timedelta(days=1), end)
        table = lake.read(folder, LIGHT.kind, low, high, where=where)
        if table.num_rows:
            parts.append(_of_day(table.to_pandas(), history, low.replace(hour=0)))
        low = high
    return pd.concat(parts) if parts else pd.DataFrame(columns=["timestamp", *names("sensor_report")])


def _of_day(table: pd.DataFrame, history: History, day: datetime) -> pd.DataFrame:
    from selfgen.solar import producible

    key = ["element_id", "latitude", "longitude"]
    sensors = table[key].drop_duplicates().dropna(ignore_index=True)
    table = table.merge(with_best(sensors, history, day), on=key, how="left", validate="many_to_one")
    energy = producible(
        table["slot_start"],
        table["slot_end"],
        table["generated"],
        *(table[name] for name in ("latitude", "longitude", "optimal_tilt", "optimal_azimuth", "power_cap")),
        completeness=table["completeness"],
    )
    placed = table["optimal_tilt"].notna() & table["power_cap"].notna()
    return table.assign(producible_gen=np.where(placed, energy, np.nan)).rename(columns=NAMES)


def with_best(sensors: pd.DataFrame, history: History, day: datetime) -> pd.DataFrame:
    """Add sensors' best orientation (`BEST`) from what they measured at their place before a UTC day."""
    from selfgen.orientation import best

    parts = []
    for first in range(0, len(sensors), AT_ONCE):
        some = sensors[first : first + AT_ONCE]
        found = best(history.before(day, some), some["latitude"].to_numpy(), some["longitude"].to_numpy())
        parts.append(some.assign(**dict(zip(BEST, found, strict=True))))
    return pd.concat(parts) if parts else sensors.assign(**dict.fromkeys(BEST, np.nan))


def report_reader(settings: Settings):
    """Return the table function `(start_ms, end_ms) → rows of sensor_report`."""
    from pyflink.table.udf import TableFunction, udtf

    class ReadReports(TableFunction):
        def eval(self, start_ms, end_ms):
            start, end = (pd.Timestamp(edge, unit="ms", tz="UTC").to_pydatetime() for edge in (start_ms, end_ms))
            yield from slots.as_rows(reports(settings.lake_dir, start, end), REPORT)

    return udtf(ReadReports(), result_types=[slots.data_type(column) for column in REPORT])


def build_pipeline(
    env: StreamTableEnvironment, settings: Settings, start: datetime, end: datetime, report: str, alarm: str
) -> StatementSet:
    """Return the job from the lake to the tables `report` and `alarm`."""
    env.create_temporary_function("reports", report_reader(settings))
    listed = ", ".join(f"`{column.name}`" for column in REPORT)
    splits = slots.create_splits(env, [(start, end)], ALARM_SPLIT_HOURS)
    job = env.create_statement_set()
    job.add_insert_sql(
        f"INSERT INTO {report} SELECT {listed} FROM {splits}, LATERAL TABLE(reports(start_ms, end_ms)) AS t ({listed})"
    )
    add_alarms(job, env, settings, LIGHT, "sensor_alarm", alarm, splits)
    return job


def stage(settings: Settings, start: datetime, end: datetime) -> Staged:
    """Make the reports and alarms of the UTC hours `[start, end)`; the lake's lock is held."""
    return stage_job(settings, NAME, start, end, DATASOURCE_NAMES, build_pipeline)


def run(settings: Settings, start: datetime, end: datetime) -> dict[str, int]:
    """Replace the reports and alarms of the UTC hours `[start, end)`; return the rows of each data source."""
    with lake.exclusive(settings.lake_dir, LIGHT.kind):
        return load(settings, stage(settings, start, end))


def main() -> None:
    """Run for the hours of the command line."""
    run(*arguments(__doc__))


if __name__ == "__main__":
    main()
