"""Nothing but broken messages at full speed: consumers live, their memory is flat, good messages behind them land.

More broken messages wait at each moment than the consumers take in a second, so that they never rest. Their kinds are
the contract's own examples, random bytes, deep nesting, long integers, fields that stand twice, and messages that are
too large. In the end each of them must have its alarm, and the good ones sent behind them must have landed.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import psutil

from benchmarks.chaos_landing import PATIENCE_S, TOPIC, Consumers
from benchmarks.form import Figure
from benchmarks.meanwhile import meanwhile
from benchmarks.servers import own_stack
from kafka_consumers.landing import counts, stored
from selfgen.clients import kafka, mongo
from selfgen.contract import INVALID
from selfgen.messages import MAX_BYTES
from selfgen.settings import Settings

_MIB = 2**20
#: Messages that wait: enough for full speed, few enough for Kafka's disk.
_LEAST_LAG, _SENT_AT_ONCE = 100_000, 20_000
_GOOD = 1000


@dataclass(frozen=True)
class Plan:
    """How long, and by how many it is borne."""

    minutes: float = 10.0
    consumers: int = 2
    sample_s: float = 2.0
    """Time between two looks at the consumers' memory."""
    growth: float = 1.1
    """Most memory in the last third over the middle third; the first third warms caches and allocators."""


@dataclass
class Memory:
    """Resident memory of the consumers, MiB: a series each."""

    series: dict[int, list[float]] = field(default_factory=dict)

    def look(self, pids: list[int]) -> None:
        """Take one sample of each."""
        for pid in pids:
            self.series.setdefault(pid, []).append(psutil.Process(pid).memory_info().rss / _MIB)

    @property
    def peak(self) -> float:
        """The most that one consumer had."""
        return max(max(samples) for samples in self.series.values())

    @property
    def growth(self) -> float:
        """How many times its middle third's memory the consumer that grew most had in its last third."""
        return max(
            median(samples[2 * third :]) / median(samples[third : 2 * third])
            for samples in self.series.values()
            if (third := len(samples) // 3)
        )


def run(settings: Settings) -> list[Figure]:
    """Run the whole plan on a stack of its own."""
    with own_stack(settings, "chaos_broken", "kafka", "mongodb") as own:
        return chaos(own, Plan())


def chaos(settings: Settings, plan: Plan) -> list[Figure]:
    """Carry out a plan on a running stack of one's own; return the figures."""
    kafka.ensure_topics(settings)
    mongo.ensure_collections(settings)
    memory = Memory()
    with Consumers(settings) as consumers:
        pids = [consumers.start().pid for _ in range(plan.consumers)]
        _await_consumed(settings, _send(settings, broken(), 1000), PATIENCE_S)
        started = time.monotonic()
        with feeding(settings) as sent:
            while time.monotonic() - started < plan.minutes * 60:
                memory.look(consumers.alive())
                time.sleep(plan.sample_s)
        seconds = time.monotonic() - started
        taken = counts(settings)[TOPIC]["consumed"] - 1000
        total = 1000 + sent.messages
        _send(settings, good(), _GOOD)
        caught_up_s = _await_consumed(settings, total + _GOOD, PATIENCE_S)
        alive = len(set(pids) & set(consumers.alive()))
    counted, there = counts(settings)[TOPIC], stored(settings)[TOPIC]
    return [
        Figure("time of broken messages", round(seconds, 1), "s", bar=(">=", plan.minutes * 60)),
        Figure("broken messages sent", total, "messages"),
        Figure("refused a second", round(taken / seconds), "messages/s"),
        Figure("kinds of refusal", len(counted["refused"]), "reasons", bar=("==", len(INVALID) + 1)),
        Figure("consumers still alive", alive, "processes", bar=("==", plan.consumers)),
        Figure("peak memory of a consumer", round(memory.peak), "MiB"),
        Figure("memory, last third over middle third", round(memory.growth, 3), "times", bar=("<=", plan.growth)),
        Figure("all taken after the end", round(caught_up_s, 1), "s", bar=("<=", PATIENCE_S)),
        Figure("refused", sum(counted["refused"].values()), "messages", bar=("==", total)),
        Figure("alarms with their bytes", sum(there["refused"].values()), "documents", bar=("==", total)),
        Figure("good ones landed", there["landed"], "readings", bar=("==", _GOOD)),
    ]


def broken() -> Iterator[bytes]:
    """Return broken messages of every kind, again and again."""
    chance = random.Random(2)  # noqa: S311 - repeatable
    kinds = [
        *(message for reason, message in INVALID.items() if reason != "future_timestamp"),
        b'{"panel_id": "p1", "timestamp": "2100-01-01T00:00:00Z", "power": 1}',
        b'{"panel_id": "p1", "panel_id": "p2", "timestamp": 1774094400000, "power": 1}',
        b'{"panel_id": "p1", "timestamp": 1774094400000, "power": 1, "note": %d}' % 10**400,
        b'{"panel_id": "p1", "timestamp": 1774094400000, "power": 1, "note": "\\ud800"}',
        b'{"note": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    ]
    number = 0
    while True:
        yield from kinds
        yield b"\xff" + chance.randbytes(chance.randrange(200))
        if number % 1000 == 0:
            yield b" " * (MAX_BYTES + 1)
        number += 1


def good() -> Iterator[bytes]:
    """Return good messages, each of another panel."""
    now_ms = time.time_ns() // 1_000_000
    for number in range(_GOOD):
        yield json.dumps({"panel_id": f"good-{number}", "timestamp": now_ms, "power": 1.0}).encode()


@dataclass
class Sent:
    """What was delivered to Kafka."""

    messages: int = 0


@contextmanager
def feeding(settings: Settings) -> Iterator[Sent]:
    """Keep broken messages waiting meanwhile; at the end all that are counted were delivered."""
    sent = Sent()

    def feed(stop: threading.Event) -> None:
        messages = broken()
        while not stop.is_set():
            if _lag(settings) >= _LEAST_LAG:
                stop.wait(0.1)
                continue
            sent.messages += _send(settings, messages, _SENT_AT_ONCE)

    with meanwhile(feed):
        yield sent


def _lag(settings: Settings) -> int:
    return sum(kafka.end_offsets(settings, TOPIC).values()) - counts(settings)[TOPIC]["consumed"]


def _send(settings: Settings, messages: Iterator[bytes], number: int) -> int:
    """Send the next messages and return how many, when Kafka has them."""
    producer = kafka.producer(settings)
    for _, value in zip(range(number), messages, strict=False):
        producer.produce(TOPIC, value)
        producer.poll(0)
    if producer.flush(300):
        raise RuntimeError("Kafka did not take everything")
    return number


def _await_consumed(settings: Settings, total: int, patience_s: float) -> float:
    """Wait until so many messages are counted; return how long, s."""
    started = time.monotonic()
    while counts(settings)[TOPIC]["consumed"] < total and time.monotonic() - started < patience_s:
        time.sleep(0.2)
    return time.monotonic() - started
