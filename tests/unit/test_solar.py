"""Sun and panels, against pvlib's own way and against the typical years that come with it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pvlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfgen.solar import (
    HOUR_MS,
    ac_power,
    daylight,
    plane_irradiance,
    producible,
    sun,
)

Float64 = npt.NDArray[np.float64]


class Year(NamedTuple):
    """A typical year: measured global, beam, and diffuse light, hour by hour."""

    latitude: float
    longitude: float
    starts: Float64
    ghi: Float64
    dni: Float64
    dhi: Float64
    temperature: Float64


def load(name: str) -> Year:
    path = Path(pvlib.__path__[0]) / "data" / name
    if name.endswith(".tm2"):
        frame, place = pvlib.iotools.read_tmy2(path)
        frame = frame.rename(columns={"GHI": "ghi", "DNI": "dni", "DHI": "dhi"}).assign(temp_air=frame["DryBulb"] / 10)
    else:
        frame, place = pvlib.iotools.read_tmy3(path, map_variables=True)
    # a typical year is made of months of several years; each hour is the one that follows the last
    first = pd.Timestamp("2001-01-01", tz="UTC").value / 1e6 - place["TZ"] * HOUR_MS
    columns = (frame[column].to_numpy(float) for column in ("ghi", "dni", "dhi", "temp_air"))
    return Year(place["latitude"], place["longitude"], first + np.arange(8760) * HOUR_MS, *columns)


YEARS = ("723170TYA.CSV", "703165TY.csv", "12839.tm2")  # Greensboro 36° N, Sand Point 55° N, Miami 26° N


@pytest.fixture(scope="module", params=YEARS)
def year(request: pytest.FixtureRequest) -> Year:
    return load(request.param)


def from_beam_and_diffuse(year: Year, tilt: float, azimuth: float) -> Float64:
    """The oracle: pvlib's plain way from the measured beam and diffuse light, the sun at the middle of the hour."""
    times = pd.to_datetime(year.starts + HOUR_MS / 2, unit="ms", utc=True)
    position = pvlib.solarposition.get_solarposition(times, year.latitude, year.longitude)
    plane = pvlib.irradiance.get_total_irradiance(
        tilt,
        azimuth,
        position["zenith"].to_numpy(),
        position["azimuth"].to_numpy(),
        year.dni,
        year.ghi,
        year.dhi,
        dni_extra=pvlib.irradiance.get_extra_radiation(times).to_numpy(),
        model="haydavies",
        albedo=0.2,
    )["poa_global"]
    return np.nan_to_num(plane)


@pytest.mark.parametrize(
    ("tilt", "azimuth", "bar"), [(0, 180, 0.005), (30, 180, 0.01), (50, 180, 0.01), (60, 90, 0.03), (60, 270, 0.03)]
)
def test_a_year_s_energy_is_right_from_global_light_alone(year: Year, tilt: float, azimuth: float, bar: float) -> None:
    ends = year.starts + HOUR_MS
    place = (year.latitude, year.longitude, tilt, azimuth)
    expected = ac_power(from_beam_and_diffuse(year, tilt, azimuth), year.temperature, np.array(1000.0))
    energy = producible(year.starts, ends, year.ghi, *place, 1000.0, temperature=year.temperature)
    assert energy.sum() == pytest.approx(expected.sum(), rel=bar)
    # what is usual at the latitude serves where no temperature is measured
    assert producible(year.starts, ends, year.ghi, *place, 1000.0).sum() == pytest.approx(expected.sum(), rel=0.03)
    error = np.sqrt(np.mean((energy - expected)[year.ghi > 0] ** 2)) / expected[year.ghi > 0].mean()
    assert error < 0.25


def test_a_flat_plane_gets_what_the_sensor_sees(year: Year) -> None:
    plane = plane_irradiance(year.starts, year.starts + HOUR_MS, year.ghi, year.latitude, year.longitude, 0, 180)
    np.testing.assert_allclose(plane, year.ghi, rtol=0.05, atol=2.0)


def test_the_sun_stands_where_pvlib_says() -> None:
    times = pd.date_range("2026-01-01", "2027-01-01", freq="97min", tz="UTC")
    for latitude, longitude in [(40.4, -3.7), (-33.9, 151.2), (0.0, 0.0), (78.2, 15.6)]:
        ours = sun(latitude, longitude, times.as_unit("ms").asi8)
        theirs = pvlib.solarposition.get_solarposition(times, latitude, longitude)
        np.testing.assert_allclose(ours.zenith, theirs["zenith"], atol=0.001)
        turned = (ours.azimuth - theirs["azimuth"].to_numpy() + 180) % 360 - 180
        assert np.abs(turned * np.sin(np.radians(ours.zenith))).max() < 0.001


def test_many_places_are_matched_one_by_one() -> None:
    noon = 1_781_956_800_000
    together = sun([40.0, -40.0, 40.0], [0.0, 10.0, 0.0], [noon, noon, noon])
    alone = [sun(40.0, 0.0, noon), sun(-40.0, 10.0, noon)]
    assert together.zenith.tolist() == [alone[0].zenith, alone[1].zenith, alone[0].zenith]


def hours(day: str) -> Float64:
    return pd.Timestamp(day, tz="UTC").value / 1e6 + np.arange(24) * HOUR_MS


@pytest.mark.parametrize(
    ("latitude", "longitude", "day", "light"),
    [
        (51.5, 0.0, "2026-12-21", 8),
        (51.5, 0.0, "2026-06-21", 16),
        (-33.9, 151.2, "2026-12-21", 14),
        (0.0, 0.0, "2026-03-20", 12),
        (78.2, 15.6, "2026-06-21", 24),
        (78.2, 15.6, "2026-12-21", 0),
        (-78.0, 166.0, "2026-12-21", 24),
    ],
)
def test_hours_of_daylight(latitude: float, longitude: float, day: str, light: int) -> None:
    assert daylight(latitude, longitude, hours(day), hours(day) + HOUR_MS).sum() == light


def test_daylight_of_an_unknown_place_and_of_nothing() -> None:
    noon = hours("2026-06-21")[12]
    found = daylight([40.0, np.nan], [0.0, np.nan], [noon, noon], [noon + HOUR_MS, noon + HOUR_MS])
    assert found.tolist() == [True, False]
    assert daylight([], [], [], []).tolist() == []


def test_energy_follows_the_covered_share_of_the_slot() -> None:
    start = hours("2026-06-21")[11]
    place = (start, start + HOUR_MS)
    whole = producible(*place, 800.0, 40.4, -3.7, 35, 180, 5000.0)
    half = producible(*place, 400.0, 40.4, -3.7, 35, 180, 5000.0, completeness=0.5)
    assert half == pytest.approx(whole / 2)
    assert producible(*place, 0.0, 40.4, -3.7, 35, 180, 5000.0, completeness=0.0) == 0.0
    assert whole > 3000


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.integers(0, 365 * 24),
    st.one_of(st.floats(-50, 2000), st.just(float("nan"))),
    st.floats(0, 90),
    st.floats(0, 359.9),
    st.sampled_from([0.5, 1.0]),
)
def test_energy_is_never_negative_nor_unknown(
    latitude: float, longitude: float, hour: int, ghi: float, tilt: float, azimuth: float, length: float
) -> None:
    start = 1_767_225_600_000 + hour * HOUR_MS
    end = start + length * HOUR_MS
    energy = producible(start, end, ghi * length, latitude, longitude, tilt, azimuth, 1000.0)
    assert energy.shape == (1,)
    assert 0.0 <= energy[0] <= 1000.0 * length
