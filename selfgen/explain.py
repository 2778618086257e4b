"""How an hour's figures came about: samples, gaps and meter, and what a panel's are compared with and added to.

Pure: given the readings, the owners and the rows of the lake and of Druid, it returns plain values, times as RFC 3339.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import count
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from selfgen import calendar, energy
from selfgen.columns import ACCUMULATORS, DIFFERENCES
from selfgen.registry import ID_FIELD

#: Figures that a slot's own readings decide; those of light sensors in the place of the panels'.
OF_READINGS = {
    "panel": ("power_gen", "estimated_gen", "power_max", "completeness", "samples"),
    "light": ("irradiation", "estimated", "greatest", "completeness", "samples"),
}
#: Those that others decide too.
FURTHER = {
    "panel": (
        *("expected_gen", "performance_ratio"),
        *(f"diff_last_{name}" for name in DIFFERENCES),
        *(f"acum_{name}" for name in ACCUMULATORS),
    ),
    "light": ("producible_gen", "optimal_tilt", "optimal_azimuth", "gain_vs_horizontal", "confidence"),
}
#: Figures are the same when they differ by less than this share: Druid keeps doubles, but adds up in its own order.
SAME = 1e-9


def explain(
    element_id: str,
    readings: pd.DataFrame,
    owners: pd.DataFrame,
    lake: pd.DataFrame,
    reports: list[dict[str, Any]],
    start_ms: int,
    end_ms: int,
    *,
    max_gap_s: float,
    expected: energy.Expected | None = None,
    kind: Literal["panel", "light"] = "panel",
) -> list[dict[str, Any]]:
    """Return an account of each slot that starts in `[start_ms, end_ms)` and each owner in it.

    Parameters
    ----------
    readings : pandas.DataFrame
        Of the element, as `energy.account` wants them: `element_id`, `time` (epoch ms), `value` (W, or W/m²), `energy`
        (Wh).
    owners : pandas.DataFrame
        Its periods, numbered from 0: `element_id`, `init`, `end` (epoch ms), `client_id`, `name`, `time_zone`.
    lake : pandas.DataFrame
        Its slots in the lake, and of a panel those that these refer to, or are added to (`needed`): `element_id`,
        `client_id`, `time_zone`, `slot_start`, and the figures: `OF_READINGS` and `FURTHER`.
    reports : list of dict
        What Druid has of it in that time, with `slot_start`.
    max_gap_s : float
        Longest gap that counts as covered, s.
    expected : callable, optional
        By what a meter's backlog is spread; see `energy.account`.
    """
    of_readings = OF_READINGS[kind]
    figures = energy.account(readings, owners, start_ms, end_ms, max_gap_s=max_gap_s, expected=expected)
    figures = figures.rename(columns=dict(zip(OF_READINGS["panel"], of_readings, strict=True)))
    pieces = energy.trace(readings, owners, start_ms, end_ms, max_gap_s=max_gap_s, expected=expected)
    here = lake[lake["slot_start"].between(start_ms, end_ms, inclusive="left")]
    if len(here) and kind == "panel":
        here = pd.concat([here, energy.report_columns(lake).loc[here.index]], axis=1)
    figures["client_id"] = owners["client_id"].reindex(figures["owner"]).to_numpy(object)
    energies = of_readings[0]
    computed, stored, served = (_keyed(rows, energies) for rows in (_records(figures), _records(here), reports))

    def order(key: tuple[int, Any, int]) -> tuple[int, str, int]:
        return key[0], key[1] or "", int(computed[key]["owner"]) if key in computed else key[2]

    told = []
    for key in sorted({**computed, **stored, **served}, key=order):
        slot_start, client_id, _ = key
        row = computed.get(key)
        owner = _owner_of(owners, slot_start, client_id, None if row is None else int(row["owner"]))
        zone = energy.NOBODYS_ZONE if owner is None else str(owner["time_zone"])
        of_slot = pieces[(pieces["slot_start"] == slot_start) & (row is not None and pieces["owner"] == row["owner"])]
        slot_end = int(calendar.slots_covering(zone, slot_start, slot_start + 1)[-1])
        told.append(
            {
                ID_FIELD[kind]: element_id,
                "slot": {**_span(slot_start, slot_end, zone), "time_zone": zone},
                "owner": _owner(owner),
                "figures": row and {name: _plain(row[name]) for name in (*of_readings, "meter_resets")},
                "pieces": [_piece(piece, zone) for piece in _records(of_slot)],
                "differences": _differences(lake, slot_start, zone, client_id) if kind == "panel" else {},
                "accumulators": _accumulators(lake, slot_start, zone, client_id) if kind == "panel" else {},
                "lake": _figures(stored[key], kind) if key in stored else None,
                "druid": _figures(served[key], kind) if key in served else None,
                "differs": _differing(row, stored.get(key), served.get(key), kind),
            }
        )
    return told


def _keyed(rows: Iterable[dict[str, Any]], energies: str) -> dict[tuple[int, Any, int], dict[str, Any]]:
    """Return rows by slot, client, and which of its periods in the slot, in order of their energies."""
    found: dict[tuple[int, Any, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: _plain(row[energies]) or 0.0):
        slot_start, client_id = int(row["slot_start"]), _plain(row["client_id"])
        number = next(number for number in count() if (slot_start, client_id, number) not in found)
        found[slot_start, client_id, number] = row
    return found


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def needed(zones: Iterable[str], start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """Return the ranges of slots that those of `[start_ms, end_ms)` refer to or are added to, epoch ms."""
    ranges = []
    for zone in {energy.NOBODYS_ZONE, *zones}:
        starts, _ = calendar.slots(zone, start_ms, end_ms)
        ranges += [(int(since), end_ms) for since in calendar.period_starts(zone, starts)["year"]]
        references = np.concatenate(list(calendar.reference_slots(zone, starts).values()))
        ranges += [(int(one), int(one) + 1) for one in references[references != calendar.MISSING]]
    return ranges


def _owner_of(
    owners: pd.DataFrame, slot_start: int, client_id: str | None, number: int | None
) -> pd.Series[Any] | None:
    """Return the period of ownership of a row: the one it was computed for, else the client's that holds the slot."""
    if number is not None:
        return None if number == energy.NOBODY else owners.iloc[number]
    held = owners[(owners["client_id"] == client_id) & (owners["end"] > slot_start)]
    return None if client_id is None or held.empty else held.iloc[0]


def _of(rows: pd.DataFrame, client_id: str | None) -> pd.Series[bool]:
    return rows["client_id"].isna() if client_id is None else rows["client_id"] == client_id


def _differences(lake: pd.DataFrame, slot_start: int, zone: str, client_id: str | None) -> dict[str, Any]:
    """Return each difference's reference slot, and its energy where the lake has it."""
    told = {}
    mine = lake[_of(lake, client_id)]
    for name, [reference] in calendar.reference_slots(zone, [slot_start]).items():
        found = mine.loc[mine["slot_start"] == reference, "power_gen"]
        told[name] = {
            "slot": None if reference == calendar.MISSING else _local(int(reference), zone),
            "power_gen": float(found.sum()) if len(found) else None,
        }
    return told


def _accumulators(lake: pd.DataFrame, slot_start: int, zone: str, client_id: str | None) -> dict[str, Any]:
    """Return since when each accumulator runs, of how many slots it is made, and to what it comes."""
    mine = lake[_of(lake, client_id) & (lake["slot_start"] <= slot_start)]
    told = {}
    for name, [since] in calendar.period_starts(zone, [slot_start]).items():
        added = mine.loc[mine["slot_start"] >= since, "power_gen"]
        told[name] = {"since": _local(int(since), zone), "slots": len(added), "power_gen": float(added.sum())}
    return told


def _figures(row: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: _plain(row[name]) for name in (*OF_READINGS[kind], *FURTHER[kind]) if name in row}


def _differing(
    figures: dict[str, Any] | None, stored: dict[str, Any] | None, report: dict[str, Any] | None, kind: str
) -> list[str]:
    """Return where the readings, the lake and Druid disagree, a sentence each."""
    if stored is None:
        return ["the lake has no such slot: it was not computed yet, or the readings came after it was"]
    told = (
        ["there are no readings of it any more"]
        if figures is None
        else [
            f"{name}: {_shown(figures[name])} from the readings, {_shown(stored[name])} in the lake"
            for name in OF_READINGS[kind]
            if not _same(figures[name], stored[name])
        ]
    )
    if report is None:
        return [*told, "Druid has no such row"]
    return told + [
        f"{name}: {_shown(value)} from the lake, {_shown(report[name])} in Druid"
        for name, value in _figures(stored, kind).items()
        if name in report and not _same(value, report[name])
    ]


def _same(one: Any, other: Any) -> bool:
    one, other = _plain(one), _plain(other)
    if one is None or other is None:
        return one is other
    return bool(np.isclose(one, other, rtol=SAME, atol=SAME))


def _shown(value: Any) -> str:
    plain = _plain(value)
    return "nothing" if plain is None else f"{plain:.10g}"


def _plain(value: Any) -> Any:
    """Return a figure as JSON has it; None where there is none."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _owner(owner: pd.Series[Any] | None) -> dict[str, Any] | None:
    if owner is None:
        return None
    ends = {name: None if abs(owner[name]) == energy.OPEN_END else _utc(int(owner[name])) for name in ("init", "end")}
    return {"client_id": owner["client_id"], "name": owner["name"], **ends}


def _piece(piece: dict[str, Any], zone: str) -> dict[str, Any]:
    """Return a stretch as people read it."""
    return {
        **_span(piece["start"], piece["end"], zone),
        "seconds": (piece["end"] - piece["start"]) / 1000,
        "samples": [_local(piece["before"], zone), _local(piece["after"], zone)],
        "method": piece["method"],
        "reset": bool(piece["reset"]),
        "power": [_plain(piece["power_before"]), _plain(piece["power_after"])],
        "meter": [_plain(piece["meter_before"]), _plain(piece["meter_after"])],
        "energy": _plain(piece["energy"]),
    }


def _span(start_ms: int, end_ms: int, zone: str) -> dict[str, str]:
    return {"start": _local(start_ms, zone), "end": _local(end_ms, zone)}


def _local(instant_ms: int, zone: str) -> str:
    moment = datetime.fromtimestamp(instant_ms / 1000, ZoneInfo(zone))
    return moment.isoformat(timespec="milliseconds" if instant_ms % 1000 else "seconds")


def _utc(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
