"""What the writing jobs of panels and light sensors share: the lake's slots → reports and alarms → Druid."""

from __future__ import annotations

import argparse
import shutil
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flink_jobs import runtime, slots
from flink_jobs.slots import Source
from selfgen import lake
from selfgen.calendar import parse_hour
from selfgen.columns import DATASOURCES, Column, names
from selfgen.recompute import ALARM_CONTEXT_DAYS
from selfgen.settings import Settings, get_settings

if TYPE_CHECKING:
    from pyflink.table import StatementSet, StreamTableEnvironment

#: How far back an incident may have begun that is still open.
ALARM_CONTEXT = timedelta(days=ALARM_CONTEXT_DAYS)
#: Each split reads what came before it too, so they are long.
ALARM_SPLIT_HOURS = 7 * 24


def dates(first: datetime, last: datetime) -> str:
    """Return the SQL condition that reads the lake's days from `first` to `last` and no others."""
    return f"`date` BETWEEN '{first:%Y-%m-%d}' AND '{last:%Y-%m-%d}'"


def within(start: datetime, end: datetime) -> str:
    """Return the SQL condition on slots that start in `[start, end)`."""
    return f"slot_start >= {slots.milliseconds(start)} AND slot_start < {slots.milliseconds(end)}"


def create_files_table(env: StreamTableEnvironment, name: str, datasource: str, path: Path) -> str:
    """Create a table over JSON files with the columns of a data source, as Druid loads them."""
    where = runtime.options({"connector": "filesystem", "path": path.as_uri(), "format": "json"})
    env.execute_sql(f"CREATE TABLE {name} ({runtime.ddl(DATASOURCES[datasource])}) WITH ({where})")
    return name


def alarm_reader(settings: Settings, source: Source, datasource: str):
    """Return the table function `(start_ms, end_ms) → rows of an alarm data source`."""
    from pyflink.table.udf import TableFunction, udtf

    columns = (Column("timestamp", "long", "Time", "ms"), *DATASOURCES[datasource])

    class ReadAlarms(TableFunction):
        def open(self, function_context):
            from couchbase_admin.registry import Registry

            self.registry = Registry(settings)

        def eval(self, start_ms, end_ms):
            yield from slots.as_rows(alarms(settings, self.registry, source, datasource, start_ms, end_ms), columns)

    return udtf(ReadAlarms(), result_types=[slots.data_type(column) for column in columns])


def alarms(
    settings: Settings, registry: Any, source: Source, datasource: str, start_ms: int, end_ms: int
) -> pd.DataFrame:
    """Return the alarm rows of `[start_ms, end_ms)`; incidents that began before are known from the lake."""
    from selfgen.alarms import slot_alarms

    start, end = (pd.Timestamp(moment, unit="ms", tz="UTC").to_pydatetime() for moment in (start_ms, end_ms))
    table = lake.read(settings.lake_dir, source.kind, start - ALARM_CONTEXT, end)
    if not table.num_rows:
        return pd.DataFrame(columns=["timestamp", *names(datasource)])
    frame = table.to_pandas()
    frame = slots.with_absent(frame, slots.periods(registry, source, frame["element_id"].unique()), end_ms)
    rows = slot_alarms(frame.rename(columns={"element_id": slots.id_field(source)}), source.kind)
    return rows[(rows["timestamp"] >= start_ms) & (rows["timestamp"] < end_ms)]


def add_alarms(
    job: StatementSet,
    env: StreamTableEnvironment,
    settings: Settings,
    source: Source,
    datasource: str,
    sink: str,
    splits: str,
) -> None:
    """Add the alarms of a view of splits to a job, into the table `sink`."""
    env.create_temporary_function("alarms", alarm_reader(settings, source, datasource))
    listed = ", ".join(["`timestamp`", *(f"`{column.name}`" for column in DATASOURCES[datasource])])
    job.add_insert_sql(
        f"INSERT INTO {sink} SELECT {listed} FROM {splits}, LATERAL TABLE(alarms(start_ms, end_ms)) AS t ({listed})"
    )


def run_write(
    settings: Settings,
    name: str,
    source: Source,
    start: datetime,
    end: datetime,
    datasources: tuple[str, ...],
    build_pipeline: Callable[..., object],
) -> dict[str, int]:
    """Write the reports and alarms of the hours `[start, end)` and replace them in Druid; return rows written."""
    with lake.exclusive(settings.lake_dir, source.kind):
        return _replace_reports(settings, name, start, end, datasources, build_pipeline)


def _replace_reports(
    settings: Settings,
    name: str,
    start: datetime,
    end: datetime,
    datasources: tuple[str, ...],
    build_pipeline: Callable[..., object],
) -> dict[str, int]:
    from selfgen.clients import druid

    env = runtime.batch(settings, name)
    staging = settings.lake_dir / ".staging" / f"{name}-{uuid.uuid4().hex}"
    try:
        sinks = [create_files_table(env, datasource, datasource, staging / datasource) for datasource in datasources]
        build_pipeline(env, settings, start, end, *sinks).execute().wait()
        written = {}
        for datasource in datasources:
            files = sorted(path for path in (staging / datasource).glob("**/*") if _is_data(path))
            written[datasource] = sum(path.read_bytes().count(b"\n") for path in files)
            druid.replace(settings, datasource, files, start, end, rows=written[datasource])
        return written
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_data(path: Path) -> bool:
    return path.is_file() and not path.name.startswith((".", "_")) and path.stat().st_size > 0


def _hour(text: str) -> datetime:
    try:
        return parse_hour(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write it as 2026-11-22T07") from error


def arguments(description: str | None) -> tuple[Settings, datetime, datetime]:
    """Parse a batch job's command line: `--hour H`, or `--from A --to B`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hour", type=_hour, help="the UTC hour to run for, such as 2026-11-22T07")
    parser.add_argument("--from", dest="start", type=_hour, help="first UTC hour of a range")
    parser.add_argument("--to", dest="end", type=_hour, help="UTC hour after the last of a range")
    given = parser.parse_args()
    if given.hour and not (given.start or given.end):
        return get_settings(), given.hour, given.hour + slots.HOUR
    if given.start and given.end and given.start < given.end and not given.hour:
        return get_settings(), given.start, given.end
    return parser.error("give --hour, or --from and a later --to")
