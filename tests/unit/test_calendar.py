"""The calendar against zoneinfo, asked minute by minute, and dateutil."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given, settings
from hypothesis import strategies as st

from selfgen import calendar
from selfgen.columns import ACCUMULATORS, DIFFERENCES

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

ZONES = (
    "UTC",
    "Africa/Cairo",
    "America/Caracas",
    "America/Havana",
    "America/Santiago",
    "America/St_Johns",
    "Asia/Beirut",
    "Asia/Colombo",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Australia/Lord_Howe",
    "Europe/Madrid",
    "Pacific/Apia",
    "Pacific/Chatham",
)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def local(zone: str, instant: int) -> datetime:
    return datetime.fromtimestamp(instant / 1000, ZoneInfo(zone))


@lru_cache
def change_days(zone: str) -> list[int]:
    """Days of 1995 to 2040 around which the zone's clock changes."""
    days = range(ms("1995-01-01T00:00Z"), ms("2040-01-01T00:00Z"), DAY)
    offsets = [local(zone, day).utcoffset() for day in days]
    return [day for day, one, other in zip(days, offsets, offsets[1:], strict=False) if one != other]


@lru_cache(maxsize=4096)
def slow_slots(zone: str, day: date) -> list[int]:
    """Starts of the slots of a local date, looking at every minute."""
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    found = []
    before = local(zone, midnight - 15 * HOUR - MINUTE)
    for instant in range(midnight - 15 * HOUR, midnight + 39 * HOUR, MINUTE):
        now = local(zone, instant)
        if now.date() == day and (now.minute == 0 or before.date() != day):
            found.append(instant)
        before = now
    return found


def slow_reference(zone: str, start: int, back: relativedelta) -> int:
    now = local(zone, start)
    here = [s for s in slow_slots(zone, now.date()) if local(zone, s).hour == now.hour]
    other = now.replace(tzinfo=None) - back
    there = [s for s in slow_slots(zone, other.date()) if local(zone, s).hour == other.hour]
    if not there:
        return calendar.MISSING
    occurrence = here.index(start)
    return there[occurrence] if occurrence < len(there) else there[0]


BACK = {
    "day": relativedelta(days=1),
    "month": relativedelta(months=1),
    "quar": relativedelta(months=3),
    "six": relativedelta(months=6),
    "year": relativedelta(years=1),
}


@st.composite
def zone_days(draw: st.DrawFn) -> tuple[str, int]:
    """A zone, and a UTC day: any, near a change of the clock, a year after one, or at the end of a month."""
    zone = draw(st.sampled_from(ZONES))
    any_day = st.integers(ms("1996-01-01T00:00Z") // DAY, ms("2039-12-31T00:00Z") // DAY)
    kinds = [
        any_day,
        any_day.map(lambda day: np.datetime64(day, "D").astype("M8[M]").astype("M8[D]").astype(int) - 1),
    ]
    if changes := change_days(zone):
        kinds.append(
            st.builds(
                lambda change, shift: change // DAY + shift,
                st.sampled_from(changes),
                st.sampled_from([-1, 0, 1, 2, 29, 30, 31, 90, 91, 182, 183, 184, 364, 365, 366]),
            )
        )
    return zone, int(draw(st.one_of(kinds))) * DAY


@settings(max_examples=80, deadline=None)
@given(zone_days())
def test_borders_are_full_hours_and_changes_of_date(zone_day):
    zone, day = zone_day
    expected = []
    before = local(zone, day - MINUTE)
    for instant in range(day, day + 2 * DAY, MINUTE):
        now = local(zone, instant)
        if now.minute == 0 or now.date() != before.date():
            expected.append(instant)
        before = now
    assert calendar.borders(zone, day, day + 2 * DAY).tolist() == expected


@settings(max_examples=80, deadline=None)
@given(zone_days(), st.integers(0, 30))
def test_references_are_those_of_relativedelta(zone_day, which):
    zone, day = zone_day
    starts, _ = calendar.slots(zone, day, day + 36 * HOUR)
    start = int(starts[which % len(starts)])
    found = {name: int(there[0]) for name, there in calendar.reference_slots(zone, [start]).items()}
    before = calendar.borders(zone, start - 2 * HOUR, start)
    assert found == {
        "hour": before[-1],
        **{name: slow_reference(zone, start, back) for name, back in BACK.items()},
    }


@settings(max_examples=80, deadline=None)
@given(zone_days(), st.integers(0, DAY - 1))
def test_local_parts_are_those_of_zoneinfo(zone_day, within):
    zone, day = zone_day
    now = local(zone, day + within)
    row = calendar.local_parts(zone, [day + within]).iloc[0]
    # as text: in the hour that occurs twice Python takes equal instants for different
    assert row["local_time"] == now.replace(microsecond=0).isoformat()
    assert row["local_date"] == now.date().isoformat()
    months = (now.year - 1970) * 12 + now.month - 1
    assert row[list(ACCUMULATORS)].tolist() == [
        (now.date() - date(1970, 1, 1)).days,
        months,
        months // 3,
        months // 6,
        now.year - 1970,
    ]


@settings(max_examples=80, deadline=None)
@given(zone_days(), st.integers(0, DAY - 1))
def test_periods_start_with_their_first_slot(zone_day, within):
    zone, day = zone_day
    now = local(zone, day + within).date()
    firsts = {
        "day": now,
        "month": now.replace(day=1),
        "quarter": now.replace(day=1, month=(now.month - 1) // 3 * 3 + 1),
        "semestre": now.replace(day=1, month=1 if now.month < 7 else 7),
        "year": now.replace(day=1, month=1),
    }
    found = {name: int(start[0]) for name, start in calendar.period_starts(zone, [day + within]).items()}
    assert found == {name: slow_slots(zone, first)[0] for name, first in firsts.items()}


@pytest.mark.parametrize("zone", ZONES)
def test_slots_cover_time_without_gap_or_overlap_for_decades(zone):
    start, end = ms("1990-01-01T00:00Z"), ms("2045-01-01T00:00Z")
    starts, ends = calendar.slots(zone, start, end)
    assert (starts[1:] == ends[:-1]).all()
    assert (ends > starts).all()
    assert (ends - starts).max() <= 90 * MINUTE
    assert starts[0] - start < HOUR
    assert ends[-1] >= end
    # computed in pieces: the same slots
    cuts = [start, ms("2003-03-30T01:17Z"), ms("2011-12-30T10:00Z"), ms("2024-12-31T23:59Z"), end]
    pieces = [calendar.borders(zone, one, other) for one, other in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces), starts)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Madrid", "2024-03-31", 23),
        ("Europe/Madrid", "2024-10-27", 25),
        ("America/Santiago", "2024-09-08", 23),  # midnight does not occur
        ("America/Havana", "2024-11-03", 25),  # midnight occurs twice
        ("Asia/Beirut", "2024-10-26", 25),  # 23:00 occurs twice
        ("Africa/Cairo", "2024-04-26", 23),
        ("Pacific/Chatham", "2024-04-07", 25),
        ("Australia/Lord_Howe", "2024-10-06", 23),  # 23.5 hours long
        ("Australia/Lord_Howe", "2024-04-07", 24),  # 24.5 hours long
        ("Pacific/Apia", "2011-12-30", 0),  # left out
        ("Asia/Kathmandu", "2024-02-29", 24),
        ("America/St_Johns", "2006-10-29", 25),  # 00:00, back at 00:01, 00:00 again
    ],
)
def test_number_of_slots_of_a_local_date(zone, day, hours):
    starts, _ = calendar.slots(zone, ms(f"{day}T00:00Z") - 2 * DAY, ms(f"{day}T00:00Z") + 3 * DAY)
    assert (calendar.local_parts(zone, starts)["local_date"] == day).sum() == hours


@pytest.mark.parametrize(
    ("zone", "around", "lengths"),
    [
        ("Australia/Lord_Howe", "2024-10-05T15:30Z", {60, 90}),  # 02:00 -> 02:30: 01:00 to 03:00
        ("Australia/Lord_Howe", "2024-04-06T15:00Z", {60, 90}),  # 02:00 -> 01:30: 01:00 to 02:00
        ("Asia/Pyongyang", "2018-05-04T15:00Z", {60, 30}),  # 23:30 -> 00:00
        ("Asia/Pyongyang", "2015-08-14T15:00Z", {60, 90}),  # 00:00 -> 23:30
        ("America/Caracas", "2016-05-01T07:00Z", {60, 30}),  # 02:30 -> 03:00
        ("America/St_Johns", "2006-10-29T02:31Z", {60, 1, 59}),  # 00:01 -> 23:01
        ("Europe/Madrid", "2024-03-31T01:00Z", {60}),
    ],
)
def test_length_of_slots_around_a_change_of_the_clock(zone, around, lengths):
    starts, ends = calendar.slots(zone, ms(around) - 3 * HOUR, ms(around) + 3 * HOUR)
    assert set((ends - starts) // MINUTE) == lengths


def test_lord_howe_slot_by_slot():
    starts, ends = calendar.slots("Australia/Lord_Howe", ms("2024-10-05T13:30Z"), ms("2024-10-05T17:00Z"))
    assert calendar.local_parts("Australia/Lord_Howe", starts)["local_time"].tolist() == [
        "2024-10-06T00:00:00+10:30",
        "2024-10-06T01:00:00+10:30",
        "2024-10-06T03:00:00+11:00",
    ]
    assert ((ends - starts) // MINUTE).tolist() == [60, 90, 60]


@pytest.mark.parametrize(
    ("zone", "slot", "name", "reference"),
    [
        # 31 March less a month
        ("Europe/Madrid", "2024-03-31T12:00+02:00", "month", "2024-02-29T12:00+01:00"),
        ("Europe/Madrid", "2023-03-31T12:00+02:00", "month", "2023-02-28T12:00+01:00"),
        # 29 February less a year
        ("Europe/Madrid", "2024-02-29T12:00+01:00", "year", "2023-02-28T12:00+01:00"),
        ("Europe/Madrid", "2024-08-31T12:00+02:00", "six", "2024-02-29T12:00+01:00"),
        ("Europe/Madrid", "2024-05-31T12:00+02:00", "quar", "2024-02-29T12:00+01:00"),
        # 02:00 does not occur on the day of the change
        ("Europe/Madrid", "2024-04-01T02:00+02:00", "day", None),
        ("Europe/Madrid", "2024-04-30T02:00+02:00", "month", "2024-03-30T02:00+01:00"),
        # 02:00 occurs twice: first with first; the second has only one to compare with
        ("Europe/Madrid", "2024-10-27T02:00+02:00", "day", "2024-10-26T02:00+02:00"),
        ("Europe/Madrid", "2024-10-27T02:00+01:00", "day", "2024-10-26T02:00+02:00"),
        ("Europe/Madrid", "2024-10-27T02:00+01:00", "hour", "2024-10-27T02:00+02:00"),
        ("Europe/Madrid", "2024-10-28T02:00+01:00", "day", "2024-10-27T02:00+02:00"),
        # midnight occurs twice, on this date or on the other
        ("America/Havana", "2023-11-05T00:00-05:00", "year", "2022-11-05T00:00-04:00"),
        ("America/Havana", "2024-11-05T00:00-05:00", "year", "2023-11-05T00:00-04:00"),
        # the day that Samoa left out
        ("Pacific/Apia", "2011-12-31T12:00+14:00", "day", None),
        ("Pacific/Apia", "2011-12-31T00:00+14:00", "hour", "2011-12-29T23:00-10:00"),
        ("Pacific/Apia", "2012-01-30T12:00+14:00", "month", None),
        ("Asia/Kathmandu", "2024-01-01T00:00+05:45", "hour", "2023-12-31T23:00+05:45"),
    ],
)
def test_reference_slots_by_hand(zone, slot, name, reference):
    expected = calendar.MISSING if reference is None else ms(reference)
    assert calendar.reference_slots(zone, [ms(slot)])[name].tolist() == [expected]


def test_each_occurrence_compares_with_the_same_occurrence():
    # Iran's clock went back at the end of the same date every year
    zone = "Asia/Tehran"
    first, second = ms("2011-09-21T23:00+04:30"), ms("2011-09-21T23:00+03:30")
    assert calendar.reference_slots(zone, [first, second])["year"].tolist() == [
        ms("2010-09-21T23:00+04:30"),
        ms("2010-09-21T23:00+03:30"),
    ]
    assert calendar.reference_slots(zone, [first, second])["hour"].tolist() == [
        ms("2011-09-21T22:00+04:30"),
        first,
    ]


def test_rows_keep_their_order_and_repeat():
    starts = calendar.borders("Europe/Madrid", ms("2024-10-26T00:00Z"), ms("2024-10-29T00:00Z"))
    shuffled = np.random.default_rng(1).permutation(np.tile(starts, 3))
    together = calendar.reference_slots("Europe/Madrid", shuffled)
    parts = calendar.local_parts("Europe/Madrid", shuffled)
    for i in range(0, len(shuffled), 7):
        alone = calendar.reference_slots("Europe/Madrid", shuffled[i : i + 1])
        assert {name: there[i] for name, there in together.items()} == {n: t[0] for n, t in alone.items()}
        assert parts["local_time"][i] == local("Europe/Madrid", int(shuffled[i])).isoformat()


def test_a_slot_that_an_instant_lies_in_has_the_same_references():
    start = ms("2024-05-05T10:00+02:00")
    inside = calendar.reference_slots("Europe/Madrid", [start + 59 * MINUTE])
    assert {name: there[0] for name, there in inside.items()} == {
        name: there[0] for name, there in calendar.reference_slots("Europe/Madrid", [start]).items()
    }


def test_slots_covering_a_range():
    borders = calendar.slots_covering("Asia/Kathmandu", ms("2024-01-01T00:00Z"), ms("2024-01-01T01:00Z"))
    assert borders.tolist() == [ms("2023-12-31T23:15Z"), ms("2024-01-01T00:15Z"), ms("2024-01-01T01:15Z")]
    assert calendar.slots_covering("UTC", 0, HOUR).tolist() == [0, HOUR]
    assert calendar.slots_covering("UTC", 0, 0).tolist() == [0, HOUR]


def test_nothing_in_nothing_out():
    assert calendar.borders("UTC", 0, 0).tolist() == []
    assert len(calendar.local_parts("UTC", [])) == 0
    assert list(calendar.reference_slots("UTC", [])) == list(DIFFERENCES)
    assert list(calendar.period_starts("UTC", [])) == list(ACCUMULATORS)


def test_an_unknown_zone_is_named():
    with pytest.raises(ZoneInfoNotFoundError, match="Europe/Atlantis"):
        calendar.borders("Europe/Atlantis", 0, DAY)


def test_after_2037_the_rules_go_on():
    starts, _ = calendar.slots("Europe/Madrid", ms("2090-03-25T00:00Z"), ms("2090-03-28T00:00Z"))
    offsets = {local("Europe/Madrid", int(start)).utcoffset() for start in starts}
    assert offsets == {timedelta(hours=1), timedelta(hours=2)}
    assert calendar.local_parts("Europe/Madrid", starts)["local_time"].tolist() == [
        local("Europe/Madrid", int(start)).isoformat() for start in starts
    ]
