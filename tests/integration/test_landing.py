"""Landing on real servers: each message counted once, whatever comes and whatever goes away."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from typing import Any

import bson
import numpy as np
import psutil
import pytest
import requests
from bson.int64 import Int64
from confluent_kafka import TopicPartition
from structlog.testing import capture_logs

from kafka_consumers import rejected, store
from kafka_consumers.documents import IntArray, Stored
from kafka_consumers.entrance import Bounds
from kafka_consumers.health import serve
from kafka_consumers.landing import Landing, Owners, counts, stored
from kafka_consumers.store import Rejected, Store
from selfgen.clients import kafka, mongo
from selfgen.settings import Settings
from tests.integration.conftest import Stack

pytestmark = pytest.mark.integration

HOUR_MS = mongo.HOUR_MS
NOTHING = {"landed": 0, "duplicates": 0, "replaced": 0, "refused": {}}


def owners(element_ids: Sequence[str], _event_times_ms: IntArray) -> Owners:
    """Everything is C1's; what begins with "stranger" is not registered; "bug" breaks the code."""
    if "bug" in element_ids:
        raise ZeroDivisionError("a bug")
    size = len(element_ids)
    unknown = np.fromiter((one.startswith("stranger") for one in element_ids), bool, size)
    return Owners(["C1"] * size, ["28013"] * size, unknown)


def nobodys(element_ids: Sequence[str], _event_times_ms: IntArray) -> Owners:
    """Nothing breaks the code."""
    size = len(element_ids)
    return Owners([None] * size, [None] * size, np.zeros(size, bool))


class Entrance:
    """A topic and its database, empty for one test."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = mongo.database(settings)
        self.now_ms = time.time_ns() // 1_000_000 // 1000 * 1000
        self.hour_ms = self.now_ms // HOUR_MS * HOUR_MS - 2 * HOUR_MS
        kafka.ensure_topics(settings)
        mongo.ensure_collections(settings)
        for number, offset in kafka.end_offsets(settings, "panel").items():
            self.database["landing_progress"].insert_one(
                {
                    "_id": f"panel|{number:04d}",
                    "topic_id": "panel",
                    "partition": number,
                    "next_offset": offset,
                }
            )

    def panel(self, element_id: str = "p1", second: int = 0, power: Any = 100.0, **fields: Any) -> bytes:
        message = {
            "panel_id": element_id,
            "timestamp": self.hour_ms + second * 1000,
            "power": power,
            **fields,
        }
        return json.dumps(message).encode()

    def send(self, *values: bytes | None, partition: int = 0) -> None:
        producer = kafka.producer(self.settings)
        for value in values:
            producer.produce("panel", value, partition=partition)
            producer.poll(0)
        assert producer.flush(60) == 0

    @contextmanager
    def landing(self, lookup: Any = owners) -> Iterator[Landing]:
        stop = threading.Event()
        landing = Landing("panel", self.settings, lookup)
        thread = threading.Thread(target=landing.run, args=(stop,))
        thread.start()
        try:
            yield landing
        finally:
            stop.set()
            started = time.monotonic()
            thread.join(30)
            assert not thread.is_alive()
            assert time.monotonic() - started < 10

    def counts(self) -> dict[str, Any]:
        return counts(self.settings)["panel"]

    def land(self, messages: int, lookup: Any = owners) -> dict[str, Any]:
        """Land until so many messages are counted; return the counts, which agree with the stores."""
        with self.landing(lookup):
            wait_for(lambda: self.counts()["consumed"] >= messages)
        found = self.counts()
        assert found.pop("consumed") == messages
        there = stored(self.settings)["panel"]
        assert there == {"landed": found["landed"], "refused": found["refused"]}
        return found


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def entrance(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Entrance]:
    stack.up("kafka", "mongodb")
    name = request.node.name[:40].replace("[", "_").replace("]", "")
    settings = stack.settings.model_copy(update={"mongodb_database": name, "landing_report_s": 1.0})
    mongo.connect(settings).drop_database(name)
    entrance = Entrance(settings)
    yield entrance
    entrance.database.client.drop_database(name)


def test_each_message_is_counted_once(entrance: Entrance) -> None:
    readings = [entrance.panel(f"p{number % 40}", number // 40) for number in range(4000)]
    again = readings[::10]
    other = [entrance.panel("p7", second, 555.0) for second in range(5)]
    broken = [b"{", b"[]", None, entrance.panel(power="much"), entrance.panel(power=1e9)]
    entrance.send(*readings[:3000], *again, *broken)
    entrance.send(*readings[3000:], *other, *other)
    assert entrance.land(4000 + 400 + 5 + 10) == {
        "landed": 4000,
        "duplicates": 400 + 5,
        "replaced": 5,
        "refused": {"malformed_json": 2, "not_an_object": 1, "wrong_type": 1, "out_of_range": 1},
    }
    frame = mongo.read_readings(
        entrance.settings, "panel", entrance.hour_ms, entrance.hour_ms + HOUR_MS, ["power", "energy"]
    )
    assert len(frame) == 4000
    assert frame[["element_id", "time"]].equals(frame[["element_id", "time"]].sort_values(["element_id", "time"]))
    assert frame.loc[frame["power"] == 555.0, "element_id"].tolist() == ["p7"] * 5
    assert (frame["power"] == 100.0).sum() == 3995
    assert frame["energy"].isna().all()


def test_a_second_delivery_of_everything_changes_nothing(entrance: Entrance) -> None:
    readings = [entrance.panel(f"p{number % 40}", number // 40, note="kept") for number in range(2000)]
    entrance.send(*readings)
    entrance.land(2000)
    before = list(entrance.database["topic"].find())
    entrance.send(*readings)
    assert entrance.land(4000) == {**NOTHING, "landed": 2000, "duplicates": 2000}
    assert list(entrance.database["topic"].find()) == before


@pytest.mark.parametrize("batch", [3, 40])
def test_batches_that_are_written_at_once_count_as_if_one_after_the_other(entrance: Entrance, batch: int) -> None:
    entrance.settings = entrance.settings.model_copy(update={"landing_batch": batch})
    chance = random.Random(batch)
    held: dict[int, int] = {}
    expected = Counter[str]()
    sent = []
    for _ in range(900):
        second, power = chance.randrange(60), chance.choice((1, 1, 1, 2))
        known = held.get(second)
        expected["landed" if known is None else "duplicates" if known == power else "replaced"] += 1
        held[second] = power
        sent.append(entrance.panel("p1", second, power))
        if chance.random() < 0.02:
            sent.append(b"{")
            expected["malformed_json"] += 1
    entrance.send(*sent)
    refused = {"malformed_json": expected.pop("malformed_json")}
    assert entrance.land(len(sent)) == {**NOTHING, **expected, "refused": refused}
    found = {document["timestamp"]: document["msg_value"]["power"] for document in entrance.database["topic"].find()}
    start = datetime.fromtimestamp(entrance.hour_ms / 1000, UTC)
    assert found == {start + timedelta(seconds=second): power for second, power in held.items()}


def test_known_readings_far_apart_are_looked_up_one_by_one(entrance: Entrance) -> None:
    readings = [entrance.panel("p1", second) for second in range(400)]
    entrance.send(*readings)
    entrance.land(400)
    ids = [mongo.reading_id("panel", entrance.hour_ms + second * 1000, "p1") for second in (0, 399)]
    found = Store(entrance.database, "test")._stored(ids)
    assert {identity: bson.decode(one)["_id"] for identity, one in found.by_id().items()} == {one: one for one in ids}
    with capture_logs() as logs:
        entrance.send(readings[0], readings[-1], entrance.panel("p2"))
        assert entrance.land(403) == {**NOTHING, "landed": 401, "duplicates": 2}
    assert "taken apart" not in {entry["event"] for entry in logs}


def test_a_range_that_takes_too_long_is_looked_up_one_by_one(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrance.send(*(entrance.panel("p1", second) for second in range(3000)))
    entrance.land(3000)
    monkeypatch.setattr(store, "_RANGE_MS", 1)
    looked_up: list[str] = []
    singly = Store._stored_singly
    monkeypatch.setattr(Store, "_stored_singly", lambda self, ids: looked_up.extend(ids) or singly(self, ids))
    ids = [mongo.reading_id("panel", entrance.hour_ms + second * 1000, "p1") for second in range(3500)]
    found = Store(entrance.database, "test")._stored(ids).by_id()
    assert {identity: bson.decode(one)["_id"] for identity, one in found.items()} == {one: one for one in ids[:3000]}
    assert ids[-1] in looked_up


def test_what_comes_again_by_another_partition_is_a_duplicate_too(entrance: Entrance) -> None:
    entrance.settings = entrance.settings.model_copy(update={"landing_batch": 100})
    readings = [entrance.panel("p1", second) for second in range(100)]
    entrance.send(*readings, partition=0)
    entrance.land(100)
    for partition in (0, 1, 0):
        entrance.send(*readings, partition=partition)
    assert entrance.land(400) == {**NOTHING, "landed": 100, "duplicates": 300}
    changed = [entrance.panel("p1", second, 2) for second in range(10)]
    entrance.send(*readings, *changed, *readings[10:], partition=1)
    assert entrance.land(600) == {**NOTHING, "landed": 100, "duplicates": 490, "replaced": 10}
    powers = [document["msg_value"]["power"] for document in entrance.database["topic"].find(sort=[("_id", 1)])]
    assert powers == [2.0] * 10 + [100.0] * 90


def test_the_document_holds_what_was_sent_and_whose_it_is(entrance: Entrance) -> None:
    entrance.send(entrance.panel("p1", 5, 12, energy=7.5, firmware={"version": 3}), partition=1)
    entrance.land(1)
    [document] = entrance.database["topic"].find()
    received_at = document.pop("received_at")
    offset = document["kafka"].pop("offset")
    assert offset == kafka.end_offsets(entrance.settings, "panel")[1] - 1
    assert abs(received_at.timestamp() * 1000 - entrance.now_ms) < 60_000
    timestamp = document.pop("timestamp")
    assert timestamp.timestamp() * 1000 == entrance.hour_ms + 5000
    assert document == {
        "_id": f"panel|{entrance.hour_ms + 5000}|p1",
        "topic_id": "panel",
        "msg_value": {
            "panel_id": "p1",
            "timestamp": entrance.hour_ms + 5000,
            "power": 12.0,
            "energy": 7.5,
            "firmware": {"version": 3},
        },
        "element_id": "p1",
        "client_id": "C1",
        "postal_code": "28013",
        "kafka": {"partition": 1},
    }


def test_a_refused_message_leaves_its_bytes_and_a_sentence(entrance: Entrance) -> None:
    value = b'{"panel_id": "p1\xff"}'
    entrance.send(value)
    assert entrance.land(1)["refused"] == {"invalid_utf8": 1}
    [alarm] = entrance.database["topic_alarm"].find()
    assert (alarm["topic_id"], alarm["msg_value"], alarm["reason"]) == ("panel", value, "invalid_utf8")
    assert "byte 16 (0xff)" in alarm["text_alarm"]


def test_an_unknown_element_lands_and_raises_one_alarm_an_hour(entrance: Entrance) -> None:
    entrance.send(*(entrance.panel("stranger", second) for second in range(0, 7200, 600)))
    assert entrance.land(12) == {**NOTHING, "landed": 12}
    alarms = list(entrance.database["topic_alarm"].find())
    assert [(alarm["reason"], alarm["element_id"]) for alarm in alarms] == [("unknown_element", "stranger")] * 2


def test_a_bug_sets_one_message_aside(entrance: Entrance) -> None:
    readings = [entrance.panel(f"p{number}") for number in range(50)]
    entrance.send(*readings[:20], entrance.panel("bug"), *readings[20:])
    assert entrance.land(51) == {**NOTHING, "landed": 50, "refused": {"internal_error": 1}}
    [alarm] = entrance.database["topic_alarm"].find()
    assert alarm["msg_value"] == entrance.panel("bug")
    assert "ZeroDivisionError" in alarm["text_alarm"]


def test_an_alarm_that_is_not_taken_ends_the_consumer(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_store: Store, alarms: Sequence[Any]) -> None:
        if alarms:
            raise Rejected("no room")

    monkeypatch.setattr(Store, "_raise_alarms", refuse)
    entrance.send(entrance.panel("bug"))
    with capture_logs() as logs, pytest.raises(Rejected, match="no room"):
        Landing("panel", entrance.settings, owners).run(threading.Event())
    assert [entry["event"] for entry in logs].count("internal_error") == 2  # of reading it, and of its alarm
    assert entrance.counts()["consumed"] == 0


def test_touched_hours_are_marked_and_marks_survive_a_job_that_read_before(entrance: Entrance) -> None:
    entrance.send(entrance.panel("p1", 0), entrance.panel("p1", 3600))
    entrance.land(2)
    listed = mongo.dirty_hours(entrance.settings, "panel", entrance.now_ms)
    assert [hour.hour_ms for hour in listed] == [entrance.hour_ms, entrance.hour_ms + HOUR_MS]
    entrance.send(entrance.panel("p1", 0, 7), entrance.panel("p1", 3600))  # another value; a duplicate
    entrance.land(4)
    mongo.clear_dirty(entrance.settings, listed)
    assert [hour.hour_ms for hour in mongo.dirty_hours(entrance.settings, "panel", entrance.now_ms)] == [
        entrance.hour_ms
    ]


def test_after_a_crash_before_the_progress_the_same_is_counted(entrance: Entrance) -> None:
    """The readings are there, the progress is not: as after kill -9 between the two writes."""
    first = [entrance.panel(f"p{number}") for number in range(100)]
    entrance.send(*first, *first[:10], entrance.panel("p5", 0, 1.0), b"{")
    progress = entrance.database["landing_progress"].find_one({"_id": "panel|0000"})
    expected = {**NOTHING, "landed": 100, "duplicates": 10, "replaced": 1, "refused": {"malformed_json": 1}}
    assert entrance.land(112) == expected
    # Nothing was replaced yet when it crashed: replacements are written with the progress.
    entrance.database["topic"].update_one(
        {"element_id": "p5"}, {"$set": {"msg_value.power": 100.0, "kafka.offset": Int64(progress["next_offset"] + 5)}}
    )
    entrance.database["landing_progress"].replace_one({"_id": "panel|0000"}, progress)
    assert entrance.land(112) == expected


def test_what_was_refused_for_its_time_stays_refused(entrance: Entrance) -> None:
    ahead = json.dumps({"panel_id": "p1", "timestamp": entrance.now_ms + 310_000, "power": 1}).encode()
    entrance.send(ahead)
    progress = entrance.database["landing_progress"].find_one({"_id": "panel|0000"})
    entrance.land(1)
    entrance.database["landing_progress"].replace_one({"_id": "panel|0000"}, progress)
    time.sleep(max(0.0, (entrance.now_ms + 11_000) / 1000 - time.time()))  # its time has come meanwhile
    assert entrance.land(1) == {**NOTHING, "refused": {"future_timestamp": 1}}


def test_two_consumers_share_and_hand_over(entrance: Entrance) -> None:
    batches = [[entrance.panel(f"p{part}-{number}", part) for number in range(2000)] for part in range(6)]
    with entrance.landing() as first:
        for part in (0, 1):
            entrance.send(*batches[part], partition=part)
        with entrance.landing() as second:
            wait_for(lambda: first._next.keys() and second._next.keys())
            for part in (2, 3):
                entrance.send(*batches[part], partition=part % 2)
        for part in (4, 5):
            entrance.send(*batches[part], partition=part % 2)
        wait_for(lambda: entrance.counts()["consumed"] >= 12_000)
    assert entrance.counts() == {**NOTHING, "landed": 12_000, "consumed": 12_000}
    assert stored(entrance.settings)["panel"]["landed"] == 12_000


def test_without_mongodb_it_waits_and_goes_on(stack: Stack, entrance: Entrance) -> None:
    readings = [entrance.panel(f"p{number}") for number in range(5000)]
    with entrance.landing() as landing:
        entrance.send(*readings[:1000])
        wait_for(lambda: entrance.counts()["consumed"] == 1000)
        stack.down("mongodb")
        entrance.send(*readings[1000:])
        wait_for(lambda: landing.trouble is not None)
        stack.up("mongodb")
        wait_for(lambda: entrance.counts()["consumed"] >= 5000)
        wait_for(lambda: landing.trouble is None)
    assert entrance.counts() == {**NOTHING, "landed": 5000, "consumed": 5000}
    assert stored(entrance.settings)["panel"]["landed"] == 5000


def test_it_leaves_in_time_while_mongodb_is_away(stack: Stack, entrance: Entrance) -> None:
    try:
        with entrance.landing() as landing:
            entrance.send(entrance.panel())
            wait_for(lambda: entrance.counts()["consumed"] == 1)
            stack.down("mongodb")
            entrance.send(entrance.panel("p2"))
            wait_for(lambda: landing.trouble is not None)
    finally:
        stack.up("mongodb")
    assert entrance.land(2) == {**NOTHING, "landed": 2}


def test_reports_add_up_to_the_counts(entrance: Entrance) -> None:
    start = kafka.end_offsets(entrance.settings, "topic_performance")
    readings = [entrance.panel(f"p{number}") for number in range(500)]
    entrance.send(*readings, *readings[:50], b"{")
    entrance.land(551)
    rows = read(entrance.settings, "topic_performance", start)
    assert {row["topic_id"] for row in rows} == {"panel"}
    assert sum(row["messages"] for row in rows) == 551
    assert sum(row["rejected"] for row in rows) == sum(row["refused_malformed_json"] for row in rows) == 1
    assert sum(row["duplicates"] for row in rows) == 50
    assert sum(row["bytes"] for row in rows) == sum(map(len, [*readings, *readings[:50]])) + 1
    delays = [row for row in rows if row["delay_p50"] is not None]
    age_s = (time.time_ns() // 1_000_000 - entrance.hour_ms) / 1000
    assert all(age_s - 120 < row["delay_p50"] * 1.02 <= row["delay_max"] * 1.04 < age_s * 1.05 for row in delays)
    assert delays


def read(settings: Settings, topic: str, start: dict[int, int]) -> list[dict[str, Any]]:
    """Return the messages of a topic from these offsets to its end."""
    from confluent_kafka import Consumer, TopicPartition

    end = kafka.end_offsets(settings, topic)
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": "test", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, number, start.get(number, 0)) for number in end])
    rows: list[dict[str, Any]] = []
    wanted = sum(end[number] - start.get(number, 0) for number in end)
    wait_for(lambda: rows.extend(json.loads(m.value()) for m in consumer.consume(wanted, 1.0)) or len(rows) >= wanted)
    consumer.close()
    return rows


def test_a_replay_lands_what_is_accepted_now_once(entrance: Entrance) -> None:
    ahead = [
        json.dumps({"panel_id": f"p{number}", "timestamp": entrance.now_ms + 303_000, "power": 1}).encode()
        for number in range(3)
    ]
    entrance.send(*ahead, ahead[0], b"{")
    assert entrance.land(5)["refused"] == {"future_timestamp": 4, "malformed_json": 1}
    wait_for(lambda: time.time() * 1000 > entrance.now_ms + 4000)
    for _ in range(2):
        tallies, still_refused = rejected.replay(entrance.settings, rejected.Choice(), lambda _topic: owners)
        assert still_refused == {"malformed_json": 1}
        found = entrance.counts()
        assert {**found, "refused": {name: n for name, n in found["refused"].items() if n}} == {
            "landed": 3,
            "duplicates": 1,
            "replaced": 0,
            "refused": {"malformed_json": 1},
            "consumed": 5,
        }
        assert stored(entrance.settings)["panel"] == {"landed": 3, "refused": {"malformed_json": 1}}
    assert tallies == {}
    [group] = rejected.groups(entrance.database, rejected.Choice(topic="panel"))
    assert (group["reason"], group["count"]) == ("malformed_json", 1)
    [alarm] = rejected.alarms(entrance.database, rejected.Choice(reason="malformed_json"), limit=10)
    assert alarm["msg_value"] == b"{"


def test_a_message_that_still_breaks_the_code_does_not_keep_the_others_from_replay(entrance: Entrance) -> None:
    def broken(_element_ids: Sequence[str], _event_times_ms: IntArray) -> Owners:
        raise ZeroDivisionError("a bug")

    entrance.send(*(entrance.panel(name) for name in ("p1", "bug", "p2", "p3")))
    assert entrance.land(4, broken) == {**NOTHING, "refused": {"internal_error": 4}}
    tallies, still_refused = rejected.replay(entrance.settings, rejected.Choice(), lambda _topic: owners)
    assert (tallies["panel"].landed, still_refused) == (3, {"internal_error": 1})
    assert stored(entrance.settings)["panel"] == {"landed": 3, "refused": {"internal_error": 1}}


@pytest.mark.parametrize("known", [False, True])
def test_a_replay_does_not_overwrite_what_is_landed_meanwhile(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        entrance.send(entrance.panel("bug", power=1.0), partition=1)
        entrance.land(1, nobodys)
    entrance.send(entrance.panel("bug", power=2.0))
    assert entrance.land(1 + known)["refused"] == {"internal_error": 1}
    entrance.send(entrance.panel("bug", power=3.0))
    look_up = Store._stored

    def landed_after(store: Store, ids: Sequence[str]) -> Stored:
        found = look_up(store, ids)
        monkeypatch.setattr(Store, "_stored", look_up)
        entrance.land(2 + known, nobodys)
        return found

    monkeypatch.setattr(Store, "_stored", landed_after)
    tallies, _ = rejected.replay(entrance.settings, rejected.Choice(), lambda _topic: nobodys)
    assert (tallies["panel"].landed, tallies["panel"].duplicates, tallies["panel"].replaced) == (0, 1, 0)
    [reading] = entrance.database["topic"].find()
    assert reading["msg_value"]["power"] == 3.0
    assert entrance.counts()["landed"] == 1


def test_readings_expire_but_never_before_their_hour_is_computed(entrance: Entrance) -> None:
    entrance.send(*(entrance.panel("p1", second) for second in range(0, 7200, 600)))
    entrance.land(12)
    cutoff_ms = entrance.hour_ms + 2 * HOUR_MS
    no_time = timedelta(0)
    assert mongo.expire(entrance.database, "panel", cutoff_ms, no_time) == 0
    first, second = mongo.dirty_hours(entrance.settings, "panel", cutoff_ms)
    mongo.clear_dirty(entrance.settings, [first])
    assert mongo.expire(entrance.database, "panel", cutoff_ms, no_time) == 0  # the second hour needs its neighbour
    mongo.clear_dirty(entrance.settings, [second])
    assert mongo.expire(entrance.database, "panel", cutoff_ms) == 0  # what came just now may not be marked yet
    two_hours_ago = datetime.now(UTC) - timedelta(hours=2)
    entrance.database["topic"].update_many({}, {"$set": {"received_at": two_hours_ago}})
    assert mongo.expire(entrance.database, "panel", entrance.hour_ms + HOUR_MS) == 6
    assert entrance.database["topic"].count_documents({}) == 6
    # a consumer does it by itself, once an hour
    aged = entrance.settings.model_copy(update={"raw_retention_days": 1 / 48})
    entrance.settings = aged
    with entrance.landing():
        wait_for(lambda: entrance.database["topic"].count_documents({}) == 0)


def test_a_high_share_of_refused_messages_raises_and_clears_one_alarm(entrance: Entrance) -> None:
    with entrance.landing() as landing:
        landing.reporter.bounds = Bounds(hold_s=0)
        entrance.send(*[b"{"] * 50)
        alarms = entrance.database["topic_alarm"]
        wait_for(lambda: alarms.count_documents({"reason": "refused_share", "state": "raised"}) == 1)
        entrance.send(*(entrance.panel(f"p{number}") for number in range(100)))
        wait_for(lambda: alarms.count_documents({"reason": "refused_share", "state": "cleared"}) == 1)
    assert alarms.count_documents({"reason": "refused_share"}) == 2


def test_health_says_why_it_waits(stack: Stack, entrance: Entrance) -> None:
    with entrance.landing() as landing, closing_server(serve(landing, "127.0.0.1", 0)) as port:
        entrance.send(entrance.panel())
        wait_for(lambda: entrance.counts()["consumed"] == 1)
        assert get(port, "/ready")[0] == get(port, "/health")[0] == 200
        wait_for(lambda: 'selfgen_lag_messages{partition="0",topic="panel"} 0.0' in get(port, "/metrics")[1])
        stack.down("mongodb")
        try:
            entrance.send(entrance.panel("p2"))
            wait_for(lambda: get(port, "/ready")[0] == 503)
            assert "mongodb" in get(port, "/ready")[1]
            assert get(port, "/health")[0] == 200
        finally:
            stack.up("mongodb")
        wait_for(lambda: get(port, "/ready")[0] == 200)


@contextmanager
def closing_server(server: ThreadingHTTPServer) -> Iterator[int]:
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def get(port: int, path: str) -> tuple[int, str]:
    response = requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)
    return response.status_code, response.text


def make_anew(settings: Settings) -> None:
    admin = kafka.admin(settings)
    admin.delete_topics(["panel"])["panel"].result()
    wait_for(lambda: not kafka.end_offsets(settings, "panel"))
    kafka.ensure_topics(settings)


def test_added_partitions_are_found_and_a_topic_made_anew_is_read_from_its_beginning(entrance: Entrance) -> None:
    settings = entrance.settings
    width = len(kafka.end_offsets(settings, "panel"))
    with entrance.landing():
        entrance.send(entrance.panel("p1"))
        wait_for(lambda: entrance.counts()["consumed"] == 1)
        kafka.ensure_topics(settings.model_copy(update={"partitions": width + 1}))
        entrance.send(entrance.panel("p2"), partition=width)
        wait_for(lambda: entrance.counts()["consumed"] == 2)
        make_anew(settings)
        entrance.send(entrance.panel("p3"), entrance.panel("p4"))
        wait_for(lambda: entrance.counts()["consumed"] == 4)
    assert stored(settings)["panel"]["landed"] == 4
    assert entrance.database["topic_alarm"].count_documents({"reason": "offsets_lost", "_id": {"$gte": "panel|0000|"}})


def test_what_was_in_a_topic_before_it_was_made_anew_is_not_taken_for_what_is(entrance: Entrance) -> None:
    settings = entrance.settings
    before = [entrance.panel("p1", power=1.0), b"{old", entrance.panel("p2"), b"{old too", entrance.panel("p3"), b"{"]
    make_anew(settings)
    entrance.database["landing_progress"].update_many({"topic_id": "panel"}, {"$set": {"next_offset": 0}})
    entrance.send(*before)
    entrance.land(6)
    make_anew(settings)
    after = [entrance.panel("p1", power=2.0), entrance.panel("p4"), b"{new"]
    entrance.send(*after)
    found = entrance.land(9)
    assert found == {"landed": 4, "duplicates": 0, "replaced": 1, "refused": {"malformed_json": 4}}
    assert entrance.database["topic"].find_one({"element_id": "p1"})["msg_value"]["power"] == 2.0
    # a consumer that begins now does not take good messages for those that were refused at these offsets
    entrance.send(*(entrance.panel(f"later{number}") for number in range(5)))
    assert entrance.land(14) == {"landed": 9, "duplicates": 0, "replaced": 1, "refused": {"malformed_json": 4}}
    kept = {bytes(one["msg_value"]) for one in entrance.database["topic_alarm"].find({"reason": "malformed_json"})}
    assert kept == {b"{old", b"{old too", b"{", b"{new"}


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def members(settings: Settings) -> list[Any]:
    admin = kafka.admin(settings)
    return list(admin.describe_consumer_groups(["streaming_panel"])["streaming_panel"].result().members)


def test_messages_that_kafka_drops_meanwhile_are_told(
    stack: Stack, entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = Landing._kafka_settings

    def reading_little_ahead(landing: Landing) -> dict[str, Any]:
        return properties(landing) | {"queued.max.messages.kbytes": 1, "fetch.message.max.bytes": 1000}

    monkeypatch.setattr(Landing, "_kafka_settings", reading_little_ahead)
    settings = entrance.settings.model_copy(update={"landing_batch": 10})
    entrance.settings = settings
    before = kafka.end_offsets(settings, "panel")[0]
    mongod = psutil.Process(stack.pid("mongodb"))
    with entrance.landing() as landing:
        entrance.send(entrance.panel("p0"))
        wait_for(lambda: entrance.counts()["consumed"] == 1)
        with suspended(mongod):
            # each a batch of its own to Kafka: what is read ahead is little
            producer = kafka.producer(settings, **{"batch.num.messages": 1})
            for number in range(300):
                producer.produce("panel", entrance.panel(f"p{number}", 1, note="x" * 500), partition=0)
            assert producer.flush(60) == 0
            wait_for(lambda: landing._writing)
            end = kafka.end_offsets(settings, "panel")[0]
            kept_from = [TopicPartition("panel", 0, end - 10)]
            admin = kafka.admin(settings)
            for future in admin.delete_records(kept_from).values():
                future.result()
        wait_for(lambda: entrance.database["landing_progress"].find_one({"_id": "panel|0000"})["next_offset"] == end)
    [alarm] = entrance.database["topic_alarm"].find({"reason": "offsets_lost"})
    lost = alarm["msg_value"]["first"] - alarm["msg_value"]["expected"]
    assert alarm["msg_value"]["first"] == end - 10
    assert alarm["text_alarm"].endswith(f"{lost} messages were removed by Kafka's retention before they were landed")
    assert lost + entrance.counts()["landed"] == end - before


def test_a_message_from_beyond_the_calendar_is_refused_like_any_other(entrance: Entrance) -> None:
    producer = kafka.producer(entrance.settings)
    producer.produce("panel", b"{", timestamp=1_800_000_000_000_000, partition=0)  # in microseconds
    assert producer.flush(60) == 0
    assert entrance.land(1) == {**NOTHING, "refused": {"malformed_json": 1}}
    [alarm] = rejected.alarms(entrance.database, rejected.Choice(), 10)
    assert alarm["timestamp"].year == 9999


def test_a_rebalance_while_mongodb_is_slow_ends_no_consumer(stack: Stack, entrance: Entrance) -> None:
    mongod = psutil.Process(stack.pid("mongodb"))
    with entrance.landing() as first:
        width = len(kafka.end_offsets(entrance.settings, "panel"))
        entrance.send(*(entrance.panel(f"p{number}") for number in range(1000)))
        wait_for(lambda: entrance.counts()["consumed"] == 1000)
        for sent in (2000, 3000, 4000):
            with suspended(mongod):
                entrance.send(*(entrance.panel(f"p{number}", sent) for number in range(1000)))
                wait_for(lambda: first._writing)
                joining = entrance.landing()
                second = joining.__enter__()
                wait_for(lambda: len(members(entrance.settings)) == 2)
            wait_for(lambda sent=sent: entrance.counts()["consumed"] == sent)
            wait_for(lambda second=second: second.status()["partitions"])
            joining.__exit__(None, None, None)
            wait_for(lambda: len(first.status()["partitions"]) == width)
            assert first.status()["alive"]
    assert entrance.counts() == {**NOTHING, "landed": 4000, "consumed": 4000}
