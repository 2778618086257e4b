"""The hours of light sensors: the best orientation follows what was measured, also what was measured late."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from couchbase_admin.add_new_element import add_element
from couchbase_admin.add_new_install import add_client, add_install
from couchbase_admin.recompute import marker
from couchbase_admin.registry import Registry
from couchbase_admin.store import RegistryStore
from flink_jobs import incidents, runner
from flink_jobs.explanation import explain_hour
from flink_jobs.incidents import LIGHTS, alarms
from flink_jobs.rich_sensor_light import OF_LIGHT
from flink_jobs.slots import ARROW_TYPES, LIGHT, SLOT, milliseconds
from flink_jobs.write_sensor_light import surfaces
from kafka_consumers.landing import Landing
from selfgen import lake, light_history, orientation
from selfgen.advice import SURFACE_AZIMUTHS, SURFACE_TILTS
from selfgen.clients import druid, kafka, mongo
from selfgen.columns import DATASOURCES
from selfgen.registry import Client, LightSensor
from selfgen.settings import Settings
from selfgen.solar import HOUR_MS, producible
from tests.integration.test_landing import owners

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HOUR = timedelta(hours=1)
LATITUDE, LONGITUDE = 40.4, -3.7


class Roof:
    """One light sensor, which measured the day before yesterday, and yesterday but for an hour."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        kafka.ensure_topics(settings)
        mongo.ensure_collections(settings)
        progress = mongo.database(settings)["landing_progress"]
        for number, offset in kafka.end_offsets(settings, "light").items():
            document = {"_id": f"light|{number:04d}", "topic_id": "light", "partition": number, "next_offset": offset}
            progress.insert_one(document)
        self.today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.end = self.today + HOUR
        self.start = self.today - timedelta(days=2)
        store = RegistryStore.open(settings, "ana", mark_dirty=marker(settings))
        place = {"latitude": LATITUDE, "longitude": LONGITUDE, "time_zone": "Europe/Madrid"}
        add_client(store, Client(client_id="roof-c", name="Ana", **place))
        add_element(store, LightSensor(light_id="roof-l", power_cap=3000.0))
        add_install(store, "light", "roof-l", "roof-c", self.start - timedelta(days=9))
        moments = [self.start + minute * timedelta(minutes=1) for minute in range(0, 49 * 60 + 1, 5)]
        self.late = [moment for moment in moments if abs(moment - self.today + 12 * HOUR) < HOUR / 2]
        self.land([moment for moment in moments if moment not in self.late])

    def irradiance(self, moment: datetime) -> float:
        hours = moment.hour + moment.minute / 60
        return max(0.0, 600 * np.sin(np.pi * (hours - 7) / 10)) if moment < self.today else 0.0

    def land(self, moments: list[datetime]) -> None:
        producer = kafka.producer(self.settings)
        for moment in moments:
            message = {"light_id": "roof-l", "timestamp": moment.isoformat(), "irradiance": self.irradiance(moment)}
            producer.produce("light", json.dumps(message).encode())
        assert producer.flush(60) == 0
        stored = mongo.database(self.settings)["topic"]
        wanted = stored.count_documents({"topic_id": "light"}) + len(moments)
        stop = threading.Event()
        landing = threading.Thread(target=Landing("light", self.settings, owners).run, args=(stop,))
        landing.start()
        until = time.monotonic() + 30
        while stored.count_documents({"topic_id": "light"}) < wanted and time.monotonic() < until:
            time.sleep(0.1)
        stop.set()
        landing.join(30)
        assert stored.count_documents({"topic_id": "light"}) == wanted

    def catch_up(self) -> None:
        now_ms = round(self.end.timestamp() * 1000)
        while runner.run_pass(self.settings, "light", threading.Event(), print, now_ms):
            pass

    def rows(self) -> pd.DataFrame:
        query = "SELECT TIMESTAMP_TO_MILLIS(__time) AS start_ms, * FROM sensor_report WHERE light_id = 'roof-l'"
        return pd.DataFrame(druid.query(self.settings, query)).sort_values("start_ms", ignore_index=True)


@pytest.fixture(scope="module")
def sensor(stack):
    stack.up("kafka", "mongodb", "couchbase", "druid", "flink")
    sensor = Roof(stack.settings.model_copy(update={"mongodb_database": "roof", "batch_settle_s": 0.0}))
    sensor.catch_up()
    yield sensor
    mongo.connect(sensor.settings).drop_database("roof")


def test_the_estimate_of_a_day_is_of_what_was_measured_before_it_also_late(sensor: Roof) -> None:
    before = sensor.rows()
    sensor.land(sensor.late)
    sensor.catch_up()
    after = sensor.rows()
    today = after["start_ms"] >= sensor.today.timestamp() * 1000
    noon = after["start_ms"] == (sensor.today - 13 * HOUR).timestamp() * 1000
    assert (before.loc[noon, "completeness"] < after.loc[noon, "completeness"]).all()
    assert (before.loc[today, "confidence"] > after.loc[today, "confidence"]).all()

    # what the reports say of the light before today makes today's estimate
    told = after[~today]
    ends = told["start_ms"] + HOUR_MS
    parts = orientation.contributions(
        told["start_ms"], ends, told["irradiation"], LATITUDE, LONGITUDE, completeness=told["completeness"]
    )
    best = orientation.best(orientation.summed(told["start_ms"], parts), LATITUDE, LONGITUDE)
    columns = ["optimal_tilt", "optimal_azimuth", "gain_vs_horizontal", "confidence"]
    np.testing.assert_allclose(after.loc[today, columns].astype(float), [best] * today.sum())
    usual = orientation.usual(LATITUDE, LONGITUDE)
    first = told.loc[told["start_ms"] < (sensor.start + 24 * HOUR).timestamp() * 1000, columns].astype(float)
    np.testing.assert_allclose(first, [usual] * len(first))
    energy = producible(
        after["start_ms"],
        after["start_ms"] + HOUR_MS,
        after["irradiation"],
        LATITUDE,
        LONGITUDE,
        after["optimal_tilt"],
        after["optimal_azimuth"],
        3000.0,
        completeness=after["completeness"],
    )
    np.testing.assert_allclose(after["producible_gen"], energy)
    assert energy.sum() > 5000


def test_druid_has_the_surface_of_each_day_that_the_lake_has(sensor: Roof) -> None:
    """Also after a late hour, which the test before this one brought."""
    expected = pd.concat(surfaces(sensor.settings.lake_dir, sensor.start, sensor.end))
    columns = [column.name for column in DATASOURCES["light_surface"]]
    query = f'SELECT TIMESTAMP_TO_MILLIS(__time) AS "timestamp", {", ".join(columns)} FROM light_surface'
    found = pd.DataFrame(druid.query(sensor.settings, query + " WHERE light_id = 'roof-l'"))
    order = ["timestamp", "tilt", "azimuth"]
    sort = [of[["timestamp", *columns]].sort_values(order, ignore_index=True) for of in (expected, found)]
    pd.testing.assert_frame_equal(*sort, check_dtype=False)
    local_days = sensor.rows()["local_date"].nunique()
    assert len(found) == local_days * len(SURFACE_TILTS) * len(SURFACE_AZIMUTHS)
    assert set(found["client_id"]) == {"roof-c"}


def test_an_installer_is_advised_by_what_was_measured(sensor: Roof, tmp_path: Path) -> None:
    def advise(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("selfgen")), "light", "advise", *options],
            env=sensor.settings.environment() | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    png = tmp_path / "map.png"
    told = json.loads(
        advise("roof-l", "--roof-tilt", "10-25", "--roof-azimuth", "90", "--png", str(png), "--json").stdout
    )
    assert told["measured"] > 0
    assert (told["here"]["azimuth"], told["best"]["azimuth"]) != (told["best"]["azimuth"], 90)
    assert told["best"]["confidence"] == pytest.approx(float(sensor.rows()["confidence"].iloc[-1]))
    assert png.read_bytes().startswith(b"\x89PNG")
    refused = advise("nobody")
    assert refused.returncode == 1
    assert "nobody has or had a light sensor nobody" in refused.stderr


def test_dirt_is_told_by_what_was_seen_in_the_months_before(
    sensor: Roof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sensor, whose clear days of two months are in the lake; in the last two weeks it lost 15 %."""
    settings, last = sensor.settings, sensor.start - timedelta(days=4)
    store = RegistryStore.open(settings, "ana", mark_dirty=marker(settings))
    add_element(store, LightSensor(light_id="roof-d", power_cap=3000.0))
    add_install(store, "light", "roof-d", "roof-c", last - timedelta(days=80))
    schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in (*SLOT, *OF_LIGHT)])
    days = [last - timedelta(days=back) for back in range(75)]
    dirty = last - timedelta(days=14)
    for day in days:
        for hour in (day + hours * HOUR for hours in range(8, 17)):
            slot = {
                "element_id": "roof-d",
                "slot_start": milliseconds(hour),
                "slot_end": milliseconds(hour + HOUR),
                "generated": 500.0 * (0.85 if day > dirty else 1.0),
                **{"clear_beam": 400.0, "clear_sky": 130.0, "beam_up": 1.0, "steady": 1.0, "possible": 1000.0},
                **{"completeness": 1.0, "samples": 60, "stale": 0.0, "daylight": 1, "client_id": "roof-c"},
                **{"latitude": LATITUDE, "longitude": LONGITUDE, "time_zone": "Europe/Madrid"},
            }
            lake.replace_hour(settings.lake_dir, LIGHT.kind, hour, pa.Table.from_pylist([slot], schema))
    light_history.replace(settings.lake_dir, LIGHT.kind, days)
    with closing(Registry(settings)) as registry:
        span = dirty, last + 24 * HOUR
        rows = alarms(settings, registry, LIGHTS, *span, tmp_path)
        monkeypatch.setattr(incidents, "SENSORS_AT_ONCE", 1)
        one_by_one = alarms(settings, registry, LIGHTS, *span, tmp_path)
    pd.testing.assert_frame_equal(rows, one_by_one)
    [told] = rows[rows["code"] == "soiled_or_shaded"].to_dict("records")
    assert (told["light_id"], told["client_id"], told["state"]) == ("roof-d", "roof-c", "raised")
    assert told["timestamp"] < milliseconds(dirty + timedelta(days=4))


def test_a_figure_is_explained_from_the_readings_to_druid(sensor: Roof) -> None:
    for hour in (sensor.today - 12 * HOUR, sensor.today):
        [told] = explain_hour(sensor.settings, "roof-l", hour, LIGHT)
        assert told["light_id"] == "roof-l"
        assert told["differs"] == []
        assert told["druid"] == pytest.approx({name: told["lake"][name] for name in told["druid"]})
        assert sum(piece["energy"] for piece in told["pieces"]) == pytest.approx(told["figures"]["irradiation"])
        assert told["druid"]["confidence"] > 0
