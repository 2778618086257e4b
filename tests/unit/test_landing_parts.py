"""The parts of landing that need no server: documents, delays, the operators' alarms, the picture."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pytest
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.errors import OperationFailure, WriteConcernError
from pymongo.write_concern import WriteConcern

from kafka_consumers import corrections, documents, store
from kafka_consumers.entrance import Bounds, Numbers, judge
from kafka_consumers.landing import _received_ms
from selfgen.cli import raw
from selfgen.cli.entrance import sparkline
from selfgen.clients import mongo
from selfgen.messages import as_object, decode, value_fields
from selfgen.performance import DelaySketch

NOW_MS = 1_795_342_500_000

_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
_messages = st.fixed_dictionaries(
    {
        "panel_id": _text,
        "timestamp": st.integers(NOW_MS - 10**9, NOW_MS)
        | st.sampled_from(["2026-11-22T10:15:00Z", "2026-11-22T11:15:00.123+01:00"]),
        "power": st.floats(-1000, 1e7),
    },
    optional={
        "energy": st.floats(0, 1e9) | st.none(),
        "temperature": st.floats(-50, 90),
        "note": st.text(max_size=3),
    },
)


def encoded(messages: list[dict[str, Any]], owner: str | None = "C1") -> tuple[list[str], documents.Encoded]:
    batch = decode("panel", [json.dumps(message).encode() for message in messages], NOW_MS)
    assert batch.refused == []
    size = len(messages)
    origin = documents.Origin(
        np.arange(size) % 3, np.arange(size) + 2**40, [owner] * size, ["28013"] * size, received_ms=NOW_MS
    )
    ids = documents.identities(batch)
    return ids, documents.encode(batch, ids, origin)


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(_messages, min_size=1, max_size=6), owner=st.none() | st.text(max_size=5))
def test_a_batch_encodes_as_its_documents_would(messages: list[dict[str, Any]], owner: str | None) -> None:
    ids, found = encoded(messages, owner)
    batch = decode("panel", [json.dumps(message).encode() for message in messages], NOW_MS)
    for place, encoded_document in enumerate(found):
        expected = documents.document(
            "panel",
            ids[place],
            messages[place]["panel_id"],
            int(batch.event_times_ms[place]),
            as_object(batch.messages[place]),
            client_id=owner,
            postal_code="28013",
            received_ms=NOW_MS,
            partition=place % 3,
            offset=place + 2**40,
        )
        assert encoded_document == bson.encode(expected)


_ids = st.sampled_from(["p1", "a|b", "|", "é" * 64, "é" * 65, "\ud800", "p\u0085", "p\0"]) | st.text(max_size=4)
_times = (
    st.sampled_from([NOW_MS, 0, -1, 2**63, 10**400, 1.7e12, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
    | st.sampled_from(["2026-11-22T10:15:00+23:59", "2026-11-22T10:15:60Z", "2026-11-22T10:15:00"])
    | st.integers(946_684_800_000, NOW_MS)
)
_numbers = st.floats() | st.integers(-(2**64), 2**65) | st.sampled_from([-0.0, 1e308, 10**400, True, None])
_anything = st.recursive(
    _numbers | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_objects = st.fixed_dictionaries(
    {"panel_id": _ids, "timestamp": _times, "power": st.floats(-1000, 1e7) | _numbers},
    optional={"energy": _numbers, "temperature": _numbers, "note": _anything, "_id": _anything, "kafka": _anything},
)
_bytes = (
    st.none()
    | st.binary(max_size=100)
    | _objects.map(lambda message: json.dumps(message).encode())
    | _objects.map(lambda message: json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | st.builds(
        lambda message, place, byte: (
            (text := json.dumps(message).encode())[: place % len(text)] + bytes([byte]) + text[place % len(text) + 1 :]
        ),
        _objects,
        st.integers(0, 300),
        st.integers(0, 255),
    )
    | st.integers(1, 5000).map(lambda depth: b'{"note":' + b"[" * depth + b"]" * depth + b"}")
)


@settings(max_examples=300, deadline=None)
@given(values=st.lists(_bytes, max_size=8), owner=st.sampled_from([None, "", "C1", "Ñandú"]))
def test_any_bytes_become_documents_or_refusals(values: list[bytes | None], owner: str | None) -> None:
    batch = decode("panel", values, NOW_MS)
    assert sorted([*batch.indexes, *(refused.index for refused in batch.refused)]) == list(range(len(values)))
    size = len(batch.indexes)
    origin = documents.Origin(np.zeros(size, np.int64), np.arange(size), [owner] * size, [owner] * size, NOW_MS)
    ids = documents.identities(batch)
    encoded_documents = documents.encode(batch, ids, origin)
    assert [bson.decode(document)["_id"] for document in encoded_documents] == ids
    for place, encoded_document in enumerate(encoded_documents):
        found = bson.decode(encoded_document)
        sent = json.loads(values[batch.indexes[place]] or b"")
        assert found["_id"] == f"panel|{batch.event_times_ms[place]:013d}|{sent['panel_id']}"
        assert (found["topic_id"], found["element_id"]) == ("panel", sent["panel_id"])
        kept = {name: value for name, value in found["msg_value"].items() if value is not None}
        measured = {name: float(sent[name]) for name in value_fields("panel") if sent.get(name) is not None}
        assert kept == {name: value for name, value in sent.items() if value is not None} | measured
        assert found["kafka"] == {"partition": 0, "offset": place}


def test_documents_come_in_the_order_that_is_asked_for_also_those_that_were_exchanged() -> None:
    _, found = encoded([{"panel_id": "p" * size, "timestamp": NOW_MS, "power": 1} for size in (1, 2, 3)])
    one, two, three = found
    assert bytes(found.joined(np.array([2, 0]))) == three + one
    assert found.sizes(np.array([2, 0])).tolist() == [len(three), len(one)]
    found[0] = two
    assert (found[0], bytes(found.joined(np.array([2, 0])))) == (two, three + two)
    assert found.sizes(np.array([2, 0])).tolist() == [len(three), len(two)]


@pytest.mark.parametrize(("messages", "lengths"), [(3, [3]), (1_001, [501, 500])])
def test_a_large_batch_is_inserted_side_by_side(messages: int, lengths: list[int]) -> None:
    ids, found = encoded([{"panel_id": "p1", "timestamp": NOW_MS, "power": 1}] * messages)
    batch = store.Batch("panel", {}, ids, found, np.zeros(messages), np.zeros(messages), [], [])
    parts = store._parts(batch, np.arange(messages))
    assert [len(part) for part in parts] == lengths
    assert np.concatenate(parts).tolist() == list(range(messages))


def test_no_insert_grows_beyond_what_a_command_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, found = encoded([{"panel_id": "p1", "timestamp": NOW_MS, "power": 1, "note": "n" * 1000}] * 10)
    batch = store.Batch("panel", {}, ids, found, np.zeros(10), np.zeros(10), [], [])
    monkeypatch.setattr(store, "_PART_BYTES", 2 * len(found[0]) - 1)
    assert [part.tolist() for part in store._parts(batch, np.arange(10))] == [[n, n + 1] for n in range(0, 10, 2)]


class Answering:
    """A database that gives one answer to whatever is inserted."""

    write_concern = WriteConcern("majority", j=True)

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer, self.commands = answer, list[dict[str, Any]]()

    def command(self, command: dict[str, Any]) -> dict[str, Any]:
        self.commands.append(command)
        return self.answer


def inserted(answer: dict[str, Any]) -> tuple[list[int], list[dict[str, Any]]]:
    """Insert three documents, the third first; return the places of those that are there already, and the commands."""
    ids, found = encoded([{"panel_id": name, "timestamp": NOW_MS, "power": 1} for name in "abc"])
    batch = store.Batch("panel", {}, ids, found, np.zeros(3), np.zeros(3), [], [])
    database = Answering(answer)
    return store.Store(database, "test")._insert_new(batch, [2, 0, 1]), database.commands  # type: ignore[arg-type]


def test_an_insert_is_one_command_and_tells_what_is_there_already() -> None:
    taken, [command] = inserted({"n": 2, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "duplicate"}]})
    assert taken == [2]
    assert (command["ordered"], command["writeConcern"]) == (False, {"w": "majority", "j": True})
    [documents_] = command["documents"]
    assert [found["element_id"] for found in bson.decode_all(bytes(documents_.raw))] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"n": 2}, OperationFailure),
        ({"n": 3, "writeConcernError": {"code": 64, "errmsg": "waiting timed out"}}, WriteConcernError),
        ({"n": 2, "writeErrors": [{"index": 1, "code": 2, "errmsg": "bad"}]}, store.Rejected),
    ],
)
def test_an_insert_that_did_not_take_everything_is_an_error(answer: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        inserted(answer)


def panel(**fields: Any) -> bytes:
    _, [document] = encoded([{"panel_id": "p1", "timestamp": NOW_MS, "power": 1, **fields}])
    return document


@given(names=st.sets(_text, max_size=120), chosen=st.randoms(use_true_random=False))
def test_the_documents_of_an_answer_are_columns(names: set[str], chosen: random.Random) -> None:
    messages = [{"panel_id": name, "timestamp": NOW_MS, "power": 1} for name in sorted(names)]
    ids, found = encoded(messages) if messages else ([], [])
    known = dict(zip(ids, found, strict=True))
    wanted = [identity for identity in ids if chosen.random() < 0.5]
    for name in ("firstBatch", "nextBatch"):
        batch = {name: [RawBSONDocument(one) for one in found]}
        for more in (0, 2**62 + 1):
            ends = {"id": Int64(more), "ns": "Batch.topic"}
            for reply in (batch | ends, ends | batch):
                array, number = documents.answered(RawBSONDocument(bson.encode(reply)))
                stored = documents.split(array)
                assert (stored.by_id(), len(stored), number) == (known, len(found), more)
                among = stored.among(pa.array(["x|y", *wanted], pa.string()))
                assert among.by_id() == {identity: known[identity] for identity in wanted}


def test_values_are_compared_whatever_the_order_of_their_fields() -> None:
    assert documents.same_value(panel(), panel())
    assert documents.same_value(panel(a=1, b=2), panel(b=2, a=1))
    assert not documents.same_value(panel(), panel(power=2))
    assert not documents.same_value(panel(), panel(note="x"))


def test_a_message_that_is_longer_when_it_is_written_again_can_be_corrected() -> None:
    numbers = ",".join(["1e9"] * 60_000)  # 1000000000.0 in Python's words
    value = f'{{"panel_id":"p1","timestamp":{NOW_MS},"power":1,"note":[{numbers}]}}'.encode()
    batch = decode("panel", [value], NOW_MS)
    stored = {"topic_id": "panel", "msg_value": as_object(batch.messages[0])}
    after = corrections.correct(stored, {"power": 2.0}).after
    assert after == {**stored["msg_value"], "power": 2.0}
    with pytest.raises(corrections.Impossible, match="at most 10 000 000"):
        corrections.correct(stored, {"power": 1e9})
    with pytest.raises(corrections.Impossible, match="power"):
        corrections.correct(stored, {}, ["power"])


def test_a_message_does_not_hide_what_we_know_of_it() -> None:
    own = {"time": "noon", "client_id": "X", "received_at": "never", "corrected": "no"}
    flat = raw._flat(bson.decode(panel(**own), CodecOptions(tz_aware=True)))
    moment = "2026-11-22T10:15:00.000+00:00"
    assert flat == {
        "time": moment,
        "panel_id": "p1",
        "power": 1.0,
        **{f"msg_value.{name}": value for name, value in own.items()},
        "client_id": "C1",
        "received_at": moment,
    }


@pytest.mark.parametrize("nested", [lambda value: value, lambda value: [0, {"on": value}]])
def test_true_is_another_value_than_one(nested: Callable[[Any], Any]) -> None:
    assert documents.same_value(panel(ok=nested(1)), panel(ok=nested(1.0)))
    assert not documents.same_value(panel(ok=nested(True)), panel(ok=nested(1)))
    assert not documents.same_value(panel(ok=nested(False)), panel(ok=nested(0.0)))
    stored = bson.decode(panel(ok=nested(True)))
    deleted = bson.encode(documents.revised(stored, {"panel_id": "p1", "timestamp": NOW_MS}, deleted=True))
    assert documents.was_superseded(deleted, panel(ok=nested(True)))
    assert not documents.was_superseded(deleted, panel(ok=nested(1)))


@pytest.mark.parametrize(
    "reference",
    [
        {"$ref": "a", "$id": 1},
        {"$ref": "a", "$id": 1, "$db": "d"},
        {"x": [{"$id": {"$ref": "b", "$id": 2}, "$ref": "a"}]},
    ],
)
def test_a_message_that_looks_like_a_reference_is_handled_like_any_other(reference: dict[str, Any]) -> None:
    sent = {"panel_id": "p1", "timestamp": NOW_MS, "power": 1.0, **reference}
    stored = mongo.plain(bson.decode(panel(**reference)))
    assert stored["msg_value"] == sent
    assert not documents.same_value(panel(**reference), panel(power=2, **reference))
    change = corrections.correct(stored, {"power": 2.0})
    assert change.after == {**sent, "power": 2.0}
    changed = bson.encode(documents.revised(stored, change.after, deleted=False))
    assert documents.was_superseded(changed, panel(**reference))
    assert not documents.was_superseded(changed, panel())
    replaced = mongo.plain(bson.decode(documents.succeeding(changed, panel())))
    assert (replaced["superseded"], replaced["revision"]) == ([sent], 1)


def test_a_message_is_known_by_its_partition_and_offset() -> None:
    other = bson.decode(panel())
    other["kafka"]["offset"] = Int64(other["kafka"]["offset"] + 1)
    other["kafka"]["partition"] = 0
    assert documents.same_message(panel(), panel(power=2))
    assert not documents.same_message(panel(), bson.encode(other))
    assert documents.origin(panel()) == (0, 2**40)


def delivered(message: dict[str, Any], offset: int, owner: str) -> bytes:
    batch = decode("panel", [json.dumps(message).encode()], NOW_MS)
    origin = documents.Origin(np.array([1]), np.array([offset]), [owner], ["28013"], received_ms=NOW_MS + offset)
    return documents.encode(batch, documents.identities(batch), origin)[0]


@settings(max_examples=150, deadline=None)
@given(
    deliveries=st.lists(
        st.tuples(
            _messages, st.floats(0, 9) | st.none(), st.integers(5, 6), st.sampled_from("ab"), st.sampled_from("srd")
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_told_to_be_delivered_again_is_so(
    deliveries: list[tuple[dict[str, Any], float | None, int, str, str]],
) -> None:
    stored, new = [], []
    for message, power, offset, owner, handled in deliveries:
        first = delivered(message, 5, "a")
        if handled != "s":  # by a person: restored to what it was, or deleted
            deleted = documents.revised(bson.decode(first), message, deleted=True)
            restored = documents.revised(deleted, bson.decode(first)["msg_value"], deleted=False)
            first = bson.encode(deleted if handled == "d" else restored)
        stored.append(first)
        new.append(delivered(message if power is None else message | {"power": power}, offset, owner))
    found = documents.delivered_again(*(pa.array(column, pa.binary()) for column in (stored, new))).tolist()
    for again, before, now, (message, power, offset, owner, handled) in zip(
        found, stored, new, deliveries, strict=True
    ):
        same = documents.same_value(before, now) and not documents.same_message(before, now)
        assert not again or (same and not documents.was_superseded(before, now))
        unchanged = power is None or power == message["power"]
        assert again or not (unchanged and offset == 6 and owner == "a" and handled == "s")


def test_a_message_is_received_when_the_broker_says_so() -> None:
    stamps = [(TIMESTAMP_LOG_APPEND_TIME, NOW_MS - 900_000), (TIMESTAMP_CREATE_TIME, 5), (TIMESTAMP_NOT_AVAILABLE, 0)]
    messages = [Message(topic="wind", partition=0, offset=0, timestamp=stamp) for stamp in stamps]
    assert _received_ms(messages, NOW_MS).tolist() == [NOW_MS - 900_000, NOW_MS, NOW_MS]


def test_identities_sort_by_time() -> None:
    ids, _ = encoded(
        [{"panel_id": "z", "timestamp": time, "power": 1} for time in (946_684_800_000, 10**12 - 1, 10**12, NOW_MS)]
    )
    assert ids == sorted(ids)


@settings(max_examples=100, deadline=None)
@given(delays=st.lists(st.floats(0.001, 1e8), min_size=1, max_size=200), share=st.sampled_from([0.5, 0.95, 0.99]))
def test_quantiles_are_right_within_one_percent(delays: list[float], share: float) -> None:
    sketch, other = DelaySketch(), DelaySketch()
    sketch.add(np.array(delays[::2]))
    other.add(np.array(delays[1::2]))
    sketch.merge(other)
    exact = sorted(delays)[max(int(np.ceil(share * len(delays))) - 1, 0)]
    assert sketch.quantile(share) == pytest.approx(exact, rel=0.0101)
    assert sketch.greatest_s == max(delays)


def test_a_clock_ahead_is_no_delay() -> None:
    sketch = DelaySketch()
    assert sketch.quantile(0.5) is None
    sketch.add(np.array([-5.0, -1.0]))
    assert sketch.quantile(0.5) == 0.0
    assert sketch.greatest_s == 0.0


def follow(lags: list[int], bounds: Bounds) -> list[tuple[int, str, str]]:
    """Report these lags every 10 s; return what was raised and cleared, and when (s)."""
    state: dict[str, Any] = {}
    seen = []
    for number, lag in enumerate(lags):
        state, events = judge(state, Numbers(lag=lag), number * 10_000, bounds)
        seen += [(number * 10, event.code, event.state) for event in events]
    return seen


def test_a_growing_lag_raises_once_and_clears_once() -> None:
    lags = [0, 20_000, 30_000, 40_000, 50_000, 60_000, 40_000, 8_000, 6_000, 4_000, 0, 20_000, 0]
    assert follow(lags, Bounds()) == [(40, "lag_growing", "raised"), (90, "lag_growing", "cleared")]


def test_a_large_lag_that_falls_is_no_alarm() -> None:
    assert follow([90_000, 80_000, 70_000, 60_000, 50_000, 40_000, 30_000], Bounds()) == []


@pytest.mark.parametrize(
    ("bad", "good", "code"),
    [
        (Numbers(lag=0, delay_p95_s=61.0), Numbers(lag=0, delay_p95_s=29.0), "delay"),
        (Numbers(lag=0, messages=100, rejected=6), Numbers(lag=0, messages=100, rejected=2), "refused_share"),
        (Numbers(lag=0, silent_s=901.0), Numbers(lag=0, silent_s=1.0), "silent"),
    ],
)
def test_each_condition_raises_after_its_hold_and_clears(bad: Numbers, good: Numbers, code: str) -> None:
    state: dict[str, Any] = {}
    seen = []
    for number, numbers in enumerate([bad, bad, bad, bad, bad, Numbers(lag=0), good, good]):
        state, events = judge(state, numbers, number * 10_000, Bounds())
        seen += [(number, event.code, event.state, event.since_ms) for event in events]
    assert seen == [(3, code, "raised", 0), (6, code, "cleared", 0)]
    assert state == {}


@pytest.mark.parametrize(
    ("bad", "code"),
    [(Numbers(lag=0, delay_p95_s=600.0), "delay"), (Numbers(lag=0, messages=100, rejected=100), "refused_share")],
)
def test_devices_that_send_once_a_minute_raise_too(bad: Numbers, code: str) -> None:
    state: dict[str, Any] = {}
    seen = []
    for number in range(30):
        nothing = Numbers(lag=0)  # five reports of six have nothing to tell
        state, events = judge(state, nothing if number % 6 else bad, number * 10_000, Bounds())
        seen += [(number, event.code, event.state) for event in events]
    assert seen == [(6, code, "raised")]


def test_the_share_of_refused_messages_of_a_slow_topic_is_judged_when_there_are_enough() -> None:
    state: dict[str, Any] = {}
    seen = []
    for number in range(60):  # 3 messages a report: 21 in seven reports, all refused in the first 28
        state, events = judge(state, Numbers(0, messages=3, rejected=3 * (number < 28)), number * 10_000, Bounds())
        seen += [(number, event.code, event.state) for event in events]
    assert seen == [(13, "refused_share", "raised"), (34, "refused_share", "cleared")]
    assert state == {"counted": {"messages": 12, "rejected": 0}}


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 4], width=3) == "▃▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
