"""What a consumer tells operators: rows of `topic_performance`, and the alarms of its partitions' entrance.

It waits for Kafka and MongoDB in a thread of its own, and landing goes on meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
import pymongo
import structlog
from confluent_kafka import KafkaError, KafkaException, Message
from pymongo.errors import PyMongoError

from kafka_consumers import health
from kafka_consumers.entrance import Bounds, Numbers, judge
from kafka_consumers.store import Store
from selfgen import performance
from selfgen.clients import kafka
from selfgen.performance import PERFORMANCE_TOPIC, DelaySketch, Totals
from selfgen.settings import Settings

log = structlog.get_logger()

#: How long a report waits for MongoDB, s.
_ANSWER_S = 5.0
#: How long it waits for Kafka to take its rows, s.
_TELLING_S = 2.0


class Reporter:
    """The reports of one consumer of a topic, one at a time.

    Parameters
    ----------
    topic, consumer : str
        Of whom they tell.
    settings : Settings
        How often it tells, and where Kafka is.
    store : Store
        Notes what was told.
    reached : callable
        Is called when Kafka and MongoDB have taken a report.
    """

    def __init__(
        self,
        topic: str,
        consumer: str,
        settings: Settings,
        store: Store,
        reached: Callable[[], object],
    ) -> None:
        self.topic = topic
        self.consumer = consumer
        self.bounds = Bounds()
        self._store = store
        self._reached = reached
        self._producer = kafka.producer(settings)
        self._admin = kafka.admin(settings)  # the consumer's own calls wait for one another
        self._every_s = settings.landing_report_s
        self._next_at = time.monotonic() + self._every_s
        self._delays: dict[int, DelaySketch] = {}
        self._teller = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reporter")
        self._telling: Future[dict[int, DelaySketch]] | None = None

    def count(self, partition: int, delays_s: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Count the delays of readings that became durable, s; the next report tells them."""
        self._delays.setdefault(partition, DelaySketch()).add(delays_s)

    def is_due(self) -> bool:
        """Tell whether it is time for a report, and the one before is done."""
        return time.monotonic() >= self._next_at and self.wait(0.0)

    def begin(self, partitions: Iterable[int]) -> None:
        """Begin to tell what happened in partitions since their last report; while nothing of them is being written."""
        self._next_at = time.monotonic() + self._every_s
        try:
            with pymongo.timeout(_ANSWER_S):
                totals = self._store.totals(self.topic, partitions)
        except PyMongoError as error:
            self._fail(error)
            return
        delays, self._delays = self._delays, {}
        self._telling = self._teller.submit(self._tell, totals, delays)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a report that was begun, and tell whether it is done."""
        if self._telling is None:
            return True
        if not wait([self._telling], timeout_s).done:
            return False
        telling, self._telling = self._telling, None
        for partition, untold in telling.result().items():
            self._delays.setdefault(partition, DelaySketch()).merge(untold)
        return True

    def close(self) -> None:
        """Begin no more."""
        self._teller.shutdown(wait=False, cancel_futures=True)

    def _tell(self, totals: Mapping[int, Totals], delays: dict[int, DelaySketch]) -> dict[int, DelaySketch]:
        """Send each partition's row; return the delays that could not be told."""
        untold = delays.copy()
        if not totals:
            return untold
        try:
            with pymongo.timeout(_ANSWER_S):
                # a row that may yet be delivered must not be told again in the next one's numbers
                if self._producer.flush(_TELLING_S) == 0:
                    ends = kafka.end_offsets_of(self._admin, self.topic, totals, _TELLING_S)
                    for partition, end in sorted(ends.items()):
                        self._tell_of(partition, end, totals[partition], delays.get(partition, DelaySketch()))
                        untold.pop(partition, None)
                    if self._producer.flush(_TELLING_S) == 0:
                        self._reached()
        except (KafkaException, PyMongoError) as error:
            self._fail(error)
        return untold

    def _fail(self, error: Exception) -> None:
        log.warning("no report", topic=self.topic, error=first_clause(error))

    def _tell_of(self, partition: int, end: int, totals: Totals, delays: DelaySketch) -> None:
        now_ms = time.time_ns() // 1_000_000
        progress = self._store.progress(self.topic, partition)
        reported = progress.get("reported")
        row = performance.row(
            self.topic,
            partition,
            self.consumer,
            totals,
            Totals(**reported or {}),
            max(end - progress["next_offset"], 0),
            delays,
            now_ms,
        )
        health.show(row)
        silent_s = self._store.silent_s(self.topic, now_ms) if partition == 0 else None
        numbers = Numbers(row["lag"], row["messages"], row["rejected"], row["delay_p95"], silent_s)
        state, events = judge(progress.get("alarms", {}), numbers, now_ms, self.bounds)
        self._store.raise_events(self.topic, partition, events, now_ms)

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                self._store.note_reported(self.topic, partition, reported, asdict(totals), row, state)

        key = f"{self.topic}|{partition}"
        self._producer.produce(PERFORMANCE_TOPIC, msgspec.json.encode(row), key, on_delivery=delivered)


def first_clause(error: object) -> str:
    """Return what went wrong, without the driver's picture of its servers."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    if isinstance(error, KafkaError):
        error = error.str()
    return str(error).partition(" (configured timeouts")[0]
