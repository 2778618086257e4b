"""What was refused and why; and landing it after all, once the cause is gone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import structlog
from pymongo.database import Database
from pymongo.errors import PyMongoError

from kafka_consumers import documents
from kafka_consumers.landing import Lookup
from kafka_consumers.store import Batch, Rejected, Store, Tally, offset_of_life
from selfgen.clients import mongo
from selfgen.clients.mongo import Document
from selfgen.messages import decode
from selfgen.settings import Settings

log = structlog.get_logger()

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Choice:
    """Which alarms of refused messages are meant; what is None does not restrict."""

    topic: str | None = None
    reason: str | None = None
    since: datetime | None = None

    def filter(self) -> Document:
        """Return MongoDB's filter; what was replayed is not refused any more."""
        chosen: Document = {"kafka": {"$exists": True}, "replayed_at": None}
        if self.topic:
            chosen["_id"] = {"$gte": f"{self.topic}|", "$lt": f"{self.topic}}}"}
        if self.reason:
            chosen["reason"] = self.reason
        if self.since:
            chosen["received_at"] = {"$gte": self.since}
        return chosen


def groups(database: Database[Document], choice: Choice) -> list[Document]:
    """Return, for each topic and reason: count, first and last reception, and the last one's sentence and `_id`."""
    newest = {"$top": {"sortBy": {"received_at": -1}, "output": {"id": "$_id", "text_alarm": "$text_alarm"}}}
    found = database["topic_alarm"].aggregate(
        [
            {"$match": choice.filter()},
            {
                "$group": {
                    "_id": {"topic": "$topic_id", "reason": "$reason"},
                    "count": {"$sum": 1},
                    "first": {"$min": "$received_at"},
                    "last": {"$max": "$received_at"},
                    "example": newest,
                }
            },
            {"$sort": {"count": -1, "_id": 1}},
        ]
    )
    return [
        {
            "topic": group["_id"]["topic"],
            "reason": group["_id"]["reason"],
            "count": group["count"],
            "first": group["first"],
            "last": group["last"],
            "example": group["example"]["id"],
            "text": group["example"]["text_alarm"],
        }
        for group in found
    ]


def alarms(database: Database[Document], choice: Choice, limit: int) -> Iterator[Document]:
    """Return alarms with their messages' bytes, the newest first."""
    yield from database["topic_alarm"].find(choice.filter()).sort("received_at", -1).limit(limit)


def alarm(database: Database[Document], identity: str) -> Document | None:
    """Return one alarm."""
    return mongo.plain(database["topic_alarm"].find_one({"_id": identity}))


def replay(
    settings: Settings, choice: Choice, lookup_of: Callable[[str], Lookup]
) -> tuple[dict[str, Tally], Counter[str]]:
    """Judge refused messages again, and land those that are accepted now: each once, counted anew.

    Parameters
    ----------
    settings : Settings
        Where MongoDB is.
    choice : Choice
        Which of them.
    lookup_of : callable
        Topic → the registry's look-up for it.

    Returns
    -------
    tallies : dict
        By topic, what became of the accepted ones.
    still_refused : Counter
        Reasons of the others, as of now (`internal_error` of those that break the code itself); their alarms stay as
        they are.
    """
    tallies: dict[str, Tally] = {}
    still_refused = Counter[str]()
    with mongo.connect(settings) as client:
        database = client[settings.mongodb_database]
        store = Store(database, "replay")
        for topic, chosen in _batches(database, choice):
            tally, refused = _replayed(store, chosen, lookup_of(topic))
            still_refused.update(refused)
            if tally.messages:
                tallies.setdefault(topic, Tally()).add(tally)
    return tallies, still_refused


def _replayed(store: Store, chosen: Sequence[Document], lookup: Lookup) -> tuple[Tally, Counter[str]]:
    """Land those of a topic's messages that are accepted now; one that breaks the code itself stays refused."""
    try:
        return _landed(store, chosen, lookup)
    except (PyMongoError, Rejected):
        raise
    except Exception as error:
        if len(chosen) == 1:
            log.error("internal_error", alarm=chosen[0]["_id"], error=repr(error))
            return Tally(), Counter(internal_error=1)
        middle = len(chosen) // 2
        tally, still_refused = _replayed(store, chosen[:middle], lookup)
        landed, refused = _replayed(store, chosen[middle:], lookup)
        tally.add(landed)
        return tally, still_refused + refused


def _landed(store: Store, chosen: Sequence[Document], lookup: Lookup) -> tuple[Tally, Counter[str]]:
    """Land those of a topic's messages that are accepted now; return what became of them, and why not the others."""
    topic = chosen[0]["topic_id"]
    now_ms = time.time_ns() // 1_000_000
    accepted = decode(topic, [found["msg_value"] for found in chosen], now_ms)
    still_refused = Counter(refused.reason for refused in accepted.refused)
    if not accepted.indexes:
        return Tally(), still_refused
    mine = [chosen[index] for index in accepted.indexes]
    owners = lookup(accepted.element_ids, accepted.event_times_ms)
    origin = documents.Origin(
        np.array([found["kafka"]["partition"] for found in mine], np.int64),
        np.array([found["kafka"]["offset"] for found in mine], np.int64),
        owners.client_ids,
        owners.postal_codes,
        now_ms,
    )
    ids = documents.identities(accepted)
    batch = Batch(
        topic,
        ranges={},
        ids=ids,
        documents=documents.encode(accepted, ids, origin),
        partitions=origin.partitions,
        event_times_ms=accepted.event_times_ms,
        refusals=[],
        alarms=[],
    )
    reasons: dict[int, Counter[str]] = {}
    for found in mine:
        reasons.setdefault(found["kafka"]["partition"], Counter())[found["reason"]] += 1
    return store.replay(batch, [found["_id"] for found in mine], reasons), still_refused


def _batches(database: Database[Document], choice: Choice) -> Iterator[tuple[str, list[Document]]]:
    """Return refused messages that their consumer is done with, a topic at a time, in Kafka's order."""
    done = {
        (progress["topic_id"], progress["partition"]): offset_of_life(progress["next_offset"], progress.get("life", 0))
        for progress in database["landing_progress"].find()
    }
    batch: list[Document] = []
    for found in database["topic_alarm"].find(choice.filter()).sort("_id"):
        origin = found["kafka"]
        if origin["offset"] >= done.get((found["topic_id"], origin["partition"]), 0):
            continue
        if batch and (len(batch) == _AT_ONCE or batch[0]["topic_id"] != found["topic_id"]):
            yield batch[0]["topic_id"], batch
            batch = []
        batch.append(found)
    if batch:
        yield batch[0]["topic_id"], batch
