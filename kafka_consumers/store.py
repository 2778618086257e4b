"""How a batch gets into MongoDB, and each of its messages is counted exactly once.

The order of writes carries the proof: readings and alarms first, majority and journaled; then the marks of the hours
they touched; then the partition's progress, advanced only from the offset the batch began at. A crash in between
leaves the progress behind, the same messages come again, and each is recognised: the stored reading of this very
offset is *landed*, not a duplicate. Replacements change what a second look would find, so they are written in one
transaction with the progress.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import bson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import BulkWriteError, ExecutionTimeout, OperationFailure, WriteConcernError
from pymongo.operations import InsertOne, ReplaceOne, UpdateOne

from kafka_consumers import documents
from kafka_consumers.entrance import Event
from selfgen.clients.mongo import BATCH_TOPICS, HOUR_MS, Document, mark_dirty
from selfgen.performance import Totals

_DUPLICATE_KEY = 11000
#: Inserts side by side, and how many documents are worth it.
_WRITERS = 2
_LEAST_PART = 1_000
#: Bytes of an insert. With the document that goes beyond them, at most 16 MiB, and with documents of 200 bytes at the
#: least, that is within the 48 million bytes and 100 000 documents of a command.
_PART_BYTES = 16 * 1024 * 1024
_EMPTY = bson.encode({})
#: From this share of known readings in a batch, the next one is looked up before it is inserted.
_LOOK_FIRST_SHARE = 0.2
#: A range read that finds fewer wanted readings than this share, or takes longer, is given up for point look-ups.
_DENSE_SHARE = 0.1
_RANGE_MS = 1_000

#: More messages than a partition ever has.
_OFFSETS_OF_LIFE = 10**13

LANDED, DUPLICATE, REPLACED = 0, 1, 2

_Offsets = TypeVar("_Offsets", int, np.ndarray[Any, np.dtype[np.int64]])


@dataclass(slots=True)
class Tally:
    """What became of a partition's messages."""

    landed: int = 0
    duplicates: int = 0
    replaced: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @property
    def messages(self) -> int:
        """How many messages these are."""
        return self.landed + self.duplicates + self.replaced + self.refused.total()

    @classmethod
    def of(cls, progress: Document) -> Tally:
        """Return the tally that a progress document holds."""
        return cls(
            landed=progress.get("landed", 0),
            duplicates=progress.get("duplicates", 0),
            replaced=progress.get("replaced", 0),
            refused=Counter(progress.get("refused", {})),
            bytes=progress.get("bytes", 0),
        )

    def add(self, other: Tally) -> None:
        """Add another's counts to these."""
        self.landed += other.landed
        self.duplicates += other.duplicates
        self.replaced += other.replaced
        self.refused.update(other.refused)
        self.bytes += other.bytes


@dataclass(slots=True)
class Range:
    """The offsets of one partition in a batch, `[start, end)`, and their size."""

    start: int
    end: int
    bytes: int


@dataclass(slots=True)
class Batch:
    """Judged and encoded messages of one topic, in their order."""

    topic: str
    ranges: dict[int, Range]
    ids: list[str]
    documents: documents.Encoded
    partitions: np.ndarray[Any, np.dtype[np.int64]]
    event_times_ms: np.ndarray[Any, np.dtype[np.int64]]
    refusals: list[tuple[int, str]]  # partition, reason
    alarms: list[Document]


class Inserted(NamedTuple):
    """A batch whose new readings are durable: each outcome, and the places of those that replace a stored one."""

    batch: Batch
    outcomes: np.ndarray[Any, np.dtype[np.int8]]
    replacements: list[int]


class Rejected(Exception):
    """MongoDB refuses documents of a batch for themselves; trying again would not help."""


class _Documents(RawBSONDocument):
    """Encoded documents, one after the other: the driver writes a raw document into its message as it is."""

    def __init__(self, encoded: bytes | memoryview) -> None:
        super().__init__(_EMPTY)
        self._encoded = encoded

    @property
    def raw(self) -> bytes | memoryview:
        """The documents."""
        return self._encoded


class _Changed(Exception):
    """A reading was changed, landed or removed by somebody else since it was looked at."""


def partition_id(topic: str, partition: int) -> str:
    """Return the `_id` of a partition's progress."""
    return f"{topic}|{partition:04d}"


def message_id(topic: str, partition: int, offset: int) -> str:
    """Return the `_id` of a message's alarm."""
    return f"{partition_id(topic, partition)}|{offset:015d}"


def offset_of_life(offset: _Offsets, life: _Offsets) -> _Offsets:
    """Return an offset that is told apart from the same one of a topic that was made anew: what is stored holds it.

    >>> offset_of_life(5, 0), offset_of_life(5, 2)
    (5, 20000000000005)
    """
    return offset + life * _OFFSETS_OF_LIFE


class Position(NamedTuple):
    """Where to go on with a partition.

    `life` counts how often its topic was made anew; `refused` is what is refused already from there on, with its
    reason: what the clock refused (a timestamp ahead) stays refused, though it is not ahead when it is seen again.
    """

    next_offset: int
    life: int
    refused: dict[int, str]


class Store:
    """MongoDB as one consumer sees it."""

    def __init__(self, database: Database[Document], consumer: str) -> None:
        self.database = database
        self.consumer = consumer
        self._look_first = False
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="insert")

    def position(self, topic: str, partition: int, first_offset: int) -> Position:
        """Return where to go on with a partition: at Kafka's first offset if it was never read."""
        identity = partition_id(topic, partition)
        progress = self.database["landing_progress"].find_one_and_update(
            {"_id": identity},
            {"$setOnInsert": {"topic_id": topic, "partition": partition, "next_offset": first_offset}},
            upsert=True,
            return_document=True,
        )
        next_offset, life = int(progress["next_offset"]), int(progress.get("life", 0))
        first, last = (
            message_id(topic, partition, offset_of_life(*edge)) for edge in ((next_offset, life), (0, life + 1))
        )
        alarms = self.database["topic_alarm"].find({"_id": {"$gte": first, "$lt": last}}, {"reason": 1, "kafka": 1})
        refused = {int(alarm["kafka"]["offset"]) - offset_of_life(0, life): alarm["reason"] for alarm in alarms}
        return Position(next_offset, life, refused)

    def progress(self, topic: str, partition: int) -> Document:
        """Return a partition's progress document."""
        return self.database["landing_progress"].find_one({"_id": partition_id(topic, partition)}) or {}

    def totals(self, topic: str, partitions: Iterable[int]) -> dict[int, Totals]:
        """Return what became of partitions' messages since they exist."""
        wanted = {"_id": {"$in": [partition_id(topic, partition) for partition in partitions]}}
        return {found["partition"]: Totals.of(found) for found in self.database["landing_progress"].find(wanted)}

    def note_reported(
        self,
        topic: str,
        partition: int,
        before: Document | None,
        totals: Document,
        row: Document,
        alarms: Mapping[str, Any],
    ) -> None:
        """Note up to which totals a partition's performance was reported, its last row, and its alarms' state.

        Nothing where somebody else has reported since what was noted `before`.
        """
        self.database["landing_progress"].update_one(
            {"_id": partition_id(topic, partition), "reported": before},
            {"$set": {"reported": totals, "last_report": row, "alarms": alarms}},
        )

    def silent_s(self, topic: str, now_ms: int) -> float | None:
        """Return how long no message of a topic was landed or refused, s; None where there never was one."""
        newest = self.database["landing_progress"].find_one({"topic_id": topic}, sort=[("at", -1)])
        if newest is None or "at" not in newest:
            return None
        return max(now_ms / 1000 - newest["at"].timestamp(), 0.0)

    def raise_events(self, topic: str, partition: int, events: Sequence[Event], now_ms: int) -> None:
        """Write alarms of the entrance; the same ones again change nothing."""
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        self._raise_alarms(
            [
                {
                    "_id": f"{partition_id(topic, partition)}|{event.code}|{event.since_ms:013d}|{event.state}",
                    "topic_id": topic,
                    "timestamp": now,
                    "msg_value": {"partition": partition},
                    "text_alarm": f"{topic} partition {partition}: {event.text}",
                    "reason": event.code,
                    "state": event.state,
                    "started_at": datetime.fromtimestamp(event.since_ms / 1000, UTC),
                    "received_at": now,
                }
                for event in events
            ]
        )

    def jump(self, topic: str, partition: int, expected: int, first_offset: int) -> None:
        """Go on at Kafka's first offset, where it has nothing at the expected one; leave an alarm that says so."""
        now = datetime.now(UTC)
        anew = expected >= first_offset
        text = (
            f"the topic ends before offset {expected}: it was made anew; landing begins again"
            if anew
            else f"{first_offset - expected} messages were removed by Kafka's retention before they were landed"
        )
        self._raise_alarms(
            [
                {
                    "_id": f"{partition_id(topic, partition)}|jump|{expected:015d}|{first_offset:015d}",
                    "topic_id": topic,
                    "timestamp": now,
                    "msg_value": {"partition": partition, "expected": expected, "first": first_offset},
                    "text_alarm": f"{topic} partition {partition}: {text}",
                    "reason": "offsets_lost",
                    "received_at": now,
                }
            ]
        )
        self.database["landing_progress"].update_one(
            {"_id": partition_id(topic, partition), "next_offset": expected},
            {"$set": {"next_offset": first_offset}, "$inc": {"life": int(anew)}},
        )

    def land(self, batch: Batch) -> dict[int, Tally | None]:
        """Write a batch; return each partition's tally, or None where another consumer has gone on from there.

        Raises
        ------
        Rejected
            For a document that MongoDB does not take.
        pymongo.errors.PyMongoError
            When MongoDB is away; the same batch may be written again.
        """
        return self.advance(self.insert(batch))

    def insert(self, batch: Batch) -> Inserted:
        """Insert the readings of a batch that are new: the first half of `land`."""
        return Inserted(batch, *self._insert(batch))

    def advance(self, inserted: Inserted) -> dict[int, Tally | None]:
        """Write the rest of a batch, its partitions' progress last: the second half of `land`."""
        while True:
            try:
                return self._write_rest(*inserted)
            except _Changed:
                inserted = self.insert(inserted.batch)

    def _write_rest(
        self, batch: Batch, outcomes: np.ndarray[Any, np.dtype[np.int8]], replacements: Sequence[int]
    ) -> dict[int, Tally | None]:
        self._raise_alarms(batch.alarms)
        hours = batch.event_times_ms // HOUR_MS * HOUR_MS
        if batch.topic in BATCH_TOPICS:  # the wind jobs have read the same, and tell what came late to them
            mark_dirty(self.database, batch.topic, np.unique(hours[outcomes == LANDED]).tolist(), "landed")
        tallies = {partition: _whole_tally(batch, partition, outcomes) for partition in batch.ranges}
        new = {
            partition: [place for place in replacements if batch.partitions[place] == partition]
            for partition in tallies
        }
        done = self._advance(batch, {partition: tally for partition, tally in tallies.items() if not new[partition]})
        for partition, places in new.items():
            here = batch.partitions == partition
            replaced_hours = np.unique(hours[here & (outcomes == REPLACED)]).tolist()
            if places and self._replace(batch, partition, tallies[partition], places, replaced_hours):
                done.add(partition)
        return {partition: tally if partition in done else None for partition, tally in tallies.items()}

    def _advance(self, batch: Batch, tallies: Mapping[int, Tally], session: ClientSession | None = None) -> set[int]:
        """Advance partitions' progress where it stands where the batch began; return those."""
        if not tallies:
            return set()
        progress = self.database["landing_progress"]
        updates = [self._progress_update(batch, partition, tally) for partition, tally in tallies.items()]
        written = progress.bulk_write(updates, ordered=False, session=session)
        if written.matched_count == len(updates):
            return set(tallies)
        # an answer that was lost on the way looks like this too
        ids = {partition_id(batch.topic, partition): partition for partition in tallies}
        return {
            ids[found["_id"]]
            for found in progress.find({"_id": {"$in": list(ids)}, "consumer": self.consumer}, session=session)
            if found["next_offset"] == batch.ranges[ids[found["_id"]]].end
        }

    def _progress_update(self, batch: Batch, partition: int, tally: Tally) -> UpdateOne:
        offsets = batch.ranges[partition]
        counts = {
            "landed": tally.landed,
            "duplicates": tally.duplicates,
            "replaced": tally.replaced,
            "bytes": tally.bytes,
            **{f"refused.{reason}": count for reason, count in tally.refused.items()},
        }
        return UpdateOne(
            {"_id": partition_id(batch.topic, partition), "next_offset": offsets.start},
            {
                "$set": {"next_offset": offsets.end, "consumer": self.consumer, "at": datetime.now(UTC)},
                "$inc": counts,
            },
        )

    def _replace(
        self, batch: Batch, partition: int, tally: Tally, places: Sequence[int], hours_ms: Sequence[int]
    ) -> bool:
        """Advance a partition's progress and replace stored readings, both or neither."""
        replacements = [_replacement(batch, place) for place in places]

        def together(session: ClientSession) -> bool:
            if not self._advance(batch, {partition: tally}, session):
                session.abort_transaction()
                return False
            done = self.database["topic"].bulk_write(replacements, ordered=False, session=session)
            if done.matched_count != len(replacements):
                raise _Changed
            mark_dirty(self.database, batch.topic, hours_ms, "replaced", session)
            return True

        with self.database.client.start_session() as session:
            return session.with_transaction(together)

    def replay(self, batch: Batch, alarm_ids: Sequence[str], reasons: Mapping[int, Counter[str]]) -> Tally:
        """Land messages that were refused, and count them anew, all or nothing.

        Parameters
        ----------
        batch : Batch
            The messages, which are accepted now.
        alarm_ids : sequence of str
            Their alarms.
        reasons : mapping
            How many of each partition were refused for which reason.

        Raises
        ------
        Rejected
            Somebody else replays the same messages.
        """
        while True:
            try:
                return self._replay(batch, alarm_ids, reasons)
            except _Changed:
                continue

    def _replay(self, batch: Batch, alarm_ids: Sequence[str], reasons: Mapping[int, Counter[str]]) -> Tally:
        first, again = _first_places(batch.ids)
        known = self._stored(list(first))
        outcomes, replacements = _classified(batch, first, again, known)
        stored = known.by_id()
        hours = np.unique(batch.event_times_ms[outcomes != DUPLICATE] // HOUR_MS * HOUR_MS).tolist()
        written: dict[str, int] = {
            **{identity: place for identity, place in first.items() if outcomes[place] == LANDED},
            **{batch.ids[place]: place for place in replacements},
        }
        writes = [_as_known(stored.get(identity), batch.documents[place]) for identity, place in written.items()]

        def together(session: ClientSession) -> None:
            noted = self.database["topic_alarm"].update_many(
                {"_id": {"$in": list(alarm_ids)}, "replayed_at": None},
                {"$set": {"replayed_at": datetime.now(UTC)}},
                session=session,
            )
            if noted.modified_count != len(alarm_ids):
                raise Rejected("somebody else replays the same messages")
            if writes:
                done = self.database["topic"].bulk_write(writes, ordered=False, session=session)
                if done.inserted_count + done.matched_count != len(writes):
                    raise _Changed
            mark_dirty(self.database, batch.topic, hours, "replayed", session)
            for partition, before in reasons.items():
                tally = _tally(batch, partition, outcomes)
                self.database["landing_progress"].update_one(
                    {"_id": partition_id(batch.topic, partition)},
                    {
                        "$inc": {
                            "landed": tally.landed,
                            "duplicates": tally.duplicates,
                            "replaced": tally.replaced,
                            **{f"refused.{reason}": -count for reason, count in before.items()},
                        }
                    },
                    session=session,
                )

        with self.database.client.start_session() as session:
            try:
                session.with_transaction(together)
            except BulkWriteError as error:
                _taken_in(error)  # a new one was landed meanwhile
                raise _Changed from error
        total = Tally()
        for partition in reasons:
            total.add(_tally(batch, partition, outcomes))
        return total

    def _raise_alarms(self, alarms: Sequence[Document]) -> None:
        if not alarms:
            return
        try:
            self.database["topic_alarm"].insert_many(alarms, ordered=False)
        except BulkWriteError as error:
            _taken_in(error)  # the same alarm, raised before

    def _insert(self, batch: Batch) -> tuple[np.ndarray[Any, np.dtype[np.int8]], list[int]]:
        """Insert what is new; return each reading's outcome and the places of those that replace a stored one."""
        first, again = _first_places(batch.ids)
        places = sorted(first.values(), key=batch.ids.__getitem__)  # the order of the clustered collection
        known = documents.Stored.of({})
        if self._look_first:
            known = self._stored_of_partitions(batch, places)
            places = _unknown(batch, places, known)
        while taken := self._insert_new(batch, places):
            found = self._stored([batch.ids[place] for place in taken])
            known = documents.Stored.joined([known, found])
            # what was taken and is gone was removed meanwhile: it is new after all
            places = _unknown(batch, taken, found)
        self._look_first = len(known) > _LOOK_FIRST_SHARE * len(first)
        return _classified(batch, first, again, known)

    def _insert_new(self, batch: Batch, places: Sequence[int]) -> list[int]:
        """Insert documents; return the places of those whose identity is there already.

        MongoDB works off an insert in one thread: a large batch is inserted in parts, side by side.
        """
        parts = _parts(batch, np.array(places)) if places else []
        if len(parts) == 1:
            return self._insert_part(batch, *parts)
        writing = [self._writers.submit(self._insert_part, batch, part) for part in parts]
        wait(writing)  # all of them, whatever became of one
        return [place for part in writing for place in part.result()]

    def _insert_part(self, batch: Batch, places: documents.IntArray) -> list[int]:
        """Insert documents by a command of our own: the driver's bulk handles each of them as an object.

        It is not tried again by the driver, but whoever lands the batch again recognises what was written.
        """
        reply = self.database.command(
            {
                "insert": "topic",
                "ordered": False,
                "writeConcern": self.database.write_concern.document,
                "documents": [_Documents(batch.documents.joined(places))],
            }
        )
        if trouble := reply.get("writeConcernError"):
            raise WriteConcernError(trouble["errmsg"], trouble["code"], trouble)
        taken = _taken(reply.get("writeErrors", []))
        if reply["n"] + len(taken) != len(places):
            raise OperationFailure(f"{reply['n']} of {len(places)} documents were inserted, {len(taken)} were there")
        return [int(places[number]) for number in taken]

    def _stored_of_partitions(self, batch: Batch, places: Sequence[int]) -> documents.Stored:
        """Return what is stored of these places' identities, and came by the same partition.

        What is delivered again nearly always has, and lies close among what came by it.
        """
        partitions = batch.partitions[list(places)].tolist()
        by_partition: dict[int, list[str]] = {}
        for place, partition in zip(places, partitions, strict=True):
            by_partition.setdefault(partition, []).append(batch.ids[place])
        return documents.Stored.joined(
            [self._stored(ids, {"kafka.partition": partition}) for partition, ids in by_partition.items()]
        )

    def _stored(self, ids: Sequence[str], condition: Document | None = None) -> documents.Stored:
        """Return the stored documents of these identities: by ranges where they lie close, else one by one.

        Of those in ranges, only the ones that meet the condition.
        """
        wanted = sorted(ids)
        every = pa.array(wanted, pa.string())
        found: list[documents.Stored] = []
        while wanted:
            limit = 2 * len(wanted) + 100
            between = {"_id": {"$gte": wanted[0], "$lte": wanted[-1]}}
            read, matched, last, in_time = 0, 0, "", False
            with suppress(ExecutionTimeout):
                for array in self._arrays(between | (condition or {}), limit):
                    of_array = documents.split(array)
                    of_wanted = of_array.among(every)
                    found.append(of_wanted)
                    read, matched = read + len(of_array), matched + len(of_wanted)
                    last = max(last, pc.max(of_array.ids).as_py() or "")
                in_time = True
            if in_time and read < limit:
                break
            wanted = wanted[bisect_right(wanted, last) :]
            if not in_time or matched < _DENSE_SHARE * read:
                found.append(documents.Stored.of(self._stored_singly(wanted)))
                break
        return documents.Stored.joined(found)

    def _arrays(self, condition: Document, limit: int) -> Iterator[bytes]:
        """Yield readings as the server sends them, in its order: BSON arrays of documents."""
        raw: CodecOptions[Any] = self.database.codec_options.with_options(document_class=RawBSONDocument)
        asked: Document = {"find": "topic", "filter": condition, "limit": limit, "batchSize": limit}
        asked["maxTimeMS"] = _RANGE_MS
        more = -1
        while more:
            array, more = documents.answered(self.database.command(asked, codec_options=raw)["cursor"])
            yield array
            asked = {"getMore": Int64(more), "collection": "topic"}

    def _stored_singly(self, ids: Sequence[str]) -> dict[str, bytes]:
        # `$in` on a clustered collection is a scan of the whole of it; a join by `_id` is a look-up each
        pipeline = [
            {"$documents": [{"identity": identity} for identity in ids]},
            {"$lookup": {"from": "topic", "localField": "identity", "foreignField": "_id", "as": "found"}},
            {"$unwind": "$found"},
            {"$replaceRoot": {"newRoot": "$found"}},
        ]
        options = self.database.codec_options.with_options(document_class=RawBSONDocument)
        if not ids:
            return {}
        with self.database.with_options(codec_options=options).aggregate(pipeline) as cursor:
            return {document["_id"]: bytes(document.raw) for document in cursor}


def _replacement(batch: Batch, place: int) -> ReplaceOne[Document]:
    """Return the replacement of a stored reading, unless a person has changed it since it was looked at."""
    encoded = batch.documents[place]
    return ReplaceOne({"_id": batch.ids[place], "revision": documents.revision(encoded)}, RawBSONDocument(encoded))


def _as_known(stored: bytes | None, new: bytes) -> InsertOne[Document] | ReplaceOne[Document]:
    """Return the write of a reading as long as what is stored of it, or that nothing is, is as it was looked at."""
    if stored is None:
        return InsertOne(RawBSONDocument(new))
    return ReplaceOne(documents.unchanged(bson.decode(stored)), RawBSONDocument(new))


def _tally(batch: Batch, partition: int, outcomes: np.ndarray[Any, np.dtype[np.int8]]) -> Tally:
    here = outcomes[batch.partitions == partition]
    return Tally(
        landed=int(np.count_nonzero(here == LANDED)),
        duplicates=int(np.count_nonzero(here == DUPLICATE)),
        replaced=int(np.count_nonzero(here == REPLACED)),
    )


def _whole_tally(batch: Batch, partition: int, outcomes: np.ndarray[Any, np.dtype[np.int8]]) -> Tally:
    tally = _tally(batch, partition, outcomes)
    tally.refused = Counter(reason for number, reason in batch.refusals if number == partition)
    tally.bytes = batch.ranges[partition].bytes
    return tally


def _parts(batch: Batch, places: documents.IntArray) -> list[documents.IntArray]:
    """Cut places into parts that are inserted by a command each."""
    sizes = batch.documents.sizes(places)
    before = np.cumsum(sizes) - sizes
    writers = _WRITERS if len(places) > _LEAST_PART else 1
    part_of = before // max(1, min(_PART_BYTES, -(-int(sizes.sum()) // writers)))
    return np.split(places, np.flatnonzero(np.diff(part_of)) + 1)


def _first_places(ids: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """Return the first place of each identity, and the places of those that were there before."""
    first = dict(zip(ids, range(len(ids)), strict=True))
    if len(first) == len(ids):
        return first, []
    first = {}
    again = [place for place, identity in enumerate(ids) if first.setdefault(identity, place) != place]
    return first, again


def _unknown(batch: Batch, places: Sequence[int], known: documents.Stored) -> list[int]:
    """Return the places whose identity is not known."""
    ids = pa.array([batch.ids[place] for place in places], pa.string())
    is_known = pc.is_in(ids, value_set=known.ids).to_pylist()
    return [place for place, there in zip(places, is_known, strict=True) if not there]


def _classified(
    batch: Batch, first: Mapping[str, int], again: Sequence[int], known: documents.Stored
) -> tuple[np.ndarray[Any, np.dtype[np.int8]], list[int]]:
    """Return each reading's outcome, and the places of those that replace a stored one in the end.

    Parameters
    ----------
    batch : Batch
        The readings, in their order.
    first : mapping
        The first place of each identity in the batch.
    again : sequence of int
        The places of identities that the batch had before.
    known : documents.Stored
        What is stored under these identities.
    """
    outcomes = np.full(len(batch.ids), LANDED, np.int8)
    there = np.array([first[identity] for identity in known.ids.to_pylist()], np.int64)
    is_again = documents.delivered_again(known.documents, batch.documents.column(there))
    outcomes[there[is_again]] = DUPLICATE
    singly = sorted({*there[~is_again].tolist(), *again})
    current = known.among(pa.array([batch.ids[place] for place in singly], pa.string())).by_id()
    replacements: dict[str, int] = {}
    for place in singly:
        identity, new = batch.ids[place], batch.documents[place]
        stored = current.setdefault(identity, batch.documents[first[identity]])
        if documents.same_message(stored, new):
            continue
        if (
            documents.same_value(stored, new)
            or _is_older(new, stored)
            or documents.was_superseded(stored, new)  # a person took it away
        ):
            outcomes[place] = DUPLICATE
        else:
            outcomes[place] = REPLACED
            current[identity] = batch.documents[place] = documents.succeeding(stored, new)
            replacements[identity] = place
    return outcomes, list(replacements.values())


def _taken_in(error: BulkWriteError) -> list[int]:
    """Return what `_taken` does of a bulk."""
    if error.details["writeConcernErrors"]:
        raise error
    return _taken(error.details["writeErrors"])


def _taken(errors: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return which documents have an identity that is there already; raise for any other trouble of one."""
    others = [failed for failed in errors if failed["code"] != _DUPLICATE_KEY]
    if others:
        raise Rejected(f"{others[0]['errmsg']} (code {others[0]['code']})")
    return [failed["index"] for failed in errors]


def _is_older(new: bytes, stored: bytes) -> bool:
    """Tell whether a message was sent before the stored one, as far as one partition's order can."""
    (new_partition, new_offset), (partition, offset) = documents.origin(new), documents.origin(stored)
    return new_partition == partition and new_offset < offset
