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
import pvlib

from selfgen.solar import night, sun

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

#: Least time, and least number of samples, without a change that make a value stale.
STALE_SPAN_S = 1200.0
STALE_SAMPLES = 4
#: Share of a slot's samples from which on its value does not move.
STALE = 0.5
#: Values that agree to so many decimals are the same.
STALE_DECIMALS = 3

#: Values that are this share of the slot's greatest below it, or less, are at its top: an instrument scatters by 0.3 %.
FLAT = 0.0075

#: Parts of a slot that are compared with a clear sky's, of which so many need samples; and the lowest sun, sine of its
#: height, in which they are.
PARTS, MEASURED_PARTS, LEAST_HEIGHT = 12, 9, 0.2
#: Slots that are compared at once.
_AT_ONCE = 10_000

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
    """Return the samples of each slot: those of the parts of it that its rows' owners had.

    Parameters
    ----------
    readings : DataFrame
        `element_id`, `time` (epoch ms), `value`, in any order.
    slots : DataFrame
        `element_id`, `slot_start`, `slot_end` (epoch ms), and where they differ from these, `owned_start`, `owned_end`:
        slots of owners on different clocks may overlap, the owned parts do not.
    """
    element, _ = pd.factorize(pd.concat([slots["element_id"], readings["element_id"]], ignore_index=True))
    owned = ("owned_start", "owned_end") if "owned_start" in slots else ("slot_start", "slot_end")
    start, owned_start, owned_end = (slots[name].to_numpy(np.int64) for name in ("slot_start", *owned))
    length = (slots["slot_end"].to_numpy(np.int64) - start).astype(np.float64)
    time = readings["time"].to_numpy(np.int64)
    instants = np.concatenate([start, owned_start, time])
    earliest = instants.min(initial=np.iinfo(np.int64).max)
    span = instants.max(initial=earliest) - earliest + 1
    of_row, of_sample = (part.astype(np.int64) * span - earliest for part in np.split(element, [len(start)]))
    _, row, slot_of_row = np.unique(of_row + start, return_index=True, return_inverse=True)

    by_time = np.argsort(of_row + owned_start, kind="stable")
    order = np.argsort(of_sample + time, kind="stable")
    found = np.searchsorted((of_row + owned_start)[by_time], (of_sample + time)[order], side="right") - 1
    order, owner = order[found >= 0], by_time[found[found >= 0]]
    inside = (of_row[owner] == of_sample[order]) & (time[order] < owned_end[owner])
    order, slot = order[inside], slot_of_row[owner[inside]]
    in_turn = np.argsort(slot, kind="stable")
    order, slot = order[in_turn], slot[in_turn]
    count = np.bincount(slot, minlength=len(row))
    value = readings["value"].to_numpy(np.float64)[order]
    return SlotSamples(slot, time[order], value, length[row], count, row, slot_of_row)


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


def steady(samples: SlotSamples, slots: pd.DataFrame) -> Float64:
    """Tell which slots' light has the shape of a clear sky's, whatever its level: nothing passed before the sun.

    Reno and Hansen's tests (2016) with the limits of Jordan and Hansen (2023) for 5 min, `pvlib.clearsky`, of twelve
    parts of the slot against Haurwitz' clear sky scaled to it. What dirt, shade or an even cloud leave over is steady
    too.

    Parameters
    ----------
    slots : DataFrame
        What the samples were put in, and `latitude`, `longitude` (degrees).

    Returns
    -------
    ndarray
        1 and 0 for each row; NaN where the sun is low, a quarter of the parts has no samples, or the place is unknown.
    """
    once = slots.iloc[samples.row]
    start, length = once["slot_start"].to_numpy(np.float64), samples.length
    moments = np.stack([start, start + length / 2, start + length])
    height = np.cos(np.radians(sun(once["latitude"], once["longitude"], moments).zenith))
    part = ((samples.time - start[samples.slot]) * PARTS // length[samples.slot]).astype(np.int64)
    cell = samples.slot * PARTS + part
    shape = len(length), PARTS
    count = np.bincount(cell, minlength=len(length) * PARTS).reshape(shape)
    total = np.bincount(cell, samples.value, minlength=len(length) * PARTS).reshape(shape)
    told = (height.min(axis=0, initial=np.inf) >= LEAST_HEIGHT) & ((count > 0).sum(axis=1) >= MEASURED_PARTS)
    found = np.full(len(length), np.nan)
    rows = np.flatnonzero(told)
    for some in np.split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)):
        mean = np.divide(total[some], count[some], out=np.full((len(some), PARTS), np.nan), where=count[some] > 0)
        found[some] = _steady(mean, height[:, some])
    return found[samples.slot_of_row]


def _steady(light: Float64, height: Float64) -> Bool:
    """Tell which slots' parts, (slots, parts), are as under a clear sky; `height`: the sun's sine, at three times."""
    if not len(light):
        return np.zeros(0, np.bool_)
    light = pd.DataFrame(light).interpolate(axis=1, limit_direction="both").to_numpy()
    at = (np.arange(PARTS) + 0.5) / PARTS * 2 - 1
    first, middle, last = height[:, :, np.newaxis]
    sine = middle + (last - first) / 2 * at + ((first + last) / 2 - middle) * at**2
    clear = 1098 * sine * np.exp(-0.057 / sine)
    # pvlib scales the whole series once more, by exactly 1 where each slot is scaled by least squares
    clear *= ((light * clear).sum(axis=1) / (clear**2).sum(axis=1))[:, np.newaxis]
    apart = np.full((len(light), 1), np.nan)
    series = [np.hstack([of, apart]).ravel() for of in (light, clear)]
    times = pd.date_range("2000-01-01", periods=len(series[0]), freq="5min")
    found = pvlib.clearsky.detect_clearsky(*series, times, infer_limits=True)
    shaped = np.asarray(found, np.bool_).reshape(-1, PARTS + 1)[:, PARTS // 2]
    return np.asarray(shaped & (light.min(axis=1) > 0), np.bool_)


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
