"""What an installer wants to know of a roof with a light sensor: where to point panels, what a year gives, what costs.

Pure functions; a year's light comes from `selfgen.orientation`, a panel's power from `selfgen.solar`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from selfgen import orientation, solar
from selfgen.horizon import Profile
from selfgen.orientation import AZIMUTHS, DAYS_OF_MONTH, TILTS

Float64 = npt.NDArray[np.float64]

#: Power follows light by less than in proportion, because bright hours are warm; a month's mean hour hides that. So
#: much of the energy from mean hours is there hour by hour, over 47 typical years.
_OF_MEAN_HOURS = 0.986
#: Standard deviation of a year's energy, as a share, that remains when all of it was measured: over 95 typical years,
#: from splitting global light and from the usual temperature in the place of the measured one.
_REMAINS = 0.02
#: In a Gaussian, nine of ten are within so many standard deviations.
_NINE_OF_TEN = 1.645
OFF = (10.0, 20.0)
#: The planes of `energy_surface`, degrees: coarse, for a chart.
SURFACE_TILTS = np.arange(0.0, 91.0, 10.0)
SURFACE_AZIMUTHS = np.arange(0.0, 360.0, 30.0)


class Roof(NamedTuple):
    """Which tilts and azimuths are possible, degrees; azimuths clockwise from first to last, also past north."""

    tilts: tuple[float, float] = (0.0, 90.0)
    azimuths: tuple[float, float] = (0.0, 360.0)


class Advice(NamedTuple):
    """What is advised, plain values; and the year's energy on planes of `TILTS` × `AZIMUTHS` over the best one's."""

    told: dict[str, Any]
    surface: Float64


def roof(tilt: str | None, azimuth: str | None) -> Roof:
    """Return a roof from what is typed: `30` is fixed, `20-35` a range.

    Raises
    ------
    ValueError
        What is no such angle.
    """
    tilts = Roof().tilts if tilt is None else _angles(tilt, "tilt", 90.0)
    azimuths = Roof().azimuths if azimuth is None else _angles(azimuth, "azimuth", 360.0)
    if tilts[0] > tilts[1]:
        raise ValueError(f"the tilt's range {tilt} ends before it begins")
    return Roof(tilts, azimuths)


def _angles(text: str, name: str, most: float) -> tuple[float, float]:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", text.strip())
    if not found:
        raise ValueError(f"{text} is no {name}: write degrees, such as 30, or a range, such as 20-35")
    low, high = float(found[1]), float(found[2] or found[1])
    if max(low, high) > most:
        raise ValueError(f"a {name} of {max(low, high):g}° is out of range: it is 0 to {most:g}°")
    return low, high


def advise(sums: Float64, latitude: float, longitude: float, of: Roof, horizon: Profile = ()) -> Advice:
    """Return the advice for one place.

    Parameters
    ----------
    sums : ndarray
        What was measured so far, (12, 24, columns), as `selfgen.orientation.summed` has it.
    latitude, longitude : float
        Degrees.
    of : Roof
        The planes that are possible.
    horizon : Profile
        What hides the sun.
    """
    place = latitude, longitude, [horizon]
    year = orientation.expected_year(sums, *place)
    best = orientation.best(sums, *place)
    surface = orientation.surface(year.light)
    free = orientation.on_plane(year.light, float(best.tilt), float(best.azimuth)).sum()
    tilt, azimuth = _within(of, surface, float(best.tilt), float(best.azimuth))
    chosen = orientation.on_plane(year.light, tilt, azimuth)
    monthly = _panel_energy(chosen, latitude)
    share = np.hypot(orientation.deviation(year, tilt, azimuth) / chosen.sum(), _REMAINS) * _NINE_OF_TEN
    yearly = float(monthly.sum())

    def costs(tilt: float, azimuth: float) -> float:
        return float(1 - orientation.on_plane(year.light, tilt, azimuth).sum() / free)

    told = {
        "measured": float(year.measured),
        "best": {
            "tilt": float(best.tilt),
            "azimuth": float(best.azimuth),
            "gain_vs_horizontal": float(best.gain_vs_horizontal),
            "confidence": float(best.confidence),
        },
        "here": {"tilt": tilt, "azimuth": azimuth, "costs": costs(tilt, azimuth)},
        "yearly_kwh_per_kwp": yearly,
        "range_kwh_per_kwp": [yearly * (1 - float(share)), yearly * (1 + float(share))],
        "monthly_kwh_per_kwp": monthly.tolist(),
        "off": [
            {
                "degrees": off,
                "flatter": costs(max(tilt - off, 0.0), azimuth),
                "steeper": costs(min(tilt + off, 90.0), azimuth),
                "anticlockwise": costs(tilt, azimuth - off),
                "clockwise": costs(tilt, azimuth + off),
            }
            for off in OFF
        ],
    }
    return Advice(told, surface / free)


def _within(of: Roof, surface: Float64, tilt: float, azimuth: float) -> tuple[float, float]:
    """Return the best plane of a roof; that of all planes where the roof allows it."""
    (flat, steep), (first, last) = of
    width = last - first if 0 <= last - first <= 360 else (last - first) % 360
    if flat <= tilt <= steep and (azimuth - first) % 360 <= width:
        return tilt, azimuth
    tilts = np.unique(np.clip(TILTS, flat, steep))
    azimuths = np.unique([first, *AZIMUTHS[(AZIMUTHS - first) % 360 < width], last])
    # between the surface's planes, the nearest is good enough to choose by
    energy = surface[np.ix_(np.rint(tilts).astype(int), np.rint(azimuths / 2).astype(int) % len(AZIMUTHS))]
    row, column = np.unravel_index(energy.argmax(), energy.shape)
    return float(tilts[row]), float(azimuths[column] % 360)


def energy_surface(light: Float64, latitude: npt.ArrayLike) -> Float64:
    """Return what panels of 1 kW peak make in a year on planes of `SURFACE_TILTS` × `SURFACE_AZIMUTHS`, kWh.

    Parameters
    ----------
    light : ndarray
        Of sensors' expected years (`selfgen.orientation.Year`), (..., 12, 24, 4).
    latitude : array_like
        Degrees, (...).

    Returns
    -------
    ndarray
        Shape (..., tilts, azimuths).
    """
    lit = light.any(axis=(*range(light.ndim - 2), -1))
    light = light[..., lit, :]

    def energy(tilt: float, azimuth: float) -> Float64:
        return np.asarray(_panel_energy(orientation.on_plane(light, tilt, azimuth), latitude).sum(axis=-1), np.float64)

    surface = [[energy(tilt, azimuth) for azimuth in SURFACE_AZIMUTHS] for tilt in SURFACE_TILTS]
    return np.moveaxis(np.array(surface), (0, 1), (-2, -1))


def _panel_energy(plane: Float64, latitude: npt.ArrayLike) -> Float64:
    """Return by month what panels of 1 kW peak make of the light on their planes, (..., 12, hours) Wh/m², kWh."""
    days = DAYS_OF_MONTH[:, np.newaxis]
    hour = plane / days
    air = np.broadcast_to(solar.usual_temperature(latitude)[..., np.newaxis, np.newaxis], hour.shape)
    power = solar.ac_power(hour, air, np.ones(hour.shape))
    return np.asarray((power * days).sum(axis=-1) * _OF_MEAN_HOURS, np.float64)
