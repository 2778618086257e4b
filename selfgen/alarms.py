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

from selfgen import soiling
from selfgen.columns import DATASOURCES, ENRICHMENT, names
from selfgen.registry import ID_FIELD
from selfgen.thresholds import Thresholds
from selfgen.wind_alarms import Severity, rfc3339

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


# -- panels and light sensors, slot by slot ----------------------------------------------------------


def _one(slots: pd.DataFrame) -> pd.Series[int]:
    return pd.Series(1, index=slots.index)


class SlotAlarm(NamedTuple):
    """One alarm over slots, as its definition reads.

    `observed`, `bad` and `good` say of each slot whether it tells anything, holds the condition to raise, and holds
    the easier one to clear; `needed` how many bad ones raise, `eased` how many good ones in a row clear.
    """

    code: str
    observed: Callable[[pd.DataFrame], pd.Series[bool]]
    bad: Callable[[pd.DataFrame], pd.Series[bool]]
    good: Callable[[pd.DataFrame], pd.Series[bool]]
    needed: Callable[[pd.DataFrame], pd.Series[int]]
    severity: Severity = "info"
    #: What is said of it; nothing, where it is there for the alarms after it only.
    raised: Callable[[Any], str] | None = None
    cleared: Callable[[Any], str] | None = None
    eased: Callable[[pd.DataFrame], pd.Series[int]] = _one
    #: Whether what is not bad ends a run of bad slots, or only what clears.
    in_a_row: bool = True
    of: tuple[str, ...] = ("panel", "light")
    #: Whether it tells how much energy is missing.
    loses: bool = False
    #: Column that tells the alarms after it in which slots it is open, or bad slots were found.
    marks: str = ""


def _wh(energy: float) -> str:
    return f"{energy:,.0f} Wh".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _w(power: float) -> str:
    return f"{power:,.0f} W".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _judged(slots: pd.DataFrame, code: str) -> pd.Series[bool]:
    """Tell of which slots the performance ratio says something."""
    return (
        slots["daylight"].astype(bool)
        & (slots["completeness"] >= _HALF)
        & ~(slots["stale"] > _HALF)
        & (slots["expected_share"] >= slots[f"{code}.least"])
        & slots["performance_ratio"].notna()
        # of a clock that is wrong the light at the time it tells of is not the light there was
        & ~slots["clock_doubt"]
    )


_HALF = 0.5


def _clipped(slots: pd.DataFrame) -> pd.Series[bool]:
    """Tell in which slots an inverter at its limit would show; a value that does not move at all is `stuck`."""
    return (
        slots["daylight"].astype(bool)
        & ~(slots["stale"] > _HALF)
        & (slots["greatest"] >= slots["clipping.least"] * slots["power_cap"])
    )


def _overcast(slots: pd.DataFrame) -> pd.Series[bool]:
    """Tell in which slots the light of a dull winter's day, in whole W/m², may well have stood still."""
    return (slots["greatest"] < _DULL) & (slots["possible"] < slots["implausible.bright"])


_DULL = 20.0


def _shown(row: Any) -> str:
    return "Power" if np.isnan(row.possible) else "Light"


SLOT_ALARMS = (
    SlotAlarm(
        code="clock_shift",
        severity="minor",
        # a value that does not move stays so in the night
        observed=lambda slots: slots["dark"].notna() & ~(slots["stale"] > _HALF),
        bad=lambda slots: slots["dark"] > 0,
        good=lambda slots: slots["dark"] == 0,
        needed=lambda slots: slots["clock_shift.slots"],
        eased=lambda slots: slots["clock_shift.clear_slots"],
        in_a_row=False,
        raised=lambda row: (
            f"{_shown(row)} before sunrise or after sunset since {row.since}: in {row.bad_run} hours, {row.dark:.0%} "
            f"of the last one's {row.samples:.0f} samples; the device's clock or time zone is wrong"
        ),
        cleared=lambda row: (
            f"No {_shown(row).lower()} before sunrise or after sunset any more; there was since {row.since}"
        ),
        marks="clock_doubt",
    ),
    SlotAlarm(
        # power that went down before the light did, and then out: a clock that is behind does this on its first evening
        code="fading",
        observed=lambda slots: slots["samples"] >= 0,
        bad=lambda slots: (
            (slots["performance_ratio"] >= slots["no_power.below"])
            & (slots["greatest"] < _HALF * slots["expected_power"])
        ),
        good=lambda slots: ~slots["daylight"].astype(bool) | (slots["greatest"] >= _HALF * slots["expected_power"]),
        needed=_one,
        of=("panel",),
        marks="fading",
    ),
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
        observed=lambda slots: slots["daylight"].astype(bool) & (slots["samples"] > 0) & ~_overcast(slots),
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
        eased=lambda slots: slots["low_power.clear_slots"],
        in_a_row=False,
        raised=lambda row: (
            f"Produced {_wh(row.produced)} of {_wh(row.wanted)} expected since {row.since}, too little in "
            f"{row.bad_run} of {row.count} hours"
        ),
        cleared=lambda row: (
            f"{row.performance_ratio:.0%} of what is expected again; produced {_wh(row.produced)} of "
            f"{_wh(row.wanted)} in {row.count} hours since {row.since}"
        ),
        of=("panel",),
        loses=True,
    ),
    SlotAlarm(
        code="no_power",
        severity="critical",
        observed=lambda slots: _judged(slots, "no_power") & ~slots["fading"],
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
        of=("panel",),
        loses=True,
    ),
    SlotAlarm(
        code="over_power",
        severity="minor",
        observed=lambda slots: slots["daylight"].astype(bool) & (slots["samples"] > 0) & slots["power_cap"].notna(),
        bad=lambda slots: slots["greatest"] > slots["over_power.above"] * slots["power_cap"],
        good=lambda slots: slots["greatest"] < slots["over_power.clear"] * slots["power_cap"],
        needed=lambda slots: slots["over_power.slots"],
        eased=lambda slots: slots["over_power.clear_slots"],
        raised=lambda row: (
            f"Up to {_w(row.greatest)} from a rating of {_w(row.power_cap)}, {row.greatest / row.power_cap:.0%} of it, "
            f"since {row.since}, {row.count} hours in a row: the rating, the unit or the meter is wrong"
        ),
        cleared=lambda row: (
            f"Within its rating of {_w(row.power_cap)} again, {row.count} daylight hours after {row.since}"
        ),
        of=("panel",),
    ),
    SlotAlarm(
        code="clipping",
        severity="info",
        observed=_clipped,
        bad=lambda slots: slots["flat"] >= slots["clipping.flat"],
        good=lambda slots: slots["flat"] < slots["clipping.clear"],
        needed=lambda slots: slots["clipping.slots"],
        eased=lambda slots: slots["clipping.clear_slots"],
        raised=lambda row: (
            f"Cut at {_w(row.greatest)}, {row.greatest / row.power_cap:.0%} of the rating, since {row.since}: "
            f"{row.flat:.0%} of the last hour's {row.samples:.0f} samples at its greatest, {row.count} hours in a row"
        ),
        cleared=lambda row: (
            f"Not cut any more: {row.flat:.0%} of {row.samples:.0f} samples at the greatest, {_w(row.greatest)}; "
            f"cut since {row.since}"
        ),
        of=("panel",),
    ),
    SlotAlarm(
        code="meter_reset",
        severity="info",
        observed=lambda slots: slots["samples"] > 0,
        bad=lambda slots: slots["meter_resets"] > 0,
        good=lambda slots: slots["meter_resets"] == 0,
        needed=_one,
        raised=lambda row: (
            f"The meter began anew {row.meter_resets:.0f} times in the hour of {row.since}: what it shows since counts "
            "from zero"
        ),
        cleared=lambda row: f"The meter goes on since it began anew in the hour of {row.since}",
        of=("panel",),
    ),
    SlotAlarm(
        # as of panels: night that comes after dusk is night, whatever the clock says
        code="fading",
        observed=lambda slots: slots["samples"] >= 0,
        bad=lambda slots: (
            (slots["share"] >= slots["implausible.below"]) & (slots["greatest"] < _HALF * slots["possible"])
        ),
        good=lambda slots: ~slots["daylight"].astype(bool) | (slots["greatest"] >= _HALF * slots["possible"]),
        needed=_one,
        of=("light",),
        marks="fading",
    ),
    SlotAlarm(
        code="implausible",
        severity="major",
        observed=lambda slots: (
            (slots["possible"] >= slots["implausible.bright"])
            & (slots["completeness"] >= _HALF)
            & ~(slots["stale"] > _HALF)
            & ~slots["clock_doubt"]
            & ~slots["fading"]
        ),
        bad=lambda slots: (slots["share"] > slots["implausible.above"]) | (slots["share"] < slots["implausible.below"]),
        good=lambda slots: slots["share"].between(2 * slots["implausible.below"], slots["implausible.clear"]),
        needed=lambda slots: slots["implausible.slots"],
        eased=lambda slots: slots["implausible.clear_slots"],
        raised=lambda row: (
            f"{row.share * row.possible:,.0f} W/m² cannot be where the most is {row.possible:,.0f} W/m², since "
            f"{row.since}, {row.count} hours in a row: the sensor, its unit or its place is wrong"
        ),
        cleared=lambda row: (
            f"{row.share * row.possible:,.0f} W/m² of at most {row.possible:,.0f} W/m²: possible again, after "
            f"{row.count} hours since {row.since}"
        ),
        of=("light",),
    ),
    SlotAlarm(
        code="soiled_or_shaded",
        severity="minor",
        observed=lambda slots: slots["seen"].notna() & ~slots["clock_doubt"],
        bad=lambda slots: slots["seen"] < slots["soiled_or_shaded.below"],
        good=lambda slots: slots["seen"] >= slots["soiled_or_shaded.clear"],
        needed=lambda slots: slots["soiled_or_shaded.slots"],
        eased=lambda slots: slots["soiled_or_shaded.slots"],
        raised=lambda row: (
            f"The sun is hidden at this hour each day, however bright it is around it; {row.seen:.0%} of clear "
            f"hours' light is left, since {row.since}: something shades the sensor"
            if row.hidden
            else f"Sees {row.seen:.0%} of what it saw under a clear sky in the months before, since {row.since}: "
            "it is dirty, shaded, or drifts"
        ),
        cleared=lambda row: (
            f"Sees {row.seen:.0%} of what it saw under a clear sky in the months before; it saw less since {row.since}"
        ),
        of=("light",),
    ),
)


_ALARM_SOURCE = {"panel": "panel_alarm", "light": "sensor_alarm"}

#: What is kept of an element and alarm between ranges of slots.
_STATE_TYPES = {
    "element_id": object,
    "code": object,
    "client_id": object,  # whose it was; "" nobody's
    "open": np.bool_,  # an incident is open
    "started": np.int64,  # start of the first slot of the incident, or of the run of bad ones, epoch ms
    "bad_run": np.int64,  # bad slots in a row up to now
    "good_run": np.int64,  # good ones
    "count": np.int64,  # slots since `started` that told something
    # in these slots; whole mWh, so that sums do not depend on where a range begins
    "produced": np.int64,
    "wanted": np.int64,
}

NO_STATE = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _STATE_TYPES.items()})


def slot_alarms(slots: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the alarms of a range of slots before which nothing was wrong; see `follow_slots`.

    What light sensors have `seen` of a clear sky's light follows from the slots, where they have what `with_seen` asks.
    """
    if kind == "light" and "level" in slots:
        slots = with_seen(slots.rename(columns={ID_FIELD["light"]: "element_id"}))
    return follow_slots(slots, kind, NO_STATE)[0]


def with_seen(slots: pd.DataFrame) -> pd.DataFrame:
    """Return each slot once, in order, with what was `seen` of a clear sky's light, and where the sun was `hidden`.

    A slot's follow from those up to `2 * soiling.RECENT_MS` before and `soiling.LATER_MS` after it.

    Parameters
    ----------
    slots : DataFrame
        Of light sensors: `element_id`, `slot_start` (epoch ms), `variable_data`, and as `selfgen.soiling` asks
        `steady`, `dark`, `generated`, `clear_beam`, `clear_sky` (Wh/m²), and `level`.
    """
    ordered = _ordered(slots)
    # the others tell nothing, and are not there where the lake is read for this alone
    tells = ((ordered["clear_beam"] > 0) | (ordered["dark"] > 0)).to_numpy(bool)
    judged = ordered[tells].reset_index(drop=True)
    own = _own_thresholds(judged)
    judged = judged.assign(steady=judged["steady"].where(soiling.trusted(judged)))
    shade = soiling.shade(judged, own["soiled_or_shaded.days"])
    ordered = ordered.assign(seen=np.nan, hidden=False)
    ordered.loc[tells, "seen"] = soiling.recent_share(judged, shade, own["soiled_or_shaded.hours"])
    ordered.loc[tells, "hidden"] = shade.hidden
    return ordered


def follow_slots(slots: pd.DataFrame, kind: str, state: pd.DataFrame = NO_STATE) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the alarms of a range of slots, and the state after it; ranges in pieces give the same rows.

    Parameters
    ----------
    slots : DataFrame
        One row for each element and slot, in any order: the element's id (`panel_id`, `light_id`), `slot_start`
        (epoch ms), `completeness` (0–1), `samples`, `stale` (0–1), `daylight`, and, where known, `variable_data`
        (JSON text) and the columns of the enrichment; where known, also `slot_end`, `generated`,
        `estimated`, `greatest`, `power_cap`, `owned`, `expected_gen`, `performance_ratio`, `meter_resets`, what
        `selfgen.evidence` says of its samples, and of light sensors `possible`, W/m², and `seen` and `hidden`
        (`selfgen.soiling`). Of a slot with two owners the later row that has samples counts.
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
    measured = slots.iloc[np.argsort(slots["samples"].to_numpy() > 0, kind="stable")]
    ordered = _ordered(measured.rename(columns={ID_FIELD[kind]: "element_id"}))  # type: ignore[index]
    ordered = _with_losses(pd.concat([ordered, _own_thresholds(ordered)], axis=1))
    ordered = ordered.assign(**{name: np.nan for name in _NOT_ALWAYS if name not in ordered})
    ordered["owner"] = ordered["client_id"].astype(object).fillna("")
    hours = (ordered["slot_end"] - ordered["slot_start"]) / _HOUR_MS
    covered = hours * ordered["completeness"] * ordered["owned"].fillna(1.0) * ordered["possible"]
    ordered["share"] = (ordered["generated"] / covered).where(covered > 0)
    found, kept = [], []
    for alarm in (alarm for alarm in SLOT_ALARMS if kind in alarm.of):
        events, after, going = _follow(ordered, alarm, before := state[state["code"] == alarm.code])
        kept.append(after)
        if alarm.marks:
            ordered[alarm.marks] = _carried(going, ordered["element_id"], before)
        if alarm.raised and alarm.cleared:
            found.append(_described(events, alarm, alarm.raised, alarm.cleared))
    rows = pd.concat(found, ignore_index=True)
    rows = rows.rename(columns={"element_id": ID_FIELD[kind], "slot_start": "timestamp"})  # type: ignore[index]
    rows = rows.reindex(columns=columns).astype(
        {column.name: np.float64 for column in DATASOURCES[datasource] if column.type == "double"}
    )
    return rows.sort_values(["timestamp", ID_FIELD[kind], "code"], ignore_index=True), pd.concat(  # type: ignore[index]
        kept, ignore_index=True
    )


def _ordered(slots: pd.DataFrame) -> pd.DataFrame:
    """Return each slot of each element once, in order."""
    return slots.sort_values(["element_id", "slot_start"], kind="stable").drop_duplicates(
        ["element_id", "slot_start"], keep="last", ignore_index=True
    )


#: Columns that a lake of before they were has not, and slots without samples neither.
_NOT_ALWAYS = (
    "slot_end", "generated", "greatest", "power_cap", "flat", "dark", "meter_resets", "possible", "owned", "seen",
    "client_id",
)  # fmt: skip


def _carried(going: pd.Series[bool], elements: pd.Series[Any], state: pd.DataFrame) -> Bool:
    """Return what was last told of each slot's element up to it; before that, what the state tells."""
    row = np.arange(len(elements))
    first = np.maximum.accumulate(np.where(elements.ne(elements.shift()), row, 0))
    told = np.full(len(row), -1)
    told[going.index] = going.index
    last = np.maximum.accumulate(told)
    value = going.reindex(row, fill_value=False).to_numpy(bool)
    carried: Bool = np.where(last >= first, value[last], elements.isin(state["element_id"]))
    return carried


def _state_of(
    state: pd.DataFrame, elements: npt.NDArray[Any], owners: npt.NDArray[Any], first: Bool, begins: Bool
) -> tuple[Bool, dict[str, Int64], Bool]:
    """Return the state before each row: whether an incident was open, and the numbers that go on.

    Only the first owner of an element goes on from it, and only where it is that of before; and, of each row where an
    owner begins, whether one had an open incident who has the element no more.
    """
    known = state.set_index("element_id").reindex(elements[first])
    was_open = known["open"].eq(True).to_numpy(bool) & begins[first]
    same = (known["client_id"].isna() | (known["client_id"] == owners[first])).to_numpy(bool) & begins[first]
    of_row = np.cumsum(first) - 1
    numbers = {name: np.where(same, known[name].fillna(0), 0).astype(np.int64)[of_row] for name in _CARRIED}
    return (was_open & same)[of_row], numbers, was_open & ~same


def _follow(
    slots: pd.DataFrame, alarm: SlotAlarm, state: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series[bool]]:
    """Run one alarm over slots in order of element and time, all at once: runs and latches by running maxima.

    Returns its events, the state after it, and of each slot that told something whether it is open or had a bad slot.
    """
    place = np.flatnonzero(alarm.observed(slots))

    def told(column: pd.Series[Any], kind: type) -> npt.NDArray[Any]:
        return column.to_numpy(kind)[place]

    bad, good = told(alarm.bad(slots), bool), told(alarm.good(slots), bool)
    row, starts = np.arange(len(place)), told(slots["slot_start"], np.int64)
    elements, owners = told(slots["element_id"], object), told(slots["owner"], object)
    begins = np.r_[True, elements[1:] != elements[:-1]][: len(row)]
    first = begins | np.r_[False, owners[1:] != owners[:-1]][: len(row)]  # an incident is one owner's
    begin = np.maximum.accumulate(np.where(first, row, 0))

    was_open, before_it, left_open = _state_of(state, elements, owners, first, begins)
    started_before, run_before, good_before, count_before = (before_it[name] for name in _CARRIED[:4])
    sums = {name: np.r_[0, np.cumsum(told(slots[name], np.int64))] for name in _LOSSES}  # of the rows before each
    carried = {name: of[begin] - before_it[name] for name, of in sums.items()}

    last_not_good = np.maximum.accumulate(np.where(good, -1, row))
    good_run = row - np.maximum(last_not_good, begin - 1) + np.where(last_not_good < begin, good_before, 0)
    clears = good & (good_run >= told(alarm.eased(slots), np.int64))

    bads = np.r_[0, np.cumsum(bad)]  # before each row
    none_yet = (bads[row + 1] == bads[begin]) & (run_before == 0)
    ends = ~bad if alarm.in_a_row else clears | (good & none_yet)
    last_end = np.maximum.accumulate(np.where(ends, row, -1))
    unbroken = last_end < begin  # since the range before
    run = bads[row + 1] - bads[np.maximum(last_end, begin - 1) + 1] + np.where(unbroken, run_before, 0)
    continued = unbroken & (run_before > 0)
    run_first = np.where(continued, begin - count_before, np.maximum(last_end, begin - 1) + 1)
    run_started = np.where(continued, started_before, starts[np.minimum(np.maximum(run_first, 0), row)])
    run_base = {name: np.where(continued, carried[name], of[np.maximum(run_first, 0)]) for name, of in sums.items()}

    raises = bad & (run >= told(alarm.needed(slots), np.int64))
    last_said = np.maximum.accumulate(np.where(raises | clears, row, -1))
    is_open = np.where(last_said >= begin, raises[last_said], was_open)
    before = np.where(first, was_open, np.r_[False, is_open[:-1]][: len(row)])
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
    now = {
        "element_id": elements,
        "client_id": owners,
        "open": is_open,
        "started": started,
        "bad_run": run,
        "good_run": good_run,
        "count": count,
        **losses,
    }
    last = np.r_[begins[1:], True][: len(row)]
    kept = pd.DataFrame({name: values[last & (is_open | (run > 0))] for name, values in now.items()}).assign(
        code=alarm.code
    )
    ended = _ended(slots, place, now, state, first & ~begins, np.flatnonzero(first)[left_open])
    events = _events(slots, place, now, raised, cleared, ended)
    if alarm.loses:
        events["power_low"] = events["wanted"] - events["produced"]
    after = pd.concat([state[~state["element_id"].isin(elements)], kept], ignore_index=True)
    return events, after.astype(_STATE_TYPES)[list(_STATE_TYPES)], pd.Series(is_open | (run > 0), index=place)


def _events(
    slots: pd.DataFrame,
    place: Int64,
    now: dict[str, npt.NDArray[Any]],
    raised: Bool,
    cleared: Bool,
    ended: pd.DataFrame,
) -> pd.DataFrame:
    """Return what is raised and cleared, with the numbers of its incident, after what ended with its owner.

    `place` says where the slots that told something are among all.
    """
    said = raised | cleared
    numbers = {name: now[name][said] for name in ("started", "count", "bad_run")}
    energies = {name: now[name][said] / _MWH for name in _LOSSES}
    state = np.where(raised, "raised", "cleared")[said]
    events = slots.iloc[place[said]].assign(state=state, handed=False, **numbers, **energies)
    return pd.concat([ended, events]) if len(ended) else events


def _ended(
    slots: pd.DataFrame, place: Int64, now: dict[str, npt.NDArray[Any]], state: pd.DataFrame, moved: Bool, new: Int64
) -> pd.DataFrame:
    """Return the events that end incidents whose element somebody else has now, from that one's first slots.

    Of the owner before they tell only who that was: what else is known of it may lie in a range before.

    Parameters
    ----------
    place : array
        Where the slots that told something are among all.
    moved : array
        The slots with which another owner than that of the slot before begins.
    new : array
        Positions of the slots whose owner is another one than that of an open incident in `state`.
    """
    follows = np.flatnonzero(moved)
    follows = follows[now["open"][follows - 1]]
    known = state.set_index("element_id").loc[now["element_id"][new], ["client_id", *_TOLD]]
    before = pd.DataFrame({name: now[name][follows - 1] for name in ("client_id", *_TOLD)})
    left = pd.concat([known, before], ignore_index=True) if len(known) else before
    owner = left["client_id"].where(left["client_id"] != "", None).to_numpy()
    blank = dict.fromkeys((column.name for column in ENRICHMENT if column.name in slots), None)
    numbers = {name: left[name].to_numpy() for name in ("started", "count", "bad_run")}
    energies = {name: left[name].to_numpy() / _MWH for name in _LOSSES}
    ends: pd.DataFrame = slots.iloc[place[np.r_[new, follows]]].assign(**blank, state="cleared", handed=True)
    return ends.astype(slots.dtypes[list(blank)]).assign(client_id=owner, **numbers, **energies)


_HOUR_MS = 3_600_000
_MWH = 1000
#: More than any element makes; sums of them in mWh are whole numbers still.
_MOST_WH = 1e12
#: What was produced, and should have been, in the covered part of a slot.
_LOSSES = ("produced", "wanted")
#: What is told of an incident that ends with its owner, beside whose it was.
_TOLD = ("started", "count", "bad_run", *_LOSSES)
#: Numbers of a state that go on.
_CARRIED = ("started", "bad_run", "good_run", "count", *_LOSSES)


def _with_losses(slots: pd.DataFrame) -> pd.DataFrame:
    """Add what was produced and expected, whole mWh, and the mean power that was expected, W and of the rating."""
    if "expected_gen" not in slots:
        return slots.assign(
            produced=0, wanted=0, expected_power=np.nan, expected_share=np.nan, performance_ratio=np.nan
        )
    hours = (slots["slot_end"] - slots["slot_start"]) / _HOUR_MS
    energies = {
        "produced": slots["generated"] - slots["estimated"].fillna(0.0),
        "wanted": slots["expected_gen"] * slots["completeness"],
    }
    whole = {
        name: (energy.fillna(0.0).clip(-_MOST_WH, _MOST_WH) * _MWH).round().astype(np.int64)
        for name, energy in energies.items()
    }
    power = slots["expected_gen"] / hours
    return slots.assign(expected_power=power, expected_share=power / slots["power_cap"], **whole)


def _described(
    events: pd.DataFrame, alarm: SlotAlarm, raised: Callable[[Any], str], cleared: Callable[[Any], str]
) -> pd.DataFrame:
    zones = events["time_zone"] if "time_zone" in events else pd.Series(None, index=events.index, dtype=object)
    since = [_local(start, zone) for start, zone in zip(events["started"], zones, strict=True)]
    described = events.assign(since=since)
    texts = [
        "Somebody else has it now: the incident ends for who had it"
        if event.handed
        else (raised if event.state == "raised" else cleared)(event)
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
            f"{code}.{field}": value
            for code, fields in msgspec.to_builtins(own).items()
            for field, value in fields.items()
        }
        for own in map(Thresholds.read, [*distinct, None])  # the last for no slots at all
    ]
    return pd.DataFrame(tables).take(codes).reset_index(drop=True)


# -- words -------------------------------------------------------------------------------------------


def _local(epoch_ms: int, zone: Any) -> str:
    """Return a time as the client's clock shows it."""
    clock = ZoneInfo(zone) if isinstance(zone, str) and zone else UTC
    return f"{datetime.fromtimestamp(epoch_ms / 1000, clock):%Y-%m-%d %H:%M}"
