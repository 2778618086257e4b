"""The landing engine: a topic's messages from Kafka into MongoDB, each counted exactly once.

One process reads, judges and encodes batches, while two threads write those before, each after the other:

    consume → judge (selfgen.messages) → whose is it (registry) → encode (documents) → insert (store) → advance → commit

Where a partition goes on is decided by its progress in MongoDB, not by Kafka's committed offset, which only follows
it for the eyes of Kafka's tools.

>>> Landing("panel", get_settings(), lookup).run(stop)  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pymongo
import structlog
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from pymongo.errors import PyMongoError
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
)

from kafka_consumers import documents, health
from kafka_consumers.reporter import Reporter, first_clause
from kafka_consumers.store import Batch, Range, Store, Tally, message_id, offset_of_life
from selfgen.clients import mongo
from selfgen.messages import LATEST_MS, Decoded, as_object, decode
from selfgen.settings import Settings

log = structlog.get_logger()

#: The process of each topic: its name, and its consumer group.
PROCESSES = {"wind": "streaming_sensor_wind", "light": "streaming_sensor_light", "panel": "streaming_panel"}

#: Works that are written at once: while the progress of one advances, the next one is inserted.
_AT_ONCE = 2
#: How long a batch may fill, s: a bound on delay when messages are few.
_LINGER_S = 0.05
#: How long a rebalance or a stop waits for what is being written, and for the report, s.
_FINISH_S = 5.0
#: When a write takes longer, consuming pauses, s.
_PATIENCE_S = 1.0
#: How long the loop waits for MongoDB, s; a write, which has a thread of its own, waits on.
_ANSWER_S = 5.0
#: A round of the loop that takes longer is stuck, s.
_ROUND_S = 30.0
#: Why there is an alarm, though the message was landed.
UNKNOWN_ELEMENT = "unknown_element"
#: After every offset.
_NEVER = np.iinfo(np.int64).max
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
class Fetched:
    """Messages, and the partition and offset of each."""

    messages: Sequence[Message]
    partitions: documents.IntArray
    offsets: documents.IntArray

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Fetched:
        """Ask each message for its partition and offset."""
        partitions = np.fromiter(map(Message.partition, messages), np.int64, len(messages))
        return cls(messages, partitions, np.fromiter(map(Message.offset, messages), np.int64, len(messages)))

    def __len__(self) -> int:
        return len(self.messages)

    def part(self, first: int, end: int) -> Fetched:
        """Return the messages `[first, end)`."""
        return Fetched(self.messages[first:end], self.partitions[first:end], self.offsets[first:end])

    def by_partition(self, values: Mapping[int, int], default: int) -> documents.IntArray:
        """Return the value of each message's partition."""
        table = [values.get(number, default) for number in range(int(self.partitions.max()) + 1)]
        return np.array(table, np.int64)[self.partitions]

    def ranges(self, starts: Mapping[int, int]) -> dict[int, Range]:
        """Return the offsets of each partition, from where it starts."""
        sizes = np.fromiter(map(len, self.messages), np.int64, len(self.messages))  # type: ignore[arg-type]
        return {
            number: Range(starts[number], int(self.offsets[here].max()) + 1, int(sizes[here].sum()))
            for number in np.unique(self.partitions).tolist()
            if (here := self.partitions == number).any()
        }


@dataclass(slots=True)
class Work:
    """A batch on its way: its messages, in case it must be taken apart, and its documents."""

    fetched: Fetched
    starts: Mapping[int, int]
    batch: Batch


class Written(NamedTuple):
    """A batch that is durable: each partition's tally, None where another consumer has gone on from there."""

    batch: Batch
    tallies: dict[int, Tally | None]
    landed_ms: int


@dataclass(slots=True)
class Turn:
    """When a work is written: its documents after those of the one before, its progress after that one's.

    Where a work was given up, those after it are as well: what comes again must not find them before it.
    """

    before: Future[list[Written]] | None
    before_inserted: Future[None] | None
    inserted: Future[None] = field(default_factory=Future)

    def await_insert_of_before(self) -> None:
        """Wait until the documents of the work before are there."""
        if self.before_inserted:
            self.before_inserted.result()

    def await_end_of_before(self) -> None:
        """Wait until the work before is written."""
        if self.before:
            self.before.result()

    def let_next(self, error: BaseException | None = None) -> None:
        """Let the next work insert its documents, or give it up for this error; only the first call counts."""
        if self.inserted.done():
            return
        if error:
            self.inserted.set_exception(error)
        else:
            self.inserted.set_result(None)


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
        self._troubles: dict[str, str] = {}
        self._client = mongo.connect(settings, timeout_s=2.0)
        self._store = Store(self._client[settings.mongodb_database], self.name)
        self._consumer = Consumer(self._kafka_settings(), logger=logging.getLogger("selfgen.kafka"))
        self.reporter = Reporter(topic, self.name, settings, self._store, lambda: self._troubles.pop("kafka", None))
        self._writers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="writer")
        self._giving_up = threading.Event()
        self._retrying = Retrying(
            retry=retry_if_exception_type(PyMongoError),
            wait=wait_exponential(multiplier=0.1, max=5.0),
            sleep=sleep_using_event(self._giving_up),
            stop=stop_when_event_set(self._giving_up),
            before_sleep=lambda attempt: self._in_trouble("mongodb", attempt.outcome.exception()),
            reraise=True,
        )
        self._preparing = threading.Lock()
        self._has_collections = False
        self._assigned: set[int] = set()
        self._next: dict[int, int] = {}
        self._lives: dict[int, int] = {}
        self._refused_before: dict[int, dict[int, str]] = {}
        self._writing: deque[Future[list[Written]]] = deque()
        self._inserted: Future[None] | None = None
        self._alarmed: OrderedDict[str, None] = OrderedDict()
        self._round_at = time.monotonic()
        self._expiring: threading.Thread | None = None
        self._expired_ms = 0

    def _kafka_settings(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.settings.bootstrap_servers,
            "group.id": PROCESSES[self.topic],
            "client.id": self.name,
            "partition.assignment.strategy": "cooperative-sticky",
            "error_cb": self._on_kafka_error,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # what Kafka has removed is told, not passed over
            "session.timeout.ms": 10_000,
            "fetch.wait.max.ms": 20,
            "topic.metadata.refresh.interval.ms": 10_000,  # how soon added partitions are found
            "queued.max.messages.kbytes": 32 * 1024,
        }

    def run(self, stop: threading.Event) -> None:
        """Land until `stop` is set; then finish the batch, report, and leave the group."""
        self._consumer.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        log.info("landing", topic=self.topic, consumer=self.name)
        try:
            while not stop.is_set():
                self._round_at = time.monotonic()
                self._find_positions()
                messages = self._consumer.consume(self.settings.landing_batch, _LINGER_S)
                if messages:
                    self._troubles.pop("kafka", None)
                for work in self._prepare(self._due(messages)):
                    if not self._settle(stop, most=_AT_ONCE - 1):
                        return
                    self._submit(work)
                if self.reporter.is_due() and self._settle(stop):
                    self.reporter.begin(self._next)
                    self._expire(time.time_ns() // 1_000_000)
        finally:
            self._leave()

    def status(self) -> dict[str, Any]:
        """Return how this consumer is, for whoever asks from another thread."""
        return {
            "consumer": self.name,
            "topic": self.topic,
            "alive": time.monotonic() - self._round_at < _ROUND_S,
            "trouble": self.trouble,
            "partitions": sorted(self._next.copy()),
        }

    def _leave(self) -> None:
        self._finish()
        self._giving_up.set()
        if self.reporter.wait(0.0 if self.trouble else _FINISH_S) and not self.trouble:
            self.reporter.begin(self._next)
            self.reporter.wait(_FINISH_S)
        self.reporter.close()
        self._consumer.close()
        self._writers.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        log.info("stopped", topic=self.topic, consumer=self.name)

    # partitions come and go

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._hold(partitions)
        self._assigned |= {partition.partition for partition in partitions}

    def _hold(self, partitions: list[TopicPartition]) -> None:
        """Take partitions, and read nothing of them until it is known where to go on."""
        self._consumer.incremental_assign(
            [TopicPartition(self.topic, partition.partition, OFFSET_BEGINNING) for partition in partitions]
        )
        self._consumer.pause(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._finish()
        self.reporter.wait(0.0 if self.trouble else _FINISH_S)  # the next one tells on from there
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # A batch that is still being written is harmless: its progress moves only if nobody else's did.
        for partition in partitions:
            self._assigned.discard(partition.partition)
            self._next.pop(partition.partition, None)
        consumer.incremental_unassign(partitions)

    def _find_positions(self) -> None:
        """Seek partitions that are new or were overtaken to their progress."""
        for number in self._assigned - self._next.keys():
            partition = TopicPartition(self.topic, number)
            try:
                if not self._has_collections:
                    mongo.ensure_collections(self.settings)
                    self._has_collections = True
                first, end = self._consumer.get_watermark_offsets(partition, timeout=2.0)
                with pymongo.timeout(_ANSWER_S):
                    position = self._store.position(self.topic, number, first)
                    if not first <= position.next_offset <= end:
                        self._store.jump(self.topic, number, position.next_offset, first)
                        position = self._store.position(self.topic, number, first)
                self._consumer.seek(TopicPartition(self.topic, number, position.next_offset))
                self._consumer.resume([partition])
            except PyMongoError as error:
                self._in_trouble("mongodb", error)
                return
            except KafkaException as error:
                self._in_trouble("kafka", error)
                return
            self._next[number] = position.next_offset
            self._lives[number] = position.life
            self._refused_before[number] = position.refused
            self._troubles.clear()
            log.info("position", topic=self.topic, partition=number, offset=position.next_offset)

    def _due(self, messages: Sequence[Message]) -> Fetched:
        """Return the messages that are to be landed: nearly always all, which is seen at once."""
        if messages and not any(map(Message.error, messages)):
            fetched = Fetched.of(messages)
            if (fetched.offsets >= fetched.by_partition(self._next, _NEVER)).all():
                return fetched
        return Fetched.of([message for message in messages if self._is_next(message)])

    def _is_next(self, message: Message) -> bool:
        if error := message.error():
            log.warning("kafka", topic=self.topic, error=str(error))
            if error.code() == KafkaError._AUTO_OFFSET_RESET:  # what was to come is not there any more: look again
                self._next.pop(message.partition(), None)
                partition = [TopicPartition(self.topic, message.partition())]
                with suppress(KafkaException):  # it went meanwhile
                    self._consumer.incremental_unassign(partition)
                    self._hold(partition)
            return False
        number, expected = message.partition(), self._next.get(message.partition())
        if expected is not None and message.offset() < expected:  # the topic was made anew: look again where it begins
            self._next.pop(number)
            expected = None
        return expected is not None

    # messages become works

    def _prepare(self, fetched: Fetched) -> list[Work]:
        works = self._works(fetched, dict(self._next))
        for work in works:
            for number, offsets in work.batch.ranges.items():
                self._next[number] = offsets.end
        return works

    def _works(self, fetched: Fetched, starts: Mapping[int, int]) -> list[Work]:
        """Judge and encode messages; set aside the one that breaks the code itself."""
        if not len(fetched):
            return []
        try:
            with self._preparing:
                return [self._work(fetched, starts)]
        except Exception as error:
            if len(fetched) == 1:
                return [self._set_aside(fetched, starts, error)]
            return self._halves(fetched, starts)

    def _halves(self, fetched: Fetched, starts: Mapping[int, int]) -> list[Work]:
        middle = len(fetched) // 2
        first = self._works(fetched.part(0, middle), starts)
        ends = {number: offsets.end for work in first for number, offsets in work.batch.ranges.items()}
        return first + self._works(fetched.part(middle, len(fetched)), {**starts, **ends})

    def _work(self, fetched: Fetched, starts: Mapping[int, int]) -> Work:
        now_ms = time.time_ns() // 1_000_000
        messages, partitions = fetched.messages, fetched.partitions
        values = list(map(Message.value, messages))
        accepted = decode(self.topic, values, _received_ms(messages, now_ms))
        refusals = {refused.index: (refused.reason, refused.text) for refused in accepted.refused}
        accepted, earlier = self._without_refused_before(accepted, fetched)
        refusals |= {index: (reason, "") for index, reason in earlier.items()}
        owners = self.lookup(accepted.element_ids, accepted.event_times_ms)
        offsets = offset_of_life(fetched.offsets, fetched.by_partition(self._lives, 0))
        rows = slice(None) if len(accepted.indexes) == len(messages) else accepted.indexes
        origin = documents.Origin(partitions[rows], offsets[rows], owners.client_ids, owners.postal_codes, now_ms)
        ids = documents.identities(accepted)
        batch = Batch(
            topic=self.topic,
            ranges=fetched.ranges(starts),
            ids=ids,
            documents=documents.encode(accepted, ids, origin),
            partitions=origin.partitions,
            event_times_ms=accepted.event_times_ms,
            refusals=[(int(partitions[index]), reason) for index, (reason, _) in refusals.items()],
            alarms=[
                *(
                    self._alarm(messages[index], reason, text, now_ms)
                    for index, (reason, text) in refusals.items()
                    if index not in earlier
                ),
                *self._unknown_alarms(accepted, owners.unknown, now_ms),
            ],
        )
        return Work(fetched, starts, batch)

    def _without_refused_before(self, accepted: Decoded, fetched: Fetched) -> tuple[Decoded, dict[int, str]]:
        """Take out what an earlier try refused for its time, which has come meanwhile."""
        if not any(self._refused_before.values()):
            return accepted, {}
        earlier = {
            index: reason
            for index, (partition, offset) in enumerate(
                zip(fetched.partitions.tolist(), fetched.offsets.tolist(), strict=True)
            )
            if (reason := self._refused_before.get(partition, {}).get(offset))
        }
        keep = [place for place, index in enumerate(accepted.indexes) if index not in earlier]
        return accepted.take(keep), earlier

    def _set_aside(self, fetched: Fetched, starts: Mapping[int, int], error: Exception) -> Work:
        """Make an alarm of a message that breaks the code."""
        [message] = fetched.messages
        log.error("internal_error", topic=self.topic, offset=message.offset(), error=repr(error))
        number, offset = message.partition(), message.offset()
        text = f"the landing itself failed on this message: {error!r}; report it, then replay it"
        size = len(message.value() or b"")
        batch = Batch(
            topic=self.topic,
            ranges={number: Range(starts[number], offset + 1, size)},
            ids=[],
            documents=documents.Encoded(pa.array([], pa.binary())),
            partitions=np.empty(0, np.int64),
            event_times_ms=np.empty(0, np.int64),
            refusals=[(number, "internal_error")],
            alarms=[self._alarm(message, "internal_error", text, time.time_ns() // 1_000_000)],
        )
        return Work(fetched, starts, batch)

    def _alarm(self, message: Message, reason: str, text: str, now_ms: int) -> mongo.Document:
        _, sent_ms = message.timestamp()
        key, partition = message.key(), message.partition()
        offset = offset_of_life(message.offset(), self._lives.get(partition, 0))
        return {
            "_id": message_id(self.topic, partition, offset),
            "topic_id": self.topic,
            "timestamp": DatetimeMS(min(max(sent_ms, 0), LATEST_MS - 1)),
            "msg_value": Binary((message.value() or b"")[:_ALARM_BYTES]),
            "text_alarm": text,
            "reason": reason,
            "key": Binary(key) if key else None,
            "received_at": DatetimeMS(now_ms),
            "kafka": {"partition": partition, "offset": Int64(offset)},
        }

    def _unknown_alarms(
        self, accepted: Decoded, unknown: np.ndarray[Any, np.dtype[np.bool_]], now_ms: int
    ) -> list[mongo.Document]:
        """Return an alarm for each unknown element and hour that has none yet."""
        alarms: dict[str, mongo.Document] = {}
        for place in np.flatnonzero(unknown).tolist():
            element_id = accepted.element_ids[place]
            hour_ms = int(accepted.event_times_ms[place]) // mongo.HOUR_MS * mongo.HOUR_MS
            identity = f"{self.topic}|{UNKNOWN_ELEMENT}|{hour_ms:013d}|{element_id}"
            if identity in self._alarmed or identity in alarms:
                continue
            alarms[identity] = {
                "_id": identity,
                "topic_id": self.topic,
                "timestamp": DatetimeMS(int(accepted.event_times_ms[place])),
                "msg_value": as_object(accepted.messages[place]),
                "text_alarm": f"the registry does not know {self.topic} {element_id}; its readings are kept, "
                "register it to have them in the reports",
                "reason": UNKNOWN_ELEMENT,
                "element_id": element_id,
                "received_at": DatetimeMS(now_ms),
            }
        return list(alarms.values())

    def _remember_alarms(self, written: Sequence[mongo.Document]) -> None:
        """Know which unknown elements' hours have their alarm."""
        self._alarmed.update((alarm["_id"], None) for alarm in written if alarm["reason"] == UNKNOWN_ELEMENT)
        while len(self._alarmed) > _REMEMBERED_ALARMS:
            self._alarmed.popitem(last=False)

    # works are written

    def _submit(self, work: Work) -> None:
        if work.batch.ranges.keys() <= self._next.keys():
            turn = Turn(self._writing[-1] if self._writing else None, self._inserted)
            self._writing.append(self._writers.submit(self._write, work, turn))
            self._inserted = turn.inserted
        else:  # a partition went meanwhile; the others read theirs again
            for number in work.batch.ranges:
                self._next.pop(number, None)

    def _write(self, work: Work, turn: Turn) -> list[Written]:
        """Write a work in its turn, as long as it takes; take it apart where MongoDB refuses a document of it."""
        try:
            turn.await_insert_of_before()
            try:
                written = [self._written_in_turn(work.batch, turn)]
            except PyMongoError:
                raise
            except Exception as error:
                turn.await_end_of_before()
                written = self._write_apart(work, error)
        except Exception as error:
            turn.let_next(error)
            raise
        turn.let_next()
        return written

    def _written_in_turn(self, batch: Batch, turn: Turn) -> Written:
        inserted = self._retrying(self._store.insert, batch)
        if not inserted.replacements:  # else the next one must find what these leave
            turn.let_next()
        turn.await_end_of_before()
        tallies = self._retrying(self._store.advance, inserted)
        return Written(batch, tallies, time.time_ns() // 1_000_000)

    def _write_apart(self, work: Work, error: Exception) -> list[Written]:
        if len(work.fetched) == 1:
            # where its alarm is not taken either, the process ends and says why: no message is passed over
            return [self._written(self._set_aside(work.fetched, work.starts, error).batch)]
        log.warning("taken apart", topic=self.topic, messages=len(work.fetched), error=repr(error))
        parts = self._halves(work.fetched, work.starts)
        return [written for part in parts for written in self._write_part(part)]

    def _write_part(self, work: Work) -> list[Written]:
        try:
            return [self._written(work.batch)]
        except PyMongoError:
            raise
        except Exception as error:
            return self._write_apart(work, error)

    def _written(self, batch: Batch) -> Written:
        tallies = self._retrying(self._store.land, batch)
        return Written(batch, tallies, time.time_ns() // 1_000_000)

    @property
    def trouble(self) -> str | None:
        """Why nothing is landed; None while all is well."""
        return "; ".join(self._troubles.values()) or None

    def _in_trouble(self, server: Literal["kafka", "mongodb"], error: object) -> None:
        self._troubles[server] = f"{server}: {first_clause(error)}"
        log.warning("waiting", topic=self.topic, consumer=self.name, trouble=self._troubles[server])

    def _on_kafka_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._in_trouble("kafka", error)

    def _settle(self, stop: threading.Event, most: int = 0) -> bool:
        """Wait until at most so many works are being written, and keep the place in the group meanwhile.

        Returns
        -------
        bool
            False where that was not so before the stop.
        """
        while len(self._writing) > most:
            if not wait([self._writing[0]], _PATIENCE_S).done:
                self._pause(self._consumer.pause, self._assigned)
                # a partition that goes meanwhile settles it: `_on_revoke`
                while self._writing and not self._writing[0].done() and not stop.is_set():
                    self._round_at = time.monotonic()
                    message = self._consumer.poll(0.2)
                    if message is not None and self._is_next(message):
                        self._next.pop(message.partition(), None)  # to be read again
                self._pause(self._consumer.resume, self._assigned & self._next.keys())
            if not self._collect():
                return False
        return True

    def _finish(self) -> None:
        """Give what is being written a last chance; none while MongoDB is away."""
        wait(self._writing, 0.0 if "mongodb" in self._troubles else _FINISH_S)
        self._collect()

    def _pause(self, action: Callable[[list[TopicPartition]], None], numbers: Iterable[int]) -> None:
        with suppress(KafkaException):  # a partition that went meanwhile
            action([TopicPartition(self.topic, number) for number in numbers])

    def _collect(self) -> bool:
        """Take the results of the works that are written; False where the first one is not, or was given up."""
        collected = False
        while self._writing and self._writing[0].done():
            writing = self._writing.popleft()
            if isinstance(writing.exception(), PyMongoError):  # given up at the stop: its messages come again
                return False
            self._take(writing.result())
            collected = True
        return collected or not self._writing

    def _take(self, works: Sequence[Written]) -> None:
        """Take what became of a work's partitions."""
        self._troubles.pop("mongodb", None)
        done: dict[int, int] = {}
        for batch, tallies, landed_ms in works:
            self._remember_alarms(batch.alarms)
            for number, tally in tallies.items():
                if tally is None:
                    log.info("overtaken", topic=self.topic, partition=number)
                    self._next.pop(number, None)
                    continue
                done[number] = batch.ranges[number].end
                self.reporter.count(number, (landed_ms - batch.event_times_ms[batch.partitions == number]) / 1000)
                health.count(self.topic, number, tally)
        if done:
            with suppress(KafkaException):  # nothing depends on it
                self._consumer.commit(
                    offsets=[TopicPartition(self.topic, number, end) for number, end in done.items()],
                    asynchronous=True,
                )

    # what is kept no longer

    def _expire(self, now_ms: int) -> None:
        """Once an hour, one consumer of the topic has a thread remove the readings that are kept no longer."""
        hour_ms = now_ms // mongo.HOUR_MS * mongo.HOUR_MS
        busy = self._expiring is not None and self._expiring.is_alive()
        if 0 not in self._next or hour_ms == self._expired_ms or busy:
            return
        self._expired_ms = hour_ms
        before_ms = hour_ms - int(self.settings.raw_retention_days * 24) * mongo.HOUR_MS
        # nobody waits for it: what is left is removed at the next hour
        self._expiring = threading.Thread(target=self._remove_before, args=(before_ms,), name="expiry", daemon=True)
        self._expiring.start()

    def _remove_before(self, before_ms: int) -> None:
        try:
            removed = mongo.expire(self._store.database, self.topic, before_ms)
        except PyMongoError as error:
            log.warning("not expired", topic=self.topic, error=first_clause(error))
            return
        if removed:
            log.info("expired", topic=self.topic, readings=removed, before_ms=before_ms)


def _received_ms(messages: Sequence[Message], now_ms: int) -> documents.IntArray:
    """Return when messages were received, epoch ms: by the broker's clock where it stamps them, as the wind jobs do.

    So it does not depend on how far landing lags which readings are too far ahead.
    """
    kinds, times_ms = zip(*map(Message.timestamp, messages), strict=True)
    if TIMESTAMP_LOG_APPEND_TIME not in kinds:
        return np.full(len(messages), now_ms)
    return np.where(np.array(kinds) == TIMESTAMP_LOG_APPEND_TIME, times_ms, now_ms)


def counts(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return what became of each topic's messages, as the consumers counted it.

    Returns
    -------
    dict
        `{topic: {landed, duplicates, replaced, refused: {reason: n}, consumed}}`; `consumed` is the sum.
    """
    with mongo.connect(settings) as client:
        progress = list(client[settings.mongodb_database]["landing_progress"].find())
    result = {}
    for topic in PROCESSES:
        tally = Tally()
        for document in progress:
            if document["topic_id"] == topic:
                tally.add(Tally.of(document))
        result[topic] = {
            "landed": tally.landed,
            "duplicates": tally.duplicates,
            "replaced": tally.replaced,
            "refused": dict(tally.refused),
            "consumed": tally.messages,
        }
    return result


def stored(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return how many documents the stores hold: what `counts` must agree with while nothing has expired.

    Returns
    -------
    dict
        `{topic: {landed: readings, refused: {reason: alarms}}}`.
    """
    with mongo.connect(settings) as client:
        database = client[settings.mongodb_database]
        grouped = list(
            database["topic_alarm"].aggregate(
                [
                    {"$match": {"kafka": {"$exists": True}, "replayed_at": None}},
                    {"$group": {"_id": {"topic": "$topic_id", "reason": "$reason"}, "count": {"$sum": 1}}},
                ]
            )
        )
        return {
            topic: {
                "landed": database["topic"].count_documents({"_id": {"$gte": f"{topic}|", "$lt": f"{topic}}}"}}),
                "refused": {row["_id"]["reason"]: row["count"] for row in grouped if row["_id"]["topic"] == topic},
            }
            for topic in PROCESSES
        }
