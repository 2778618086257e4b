"""Reports and alarms from the lake, day by day: the same as from all slots at once, whatever is kept and removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flink_jobs import incidents, pending, reports, runner, write_panel
from flink_jobs.incidents import PANELS
from flink_jobs.rich_panel import OF_PANELS
from flink_jobs.slots import (
    PANEL,
    SLOT,
    hours_between,
    make_slots,
    milliseconds,
    note_changes,
    schema,
    with_absent,
)
from selfgen import lake, running_sums
from selfgen.alarms import slot_alarms
from selfgen.calendar import HOUR_MS
from selfgen.columns import names
from selfgen.energy import report_columns
from selfgen.settings import Settings
from selfgen.solar import sun

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: Over a New Year, on clocks on which it begins before and after UTC's.
START, END = datetime(2025, 12, 3, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)
ZONES = ("Asia/Kathmandu", "America/Santiago", "Australia/Lord_Howe")
MOVED = datetime(2025, 12, 30, 10, 20, tzinfo=UTC)


def registered() -> pd.DataFrame:
    rows = [
        {"element_id": f"p{number}", "client_id": f"c{number % 3}", "time_zone": ZONES[number % 3], "init": START - DAY}
        for number in range(5)
    ]
    rows[4]["end"] = MOVED
    rows.append({"element_id": "p4", "client_id": "c2", "time_zone": ZONES[2], "init": MOVED})
    frame = pd.DataFrame(rows).reindex(columns=["element_id", "init", "end", *names("panel_report")[1:14]])
    frame = frame.assign(power_cap=1000.0, tilt=30.0, azimuth=180.0, latitude=30.0, longitude=85.0)
    frame = frame.assign(variable_data=[{}] * len(frame))
    return frame.assign(**{name: pd.to_datetime(frame[name], utc=True) for name in ("init", "end")})


class Registered:
    """The registry, as far as the alarms ask it."""

    def history(self, _kind: str, element_ids: Iterable[str]) -> pd.DataFrame:
        every = registered()
        return every[every["element_id"].isin(list(element_ids))].reset_index(drop=True)


@pytest.fixture(scope="module")
def slots() -> pd.DataFrame:
    chance = np.random.default_rng(3)
    times = np.arange(milliseconds(START), milliseconds(END), 300_000)
    height = np.clip(np.cos(np.radians(sun(30.0, 85.0, times).zenith)), 0, None)
    parts = []
    for number in range(5):
        silent = chance.integers(0, len(times), 3)  # hours and days
        keep = np.ones(len(times), bool)
        for first in silent:
            keep[first : first + chance.integers(12, 600)] = False
        power = 900 * height * chance.uniform(0.8, 1, len(times))
        parts.append(pd.DataFrame({"element_id": f"p{number}", "time": times, "power": power, "energy": np.nan})[keep])
    made = make_slots(pd.concat(parts), registered(), PANEL, milliseconds(START), milliseconds(END), max_gap_s=300)
    of_day = (made["slot_start"] // (4 * 24 * HOUR_MS) + made["element_id"].str[1].astype(int)) % 3
    expected = np.where(made["daylight"] > 0, made["generated"] * np.array([1.0, 2.0, 90.0])[of_day], 0.0)
    ratio = made["generated"] / np.where(expected > 0, expected, np.nan)
    return made.assign(expected_gen=expected, performance_ratio=ratio)


@pytest.fixture(scope="module")
def made(slots: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    table = pa.Table.from_pandas(slots, schema((*SLOT, *OF_PANELS)), preserve_index=False)
    for start_ms, rows in slots.groupby(slots["slot_start"] // HOUR_MS * HOUR_MS).indices.items():
        lake.stage_hour(folder / "panel", datetime.fromtimestamp(start_ms / 1000, UTC), table.take(rows))
    return folder


@pytest.fixture
def settings(tmp_path: Path, made: Path) -> Settings:
    settings = Settings(build_dir=tmp_path)
    shutil.copytree(made, settings.lake_dir)
    return settings


def reported(folder: Path, start: datetime, end: datetime) -> pd.DataFrame:
    found = [
        rows for _, low, high in write_panel.work(start, end)[1:] for rows in write_panel.reports(folder, low, high)
    ]
    return pd.concat(found, ignore_index=True)


def test_reports_made_by_the_day_are_those_of_all_slots_at_once(
    settings: Settings, slots: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_panel, "MOST_ROWS", 70)  # several pieces of a day
    sums = report_columns(slots.rename(columns={"generated": "power_gen"}))
    whole = pd.concat([slots, sums], axis=1).sort_values(["slot_start", "element_id", "client_id"], ignore_index=True)
    found = reported(settings.lake_dir, START, END)
    found = found.sort_values(["timestamp", "panel_id", "client_id"], ignore_index=True)
    assert len(found) == len(slots)
    for name in (*sums.columns, "power_gen"):
        expected = whole["generated" if name == "power_gen" else name]
        np.testing.assert_array_equal(found[name].to_numpy(), expected.to_numpy(), err_msg=name)
    assert found["diff_last_month"].notna().sum() > 100


def test_an_hour_alone_is_the_same_and_reads_no_year(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hour = datetime(2026, 1, 4, 7, tzinfo=UTC)
    whole = reported(settings.lake_dir, START + 30 * DAY, END)
    whole = whole[whole["timestamp"].between(milliseconds(hour), milliseconds(hour + HOUR), inclusive="left")]
    read, hours = lake.read, []

    def counted(folder: Path, name: str, start: datetime, end: datetime, *others, **more) -> pa.Table:
        hours.append((end - start) / HOUR)
        return read(folder, name, start, end, *others, **more)

    monkeypatch.setattr(lake, "read", counted)
    alone = reported(settings.lake_dir, hour, hour + HOUR)
    pd.testing.assert_frame_equal(alone, whole.reset_index(drop=True), check_exact=True)
    assert sum(hours) <= 24 + 24  # of its day, what it compares with, and itself


def test_sums_that_were_removed_are_made_anew(settings: Settings) -> None:
    folder = settings.lake_dir
    day = datetime(2026, 1, 5, tzinfo=UTC)
    kept = running_sums.before(folder, "panel", day)
    assert lake.hours(folder, running_sums.NAME)[-1] == day
    for gone in ([day], [one for one in lake.hours(folder, running_sums.NAME) if one.month == 1]):
        lake.remove_hours(folder, running_sums.NAME, gone)
        pd.testing.assert_frame_equal(running_sums.before(folder, "panel", day), kept, check_exact=True)
    lake.remove_hours(folder, running_sums.NAME, lake.hours(folder, running_sums.NAME))
    anew = running_sums.before(folder, "panel", day)
    key = ["element_id", "client_id"]
    pd.testing.assert_frame_equal(
        anew.sort_values(key, ignore_index=True), kept.sort_values(key, ignore_index=True), check_exact=True
    )
    # of what began before the year, sums of the year's beginning are not kept
    assert min(lake.hours(folder, running_sums.NAME)) == datetime(2026, 1, 2, tzinfo=UTC)


def test_alarms_followed_by_the_day_are_those_of_all_slots_at_once(
    settings: Settings, slots: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "LONGEST", 2 * DAY)
    start = START + 32 * DAY
    every = with_absent(slots, registered(), milliseconds(END))
    whole = slot_alarms(every.rename(columns={"element_id": "panel_id"}), "panel")
    assert {"no_data", "low_power", "no_power"} <= set(whole["code"])
    registry, staging = Registered(), tmp_path / "staging" / PANELS.name
    parts = [START, start, start + 7 * HOUR, start + DAY + HOUR, END]
    found = []
    for low, high in pairwise(parts):
        found.append(incidents.alarms(settings, registry, PANELS, low, high, staging))
        lake.adopt(settings.lake_dir, PANELS.name, staging.parent)
    told = pd.concat([rows for rows in found if len(rows)], ignore_index=True)
    pd.testing.assert_frame_equal(told, whole, check_exact=True, check_dtype=False)  # of columns without a value
    # the last one went on from the day before it
    assert start + DAY in lake.hours(settings.lake_dir, PANELS.name)


def test_an_incident_that_is_open_for_months_is_known(tmp_path: Path) -> None:
    row = {name: 0 for name in incidents.NO_STATE} | {"element_id": "p1", "code": "no_data", "open": True, "started": 1}
    state = pd.DataFrame([row]).astype(incidents.NO_STATE.dtypes.to_dict())
    lake.replace_hour(tmp_path, PANELS.name, START, pa.Table.from_pandas(state, preserve_index=False))
    day, known = incidents._known(tmp_path, PANELS.name, START + 90 * DAY)
    assert (day, known["element_id"].tolist()) == (START, ["p1"])
    day, known = incidents._known(tmp_path, PANELS.name, START - DAY)
    assert (day, len(known)) == (START - 32 * DAY, 0)


class Served:
    """The rows of each hour, as they were made last."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, list[tuple]]] = {"panel_report": {}, "panel_alarm": {}}

    def replace(self, settings: Settings, folder: Path, start: datetime, end: datetime) -> None:
        for _, low, _ in write_panel.work(start, end):
            running_sums.before(settings.lake_dir, "panel", running_sums.day_of(low))
        alarms = incidents.alarms(settings, Registered(), PANELS, start, end, folder / PANELS.name)
        lake.adopt(settings.lake_dir, PANELS.name, folder)
        for name, rows in ("panel_report", reported(settings.lake_dir, start, end)), ("panel_alarm", alarms):
            self.rows[name].update({milliseconds(hour): [] for hour in hours_between(start, end)})
            for row in rows[["timestamp", *names(name)]].astype(str).itertuples(index=False, name=None):
                self.rows[name][int(row[0]) // HOUR_MS * HOUR_MS].append(row)


def test_hours_changed_one_after_the_other_end_as_if_computed_at_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "LONGEST", 5 * DAY)
    chance = np.random.default_rng(1)
    start = END - 9 * DAY  # before New Year
    lake.remove_hours(settings.lake_dir, "panel", hours_between(START, start))
    served = Served()
    served.replace(settings, tmp_path / "first", start, END)
    hours = hours_between(start, END)
    for turn in range(3):
        hour = hours[chance.integers(0, len(hours))]
        table = lake.read(settings.lake_dir, "panel", hour, hour + HOUR).to_pandas()
        table["generated"] += chance.uniform(0, 100, len(table))
        table["performance_ratio"] *= chance.choice([0.001, 0.3, 1.5])
        changed = table.iloc[: chance.integers(0, len(table) + 1)]  # some are silent now
        staging = tmp_path / f"staging-{turn}"
        lake.stage_hour(staging, hour, pa.Table.from_pandas(changed, schema((*SLOT, *OF_PANELS)), preserve_index=False))
        before = partial(note_changes, settings, PANEL)
        lake.publish(staging, settings.lake_dir, "panel", [hour], schema((*SLOT, *OF_PANELS)), before=before)
        for part in runner.stale(settings, "panel"):
            served.replace(settings, tmp_path / f"again-{turn}", *runner.moments(part))
        pending.clear(settings, "panel")
    for name in (running_sums.NAME, PANELS.name):
        lake.remove_hours(settings.lake_dir, name, lake.hours(settings.lake_dir, name))
    at_once = Served()
    at_once.replace(settings, tmp_path / "at-once", start, END)
    assert sum(map(len, at_once.rows["panel_alarm"].values())) > 0
    assert served.rows == at_once.rows


def test_lines_have_null_where_there_is_nothing(tmp_path: Path) -> None:
    row = dict.fromkeys(names("panel_report")) | {
        "timestamp": 1,
        "name": 'Ana "A" \\',
        "samples": 3.0,
        "power_gen": 0.1,
    }
    frame = pd.DataFrame([row, row | {"samples": np.nan, "name": np.nan, "power_gen": np.inf}])
    path = tmp_path / "new" / "lines.json"
    assert reports.write_lines(path, "panel_report", [frame, frame[:0]]) == 2
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert {name: value for name, value in first.items() if value is not None} == {
        "timestamp": 1,
        "name": 'Ana "A" \\',
        "samples": 3,
        "power_gen": 0.1,
    }
    assert [second.get(name) for name in ("samples", "name", "power_gen", "diff_last_day")] == [None] * 4
    assert reports.write_lines(tmp_path / "none.json", "panel_report", []) == 0
    assert [one.name for one in tmp_path.iterdir()] == ["new"]
