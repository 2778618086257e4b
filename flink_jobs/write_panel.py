"""WritePanel: the lake's slots of panels → panel_report and panel_alarm → Druid, replacing exactly those hours.

lake ─► slots since the local year began, and those compared with
    ─► running sums by local day … year ─► differences from the reference slots ─► panel_report
    ─► incidents ─► panel_alarm
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dateutil.relativedelta import relativedelta

from flink_jobs.reports import ALARM_SPLIT_HOURS, add_alarms, arguments, dates, run_write, within
from flink_jobs.rich_panel import OF_PANELS
from flink_jobs.slots import PANEL, create_lake_table, create_splits
from selfgen.columns import ACCUMULATORS, DATASOURCES, DIFFERENCES
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

NAME = "write_panel"
DATASOURCE_NAMES = ("panel_report", "panel_alarm")

#: How far back each difference refers; its slot is within a day or so of it, on every clock.
LOOK_BACK = {
    "hour": timedelta(hours=2),
    "day": relativedelta(days=1),
    "month": relativedelta(months=1),
    "quar": relativedelta(months=3),
    "six": relativedelta(months=6),
    "year": relativedelta(years=1),
}
CLOCKS = timedelta(days=2)


def needed(start: datetime, end: datetime) -> str:
    """Return the SQL condition on the lake's days that the reports of `[start, end)` are made of."""
    year_began = (start - CLOCKS).replace(month=1, day=1) - CLOCKS
    ranges = [dates(year_began, end)]
    ranges += [dates(start - back - CLOCKS, end - back + CLOCKS) for back in LOOK_BACK.values()]
    return " OR ".join(ranges)


def build_pipeline(
    env: StreamTableEnvironment, settings: Settings, start: datetime, end: datetime, report: str, alarm: str
) -> StatementSet:
    """Return the job from the lake to the tables `report` and `alarm`."""
    lake = create_lake_table(env, "lake", settings.lake_dir / PANEL.kind, OF_PANELS)
    env.execute_sql(f"CREATE TEMPORARY VIEW slot AS SELECT * FROM {lake} WHERE {needed(start, end)}")
    owner = "element_id, client_id"
    sums = ", ".join(
        f"SUM(generated) OVER (PARTITION BY {owner}, period_{name} ORDER BY slot_start) AS acum_{name}"
        for name in ACCUMULATORS
    )
    env.execute_sql(f"CREATE TEMPORARY VIEW summed AS SELECT *, {sums} FROM slot")
    differences = {f"diff_last_{name}": f"s.generated - {name}_ago.generated" for name in DIFFERENCES}
    joins = " ".join(
        f"LEFT JOIN slot AS {name}_ago ON {name}_ago.element_id = s.element_id "
        f"AND {name}_ago.client_id IS NOT DISTINCT FROM s.client_id "
        f"AND {name}_ago.slot_start = s.reference_{name}"
        for name in DIFFERENCES
    )
    values = differences | {
        "panel_id": "s.element_id",
        "power_gen": "s.generated",
        "power_max": "s.greatest",
        "estimated_gen": "s.estimated",
    }
    columns = ", ".join(values.get(column.name, f"s.`{column.name}`") for column in DATASOURCES["panel_report"])
    job = env.create_statement_set()
    job.add_insert_sql(
        f"INSERT INTO {report} SELECT s.slot_start, {columns} "
        f"FROM (SELECT * FROM summed WHERE {within(start, end)}) AS s {joins}"
    )
    splits = create_splits(env, [(start, end)], ALARM_SPLIT_HOURS)
    add_alarms(job, env, settings, PANEL, "panel_alarm", alarm, splits)
    return job


def run(settings: Settings, start: datetime, end: datetime) -> dict[str, int]:
    """Replace the reports and alarms of the UTC hours `[start, end)`; return the rows of each data source."""
    return run_write(settings, NAME, PANEL, start, end, DATASOURCE_NAMES, build_pipeline)


def main() -> None:
    """Run for the hours of the command line."""
    run(*arguments(__doc__))


if __name__ == "__main__":
    main()
