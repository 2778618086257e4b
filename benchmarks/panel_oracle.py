"""What panel_report must say, from the produced messages alone: pandas, dateutil, pvlib, rdtools, none of our code.

One panel after the other, one slot after the other: slow, and easy to read against design sections 5 and 7.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pvlib
import rdtools
from dateutil.relativedelta import relativedelta

MAX_GAP_S = 300.0
JITTER = 0.1
COVERED = 0.9
PEERS = 3
LEAST = 0.01
STEPS = 6
#: How an area's light is sought: so many times, and so far each time.
CORRECTIONS, DAMPING = 4, 0.8

#: Calendar steps back of the differences that go by the clock.
BACK = {
    "day": relativedelta(days=1),
    "month": relativedelta(months=1),
    "quar": relativedelta(months=3),
    "six": relativedelta(months=6),
    "year": relativedelta(years=1),
}
#: The accumulators' periods, as the local date's period is told.
PERIODS = {
    "day": lambda day: day,
    "month": lambda day: (day.year, day.month),
    "quarter": lambda day: (day.year, (day.month - 1) // 3),
    "semestre": lambda day: (day.year, (day.month - 1) // 6),
    "year": lambda day: day.year,
}


class Tenure(NamedTuple):
    """Who has a panel in `[start, end)`, seconds since 1970; `client` holds the columns of the enrichment."""

    start: float
    end: float
    client: Mapping[str, Any]


@lru_cache(maxsize=100_000)
def day_slots(zone: str, day: date) -> list[float]:
    """Return when the slots of a local date begin, s; quarter by quarter of an hour."""
    clock = ZoneInfo(zone)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=clock).timestamp() // 900 * 900
    starts = []
    for moment in np.arange(noon - 15 * 3600, noon + 15 * 3600, 900.0):
        local, before = (datetime.fromtimestamp(one, clock) for one in (moment, moment - 0.001))
        if local.date() == day and (local.minute == 0 or before.date() != day):
            starts.append(float(moment))
    return starts


def slots(zone: str, start: float, end: float) -> list[tuple[float, float]]:
    """Return the slots of a clock that overlap `[start, end]`, s."""
    first, last = (datetime.fromtimestamp(edge, ZoneInfo(zone)).date() for edge in (start, end))
    days = [first + timedelta(days=number) for number in range(-1, (last - first).days + 2)]
    borders = [moment for day in days for moment in day_slots(zone, day)]
    return [(low, high) for low, high in pairwise(borders) if high > start and low < end]


def panel_slots(
    readings: pd.DataFrame,
    tenures: Sequence[Tenure],
    light: Mapping[str, pd.DataFrame],
    place: Mapping[str, Any],
    max_gap_s: float = MAX_GAP_S,
) -> pd.DataFrame:
    """Return the slots of one panel with a sample or known energy: what follows from its own readings.

    Parameters
    ----------
    readings : DataFrame
        `time` (s), `power` (W), `energy` (Wh, NaN where not sent), each time once, in order.
    tenures : sequence of Tenure
        In order, without gap: also those of nobody, whose clock is UTC.
    light : mapping
        By client: the slots of its light sensor (`light_slots`).
    place : mapping
        The panel's `power_cap`, `tilt`, `azimuth`.
    """
    times, power = readings["time"].to_numpy(), readings["power"].clip(lower=0).to_numpy()
    meter = readings["energy"].to_numpy()
    rows: dict[tuple[int, float], dict[str, Any]] = {}
    every = {
        number: slots(
            tenure.client.get("time_zone") or "UTC", max(tenure.start, times[0]), min(tenure.end, times[-1] + 1)
        )
        for number, tenure in enumerate(tenures)
        if tenure.start <= times[-1] and tenure.end > times[0]
    }

    def row(number: int, slot: tuple[float, float]) -> dict[str, Any]:
        empty = {"start": slot[0], "end": slot[1], "tenure": number, "samples": 0, "power_max": np.nan}
        return rows.setdefault((number, slot[0]), empty | {"energy": 0.0, "estimated": 0.0, "covered": 0.0})

    ends_of = {number: [slot[1] for slot in of_tenure] for number, of_tenure in every.items()}

    def parts(low: float, high: float) -> Iterable[tuple[int, tuple[float, float], float, float]]:
        for number, of_tenure in every.items():
            begin, end = max(low, tenures[number].start), min(high, tenures[number].end)
            index = bisect_right(ends_of[number], begin) if begin < end else len(of_tenure)
            while index < len(of_tenure) and of_tenure[index][0] < end:
                slot = of_tenure[index]
                yield number, slot, max(begin, slot[0]), min(end, slot[1])
                index += 1

    for time, watts in zip(times, power, strict=True):
        for number, slot, _, _ in parts(time, time + 1e-3):
            found = row(number, slot)
            found["samples"] += 1
            found["power_max"] = watts if np.isnan(found["power_max"]) else max(found["power_max"], watts)
    for place_, (low, high) in enumerate(pairwise(times)):
        gap = elapsed(low, high)
        before, after = meter[place_], meter[place_ + 1]
        metered = not (np.isnan(before) or np.isnan(after))
        increase = grown(before, after) if metered else 0.0
        if gap > max_gap_s and not increase > 0:
            continue
        cut = list(parts(low, high))
        shares = [elapsed(begin, end) / gap for _, _, begin, end in cut]
        if gap > max_gap_s:
            shares = spread(cut, shares, tenures, light, place)
        for (number, slot, begin, end), share in zip(cut, shares, strict=True):
            if metered:
                energy = increase * share
            else:
                slope = (power[place_ + 1] - power[place_]) / gap
                middle = (elapsed(low, begin) + elapsed(low, end)) / 2
                energy = (power[place_] + slope * middle) * elapsed(begin, end) / 3600
            if gap > max_gap_s and not energy > 0:
                continue
            found = row(number, slot)
            found["energy"] += energy
            if gap > max_gap_s:
                found["estimated"] += energy
            else:
                found["covered"] += elapsed(begin, end)
    frame = pd.DataFrame(sorted(rows.values(), key=lambda one: (one["start"], one["tenure"])))
    owned = [
        min(one.end, tenures[one.tenure].end) - max(one.start, tenures[one.tenure].start) for one in frame.itertuples()
    ]
    return frame.assign(completeness=frame["covered"] / owned, owned=owned / (frame["end"] - frame["start"]))


def elapsed(begin: float, end: float) -> float:
    """Return the time between two moments in whole ms, s: as seconds since 1970 they are told to 0.2 µs only."""
    return round((end - begin) * 1000) / 1000


def grown(before: float, after: float) -> float:
    """Return what a meter says was produced between two of its values, Wh."""
    if after >= before:
        return after - before
    return after if before - after >= JITTER * before else 0.0


def spread(
    cut: Sequence[tuple[int, tuple[float, float], float, float]],
    shares: Sequence[float],
    tenures: Sequence[Tenure],
    light: Mapping[str, pd.DataFrame],
    place: Mapping[str, Any],
) -> list[float]:
    """Return the shares of a backlog's pieces: by the energy expected in them, by time where nothing is known."""
    weights = np.full(len(cut), np.nan)
    for number in {number for number, *_ in cut}:
        client = tenures[number].client
        if not client:
            continue
        mine = [index for index, piece in enumerate(cut) if piece[0] == number]
        starts, ends = (np.array([cut[index][1][edge] for index in mine]) for edge in (0, 1))
        ghi = np.array([measured_light(light, client, start) for start in starts])
        ghi = np.where(np.isnan(ghi), clear_sky(starts, ends, client), ghi)
        held = np.array([(cut[index][3] - cut[index][2]) for index in mine]) / (ends - starts)
        weights[mine] = held * produced(ghi, starts, ends, client, pd.DataFrame([place] * len(mine)))
    known = ~np.isnan(weights)
    total, time = np.nansum(weights), np.sum(np.asarray(shares)[known])
    return [
        weight / total * time if ok and total > 0 else share
        for weight, share, ok in zip(weights, shares, known, strict=True)
    ]


def light_slots(readings: pd.DataFrame, zone: str, max_gap_s: float = MAX_GAP_S) -> pd.DataFrame:
    """Return the slots of a light sensor that never moved: `irradiation` (Wh/m²), `completeness`, by their start."""
    tenure = [Tenure(-np.inf, np.inf, {"time_zone": zone})]
    values = readings.rename(columns={"irradiance": "power"}).assign(energy=np.nan)
    frame = panel_slots(values, tenure, {}, {}, max_gap_s)
    return frame.set_index("start").rename(columns={"energy": "irradiation"})


def measured_light(light: Mapping[str, pd.DataFrame], client: Mapping[str, Any], start: float) -> float:
    """Return the mean irradiance of a client's sensor in a slot, W/m²; NaN where it has none that covered it."""
    found = light.get(client["client_id"])
    if found is None or start not in found.index or found.at[start, "completeness"] < COVERED:
        return np.nan
    hours = (found.at[start, "end"] - start) / 3600
    return float(found.at[start, "irradiation"] / (hours * found.at[start, "completeness"]))


def sun(
    starts: np.ndarray, ends: np.ndarray, client: Mapping[str, Any]
) -> tuple[pd.DatetimeIndex, pd.DataFrame, np.ndarray]:
    """Return the sun's way over a place within each slot: times, positions, and the sine of its height by slot."""
    seconds = starts[:, None] + (ends - starts)[:, None] * (np.arange(STEPS) + 0.5) / STEPS
    times = pd.to_datetime(np.round(seconds.ravel() * 1000).astype("int64"), unit="ms", utc=True)
    position = pvlib.solarposition.get_solarposition(
        times, client["latitude"], client["longitude"], altitude=0, pressure=101325, temperature=12, delta_t=70
    )
    return times, position, np.cos(np.radians(position["zenith"].to_numpy())).clip(min=0).reshape(-1, STEPS)


def clear_sky(starts: np.ndarray, ends: np.ndarray, client: Mapping[str, Any]) -> np.ndarray:
    """Return the mean global horizontal irradiance under a clear sky in slots of one place, W/m²."""
    _, position, _ = sun(starts, ends, client)
    return pvlib.clearsky.haurwitz(position["zenith"])["ghi"].to_numpy().reshape(-1, STEPS).mean(axis=1)


def produced(
    ghi: np.ndarray, starts: np.ndarray, ends: np.ndarray, client: Mapping[str, Any], panels: pd.DataFrame
) -> np.ndarray:
    """Return what panels of one place make of a mean global horizontal irradiance in slots, Wh.

    DISC, Hay and Davies, Faiman, PVWatts; `panels` has `power_cap`, `tilt`, `azimuth` of each slot.
    """
    times, position, height = sun(starts, ends, client)
    mean = height.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        horizontal = np.where(mean > 0, ghi[:, None] * height / mean, ghi[:, None]).ravel()
        most = np.where(height.ravel() > 0, horizontal / height.ravel(), 0.0)
    beam = pvlib.irradiance.disc(horizontal, position["zenith"].to_numpy(), times.dayofyear, max_zenith=87)["dni"]
    beam = np.minimum(np.nan_to_num(beam), most)
    tilt, azimuth = (np.repeat(panels[name].to_numpy(), STEPS) for name in ("tilt", "azimuth"))
    plane = pvlib.irradiance.get_total_irradiance(
        tilt,
        azimuth,
        position["zenith"].to_numpy(),
        position["azimuth"].to_numpy(),
        beam,
        horizontal,
        horizontal - beam * height.ravel(),
        dni_extra=pvlib.irradiance.get_extra_radiation(times.dayofyear).to_numpy(),
        model="haydavies",
        albedo=0.2,
    )["poa_global"]
    light = np.nan_to_num(plane).clip(min=0).reshape(-1, STEPS).mean(axis=1)
    air = 19.9 - 28 * (3 * np.sin(np.radians(client["latitude"])) ** 2 - 1) / 2
    rating = panels["power_cap"].to_numpy()
    dc = pvlib.pvsystem.pvwatts_dc(light, pvlib.temperature.faiman(light, air, 1.0), rating, -0.004) * (1 - 0.14)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        power = np.nan_to_num(pvlib.inverter.pvwatts(dc, rating)).clip(min=0)
    return np.where(np.isnan(ghi), np.nan, power * (ends - starts) / 3600)


def report(
    readings: Mapping[str, pd.DataFrame],
    tenures: Mapping[str, Sequence[Tenure]],
    light: Mapping[str, pd.DataFrame],
    places: Mapping[str, Mapping[str, Any]],
    max_gap_s: float = MAX_GAP_S,
) -> pd.DataFrame:
    """Return every row of panel_report, with all its columns and `start` (s).

    Parameters
    ----------
    readings, tenures, places : mapping
        By panel; see `panel_slots`.
    light : mapping
        By client, the slots of its one light sensor.
    """
    parts = []
    for panel, of_panel in readings.items():
        frame = panel_slots(of_panel, tenures[panel], light, places[panel], max_gap_s)
        clients = [tenures[panel][number].client for number in frame["tenure"]]
        enriched = pd.DataFrame(clients, index=frame.index)
        told = frame.join(enriched).assign(panel_id=panel, **places[panel])
        parts.append(compared(told))
    rows = pd.concat(parts, ignore_index=True)
    rows["expected_gen"] = expected(rows, light)
    measured = rows["energy"] - rows["estimated"]
    covered = rows["expected_gen"] * rows["completeness"]
    enough = (rows["expected_gen"] >= LEAST * rows["power_cap"] * (rows["end"] - rows["start"]) / 3600) & (covered > 0)
    rows["performance_ratio"] = (measured / covered).where(enough)
    return rows.rename(columns={"energy": "power_gen", "estimated": "estimated_gen"})


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Add local time, differences and accumulators of one panel, slot by slot."""
    by_client: dict[Any, dict[float, float]] = {}
    for one in rows.itertuples():
        key = one.client_id if isinstance(one.client_id, str) else None
        energies = by_client.setdefault(key, {})
        energies[one.start] = energies.get(one.start, 0.0) + one.energy
    told = []
    sums: dict[Any, dict[str, tuple[Any, float]]] = {}
    for one in rows.itertuples():
        key = one.client_id if isinstance(one.client_id, str) else None
        zone = ZoneInfo(one.time_zone if isinstance(one.time_zone, str) else "UTC")
        local = datetime.fromtimestamp(one.start, zone)
        before = slot_before(zone.key, one.start)
        references = {"hour": before, **{name: same_hour(local, back) for name, back in BACK.items()}}
        row: dict[str, Any] = {"local_time": local.isoformat(timespec="seconds"), "local_date": str(local.date())}
        for name, reference in references.items():
            there = by_client[key].get(reference) if reference is not None else None
            row[f"diff_last_{name}"] = np.nan if there is None else one.energy - there
        running = sums.setdefault(key, {})
        for name, period_of in PERIODS.items():
            period = period_of(local.date())
            known, total = running.get(name, (period, 0.0))
            running[name] = (period, (total if known == period else 0.0) + one.energy)
            row[f"acum_{name}"] = running[name][1]
        told.append(row)
    return rows.join(pd.DataFrame(told, index=rows.index))


@lru_cache(maxsize=200_000)
def occurrences(zone: str, day: date, hour: int) -> list[float]:
    """Return the slots that start in an hour of the clock on a local date: none, one or two."""
    starts = day_slots(zone, day)
    return [start for start in starts if datetime.fromtimestamp(start, ZoneInfo(zone)).hour == hour]


def same_hour(local: datetime, back: relativedelta) -> float | None:
    """Return the slot of the same local hour on an earlier date: the same occurrence, else the first; None: none."""
    zone = str(local.tzinfo)
    found, now = (occurrences(zone, day, local.hour) for day in (local.date() - back, local.date()))
    if len(found) < 2:
        return found[0] if found else None
    return found[now.index(local.timestamp())] if len(now) > 1 else found[0]


@lru_cache(maxsize=100_000)
def slot_before(zone: str, start: float) -> float:
    """Return the start of the slot before one."""
    return slots(zone, start - 1, start)[0][0]


def expected(rows: pd.DataFrame, light: Mapping[str, pd.DataFrame]) -> list[float]:
    """Return the energy expected of each row's owner, Wh: by the client's light, else by that of its postal code."""
    rows = rows.reset_index(drop=True).assign(found=np.nan, sky=np.nan)
    groups = [
        (client_rows.iloc[0], client_rows) for _, client_rows in rows[rows["client_id"].notna()].groupby("client_id")
    ]

    def made(light_of: pd.Series) -> pd.Series:
        energy = pd.Series(np.nan, rows.index)
        for client, group in groups:
            starts, ends, owned = (group[name].to_numpy() for name in ("start", "end", "owned"))
            energy[group.index] = owned * produced(light_of[group.index].to_numpy(), starts, ends, client, group)
        return energy

    for client, group in groups:
        rows.loc[group.index, "found"] = [measured_light(light, client, start) for start in group["start"]]
        rows.loc[group.index, "sky"] = clear_sky(group["start"].to_numpy(), group["end"].to_numpy(), client)
    by_sensor, bound = made(rows["found"]), made(rows["sky"])
    rated = rows["power_cap"] * (rows["end"] - rows["start"]) / 3600
    tells = (rows["completeness"] >= COVERED) & (bound >= LEAST * rated)
    area = [rows["postal_code"], rows["start"]]

    def exceeded(energy: pd.Series) -> pd.Series:
        share = ((rows["energy"] - rows["estimated"]) / (energy * rows["completeness"])).where(tells & (energy > 0))
        return share.groupby(area).transform("median").fillna(1.0).clip(lower=0.0)

    ghi, by_area = rows["sky"].copy(), bound
    for _ in range(CORRECTIONS):
        ghi = (ghi * exceeded(by_area) ** DAMPING).clip(upper=rows["sky"])
        by_area = made(ghi)
    left = exceeded(by_area)
    by_area = by_area * left.where(ghi < rows["sky"], left.clip(upper=1.0))
    enough = tells.groupby(area).transform("sum") >= PEERS
    by_area = by_area.where(enough, np.where(bound > 0, np.nan, 0.0)).where(bound.notna())
    return by_sensor.where(by_sensor.notna(), by_area).tolist()


def by_rdtools(rows: pd.DataFrame, readings: Mapping[str, pd.DataFrame], max_gap_s: float = MAX_GAP_S) -> pd.Series:
    """Return the energy of each row as `rdtools` integrates power, Wh; NaN where that tells nothing, or something else.

    It knows no meters, only hours of an hour, and goes on after the last sample: what it tells is of panels without a
    meter, of one owner, up to that.
    """
    energy = pd.Series(np.nan, rows.index)
    whole = rows[(rows["end"] - rows["start"] == 3600) & (rows["owned"] == 1) & (rows["completeness"] > 0)]
    for panel, of_panel in whole.groupby("panel_id"):
        sent = readings[panel]
        if sent["energy"].notna().any():
            continue
        measured = pd.Series(sent["power"].clip(lower=0).to_numpy(), _moments(sent["time"]))
        # it drops the first sample, and those that end a gap: there is another one at once
        again = measured[~(measured.index.to_series().diff() <= pd.Timedelta(seconds=max_gap_s))]
        measured = pd.concat([measured, again.set_axis(again.index + pd.Timedelta("1ns"))]).sort_index()
        told = of_panel[of_panel["end"] <= sent["time"].max()]
        for minute, group in told.groupby(told["start"] % 3600):
            power = measured.set_axis(measured.index - pd.Timedelta(seconds=minute))
            # its hours are counted from the first moment that it is given
            power = pd.concat([pd.Series([np.nan], power.index[:1].floor("h") - pd.Timedelta("1h")), power])
            hours = rdtools.energy_from_power(power, "1h", pd.Timedelta(seconds=max_gap_s), "instantaneous")
            energy[group.index] = hours.reindex(_moments(group["start"] - minute + 3600)).to_numpy()
    return energy


def _moments(seconds: pd.Series) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime((seconds * 1000).round().astype("int64"), unit="ms", utc=True))
