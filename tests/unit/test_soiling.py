"""Dirt, shade and drift of light sensors: told apart from clouds, haze and the seasons of the air."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pvanalytics
import pvlib
import pytest

from benchmarks.alarms import history, readings
from flink_jobs.rich_sensor_light import with_contributions
from flink_jobs.slots import LIGHT, make_slots, milliseconds
from selfgen import soiling
from selfgen.alarms import slot_alarms
from selfgen.evidence import samples_in, steady
from selfgen.simulation.fleet import make_fleet
from selfgen.simulation.generate import Part
from selfgen.simulation.truth import Fault
from selfgen.solar import HOUR_MS

DAY = 24 * HOUR_MS
FIRST = 1_775_001_600_000  # 2026-04-01
HOURS = np.arange(7, 18)  # in which the sun is high enough


# -- whether the light has the shape of a clear sky's -------------------------------------------------


@cache
def measured(name: str, column: str) -> pd.Series:
    """Return irradiance that was measured in Golden, Colorado."""
    frame = pd.read_csv(Path(pvanalytics.__file__).parent / "data" / name, index_col=0, parse_dates=True)
    series = frame[column].dropna()
    return series if series.index.tz is not None else series.tz_localize("Etc/GMT+7")


def slots_of(series: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    time = series.index.as_unit("ms").asi8
    starts = np.unique(time // HOUR_MS * HOUR_MS)
    place = {"element_id": "l", "latitude": 39.742, "longitude": -105.18}
    table = pd.DataFrame({"element_id": "l", "time": time, "value": series.to_numpy()})
    return table, pd.DataFrame({"slot_start": starts, "slot_end": starts + HOUR_MS, **place})


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("midc_bms_ghi_20220120.csv", "Global CMP22 (vent/cor) [W/m^2]"),
        ("rmis_weather_data.csv", "Global Horizontal"),
    ],
)
def test_steady_hours_of_a_measured_sky_are_those_that_pvlib_finds_clear(name: str, column: str) -> None:
    series = measured(name, column)
    sky = pvlib.location.Location(39.742, -105.18, altitude=1828).get_clearsky(series.index)["ghi"]
    every = pd.DataFrame({"value": series, "sky": sky}).asfreq(series.index[1] - series.index[0]).ffill()
    found = pvlib.clearsky.detect_clearsky(every["value"], every["sky"], infer_limits=True)
    table, slots = slots_of(series)
    steadily = steady(samples_in(table, slots), slots)
    by_slot = found.reindex(series.index).astype(float).groupby(table["time"].to_numpy() // HOUR_MS).mean().to_numpy()
    sure = np.isfinite(steadily) & ((by_slot == 0) | (by_slot == 1))
    even_cloud = (series.groupby(table["time"].to_numpy() // HOUR_MS).mean().to_numpy() < 100) & (steadily == 1)
    assert sure.sum() >= 4
    np.testing.assert_array_equal(steadily[sure & ~even_cloud], by_slot[sure & ~even_cloud])
    # of each slot alone the same, and of a dirty sensor
    alone = [steady(samples_in(table, one), one)[0] for one in (slots[row : row + 1] for row in range(len(slots)))]
    np.testing.assert_array_equal(alone, steadily)
    dirty = steady(samples_in(table.assign(value=0.8 * table["value"]), slots), slots)
    assert (dirty[steadily == 1] == 1).all()


def test_nothing_is_said_of_a_low_sun_of_too_few_samples_or_of_nowhere() -> None:
    table, slots = slots_of(measured("midc_bms_ghi_20220120.csv", "Global CMP22 (vent/cor) [W/m^2]"))
    hour = (slots["slot_start"] // HOUR_MS - 7) % 24
    assert np.isnan(steady(samples_in(table, slots), slots)[(hour < 9) | (hour > 14)]).all()
    assert np.isnan(steady(samples_in(table[::15], slots), slots)).all()
    assert np.isnan(steady(samples_in(table, slots), slots.assign(latitude=np.nan))).all()
    assert len(steady(samples_in(table[:0], slots[:0]), slots[:0])) == 0


# -- sequences of slots -------------------------------------------------------------------------------


def days(
    count: int, share: np.ndarray | float = 1.0, steadily: np.ndarray | float = 1.0, **more: object
) -> pd.DataFrame:
    """Return slots of days; `share` of the clear sky's light, and whether it was steady, by (day, hour)."""
    starts = FIRST + (np.arange(count) * DAY)[:, np.newaxis] + HOURS * HOUR_MS
    shape = starts.shape
    expected = np.broadcast_to(900 * np.sin(np.pi * (HOURS - 5.5) / 14), shape)
    wide = {"share": share, "steady": steadily}
    by_slot = {name: np.broadcast_to(np.asarray(of, np.float64), shape).ravel() for name, of in wide.items()}
    frame = pd.DataFrame(
        {
            "light_id": "L1",
            "slot_start": starts.ravel(),
            "slot_end": starts.ravel() + HOUR_MS,
            "generated": by_slot["share"] * expected.ravel(),
            "clear_beam": 0.8 * expected.ravel(),
            "clear_sky": 0.2 * expected.ravel(),
            "steady": by_slot["steady"],
            "level": 1.0,
            "completeness": 1.0,
            "samples": 60,
            "stale": 0.0,
            "daylight": 1,
            "dark": np.nan,
            "possible": np.nan,
            "time_zone": "Europe/Madrid",
            "client_id": "C1",
        }
    )
    return frame.assign(**more)


def told(slots: pd.DataFrame) -> pd.DataFrame:
    rows = slot_alarms(slots, "light")
    assert set(rows["code"]) <= {"soiled_or_shaded"}
    return rows


def day_of(rows: pd.DataFrame) -> list[float]:
    return ((rows["timestamp"] - FIRST) / DAY).tolist()


def column(of: np.ndarray) -> np.ndarray:
    return np.asarray(of, np.float64)[:, np.newaxis]


def test_dirt_that_grows_over_weeks_is_told_once_and_rain_clears_it() -> None:
    share = np.r_[np.ones(20), 1 - 0.14 * np.arange(30) / 30, np.ones(10)]
    rows = told(days(60, column(share)))
    assert rows["state"].tolist() == ["raised", "cleared"]
    raised, cleared = day_of(rows)
    assert 20 + 30 * 0.08 / 0.14 < raised < 45  # when 8 % are lost, on the average of the last hours
    assert 50 < cleared < 53
    assert rows["text_alarm"].iloc[0].startswith("Sees 92% of what it saw under a clear sky")


def test_a_sensor_of_its_own_thresholds() -> None:
    share = column(np.r_[np.ones(20), np.full(10, 0.94)])
    patient = json.dumps({"alarms": {"soiled_or_shaded": {"below": 0.95, "clear": 0.97, "hours": 6, "slots": 1}}})
    assert told(days(30, share)).empty
    rows = told(days(30, share, variable_data=patient))
    assert rows["state"].tolist() == ["raised"]
    assert 20 < day_of(rows)[0] < 21


def test_shade_at_some_hours_of_each_day_is_told_and_that_it_is_gone() -> None:
    clouds = np.random.default_rng(1)
    share = np.where(clouds.random((60, len(HOURS))) < 0.5, clouds.uniform(0.2, 0.9, (60, len(HOURS))), 1.0)
    steadily = (share == 1.0).astype(float)
    share[20:45, 8:] *= 0.3  # from 15 h on
    rows = told(days(60, share, steadily))
    assert rows["state"].tolist() == ["raised", "cleared"]
    assert rows["text_alarm"].iloc[0].startswith("The sun is hidden at this hour each day")
    raised, cleared = day_of(rows)
    assert 28 <= raised < 33  # eight days, some of which were bright at no hour near it
    assert 45 <= cleared < 50
    assert told(days(60, np.where(share < 0.3, 0.9, share), steadily)).empty


@pytest.mark.parametrize("seed", range(6))
def test_a_cloudy_month_tells_nothing(seed: int) -> None:
    """Nor fog each morning that lifts, nor haze, nor an overcast sky that is even."""
    random = np.random.default_rng(seed)
    share = np.ones((70, len(HOURS)))
    share[20:50] = random.uniform(0.15, 0.95, (30, len(HOURS)))
    steadily = np.ones(share.shape)
    steadily[20:50] = random.random((30, len(HOURS))) < 0.5
    share[20:30, :3] = 0.3  # fog that lifts later some days
    share[50:60] = np.repeat(random.uniform(0.2, 0.5, 10), len(HOURS)).reshape(10, -1)
    assert told(days(70, share, steadily)).empty


def test_seasons_of_the_air_tell_nothing_where_a_year_is_known() -> None:
    """The air is off what the model has by 8 % in one season, year by year; and each month by its own 2 %."""
    random = np.random.default_rng(3)
    month = np.arange(36)
    usual = 0.95 + 0.08 * np.cos(2 * np.pi * month / 12)
    seen = usual + 0.02 * random.standard_normal(36)
    frames = []
    for number in range(12, 36):
        sums = np.zeros((12, 2))
        for before in range(max(number - 24, 0), number):
            sums[before % 12] += 8000 * seen[before], 8000
        level = soiling.level(sums, number % 12 + 1)
        frames.append(days(30, seen[number]).assign(level=float(level)))
        frames[-1][["slot_start", "slot_end"]] += number * 30 * DAY
    assert told(pd.concat(frames)).empty


def test_a_new_sensor_and_one_that_moved_are_not_judged() -> None:
    dirty = column(np.r_[np.ones(20), np.full(20, 0.8)])
    assert told(days(40, dirty, level=np.nan)).empty
    assert told(days(40, dirty).assign(level=lambda slots: np.where(slots["generated"] < 0, 1.0, np.nan))).empty
    assert told(days(40, dirty))["state"].tolist() == ["raised"]


def test_a_sensor_with_a_wrong_unit_or_clock_is_not_judged_for_its_dirt() -> None:
    """Nor in the two weeks after it was mended, in which what it told before still counts."""
    share = np.ones((60, len(HOURS)))
    share[20:40] = 0.8
    assert told(days(60, share))["state"].tolist() == ["raised", "cleared"]
    share[[19, 30], 3] = 2.0
    assert told(days(60, share)).empty
    share[[19, 30], 3] = 1.0
    slots = days(60, share)
    day = (slots["slot_start"] - FIRST) // DAY
    in_the_dark = slots.assign(dark=np.where((day % 10 == 9) & (day < 40), 0.1, np.nan))
    assert slot_alarms(in_the_dark, "light").query("code == 'soiled_or_shaded'").empty


def test_what_the_horizon_hides_is_no_shade() -> None:
    share = np.ones((30, len(HOURS)))
    share[5:, 8:] = 0.25
    slots = days(30, share)
    assert told(slots)["state"].tolist() == ["raised"]
    behind = (slots["slot_start"] % DAY // HOUR_MS).to_numpy() >= HOURS[8]
    assert told(slots.assign(clear_beam=np.where(behind, 0.0, slots["clear_beam"]))).empty


# -- simulated months ---------------------------------------------------------------------------------

START = datetime(2025, 1, 1, tzinfo=UTC)


def test_simulated_dirt_and_shade_are_told_within_their_time_and_nothing_else_is() -> None:
    fleet = make_fleet(3, 11, panels=0, winds=0)
    ids = fleet.ids("light")
    dirt = Fault("drifting", "light", ids[0], START + timedelta(days=50), START + timedelta(days=88), 0.15)
    shade = Fault("shaded", "light", ids[1], START + timedelta(days=50), START + timedelta(days=88), 0.7)
    end = START + timedelta(days=115)
    part = Part(fleet, "light", 300_000, seed=11, meter=False, faults=[dirt, shade])
    found = []
    for day in range(0, 115, 23):
        span = milliseconds(START + timedelta(days=day)), milliseconds(START + timedelta(days=day + 23))
        table = readings(part, LIGHT, np.arange(*span, 300_000))
        slots = make_slots(table, history(fleet, LIGHT), LIGHT, *span, max_gap_s=300)
        found.append(with_contributions(slots, table))
    slots = pd.concat(found).sort_values(["element_id", "slot_start"], ignore_index=True)
    assert slots["slot_start"].max() < milliseconds(end)
    healthy = ~slots["slot_start"].between(*dirt.span_ms).to_numpy()
    clear = soiling.clear(slots) & healthy
    sums = slots[clear].assign(of_clear=slots["clear_beam"] + slots["clear_sky"]).groupby("element_id")
    level = sums["generated"].sum() / sums["of_clear"].sum()
    rows = slot_alarms(
        slots.assign(level=slots["element_id"].map(level)).rename(columns={"element_id": "light_id"}), "light"
    )
    rows = rows[rows["code"] == "soiled_or_shaded"]
    for fault in (dirt, shade):
        mine = rows[rows["light_id"] == fault.element_id]
        assert mine["state"].tolist() == ["raised", "cleared"]
        assert fault.span_ms[0] < mine["timestamp"].iloc[0] < fault.span_ms[1] <= mine["timestamp"].iloc[1]
    assert set(rows["light_id"]) == {dirt.element_id, shade.element_id}
