"""Readings in any order, sent again, in any number of runs: the same report and alarm rows, bit for bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from benchmarks import chaos_panels
from flink_jobs.slots import LIGHT, PANEL, SPLIT_HOURS, Source, make_slots
from selfgen import recompute
from selfgen.alarms import slot_alarms
from selfgen.calendar import HOUR_MS
from selfgen.energy import reading_range, report_columns
from selfgen.expected import expected_energy, performance_ratio, shape

SHUFFLES = 20
#: In how many runs the readings of each shuffle are computed, in turn.
RUNS = (1, 2, 1, 1, 3)
MAX_GAP_S = 300.0
#: The clocks of Lord Howe, which are half an hour further in summer, change at 15:30.
START = datetime(2026, 10, 3, 11, tzinfo=UTC)
HOURS = 5
PLAN = chaos_panels.Plan(
    panels=5, windows=((START, START + timedelta(hours=HOURS)),), step_s=280, max_gap_s=MAX_GAP_S, apart=60
)
PLANT = chaos_panels.plant(PLAN)


def registered(source: Source) -> pd.DataFrame:
    """What the registry tells of the plant's elements."""
    clients = {client.client_id: client for client in PLANT.clients}
    if source is PANEL:
        periods = [
            (panel.panel_id, tenure.start, tenure.end, tenure.client["client_id"], panel.tilt, panel.azimuth)
            for panel in PLANT.panels
            for tenure in PLANT.tenures[panel.panel_id]
            if tenure.client
        ]
    else:
        periods = [(sensor.light_id, 0.0, np.inf, client_id, np.nan, np.nan) for sensor, client_id in PLANT.lights]
    frame = pd.DataFrame(periods, columns=["element_id", "init", "end", "client_id", "tilt", "azimuth"])
    for name in ("postal_code", "latitude", "longitude", "time_zone"):
        frame[name] = [getattr(clients[client_id], name) for client_id in frame["client_id"]]
    frame["init"] = pd.to_datetime(frame["init"], unit="s", utc=True)
    frame["end"] = pd.to_datetime(frame["end"].replace(np.inf, np.nan), unit="s", utc=True)
    return frame.assign(power_cap=3000.0, variable_data=[{}] * len(frame))


def all_readings() -> dict[str, pd.DataFrame]:
    parts = {"panel": PLANT.readings, "light": PLANT.irradiance}
    found = {}
    for kind, by_element in parts.items():
        frame = pd.concat([frame.assign(element_id=element) for element, frame in by_element.items()])
        frame["time"] = np.round(frame["time"] * 1000).astype(np.int64)
        found[kind] = frame.reset_index(drop=True)
    return found


class Lake:
    """The hours' rows in memory, computed as the jobs do."""

    def __init__(self) -> None:
        self.stored = {"panel": pd.DataFrame(), "light": pd.DataFrame()}
        self.slots = {"panel": pd.DataFrame(), "light": pd.DataFrame()}
        self.owners = {"panel": registered(PANEL), "light": registered(LIGHT)}

    def arrive(self, readings: dict[str, pd.DataFrame]) -> None:
        """Store readings, each identity once, and compute the hours that changed."""
        dirty: set[int] = set()
        for kind, source in (("light", LIGHT), ("panel", PANEL)):
            new = readings[kind]
            self.stored[kind] = pd.concat([self.stored[kind], new]).drop_duplicates(["element_id", "time"], keep="last")
            marks = set((new["time"] // HOUR_MS * HOUR_MS).tolist())
            dirty = recompute.touched(marks | dirty, MAX_GAP_S)  # what panels should have made is read from the light
            for start, end in recompute.ranges(dirty):
                for low in range(start, end, SPLIT_HOURS * HOUR_MS):
                    self._compute(source, low, min(low + SPLIT_HOURS * HOUR_MS, end))

    def _compute(self, source: Source, low: int, high: int) -> None:
        first, last = reading_range((), low, high + 2 * HOUR_MS, max_gap_s=MAX_GAP_S)
        stored = self.stored[source.kind]
        read = stored[(stored["time"] >= first) & (stored["time"] < last)]
        light = self.slots["light"]
        weights = (lambda asked: shape(asked, light)) if source is PANEL else None
        made = make_slots(read, self.owners[source.kind], source, low, high, max_gap_s=MAX_GAP_S, expected=weights)
        if source is PANEL and len(made):
            expected = expected_energy(made, light)
            made = made.assign(expected_gen=expected, performance_ratio=performance_ratio(made, expected))
        old = self.slots[source.kind]
        if len(old):
            made = pd.concat([old[~old["slot_start"].between(low, high, inclusive="left")], made])
        self.slots[source.kind] = made

    def rows(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the reports' and alarms' rows."""
        slots = self.slots["panel"].sort_values(["element_id", "slot_start", "client_id"], ignore_index=True)
        sums = report_columns(slots.rename(columns={"generated": "power_gen"}))
        alarms = slot_alarms(slots.rename(columns={"element_id": "panel_id"}), "panel")
        return pd.concat([slots, sums], axis=1), alarms


@pytest.fixture(scope="module")
def in_order() -> tuple[pd.DataFrame, pd.DataFrame]:
    lake = Lake()
    lake.arrive(all_readings())
    return lake.rows()


def test_the_order_of_arrival_makes_no_difference(in_order: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    reports, alarms = in_order
    assert len(reports) > 5 * HOURS
    assert len(alarms) > 0
    assert reports["expected_gen"].notna().sum() > 10
    assert reports["meter_resets"].sum() > 0
    for seed in range(SHUFFLES):
        chance = np.random.default_rng(seed)
        shuffled = {
            kind: pd.concat([frame, frame.sample(frac=0.05, random_state=seed)]).sample(frac=1, random_state=seed)
            for kind, frame in all_readings().items()
        }
        lake = Lake()
        cuts = np.sort(chance.uniform(0, 1, RUNS[seed % len(RUNS)] - 1))
        for low, high in zip([0.0, *cuts], [*cuts, 1.0], strict=True):
            lake.arrive(
                {
                    kind: frame.iloc[round(low * len(frame)) : round(high * len(frame))]
                    for kind, frame in shuffled.items()
                }
            )
        found, told = lake.rows()
        pd.testing.assert_frame_equal(found, reports, check_exact=True)
        pd.testing.assert_frame_equal(told, alarms, check_exact=True)
