"""What a panel should have made of the light there was, slot by slot.

The light is that of its client's nearest sensor. A client without one is judged by what panels in the same postal code
made: of each panel's clear-sky bound, the share that half of them exceeded. Where there are too few of them, nothing is
expected, for a bound alone would take every cloud for a fault.

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

#: Columns of the light sensors' slots that are needed.
LIGHT = ("client_id", "slot_start", "latitude", "longitude", "generated", "completeness")


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
    owned = placed["owned"].to_numpy(np.float64)
    bound = owned * _produced(placed, _clear_sky(placed))
    measured = ~np.isnan(ghi)
    energy = bound * _area_index(placed, bound)
    energy[measured] = owned[measured] * _produced(placed[measured], ghi[measured])
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


def _nearest_light(slots: pd.DataFrame, light: pd.DataFrame) -> Float64:
    """Return the mean irradiance that the client's nearest sensor measured in each slot, W/m²; NaN: none covered it."""
    result = np.full(len(slots), np.nan)
    sensors = light[(light["completeness"] >= COVERED) & light["client_id"].notna()]
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


def _area_index(slots: pd.DataFrame, bound: Float64) -> Float64:
    """Return the share of its clear-sky bound that a panel of each slot's area made, by the median; at most 1."""
    covered = slots["completeness"].to_numpy(np.float64)
    tells = (covered >= COVERED) & (bound >= LEAST * _rated(slots)) & slots["postal_code"].fillna("").ne("").to_numpy()
    measured = (slots["generated"] - slots["estimated"]).to_numpy(np.float64)
    index = np.divide(measured, bound * covered, out=np.full(len(slots), np.nan), where=tells)
    area = pd.Series(index).groupby([slots["postal_code"], slots["slot_start"]])
    median = area.transform("median").where(area.transform("count") >= PEERS)
    share: Float64 = np.minimum(median.to_numpy(np.float64), 1.0)
    # nothing can be expected where there is no light
    return np.where(bound > 0, share, 0.0)
