"""MongoDB: the collections, the range read of raw readings, and the marks of hours to compute.

| collection | holds | `_id` |
| --- | --- | --- |
| `topic` | raw readings, clustered by `_id` | topic, event time in ms, element: `panel|1767225600000|p1` |
| `topic_history` | what people changed of raw readings, and why | the reading's, number of its change |
| `topic_alarm` | refused messages, other alarms | topic, partition, offset: `panel|0000|000000000000042` |
| `dirty_hours` | hours that landing touched | topic, hour in ms: `panel|1767225600000` |
| `expired_hours` | hours whose readings were removed by their age | as `dirty_hours` |
| `batch_progress` | up to which hour each topic's batch jobs have run | topic |
| `landing_progress` | what became of each partition's messages | topic, partition: `panel|0000` |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from bson.dbref import DBRef
from numpy.typing import NDArray
from pymongo import DeleteOne, MongoClient, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.cursor import Cursor
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure

from selfgen.settings import Settings

Document = dict[str, Any]

HOUR_MS = 3_600_000
#: Topics whose hours the batch jobs compute.
BATCH_TOPICS = ("panel", "light")
#: `_id`s are compared as text; event times are written with this many digits (until the year 2286).
_TIME_DIGITS = 13
_END_OF_TIME_MS = 10**_TIME_DIGITS - 1
#: Hours beside a marked one that its computing reads, on any clock (`selfgen.recompute`).
_BESIDE = 3
_READ_BATCH = 50_000
_OTHER_OPTIONS = 85  # IndexOptionsConflict


def connect(settings: Settings, timeout_s: float = 10.0) -> MongoClient[Document]:
    """Return a client whose writes are acknowledged by a majority and journaled.

    Parameters
    ----------
    settings : Settings
        Where MongoDB is.
    timeout_s : float
        How long an operation looks for a server, s.
    """
    return MongoClient(
        settings.mongodb,
        w="majority",
        journal=True,
        tz_aware=True,
        datetime_conversion="DATETIME_CLAMP",  # MongoDB holds times that no calendar has
        appname="selfgen",
        serverSelectionTimeoutMS=int(timeout_s * 1000),
    )


def database(settings: Settings) -> Database[Document]:
    """Return the database, over a client of its own."""
    return connect(settings)[settings.mongodb_database]


def ping(settings: Settings, timeout_s: float = 2.0) -> None:
    """Ask the primary for a sign of life; raise `pymongo.errors.PyMongoError` where there is none."""
    with connect(settings, timeout_s) as client:
        client.admin.command("ping")


def ensure_collections(settings: Settings) -> None:
    """Create what is missing; what is there stays as it is."""
    with connect(settings) as client:
        found = client[settings.mongodb_database]
        for name in ("topic", "topic_alarm"):
            _create(found, name, clusteredIndex={"key": {"_id": 1}, "unique": True, "name": "identity"})
        for name in ("dirty_hours", "expired_hours", "batch_progress", "landing_progress"):
            _create(found, name)
        _create(found, "topic_history")
        found["topic_history"].create_index([("element_id", 1), ("_id", 1)], name="element")
        _keep_alarms(found, int(settings.alarm_retention_days * 86_400))


def _keep_alarms(found: Database[Document], seconds: int) -> None:
    """Have MongoDB remove alarms by their age; the index also serves listing by time."""
    try:
        found["topic_alarm"].create_index([("received_at", 1)], name="received_at", expireAfterSeconds=seconds)
    except OperationFailure as error:
        if error.code != _OTHER_OPTIONS:
            raise
        found.command("collMod", "topic_alarm", index={"name": "received_at", "expireAfterSeconds": seconds})


def _create(found: Database[Document], name: str, **options: Any) -> None:
    with suppress(CollectionInvalid):  # it is there
        found.create_collection(name, **options)


def reading_id(topic: str, event_time_ms: int, element_id: str = "") -> str:
    """Return the identity of a reading; without an element, the start of all readings of that instant."""
    return f"{topic}|{event_time_ms:0{_TIME_DIGITS}d}|{element_id}"


def reading_ids(topic: str, event_times_ms: NDArray[np.int64], element_ids: Sequence[str]) -> list[str]:
    """Return the identity of each reading; event times in epoch ms."""
    times = pc.utf8_lpad(pa.array(event_times_ms).cast(pa.string()), _TIME_DIGITS, "0")
    found = pc.binary_join_element_wise(topic, times, pa.array(element_ids, pa.string()), "|")
    identities: list[str] = found.to_numpy(zero_copy_only=False).tolist()
    return identities


def reading_time(identity: str) -> int:
    """Return the event time in the identity of a reading, epoch ms."""
    return int(identity.split("|", 2)[1])


def time_range(topic: str, start_ms: int, end_ms: int) -> Document:
    """Return the filter of a topic's readings in `[start_ms, end_ms)`: a range of the clustering key."""
    start, end = (reading_id(topic, min(max(edge, 0), _END_OF_TIME_MS)) for edge in (start_ms, end_ms))
    return {"_id": {"$gte": start, "$lt": end}}


def plain(value: Any) -> Any:
    """Return what was decoded from BSON with its objects as they were sent.

    The decoder takes an object with the fields `$ref` and `$id`, which a device may well send, for a reference to
    another document, and makes it a `DBRef`.

    >>> plain({"power": 1.0, "note": [DBRef("a", 1, None, {"b": 2})]})
    {'power': 1.0, 'note': [{'$ref': 'a', '$id': 1, 'b': 2}]}
    """
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def read_readings(
    settings: Settings,
    topic: str,
    start_ms: int,
    end_ms: int,
    value_fields: Sequence[str],
    client: MongoClient[Document] | None = None,
) -> pd.DataFrame:
    """Return the raw readings of `[start_ms, end_ms)` by element and time.

    Parameters
    ----------
    settings : Settings
        Where MongoDB is.
    topic : str
        One of the devices' topics.
    start_ms, end_ms : int
        The half-open range of event times, epoch ms.
    value_fields : sequence of str
        The measured fields to return.
    client : MongoClient, optional
        To read with, for who reads often; else one of its own.

    Returns
    -------
    pandas.DataFrame
        `element_id` (str), `time` (int64, epoch ms) and each value field (float64, NaN where absent), in
        order of element and time. A reading with none of these fields, as a deleted one, is left out.
    """
    # flat documents are decoded in half the time of nested ones
    projection = {"_id": 1, **{f"value{number}": f"$msg_value.{name}" for number, name in enumerate(value_fields)}}
    known = pa.array([], pa.string())
    parts: list[list[NDArray[Any]]] = []
    with nullcontext(client) if client else connect(settings) as reader:
        found = reader[settings.mongodb_database]["topic"].find(
            time_range(topic, start_ms, end_ms), projection, batch_size=_READ_BATCH
        )
        for documents in _fetched_ahead(found):
            # documents take twenty times the memory of their arrays, so they go at once
            arrays, known = _arrays(topic, documents, len(value_fields), known)
            parts.append(arrays)
    types = (np.int32, np.int64, *(np.float64 for _ in value_fields))
    codes, times_ms, *values = (
        np.concatenate([np.empty(0, kind), *(part[place] for part in parts)]) for place, kind in enumerate(types)
    )
    elements = known.to_numpy(zero_copy_only=False)
    rank = np.empty(len(elements), np.int32)
    rank[np.argsort(elements)] = np.arange(len(elements))
    order = np.argsort(rank[codes], kind="stable")  # the range comes in order of time
    columns: dict[str, Any] = {"element_id": elements[codes[order]], "time": times_ms[order]}
    columns |= {name: value[order] for name, value in zip(value_fields, values, strict=True)}
    frame = pd.DataFrame(columns, copy=False)
    present = frame[list(value_fields)].notna().any(axis=1)
    return frame if present.all() else frame[present].reset_index(drop=True)


def _fetched_ahead(found: Cursor[Document]) -> Iterator[list[Document]]:
    """Yield documents in batches; the next batch comes while its predecessor is looked at."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(found.to_list, _READ_BATCH)
        while documents := coming.result():
            coming = pool.submit(found.to_list, _READ_BATCH)
            yield documents


def _arrays(
    topic: str, documents: list[Document], fields: int, known: pa.StringArray
) -> tuple[list[NDArray[Any]], pa.StringArray]:
    """Return documents as arrays, number of the element in `known`, time, value fields; and `known` with new ones."""
    time_at = len(topic) + 1
    element_at = time_at + _TIME_DIGITS + 1
    identities = pa.array([document["_id"] for document in documents], pa.string())
    elements = pc.utf8_slice_codeunits(identities, element_at)
    times = pc.utf8_slice_codeunits(identities, time_at, element_at - 1).cast(pa.int64())
    new = elements.filter(pc.invert(pc.is_in(elements, value_set=known)))
    if len(new):
        known = pa.concat_arrays([known, new.unique()])
    values = (
        np.array([document.get(name) for document in documents], dtype=np.float64)
        for name in (f"value{number}" for number in range(fields))
    )
    return [pc.index_in(elements, value_set=known).to_numpy(), times.to_numpy(), *values], known


def find_readings(settings: Settings, topic: str, element_id: str, start_ms: int, end_ms: int) -> Iterator[Document]:
    """Return one element's documents of `[start_ms, end_ms)` in order of time.

    MongoDB reads the readings of all elements in that range to find them: keep it as short as the question.
    """
    with connect(settings) as client:
        chosen = {**time_range(topic, start_ms, end_ms), "element_id": element_id, "deleted": None}
        yield from map(plain, client[settings.mongodb_database]["topic"].find(chosen).sort("_id"))


def get_readings(settings: Settings, topic: str, element_id: str, times_ms: Iterable[int]) -> list[Document]:
    """Return an element's documents of these event times, epoch ms, that are there."""
    identities = [reading_id(topic, time_ms, element_id) for time_ms in times_ms]
    with connect(settings) as client:
        chosen = {"_id": {"$in": identities}, "deleted": None}
        return list(map(plain, client[settings.mongodb_database]["topic"].find(chosen).sort("_id")))


def expire(found: Database[Document], topic: str, before_ms: int, settled: timedelta = timedelta(hours=1)) -> int:
    """Remove the readings of a topic before an hour (its start, epoch ms); return how many.

    By ranges of the clustering key, so that no index is kept for it. An hour that a job has still to compute stays,
    and the hours beside it, whose readings that job needs too. What was received within `settled` stays: its hour may
    not be marked yet. Hours are noted in `expired_hours` before they lose readings: from then on they are never
    computed again, though a reading of theirs be sent once more.
    """
    received = {"received_at": {"$lt": datetime.now(UTC) - settled}}
    until_ms = before_ms + (_BESIDE + 1) * HOUR_MS
    marked = _hours(found["dirty_hours"], topic, 0, until_ms) - _hours(found["expired_hours"], topic, 0, until_ms)
    needed = {hour_ms + beside * HOUR_MS for hour_ms in marked for beside in range(-_BESIDE, _BESIDE + 1)}
    removed = 0
    from_ms = 0
    for hour_ms in [*sorted(hour_ms for hour_ms in needed if hour_ms < before_ms), before_ms]:
        if from_ms < hour_ms:
            _note_expired(found, topic, from_ms, hour_ms, received)
            removed += found["topic"].delete_many(time_range(topic, from_ms, hour_ms) | received).deleted_count
        from_ms = hour_ms + HOUR_MS
    return removed


def _note_expired(found: Database[Document], topic: str, from_ms: int, to_ms: int, chosen: Document) -> None:
    while first := found["topic"].find_one(time_range(topic, from_ms, to_ms) | chosen, {"_id": 1}, sort=[("_id", 1)]):
        hour_ms = int(first["_id"].split("|")[1]) // HOUR_MS * HOUR_MS
        found["expired_hours"].update_one(
            {"_id": _hour_id(topic, hour_ms)}, {"$setOnInsert": {"at": datetime.now(UTC)}}, upsert=True
        )
        from_ms = hour_ms + HOUR_MS


def _hour_id(topic: str, hour_ms: int) -> str:
    return f"{topic}|{hour_ms:0{_TIME_DIGITS}d}"


def _hours(collection: Collection[Document], topic: str, from_ms: int, until_ms: int) -> set[int]:
    chosen = {"_id": {"$gte": _hour_id(topic, from_ms), "$lt": _hour_id(topic, until_ms)}}
    return {int(document["_id"].rpartition("|")[2]) for document in collection.find(chosen, {"_id": 1})}


def expired_hours(settings: Settings, topic: str, from_ms: int, until_ms: int) -> set[int]:
    """Return the hours in `[from_ms, until_ms)` (their starts) whose raw readings are no longer kept, or not all."""
    with connect(settings) as client:
        return _hours(client[settings.mongodb_database]["expired_hours"], topic, from_ms, until_ms)


def batch_progress(settings: Settings, topic: str) -> int | None:
    """Return the first hour (its start, epoch ms) that the batch jobs have not run for by themselves; None: never."""
    with connect(settings) as client:
        progress = client[settings.mongodb_database]["batch_progress"].find_one({"_id": topic})
    return None if progress is None else round(progress["next_hour"].timestamp() * 1000)


def advance_batch(settings: Settings, topic: str, next_ms: int) -> None:
    """Note up to which hour the batch jobs have run; never back."""
    with connect(settings) as client:
        client[settings.mongodb_database]["batch_progress"].update_one(
            {"_id": topic},
            {"$max": {"next_hour": datetime.fromtimestamp(next_ms / 1000, UTC)}},
            upsert=True,
        )


class DirtyHour(NamedTuple):
    """An hour whose readings, or owners, changed since it was computed; `version` tells a later change from this one.

    `ownership`: who had an element then was changed, so that its silence is another one's.
    """

    topic: str
    hour_ms: int
    version: int
    ownership: bool = False


def mark_dirty(
    found: Database[Document],
    topic: str,
    hours_ms: Iterable[int],
    reason: str,
    session: ClientSession | None = None,
    *,
    ownership: bool = False,
) -> None:
    """Mark hours (their starts, epoch ms) for computing, after their readings were written; never before.

    Each mark raises the hour's version, so that a job which read the hour before does not take the mark away.
    """
    now = datetime.now(UTC)
    marks = [
        UpdateOne(
            {"_id": f"{topic}|{hour_ms:0{_TIME_DIGITS}d}"},
            {
                "$inc": {"version": 1},
                "$set": {"marked_at": now, "reason": reason, **({"ownership": True} if ownership else {})},
                "$setOnInsert": {
                    "topic_id": topic,
                    "hour": datetime.fromtimestamp(hour_ms / 1000, UTC),
                    "since": now,
                },
            },
            upsert=True,
        )
        for hour_ms in hours_ms
    ]
    if marks:
        found["dirty_hours"].bulk_write(marks, ordered=False, session=session)


def dirty_hours(settings: Settings, topic: str, until_ms: int) -> list[DirtyHour]:
    """Return the marked hours of a topic that start before `until_ms`, in order of time."""
    with connect(settings) as client:
        documents = (
            client[settings.mongodb_database]["dirty_hours"]
            .find({"_id": {"$gte": f"{topic}|", "$lt": f"{topic}|{until_ms:0{_TIME_DIGITS}d}"}})
            .sort("_id")
        )
        return [
            DirtyHour(topic, int(found["_id"].rpartition("|")[2]), found["version"], found.get("ownership", False))
            for found in documents
        ]


def clear_dirty(settings: Settings, computed: Iterable[DirtyHour]) -> None:
    """Take away the marks of computed hours, but of those that were marked again since they were listed."""
    done = [
        DeleteOne({"_id": f"{hour.topic}|{hour.hour_ms:0{_TIME_DIGITS}d}", "version": hour.version})
        for hour in computed
    ]
    if done:
        with connect(settings) as client:
            client[settings.mongodb_database]["dirty_hours"].bulk_write(done, ordered=False)
