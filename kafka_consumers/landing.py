"""The landing engine: a topic's messages from Kafka into MongoDB, each counted exactly once.

One process reads, judges and encodes batches, while its second thread writes the one before:

    consume → judge (selfgen.messages) → whose is it (registry) → encode (documents) → write (store) → commit

Where a partition goes on is decided by its progress in MongoDB, not by Kafka's committed offset, which only follows
it for the eyes of Kafka's tools.

>>> Landing("panel", get_settings(), lookup).run(stop)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import structlog
from confluent_kafka import Consumer, Message, Producer

from kafka_consumers import documents, performance
from kafka_consumers.store import Batch, Store, Tally
from selfgen.clients import mongo
from selfgen.messages import Decoded
from selfgen.settings import Settings

log = structlog.get_logger()

#: The process of each topic: its name, and its consumer group.
PROCESSES = {"wind": "streaming_sensor_wind", "light": "streaming_sensor_light", "panel": "streaming_panel"}
PERFORMANCE_TOPIC = "topic_performance"

#: How long a batch may fill, s: a bound on delay when messages are few.
_LINGER_S = 0.05
#: How long a rebalance or a stop waits for the batch that is being written, s.
_FINISH_S = 8.0
#: When a write takes longer, consuming pauses, s.
_PATIENCE_S = 1.0
#: How many unknown elements' hours are remembered as alarmed.
_REMEMBERED_ALARMS = 100_000
#: Bytes of a refused message that its alarm keeps: all, but of what no document could hold.
_ALARM_BYTES = 8 * 1024 * 1024


class Owners(NamedTuple):
    """Whose elements these are: columns; `unknown` only where the registry says that it has none such."""

    client_ids: Sequence[str | None]
    postal_codes: Sequence[str | None]
    unknown: np.ndarray[Any, np.dtype[np.bool_]]


#: (element ids, event times in epoch ms) → owners; from a cache, never waiting for a server.
Lookup = Callable[[Sequence[str], documents.IntArray], Owners]


@dataclass(slots=True)
class Work:
    """A batch on its way: its messages, in case it must be taken apart, and its documents."""

    messages: Sequence[Message]
    starts: dict[int, int]
    batch: Batch
    accepted: Decoded


class Landing:
    """One consumer of one topic.

    Parameters
    ----------
    topic : str
        `wind`, `light` or `panel`.
    settings : Settings
        Where the servers are, and how large a batch may be.
    lookup : Lookup
        The registry's cache.
    """

    def __init__(self, topic: str, settings: Settings, lookup: Lookup) -> None:
        self.topic = topic
        self.settings = settings
        self.lookup = lookup
        self.name = f"{PROCESSES[topic]}-{socket.gethostname()}-{os.getpid()}"
        #: why consuming pauses; None while it goes on
        self.trouble: str | None = None
        self._client = mongo.connect(settings, timeout_s=2.0)
        self._store = Store(self._client[settings.mongodb_database], self.name)
        self._consumer = Consumer(self._kafka_settings(), logger=_KafkaLog())
        self._producer = Producer(
            {"bootstrap.servers": settings.bootstrap_servers, "enable.idempotence": True}, logger=_KafkaLog()
        )
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._giving_up = threading.Event()
        self._assigned: set[int] = set()
        self._next: dict[int, int] = {}
        self._refused_before: dict[int, dict[int, str]] = {}
        self._writing: Future[list[tuple[Work, dict[int, Tally | None]]]] | None = None
        self._alarmed: OrderedDict[str, None] = OrderedDict()
        self._delays: dict[int, performance.DelaySketch] = {}
        self._report_at = time.monotonic() + settings.landing_report_s

    def _kafka_settings(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.settings.bootstrap_servers,
            "group.id": PROCESSES[self.topic],
            "client.id": self.name,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10_000,
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": 32 * 1024,
        }

    def run(self, stop: threading.Event) -> None:
        """Land until `stop` is set; then finish the batch, report and leave the group."""
        self._consumer.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        log.info("landing", topic=self.topic, consumer=self.name)
        try:
            while not stop.is_set():
                self._find_positions()
                messages = self._consumer.consume(self.settings.landing_batch, _LINGER_S)
                works = self._prepare([message for message in messages if self._is_next(message)])
                for work in works:
                    self._settle(stop)
                    self._submit(work)
                if self._writing and self._writing.done():
                    self._settle(stop)
                if time.monotonic() >= self._report_at:
                    self._settle(stop)
                    self._report()
        finally:
            self._finish()
            self._report()
            self._consumer.close()
            self._writer.shutdown(wait=False, cancel_futures=True)
            self._client.close()
            log.info("stopped", topic=self.topic, consumer=self.name)
