"""WriteSensorLight: the lake's slots of light sensors → sensor_report, sensor_alarm → Druid, replacing those hours."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from flink_jobs.reports import add_alarms, arguments, dates, run_write, within
from flink_jobs.rich_sensor_light import PRODUCIBLE
from flink_jobs.slots import LIGHT, create_lake_table
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

NAME = "write_sensor_light"
DATASOURCE_NAMES = ("sensor_report", "sensor_alarm")


def build_pipeline(
    env: StreamTableEnvironment, settings: Settings, start: datetime, end: datetime, report: str, alarm: str
) -> StatementSet:
    """Return the job from the lake to the tables `report` and `alarm`."""
    lake = create_lake_table(env, "lake", settings.lake_dir / LIGHT.kind, PRODUCIBLE)
    values = {
        "light_id": "element_id",
        "irradiation": "generated",
        # how much the choice of orientation may lose is not known yet
        "confidence": "CAST(NULL AS DOUBLE)",
    }
    columns = ", ".join(values.get(column.name, f"`{column.name}`") for column in DATASOURCES["sensor_report"])
    job = env.create_statement_set()
    job.add_insert_sql(
        f"INSERT INTO {report} SELECT slot_start, {columns} "
        f"FROM {lake} WHERE {dates(start, end)} AND {within(start, end)}"
    )
    add_alarms(job, env, settings, LIGHT, "sensor_alarm", alarm, start, end)
    return job


def run(settings: Settings, start: datetime, end: datetime) -> dict[str, int]:
    """Replace the reports and alarms of the UTC hours `[start, end)`; return the rows of each data source."""
    return run_write(settings, NAME, LIGHT, start, end, DATASOURCE_NAMES, build_pipeline)


def main() -> None:
    """Run for the hours of the command line."""
    run(*arguments(__doc__))


if __name__ == "__main__":
    main()
