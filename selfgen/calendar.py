"""Slots, days, months, quarters, semesters and years on a client's clock.

A *slot* is the time between two successive borders. A border is an instant at which the client's clock shows
a full hour, or at which the local date changes. Slots cover time without gap or overlap; they are 60 minutes
long, but where a clock changes by a fraction of an hour (90 minutes on Lord Howe, both ways; 30 minutes in
Pyongyang in 2018). Instants are int64 milliseconds since 1970 in UTC.

>>> starts, ends = slots("Asia/Kathmandu", 1_704_067_200_000, 1_704_070_800_000)  # 2024-01-01T00:00Z, 1 h
>>> local_parts("Asia/Kathmandu", starts)["local_time"].tolist()
['2024-01-01T06:00:00+05:45']
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from selfgen.columns import ACCUMULATORS, DIFFERENCES

Int64 = npt.NDArray[np.int64]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: Marks a reference slot that does not exist; numpy's and pandas' NaT.
MISSING = int(np.iinfo(np.int64).min)

#: Months between a slot and its reference, by the name of the difference.
_MONTHS_BACK = dict(zip(DIFFERENCES[2:], (1, 3, 6, 12), strict=True))
#: Months in an accumulator's period.
_MONTHS_IN = dict(zip(ACCUMULATORS[1:], (1, 3, 6, 12), strict=True))


@dataclass(frozen=True)
class _Clock:
    """A zone's slots over some years, in order of time, and the way back from a local hour to its slots."""

    changes: Int64  # instants since which an offset holds
    offsets: Int64  # the offsets from UTC, ms
    starts: Int64  # slot starts; the end of a slot is the next one's start
    dates: Int64  # local date of each slot, days since 1970-01-01
    hours: Int64  # local hour that each slot starts in
    occurrences: Int64  # 1 where the same local hour was there before on that date
    by_hour: Int64  # slots in order of local date and hour, then time
    hour_keys: Int64  # date * 24 + hour of `by_hour`

    def offset_at(self, instants: Int64) -> Int64:
        """Return the offset from UTC at each instant, ms."""
        offsets: Int64 = self.offsets[np.searchsorted(self.changes, instants, side="right") - 1]
        return offsets

    def slot_at(self, instants: Int64) -> Int64:
        """Return the index of the slot that holds each instant."""
        return np.searchsorted(self.starts, instants, side="right") - 1


def parse_hour(text: str) -> datetime:
    """Return a UTC hour from RFC 3339, or from `2026-11-22T07`, which is UTC."""
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment != moment.replace(minute=0, second=0, microsecond=0):
        raise ValueError(f"{text} is not a full UTC hour")
    return moment


def _offset_ms(zone: ZoneInfo, instant_ms: int) -> int:
    offset = datetime.fromtimestamp(instant_ms / 1000, zone).utcoffset()
    return 0 if offset is None else offset // timedelta(milliseconds=1)


def _offset_changes(zone: ZoneInfo, start_ms: int, end_ms: int) -> tuple[Int64, Int64]:
    """Return the instants since which each offset holds, and the offsets; the first instant is `start_ms`.

    Clocks have never changed twice within a week since 1970, so looking once a day finds every change.
    """
    changes, offsets = [start_ms], [_offset_ms(zone, start_ms)]
    for day in range(start_ms, end_ms, DAY_MS):
        before, after = day, day + DAY_MS
        offset = _offset_ms(zone, after)
        if offset != offsets[-1]:
            while after - before > 1000:
                middle = (before + after) // 2000 * 1000
                if _offset_ms(zone, middle) == offset:
                    after = middle
                else:
                    before = middle
            changes.append(after)
            offsets.append(offset)
    return np.array(changes), np.array(offsets)


@lru_cache(maxsize=128)
def _clock(zone_name: str, first_year: int, last_year: int) -> _Clock:
    """Return the slots of the years named, with a margin that completes them on any clock."""
    start_ms = int(datetime(first_year, 1, 1, tzinfo=UTC).timestamp()) * 1000 - 3 * DAY_MS
    end_ms = int(datetime(last_year + 1, 1, 1, tzinfo=UTC).timestamp()) * 1000 + 3 * DAY_MS
    changes, offsets = _offset_changes(ZoneInfo(zone_name), start_ms, end_ms)

    full_hours = [
        np.arange(change + -(change + offset) % HOUR_MS, until, HOUR_MS)
        for change, offset, until in zip(changes, offsets, [*changes[1:], end_ms], strict=True)
    ]
    date_changes = changes[1:][(changes[1:] + offsets[1:]) // DAY_MS != (changes[1:] - 1 + offsets[:-1]) // DAY_MS]
    starts = np.unique(np.concatenate([*full_hours, date_changes]))

    local = starts + offsets[np.searchsorted(changes, starts, side="right") - 1]
    dates, hours = local // DAY_MS, local % DAY_MS // HOUR_MS
    keys = dates * 24 + hours
    by_hour = np.argsort(keys, kind="stable")
    hour_keys = keys[by_hour]
    occurrences = np.empty_like(keys)
    occurrences[by_hour] = np.arange(len(keys)) - np.searchsorted(hour_keys, hour_keys)
    return _Clock(changes, offsets, starts, dates, hours, occurrences, by_hour, hour_keys)


def _year(instant_ms: int) -> int:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).year


def _clock_of(zone: str, start_ms: int, end_ms: int) -> _Clock:
    """Return the clock of all that instants of the range refer to: a year back, a slot ahead."""
    return _clock(zone, _year(start_ms) - 1, _year(end_ms))


def _months_before(dates: Int64, months: int) -> Int64:
    """Return each date (days since 1970) some months earlier; the day is clipped to the month's last."""
    day = dates.astype("datetime64[D]")
    month = day.astype("datetime64[M]")
    earlier = month - months
    last = (earlier + 1).astype("datetime64[D]") - earlier.astype("datetime64[D]") - 1
    moved: Int64 = (earlier.astype("datetime64[D]") + np.minimum(day - month, last)).astype(np.int64)
    return moved


def _period_numbers(dates: Int64) -> dict[str, Int64]:
    months = dates.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return {"day": dates, **{name: months // length for name, length in _MONTHS_IN.items()}}


def borders(zone: str, start_ms: int, end_ms: int) -> Int64:
    """Return the slot borders in `[start_ms, end_ms)`.

    Parameters
    ----------
    zone : str
        IANA time zone.
    start_ms, end_ms : int
        Range, ms UTC.

    Returns
    -------
    numpy.ndarray
        Borders in order of time, ms UTC, int64.

    Raises
    ------
    zoneinfo.ZoneInfoNotFoundError
        There is no such zone.
    """
    return slots(zone, start_ms, end_ms)[0]


def slots(zone: str, start_ms: int, end_ms: int) -> tuple[Int64, Int64]:
    """Return starts and ends of the slots that start in `[start_ms, end_ms)`.

    Parameters
    ----------
    zone : str
        IANA time zone.
    start_ms, end_ms : int
        Range, ms UTC.

    Returns
    -------
    starts, ends : numpy.ndarray
        In order of time, ms UTC, int64.
    """
    clock = _clock_of(zone, start_ms, end_ms)
    first, last = np.searchsorted(clock.starts, [start_ms, max(start_ms, end_ms)])
    return clock.starts[first:last], clock.starts[first + 1 : last + 1]


def slots_covering(zone: str, start_ms: int, end_ms: int) -> Int64:
    """Return the borders of the slots that cover `[start_ms, end_ms)`: one more than there are slots.

    Parameters
    ----------
    zone : str
        IANA time zone.
    start_ms, end_ms : int
        Range, ms UTC.

    Returns
    -------
    numpy.ndarray
        Borders in order of time, ms UTC, int64; the first at or before the start, the last at or after the
        end.
    """
    clock = _clock_of(zone, start_ms, end_ms)
    first = np.searchsorted(clock.starts, start_ms, side="right") - 1
    last = np.searchsorted(clock.starts, max(end_ms, start_ms + 1))
    return clock.starts[first : last + 1]


def local_parts(zone: str, instants_ms: npt.ArrayLike) -> pd.DataFrame:
    """Return what a client's clock and calendar show.

    Parameters
    ----------
    zone : str
        IANA time zone.
    instants_ms : array_like of int
        Instants (slot starts, as a rule), ms UTC; cheap where many are alike.

    Returns
    -------
    pandas.DataFrame
        A row for each instant: `local_time` (RFC 3339 with offset, to the second), `local_date`
        (YYYY-MM-DD), and what `period_numbers` returns.
    """
    inverse, instants = _unique(instants_ms)
    if not len(instants):
        return pd.DataFrame({name: [] for name in ("local_time", "local_date", *ACCUMULATORS)})
    offsets = _clock_of(zone, int(instants.min()), int(instants.max())).offset_at(instants)
    local = (instants + offsets).astype("datetime64[ms]")
    dates = (instants + offsets) // DAY_MS
    suffix = {offset: _rfc3339_offset(int(offset)) for offset in np.unique(offsets)}
    times = np.datetime_as_string(local, unit="s")
    columns = {
        "local_time": [time + suffix[offset] for time, offset in zip(times, offsets, strict=True)],
        "local_date": np.datetime_as_string(local, unit="D").astype(object),
        **_period_numbers(dates),
    }
    return pd.DataFrame(columns).take(inverse).reset_index(drop=True)


def period_numbers(zone: str, instants_ms: npt.ArrayLike) -> dict[str, Int64]:
    """Return which local day, month, quarter, semester and year hold an instant.

    Parameters
    ----------
    zone : str
        IANA time zone.
    instants_ms : array_like of int
        Instants, ms UTC; cheap where many are alike.

    Returns
    -------
    dict of str to numpy.ndarray
        For each name of `selfgen.columns.ACCUMULATORS` the periods' numbers since 1970, int64.
    """
    inverse, instants = _unique(instants_ms)
    if not len(instants):
        return {name: np.empty(0, np.int64) for name in ACCUMULATORS}
    clock = _clock_of(zone, int(instants.min()), int(instants.max()))
    numbers = _period_numbers((instants + clock.offset_at(instants)) // DAY_MS)
    return {name: number[inverse] for name, number in numbers.items()}


def reference_slots(zone: str, slot_starts_ms: npt.ArrayLike) -> dict[str, Int64]:
    """Return the slots that the differences of a report compare with.

    `hour` is the slot before. The others are the slot of the same local hour one day, month, quarter,
    semester or year earlier, as `dateutil.relativedelta` counts (31 March less a month is 28 or 29 February).
    Where that hour occurs twice on the other date: the same occurrence if there is one, else the first.

    Parameters
    ----------
    zone : str
        IANA time zone.
    slot_starts_ms : array_like of int
        Slot starts, ms UTC (an instant within a slot counts as its slot); cheap where many are alike.

    Returns
    -------
    dict of str to numpy.ndarray
        For each name of `selfgen.columns.DIFFERENCES` the starts of the reference slots, ms UTC, int64;
        `MISSING` where that hour does not occur on that date.
    """
    inverse, instants = _unique(slot_starts_ms)
    if not len(instants):
        return {name: np.empty(0, np.int64) for name in DIFFERENCES}
    clock = _clock_of(zone, int(instants.min()), int(instants.max()))
    slot = clock.slot_at(instants)
    dates, hours, occurrences = clock.dates[slot], clock.hours[slot], clock.occurrences[slot]

    def same_hour(dates: Int64) -> Int64:
        keys = dates * 24 + hours
        first = np.searchsorted(clock.hour_keys, keys)
        count = np.searchsorted(clock.hour_keys, keys, side="right") - first
        position = first + np.where(occurrences < count, occurrences, 0)
        return np.where(count > 0, clock.starts[clock.by_hour[position]], MISSING)

    references = {"hour": clock.starts[slot - 1], "day": same_hour(dates - 1)}
    for name, months in _MONTHS_BACK.items():
        references[name] = same_hour(_months_before(dates, months))
    return {name: starts[inverse] for name, starts in references.items()}


def period_starts(zone: str, instants_ms: npt.ArrayLike) -> dict[str, Int64]:
    """Return when the local day, month, quarter, semester and year that hold an instant began.

    Parameters
    ----------
    zone : str
        IANA time zone.
    instants_ms : array_like of int
        Instants, ms UTC; cheap where many are alike.

    Returns
    -------
    dict of str to numpy.ndarray
        For each name of `selfgen.columns.ACCUMULATORS` the start of the period's first slot, ms UTC, int64.
    """
    inverse, instants = _unique(instants_ms)
    if not len(instants):
        return {name: np.empty(0, np.int64) for name in ACCUMULATORS}
    clock = _clock_of(zone, int(instants.min()), int(instants.max()))
    dates = (instants + clock.offset_at(instants)) // DAY_MS
    firsts = {"day": dates}
    for name, length in _MONTHS_IN.items():
        months = dates.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) // length * length
        firsts[name] = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return {
        name: clock.starts[clock.by_hour[np.searchsorted(clock.hour_keys, first * 24)]][inverse]
        for name, first in firsts.items()
    }


def _unique(instants_ms: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], Int64]:
    """Return the distinct instants and, for each instant given, which of them it is."""
    inverse, instants = pd.factorize(np.asarray(instants_ms, dtype=np.int64))
    return inverse, np.asarray(instants, dtype=np.int64)


def _rfc3339_offset(offset_ms: int) -> str:
    """Return an offset as `+hh:mm`; RFC 3339 has no seconds in it, nor has any clock in use."""
    sign, minutes = ("-" if offset_ms < 0 else "+"), abs(offset_ms) // 60_000
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
