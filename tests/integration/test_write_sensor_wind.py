"""Wind alarms on the cluster, between real topics: scripted windows of all of them, and a worker killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from confluent_kafka import Consumer, TopicPartition

from couchbase_admin.add_new_element import add_element
from couchbase_admin.add_new_install import add_client, add_install
from couchbase_admin.elements import edit_element
from couchbase_admin.installations import end_install
from couchbase_admin.store import RegistryStore
from flink_jobs import keeper, runtime, write_sensor_wind
from selfgen.clients import kafka
from selfgen.registry import Client, WindSensor
from selfgen.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NAME = "alarms-test"
STEPS = 30  # windows of the script, a second each
#: The sensors' own thresholds: all of it within seconds.
OWN = {
    "gale": {"high_wind": {"clear_s": 5}},
    "live": {"high_wind": {"gust": 30.0}},
    "jumpy": {"implausible": {"clear_s": 5}, "high_wind": {"gust": 100.0}},
    "frozen": {"stuck": {"span_s": 5, "windows": 5}},
    "lonely": {"stuck": {"span_s": 5, "windows": 5}},
    "quiet": {"no_data": {"intervals": 3, "least_s": 4, "confirm_s": 0.5}},
    "given up": {"no_data": {"intervals": 3, "least_s": 4, "confirm_s": 0.5}},
    "behind": {"no_data": {"intervals": 3, "least_s": 4, "confirm_s": 0.5}},
    "behind too": {"no_data": {"intervals": 3, "least_s": 4, "confirm_s": 0.5}},
}
PARTITION = {"behind": 1, "behind too": 1}


class Devices:
    """Writes windows straight into `wind_rich`, and reads what the job has committed of reports and alarms."""

    def __init__(self, settings: Settings) -> None:
        self.start = kafka.end_offsets(settings, "wind_rich")
        ends = {topic: kafka.end_offsets(settings, topic) for topic in ("wind_report", "wind_alarm")}
        self.sent: Counter[str] = Counter()
        self.reports: Counter[tuple[str, int]] = Counter()
        self.alarms: list[dict[str, Any]] = []
        self.first_ms = round(time.time()) * 1000 - 3_600_000
        self.step = 0
        self._producer = kafka.producer(settings)
        options = {"group.id": "test-alarms", "isolation.level": "read_committed", "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, **options})
        self._consumer.assign(
            [TopicPartition(topic, number, at) for topic, end in ends.items() for number, at in end.items()]
        )

    def blow(self, **speeds: float) -> None:
        """Send the next second's windows: the sensors', and of two that always go on, one of them as a neighbour."""
        going_on = {"neighbour": 3.0 + 4 * (self.step % 2), "other": 5.0 + self.step % 3}
        for wind_id, speed in (going_on | {name.replace("_", " "): speed for name, speed in speeds.items()}).items():
            window = {
                "timestamp": self.first_ms + self.step * 1000,
                "wind_id": wind_id,
                "postal_code": "28013" if wind_id in ("frozen", "neighbour") else f"of {wind_id}",
                "wind_speed": speed,
                "wind_gust": speed,
                "wind_min": speed,
                "samples": 1,
            }
            self._producer.produce(
                "wind_rich", json.dumps(window).encode(), key=wind_id.encode(), partition=PARTITION.get(wind_id, 0)
            )
            self.sent[wind_id] += 1
        self.step += 1
        assert self._producer.flush(30) == 0

    def seen(self, state: str) -> set[tuple[str, str]]:
        return {(alarm["wind_id"], alarm["code"]) for alarm in self.alarms if alarm["state"] == state}

    def wait_for(self, condition: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
        end = time.monotonic() + 240  # what is awaited has no bound: a busy machine takes its time
        while not condition():
            assert time.monotonic() < end, (self.alarms, sum(self.sent.values()), sum(self.reports.values()))
            meanwhile()
            for message in self._consumer.consume(500, timeout=0.3):
                assert message.error() is None
                row = json.loads(message.value())
                if message.topic() == "wind_alarm":
                    self.alarms.append(row)
                else:
                    self.reports[row["wind_id"], row["timestamp"]] += 1

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture(scope="module")
def store(stack) -> RegistryStore:
    stack.up("kafka", "couchbase", "flink")
    kafka.ensure_topics(stack.settings)
    store = RegistryStore.open(stack.settings, operator="test")
    for wind_id, alarms in OWN.items():
        add_element(store, WindSensor(wind_id=wind_id, variable_data={"alarms": alarms}))
    add_client(store, Client(client_id="C1", name="Lucía", latitude=40.4, longitude=-3.7))
    long_ago = datetime.now(UTC) - timedelta(days=30)
    for wind_id in ("quiet", "given up"):
        add_install(store, "wind", wind_id, "C1", long_ago)
    end_install(store, "wind", "given up", datetime.now(UTC) - timedelta(hours=2))
    return store


@pytest.fixture
def devices(stack, store) -> Iterator[Devices]:
    settings = stack.settings.model_copy(update={"registry_ttl_s": 1.0})
    devices = Devices(settings)
    env = runtime.streaming(settings, NAME)
    offsets = ";".join(f"partition:{number},offset:{at}" for number, at in devices.start.items())
    source = write_sensor_wind.create_source(
        env, settings, **{"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": offsets}
    )
    sinks = [write_sensor_wind.create_sink(env, settings, topic) for topic in ("wind_report", "wind_alarm")]
    thresholds = write_sensor_wind.own_thresholds(settings)
    write_sensor_wind.build_pipeline(env, settings, source, *sinks, thresholds).execute()
    try:
        yield devices
    finally:
        keeper.cancel(settings, NAME)
        devices.close()


def leave_unread(settings: Settings) -> None:
    """Send readings that no job is there for: as far as anybody can tell, the pipeline is behind."""
    producer = kafka.producer(settings)
    for number in kafka.end_offsets(settings, "wind"):
        producer.produce("wind", b"{}", partition=number)
    assert producer.flush(30) == 0


def read_all(settings: Settings) -> None:
    """Commit what the job would, had it read everything."""
    options = {"bootstrap.servers": settings.bootstrap_servers, "group.id": "rich_sensor_wind"}
    consumer = Consumer(options | {"enable.auto.commit": False})
    ends = kafka.end_offsets(settings, "wind")
    consumer.commit(offsets=[TopicPartition("wind", number, at) for number, at in ends.items()], asynchronous=False)
    consumer.close()


def test_each_incident_is_raised_once_and_cleared_once_whatever_is_killed(stack, store, devices):
    leave_unread(stack.settings)
    steady = {"live": 12.0, "frozen": 4.0, "lonely": 4.0}
    for step in range(STEPS):
        stopping = {"quiet": 5.0 + step % 2, "given_up": 5.0, "behind": 5.0, "behind_too": 6.0} if step < 10 else {}
        devices.blow(**steady, gale=20.0 if step < 8 else 16.0, jumpy=5.0 if step < 8 else 30.0, **stopping)
    incidents = {
        ("gale", "high_wind"), ("jumpy", "implausible"), ("frozen", "stuck"), ("quiet", "no_data"),
    }  # fmt: skip
    # others have to go on: while the pipeline is behind, nobody can be told silent when all are
    devices.wait_for(lambda: devices.seen("raised") >= incidents, lambda: devices.blow(**steady, gale=16.0, jumpy=30.0))

    edit_element(store, "wind", "live", {"variable_data": {"alarms": {"high_wind": {"gust": 10.0}}}})
    # what clears them is under way when the worker dies
    for step in range(STEPS):
        devices.blow(live=12.0, lonely=4.0, gale=5.0, jumpy=30.0, frozen=4.0 + step % 5, quiet=5.0)
    os.kill(stack.pid("taskmanager"), signal.SIGKILL)
    incidents_after = incidents | {("live", "high_wind")}
    devices.wait_for(
        lambda: devices.seen("cleared") >= incidents and devices.seen("raised") >= incidents_after,
        # a worker takes its time to come back: who sends no more meanwhile is rightly told to be silent once again
        lambda: devices.blow(live=12.0, lonely=4.0, quiet=5.0),
    )
    devices.wait_for(lambda: sum(devices.reports.values()) >= sum(devices.sent.values()), lambda: None)

    assert Counter((row["wind_id"], row["code"], row["state"]) for row in devices.alarms) == Counter(
        [(*incident, "raised") for incident in incidents_after] + [(*incident, "cleared") for incident in incidents]
    )
    by_code = {(row["code"], row["state"]): row for row in devices.alarms if row["wind_id"] != "live"}
    for (code, state), row in by_code.items():
        assert row["started_at"] == by_code[code, "raised"]["started_at"]
        assert row["postal_code"] == ("28013" if code == "stuck" else f"of {row['wind_id']}")
        assert row["severity"] in ("minor", "major")
        second = (row["timestamp"] - devices.first_ms) / 1000
        if state == "raised":
            # silence: 4 s after the last window, however late that was seen
            assert second == {"high_wind": 2, "implausible": 8, "stuck": 5, "no_data": 13}[code]
    assert set(devices.reports.values()) == {1}
    assert Counter(wind_id for wind_id, _ in devices.reports) == devices.sent
    assert pd.Series([row["text_alarm"] for row in devices.alarms]).is_unique

    # nobody sends any more, and nothing is on its way
    read_all(stack.settings)
    alone = {("behind", "no_data"), ("behind too", "no_data")}
    devices.wait_for(lambda: devices.seen("raised") >= alone, lambda: None)
    for row in devices.alarms:
        if (row["wind_id"], row["code"]) in alone:
            assert (row["timestamp"] - devices.first_ms) / 1000 == 13
