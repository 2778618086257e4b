"""The wind job on the cluster, between real topics: windows against pandas over the same messages, and what is late."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Consumer, TopicPartition

from couchbase_admin.add_new_element import add_element
from couchbase_admin.add_new_install import add_client, add_install
from couchbase_admin.store import RegistryStore
from flink_jobs import keeper, rich_sensor_wind, runtime
from selfgen.clients import kafka
from selfgen.messages import REASONS, decode
from selfgen.registry import Client, WindSensor
from selfgen.settings import Settings
from selfgen.simulation.disorder import broken_message
from selfgen.simulation.measured import weather_days

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NAME = "wind-test"
#: Twenty minutes before the tests were collected, which is within what the job here remembers.
START_MS = round(time.time()) * 1000 - 1_200_000
#: When the readings of `Disorder` begin, and when the last test's do.
STOPPING_MS, LIVE_MS = START_MS + 120_000, START_MS + 1_000_000
REMEMBERED_S = 7200
#: The job has forgotten this one when the others come.
OLD_MS = START_MS - 3 * REMEMBERED_S * 1000


#: What a lenient reader of JSON takes, and the contract refuses.
ODD = [
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1,"wind_speed":2}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1} {}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1,}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1,/*c*/"x":1}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":01}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1,"x":{"a":1,"a":2}}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1,"wind_direction":"3"}',
    '{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1,"temperature":true}',
    '{"wind_id":"w1","timestamp":1767225600001.5,"wind_speed":1}',
    '{"wind_id":"w1","timestamp":true,"wind_speed":1}',
    '{"wind_id":"w1","timestamp":"1767225600001","wind_speed":1}',
    '{"wind_id":["w1"],"timestamp":1767225600001,"wind_speed":1}',
    '\ufeff{"wind_id":"w1","timestamp":1767225600001,"wind_speed":1}',
    "{'wind_id':'w1','timestamp':1767225600001,'wind_speed':1}",
]
#: What is unusual, and right.
FINE = [
    line.replace("NOW", str(START_MS + 1))
    for line in (
        ' {"wind_speed":1.5e-7,"wind_direction":null,"timestamp":NOW,"wind_id":"é\\u20ac","n":{"wind_id":1}}\n',
        '{"wind_id":"q\\"u","timestamp":NOW,"wind_speed":-0.0,"wind_direction":0.00001,"temperature":-1E1}',
        '{"wind_id":"\\",\\"wind_speed\\":\\"","timestamp":NOW,"wind_speed":1e1,"wind_direction":3.5E2}',
        '{"wind_id":"😀\\ud83d\\ude00","timestamp":NOW,"wind_speed":0,"wind_direction":1}',
    )
]


def broken(reason: str, variant: int) -> bytes:
    return broken_message("wind", "w1", START_MS + 1, reason, variant)[1]


def test_the_corpus_is_what_the_contract_says():
    corpus = [line.encode() for line in ODD] + [broken(reason, n) for reason in REASONS for n in range(5)]
    assert len(decode("wind", corpus, now_ms=START_MS + 1000).refused) == len(corpus)
    assert decode("wind", [line.encode() for line in FINE], now_ms=START_MS + 1000).refused == []


def raw_messages() -> tuple[list[str | bytes], pd.DataFrame]:
    """Return messages as sent (some twice, some broken), and the readings that count."""
    generator = np.random.default_rng(7)
    lines: list[str | bytes] = []
    rows = []
    for second in range(20):
        for sensor in ("w1", "w2"):
            for offset in (0, 250, 500, 999):
                ms = START_MS + second * 1000 + offset
                speed, direction = round(generator.uniform(0, 30), 2), round(generator.uniform(0, 359.9), 1)
                stamp = ms if sensor == "w1" else f"{pd.Timestamp(ms, unit='ms', tz='Asia/Kathmandu').isoformat()}"
                message = {"wind_id": sensor, "timestamp": stamp, "wind_speed": speed, "wind_direction": direction}
                lines.append(json.dumps(message))
                if offset == 250:
                    lines.append(lines[-1])  # sent twice
                rows.append((sensor, ms, speed, direction))
    hour_ahead = round(time.time() * 1000) + 3_600_000
    lines[40:40] = [
        json.dumps({"wind_id": "w1", "timestamp": hour_ahead, "wind_speed": 5}),  # moves no watermark
        json.dumps({"wind_id": "w1", "timestamp": START_MS, "wind_speed": 500}),
        json.dumps({"wind_id": "w1", "timestamp": "yesterday", "wind_speed": 5}),
        json.dumps({"wind_id": "w1", "timestamp": START_MS}),
        json.dumps({"wind_id": "w1", "timestamp": START_MS + 1, "wind_speed": 5, "wind_direction": 360}),
        json.dumps({"wind_id": "w1", "timestamp": START_MS + 1, "wind_speed": 5, "wind_direction": -1}),
        json.dumps({"wind_id": "x" * 129, "timestamp": START_MS, "wind_speed": 5}),
        json.dumps({"wind_id": "", "timestamp": START_MS, "wind_speed": 5}),
        json.dumps({"wind_id": "w\n1", "timestamp": START_MS, "wind_speed": 5}),
        json.dumps({"wind_id": "w1", "timestamp": 1000, "wind_speed": 5}),
        json.dumps({"wind_id": "w1", "timestamp": "2026-01-01T00:00:00", "wind_speed": 5}),
        *ODD,
        *(broken(reason, variant) for reason in REASONS for variant in range(5)),
    ]
    return lines, pd.DataFrame(rows, columns=["wind_id", "ms", "speed", "direction"])


def expected(readings: pd.DataFrame) -> pd.DataFrame:
    radians = np.radians(readings["direction"])
    readings = readings.assign(
        timestamp=readings["ms"] // 1000 * 1000,
        east=readings["speed"] * np.sin(radians),
        north=readings["speed"] * np.cos(radians),
    )
    windows = readings.groupby(["wind_id", "timestamp"]).agg(
        wind_speed=("speed", "mean"),
        wind_gust=("speed", "max"),
        wind_min=("speed", "min"),
        samples=("speed", "size"),
        east=("east", "sum"),
        north=("north", "sum"),
    )
    windows["wind_direction"] = np.degrees(np.arctan2(windows.pop("east"), windows.pop("north"))) % 360
    return windows


def measured() -> pd.DataFrame:
    """Return three days of measured wind sixty times as fast: an hour of it is a minute, hours before the rest."""
    days = weather_days()
    speeds, directions = (days.values[name].ravel() for name in ("wind_speed", "wind_direction"))
    minutes = np.flatnonzero(np.isfinite(speeds) & np.isfinite(directions))
    assert len(minutes) > 800
    start = (START_MS - 5 * 3_600_000) // 60_000 * 60_000
    return pd.DataFrame(
        {"ms": start + minutes * 1000, "speed": speeds[minutes], "direction": directions[minutes] % 360}
    )


class Disorder:
    """Six sensors in two partitions, one of which stops for ten minutes; one sensor's clock is an hour ahead.

    Of the rest 10 % are out of order by up to 2 s, 1 % late by minutes, 5 % sent twice; 1 % are broken.
    """

    SECONDS, STOPPED, RESUMES = 720, 60, 660
    FAST = "s2"

    def __init__(self) -> None:
        generator = np.random.default_rng(11)
        self.accepted: Counter[tuple[str, int]] = Counter()
        self.refused = self.twice = 0
        self.sent: list[tuple[float, int, str]] = []
        kinds, shares = ["plain", "swapped", "late", "twice", "broken"], [0.83, 0.1, 0.01, 0.05, 0.01]
        for second in range(self.SECONDS):
            for number in range(6):
                wind_id, partition = f"s{number}", number % 2
                kind = generator.choice(kinds, p=shares)
                delay_s = {"swapped": generator.uniform(0, 2), "late": generator.uniform(60, 300)}.get(kind, 0.0)
                stopped = partition == 1 and self.STOPPED <= second < self.RESUMES
                at = max(second + delay_s, self.RESUMES if stopped else 0)
                copies = 2 if kind == "twice" else 1
                ms = STOPPING_MS + second * 1000 + int(generator.integers(1000))
                stamp = ms + 3_600_000 if wind_id == self.FAST else ms
                speed = -1 if kind == "broken" else 5
                message = {"wind_id": wind_id, "timestamp": stamp, "wind_speed": speed}
                self.sent += [(at, partition, json.dumps(message))] * copies
                if kind == "broken" or wind_id == self.FAST:
                    self.refused += copies
                else:
                    self.accepted[wind_id, ms // 1000] += 1
                    self.twice += copies - 1

    def send(self, wind: Wind, first_s: float, end_s: float) -> None:
        """Send what comes from one second to another."""
        for stopping in (0, 1):
            values = [(at, value) for at, partition, value in self.sent if partition == stopping]
            wind.send(stopping, *(value for at, value in sorted(values) if first_s <= at < end_s))

    def found(self, wind: Wind) -> Counter[tuple[str, int]]:
        """Return what is in windows and what is late, by sensor and second."""
        found: Counter[tuple[str, int]] = Counter()
        for window in wind.windows:
            found[window["wind_id"], window["timestamp"] // 1000] += window["samples"]
        found.update((row["wind_id"], row["timestamp"] // 1000) for row in wind.late)
        own = {key: count for key, count in found.items() if key[0].startswith("s") and key[1] < LIVE_MS // 1000}
        return Counter(own)


class Wind:
    """The running job: `send` puts readings into its topic, `windows` and `late` are what it has committed so far."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.start = kafka.end_offsets(settings, "wind")
        ends = {topic: kafka.end_offsets(settings, topic) for topic in ("wind_rich", "wind_late")}
        self.windows: list[dict[str, Any]] = []
        self.late: list[dict[str, Any]] = []
        self._producer = kafka.producer(settings)
        options = {"group.id": "test", "isolation.level": "read_committed", "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, **options})
        self._consumer.assign(
            [TopicPartition(topic, number, at) for topic, end in ends.items() for number, at in end.items()]
        )

    def run_job(self, restore_from: str | None = None, parallelism: int = 1) -> None:
        settings = self.settings.model_copy(update={"flink_parallelism": parallelism})
        env = runtime.streaming(settings, NAME, restore_from)
        env.get_config().set("restart-strategy.type", "none")
        offsets = ";".join(f"partition:{number},offset:{at}" for number, at in self.start.items())
        source = rich_sensor_wind.create_source(
            env, self.settings, **{"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": offsets}
        )
        sinks = rich_sensor_wind.create_sinks(env, self.settings)
        enrich = rich_sensor_wind.enrichment(self.settings)
        rich_sensor_wind.build_pipeline(env, self.settings, source, *sinks, enrich).execute()

    def send(self, partition: int, *values: str | bytes | None) -> None:
        for value in values:
            self._producer.produce("wind", value.encode() if isinstance(value, str) else value, partition=partition)
        assert self._producer.flush(30) == 0

    def reading(self, partition: int, wind_id: str, ms: int, speed: float = 5.0) -> None:
        self.send(partition, json.dumps({"wind_id": wind_id, "timestamp": ms, "wind_speed": speed}))

    def wait_for(self, condition: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        end = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < end, f"{len(self.windows)} windows, late {self.late}"
            meanwhile()
            for message in self._consumer.consume(500, timeout=0.5):
                assert message.error() is None
                (self.late if message.topic() == "wind_late" else self.windows).append(json.loads(message.value()))

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture(scope="module")
def wind(stack) -> Iterator[Wind]:
    stack.up("kafka", "couchbase", "flink")
    settings = stack.settings.model_copy(update={"wind_duplicate_s": REMEMBERED_S, "wind_idle_s": 3})
    kafka.ensure_topics(settings)
    store = RegistryStore.open(settings, operator="test")
    place = {"latitude": 40.4, "longitude": -3.7, "time_zone": "Europe/Madrid", "postal_code": "28013"}
    add_client(store, Client(client_id="windy", name="Lucía", **place))
    add_element(store, WindSensor(wind_id="w1", model="Cup 3"))
    add_install(store, "wind", "w1", "windy", pd.Timestamp("2020-01-01", tz="UTC").to_pydatetime())

    running = Wind(settings)
    running.run_job()
    try:
        yield running
    finally:
        keeper.cancel(settings, NAME)
        running.close()


@pytest.fixture(scope="module")
def windows(wind) -> pd.DataFrame:
    """Return the windows of `raw_messages`, closed by a reading of a minute later in each partition."""
    wind.reading(0, "w1", OLD_MS)
    blown = measured()
    for ms, speed, direction in blown.itertuples(index=False):
        message = {"wind_id": "w4", "timestamp": ms, "wind_speed": speed, "wind_direction": direction}
        wind.send(1, json.dumps(message))
    wind.send(0, None, *raw_messages()[0], *FINE)
    for partition, sensor in enumerate(("w1", "w2")):
        wind.reading(partition, sensor, START_MS + 60_000)
    wind.wait_for(lambda: len(wind.windows) >= 1 + 40 + len(FINE) + len(blown))
    assert wind.late == []
    found = pd.DataFrame(wind.windows)
    return found[found["timestamp"] > OLD_MS]


def test_what_is_unusual_and_right_is_in_a_window(windows):
    fine = decode("wind", [line.encode() for line in FINE], now_ms=START_MS + 1000)
    speeds = windows.set_index("wind_id")["wind_speed"].astype(float)
    for element, message in zip(fine.element_ids, fine.messages, strict=True):
        speed = message["wind_speed"] if isinstance(message, dict) else message.wind_speed
        assert speeds[element] == speed


def test_windows_are_those_of_pandas(windows):
    want = expected(raw_messages()[1])
    got = windows[windows["wind_id"].isin(["w1", "w2"])].set_index(["wind_id", "timestamp"]).sort_index()
    assert len(got) == len(want) == 40
    for name in want:
        np.testing.assert_allclose(got[name].astype(float), want.sort_index()[name].astype(float), rtol=1e-9)
    assert got["samples"].sum() == 160


def test_measured_wind_sixty_times_as_fast_has_the_hourly_means_of_pandas(windows):
    blown = measured()
    want = blown.groupby(blown["ms"] // 60_000)["speed"].mean()
    got = windows[windows["wind_id"] == "w4"]
    hours = got.assign(sum=got["wind_speed"] * got["samples"]).groupby(got["timestamp"] // 60_000)
    means = hours["sum"].sum() / hours["samples"].sum()
    assert list(means.index) == list(want.index)
    assert len(want) == 72
    np.testing.assert_allclose(means, want, rtol=1e-12)


def test_windows_carry_place_and_owner_where_they_are_known(windows):
    known = windows[windows["wind_id"] == "w1"]
    assert set(known["client_id"]) == {"windy"}
    assert set(known["postal_code"]) == {"28013"}
    assert set(known["model"]) == {"Cup 3"}
    unknown = windows[windows["wind_id"] == "w2"]
    assert len(unknown) == 20
    assert unknown["client_id"].isna().all()
    assert math.isnan(unknown["latitude"].astype(float).iloc[0])


def test_a_partition_stops_for_ten_minutes_and_a_clock_is_an_hour_ahead_and_the_counts_add_up(wind, windows):
    disorder = Disorder()
    disorder.send(wind, 0, Disorder.RESUMES)
    # the stopped one does not hold the other back
    other = STOPPING_MS + (Disorder.RESUMES - 10) * 1000
    wind.wait_for(lambda: any(window["timestamp"] > other for window in wind.windows))
    disorder.send(wind, Disorder.RESUMES, math.inf)
    for partition in (0, 1):
        wind.reading(partition, f"s{partition}", LIVE_MS)
    wind.wait_for(lambda: disorder.found(wind).total() >= disorder.accepted.total())
    assert disorder.found(wind) == disorder.accepted
    assert disorder.found(wind).total() + disorder.refused == len(disorder.sent) - disorder.twice
    late = Counter(row["wind_id"] for row in wind.late)
    assert late["s1"] > 500  # what came when the partition went on again
    assert 0 < late["s0"] < 60


def test_a_reading_is_in_a_window_or_late_once_and_a_fast_clock_makes_none_late(wind, windows):
    # w3's clock is 4 min ahead: allowed, but it must not close the windows of the others
    def live() -> None:
        now = round(time.time() * 1000)
        wind.reading(0, "w3", now + 240_000)
        for partition, sensor in enumerate(("w1", "w2")):
            wind.reading(partition, sensor, now)
            sent.append((sensor, now))

    def live_windows() -> int:
        return sum(window["timestamp"] > LIVE_MS for window in wind.windows)

    def late() -> list[dict[str, Any]]:
        return [row for row in wind.late if not row["wind_id"].startswith("s")]

    sent: list[tuple[str, int]] = []
    wind.wait_for(lambda: live_windows() >= 6, live)
    assert late() == []
    assert "w3" not in {window["wind_id"] for window in wind.windows}

    accepted = json.loads(raw_messages()[0][0])
    for partition, sensor in enumerate(("w1", "w2")):
        wind.send(partition, json.dumps(accepted), json.dumps(accepted))  # in a window since long
        for _ in range(2):
            wind.reading(partition, sensor, START_MS + 100, speed=7.5)
        wind.reading(partition, sensor, START_MS + 61_000)
    wind.reading(0, "w1", OLD_MS)  # is not known any more, so it is late, and no duplicate
    wind.wait_for(lambda: len(late()) >= 5, live)
    closing = sent[-1][1] // 1000 * 1000
    wind.wait_for(lambda: max(window["timestamp"] for window in wind.windows) > closing, live)

    found = sorted((row["wind_id"], row["timestamp"] - START_MS, row["wind_speed"]) for row in late())
    in_windows_since_long, after_them = ("w1", 100, 7.5), ("w1", 61_000, 5.0)
    assert found == [
        ("w1", OLD_MS - START_MS, 5.0),
        *(in_windows_since_long, after_them),
        *(("w2", ms, speed) for _, ms, speed in (in_windows_since_long, after_them)),
    ]
    for row in late():
        behind_s = time.time() - row["timestamp"] / 1000
        assert behind_s - 300 < row["late_s"] < behind_s
    samples = sum(window["samples"] for window in wind.windows if LIVE_MS < window["timestamp"] <= closing)
    assert samples == sum(ms < closing + 1000 for _, ms in sent)
    before = [window for window in wind.windows if START_MS - 1000 < window["timestamp"] < START_MS + 60_000]
    assert sum(window["samples"] for window in before) == 160 + len(FINE)


def test_a_restart_with_more_subtasks_knows_what_came_before_and_which_windows_had_closed(wind, windows):
    keeper.cancel(wind.settings, NAME)
    told = len(wind.late)
    lates = [(sensor, START_MS + 62_000 + second * 1000) for sensor in ("w1", "new") for second in range(3)]
    for partition, sensor in enumerate(("w1", "w2")):
        wind.send(partition, next(line for line in raw_messages()[0] if json.loads(line)["wind_id"] == sensor))
        wind.reading(partition, sensor, START_MS + 100, speed=7.5)  # was late then, too
    for partition, (sensor, ms) in enumerate(lates):
        wind.reading(partition % len(wind.start), sensor, ms)
    wind.run_job(str(keeper.last_checkpoint(wind.settings, NAME)), parallelism=2)
    wind.wait_for(lambda: len(wind.late) >= told + len(lates))
    sent: list[int] = []

    def live() -> None:
        sent.append(round(time.time() * 1000))
        for partition, sensor in enumerate(("w1", "w2")):
            wind.reading(partition, sensor, sent[-1])

    wind.wait_for(lambda: len(sent) > 20, live)
    first, closing = (ms // 1000 * 1000 for ms in (sent[0], sent[-1]))
    wind.wait_for(lambda: max(window["timestamp"] for window in wind.windows) > closing, live)
    assert sorted((row["wind_id"], row["timestamp"]) for row in wind.late[told:]) == sorted(lates)
    samples = sum(window["samples"] for window in wind.windows if first <= window["timestamp"] <= closing)
    assert samples == 2 * sum(ms < closing + 1000 for ms in sent)
    before = [window for window in wind.windows if START_MS - 1000 < window["timestamp"] < STOPPING_MS]
    assert sum(window["samples"] for window in before) == 160 + len(FINE) + 2
