"""How fresh the wind is: from the end of a window, and from a gust, to the answer of a query, and where the time goes.

Sensors send in order at a steady rate. Three readers look at the same windows: in topic `wind_rich` (the first job has
committed it), in topic `wind_report` (the second has), and in Druid. A window is there when all sensors' are. The jobs
wait for readings out of order, and commit, as `Plan` says; both are settings of the system. Then the same with both
jobs in one, to `wind_report`: what the topic between them costs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from benchmarks.form import Figure
from benchmarks.meanwhile import meanwhile
from benchmarks.wind_feed import Disorder, running, sending
from selfgen.clients import druid, kafka
from selfgen.settings import Settings

_P50_S, _P99_S, _ALARM_P99_S = 1.2, 2.0, 3.0
#: How often Druid is asked, s.
_ASK_S = 0.05


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    rate: int = 2000
    sensors: int = 200
    warm_s: float = 60.0
    """How long everything runs before it is measured: code is compiled, tables are known."""
    seconds: float = 120.0
    watermark_delay_ms: int = 100
    checkpoint_interval_ms: int = 300


def run(settings: Settings) -> list[Figure]:
    """Measure on stacks of its own."""
    plan = Plan()
    quick = settings.model_copy(
        update={
            "wind_watermark_delay_ms": plan.watermark_delay_ms,
            "checkpoint_interval_ms": plan.checkpoint_interval_ms,
        }
    )
    return [*measure(quick, plan), *in_one_job(quick, plan)]


def in_one_job(settings: Settings, plan: Plan) -> list[Figure]:
    """Measure how long a window takes into `wind_report` where no topic lies in between."""
    seconds: list[float] = []
    with running(settings, "wind_one_job", plan.sensors, ("kafka", "couchbase", "flink"), ()) as own:
        subprocess.run([sys.executable, "-m", "benchmarks.wind_one_job"], env=own.environment(), check=True)
        with sending(own, plan.sensors, plan.rate, Disorder()):
            time.sleep(plan.warm_s)
            with meanwhile(lambda stop: _watch_topic(own, plan, "wind_report", stop, seconds)):
                time.sleep(plan.seconds)
    return _figures("both jobs in one: end of window → committed to wind_report", seconds)


def measure(settings: Settings, plan: Plan) -> list[Figure]:
    """Carry out a plan on servers of its own."""
    with running(settings, "wind_freshness", plan.sensors) as own, sending(own, plan.sensors, plan.rate, Disorder()):
        _await_rows(own)
        time.sleep(plan.warm_s)
        with _seen(own, plan) as (rich, report, answered, alarms):
            time.sleep(plan.seconds)
    return [
        *_figures("end of window → committed to wind_rich", rich),
        *_figures("end of window → committed to wind_report", report),
        *_figures("end of window → answer of Druid", answered, (_P50_S, _P99_S)),
        *_figures("gust → its alarm in Druid's answer", alarms, (None, _ALARM_P99_S)),
        Figure("windows of all sensors, seen in Druid", len(answered), "seconds"),
        Figure("alarms seen", len(alarms), "alarms", bar=(">=", 10)),
    ]


def _figures(name: str, seconds: list[float], bars: tuple[float | None, float | None] = (None, None)) -> list[Figure]:
    values = np.percentile(seconds, [50, 99]) if seconds else np.array([np.inf, np.inf])
    return [
        Figure(f"{name}, {quantile}", round(float(value), 2), "s", bar=None if bar is None else ("<=", bar))
        for quantile, value, bar in zip(("p50", "p99"), values, bars, strict=True)
    ]


def _await_rows(settings: Settings) -> None:
    deadline = time.monotonic() + 180
    while not (druid.exists(settings, "wind_report") and druid.exists(settings, "wind_alarm")):
        if time.monotonic() > deadline:
            raise AssertionError("nothing came to Druid within 3 min")
        time.sleep(0.5)


@contextmanager
def _seen(settings: Settings, plan: Plan) -> Iterator[tuple[list[float], list[float], list[float], list[float]]]:
    """Look meanwhile; give how long each window, and each alarm, took to be seen, s."""
    found: tuple[list[float], list[float], list[float], list[float]] = ([], [], [], [])
    rich, report, answered, alarms = found
    with meanwhile(
        lambda stop: _watch_topic(settings, plan, "wind_rich", stop, rich),
        lambda stop: _watch_topic(settings, plan, "wind_report", stop, report),
        lambda stop: _watch_druid(settings, plan, stop, answered),
        lambda stop: _watch_alarms(settings, stop, alarms),
    ):
        yield found


def _watch_topic(settings: Settings, plan: Plan, topic: str, stop: threading.Event, seconds: list[float]) -> None:
    options = {"group.id": "freshness", "isolation.level": "read_committed", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "fetch.wait.max.ms": 20} | options)
    ends = kafka.end_offsets(settings, topic)
    consumer.assign([TopicPartition(topic, number, at) for number, at in ends.items()])
    windows: Counter[int] = Counter()
    while not stop.is_set():
        messages = consumer.consume(1000, timeout=0.02)
        now = time.time()
        for message in messages:
            row = json.loads(message.value())
            windows[row["timestamp"]] += 1
            if windows[row["timestamp"]] == plan.sensors:
                seconds.append(now - row["timestamp"] / 1000 - 1)
    consumer.close()


def _watch_druid(settings: Settings, plan: Plan, stop: threading.Event, seconds: list[float]) -> None:
    seen = {at for at, _ in _windows(settings)}
    while not stop.wait(_ASK_S):
        complete = [at for at, windows in _windows(settings) if windows == plan.sensors]
        now = time.time()
        for at in set(complete) - seen:
            seconds.append(now - at / 1000 - 1)
        seen.update(complete)


def _windows(settings: Settings) -> list[tuple[int, int]]:
    """Return the last seconds' windows: when each second began, epoch ms, and how many sensors have one."""
    rows = druid.query(
        settings,
        'SELECT TIMESTAMP_TO_MILLIS(__time) AS "at", COUNT(*) AS windows FROM wind_report'
        " WHERE __time >= CURRENT_TIMESTAMP - INTERVAL '20' SECOND GROUP BY 1",
    )
    return [(row["at"], row["windows"]) for row in rows]


def _watch_alarms(settings: Settings, stop: threading.Event, seconds: list[float]) -> None:
    seen = _gales(settings)
    while not stop.wait(_ASK_S):
        found = _gales(settings)
        now = time.time()
        # from the begin of the window whose gust completed the condition
        seconds.extend(now - at / 1000 for _, at in found - seen)
        seen |= found


def _gales(settings: Settings) -> set[tuple[str, int]]:
    """Return the last gales that were raised: sensor, and window, epoch ms."""
    rows = druid.query(
        settings,
        'SELECT wind_id, TIMESTAMP_TO_MILLIS(__time) AS "at" FROM wind_alarm'
        " WHERE __time >= CURRENT_TIMESTAMP - INTERVAL '20' SECOND AND code = 'high_wind' AND state = 'raised'",
    )
    return {(row["wind_id"], row["at"]) for row in rows}
