"""What a panel should have made of the light there was, slot by slot.

The light is that of its client's nearest sensor. A client without one is judged by the light under which half of the
panels in the same postal code, each with its own tilt and azimuth, would have made less than they did. Where there are
too few of them, nothing is expected, for a clear sky alone would take every cloud for a fault.

Pure functions of whole batches; the physics is `selfgen.solar`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from selfgen import orientation, solar
from selfgen.calendar import HOUR_MS

Float64 = npt.NDArray[np.float64]

#: Light and panels tell something about a slot that they covered to this share.
COVERED = 0.9
#: Panels of an area that have to tell something, and the share of the rating over the slot below which none does.
PEERS = 3
LEAST = 0.01
#: Times that the light of an area is corrected, and how far: what is made grows faster than light, as more
#: of it is beam, and the whole way would overshoot.
CORRECTIONS, DAMPING = 4, 0.8

#: Columns of the light sensors' slots that are needed.
LIGHT = ("client_id", "slot_start", "latitude", "longitude", "generated", "completeness", "owned", "stale")
#: A sensor whose value did not move in more of the slot than this tells nothing.
STALE = 0.5


def expected_energy(slots: pd.DataFrame, light: pd.DataFrame) -> Float64:
    """Return the energy expected of panels in the part of each slot that was their owner's.

    Parameters
    ----------
    slots : pandas.DataFrame
        `client_id`, `postal_code`, `slot_start`, `slot_end` (epoch ms), `latitude`, `longitude`, `power_cap` (W peak),
        `tilt` and `azimuth` (degrees; the best there where not known); `owned`, the owner's share of the slot; and, for
        what an area's panels made, `generated` and `estimated` (Wh) and `completeness`.
    light : pandas.DataFrame
        Slots of light sensors, the columns of `LIGHT`: `generated` is Wh/m².

    Returns
    -------
    ndarray
        Wh, NaN where nothing is expected.
    """
    result = np.full(len(slots), np.nan)
    known = slots[["latitude", "longitude", "power_cap"]].notna().all(axis=1).to_numpy()
    if not known.any():
        return result
    placed = _oriented(slots[known])
    ghi = _nearest_light(placed, light)
    measured = ~np.isnan(ghi)
    energy = np.full(len(placed), np.nan)
    energy[measured] = _owned_energy(placed[measured], ghi[measured])
    # only where somebody has to be judged by others
    area = ~measured | placed["postal_code"].isin(placed.loc[~measured, "postal_code"]).to_numpy()
    energy[area] = np.where(measured[area], energy[area], _by_area(placed[area].reset_index(drop=True)))
    result[known] = energy
    return result


def shape(slots: pd.DataFrame, light: pd.DataFrame) -> Float64:
    """Return what energy is spread by over slots: what the light there was would give, else a clear sky's.

    As `expected_energy`, but for the area: what was made in the slots is not asked for. NaN: no place, or no rating.
    """
    known = slots[["latitude", "longitude", "power_cap"]].notna().all(axis=1).to_numpy()
    result = np.full(len(slots), np.nan)
    if known.any():
        placed = _oriented(slots[known])
        ghi = _nearest_light(placed, light)
        result[known] = _produced(placed, np.where(np.isnan(ghi), _clear_sky(placed), ghi))
    return result


def performance_ratio(slots: pd.DataFrame, expected: npt.ArrayLike) -> Float64:
    """Return what was measured of what was expected in the covered share of each slot.

    Parameters
    ----------
    slots : pandas.DataFrame
        `generated`, `estimated` (Wh; what was spread over gaps is not counted), `completeness`, `slot_start`,
        `slot_end`, `power_cap` (W peak).
    expected : array_like
        Of the row, Wh.

    Returns
    -------
    ndarray
        NaN where nothing is expected, or less than `LEAST` of the rating: at dawn it would say nothing.
    """
    covered = np.asarray(expected, np.float64) * slots["completeness"].to_numpy(np.float64)
    enough = np.asarray(expected, np.float64) >= LEAST * _rated(slots)
    measured = (slots["generated"] - slots["estimated"]).to_numpy(np.float64)
    return np.divide(measured, covered, out=np.full(len(slots), np.nan), where=enough & (covered > 0))


def _rated(slots: pd.DataFrame) -> Float64:
    """Return what the rating would give in each slot, Wh."""
    hours = (slots["slot_end"] - slots["slot_start"]).to_numpy(np.float64) / HOUR_MS
    rated: Float64 = slots["power_cap"].to_numpy(np.float64) * hours
    return rated


def _oriented(slots: pd.DataFrame) -> pd.DataFrame:
    """Point panels whose tilt or azimuth is not known where they would catch most under what is usual there."""
    slots = slots.reset_index(drop=True)
    unknown = slots[slots[["tilt", "azimuth"]].isna().any(axis=1)]
    if unknown.empty:
        return slots
    oriented = slots.astype({"tilt": np.float64, "azimuth": np.float64})
    places = unknown[["latitude", "longitude"]].drop_duplicates()
    best = orientation.usual(places["latitude"], places["longitude"])
    places = places.assign(tilt=best.tilt, azimuth=best.azimuth)
    angles = unknown[["latitude", "longitude"]].merge(places, on=["latitude", "longitude"], how="left")
    for name in ("tilt", "azimuth"):
        angle = pd.Series(angles[name].to_numpy(), index=unknown.index)
        oriented.loc[unknown.index, name] = unknown[name].fillna(angle)
    return oriented


def _clear_sky(slots: pd.DataFrame) -> Float64:
    """Return the mean global horizontal irradiance under a clear sky, W/m²."""
    return solar.clear_sky(slots["slot_start"], slots["slot_end"], slots["latitude"], slots["longitude"])


def _produced(slots: pd.DataFrame, ghi: Float64) -> Float64:
    """Return what panels make of a mean global horizontal irradiance, W/m², in whole slots, Wh."""
    hours = (slots["slot_end"] - slots["slot_start"]).to_numpy(np.float64) / HOUR_MS
    names = ("latitude", "longitude", "tilt", "azimuth", "power_cap")
    return solar.producible(slots["slot_start"], slots["slot_end"], ghi * hours, *(slots[name] for name in names))


def _owned_energy(slots: pd.DataFrame, ghi: Float64) -> Float64:
    """Return what panels make of an irradiance in the part of each slot that was their owner's, Wh."""
    return slots["owned"].to_numpy(np.float64) * _produced(slots, ghi)


def _nearest_light(slots: pd.DataFrame, light: pd.DataFrame) -> Float64:
    """Return the mean irradiance that the client's nearest sensor measured in each slot, W/m²; NaN: none covered it."""
    result = np.full(len(slots), np.nan)
    # one that changed hands within the slot tells of a part of it; a lake of before that was noted has whole slots
    covered = light["completeness"] * light["owned"].astype(np.float64).fillna(1.0)
    telling = (covered >= COVERED) & ~(light["stale"] > STALE) & light["client_id"].notna()
    sensors = light.assign(completeness=covered)[telling]
    if sensors.empty:
        return result
    pairs = slots.assign(row=np.arange(len(slots)))[
        ["row", "client_id", "slot_start", "slot_end", "latitude", "longitude"]
    ]
    pairs = pairs.merge(sensors[list(LIGHT)], on=["client_id", "slot_start"], suffixes=("", "_of_sensor"))
    east = (pairs["longitude_of_sensor"] - pairs["longitude"] + 180) % 360 - 180
    north = pairs["latitude_of_sensor"] - pairs["latitude"]
    narrowing = np.cos(np.radians(pairs["latitude"].to_numpy(np.float64)))
    pairs["distance"] = np.hypot(east.to_numpy(np.float64) * narrowing, north.to_numpy(np.float64))
    # of sensors that are equally near, the same one whatever order they come in
    nearest = pairs.sort_values(["row", "distance", "latitude_of_sensor", "longitude_of_sensor", "generated"])
    nearest = nearest.drop_duplicates("row")
    hours = (nearest["slot_end"] - nearest["slot_start"]) / HOUR_MS
    result[nearest["row"]] = nearest["generated"] / (hours * nearest["completeness"])
    return result


def _by_area(slots: pd.DataFrame) -> Float64:
    """Return what panels should have made of the light that half of their area's panels had, Wh; NaN: too few of them.

    The light is sought in a few steps from a clear sky's, which it does not exceed; what is left is a factor.
    """
    clear = _clear_sky(slots)
    made = bound = _owned_energy(slots, clear)
    covered = slots["completeness"].to_numpy(np.float64)
    tells = (covered >= COVERED) & (bound >= LEAST * _rated(slots)) & slots["postal_code"].fillna("").ne("").to_numpy()
    measured = (slots["generated"] - slots["estimated"]).to_numpy(np.float64)
    area = pd.Series(tells.astype(np.int64)).groupby([slots["postal_code"], slots["slot_start"]])
    enough = area.transform("sum").ge(PEERS).to_numpy()

    def shares() -> Float64:
        """Return by how much half of each slot's area exceeded what was computed; 1 where that says nothing."""
        share = np.divide(measured, made * covered, out=np.full(len(slots), np.nan), where=tells & (made > 0))
        medians = pd.Series(share).groupby([slots["postal_code"], slots["slot_start"]]).transform("median")
        return np.maximum(medians.fillna(1.0).to_numpy(np.float64), 0.0)

    ghi = clear
    for _ in range(CORRECTIONS):
        ghi = np.minimum(ghi * shares() ** DAMPING, clear)
        made = _owned_energy(slots, ghi)
    factor = shares()
    energy = made * np.where(ghi < clear, factor, np.minimum(factor, 1.0))
    # nothing can be expected where there is no light
    return np.where(enough, energy, np.where(bound > 0, np.nan, 0.0))
