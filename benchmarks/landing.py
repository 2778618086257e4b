"""Landing a million panel messages: throughput against MongoDB's sink connector and MongoDB's limit, and the delay.

All take the same messages from the same four partitions into the same MongoDB, one after another, each into a
database of its own. A rate counts from the first tenth on, so that nobody pays for its start. The landing looks each
reading's owner up in the registry's stand-in, which holds every panel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.connect import DEFAULT, TUNED, connector
from benchmarks.form import Figure
from benchmarks.servers import own_stack, register
from kafka_consumers.landing import counts
from kafka_consumers.store import Tally
from selfgen.clients import kafka, mongo
from selfgen.performance import PERFORMANCE_TOPIC
from selfgen.settings import Settings
from stack import lifecycle

TOPIC = "panel"
_START = datetime(2026, 6, 1, tzinfo=UTC)
_STEP_MS = 60_000
_POLL_S = 0.05
_PATIENCE_S = 180.0
_LEAVING_S = 60.0
#: A rate counts from this share of the messages on.
_WARM_SHARE = 0.1
_BULK = 10_000

_OF_DEFAULT, _OF_BEST = 3.0, 1.2
_OF_LIMIT_ONE, _OF_LIMIT_TWO = 0.75, 0.9
_SECOND_OF_FIRST = 0.4
_DELAY_P99_MS = 250.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    messages: int = 1_000_000
    panels: int = 10_000
    rate: int = 5_000
    """Messages a second, while the delay is measured."""
    paced_s: float = 50.0
    report_s: float = 15.0
    """Time between two of a consumer's reports of its delays; the first in the paced time is left out."""


@dataclass(frozen=True)
class Measured:
    """What one contestant did."""

    rate: float
    """Messages a second."""
    mongod_cpu_s: float
    """Processor time of MongoDB for a million messages."""
    own_cpu_s: float
    """The same of the contestant."""


def run(settings: Settings) -> list[Figure]:
    """Measure a million messages on a stack of its own."""
    with own_stack(
        settings.model_copy(update={"partitions": 4, "mongodb_cache_mib": 1024}),
        "landing",
        *("kafka", "mongodb", "couchbase"),
    ) as own:
        return measure(own, Plan())


def measure(settings: Settings, plan: Plan) -> list[Figure]:
    """Carry out a plan on a running stack of one's own with empty topics; return the figures."""
    settings = settings.model_copy(update={"landing_report_s": plan.report_s})
    kafka.ensure_topics(settings)
    register(settings, "panel", [_panel(number) for number in range(plan.panels)])
    _send_all(settings, plan)
    first = _into(settings, "first")
    one = _landing(first, plan, 1)
    two = _landing(_into(settings, "two"), plan, 2)
    default = _connecting(_into(settings, "sink_default"), plan, DEFAULT)
    tuned = _connecting(_into(settings, "sink_tuned"), plan, TUNED)
    clustered = _connecting(_into(settings, "sink_clustered"), plan, TUNED, clustered=True)
    best = max(tuned, clustered, key=lambda measured: measured.rate)
    encoded = _encoded(first)
    limit = _limit(_into(settings, "limit"), encoded, 1)
    limit_two = _limit(_into(settings, "limit_two"), encoded, 2)
    del encoded
    read_s, readings = _read_hour(first)
    _send_all(settings, plan)
    with _consumed(first, plan.messages) as consumed, _consumers(first, 1) as processes:
        again = _watch(first, processes, plan.messages, consumed)
        _expect(first, landed=plan.messages, duplicates=plan.messages)
        delays = _paced(first, plan)
    return [
        Figure("one process", round(one.rate), "messages/s"),
        *_cpu("one process", one),
        Figure("sink connector, default", round(default.rate), "messages/s"),
        *_cpu("sink connector, default", default),
        Figure("sink connector, tuned", round(tuned.rate), "messages/s"),
        Figure("sink connector, tuned, clustered", round(clustered.rate), "messages/s"),
        *_cpu("sink connector, the better", best),
        Figure("one process / sink's default", _ratio(one, default), "×", bar=(">=", _OF_DEFAULT)),
        Figure("one process / sink's best", _ratio(one, best), "×", bar=(">=", _OF_BEST)),
        Figure("limit: bulk inserts, one thread", round(limit.rate), "messages/s"),
        *_cpu("limit", limit),
        Figure("limit: bulk inserts, two threads", round(limit_two.rate), "messages/s"),
        Figure("one process / limit of one thread", _ratio(one, limit), "", bar=(">=", _OF_LIMIT_ONE)),
        Figure("two processes", round(two.rate), "messages/s", round(one.rate)),
        *_cpu("two processes", two),
        Figure("two processes / one", _ratio(two, one), "×"),
        Figure("two processes / limit of two threads", _ratio(two, limit_two), "", bar=(">=", _OF_LIMIT_TWO)),
        Figure("second delivery, all duplicates", round(again.rate), "messages/s", round(one.rate)),
        *_cpu("second delivery", again),
        Figure("second delivery / first", _ratio(again, one), "", bar=(">=", _SECOND_OF_FIRST)),
        Figure("one hour read back", round(read_s, 2), "s"),
        Figure("readings of that hour", readings, "readings"),
        Figure(f"delay at {plan.rate}/s, median", round(delays["delay_p50"] * 1000, 1), "ms"),
        Figure(f"delay at {plan.rate}/s, p99", round(delays["delay_p99"] * 1000, 1), "ms", bar=("<=", _DELAY_P99_MS)),
        Figure(f"delay at {plan.rate}/s, longest", round(delays["delay_max"] * 1000, 1), "ms"),
        Figure("messages", plan.messages, "messages"),
    ]


def _cpu(name: str, measured: Measured) -> list[Figure]:
    return [
        Figure(f"{name}: processor time of its own", round(measured.own_cpu_s, 1), "s/million"),
        Figure(f"{name}: processor time of mongod", round(measured.mongod_cpu_s, 1), "s/million"),
    ]


def _ratio(ours: Measured, theirs: Measured) -> float:
    return round(ours.rate / theirs.rate, 2)


def _into(settings: Settings, database: str) -> Settings:
    return settings.model_copy(update={"mongodb_database": database})


# what goes in


def _panel(number: int) -> str:
    return f"panel-{number:05d}"


def _send_all(settings: Settings, plan: Plan) -> None:
    """Send the same messages, one of each panel a minute."""
    producer = kafka.producer(settings, **{"linger.ms": 50})
    panels = [_panel(number) for number in range(plan.panels)]
    for number in range(plan.messages):
        row, place = divmod(number, plan.panels)
        if place == 0:
            time_ = f"{_START + row * timedelta(milliseconds=_STEP_MS):%Y-%m-%dT%H:%M:%SZ}"
        kafka.produce(producer, TOPIC, _message(panels[place], f'"{time_}"', number), panels[place])
    if producer.flush(120):
        raise AssertionError("Kafka did not take everything")


def _message(panel: str, time_: str | int, number: int) -> bytes:
    power, temperature = number * 7919 % 400_000 / 100, number % 500 / 10
    return f'{{"panel_id":"{panel}","timestamp":{time_},"power":{power},"temperature":{temperature}}}'.encode()


# contestants


def _landing(settings: Settings, plan: Plan, processes: int) -> Measured:
    mongo.ensure_collections(settings)
    with _consumed(settings) as consumed, _consumers(settings, processes) as running:
        measured = _watch(settings, running, plan.messages, consumed, consumers=processes)
    _expect(settings, landed=plan.messages, duplicates=0)
    return measured


@contextmanager
def _consumed(settings: Settings, before: int = 0) -> Iterator[Callable[[], int]]:
    """Count the messages that progressed: by one client, for whoever measures must not take from what is measured."""
    with mongo.connect(settings) as client:
        progress = client[settings.mongodb_database]["landing_progress"]
        yield lambda: sum(Tally.of(document).messages for document in progress.find({"topic_id": TOPIC})) - before


def _expect(settings: Settings, landed: int, duplicates: int) -> None:
    found = counts(settings)[TOPIC]
    if (found["landed"], found["duplicates"]) != (landed, duplicates):
        raise AssertionError(f"{found}; should be {landed} landed, {duplicates} duplicates")


@contextmanager
def _consumers(settings: Settings, processes: int) -> Iterator[list[psutil.Process]]:
    """Run landing processes meanwhile."""
    with ExitStack() as stack:
        log = stack.enter_context((settings.stack_dir / "consumers.log").open("ab"))
        running = [
            stack.enter_context(_ended(subprocess.Popen(
                [sys.executable, "-m", "kafka_consumers.streaming_panel"],
                env=settings.environment(), stdout=log, stderr=log,
            )))
            for _ in range(processes)
        ]  # fmt: skip
        yield [psutil.Process(process.pid) for process in running]


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process end in good order."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _connecting(settings: Settings, plan: Plan, form: Mapping[str, str], *, clustered: bool = False) -> Measured:
    with mongo.connect(settings) as client:
        found = client[settings.mongodb_database]
        options = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}} if clustered else {}
        found.create_collection("topic", **options)
        with connector(settings, TOPIC, "topic", form) as process:
            landed = found["topic"].estimated_document_count
            measured = _watch(settings, [psutil.Process(process.pid)], plan.messages, landed)
        if (there := found["topic"].count_documents({})) != plan.messages:
            raise AssertionError(f"the connector wrote {there} documents of {plan.messages} messages")
        client.drop_database(settings.mongodb_database)
    return measured


def _encoded(settings: Settings) -> list[bytes]:
    """Return the documents as they were landed."""
    options: CodecOptions[RawBSONDocument] = CodecOptions(RawBSONDocument)
    with mongo.connect(settings) as client:
        topic = client[settings.mongodb_database].get_collection("topic", options)
        return [bytes(document.raw) for document in topic.find(batch_size=50_000)]


def _limit(settings: Settings, encoded: Sequence[bytes], threads: int) -> Measured:
    """Insert documents as fast as MongoDB's client can."""
    mongo.ensure_collections(settings)
    bulks = [
        [RawBSONDocument(document) for document in encoded[first : first + _BULK]]
        for first in range(0, len(encoded), _BULK)
    ]
    with mongo.connect(settings) as client, ThreadPoolExecutor(threads) as pool:
        topic = client[settings.mongodb_database]["topic"]
        inserted: list[int] = []

        def insert(bulk: list[RawBSONDocument]) -> None:
            topic.insert_many(bulk, ordered=False)
            inserted.append(len(bulk))

        futures = [pool.submit(insert, bulk) for bulk in bulks]
        measured = _watch(settings, [psutil.Process()], len(encoded), lambda: sum(inserted))
        for future in futures:
            future.result()
        client.drop_database(settings.mongodb_database)
    return measured


def _watch(
    settings: Settings,
    processes: Sequence[psutil.Process],
    total: int,
    done: Callable[[], int],
    consumers: int = 0,
) -> Measured:
    """Follow processes until all is done; return their rate from the first tenth on, and from when all take part."""
    mongod = psutil.Process(_pid(settings, "mongodb"))
    began: tuple[float, int, float, float] | None = None
    with mongo.connect(settings) as client:
        progress = client[settings.mongodb_database]["landing_progress"]
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            count = done()
            now = (time.monotonic(), count, _cpu_s([mongod]), _cpu_s(processes))
            if count >= total:
                break
            if (
                began is None
                and count >= _WARM_SHARE * total
                and (consumers < 2 or len(progress.distinct("consumer")) >= consumers)
            ):
                began = now
            if now[0] > deadline:
                raise AssertionError(f"{count} of {total} messages after {_PATIENCE_S:g} s")
            time.sleep(_POLL_S)
    if began is None:
        raise AssertionError(f"all {total} messages were done before the measurement began")
    seconds, messages, of_mongod, own = (after - before for after, before in zip(now, began, strict=True))
    return Measured(messages / seconds, of_mongod / messages * 1e6, own / messages * 1e6)


def _pid(settings: Settings, server: str) -> int:
    return next(state.pid for state in lifecycle.status(settings) if state.name == server and state.pid)


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


# the way back, and the delay


def _read_hour(settings: Settings) -> tuple[float, int]:
    """Return how long reading the first hour takes, s, and how many readings it has."""
    start_ms = int(_START.timestamp() * 1000)
    began = time.perf_counter()
    frame = mongo.read_readings(settings, TOPIC, start_ms, start_ms + mongo.HOUR_MS, ("power",))
    return time.perf_counter() - began, len(frame)


def _paced(settings: Settings, plan: Plan) -> dict[str, float]:
    """Send at a steady rate, each message stamped as it is sent.

    Returns
    -------
    dict
        The running consumer's own delays from that stamp to landed, s: the worst of its partitions and intervals.
    """
    producer = kafka.producer(settings)
    panels = [_panel(number) for number in range(plan.panels)]
    began_ms, started, number = time.time_ns() // 1_000_000, time.monotonic(), 0
    while (passed := time.monotonic() - started) < plan.paced_s:
        while number < passed * plan.rate:
            panel = panels[number % plan.panels]
            producer.produce(TOPIC, _message(panel, time.time_ns() // 1_000_000, number), panel)
            number += 1
        producer.poll(0.001)
    ended_ms = time.time_ns() // 1_000_000
    if producer.flush(60):
        raise AssertionError("Kafka did not take everything")
    rows = [
        row
        for row in _reports(settings)
        if began_ms + plan.report_s * 1000 + 1000 < row["timestamp"] <= ended_ms and row["delay_p99"] is not None
    ]
    if not rows:
        raise AssertionError("no consumer reported its delays meanwhile")
    return {name: max(row[name] for row in rows) for name in ("delay_p50", "delay_p99", "delay_max")}


def _reports(settings: Settings) -> Iterator[dict[str, float]]:
    """Yield what consumers reported of the topic."""
    end = kafka.end_offsets(settings, PERFORMANCE_TOPIC)[0]
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": "bench"})
    try:
        consumer.assign([TopicPartition(PERFORMANCE_TOPIC, 0, OFFSET_BEGINNING)])
        for message in consumer.consume(end, 30.0):
            yield json.loads(message.value())
    finally:
        consumer.close()
