"""Readings as MongoDB documents, encoded as a batch where their messages have declared fields only."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from kafka_consumers.bson_columns import Documents, Texts
from selfgen.clients.mongo import plain, reading_ids
from selfgen.messages import MESSAGE_TYPES, Decoded, IntArray, as_object


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


class Encoded(Sequence[bytes]):
    """The documents of a batch, which lie one after the other; single ones may be exchanged."""

    def __init__(self, documents: pa.BinaryArray | pa.LargeBinaryArray) -> None:
        self._documents = documents
        self._exchanged: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, place: Any) -> Any:
        return self._exchanged.get(place) or self._documents[place].as_py()

    def __setitem__(self, place: int, document: bytes) -> None:
        self._exchanged[place] = document

    def sizes(self, places: IntArray) -> IntArray:
        """Return the lengths of documents, bytes."""
        if self._exchanged:
            return np.array([len(self[place]) for place in places.tolist()], np.int64)
        return pc.binary_length(self._documents).to_numpy()[places].astype(np.int64)

    def column(self, places: Sequence[int]) -> pa.BinaryArray | pa.LargeBinaryArray:
        """Return documents as a column."""
        if self._exchanged:
            return pa.array([self[place] for place in places], pa.binary())
        return self._documents.take(pa.array(places, pa.int64()))

    def joined(self, places: IntArray) -> bytes | memoryview:
        """Return documents one after the other."""
        if self._exchanged:
            return b"".join([self[place] for place in places.tolist()])
        _, _, together = self._documents.take(pa.array(places)).buffers()
        return memoryview(together)[: int(self.sizes(places).sum())]


def encode(batch: Decoded, ids: Sequence[str], origin: Origin) -> Encoded:
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
    if batch.columns is not None:
        return Encoded(_written(ids, list(batch.columns.itercolumns()), batch, origin, np.arange(len(ids))))
    typed = np.fromiter((type(message) is not dict for message in batch.messages), bool, len(ids))
    columns = _columns([message for message in batch.messages if type(message) is not dict], batch.topic)
    found = _written(ids, columns, batch, origin, np.flatnonzero(typed))
    if typed.all():
        return Encoded(found)
    of_typed = iter(found.to_pylist())
    return Encoded(
        pa.array(
            [
                next(of_typed) if is_typed else bson.encode(_document(batch, ids, origin, position))
                for position, is_typed in enumerate(typed.tolist())
            ],
            pa.large_binary(),
        )
    )


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
    """Return one reading as its document; `_written` gives the same of many."""
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


def _columns(messages: Sequence[Any], topic: str) -> list[Sequence[Any]]:
    """Return the declared fields of typed messages as columns."""
    names = MESSAGE_TYPES[topic].__struct_fields__
    return [[getattr(message, name) for message in messages] for name in names]


def _written(
    ids: Sequence[str], columns: Sequence[Any], batch: Decoded, origin: Origin, positions: IntArray
) -> pa.BinaryArray:
    """Return the documents of the typed messages at these positions, whose declared fields are columns."""

    def chosen(values: Sequence[Any]) -> Sequence[Any]:
        return values if len(positions) == len(ids) else [values[position] for position in positions.tolist()]

    id_field, time_field, *value_fields = MESSAGE_TYPES[batch.topic].__struct_fields__
    element_ids, times, *values = columns
    element_id, time = Texts(element_ids), _time_texts(times)
    times_ms = batch.event_times_ms[positions]
    message = Documents(len(positions)).text(id_field, element_id).text(time_field, time)
    if time.present is not None:
        message.number(time_field, times_ms, ~time.present)  # a number is the event time itself
    for name, column in zip(value_fields, values, strict=True):
        message.number(name, np.array(column, dtype="<f8"))
    kafka = Documents(len(positions)).number("partition", origin.partitions[positions].astype("<i4"))
    return (
        Documents(len(positions))
        .text("_id", Texts(chosen(ids)))
        .constant("topic_id", batch.topic)
        .date("timestamp", times_ms)
        .object("msg_value", message)
        .text("element_id", element_id)
        .text("client_id", Texts(chosen(origin.client_ids)))
        .text("postal_code", Texts(chosen(origin.postal_codes)))
        .date("received_at", np.full(len(positions), origin.received_ms))
        .object("kafka", kafka.number("offset", origin.offsets[positions]))
        .encoded()
    )


def _time_texts(times: Sequence[Any] | pa.ChunkedArray) -> Texts:
    """Return the times that are texts."""
    if isinstance(times, pa.ChunkedArray):
        return Texts(times if pa.types.is_string(times.type) else pa.nulls(len(times), pa.string()))
    return Texts([time if isinstance(time, str) else None for time in times])


# A stored document is compared with a new one by its bytes: both begin with `_id`, have `msg_value` at a place that
# follows from the `_id`, and end with `kafka`.
_ID_AT = 13  # document's length, type and name of "_id", text's length
_SIZE = struct.Struct("<i")
# A cursor's answer has its number and its collection's name, of at most 255 bytes, before or after the documents.
_BATCH, _CURSOR, _BEFORE_BATCH = b"Batch\0", b"\x12id\0", 512
_KAFKA_BYTES = len(bson.encode({"partition": 0, "offset": Int64(0)})) + 1  # and the document's own end

#: What differs between two deliveries of a message: `received_at` and `kafka`.
_DELIVERY_BYTES = len(bson.encode({"received_at": DatetimeMS(0)})) - 5 + _KAFKA_BYTES

#: A field that only readings have that a person changed.
_SUPERSEDED = b"\x04superseded\0"


def answered(cursor: RawBSONDocument) -> tuple[bytes, int]:
    """Return the documents of a cursor's answer as a BSON array, and where to get more of them: 0 where it was all.

    Asked for a field of it, the driver would make an object of each document.
    """
    answer = memoryview(cursor.raw)
    at = bytes(answer[:_BEFORE_BATCH]).index(_BATCH) + len(_BATCH)
    end = at + int.from_bytes(answer[at : at + 4], "little")
    _, _, number = (bytes(answer[:at]) + bytes(answer[end:])).partition(_CURSOR)
    return bytes(answer[at:end]), int.from_bytes(number[:8], "little")


@dataclass(slots=True)
class Stored:
    """Documents as MongoDB has them, and the `_id` of each: two columns."""

    ids: pa.StringArray
    documents: pa.BinaryArray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, documents: Mapping[str, bytes]) -> Stored:
        """Return documents that are given by their `_id`."""
        return cls(pa.array(documents.keys(), pa.string()), pa.array(documents.values(), pa.binary()))

    @classmethod
    def joined(cls, parts: Sequence[Stored]) -> Stored:
        """Return the documents of all parts."""
        parts = parts or [cls.of({})]
        ids, documents = ([getattr(part, column) for part in parts] for column in ("ids", "documents"))
        return cls(pa.concat_arrays(ids), pa.concat_arrays(documents))

    def among(self, ids: pa.StringArray) -> Stored:
        """Return those with one of these `_id`s."""
        chosen = pc.is_in(self.ids, value_set=ids)
        return Stored(self.ids.filter(chosen), self.documents.filter(chosen))

    def by_id(self) -> dict[str, bytes]:
        """Return each document by its `_id`."""
        return dict(zip(self.ids.to_pylist(), self.documents.to_pylist(), strict=True))


def split(array: bytes) -> Stored:
    """Return the documents of a BSON array, in its order."""
    starts, ends = [], []
    at, number = 4, 0
    while at < len(array) - 1:
        start = at + 2 + len(str(number))  # an element's name is its number
        at = start + _SIZE.unpack_from(array, start)[0]
        starts.append(start)
        ends.append(at)
        number += 1
    start_of = np.array(starts, np.int64)
    size_at = start_of[:, None] + _ID_AT + np.arange(-_SIZE.size, 0)
    id_sizes = np.frombuffer(array, np.uint8)[size_at].view("<i4").ravel()  # with the 0 at the end
    ids = _cut(array, start_of + _ID_AT, start_of + _ID_AT + id_sizes - 1, pa.string())
    return Stored(ids, _cut(array, start_of, np.array(ends, np.int64), pa.binary()))


def _cut(array: bytes, starts: IntArray, ends: IntArray, type_: pa.DataType) -> pa.Array:
    """Return pieces of bytes, which lie one after the other, as a column."""
    edges = np.column_stack([starts, ends]).astype(np.int32).ravel()
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(array)]
    with_gaps = pa.Array.from_buffers(type_, max(len(edges) - 1, 0), buffers)
    return with_gaps.take(pa.array(np.arange(0, len(edges), 2)))


def same_message(stored: bytes, new: bytes) -> bool:
    """Tell whether both documents come from the same Kafka partition and offset."""
    return stored[-_KAFKA_BYTES:] == new[-_KAFKA_BYTES:]


def delivered_again(stored: pa.BinaryArray, new: pa.BinaryArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell of which documents only the delivery differs: the same message as stored, of another offset.

    Of others it may still be so (`same_message`, `same_value`): of this many are told apart at once.
    """
    both = (stored.cast(new.type), new)
    same = pc.equal(*(pc.binary_slice(one, 0, -_DELIVERY_BYTES) for one in both))
    other = pc.not_equal(*(pc.binary_slice(one, -_KAFKA_BYTES) for one in both))
    return pc.and_(same, other).to_numpy(zero_copy_only=False)


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
