"""Landing under kill -9 of consumers, MongoDB and Kafka: nothing lost, nothing counted twice.

Messages arrive at a steady rate, some broken, some twice, some corrected, while processes are killed at random
moments and start again. In the end each count must be exactly what was sent, and each reading the last that was sent.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from pymongo.errors import PyMongoError

from benchmarks.form import Figure
from benchmarks.meanwhile import meanwhile
from benchmarks.servers import kill_server, own_stack
from kafka_consumers.landing import PROCESSES, counts, stored
from selfgen.clients import kafka, mongo
from selfgen.settings import Settings

TOPIC = "panel"
ELEMENTS = 500
BROKEN, DUPLICATE, CORRECTED = 0.01, 0.02, 0.001
#: How long everything may take to be landed after the last kill, s.
PATIENCE_S = 180.0
#: How long a consumer may take to leave, s: its own 10 s, and what a busy machine adds.
_LEAVING_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What is done to the system."""

    rate: int = 5000
    """Messages a second."""
    consumers: int = 2
    consumer_kills: int = 20
    server_kills: int = 5
    """Of MongoDB and of Kafka, each."""
    rebalances: int = 2
    """Consumers that join and leave in good order."""
    pause_s: float = 4.0
    """Mean time between two of these."""


@dataclass
class Sent:
    """What was delivered to Kafka."""

    landed: int = 0
    duplicates: int = 0
    replaced: int = 0
    refused: int = 0
    power: dict[str, float] = field(default_factory=dict)
    """The last power of each identity."""

    @property
    def total(self) -> int:
        """All messages."""
        return self.landed + self.duplicates + self.replaced + self.refused


def run(settings: Settings) -> list[Figure]:
    """Run the whole plan on a stack of its own."""
    with own_stack(settings, "chaos_landing", "kafka", "mongodb") as own:
        return chaos(own, Plan())


def chaos(settings: Settings, plan: Plan) -> list[Figure]:
    """Carry out a plan on a running stack of one's own; return the figures."""
    kafka.ensure_topics(settings)
    mongo.ensure_collections(settings)
    started = time.monotonic()
    with Consumers(settings) as consumers:
        for _ in range(plan.consumers):
            consumers.start()
        with sending(settings, plan.rate) as sent:
            slowest_s = _break_things(settings, plan, consumers)
        broken_for_s = time.monotonic() - started
        caught_up_s = _await_landed(settings, sent.total)
    return [
        Figure("messages sent", sent.total, "messages"),
        Figure("time of breaking", round(broken_for_s, 1), "s"),
        Figure("kill -9 of consumers", plan.consumer_kills, "times"),
        Figure("kill -9 of MongoDB and of Kafka, each", plan.server_kills, "times"),
        Figure("slowest server to come back", round(slowest_s, 1), "s"),
        Figure("all landed after the end", round(caught_up_s, 1), "s", bar=("<=", PATIENCE_S)),
        *_compare(settings, sent),
    ]


def _compare(settings: Settings, sent: Sent) -> list[Figure]:
    counted, there = counts(settings)[TOPIC], stored(settings)[TOPIC]
    with mongo.connect(settings) as client:
        found = {
            document["_id"]: document["msg_value"]["power"]
            for document in client[settings.mongodb_database]["topic"].find({}, {"msg_value.power": 1})
        }
    wrong = sum(found.get(identity) != power for identity, power in sent.power.items())
    return [
        Figure("lost or counted twice", counted["consumed"] - sent.total, "messages", bar=("==", 0)),
        Figure("landed", counted["landed"], "messages", bar=("==", sent.landed)),
        Figure("duplicates", counted["duplicates"], "messages", bar=("==", sent.duplicates)),
        Figure("replaced", counted["replaced"], "messages", bar=("==", sent.replaced)),
        Figure("refused", sum(counted["refused"].values()), "messages", bar=("==", sent.refused)),
        Figure("readings stored", there["landed"], "documents", bar=("==", sent.landed)),
        Figure("alarms stored", sum(there["refused"].values()), "documents", bar=("==", sent.refused)),
        Figure("wrong or missing values", wrong, "readings", bar=("==", 0)),
        Figure("readings never sent", len(found.keys() - sent.power.keys()), "readings", bar=("==", 0)),
    ]


def _break_things(settings: Settings, plan: Plan, consumers: Consumers) -> float:
    """Do all that is planned in random order; return how long the slowest server took to come back, s."""
    chance = random.Random(0)  # noqa: S311 - repeatable
    deeds = [
        *["consumer"] * plan.consumer_kills,
        *["mongodb", "kafka"] * plan.server_kills,
        *["rebalance"] * plan.rebalances,
    ]
    chance.shuffle(deeds)
    slowest_s = 0.0
    for deed in deeds:
        time.sleep(chance.expovariate(1 / plan.pause_s))
        if deed == "consumer":
            consumers.kill(chance)
        elif deed == "rebalance":
            with consumers.one_more():
                time.sleep(plan.pause_s)
        else:
            slowest_s = max(slowest_s, kill_server(settings, deed))
    return slowest_s


def _await_landed(settings: Settings, total: int) -> float:
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        try:
            if counts(settings)[TOPIC]["consumed"] >= total:
                break
        except PyMongoError:
            pass  # it was killed a moment ago
        time.sleep(0.5)
    return time.monotonic() - started


class Consumers:
    """Landing processes that are killed and replaced."""

    def __init__(self, settings: Settings) -> None:
        self._environment = settings.environment()
        self._admin = kafka.admin(settings)
        self._log = (settings.build_dir / "consumers.log").open("ab")
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Consumers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(_LEAVING_S)
        self._log.close()

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more."""
        process = subprocess.Popen(
            [sys.executable, "-m", "kafka_consumers.streaming_panel"],
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
        )
        self._running.append(process)
        return process

    def alive(self) -> list[int]:
        """Return their process ids; raise if one ended by itself."""
        for process in self._running:
            self._must_live(process)
        return [process.pid for process in self._running]

    def _must_live(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            raise RuntimeError(f"a consumer ended by itself with {process.returncode}; see {self._log.name}")

    def kill(self, chance: random.Random) -> None:
        """Kill one, and start another in its place."""
        process = chance.choice(self._running)
        self._must_live(process)
        process.kill()
        process.wait()
        self._running.remove(process)
        self.start()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Have one more for a while, which then leaves in good order."""
        process = self.start()
        while not self._is_member(process):
            time.sleep(0.5)
        yield
        process.terminate()
        if process.wait(_LEAVING_S) != 0:
            raise RuntimeError(f"a consumer did not leave in good order: {process.returncode}")
        self._running.remove(process)

    def _is_member(self, process: subprocess.Popen[bytes]) -> bool:
        self._must_live(process)
        described = self._admin.describe_consumer_groups([PROCESSES[TOPIC]])[PROCESSES[TOPIC]]
        try:
            members = described.result().members
        except KafkaException:
            return False  # Kafka was killed a moment ago
        return any(member.client_id.endswith(f"-{process.pid}") for member in members)


@contextmanager
def sending(settings: Settings, rate: int) -> Iterator[Sent]:
    """Send at a steady rate meanwhile; at the end everything was delivered and counted."""
    sent = Sent()
    with meanwhile(lambda stop: _send(settings, rate, sent, stop)):
        yield sent


def _send(settings: Settings, rate: int, sent: Sent, stop: threading.Event) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    failed = Counter[str]()

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failed[error.str()] += 1

    producer = kafka.producer(settings)

    def send(key: str, value: bytes) -> None:
        kafka.produce(producer, TOPIC, value, key, on_delivery=delivered)

    first_ms = time.time_ns() // 1_000_000 - 3_600_000
    started = time.monotonic()
    number = 0
    while not stop.is_set():
        due = int((time.monotonic() - started) * rate)
        while number < due:
            key = f"p{number % ELEMENTS:04d}"
            time_ms = first_ms + number // ELEMENTS * 100
            _send_one(send, chance, sent, key, time_ms, float(number % 4999))
            number += 1
        producer.poll(0.01)
    if producer.flush(300) or failed:
        raise RuntimeError(f"Kafka did not take everything: {dict(failed)}")


def _send_one(send: Any, chance: random.Random, sent: Sent, key: str, time_ms: int, power: float) -> None:
    """Send a reading, and by chance what else a device or a network does."""

    def reading(power: float) -> bytes:
        return json.dumps({"panel_id": key, "timestamp": time_ms, "power": power}).encode()

    identity = mongo.reading_id(TOPIC, time_ms, key)
    send(key, reading(power))
    sent.landed += 1
    sent.power[identity] = power
    what = chance.random()
    if what < BROKEN:
        send(key, reading(power)[: chance.randrange(1, 20)])
        sent.refused += 1
    elif what < BROKEN + DUPLICATE:
        send(key, reading(power))
        sent.duplicates += 1
    elif what < BROKEN + DUPLICATE + CORRECTED:
        send(key, reading(power + 0.5))
        sent.replaced += 1
        sent.power[identity] = power + 0.5
