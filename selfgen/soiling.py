"""How much of a clear sky's light a sensor still sees: less, and it is soiled, shaded, or drifts.

A slot is clear where its light has the shape of a clear sky's (`selfgen.evidence.steady`) and is one of three in a row
that tell about the same share of the clear sky's model: cirrus and haze pass, a clear sky stays. What the model is off
by at a place, and most of what it is off by in a season, is in the share that the same sensor saw in the months before;
so is the sensor's own calibration. That share is the level by which new slots are judged.

Shade hides the sun at the same hours day after day, where clouds do so at some: an hour that was dark each time of late
that it was bright near it, and bright at no time, counts as clear too.

Pure functions of arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from selfgen.calendar import DAY_MS, HOUR_MS

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MONTHS = 12
#: Share of the clear sky's model between which a slot may be clear, and how alike the slots beside it have to be: over
#: simulated years, with three in a row alike the share of the last clear slots strays least.
LEAST_CLEAR, MOST_CLEAR, ALIKE = 0.7, 1.25, 0.05
#: Share of the model from which on a slot is bright, and under which it is dark; and how far from a bright slot a dark
#: one tells of shade.
BRIGHT, DARK, NEAR_MS = 0.7, 0.6, 3 * HOUR_MS
#: What is longer ago says nothing of now; twice of it lies within what alarms look back.
RECENT_MS = 15 * DAY_MS
#: Slots are in a row if no longer apart, start to start; so those that begin up to `LATER_MS` later tell whether one is
#: clear or shaded.
APART_MS = 2 * HOUR_MS
LATER_MS = max(2 * APART_MS, NEAR_MS)
#: Least slots that a share is made of.
LEAST_SLOTS = 6
#: Light of the clear sky's model in the months before, Wh/m², that makes a level: about a dozen hours.
LEAST_LIGHT = 6_000.0


def shares(slots: pd.DataFrame) -> Float64:
    """Return what share of the clear sky's model was measured, slot by slot; NaN where the beam is not expected."""
    expected = np.where(slots["clear_beam"] > 0, slots["clear_beam"] + slots["clear_sky"], 0.0)
    measured = slots["generated"].to_numpy(np.float64)
    return np.divide(measured, expected, out=np.full(len(slots), np.nan), where=expected > 0)


def clear(slots: pd.DataFrame) -> Bool:
    """Tell which slots were under a clear sky, with the sun in sight.

    Parameters
    ----------
    slots : DataFrame
        In order of `element_id` and `slot_start` (epoch ms): `steady`, `generated`, `clear_beam`, `clear_sky` (Wh/m²).
    """
    share = shares(slots)
    even = (slots["steady"] == 1).to_numpy() & (share >= LEAST_CLEAR) & (share <= MOST_CLEAR)
    known = np.where(even, share, np.nan)
    element, start = slots["element_id"].to_numpy(object), slots["slot_start"].to_numpy(np.int64)
    beside = (element[1:] == element[:-1]) & (np.diff(start) <= APART_MS)
    with np.errstate(invalid="ignore"):
        alike = beside & (np.abs(known[1:] / known[:-1] - 1) <= ALIKE)
    before, after = np.r_[False, alike][: len(slots)], np.r_[alike, False][: len(slots)]
    amid = before & after
    return np.asarray(amid | np.r_[False, amid[:-1]][: len(slots)] | np.r_[amid[1:], False][: len(slots)], np.bool_)


def trusted(slots: pd.DataFrame) -> Bool:
    """Tell in which slots a sensor may be judged: of late it saw no light in the dark, nor more than a clear sky gives.

    A clock or a unit that is wrong makes clouds look like dirt, and evenings like shade.

    Parameters
    ----------
    slots : DataFrame
        As for `clear`, and `dark` (`selfgen.evidence.dark_share`).
    """
    start, element = slots["slot_start"].to_numpy(np.int64), slots["element_id"].to_numpy(object)
    wrong = (slots["dark"] > 0).to_numpy() | ((slots["steady"] == 1).to_numpy() & (shares(slots) > MOST_CLEAR))
    last = pd.Series(np.where(wrong, start, np.nan)).groupby(element).ffill().to_numpy()
    return np.asarray(np.isnan(last) | (start - last > RECENT_MS), np.bool_)


class Shade(NamedTuple):
    """Of each slot: whether the sun was `hidden`; whether it is in sight `again` at an hour at which it was hidden."""

    hidden: Bool
    again: Bool


def shade(slots: pd.DataFrame, days: npt.ArrayLike) -> Shade:
    """Tell in which slots the sun was hidden as at this hour on so many days in a row that were bright near it.

    Parameters
    ----------
    slots : DataFrame
        As for `clear`.
    days : array_like
        For each slot.
    """
    start, element = slots["slot_start"].to_numpy(np.int64), slots["element_id"].to_numpy(object)
    share = np.where(slots["steady"].notna(), shares(slots), np.nan)
    bright = pd.Series(np.where(share >= BRIGHT, start, np.nan)).groupby(element)
    apart = np.fmin(start - bright.ffill().to_numpy(), bright.bfill().to_numpy() - start)
    dark = (share < DARK) & (apart <= NEAR_MS)
    told = np.flatnonzero(dark | (share >= DARK))
    hour, code = start[told] % DAY_MS // HOUR_MS, pd.factorize(element[told])[0]
    order = np.lexsort((start[told], hour, code))
    told, hour, code = told[order], hour[order], code[order]
    row = np.arange(len(told))
    first = np.r_[True, (hour[1:] != hour[:-1]) | (code[1:] != code[:-1])][: len(told)]
    begin = np.maximum.accumulate(np.where(first, row, 0))
    seen = np.maximum.accumulate(np.where(dark[told], -1, row))
    needed = np.broadcast_to(np.asarray(days, np.int64), len(slots))[told]
    run = row - np.maximum(seen, begin - 1)
    since = start[told][np.maximum(row - needed + 1, 0)]
    found = Shade(np.zeros(len(slots), np.bool_), np.zeros(len(slots), np.bool_))
    found.hidden[told] = (run >= needed) & (start[told] - since <= RECENT_MS)
    ended = ~first & np.r_[False, found.hidden[told][:-1]][: len(told)]
    found.again[told] = ended & ~dark[told] & (start[told] - start[told][np.maximum(row - 1, 0)] <= RECENT_MS)
    return found


def recent_share(slots: pd.DataFrame, shade: Shade, hours: npt.ArrayLike) -> Float64:
    """Return what share of the light that a sensor is used to it saw in the last slots of which a clear sky is known.

    Parameters
    ----------
    slots : DataFrame
        As for `clear`, and `level`, as `level` has it.
    shade : Shade
        As `shade` has it.
    hours : array_like
        How many slots, at most; not those longer ago than `RECENT_MS`, nor those before the sun was in sight again.

    Returns
    -------
    ndarray
        For each slot; NaN where it was neither clear nor hidden, there are less than `LEAST_SLOTS`, or the level is not
        known; 1 where the sun is in sight again.
    """
    used = np.flatnonzero((clear(slots) | shade.hidden | shade.again) & slots["level"].notna().to_numpy())
    some, again = slots.iloc[used], shade.again[used]
    measured = _sums(some["generated"])
    wanted = _sums((some["clear_beam"] + some["clear_sky"]) * some["level"])
    start, row = some["slot_start"].to_numpy(np.int64), np.arange(len(some))
    code = pd.factorize(some["element_id"])[0].astype(np.int64)
    key = code * (int(start.max(initial=0)) + RECENT_MS + 1) + start
    first = np.searchsorted(key, key - np.minimum(start, RECENT_MS))
    first = np.maximum(first, row + 1 - np.broadcast_to(np.asarray(hours, np.int64), len(slots))[used])
    first = np.maximum(first, np.maximum.accumulate(np.where(again, row + 1, 0)))
    enough = row + 1 - first >= LEAST_SLOTS
    first, last = first[enough], row[enough] + 1
    result = np.full(len(slots), np.nan)
    result[used[enough]] = (measured[last] - measured[first]) / (wanted[last] - wanted[first])
    result[used[again]] = 1.0
    return result


def _sums(energy: pd.Series[float]) -> Int64:
    """Return the sums before each row, and of all; whole mWh/m², so that they do not depend on where the rows begin."""
    whole = np.round(energy.to_numpy(np.float64) * 1000).astype(np.int64)
    sums: Int64 = np.r_[np.int64(0), np.cumsum(whole)]
    return sums


def level(sums: Any, month: npt.ArrayLike) -> Float64:
    """Return the share of the clear sky's model that sensors are used to see in a month's season.

    Parameters
    ----------
    sums : ndarray
        What was measured and what the model has, of the clear slots before the month, by calendar month, (..., 12, 2).
    month : array_like
        1 to 12, (...). Months count the less the further they are from it in the year, half a year nothing.

    Returns
    -------
    ndarray
        NaN where less than `LEAST_LIGHT` is known.
    """
    apart = np.arange(1, MONTHS + 1) - np.asarray(month)[..., np.newaxis]
    weight = (1 + np.cos(2 * np.pi * apart / MONTHS)) / 2
    measured, expected = (weight * np.moveaxis(sums, -1, 0)).sum(axis=-1)
    return np.divide(measured, expected, out=np.full(expected.shape, np.nan), where=expected >= LEAST_LIGHT)
