"""What panels should have made: by the light there was, by their neighbours, and not at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pvlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfgen import orientation, solar
from selfgen.expected import COVERED, LIGHT, PEERS, expected_energy, performance_ratio, shape

HOUR_MS = 3_600_000
NOON_MS = 1_781_956_800_000  # 2026-06-20T12:00Z
NO_LIGHT = pd.DataFrame({name: [] for name in LIGHT})


def panels(count: int = 1, **changed: object) -> pd.DataFrame:
    row = {
        "element_id": [f"p{number}" for number in range(count)], "client_id": "c1", "postal_code": "28013",
        "slot_start": NOON_MS, "slot_end": NOON_MS + HOUR_MS, "latitude": 40.4, "longitude": -3.7, "power_cap": 3000.0,
        "tilt": 30.0, "azimuth": 180.0, "owned": 1.0, "generated": 1500.0, "estimated": 0.0, "completeness": 1.0,
    } | changed  # fmt: skip
    return pd.DataFrame(row)


def light(ghi: float = 600.0, **changed: object) -> pd.DataFrame:
    row = {
        "client_id": ["c1"], "slot_start": NOON_MS, "latitude": 40.4, "longitude": -3.7, "generated": ghi,
        "completeness": 1.0, "owned": 1.0, "stale": 0.0,
    } | changed  # fmt: skip
    return pd.DataFrame(row)


def by_pvlib(ghi: float) -> float:
    """Straight through pvlib, minute by minute, for the panel of `panels`."""
    minutes = pd.date_range("2026-06-20T12:00:30Z", periods=60, freq="min")
    sun = pvlib.solarposition.get_solarposition(minutes, 40.4, -3.7)
    horizontal = ghi * np.cos(np.radians(sun["zenith"])) / np.cos(np.radians(sun["zenith"])).mean()
    beam = pvlib.irradiance.disc(horizontal, sun["zenith"], minutes)["dni"]
    plane = pvlib.irradiance.get_total_irradiance(
        30, 180, sun["zenith"], sun["azimuth"], beam, horizontal,
        horizontal - beam * np.cos(np.radians(sun["zenith"])), dni_extra=pvlib.irradiance.get_extra_radiation(minutes),
        model="haydavies", albedo=0.2,
    )["poa_global"].clip(lower=0)  # fmt: skip
    module = pvlib.temperature.faiman(plane, float(solar.usual_temperature(40.4)), 1.0)
    dc = pvlib.pvsystem.pvwatts_dc(plane, module, 3000.0, -0.004) * (1 - 0.14)
    return float(pvlib.inverter.pvwatts(dc, 3000.0).mean())


def test_by_the_light_it_is_what_pvlib_says() -> None:
    [found] = expected_energy(panels(), light(600.0))
    assert found == pytest.approx(by_pvlib(600.0), rel=2e-3)


def test_the_nearest_sensor_that_covered_the_slot_counts() -> None:
    sensors = pd.concat(
        [
            light(200.0, latitude=41.0),
            light(600.0, latitude=40.5),
            light(900.0, completeness=COVERED - 0.1),  # nearer, but silent
            light(50.0, client_id=["c2"]),  # nearer, another's
            light(950.0, stale=1.0),  # nearer, but frozen
        ]
    )
    assert expected_energy(panels(), sensors) == expected_energy(panels(), light(600.0))
    assert expected_energy(panels(), sensors[::-1]) == expected_energy(panels(), light(600.0))


def test_a_sensor_that_changed_hands_within_the_slot_tells_of_a_part_of_it() -> None:
    [whole] = expected_energy(panels(), light(600.0))
    [most] = expected_energy(panels(), light(0.95 * 600.0, owned=0.95))
    assert most == pytest.approx(whole)
    half = pd.concat([light(300.0, owned=0.5), light(600.0, latitude=41.0)])  # nearer, for half an hour
    assert expected_energy(panels(), half) == pytest.approx(whole)


def test_half_covered_light_is_that_of_the_whole_slot() -> None:
    [found] = expected_energy(panels(), light(540.0, completeness=0.9))
    assert found == pytest.approx(by_pvlib(600.0), rel=2e-3)


def test_without_light_it_is_what_half_of_the_area_made_of_its_clear_sky() -> None:
    several = panels(5, power_cap=[1000.0, 2000.0, 3000.0, 4000.0, 5000.0])
    [bound, *_] = expected_energy(panels(3, generated=1e9), NO_LIGHT)
    several["generated"] = several["power_cap"] * bound / 3000 * [0.1, 0.5, 0.5, 0.5, 0.9]
    found = expected_energy(several, NO_LIGHT)
    assert found == pytest.approx(several["power_cap"] * bound / 3000 * 0.5)
    assert bound == pytest.approx(by_pvlib(float(solar.clear_sky(NOON_MS, NOON_MS + HOUR_MS, 40.4, -3.7)[0])), rel=2e-3)


@pytest.mark.parametrize("clearness", [0.2, 0.45, 0.7, 0.95])
@pytest.mark.parametrize("hours", [-4, 0, 4])
def test_without_light_panels_of_any_orientation_tell_how_much_there_was(hours: int, clearness: float) -> None:
    start = NOON_MS + hours * HOUR_MS
    several = panels(7, slot_start=start, slot_end=start + HOUR_MS, tilt=[10.0, 30.0, 30.0, 30.0, 45.0, 5.0, 30.0])
    several["azimuth"] = [180.0, 90.0, 180.0, 270.0, 180.0, 120.0, 240.0]
    ghi = clearness * float(solar.clear_sky(start, start + HOUR_MS, 40.4, -3.7)[0])
    several["generated"] = made = expected_energy(several, light(ghi, slot_start=start))
    assert expected_energy(several, NO_LIGHT) == pytest.approx(made, rel=0.03)
    several.loc[[0, 3], "generated"] *= [0.0, 0.5]  # two are faulty
    assert expected_energy(several, NO_LIGHT) == pytest.approx(made, rel=0.05)


@pytest.mark.parametrize(
    "alone",
    [
        panels(PEERS - 1),
        panels(PEERS, postal_code=["1", "2", "3"]),
        panels(PEERS, postal_code=None),
        panels(PEERS, postal_code=""),
        panels(PEERS, completeness=[1.0, 1.0, 0.5]),
        panels(PEERS, latitude=np.nan),
        panels(PEERS, power_cap=np.nan),
    ],
)
def test_too_few_neighbours_expect_nothing(alone: pd.DataFrame) -> None:
    assert np.isnan(expected_energy(alone, NO_LIGHT)).any()
    assert np.isnan(performance_ratio(alone, expected_energy(alone, NO_LIGHT))).any()


def test_at_night_nothing_is_expected_and_no_ratio_said() -> None:
    night = panels(3, slot_start=NOON_MS + 12 * HOUR_MS, slot_end=NOON_MS + 13 * HOUR_MS, generated=0.0)
    expected = expected_energy(night, NO_LIGHT)
    assert expected.tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(performance_ratio(night, expected)).all()


def test_an_owners_part_is_expected_of_it() -> None:
    [whole], [part] = (expected_energy(panels(owned=owned), light()) for owned in (1.0, 0.25))
    assert part == pytest.approx(whole / 4)


def test_the_ratio_is_of_what_was_covered_and_measured() -> None:
    slots = panels(generated=900.0, estimated=400.0, completeness=0.5)
    assert performance_ratio(slots, [2000.0]).tolist() == [0.5]


def test_an_unknown_orientation_is_the_best_one() -> None:
    best = orientation.usual(40.4, -3.7)
    [found] = expected_energy(panels(tilt=np.nan, azimuth=np.nan), light())
    [given] = expected_energy(panels(tilt=float(best.tilt), azimuth=float(best.azimuth)), light())
    assert found == given


def test_a_backlog_is_spread_by_light_or_by_a_clear_sky() -> None:
    day = panels(24, slot_start=NOON_MS - 12 * HOUR_MS + np.arange(24) * HOUR_MS)
    day["slot_end"] = day["slot_start"] + HOUR_MS
    weights = shape(day, light(10.0))
    assert weights[:4].tolist() == [0.0] * 4  # night
    assert weights[12] < weights[11] / 5  # the one slot of which the light is known was dark
    assert np.isnan(shape(panels(power_cap=np.nan), NO_LIGHT)).all()


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)), ghi=st.floats(0, 1000))
def test_the_order_of_rows_makes_no_difference(order: list[int], ghi: float) -> None:
    several = panels(12, generated=np.linspace(100, 2000, 12), client_id=["c1", "c2", "c3"] * 4)
    found = expected_energy(several, light(ghi))
    assert expected_energy(several.iloc[order], light(ghi)).tolist() == found[list(order)].tolist()
