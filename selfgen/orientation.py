"""Where to point panels for the whole year, from what a horizontal sensor has measured so far.

Each slot's light is split into beam and diffuse, and kept as what adds up: the vector sum of all light that comes from
the sun's direction, the light of the whole sky, and what a clear sky would have given, by calendar month and hour of
the UTC day. Of the hours that were not measured the clear sky's directions are known; how much of it comes through is
inferred from what was measured, month by month, between neighbouring seasons and what is usual at the latitude. So
the cost of an hour does not grow with history, and the order in which hours are added, or added again after a
subtraction, makes no difference but rounding.

Pure functions of arrays, on pvlib; sensors along the first axes. Angles as in `selfgen.solar`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pvlib

from selfgen.columns import LIGHT_SUMS
from selfgen.horizon import Profile, Profiles, in_sight
from selfgen.solar import ALBEDO, HOUR_MS, LOWEST_SUN, sun

Float64 = npt.NDArray[np.float64]

MONTHS, HOURS = 12, 24
#: Least covered share of a slot that counts.
COVERED = 0.5
TILTS = np.arange(0.0, 91.0, 1.0)
AZIMUTHS = np.arange(0.0, 360.0, 2.0)
#: How much of an inferred difference of mornings and afternoons is real. What is inferred from global light alone
#: exaggerates it: over 100 typical years, 0.7 loses least.
ASYMMETRY = 0.7

DAYS_OF_MONTH = np.array([31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_TEMPLATE_DAYS = (3, 8, 13, 18, 23, 28)
#: The share of the clear sky's beam that comes through, by latitude: the year's mean, and how much more in summer.
_LATITUDES = (0.0, 20.0, 32.0, 40.0, 48.0, 60.0)
_MEAN = (0.50, 0.55, 0.62, 0.58, 0.46, 0.30)
_SUMMER = (-0.05, -0.06, 0.01, 0.10, 0.10, 0.02)
#: Sky's light over a clear sky's global light, by the share of beam that comes through.
_SKY = (-0.122, -0.169, 0.382)
#: Standard deviations between places, of a yearly and a half-yearly wave, and of a month by itself.
_SPREAD_BEAM = (0.14, 0.075, 0.025, 0.065)
#: That of the beam's yearly wave in the tropics, up to the first of these latitudes; from the second on it is as above.
#: Wet and dry seasons there do not follow the sun's. Set over 16 typical years, tried on 23 others.
_SPREAD_TROPICS, _TROPICS = 0.11, (20.0, 30.0)
_SPREAD_SKY = (0.033, 0.017, 0.007, 0.0165)
_SPREAD_ASYMMETRY = (0.037, 0.025, 0.0, 0.04)
#: Variances of a day, of which 0.56 is independent of the day before.
_DAY_BEAM, _DAY_SKY, _DAY_ASYMMETRY = 0.31**2 / 0.56, 0.06**2, 0.19**2 / 0.56
#: The variance of what was not seen.
_UNKNOWN = 1e6
#: Cells of the climate in a degree: what a clear sky gives is known well enough for the middle of each.
_CELLS = 4
#: `Best.confidence` holds in so many cases.
BOUND = 0.9
#: Standard deviation, rad, that splitting global light into beam and diffuse gives the best direction: set so that over
#: 95 typical years the bound of a full year holds as often as it says.
_SPLIT = 0.016
#: Most steps towards the best direction, and how near, rad, the last is to the one before.
_STEPS, _NEAR = 50, 5e-4


class Best(NamedTuple):
    """The best tilt and azimuth, degrees, of each sensor.

    `gain_vs_horizontal` is what a plane gains over one that lies flat (0.1 = a tenth more), `confidence` what share of
    the year's energy the choice loses at most, in nine cases of ten.
    """

    tilt: Float64
    azimuth: Float64
    gain_vs_horizontal: Float64
    confidence: Float64


class Year(NamedTuple):
    """A whole year's light, and how well it is known; shapes after those of the sensors.

    `light`, (12, 24, 4): the first four of `LIGHT_SUMS`. `clear`, the same of a clear sky, in the hours that were not
    measured; of these the share that comes through, the sky's light and the asymmetry of mornings and afternoons were
    inferred by month, `inferred` (3, 12), with a `covariance` (3, 12, 12). `side`, (12, 24): how far in the day an
    hour is. `measured`: the share of the clear year's light in the hours that were measured.
    """

    light: Float64
    clear: Float64
    inferred: Float64
    covariance: Float64
    side: Float64
    measured: Float64


def contributions(
    slot_starts_ms: npt.ArrayLike,
    slot_ends_ms: npt.ArrayLike,
    irradiation: npt.ArrayLike,
    latitude: npt.ArrayLike,
    longitude: npt.ArrayLike,
    *,
    completeness: npt.ArrayLike = 1.0,
    horizons: Profiles = (),
) -> Float64:
    """Return what each slot adds, `LIGHT_SUMS`, Wh/m²; the sun stands as at the slot's middle.

    DIRINT (Perez and others 1992) without its look at the neighbouring hours, so that an hour stands by itself. It was
    chosen by measurement against the beam light of 100 typical years.

    Parameters
    ----------
    irradiation : array_like
        Global horizontal, Wh/m² in the covered share of the slot.
    latitude, longitude : array_like
        Degrees; scalars or one for each slot.
    completeness : array_like
        Covered share of the slot.
    horizons : sequence of Profile
        One for each slot, or none: while the sun is behind it neither the sensor nor a clear sky has beam.

    Returns
    -------
    ndarray
        Shape (slots, columns); zero where the sun is down, where the slot is covered to less than `COVERED`, and where
        the irradiation or the place is NaN, then also of the clear sky.
    """
    given = (slot_starts_ms, slot_ends_ms, irradiation, latitude, longitude, completeness)
    start, end, energy, y, x, covered = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(of, np.float64)) for of in given)
    )
    result = np.zeros((len(start), len(LIGHT_SUMS)))
    counts = (covered >= COVERED) & np.isfinite(energy + y + x)
    start, end, energy, y, x, covered = (of[counts] for of in (start, end, energy, y, x, covered))
    hours = (end - start) / HOUR_MS * covered
    behind = [horizons[row] for row in np.flatnonzero(counts)] if horizons else ()
    result[counts] = _of_covered((start + end) / 2, energy / hours, y, x, behind) * hours[:, np.newaxis]
    return result


def _of_covered(middle: Float64, light: Float64, latitude: Float64, longitude: Float64, horizons: Profiles) -> Float64:
    """Return `LIGHT_SUMS`, W/m², at instants with a global horizontal irradiance, W/m²."""
    zenith, azimuth = sun(latitude, longitude, middle)
    lit = in_sight(zenith, azimuth, horizons)
    result = np.zeros((len(middle), len(LIGHT_SUMS)))
    up = zenith < 90
    if not up.any():
        return result
    middle, light, y, x, zenith, azimuth = (of[up] for of in (middle, light, latitude, longitude, zenith, azimuth))
    lit = lit[up]
    light = np.clip(light, 0.0, None)
    times = pd.DatetimeIndex(middle.astype("datetime64[ms]")).tz_localize("UTC")
    inferred = pvlib.irradiance.dirint(
        pd.Series(light, times), pd.Series(zenith, times), times, use_delta_kt_prime=False
    ).to_numpy()
    height = np.cos(np.radians(zenith))
    beam = np.minimum(np.nan_to_num(inferred).clip(0.0), light / np.maximum(height, 1e-3))
    beam = np.where(lit & (zenith < LOWEST_SUN), beam, 0.0)
    day = times.dayofyear.to_numpy()
    measured = _directed(zenith, azimuth, beam, light - beam * height, day)
    clear_beam, clear_sky = _clear_sky(zenith, day, y, x)
    clear = _directed(zenith, azimuth, clear_beam * lit, clear_sky, day)
    result[up] = np.concatenate([measured, clear[:, 2:]], axis=1)
    return result


def summed(slot_starts_ms: npt.ArrayLike, parts: Float64) -> Float64:
    """Return contributions summed by month and hour of the UTC day, shape (12, 24, columns); sums of sets add up."""
    starts = np.atleast_1d(np.asarray(slot_starts_ms, np.float64)).astype("datetime64[ms]")
    times = pd.DatetimeIndex(starts)
    result = np.zeros((MONTHS, HOURS, parts.shape[1]))
    np.add.at(result, (times.month.to_numpy() - 1, times.hour.to_numpy()), parts)
    return result


def expected_year(sums: Float64, latitude: npt.ArrayLike, longitude: npt.ArrayLike, horizons: Profiles = ()) -> Year:
    """Return a whole year's light from that of the hours measured so far.

    Parameters
    ----------
    sums : ndarray
        Shape (..., 12, 24, columns).
    latitude, longitude : array_like
        Degrees, shape (...).
    horizons : sequence of Profile
        One for each sensor, or none.
    """
    latitude = np.asarray(latitude, np.float64)
    clear, side = _template(latitude, np.asarray(longitude, np.float64), horizons)
    ratio = np.divide(sums[..., 4], clear[..., 2], out=np.zeros(clear.shape[:-1]), where=clear[..., 2] > 0)
    measured = sums[..., :4] / np.maximum(ratio, 1.0)[..., np.newaxis]
    left = clear * (1 - np.minimum(ratio, 1.0))[..., np.newaxis]
    inferred, covariance = _inferred(sums, clear, side, latitude)
    beam, sky, asymmetry = np.moveaxis(inferred[..., np.newaxis], -3, 0)
    through = np.clip(beam + asymmetry * side, 0.02, 1.1)
    of_sky = np.clip(sky + np.polyval(_SKY, np.clip(beam, 0.0, 1.0)), 0.05, 0.6)
    rest = left * through[..., np.newaxis]
    rest[..., 3] = (left[..., 2] + left[..., 3]) * of_sky
    unmeasured = left[..., 2:].sum(axis=(-1, -2, -3)) / clear[..., 2:].sum(axis=(-1, -2, -3))
    return Year(measured + rest, left, inferred, covariance, side, 1 - unmeasured)


def surface(light: Float64, asymmetry: float = ASYMMETRY) -> Float64:
    """Return a year's irradiation on planes of `TILTS` × `AZIMUTHS`, Wh/m², from one sensor's `Year.light`."""
    rows = light.reshape(-1, 4)
    rows = rows[np.abs(rows).sum(axis=1) > 0]
    turn = np.radians(AZIMUTHS)
    towards = np.outer(rows[:, 0], np.sin(turn)) + np.outer(rows[:, 1], np.cos(turn))
    sky = rows[:, 3].sum()
    ground = (rows[:, 2].sum() + sky) * ALBEDO
    planes = np.empty((len(TILTS), len(AZIMUTHS)))
    for row, tilt in enumerate(np.radians(TILTS)):
        beam = np.clip(towards * np.sin(tilt) + rows[:, 2:3] * np.cos(tilt), 0.0, None).sum(axis=0)
        planes[row] = beam + sky * (1 + np.cos(tilt)) / 2 + ground * (1 - np.cos(tilt)) / 2
    mirrored = planes[:, -np.arange(len(AZIMUTHS)) % len(AZIMUTHS)]
    return np.asarray((1 + asymmetry) / 2 * planes + (1 - asymmetry) / 2 * mirrored, np.float64)


def best(sums: Float64, latitude: npt.ArrayLike, longitude: npt.ArrayLike, horizons: Profiles = ()) -> Best:
    """Return the tilt and azimuth that catch most light in a year, from what was measured so far; zeros are none.

    The energy on a plane is the product of its direction and the resultant of the light in front of it, so the best
    plane faces its own resultant. A choice that is off by a small angle loses half the square of the angle.

    Parameters
    ----------
    sums, latitude, longitude, horizons : array_like
        As for `expected_year`.

    Returns
    -------
    Best
        To 1°. A plane that lies flat faces the equator.
    """
    latitude, longitude = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
    year = expected_year(sums, latitude, longitude, horizons)
    towards = _facing(year.light)
    tilt = np.round(np.degrees(np.arccos(np.clip(towards[..., 2], -1.0, 1.0))))
    azimuth = np.round(np.degrees(np.arctan2(towards[..., 0], towards[..., 1]))) % 360
    azimuth = np.where(tilt > 0, azimuth, np.where(latitude >= 0, 180.0, 0.0))
    towards = _direction(tilt, azimuth)
    energy = _energy(year.light, towards)
    flat = _energy(year.light, np.broadcast_to([0.0, 0.0, 1.0], towards.shape))
    return Best(tilt, azimuth, energy / flat - 1, _loss(year, towards, energy))


def on_plane(light: Float64, tilt: float, azimuth: float, asymmetry: float = ASYMMETRY) -> Float64:
    """Return a year's irradiation on one plane by month and hour of the UTC day, (12, 24), Wh/m²."""
    towards = _direction(np.asarray(tilt, np.float64), np.asarray(azimuth, np.float64))
    upward = towards[2]
    ahead, mirrored = (np.clip(light[..., :3] @ (towards * side), 0.0, None) for side in ([1, 1, 1], [-1, 1, 1]))
    beam = (1 + asymmetry) / 2 * ahead + (1 - asymmetry) / 2 * mirrored
    ground = ALBEDO * (light[..., 2] + light[..., 3])
    return np.asarray(beam + light[..., 3] * (1 + upward) / 2 + ground * (1 - upward) / 2, np.float64)


def deviation(year: Year, tilt: npt.ArrayLike, azimuth: npt.ArrayLike) -> Float64:
    """Return the standard deviation of the year's irradiation on planes, from what was not measured, Wh/m²."""
    _, per = _sensitivity(year, _direction(np.asarray(tilt, np.float64), np.asarray(azimuth, np.float64)))
    return np.asarray(
        np.sqrt(np.einsum("k...m,...kmn,k...n->...", per, year.covariance, per, optimize=True)), np.float64
    )


def usual(latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> Best:
    """Return the best tilt and azimuth where nothing was measured."""
    latitude, longitude = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
    return best(np.zeros((*latitude.shape, MONTHS, HOURS, len(LIGHT_SUMS))), latitude, longitude)


def _direction(tilt: Float64, azimuth: Float64) -> Float64:
    """Return the vectors east, north and up that planes face, (..., 3)."""
    t, a = np.radians(tilt), np.radians(azimuth)
    return np.stack([np.sin(t) * np.sin(a), np.sin(t) * np.cos(a), np.cos(t)], axis=-1)


def _resultant(light: Float64, towards: Float64) -> Float64:
    """Return the resultant of the light in front of planes, and of the sky's and the ground's, (..., 3)."""
    directed = light[..., :3].reshape(*light.shape[:-3], MONTHS * HOURS, 3)
    total = np.zeros(towards.shape)
    for mirror, weight in ((1.0, (1 + ASYMMETRY) / 2), (-1.0, (1 - ASYMMETRY) / 2)):
        turned = towards * [mirror, 1.0, 1.0]
        front = directed @ turned[..., np.newaxis] > 0
        total += (front * directed).sum(axis=-2) * [mirror, 1.0, 1.0] * weight
    sky = light[..., 3].sum(axis=(-1, -2))
    total[..., 2] += (sky - ALBEDO * (light[..., 2].sum(axis=(-1, -2)) + sky)) / 2
    return total


def _energy(light: Float64, towards: Float64) -> Float64:
    """Return the year's irradiation on planes, Wh/m²."""
    sky = light[..., 3].sum(axis=(-1, -2))
    ground = ALBEDO * (light[..., 2].sum(axis=(-1, -2)) + sky)
    return np.asarray((_resultant(light, towards) * towards).sum(axis=-1) + (sky + ground) / 2, np.float64)


def _facing(light: Float64) -> Float64:
    """Return the directions of the best planes, (..., 3): each step catches more than the last."""
    towards = _upwards(light[..., :3].sum(axis=(-2, -3)))
    for _ in range(_STEPS):
        last, towards = towards, _upwards(_resultant(light, towards))
        if np.abs(towards - last).max(initial=0.0) < _NEAR:
            break
    return towards


def _upwards(vectors: Float64) -> Float64:
    """Return the directions of vectors, none under the horizon."""
    kept = np.maximum(vectors, [-np.inf, -np.inf, 0.0])
    return np.asarray(kept / np.linalg.norm(kept, axis=-1, keepdims=True), np.float64)


def _loss(year: Year, towards: Float64, energy: Float64) -> Float64:
    """Return what share of the year's energy planes lose at most, in nine cases of ten."""
    from scipy import stats  # takes half a second, which who only wants the usual plane need not wait for

    spread = _spread(year, towards)
    length = (_resultant(year.light, towards) * towards).sum(axis=-1)
    variances = np.linalg.eigvalsh(spread)
    mean = variances.sum(axis=-1) / (2 * length * energy)
    # the sum of two squared Gaussians of unlike variance, by its mean and its variance (Satterthwaite 1946)
    freedom = variances.sum(axis=-1) ** 2 / np.maximum((variances**2).sum(axis=-1), 1e-300)
    return np.asarray(mean / freedom * stats.chi2.ppf(BOUND, freedom), np.float64)


def _spread(year: Year, towards: Float64) -> Float64:
    """Return the covariance, (..., 2, 2), of the resultant's deviation from planes, up and along them, (Wh/m²)²."""
    resultant, _ = _sensitivity(year, towards)
    per = np.einsum("k...mc,...pc->...kpm", resultant, _across(towards))
    inferred = np.einsum("...kpm,...kmn,...kqn->...pq", per, year.covariance, per, optimize=True)
    split = _SPLIT * (_resultant(year.light, towards) * towards).sum(axis=-1)
    return np.asarray(inferred + np.eye(2) * split[..., np.newaxis, np.newaxis] ** 2, np.float64)


def _sensitivity(year: Year, towards: Float64) -> tuple[Float64, Float64]:
    """Return how planes' resultant, (3, ..., 12, 3), and energy, (3, ..., 12), follow `Year.inferred`."""
    front = np.einsum("...mhc,...c->...mh", year.light[..., :3], towards) > 0
    left = year.clear
    both = left[..., 2:].sum(axis=(-1, -2))

    def directed(weight: Float64) -> tuple[Float64, Float64]:
        seen = np.einsum("...mh,...mhc->...mc", front * weight, left[..., :3])
        given_back = ALBEDO / 2 * (weight * left[..., 2]).sum(axis=-1)
        seen[..., 2] -= given_back
        return np.asarray(seen, np.float64), np.asarray(given_back, np.float64)

    (beam, of_beam), (asymmetry, of_asymmetry) = directed(np.ones(front.shape)), directed(year.side)
    sky, of_sky = np.zeros(beam.shape), both * (1 + ALBEDO) / 2
    sky[..., 2] = both * (1 - ALBEDO) / 2
    slope = np.polyval(np.polyder(_SKY), np.clip(year.inferred[..., 0, :], 0.0, 1.0))
    beam += slope[..., np.newaxis] * sky
    asymmetry[..., 0] *= ASYMMETRY
    resultant = np.stack([beam, sky, asymmetry])
    rest = np.stack([of_beam + slope * of_sky, of_sky, of_asymmetry])
    return resultant, np.einsum("k...mc,...c->k...m", resultant, towards) + rest


def _across(towards: Float64) -> Float64:
    """Return the directions up and along planes, (..., 2, 3)."""
    azimuth = np.arctan2(towards[..., 0], towards[..., 1])
    level = np.hypot(towards[..., 0], towards[..., 1])
    east, north = np.sin(azimuth), np.cos(azimuth)
    up = np.stack([-east * towards[..., 2], -north * towards[..., 2], level], axis=-1)
    along = np.stack([north, -east, np.zeros(level.shape)], axis=-1)
    return np.stack([up, along], axis=-2)


def _directed(zenith: Float64, azimuth: Float64, dni: Float64, dhi: Float64, day: npt.NDArray[np.int64]) -> Float64:
    """Return east, north and up of the light from the sun's direction, and the sky's: Hay and Davies (1980)."""
    z, a = np.radians(zenith), np.radians(azimuth)
    circumsolar = dni / np.asarray(pvlib.irradiance.get_extra_radiation(day))
    directed = dni + dhi * circumsolar / np.maximum(np.cos(z), 0.01745)
    east, north = directed * np.sin(z) * np.sin(a), directed * np.sin(z) * np.cos(a)
    return np.stack([east, north, directed * np.cos(z), dhi * (1 - circumsolar)], axis=1)


def _clear_sky(
    zenith: Float64, day: npt.NDArray[np.int64], latitude: Float64, longitude: Float64
) -> tuple[Float64, Float64]:
    """Return beam and diffuse light under a clear sky, Ineichen and Perez (2002) with the climate's turbidity, W/m²."""
    cells, cell = np.unique(_cells(latitude, longitude), axis=0, return_inverse=True)
    climates = [_climate(*each) for each in cells.tolist()]
    altitude = np.array([climate[0] for climate in climates])[cell]
    turbidity = np.stack([climate[1] for climate in climates])[cell, day - 1]
    airmass = pvlib.atmosphere.get_relative_airmass(zenith)
    sky = pvlib.clearsky.ineichen(
        zenith,
        pvlib.atmosphere.get_absolute_airmass(airmass, pvlib.atmosphere.alt2pres(altitude)),
        turbidity,
        altitude,
        np.asarray(pvlib.irradiance.get_extra_radiation(day)),
    )
    return np.nan_to_num(sky["dni"]), np.nan_to_num(sky["dhi"])


def _cells(latitude: Float64, longitude: Float64) -> npt.NDArray[np.int64]:
    """Return the cells of places, (..., 2); the pole and the date line are in the last ones."""
    places = np.stack(np.broadcast_arrays(latitude, longitude), axis=-1)
    edge = np.array([90, 180]) * _CELLS
    return np.asarray(np.clip(np.floor(places * _CELLS), -edge, edge - 1), np.int64)


@lru_cache(maxsize=16384)
def _climate(row: int, column: int) -> tuple[float, Float64]:
    """Return a cell's altitude, m, and its Linke turbidity by day of the year."""
    latitude, longitude = (row + 0.5) / _CELLS, (column + 0.5) / _CELLS
    days = pd.date_range("2004-01-01", periods=366, tz="UTC")
    turbidity = pvlib.clearsky.lookup_linke_turbidity(days, latitude, longitude).to_numpy()
    return max(float(pvlib.location.lookup_altitude(latitude, longitude)), 0.0), turbidity


def _template(latitude: Float64, longitude: Float64, horizons: Profiles) -> tuple[Float64, Float64]:
    """Return clear years, (..., 12, 24, 4), and where their hours lie, from −1 in the morning to 1 in the evening."""
    cells = _cells(latitude, longitude)
    places = [tuple(cell) for cell in cells.reshape(-1, 2).tolist()]
    place, distinct = pd.factorize(
        pd.Series(list(zip(places, horizons or [()] * len(places), strict=True)), dtype=object)
    )
    years = np.stack([_clear_year(*cell, horizon) for cell, horizon in distinct])[place]
    solar_hour = (np.arange(HOURS) + 0.5 + longitude[..., np.newaxis] / 15) % 24 - 12
    side = np.broadcast_to(np.clip(solar_hour / 3, -1, 1)[..., np.newaxis, :], (*cells.shape[:-1], MONTHS, HOURS))
    return years.reshape(*cells.shape[:-1], *years.shape[1:]), side


@lru_cache(maxsize=16384)
def _clear_year(row: int, column: int, horizon: Profile) -> Float64:
    """Return a cell's clear year, (12, 24, 4); the sun's position after Spencer (1971), within 0.5°."""
    latitude, longitude = (row + 0.5) / _CELLS, (column + 0.5) / _CELLS
    days = [f"2001-{month:02}-{day:02}" for month in range(1, 13) for day in _TEMPLATE_DAYS]
    starts = (pd.DatetimeIndex(days).as_unit("ms").asi8[:, np.newaxis] + np.arange(HOURS) * HOUR_MS).ravel()
    day = pd.DatetimeIndex(starts.astype("datetime64[ms]")).dayofyear.to_numpy()
    clock = np.tile(np.arange(HOURS) + 0.5, len(days)) * 60 + pvlib.solarposition.equation_of_time_spencer71(day)
    angle = np.radians((clock / 4 + longitude) % 360 - 180)
    place = np.radians(latitude), angle, pvlib.solarposition.declination_spencer71(day)
    zenith = np.degrees(pvlib.solarposition.solar_zenith_analytical(*place))
    up = zenith < 90
    place = np.radians(latitude), angle[up], place[2][up]
    azimuth = np.degrees(pvlib.solarposition.solar_azimuth_analytical(*place, np.radians(zenith[up])))
    where = np.full(len(azimuth), latitude), np.full(len(azimuth), longitude)
    light = np.zeros((len(starts), 4))
    beam, sky = _clear_sky(zenith[up], day[up], *where)
    beam = beam * in_sight(zenith[up], azimuth, [horizon] * len(azimuth))
    light[up] = _directed(zenith[up], azimuth, beam, sky, day[up])
    return summed(starts, light) * (DAYS_OF_MONTH / len(_TEMPLATE_DAYS))[:, np.newaxis, np.newaxis]


def _inferred(sums: Float64, clear: Float64, side: Float64, latitude: Float64) -> tuple[Float64, Float64]:
    """Return by month the share of the clear beam, the sky's light beside what is usual with it, the asymmetry.

    Shapes (..., 3, 12), and their covariance (..., 3, 12, 12).
    """
    covered = sums[..., 4].sum(axis=-1)
    clear_light = covered + sums[..., 5].sum(axis=-1)
    whole = (clear[..., 2] + clear[..., 3]).sum(axis=-1)
    enough = clear_light > whole.max(axis=-1, keepdims=True) * 1e-3
    days = np.divide(clear_light, whole, out=np.zeros(whole.shape), where=enough) * DAYS_OF_MONTH

    def share(of: Float64, by: Float64) -> Float64:
        return np.asarray(np.divide(of, by, out=np.full(by.shape, np.nan), where=enough & (by > 0)), np.float64)

    beam = share(sums[..., 2].sum(axis=-1), covered)
    sky = share(sums[..., 3].sum(axis=-1), clear_light)
    sideways = ((sums[..., 2] - np.nan_to_num(beam)[..., np.newaxis] * sums[..., 4]) * side).sum(axis=-1)
    asymmetry = share(sideways, (sums[..., 4] * side**2).sum(axis=-1))
    summer = np.cos(2 * np.pi * (np.arange(MONTHS) - 5.5) / MONTHS) * np.where(latitude >= 0, 1, -1)[..., np.newaxis]
    mean, more = (np.interp(np.abs(latitude), _LATITUDES, by)[..., np.newaxis] for by in (_MEAN, _SUMMER))
    each = 1 / np.maximum(days, 0.1)
    none = np.zeros(beam.shape)
    site, year, half, month = _SPREAD_BEAM
    yearly = np.interp(np.abs(latitude), _TROPICS, (_SPREAD_TROPICS, year))[..., np.newaxis, np.newaxis]
    quantities = (
        _conditioned(mean + more * summer, (site, yearly, half, month), beam, _DAY_BEAM * each),
        _conditioned(none, _SPREAD_SKY, sky - np.polyval(_SKY, beam), _DAY_SKY * each),
        _conditioned(none, _SPREAD_ASYMMETRY, asymmetry, _DAY_ASYMMETRY * each),
    )
    expected, covariance = zip(*quantities, strict=True)
    return np.stack(expected, axis=-2), np.stack(covariance, axis=-3)


def _conditioned(
    mean: Float64, spread: tuple[float | Float64, ...], seen: Float64, noise: Float64
) -> tuple[Float64, Float64]:
    """Return the expectation and covariance of twelve months given those that were seen, the others NaN.

    Linear Gaussian conditioning (kriging).
    """
    apart = np.subtract.outer(np.arange(MONTHS), np.arange(MONTHS)) * 2 * np.pi / MONTHS
    site, year, half, month = (np.square(of) for of in spread)
    covariance = site + year * np.cos(apart) + half * np.cos(2 * apart) + month * np.eye(MONTHS)
    known = np.isfinite(seen)
    error = np.where(known, noise, _UNKNOWN)[..., np.newaxis] * np.eye(MONTHS)
    weights = np.swapaxes(np.linalg.solve(covariance + error, covariance + np.zeros(error.shape)), -1, -2)
    difference = np.where(known, seen - mean, 0.0)
    expected = mean + (weights @ difference[..., np.newaxis])[..., 0]
    return np.asarray(expected, np.float64), np.asarray(covariance - weights @ covariance, np.float64)
