"""What a changed hour makes to be computed again, against the calendar of every clock and the accounting itself."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfgen import calendar, energy, recompute
from selfgen.calendar import DAY_MS, HOUR_MS
from tests.unit import test_energy

ZONES = (*test_energy.ZONES, "Pacific/Kiritimati", "Etc/GMT+12")
FIRST_MS = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp()) * 1000
HOURS = st.integers(0, 2 * 366 * 24).map(lambda number: FIRST_MS + number * HOUR_MS)


def within(instants, parts):
    return np.logical_or.reduce([(instants >= start) & (instants < end) for start, end in parts])


@settings(max_examples=60, deadline=None)
@given(hour=HOURS, zone=st.sampled_from(ZONES))
@example(hour=FIRST_MS + (365 + 59) * DAY_MS + 20 * HOUR_MS, zone="Pacific/Kiritimati")  # 29 February 2024
@example(hour=FIRST_MS + 58 * DAY_MS, zone="Etc/GMT+12")  # 28 February 2023, which 29 to 31 March compare with
@example(hour=FIRST_MS + 364 * DAY_MS + 12 * HOUR_MS, zone="Pacific/Kiritimati")  # its next year has begun
@example(hour=FIRST_MS + 365 * DAY_MS + 11 * HOUR_MS, zone="Etc/GMT+12")  # its last year has not ended
def test_whatever_sums_or_compares_with_a_slot_of_the_hour_is_named(hour: int, zone: str) -> None:
    until = hour + 800 * DAY_MS
    named = recompute.dependents([(hour, hour + HOUR_MS)], until)
    changed = calendar.slots(zone, hour, hour + HOUR_MS)[0]
    later = calendar.slots(zone, hour, until)[0]
    year = calendar.period_numbers(zone, changed)["year"]
    for slot, number in zip(changed, year, strict=True):
        sums = later[(later >= slot) & (calendar.period_numbers(zone, later)["year"] == number)]
        assert within(sums, named).all()
    for references in calendar.reference_slots(zone, later).values():
        assert within(later[np.isin(references, changed)], named).all()
    assert all(start % HOUR_MS == end % HOUR_MS == 0 and start < end <= until for start, end in named)


def test_little_more_is_named_and_nothing_that_is_not_computed_yet() -> None:
    start = int(datetime(2024, 3, 5, 10, tzinfo=UTC).timestamp()) * 1000
    hour = [(start, start + HOUR_MS)]
    assert recompute.dependents(hour, start + HOUR_MS) == hour
    assert recompute.dependents(hour, start + 9 * DAY_MS) == [(start, start + 9 * DAY_MS)]
    named = recompute.dependents(hour, start + 800 * DAY_MS)
    assert [datetime.fromtimestamp(low / 1000, UTC).strftime("%Y-%m-%d") for low, _ in named] == [
        "2024-03-05",
        "2025-03-03",
    ]
    [(low, high)] = recompute.dependents(hour, start + 800 * DAY_MS, compares=False)
    before = start - 4 * HOUR_MS  # whether the sky was clear is told by the slots after it
    assert (low, datetime.fromtimestamp(high / 1000, UTC)) == (before, datetime(2026, 4, 1, tzinfo=UTC))


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    day=st.integers(0, 365),
    minute=st.integers(0, 59),
    seed=st.integers(0, 2**32 - 1),
)
@example(zone="Australia/Lord_Howe", day=91, minute=1, seed=1)  # the clock goes back by half an hour
def test_a_reading_changes_no_slot_but_those_named(zone: str, day: int, minute: int, seed: int) -> None:
    hour = FIRST_MS + day * DAY_MS + 15 * HOUR_MS
    late = hour + minute * 60_000
    random = np.random.default_rng(seed)
    times = np.unique(hour + random.integers(-4 * 60, 5 * 60, 150) * 60_000)
    times = times[times != late]
    before = pd.DataFrame({"element_id": "P", "time": times, "value": random.uniform(0, 900, len(times))})
    after = pd.concat([before, pd.DataFrame({"element_id": "P", "time": [late], "value": [450.0]})])
    owners = pd.DataFrame({"element_id": ["P"], "init": [0], "end": [energy.OPEN_END], "time_zone": [zone]})
    rows = [
        energy.account(readings, owners, hour - 6 * HOUR_MS, hour + 7 * HOUR_MS).set_index("slot_start")
        for readings in (before, after)
    ]
    rows = [frame.reindex(rows[0].index.union(rows[1].index)) for frame in rows]
    differ = rows[0].index[~(rows[0].eq(rows[1]) | (rows[0].isna() & rows[1].isna())).all(axis=1)].to_numpy()
    named = recompute.touched([hour])
    assert len(differ)
    assert {start // HOUR_MS * HOUR_MS for start in differ.tolist()} <= named
    assert named <= set(range(hour - 2 * HOUR_MS, hour + 2 * HOUR_MS, HOUR_MS))
    assert all(hour in recompute.readings_of(one) for one in named)


def test_ranges_and_hours_are_each_other_s_reverse() -> None:
    hours = [0, 3 * HOUR_MS, HOUR_MS, 7 * HOUR_MS]
    assert recompute.ranges(hours) == [(0, 2 * HOUR_MS), (3 * HOUR_MS, 4 * HOUR_MS), (7 * HOUR_MS, 8 * HOUR_MS)]
    assert recompute.hours(recompute.ranges(hours)) == sorted(hours)
