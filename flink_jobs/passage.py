"""Up to when all that devices had sent has come through the wind's jobs: what tells silence from being behind.

>>> passage = Passage(settings)
>>> passage.passed_ms()
1767225600000
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from selfgen.clients import kafka

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

    from selfgen.settings import Settings

#: Topics, and the jobs that read them, in order.
HOPS = (("wind", "rich_sensor_wind"), ("wind_rich", "write_sensor_wind"))
#: Kafka is asked no more often than this.
_LEAST_S = 1.0
_TIMEOUT_S = 2.0


class Passage:
    """Follows the committed offsets of jobs that read from each other.

    At a moment the ends of the first topic are noted; once its job is past them, the ends of the next topic; once the
    last job is past its own, all that was there at that moment has passed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumers: dict[str, Consumer] = {}
        self._asked = 0.0
        self._passed: int | None = None
        self._moment = 0
        self._hop = 0
        self._ends: dict[int, int] | None = None

    def passed_ms(self) -> int | None:
        """Return the newest such moment, epoch ms; None where none is known. It stands still while Kafka is away."""
        from confluent_kafka import KafkaException

        if time.monotonic() - self._asked >= _LEAST_S:
            try:
                self._follow()
            except KafkaException:
                pass
            finally:
                self._asked = time.monotonic()
        return self._passed

    def _follow(self) -> None:
        if self._ends is None:
            self._moment, self._hop = time.time_ns() // 1_000_000, 0
            self._ends = self._ends_of(HOPS[0][0])
        while self._is_past(*HOPS[self._hop], self._ends):
            self._hop += 1
            if self._hop == len(HOPS):
                self._passed, self._ends = self._moment, None
                return
            self._ends = self._ends_of(HOPS[self._hop][0])

    def _ends_of(self, topic: str) -> dict[int, int]:
        return kafka.end_offsets(self._settings, topic)

    def _is_past(self, topic: str, job: str, ends: dict[int, int]) -> bool:
        """Return whether a job has no message left to read before these ends: what is left may be no message at all.

        The ends of transactions have offsets too, and so have messages of those that were given up. What is in one that
        is open can still come: reading ends before it.
        """
        from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

        consumer = self._consumer(job)
        committed = consumer.committed([TopicPartition(topic, number) for number in ends], timeout=_TIMEOUT_S)
        left = [_from(each, OFFSET_BEGINNING) for each in committed if each.offset < ends[each.partition]]
        if not left:
            return True
        consumer.assign(left)
        try:
            waiting = {each.partition for each in left}
            deadline = time.monotonic() + _TIMEOUT_S
            while waiting and time.monotonic() < deadline:
                message = consumer.poll(0.1)
                if message is None:
                    continue
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    continue
                if message.offset() < ends[message.partition()]:  # of a message, or of where reading ends
                    return False
                waiting.discard(message.partition())
            return not waiting
        finally:
            consumer.unassign()

    def _consumer(self, job: str) -> Consumer:
        from confluent_kafka import Consumer

        if job not in self._consumers:
            self._consumers[job] = Consumer(
                {
                    "bootstrap.servers": self._settings.bootstrap_servers,
                    "group.id": job,
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                },
                logger=kafka.log,
            )
        return self._consumers[job]


def _from(committed: TopicPartition, beginning: int) -> TopicPartition:
    if committed.offset < 0:  # the job has not read from it yet
        committed.offset = beginning
    return committed
