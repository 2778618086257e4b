"""Up to when all that was sent has come through, on a real Kafka: an open transaction is still on its way."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from flink_jobs import passage
from flink_jobs.passage import HOPS, Passage
from selfgen.clients import kafka
from selfgen.settings import Settings

pytestmark = pytest.mark.integration


def read_all(settings: Settings, topic: str, job: str) -> None:
    """Commit what a job would, had it read everything that it can."""
    options = {"bootstrap.servers": settings.bootstrap_servers, "group.id": job, "enable.auto.commit": False}
    with closing(Consumer(options)) as consumer:
        ends = kafka.end_offsets(settings, topic)
        consumer.commit(offsets=[TopicPartition(topic, number, at) for number, at in ends.items()], asynchronous=False)


def test_an_open_transaction_has_not_come_through_and_the_end_of_one_is_nothing_to_wait_for(stack, monkeypatch):
    stack.up("kafka")
    settings = stack.settings
    kafka.ensure_topics(settings)
    for topic, job in HOPS:
        read_all(settings, topic, job)
    monkeypatch.setattr(passage, "_LEAST_S", 0.0)
    seen = Passage(settings)
    began_ms = time.time() * 1000

    def comes_through() -> bool:
        before = seen.passed_ms()
        return any((seen.passed_ms() or 0) > max(before or 0, began_ms) for _ in range(5))

    assert comes_through()
    topic, job = HOPS[-1]
    read = kafka.end_offsets(settings, topic)[0] + 1  # of the message, behind which is the transaction's end
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "transactional.id": "passage-test"})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"{}", partition=0)
    assert producer.flush(30) == 0
    assert not comes_through()
    producer.commit_transaction()
    assert not comes_through()
    options = {"bootstrap.servers": settings.bootstrap_servers, "group.id": job, "enable.auto.commit": False}
    with closing(Consumer(options)) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, 0, read)], asynchronous=False)
    assert kafka.end_offsets(settings, topic)[0] > read
    assert comes_through()
