"""What the hourly jobs of panels and light sensors share: readings → slots of the lake, and the lake as a table.

A split is a range of UTC hours. A worker reads a split's readings as arrays, makes one row for each element and slot,
and writes them as the hours' files; nothing is done one reading, or one row, at a time.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from flink_jobs import bridges, pending, runtime
from flink_jobs.bridges import LONGEST_SLOT_MS
from selfgen import calendar, energy, lake, recompute
from selfgen.bridges import UNBRIDGED
from selfgen.calendar import DAY_MS
from selfgen.columns import ACCUMULATORS, DIFFERENCES, ENRICHMENT, Column
from selfgen.registry import ID_FIELD, Unavailable, is_zone
from selfgen.settings import Settings
from selfgen.soiling import LATER_MS

if TYPE_CHECKING:
    from pyflink.table import StreamTableEnvironment

Range = tuple[datetime, datetime]

HOUR = timedelta(hours=1)
SPLIT_HOURS = 12
#: Readings of which slots are made at once: their arrays take some hundred MiB.
MOST_READINGS = 1_000_000

#: The columns of a slot in the lake.
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


class Carried(NamedTuple):
    """A data set of the lake that has, for a UTC day, what follows from the hours before it.

    And from those up to `later` after it began.
    """

    name: str
    later: timedelta = timedelta(0)


@dataclass(frozen=True)
class Source:
    """Where a kind of element's readings are, and which field is its value."""

    kind: str
    field: str
    meter: str | None = None
    #: What the lake carries on from day to day of what its hours add up to.
    carried: tuple[Carried, ...] = ()

    @property
    def fields(self) -> list[str]:
        """The fields to read."""
        return [self.field, *([self.meter] if self.meter else [])]


#: So long after a slot of a light sensor others tell what it saw of a clear sky.
CLEAR_SKY_TOLD = timedelta(milliseconds=LATER_MS)
PANEL = Source("panel", "power", "energy", (Carried("panel_sums"), Carried("panel_incidents")))
LIGHT = Source(
    "light", "irradiance", carried=(Carried("light_incidents", CLEAR_SKY_TOLD), Carried("light_orientations"))
)


class RawRemoved(Exception):
    """Hours cannot be computed, because their raw readings are no longer kept."""


def without_readings(settings: Settings, kind: str, hours_ms: Collection[int]) -> set[int]:
    """Return those hours (their starts, epoch ms) for which readings are needed that are no longer kept."""
    from selfgen.clients.mongo import expired_hours

    if not hours_ms:
        return set()
    expired = expired_hours(settings, kind, min(hours_ms) - DAY_MS, max(hours_ms) + DAY_MS)
    return {hour for hour in hours_ms if not expired.isdisjoint(recompute.readings_of(hour, settings.max_gap_s))}


def check_readings(settings: Settings, kind: str, hours: Sequence[datetime]) -> None:
    """Raise `RawRemoved` where readings of hours are needed that are no longer kept."""
    if gone := without_readings(settings, kind, [milliseconds(hour) for hour in hours]):
        first = datetime.fromtimestamp(min(gone) / 1000, UTC)
        raise RawRemoved(
            f"{kind}: raw readings of {len(gone)} of these hours, from {first:%Y-%m-%dT%H} on, are no longer "
            "kept, so they cannot be computed again; what the lake and Druid have of them stays"
        )


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
    """Return the registry's periods as energy accounting wants them: epoch ms, open ends far away, zones that exist."""
    owners = history.reset_index(drop=True)
    end = owners["end"].astype("datetime64[ms, UTC]")
    zones = {zone: zone if is_zone(zone) else energy.NOBODYS_ZONE for zone in owners["time_zone"].unique()}
    return owners.assign(
        time_zone=owners["time_zone"].map(zones).astype(object),
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
    bridged: bool = False,
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
    bridged : bool
        Whether gaps over the end of an hour are looked at; see `energy.account`.

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
    slots = energy.account(readings, owners, start_ms, end_ms, max_gap_s=max_gap_s, expected=weights, bridged=bridged)
    slots = slots.reset_index(drop=True).join(place, on="owner")
    slots["owned"] = (slots["owned_end"] - slots["owned_start"]) / (slots["slot_end"] - slots["slot_start"])
    slots = slots.drop(columns=["init", "end"])
    slots = slots.rename(columns={"power_gen": "generated", "estimated_gen": "estimated", "power_max": "greatest"})
    slots["variable_data"] = _as_text(slots)
    if source.meter:
        slots = slots.assign(**{bare: slots[name] for name, bare in UNBRIDGED.items()})
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


def with_absent(
    slots: pd.DataFrame,
    history: pd.DataFrame,
    end_ms: int,
    *,
    start_ms: int = 0,
    seen: pd.Series | None = None,
) -> pd.DataFrame:
    """Add the slots in which an element was silent though somebody had it, from its first slot to `end_ms`.

    Such a slot has completeness 0, no samples, and the place and owner of its period.

    Parameters
    ----------
    history : DataFrame
        The registry's periods of the elements that are looked at.
    start_ms : int
        Where the slots begin, if they go on from earlier ones.
    seen : Series, optional
        Start of each element's first slot, where it is among the earlier ones.
    """
    from selfgen.solar import daylight

    first = slots.groupby("element_id")["slot_start"].min() if seen is None else seen
    owners = owners_of(history.assign(variable_data=_as_text(history)))
    owners = owners[owners["element_id"].isin(first.index)]
    begin = np.maximum(owners["init"], owners["element_id"].map(first)).clip(lower=start_ms)
    owners = owners.assign(begin=begin.astype("int64"), until=owners["end"].clip(upper=end_ms))
    owners = owners[owners["begin"] < owners["until"]]
    parts = []
    for zone, of_zone in owners.groupby(owners["time_zone"].fillna(energy.NOBODYS_ZONE), sort=False):
        starts, ends = calendar.slots(str(zone), int(of_zone["begin"].min()), int(of_zone["until"].max()))
        low, high = (np.searchsorted(starts, of_zone[name].to_numpy()) for name in ("begin", "until"))
        count = high - low
        slot = np.arange(count.sum()) + np.repeat(low - (np.cumsum(count) - count), count)
        row = of_zone.index.to_numpy().repeat(count)
        parts.append(pd.DataFrame({"row": row, "slot_start": starts[slot], "slot_end": ends[slot]}))
    if not parts:
        return slots
    every = pd.concat(parts, ignore_index=True)
    elements = owners["element_id"].reindex(every["row"]).to_numpy()
    there = pd.MultiIndex.from_arrays([slots["element_id"], slots["slot_start"]])
    absent = every[~pd.MultiIndex.from_arrays([elements, every["slot_start"]]).isin(there)]
    if absent.empty:
        return slots
    absent = absent.join(owners, on="row")
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


def slot_writer(
    settings: Settings,
    source: Source,
    staging: Path,
    extra: tuple[Column, ...] = (),
    finish: Any = None,
    expectation: Any = None,
):
    """Return the table function `(start_ms, end_ms) → number of slots`, which writes them into a staging folder.

    One Parquet file an hour, named by the hour: a split that is computed once more replaces its own files. Rows do not
    pass through Flink one by one, which would take longer than all the rest.

    Parameters
    ----------
    finish : callable, optional
        `(slots, readings) -> slots` with the `extra` columns added; runs in the worker.
    expectation : callable, optional
        `(slots) -> weights` for spreading a backlog; runs in the worker.
    """
    from pyflink.table import DataTypes
    from pyflink.table.udf import TableFunction, udtf

    class WriteSlots(TableFunction):
        def open(self, function_context):
            from couchbase_admin.registry import Registry
            from selfgen.clients import mongo

            Thread(target=import_libraries, daemon=True).start()
            self.registry = Registry(settings)
            self.client = mongo.connect(settings)

        def close(self):
            self.client.close()

        def eval(self, start_ms, end_ms):
            from selfgen.clients.mongo import read_readings

            # whose clocks the readings live by is known only after reading them: leave room for the longest slot
            low, high = energy.reading_range((), start_ms, end_ms + LONGEST_SLOT_MS, max_gap_s=settings.max_gap_s)
            readings = read_readings(settings, source.kind, low, high, source.fields, self.client)
            history = periods(self.registry, source, readings["element_id"].unique())
            parts = [
                make_slots(part, history, source, start_ms, end_ms, max_gap_s=settings.max_gap_s, expected=expectation)
                for part in by_elements(readings)
            ]
            slots = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
            if source.meter:
                bridges.stage_edges(staging, readings, start_ms, end_ms)
            if slots.empty:
                yield (0,)
                return
            if finish is not None:
                slots = finish(slots, readings)
            lake.stage_rows(staging, slots, slots["slot_start"].to_numpy(), schema((*SLOT, *extra)))
            yield (len(slots),)

    return udtf(WriteSlots(), result_types=[DataTypes.BIGINT()])


def import_libraries() -> None:
    """Import what slots are made with: it takes some seconds, in which the first readings come."""
    for name in ("selfgen.expected", "pvanalytics"):
        import_module(name)


def by_elements(readings: pd.DataFrame, most: int = MOST_READINGS) -> list[pd.DataFrame]:
    """Return readings, which are in order of element, in parts of about so many; no element is in two of them."""
    if readings.empty:
        return [readings]
    ids = readings["element_id"].to_numpy()
    first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    edges = first[np.r_[True, np.diff(first // most) > 0]]
    return [readings.iloc[low:high] for low, high in pairwise([*edges, len(readings)])]


def schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Return the schema of columns in the lake."""
    return pa.schema([(column.name, ARROW_TYPES[column.type]) for column in columns])


def listed(rows: Sequence[tuple[int, ...]], columns: str) -> str:
    """Return the query that gives rows of numbers.

    In two lists: of one Flink would see that no row is in it twice, and leave out the grouping that spreads them.
    """
    halves = [", ".join(f"({', '.join(map(str, row))})" for row in half) for half in (rows[::2], rows[1::2])]
    return " UNION ALL ".join(f"SELECT * FROM (VALUES {half}) AS s ({columns})" for half in halves if half)


def run_writer(env: StreamTableEnvironment, settings: Settings, function: Any, rows: str, columns: str) -> None:
    """Have Flink's workers call a table function, which writes files, for each row of a view; wait for its end."""
    env.create_temporary_function("written", function)
    env.execute_sql("CREATE TABLE done (n BIGINT) WITH ('connector' = 'blackhole')")
    # what is listed comes from one worker: it is grouped to be spread over several
    spread = f" GROUP BY {columns}" if settings.flink_parallelism > 1 else ""
    job = env.execute_sql(
        f"INSERT INTO done SELECT n FROM (SELECT {columns} FROM {rows}{spread}), "
        f"LATERAL TABLE(written({columns})) AS t (n)"
    )
    runtime.await_end(job)


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
    check_readings(settings, source.kind, hours)
    env = runtime.batch(settings, name)
    staging = settings.lake_dir / ".staging" / f"{name}-{uuid.uuid4().hex}"

    try:
        writer = slot_writer(settings, source, staging, extra, finish, expectation)
        env.execute_sql(f"CREATE TEMPORARY VIEW split AS {listed(splits(ranges), 'start_ms, end_ms')}")
        run_writer(env, settings, writer, "split", "start_ms, end_ms")
        check_readings(settings, source.kind, hours)  # they may have been removed before they were read
        columns = schema((*SLOT, *extra))
        publish = partial(lake.publish, staging, settings.lake_dir, source.kind, schema=columns)
        before = partial(note_changes, settings, source)
        if not source.meter:
            publish(hours, before=before)
            return
        parts = [(milliseconds(start), milliseconds(end)) for start, end in ranges]
        longest_s = settings.raw_retention_days * 86_400
        run = bridges.Run(settings.lake_dir, staging, parts, source.kind, columns, settings.max_gap_s, longest_s)
        beside, outages = run.lay(partial(spread, settings, source, expectation), lambda rows: finish(rows, None))
        run.announce(outages)
        publish([*hours, *beside], before=before)
        run.keep(outages)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def spread(settings: Settings, source: Source, expectation: Any, outages: pd.DataFrame) -> pd.DataFrame:
    """Return slots with what meters counted in outages (`bridges.GAPS`)."""
    from couchbase_admin.registry import Registry

    with closing(Registry(settings)) as registry:
        history = periods(registry, source, outages["element_id"].unique())
    make = partial(make_slots, source=source, max_gap_s=settings.max_gap_s, expected=expectation, bridged=True)
    return bridges.spread_over(
        outages, history, lambda readings, owners, low, high: make(readings, owners, start_ms=low, end_ms=high)
    )


def note_changes(settings: Settings, source: Source, changed: list[datetime]) -> None:
    """Note hours that are about to be replaced in the lake, and remove what is kept of the days after them."""
    pending.add(settings, source.kind, [milliseconds(hour) for hour in changed])
    for name, later in source.carried:
        days = [day for day in lake.hours(settings.lake_dir, name) if day + later > min(changed)]
        lake.remove_hours(settings.lake_dir, name, days)


def id_field(source: Source) -> str:
    """Return the name of the element's id in messages and reports."""
    return ID_FIELD[source.kind]
