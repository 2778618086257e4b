"""A sensor's horizon: hills, houses and trees that hide the sun, as pairs of azimuth and elevation.

It stands in the `variable_data` of the sensor or of its relation with a client, as pairs of degrees; between them the
horizon goes straight, also past north. The sensor sees it as the panels to come will.

>>> of('{"horizon": [[90, 10], [180, 0], [270, 20]]}')
((90.0, 10.0), (180.0, 0.0), (270.0, 20.0))
>>> typed(["90:10", "180:0"])
((90.0, 10.0), (180.0, 0.0))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

Profile = tuple[tuple[float, float], ...]
Profiles = Sequence[Profile]

NAME = "horizon"
MOST_PAIRS = 360
_log = structlog.get_logger(__name__)


def typed(pairs: Sequence[str]) -> Profile:
    """Return the horizon that is typed as `azimuth:elevation` pairs.

    Raises
    ------
    ValueError
        With a sentence that says which pair is wrong, and how to write it.
    """
    found = []
    for pair in pairs:
        try:
            azimuth, elevation = map(float, pair.split(":"))
        except ValueError:
            raise ValueError(f"{pair} is no azimuth:elevation pair: write degrees, such as 180:12.5") from None
        found.append([azimuth, elevation])
    return checked(found)


def checked(value: Any) -> Profile:
    """Return a horizon, sorted by azimuth, from a list of pairs.

    Raises
    ------
    ValueError
        With a sentence that says what is wrong.
    """
    try:
        pairs = msgspec.convert(value, list[tuple[float, float]])
    except msgspec.ValidationError:
        raise ValueError("a horizon is a list of [azimuth, elevation] pairs, such as [[90, 12], [180, 0]]") from None
    if len(pairs) > MOST_PAIRS:
        raise ValueError(f"a horizon has at most {MOST_PAIRS} pairs, this one has {len(pairs)}")
    for azimuth, elevation in pairs:
        if not 0 <= azimuth < 360:
            raise ValueError(f"a horizon's azimuth is 0 to below 360 degrees clockwise from north, not {azimuth:g}")
        if not 0 <= elevation <= 90:
            raise ValueError(f"a horizon's elevation is 0 to 90 degrees, not {elevation:g}")
    azimuths = [azimuth for azimuth, _ in pairs]
    if twice := {azimuth for azimuth in azimuths if azimuths.count(azimuth) > 1}:
        raise ValueError(f"a horizon has one elevation at each azimuth, this one has several at {min(twice):g}")
    return tuple(sorted(pairs))


@lru_cache(maxsize=10_000)
def of(variable_data: str | None) -> Profile:
    """Return the horizon in an element's `variable_data`, JSON text; nothing hides the sun where there is none.

    One that cannot be read is logged, and hides nothing: it must not stop a job.
    """
    if not variable_data or NAME not in variable_data:
        return ()
    try:
        found = msgspec.json.decode(variable_data)
        return checked(found[NAME]) if isinstance(found, Mapping) and NAME in found else ()
    except (ValueError, msgspec.DecodeError) as error:
        _log.warning("a horizon is not readable, the sun is taken to be in sight", error=str(error))
        return ()


def profiles(variable_data: Any) -> Profiles:
    """Return the horizons of a column of `variable_data`, JSON texts or what is no text."""
    return [of(text if isinstance(text, str) else None) for text in variable_data]


def in_sight(zenith: npt.ArrayLike, azimuth: npt.ArrayLike, horizons: Profiles) -> npt.NDArray[np.bool_]:
    """Tell where the sun is over the horizon's profile.

    Parameters
    ----------
    zenith, azimuth : array_like
        The sun's, degrees, (rows, ...).
    horizons : sequence of Profile
        One for each row, or none at all.
    """
    height, azimuth = 90 - np.asarray(zenith, np.float64), np.asarray(azimuth, np.float64)
    result = np.ones(height.shape, np.bool_)
    rows: dict[Profile, list[int]] = {}
    for row, profile in enumerate(horizons):
        if profile:
            rows.setdefault(profile, []).append(row)
    for profile, here in rows.items():
        azimuths, elevations = zip(*profile, strict=True)
        result[here] = height[here] >= np.interp(azimuth[here], azimuths, elevations, period=360)
    return result
