"""What light sensors have measured so far: sums in the lake, made anew by the day like the hours they are made of.

    LAKE/light_history/date=YYYY-MM-DD/hour=00/data.parquet

A day's file has, of each sensor and place, the contributions (`selfgen.orientation`) of the hours since its UTC month
began, by hour of the UTC day, and what was seen of clear skies (`selfgen.soiling`). What was measured before a day is
thus in few files, however long ago it began: the last one of each of the months before, and that of the day before. A
day that is computed again makes anew the files from it to the end of its month.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dateutil.relativedelta import relativedelta

from selfgen import lake, soiling
from selfgen.columns import CLEAR_SUMS, LIGHT_SUMS
from selfgen.recompute import LIGHT_MONTHS

Float64 = npt.NDArray[np.float64]

NAME = "light_history"

MONTHS, HOURS = 12, 24
_DAY = timedelta(days=1)
_KEY = ["element_id", "latitude", "longitude"]
SUMS = (*LIGHT_SUMS, *CLEAR_SUMS)
_SHAPE = (HOURS, len(SUMS))
_SCHEMA = pa.schema(
    [
        ("element_id", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("sums", pa.list_(pa.float64(), HOURS * len(SUMS))),
    ]
)


class _Sums(NamedTuple):
    """Sums of sensors and places, (sensors, 24, columns)."""

    key: pd.MultiIndex
    values: Float64


def replace(folder: Path, kind: str, days: Iterable[datetime]) -> None:
    """Make the sums anew after hours of these UTC days have changed in the lake.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the lake.
    kind : str
        The data set of the hours: `element_id`, `latitude`, `longitude`, `slot_start` (epoch ms), `LIGHT_SUMS`, and
        `generated` and `steady`.
    """
    first: dict[datetime, datetime] = {}
    for day in sorted(days, reverse=True):
        first[day.replace(day=1)] = day
    for month, day in sorted(first.items()):
        _replace_month(folder, kind, month, day)


def _replace_month(folder: Path, kind: str, month: datetime, day: datetime) -> None:
    sums = _until(folder, month, day)
    while day < month + relativedelta(months=1):
        table = lake.read(folder, kind, day, day + _DAY, [*_KEY, "slot_start", *LIGHT_SUMS, "generated", "steady"])
        if table.num_columns:  # else it was not computed
            sums = _added([sums, _of_day(table.to_pandas())])
            columns = [sums.key.get_level_values(name) for name in _KEY]
            values = pa.FixedSizeListArray.from_arrays(sums.values.ravel(), _SCHEMA.field("sums").type.list_size)
            lake.replace_hour(
                folder, NAME, day, pa.Table.from_arrays([*map(pa.array, columns), values], schema=_SCHEMA)
            )
        day += _DAY


def _of_day(slots: pd.DataFrame) -> _Sums:
    lit = slots[slots["clear_beam"] + slots["clear_sky"] > 0].sort_values(["element_id", "slot_start"], kind="stable")
    clear = soiling.clear(lit)
    of_clear = np.where(clear, lit["clear_beam"] + lit["clear_sky"], 0.0)
    lit = lit.assign(under_clear=np.where(clear, lit["generated"], 0.0), of_clear=of_clear)
    every = pd.MultiIndex.from_frame(lit[_KEY])
    key = every.unique()
    values = np.zeros((len(key), *_SHAPE))
    hour = lit["slot_start"].to_numpy(np.int64) // 3_600_000 % HOURS
    np.add.at(values, (key.get_indexer(every), hour), lit[list(SUMS)].to_numpy(np.float64))
    return _Sums(key, values)


def _added(parts: list[_Sums]) -> _Sums:
    key = parts[0].key.append([part.key for part in parts[1:]]).unique()
    values = np.zeros((len(key), *_SHAPE))
    for part in parts:
        values[key.get_indexer(part.key)] += part.values
    return _Sums(key, values)


def _until(folder: Path, month: datetime, day: datetime) -> _Sums:
    """Return the sums of a month's hours before a day."""
    while day > month:
        day -= _DAY
        table = lake.read(folder, NAME, day, day + lake.HOUR)
        if table.num_columns:
            values = table["sums"].combine_chunks().flatten().to_numpy().reshape(-1, *_SHAPE)
            return _Sums(pd.MultiIndex.from_frame(table.select(_KEY).to_pandas()), values)
    return _Sums(pd.MultiIndex.from_arrays([[], [], []], names=_KEY), np.zeros((0, *_SHAPE)))


class History:
    """Sums of what was measured before a day; those of the months before it are read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._month: datetime | None = None
        self._past: _Sums

    def before(self, day: datetime, sensors: pd.DataFrame) -> Float64:
        """Return the sums of the hours before a UTC day, (sensors, 12, 24, columns); zeros where there are none.

        Parameters
        ----------
        sensors : DataFrame
            `element_id`, `latitude`, `longitude`, each once.

        Returns
        -------
        ndarray
            The columns are `LIGHT_SUMS` and `CLEAR_SUMS`.
        """
        month = day.replace(day=1)
        if self._month != month:
            self._past, self._month = _past(self.folder, month), month
        key = pd.MultiIndex.from_frame(sensors[_KEY])
        result = np.zeros((len(key), MONTHS, *_SHAPE))
        for part, there in (self._past, result), (_until(self.folder, month, day), result[:, month.month - 1]):
            row = part.key.get_indexer(key)
            there[row >= 0] += part.values[row[row >= 0]]
        return result


class ClearLevels:
    """Shares of a clear sky's light that sensors saw in the months before a slot's; each month is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[datetime, tuple[pd.MultiIndex, Float64]] = {}

    def of(self, slots: pd.DataFrame) -> Float64:
        """Return for each slot the share of a clear sky's light that its sensor saw in the months before, at its place.

        Parameters
        ----------
        slots : DataFrame
            `element_id`, `latitude`, `longitude`, `slot_start` (epoch ms).

        Returns
        -------
        ndarray
            As `selfgen.soiling.level` has it, which follows from the sensor, its place and the month alone.
        """
        key = pd.MultiIndex.from_frame(slots[_KEY])
        months = pd.DatetimeIndex(slots["slot_start"].to_numpy().astype("datetime64[ms]")).to_period("M")
        result = np.full(len(slots), np.nan)
        for month in months.unique():
            first, here = month.to_timestamp().tz_localize(UTC).to_pydatetime(), np.flatnonzero(months == month)
            row, place = pd.factorize(key[here])
            sums = np.zeros((len(place), MONTHS, len(CLEAR_SUMS)))
            for back in range(1, LIGHT_MONTHS + 1):
                start = first - relativedelta(months=back)
                seen, values = self._month(start)
                at = seen.get_indexer(place)
                sums[at >= 0, start.month - 1] += values[at[at >= 0]]
            result[here] = soiling.level(sums, np.full(len(place), month.month))[row]
        return result

    def _month(self, start: datetime) -> tuple[pd.MultiIndex, Float64]:
        if start not in self._known:
            part = _until(self.folder, start, start + relativedelta(months=1))
            self._known[start] = part.key, part.values[:, :, -len(CLEAR_SUMS) :].sum(axis=1)
        return self._known[start]


def _past(folder: Path, month: datetime) -> _Sums:
    """Return the sums, (sensors, 12, 24, columns), of the months that count before a month."""
    starts = [month - relativedelta(months=back) for back in range(1, LIGHT_MONTHS + 1)]
    key = _until(folder, month, month).key
    values = np.zeros((0, MONTHS, *_SHAPE))
    for start in starts:
        part = _until(folder, start, start + relativedelta(months=1))
        more = part.key.difference(key, sort=False)
        key = key.append(more)
        values = np.concatenate([values, np.zeros((len(more), *values.shape[1:]))])
        values[key.get_indexer(part.key), start.month - 1] += part.values
    return _Sums(key, values)
