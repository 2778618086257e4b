"""What the wind's measurements on the whole stack share: servers with both jobs, and sensors that send at a rate."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, Message

from benchmarks.meanwhile import meanwhile
from benchmarks.servers import own_stack, register
from selfgen.clients import druid, kafka
from selfgen.settings import Settings
from stack import lifecycle

JOBS = ("rich_sensor_wind", "write_sensor_wind")
SERVERS = ("kafka", "couchbase", "druid", "flink")
#: Sends what closes the windows of the others; it is registered nowhere and compared with nothing.
CLOSING = "closing"
#: One sensor of so many has a gust of `GUST_S` in every `GUST_EVERY_S`.
GUSTY_OF, GUST_S, GUST_EVERY_S = 10, 20, 120
_CALM_MOST, _GUST_LEAST = 12.0, 18.0


@dataclass(frozen=True)
class Disorder:
    """The shares of readings that come broken, twice, or out of order by at most `late_ms`."""

    broken: float = 0.0
    twice: float = 0.0
    out_of_order: float = 0.0
    late_ms: int = 0


@dataclass
class Sent:
    """What was delivered: each reading once, by sensor and time; how many more came twice or broken."""

    readings: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    twice: int = 0
    broken: int = 0


@contextmanager
def running(
    settings: Settings, name: str, sensors: int, servers: Sequence[str] = SERVERS, jobs: Sequence[str] = JOBS
) -> Iterator[Settings]:
    """Start servers and wind jobs, with so many sensors that are registered."""
    with own_stack(settings, name, *servers) as own:
        kafka.ensure_topics(own)
        register(own, "wind", [sensor(number) for number in range(sensors)])
        if "druid" in servers:
            druid.apply_supervisors(own)
        lifecycle.up(own, jobs)
        yield own


def sensor(number: int) -> str:
    """Return a sensor's id."""
    return f"wind-{number:06d}"


def speed(number: int, time_ms: int) -> float:
    """Return what a sensor measures at a time, m/s: calm, and gusts of some sensors at times of their own."""
    noise = (number * 7919 + time_ms // 100 * 104_729) % 1000 / 1000
    second = (time_ms // 1000 + number) % GUST_EVERY_S
    if number % GUSTY_OF == 0 and second < GUST_S:
        return round(_GUST_LEAST + 3 * noise, 3)
    return round(1 + (_CALM_MOST - 1) * noise, 3)


def reading(sensor_id: str, time_ms: int, wind_speed: float, direction: float) -> bytes:
    """Return a message as a sensor sends it."""
    message = {"wind_id": sensor_id, "timestamp": time_ms, "wind_speed": wind_speed, "wind_direction": direction}
    return json.dumps(message).encode()


@contextmanager
def sending(settings: Settings, sensors: int, rate: int, disorder: Disorder) -> Iterator[Sent]:
    """Send at a steady rate meanwhile; in the end everything was delivered."""
    sent = Sent()
    with meanwhile(lambda stop: _send(settings, sensors, rate, disorder, sent, stop)):
        yield sent


def close_windows(settings: Settings) -> None:
    """Send each partition a reading of now, so that windows that ended before close."""
    producer = kafka.producer(settings)
    for partition in range(settings.partitions):
        producer.produce("wind", reading(CLOSING, time.time_ns() // 1_000_000, 1.0, 0.0), partition=partition)
    if producer.flush(60):
        raise RuntimeError("Kafka did not take the closing readings")


class _Delivery:
    """A producer that waits for room, and counts what Kafka did not take."""

    def __init__(self, settings: Settings) -> None:
        self._producer = kafka.producer(settings, **{"linger.ms": 5})
        self._failed = Counter[str]()

    def send(self, key: str, value: bytes) -> None:
        kafka.produce(self._producer, "wind", value, key, on_delivery=self._delivered)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed[error.str()] += 1

    def poll(self, seconds: float) -> None:
        self._producer.poll(seconds)

    def finish(self) -> None:
        if self._producer.flush(300) or self._failed:
            raise RuntimeError(f"Kafka did not take everything: {dict(self._failed)}")


def _send(settings: Settings, sensors: int, rate: int, disorder: Disorder, sent: Sent, stop: threading.Event) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    delivery = _Delivery(settings)
    first_ms = time.time_ns() // 1_000_000
    held: list[tuple[float, str, bytes]] = []
    done = 0
    while not stop.is_set():
        now_ms = time.time_ns() // 1_000_000
        while held and held[0][0] <= now_ms:
            delivery.send(*held.pop(0)[1:])
        due = (now_ms - first_ms) * rate // 1000
        for number in range(done, due):
            _send_one(delivery, chance, disorder, sent, held, number, first_ms + number * 1000 // rate, sensors)
        done = due
        delivery.poll(0.005)
    for _, key, value in held:
        delivery.send(key, value)
    delivery.finish()


def _send_one(
    delivery: _Delivery,
    chance: random.Random,
    disorder: Disorder,
    sent: Sent,
    held: list[tuple[float, str, bytes]],
    number: int,
    time_ms: int,
    sensors: int,
) -> None:
    """Send a reading, now or a little later, and by chance what else a device or a network does."""
    which = number % sensors
    key, wind_speed, direction = sensor(which), speed(which, time_ms), number * 31 % 3600 / 10
    value = reading(key, time_ms, wind_speed, direction)
    sent.readings[key, time_ms] = wind_speed, direction
    if chance.random() < disorder.out_of_order:
        held.append((time_ms + chance.random() * disorder.late_ms, key, value))
        held.sort()
    else:
        delivery.send(key, value)
    if chance.random() < disorder.twice:
        delivery.send(key, value)
        sent.twice += 1
    if chance.random() < disorder.broken:
        delivery.send(key, value[: chance.randrange(1, 20)])
        sent.broken += 1


def rows(settings: Settings, datasource: str) -> list[dict[str, Any]]:
    """Return all rows of a streamed wind data source, with `timestamp` in epoch ms; none where it has none yet."""
    if not druid.exists(settings, datasource):
        return []
    return druid.query(settings, f'SELECT TIMESTAMP_TO_MILLIS(__time) AS "timestamp", * FROM {datasource}')  # noqa: S608
