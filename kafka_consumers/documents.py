"""Readings as MongoDB documents, encoded as a batch.

Documents of one shape (the same fields, texts of the same lengths) differ only in fixed places. So the BSON library
encodes one template of each shape, and the batch is that template repeated, with columns of values written into its
places: several times as fast as encoding document by document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import bson
import numpy as np
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64

from selfgen.clients.mongo import plain, reading_id, reading_ids
from selfgen.messages import MESSAGE_TYPES, Decoded, IntArray, as_object, value_fields

ByteMatrix = np.ndarray[Any, np.dtype[np.uint8]]

#: More than the bytes of any text in a document but `_id`.
_LONGEST_TEXT = 4096
#: Types of BSON elements that have places in a template.
_DOUBLE, _TEXT, _DATE, _INT32, _INT64 = b"\x01", b"\x02", b"\x09", b"\x10", b"\x12"


@dataclass(slots=True)
class Origin:
    """Where a batch's accepted messages came from and whose they are: columns in their order."""

    partitions: IntArray
    offsets: IntArray
    client_ids: Sequence[str | None]
    postal_codes: Sequence[str | None]
    received_ms: int


def identities(batch: Decoded) -> list[str]:
    """Return the `_id` of each accepted reading."""
    return reading_ids(batch.topic, batch.event_times_ms, batch.element_ids)


def encode(batch: Decoded, ids: Sequence[str], origin: Origin) -> list[bytes]:
    """Return the BSON document of each accepted reading, in order.

    Parameters
    ----------
    batch : Decoded
        The judged messages.
    ids : sequence of str
        Their `_id`s.
    origin : Origin
        What else a document holds.
    """
    documents: list[bytes] = [b""] * len(ids)
    typed = np.ones(len(ids), bool)
    if batch.columns is None:
        typed = np.fromiter((type(message) is not dict for message in batch.messages), bool, len(ids))
    for position in np.flatnonzero(~typed).tolist():
        documents[position] = bson.encode(_document(batch, ids, origin, position))
    positions = np.flatnonzero(typed)
    if len(positions):
        columns = _Columns(batch, ids, origin, positions)
        for shape, members in columns.by_shape():
            matrix = columns.fill(shape, members)
            size, encoded = matrix.shape[1], matrix.tobytes()
            for position, start in zip(positions[members].tolist(), range(0, len(encoded), size), strict=True):
                documents[position] = encoded[start : start + size]
    return documents


def _document(batch: Decoded, ids: Sequence[str], origin: Origin, position: int) -> dict[str, Any]:
    return document(
        batch.topic,
        ids[position],
        batch.element_ids[position],
        int(batch.event_times_ms[position]),
        batch.messages[position],
        client_id=origin.client_ids[position],
        postal_code=origin.postal_codes[position],
        received_ms=origin.received_ms,
        partition=int(origin.partitions[position]),
        offset=int(origin.offsets[position]),
    )


def document(
    topic: str,
    identity: str,
    element_id: str,
    event_time_ms: int,
    message: Any,
    *,
    client_id: str | None,
    postal_code: str | None,
    received_ms: int,
    partition: int,
    offset: int,
) -> dict[str, Any]:
    """Return one reading as its document: the one definition of its fields and their order."""
    value = as_object(message)
    if type(value["timestamp"]) is int:
        value = {**value, "timestamp": Int64(value["timestamp"])}
    owner = _present({"client_id": client_id, "postal_code": postal_code})
    return {
        "_id": identity,
        "topic_id": topic,
        "timestamp": DatetimeMS(event_time_ms),
        "msg_value": value,
        "element_id": element_id,
        **owner,
        "received_at": DatetimeMS(received_ms),
        "kafka": {"partition": partition, "offset": Int64(offset)},
    }


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What makes two documents encode to the same bytes but for their values; lengths in bytes, -1: not there."""

    topic: str
    element_id: int
    time_text: int
    client_id: int
    postal_code: int
    present: int  # a bit for each measured field


class _Columns:
    """The values of typed messages as columns of bytes and numbers."""

    def __init__(self, batch: Decoded, ids: Sequence[str], origin: Origin, positions: IntArray) -> None:
        def chosen(values: Sequence[Any]) -> Sequence[Any]:
            return values if len(positions) == len(ids) else [values[position] for position in positions.tolist()]

        self.topic = batch.topic
        self.fields = value_fields(batch.topic)
        names = ("timestamp", *self.fields)
        if batch.columns is None:
            times, *values = zip(*map(attrgetter(*names), chosen(batch.messages)), strict=True)
        else:
            times, *values = (batch.columns[name].to_numpy() for name in names)
        self.values = [np.array(column, dtype=np.float64) for column in values]
        self.times_ms = batch.event_times_ms[positions]
        self.raw_times = times
        self.received_ms = origin.received_ms
        self.partitions, self.offsets = origin.partitions[positions], origin.offsets[positions]
        self.texts = {
            "_id": _Text(chosen(ids)),
            "element_id": _Text(chosen(batch.element_ids)),
            "timestamp": _Text(_texts_of(times)),
            "client_id": _Text(chosen(origin.client_ids)),
            "postal_code": _Text(chosen(origin.postal_codes)),
        }

    def by_shape(self) -> list[tuple[_Shape, IntArray]]:
        """Return the shapes and the rows of each."""
        present = sum((~np.isnan(column)).astype(np.int64) << bit for bit, column in enumerate(self.values))
        parts = (
            *(self.texts[name].lengths for name in ("element_id", "timestamp", "client_id", "postal_code")),
            present,
        )
        key = parts[0]
        for part in parts[1:]:
            key = key * _LONGEST_TEXT + part + 1
        if (key == key[0]).all():
            return [(_Shape(self.topic, *(int(part[0]) for part in parts)), np.arange(len(key)))]
        _, first, which = np.unique(key, return_index=True, return_inverse=True)
        return [
            (_Shape(self.topic, *(int(part[row]) for part in parts)), np.flatnonzero(which == number))
            for number, row in enumerate(first.tolist())
        ]

    def fill(self, shape: _Shape, rows: IntArray) -> ByteMatrix:
        """Return the documents of one shape, a row each."""
        template, places = _template(shape)
        matrix = np.tile(template, (len(rows), 1))

        def put(name: str, column: np.ndarray[Any, Any]) -> None:
            place, width = places[name], column.dtype.itemsize
            matrix[:, place : place + width] = column.view(np.uint8).reshape(len(rows), width)

        def put_text(name: str, text: str) -> None:
            if length := int(self.texts[text].lengths[rows[0]]):
                put(name, self.texts[text].encoded[rows].astype(f"S{length}"))

        put_text("_id", "_id")
        put_text("element_id", "element_id")
        put_text("msg_value.id", "element_id")
        for name, length in (("client_id", shape.client_id), ("postal_code", shape.postal_code)):
            if length >= 0:
                put_text(name, name)
        if shape.time_text >= 0:
            put_text("msg_value.timestamp", "timestamp")
        else:
            put("msg_value.timestamp", np.array([self.raw_times[row] for row in rows.tolist()], dtype="<i8"))
        for bit, (name, column) in enumerate(zip(self.fields, self.values, strict=True)):
            if shape.present >> bit & 1:
                put(name, column[rows].astype("<f8"))
        put("timestamp", self.times_ms[rows].astype("<i8"))
        put("partition", self.partitions[rows].astype("<i4"))
        put("offset", self.offsets[rows].astype("<i8"))
        put("received_at", np.full(len(rows), self.received_ms, dtype="<i8"))
        return matrix


class _Text:
    """A column of texts as UTF-8, with their lengths in bytes; -1 where there is none."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        absent = [place for place, text in enumerate(texts) if text is None] if None in texts else []
        given = [text or "" for text in texts] if absent else texts
        try:
            self.encoded = np.array(given, dtype="S")  # ASCII: at once
        except UnicodeEncodeError:
            self.encoded = np.array([text.encode() for text in given], dtype="S")
        self.lengths = np.char.str_len(self.encoded).astype(np.int64)
        self.lengths[absent] = -1


def _texts_of(times: Sequence[Any]) -> Sequence[str | None]:
    """Return the times that are texts, None for the numbers."""
    if isinstance(times, np.ndarray):
        return times.tolist() if times.dtype == object else [None] * len(times)
    return [time if isinstance(time, str) else None for time in times]


@lru_cache(maxsize=4096)
def _template(shape: _Shape) -> tuple[ByteMatrix, dict[str, int]]:
    """Return a shape's encoded document and the places of its values."""
    fields = value_fields(shape.topic)
    present = {name: 0.0 for bit, name in enumerate(fields) if shape.present >> bit & 1}
    element_id = " " * shape.element_id
    type_ = MESSAGE_TYPES[shape.topic]
    id_field = type_.__struct_fields__[0]
    time = " " * shape.time_text if shape.time_text >= 0 else 0
    encoded = bson.encode(
        document(
            shape.topic,
            reading_id(shape.topic, 0, element_id),
            element_id,
            0,
            type_(**{id_field: element_id, "timestamp": time, **present}),
            client_id=" " * shape.client_id if shape.client_id >= 0 else None,
            postal_code=" " * shape.postal_code if shape.postal_code >= 0 else None,
            received_ms=0,
            partition=0,
            offset=0,
        )
    )

    def place(kind: bytes, name: str) -> int:
        key = kind + name.encode() + b"\0"
        return encoded.index(key) + len(key) + (4 if kind == _TEXT else 0)  # a text begins with its length

    places = {
        "_id": place(_TEXT, "_id"),
        "element_id": place(_TEXT, "element_id"),
        "timestamp": place(_DATE, "timestamp"),
        "msg_value.id": place(_TEXT, id_field),
        "msg_value.timestamp": place(_TEXT if shape.time_text >= 0 else _INT64, "timestamp"),
        "received_at": place(_DATE, "received_at"),
        "partition": place(_INT32, "partition"),
        "offset": place(_INT64, "offset"),
        **{name: place(_DOUBLE, name) for name in present},
        **{
            name: place(_TEXT, name)
            for name, length in (("client_id", shape.client_id), ("postal_code", shape.postal_code))
            if length >= 0
        },
    }
    return np.frombuffer(encoded, np.uint8), places


# A stored document is compared with a new one by its bytes: both begin with `_id`, have `msg_value` at a place that
# follows from the `_id`, and end with `kafka`.
_ID_AT = 13  # document's length, type and name of "_id", text's length
_KAFKA_BYTES = len(bson.encode({"partition": 0, "offset": Int64(0)})) + 1  # and the document's own end

#: A field that only readings have that a person changed.
_SUPERSEDED = b"\x04superseded\0"


def split(concatenated: bytes) -> dict[bytes, bytes]:
    """Return the documents of a raw batch by their `_id`."""
    found: dict[bytes, bytes] = {}
    start, end = 0, len(concatenated)
    while start < end:
        size = int.from_bytes(concatenated[start : start + 4], "little")
        id_size = int.from_bytes(concatenated[start + 9 : start + _ID_AT], "little") - 1
        found[concatenated[start + _ID_AT : start + _ID_AT + id_size]] = concatenated[start : start + size]
        start += size
    return found


def same_message(stored: bytes, new: bytes) -> bool:
    """Tell whether both documents come from the same Kafka partition and offset."""
    return stored[-_KAFKA_BYTES:] == new[-_KAFKA_BYTES:]


def same_value(stored: bytes, new: bytes) -> bool:
    """Tell whether both documents hold the same message, whatever order its fields came in."""
    place = new.index(b"\x03msg_value\0") + len(b"\x03msg_value\0")
    size = int.from_bytes(new[place : place + 4], "little")
    if stored[place : place + size] == new[place : place + size]:
        return True
    return _same(_decoded(stored)["msg_value"], _decoded(new)["msg_value"])


def succeeding(stored: bytes, new: bytes) -> bytes:
    """Return a document that takes a stored one's place; what a person did to that one is still known of it."""
    if _SUPERSEDED not in stored:
        return new
    before = _decoded(stored)
    if "superseded" not in before:
        return new
    return bson.encode(_with(_decoded(new), revision=before["revision"], superseded=before["superseded"]))


def was_superseded(stored: bytes, new: bytes) -> bool:
    """Tell whether a document holds values that a person took away from the stored one."""
    if _SUPERSEDED not in stored:
        return False
    value = _values(_decoded(new)["msg_value"])
    return any(_same(_values(before), value) for before in _decoded(stored).get("superseded", ()))


def revised(stored: dict[str, Any], value: dict[str, Any], *, deleted: bool, restored: bool = False) -> dict[str, Any]:
    """Return a decoded document with another message, as a person wants it.

    Parameters
    ----------
    stored : dict
        The document as it is.
    value : dict
        Its message from now on.
    deleted : bool
        Whether that is no reading any more.
    restored : bool
        Whether that is what it was before the last change: repeated, the command must not undo itself.
    """
    before = [] if stored.get("deleted") else [stored["msg_value"]]
    superseded = [
        taken
        for taken in [*stored.get("superseded", []), *before]
        if deleted or not _same(_values(taken), _values(value))
    ]
    own = {"revision", "superseded", "deleted", "restored"}
    kept = {name: field for name, field in stored.items() if name not in own}
    marks: dict[str, Any] = {"revision": stored.get("revision", 0) + 1, "superseded": superseded}
    marks |= {name: True for name, is_so in (("deleted", deleted), ("restored", restored)) if is_so}
    return _with({**kept, "msg_value": value}, **marks)


def revision(encoded: bytes) -> int | None:
    """Return how often a person changed the reading; None for never."""
    return bson.decode(encoded).get("revision") if _SUPERSEDED in encoded else None


def unchanged(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the filter of a document as long as neither the device nor a person has changed it."""
    return {"_id": stored["_id"], "kafka": stored["kafka"], "revision": stored.get("revision")}


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same one in JSON, where `1` is `1.0`, but `true` is no number."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _decoded(encoded: bytes) -> dict[str, Any]:
    """Return a document with its messages as they were sent."""
    return plain(bson.decode(encoded))


def _with(document: dict[str, Any], **marks: Any) -> dict[str, Any]:
    """Return a document with further fields before those at its end, whose place is known."""
    head = {name: field for name, field in document.items() if name not in ("received_at", "kafka")}
    return head | marks | {name: document[name] for name in ("received_at", "kafka")}


def _values(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without its time, which may be written in several ways."""
    return {name: value for name, value in message.items() if name != "timestamp"}


def origin(encoded: bytes) -> tuple[int, int]:
    """Return the Kafka partition and offset that a document came from."""
    kafka = bson.decode(encoded)["kafka"]
    return kafka["partition"], kafka["offset"]
