"""Light sensors' alarms against labelled faults: precision and recall over a year of 96 sensors; no server needed.

The functions are those that the jobs call: readings → slots → alarms, eight days at a time with the 31 days before, as
the jobs have them. Two seeds of places, weather within the hour, and faults: with the first the alarms were made.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from benchmarks.alarms import Score, history, pieces, score, scored_figures, spans
from benchmarks.form import Figure
from flink_jobs.rich_sensor_light import with_contributions
from flink_jobs.slots import LIGHT, make_slots, milliseconds, with_absent
from selfgen import soiling
from selfgen.alarms import slot_alarms
from selfgen.calendar import DAY_MS
from selfgen.recompute import ALARM_CONTEXT_DAYS
from selfgen.settings import Settings
from selfgen.simulation.fleet import Fleet, make_fleet
from selfgen.simulation.generate import lag_ms
from selfgen.simulation.truth import Fault, FaultKind

SENSORS, SEEDS = 96, {"developed with": 11, "held out": 13}
#: Faults are drawn for the year; the two months before are those that a level of clear skies is made of.
FIRST, START, END = (datetime(*day, tzinfo=UTC) for day in ((2024, 11, 1), (2025, 1, 1), (2026, 1, 1)))
#: Parts of the year in each of which so many of the sensors have one fault.
PARTS, SHARE = 4, 0.5
#: Sorts of faults in turn: hours (from, to), amounts.
DRAWN: tuple[tuple[FaultKind, tuple[float, float], tuple[float, float]], ...] = (
    ("stuck", (3, 8), (0, 0)),
    ("dropped", (3, 30), (0, 0)),
    ("clock_shift", (168, 720), (1, 6)),
    ("scaled", (72, 720), (1.8, 3)),
    ("drifting", (720, 1440), (0.1, 0.25)),
    ("shaded", (480, 1200), (0.4, 0.8)),
)
TELLS_OF = {
    "stuck": ("stuck",),
    "no_data": ("dropped",),
    "clock_shift": ("clock_shift",),
    "implausible": ("scaled",),
    "soiled_or_shaded": ("drifting", "shaded"),
}
MAY_TELL_OF = {"no_data": ("hole",)}
#: From this loss on a sensor is dirty, and must be told.
LOSS = 0.08

KEPT = [
    "element_id", "slot_start", "slot_end", "generated", "greatest", "completeness", "samples", "stale", "daylight",
    "variable_data", "time_zone", "power_cap", "dark", "steady", "possible", "clear_beam", "clear_sky",
]  # fmt: skip


def drawn_faults(fleet: Fleet, seed: int) -> list[Fault]:
    """Return the year's faults: at most one a sensor in each part of it, from a morning on."""
    random = np.random.default_rng(seed)
    ids, owners, faults = fleet.ids("light"), fleet.owners("light"), []
    for part in range(PARTS):
        low, high = (START + (END - START) * edge / PARTS for edge in (part, part + 1))
        for turn, number in enumerate(random.permutation(len(ids))[: round(SHARE * len(ids))].tolist()):
            kind, hours, amounts = DRAWN[turn % len(DRAWN)]
            noon = (low + (high - low) * random.uniform(0.02, 0.35)).replace(hour=12, minute=0, second=0, microsecond=0)
            begin = noon + timedelta(hours=random.uniform(-3, 0) - owners[number].longitude / 15)
            end = min(begin + timedelta(hours=random.uniform(*hours)), high - timedelta(days=2))
            begin, end = begin.replace(microsecond=0), end.replace(microsecond=0)
            faults.append(Fault(kind, "light", ids[number], begin, end, round(random.uniform(*amounts), 3)))
    return faults


def labels(faults: list[Fault]) -> pd.DataFrame:
    """Return the faults on the devices' clocks, as `benchmarks.alarms.labels` those of panels."""
    rows = []
    for fault in faults:
        low, high = fault.span_ms
        if fault.kind == "clock_shift":
            rows.append((fault.element_id, "hole", high - lag_ms(fault), high - lag_ms(fault), high, fault.amount))
            low, high = low - lag_ms(fault), high - lag_ms(fault)
        told_from = low + round((high - low) * LOSS / fault.amount) if fault.kind == "drifting" else low
        rows.append((fault.element_id, fault.kind, low, told_from, high, fault.amount))
    return pd.DataFrame(rows, columns=["light_id", "kind", "low", "start", "end", "amount"])


def light_slots(fleet: Fleet, faults: list[Fault], max_gap_s: float) -> pd.DataFrame:
    """Return the slots of all sensors, as the lake would have them, with the level of clear skies."""
    owners, found = history(fleet, LIGHT), []
    for (low, high), read in zip(spans(FIRST, END), pieces(fleet, LIGHT, faults, FIRST, END), strict=True):
        slots = make_slots(read, owners, LIGHT, milliseconds(low), milliseconds(high), max_gap_s=max_gap_s)
        found.append(with_contributions(slots, read)[KEPT])
    slots = with_absent(pd.concat(found, ignore_index=True), owners, milliseconds(END))
    slots = slots.sort_values(["element_id", "slot_start"], ignore_index=True)
    return slots.assign(level=levels(slots))


def levels(slots: pd.DataFrame) -> np.ndarray:
    """Return the level of clear skies of each slot, as `selfgen.light_history.ClearLevels` has it from the lake."""
    clear = soiling.clear(slots)
    months = pd.DatetimeIndex(slots["slot_start"].to_numpy().astype("datetime64[ms]")).to_period("M")
    sensor, ids = pd.factorize(slots["element_id"])
    seen = np.zeros((len(ids), len(months.unique()), 2))
    number = np.asarray(months.astype("int64") - months.min().ordinal)
    expected = (slots["clear_beam"] + slots["clear_sky"]).to_numpy()
    of_clear = np.stack([slots["generated"].to_numpy(), expected], axis=1)[clear]
    np.add.at(seen, (sensor[clear], number[clear]), of_clear)
    result = np.full(len(slots), np.nan)
    for month in range(seen.shape[1]):
        sums = np.zeros((len(ids), 12, 2))
        for before in range(month):
            sums[:, (months.min() + before).month - 1] += seen[:, before]
        here = number == month
        result[here] = soiling.level(sums, np.full(len(ids), (months.min() + month).month))[sensor[here]]
    return result


def incidents(slots: pd.DataFrame) -> pd.DataFrame:
    """Return what the jobs tell: `light_id`, `code`, `start`, `end` (epoch ms; of what is open, the last)."""
    slots = slots.rename(columns={"element_id": "light_id"}).sort_values("slot_start", kind="stable")
    times, parts = slots["slot_start"].to_numpy(), []
    for low, high in (map(milliseconds, span) for span in spans(START, END)):
        first, last = np.searchsorted(times, [low - ALARM_CONTEXT_DAYS * DAY_MS, high])
        rows = slot_alarms(slots[first:last], LIGHT.kind)
        parts.append(rows[(rows["timestamp"] >= low) & (rows["timestamp"] < high)])
    rows = pd.concat(parts).sort_values(["light_id", "code", "timestamp"], kind="stable")
    begun = pd.to_datetime(rows["started_at"]).dt.as_unit("ms").astype("int64")
    after = rows.groupby(["light_id", "code"])["timestamp"].shift(-1)
    told = rows.assign(start=begun, end=after.fillna(slots["slot_end"].max()).astype("int64"))
    return told.loc[told["state"] == "raised", ["light_id", "code", "start", "end", "text_alarm"]]


def measured(seed: int, max_gap_s: float) -> dict[str, Score]:
    """Return the score of each alarm, and of `soiled_or_shaded` by sort of fault."""
    fleet = make_fleet(SENSORS, seed, panels=0, winds=0)
    faults = drawn_faults(fleet, seed)
    told, labelled = incidents(light_slots(fleet, faults, max_gap_s)), labels(faults)
    return {
        code: score(told, labelled, code, kinds, MAY_TELL_OF.get(code, ()), "light_id")
        for code, kinds in TELLS_OF.items()
    }


def run(settings: Settings) -> list[Figure]:
    """Return precision and recall of each alarm, for each seed."""
    figures = []
    for name, seed in SEEDS.items():
        for code, scored in measured(seed, settings.max_gap_s).items():
            figures += scored_figures(f"{name}: {code}", scored)
            missed = scored.missed["kind"].value_counts().items()
            figures += [Figure(f"{name}: {code}, {kind} missed", int(count), "faults") for kind, count in missed]
    return figures
