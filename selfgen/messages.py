"""What devices send: the three message types, and the judgement of a batch of raw messages.

The types are declared once. Decoding, the published JSON Schemas, the page for device makers and the
simulator follow them.

>>> messages = [b'{"panel_id": "p1", "timestamp": 1767225600000, "power": 250}', b"{"]
>>> batch = decode("panel", messages, now_ms=1767225601000)
>>> batch.element_ids, batch.event_times_ms.tolist()
(['p1'], [1767225600000])
>>> [(refused.index, refused.reason) for refused in batch.refused]
[(1, 'malformed_json')]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta, Struct
from pyarrow import json as arrow_json

IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

#: Longest message, bytes.
MAX_BYTES = 256 * 1024
#: How far a device's clock may be ahead, ms.
MAX_AHEAD_MS = 5 * 60 * 1000
#: Earlier event times are a clock that was never set, or seconds sent as milliseconds.
EARLIEST_MS = 946_684_800_000  # 2000-01-01T00:00:00Z
#: The end of the calendar; a greater number is no time.
LATEST_MS = 253_402_300_800_000  # 10000-01-01T00:00:00Z
#: Longest element id, bytes of UTF-8.
MAX_ID_BYTES = 128
#: Longest timestamp, characters.
MAX_TIME_LENGTH = 40
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
        # `$` alone would let a final line break through, but in JavaScript
        extra_json_schema={"pattern": f"^[^{_CONTROL}]*$(?!\\n)"},
    ),
]
Timestamp: TypeAlias = (
    Annotated[
        str,
        Meta(
            max_length=MAX_TIME_LENGTH,
            description="event time, RFC 3339 with an offset",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    | Annotated[
        int,
        Meta(
            description="event time, milliseconds since 1970-01-01T00:00:00Z",
            extra_json_schema={"minimum": EARLIEST_MS},
        ),
    ]
)
Temperature = Annotated[float, Meta(description="°C")]


class Wind(Struct, kw_only=True, omit_defaults=True):
    """A reading of an anemometer."""

    wind_id: ElementId
    timestamp: Timestamp
    wind_speed: Annotated[float, Meta(ge=0, le=120, description="m/s")]
    wind_direction: (
        Annotated[float, Meta(ge=0, lt=360, description="° clockwise from north, where it comes from")] | None
    ) = None
    temperature: Temperature | None = None


class Light(Struct, kw_only=True, omit_defaults=True):
    """A reading of a light sensor (pyranometer)."""

    light_id: ElementId
    timestamp: Timestamp
    irradiance: Annotated[
        float, Meta(ge=-50, le=2000, description="W/m², global horizontal; slightly negative at night")
    ]
    temperature: Temperature | None = None


class Panel(Struct, kw_only=True, omit_defaults=True):
    """A reading of a panel's inverter."""

    panel_id: ElementId
    timestamp: Timestamp
    power: Annotated[float, Meta(ge=-1000, le=10_000_000, description="W AC; slightly negative at night")]
    energy: Annotated[float, Meta(ge=0, le=1e12, description="Wh, cumulative meter")] | None = None
    temperature: Temperature | None = None


Reading: TypeAlias = Wind | Light | Panel

#: The topics of the devices, and what is sent there.
MESSAGE_TYPES: dict[str, type[Reading]] = {"wind": Wind, "light": Light, "panel": Panel}

#: Why a message is refused, and what that means.
REASONS: dict[str, str] = {
    "malformed_json": "it is not JSON, or says what no store can keep (a field twice, nested too deep)",
    "not_an_object": "it is JSON, but not an object",
    "missing_field": "a required field is not there",
    "wrong_type": "a field has another type than the contract says",
    "out_of_range": "a number is outside its limits, not a number, or infinite",
    "bad_timestamp": "it is neither RFC 3339 with an offset nor integer epoch milliseconds, or before 2000",
    "future_timestamp": "the timestamp is more than 5 minutes ahead",
    "too_large": "it is longer than 256 KiB",
    "invalid_utf8": "it is not UTF-8",
    "bad_id": "the element id is not 1 to 128 bytes of UTF-8 without control characters",
}

#: Codes under which messages are set aside: the contract's, and that of one that landing itself failed at.
SET_ASIDE = (*REASONS, "internal_error")


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that breaks the contract: its place in the batch, a code of `REASONS`, and what to do."""

    index: int
    reason: str
    text: str


@dataclass(slots=True)
class Decoded:
    """The judgement of a batch: the accepted messages as parallel columns, in order, and the refused ones.

    `messages` holds the typed message where it has declared fields only, else the whole object as a dict. Where all of
    a batch are plain (see `_plain`), `columns` holds their declared fields as well, and `messages` reads them from it.
    """

    topic: str
    indexes: list[int]
    element_ids: list[str]
    event_times_ms: IntArray
    messages: Sequence[Reading | dict[str, Any]]
    refused: list[Refused]
    columns: pa.Table | None = None

    def take(self, places: Sequence[int]) -> Decoded:
        """Return the batch with these of its accepted messages only."""
        return Decoded(
            self.topic,
            [self.indexes[place] for place in places],
            [self.element_ids[place] for place in places],
            self.event_times_ms[list(places)],
            [self.messages[place] for place in places],
            self.refused,
        )


class _Rows(Sequence[Reading]):
    """The typed messages of columns, made when they are asked for."""

    def __init__(self, type_: type[Reading], columns: pa.Table) -> None:
        self._type, self._columns = type_, columns

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    def __getitem__(self, place: Any) -> Any:
        [row] = self._columns.slice(range(len(self))[place], 1).to_pylist()
        return self._type(**row)


class _Refusal(Exception):
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


class _Limits(NamedTuple):
    """The limits of a numeric field, and how they are said."""

    required: bool
    low: float
    high: float
    below: float
    text: str

    def holds(self, value: Any) -> Any:
        """Tell whether a number, or each of an array, is finite and within the limits."""
        return (value >= self.low) & (value <= self.high) & (value < self.below) & (abs(value) < math.inf)


class _Contract:
    """What the judgement needs of a message type, read from its declaration."""

    def __init__(self, topic: str, type_: type[Reading]) -> None:
        self.id_field = type_.__struct_fields__[0]
        info = msgspec.inspect.type_info(type_)
        assert isinstance(info, msgspec.inspect.StructType)  # noqa: S101 - what a Struct's info is
        self.names = tuple(described.name for described in info.fields)
        self.required = tuple(described.name for described in info.fields if described.required)
        self.values = {
            described.name: _limits(described)
            for described in info.fields
            if described.name not in (self.id_field, "timestamp")
        }
        strict = msgspec.defstruct(
            f"Strict{type_.__name__}", [], bases=(type_,), forbid_unknown_fields=True, kw_only=True, gc=False
        )
        #: a batch's columns, with times in text and as numbers
        self.schemas = [
            pa.schema(
                [(self.id_field, pa.string()), ("timestamp", time), *((name, pa.float64()) for name in self.values)]
            )
            for time in (pa.string(), pa.int64())
        ]
        self.type = type_
        self.decode: Callable[[bytes], Reading] = msgspec.json.Decoder(strict).decode  # type: ignore[assignment]
        self.row: Callable[[Reading], tuple[Any, ...]] = attrgetter(*self.names)

    def judge(self, message: Any, now_ms: int) -> tuple[str, int, dict[str, Any]]:
        """Return element id, event time (epoch ms) and the whole object of a JSON value, or raise `_Refusal`."""
        if not isinstance(message, dict):
            raise _Refusal("not_an_object", f"the message is {_name(message)}; send one JSON object")
        missing = [name for name in self.required if name not in message]
        if missing:
            raise _Refusal("missing_field", f"required and not there: {', '.join(map(_quoted, missing))}")
        element_id = self._element_id(message[self.id_field])
        event_time_ms = _timely(message["timestamp"], now_ms)
        for name, limits in self.values.items():
            if message.get(name) is not None or (limits.required and name in message):
                message[name] = _measured(name, message[name], limits)
        _check_storable(message, "the message")
        return element_id, event_time_ms, message

    def _element_id(self, element_id: Any) -> str:
        if not isinstance(element_id, str):
            raise _Refusal("wrong_type", f'"{self.id_field}" is {_name(element_id)}; it must be a string')
        length = len(element_id.encode("utf-8", "surrogatepass"))
        if not 1 <= length <= MAX_ID_BYTES:
            raise _Refusal("bad_id", f'"{self.id_field}" has {length} bytes; 1 to {MAX_ID_BYTES} are taken')
        if _control_character.search(element_id):
            raise _Refusal("bad_id", f'"{self.id_field}" {_quoted(element_id)} holds a control character')
        return element_id


def _timely(time: Any, now_ms: int) -> int:
    """Return a timestamp as epoch ms, or raise `_Refusal`."""
    if isinstance(time, float) and time.is_integer():
        time = int(time)  # 1.7e12 is an integer in JSON
    known = isinstance(time, int | str) and not isinstance(time, bool)
    event_time_ms = _event_time_ms(time) if known else -1
    if event_time_ms > now_ms + MAX_AHEAD_MS:
        ahead_s = (event_time_ms - now_ms) // 1000
        raise _Refusal("future_timestamp", f'"timestamp" {_quoted(time)} is {ahead_s} s ahead; set the device\'s clock')
    if event_time_ms >= EARLIEST_MS:
        return event_time_ms
    hint = (
        "; are these seconds? send milliseconds"
        if isinstance(time, int) and EARLIEST_MS <= time * 1000 <= now_ms + MAX_AHEAD_MS
        else "; send RFC 3339 with an offset, or integer epoch milliseconds, 2000 or later"
    )
    shown = _name(time) if isinstance(time, dict | list) else _quoted(time)
    raise _Refusal("bad_timestamp", f'"timestamp" is {shown}{hint}')


def _measured(name: str, value: Any, limits: _Limits) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refusal("wrong_type", f'"{name}" is {_name(value)}; it must be a number')
    if not limits.holds(value):
        raise _Refusal("out_of_range", f'"{name}" is {value:.10g}; it must be {limits.text}')
    return float(value)


def _name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    kind = "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
    return f"the {kind} {_quoted(value)}"


def _limits(described: msgspec.inspect.Field) -> _Limits:
    kinds = described.type.types if isinstance(described.type, msgspec.inspect.UnionType) else (described.type,)
    plain = (kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind for kind in kinds)
    number = next(kind for kind in plain if isinstance(kind, msgspec.inspect.FloatType))
    low, high, below = number.ge, number.le, number.lt
    text = " and ".join(
        f"{words} {limit:,.10g}".replace(",", " ")
        for words, limit in (("at least", low), ("at most", high), ("below", below))
        if limit is not None
    )

    return _Limits(
        described.required,
        -math.inf if low is None else low,
        math.inf if high is None else high,
        math.inf if below is None else below,
        text or "a finite number",
    )


_CONTRACTS = {topic: _Contract(topic, type_) for topic, type_ in MESSAGE_TYPES.items()}
_Instant = Annotated[datetime, Meta(tz=True)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST_INTEGER = 20  # characters of a 64-bit integer and its sign
_LONGEST_QUOTE = 60
_ZULU_LENGTHS = (len("2026-06-01T12:00:00Z"), len("2026-06-01T12:00:00.000Z"))


def value_fields(topic: str) -> tuple[str, ...]:
    """Return the measured fields of a topic's messages, required first."""
    return tuple(_CONTRACTS[topic].values)


def as_object(message: Reading | dict[str, Any]) -> dict[str, Any]:
    """Return an accepted message as the JSON object it was."""
    if isinstance(message, dict):
        return message
    return {name: value for name, value in msgspec.structs.asdict(message).items() if value is not None}


def judge(topic: str, message: dict[str, Any], now_ms: int) -> dict[str, Any] | Refused:
    """Return a decoded message as `decode` would accept it, or why it would not; its length in JSON does not matter."""
    try:
        return _CONTRACTS[topic].judge(dict(message), now_ms)[2]
    except _Refusal as refusal:
        return Refused(0, refusal.reason, refusal.text)


def decode(topic: str, values: Sequence[bytes | None], now_ms: int | IntArray) -> Decoded:
    """Judge a batch of raw messages; whatever the bytes are, each is accepted or refused with a reason.

    Parameters
    ----------
    topic : str
        One of `MESSAGE_TYPES`.
    values : sequence of bytes
        The messages as they came; None (Kafka's empty value) is refused like an empty one.
    now_ms : int or array
        When they were received, all or each, epoch ms: what "future" is measured from.

    Returns
    -------
    Decoded
        Accepted and refused together have each index once.
    """
    contract = _CONTRACTS[topic]
    latest_ms = np.broadcast_to(np.asarray(now_ms, np.int64) + MAX_AHEAD_MS, len(values))
    if (plain := _plain(topic, values, latest_ms)) is not None:
        return plain
    decode_strictly, row_of = contract.decode, contract.row
    indexes: list[int] = []
    messages: list[Reading | dict[str, Any]] = []
    element_ids: list[str] = []
    times: list[int | str] = []
    unusual: list[int] = []
    for index, value in enumerate(values):
        # The strict type takes what has declared fields only; everything else is judged one by one, below.
        # Quotes are counted, because a parser keeps the last of two equal keys silently.
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
        except (
            ValueError,
            TypeError,
            RecursionError,
        ):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            usual = False
        if usual:
            indexes.append(index)
            messages.append(message)
            element_ids.append(element_id)
            times.append(time)
        else:
            unusual.append(index)

    event_times_ms = _event_times(times)
    timely = (event_times_ms >= EARLIEST_MS) & (event_times_ms <= latest_ms[indexes])
    if timely.all() and not unusual:
        return Decoded(topic, indexes, element_ids, event_times_ms, messages, [])

    accepted = [
        (index, element_id, event_time_ms, message)
        for index, element_id, event_time_ms, message, fits in zip(
            indexes, element_ids, event_times_ms.tolist(), messages, timely.tolist(), strict=True
        )
        if fits
    ]
    unusual += [index for index, fits in zip(indexes, timely.tolist(), strict=True) if not fits]
    refused: list[Refused] = []
    for index in sorted(unusual):
        try:
            accepted.append((index, *contract.judge(_parse(values[index]), int(latest_ms[index]) - MAX_AHEAD_MS)))
        except _Refusal as refusal:
            refused.append(Refused(index, refusal.reason, refusal.text))
    accepted.sort(key=itemgetter(0))
    return Decoded(
        topic,
        [row[0] for row in accepted],
        [row[1] for row in accepted],
        np.array([row[2] for row in accepted], np.int64),
        [row[3] for row in accepted],
        refused,
    )


def _plain(topic: str, values: Sequence[bytes | None], latest_ms: IntArray) -> Decoded | None:
    """Judge a batch at once where every message is what nearly all are; None where one is not, or is refused.

    Plain is one flat object of declared fields with their types and limits, in printable ASCII without escapes, that
    begins and ends with its braces. So there is one row for each message, and Arrow's parser can be trusted with it.
    """
    contract = _CONTRACTS[topic]
    columns = _parsed(values, contract.schemas)
    if columns is None or not _holds(columns, contract):
        return None
    event_times_ms = _event_times_at_once(columns["timestamp"])
    if not ((event_times_ms >= EARLIEST_MS) & (event_times_ms <= latest_ms)).all():
        return None
    element_ids: list[str] = columns[contract.id_field].to_numpy().tolist()
    rows = _Rows(contract.type, columns)
    return Decoded(topic, list(range(len(values))), element_ids, event_times_ms, rows, [], columns)


def _is_flat(text: bytes, values: Sequence[bytes]) -> bool:
    """Tell whether messages, a line each, are one brace, printable ASCII without escapes, and one brace."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    if not len(lengths) or lengths.min() < 2 or lengths.max() > MAX_BYTES:
        return False
    # the parser refuses the other control characters; a null that was sent is kept, a column could not tell
    if not text.isascii() or any(stranger in text for stranger in (b"\\", b"\x7f", b"null")):
        return False
    if text.count(b"{") != len(values) or text.count(b"}") != len(values):
        return False
    ends = np.cumsum(lengths + 1) - 1
    characters = np.frombuffer(text, np.uint8)
    return bool((characters[ends - lengths] == ord("{")).all() and (characters[ends - 1] == ord("}")).all())


def _parsed(values: Sequence[bytes | None], schemas: Sequence[pa.Schema]) -> pa.Table | None:
    """Return flat messages as columns of the first schema that holds them all."""
    try:
        text = b"\n".join(values)  # type: ignore[arg-type]
    except TypeError:  # an empty message of Kafka's
        return None
    if not _is_flat(text, values):  # type: ignore[arg-type]
        return None
    whole = arrow_json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    for schema in schemas:
        options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
        with suppress(pa.ArrowInvalid):
            columns = arrow_json.read_json(pa.BufferReader(text), whole, options)
            return columns if columns.num_rows == len(values) else None
    return None


def _holds(columns: pa.Table, contract: _Contract) -> bool:
    """Tell whether columns keep the contract, but for their times' meaning."""
    texts = [(contract.id_field, MAX_ID_BYTES)]
    if pa.types.is_string(columns["timestamp"].type):
        texts.append(("timestamp", MAX_TIME_LENGTH))
    return (
        not any(columns[name].null_count for name in contract.required)
        and all(_within(pc.binary_length(columns[name]), 1, most) for name, most in texts)
        and all(limits.holds(columns[name].drop_null().to_numpy()).all() for name, limits in contract.values.items())
    )


def _within(numbers: pa.ChunkedArray, least: int, most: int) -> bool:
    found = pc.min_max(numbers)
    return bool(least <= found["min"].as_py() and found["max"].as_py() <= most)


def _event_times_at_once(times: pa.ChunkedArray) -> IntArray:
    """Return epoch ms of times, all texts or all numbers; what is no time becomes -1.

    Arrow takes more forms than RFC 3339 has, but of these lengths and with a Z only one each.
    """
    numbers_or_texts = times.to_numpy()
    if not pa.types.is_string(times.type):
        return numbers_or_texts  # type: ignore[no-any-return]
    if pc.all(pc.ends_with(times, "Z")).as_py():
        lengths = pc.min_max(pc.binary_length(times)).as_py()
        if lengths["min"] == lengths["max"] and lengths["max"] in _ZULU_LENGTHS:
            with suppress(pa.ArrowInvalid):
                instants: IntArray = times.cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_numpy()
                return instants
    return _event_times(numbers_or_texts.tolist())


def _event_times(times: list[int | str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return epoch ms; what is no time becomes -1, which is before every bound."""
    if all(time.__class__ is str for time in times):
        try:
            # the whole batch at once, in C
            instants = pa.array(msgspec.convert(times, list[_Instant]), pa.timestamp("us", "UTC"))
            microseconds: np.ndarray[Any, np.dtype[np.int64]] = instants.cast(pa.int64()).to_numpy()
            return microseconds // 1000
        except (ValueError, OverflowError, pa.ArrowException):
            pass
    return np.fromiter((_event_time_ms(time) for time in times), np.int64, len(times))


def _event_time_ms(time: int | str) -> int:
    if isinstance(time, int):
        return time if 0 <= time <= LATEST_MS else -1
    if len(time) > MAX_TIME_LENGTH:
        return -1
    try:
        return (msgspec.convert(time, _Instant) - _EPOCH) // _MILLISECOND
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter of half a surrogate pair
        return -1


def _parse(value: bytes | None) -> Any:
    """Return the JSON value of raw bytes; raise `_Refusal` where there is none that a store can keep."""
    if not value:
        raise _Refusal("malformed_json", "the message is empty")
    if len(value) > MAX_BYTES:
        raise _Refusal("too_large", f"the message has {len(value)} bytes; at most {MAX_BYTES} are taken")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refusal(
            "invalid_utf8",
            f"byte {error.start} (0x{value[error.start]:02x}) is not UTF-8; send JSON encoded as UTF-8",
        ) from None
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise _Refusal("malformed_json", f"the message is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise _Refusal(
            "malformed_json", f"not JSON at character {error.pos}: {error.msg[0].lower()}{error.msg[1:]}"
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; a parser must not choose between two values of one field."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refusal("malformed_json", f"the field {_quoted(twice)} stands twice in one object")
    return found


class _LongInteger(float):
    """An integer of more than 64 bits: a measured field takes it as the float that it is, a store only so."""


def _integer(digits: str) -> int | float:
    number = int(digits) if len(digits) <= _LONGEST_INTEGER else math.inf
    return number if -(2**63) <= number < 2**63 else _LongInteger(digits)


def _check_storable(value: Any, path: str, depth: int = 1) -> None:
    """Refuse what JSON can say and the database cannot keep."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise _Refusal("malformed_json", f"{path} holds half a surrogate pair")
    elif isinstance(value, float):
        if not math.isfinite(value) or isinstance(value, _LongInteger):
            raise _Refusal("out_of_range", f"{path} holds a number that is not finite or does not fit 64 bits")
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise _Refusal("malformed_json", f"the message is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, list):
            for item in value:
                _check_storable(item, path, depth + 1)
            return
        for name, item in value.items():
            _check_storable(name, "a field's name", depth)
            if "\0" in name:
                raise _Refusal("malformed_json", f"the name of the field {_quoted(name)} holds the character U+0000")
            _check_storable(item, _quoted(name) if depth == 1 else path, depth + 1)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)


def _quoted(value: Any) -> str:
    """Return a value as it may stand in a sentence: short and printable."""
    text = json.dumps(value, ensure_ascii=False, default=str)[: _LONGEST_QUOTE + 1]
    shown = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)
    return shown if len(shown) <= _LONGEST_QUOTE else shown[: _LONGEST_QUOTE - 1] + "…"
