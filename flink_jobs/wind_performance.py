"""What operators see of the wind jobs: throughput and lag by partition, and the delay from a window's end to its row.

    committed offsets of the jobs ─┐
    rows of the jobs ──────────────┴─► topic_performance

A job's offsets are those that it commits with its checkpoints. Which of them were reported is kept as offsets of this
process's own consumer groups, so that its counts go on where it was stopped.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from selfgen.clients import kafka
from selfgen.messages import SET_ASIDE
from selfgen.performance import PERFORMANCE_TOPIC, DelaySketch, Totals, row
from selfgen.settings import Settings, get_settings
from selfgen.stopping import stop_event

if TYPE_CHECKING:
    from threading import Event

NAME = "wind_performance"

_POLL_S = 0.1
_BATCH = 10_000
_TIMEOUT_S = 5.0
_WINDOW_MS = 1000
_SAID_BY_LANDING = ("bytes", "rejected", "duplicates", *(f"refused_{reason}" for reason in SET_ASIDE))

log = structlog.get_logger()


class Hop(NamedTuple):
    """A job, its input and its output: rows of windows, keyed as the input is."""

    consumer: str
    topic: str
    output: str
    row_for_message: bool
    """Whether each message makes one row: then rows are counted, as a transaction's end takes an offset, too."""


HOPS = (
    Hop("rich_sensor_wind", "wind", "wind_rich", row_for_message=False),
    Hop("write_sensor_wind", "wind_rich", "wind_report", row_for_message=True),
)


class _Window(msgspec.Struct):
    timestamp: int


class Watch:
    """Follows one job."""

    def __init__(self, settings: Settings, hop: Hop) -> None:
        self._hop = hop
        common = {"bootstrap.servers": settings.bootstrap_servers, "enable.auto.commit": False}
        # joins no group: it only asks for what the job has committed
        self._job = Consumer({**common, "group.id": hop.consumer}, logger=kafka.log)
        self._rows = Consumer(
            {**common, "group.id": f"{NAME}-{hop.consumer}", "isolation.level": "read_committed"}, logger=kafka.log
        )
        self._decoder = msgspec.json.Decoder(_Window)
        self._delays: defaultdict[int, DelaySketch] = defaultdict(DelaySketch)
        self._read: Counter[int] = Counter()
        self._next: dict[int, int] = {}
        self._consumed: dict[int, int] = {}
        self._live_from: dict[int, int] = {}

    def close(self) -> None:
        """Leave Kafka."""
        self._job.close()
        self._rows.close()

    def read(self) -> None:
        """Take the rows that have become readable."""
        if not self._next:
            self._assign()
        messages = self._rows.consume(_BATCH, _POLL_S)
        now_ms = time.time_ns() // 1_000_000
        late: defaultdict[int, list[float]] = defaultdict(list)
        for message in messages:
            if message.error():
                continue
            number, offset = _place(message)
            self._next[number] = offset + 1
            self._read[number] += 1
            if offset >= self._live_from[number]:  # how long older rows took is not known
                ended_ms = self._decoder.decode(message.value() or b"").timestamp + _WINDOW_MS
                late[number].append((now_ms - ended_ms) / 1000)
        for number, delays_s in late.items():
            self._delays[number].add(np.array(delays_s))

    def report(self) -> list[dict[str, object]]:
        """Return a row of `topic_performance` for each partition that the job has read; then `reported`."""
        now_ms = time.time_ns() // 1_000_000
        self._assign()  # those that were added meanwhile
        partitions = _partitions(self._rows, self._hop.topic)
        consumed = _offsets(self._job.committed(partitions, timeout=_TIMEOUT_S))
        before = _offsets(self._rows.committed(partitions, timeout=_TIMEOUT_S))
        rows: list[dict[str, object]] = []
        for number, done in sorted(consumed.items()):
            first, end = self._rows.get_watermark_offsets(TopicPartition(self._hop.topic, number), timeout=_TIMEOUT_S)
            start = _start(before.get(number), first, done)
            count = self._read[number] if self._hop.row_for_message else done - start
            numbers = (Totals(messages=count), Totals(), max(end - done, 0), self._delays[number], now_ms)
            told = row(self._hop.topic, number, self._hop.consumer, *numbers)
            rows.append(told | dict.fromkeys(_SAID_BY_LANDING))
        self._consumed = consumed
        return rows

    def reported(self) -> None:
        """Note that the rows of the last report are in Kafka."""
        # rows are readable before the job commits how far it read: those of such a partition wait for the next report
        told = self._next.keys() & self._consumed.keys()
        offsets = [TopicPartition(self._hop.topic, number, offset) for number, offset in self._consumed.items()]
        offsets += [TopicPartition(self._hop.output, number, self._next[number]) for number in told]
        if offsets:
            self._rows.commit(offsets=offsets, asynchronous=False)
        for number in told:
            self._read.pop(number, None)
            self._delays.pop(number, None)

    def _assign(self) -> None:
        """Take up partitions that are not read yet, behind the last row that was reported."""
        found = _partitions(self._rows, self._hop.output)
        partitions = [each for each in found if each.partition not in self._next]
        if not partitions:
            return
        before = _offsets(self._rows.committed(partitions, timeout=_TIMEOUT_S))
        for each in partitions:
            first, end = self._rows.get_watermark_offsets(each, timeout=_TIMEOUT_S)
            self._live_from[each.partition] = end
            each.offset = self._next[each.partition] = _start(before.get(each.partition), first, end)
        self._rows.incremental_assign(partitions)


def _start(reported: int | None, first: int, end: int) -> int:
    """Return where to count from: the first where nothing was reported, or that was of a topic made anew since."""
    return first if reported is None or reported > end else reported


def _place(message: Message) -> tuple[int, int]:
    number, offset = message.partition(), message.offset()
    assert number is not None  # noqa: S101
    assert offset is not None  # noqa: S101
    return number, offset


def _partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
    return [TopicPartition(topic, number) for number in found.partitions]


def _offsets(partitions: list[TopicPartition]) -> dict[int, int]:
    """Return what was committed, by partition."""
    return {partition.partition: partition.offset for partition in partitions if partition.offset >= 0}


def run(settings: Settings, stop: Event) -> None:
    """Report every `landing_report_s` until `stop` is set; then once more."""
    producer = kafka.producer(settings)

    def report() -> None:
        for watch in watches:
            for told in watch.report():
                key = f"{told['topic_id']}|{told['partition']}|{told['consumer']}"
                producer.produce(PERFORMANCE_TOPIC, msgspec.json.encode(told), key=key)
            if producer.flush(_TIMEOUT_S) == 0:
                watch.reported()

    watches = [Watch(settings, hop) for hop in HOPS]
    with closing(watches[0]), closing(watches[1]):
        report_at = time.monotonic() + settings.landing_report_s
        while not stop.is_set():
            try:
                for watch in watches:
                    watch.read()
                if time.monotonic() >= report_at:
                    report_at = time.monotonic() + settings.landing_report_s
                    report()
            except KafkaException as error:
                log.warning("no report", error=str(error))
                stop.wait(1.0)
        try:
            report()
        except KafkaException as error:
            log.warning("no last report", error=str(error))


if __name__ == "__main__":
    run(get_settings(), stop_event())
