"""What has to be computed again when readings of an hour, or who had an element in it, have changed.

Hours are named by their starts in epoch ms. The answers hold on every client's clock, so they need no list of the time
zones in use: they may name a few hours more than one clock would, never one less.

>>> ranges([0, HOUR_MS, 5 * HOUR_MS]) == [(0, 2 * HOUR_MS), (5 * HOUR_MS, 6 * HOUR_MS)]
True
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from dateutil.relativedelta import relativedelta

from selfgen.calendar import DAY_MS, HOUR_MS
from selfgen.soiling import LATER_MS

Range = tuple[int, int]

#: 90 min where a clock changes by half an hour.
_LONGEST_SLOT_MS = 90 * 60_000
#: Clocks are at most so far behind and ahead of UTC.
_BEHIND, _AHEAD = relativedelta(hours=12), relativedelta(hours=14)
#: Months between a slot and those that compare with it.
_MONTHS_AHEAD = (1, 3, 6, 12)
#: How long a change of a slot can show in the alarms after it.
ALARM_CONTEXT_DAYS = 31
#: Months of light that count for the best orientation, before the month at hand: what was longer ago was perhaps under
#: another tree.
LIGHT_MONTHS = 24


def ranges(hours_ms: Iterable[int]) -> list[Range]:
    """Return hours as the fewest half-open ranges that hold them and no others, in order."""
    return _merged((hour, hour + HOUR_MS) for hour in hours_ms)


def hours(parts: Iterable[Range]) -> list[int]:
    """Return the hours of ranges."""
    return [hour for start, end in parts for hour in range(start, end, HOUR_MS)]


def touched(hours_ms: Iterable[int], max_gap_s: float = 300.0) -> set[int]:
    """Return the hours in which slots start whose energy depends on readings of the hours given.

    A reading counts in its slot, and in those of the readings next to it, at most `max_gap_s` away.
    """
    gap_ms = math.ceil(max_gap_s * 1000)
    found: set[int] = set()
    for hour in hours_ms:
        first = (hour - gap_ms - _LONGEST_SLOT_MS) // HOUR_MS * HOUR_MS
        found.update(range(first, hour + HOUR_MS + gap_ms, HOUR_MS))
    return found


def readings_of(hour_ms: int, max_gap_s: float = 300.0) -> range:
    """Return the hours whose readings the slots that start in an hour are made of."""
    gap_ms = math.ceil(max_gap_s * 1000)
    return range((hour_ms - gap_ms) // HOUR_MS * HOUR_MS, hour_ms + HOUR_MS + _LONGEST_SLOT_MS + gap_ms, HOUR_MS)


def dependents(changed: Iterable[Range], until_ms: int, *, compares: bool = True) -> list[Range]:
    """Return the hours whose reports and alarms depend on slots that start in the ranges given.

    Those are the hours themselves; the rest of the client's year, whose running sums go on from them (its days, months,
    quarters and semesters lie within it); the slots a day, month, quarter, semester and year later, which compare
    with them; and the alarms since. Reports of light sensors carry the best orientation to date: it depends on all that
    was measured in the months that count. And what they saw of a clear sky is known only by the slots after it.

    Parameters
    ----------
    changed : iterable of (int, int)
        Ranges of hours, epoch ms.
    until_ms : int
        Where the hours end that have been computed; nothing after it is named.
    compares : bool
        Whether the reports have running sums and differences, as those of panels have, or are those of light sensors.
    """
    return _merged(
        (start, min(end, until_ms))
        for low, high in changed
        for start, end in _after(low, high, compares)
        if start < until_ms
    )


def _after(low: int, high: int, compares: bool) -> Iterator[Range]:
    yield low, high + (ALARM_CONTEXT_DAYS + 1) * DAY_MS
    first, last = _moment(low), _moment(high - 1)
    if not compares:
        yield low - LATER_MS, _ms(first.replace(day=1, hour=0) + relativedelta(months=LIGHT_MONTHS + 1))
        return
    next_year = datetime((last + _AHEAD).year + 1, 1, 1, tzinfo=UTC)
    yield low, _ms(next_year + _BEHIND)
    for months in _MONTHS_AHEAD:
        # the local date may be the day before or after; the 29th to 31st may all compare with a month's last day
        start = first + relativedelta(days=-1) + relativedelta(months=months) + relativedelta(days=-1)
        end = last + relativedelta(days=1) + relativedelta(months=months) + relativedelta(days=5)
        yield _ms(start) // HOUR_MS * HOUR_MS, _ms(end) // HOUR_MS * HOUR_MS


def _merged(parts: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for start, end in sorted(parts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _moment(instant_ms: int) -> datetime:
    return datetime.fromtimestamp(instant_ms / 1000, UTC)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp()) * 1000
