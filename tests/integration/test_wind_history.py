"""The wind's past on real servers: late readings come into their windows, old windows are kept in coarser grains."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from couchbase_admin.add_new_element import add_element
from couchbase_admin.add_new_install import add_client, add_install
from couchbase_admin.store import RegistryStore
from flink_jobs import wind_history
from selfgen.clients import druid, kafka, mongo
from selfgen.registry import Client, WindSensor
from selfgen.settings import Settings

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)
OWNER = "history"


class Past:
    """A sensor's readings of some seconds of an hour: raw in MongoDB, and the windows that Druid has of them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.now = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
        self.readings: list[tuple[int, float, float | None]] = []

    def read(self, hour: datetime, wind_id: str = "past") -> list[tuple[int, float, float | None]]:
        """Have 10 minutes of the hour measured, every 500 ms, all landed."""
        first = round(hour.timestamp() * 1000)
        made = [
            (first + n * 500, 5.0 + n % 40 / 10, None if n % 4 == 3 else float(200 + n * 37 % 40))
            for n in range(2 * 600)
        ]
        self.land(made, wind_id)
        return made

    def land(self, readings: list[tuple[int, float, float | None]], wind_id: str = "past") -> None:
        mongo.database(self.settings)["topic"].insert_many(
            {
                "_id": mongo.reading_id("wind", at, wind_id),
                "element_id": wind_id,
                "received_at": datetime.now(UTC),
                "msg_value": {"wind_speed": speed} | ({} if direction is None else {"wind_direction": direction}),
            }
            for at, speed, direction in readings
        )

    def report(self, readings: list[tuple[int, float, float | None]], hour: datetime, wind_id: str = "past") -> None:
        """Have Druid hold the windows of readings as all rows of an hour."""
        owner = {"wind_id": wind_id, "client_id": OWNER}
        rows = [{"timestamp": at} | owner | window for at, window in windows(readings, 1000).items()]
        file = self.folder / "rows.json.gz"
        with gzip.open(file, "wt") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        druid.replace(self.settings, "wind_report", [file], hour, hour + HOUR, rows=len(rows))

    def send_late(self, *readings: tuple[int, float, float | None]) -> None:
        producer = kafka.producer(self.settings)
        for at, speed, direction in readings:
            late = {"timestamp": at, "wind_id": "past", "wind_speed": speed, "wind_direction": direction, "late_s": 999}
            producer.produce("wind_late", json.dumps(late).encode())
        assert producer.flush(30) == 0

    def landed(self, behind: int = 0) -> None:
        """Have the topic's readings landed, all but so many."""
        for number, end in kafka.end_offsets(self.settings, "wind").items():
            mongo.database(self.settings)["landing_progress"].update_one(
                {"_id": f"wind|{number:04d}"},
                {"$set": {"topic_id": "wind", "partition": number, "next_offset": max(end - behind, 0)}},
                upsert=True,
            )

    def run(self, now: datetime | None = None) -> dict[str, Any] | None:
        now_ms = round((now or self.now).timestamp() * 1000)
        return wind_history.run_pass(self.settings, threading.Event(), print, now_ms)

    def rows(self, hour: datetime) -> dict[int, dict[str, Any]]:
        found = druid.query(
            self.settings,
            'SELECT TIMESTAMP_TO_MILLIS(__time) AS "at", * FROM wind_report'
            " WHERE __time >= %(from)s AND __time < %(to)s",
            {"from": hour, "to": hour + HOUR},
        )
        assert {row["client_id"] for row in found} == {OWNER}
        return {row["at"]: row for row in found}


def windows(readings: list[tuple[int, float, float | None]], grain_ms: int) -> dict[int, dict[str, Any]]:
    """Return windows by their start: plain Python, each reading once."""
    inside: dict[int, list[tuple[float, float | None]]] = {}
    for at, speed, direction in sorted(set(readings)):
        inside.setdefault(at // grain_ms * grain_ms, []).append((speed, direction))
    return {at: window(values) for at, values in inside.items()}


def window(values: list[tuple[float, float | None]]) -> dict[str, Any]:
    speeds = [speed for speed, _ in values]
    known = [(speed, math.radians(direction)) for speed, direction in values if direction is not None]
    east = math.fsum(speed * math.sin(angle) for speed, angle in known)
    north = math.fsum(speed * math.cos(angle) for speed, angle in known)
    return {
        "wind_speed": math.fsum(speeds) / len(speeds),
        "wind_gust": max(speeds),
        "wind_min": min(speeds),
        "wind_direction": math.degrees(math.atan2(east, north)) % 360 if known else None,
        "samples": len(speeds),
    }


def agree(found: dict[int, dict[str, Any]], wanted: dict[int, dict[str, Any]], *left_out: str) -> None:
    assert set(found) == set(wanted)
    for at, values in wanted.items():
        for name, value in values.items():
            if name not in left_out:
                assert found[at][name] == pytest.approx(value, rel=1e-9), (at, name)


@pytest.fixture
def past(stack, tmp_path) -> Past:
    stack.up("kafka", "mongodb", "couchbase", "druid")
    settings = stack.settings
    kafka.ensure_topics(settings)
    mongo.ensure_collections(settings)
    store = RegistryStore.open(settings, operator="test")
    place = {"latitude": 40.4, "longitude": -3.7, "time_zone": "Europe/Madrid"}
    add_client(store, Client(client_id=OWNER, name="Lucía", **place))
    add_element(store, WindSensor(wind_id="past"))
    add_install(store, "wind", "past", OWNER, pd.Timestamp("2020-01-01", tz="UTC").to_pydatetime())
    wind_history.mark_late(settings)  # what other tests left
    mongo.clear_dirty(settings, mongo.dirty_hours(settings, "wind", time.time_ns()))
    past = Past(settings, tmp_path)
    past.landed()
    return past


def test_late_readings_and_old_hours(past):
    hour = (past.now - timedelta(hours=30)).replace(minute=0)
    newest = (past.now - timedelta(hours=5)).replace(minute=0)  # which no stream of another test has a lock on
    past.report(past.read(newest), newest)
    made = past.read(hour)
    in_time = [reading for number, reading in enumerate(made) if number % 10]  # a tenth is late
    past.report(in_time, hour)
    late = [(made[-1][0] + 61_000, 33.0, 10.0), *(reading for number, reading in enumerate(made) if not number % 10)]
    past.land(late[:1])
    past.send_late(*late, *late[:5])
    done = past.run()
    assert (done["late"], done["merged"], done["coarser"]) == (len(late) + 5, 1, 0)
    agree(past.rows(hour), windows([*made, late[0]], 1000))
    agree(past.rows(newest), windows(past_of(past, newest), 1000))
    assert past.run() is None  # all is done

    later = past.now + timedelta(hours=48 - 29)
    assert past.run(later)["coarser"] == 1
    by_minute = windows([*made, late[0]], 60_000)
    agree(past.rows(hour), by_minute, "wind_direction")
    for at, row in past.rows(hour).items():
        # of windows, the vectors; they are weighted by all of their samples, some of which have no direction
        apart = (row["wind_direction"] - by_minute[at]["wind_direction"] + 180) % 360 - 180
        assert abs(apart) < 5, at
    assert past.run(later) is None

    again = (round(hour.timestamp() * 1000) + 700_000, 1.0, None)
    past.land([again])
    past.send_late(again)  # into an hour that is kept by the minute
    assert past.run(later)["merged"] == 1
    agree(past.rows(hour), windows([*made, late[0], again], 60_000), "wind_direction")
    assert sum(row["samples"] for row in past.rows(hour).values()) == len(made) + 2

    past.settings = past.settings.model_copy(update={"wind_minutes_days": 2.0})
    assert past.run(later)["coarser"] == 1
    agree(past.rows(hour), windows([*made, late[0], again], 3_600_000), "wind_direction")


def test_an_hour_that_is_not_landed_waits(past, monkeypatch):
    monkeypatch.setattr(wind_history, "_LANDING_PATIENCE_S", 1.0)
    hour = (past.now - timedelta(hours=40)).replace(minute=0)
    newest = (past.now - timedelta(hours=6)).replace(minute=0)
    past.report(past.read(newest), newest)
    made = past.read(hour)
    past.report(made[1:], hour)
    producer = kafka.producer(past.settings)
    producer.produce("wind", b"{}", partition=0)
    assert producer.flush(30) == 0
    past.landed(behind=1)
    past.send_late(made[0])
    done = past.run()
    assert (done["late"], done["merged"]) == (1, 0)
    past.landed()
    assert past.run()["merged"] == 1
    # what MongoDB has lost meanwhile does not go out of Druid
    before = past.rows(hour)
    mongo.database(past.settings)["topic"].delete_many(
        mongo.time_range("wind", round(hour.timestamp() * 1000), round(hour.timestamp() * 1000) + 300_000)
    )
    past.send_late(made[0])
    past.run()
    assert past.rows(hour) == before


def past_of(past: Past, hour: datetime) -> list[tuple[int, float, float | None]]:
    first = round(hour.timestamp() * 1000)
    found = mongo.read_readings(past.settings, "wind", first, first + 3_600_000, ["wind_speed", "wind_direction"])
    return [
        (int(row.time), row.wind_speed, None if math.isnan(row.wind_direction) else row.wind_direction)
        for row in found.itertuples()
    ]
