"""What meters counted in outages over hours: hours computed in any order, in any pieces, give what all at once give."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flink_jobs import bridges
from flink_jobs.rich_panel import OF_PANELS
from flink_jobs.slots import PANEL, SLOT, make_slots, schema
from selfgen import energy, lake, recompute
from selfgen.calendar import HOUR_MS
from selfgen.expected import LIGHT, expected_energy, performance_ratio, shape

MINUTE = 60_000
MAX_GAP_S = 300.0
LONGEST_S = 60 * 86_400.0
#: The clocks of Lord Howe, half an hour further in summer, change at 15:30 on this day.
START = round(datetime(2026, 10, 3, tzinfo=UTC).timestamp()) * 1000
HOURS = 26
COLUMNS = schema((*SLOT, *OF_PANELS))
NO_LIGHT = pd.DataFrame({name: [] for name in LIGHT})
PLACES = (("Asia/Kathmandu", 27.7, 85.3), ("Australia/Lord_Howe", -31.5, 159.1), ("Europe/Madrid", 40.4, -3.7))
#: One of them goes to another client in the middle of an outage.
MOVED = START + 14 * HOUR_MS + 20 * MINUTE


def owners() -> pd.DataFrame:
    rows = []
    for number, (zone, latitude, longitude) in enumerate(PLACES):
        moves = number == 0
        rows.append((f"p{number}", START - 10**9, MOVED if moves else None, f"c{number}", zone, latitude, longitude))
        if moves:
            rows.append((f"p{number}", MOVED, None, "c2", *PLACES[2]))
    columns = ["element_id", "init", "end", "client_id", "time_zone", "latitude", "longitude"]
    frame = pd.DataFrame(rows, columns=columns)
    for name in ("init", "end"):
        frame[name] = pd.to_datetime(frame[name], unit="ms", utc=True)
    known = {"power_cap": 3000.0, "tilt": 30.0, "azimuth": 180.0, "variable_data": [{}] * len(frame)}
    nothing = {name: None for name in COLUMNS.names if name in HISTORY and name not in {*columns, *known}}
    return frame.assign(**known, **nothing)


HISTORY = ("name", "apell_1", "apell_2", "address", "postal_code", "client_type", "model", "manufacture_date",
           "install_date", "client_signature")  # fmt: skip


def readings(seed: int) -> pd.DataFrame:
    """Three meters with a reading every few minutes, and outages of minutes, hours and more than a day."""
    chance = np.random.default_rng(seed)
    parts = []
    for number in range(len(PLACES)):
        times = START + np.arange(0, HOURS * 60, 4) * MINUTE + chance.integers(0, MINUTE, HOURS * 15)
        keep = np.ones(len(times), bool)
        outages = [(chance.integers(0, len(times)), chance.integers(2, 12)) for _ in range(6)]
        outages += [(chance.integers(0, len(times) // 2), chance.integers(20, 100)), (110, 60 + 200 * (number == 2))]
        for first, count in outages:
            keep[first : first + count] = False
        meter = np.round(10_000 + np.cumsum(chance.uniform(0, 40, len(times))), 1)
        meter[len(times) // 3 :] -= meter[len(times) // 3] * (number == 1)  # an exchanged meter
        meter[chance.random(len(times)) < 0.05] = np.nan
        power = np.round(chance.uniform(0, 900, len(times)), 1)
        rows = {"element_id": f"p{number}", "time": times, "power": power, "energy": meter}
        parts.append(pd.DataFrame(rows)[keep])
    return pd.concat(parts, ignore_index=True)


class Panels:
    """A lake in a folder, whose hours are computed as the job does, with what has been stored by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored = readings(0).iloc[:0]

    def compute(self, ranges: Sequence[recompute.Range], *, killed: bool = False) -> None:
        staging = self.folder / ".staging" / uuid.uuid4().hex
        hours = [datetime.fromtimestamp(hour / 1000, UTC) for hour in recompute.hours(ranges)]
        for low, high in ranges:
            first, last = energy.reading_range((), low, high + bridges.LONGEST_SLOT_MS, max_gap_s=MAX_GAP_S)
            read = self.stored[self.stored["time"].between(first, last, inclusive="left")]
            read = read.sort_values(["element_id", "time"], ignore_index=True)
            bridges.stage_edges(staging, read, low, high)
            slots = finish(make(read, owners(), low, high))
            lake.stage_rows(staging, slots, slots["slot_start"].to_numpy(), COLUMNS)
        run = bridges.Run(self.folder, staging, list(ranges), "panel", COLUMNS, MAX_GAP_S, LONGEST_S)
        beside, outages = run.lay(
            lambda found: bridges.spread_over(found, owners(), partial(make, bridged=True)), finish
        )
        run.announce(outages)
        lake.publish(staging, self.folder, "panel", [*hours, *beside], COLUMNS)
        if not killed:
            run.keep(outages)

    def change(self, stored: pd.DataFrame, changed: pd.Series, *, killed: bool = False) -> None:
        """Store readings; compute the hours that this touches."""
        self.stored = stored
        marks = set((changed // HOUR_MS * HOUR_MS).tolist())
        ranges = recompute.ranges(recompute.touched(marks, MAX_GAP_S))
        if killed:
            self.compute(ranges, killed=True)
        self.compute(ranges)

    def rows(self) -> pd.DataFrame:
        start, end = (datetime.fromtimestamp((START + hours * HOUR_MS) / 1000, UTC) for hours in (-8, HOURS + 8))
        return lake.read(self.folder, "panel", start, end).to_pandas()


def make(read: pd.DataFrame, history: pd.DataFrame, low: int, high: int, *, bridged: bool = False) -> pd.DataFrame:
    weights = partial(shape, light=NO_LIGHT)
    return make_slots(read, history, PANEL, low, high, max_gap_s=MAX_GAP_S, expected=weights, bridged=bridged)


def finish(slots: pd.DataFrame) -> pd.DataFrame:
    expected = expected_energy(slots, NO_LIGHT)
    return slots.assign(expected_gen=expected, performance_ratio=performance_ratio(slots, expected))


def all_at_once(folder: Path, stored: pd.DataFrame) -> pd.DataFrame:
    panels = Panels(folder)
    panels.stored = stored
    panels.compute([(START - 8 * HOUR_MS, START + (HOURS + 8) * HOUR_MS)])
    return panels.rows()


@pytest.mark.parametrize("seed", [1])
def test_all_that_meters_counted_is_in_the_slots(tmp_path: Path, seed: int) -> None:
    stored = readings(seed)
    found = all_at_once(tmp_path, stored)
    whole = make(stored, owners(), START - 8 * HOUR_MS, START + (HOURS + 8) * HOUR_MS, bridged=True)
    key = ["element_id", "slot_start", "client_id"]
    both = whole.merge(found, on=key, how="outer", suffixes=("", "_found"))
    for name in ("generated", "estimated", "completeness", "samples", "meter_resets"):
        np.testing.assert_allclose(both[f"{name}_found"], both[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert found["estimated"].sum() > found["unbridged_estimated"].sum() > 0
    assert ((found["samples"] == 0) & (found["generated"] > 0)).any()
    assert found["meter_resets"].sum() >= 1


@pytest.mark.parametrize("seed", range(2))
def test_hours_in_any_order_give_the_same_rows(tmp_path: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    stored = readings(seed)
    expected = all_at_once(tmp_path / "once", stored)
    panels = Panels(tmp_path / "pieces")
    panels.stored = stored
    edges = np.sort(chance.choice(np.arange(-7, HOURS + 8), 5, replace=False))
    parts = [
        (START + low * HOUR_MS, START + high * HOUR_MS)
        for low, high in zip([-8, *edges], [*edges, HOURS + 8], strict=True)
    ]
    for number in chance.permutation(len(parts)):
        panels.compute([parts[number]], killed=bool(chance.random() < 0.5))
        panels.compute([parts[number]])
    pd.testing.assert_frame_equal(panels.rows(), expected, check_exact=True)


@pytest.mark.parametrize("seed", range(2))
def test_readings_that_come_late_or_are_deleted_mend_outages(tmp_path: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    stored = readings(seed)
    panels = Panels(tmp_path / "late")
    begun = stored.iloc[:0]
    for rows in np.array_split(chance.permutation(len(stored)), 3):
        part = stored.iloc[rows]
        begun = pd.concat([begun, part], ignore_index=True)
        panels.change(begun, part["time"], killed=bool(chance.random() < 0.5))
    everything = all_at_once(tmp_path / "whole", stored)
    pd.testing.assert_frame_equal(panels.rows(), everything, check_exact=True)
    gone = stored["time"].between(START + 5 * HOUR_MS, START + 9 * HOUR_MS)
    left = stored[~gone].reset_index(drop=True)
    panels.change(left, stored.loc[gone, "time"], killed=True)
    expected = all_at_once(tmp_path / "left", left)
    found = panels.rows()
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    shutil.rmtree(tmp_path)


def test_a_meter_silent_for_days_is_in_the_reports_of_these_days(tmp_path: Path) -> None:
    times = [START, START + 4 * MINUTE, START + 10 * 24 * HOUR_MS, START + 10 * 24 * HOUR_MS + 4 * MINUTE]
    stored = pd.DataFrame({"element_id": "p2", "time": times, "power": 0.0, "energy": [0.0, 1.0, 30_001.0, 30_002.0]})
    panels = Panels(tmp_path)
    panels.change(stored.iloc[:2], stored["time"].iloc[:2])
    panels.change(stored, stored["time"].iloc[2:])
    hours = lake.hours(tmp_path, "panel")
    found = lake.read(tmp_path, "panel", hours[0], hours[-1] + lake.HOUR).to_pandas()
    assert found["generated"].sum() == pytest.approx(30_002.0, rel=1e-12)
    by_day = found.groupby("local_date")["estimated"].sum().iloc[1:-1]
    assert len(by_day) == 9
    assert by_day.between(2_000, 4_500).all()  # by the light that a clear sky gives in October


def of_p2(*rows: tuple[float, float]) -> pd.DataFrame:
    """Return readings: hours since the start, and what the meter says."""
    return pd.DataFrame(
        [("p2", START + round(hours * 60) * MINUTE, 0.0, meter) for hours, meter in rows],
        columns=["element_id", "time", "power", "energy"],
    )


def counted(panels: Panels) -> float:
    """Return all energy in the lake, Wh."""
    hours = lake.hours(panels.folder, "panel")
    return lake.read(panels.folder, "panel", hours[0], hours[-1] + lake.HOUR).to_pandas()["generated"].sum()


def test_what_a_killed_run_has_laid_is_taken_off_when_other_readings_come_first(tmp_path: Path) -> None:
    panels = Panels(tmp_path)
    first, back, buffered = of_p2((0, 0.0), (0.1, 1.0)), of_p2((50, 30_001.0), (50.1, 30_002.0)), of_p2((20, 30_001.0))
    panels.change(first, first["time"])
    panels.stored = pd.concat([first, back], ignore_index=True)
    marks = set((back["time"] // HOUR_MS * HOUR_MS).tolist())
    panels.compute(recompute.ranges(recompute.touched(marks, MAX_GAP_S)), killed=True)
    panels.change(pd.concat([first, back, buffered], ignore_index=True), pd.concat([back["time"], buffered["time"]]))
    assert counted(panels) == pytest.approx(30_002.0)


class Killed(BaseException):
    """Nobody catches a kill."""


@pytest.mark.parametrize("after", range(0, 16, 3))
def test_a_kill_between_the_notes_of_two_days_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    panels = Panels(tmp_path)
    first = of_p2((0, 0.0), (0.1, 1.0), (144, 30_001.0), (144.1, 30_002.0))
    panels.change(first, first["time"])
    late = of_p2((77, 15_001.0))
    both = pd.concat([first, late], ignore_index=True)
    replace, done = lake.replace_hour, []

    def killed_after_some(folder: Path, name: str, *rest: Any) -> None:
        if name == bridges.GAPS:
            if len(done) == after:
                raise Killed
            done.append(rest)
        replace(folder, name, *rest)

    monkeypatch.setattr(lake, "replace_hour", killed_after_some)
    with pytest.raises(Killed) if after < 14 else nullcontext():
        panels.change(both, late["time"])
    monkeypatch.undo()
    panels.change(both, late["time"])
    assert counted(panels) == pytest.approx(30_002.0)


def test_a_clock_that_fell_back_by_years_bridges_nothing(tmp_path: Path) -> None:
    panels = Panels(tmp_path)
    stored = of_p2((-24 * 365, 1_000.0), (0, 1_500.0), (1, 1_560.0))
    panels.change(stored, stored["time"])
    assert counted(panels) == pytest.approx(60.0)
    assert len(lake.hours(tmp_path, "panel")) < 20
