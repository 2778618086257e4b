"""What samples tell about their device: stale, flat, and in the dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pvanalytics
import pvlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pvanalytics.features import clipping
from pvanalytics.quality.gaps import stale_values_round

from selfgen.evidence import PRODUCES, dark_share, flat_share, samples_in, stale_share

HOUR = 3_600_000
MINUTE = 60_000
NOON = 1_781_956_800_000  # 2026-06-20T12:00Z


def stale(table: pd.DataFrame, slots: pd.DataFrame) -> np.ndarray:
    return stale_share(samples_in(table, slots))


def readings(values: list[float], step_ms: int = MINUTE, element: str = "P1", start: int = NOON) -> pd.DataFrame:
    return pd.DataFrame({"element_id": element, "time": start + np.arange(len(values)) * step_ms, "value": values})


HOURS = pd.DataFrame(
    {
        "element_id": ["P1", "P1", "P2", "P3"],
        "slot_start": [NOON, NOON + HOUR, NOON, NOON],
        "slot_end": [NOON + HOUR, NOON + 2 * HOUR, NOON + HOUR, NOON + HOUR],
    }
)


def test_stale_share_counts_the_samples_of_long_stretches() -> None:
    moving = [float(i) for i in range(1, 61)]
    table = pd.concat(
        [
            readings(moving[:30] + [312.0] * 30 + [312.0] * 60),  # half of the first hour, all of the next
            readings([0.0] * 60, element="P2"),  # nothing is not stale
        ]
    ).sample(frac=1, random_state=1)
    np.testing.assert_allclose(stale(table, HOURS), [0.5, 1.0, 0.0, np.nan])


def test_stale_share_does_not_depend_on_the_rest_or_on_owners() -> None:
    table = readings([5.0] * 90 + [6.0] * 90, step_ms=MINUTE)
    one = HOURS.iloc[[1]]
    assert stale(table, one) == stale(table, pd.concat([HOURS, one]))[-1]
    inside = table[(table["time"] >= NOON + HOUR) & (table["time"] < NOON + 2 * HOUR)]
    assert stale(inside, one) == stale(table, one)


def test_short_stretches_are_not_stale_at_any_rate() -> None:
    stepping_each_minute = [float(i // 60 + 1) for i in range(3600)]
    assert stale(readings(stepping_each_minute, step_ms=1000), HOURS)[0] == 0.0
    assert stale(readings([7.0] * 4, step_ms=15 * MINUTE), HOURS)[0] == 1.0
    assert stale(readings([7.0] * 3 + [8.0], step_ms=15 * MINUTE), HOURS)[0] == 0.0


def test_stale_share_of_nothing() -> None:
    assert stale(readings([]), HOURS.iloc[:0]).shape == (0,)
    assert np.isnan(stale(readings([]), HOURS)).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=60, max_size=60), st.integers(1, 60))
def test_stale_share_is_pvanalytics_own(values: list[float], repeated: int) -> None:
    values = [*values[: 60 - repeated], *[2.0] * repeated]
    expected = stale_values_round(pd.Series(values), window=16, decimals=3, mark="all").mean()
    assert stale(readings(values), HOURS.iloc[[0]])[0] == pytest.approx(expected)


# -- flat --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_minute", [0, 15, 30, 45])
def test_around_noon_no_two_hours_in_a_row_are_flat_and_at_a_limit_all_are(first_minute: int) -> None:
    start = NOON + (first_minute - 60) * MINUTE
    times = pd.date_range(pd.Timestamp(start, unit="ms", tz="UTC"), periods=120, freq="min")
    zenith = pvlib.solarposition.get_solarposition(times, 40.4, -3.7)["zenith"].to_numpy()
    table = pd.concat(
        [
            readings(list(3000 * np.cos(np.radians(zenith))), start=start),
            readings(list(2600 * (1 + 0.002 * np.sin(np.arange(120)))), element="P2", start=start),
            readings([0.0] * 120, element="P3", start=start),
        ]
    )
    starts = [start, start + HOUR] * 3
    slots = pd.DataFrame({"element_id": ["P1", "P1", "P2", "P2", "P3", "P3"], "slot_start": starts})
    noon, limit, nothing = flat_share(samples_in(table, slots.assign(slot_end=slots["slot_start"] + HOUR))).reshape(
        3, 2
    )
    assert noon.min() < 0.6
    assert (limit.tolist(), nothing.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_flat_hours_are_those_that_pvanalytics_finds_by_day() -> None:
    """On a real inverter at its limit, a quarter of an hour apart."""
    file = Path(pvanalytics.__file__).parent / "data" / "ac_power_inv_7539.csv"
    measured = pd.read_csv(file, index_col=0, parse_dates=True)["value_normalized"]
    measured = measured[~measured.index.duplicated()].asfreq("15min").fillna(0.0)
    hours = clipping.geometric(measured).groupby(measured.index.floor("h")).agg(["mean", "size"])
    starts = hours.index.as_unit("ms").asi8
    slots = pd.DataFrame({"element_id": "P1", "slot_start": starts, "slot_end": starts + HOUR})
    table = pd.DataFrame({"element_id": "P1", "time": measured.index.as_unit("ms").asi8, "value": measured.to_numpy()})
    high = (measured.groupby(measured.index.floor("h")).max() > 0.5).to_numpy()
    flat = (flat_share(samples_in(table, slots)) >= 0.9) & high
    clipped = (hours["mean"] == 1).to_numpy()
    assert clipped.sum() > 4
    assert flat[clipped].all()
    # by the hour a little more is found, at the edges of a flat stretch
    assert flat.sum() <= clipped.sum() + 6


#: W, of a panel of 3000 W.
LEAST = PRODUCES * 3000.0


# -- in the dark -------------------------------------------------------------------------------------


def hours_of_day(day: str, latitude: float = 40.4, longitude: float = -3.7) -> pd.DataFrame:
    starts = pd.date_range(day, periods=24, freq="h", tz="UTC").as_unit("ms").asi8
    return pd.DataFrame(
        {
            "element_id": "P1", "slot_start": starts, "slot_end": starts + HOUR, "latitude": latitude,
            "longitude": longitude,
        }
    )  # fmt: skip


def clear_day(slots: pd.DataFrame, behind_hours: float = 0.0) -> pd.DataFrame:
    """What a flat panel makes of a clear sky, by a clock that is so far behind."""
    times = np.arange(slots["slot_start"].min(), slots["slot_end"].max(), MINUTE)
    really = pd.to_datetime(times + round(behind_hours * HOUR), unit="ms", utc=True)
    place = slots.iloc[0]
    zenith = pvlib.solarposition.get_solarposition(really, place["latitude"], place["longitude"])["zenith"]
    ghi = pvlib.clearsky.haurwitz(zenith)["ghi"].to_numpy()
    return pd.DataFrame({"element_id": "P1", "time": times, "value": np.where(ghi > 0, 2.5 * ghi, -1.0)})


@pytest.mark.parametrize("day", ["2026-06-20", "2026-12-20", "2026-03-20"])
@pytest.mark.parametrize(("latitude", "longitude"), [(40.4, -3.7), (-31.5, 159.1), (65.0, 10.7)])
def test_a_right_clock_shows_nothing_in_the_dark(day: str, latitude: float, longitude: float) -> None:
    slots = hours_of_day(day, latitude, longitude)
    dark = dark_share(samples_in(clear_day(slots), slots), slots, LEAST)
    assert np.nansum(dark) == 0
    # a morning and an evening tell; there is no night in June at 65°
    assert np.sum(~np.isnan(dark)) == (0 if (latitude, day) == (65.0, "2026-06-20") else 2)


@pytest.mark.parametrize("day", ["2026-06-20", "2026-12-20"])
@pytest.mark.parametrize("hours", [1.0, 2.0, 6.0])
def test_a_clock_that_is_behind_shows_before_sunrise_and_one_ahead_after_sunset(day: str, hours: float) -> None:
    slots = hours_of_day(day)
    behind, ahead = (dark_share(samples_in(clear_day(slots, by), slots), slots, LEAST) for by in (hours, -hours))
    told = np.flatnonzero(~np.isnan(dark_share(samples_in(clear_day(slots), slots), slots, LEAST)))
    morning, evening = told
    assert (behind[morning] > 0.1, behind[evening] == 0) == (True, True)
    assert (ahead[evening] > 0.1, ahead[morning] == 0) == (True, True)


def test_the_dark_tells_nothing_without_place_or_rating() -> None:
    table = clear_day(hours_of_day("2026-06-20"), 3)
    slots = hours_of_day("2026-06-20")
    assert np.isnan(dark_share(samples_in(table, slots), slots, [np.nan] * len(slots))).all()
    slots = slots.assign(latitude=np.nan)
    assert np.isnan(dark_share(samples_in(table, slots), slots, LEAST)).all()
