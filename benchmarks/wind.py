"""Wind windows on one core: the job with place and owner, against pure Flink SQL, and against Python's DataStream API.

Every contestant is a process of its own, pinned to one core, that reads the same messages from one partition and writes
its windows to Kafka: the first two with the same checkpoints and transactions, the third with none. Each runs twice,
over few messages and over many; what it took is the difference, so that nobody pays for its start, nor for code that
Java has not compiled yet. A start takes longer one time than another, and what Java compiles is not the same each time:
the first two take turns, and the median of these counts. Kafka has the other core.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.form import Figure
from benchmarks.servers import own_stack, register
from benchmarks.wind_feed import sensor
from selfgen.clients import kafka
from selfgen.settings import Settings
from stack import lifecycle
from stack.servers import SERVERS

_START_MS = 1_767_225_600_000
#: Readings a second of event time, of all sensors together: of a thousand, ten each.
_RATE = 10_000
_OF_SQL = 0.8
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    few: int = 1_600_000
    """After so many, Java has compiled what counts."""
    many: int = 8_000_000
    few_by_hand: int = 12_500
    many_by_hand: int = 100_000
    sensors: int = 1_000
    turns: int = 2


def run(settings: Settings) -> list[Figure]:
    """Measure with a thousand sensors."""
    return measure(settings, Plan())


def measure(settings: Settings, plan: Plan) -> list[Figure]:
    """Carry out a plan on servers of its own."""
    ours, sql = list[float](), list[float]()
    with wind(settings, plan.sensors, plan.many) as own:
        for turn in range(plan.turns):
            ours.append(contestant(own, "enriched", plan.few, plan.many))
            if turn == 0:
                _expect(own, plan)
            sql.append(contestant(own, "plain", plan.few, plan.many))
        by_hand = contestant(own, "by_hand", plan.few_by_hand, plan.many_by_hand)
    shares = [one / other for one, other in zip(ours, sql, strict=True)]
    rate = statistics.median(ours)
    return [
        Figure(f"the job, with enrichment, median of {plan.turns}", round(rate), "readings/s"),
        Figure("pure SQL, windows only, median", round(statistics.median(sql)), "readings/s"),
        Figure("DataStream API in Python", round(by_hand), "readings/s"),
        Figure("the job / pure SQL, median of turns", round(statistics.median(shares), 2), "×", bar=(">=", _OF_SQL)),
        *(Figure(f"turn {turn}: the job / pure SQL", round(share, 2), "×") for turn, share in enumerate(shares, 1)),
        Figure("the job / DataStream API in Python", round(rate / by_hand, 1), "×"),
    ]


@contextmanager
def wind(settings: Settings, sensors: int, messages: int) -> Iterator[Settings]:
    """Start servers with so many sensors that are registered, and their readings in the topic."""
    with own_stack(settings.model_copy(update={"partitions": 1}), "wind", "kafka", "couchbase") as own:
        kafka.ensure_topics(own)
        lifecycle.prepare(own, SERVERS["taskmanager"])  # the configuration of whoever runs a job
        register(own, "wind", [sensor(number) for number in range(sensors)])
        producer = kafka.producer(own, **{"linger.ms": 50})
        for number in range(messages):
            wind_id, at = sensor(number % sensors), _START_MS + number * 1000 // _RATE
            speed, direction = number * 7919 % 3000 / 100, number * 104_729 % 3600 / 10
            value = f'{{"wind_id":"{wind_id}","timestamp":{at},"wind_speed":{speed},"wind_direction":{direction}}}'
            kafka.produce(producer, "wind", value, wind_id)
        if producer.flush(120):
            raise AssertionError("Kafka did not take everything")
        yield own


def contestant(settings: Settings, kind: str, few: int, many: int) -> float:
    """Return a contestant's rate, messages/s."""
    few_s, many_s = (_once(settings, kind, messages) for messages in (few, many))
    return (many - few) / (many_s - few_s)


def _once(settings: Settings, kind: str, messages: int) -> float:
    """Return how long a contestant took over so many messages, s."""
    began = time.monotonic()
    with (settings.stack_dir / "wind_job.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wind_job", kind, str(messages)],
            env=settings.environment(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    if status:
        raise AssertionError(f"{kind} failed: {(settings.stack_dir / 'wind_job.log').read_text()[-2000:]}")
    return time.monotonic() - began


def _expect(settings: Settings, plan: Plan) -> None:
    """Every reading is in a window, and every window has its owner."""
    options = {"bootstrap.servers": settings.bootstrap_servers, "group.id": "bench", "enable.auto.commit": False}
    consumer = Consumer(options | {"isolation.level": "read_committed", "enable.partition.eof": True})
    consumer.assign([TopicPartition("wind_rich", 0, OFFSET_BEGINNING)])
    samples = 0
    deadline = time.monotonic() + _PATIENCE_S
    while samples < plan.few + plan.many and time.monotonic() < deadline:
        windows = [json.loads(message.value()) for message in consumer.consume(10_000, 1.0) if not message.error()]
        samples += sum(window["samples"] for window in windows)
        if any(window["client_id"] is None for window in windows):
            raise AssertionError("a window without its owner")
    consumer.close()
    if samples != plan.few + plan.many:
        raise AssertionError(f"{samples} of {plan.few + plan.many} readings are in windows")
