"""Where to point panels for the whole year, from what a horizontal sensor has measured so far.

Each slot's light is split into beam and diffuse, and kept as what adds up: the vector sum of all light that comes from
the sun's direction, the light of the whole sky, and what a clear sky would have given, by calendar month and hour of
the UTC day. Of the hours that were not measured the clear sky's directions are known; how much of it comes through is
inferred from what was measured, month by month, between neighbouring seasons and what is usual at the latitude. So
the cost of an hour does not grow with history, and the order in which hours are added, or added again after a
subtraction, makes no difference but rounding.

Pure functions of arrays, on pvlib; one place at a time. Angles as in `selfgen.solar`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pvlib

from selfgen.solar import ALBEDO, HOUR_MS, LOWEST_SUN, Orientation, sun

Float64 = npt.NDArray[np.float64]

MONTHS, HOURS = 12, 24
#: What is summed, Wh/m²: the vector of directed light, the sky's, and both under a clear sky (directed: upwards).
COLUMNS = ("beam_east", "beam_north", "beam_up", "sky", "clear_beam", "clear_sky")
TILTS = np.arange(0.0, 91.0, 1.0)
AZIMUTHS = np.arange(0.0, 360.0, 2.0)
#: How much of an inferred difference of mornings and afternoons is real. What is inferred from global light alone
#: exaggerates it: over 100 typical years, 0.7 loses least.
ASYMMETRY = 0.7

_DAYS_OF_MONTH = np.array([31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_TEMPLATE_DAYS = (3, 8, 13, 18, 23, 28)
#: The share of the clear sky's beam that comes through, by latitude: the year's mean, and how much more in summer.
_LATITUDES = (0.0, 20.0, 32.0, 40.0, 48.0, 60.0)
_MEAN = (0.50, 0.55, 0.62, 0.58, 0.46, 0.30)
_SUMMER = (-0.05, -0.06, 0.01, 0.10, 0.10, 0.02)
#: Sky's light over a clear sky's global light, by the share of beam that comes through.
_SKY = (-0.122, -0.169, 0.382)
#: Standard deviations between places, of a yearly and a half-yearly wave, and of a month by itself.
_SPREAD_BEAM = (0.14, 0.075, 0.025, 0.065)
_SPREAD_SKY = (0.033, 0.017, 0.007, 0.0165)
_SPREAD_ASYMMETRY = (0.037, 0.025, 0.0, 0.04)
#: Variances of a day, of which 0.56 is independent of the day before.
_DAY_BEAM, _DAY_SKY, _DAY_ASYMMETRY = 0.31**2 / 0.56, 0.06**2, 0.19**2 / 0.56


def contributions(slot_starts_ms: npt.ArrayLike, ghi: npt.ArrayLike, latitude: float, longitude: float) -> Float64:
    """Return what each hour-long slot adds, `COLUMNS`, Wh/m²; the sun stands as at the slot's middle.

    DIRINT (Perez and others 1992) without its look at the neighbouring hours, so that an hour stands by itself. It was
    chosen by measurement against the beam light of 100 typical years.

    Parameters
    ----------
    ghi : array_like
        Mean global horizontal irradiance, W/m².

    Returns
    -------
    ndarray
        Shape (slots, columns); zero where the sun is down, and where `ghi` is NaN (then also of the clear sky).
    """
    middle = np.atleast_1d(np.asarray(slot_starts_ms, np.float64)) + HOUR_MS / 2
    zenith, azimuth = sun(latitude, longitude, middle)
    light = np.atleast_1d(np.asarray(ghi, np.float64))
    counts = (zenith < 90) & ~np.isnan(light)
    light = np.where(counts, np.clip(np.nan_to_num(light), 0.0, None), 0.0)
    times = pd.DatetimeIndex(middle.astype("datetime64[ms]")).tz_localize("UTC")
    inferred = pvlib.irradiance.dirint(
        pd.Series(light, times), pd.Series(zenith, times), times, use_delta_kt_prime=False
    ).to_numpy()
    height = np.cos(np.radians(zenith))
    beam = np.minimum(np.nan_to_num(inferred).clip(0.0), light / np.maximum(height, 1e-3))
    beam = np.where(counts & (zenith < LOWEST_SUN), beam, 0.0)
    measured = _directed(zenith, azimuth, beam, light - beam * height, times)
    clear = _directed(zenith, azimuth, *_clear_sky(zenith, times, latitude, longitude), times)
    return np.where(counts[:, np.newaxis], np.concatenate([measured, clear[:, 2:]], axis=1), 0.0)


def summed(slot_starts_ms: npt.ArrayLike, parts: Float64) -> Float64:
    """Return contributions summed by month and hour of the UTC day, shape (12, 24, columns); sums of sets add up."""
    starts = np.atleast_1d(np.asarray(slot_starts_ms, np.float64)).astype("datetime64[ms]")
    times = pd.DatetimeIndex(starts)
    result = np.zeros((MONTHS, HOURS, parts.shape[1]))
    np.add.at(result, (times.month.to_numpy() - 1, times.hour.to_numpy()), parts)
    return result


def expected_year(sums: Float64, latitude: float, longitude: float) -> Float64:
    """Return a whole year's light from that of the hours measured so far.

    Returns
    -------
    ndarray
        Shape (12, 24, 4): the first four of `COLUMNS`.
    """
    clear, side = _template(round(float(latitude), 2), round(float(longitude), 2))
    ratio = np.divide(sums[..., 4], clear[..., 2], out=np.zeros((MONTHS, HOURS)), where=clear[..., 2] > 0)
    measured = sums[..., :4] / np.maximum(ratio, 1.0)[..., np.newaxis]
    left = clear * (1 - np.minimum(ratio, 1.0))[..., np.newaxis]
    beam, sky, asymmetry = _inferred(sums, clear, side, latitude)
    through = np.clip(beam[:, np.newaxis] + asymmetry[:, np.newaxis] * side, 0.02, 1.1)
    of_sky = np.clip(sky + np.polyval(_SKY, np.clip(beam, 0.0, 1.0)), 0.05, 0.6)
    rest = np.concatenate(
        [
            left[..., :3] * through[..., np.newaxis],
            ((left[..., 2] + left[..., 3]) * of_sky[:, np.newaxis])[..., np.newaxis],
        ],
        axis=2,
    )
    return np.asarray(measured + rest, np.float64)


def surface(year: Float64, asymmetry: float = ASYMMETRY) -> Float64:
    """Return the year's irradiation on planes of `TILTS` × `AZIMUTHS`, Wh/m²."""
    light = year.reshape(-1, 4)
    light = light[np.abs(light).sum(axis=1) > 0]
    turn = np.radians(AZIMUTHS)
    towards = np.outer(light[:, 0], np.sin(turn)) + np.outer(light[:, 1], np.cos(turn))
    sky = light[:, 3].sum()
    ground = (light[:, 2].sum() + sky) * ALBEDO
    planes = np.empty((len(TILTS), len(AZIMUTHS)))
    for row, tilt in enumerate(np.radians(TILTS)):
        beam = np.clip(towards * np.sin(tilt) + light[:, 2:3] * np.cos(tilt), 0.0, None).sum(axis=0)
        planes[row] = beam + sky * (1 + np.cos(tilt)) / 2 + ground * (1 - np.cos(tilt)) / 2
    mirrored = planes[:, -np.arange(len(AZIMUTHS)) % len(AZIMUTHS)]
    return np.asarray((1 + asymmetry) / 2 * planes + (1 - asymmetry) / 2 * mirrored, np.float64)


def best(sums: Float64, latitude: float, longitude: float) -> Orientation:
    """Return the tilt and azimuth that catch most light in a year, from what was measured so far; zeros are none."""
    planes = surface(expected_year(sums, latitude, longitude))
    tilt, azimuth = np.unravel_index(planes.argmax(), planes.shape)
    gain = planes[tilt, azimuth] / planes[0, 0] - 1
    return Orientation(float(TILTS[tilt]), float(AZIMUTHS[azimuth]), float(gain))


def _directed(zenith: Float64, azimuth: Float64, dni: Float64, dhi: Float64, times: pd.DatetimeIndex) -> Float64:
    """Return east, north and up of the light from the sun's direction, and the sky's: Hay and Davies (1980)."""
    z, a = np.radians(zenith), np.radians(azimuth)
    circumsolar = dni / np.asarray(pvlib.irradiance.get_extra_radiation(times.dayofyear.to_numpy()))
    directed = dni + dhi * circumsolar / np.maximum(np.cos(z), 0.01745)
    east, north = directed * np.sin(z) * np.sin(a), directed * np.sin(z) * np.cos(a)
    return np.stack([east, north, directed * np.cos(z), dhi * (1 - circumsolar)], axis=1)


def _clear_sky(zenith: Float64, times: pd.DatetimeIndex, latitude: float, longitude: float) -> tuple[Float64, Float64]:
    """Return beam and diffuse light under a clear sky, Ineichen and Perez (2002) with the climate's turbidity, W/m²."""
    altitude = max(pvlib.location.lookup_altitude(latitude, longitude), 0.0)
    airmass = pvlib.atmosphere.get_relative_airmass(zenith)
    with np.errstate(divide="ignore"):  # where the sun is down, which counts nothing
        sky = pvlib.clearsky.ineichen(
            zenith,
            pvlib.atmosphere.get_absolute_airmass(airmass, pvlib.atmosphere.alt2pres(altitude)),
            pvlib.clearsky.lookup_linke_turbidity(times, latitude, longitude).to_numpy(),
            altitude,
            np.asarray(pvlib.irradiance.get_extra_radiation(times.dayofyear.to_numpy())),
        )
    return np.nan_to_num(sky["dni"]), np.nan_to_num(sky["dhi"])


@lru_cache(maxsize=4096)
def _template(latitude: float, longitude: float) -> tuple[Float64, Float64]:
    """Return a clear year, (12, 24, 4), and where its hours lie, from −1 in the morning to 1 in the evening."""
    days = [np.datetime64(f"2001-{month:02}-{day:02}", "ms") for month in range(1, 13) for day in _TEMPLATE_DAYS]
    starts = (np.array(days).astype(np.int64)[:, np.newaxis] + np.arange(HOURS) * HOUR_MS).ravel()
    middle = starts.astype(np.float64) + HOUR_MS / 2
    times = pd.DatetimeIndex(middle.astype("datetime64[ms]")).tz_localize("UTC")
    zenith, azimuth = sun(latitude, longitude, middle)
    light = _directed(zenith, azimuth, *_clear_sky(zenith, times, latitude, longitude), times)
    light = np.where((zenith < 90)[:, np.newaxis], light, 0.0)
    year = summed(starts, light) * (_DAYS_OF_MONTH / len(_TEMPLATE_DAYS))[:, np.newaxis, np.newaxis]
    solar_hour = (np.arange(HOURS) + 0.5 + longitude / 15) % 24 - 12
    return year, np.broadcast_to(np.clip(solar_hour / 3, -1, 1), (MONTHS, HOURS))


def _inferred(sums: Float64, clear: Float64, side: Float64, latitude: float) -> tuple[Float64, Float64, Float64]:
    """Return by month the share of the clear beam, the sky's light beside what is usual with it, the asymmetry."""
    covered = sums[..., 4].sum(axis=1)
    clear_light = covered + sums[..., 5].sum(axis=1)
    whole = (clear[..., 2] + clear[..., 3]).sum(axis=1)
    enough = clear_light > whole.max() * 1e-3
    days = np.divide(clear_light, whole, out=np.zeros(MONTHS), where=enough) * _DAYS_OF_MONTH
    nothing = np.full(MONTHS, np.nan)
    beam = np.divide(sums[..., 2].sum(axis=1), covered, out=nothing.copy(), where=enough)
    sky = np.divide(sums[..., 3].sum(axis=1), clear_light, out=nothing.copy(), where=enough)
    sideways = ((sums[..., 2] - np.nan_to_num(beam)[:, np.newaxis] * sums[..., 4]) * side).sum(axis=1)
    asymmetry = np.divide(sideways, (sums[..., 4] * side**2).sum(axis=1), out=nothing.copy(), where=enough)
    summer = np.cos(2 * np.pi * (np.arange(MONTHS) - 5.5) / MONTHS) * (1 if latitude >= 0 else -1)
    usual = np.interp(abs(latitude), _LATITUDES, _MEAN) + np.interp(abs(latitude), _LATITUDES, _SUMMER) * summer
    each = 1 / np.maximum(days, 0.1)
    none = np.zeros(MONTHS)
    return (
        _conditioned(usual, _SPREAD_BEAM, beam, _DAY_BEAM * each),
        _conditioned(none, _SPREAD_SKY, sky - np.polyval(_SKY, beam), _DAY_SKY * each),
        _conditioned(none, _SPREAD_ASYMMETRY, asymmetry, _DAY_ASYMMETRY * each),
    )


def _conditioned(mean: Float64, spread: tuple[float, ...], seen: Float64, noise: Float64) -> Float64:
    """Return the expectation of twelve months given those that were seen: linear Gaussian conditioning (kriging)."""
    apart = np.subtract.outer(np.arange(MONTHS), np.arange(MONTHS)) * 2 * np.pi / MONTHS
    site, year, half, month = np.square(spread)
    covariance = site + year * np.cos(apart) + half * np.cos(2 * apart) + month * np.eye(MONTHS)
    known = np.isfinite(seen)
    weights = np.linalg.solve(covariance[np.ix_(known, known)] + np.diag(noise[known]), (seen - mean)[known])
    return np.asarray(mean + covariance[:, known] @ weights, np.float64)
