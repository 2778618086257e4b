"""What operators see of a wind job, on a real Kafka: each row is counted once, whenever the job commits."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from flink_jobs.wind_performance import Hop, Watch
from selfgen.clients import kafka
from selfgen.settings import Settings

pytestmark = pytest.mark.integration

HOP = Hop("seen-job", "seen_in", "seen_out", row_for_message=True)
ANEW = Hop("anew-job", "anew_in", "anew_out", row_for_message=False)
ROWS = {0: 5, 1: 7}


@pytest.fixture(scope="module")
def settings(stack) -> Settings:
    stack.up("kafka")
    topics = [NewTopic(name, len(ROWS)) for hop in (HOP, ANEW) for name in (hop.topic, hop.output)]
    admin = kafka.admin(stack.settings)
    for future in admin.create_topics(topics).values():
        future.result()
    return stack.settings


def commit(settings: Settings, partition: int, offset: int, topic: str = HOP.topic, group: str = HOP.consumer) -> None:
    """Commit as the job does with a checkpoint."""
    options = {"bootstrap.servers": settings.bootstrap_servers, "group.id": group, "enable.auto.commit": False}
    with closing(Consumer(options)) as job:
        job.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)


def send(settings: Settings, topic: str, partition: int, count: int) -> None:
    producer = kafka.producer(settings)
    for _ in range(count):
        producer.produce(topic, json.dumps({"timestamp": time.time_ns() // 1_000_000}).encode(), partition=partition)
    assert producer.flush(30) == 0


def read(watch: Watch, rows: int) -> None:
    deadline = time.monotonic() + 30
    while watch._read.total() < rows:
        assert time.monotonic() < deadline
        watch.read()


def counted(watch: Watch) -> dict[int, int]:
    told = {row["partition"]: row["messages"] for row in watch.report()}
    watch.reported()
    return told


def test_rows_that_are_there_before_the_job_commits_are_counted_later(settings):
    for partition, rows in ROWS.items():
        for topic in (HOP.topic, HOP.output):
            send(settings, topic, partition, rows)
    commit(settings, 0, ROWS[0])
    with closing(Watch(settings, HOP)) as watch:
        read(watch, sum(ROWS.values()))
        assert counted(watch) == {0: 5}
        commit(settings, 1, ROWS[1])
        assert counted(watch) == {0: 0, 1: 7}
    with closing(Watch(settings, HOP)) as watch:
        watch.read()
        assert counted(watch) == {0: 0, 1: 0}  # nor again after a restart


def test_a_topic_that_was_made_anew_is_counted_from_its_first_message_and_a_new_partition_is_read(settings):
    for topic in (ANEW.topic, ANEW.output):  # what was reported of the former topic
        commit(settings, 0, 1_000_000, topic, f"wind_performance-{ANEW.consumer}")
        send(settings, topic, 0, 5)
    commit(settings, 0, 5, ANEW.topic, ANEW.consumer)
    with closing(Watch(settings, ANEW)) as watch:
        read(watch, 5)
        assert counted(watch) == {0: 5}
        admin = kafka.admin(settings)
        for future in admin.create_partitions([NewPartitions(ANEW.output, 3)]).values():
            future.result()
        send(settings, ANEW.output, 2, 4)
        counted(watch)
        read(watch, 4)
        assert watch._read[2] == 4
