"""Light sensors' alarms, followed through the lake hour by hour: those of all slots at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flink_jobs import incidents, pending, runner, write_sensor_light
from flink_jobs.incidents import LIGHTS
from flink_jobs.rich_sensor_light import OF_LIGHT
from flink_jobs.slots import LIGHT, SLOT, hours_between, milliseconds, note_changes, schema
from flink_jobs.write_sensor_light import ORIENTATIONS
from selfgen import lake, light_history, soiling
from selfgen.calendar import DAY_MS, HOUR_MS
from selfgen.settings import Settings

pytestmark = pytest.mark.integration

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SENSORS, DAYS = 60, 7
START = datetime(2026, 5, 25, tzinfo=UTC)
END = START + DAYS * DAY
#: Easily raised and cleared, so that most hours say something.
EASY = {"alarms": {"soiled_or_shaded": {"slots": 1, "hours": 6, "days": 3}, "no_data": {"slots": 1}}}
COLUMNS = schema((*SLOT, *OF_LIGHT))


class Registered:
    """The registry, as far as alarms ask it: each sensor has been at one client all the time."""

    def history(self, _kind: str, ids: Iterable[str]) -> pd.DataFrame:
        owned = [{"element_id": one, "init": START - DAY, "end": pd.NaT, "time_zone": "UTC"} for one in ids]
        place = {"client_id": "C1", "latitude": 40.0, "longitude": 180.0}
        periods = pd.DataFrame(owned).assign(**place, variable_data=[EASY] * len(owned))
        return periods.assign(end=pd.to_datetime(periods["end"], utc=True))


@pytest.fixture(scope="module")
def slots() -> pd.DataFrame:
    """Return slots of light that is clear, cloudy, dimmed, or hidden at some hours; some are missing."""
    chance = np.random.default_rng(3)
    start = np.tile(milliseconds(START) + np.arange(DAYS * 24) * HOUR_MS, SENSORS)
    sensor = np.repeat(np.arange(SENSORS), DAYS * 24)
    height = np.sin(np.pi * ((start + DAY_MS / 2) % DAY_MS / HOUR_MS - 5) / 14)  # noon is at midnight UTC
    expected = np.round(np.where(height > 0, 900 * height, 0.0), 3)
    dimmed = np.where((start // DAY_MS + sensor) % 2 == 0, 1.0, 0.8)
    share = np.where(chance.random(len(start)) < 0.8, dimmed, chance.choice([0.4, 0.75, 1.0], len(start)))
    share = np.where(chance.random(len(start)) < 0.002, 1.4, share)
    frame = pd.DataFrame(
        {
            "element_id": [f"L{one}" for one in sensor],
            "slot_start": start,
            "slot_end": start + HOUR_MS,
            "generated": np.round(share * expected, 3),
            "greatest": share * expected,
            "clear_beam": np.round(0.8 * expected, 3),
            "clear_sky": np.round(0.2 * expected, 3),
            "beam_up": 1.0,
            "steady": np.where(expected > 0, (share > 0.5).astype(float), np.nan),
            "dark": np.where(expected > 0, np.nan, chance.random(len(start)) < 0.002).astype(float),
            "possible": 1000.0,
            "completeness": 1.0,
            "samples": 60,
            "stale": 0.0,
            "daylight": (expected > 0).astype(int),
            **{"client_id": "C1", "latitude": 40.0, "longitude": 180.0, "time_zone": "UTC"},
            "variable_data": json.dumps(EASY),
        }
    )
    return frame.reindex(columns=COLUMNS.names)[chance.random(len(frame)) < 0.97]


def staged(settings: Settings, folder: Path, slots: pd.DataFrame, hours: list[datetime]) -> None:
    """Put hours into the lake as `rich_sensor_light` does; what changes is noted."""
    mine = slots[slots["slot_start"].between(milliseconds(hours[0]), milliseconds(hours[-1]))]
    lake.stage_rows(folder, mine, mine["slot_start"].to_numpy(), COLUMNS)
    noting = partial(note_changes, settings, LIGHT)
    lake.publish(folder, settings.lake_dir, LIGHT.kind, hours, COLUMNS, before=noting)
    light_history.replace(settings.lake_dir, LIGHT.kind, {hour.replace(hour=0) for hour in hours})


class Served:
    """The rows of each hour, as they were made last."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.rows: dict[int, list[tuple[object, ...]]] = {}

    def replace(self, start: datetime, end: datetime) -> None:
        """Make the alarms of hours as the job does."""
        rows = incidents.alarms(self.settings, Registered(), LIGHTS, start, end, self.folder / LIGHTS.name)
        lake.adopt(self.settings.lake_dir, LIGHTS.name, self.folder)
        self.rows.update({milliseconds(hour): [] for hour in hours_between(start, end)})
        for row in rows.astype(object).where(rows.notna(), "").astype(str).itertuples(index=False, name=None):
            self.rows[int(row[0]) // HOUR_MS * HOUR_MS].append(row)

    def catch_up(self) -> None:
        """Make all that depends on what was noted."""
        for part in runner.stale(self.settings, LIGHT.kind):
            self.replace(*runner.moments(part))
        pending.clear(self.settings, LIGHT.kind)


def at_once(settings: Settings, folder: Path) -> dict[int, list[tuple[object, ...]]]:
    """Return the alarms of all slots, without anything kept."""
    lake.remove_hours(settings.lake_dir, LIGHTS.name, lake.hours(settings.lake_dir, LIGHTS.name))
    made = Served(settings, folder / "at-once")
    made.replace(START, END)
    return made.rows


def test_alarms_hour_by_hour_are_those_of_all_slots_at_once(
    slots: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soiling, "RECENT_MS", 2 * DAY_MS)
    monkeypatch.setattr(soiling, "level", lambda sums, _month: np.ones(sums.shape[:-2]))
    settings = Settings(build_dir=tmp_path)
    served, hours = Served(settings, tmp_path / "kept"), hours_between(START, END)
    live = len(hours) - 32  # before the sun rises
    staged(settings, tmp_path / "first", slots, hours[:live])
    served.catch_up()
    for number in range(live, len(hours) - 8):
        staged(settings, tmp_path / f"live-{number}", slots, hours[number - 1 : number + 1])
        served.catch_up()
    staged(settings, tmp_path / "rest", slots, hours[-8:])
    served.catch_up()
    told = [row for rows in served.rows.values() for row in rows]
    assert sum("soiled_or_shaded" in row for row in told) > 300
    assert sum("no_data" in row for row in told) > 100
    assert served.rows == at_once(settings, tmp_path)

    late = milliseconds(END - 4 * DAY + 10 * HOUR)
    corrected = slots[~(slots["slot_start"].eq(late) & slots["element_id"].eq("L1"))]
    staged(settings, tmp_path / "late", corrected, hours[-4 * 24 :])
    served.catch_up()
    assert served.rows == at_once(settings, tmp_path)


def test_the_best_orientation_is_found_once_a_day(
    slots: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, day = Settings(build_dir=tmp_path), START + 3 * DAY
    folder, kept, asked = settings.lake_dir, tmp_path / "kept", list[str]()
    measured = slots.assign(beam_east=10.0, beam_north=-100.0, beam_up=slots["clear_beam"], sky=slots["clear_sky"])
    staged(settings, tmp_path / "first", measured, hours_between(START, END))
    every = write_sensor_light.reports(folder, day, day + DAY)
    assert every["optimal_tilt"].between(1, 89).all()
    assert every["light_id"].nunique() == SENSORS

    def recorded(sensors: pd.DataFrame, *others) -> pd.DataFrame:
        asked.extend(sensors["element_id"])
        return with_best(sensors, *others)

    with_best = write_sensor_light.with_best
    monkeypatch.setattr(write_sensor_light, "with_best", recorded)
    hour = write_sensor_light.reports(folder, day, day + HOUR, staging=kept / ORIENTATIONS)
    assert asked == hour["light_id"].tolist()
    lake.adopt(folder, ORIENTATIONS, kept)
    again = write_sensor_light.reports(folder, day, day + DAY)
    assert sorted(asked) == sorted(every["light_id"].unique())  # those that were silent in that hour
    assert 0 < len(hour) < SENSORS
    pd.testing.assert_frame_equal(again, every, check_exact=True)

    before = measured.assign(generated=2 * measured["generated"])
    staged(settings, tmp_path / "changed", before, hours_between(day, day + HOUR))
    assert lake.hours(folder, ORIENTATIONS) == [day]
    staged(settings, tmp_path / "before", before, hours_between(day - HOUR, day))
    assert lake.hours(folder, ORIENTATIONS) == []
