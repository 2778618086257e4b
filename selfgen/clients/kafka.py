"""Kafka: the topics, declared once, and thin makers of clients.

>>> from selfgen.settings import get_settings
>>> ensure_topics(get_settings())  # doctest: +SKIP
{'wind': 'created', 'light': 'created', ...}
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from selfgen.settings import Settings

log = logging.getLogger("selfgen.kafka")


class _Repetitions(logging.Filter):
    """Says the same thing once a minute: librdkafka tells of every attempt to reconnect, and what it tries again."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        what = record.getMessage().split("]: ")[-1].split(" (after")[0]
        if what.endswith("retrying") or record.created - self._said.get(what, 0.0) < 60:
            return False
        self._said[what] = record.created
        return True


log.addFilter(_Repetitions())

_UNLIMITED_MS = 2**63 - 1
_GIB = 2**30


class TopicSpec(NamedTuple):
    """A topic as it should be.

    Retention is by size: event times are in the records, so a limit in time would delete history as it is replayed.
    """

    purpose: str
    partitions: int | None = None
    """None: as many as the setting says."""
    retention_bytes: int = _GIB
    """Of each partition."""
    stamped_by: Literal["producer", "broker"] = "producer"
    """Whose clock a record's timestamp is."""

    def config(self) -> dict[str, str]:
        """Return the topic's configuration in Kafka's own words."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": str(self.retention_bytes),
            # a device whose clock is ahead must reach the contract, which refuses it and says so
            "message.timestamp.after.max.ms": str(_UNLIMITED_MS),
            "message.timestamp.type": "LogAppendTime" if self.stamped_by == "broker" else "CreateTime",
        }


TOPICS: dict[str, TopicSpec] = {
    # the broker's clock bounds how far a device's may move event time
    "wind": TopicSpec("readings of wind sensors", retention_bytes=8 * _GIB, stamped_by="broker"),
    "light": TopicSpec("readings of light sensors", retention_bytes=8 * _GIB),
    "panel": TopicSpec("readings of panels", retention_bytes=8 * _GIB),
    "topic_performance": TopicSpec("throughput, lag and delay at the entrance of the topics", partitions=1),
    "wind_rich": TopicSpec("one-second windows of wind with place and owner"),
    "wind_report": TopicSpec("rows of the data source wind_report"),
    "wind_alarm": TopicSpec("rows of the data source wind_alarm", partitions=1),
    "wind_late": TopicSpec("readings of wind that came after their window had closed", partitions=1),
}

TopicChange = Literal["created", "changed", "unchanged"]


class TopicState(NamedTuple):
    """A topic as it is: its partitions, and those settings that `TopicSpec.config` declares."""

    partitions: int
    config: dict[str, str]


def producer(settings: Settings, **overrides: Any) -> Producer:
    """Return an idempotent producer; keyed like Java's, so that every client agrees on an element's partition.

    It outlives a broker's restart: undelivered messages are tried again for 5 minutes.

    Parameters
    ----------
    settings
        Say where Kafka is.
    **overrides
        librdkafka's own properties, as ``**{"linger.ms": 50}``.
    """
    return Producer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "delivery.timeout.ms": 300_000,
            "reconnect.backoff.max.ms": 1000,
            "queue.buffering.max.messages": 200_000,
            **overrides,
        },
        logger=log,
    )


def produce(to: Producer, topic: str, value: bytes, key: str | bytes | None = None, **more: Any) -> None:
    """Hand a message over, and wait for room while the producer's queue is full because Kafka is slower.

    Parameters
    ----------
    **more
        What `Producer.produce` takes besides, as ``on_delivery=...``.
    """
    while True:
        try:
            return to.produce(topic, value, key, **more)
        except BufferError:
            to.poll(0.1)


def admin(settings: Settings) -> AdminClient:
    """Return an administration client; keep it while its futures run."""
    return AdminClient({"bootstrap.servers": settings.bootstrap_servers}, logger=log)


def ping(settings: Settings, timeout_s: float = 2.0) -> None:
    """Ask Kafka for its topics.

    Raises
    ------
    confluent_kafka.KafkaException
        It did not answer in time.
    """
    admin(settings).list_topics(timeout=timeout_s)


def describe_topics(settings: Settings) -> dict[str, TopicState]:
    """Return those of `TOPICS` that exist, as they are."""
    client = admin(settings)
    known = client.list_topics(timeout=10).topics
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in TOPICS if name in known]
    states = {}
    for resource, future in client.describe_configs(resources).items() if resources else ():
        config = {
            name: entry.value for name, entry in future.result().items() if name in TOPICS[resource.name].config()
        }
        states[resource.name] = TopicState(len(known[resource.name].partitions), config)
    return states


def ensure_topics(settings: Settings) -> dict[str, TopicChange]:
    """Make the topics as `TOPICS` declares them: create, add partitions, set configuration; never remove.

    Running it again changes nothing. Returns what was done, by topic.
    """
    client = admin(settings)
    states = describe_topics(settings)
    done: dict[str, TopicChange] = dict.fromkeys(TOPICS, "unchanged")
    for name, spec in TOPICS.items():
        partitions = spec.partitions or settings.partitions
        state = states.get(name)
        if state is None:
            topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=spec.config())
            if _created(client, topic):
                done[name] = "created"
            continue
        if state.partitions < partitions:
            client.create_partitions([NewPartitions(name, partitions)])[name].result()
            done[name] = "changed"
        if state.config != spec.config():
            entries = [
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in spec.config().items()
            ]
            resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
            client.incremental_alter_configs([resource])[resource].result()
            done[name] = "changed"
    return done


def _created(client: AdminClient, topic: NewTopic) -> bool:
    try:
        client.create_topics([topic])[topic.topic].result()
    except KafkaException as error:
        # somebody else was quicker
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    return True


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """Return the next offset of each partition of a topic; empty where there is no such topic."""
    client = admin(settings)
    metadata = client.list_topics(timeout=10).topics.get(topic)
    if metadata is None:
        return {}
    return end_offsets_of(client, topic, metadata.partitions)


def end_offsets_of(
    client: AdminClient, topic: str, partitions: Iterable[int], timeout_s: float = 10.0
) -> dict[int, int]:
    """Return the next offset of partitions that there are."""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(topic, number): latest for number in partitions}
    futures = client.list_offsets(asked, request_timeout=timeout_s)
    return {partition.partition: future.result().offset for partition, future in futures.items()}
