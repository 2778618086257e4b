"""What the writing jobs of panels and light sensors share: the lake's slots → reports and alarms → Druid."""

from __future__ import annotations

import argparse
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.compute as pc

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
#: Elements whose alarms are made at once: a month of their slots takes some GiB.
ALARMS_AT_ONCE = 500


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
    start, end = (pd.Timestamp(moment, unit="ms", tz="UTC").to_pydatetime() for moment in (start_ms, end_ms))
    table = lake.read(settings.lake_dir, source.kind, start - ALARM_CONTEXT, end)
    found = [pd.DataFrame(columns=["timestamp", *names(datasource)])]
    if table.num_rows:
        elements = table["element_id"].unique()
        for first in range(0, len(elements), ALARMS_AT_ONCE):
            some = table.filter(pc.is_in(table["element_id"], elements[first : first + ALARMS_AT_ONCE]))
            rows = _alarms_of(settings, registry, source, some.to_pandas(), end_ms)
            found.append(rows[(rows["timestamp"] >= start_ms) & (rows["timestamp"] < end_ms)])
    found = [rows for rows in found if len(rows)] or found[:1]
    return pd.concat(found, ignore_index=True)


def _alarms_of(settings: Settings, registry: Any, source: Source, frame: pd.DataFrame, end_ms: int) -> pd.DataFrame:
    from selfgen.alarms import slot_alarms
    from selfgen.light_history import clear_levels

    if source.kind == slots.LIGHT.kind:
        frame["level"] = clear_levels(settings.lake_dir, frame)
    frame = slots.with_absent(frame, slots.periods(registry, source, frame["element_id"].unique()), end_ms)
    return slot_alarms(frame.rename(columns={"element_id": slots.id_field(source)}), source.kind)


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


@dataclass(frozen=True)
class Staged:
    """Reports and alarms of the hours `[start, end)` in files, for `load`; `rows` of each data source."""

    start: datetime
    end: datetime
    folder: Path
    files: dict[str, list[Path]]
    rows: dict[str, int]


def staging_folder(settings: Settings, name: str) -> Path:
    """Return a new folder for a job's files; what a killed run leaves there is removed by `flink_jobs.runner.alone`."""
    return settings.lake_dir / ".staging" / f"{name}-{uuid.uuid4().hex}"


def staged(folder: Path, start: datetime, end: datetime, datasources: Sequence[str]) -> Staged:
    """Return what a job has left in a folder: JSON lines below a folder for each data source."""
    files = {
        datasource: sorted(path for path in (folder / datasource).glob("**/*") if _is_data(path))
        for datasource in datasources
    }
    rows = {name: sum(path.read_bytes().count(b"\n") for path in of_source) for name, of_source in files.items()}
    return Staged(start, end, folder, files, rows)


def load(settings: Settings, made: Staged) -> dict[str, int]:
    """Replace the hours in Druid by what was staged, and remove the files; return the rows of each data source."""
    from selfgen.clients import druid

    try:
        for datasource, files in made.files.items():
            druid.replace(settings, datasource, files, made.start, made.end, rows=made.rows[datasource])
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)
    return made.rows


class Loading:
    """Has Druid take in what was staged, one after the other, while the next is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._last: Future[object] | None = None

    def put(self, made: Staged, then: Callable[[dict[str, int]], object]) -> None:
        """Wait for what was put before, have this loaded, and tell `then` the rows once Druid serves them."""
        self.wait()
        self._last = self._pool.submit(lambda: then(load(self._settings, made)))

    def wait(self) -> None:
        """Wait until Druid serves what was put last; raise what went wrong."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Loading:
        """Begin."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait for the end, also where the work beside it failed: nothing is loaded afterwards, by surprise."""
        with self._pool:
            self.wait()


def stage(
    settings: Settings,
    name: str,
    start: datetime,
    end: datetime,
    datasources: tuple[str, ...],
    build_pipeline: Callable[..., object],
) -> Staged:
    """Run the Flink job that writes the reports and alarms of the hours `[start, end)` into files."""
    env = runtime.batch(settings, name)
    folder = staging_folder(settings, name)
    try:
        sinks = [create_files_table(env, datasource, datasource, folder / datasource) for datasource in datasources]
        build_pipeline(env, settings, start, end, *sinks).execute().wait()
        return staged(folder, start, end, datasources)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


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
