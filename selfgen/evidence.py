"""What the samples of a slot tell about their device, kept with the slot: the alarms need to read slots only.

Every figure of a slot follows from the samples within it, so that it does not depend on what else was read.

>>> table = pd.DataFrame({"element_id": "P-1", "time": np.arange(60) * 60_000, "value": 312.0})
>>> hour = pd.DataFrame({"element_id": ["P-1"], "slot_start": [0], "slot_end": [3_600_000]})
>>> stale_share(samples_in(table, hour)).tolist()
[1.0]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from selfgen.solar import night

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

#: Least time, and least number of samples, without a change that make a value stale.
STALE_SPAN_S = 1200.0
STALE_SAMPLES = 4
#: Values that agree to so many decimals are the same.
STALE_DECIMALS = 3

#: Values that are this share of the slot's greatest below it, or less, are at its top: an instrument scatters by 0.3 %.
FLAT = 0.0075

#: Share of the rating above which a panel produces.
PRODUCES = 0.005
#: W/m² above which there is light: more than a sensor's offset, and than twilight gives when the sun is 2° down.
LIT = 20.0


class SlotSamples(NamedTuple):
    """The samples that lie in slots, in order of slot and time; a slot with two owners is one slot in two rows."""

    slot: npt.NDArray[np.intp]  # of each sample
    time: Int64  # epoch ms
    value: Float64
    length: Float64  # of each slot, ms
    counts: Int64  # samples of each slot
    row: npt.NDArray[np.intp]  # a row of each slot
    slot_of_row: npt.NDArray[np.intp]

    def share(self, flags: npt.ArrayLike) -> Float64:
        """Return what share of each row's samples is flagged; NaN where there are none."""
        flagged = np.bincount(self.slot, weights=np.asarray(flags, np.float64), minlength=len(self.counts))
        share = np.divide(flagged, self.counts, out=np.full(len(self.counts), np.nan), where=self.counts > 0)
        return share[self.slot_of_row]


def samples_in(readings: pd.DataFrame, slots: pd.DataFrame) -> SlotSamples:
    """Return the samples of each slot.

    Parameters
    ----------
    readings : DataFrame
        `element_id`, `time` (epoch ms), `value`, in any order.
    slots : DataFrame
        `element_id`, `slot_start`, `slot_end` (epoch ms).
    """
    element, _ = pd.factorize(pd.concat([slots["element_id"], readings["element_id"]], ignore_index=True))
    start, end = slots["slot_start"].to_numpy(np.int64), slots["slot_end"].to_numpy(np.int64)
    time = readings["time"].to_numpy(np.int64)
    instants = np.concatenate([start, time])
    earliest = instants.min(initial=np.iinfo(np.int64).max)
    span = instants.max(initial=earliest) - earliest + 1
    key = element.astype(np.int64) * span + instants - earliest
    slot_key, row, slot_of_row = np.unique(key[: len(start)], return_index=True, return_inverse=True)

    order = np.argsort(key[len(start) :], kind="stable")
    slot = np.searchsorted(slot_key, key[len(start) :][order], side="right") - 1
    inside = slot >= 0
    order, slot = order[inside], slot[inside]
    inside = (element[row][slot] == element[len(start) :][order]) & (time[order] < end[row][slot])
    order, slot = order[inside], slot[inside]
    count = np.bincount(slot, minlength=len(slot_key))
    value = readings["value"].to_numpy(np.float64)[order]
    return SlotSamples(slot, time[order], value, (end - start)[row].astype(np.float64), count, row, slot_of_row)


def stale_share(samples: SlotSamples) -> Float64:
    """Return the share of each slot's samples that belong to a stretch of one and the same value.

    A stretch lasts at least `STALE_SPAN_S` seconds, to the nearest lower power of two of samples at the slot's own
    rate, and lies within the slot. Zero and less is never stale: that is night, or an alarm of its own.

    Returns
    -------
    ndarray
        0–1 for each row of the slots; NaN where it has no samples.
    """
    fitting = STALE_SPAN_S * 1000 * samples.counts / samples.length
    windows = 2 ** np.floor(np.log2(np.maximum(fitting, STALE_SAMPLES))).astype(np.int64)
    of_sample = windows[samples.slot]
    stale = np.zeros(len(samples.slot), np.bool_)
    for window in np.unique(of_sample):
        here = of_sample == window
        stale[here] = _stale(samples.value[here], samples.slot[here], int(window))
    return samples.share(stale)


def _stale(value: Float64, slot: npt.NDArray[np.intp], window: int) -> Bool:
    """Return which values belong to at least `window` equal positive ones in a row of the same slot."""
    from pvanalytics.quality.gaps import stale_values_round  # seconds to import; wind needs none

    # what is no number ends a stretch
    borders = np.flatnonzero(np.diff(slot)) + 1
    series = pd.Series(np.insert(np.where(value > 0, value, np.nan), borders, np.nan))
    ends = stale_values_round(series, window=window, decimals=STALE_DECIMALS, mark="end")
    # pvanalytics marks a whole stretch in `window` passes; this is one
    whole = ends[::-1].astype(np.float64).rolling(window, min_periods=1).max()[::-1] > 0
    flags: Bool = np.delete(whole.to_numpy(), borders + np.arange(len(borders)))
    return flags


def flat_share(samples: SlotSamples) -> Float64:
    """Return the share of each slot's samples that are within `FLAT` of the slot's greatest value.

    An inverter at its limit gives nearly all, hour after hour; the sun moves too much for two such hours in a row.
    `pvanalytics.features.clipping` has the like for whole days, which would make a slot depend on the others.

    Returns
    -------
    ndarray
        0–1 for each row of the slots; 0 where nothing is above zero, NaN where it has no samples.
    """
    greatest = np.zeros(len(samples.counts))
    np.maximum.at(greatest, samples.slot, samples.value)
    top = greatest[samples.slot]
    return samples.share((samples.value >= (1 - FLAT) * top) & (top > 0))


def dark_share(samples: SlotSamples, slots: pd.DataFrame, least: npt.ArrayLike) -> Float64:
    """Return what share of each slot's samples shows light or production while the sun is down: a wrong clock.

    The sun is down as `selfgen.solar.night` has it.

    Parameters
    ----------
    slots : DataFrame
        What the samples were put in, and `latitude`, `longitude` (degrees).
    least : array_like
        Above which value a sample shows some, of each row of the slots or of all; `PRODUCES` of the rating, `LIT`.

    Returns
    -------
    ndarray
        0–1 for each row; NaN where it tells nothing: the place or `least` is unknown, there are no samples, or nothing
        is shown in a slot in which a clock that is wrong by an hour need not show.
    """
    once = slots.iloc[samples.row]
    dark = night(once["latitude"], once["longitude"], once["slot_start"], once["slot_end"])
    above = np.broadcast_to(np.asarray(least, np.float64), len(slots))[samples.row]
    inside = (samples.time >= dark.start[samples.slot]) & (samples.time < dark.end[samples.slot])
    share = samples.share(inside & (samples.value > above[samples.slot]))
    told = ~np.isnan(above)[samples.slot_of_row] & ((share > 0) | dark.tells[samples.slot_of_row])
    return np.where(told, share, np.nan)
