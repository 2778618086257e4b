"""Wind under kill -9 of Flink, Kafka, Druid's indexer and the registry: every window exact, every alarm once.

Sensors send at a steady rate, some readings out of order, some twice, some broken, while servers are killed at random
moments and come back. In the end the windows in Druid must be those that plain Python computes from what was sent, but
for the readings that the job itself put into `wind_late`, and the alarms those that follow from these windows.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.form import Figure
from benchmarks.servers import kill_server
from benchmarks.wind_feed import CLOSING, Disorder, Sent, close_windows, rows, running, sending
from selfgen.clients import druid, kafka
from selfgen.settings import Settings
from selfgen.thresholds import WindThresholds
from selfgen.wind_alarms import follow

#: Sensor, code, state, time.
Alarm = tuple[str, str, str, int]
VICTIMS = ("taskmanager", "jobmanager", "kafka", "indexer", "couchbase")
#: How long all of it may take to be in Druid after the last kill, s.
PATIENCE_S = 240.0
_ALARMS_S = 60.0
_DISORDER = Disorder(broken=0.01, twice=0.05, out_of_order=0.1, late_ms=2000)
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Plan:
    """What is done to the system."""

    rate: int = 2000
    """Readings a second."""
    sensors: int = 200
    kills: int = 5
    """Of each server."""
    pause_s: float = 5.0
    """Mean time between a server's return and the next kill."""


def run(settings: Settings) -> list[Figure]:
    """Run the whole plan on a stack of its own."""
    plan = Plan()
    with running(settings, "chaos_wind", plan.sensors) as own:
        return chaos(own, plan)


def chaos(settings: Settings, plan: Plan) -> list[Figure]:
    """Carry out a plan on a running stack of one's own; return the figures."""
    started = time.monotonic()
    with sending(settings, plan.sensors, plan.rate, _DISORDER) as sent:
        slowest_s = _break_things(settings, plan)
    broken_for_s = time.monotonic() - started
    caught_up_s = _await_windows(settings, sent)
    return [
        Figure("readings sent", len(sent.readings), "readings"),
        Figure("sent twice", sent.twice, "messages"),
        Figure("broken", sent.broken, "messages"),
        Figure("time of breaking", round(broken_for_s, 1), "s"),
        Figure(f"kill -9 of {', '.join(VICTIMS)}, each", plan.kills, "times"),
        Figure("slowest server to come back", round(slowest_s, 1), "s"),
        Figure("all in Druid after the end", round(caught_up_s, 1), "s", bar=("<=", PATIENCE_S)),
        *_compare(settings, sent),
    ]


def _break_things(settings: Settings, plan: Plan) -> float:
    """Kill servers in random order; return how long the slowest took to come back, s."""
    chance = random.Random(0)  # noqa: S311 - repeatable
    victims = [*VICTIMS] * plan.kills
    chance.shuffle(victims)
    slowest_s = 0.0
    for victim in victims:
        time.sleep(chance.expovariate(1 / plan.pause_s))
        slowest_s = max(slowest_s, kill_server(settings, victim))
    time.sleep(plan.pause_s)
    return slowest_s


def _await_windows(settings: Settings, sent: Sent) -> float:
    """Wait until every reading is in a window in Druid or late; return how long it took, s."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        close_windows(settings)
        query = "SELECT SUM(samples) AS n FROM wind_report WHERE wind_id <> %(closing)s"
        known = druid.exists(settings, "wind_report")
        found = druid.query(settings, query, {"closing": CLOSING}) if known else []
        if found and (found[0]["n"] or 0) + len(_late(settings)) >= len(sent.readings):
            break
        time.sleep(2)
    return time.monotonic() - started


def _late(settings: Settings) -> list[tuple[str, int]]:
    """Return the readings of topic `wind_late`, as committed."""
    ends = kafka.end_offsets(settings, "wind_late")
    options = {"group.id": "chaos", "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "enable.auto.commit": False} | options)
    consumer.assign([TopicPartition("wind_late", number, OFFSET_BEGINNING) for number in ends])
    late, at_end = list[tuple[str, int]](), set[int]()
    while len(at_end) < len(ends):
        for message in consumer.consume(1000, timeout=1.0):
            if message.error():
                at_end.add(message.partition())
            else:
                row = json.loads(message.value())
                late.append((row["wind_id"], row["timestamp"]))
    consumer.close()
    return [reading for reading in late if reading[0] != CLOSING]


def _await_alarms(settings: Settings, expected: Counter[Alarm]) -> Counter[Alarm]:
    """Return the alarms in Druid, once there are as many as expected: they come by another topic than the windows."""
    deadline = time.monotonic() + _ALARMS_S
    while True:
        found = Counter(
            (row["wind_id"], row["code"], row["state"], row["timestamp"]) for row in rows(settings, "wind_alarm")
        )
        if found.total() >= expected.total() or time.monotonic() > deadline:
            return found
        time.sleep(1)


def _compare(settings: Settings, sent: Sent) -> list[Figure]:
    late = _late(settings)
    once = set(late) & sent.readings.keys()
    found = [row for row in rows(settings, "wind_report") if row["wind_id"] != CLOSING]
    wanted = _windows({one: values for one, values in sent.readings.items() if one not in once})
    times = Counter((row["wind_id"], row["timestamp"]) for row in found)
    wrong = sum(not _is(row, wanted.get((row["wind_id"], row["timestamp"]))) for row in found)
    expected = _alarms(found)
    alarms = _await_alarms(settings, expected)
    return [
        Figure("readings late", len(late), "readings"),
        Figure("late twice, or never sent", len(late) - len(once), "readings", bar=("==", 0)),
        Figure("samples in Druid", sum(row["samples"] for row in found), "readings",
               bar=("==", len(sent.readings) - len(late))),
        Figure("windows in Druid", len(found), "windows", bar=("==", len(wanted))),
        Figure("windows twice", sum(count - 1 for count in times.values()), "windows", bar=("==", 0)),
        Figure("windows that differ", wrong, "windows", bar=("==", 0)),
        Figure("windows without an owner", sum(row["client_id"] is None for row in found), "windows", bar=("==", 0)),
        Figure("alarms in Druid", sum(alarms.values()), "rows", bar=("==", sum(expected.values()))),
        Figure("alarms missing", sum((expected - alarms).values()), "rows", bar=("==", 0)),
        Figure("alarms that should not be", sum((alarms - expected).values()), "rows", bar=("==", 0)),
    ]  # fmt: skip


def _windows(readings: dict[tuple[str, int], tuple[float, float]]) -> dict[tuple[str, int], dict[str, float]]:
    """Return the windows of readings, by sensor and start."""
    inside: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for (wind_id, time_ms), values in readings.items():
        inside[wind_id, time_ms // 1000 * 1000].append(values)
    return {window: _window(values) for window, values in inside.items()}


def _window(values: list[tuple[float, float]]) -> dict[str, float]:
    speeds = [speed for speed, _ in values]
    east = math.fsum(speed * math.sin(math.radians(direction)) for speed, direction in values)
    north = math.fsum(speed * math.cos(math.radians(direction)) for speed, direction in values)
    return {
        "wind_speed": math.fsum(speeds) / len(speeds),
        "wind_gust": max(speeds),
        "wind_min": min(speeds),
        "wind_direction": math.degrees(math.atan2(east, north)) % 360,
        "samples": len(speeds),
    }


def _is(row: dict[str, Any], window: dict[str, float] | None) -> bool:
    return window is not None and all(
        math.isclose(row[name], value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for name, value in window.items()
    )


def _alarms(windows: list[dict[str, Any]]) -> Counter[Alarm]:
    """Return the alarms that follow from windows: what the pure definitions say, sensor by sensor in order of time."""
    found: Counter[Alarm] = Counter()
    sensors: dict[str, Any] = {}
    for window in sorted(windows, key=lambda row: row["timestamp"]):
        wind_id = window["wind_id"]
        sensors[wind_id], alarms = follow(sensors.get(wind_id), window, WindThresholds())
        found.update((wind_id, alarm["code"], alarm["state"], alarm["timestamp"]) for alarm in alarms)
    return found
