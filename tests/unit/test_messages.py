"""The contract: what is accepted, what is refused and why; never an exception."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfgen.messages import (
    EARLIEST_MS,
    MAX_AHEAD_MS,
    MAX_BYTES,
    MESSAGE_TYPES,
    REASONS,
    as_object,
    decode,
    value_fields,
)

NOW_MS = 1_795_342_500_000  # 2026-11-22T10:15:00Z


def panel(**fields: Any) -> bytes:
    return json.dumps({"panel_id": "p1", "timestamp": NOW_MS, "power": 250.5, **fields}).encode()


def reason(value: bytes | None, topic: str = "panel") -> str:
    batch = decode(topic, [value], NOW_MS)
    assert batch.indexes == []
    [refused] = batch.refused
    assert refused.index == 0
    assert refused.text
    return refused.reason


def accepted(value: bytes, topic: str = "panel") -> dict[str, Any]:
    batch = decode(topic, [value], NOW_MS)
    assert batch.refused == []
    [message] = batch.messages
    return as_object(message)


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        ("wind", {"wind_id": "w1", "wind_speed": 0}),
        ("wind", {"wind_id": "w1", "wind_speed": 120.0, "wind_direction": 359.9, "temperature": -40}),
        ("light", {"light_id": "l1", "irradiance": -50}),
        ("light", {"light_id": "l1", "irradiance": 2000, "temperature": 20.5}),
        ("panel", {"panel_id": "p1", "power": -1000}),
        ("panel", {"panel_id": "p1", "power": 1e7, "energy": 0, "temperature": 80}),
    ],
)
def test_limits_belong_to_the_range(topic: str, fields: dict[str, Any]) -> None:
    message = {**fields, "timestamp": NOW_MS}
    assert accepted(json.dumps(message).encode(), topic) == message


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        ("wind", {"wind_id": "w1", "wind_speed": -0.001}),
        ("wind", {"wind_id": "w1", "wind_speed": 120.001}),
        ("wind", {"wind_id": "w1", "wind_speed": 3, "wind_direction": 360}),
        ("light", {"light_id": "l1", "irradiance": -50.1}),
        ("light", {"light_id": "l1", "irradiance": 2000.1}),
        ("panel", {"panel_id": "p1", "power": -1000.1}),
        ("panel", {"panel_id": "p1", "power": 1e7 + 1}),
        ("panel", {"panel_id": "p1", "power": 1, "energy": -1}),
        ("panel", {"panel_id": "p1", "power": float("nan")}),
        ("panel", {"panel_id": "p1", "power": float("inf")}),
        ("panel", {"panel_id": "p1", "power": 1, "temperature": float("-inf")}),
        ("panel", {"panel_id": "p1", "power": 10**400}),
        ("panel", {"panel_id": "p1", "power": 1, "counter": 2**63}),
    ],
)
def test_out_of_range(topic: str, fields: dict[str, Any]) -> None:
    assert reason(json.dumps({**fields, "timestamp": NOW_MS}).encode(), topic) == "out_of_range"


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 5000])
def test_numbers_beyond_any_float_are_out_of_range(number: str) -> None:
    assert reason(b'{"panel_id":"p1","timestamp":%d,"power":%s}' % (NOW_MS, number.encode())) == "out_of_range"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"{} x",
        b'{"a":1,}',
        b"\x00",
        b"\xef\xbb\xbf" + panel(),
        b"[" * 100_000,
        b'{"panel_id":"p1","timestamp":%d,"power":1,"power":2}' % NOW_MS,
        b'{"panel_id":"p1","timestamp":%d,"power":1,"power" :2}' % NOW_MS,
        b'{"panel_id":"p1","timestamp":%d,"power":01}' % NOW_MS,
        b'{"panel_id":"\\ud800","timestamp":%d,"power":1}' % NOW_MS,
        panel(note="\ud800"),
        panel(**{"a\0b": 1}),
        panel(deep=json.loads("[" * 33 + "]" * 33)),
        panel()[:-1] + b',"deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_malformed_json(value: bytes | None) -> None:
    assert reason(value) == "malformed_json"


@pytest.mark.parametrize("value", [b"[]", b"1", b"null", b'"text"', b"true"])
def test_not_an_object(value: bytes) -> None:
    assert reason(value) == "not_an_object"


@pytest.mark.parametrize("name", ["panel_id", "timestamp", "power"])
def test_missing_field(name: str) -> None:
    message = json.loads(panel())
    del message[name]
    batch = decode("panel", [json.dumps(message).encode()], NOW_MS)
    assert [(refused.reason, name in refused.text) for refused in batch.refused] == [("missing_field", True)]


@pytest.mark.parametrize(
    "fields", [{"power": True}, {"power": "1"}, {"power": None}, {"power": [1]}, {"energy": "5"}, {"panel_id": 17}]
)
def test_wrong_type(fields: dict[str, Any]) -> None:
    assert reason(panel(**fields)) == "wrong_type"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_a_measured_value_may_be_a_long_integer_and_an_unknown_one_not(number: int) -> None:
    alone, beside = decode("panel", [panel(temperature=number), panel(temperature=number, note=1)], NOW_MS).messages
    assert as_object(alone)["temperature"] == as_object(beside)["temperature"] == float(number)
    assert reason(panel(note=number)) == "out_of_range"


@pytest.mark.parametrize("element_id", ["", "x" * 129, "é" * 65, "a\nb", "a\x7fb", "a\u0085b"])
def test_bad_id(element_id: str) -> None:
    assert reason(panel(panel_id=element_id)) == "bad_id"


@pytest.mark.parametrize("element_id", ["x" * 128, "é" * 64, "a b", "panel|1|2", "太陽", "\U0001f31e", '"quoted"'])
def test_good_ids(element_id: str) -> None:
    assert decode("panel", [panel(panel_id=element_id)], NOW_MS).element_ids == [element_id]


@pytest.mark.parametrize(
    ("timestamp", "event_time_ms"),
    [
        (NOW_MS, NOW_MS),
        (float(NOW_MS), NOW_MS),
        ("2026-11-22T10:15:00Z", NOW_MS),
        ("2026-11-22T11:15:00+01:00", NOW_MS),
        ("2026-11-22T10:15:00.2509Z", NOW_MS + 250),
        ("2000-01-01T00:00:00Z", EARLIEST_MS),
        (NOW_MS + MAX_AHEAD_MS, NOW_MS + MAX_AHEAD_MS),
    ],
)
def test_event_times(timestamp: Any, event_time_ms: int) -> None:
    batch = decode("panel", [panel(timestamp=timestamp)], NOW_MS)
    assert batch.event_times_ms.tolist() == [event_time_ms]


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-11-22T10:15:00",
        "2026-11-22",
        "yesterday",
        "",
        "1999-12-31T23:59:59Z",
        "2026-11-22T10:15:00." + "0" * 40 + "Z",
        NOW_MS // 1000,
        -1,
        10**30,
        1.5,
        True,
        None,
        {},
        "0001-01-01T00:00:00+14:00",
        "2026-11-22T10:15:00\ud800Z",
    ],
)
def test_bad_timestamp(timestamp: Any) -> None:
    assert reason(panel(timestamp=timestamp)) == "bad_timestamp"


def test_seconds_are_recognised() -> None:
    [refused] = decode("panel", [panel(timestamp=NOW_MS // 1000)], NOW_MS).refused
    assert "milliseconds" in refused.text


@pytest.mark.parametrize("timestamp", [NOW_MS + MAX_AHEAD_MS + 1, "2026-11-22T10:20:01Z", "9999-12-31T23:59:59Z"])
def test_future_timestamp(timestamp: Any) -> None:
    assert reason(panel(timestamp=timestamp)) == "future_timestamp"


def test_too_large() -> None:
    frame = len(panel(note=""))
    assert accepted(panel(note="x" * (MAX_BYTES - frame)))["power"] == 250.5
    assert reason(panel(note="x" * (MAX_BYTES - frame + 1))) == "too_large"
    assert reason(b" " * (MAX_BYTES + 1 - len(panel())) + panel()) == "too_large"


@pytest.mark.parametrize("value", [b'{"panel_id":"\xff"}', b"\x80", panel()[:-1] + b',"x":"\xc3("}'])
def test_invalid_utf8(value: bytes) -> None:
    assert reason(value) == "invalid_utf8"


def test_unknown_fields_are_kept() -> None:
    extra = {"firmware": "1.2", "cells": [{"v": 1.5}, None, True], "counter": 2**63 - 1}
    assert accepted(panel(**extra)) == {"panel_id": "p1", "timestamp": NOW_MS, "power": 250.5, **extra}


def test_optional_null_is_absent() -> None:
    assert decode("panel", [panel(energy=None)], NOW_MS).indexes == [0]


def test_a_batch_keeps_its_order_and_places() -> None:
    values = [panel(panel_id="a"), b"{", panel(panel_id="b", note=1), panel(timestamp=1), panel(panel_id="c")]
    batch = decode("panel", values, NOW_MS)
    assert batch.indexes == [0, 2, 4]
    assert batch.element_ids == ["a", "b", "c"]
    assert [(refused.index, refused.reason) for refused in batch.refused] == [
        (1, "malformed_json"),
        (3, "bad_timestamp"),
    ]
    assert batch.take([1, 2]).element_ids == ["b", "c"]


@pytest.mark.parametrize("other", [panel(), b"{"])
def test_each_message_is_judged_by_its_own_clock(other: bytes) -> None:
    values = [other, *[panel(timestamp=NOW_MS + 600_000)] * 3]
    batch = decode("panel", values, NOW_MS + np.array([0, 0, 299_999, 300_000]))
    assert batch.indexes[-1] == 3
    late = {refused.index: refused.text for refused in batch.refused if refused.reason == "future_timestamp"}
    assert {index: text.partition(" is ")[2] for index, text in late.items()} == {
        1: "600 s ahead; set the device's clock",
        2: "300 s ahead; set the device's clock",
    }
    assert decode("panel", [panel(timestamp=NOW_MS + 600_000)] * 2, NOW_MS + np.full(2, 300_000)).columns is not None


def test_empty_batch() -> None:
    batch = decode("wind", [], NOW_MS)
    assert (batch.indexes, len(batch.event_times_ms), batch.refused) == ([], 0, [])


def test_value_fields_follow_the_types() -> None:
    assert {topic: value_fields(topic) for topic in MESSAGE_TYPES} == {
        "wind": ("wind_speed", "wind_direction", "temperature"),
        "light": ("irradiance", "temperature"),
        "panel": ("power", "energy", "temperature"),
    }


# whatever comes

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_near = st.fixed_dictionaries(
    {
        "panel_id": st.sampled_from(["p1", "", "é", "\n"]) | _values,
        "timestamp": st.sampled_from([NOW_MS, "2026-11-22T10:15:00Z", 1.7e12]) | _values,
        "power": st.sampled_from([0, 1.5, -1000, True]) | _values,
    },
    optional={"energy": _values, "temperature": _values, "note": _values},
)


def damaged(message: dict[str, Any], place: int, byte: int) -> bytes:
    value = bytearray(json.dumps(message).encode("utf-8", "surrogatepass"))
    value[place % len(value)] = byte
    return bytes(value)


_messages = (
    st.none()
    | st.binary(max_size=200)
    | st.builds(damaged, _near, st.integers(0, 500), st.integers(0, 255))
    | _near.map(lambda message: json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | _near.map(lambda message: json.dumps(message).encode())
)


@settings(max_examples=150, deadline=None)
@given(topic=st.sampled_from(sorted(MESSAGE_TYPES)), values=st.lists(_messages, max_size=8))
def test_any_bytes_are_accepted_or_refused_with_a_reason(topic: str, values: list[bytes | None]) -> None:
    batch = decode(topic, values, NOW_MS)
    assert sorted(batch.indexes + [refused.index for refused in batch.refused]) == list(range(len(values)))
    assert {refused.reason for refused in batch.refused} <= REASONS.keys()
    assert all(refused.text.isprintable() for refused in batch.refused)
    assert len(batch.indexes) == len(batch.element_ids) == len(batch.event_times_ms) == len(batch.messages)


@settings(max_examples=150, deadline=None)
@given(values=st.lists(_messages, min_size=1, max_size=4))
def test_a_message_is_judged_alike_alone_and_among_others(values: list[bytes | None]) -> None:
    together = decode("panel", values, NOW_MS)
    alone = [decode("panel", [value], NOW_MS) for value in values]
    assert together.indexes == [index for index, batch in enumerate(alone) if batch.indexes]
    assert [refused.reason for refused in together.refused] == [
        refused.reason for batch in alone for refused in batch.refused
    ]


_number = st.sampled_from(
    [
        *("0", "-0", "-0.0", "1", "1.5", "1e2", "1E+2", "1e-400", "1e400", "4.9e-324", "9007199254740993"),
        *("0.1234567890123456789012", "12345678901234567890123", "01", "1.", ".5", "+1", "1e", "0x10", "NaN", "-NaN"),
        *("Infinity", "-Infinity", "nan", "inf", "true", "null", "[]", "{}", '"1"'),
    ]
) | st.floats(-1000, 1e7).map(repr)
_time = st.sampled_from(
    [
        *("1795342500000", "1795342500000.0", "1.7953425e12", "-1795342500000", "null", "true", "1" * 30, '""'),
        *('"2026-11-22T10:15:00Z"', '"2026-11-22T10:15:00.123Z"', '"2026-11-22 10:15:00Z"', '"2026-11-22t10:15:00z"'),
        *('"2026-11-22T10:15:00.1Z"', '"2026-11-22T10:15:00.123456789Z"', '"2026-11-22T10:15:60Z"', '"2026-11-22"'),
        *(
            '"2026-11-22T10:15:00+0100"',
            '"2026-11-22T10:15:00+01:00"',
            '"2026-11-22T10:15:00"',
            '"2026-02-30T10:15:00Z"',
        ),
        *('"2026-11-22T24:00:00Z"', '"2026-11-22T10:15:00,123Z"', '"0000-11-22T10:15:00Z"', '"2026-11-22T10:15Z"'),
        *('"2026-11-22T10:15:00+23:59"', '"2026-11-22T10:15:00+24:00"', '"2026-11-22T10:15:00-00:00"'),
        *('"2026-11-22T1:15:00.0Z"', '"26-11-22T10:15:00.00Z"', '"+2026-11-22T10:15:00Z"', '"2026-11-22T10-15-00Z"'),
    ]
)
_id = st.sampled_from(
    ["p1", "p", "a b", "|", "", "x" * 128, "x" * 129, "\x7f", "\t", "\n", "\\u0070", "{", "é", "\x00"]
)
_line = st.builds(
    lambda id_, time, power, rest, space: f'{{{space}"panel_id":"{id_}","timestamp":{time},"power":{power}{rest}}}',
    _id,
    _time,
    _number,
    st.sampled_from(
        ["", ",", ' , "temperature" : 5 ', ',"power":2', ',"note":1', ',"energy":null,"temperature":-3.5e1']
    )
    | _number.map(lambda number: f',"energy":{number}'),
    st.sampled_from(["", " ", "\n", "\r\n\t", "\x0b"]),
).map(str.encode)
_usual = st.builds(
    lambda time, power: f'{{"panel_id":"p1","timestamp":{time},"power":{power}}}'.encode(),
    st.sampled_from(['"2026-11-22T10:15:00Z"', '"2026-11-22T10:15:00.123Z"', "1795342500000"]),
    st.floats(-1000, 1e7),
)


@settings(max_examples=400, deadline=None)
@given(values=st.lists(_line | _usual, min_size=1, max_size=3))
def test_a_batch_is_judged_at_once_as_message_by_message(values: list[bytes]) -> None:
    at_once = decode("panel", values, NOW_MS)
    one_by_one = decode("panel", [*values, b""], NOW_MS)  # an empty message is never judged with others
    assert one_by_one.columns is None
    assert at_once.indexes == one_by_one.indexes
    assert at_once.element_ids == one_by_one.element_ids
    assert at_once.event_times_ms.tolist() == one_by_one.event_times_ms.tolist()
    assert list(map(as_object, at_once.messages)) == list(map(as_object, one_by_one.messages))
    assert at_once.refused == one_by_one.refused[:-1]


def test_what_nearly_all_batches_are_is_judged_at_once() -> None:
    usual = [
        [b'{"panel_id":"p1","timestamp":"2026-11-22T10:15:00Z","power":1}', b'{"panel_id":"p2","timestamp":'
         b'"2026-11-22T10:15:00.5+01:00","power":-1.5e1, "energy": 3}'],
        [b'{"panel_id":"p1","timestamp":1795342500000,"power":1}'] * 2,
    ]  # fmt: skip
    assert [decode("panel", values, NOW_MS).columns is not None for values in usual] == [True, True]
    assert decode("wind", [b'{"wind_id":"w","timestamp":1795342500000,"wind_speed":360}'], NOW_MS).columns is None


@settings(max_examples=150, deadline=None)
@given(message=_near)
def test_what_is_accepted_is_unchanged(message: dict[str, Any]) -> None:
    value = json.dumps(message).encode()
    batch = decode("panel", [value], NOW_MS)
    if batch.indexes:
        kept = {name: field for name, field in as_object(batch.messages[0]).items() if field is not None}
        assert kept == {name: field for name, field in json.loads(value).items() if field is not None}
