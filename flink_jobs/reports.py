"""What the writing jobs of panels and light sensors share: the lake's slots → reports and alarms → Druid."""

from __future__ import annotations

import argparse
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flink_jobs import pending, runtime, slots
from selfgen.calendar import parse_hour
from selfgen.columns import DATASOURCES
from selfgen.settings import Settings, get_settings

#: A data source and the hours of it, `[start, end)`.
Work = tuple[str, datetime, datetime]
#: Rows of a piece of work: `(settings, registry, staging folder, piece) → frames`.
Frames = Callable[[Settings, Any, Path, Work], Iterable[pd.DataFrame]]


@dataclass(frozen=True)
class Staged:
    """Reports and alarms of the hours `[start, end)` in files, for `load`; `rows` of each data source."""

    start: datetime
    end: datetime
    folder: Path
    files: dict[str, list[Path]]
    rows: dict[str, int]


def staging_folder(settings: Settings, name: str) -> Path:
    """Return a new folder for a job's files; what a run that ends early leaves there, `runner.alone` removes."""
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
    """Replace the hours in Druid by what was staged, and remove the files; return the rows of each data source.

    The days that they belong to are noted before, for `flink_jobs.day_sums`. Where it fails the files stay, for Druid
    may have a task still that reads them.
    """
    from selfgen.clients import druid

    for datasource, files in made.files.items():
        pending.note_days(settings, datasource, slots.milliseconds(made.start), slots.milliseconds(made.end))
        druid.replace(settings, datasource, files, made.start, made.end, rows=made.rows[datasource])
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
    todo: Sequence[Work],
    frames: Frames,
    then: Callable[[Path], object] = lambda folder: None,
) -> Staged:
    """Have Flink's workers write the reports and alarms of the hours `[start, end)` into files.

    Rows do not pass through Flink one by one: that takes longer than making them, and functions that give many rows for
    one may come to wait for each other for ever.

    Parameters
    ----------
    todo : sequence
        What a worker does in one go.
    frames : callable
        `(settings, registry, folder, piece of work) → rows`, with `timestamp`; runs in the worker.
    then : callable, optional
        Told the folder when all is in it.
    """
    env = runtime.batch(settings, name)
    folder = staging_folder(settings, name)
    try:
        env.execute_sql(f"CREATE TEMPORARY VIEW todo AS {slots.listed([(n,) for n in range(len(todo))], 'piece')}")
        slots.run_writer(env, settings, _writer(settings, folder, todo, frames), "todo", "piece")
        then(folder)
        return staged(folder, start, end, datasources)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _writer(settings: Settings, folder: Path, todo: Sequence[Work], frames: Frames):
    """Return the table function `(number of the piece of work) → rows`, which writes them below a folder."""
    from pyflink.table import DataTypes
    from pyflink.table.udf import TableFunction, udtf

    class WriteRows(TableFunction):
        def open(self, function_context):
            from couchbase_admin.registry import Registry

            self.registry = Registry(settings)

        def eval(self, number):
            datasource, start, _ = piece = todo[number]
            path = folder / datasource / f"{start:%Y%m%dT%H}.json"
            yield (write_lines(path, datasource, frames(settings, self.registry, folder, piece)),)

    return udtf(WriteRows(), result_types=[DataTypes.BIGINT()])


def write_lines(path: Path, datasource: str, frames: Iterable[pd.DataFrame]) -> int:
    """Write rows of a data source as Druid loads them, a JSON object a line; return how many."""
    import msgspec

    types = {"string": str, "double": float, "long": int}
    columns = DATASOURCES[datasource]
    fields = [("timestamp", int), *((column.name, types[column.type] | None, None) for column in columns)]
    # what is not there need not be read either
    row, encoder = msgspec.defstruct("Row", fields, gc=False, omit_defaults=True), msgspec.json.Encoder()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, written = path.with_name(f".{uuid.uuid4().hex}"), 0
    with unfinished.open("wb") as file:
        for frame in frames:
            if len(frame):
                values = [frame["timestamp"].tolist(), *(_values(frame[one.name], one.type) for one in columns)]
                file.write(encoder.encode_lines(list(map(row, *values))))
                written += len(frame)
    if written:
        unfinished.replace(path)
    else:
        unfinished.unlink()
    return written


def _values(column: pd.Series, kind: str) -> list[Any]:
    """Return a column's values as Python's; None where there is nothing (of numbers NaN does as well)."""
    if kind == "double":
        return column.to_numpy(np.float64).tolist()
    if kind == "long" and column.notna().all():
        return column.to_numpy(np.int64).tolist()
    return [None if value is None or value != value else value for value in column.tolist()]  # noqa: PLR0124 - NaN


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
