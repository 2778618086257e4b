"""Judges simulated messages by plain `json`, knowing nothing of how they were made or of the contract's code."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from selfgen.simulation.batch import Batch, Message

LIMITS = {"panel": ("power", -1000, 10_000_000), "light": ("irradiance", -50, 2000), "wind": ("wind_speed", 0, 120)}


def fate(topic: str, value: bytes, now_ms: int) -> str | tuple[str, int]:  # noqa: PLR0911
    """The reason for which a message is refused, or (element id, event time in ms)."""
    if len(value) > 256 * 1024:
        return "too_large"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "invalid_utf8"
    try:
        reading = json.loads(text)
    except ValueError:
        return "malformed_json"
    if not isinstance(reading, dict):
        return "not_an_object"
    field, low, high = LIMITS[topic]
    if not {f"{topic}_id", "timestamp", field} <= reading.keys():
        return "missing_field"
    element, number = reading[f"{topic}_id"], reading[field]
    if not isinstance(element, str) or not isinstance(number, int | float):
        return "wrong_type"
    if not 1 <= len(element.encode()) <= 128 or not element.isprintable():
        return "bad_id"
    if math.isnan(number) or not low <= number <= high:
        return "out_of_range"
    event_ms = time_of(reading["timestamp"])
    if event_ms is None:
        return "bad_timestamp"
    return "future_timestamp" if event_ms > now_ms + 300_000 else (element, event_ms)


def time_of(timestamp: Any) -> int | None:
    if isinstance(timestamp, int):
        return timestamp
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return round(moment.timestamp() * 1000) if moment.tzinfo else None


def messages(batches: Iterable[Batch]) -> list[Message]:
    return [message for batch in batches for message in batch.messages()]


def count(sent: Iterable[Message], now_ms: int) -> dict[str, dict[str, Any]]:
    """Counts of each topic in the shape of a truth's, and proof that copies and records are what they claim."""
    topics: dict[str, dict[str, Any]] = {}
    values: dict[tuple[str, str, int], bytes] = {}
    for message in sent:
        topic = topics.setdefault(
            message.topic, {"produced": 0, "landed": 0, "duplicates": 0, "refused": Counter[str]()}
        )
        topic["produced"] += 1
        judged = fate(message.topic, message.value, now_ms)
        if isinstance(judged, str):
            topic["refused"][judged] += 1
            assert message.outcome == judged
            continue
        assert (message.key.decode(), message.event_ms) == judged
        identity = (message.topic, *judged)
        if identity in values:
            assert values[identity] == message.value, "an identity came back with another value"
            topic["duplicates"] += 1
        else:
            topic["landed"] += 1
        values[identity] = message.value
    return topics


def values_of(sent: Iterable[Message], topic: str, field: str) -> dict[str, dict[int, float]]:
    """What lands of one field: element → event time → value."""
    series: dict[str, dict[int, float]] = {}
    for message in sent:
        if message.topic == topic and message.outcome == "landed":
            series.setdefault(message.key.decode(), {})[message.event_ms] = json.loads(message.value)[field]
    return series
