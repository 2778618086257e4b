"""Raw readings that a person corrects, deletes or restores, with a reason that is kept.

A changed reading stays under its identity in `topic`; a deleted one without its values. It holds the values that it
had before (`superseded`), so that landing knows them when the device or Kafka sends them again: they are duplicates,
and do not come back. A value that the reading never had is news, and replaces it as it would any other.

Readings are changed `AT_ONCE` at a time: their new values, the entries in `topic_history` and the marks of their hours
are one transaction. A command that was killed has changed whole such parts; repeated, it does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.operations import ReplaceOne

from kafka_consumers import documents
from selfgen.clients.mongo import (
    BATCH_TOPICS,
    HOUR_MS,
    Document,
    mark_dirty,
    plain,
    reading_id,
    reading_time,
    time_range,
)
from selfgen.messages import Refused, judge, value_fields
from selfgen.registry import ID_FIELD

#: Readings that are changed in one transaction.
AT_ONCE = 500

Kind = Literal["corrected", "deleted", "restored"]


class Impossible(Exception):
    """A sentence that says why a reading cannot be changed so, and what to do."""


class Author(NamedTuple):
    """Who changes readings, and why."""

    operator: str
    reason: str


class Change(NamedTuple):
    """A reading as it is stored, and the message it becomes; None deletes it."""

    stored: Document
    after: Document | None

    @property
    def before(self) -> Document | None:
        """The message it was; None where it was deleted."""
        return None if self.stored.get("deleted") else self.stored["msg_value"]


def find(database: Database[Document], topic: str, element_id: str, start_ms: int, end_ms: int) -> list[Document]:
    """Return an element's documents of `[start_ms, end_ms)`, in order of time, also those of deleted readings.

    One instant is looked up; of a longer range MongoDB reads the readings of all elements.
    """
    if end_ms - start_ms == 1:
        one = database["topic"].find_one({"_id": reading_id(topic, start_ms, element_id)})
        return [] if one is None else [plain(one)]
    chosen = {**time_range(topic, start_ms, end_ms), "element_id": element_id}
    return list(map(plain, database["topic"].find(chosen).sort("_id")))


def topic_of(database: Database[Document], element_id: str, start_ms: int, end_ms: int) -> str:
    """Return the topic in which an element has readings of `[start_ms, end_ms)`.

    Raises
    ------
    Impossible
        It has none, or in several topics.
    """
    found = [topic for topic in BATCH_TOPICS if find(database, topic, element_id, start_ms, end_ms)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Impossible(f"{element_id} has readings there in several topics ({', '.join(found)}): give --topic")
    raise Impossible(
        f"{element_id} has no reading {_told(start_ms, end_ms)} in any of {', '.join(BATCH_TOPICS)}; "
        "'selfgen raw find' lists what is there"
    )


def correct(stored: Document, values: dict[str, float], without: Sequence[str] = ()) -> Change:
    """Return the change of measured fields of a reading.

    Raises
    ------
    Impossible
        The message that it would become breaks the contract, or the reading has not such a field.
    """
    topic = stored["topic_id"]
    fields = value_fields(topic)
    if unknown := {*values, *without} - {*fields}:
        raise Impossible(f"a reading of {topic} has no {', '.join(sorted(unknown))}; it has {', '.join(fields)}")
    message = {name: value for name, value in stored["msg_value"].items() if name not in without} | values
    after = judge(topic, message, time.time_ns() // 1_000_000)
    if isinstance(after, Refused):
        raise Impossible(f"not a reading any more: {after.text}")
    return Change(stored, after)


def delete(stored: Document) -> Change | None:
    """Return the change that deletes a reading; None where it is deleted already."""
    return None if stored.get("deleted") else Change(stored, None)


def restore(stored: Document) -> Change | None:
    """Return the change that puts back what the last one took away; None where nothing was, or that was put back."""
    superseded = stored.get("superseded")
    return Change(stored, superseded[-1]) if superseded and not stored.get("restored") else None


def apply(
    database: Database[Document],
    kind: Kind,
    changes: Sequence[Change],
    author: Author,
    progress: Callable[[int], object] = lambda done: None,
) -> list[int]:
    """Change readings of one topic, and return the hours (their starts, epoch ms) that are marked for computing again.

    Parameters
    ----------
    progress : callable
        Told how many are changed after each part.

    Raises
    ------
    Impossible
        A reading was changed since it was looked up; parts before it are done.
    """
    for first in range(0, len(changes), AT_ONCE):
        part = changes[first : first + AT_ONCE]
        with database.client.start_session() as session:
            session.with_transaction(lambda session, part=part: _together(database, kind, part, author, session))
        progress(first + len(part))
    return hours_of(changes)


def hours_of(changes: Sequence[Change]) -> list[int]:
    """Return the hours of changes, in order: their starts, epoch ms."""
    return sorted({reading_time(change.stored["_id"]) // HOUR_MS * HOUR_MS for change in changes})


def _together(
    database: Database[Document], kind: Kind, part: Sequence[Change], author: Author, session: ClientSession
) -> None:
    now = datetime.now(UTC)
    done = database["topic"].bulk_write(
        [
            ReplaceOne(
                documents.unchanged(change.stored),
                documents.revised(
                    change.stored, _message(change), deleted=change.after is None, restored=kind == "restored"
                ),
            )
            for change in part
        ],
        ordered=False,
        session=session,
    )
    if done.matched_count != len(part):
        raise Impossible("the device sent some of these readings anew meanwhile: look at them, and repeat the command")
    database["topic_history"].insert_many(
        [
            {
                "_id": f"{change.stored['_id']}|{change.stored.get('revision', 0) + 1:06d}",
                "topic_id": change.stored["topic_id"],
                "element_id": change.stored["element_id"],
                "timestamp": change.stored["timestamp"],
                "change": kind,
                "before": change.before,
                "after": change.after,
                "reason": author.reason,
                "operator": author.operator,
                "at": now,
            }
            for change in part
        ],
        session=session,
    )
    mark_dirty(database, part[0].stored["topic_id"], hours_of(part), kind, session)


def _message(change: Change) -> Document:
    """Return what the document holds as its message: of a deleted reading only whose it was, and when."""
    if change.after is not None:
        return change.after
    names = (ID_FIELD[change.stored["topic_id"]], "timestamp")
    return {name: change.stored["msg_value"][name] for name in names}


def history(database: Database[Document], element_id: str, topic: str | None = None) -> list[Document]:
    """Return the changes of an element's readings, by time of the reading, then of the change."""
    chosen = {"element_id": element_id, **({"topic_id": topic} if topic else {})}
    return list(map(plain, database["topic_history"].find(chosen).sort("_id")))


def _told(start_ms: int, end_ms: int) -> str:
    start, end = (datetime.fromtimestamp(edge / 1000, UTC) for edge in (start_ms, end_ms))
    if end_ms - start_ms == 1:
        return f"at {start.isoformat(timespec='milliseconds')}"
    return f"from {start:%Y-%m-%dT%H:%M:%S} to {end:%Y-%m-%dT%H:%M:%S} UTC"
