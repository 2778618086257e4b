"""The lake: one Parquet file for each data set and UTC hour, replaced whole.

    LAKE/NAME/date=YYYY-MM-DD/hour=HH/data.parquet

A reader finds an hour as it was before a replacement or as it is after, never half of it. An hour that was
computed and had nothing in it is an empty file; an hour that was not computed is no file.

>>> import tempfile
>>> lake, hour = Path(tempfile.mkdtemp()), datetime(2024, 6, 1, 10, tzinfo=UTC)
>>> replace_hour(lake, "panel", hour, pa.table({"power_gen": [1.0, 2.0]}))
>>> read(lake, "panel", hour, hour + timedelta(hours=1)).num_rows
2
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from selfgen.calendar import HOUR_MS

HOUR = timedelta(hours=1)
FILE = "data.parquet"
_UNFINISHED = ".data.parquet.unfinished"


def exclusive(lake: Path, name: str) -> FileLock:
    """Return the lock of a data set's computing: from reading what an hour is made of to its reports' replacement.

    Without it a computation that read before a change could publish after one that read the change. It lies beside the
    files it guards, so that all who can write them share it; the operating system frees a killed holder's. A thread
    that holds it may take it again.
    """
    lake.mkdir(parents=True, exist_ok=True)
    return FileLock(lake / f".{name}.lock", is_singleton=True)


def replace_hour(lake: Path, name: str, hour: datetime, table: pa.Table) -> None:
    """Put a table in the place of an hour's file.

    Durable when it returns. Of several writers of one hour the last wins; what a killed one left goes away.

    Parameters
    ----------
    lake : pathlib.Path
        Folder of the lake.
    name : str
        The data set's name.
    hour : datetime.datetime
        Start of the UTC hour, aware.
    table : pyarrow.Table
        The hour's rows; none is an answer too.

    Raises
    ------
    ValueError
        `hour` is not the start of an hour, or naive.
    """
    folder = lake / name / _partition(hour)
    _make(folder)
    with _locked(folder) as descriptor:
        # nobody else writes it now: what is there was left by a writer that was killed
        unfinished = folder / _UNFINISHED
        with unfinished.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(folder / FILE)
        os.fsync(descriptor)


def stage_hour(staging_dir: Path, hour: datetime, table: pa.Table) -> None:
    """Put a table into a staging folder, for `publish`; whoever stages the hour once more replaces it."""
    folder = staging_dir / _partition(hour)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{uuid.uuid4().hex}"
    pq.write_table(table, unfinished)
    unfinished.replace(folder / FILE)


def adopt(lake: Path, name: str, staging_dir: Path) -> None:
    """Put the hours that a job staged below `staging_dir / name` in their places, one after the other."""
    for hour in hours(staging_dir, name):
        replace_hour(lake, name, hour, read(staging_dir, name, hour, hour + HOUR))


def stage_rows(staging_dir: Path, rows: pd.DataFrame, instants_ms: npt.NDArray[np.int64], schema: pa.Schema) -> None:
    """Put rows into a staging folder, each into the UTC hour of its instant, epoch ms."""
    if rows.empty:
        return
    table = pa.Table.from_pandas(rows, schema, preserve_index=False)
    hour = instants_ms // HOUR_MS
    order = np.argsort(hour, kind="stable")
    numbers, first = np.unique(hour[order], return_index=True)
    for number, low, high in zip(numbers.tolist(), first, [*first[1:], len(order)], strict=True):
        moment = datetime.fromtimestamp(number * HOUR_MS / 1000, UTC)
        stage_hour(staging_dir, moment, table.take(order[low:high]))


def publish(
    staging_dir: Path,
    lake: Path,
    name: str,
    hours: Iterable[datetime],
    schema: pa.Schema,
    *,
    before: Callable[[list[datetime]], object] = lambda changed: None,
) -> dict[datetime, int]:
    """Replace hours by the files that a job left in a staging folder; those that are as staged already stay.

    Parameters
    ----------
    staging_dir : pathlib.Path
        Folder with `date=YYYY-MM-DD/hour=HH/` folders, each with any number of Parquet files. Names that
        begin with `.` or `_` are a job's own and not read. It is left as it is.
    lake : pathlib.Path
        Folder of the lake.
    name : str
        The data set's name.
    hours : iterable of datetime.datetime
        The UTC hours that were computed, aware; those without a staged file become empty.
    schema : pyarrow.Schema
        Columns of the files in the lake; staged columns are cast, others left out.
    before : callable, optional
        Told which hours will be other than they were, if any, before the first is replaced.

    Returns
    -------
    dict of datetime.datetime to int
        Rows of each hour.

    Raises
    ------
    ValueError
        The staging folder holds an hour that is not among `hours`; nothing is replaced.
    """
    hours = list(hours)
    unexpected = set(_hours_in(staging_dir)) - set(hours)
    if unexpected:
        raise ValueError(f"{staging_dir} holds {min(unexpected):%Y-%m-%dT%H}Z, which was not to be computed")

    def staged(hour: datetime) -> pa.Table:
        files = sorted(path for path in (staging_dir / _partition(hour)).glob("[!._]*") if path.is_file())
        parts = [pq.ParquetFile(path).read(columns=schema.names).select(schema.names) for path in files]
        return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])

    def differs(hour: datetime) -> bool:
        old = read(lake, name, hour, hour + HOUR)
        return not (old.num_columns and old.equals(staged(hour)))

    def publish_hour(hour: datetime) -> int:
        table = staged(hour)
        if hour in changed:
            replace_hour(lake, name, hour, table)
        return int(table.num_rows)

    with ThreadPoolExecutor() as pool:
        changed = {hour for hour, other in zip(hours, pool.map(differs, hours), strict=True) if other}
        if changed:
            before(sorted(changed))
        return dict(zip(hours, pool.map(publish_hour, hours), strict=True))


def read(
    lake: Path,
    name: str,
    start: datetime,
    end: datetime,
    columns: Sequence[str] | None = None,
    *,
    schema: pa.Schema | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """Return the rows of the hours in `[start, end)`; no other hour's file is opened.

    Parameters
    ----------
    lake : pathlib.Path
        Folder of the lake.
    name : str
        The data set's name.
    start, end : datetime.datetime
        Range of UTC hours, aware.
    columns : sequence of str, optional
        Columns to read; all by default.
    schema : pyarrow.Schema, optional
        Columns of the answer where none of the hours has been computed.
    where : pyarrow.compute.Expression, optional
        Which rows; only they are kept in memory.

    Returns
    -------
    pyarrow.Table
        Rows in order of hours.
    """
    paths = [lake / name / _partition(hour) / FILE for hour in _range(start, end)]

    def read_file(path: Path) -> pa.Table | None:
        try:
            # an open file stays what it was while another takes its place
            with path.open("rb") as file:
                table = pq.ParquetFile(file).read(columns=columns, use_threads=False)
                return table if where is None else table.filter(where)
        except FileNotFoundError:
            return None

    if len(paths) == 1:
        tables = [read_file(paths[0])]
    else:
        with ThreadPoolExecutor() as pool:
            tables = list(pool.map(read_file, paths))
    tables = [table for table in tables if table is not None]
    if tables:
        return pa.concat_tables(tables)
    empty = (schema or pa.schema([])).empty_table()
    return empty.select(columns) if columns and schema else empty


def count_rows(lake: Path, name: str, hour: datetime) -> int:
    """Return how many rows an hour has; none, where it was not computed."""
    try:
        return int(pq.read_metadata(lake / name / _partition(hour) / FILE).num_rows)
    except FileNotFoundError:
        return 0


def remove_hours(lake: Path, name: str, hours: Iterable[datetime]) -> None:
    """Remove hours, which are then as if they had never been computed; durable when it returns."""
    for hour in hours:
        folder = lake / name / _partition(hour)
        if folder.exists():
            with _locked(folder) as descriptor:
                (folder / FILE).unlink(missing_ok=True)
                os.fsync(descriptor)


def hours(lake: Path, name: str) -> list[datetime]:
    """Return the UTC hours that have been computed, in order; also those without rows."""
    return [hour for hour in _hours_in(lake / name) if (lake / name / _partition(hour) / FILE).exists()]


def days(lake: Path, name: str) -> list[datetime]:
    """Return the UTC days of which hours have been computed, in order."""
    found = (path.name for path in (lake / name).glob("date=*"))
    return sorted(datetime.strptime(f"{text}+0000", "date=%Y-%m-%d%z") for text in found)


def _partition(hour: datetime) -> Path:
    if hour.tzinfo is None or hour.timestamp() % 3600:
        raise ValueError(f"{hour.isoformat()} is not the start of an hour with its time zone")
    return Path(f"{hour.astimezone(UTC):date=%Y-%m-%d/hour=%H}")


def _hours_in(folder: Path) -> list[datetime]:
    """Return the hours that have a folder, in order."""
    found = (f"{path.parent.name}/{path.name}" for path in folder.glob("date=*/hour=*"))
    return sorted(datetime.strptime(f"{text}+0000", "date=%Y-%m-%d/hour=%H%z") for text in found)


def _range(start: datetime, end: datetime) -> Iterator[datetime]:
    hour = start.astimezone(UTC)
    while hour < end:
        yield hour
        hour += HOUR


def _make(folder: Path) -> None:
    """Make a folder whose name will be found after a power cut."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        with _opened(folder.parent) as descriptor:
            os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Keep other writers out of a folder; a killed holder keeps nobody out. Yields its descriptor."""
    with _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
