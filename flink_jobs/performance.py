"""What operators see of a streaming job's entrance: rows of `topic_performance`, as the landing processes send theirs.

A job commits its offsets to its consumer group with each checkpoint; what a row counts is how far they moved since the
row before, and how far they are behind the topic's end. Bytes, refusals and delays are not measured here: null.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import structlog
from confluent_kafka import KafkaException

from selfgen.clients import kafka
from selfgen.columns import names
from selfgen.settings import Settings

log = structlog.get_logger()


def rows(
    topic: str, job: str, before: dict[int, int], done: dict[int, int], ends: dict[int, int], now_ms: int
) -> list[dict[str, Any]]:
    """Return a row for each partition that was looked at before.

    Parameters
    ----------
    topic, job : str
        What is read, and by whom.
    before, done : dict
        The job's committed offsets by partition, then and now.
    ends : dict
        The offsets the partitions end at.
    now_ms : int
        Epoch ms.
    """
    unmeasured = dict.fromkeys(names("topic_performance"))
    return [
        unmeasured
        | {
            "timestamp": now_ms,
            "topic_id": topic,
            "partition": number,
            "consumer": job,
            "messages": max(offset - before[number], 0),  # a job that went on from an older checkpoint
            "lag": max(ends.get(number, offset) - offset, 0),
        }
        for number, offset in sorted(done.items())
        if number in before
    ]


def report(settings: Settings, topic: str, job: str, stop: threading.Event) -> None:
    """Send a job's rows every `landing_report_s` seconds until `stop` is set."""
    producer = kafka.producer(settings)
    before: dict[int, int] = {}
    while not stop.is_set():
        try:
            done, ends = kafka.committed_offsets(settings, job, topic), kafka.end_offsets(settings, topic)
            for row in rows(topic, job, before, done, ends, time.time_ns() // 1_000_000):
                producer.produce("topic_performance", msgspec.json.encode(row), key=f"{topic}|{row['partition']}")
            producer.poll(0)
            before = done
        except (KafkaException, BufferError) as error:
            log.warning("no report", job=job, error=str(error))
        stop.wait(settings.landing_report_s)
    producer.flush(2.0)
