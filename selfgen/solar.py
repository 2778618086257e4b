"""Sun and panels: daylight, what a panel would produce from what a light sensor measured.

Pure functions of arrays, on pvlib. Azimuth is degrees clockwise from north (180 = south), tilt degrees from
horizontal, times epoch milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pvlib

from selfgen.horizon import Profiles, in_sight

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

HOUR_MS = 3_600_000

#: PVWatts: power lost for each °C of cell temperature over 25 °C (crystalline silicon).
TEMPERATURE_COEFFICIENT = -0.004
#: PVWatts: wiring, soiling, mismatch and so on.
SYSTEM_LOSSES = 0.14
#: Share of the light that the ground gives back: grass, soil.
ALBEDO = 0.2
#: Wind on the module, m/s.
WIND_SPEED = 1.0
#: Sun below which no beam is inferred from what a horizontal sensor sees, degrees of zenith.
LOWEST_SUN = 87.0
#: Height of the sun, degrees: below the first no panel produces anything; a clock that is an hour wrong shows at the
#: second, in the 20 min or so between them.
DARK, WELL_DARK = -2.0, -5.0
#: Parts of a slot in which the sun's height is followed.
STEPS = 6

#: Difference of terrestrial and universal time, s (2000–2050; a second is 0.004° of the sun's way).
_DELTA_T = 70.0
_PRESSURE_HPA, _AIR_C, _REFRACTION = 1013.25, 12.0, 0.5667


class Sun(NamedTuple):
    """Where the sun is, degrees: `zenith` without refraction, `azimuth`."""

    zenith: Float64
    azimuth: Float64


class Night(NamedTuple):
    """The dark part of slots: from `start` until `end`, epoch ms (none of it: `end` is not after `start`).

    `tells`: the sun passes `WELL_DARK` in the slot.
    """

    start: Float64
    end: Float64
    tells: Bool


def sun(latitude: npt.ArrayLike, longitude: npt.ArrayLike, times_ms: npt.ArrayLike) -> Sun:
    """Return the sun's position; the arrays are matched element by element, each (place, time) computed once.

    NREL's SPA (Reda and Andreas 2004), as in `pvlib.spa`.
    """
    places = np.broadcast_arrays(
        np.asarray(latitude, np.float64), np.asarray(longitude, np.float64), np.asarray(times_ms, np.float64)
    )
    shape = places[0].shape
    table = pd.DataFrame({name: place.ravel() for name, place in zip("yxt", places, strict=True)})
    row = table.groupby(["y", "x", "t"], sort=False, dropna=False).ngroup().to_numpy()
    once = table[~table.duplicated()].to_numpy()
    _, zenith, _, _, azimuth, _ = pvlib.spa.solar_position_numpy(
        once[:, 2] / 1000, once[:, 0], once[:, 1], 0.0, _PRESSURE_HPA, _AIR_C, _DELTA_T, _REFRACTION, 1
    )
    return Sun(zenith[row].reshape(shape), azimuth[row].reshape(shape))


def daylight(
    latitude: npt.ArrayLike, longitude: npt.ArrayLike, slot_starts_ms: npt.ArrayLike, slot_ends_ms: npt.ArrayLike
) -> Bool:
    """Tell for each slot whether the sun is up at its middle; not so where the place is unknown (NaN)."""
    middle = (np.asarray(slot_starts_ms, np.float64) + np.asarray(slot_ends_ms, np.float64)) / 2
    up: Bool = sun(latitude, longitude, middle).zenith < 90
    return up


def night(
    latitude: npt.ArrayLike, longitude: npt.ArrayLike, slot_starts_ms: npt.ArrayLike, slot_ends_ms: npt.ArrayLike
) -> Night:
    """Return the part of each slot in which the sun is more than 2° below the horizon; none where the place is unknown.

    Between the slot's ends the sun's height is taken to go straight: within half a degree near the horizon. Refraction
    lifts the sun by 0.6°, and no panel produces from the light that is left at −2°.
    """
    start, end = np.asarray(slot_starts_ms, np.float64), np.asarray(slot_ends_ms, np.float64)
    height = 90 - sun(latitude, longitude, np.stack([start, end])).zenith
    first, last = height
    dark_first, dark_last = first <= DARK, last <= DARK
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = start + (end - start) * (first - DARK) / (first - last)
    return Night(
        start=np.where(dark_first, start, np.where(dark_last, crossing, end)),
        end=np.where(dark_last, end, np.where(dark_first, crossing, start)),
        tells=(np.minimum(first, last) <= WELL_DARK) & (np.maximum(first, last) > WELL_DARK),
    )


def clear_sky(
    slot_starts_ms: npt.ArrayLike, slot_ends_ms: npt.ArrayLike, latitude: npt.ArrayLike, longitude: npt.ArrayLike
) -> Float64:
    """Return the mean global horizontal irradiance under a clear sky, slot by slot, W/m².

    Haurwitz (1945), which needs the sun's height only; the best of such models for Reno, Hansen and Stein (2012).
    """
    zenith = _zenith(slot_starts_ms, slot_ends_ms, latitude, longitude)
    ghi = pvlib.clearsky.haurwitz(pd.Series(zenith.ravel()))["ghi"].to_numpy().reshape(zenith.shape)
    mean: Float64 = np.nan_to_num(ghi).mean(axis=1)
    return mean


def possible(
    slot_starts_ms: npt.ArrayLike, slot_ends_ms: npt.ArrayLike, latitude: npt.ArrayLike, longitude: npt.ArrayLike
) -> Float64:
    """Return the most global horizontal irradiance that there is, slot by slot, W/m².

    The limit of Long and Shi (2008) that minutes pass "extremely rarely", so that the mean of a slot passes it under no
    sky; NaN where the place is unknown.
    """
    zenith = _zenith(slot_starts_ms, slot_ends_ms, latitude, longitude)
    height = np.clip(np.cos(np.radians(zenith)), 0.0, None)
    middle = (np.asarray(slot_starts_ms, np.float64) + np.asarray(slot_ends_ms, np.float64)) / 2
    day = pd.DatetimeIndex(np.atleast_1d(middle).astype("datetime64[ms]")).dayofyear.to_numpy()
    extra = np.asarray(pvlib.irradiance.get_extra_radiation(day))
    most: Float64 = 1.2 * extra * (height**1.2).mean(axis=1) + 50
    return most


def _zenith(
    slot_starts_ms: npt.ArrayLike, slot_ends_ms: npt.ArrayLike, latitude: npt.ArrayLike, longitude: npt.ArrayLike
) -> Float64:
    """Return the sun's zenith through slots, (slots, `STEPS`), degrees."""
    starts, ends, *place = (
        column[:, np.newaxis]
        for column in np.broadcast_arrays(
            *(
                np.atleast_1d(np.asarray(values, np.float64))
                for values in (slot_starts_ms, slot_ends_ms, latitude, longitude)
            )
        )
    )
    times = starts + (ends - starts) * (np.arange(STEPS) + 0.5) / STEPS
    return sun(place[0], place[1], times).zenith


# -- what a panel would produce ------------------------------------------------------------------------


def plane_irradiance(
    slot_starts_ms: npt.ArrayLike,
    slot_ends_ms: npt.ArrayLike,
    ghi: npt.ArrayLike,
    latitude: npt.ArrayLike,
    longitude: npt.ArrayLike,
    tilt: npt.ArrayLike,
    azimuth: npt.ArrayLike,
    horizons: Profiles = (),
) -> Float64:
    """Return the mean irradiance on a plane from the mean global horizontal irradiance, slot by slot.

    Within a slot the global irradiance is taken to follow the sine of the sun's height. It is split into beam and
    diffuse by DISC (Maxwell 1987), and put on the plane by Hay and Davies' sky (1980) and a grey ground. DISC was
    chosen by measurement: over the typical years that come with pvlib, at tilts of 30° to 90°, it is within 0.6 % of
    the year's energy from measured beam and diffuse light facing south (Miami, east and vertical: 2 %), where
    erbs_driesse is up to 6 % short.

    Parameters
    ----------
    ghi : array_like
        Mean over the slot, W/m²; below zero and NaN count as zero.
    latitude, longitude, tilt, azimuth : array_like
        Degrees; scalars or one for each slot.
    horizons : sequence of Profile
        What hides the sun from the sensor and the plane, one for each slot, or none.

    Returns
    -------
    ndarray
        W/m², never negative.
    """
    starts, ends, mean, *place = (
        column[:, np.newaxis]
        for column in np.broadcast_arrays(
            *(
                np.atleast_1d(np.asarray(values, np.float64))
                for values in (slot_starts_ms, slot_ends_ms, ghi, latitude, longitude, tilt, azimuth)
            )
        )
    )
    times = starts + (ends - starts) * (np.arange(STEPS) + 0.5) / STEPS
    zenith, sun_azimuth = sun(place[0], place[1], times)
    height = np.clip(np.cos(np.radians(zenith)), 0.0, None)
    mean_height = height.mean(axis=1, keepdims=True)
    mean = np.clip(np.nan_to_num(mean), 0.0, None)
    # with the sun down all through the slot, what light there is comes from all of the sky
    course = np.divide(height, mean_height, out=np.ones_like(height), where=mean_height > 0)
    horizontal = mean * course

    day = pd.DatetimeIndex(times.ravel().astype("datetime64[ms]")).dayofyear.to_numpy().reshape(times.shape)
    beam = np.nan_to_num(pvlib.irradiance.disc(horizontal, zenith, day, max_zenith=LOWEST_SUN)["dni"])
    beam = np.minimum(beam, np.divide(horizontal, height, out=np.zeros_like(height), where=height > 0))
    beam = beam * in_sight(zenith, sun_azimuth, horizons)
    plane = pvlib.irradiance.get_total_irradiance(
        place[2],
        place[3],
        zenith,
        sun_azimuth,
        beam,
        horizontal,
        horizontal - beam * height,
        dni_extra=pvlib.irradiance.get_extra_radiation(day),
        model="haydavies",
        albedo=ALBEDO,
    )["poa_global"]
    result: Float64 = np.clip(np.nan_to_num(plane), 0.0, None).mean(axis=1)
    return result


def producible(
    slot_starts_ms: npt.ArrayLike,
    slot_ends_ms: npt.ArrayLike,
    irradiation: npt.ArrayLike,
    latitude: npt.ArrayLike,
    longitude: npt.ArrayLike,
    tilt: npt.ArrayLike,
    azimuth: npt.ArrayLike,
    power_cap: npt.ArrayLike,
    *,
    completeness: npt.ArrayLike = 1.0,
    temperature: npt.ArrayLike | None = None,
    horizons: Profiles = (),
) -> Float64:
    """Return the AC energy a panel would have made of the measured global horizontal irradiation, slot by slot.

    `plane_irradiance`, then Faiman's module temperature (2008) and PVWatts' module, losses and inverter (Dobos 2014).

    Parameters
    ----------
    irradiation : array_like
        Global horizontal, Wh/m² in the slot.
    power_cap : array_like
        Rating, W peak.
    completeness : array_like
        Covered share of the slot: the irradiation is taken to be that of this share, and so is the energy.
    temperature : array_like, optional
        Of the air, °C; where there is none, or NaN, what is usual at the latitude.
    horizons : sequence of Profile
        As for `plane_irradiance`.

    Returns
    -------
    ndarray
        Wh, never negative.
    """
    hours = (np.asarray(slot_ends_ms, np.float64) - np.asarray(slot_starts_ms, np.float64)) / HOUR_MS
    covered = hours * np.asarray(completeness, np.float64)
    energy = np.asarray(irradiation, np.float64)
    ghi = np.divide(energy, covered, out=np.zeros(np.broadcast(energy, covered).shape), where=covered > 0)
    plane = plane_irradiance(slot_starts_ms, slot_ends_ms, ghi, latitude, longitude, tilt, azimuth, horizons)
    usual = usual_temperature(latitude)
    measured = np.asarray(np.nan if temperature is None else temperature, np.float64)
    air = np.where(np.isnan(measured), usual, measured)
    return np.nan_to_num(ac_power(plane, air, np.asarray(power_cap, np.float64)) * covered)


def usual_temperature(latitude: npt.ArrayLike) -> Float64:
    """Return the air temperature at daylight that is usual at a latitude, °C.

    The zonal annual mean of North (1975), 14.9 − 28 P₂(sin latitude), and 5 °C for the day.
    """
    legendre = (3 * np.sin(np.radians(np.asarray(latitude, np.float64))) ** 2 - 1) / 2
    return np.asarray(19.9 - 28 * legendre, np.float64)


def ac_power(plane: Float64, air_temperature: Float64, power_cap: Float64) -> Float64:
    """Return the AC power in W of panels of `power_cap` W peak under `plane` W/m², PVWatts with its losses."""
    module = pvlib.temperature.faiman(plane, air_temperature, WIND_SPEED)
    dc = pvlib.pvsystem.pvwatts_dc(plane, module, power_cap, TEMPERATURE_COEFFICIENT)
    with np.errstate(over="ignore"):  # at next to no light, where the power is nothing either way
        power: Float64 = pvlib.inverter.pvwatts(dc * (1 - SYSTEM_LOSSES), power_cap)
    return np.clip(np.nan_to_num(power), 0.0, None)
