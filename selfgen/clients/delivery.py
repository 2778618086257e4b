"""Sending simulated messages to Kafka, and knowing which of them were delivered.

>>> from selfgen.settings import get_settings
>>> send(get_settings(), replay(demo_fleet(), until, days=3))  # doctest: +SKIP
{'wind': TopicTruth(produced=5208, landed=5135, ...), ...}
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import IO, Any

from confluent_kafka import KafkaError

from selfgen.clients import kafka
from selfgen.settings import Settings
from selfgen.simulation.batch import Batch
from selfgen.simulation.live import LiveFeed
from selfgen.simulation.truth import TopicTruth

#: How long the last messages may take when sending ends, s; longer than the producer's own patience.
_FLUSH_S = 320


class DeliveryError(Exception):
    """Messages that Kafka did not take within the producer's patience."""


class Sender:
    """Sends batches; counts what was delivered, and writes it to a log in the line form.

    Leaving it waits until every message was delivered or given up.

    Parameters
    ----------
    settings
        Say where Kafka is.
    log
        File to whose end goes the line of every delivered message; None: no log.
    **overrides
        Properties of the producer.

    Raises
    ------
    DeliveryError
        On leaving: messages were not delivered.
    """

    def __init__(self, settings: Settings, log: Path | None = None, **overrides: Any) -> None:
        self._producer = kafka.producer(settings, **overrides)
        self._delivered = Counter[tuple[str, str]]()
        self._failed = Counter[str]()
        self._log: IO[bytes] | None = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            self._log = log.open("ab")

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._producer.flush(_FLUSH_S)
        if self._log is not None:
            self._log.close()
        if left:
            self._failed["still waiting"] = left
        if self._failed and error is None:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in self._failed.items())
            raise DeliveryError(f"Kafka did not take {self._failed.total()} messages: {reasons}")

    def send(self, batch: Batch, *, real_time: bool = False) -> None:
        """Send a batch, in its order, each record with its event time.

        With `real_time` each message waits for its event time on the wall clock.
        """
        lines = batch.lines().to_pylist() if self._log is not None else [b""] * len(batch)
        for message, line in zip(batch.messages(), lines, strict=True):
            while real_time and (wait := message.event_ms / 1000 - time.time()) > 0:
                self._producer.poll(wait)
            kafka.produce(
                self._producer,
                message.topic,
                message.value,
                message.key,
                timestamp=message.event_ms,
                on_delivery=partial(self._on_delivery, (message.topic, message.outcome), line),
            )
        self._producer.poll(0)
        if self._log is not None:
            self._log.flush()

    def _on_delivery(self, fate: tuple[str, str], line: bytes, error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._failed[error.str()] += 1
            return
        self._delivered[fate] += 1
        if self._log is not None:
            self._log.write(line)

    def delivered(self) -> dict[str, TopicTruth]:
        """Return the counts of what was delivered so far, by topic."""
        topics: dict[str, TopicTruth] = {}
        for (name, outcome), count in self._delivered.items():
            topic = topics.setdefault(name, TopicTruth())
            topic.produced += count
            if outcome == "landed":
                topic.landed += count
            elif outcome == "duplicate":
                topic.duplicates += count
            else:
                topic.refused[outcome] = count
        return topics


def send(settings: Settings, batches: Iterable[Batch], log: Path | None = None) -> dict[str, TopicTruth]:
    """Send batches as fast as Kafka takes them; return the counts of what was delivered, by topic.

    Raises
    ------
    DeliveryError
        Messages were not delivered.
    """
    with Sender(settings, log, **{"linger.ms": 20}) as sender:
        for batch in batches:
            sender.send(batch)
    return sender.delivered()


def send_live(
    settings: Settings, feed: LiveFeed, stop: Event, *, seconds: int | None = None, log: Path | None = None
) -> dict[str, TopicTruth]:
    """Send a live feed at real speed until `stop` is set or `seconds` have passed; return what was delivered.

    Raises
    ------
    DeliveryError
        Messages were not delivered.
    """
    second = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    end = None if seconds is None else second + timedelta(seconds=seconds)
    with Sender(settings, log) as sender:
        while not stop.is_set() and (end is None or second < end):
            sender.send(feed.messages(second), real_time=True)
            second += timedelta(seconds=1)
            # devices whose messages are all under way wait for their next second
            stop.wait(max(0.0, second.timestamp() - time.time()))
    return sender.delivered()
