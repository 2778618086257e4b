"""What the hourly jobs of panels and light sensors share: readings → slots of the lake, and the lake as a table.

A split is a range of UTC hours. A worker reads a split's readings whole, as arrays, and gives one row for each element
and slot; nothing is done one reading at a time.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from flink_jobs import runtime
from selfgen import calendar, energy, lake, recompute
from selfgen.calendar import DAY_MS
from selfgen.columns import ACCUMULATORS, DIFFERENCES, ENRICHMENT, Column
from selfgen.registry import ID_FIELD, Unavailable
from selfgen.settings import Settings

if TYPE_CHECKING:
    from pyflink.table import StreamTableEnvironment

Range = tuple[datetime, datetime]

HOUR = timedelta(hours=1)
SPLIT_HOURS = 12
#: 90 min where a clock changes by half an hour, and something to spare.
LONGEST_SLOT_MS = 2 * 3_600_000

#: The columns of a slot in the lake, after `date` and `hour`, which are its folders.
SLOT = (
    Column("element_id", "string", "Element"),
    Column("slot_start", "long", "Slot's start", "ms"),
    Column("slot_end", "long", "Slot's end", "ms"),
    Column("generated", "double", "Energy or irradiation", "Wh or Wh/m²"),
    Column("estimated", "double", "Of it, spread over gaps", "Wh or Wh/m²"),
    Column("greatest", "double", "Greatest value", "W or W/m²"),
    Column("completeness", "double", "Completeness"),
    Column("samples", "long", "Samples"),
    Column("stale", "double", "Share of stale samples"),
    Column("daylight", "long", "The sun is up at the slot's middle"),
    *ENRICHMENT,
    Column("power_cap", "double", "Rating", "W"),
    Column("variable_data", "string", "Thresholds of its own"),
    Column("local_time", "string", "Local time"),
    Column("local_date", "string", "Local date"),
    *(Column(f"period_{name}", "long", f"Number of the local {name}") for name in ACCUMULATORS),
    *(Column(f"reference_{name}", "long", f"Slot of last {name}", "ms") for name in DIFFERENCES),
)

ARROW_TYPES = {"string": pa.string(), "double": pa.float64(), "long": pa.int64()}


@dataclass(frozen=True)
class Source:
    """Where a kind of element's readings are, and which field is its value."""

    kind: str
    field: str
    meter: str | None = None

    @property
    def fields(self) -> list[str]:
        """The fields to read."""
        return [self.field, *([self.meter] if self.meter else [])]


PANEL = Source("panel", "power", "energy")
LIGHT = Source("light", "irradiance")


class RawRemoved(Exception):
    """Hours cannot be computed, because their raw readings are no longer kept."""


def without_readings(settings: Settings, kind: str, hours_ms: Collection[int]) -> set[int]:
    """Return those hours (their starts, epoch ms) for which readings are needed that are no longer kept."""
    from selfgen.clients.mongo import expired_hours

    if not hours_ms:
        return set()
    expired = expired_hours(settings, kind, min(hours_ms) - DAY_MS, max(hours_ms) + DAY_MS)
    return {hour for hour in hours_ms if not expired.isdisjoint(recompute.readings_of(hour, settings.max_gap_s))}


def milliseconds(moment: datetime) -> int:
    """Return epoch milliseconds."""
    return round(moment.timestamp() * 1000)


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """Return the UTC hours of `[start, end)`."""
    return [start + HOUR * index for index in range(round((end - start) / HOUR))]


def splits(ranges: Sequence[Range], hours: int = SPLIT_HOURS) -> list[tuple[int, int]]:
    """Return ranges `[start, end)` in pieces of at most so many hours, epoch ms."""
    edges = [[*hours_between(start, end)[::hours], end] for start, end in ranges]
    return [(milliseconds(low), milliseconds(high)) for part in edges for low, high in pairwise(part)]


#: A batch job can wait for Couchbase, but not do without it.
_patient = retry(
    retry=retry_if_exception_type(Unavailable), wait=wait_fixed(1), stop=stop_after_delay(120), reraise=True
)


@_patient
def periods(registry: Any, source: Source, element_ids: Any) -> pd.DataFrame:
    """Return the registry's periods of elements."""
    return registry.history(source.kind, element_ids)


@_patient
def hand_over_marks(settings: Settings) -> None:
    """Mark dirty what changes of the registry affect, before a job reads it: what comes after is marked again."""
    from couchbase_admin.recompute import hand_over

    hand_over(settings)


def owners_of(history: pd.DataFrame) -> pd.DataFrame:
    """Return the registry's periods as energy accounting wants them: epoch ms, open ends far away."""
    owners = history.reset_index(drop=True)
    end = owners["end"].astype("datetime64[ms, UTC]")
    return owners.assign(
        init=owners["init"].astype("datetime64[ms, UTC]").astype("int64"),
        end=end.astype("int64").where(end.notna(), energy.OPEN_END),
    )


def make_slots(
    readings: pd.DataFrame,
    history: pd.DataFrame,
    source: Source,
    start_ms: int,
    end_ms: int,
    *,
    max_gap_s: float,
    expected: Callable[[pd.DataFrame], Any] | None = None,
) -> pd.DataFrame:
    """Return the lake's rows (`SLOT`) of every slot that starts in `[start_ms, end_ms)`.

    Parameters
    ----------
    readings : DataFrame
        `element_id`, `time` (epoch ms), and the source's fields; with the neighbours of the range.
    history : DataFrame
        The registry's periods of these elements.
    expected : callable, optional
        By what a meter's backlog is spread: given slots with the columns of their periods, weights; else by time.

    Returns
    -------
    DataFrame
        Also with the panel's `tilt` and `azimuth`; `owned`, the owner's share of the slot; `meter_resets`;
        `dark`, of panels `flat`, and of light sensors `steady` (`selfgen.evidence`).
    """
    from selfgen import evidence
    from selfgen.solar import daylight

    named = {source.field: "value", **({source.meter: "energy"} if source.meter else {})}
    readings = readings.rename(columns=named)
    owners = owners_of(history)
    place = owners.drop(columns=["element_id"])
    weights = None if expected is None else lambda asked: expected(asked.join(place, on="owner"))
    slots = energy.account(readings, owners, start_ms, end_ms, max_gap_s=max_gap_s, expected=weights)
    slots = slots.reset_index(drop=True).join(place, on="owner")
    held = slots["end"].fillna(energy.OPEN_END).clip(upper=slots["slot_end"]) - slots["init"].fillna(0).clip(
        lower=slots["slot_start"]
    )
    slots["owned"] = held / (slots["slot_end"] - slots["slot_start"])
    slots = slots.drop(columns=["init", "end"])
    slots = slots.rename(columns={"power_gen": "generated", "estimated_gen": "estimated", "power_max": "greatest"})
    slots["variable_data"] = _as_text(slots)
    samples = evidence.samples_in(readings, slots)
    slots["stale"] = evidence.stale_share(samples)
    if source.kind == PANEL.kind:
        slots["flat"] = evidence.flat_share(samples)
        least = evidence.PRODUCES * slots["power_cap"].astype("float64")
    else:
        # what does not move is no sky
        slots["steady"] = evidence.steady(samples, slots) * ~(slots["stale"] > evidence.STALE)
        least = evidence.LIT
    slots["dark"] = evidence.dark_share(samples, slots, least)
    slots["daylight"] = daylight(slots["latitude"], slots["longitude"], slots["slot_start"], slots["slot_end"])
    slots["daylight"] = slots["daylight"].astype("int64")
    return with_calendar(slots)


def with_absent(slots: pd.DataFrame, history: pd.DataFrame, end_ms: int) -> pd.DataFrame:
    """Add the slots in which an element was silent though somebody had it, from its first slot to `end_ms`.

    Such a slot has completeness 0, no samples, and the place and owner of its period.
    """
    from selfgen.solar import daylight

    seen = slots.groupby("element_id")["slot_start"].min()
    owners = owners_of(history.assign(variable_data=_as_text(history)))
    owners = owners[owners["element_id"].isin(seen.index)]
    parts = []
    for owner in owners.to_dict("records"):
        first, last = max(seen[owner["element_id"]], owner["init"]), min(end_ms, owner["end"])
        starts, ends = calendar.slots(owner["time_zone"], int(first), int(last))
        parts.append(pd.DataFrame({**owner, "slot_start": starts, "slot_end": ends}))
    if not parts:
        return slots
    every = pd.concat(parts, ignore_index=True)
    key = pd.MultiIndex.from_frame(every[["element_id", "slot_start"]])
    absent = every[~key.isin(pd.MultiIndex.from_frame(slots[["element_id", "slot_start"]]))]
    sun = daylight(absent["latitude"], absent["longitude"], absent["slot_start"], absent["slot_end"])
    absent = absent.assign(
        generated=0.0,
        completeness=0.0,
        samples=0,
        daylight=sun.astype("int64"),
    )
    return pd.concat([slots, absent[[name for name in absent if name in slots]]], ignore_index=True)


def _as_text(frame: pd.DataFrame) -> list[str | None]:
    return [json.dumps(values) if isinstance(values, dict) else None for values in frame["variable_data"]]


def with_calendar(slots: pd.DataFrame) -> pd.DataFrame:
    """Add local time, the numbers of the local periods, and the reference slots; by time zone."""
    zones = slots["time_zone"].fillna("UTC")
    parts = []
    for zone, rows in slots.groupby(zones, sort=False):
        starts = rows["slot_start"].to_numpy()
        local = calendar.local_parts(str(zone), starts).set_index(rows.index)
        local = local.rename(columns={name: f"period_{name}" for name in ACCUMULATORS})
        references = {
            f"reference_{name}": pd.Series(instants, index=rows.index).where(instants != calendar.MISSING)
            for name, instants in calendar.reference_slots(str(zone), starts).items()
        }
        parts.append(pd.concat([rows, local, pd.DataFrame(references)], axis=1))
    return pd.concat(parts).sort_index() if parts else slots


def as_rows(frame: pd.DataFrame, columns: tuple[Column, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield rows for Flink: the columns in order, None where there is nothing."""
    prepared = []
    for column in columns:
        values = frame[column.name]
        present = values.notna().to_numpy()
        if column.type == "long":
            filled = values.where(present, 0).astype("int64").astype(object)
        elif column.type == "double":
            filled = values.astype("float64").astype(object)
        else:
            filled = values.astype(object)
        prepared.append(np.where(present, filled.to_numpy(), None))
    yield from zip(*prepared, strict=True)


def slot_reader(
    settings: Settings, source: Source, extra: tuple[Column, ...] = (), finish: Any = None, expectation: Any = None
):
    """Return the table function `(start_ms, end_ms) → rows of date, hour, SLOT and extra`.

    Parameters
    ----------
    finish : callable, optional
        `(slots, readings) -> slots` with the `extra` columns added; runs in the worker.
    expectation : callable, optional
        `(slots) -> weights` for spreading a backlog; runs in the worker.
    """
    from pyflink.table.udf import TableFunction, udtf

    class ReadSlots(TableFunction):
        def open(self, function_context):
            from couchbase_admin.registry import Registry

            self.registry = Registry(settings)

        def eval(self, start_ms, end_ms):
            from selfgen.clients.mongo import read_readings

            # whose clocks the readings live by is known only after reading them: leave room for the longest slot
            low, high = energy.reading_range((), start_ms, end_ms + LONGEST_SLOT_MS, max_gap_s=settings.max_gap_s)
            readings = read_readings(settings, source.kind, low, high, source.fields)
            history = periods(self.registry, source, readings["element_id"].unique())
            slots = make_slots(
                readings, history, source, start_ms, end_ms, max_gap_s=settings.max_gap_s, expected=expectation
            )
            if slots.empty:
                return
            if finish is not None:
                slots = finish(slots, readings)
            starts = pd.to_datetime(slots["slot_start"], unit="ms", utc=True)
            slots = slots.assign(date=starts.dt.strftime("%Y-%m-%d"), hour=starts.dt.strftime("%H"))
            yield from as_rows(slots, lake_columns(extra))

    return udtf(ReadSlots(), result_types=[data_type(column) for column in lake_columns(extra)])


def lake_columns(extra: tuple[Column, ...]) -> tuple[Column, ...]:
    """Return all columns of a table of the lake, its partition columns last."""
    return (*SLOT, *extra, Column("date", "string", "UTC date"), Column("hour", "string", "UTC hour"))


def data_type(column: Column):
    """Return the pyflink type of a column."""
    from pyflink.table import DataTypes

    return {"string": DataTypes.STRING(), "double": DataTypes.DOUBLE(), "long": DataTypes.BIGINT()}[column.type]


def create_lake_table(env: StreamTableEnvironment, name: str, path: Path, extra: tuple[Column, ...] = ()) -> str:
    """Create a table over Parquet files partitioned by `date` and `hour`; return its name."""
    columns = ", ".join(f"`{column.name}` {runtime.FLINK_TYPES[column.type]}" for column in lake_columns(extra))
    where = runtime.options(
        {
            "connector": "filesystem",
            "path": path.as_uri(),
            "format": "parquet",
            # one file for each hour, however many workers
            "sink.shuffle-by-partition.enable": "true",
        }
    )
    env.execute_sql(f"CREATE TABLE {name} ({columns}) PARTITIONED BY (`date`, `hour`) WITH ({where})")
    return name


def create_splits(env: StreamTableEnvironment, ranges: Sequence[Range], hours: int = SPLIT_HOURS) -> str:
    """Create the view of splits of ranges."""
    values = ", ".join(f"({low}, {high})" for low, high in splits(ranges, hours))
    env.execute_sql(f"CREATE TEMPORARY VIEW split AS SELECT * FROM (VALUES {values}) AS s (start_ms, end_ms)")
    return "split"


def run_rich(
    settings: Settings,
    name: str,
    source: Source,
    ranges: Sequence[Range],
    extra: tuple[Column, ...] = (),
    finish: Any = None,
    expectation: Any = None,
) -> None:
    """Make the slots of ranges of UTC hours `[start, end)` and replace them in the lake, each hour at once.

    Raises
    ------
    RawRemoved
        Raw readings of these hours are no longer kept: the lake stays as it is.
    """
    with lake.exclusive(settings.lake_dir, source.kind):
        _replace_slots(settings, name, source, ranges, extra, finish, expectation)


def _replace_slots(
    settings: Settings,
    name: str,
    source: Source,
    ranges: Sequence[Range],
    extra: tuple[Column, ...],
    finish: Any,
    expectation: Any,
) -> None:
    hand_over_marks(settings)
    hours = [hour for start, end in ranges for hour in hours_between(start, end)]
    if gone := without_readings(settings, source.kind, [milliseconds(hour) for hour in hours]):
        first = datetime.fromtimestamp(min(gone) / 1000, UTC)
        raise RawRemoved(
            f"{source.kind}: raw readings of {len(gone)} of these hours, from {first:%Y-%m-%dT%H} on, are no longer "
            "kept, so they cannot be computed again; what the lake and Druid have of them stays"
        )
    env = runtime.batch(settings, name)
    staging = settings.lake_dir / ".staging" / f"{name}-{uuid.uuid4().hex}"
    try:
        staged = create_lake_table(env, "staged", staging, extra)
        env.create_temporary_function("slots", slot_reader(settings, source, extra, finish, expectation))
        columns = ", ".join(f"`{column.name}`" for column in lake_columns(extra))
        env.execute_sql(
            f"INSERT INTO {staged} SELECT {columns} "
            f"FROM {create_splits(env, ranges)}, LATERAL TABLE(slots(start_ms, end_ms)) AS t ({columns})"
        ).wait()
        schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in (*SLOT, *extra)])
        staging.mkdir(parents=True, exist_ok=True)
        lake.publish(staging, settings.lake_dir, source.kind, hours, schema)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def id_field(source: Source) -> str:
    """Return the name of the element's id in messages and reports."""
    return ID_FIELD[source.kind]
