"""Mark hours dirty in MongoDB, so that the batch jobs compute them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from couchbase_admin.store import HOUR_MS, MarkDirty, RegistryStore
from selfgen.messages import LATEST_MS
from selfgen.registry import Unavailable

if TYPE_CHECKING:
    from selfgen.settings import Settings

_TIMEOUT_S = 2.0


def marker(settings: Settings) -> MarkDirty:
    """Return what a `RegistryStore` marks hours with; it connects when there is something to mark."""

    def mark(topic: str, hours_ms: Sequence[int], reason: str) -> None:
        import pymongo
        from pymongo.errors import PyMongoError

        from selfgen.clients import mongo

        if topic not in mongo.BATCH_TOPICS or not hours_ms:
            return
        try:
            # for all of it, so that a server that hangs keeps nobody waiting either
            with mongo.connect(settings, _TIMEOUT_S) as client, pymongo.timeout(_TIMEOUT_S):
                database = client[settings.mongodb_database]
                edges = (0, hours_ms[-1] + HOUR_MS), (hours_ms[0], LATEST_MS)
                first, last = (
                    database["topic"].find_one(mongo.time_range(topic, *edge), {"_id": 1}, sort=[("_id", order)])
                    for edge, order in zip(edges, (1, -1), strict=True)
                )
                if first is None or last is None:
                    return  # nothing was measured, nothing was computed
                # also between readings: silence is told, and what a meter counted meanwhile
                low, high = (int(found["_id"].split("|")[1]) for found in (first, last))  # topic|ms|element
                # a slot may begin within the hour before its first reading
                affected = [hour for hour in hours_ms if low - 2 * HOUR_MS < hour <= high]
                mongo.mark_dirty(database, topic, affected, reason, ownership=True)
        except PyMongoError as error:
            raise Unavailable(f"MongoDB does not answer: the hours stay noted. ({type(error).__name__})") from error

    return mark


def hand_over(settings: Settings) -> int:
    """Mark the hours that the registry's changes affect and that MongoDB has no marks of yet; return how many.

    For the batch jobs: an installer's command marks them itself where it reaches MongoDB, and else only notes them.
    """
    return RegistryStore.open(settings, mark_dirty=marker(settings)).mark_pending_hours()
