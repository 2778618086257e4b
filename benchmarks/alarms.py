"""Panels' alarms against labelled faults: precision and recall over a year of 200 panels; no server needed.

The functions are those that the jobs call, over whole weeks: readings → slots → expected energy → alarms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.form import Figure
from flink_jobs.slots import LIGHT, PANEL, Source, make_slots, milliseconds, with_absent
from selfgen.alarms import slot_alarms
from selfgen.calendar import HOUR_MS
from selfgen.evidence import samples_in, stale_share
from selfgen.expected import expected_energy, performance_ratio, shape
from selfgen.settings import Settings
from selfgen.simulation.batch import DECIMALS
from selfgen.simulation.fleet import Fleet, make_fleet
from selfgen.simulation.generate import Part, lag_ms, random_faults
from selfgen.simulation.measured import data_file
from selfgen.simulation.truth import Fault

#: Places of a year: half of the sites of each area have a light sensor, the others are judged by their neighbours.
SITES, PANELS_A_SITE, AREAS_IN_TURN = 40, 5, 8
START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL_MS = 240_000
PIECE = timedelta(days=8)
#: Faults are drawn for each of so many parts of the year, for this share of the elements in each.
PARTS, SHARE, SEED = 6, 0.4, 11
#: No clock is further behind.
FURTHEST = timedelta(hours=9)

#: The faults that an alarm is there for; and those of which it may tell besides, that are not counted.
TELLS_OF = {
    "no_power": ("off",),
    "no_data": ("dropped",),
    "stuck": ("stuck",),
    "meter_reset": ("meter_reset",),
    "clock_shift": ("clock_shift",),
    "low_power": ("weak", "shaded", "drifting"),
    "over_power": ("scaled",),
    "clipping": ("limited",),
}
MAY_TELL_OF = {"low_power": ("limited",), "no_data": ("hole",)}
BARS = dict.fromkeys(("no_power", "no_data", "stuck", "meter_reset", "clock_shift"), 0.95) | {"low_power": 0.9}
#: From this loss on a panel is weak, and must be told.
LOSS = 0.3

#: What is kept of a slot until its alarms are looked for.
KEPT = [
    "element_id", "slot_start", "slot_end", "generated", "estimated", "greatest", "completeness", "samples", "stale",
    "daylight", "variable_data", "time_zone", "power_cap", "flat", "dark", "meter_resets", "expected_gen",
    "performance_ratio",
]  # fmt: skip


class Score(NamedTuple):
    """How an alarm did: faults found of those there were, incidents of no fault, and which those are."""

    faults: int
    found: int
    false: int
    missed: pd.DataFrame
    wrong: pd.DataFrame

    @property
    def precision(self) -> float:
        """Share of what was told that is so; a fault counts once, however many incidents it gave."""
        return self.found / max(self.found + self.false, 1)

    @property
    def recall(self) -> float:
        """Share of faults that were told."""
        return self.found / max(self.faults, 1)


def drawn_faults(fleet: Fleet, start: datetime, end: datetime, parts: int = PARTS, seed: int = SEED) -> list[Fault]:
    """Return the year's faults: at most one an element in each part of it."""
    edges = [start + (end - start) * number / parts for number in range(parts + 1)]
    return [
        fault
        for number in range(parts)
        for fault in random_faults(fleet, edges[number], edges[number + 1], SHARE, seed + number, meter=True)
    ]


def history(fleet: Fleet, source: Source) -> pd.DataFrame:
    """Return what the registry would tell of the elements."""
    elements, clients = fleet.elements(source.kind), fleet.owners(source.kind)  # type: ignore[arg-type]
    return pd.DataFrame(
        {
            "element_id": fleet.ids(source.kind),  # type: ignore[arg-type]
            "init": pd.Timestamp("2020-01-01", tz="UTC"),
            "end": pd.Series(pd.NaT, index=range(len(elements)), dtype="datetime64[ms, UTC]"),
            **{
                name: [getattr(client, name) for client in clients]
                for name in ("client_id", "postal_code", "latitude", "longitude", "time_zone")
            },
            **{
                name: [getattr(element, name, np.nan) for element in elements]
                for name in ("power_cap", "tilt", "azimuth")
            },
            "variable_data": [{}] * len(elements),
        }
    )


def readings(part: Part, source: Source, times: np.ndarray) -> pd.DataFrame:
    """Return what is stored of the readings at these times."""
    values, keep, behind_ms = part.sampled(times)
    row, element = np.nonzero(keep)
    columns = {name: np.round(values[name][row, element], DECIMALS[name]) for name in source.fields}
    ids = np.array(list(part.numbers), object)
    return pd.DataFrame({"element_id": ids[element], "time": times[row] - behind_ms[row, element], **columns})


def pieces(
    fleet: Fleet, source: Source, faults: list[Fault], start: datetime, end: datetime, seed: int = SEED
) -> Iterator[pd.DataFrame]:
    """Yield the readings for each piece of slots, those beside them among them."""
    mine = [fault for fault in faults if fault.topic == source.kind]
    part = Part(fleet, source.kind, INTERVAL_MS, seed=seed, meter=source.meter is not None, faults=mine)  # type: ignore[arg-type]
    behind, simulated = pd.DataFrame(), milliseconds(start)
    for _, high in spans(start, end):
        until = milliseconds(min(high + FURTHEST, end))
        behind = pd.concat([behind, readings(part, source, np.arange(simulated, until, INTERVAL_MS))])
        simulated = until
        yield behind
        behind = behind[behind["time"] >= milliseconds(high) - HOUR_MS]


def spans(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return the pieces of a range of time."""
    count = -(-(end - start) // PIECE)
    return [(start + number * PIECE, min(start + (number + 1) * PIECE, end)) for number in range(count)]


def panel_slots(
    fleet: Fleet, faults: list[Fault], start: datetime, end: datetime, max_gap_s: float, seed: int = SEED
) -> pd.DataFrame:
    """Return the slots of all panels, as the lake would have them."""
    owners, of_light = history(fleet, PANEL), history(fleet, LIGHT)
    with_light = of_light["client_id"].unique()[_has_light(len(of_light))]
    of_light = of_light[of_light["client_id"].isin(with_light)]
    found = []
    streams = zip(
        spans(start, end),
        pieces(fleet, LIGHT, faults, start, end, seed),
        pieces(fleet, PANEL, faults, start, end, seed),
        strict=True,
    )
    for (low, high), lights, panels in streams:
        span = (milliseconds(low), milliseconds(high))
        measured = lights[lights["element_id"].isin(of_light["element_id"])]
        light = make_slots(measured, of_light, LIGHT, *span, max_gap_s=max_gap_s)
        by_light = partial(shape, light=light)
        slots = make_slots(panels, owners, PANEL, *span, max_gap_s=max_gap_s, expected=by_light, bridged=True)
        expected = expected_energy(slots, light)
        slots = slots.assign(expected_gen=expected, performance_ratio=performance_ratio(slots, expected))
        found.append(slots[KEPT])
    return with_absent(pd.concat(found, ignore_index=True), owners, milliseconds(end))


def _has_light(sites: int) -> np.ndarray:
    return np.arange(sites) // AREAS_IN_TURN % 2 == 0


def incidents(slots: pd.DataFrame) -> pd.DataFrame:
    """Return what was told of panels: `panel_id`, `code`, `start`, `end` (epoch ms; of what is open, the last)."""
    rows = slot_alarms(slots.rename(columns={"element_id": "panel_id"}), PANEL.kind)
    rows = rows.sort_values(["panel_id", "code", "timestamp"], kind="stable")
    begun = pd.to_datetime(rows["started_at"]).dt.as_unit("ms").astype("int64")
    after = rows.groupby(["panel_id", "code"])["timestamp"].shift(-1)
    told = rows.assign(start=begun, end=after.fillna(slots["slot_end"].max()).astype("int64"))
    return told.loc[told["state"] == "raised", ["panel_id", "code", "start", "end", "text_alarm"]]


def labels(faults: list[Fault]) -> pd.DataFrame:
    """Return the panels' faults on the devices' clocks: `panel_id`, `kind`, `start`, `end` (epoch ms), `amount`.

    A drifting panel is one from where it loses `LOSS` on. When a clock is put right, there are hours of which nothing
    tells, a `hole`.
    """
    rows = []
    for fault in (fault for fault in faults if fault.topic == "panel"):
        low, high = fault.span_ms
        told_from = low
        if fault.kind == "clock_shift":
            low, high = low - lag_ms(fault), high - lag_ms(fault)
            told_from = low
            rows.append((fault.element_id, "hole", high, high, fault.span_ms[1], fault.amount))
        elif fault.kind == "drifting":
            told_from = low + round((high - low) * min(LOSS / fault.amount, 1.0))
        rows.append((fault.element_id, fault.kind, low, told_from, high, fault.amount))
    return pd.DataFrame(rows, columns=["panel_id", "kind", "low", "start", "end", "amount"])


def score(
    told: pd.DataFrame,
    labelled: pd.DataFrame,
    code: str,
    kinds: Sequence[str],
    besides: Sequence[str] = (),
    element: str = "panel_id",
) -> Score:
    """Compare incidents of one alarm with the faults that it is there for, by overlap, within an hour.

    `kinds`: the faults that it is there for; `besides`: those of which it may tell.
    """
    mine = told[told["code"] == code].reset_index(drop=True)
    right = labelled[labelled["kind"].isin(kinds)].reset_index(drop=True)
    known = labelled[labelled["kind"].isin((*kinds, *besides))]

    def overlapping(spans: pd.DataFrame, start: str) -> pd.DataFrame:
        pairs = mine.reset_index().merge(spans.reset_index(), on=element, suffixes=("", "_label"))
        low = pairs["low"] if start == "low" else pairs["start_label"]
        return pairs[(pairs["end"] + HOUR_MS >= low) & (pairs["start"] <= pairs["end_label"] + HOUR_MS)]

    hit = overlapping(right, "start")["index_label"].unique()
    explained = overlapping(known, "low")["index"].unique()
    return Score(len(right), len(hit), len(mine) - len(explained), right.drop(index=hit), mine.drop(index=explained))


def labelled_measurements() -> list[Figure]:
    """Return how labelled measurements that come with pvanalytics are told: quarter hours, slot by slot."""
    frame = pd.read_csv(data_file("pvanalytics", "ac_power_inv_2173_stale_data.csv"), parse_dates=["timestamp"])
    frame = frame.dropna(subset=["value_normalized"])
    times = frame["timestamp"].dt.as_unit("ms").astype("int64")
    read = pd.DataFrame({"element_id": "p", "time": times, "value": frame["value_normalized"]})
    starts = np.arange(times.min() // HOUR_MS * HOUR_MS, times.max(), HOUR_MS)
    slots = pd.DataFrame({"element_id": "p", "slot_start": starts, "slot_end": starts + HOUR_MS})
    samples = samples_in(read, slots)
    stale = stale_share(samples) > 0.5
    labelled = samples_in(read.assign(value=frame["stale_data_mask"].astype(float)), slots)
    truly = labelled.share(labelled.value > 0) > 0.5
    name, right = "stale hours of inverter 2173", int((stale & truly).sum())
    return [Figure(f"{name}, labelled", int(truly.sum()), "hours"), *_both(name, right, stale.sum(), truly.sum())]


def _both(name: str, right: int, told: int, labelled: int) -> list[Figure]:
    return [
        Figure(f"{name}, precision", round(right / max(told, 1), 3), ""),
        Figure(f"{name}, recall", round(right / max(labelled, 1), 3), ""),
    ]


def measured(
    settings: Settings, start: datetime = START, end: datetime = END, parts: int = PARTS, seed: int = SEED
) -> dict[str, Score]:
    """Return the score of each alarm: of places, weather and faults that follow from the seed."""
    fleet = make_fleet(SITES, seed, panels=PANELS_A_SITE, winds=0)
    faults = drawn_faults(fleet, start, end, parts, seed)
    told = incidents(panel_slots(fleet, faults, start, end, settings.max_gap_s, seed))
    labelled = labels(faults)
    return {code: score(told, labelled, code, kinds, MAY_TELL_OF.get(code, ())) for code, kinds in TELLS_OF.items()}


def run(settings: Settings, seed: int = SEED) -> list[Figure]:
    """Return precision and recall of each alarm, and of labelled measurements."""
    figures = []
    for code, scored in measured(settings, seed=seed).items():
        figures += scored_figures(code, scored, BARS.get(code))
    return figures + labelled_measurements()


def scored_figures(name: str, scored: Score, least: float | None = None) -> list[Figure]:
    """Return what is told of a score; `least` is the bar of precision and recall."""
    bar: tuple[Literal[">="], float] | None = None if least is None else (">=", least)
    return [
        Figure(f"{name}, faults", scored.faults, "faults"),
        Figure(f"{name}, incidents of no fault", scored.false, "incidents"),
        Figure(f"{name}, precision", round(scored.precision, 3), "", bar=bar),
        Figure(f"{name}, recall", round(scored.recall, 3), "", bar=bar),
    ]
