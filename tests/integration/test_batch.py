"""The runner of the hours: whatever changes afterwards, Druid ends with the rows of a computation from nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from couchbase_admin.add_new_element import add_element
from couchbase_admin.add_new_install import add_client, add_install
from couchbase_admin.installations import move_install
from couchbase_admin.recompute import marker
from couchbase_admin.store import RegistryStore
from flink_jobs import backfill, day_sums, pending, rich_panel, runner, write_panel
from flink_jobs.explanation import explain_hour
from flink_jobs.slots import RawRemoved
from kafka_consumers import corrections
from selfgen import calendar, expected
from selfgen.clients import druid, mongo
from selfgen.registry import Client, Panel
from selfgen.settings import Settings
from tests.integration.test_landing import Entrance

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HOUR = timedelta(hours=1)
PANELS = ("batch-p1", "batch-p2")
GO_ON = threading.Event()


class Plant:
    """Two panels in two time zones, which send; and the hours that the runner makes of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.entrance = Entrance(settings)
        self.end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - HOUR
        self.first = self.end - timedelta(days=2) - 3 * HOUR
        self.day_ago = self.end - timedelta(days=1) - 3 * HOUR
        self.store = RegistryStore.open(settings, "ana", mark_dirty=marker(settings))
        places = {"batch-c1": (27.7, 85.3, "Asia/Kathmandu"), "batch-c2": (40.4, -3.7, "Europe/Madrid")}
        for client_id, (latitude, longitude, zone) in places.items():
            place = {"latitude": latitude, "longitude": longitude, "time_zone": zone}
            add_client(self.store, Client(client_id=client_id, name=client_id, **place))
        for panel_id, client_id in zip(PANELS, places, strict=True):
            add_element(self.store, Panel(panel_id=panel_id, power_cap=3000.0))
            add_install(self.store, "panel", panel_id, client_id, self.first - timedelta(days=90))
        self.landed = 0
        readings = [
            self.reading(panel_id, moment + minute * timedelta(minutes=1), 900.0 + number * 100 + minute, number)
            for number, panel_id in enumerate(PANELS)
            for moment in (self.first, self.day_ago, self.end - 3 * HOUR)
            for minute in range(0, 180, 4)
            if (moment, minute) != (self.first, 64)  # comes late
        ]
        self.land(*readings)

    def reading(self, panel_id: str, moment: datetime, power: float, other: int = 1) -> bytes:
        """A reading; the first panel's meter runs at 1 kW, also while the panel is silent."""
        meter = {} if other else {"energy": (moment - self.first) / HOUR * 1000}
        return json.dumps({"panel_id": panel_id, "timestamp": moment.isoformat(), "power": power, **meter}).encode()

    def land(self, *readings: bytes) -> None:
        self.entrance.send(*readings)
        self.landed += len(readings)
        self.entrance.land(self.landed)

    def catch_up(self, now: datetime | None = None) -> list[dict]:
        passes = []
        now_ms = round((now or self.end).timestamp() * 1000)
        while done := runner.run_pass(self.settings, "panel", GO_ON, print, now_ms):
            passes.append(done)
        assert mongo.dirty_hours(self.settings, "panel", now_ms) == []
        return passes

    def rows(self) -> dict[str, list[str]]:
        day_sums.make(self.settings, "panel")
        assert self.days("panel_day") == pytest.approx(self.days("panel_report"), rel=1e-12)
        return {
            name: sorted(
                json.dumps(row, sort_keys=True)
                for row in druid.query(
                    self.settings, f"SELECT * FROM {name} WHERE panel_id IN ('batch-p1', 'batch-p2')"
                )
            )
            for name in ("panel_report", "panel_alarm")
        }

    def days(self, datasource: str) -> dict[str, float]:
        """Return the energy of each panel, client and local day as a data source has it."""
        sql = (
            "SELECT panel_id || ' ' || client_id || ' ' || local_date AS k, SUM(power_gen) AS energy"
            f" FROM {datasource} WHERE panel_id LIKE 'batch-p%' GROUP BY 1"
        )
        return {row["k"]: row["energy"] for row in druid.query(self.settings, sql)}

    def from_nothing(self) -> dict[str, list[str]]:
        shutil.rmtree(self.settings.lake_dir / "panel")
        start = self.first.replace(minute=0) - 2 * HOUR
        rich_panel.run(self.settings, [(start, self.end)])
        write_panel.run(self.settings, start, self.end)
        pending.clear(self.settings, "panel")
        return self.rows()

    def killed(self, line: str) -> None:
        """Run the command, and kill it once it has said that it does something."""
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("selfgen")), "batch", "watch", "panel", "--once", "--json"],
            env=self.settings.environment() | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr
        said = next((said for said in process.stderr if line in said), None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert said is not None


@pytest.fixture(scope="module")
def plant(stack):
    stack.up("kafka", "mongodb", "couchbase", "druid", "flink")
    changes = {"mongodb_database": "batch", "batch_settle_s": 0.0}
    plant = Plant(stack.settings.model_copy(update=changes))
    # hours in which a meter counted on are computed, and only then those in which it is heard again
    for now in (plant.day_ago.replace(minute=0), plant.end):
        [first, *_] = plant.catch_up(now)
        assert first["rows"]["panel_report"]
    yield plant
    mongo.connect(plant.settings).drop_database("batch")


def test_hours_that_ended_are_computed_once(plant: Plant) -> None:
    assert plant.catch_up() == []
    [compared] = druid.query(
        plant.settings, "SELECT COUNT(diff_last_day) AS days FROM panel_report WHERE panel_id = 'batch-p2'"
    )
    assert compared["days"] > 0


def silent_by_day(plant: Plant) -> int:
    """Return in how many slots between its readings the first panel was silent, though a clear sky would give some."""
    times = np.array(
        [
            round((moment + minute * timedelta(minutes=1)).timestamp() * 1000)
            for moment in (plant.first, plant.day_ago, plant.end - 3 * HOUR)
            for minute in range(0, 180, 4)
        ]
    )
    starts, ends = calendar.slots("Asia/Kathmandu", int(times.min()), int(times.max()))
    place = {"client_id": "batch-c1", "latitude": 27.7, "longitude": 85.3, "power_cap": 3000.0}
    slots = pd.DataFrame({"slot_start": starts, "slot_end": ends, **place, "tilt": np.nan, "azimuth": np.nan})
    light = expected.shape(slots, pd.DataFrame({name: [] for name in expected.LIGHT}))
    silent = np.searchsorted(times, starts) == np.searchsorted(times, ends)
    return int((silent & (light > 0)).sum())


def test_what_a_meter_counted_in_outages_is_in_the_hours_of_the_outages(plant: Plant) -> None:
    [told] = druid.query(
        plant.settings,
        "SELECT SUM(power_gen) AS energy, SUM(estimated_gen) AS spread, COUNT(*) FILTER (WHERE samples = 0) AS silent, "
        "TIMESTAMP_TO_MILLIS(MIN(__time) FILTER (WHERE samples = 0)) AS first "
        "FROM panel_report WHERE panel_id = 'batch-p1'",
    )
    assert told["energy"] == pytest.approx(((plant.end - plant.first) / HOUR - 4 / 60) * 1000, rel=1e-9)
    # three spells of 176 min are covered, but for 8 min about the reading that comes late
    assert told["spread"] == pytest.approx(told["energy"] - (3 * 176 - 8) / 60 * 1000, rel=1e-9)
    assert told["silent"] == silent_by_day(plant)
    hour = datetime.fromtimestamp(told["first"] / 1000, UTC).replace(minute=0)
    [slot] = explain_hour(plant.settings, "batch-p1", hour)
    assert slot["differs"] == []
    assert [piece["method"] for piece in slot["pieces"]] == ["backlog"]
    assert slot["druid"]["estimated_gen"] == slot["druid"]["power_gen"] > 0


def test_a_late_reading_mends_what_depends_on_it_though_the_run_is_killed(plant: Plant) -> None:
    before = plant.rows()
    plant.land(plant.reading("batch-p2", plant.first + timedelta(minutes=64), 1234.5))
    marks = mongo.dirty_hours(plant.settings, "panel", 2**41)
    for line in ("computes", "replaces"):
        plant.killed(line)
        assert set(marks) <= set(mongo.dirty_hours(plant.settings, "panel", 2**41))  # none is taken away
    [done] = plant.catch_up()
    assert done["changed"] == 1
    assert done["due"] == 0
    after = plant.rows()
    assert after["panel_report"] != before["panel_report"]
    assert plant.from_nothing() == after


def test_deleted_readings_mend_what_depends_on_them_and_it_is_explained(plant: Plant) -> None:
    hour = (plant.day_ago + HOUR).replace(minute=0)
    before = explain_hour(plant.settings, "batch-p2", hour)
    assert before
    assert [slot["differs"] for slot in before] == [[]] * len(before)
    database = mongo.database(plant.settings)
    low_ms, high_ms = (round((hour + HOUR + timedelta(minutes=at)).timestamp() * 1000) for at in (-40, -20))
    found = corrections.find(database, "panel", "batch-p2", low_ms, high_ms)
    assert found
    changes = [corrections.Change(stored, None) for stored in found]
    corrections.apply(database, "deleted", changes, corrections.Author("ana", "inverter on the test bench"))
    [differs, *_] = explain_hour(plant.settings, "batch-p2", hour)[0]["differs"]
    assert "power_gen" in differs
    assert "from the readings" in differs
    [done] = plant.catch_up()
    assert done["changed"] == 1
    after = explain_hour(plant.settings, "batch-p2", hour)
    assert [slot["differs"] for slot in after] == [[]] * len(after)
    assert after[0]["druid"]["completeness"] < before[0]["druid"]["completeness"]


def test_a_correction_and_a_move_after_the_fact_mend_what_depends_on_them(plant: Plant, monkeypatch) -> None:
    before = plant.rows()
    plant.land(plant.reading("batch-p1", plant.day_ago + timedelta(minutes=8), 5.0))
    database = mongo.database(plant.settings)
    now_ms = round(plant.end.timestamp() * 1000)
    marked = [mark.hour_ms for mark in mongo.dirty_hours(plant.settings, "panel", now_ms)]
    stage = write_panel.stage

    def renewed(*arguments):
        mongo.mark_dirty(database, "panel", marked, "meanwhile")
        return stage(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(write_panel, "stage", renewed)
        done = runner.run_pass(plant.settings, "panel", GO_ON, print, now_ms)
    assert done["changed"] == 1
    corrected = plant.rows()
    assert corrected["panel_report"] != before["panel_report"]
    assert [mark.hour_ms for mark in mongo.dirty_hours(plant.settings, "panel", now_ms)] == marked  # it stays
    move_install(plant.store, "panel", "batch-p1", "batch-c2", plant.first + timedelta(minutes=75))
    plant.catch_up()
    moved = plant.rows()
    assert moved["panel_report"] != corrected["panel_report"]
    assert plant.from_nothing() == moved


def test_a_run_over_some_hours_mends_what_depends_on_them(plant: Plant) -> None:
    before = plant.rows()
    moment = plant.day_ago + timedelta(minutes=70)
    plant.land(plant.reading("batch-p2", moment, 2000.0))
    hour = moment.replace(minute=0)
    done = backfill.run_and_unmark(plant.settings, "panel", hour - 3 * HOUR, hour + 2 * HOUR)
    assert done["mended"] > 20
    assert plant.catch_up() == []  # its hour is not marked any more
    after = plant.rows()
    assert after["panel_report"] != before["panel_report"]
    assert plant.from_nothing() == after
    assert backfill.run_and_unmark(plant.settings, "panel", hour, hour + HOUR)["mended"] == 0


def test_a_second_runner_waits_and_finds_nothing_to_do(plant: Plant) -> None:
    said: list[str] = []
    passes: list[object] = []
    # another process, as far as the lock can tell
    lock = FileLock(plant.settings.lake_dir / ".panel.lock")
    now_ms = round(plant.end.timestamp() * 1000)
    waiting = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    second = threading.Thread(
        target=lambda: passes.append(runner.run_pass(plant.settings, "panel", GO_ON, say, now_ms))
    )
    with lock:
        second.start()
        assert waiting.wait(10)
        assert passes == []
    second.join(30)
    assert passes == [None]
    assert "another run" in said[0]


def test_it_goes_on_by_itself_until_it_is_asked_to_end(plant: Plant) -> None:
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("selfgen")), "batch", "watch", "panel", "--json"],
        env=plant.settings.environment() | {"SELFGEN_BATCH_POLL_S": "0.2", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        for minute in (68, 72):
            plant.land(plant.reading("batch-p2", plant.first + timedelta(minutes=minute), 777.5))
            passes = map(json.loads, process.stdout)
            done = next(done for done in passes if done["changed"])  # one without a change is of an hour that ended
            assert (done["kind"], done["changed"]) == ("panel", 1)
            while mongo.dirty_hours(plant.settings, "panel", round(plant.end.timestamp() * 1000)):
                assert process.poll() is None
                threading.Event().wait(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    after = plant.rows()
    assert plant.from_nothing() == after


def test_a_reading_sent_again_after_its_hour_expired_empties_nothing(plant: Plant) -> None:
    before = plant.rows()
    database = mongo.database(plant.settings)
    until_ms = round((plant.day_ago - HOUR).replace(minute=0).timestamp() * 1000)
    assert mongo.expire(database, "panel", until_ms, timedelta(0)) > 0
    plant.entrance.send(plant.reading("batch-p1", plant.first + timedelta(minutes=80), 7.0))
    with plant.entrance.landing():
        while not mongo.dirty_hours(plant.settings, "panel", until_ms):
            threading.Event().wait(0.1)
    [done] = plant.catch_up()
    assert done["left"] == 4
    assert done["computed"] == []
    assert plant.rows() == before
    start = (plant.first + HOUR).replace(minute=0)
    with pytest.raises(RawRemoved, match="no longer kept"):
        rich_panel.run(plant.settings, [(start, start + HOUR)])
    # the mark keeps nothing from being removed again
    assert mongo.expire(database, "panel", until_ms, timedelta(0)) == 1
