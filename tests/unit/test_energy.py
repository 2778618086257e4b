"""Energy accounting by hand, and against a plain reference that walks from border to border."""

from __future__ import annotations

import math
from datetime import datetime
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfgen import calendar, energy
from selfgen.columns import ACCUMULATORS, DIFFERENCES
from selfgen.energy import NO_OWNERS, NOBODY, OPEN_END, account, report_columns

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


T0 = ms("2024-06-01T10:00Z")


def readings(*rows: tuple, element_id: str = "P-1") -> pd.DataFrame:
    """Rows of (minutes after T0, W) or (minutes after T0, W, Wh)."""
    return pd.DataFrame(
        {
            "element_id": element_id,
            "time": [T0 + round(row[0] * MINUTE) for row in rows],
            "value": [float(row[1]) for row in rows],
            "energy": [float(row[2]) if len(row) > 2 else math.nan for row in rows],
        }
    )


def every_minute(start: int, minutes: int, watts: float, element_id: str = "P-1") -> pd.DataFrame:
    return pd.DataFrame(
        {"element_id": element_id, "time": start + np.arange(minutes + 1) * MINUTE, "value": float(watts)}
    )


def owners(*rows: tuple) -> pd.DataFrame:
    """Rows of (init, end, time zone) or (init, end, time zone, element)."""
    return pd.DataFrame(
        [(row[3] if len(row) > 3 else "P-1", *row[:3]) for row in rows],
        columns=["element_id", "init", "end", "time_zone"],
    )


def by_hour(data: pd.DataFrame, hours: int = 24, **options) -> pd.DataFrame:
    return account(data, NO_OWNERS, T0, T0 + hours * HOUR, **options)


# -- power ---------------------------------------------------------------------------------------------------


def test_constant_power_is_its_energy():
    rows = by_hour(every_minute(T0 - 5 * MINUTE, 130, 600))
    assert rows["power_gen"].tolist() == pytest.approx([600, 600, 50], rel=1e-12)
    assert rows["completeness"].tolist() == pytest.approx([1, 1, 5 / 60])
    assert rows["samples"].tolist() == [60, 60, 6]
    assert rows["power_max"].tolist() == [600, 600, 600]
    assert rows["estimated_gen"].tolist() == [0, 0, 0]
    assert rows["slot_start"].tolist() == [T0, T0 + HOUR, T0 + 2 * HOUR]
    assert rows["slot_end"].tolist() == [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]
    assert rows["owner"].tolist() == [NOBODY] * 3
    assert rows.dtypes.to_dict() == {name: np.dtype(kind) for name, kind in energy.ROW_TYPES.items()}


def test_a_gap_over_the_border_is_split_where_the_border_cuts_the_line():
    # from 0 W at 10:58 to 400 W at 11:02: 200 W at the border
    rows = by_hour(readings((58, 0), (62, 400)))
    assert rows["power_gen"].tolist() == pytest.approx([100 * 2 / 60, 300 * 2 / 60], rel=1e-12)
    assert rows["samples"].tolist() == [1, 1]
    assert rows["power_max"].tolist() == [0, 400]


def test_a_gap_of_just_max_gap_counts_and_a_longer_one_gives_nothing():
    rows = by_hour(readings((0, 1200), (5, 1200), (10.001, 1200), (12.001, 1200)))
    assert rows["power_gen"].tolist() == pytest.approx([100 + 40], rel=1e-12)
    assert rows["completeness"].tolist() == pytest.approx([7 / 60])
    assert by_hour(readings((0, 1200), (5, 1200)), max_gap_s=299.999)["power_gen"].tolist() == [0]


def test_below_zero_counts_as_zero():
    rows = by_hour(readings((0, -50), (1, -1), (2, 600)))
    assert rows["power_gen"].tolist() == pytest.approx([300 / 60])
    assert by_hour(readings((0, -50), (1, -1)))["power_max"].tolist() == [0]


def test_a_lone_sample_is_a_row_without_energy():
    rows = by_hour(readings((30, 500)))
    assert rows[["power_gen", "completeness", "samples", "power_max"]].to_numpy().tolist() == [[0, 0, 1, 500]]


def test_only_slots_that_start_in_the_range():
    data = every_minute(T0 - 2 * HOUR, 360, 600)
    rows = account(data, NO_OWNERS, T0 + MINUTE, T0 + HOUR + MINUTE)
    assert rows["slot_start"].tolist() == [T0 + HOUR]
    assert len(account(data, NO_OWNERS, T0 + MINUTE, T0 + HOUR)) == 0


def test_no_readings_no_rows():
    empty = readings((0, 0)).iloc[:0]
    assert by_hour(empty).dtypes.to_dict() == {name: np.dtype(kind) for name, kind in energy.ROW_TYPES.items()}
    assert len(by_hour(empty)) == 0


def test_the_same_reading_twice_counts_once():
    data = every_minute(T0, 60, 600)
    twice = pd.concat([data, data.iloc[10:50], data.iloc[20:30]])
    pd.testing.assert_frame_equal(by_hour(twice), by_hour(data), check_exact=True)


# -- owners and clocks ---------------------------------------------------------------------------------------


def test_a_slot_that_changes_hands_gives_each_owner_its_part():
    data = every_minute(T0 - 5 * MINUTE, 75, 600)
    of = owners((0, T0 + 20 * MINUTE + 30 * SECOND, "UTC"), (T0 + 20 * MINUTE + 30 * SECOND, OPEN_END, "UTC"))
    of.index = [7, 3]
    rows = account(data, of, T0, T0 + HOUR)
    assert rows["owner"].tolist() == [7, 3]
    assert rows["power_gen"].tolist() == pytest.approx([205, 395], rel=1e-12)
    assert rows["completeness"].tolist() == pytest.approx([1, 1], rel=1e-12)
    assert rows["samples"].tolist() == [21, 39]
    assert rows["slot_start"].tolist() == [T0, T0]
    assert rows["slot_end"].tolist() == [T0 + HOUR, T0 + HOUR]


def test_a_change_on_the_hour_leaves_no_trace_in_the_other_slot():
    data = every_minute(T0, 120, 600)
    rows = account(data, owners((0, T0 + HOUR, "UTC"), (T0 + HOUR, OPEN_END, "UTC")), T0, T0 + 2 * HOUR)
    assert rows[["owner", "slot_start"]].to_numpy().tolist() == [[0, T0], [1, T0 + HOUR]]
    assert rows["power_gen"].tolist() == pytest.approx([600, 600])


def test_what_nobody_owns_is_kept_apart():
    data = every_minute(T0 - 5 * MINUTE, 70, 600)
    of = owners((T0 + 10 * MINUTE, T0 + 20 * MINUTE, "Europe/Madrid"), (T0 + 50 * MINUTE, OPEN_END, "UTC"))
    rows = account(data, of, T0, T0 + HOUR)
    assert rows["owner"].tolist() == [NOBODY, 0, NOBODY, 1]
    assert rows["power_gen"].tolist() == pytest.approx([100, 100, 300, 100], rel=1e-12)
    assert rows["completeness"].tolist() == pytest.approx([1, 1, 1, 1])


def test_two_owners_on_two_clocks():
    data = every_minute(T0 - HOUR, 240, 600)
    of = owners((0, T0 + 30 * MINUTE, "UTC"), (T0 + 30 * MINUTE, OPEN_END, "Asia/Kathmandu"))
    rows = account(data, of, T0 - HOUR, T0 + 2 * HOUR)
    # Kathmandu's slots start at a quarter past
    assert rows[["owner", "slot_start"]].to_numpy().tolist() == [
        [0, T0 - HOUR],
        [0, T0],
        [1, T0 + 15 * MINUTE],
        [1, T0 + 75 * MINUTE],
    ]
    assert rows["power_gen"].tolist() == pytest.approx([600, 300, 450, 600])
    assert rows["completeness"].tolist() == pytest.approx([1, 1, 1, 1])


def test_a_slot_of_ninety_minutes():
    start = ms("2024-10-06T01:00+10:30")
    data = every_minute(start - HOUR, 240, 600)
    rows = account(data, owners((0, OPEN_END, "Australia/Lord_Howe")), start, start + 2 * HOUR)
    assert rows["power_gen"].tolist() == pytest.approx([900, 600])
    assert rows["completeness"].tolist() == pytest.approx([1, 1])
    assert ((rows["slot_end"] - rows["slot_start"]) // MINUTE).tolist() == [90, 60]


def test_overlapping_owners_are_refused():
    of = owners((0, T0 + 1, "UTC"), (T0, OPEN_END, "UTC"))
    with pytest.raises(ValueError, match="P-1"):
        account(readings((0, 1)), of, T0, T0 + HOUR)


def test_elements_do_not_mix():
    one, other = every_minute(T0, 60, 600, "A"), every_minute(T0 + MINUTE, 60, 1200, "B")
    together = by_hour(pd.concat([other, one]))
    alone = pd.concat([by_hour(one), by_hour(other)], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
    assert together["element_id"].tolist() == ["A", "A", "B", "B"]


# -- the meter -----------------------------------------------------------------------------------------------


def test_the_meter_decides_where_it_is_present():
    rows = by_hour(readings((56, 600, 1000), (58, 600, 1100), (62, 600, 1140), (63, 600)))
    # 100 Wh; 40 Wh halved by the border; then the meter is silent: a minute of 600 W
    assert rows["power_gen"].tolist() == pytest.approx([120, 20 + 10])
    assert rows["estimated_gen"].tolist() == [0, 0]
    assert rows["completeness"].tolist() == pytest.approx([4 / 60, 3 / 60])


@pytest.mark.parametrize(
    ("last", "new", "gained", "resets"),
    [
        (1000, 1000, 0, 0),
        (1000, 900.1, 0, 0),  # less than a tenth: jitter
        (1000, 900, 900, 1),  # a tenth or more: the meter began anew
        (1000, 7, 7, 1),
        (1000, 0, 0, 1),
        (0, 5, 5, 0),
        (0, 0, 0, 0),
    ],
)
def test_a_falling_meter_jitters_or_begins_anew(last, new, gained, resets):
    rows = by_hour(readings((10, 600, last), (12, 600, new)))
    assert rows["power_gen"].tolist() == pytest.approx([gained])
    assert rows["meter_resets"].tolist() == [resets]
    assert rows["completeness"].tolist() == pytest.approx([2 / 60])


def test_a_reset_belongs_to_the_slot_of_the_new_reading():
    rows = by_hour(readings((59, 0, 1000), (61, 0, 10)))
    assert rows["meter_resets"].tolist() == [0, 1]
    assert rows["power_gen"].tolist() == pytest.approx([5, 5])


def test_a_backlog_is_spread_over_the_gap_by_time():
    rows = by_hour(readings((29, 600, 990), (30, 600, 1000), (150, 600, 1600), (151, 600, 1610)))
    assert rows["power_gen"].tolist() == pytest.approx([10 + 150, 300, 150 + 10])
    assert rows["estimated_gen"].tolist() == pytest.approx([150, 300, 150])
    assert rows["completeness"].tolist() == pytest.approx([1 / 60, 0, 1 / 60])
    assert rows["samples"].tolist() == [2, 0, 2]
    assert rows["power_max"].isna().tolist() == [False, True, False]


def test_a_backlog_is_spread_by_the_expected_energy():
    asked = []

    def expected(slots: pd.DataFrame) -> list[float]:
        asked.append(slots)
        return [200, 500, 0, 100]

    rows = by_hour(readings((30, 600, 1000), (210, 600, 1600)), expected=expected)
    # weights: half of 200, 500, 0, half of 100
    assert rows["power_gen"].tolist() == pytest.approx([600 * 100 / 650, 600 * 500 / 650, 600 * 50 / 650])
    assert rows["slot_start"].tolist() == [T0, T0 + HOUR, T0 + 3 * HOUR]
    assert asked[0].to_dict("list") == {
        "element_id": ["P-1"] * 4,
        "owner": [NOBODY] * 4,
        "slot_start": [T0 + i * HOUR for i in range(4)],
        "slot_end": [T0 + i * HOUR for i in range(1, 5)],
    }


@pytest.mark.parametrize(
    ("expected", "shares"),
    [
        ([math.nan] * 4, [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        ([0, 0, 0, 0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        # without expectation: by time; the rest of the energy by the expectation of the rest
        ([math.nan, 100, 300, math.nan], [1 / 6, 2 / 3 / 4, 2 / 3 * 3 / 4, 1 / 6]),
        ([-5, 100, 300, -5], [1 / 4, 3 / 4]),
    ],
)
def test_where_there_is_no_expectation_time_takes_its_place(expected, shares):
    rows = by_hour(readings((30, 0, 1000), (210, 0, 1600)), expected=lambda slots: expected)
    assert rows.loc[rows["power_gen"] > 0, "power_gen"].tolist() == pytest.approx([600 * share for share in shares])
    assert rows["power_gen"].sum() == pytest.approx(600, rel=1e-12)


def test_a_backlog_over_a_change_of_owner():
    of = owners((0, T0 + 90 * MINUTE, "UTC"), (T0 + 90 * MINUTE, OPEN_END, "Asia/Kathmandu"))
    rows = account(readings((0, 0, 0), (240, 0, 2400)), of, T0, T0 + DAY)
    assert rows["owner"].tolist() == [0, 0, 1, 1, 1]
    assert rows["power_gen"].tolist() == pytest.approx([600, 300, 450, 600, 450])


def test_a_long_gap_in_which_the_meter_stood_still_gives_no_row():
    rows = by_hour(readings((0, 0, 1000), (300, 0, 1000)))
    assert rows["slot_start"].tolist() == [T0, T0 + 5 * HOUR]
    assert rows["power_gen"].tolist() == [0, 0]


def test_a_column_of_nothing_is_no_meter():
    data = every_minute(T0, 60, 600)
    pd.testing.assert_frame_equal(by_hour(data.assign(energy=None)), by_hour(data), check_exact=True)


# -- against the reference -----------------------------------------------------------------------------------

ZONES = (
    "UTC",
    "Europe/Madrid",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Santiago",
    "America/St_Johns",
)
MAX_GAP = 300 * SECOND


def weighed(shares: list[float], weights: list[float]) -> list[float]:
    known = [i for i, weight in enumerate(weights) if not math.isnan(weight)]
    weight_sum, share_sum = sum(weights[i] for i in known), sum(shares[i] for i in known)
    if weight_sum == 0:
        return shares
    return [share_sum * weights[i] / weight_sum if i in known else share for i, share in enumerate(shares)]


def reference(data: pd.DataFrame, of: pd.DataFrame, start: int, end: int, expected=None) -> dict[tuple, dict]:
    """Walk every gap from border to border, one at a time."""
    rows: dict[tuple, dict] = {}

    periods = {name: list(rows.itertuples()) for name, rows in of.groupby("element_id")}

    @cache
    def place(element_id: str, instant: int) -> tuple[int, int, int, int, int]:
        owner, zone, since, until = NOBODY, "UTC", -math.inf, math.inf
        for period in periods.get(element_id, []):
            if period.init <= instant < period.end:
                owner, zone, since, until = period.Index, period.time_zone, period.init, period.end
                break
            if period.end <= instant:
                since = max(since, period.end)
            else:
                until = min(until, period.init)
        slot_start, slot_end = (int(border) for border in calendar.slots_covering(zone, instant, instant + 1))
        return owner, slot_start, slot_end, max(since, slot_start), min(until, slot_end)

    def row(element_id: str, instant: int) -> dict:
        owner, slot_start, slot_end, since, until = place(element_id, instant)
        return rows.setdefault(
            (element_id, owner, slot_start, since),
            {"owned": until - since, "end": slot_end, "gen": 0.0, "estimated": 0.0, "covered": 0}
            | {"samples": 0, "resets": 0, "max": math.nan},
        )

    for element_id, of_element in data.groupby("element_id"):
        samples = sorted(of_element[["time", "value", "energy"]].itertuples(index=False))
        for sample in samples:
            here = row(element_id, sample.time)
            here["samples"] += 1
            here["max"] = np.fmax(here["max"], max(sample.value, 0.0))
        for one, other in pairwise(samples):
            length = other.time - one.time
            metered = not math.isnan(one.energy) and not math.isnan(other.energy)
            gain = 0.0
            if metered:
                gain = other.energy - one.energy
                if gain < 0:
                    reset = -gain >= 0.1 * one.energy
                    gain = other.energy if reset else 0.0
                    row(element_id, other.time)["resets"] += reset
            if length > MAX_GAP and gain == 0:
                continue
            cuts = [one.time]
            while cuts[-1] < other.time:
                cuts.append(min(other.time, int(place(element_id, cuts[-1])[4])))
            pieces = list(pairwise(cuts))
            shares = [(b - a) / length for a, b in pieces]
            if length > MAX_GAP and expected is not None:
                places = [place(element_id, a) for a, _ in pieces]
                weights = [
                    expected(at) * (b - a) / (until - at)
                    for (a, b), (_, at, until, _, _) in zip(pieces, places, strict=True)
                ]
                shares = weighed(shares, weights)
            for (a, b), share in zip(pieces, shares, strict=True):
                if metered:
                    amount = gain * share
                else:
                    p, q = max(one.value, 0.0), max(other.value, 0.0)
                    middle = p + (q - p) * ((a + b) / 2 - one.time) / length
                    amount = middle * (b - a) / HOUR
                if length > MAX_GAP and amount == 0:
                    continue
                here = row(element_id, a)
                here["gen"] += amount
                here["estimated"] += amount if length > MAX_GAP else 0.0
                here["covered"] += 0 if length > MAX_GAP else b - a
    in_order = sorted(rows.items(), key=lambda item: (item[0][0], item[0][3]))
    return {key: row for key, row in in_order if start <= key[2] < end}


@st.composite
def histories(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Readings and owners of up to three elements around an hour in which some clock changes."""
    around = draw(
        st.sampled_from(
            [
                T0,
                ms("2024-03-31T01:00Z"),
                ms("2024-10-05T15:30Z"),
                ms("2024-04-06T15:00Z"),
                ms("2006-10-29T02:31Z"),
            ]
        )
    )
    gap = st.one_of(
        st.integers(1, 120 * SECOND),
        st.sampled_from([MINUTE, MAX_GAP - 1, MAX_GAP, MAX_GAP + 1, HOUR, 90 * MINUTE]),
        st.integers(MAX_GAP, 8 * HOUR),
    )
    value = st.one_of(st.floats(-100, 5000), st.just(0.0))
    # the meter: silent, going on, jittering, beginning anew
    step = st.sampled_from([None, 0.0, 1.5, 20.0, 700.0, -0.01, -0.5, -1.0])
    frames, periods = [], []
    for element_id in draw(st.sampled_from([["A"], ["A", "B"], ["A", "B", "C"]])):
        samples = draw(st.lists(st.tuples(gap, value, step), min_size=1, max_size=25))
        time = around - 3 * HOUR + np.cumsum([sample[0] for sample in samples])
        meter, total = [], 1000.0
        for _, _, change in samples:
            total = total if change is None else total + change if change >= 0 else total * (1 + change)
            meter.append(math.nan if change is None else total)
        values = [sample[1] for sample in samples]
        frames.append(pd.DataFrame({"element_id": element_id, "time": time, "value": values, "energy": meter}))
        cuts = sorted(draw(st.sets(st.one_of(st.integers(-4 * HOUR, 9 * HOUR), st.just(-3 * HOUR)), max_size=4)))
        for init, end in pairwise([*(around + cut for cut in cuts), OPEN_END]):
            if zone := draw(st.sampled_from([None, *ZONES])):
                periods.append((init, end, zone, element_id))
    return pd.concat(frames, ignore_index=True), owners(*periods).astype({"init": np.int64, "end": np.int64})


def bounds(data: pd.DataFrame) -> tuple[int, int]:
    return int(data["time"].min()) // HOUR * HOUR - 2 * HOUR, int(data["time"].max()) // HOUR * HOUR + 2 * HOUR


def expectation(slot_start: int) -> float:
    """Some expectation of each slot: none, zero, more."""
    return [math.nan, 0.0, 100.0, 350.0, 20.0][slot_start // MINUTE * 7 % 5]


@settings(max_examples=100, deadline=None)
@given(histories(), st.booleans())
def test_every_row_is_that_of_the_reference(history, with_expectation):
    data, of = history
    start, end = bounds(data)
    expected = (lambda slots: [expectation(at) for at in slots["slot_start"]]) if with_expectation else None
    rows = account(data, of, start, end, expected=expected)
    wanted = reference(data, of, start, end, expectation if with_expectation else None)
    keys = list(zip(rows["element_id"], rows["owner"], rows["slot_start"], strict=True))
    assert keys == [key[:3] for key in wanted]
    for row, want in zip(rows.itertuples(), wanted.values(), strict=True):
        assert row.slot_end == want["end"]
        assert row.power_gen == pytest.approx(want["gen"], rel=1e-9, abs=1e-9)
        assert row.estimated_gen == pytest.approx(want["estimated"], rel=1e-9, abs=1e-9)
        assert row.completeness == pytest.approx(want["covered"] / want["owned"], rel=1e-12)
        assert (row.samples, row.meter_resets) == (want["samples"], want["resets"])
        assert row.power_max == want["max"] or (math.isnan(row.power_max) and math.isnan(want["max"]))


@settings(max_examples=60, deadline=None)
@given(histories())
def test_nothing_is_lost_or_invented(history):
    data, of = history
    start, end = bounds(data)
    total = []
    for _, one in data.groupby("element_id"):
        time, power = one["time"].to_numpy(), one["value"].clip(lower=0).to_numpy()
        short = np.diff(time) <= MAX_GAP
        total.extend((np.diff(time) / HOUR * (power[1:] + power[:-1]) / 2)[short])
    rows = account(data.drop(columns="energy"), of, start, end)
    assert math.fsum(rows["power_gen"]) == pytest.approx(math.fsum(total), rel=1e-12, abs=1e-12)
    assert rows["samples"].sum() == len(data)
    assert rows["completeness"].between(0, 1 + 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_order_and_range_change_no_bit(history, random):
    data, of = history
    start, end = bounds(data)
    whole = account(data, of, start, end)

    shuffled = list(range(len(data)))
    random.shuffle(shuffled)
    pd.testing.assert_frame_equal(
        account(data.iloc[shuffled], of.sample(frac=1, random_state=1), start, end), whole, check_exact=True
    )
    # hour by hour; the meter needs its neighbours, however far
    hours = [account(data, of, hour, hour + HOUR) for hour in range(start, end, HOUR)]
    assert_same_rows(hours, whole)
    # hour by hour from no more than the readings asked for
    power = data.drop(columns="energy")
    hours = []
    for hour in range(start, end, HOUR):
        first, last = energy.reading_range(of["time_zone"], hour, hour + HOUR)
        near = power[power["time"].between(first, last, inclusive="left")]
        hours.append(account(near, of, hour, hour + HOUR))
    assert_same_rows(hours, account(power, of, start, end))


def assert_same_rows(parts: list[pd.DataFrame], whole: pd.DataFrame) -> None:
    together = pd.concat([part for part in parts if len(part)], ignore_index=True)
    key = ["element_id", "owner", "slot_start"]
    pd.testing.assert_frame_equal(
        together.sort_values(key, ignore_index=True),
        whole.sort_values(key, ignore_index=True),
        check_exact=True,
    )


def test_a_year_of_a_real_shape_against_pandas():
    rng = np.random.default_rng(7)
    time = pd.date_range("2023-12-31", "2025-01-01", freq="5min", tz="UTC")
    hour = (time.hour + time.minute / 60).to_numpy()
    power = np.clip(np.sin((hour - 6) / 12 * np.pi), -0.01, None) * 4000 * rng.uniform(0.2, 1, len(time))
    data = pd.DataFrame({"element_id": "P", "time": time.as_unit("ms").asi8, "value": power})
    start, end = ms("2024-01-01T00:00+01:00"), ms("2025-01-01T00:00+01:00")
    rows = account(data, owners((0, OPEN_END, "Europe/Madrid", "P")), start, end)
    assert len(rows) == 366 * 24
    assert (rows["completeness"] == 1).all()
    # samples lie on the borders: the trapezoid of each local day by pandas
    series = pd.Series(power.clip(min=0), index=time.tz_convert("Europe/Madrid"))
    gaps = ((series + series.shift(-1)) / 2 / 12).loc["2024"]
    daily = gaps.groupby(gaps.index.date).sum()
    found = rows.groupby(calendar.local_parts("Europe/Madrid", rows["slot_start"])["local_date"])["power_gen"].sum()
    assert found.to_numpy() == pytest.approx(daily.to_numpy(), rel=1e-12)


# -- differences and accumulators ----------------------------------------------------------------------------


def report_rows(zone: str, start: str, days: int, *, element="P-1", client="C-1", seed=0) -> pd.DataFrame:
    """A row for each slot, some left out."""
    rng = np.random.default_rng(seed)
    starts = calendar.borders(zone, ms(start), ms(start) + days * DAY)
    starts = starts[rng.uniform(size=len(starts)) > 0.1]
    return pd.DataFrame(
        {
            "element_id": element,
            "client_id": client,
            "time_zone": zone,
            "slot_start": starts,
            "power_gen": rng.uniform(0, 3000, len(starts)),
        }
    )


@pytest.fixture(scope="module")
def reports() -> pd.DataFrame:
    parts = [
        report_rows("Europe/Madrid", "2023-01-01T00:00Z", 500, element="P-1", client="C-1", seed=1),
        report_rows("Australia/Lord_Howe", "2023-02-01T00:00Z", 500, element="P-2", client="C-1", seed=2),
        report_rows("America/Santiago", "2023-03-01T00:00Z", 200, element="P-3", client="C-2", seed=3),
        report_rows("Asia/Kathmandu", "2023-09-17T00:00Z", 300, element="P-3", client="C-3", seed=4),
        report_rows("UTC", "2023-12-01T00:00Z", 40, element="P-4", client=None, seed=5).assign(time_zone=None),
    ]
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=1)


def test_differences_compare_with_the_reference_slots_of_the_same_client(reports):
    columns = report_columns(reports)
    assert columns.index.equals(reports.index)
    energy_of = {
        (row.element_id, row.client_id, row.slot_start): row.power_gen for row in reports.itertuples(index=False)
    }
    compared = 0
    for row, (_, found) in zip(reports.itertuples(index=False), columns.iterrows(), strict=True):
        if compared > 3000:
            break
        references = calendar.reference_slots(row.time_zone or "UTC", [row.slot_start])
        for name in DIFFERENCES:
            other = energy_of.get((row.element_id, row.client_id, int(references[name][0])))
            if other is None:
                assert math.isnan(found[f"diff_last_{name}"])
            else:
                assert found[f"diff_last_{name}"] == row.power_gen - other
                compared += 1
    assert compared > 3000


def test_accumulators_restart_with_the_local_period(reports):
    columns = report_columns(reports)
    sums: dict[tuple, float] = {}
    ordered = reports.sort_values("slot_start")
    parts = pd.concat(
        [
            calendar.local_parts(zone, rows["slot_start"]).set_index(rows.index)
            for zone, rows in ordered.groupby(ordered["time_zone"].fillna("UTC"))
        ]
    )
    ordered, found = ordered.join(parts["local_date"]), columns.loc[ordered.index].itertuples(index=False)
    for row, added in zip(ordered.itertuples(index=False), found, strict=True):
        day = row.local_date
        year, month = int(day[:4]), int(day[5:7])
        periods = (day, day[:7], (year, (month - 1) // 3), (year, (month - 1) // 6, "semester"), year)
        for name, period in zip(ACCUMULATORS, periods, strict=True):
            key = (row.element_id, row.client_id, name, period)
            sums[key] = sums.get(key, 0.0) + row.power_gen
            assert getattr(added, f"acum_{name}") == sums[key]


def test_a_history_in_pieces_gives_the_same_bits(reports):
    whole = report_columns(reports)
    cuts = [
        ms("2022-12-31T00:00Z"),
        ms("2023-06-15T07:00Z"),
        ms("2023-06-15T08:00Z"),
        ms("2023-12-31T23:00Z"),
    ]
    previous, parts = None, []
    for first, end in pairwise([*cuts, OPEN_END]):
        rows = reports[reports["slot_start"].between(first, end, inclusive="left")]
        columns = report_columns(rows, references=reports[reports["slot_start"] < end], previous=previous)
        parts.append(columns)
        done = rows.join(columns)
        previous = (
            pd.concat([previous, done])
            .sort_values("slot_start")
            .groupby(["element_id", "client_id"], dropna=False)
            .tail(1)
        )
    pd.testing.assert_frame_equal(pd.concat(parts).loc[whole.index], whole, check_exact=True)


def test_a_client_that_changes_its_time_zone_goes_on_with_its_day():
    rows = pd.DataFrame(
        {
            "element_id": "P-1",
            "client_id": "C-1",
            "time_zone": ["Europe/Madrid", "Europe/London", "Europe/London"],
            "slot_start": [ms("2024-05-01T21:00Z"), ms("2024-05-01T22:00Z"), ms("2024-05-01T23:00Z")],
            "power_gen": [1.0, 10.0, 100.0],
        }
    )
    columns = report_columns(rows)
    assert columns["acum_day"].tolist() == [1, 11, 100]
    assert columns["acum_month"].tolist() == [1, 11, 111]
    assert columns["diff_last_hour"].tolist()[1:] == [9, 90]


def test_an_owner_that_comes_back_within_the_slot():
    rows = pd.DataFrame(
        {
            "element_id": "P-1",
            "client_id": ["C-1", "C-2", "C-1", "C-1"],
            "time_zone": "UTC",
            "slot_start": [T0, T0, T0, T0 + HOUR],
            "power_gen": [1.0, 50.0, 2.0, 10.0],
        }
    )
    columns = report_columns(rows)
    assert columns["diff_last_hour"].tolist()[3] == 7
    assert columns["acum_day"].tolist() == [1, 50, 3, 13]


def test_references_given_twice_count_once():
    rows = report_rows("UTC", "2024-01-01T00:00Z", 40)
    pd.testing.assert_frame_equal(
        report_columns(rows, references=pd.concat([rows.iloc[:100], rows])).iloc[200:],
        report_columns(rows).iloc[200:],
        check_exact=True,
    )


def test_no_rows_no_columns():
    rows = report_rows("UTC", "2024-01-01T00:00Z", 3)
    empty = report_columns(rows.iloc[:0], references=rows, previous=rows.join(report_columns(rows)).tail(1))
    assert len(empty) == 0
    assert list(empty) == [f"diff_last_{n}" for n in DIFFERENCES] + [f"acum_{n}" for n in ACCUMULATORS]
    assert report_columns(rows, references=rows.iloc[:0]).equals(report_columns(rows))
