"""What devices send: the three message types, and the judgement of a batch of raw messages.

The types are declared once. Decoding, the published JSON Schemas, the page for device makers and the simulator
follow them.

>>> batch = decode("panel", [b'{"panel_id": "p1", "timestamp": 1767225600000, "power": 250}', b"{"], 1767225601000)
>>> batch.element_ids, batch.event_times_ms.tolist()
(['p1'], [1767225600000])
>>> [(refused.index, refused.reason) for refused in batch.refused]
[(1, 'malformed_json')]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from selfgen.registry import ID_FIELD

#: Longest message, bytes.
MAX_BYTES = 256 * 1024
#: How far a device's clock may be ahead, ms.
MAX_AHEAD_MS = 5 * 60 * 1000
#: Earlier event times are a clock that was never set, or seconds sent as milliseconds.
EARLIEST_MS = 946_684_800_000  # 2000-01-01T00:00:00Z
#: Longest element id, bytes of UTF-8.
MAX_ID_BYTES = 128
#: Deepest nesting of an unknown field; the database's own limit is 100.
MAX_DEPTH = 32

_CONTROL = "\\u0000-\\u001f\\u007f-\\u009f"
_control_character = re.compile(f"[{_CONTROL}]")

ElementId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID_BYTES,
        description=f"the element, 1 to {MAX_ID_BYTES} bytes of UTF-8 without control characters",
        extra_json_schema={"pattern": f"^[^{_CONTROL}]*$"},
    ),
]
Timestamp: TypeAlias = (
    Annotated[
        str, Meta(description="event time, RFC 3339 with an offset", extra_json_schema={"format": "date-time"})
    ]
    | Annotated[int, Meta(description="event time, milliseconds since 1970-01-01T00:00:00Z")]
)
Temperature = Annotated[float, Meta(description="°C")]


class Wind(Struct, kw_only=True, omit_defaults=True):
    """A reading of an anemometer."""

    wind_id: ElementId
    timestamp: Timestamp
    wind_speed: Annotated[float, Meta(ge=0, le=120, description="m/s")]
    wind_direction: Annotated[float, Meta(ge=0, lt=360, description="° clockwise from north, where it comes from")] | None = (
        None
    )
    temperature: Temperature | None = None


class Light(Struct, kw_only=True, omit_defaults=True):
    """A reading of a light sensor (pyranometer)."""

    light_id: ElementId
    timestamp: Timestamp
    irradiance: Annotated[float, Meta(ge=-50, le=2000, description="W/m², global horizontal; slightly negative at night")]
    temperature: Temperature | None = None


class Panel(Struct, kw_only=True, omit_defaults=True):
    """A reading of a panel's inverter."""

    panel_id: ElementId
    timestamp: Timestamp
    power: Annotated[float, Meta(ge=-1000, le=10_000_000, description="W AC; slightly negative at night")]
    energy: Annotated[float, Meta(ge=0, description="Wh, cumulative meter")] | None = None
    temperature: Temperature | None = None


Reading: TypeAlias = Wind | Light | Panel

#: The topics of the devices, and what is sent there.
MESSAGE_TYPES: dict[str, type[Reading]] = {"wind": Wind, "light": Light, "panel": Panel}

#: Why a message is refused, and what that means.
REASONS: dict[str, str] = {
    "malformed_json": "it is not JSON, or JSON that no store can keep (a field twice, half a character, too deep)",
    "not_an_object": "it is JSON, but not an object",
    "missing_field": "a required field is not there",
    "wrong_type": "a field has another type than the contract says",
    "out_of_range": "a number is outside its limits, not a number, or infinite",
    "bad_timestamp": "the timestamp is neither RFC 3339 with an offset nor integer epoch milliseconds, or before 2000",
    "future_timestamp": "the timestamp is more than 5 minutes ahead",
    "too_large": "it is longer than 256 KiB",
    "invalid_utf8": "it is not UTF-8",
    "bad_id": "the element id is not 1 to 128 bytes of UTF-8 without control characters",
}


class Refused(NamedTuple):
    """A message that breaks the contract: its place in the batch, a code of `REASONS`, a sentence to act on."""

    index: int
    reason: str
    text: str


@dataclass(slots=True)
class Decoded:
    """The judgement of a batch: the accepted messages as parallel columns, in order, and the refused ones.

    `messages` holds the typed message where it has declared fields only, else the whole object as a dict.
    """

    topic: str
    indexes: list[int] = field(default_factory=list)
    element_ids: list[str] = field(default_factory=list)
    event_times_ms: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=lambda: np.empty(0, np.int64))
    messages: list[Reading | dict[str, Any]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


class _Refusal(Exception):
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


class _Limits(NamedTuple):
    """The limits of a numeric field, and how they are said."""

    required: bool
    holds: Callable[[float], bool]
    text: str


class _Contract:
    """What the judgement needs of a message type, read from its declaration."""

    def __init__(self, topic: str, type_: type[Reading]) -> None:
        self.id_field = ID_FIELD[topic]  # type: ignore[index]
        info = msgspec.inspect.type_info(type_)
        assert isinstance(info, msgspec.inspect.StructType)  # noqa: S101 - narrows the type
        self.names = tuple(described.name for described in info.fields)
        self.values = {
            described.name: _limits(described) for described in info.fields if described.name not in (self.id_field, "timestamp")
        }
        strict = msgspec.defstruct(
            f"Strict{type_.__name__}", [], bases=(type_,), forbid_unknown_fields=True, kw_only=True, gc=False
        )
        self.decode: Callable[[bytes], Reading] = msgspec.json.Decoder(strict).decode
        self.row: Callable[[Reading], tuple[Any, ...]] = attrgetter(*self.names)


def _limits(described: msgspec.inspect.Field) -> _Limits:
    kinds = described.type.types if isinstance(described.type, msgspec.inspect.UnionType) else (described.type,)
    number = next(kind for kind in kinds if isinstance(kind, msgspec.inspect.FloatType))
    low, high, below = number.ge, number.le, number.lt
    text = " and ".join(
        f"{words} {limit:,.10g}".replace(",", " ")
        for words, limit in (("at least", low), ("at most", high), ("below", below))
        if limit is not None
    )

    def holds(value: float) -> bool:
        return (
            math.isfinite(value)
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (below is None or value < below)
        )

    return _Limits(described.required, holds, text or "a finite number")


_CONTRACTS = {topic: _Contract(topic, type_) for topic, type_ in MESSAGE_TYPES.items()}
_Instant = Annotated[datetime, Meta(tz=True)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def value_fields(topic: str) -> tuple[str, ...]:
    """Return the measured fields of a topic's messages, required first."""
    return tuple(_CONTRACTS[topic].values)


def as_object(message: Reading | dict[str, Any]) -> dict[str, Any]:
    """Return an accepted message as the JSON object it was."""
    return message if isinstance(message, dict) else msgspec.structs.asdict(message)


def decode(topic: str, values: Sequence[bytes | None], now_ms: int) -> Decoded:
    """Judge a batch of raw messages; whatever the bytes are, each is accepted or refused with a reason.

    Parameters
    ----------
    topic : str
        One of `MESSAGE_TYPES`.
    values : sequence of bytes
        The messages as they came; None (Kafka's empty value) is refused like an empty one.
    now_ms : int
        When they were received, epoch ms: what "future" is measured from.

    Returns
    -------
    Decoded
        Accepted and refused together have each index once.
    """
    contract = _CONTRACTS[topic]
    batch = Decoded(topic)
    decode_strictly, row_of = contract.decode, contract.row
    times: list[int | str] = []
    unusual: list[tuple[int, bytes | None]] = []
    for index, value in enumerate(values):
        # The strict type takes what has declared fields only; everything else is judged one by one. Quotes are
        # counted, because a parser keeps the last of two equal keys silently.
        try:
            message = decode_strictly(value)  # type: ignore[arg-type]
            row = row_of(message)
            element_id, time = row[0], row[1]
            quotes = 2 * (len(row) - row.count(None)) + (4 if time.__class__ is str else 2)
            usual = (
                value.count(b'"') == quotes  # type: ignore[union-attr]
                and len(value) <= MAX_BYTES  # type: ignore[arg-type]
                and element_id.isascii()
                and element_id.isprintable()
            )
        except (ValueError, TypeError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            usual = False
        if usual:
            batch.indexes.append(index)
            batch.element_ids.append(element_id)
            batch.messages.append(message)
            times.append(time)
        else:
            unusual.append((index, value))
    batch.event_times_ms = _event_times(times)
    _set_aside_bad_times(batch, times, now_ms, unusual)
    if unusual:
        _judge_unusual(contract, batch, unusual, now_ms)
    return batch


def _event_times(times: Sequence[int | str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return epoch ms; what is no time becomes -1, which the caller's bounds refuse."""
    if all(time.__class__ is str for time in times):
        try:
            # ISO 8601 in C for the whole batch at once
            instants = pa.array(msgspec.convert(times, list[_Instant]), pa.timestamp("us", "UTC"))
            return np.floor_divide(instants.cast(pa.int64()).to_numpy(), 1000)
        except (ValueError, OverflowError, pa.ArrowException):
            pass
    return np.fromiter((_event_time(time) for time in times), np.int64, len(times))


def _event_time(time: int | str) -> int:
    if isinstance(time, int):
        return time if 0 <= time <= LATEST_MS else -1
    try:
        return (msgspec.convert(time, _Instant) - _EPOCH) // _MILLISECOND
    except (msgspec.ValidationError, OverflowError):
        return -1


def _set_aside_bad_times(
    batch: Decoded, times: Sequence[int | str], now_ms: int, unusual: list[tuple[int, bytes | None]]
) -> None:
    ...
