"""Bridges: what meters counted over gaps that span the end of a UTC hour.

Slots are made hour by hour, in any order, from the readings around each hour. What a meter counted in an outage belongs
to hours that no such run sees whole: it is found between the last reading of one hour and the first of a later one, and
laid over the slots in between. Of each hour, its elements' first and last readings are kept (edges), and of each outage
its two ends (gaps); so what a slot holds follows from the readings alone, whenever, and with which others, they came.

Pure functions of whole tables; `flink_jobs.bridges` keeps them in the lake.

>>> hours = pd.DataFrame({"element_id": "P-1", "first": [0, 9_000_000], "first_meter": [10.0, 40.0],
...                       "last": [600_000, 9_600_000], "last_meter": [12.0, 41.0]})
>>> gaps(hours, 300.0)[["start", "end", "start_meter", "end_meter"]].to_numpy().tolist()
[[600000.0, 9000000.0, 12.0, 40.0]]
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from selfgen.calendar import HOUR_MS
from selfgen.energy import meter_increase

#: An element's first and last reading of an hour, or of a longer time: event times, epoch ms, and the meter, Wh.
EDGES = {
    "element_id": object,
    "first": np.int64,
    "first_meter": np.float64,
    "last": np.int64,
    "last_meter": np.float64,
}
#: An outage in which a meter counted something, or began anew: the readings before and after it.
GAPS = {
    "element_id": object,
    "start": np.int64,
    "start_meter": np.float64,
    "end": np.int64,
    "end_meter": np.float64,
}
#: What bridges add to, and the columns that keep what was there without them.
UNBRIDGED = {
    "generated": "unbridged_generated",
    "estimated": "unbridged_estimated",
    "meter_resets": "unbridged_resets",
}
_KEY = ["element_id", "slot_start", "client"]


def edges(readings: pd.DataFrame, start_ms: int, end_ms: int) -> pd.DataFrame:
    """Return the first and the last reading of each element in each UTC hour of `[start_ms, end_ms)`.

    Parameters
    ----------
    readings : pandas.DataFrame
        `element_id`; `time`, epoch ms; `energy`, the meter, Wh, NaN where not sent. In order of element and time.

    Returns
    -------
    pandas.DataFrame
        `EDGES`.
    """
    inside = readings["time"].between(start_ms, end_ms, inclusive="left").to_numpy()
    element = readings["element_id"].to_numpy()[inside]
    time = readings["time"].to_numpy(np.int64)[inside]
    meter = readings["energy"].to_numpy(np.float64)[inside]
    hour = time // HOUR_MS
    new = np.r_[True, (hour[1:] != hour[:-1]) | (element[1:] != element[:-1])] if len(time) else np.zeros(0, bool)
    first = np.flatnonzero(new)
    last = np.r_[first[1:], len(time)][: len(first)] - 1
    return pd.DataFrame(
        {
            "element_id": element[first],
            "first": time[first],
            "first_meter": meter[first],
            "last": time[last],
            "last_meter": meter[last],
        }
    )


def joined(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the edges of each element over all of its rows."""
    rows = rows.sort_values(["element_id", "first"], ignore_index=True)
    first, last = rows.drop_duplicates("element_id"), rows.drop_duplicates("element_id", keep="last")
    return first.reset_index(drop=True).assign(last=last["last"].to_numpy(), last_meter=last["last_meter"].to_numpy())


def gaps(rows: pd.DataFrame, max_gap_s: float, longest_s: float = np.inf) -> pd.DataFrame:
    """Return the outages between neighbouring edges of an element in which its meter counted, or began anew.

    Parameters
    ----------
    rows : pandas.DataFrame
        `EDGES`, in any order; of one element they do not overlap.
    max_gap_s : float
        Longest gap that is none, s.
    longest_s : float
        Longest outage that is bridged, s: what is further apart was told by a clock that had fallen back.

    Returns
    -------
    pandas.DataFrame
        `GAPS`.
    """
    rows = rows.sort_values(["element_id", "first"], ignore_index=True)
    before, after = rows.iloc[:-1].reset_index(drop=True), rows.iloc[1:].reset_index(drop=True)
    found = pd.DataFrame(
        {
            "element_id": after["element_id"],
            "start": before["last"],
            "start_meter": before["last_meter"],
            "end": after["first"],
            "end_meter": after["first_meter"],
        }
    )
    lasted_s = (found["end"] - found["start"]) / 1000
    same = (before["element_id"] == after["element_id"]) & (lasted_s > max_gap_s) & (lasted_s <= longest_s)
    found = found[same & found["start_meter"].notna() & found["end_meter"].notna()]
    increase, reset = meter_increase(found["start_meter"].to_numpy(np.float64), found["end_meter"].to_numpy(np.float64))
    return found[(increase > 0) | reset].reset_index(drop=True)


def hours_of(outages: pd.DataFrame, longest_slot_ms: int) -> set[int]:
    """Return the UTC hours in which slots start that outages touch."""
    first = (outages["start"].to_numpy(np.int64) - longest_slot_ms) // HOUR_MS
    end = outages["end"].to_numpy(np.int64) // HOUR_MS + 1
    starts: list[int] = []
    reach = -1
    for low, high in sorted(zip(first.tolist(), end.tolist(), strict=True)):
        starts += range(max(low, reach), high)
        reach = max(reach, high)
    return {hour * HOUR_MS for hour in starts}


def only_bridged(slots: pd.DataFrame) -> pd.Series[bool]:
    """Return in which slots there is nothing but what bridges brought."""
    return slots["samples"].eq(0) & slots["completeness"].eq(0) & slots["unbridged_estimated"].eq(0)


def bridged(slots: pd.DataFrame, bridges: pd.DataFrame) -> pd.DataFrame:
    """Return slots with what bridges add to them, instead of what an earlier call had added.

    Parameters
    ----------
    slots : pandas.DataFrame
        The lake's rows of panels, with the columns of `UNBRIDGED`.
    bridges : pandas.DataFrame
        Rows as `slots`, whose `estimated` and `meter_resets` is what an outage adds; in order of its start.

    Returns
    -------
    pandas.DataFrame
        In order of element and slot. Slots in which there was nothing else are new: nothing was measured in them.
    """
    own = slots[~only_bridged(slots)]
    own = own.assign(client=own["client_id"].fillna(""))
    bridges = bridges[(bridges["estimated"] > 0) | (bridges["meter_resets"] > 0)]
    bridges = bridges.assign(client=bridges["client_id"].fillna(""))
    added = bridges.groupby(_KEY, sort=False)[["estimated", "meter_resets"]].sum()
    # an owner that has two periods in one slot has two rows: the first takes it
    place = pd.MultiIndex.from_frame(own[_KEY])
    of_row = added.reindex(place).fillna(0.0).to_numpy(np.float64) * ~place.duplicated()[:, None]
    own = own.assign(
        generated=own["unbridged_generated"] + of_row[:, 0],
        estimated=own["unbridged_estimated"] + of_row[:, 0],
        meter_resets=own["unbridged_resets"] + of_row[:, 1].astype(np.int64),
    )
    alone = bridges.drop_duplicates(_KEY)
    alone = alone[~pd.MultiIndex.from_frame(alone[_KEY]).isin(place)]
    energy = added.reindex(pd.MultiIndex.from_frame(alone[_KEY]))["estimated"].to_numpy()
    nothing = dict.fromkeys(("greatest", "stale", "flat", "dark", "performance_ratio", "expected_gen"), np.nan)
    zeros = dict.fromkeys(("completeness", *UNBRIDGED.values()), 0.0) | {"samples": 0, "meter_resets": 0}
    alone = alone.assign(**nothing, **zeros, generated=energy, estimated=energy)
    found = pd.concat([own, alone], ignore_index=True) if len(alone) else own
    return found.sort_values(["element_id", "slot_start"], kind="stable", ignore_index=True).drop(columns="client")
