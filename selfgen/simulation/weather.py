"""Weather anywhere and at any time, from measured typical years; and what a panel makes of it.

Three typical years come with `pvlib`: Greensboro (36° N), Sand Point (55° N) and Miami (26° N). A place takes
the one whose latitude is nearest to its own (south of the equator half a year later), hour by hour of mean
solar time. What is taken over is how clear the sky was: global and beam irradiance as shares of the
extraterrestrial. With the sun's position at the place itself they become irradiance, so that day length and
the sun's height are the place's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pvlib
from numpy.typing import NDArray

from selfgen.simulation.batch import Times
from selfgen.simulation.measured import HOUR_MS, data_file
from selfgen.simulation.noise import Floats, smooth, uniform

HOURS_A_YEAR = 8760
#: Half a year in whole days, hours.
HALF_A_YEAR = 182 * 24

#: Module temperature coefficient of power, 1/°C.
TEMPERATURE_COEFFICIENT = -0.004
#: Wiring, soiling, mismatch and so on: PVWatts' own default.
SYSTEM_LOSSES = 0.14
#: What an inverter draws at night, share of its rating.
NIGHT_DRAW = 0.0005

#: Extraterrestrial irradiance below which an hour says nothing of how clear the sky is, W/m².
_LOW_SUN = 60.0


@dataclass(frozen=True)
class Station:
    """A typical year, hour by hour of its local standard time, from 1 January.

    `clearness` and `beam` are global horizontal and direct normal irradiance as shares of the
    extraterrestrial, filled over the night. `temp_air` is in °C, `wind_speed` in m/s, `wind_direction` in degrees.
    """

    latitude: float
    longitude: float
    utc_offset: float
    clearness: Floats
    beam: Floats
    temp_air: Floats
    wind_speed: Floats
    wind_direction: Floats


def _station(frame: pd.DataFrame, place: dict[str, Any], extra: tuple[str, str]) -> Station:
    def column(name: str, scale: float = 1.0) -> Floats:
        return frame[name].to_numpy(float) * scale

    horizontal, normal = column(extra[0]), column(extra[1])
    day = horizontal > _LOW_SUN

    def share(irradiance: Floats, full: Floats) -> Floats:
        known = np.divide(irradiance, full, out=np.full(HOURS_A_YEAR, np.nan), where=day)
        return pd.Series(known).clip(0, 0.9).interpolate(limit_direction="both").to_numpy(float)

    return Station(
        latitude=place["latitude"],
        longitude=place["longitude"],
        utc_offset=place["TZ"],
        clearness=share(column("ghi"), horizontal),
        beam=share(column("dni"), normal),
        temp_air=column("temp_air"),
        wind_speed=column("wind_speed"),
        wind_direction=column("wind_direction") % 360,
    )


@cache
def stations() -> tuple[Station, ...]:
    """Return the typical years that come with `pvlib`."""
    years = []
    for name in ("723170TYA.CSV", "703165TY.csv"):
        path = data_file("pvlib", name)
        frame, place = pvlib.iotools.read_tmy3(path, map_variables=True, coerce_year=2001)
        years.append(_station(frame, place, ("ghi_extra", "dni_extra")))
    frame, place = pvlib.iotools.read_tmy2(data_file("pvlib", "12839.tm2"))
    frame = frame.rename(columns={"GHI": "ghi", "DNI": "dni", "Wdir": "wind_direction"})
    # tenths in this format
    frame["temp_air"], frame["wind_speed"] = frame["DryBulb"] / 10, frame["Wspd"] / 10
    years.append(_station(frame, place, ("ETR", "ETRN")))
    return tuple(years)


@dataclass(frozen=True)
class Sky:
    """Weather and sun at one place; arrays of shape (times,), irradiances in W/m², angles in degrees."""

    ghi: Floats
    dni: Floats
    dhi: Floats
    dni_extra: Floats
    zenith: Floats
    azimuth: Floats
    temp_air: Floats
    wind_speed: Floats
    wind_direction: Floats


def sky(times_ms: Times, latitude: float, longitude: float, seed: int = 0) -> Sky:
    """Return the simulated weather at a place.

    Parameters
    ----------
    times_ms
        Epoch ms, any year.
    latitude, longitude
        Degrees; south and west negative.
    seed
        Of the clouds within the hour. They vary most where sun and shade alternate, and leave the mean be.
    """
    station = min(stations(), key=lambda year: abs(year.latitude - abs(latitude)))
    times = pd.DatetimeIndex(times_ms.astype("datetime64[ms]"), tz="UTC")
    sun = pvlib.solarposition.ephemeris(times, latitude, longitude)
    zenith = sun["zenith"].to_numpy(float)
    dni_extra = np.asarray(pvlib.irradiance.get_extra_radiation(times.dayofyear.to_numpy()), float)

    year_starts = times_ms.astype("datetime64[ms]").astype("datetime64[Y]").astype("datetime64[ms]")
    solar_ms = (times_ms - year_starts.astype(np.int64)) + longitude / 15 * HOUR_MS
    # the station's own mean solar time is not quite its standard time
    station_ms = solar_ms + (station.utc_offset - station.longitude / 15) * HOUR_MS
    hours = station_ms / HOUR_MS + (HALF_A_YEAR if latitude < 0 else 0)

    beam = _between_hours(station.beam, hours)
    sunny = np.clip(beam / 0.7, 0, 1)
    place = hash_of(latitude, longitude)
    slow, quick = (smooth(seed + n, place, times_ms, period) for n, period in ((11, 300_000), (12, 70_000)))
    passing = 1 + 0.5 * sunny * (1 - sunny) * (0.6 * slow + 0.4 * quick)

    height = np.clip(np.cos(np.radians(zenith)), 0, None)
    ghi = np.clip(_between_hours(station.clearness, hours) * passing, 0, 0.95) * dni_extra * height
    dni = np.where(height > 0, np.clip(beam * passing, 0, 0.9) * dni_extra, 0.0)
    # the horizontal part of the beam is part of the global
    dni = np.minimum(dni, np.divide(0.97 * ghi, height, out=np.zeros_like(ghi), where=height > 0))
    vane = np.radians(station.wind_direction)
    east = _between_hours(station.wind_speed * np.sin(vane), hours)
    north = _between_hours(station.wind_speed * np.cos(vane), hours)
    return Sky(
        ghi=ghi,
        dni=dni,
        dhi=ghi - dni * height,
        dni_extra=dni_extra,
        zenith=zenith,
        azimuth=sun["azimuth"].to_numpy(float),
        temp_air=_between_hours(station.temp_air, hours),
        wind_speed=_between_hours(station.wind_speed, hours),
        wind_direction=np.degrees(np.arctan2(east, north)) % 360,
    )


def _between_hours(hourly: Floats, hours: Floats) -> Floats:
    """Return hourly means of a year, interpolated between the middles of the hours; the year is a circle."""
    before = np.floor(hours - 0.5)
    share = hours - 0.5 - before
    place = before.astype(np.int64)
    values: Floats = hourly[place % HOURS_A_YEAR] * (1 - share) + hourly[(place + 1) % HOURS_A_YEAR] * share
    return values


def hash_of(latitude: float, longitude: float) -> int:
    """Return a whole number that stands for a place, for use as a key of noise."""
    return int(1e9 * float(uniform(round(latitude * 100), round(longitude * 100))))


def ac_power(weather: Sky, tilt: Floats, azimuth: Floats, power_cap: Floats) -> tuple[Floats, Floats]:
    """Return AC power (W) and module temperature (°C) of panels under one sky; shape (times, panels).

    Haydavies transposition, Faiman's module temperature, PVWatts' module and inverter (DC-to-AC ratio 1).

    Parameters
    ----------
    weather
        Sun and weather; shape (times,).
    tilt, azimuth
        Of the panels, degrees; shape (panels,).
    power_cap
        Rating of the panels, W; shape (panels,).
    """

    def down(values: Floats) -> NDArray[np.float64]:
        return values[:, np.newaxis]

    plane = pvlib.irradiance.get_total_irradiance(
        tilt,
        azimuth,
        down(weather.zenith),
        down(weather.azimuth),
        down(weather.dni),
        down(weather.ghi),
        down(weather.dhi),
        dni_extra=down(weather.dni_extra),
        model="haydavies",
    )["poa_global"]
    plane = np.nan_to_num(plane)
    temperature = pvlib.temperature.faiman(plane, down(weather.temp_air), down(weather.wind_speed))
    dc = pvlib.pvsystem.pvwatts_dc(plane, temperature, power_cap, TEMPERATURE_COEFFICIENT)
    ac = np.nan_to_num(pvlib.inverter.pvwatts(dc * (1 - SYSTEM_LOSSES), power_cap))
    return np.where(plane > 0, ac, -NIGHT_DRAW * power_cap), np.asarray(temperature, float)
