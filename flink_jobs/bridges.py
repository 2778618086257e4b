"""Bridges in the lake: what meters counted over gaps that span hours, laid over the slots in between.

    LAKE/panel_edges/…        first and last reading of each element, by the UTC hour
    LAKE/panel_edges_day/…    the same by the UTC day, to look far back and ahead; made when it is asked for
    LAKE/panel_gaps/…         outages that touch a UTC day, by the day

A run has the edges of its hours from the readings. Outages with an end in them, or that lay over them, are sought anew;
every hour that such an outage touches, also long before or after, has its bridges taken off and laid again, from the
outages that there are now. What may be laid is noted before the slots are replaced, and what is laid, and the edges,
after: a run that was killed in between leaves notes of all outages whose bridges may be in the lake, so that the next
takes them off, whatever has come meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from selfgen import bridges, lake, recompute
from selfgen.calendar import DAY_MS, HOUR_MS
from selfgen.lake import HOUR
from selfgen.running_sums import day_of

EDGES, DAY_EDGES, GAPS = "panel_edges", "panel_edges_day", "panel_gaps"
DAY = timedelta(days=1)
#: Rows of edges that are looked at at once, and slots over which energy is spread at once.
MOST_EDGES, MOST_SLOTS = 2_000_000, 200_000
#: 90 min where a clock changes by half an hour, and something to spare.
LONGEST_SLOT_MS = 2 * HOUR_MS

_ARROW = {object: pa.string(), np.int64: pa.int64(), np.float64: pa.float64()}
EDGES_SCHEMA, GAPS_SCHEMA = (
    pa.schema([(name, _ARROW[kind]) for name, kind in columns.items()]) for columns in (bridges.EDGES, bridges.GAPS)
)
#: Slots of outages (`bridges.GAPS`), as rows of the lake, with what the meter counted in each.
Spread = Callable[[pd.DataFrame], pd.DataFrame]
#: Rows of an hour, with what is expected of them.
Finish = Callable[[pd.DataFrame], pd.DataFrame]


def stage_edges(staging: Path, readings: pd.DataFrame, start_ms: int, end_ms: int) -> None:
    """Put the edges of hours into a run's staging folder; `readings` as `bridges.edges` wants them."""
    found = bridges.edges(readings, start_ms, end_ms)
    lake.stage_rows(staging / EDGES, found, found["first"].to_numpy(), EDGES_SCHEMA)


@dataclass
class Run:
    """A run that has staged slots and edges of hours, and has still to lay bridges.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the lake, whose lock is held.
    staging : pathlib.Path
        The run's folder: of slots by hour, and of edges by hour in `EDGES`.
    ranges : list
        UTC hours that were computed, epoch ms, ranges half open, in order.
    kind : str
        The data set of the slots.
    schema : pyarrow.Schema
        Its columns.
    max_gap_s, longest_s : float
        A gap is an outage from the one on, and is bridged up to the other.
    """

    folder: Path
    staging: Path
    ranges: list[recompute.Range]
    kind: str
    schema: pa.Schema
    max_gap_s: float
    longest_s: float

    def __post_init__(self) -> None:
        """Note which hours and days are the run's, and the columns of slots before anything is expected of them."""
        self.hours = set(recompute.hours(self.ranges))
        self.days = {hour // DAY_MS for hour in self.hours}
        made = {"expected_gen", "performance_ratio"}
        self.bare = pa.schema([column for column in self.schema if column.name not in made])

    def lay(self, spread: Spread, finish: Finish) -> tuple[list[datetime], dict[datetime, pd.DataFrame]]:
        """Stage each hour that an outage touches with its bridges.

        Returns
        -------
        hours : list of datetime
            Those besides the run's own that are staged now.
        outages : dict
            By day, the outages to `announce` before the slots are in the lake, and to `keep` after it.
        """
        near = self._outages(self.ranges)
        old = near[_over(near, self.ranges)]
        lost = self._lost() | set(old["element_id"])
        new = _distinct([self._sought(low, high, lost) for low, high in self.ranges])
        # a slot reaches into hours after its own
        near = near[_over(near, [(low, high + LONGEST_SLOT_MS) for low, high in self.ranges])]
        touched = bridges.hours_of(_distinct([old, new]), LONGEST_SLOT_MS)
        touched |= bridges.hours_of(near, LONGEST_SLOT_MS) & self.hours
        days = self._changed(old, new)
        parts = self._stage_bridges(self._outages(recompute.ranges(touched), days), touched, spread)
        staged = self._stage_hours(touched, parts, finish)
        return [_moment(hour) for hour in staged if hour not in self.hours], days

    def announce(self, outages: dict[datetime, pd.DataFrame]) -> None:
        """Note outages beside those whose bridges are in the lake now, by whose days a next run finds them first."""
        for day in sorted(outages, key=lambda day: not self._is_own(day)):
            kept = _read(self.folder, GAPS, day, GAPS_SCHEMA)
            both = _distinct([kept, outages[day]])
            if not both.equals(kept):
                self._note(day, both)

    def keep(self, outages: dict[datetime, pd.DataFrame]) -> None:
        """Put outages by day, and the edges of the run's hours, into the lake: its slots are there."""
        for day in sorted(outages, key=self._is_own):
            self._note(day, outages[day])

        def forget(changed: list[datetime]) -> None:
            lake.remove_hours(self.folder, DAY_EDGES, sorted({day_of(hour) for hour in changed}))

        hours = [_moment(hour) for hour in sorted(self.hours)]
        lake.publish(self.staging / EDGES, self.folder, EDGES, hours, EDGES_SCHEMA, before=forget)

    def _is_own(self, day: datetime) -> bool:
        return round(day.timestamp()) * 1000 // DAY_MS in self.days

    def _note(self, day: datetime, outages: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(outages, GAPS_SCHEMA, preserve_index=False)
        lake.replace_hour(self.folder, GAPS, day, table)

    def _outages(
        self, ranges: Iterable[recompute.Range], changed: dict[datetime, pd.DataFrame] | None = None
    ) -> pd.DataFrame:
        """Return the outages that touch the days of ranges, those of some days instead of the lake's."""
        days = {day for low, high in ranges for day in range(low // DAY_MS, (high + LONGEST_SLOT_MS) // DAY_MS + 1)}
        moments = [_moment(day * DAY_MS) for day in sorted(days)]
        return _distinct(
            [
                changed[day] if changed and day in changed else _read(self.folder, GAPS, day, GAPS_SCHEMA)
                for day in moments
            ]
        )

    def _edges(self, hour_ms: int) -> pd.DataFrame:
        folder = self.staging if hour_ms in self.hours else self.folder
        return _read(folder, EDGES, _moment(hour_ms), EDGES_SCHEMA)

    def _day_edges(self, day_ms: int) -> pd.DataFrame:
        day = _moment(day_ms)
        kept = lake.read(self.folder, DAY_EDGES, day, day + HOUR)
        if kept.num_columns:
            return _frame(kept)
        found = bridges.joined(_frame(lake.read(self.folder, EDGES, day, day + DAY, schema=EDGES_SCHEMA)))
        table = pa.Table.from_pandas(found, EDGES_SCHEMA, preserve_index=False)
        lake.replace_hour(self.folder, DAY_EDGES, day, table)
        return found

    def _lost(self) -> set[Any]:
        """Return the elements that had readings in an hour of the run, and have none there now."""
        lost: set[Any] = set()
        for hour in sorted(self.hours):
            before = lake.read(self.folder, EDGES, _moment(hour), _moment(hour) + HOUR, ["element_id"])
            if before.num_rows:
                lost |= set(before["element_id"].to_pylist()) - set(self._edges(hour)["element_id"])
        return lost

    def _sought(self, low: int, high: int, lost: set[Any]) -> pd.DataFrame:
        """Return the outages with an end in a range of hours, or that span it."""
        first = last = EDGES_SCHEMA.empty_table().to_pandas()
        found = []
        for rows in self._gathered(range(low, high, HOUR_MS)):
            every = pd.concat([last, rows], ignore_index=True)
            found.append(self._gaps(every))
            last = every.sort_values("first").drop_duplicates("element_id", keep="last")
            first = pd.concat([first, rows.sort_values("first")]).drop_duplicates("element_id")
        silent = lost - set(first["element_id"])
        before = _nearest(self._backwards(low), {*first.loc[first["first_meter"].notna(), "element_id"], *silent})
        after = _nearest(self._onwards(high), {*last.loc[last["last_meter"].notna(), "element_id"], *silent})
        pairs = (before, first), (last, after), (_of(before, silent), _of(after, silent))
        found += [self._gaps(pd.concat(pair, ignore_index=True)) for pair in pairs]
        return _distinct(found)

    def _gaps(self, rows: pd.DataFrame) -> pd.DataFrame:
        return bridges.gaps(rows, self.max_gap_s, self.longest_s)

    def _gathered(self, hours: Iterable[int]) -> Iterator[pd.DataFrame]:
        """Yield the edges of hours, of so many at once that memory stays bounded."""
        parts: list[pd.DataFrame] = []
        for hour in hours:
            parts.append(self._edges(hour))
            if sum(map(len, parts)) > MOST_EDGES:
                yield pd.concat(parts, ignore_index=True)
                parts = []
        if parts:
            yield pd.concat(parts, ignore_index=True)

    def _backwards(self, from_ms: int) -> Iterator[pd.DataFrame]:
        """Yield edges before an hour, the nearest first."""
        days = lake.days(self.folder, EDGES)
        earliest = min([*(round(day.timestamp()) * 1000 for day in days), *self.hours])
        earliest = max(earliest, from_ms - round(self.longest_s * 1000))
        while from_ms > earliest:
            whole = from_ms % DAY_MS == 0 and from_ms // DAY_MS - 1 not in self.days
            from_ms -= DAY_MS if whole else HOUR_MS
            yield self._day_edges(from_ms) if whole else self._edges(from_ms)

    def _onwards(self, from_ms: int) -> Iterator[pd.DataFrame]:
        """Yield edges from an hour on."""
        days = lake.days(self.folder, EDGES)
        latest = max([*(round(day.timestamp()) * 1000 + DAY_MS for day in days), max(self.hours) + HOUR_MS])
        latest = min(latest, from_ms + round(self.longest_s * 1000))
        while from_ms < latest:
            whole = from_ms % DAY_MS == 0 and from_ms // DAY_MS not in self.days
            yield self._day_edges(from_ms) if whole else self._edges(from_ms)
            from_ms += DAY_MS if whole else HOUR_MS

    def _changed(self, old: pd.DataFrame, new: pd.DataFrame) -> dict[datetime, pd.DataFrame]:
        """Return the outages of each day that has others than before."""
        gone = pd.MultiIndex.from_frame(old)
        changed = {}
        for day in _days_of(_distinct([old, new])):
            start = round(day.timestamp()) * 1000
            kept = _read(self.folder, GAPS, day, GAPS_SCHEMA)
            added = new[(new["start"] < start + DAY_MS) & (new["end"] >= start)]
            now = _distinct([kept[~pd.MultiIndex.from_frame(kept).isin(gone)], added])
            if not now.equals(kept):
                changed[day] = now
        return changed

    def _stage_bridges(self, outages: pd.DataFrame, hours: set[int], spread: Spread) -> list[str]:
        """Put what outages add to slots into the staging folder, by hour, in parts; return the parts' names."""
        long = (outages["end"] - outages["start"]).to_numpy() // HOUR_MS + 2
        part = np.cumsum(long) // MOST_SLOTS
        names = []
        for number in np.unique(part):
            rows = spread(outages[part == number])
            rows = rows[(rows["slot_start"] // HOUR_MS * HOUR_MS).isin(hours)]
            if rows.empty:
                continue
            names.append(f"bridges-{number}")
            lake.stage_rows(self.staging / names[-1], rows, rows["slot_start"].to_numpy(), self.bare)
        return names

    def _stage_hours(self, hours: Iterable[int], parts: Sequence[str], finish: Finish) -> list[int]:
        """Stage the slots of hours with their bridges; return those that have, or had, any."""
        staged: list[int] = []
        batch: list[tuple[pd.DataFrame, list[pd.DataFrame]]] = []
        for hour_ms in sorted(hours):
            hour, mine = _moment(hour_ms), hour_ms in self.hours
            tables = [lake.read(self.staging, part, hour, hour + HOUR) for part in parts]
            added = [_frame(table) for table in tables if table.num_rows]
            if added or (not mine and self._has_bridges(hour)):
                where = (self.staging.parent, self.staging.name) if mine else (self.folder, self.kind)
                batch.append((_read(*where, hour, self.schema), added))
                staged.append(hour_ms)
            if sum(len(slots) for slots, _ in batch) > MOST_SLOTS:
                self._stage_batch(batch, finish)
                batch = []
        self._stage_batch(batch, finish)
        return staged

    def _stage_batch(self, batch: Sequence[tuple[pd.DataFrame, list[pd.DataFrame]]], finish: Finish) -> None:
        if not batch:
            return
        slots = pd.concat([slots for slots, _ in batch], ignore_index=True)
        added = [rows for _, of_hour in batch for rows in of_hour]
        made = bridges.bridged(slots, pd.concat(added, ignore_index=True) if added else slots.iloc[:0])
        alone = bridges.only_bridged(made)
        if alone.any():
            beside = made["slot_start"].isin(made.loc[alone, "slot_start"])
            expected = finish(made[beside].reset_index(drop=True)).set_index(made.index[beside])
            for name in ("expected_gen", "performance_ratio"):
                made.loc[alone, name] = expected.loc[alone[beside], name]
        lake.stage_rows(self.staging, made, made["slot_start"].to_numpy(), self.schema)

    def _has_bridges(self, hour: datetime) -> bool:
        names = [*bridges.UNBRIDGED, *bridges.UNBRIDGED.values()]
        slots = _frame(lake.read(self.folder, self.kind, hour, hour + HOUR, names, schema=self.schema))
        return any((slots[name] != slots[bare]).any() for name, bare in bridges.UNBRIDGED.items())


def of_element(folder: Path, element_id: str, start_ms: int, end_ms: int) -> pd.DataFrame:
    """Return the outages of an element that touch `[start_ms, end_ms)`."""
    day = day_of(_moment(start_ms))
    found = []
    while day < _moment(end_ms):
        found.append(_frame(lake.read(folder, GAPS, day, day + HOUR, schema=GAPS_SCHEMA)))
        day += DAY
    outages = _distinct(found)
    mine = (outages["element_id"] == element_id) & (outages["start"] < end_ms) & (outages["end"] >= start_ms)
    return outages[mine].reset_index(drop=True)


def spread_over(
    outages: pd.DataFrame, history: pd.DataFrame, make: Callable[[pd.DataFrame, pd.DataFrame, int, int], pd.DataFrame]
) -> pd.DataFrame:
    """Return slots with what outages add to them, in order of the outages.

    Parameters
    ----------
    history : pandas.DataFrame
        The registry's periods of the elements.
    make : callable
        `(readings, history, start_ms, end_ms) → slots`, of readings with `time`, `value`, `energy`.
    """
    # two readings and an element for each: outages know nothing of each other
    number = np.arange(len(outages)).astype(str)
    named = pd.DataFrame({"number": number, "element_id": outages["element_id"].to_numpy()})
    ends = [
        pd.DataFrame({"element_id": number, "time": outages[end].to_numpy(), "value": 0.0, "energy": meter.to_numpy()})
        for end, meter in (("start", outages["start_meter"]), ("end", outages["end_meter"]))
    ]
    owners = history.merge(named, on="element_id").drop(columns="element_id").rename(columns={"number": "element_id"})
    edges = int(outages["start"].min()) - LONGEST_SLOT_MS, int(outages["end"].max()) + 1
    slots = make(pd.concat(ends, ignore_index=True), owners, *edges)
    place = slots["element_id"].astype(int)
    slots["element_id"] = outages["element_id"].to_numpy()[place]
    return slots.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _nearest(parts: Iterator[pd.DataFrame], wanted: set[Any]) -> pd.DataFrame:
    """Return each wanted element's rows of the first part that has any."""
    found = [EDGES_SCHEMA.empty_table().to_pandas()]
    while wanted and (rows := next(parts, None)) is not None:
        here = _of(rows, wanted)
        found.append(here)
        wanted = wanted.difference(here["element_id"])
    return pd.concat([found[0], *(rows for rows in found if len(rows))], ignore_index=True)


def _of(rows: pd.DataFrame, element_ids: set[Any]) -> pd.DataFrame:
    return rows[rows["element_id"].isin(element_ids)]


def _over(outages: pd.DataFrame, ranges: Iterable[recompute.Range]) -> np.ndarray:
    """Return which outages touch ranges."""
    start, end = outages["start"].to_numpy(), outages["end"].to_numpy()
    return np.logical_or.reduce([(start < high) & (end >= low) for low, high in ranges])


def _distinct(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    rows = [part for part in parts if len(part)]
    if not rows:
        return _frame(GAPS_SCHEMA.empty_table())
    every = pd.concat(rows, ignore_index=True).drop_duplicates(["element_id", "start", "end"])
    return every.sort_values(["element_id", "start"], ignore_index=True)


def _days_of(outages: pd.DataFrame) -> list[datetime]:
    days = {day for one in outages.itertuples() for day in range(one.start // DAY_MS, one.end // DAY_MS + 1)}
    return [_moment(day * DAY_MS) for day in sorted(days)]


def _read(folder: Path, name: str, hour: datetime, schema: pa.Schema) -> pd.DataFrame:
    return _frame(lake.read(folder, name, hour, hour + HOUR, schema=schema))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _moment(instant_ms: int) -> datetime:
    return datetime.fromtimestamp(instant_ms / 1000, UTC)
