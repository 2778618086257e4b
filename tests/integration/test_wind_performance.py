"""What operators see of a wind job, on a real Kafka: each row is counted once, whenever the job commits."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from flink_jobs.wind_performance import Hop, Watch
from selfgen.clients import kafka
from selfgen.settings import Settings

pytestmark = pytest.mark.integration

HOP = Hop("seen-job", "seen_in", "seen_out", row_for_message=True)
ROWS = {0: 5, 1: 7}


@pytest.fixture
def settings(stack) -> Settings:
    stack.up("kafka")
    topics = [NewTopic(name, len(ROWS)) for name in (HOP.topic, HOP.output)]
    admin = kafka.admin(stack.settings)
    for future in admin.create_topics(topics).values():
        future.result()
    return stack.settings


def commit(settings: Settings, partition: int, offset: int) -> None:
    """Commit as the job does with a checkpoint."""
    options = {"bootstrap.servers": settings.bootstrap_servers, "group.id": HOP.consumer, "enable.auto.commit": False}
    with closing(Consumer(options)) as job:
        job.commit(offsets=[TopicPartition(HOP.topic, partition, offset)], asynchronous=False)


def counted(watch: Watch) -> dict[int, int]:
    told = {row["partition"]: row["messages"] for row in watch.report()}
    watch.reported()
    return told


def test_rows_that_are_there_before_the_job_commits_are_counted_later(settings):
    producer = kafka.producer(settings)
    now_ms = time.time_ns() // 1_000_000
    for partition, rows in ROWS.items():
        for topic in (HOP.topic, HOP.output):
            for _ in range(rows):
                producer.produce(topic, json.dumps({"timestamp": now_ms}).encode(), partition=partition)
    assert producer.flush(30) == 0
    commit(settings, 0, ROWS[0])
    with closing(Watch(settings, HOP)) as watch:
        deadline = time.monotonic() + 30
        while watch._read.total() < sum(ROWS.values()):
            assert time.monotonic() < deadline
            watch.read()
        assert counted(watch) == {0: 5}
        commit(settings, 1, ROWS[1])
        assert counted(watch) == {0: 0, 1: 7}
    with closing(Watch(settings, HOP)) as watch:
        watch.read()
        assert counted(watch) == {0: 0, 1: 0}  # nor again after a restart
