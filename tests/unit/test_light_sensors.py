"""Light sensors at the ends of the earth: from readings to slots, alarms and the best plane."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pvlib
import pytest

from flink_jobs.rich_sensor_light import with_contributions
from flink_jobs.slots import LIGHT, make_slots
from selfgen import orientation
from selfgen.alarms import slot_alarms
from selfgen.columns import ENRICHMENT, LIGHT_SUMS
from selfgen.solar import HOUR_MS

MINUTE = 60_000
#: Latitude, longitude, time zone, first day, and where panels have to look.
PLACES: dict[str, tuple[float, float, str, str, float]] = {
    "Madrid": (40.4, -3.7, "Europe/Madrid", "2026-03-27", 180.0),  # the clock goes forward on the second day
    "Sydney": (-33.9, 151.2, "Australia/Sydney", "2026-06-20", 0.0),
    "Quito": (-0.2, -78.5, "America/Guayaquil", "2026-09-20", 0.0),
    "Tromsø": (69.6, 18.9, "Europe/Oslo", "2026-04-10", 180.0),
    "Kathmandu": (27.7, 85.3, "Asia/Kathmandu", "2026-12-20", 180.0),
    "Lord Howe": (-31.5, 159.1, "Australia/Lord_Howe", "2026-04-04", 0.0),  # the clock goes back by half an hour
}
DAYS = 4


@cache
def slots_of(name: str, behind_hours: float = 0.0, factor: float = 1.0, gaps: bool = False) -> pd.DataFrame:
    """Return the slots of days under a clear sky, by a clock that is so far behind."""
    latitude, longitude, zone, day, _ = PLACES[name]
    first = pd.Timestamp(day, tz="UTC").value // 1_000_000
    time = np.arange(first - 10 * MINUTE, first + DAYS * 24 * HOUR_MS + 130 * MINUTE, 2 * MINUTE)
    really = pd.to_datetime(time + round(behind_hours * HOUR_MS), unit="ms", utc=True)
    zenith = pvlib.solarposition.get_solarposition(really, latitude, longitude)["zenith"]
    value = pvlib.clearsky.haurwitz(zenith)["ghi"].to_numpy() * factor - 2.0
    readings = pd.DataFrame({"element_id": "l", "time": time, LIGHT.field: value})
    if gaps:
        hour = (readings["time"] - first) // HOUR_MS
        readings = readings[~hour.isin([11, 12, 30, 54]) | (readings["time"] % (10 * HOUR_MS) == 0)]
    period: dict[str, Any] = dict.fromkeys([column.name for column in ENRICHMENT])
    period |= {"element_id": "l", "latitude": latitude, "longitude": longitude, "time_zone": zone, "power_cap": 3000.0}
    history = pd.DataFrame([period | dict.fromkeys(("init", "end", "variable_data", "tilt", "azimuth"))])
    history = history.astype({"init": "datetime64[ms, UTC]", "end": "datetime64[ms, UTC]"})
    slots = make_slots(readings, history, LIGHT, first, first + DAYS * 24 * HOUR_MS, max_gap_s=300)
    return with_contributions(slots, readings)


def alarms_of(slots: pd.DataFrame) -> pd.DataFrame:
    return slot_alarms(slots.rename(columns={"element_id": "light_id"}), "light")


def best_of(name: str, slots: pd.DataFrame) -> orientation.Best:
    sums = orientation.summed(slots["slot_start"], slots[list(LIGHT_SUMS)].to_numpy())
    return orientation.best(sums, *PLACES[name][:2])


@pytest.mark.parametrize("name", PLACES)
def test_a_sensor_that_is_right_raises_nothing_and_looks_at_the_equator(name: str) -> None:
    latitude, *_, towards = PLACES[name]
    for slots in (slots_of(name), slots_of(name, gaps=True)):
        assert alarms_of(slots).query("code != 'no_data'").empty
        best = best_of(name, slots)
        assert abs(latitude) - 30 < best.tilt <= max(abs(latitude), 5)
        if abs(latitude) > 5:
            assert abs((best.azimuth - towards + 180) % 360 - 180) <= 15
        assert 0 < best.confidence < best_of(name, slots[:0]).confidence


@pytest.mark.parametrize("name", PLACES)
def test_gaps_leave_the_estimate_where_it_was(name: str) -> None:
    whole, gaps = slots_of(name), slots_of(name, gaps=True)
    left_out = set(whole["slot_start"]) - set(gaps.loc[gaps["completeness"] >= 0.5, "slot_start"])
    assert 4 <= len(left_out) <= 8
    angles = [best_of(name, slots) for slots in (whole, gaps)]
    assert angles[0].tilt == pytest.approx(float(angles[1].tilt), abs=2)


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("name", PLACES)
def test_a_clock_that_is_an_hour_wrong_is_found_and_said(name: str, way: int) -> None:
    # so far north the sun rises so slowly that an hour does not show
    rows = alarms_of(slots_of(name, way * (3 if name == "Tromsø" else 1)))
    assert rows["code"].tolist() == ["clock_shift"]
    assert rows["text_alarm"].iloc[0].startswith("Light before sunrise or after sunset since ")


@pytest.mark.parametrize("factor", [2.0, 0.001])
def test_light_that_cannot_be_is_found_and_said(factor: float) -> None:
    wrong, right = slots_of("Quito", factor=factor), slots_of("Quito")
    mended = right["slot_start"] >= right["slot_start"].iloc[60]
    rows = alarms_of(pd.concat([wrong[~mended], right[mended]])).query("code == 'implausible'")
    assert rows["state"].tolist() == ["raised", "cleared"]
    assert "cannot be where the most is" in rows["text_alarm"].iloc[0]
    assert rows["timestamp"].iloc[1] > right["slot_start"].iloc[60]


@pytest.mark.parametrize("name", ["Madrid", "Sydney", "Kathmandu"])
def test_the_first_evening_of_a_clock_that_is_behind_is_no_light_that_cannot_be(name: str) -> None:
    right, behind = slots_of(name), slots_of(name, 5.0)
    turned = right["slot_start"].iloc[0] + 24 * HOUR_MS
    slots = pd.concat([right[right["slot_start"] < turned], behind[behind["slot_start"] >= turned]])
    assert set(alarms_of(slots)["code"]) == {"clock_shift"}
    # a sensor that dies in bright light is told of all the same
    dead = slots_of(name, factor=0.001)
    noon = right.loc[right["possible"].idxmax(), "slot_start"]
    rows = alarms_of(pd.concat([right[right["slot_start"] < noon], dead[dead["slot_start"] >= noon]]))
    assert rows["code"].tolist() == ["implausible"]
    assert rows["timestamp"].iloc[0] == noon + HOUR_MS
