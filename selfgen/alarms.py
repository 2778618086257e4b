"""Alarms of panels and light sensors: one definition each, raised once and cleared once an incident.

An incident is raised when its condition has held for a set duration, and cleared when an easier condition has; in
between nothing is said. Every figure follows from the observations alone, so that any restart or recomputation
gives the same incidents. An alarm's row stands at the start of the slot that raised or cleared it.

Those of wind sensors are in `selfgen.wind_alarms`, all thresholds in `selfgen.thresholds`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from selfgen.columns import DATASOURCES, names
from selfgen.registry import ID_FIELD
from selfgen.thresholds import Thresholds
from selfgen.wind_alarms import Severity, rfc3339

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


# -- panels and light sensors, slot by slot ----------------------------------------------------------


class SlotAlarm(NamedTuple):
    """One alarm over daylight slots, as its definition reads.

    `observed`, `bad` and `good` say of each slot whether it tells anything, holds the condition to raise, and holds
    the easier one to clear; `needed` how many bad ones in a row raise.
    """

    code: str
    severity: Severity
    observed: Callable[[pd.DataFrame], pd.Series[bool]]
    bad: Callable[[pd.DataFrame], pd.Series[bool]]
    good: Callable[[pd.DataFrame], pd.Series[bool]]
    needed: Callable[[pd.DataFrame], pd.Series[int]]
    raised: Callable[[Any], str]
    cleared: Callable[[Any], str]
    #: Whether it tells how much energy is missing; such are of panels only.
    loses: bool = False


def _wh(energy: float) -> str:
    return f"{energy:,.0f} Wh".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _judged(slots: pd.DataFrame, code: str) -> pd.Series[bool]:
    """Tell of which slots the performance ratio says something."""
    return (
        slots["daylight"].astype(bool)
        & (slots["completeness"] >= _HALF)
        & (slots["expected_share"] >= slots[f"{code}.least"])
        & slots["performance_ratio"].notna()
    )


_HALF = 0.5

SLOT_ALARMS = (
    SlotAlarm(
        code="no_data",
        severity="major",
        observed=lambda slots: slots["daylight"].astype(bool),
        bad=lambda slots: slots["completeness"] < slots["no_data.below"],
        good=lambda slots: slots["completeness"] >= slots["no_data.clear"],
        needed=lambda slots: slots["no_data.slots"],
        raised=lambda row: (
            f"No data since {row.since}: {row.count} daylight hours in a row, the last one covered to "
            f"{row.completeness:.0%}"
        ),
        cleared=lambda row: (
            f"Data again: {row.completeness:.0%} of the hour covered, after {row.count} daylight hours "
            f"since {row.since}"
        ),
    ),
    SlotAlarm(
        code="stuck",
        severity="major",
        observed=lambda slots: slots["daylight"].astype(bool) & (slots["samples"] > 0),
        bad=lambda slots: slots["stale"] > slots["stuck.above"],
        good=lambda slots: slots["stale"] < slots["stuck.clear"],
        needed=lambda slots: slots["stuck.slots"],
        raised=lambda row: (
            f"The value has not moved since {row.since}: {row.count} daylight hours in a row, {row.stale:.0%} "
            f"of the last one's {row.samples:.0f} samples unchanged"
        ),
        cleared=lambda row: (
            f"The value moves again: {row.stale:.0%} of {row.samples:.0f} samples unchanged, after {row.count} "
            f"daylight hours since {row.since}"
        ),
    ),
    SlotAlarm(
        code="low_power",
        severity="minor",
        # what gives nothing at all is `no_power`
        observed=lambda slots: _judged(slots, "low_power") & (slots["performance_ratio"] >= slots["no_power.below"]),
        bad=lambda slots: slots["performance_ratio"] < slots["low_power.below"],
        good=lambda slots: slots["performance_ratio"] >= slots["low_power.clear"],
        needed=lambda slots: slots["low_power.slots"],
        raised=lambda row: (
            f"Produced {_wh(row.produced)} of {_wh(row.wanted)} expected since {row.since}, {row.count} hours in a row"
        ),
        cleared=lambda row: (
            f"{row.performance_ratio:.0%} of what is expected again; produced {_wh(row.produced)} of "
            f"{_wh(row.wanted)} in {row.count} hours since {row.since}"
        ),
        loses=True,
    ),
    SlotAlarm(
        code="no_power",
        severity="critical",
        observed=lambda slots: _judged(slots, "no_power"),
        bad=lambda slots: slots["performance_ratio"] < slots["no_power.below"],
        good=lambda slots: slots["performance_ratio"] >= slots["no_power.clear"],
        needed=lambda slots: slots["no_power.slots"],
        raised=lambda row: (
            f"Nothing produced of {_wh(row.wanted)} expected since {row.since}, {row.count} hours in a row"
        ),
        cleared=lambda row: (
            f"Produces again, {row.performance_ratio:.0%} of what is expected; {_wh(row.wanted - row.produced)} are "
            f"missing from {row.count} hours since {row.since}"
        ),
        loses=True,
    ),
)

_ALARM_SOURCE = {"panel": "panel_alarm", "light": "sensor_alarm"}

#: What is kept of an element and alarm between ranges of slots.
_STATE_TYPES = {
    "element_id": object,
    "code": object,
    "open": np.bool_,  # an incident is open
    "started": np.int64,  # start of the first slot of the incident, or of the run of bad ones, epoch ms
    "bad_run": np.int64,  # bad slots in a row up to now
    "count": np.int64,  # daylight slots since `started`
    # in these slots; whole mWh, so that sums do not depend on where a range begins
    "produced": np.int64,
    "wanted": np.int64,
}

NO_STATE = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _STATE_TYPES.items()})


def slot_alarms(slots: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the alarms of a range of slots before which nothing was wrong; see `follow_slots`."""
    return follow_slots(slots, kind, NO_STATE)[0]


def follow_slots(slots: pd.DataFrame, kind: str, state: pd.DataFrame = NO_STATE) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the alarms of a range of slots, and the state after it; ranges in pieces give the same rows.

    Parameters
    ----------
    slots : DataFrame
        One row for each element and slot, in any order: the element's id (`panel_id`, `light_id`), `slot_start`
        (epoch ms), `completeness` (0–1), `samples`, `stale` (0–1), `daylight`, and, where known, `variable_data`
        (JSON text) and the columns of the enrichment; of panels also `slot_end`, `generated`, `estimated`, `power_cap`,
        `expected_gen` and `performance_ratio`. Of a slot with two owners the later row counts.
    kind : {"panel", "light"}
        What the elements are.
    state : DataFrame
        As returned for the range before.

    Returns
    -------
    rows : DataFrame
        The columns of `panel_alarm` or `sensor_alarm`, and `timestamp`: the start, in epoch ms, of the slot that
        raised or cleared.
    state : DataFrame
        To go on from.
    """
    datasource = _ALARM_SOURCE[kind]
    columns = ["timestamp", *names(datasource)]
    ordered = (
        slots.rename(columns={ID_FIELD[kind]: "element_id"})  # type: ignore[index]
        .sort_values(["element_id", "slot_start"], kind="stable")
        .drop_duplicates(["element_id", "slot_start"], keep="last")
    )
    ordered = _with_losses(pd.concat([ordered.reset_index(drop=True), _own_thresholds(ordered)], axis=1))
    found, kept = [], []
    for alarm in (alarm for alarm in SLOT_ALARMS if kind == "panel" or not alarm.loses):
        rows, after = _follow(ordered, alarm, state[state["code"] == alarm.code])
        found.append(rows)
        kept.append(after)
    rows = pd.concat(found, ignore_index=True)
    rows = rows.rename(columns={"element_id": ID_FIELD[kind], "slot_start": "timestamp"})  # type: ignore[index]
    rows = rows.reindex(columns=columns).astype(
        {column.name: np.float64 for column in DATASOURCES[datasource] if column.type == "double"}
    )
    return rows.sort_values(["timestamp", ID_FIELD[kind], "code"], ignore_index=True), pd.concat(  # type: ignore[index]
        kept, ignore_index=True
    )


def _follow(slots: pd.DataFrame, alarm: SlotAlarm, state: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run one alarm over slots in order of element and time, all at once: runs and latches by running maxima."""
    slots = slots[alarm.observed(slots)].reset_index(drop=True)
    bad, good = alarm.bad(slots).to_numpy(bool), alarm.good(slots).to_numpy(bool)
    starts, elements = slots["slot_start"].to_numpy(np.int64), slots["element_id"].to_numpy(object)
    row = np.arange(len(slots))
    first = np.r_[True, elements[1:] != elements[:-1]][: len(slots)]
    begin = np.maximum.accumulate(np.where(first, row, 0))

    known = state.set_index("element_id").reindex(elements)
    was_open = known["open"].eq(True).to_numpy()
    started_before, run_before, count_before = (
        known[name].fillna(0).to_numpy(np.int64) for name in ("started", "bad_run", "count")
    )
    sums = {name: np.r_[0, np.cumsum(slots[name].to_numpy(np.int64))] for name in _LOSSES}  # of the rows before each
    carried = {name: of[begin] - known[name].fillna(0).to_numpy(np.int64) for name, of in sums.items()}

    last_not_bad = np.maximum.accumulate(np.where(bad, -1, row))
    unbroken = last_not_bad < begin  # since the range before
    run = row - np.maximum(last_not_bad, begin - 1) + np.where(unbroken, run_before, 0)
    continued = unbroken & (run_before > 0)
    run_first = np.where(continued, begin - count_before, np.maximum(last_not_bad, begin - 1) + 1)
    run_started = np.where(continued, started_before, starts[np.minimum(np.maximum(run_first, 0), row)])
    run_base = {name: np.where(continued, carried[name], of[np.maximum(run_first, 0)]) for name, of in sums.items()}

    raises = bad & (run >= alarm.needed(slots).to_numpy(np.int64))
    last_said = np.maximum.accumulate(np.where(raises | good, row, -1))
    is_open = np.where(last_said >= begin, raises[last_said], was_open)
    before = np.where(first, was_open, np.r_[False, is_open[:-1]][: len(slots)])
    raised, cleared = is_open & ~before, ~is_open & before

    last_raised = np.maximum.accumulate(np.where(raised, row, -1))
    here = last_raised >= begin
    incident_first = np.where(here, run_first[last_raised], begin - count_before)
    incident_started = np.where(here, run_started[last_raised], started_before)

    incident = is_open | cleared
    started = np.where(incident, incident_started, run_started)
    until = row + np.where(cleared, 0, 1)
    count = until - np.where(incident, incident_first, run_first)
    losses = {}
    for name, of in sums.items():
        incident_base = np.where(here, run_base[name][last_raised], carried[name])
        losses[name] = of[until] - np.where(incident, incident_base, run_base[name])
    now = pd.DataFrame(
        {
            "element_id": elements,
            "code": alarm.code,
            "open": is_open,
            "started": started,
            "bad_run": run,
            "count": count,
            **losses,
        }
    )
    last = np.r_[first[1:], True][: len(slots)]
    kept = now[last & (is_open | (run > 0))]
    untouched = state[~state["element_id"].isin(elements)]
    energies = {name: of / _MWH for name, of in losses.items()}
    events = slots.assign(started=started, count=count, state=np.where(raised, "raised", "cleared"), **energies)
    if alarm.loses:
        events["power_low"] = events["wanted"] - events["produced"]
    rows = _described(events[raised | cleared], alarm)
    return rows, pd.concat([untouched, kept], ignore_index=True).astype(_STATE_TYPES)


_HOUR_MS = 3_600_000
_MWH = 1000
#: What was produced, and should have been, in the covered part of a slot.
_LOSSES = ("produced", "wanted")


def _with_losses(slots: pd.DataFrame) -> pd.DataFrame:
    """Add what was produced and expected, whole mWh, and the share of the rating that was expected."""
    if "expected_gen" not in slots:
        return slots.assign(produced=0, wanted=0, expected_share=np.nan, performance_ratio=np.nan)
    hours = (slots["slot_end"] - slots["slot_start"]) / _HOUR_MS
    energies = {
        "produced": slots["generated"] - slots["estimated"].fillna(0.0),
        "wanted": slots["expected_gen"] * slots["completeness"],
    }
    whole = {name: (energy.fillna(0.0) * _MWH).round().astype(np.int64) for name, energy in energies.items()}
    return slots.assign(expected_share=slots["expected_gen"] / (slots["power_cap"] * hours), **whole)


def _described(events: pd.DataFrame, alarm: SlotAlarm) -> pd.DataFrame:
    zones = events["time_zone"] if "time_zone" in events else pd.Series(None, index=events.index, dtype=object)
    since = [_local(start, zone) for start, zone in zip(events["started"], zones, strict=True)]
    described = events.assign(since=since)
    texts = [
        alarm.raised(event) if event.state == "raised" else alarm.cleared(event)
        for event in described.itertuples(index=False)
    ]
    return events.assign(
        code=alarm.code,
        severity=alarm.severity,
        text_alarm=np.array(texts, dtype=object),
        started_at=np.array([rfc3339(start) for start in events["started"]], dtype=object),
    )


def _own_thresholds(slots: pd.DataFrame) -> pd.DataFrame:
    """Return each slot's thresholds, a column each, named `code.field`."""
    texts = slots["variable_data"] if "variable_data" in slots else pd.Series(None, index=slots.index, dtype=object)
    codes, distinct = pd.factorize(texts, use_na_sentinel=False)
    tables = [
        {
            f"{alarm.code}.{field}": value
            for alarm in SLOT_ALARMS
            for field, value in msgspec.to_builtins(getattr(own, alarm.code)).items()
        }
        for own in map(Thresholds.read, [*distinct, None])  # the last for no slots at all
    ]
    return pd.DataFrame(tables).take(codes).reset_index(drop=True)


# -- evidence ----------------------------------------------------------------------------------------

#: Least time, and least number of samples, without a change that make a value stale.
STALE_SPAN_S = 1200.0
STALE_SAMPLES = 4
#: Values that agree to so many decimals are the same.
STALE_DECIMALS = 3


def stale_share(readings: pd.DataFrame, slots: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the share of each slot's samples that belong to a stretch of one and the same value.

    A stretch lasts at least `STALE_SPAN_S` seconds, to the nearest lower power of two of samples at the slot's own
    rate, and lies within the slot, so that the result does not depend on what else was read. Zero and less is never
    stale: that is night, or an alarm of its own.

    Parameters
    ----------
    readings : DataFrame
        `element_id`, `time` (epoch ms), `value`, in any order.
    slots : DataFrame
        `element_id`, `slot_start`, `slot_end` (epoch ms).

    Returns
    -------
    ndarray
        0–1 for each row of `slots`; NaN where it has no samples.
    """
    element, _ = pd.factorize(pd.concat([slots["element_id"], readings["element_id"]], ignore_index=True))
    start, end = slots["slot_start"].to_numpy(np.int64), slots["slot_end"].to_numpy(np.int64)
    time = readings["time"].to_numpy(np.int64)
    if not len(start):
        return np.empty(0)
    earliest = min(start.min(), time.min(initial=start.min()))
    span = max(start.max(), time.max(initial=start.max())) - earliest + 1
    key = element.astype(np.int64) * span + np.concatenate([start, time]) - earliest
    # a slot with two owners stands in two rows, and is one
    slot_key, one_row, slot_of_row = np.unique(key[: len(start)], return_index=True, return_inverse=True)

    order = np.argsort(key[len(start) :], kind="stable")
    slot = np.searchsorted(slot_key, key[len(start) :][order], side="right") - 1
    same = (element[one_row][slot] == element[len(start) :][order]) & (time[order] < end[one_row][slot])
    inside = (slot >= 0) & same
    slot, value = slot[inside], readings["value"].to_numpy(np.float64)[order][inside]

    samples = np.bincount(slot, minlength=len(slot_key))
    fitting = STALE_SPAN_S * 1000 * samples / (end - start)[one_row]
    windows = 2 ** np.floor(np.log2(np.maximum(fitting, STALE_SAMPLES))).astype(np.int64)
    stale = np.zeros(len(slot_key))
    for window in np.unique(windows[slot]):
        of_window = windows[slot] == window
        flags = _stale(value[of_window], slot[of_window], int(window))
        stale += np.bincount(slot[of_window], weights=flags, minlength=len(slot_key))
    share = np.divide(stale, samples, out=np.full(len(slot_key), np.nan), where=samples > 0)
    return share[slot_of_row]


def _stale(value: npt.NDArray[np.float64], slot: npt.NDArray[np.intp], window: int) -> Bool:
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


# -- words -------------------------------------------------------------------------------------------


def _local(epoch_ms: int, zone: Any) -> str:
    """Return a time as the client's clock shows it."""
    clock = ZoneInfo(zone) if isinstance(zone, str) and zone else UTC
    return f"{datetime.fromtimestamp(epoch_ms / 1000, clock):%Y-%m-%d %H:%M}"
