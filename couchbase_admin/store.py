"""The registry in Couchbase: documents, their history, and lists of their ids, with nothing but keys and CAS.

How it stays consistent, wherever a command is stopped:

- Every change becomes real by one write of one document (`commit`): the insert of a new one, or the
  replacement of the version it was made from. Two writers at once: exactly one replaces that version.
- What points *to* a document is written before it, and readers pass over what points nowhere: its id in a
  list of ids, and the change's entry in the history. Entries form a chain: the document names its last one
  (`last_change`), each names the one before; the entry of a change that did not happen is never reached.
- Hours of the past that a change affects are noted before it, and struck off only when they are marked dirty
  for the batch jobs, so that no recomputation is lost (`mark_pending_hours`).
"""

from __future__ import annotations

import dataclasses
import getpass
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Raw, Struct, structs

from selfgen.clients.couchbase import CasMismatch, Documents, KeyExists, Stored, Write, connect
from selfgen.registry import (
    DOCUMENT,
    ELEMENT_TYPES,
    AnyElement,
    Client,
    Conflict,
    Document,
    Kind,
    Model,
    Refused,
    Relations,
    Span,
    Unavailable,
    client_key,
    decoded_relations,
    element_key,
    encoded,
    key_of,
    model_key,
    names_model,
    normalised,
    relations_key,
    succeeded,
)

if TYPE_CHECKING:
    from selfgen.settings import Settings

AnyValue = TypeVar("AnyValue", bound=Document)
#: Told a topic, hours (their starts, epoch ms) and a reason, marks them for recomputation; `Unavailable` where it
#: cannot now. See `couchbase_admin.recompute`.
MarkDirty = Callable[[str, Sequence[int], str], None]

HOUR_MS = 3_600_000
#: Longer than any command lives: what was noted before that was done, or never will be.
ABANDONED = timedelta(minutes=10)
PENDING_KEY = "dirty_hours::pending"


class Change(Struct, kw_only=True, omit_defaults=True):
    """One entry of the history: what was done to which document, when, by whom, and what came of it."""

    change_id: str
    key: str
    action: str
    at: datetime
    by: str
    after: Raw
    previous: str | None = None


class PendingHours(Struct, kw_only=True):
    """Spans of the past that a change affects, noted until the batch jobs know."""

    change_id: str
    topic: str
    spans: list[tuple[datetime, datetime]]
    reason: str
    at: datetime
    #: the change is in the registry: marks of now are the last it needs
    written: bool = False
    #: was marked already, while the change could still come after that
    marked: bool = False


class _Pending(Struct):
    items: list[PendingHours]


class _Head(Struct):
    last_change: str | None = None


@dataclass(frozen=True)
class Versioned(Generic[AnyValue]):
    """A document's value, the version it was read at, and the id of its last change.

    `derived` where the value follows from another document, and is not yet written in its own.
    """

    value: AnyValue
    cas: int
    last_change: str | None
    derived: bool = False


class IdList:
    """A list of ids in numbered documents, which only grows; an id may stand in it twice, or for nothing.

    Parameters
    ----------
    documents
        Where it is kept.
    name
        What it lists: a document family, or the elements of a client.
    """

    CHUNK = 1000

    def __init__(self, documents: Documents, name: str) -> None:
        self._documents = documents
        self._name = name

    def add(self, ids: Sequence[str]) -> None:
        """Append ids."""
        number = self._last()
        rest = list(dict.fromkeys(ids))
        while rest:
            key = self._key(number)
            stored = self._documents.get(key)
            listed = [] if stored is None else msgspec.json.decode(stored.content, type=list[str])
            rest = [one for one in rest if one not in set(listed)]
            room = self.CHUNK - len(listed)
            if rest and room > 0:
                content = msgspec.json.encode([*listed, *rest[:room]])
                try:
                    if stored is None:
                        self._documents.insert(key, content)
                    else:
                        self._documents.replace(key, content, stored.cas)
                except (KeyExists, CasMismatch):
                    continue  # another writer appended; read it again
                rest = rest[room:]
            number += 1

    @classmethod
    def add_each(cls, documents: Documents, ids_by_name: Mapping[str, Sequence[str]]) -> None:
        """Append to many lists: the short ones, which most are, side by side."""
        keys = {name: cls(documents, name)._key(0) for name in ids_by_name}
        first = documents.get_many(keys.values())
        writes: dict[str, Write] = {}
        long: list[str] = []
        for name, ids in ids_by_name.items():
            stored = first.get(keys[name])
            listed = [] if stored is None else msgspec.json.decode(stored.content, type=list[str])
            together = list(dict.fromkeys([*listed, *ids]))
            if len(together) > cls.CHUNK:
                long.append(name)
            elif len(together) > len(listed):
                cas = None if stored is None else stored.cas
                writes[name] = Write(keys[name], msgspec.json.encode(together), cas)
        refused = documents.write_many(list(writes.values()))
        for name in [*long, *(name for name, write in writes.items() if write.key in refused)]:
            cls(documents, name).add(ids_by_name[name])

    def all(self) -> list[str]:
        """Return every id once, in the order they came."""
        found: dict[str, None] = {}
        start = 0
        while True:
            keys = [self._key(number) for number in range(start, start + 32)]
            chunks = self._documents.get_many(keys)
            for key in keys:
                if key in chunks:
                    found.update(dict.fromkeys(msgspec.json.decode(chunks[key].content, type=list[str])))
            if len(chunks) < len(keys):
                return list(found)
            start += len(keys)

    def _last(self) -> int:
        # by doubling, then halving: a million ids need ten reads each way
        if self._documents.get(self._key(0)) is None:
            return 0
        high = 1
        while self._documents.get(self._key(high)) is not None:
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            if self._documents.get(self._key(middle)) is None:
                high = middle
            else:
                low = middle
        return low

    def _key(self, number: int) -> str:
        return f"ids::{self._name}::{number}"


@dataclass
class RegistryStore:
    """The registry for those who change it.

    Attributes
    ----------
    documents
        The collection's documents.
    operator
        Who makes the changes; stands in the history.
    clock
        Gives the present instant.
    mark_dirty
        Marks hours for recomputation; without it they stay noted until `mark_pending_hours` gets one.
    """

    documents: Documents
    operator: str = field(default_factory=getpass.getuser)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    mark_dirty: MarkDirty | None = None

    @classmethod
    def open(
        cls, settings: Settings, operator: str | None = None, mark_dirty: MarkDirty | None = None
    ) -> RegistryStore:
        """Connect to the registry; raises `Unavailable` where it does not answer."""
        documents = Documents(connect(settings), settings.couchbase_durability)
        return cls(documents, operator or getpass.getuser(), mark_dirty=mark_dirty)

    # reading

    def client(self, client_id: str) -> Versioned[Client] | None:
        """Return a client."""
        return self._read(client_key(client_id), Client)

    def element(self, kind: Kind, element_id: str) -> Versioned[AnyElement] | None:
        """Return an element."""
        return self._read(element_key(kind, element_id), ELEMENT_TYPES[kind])

    def model(self, kind: Kind, model: str) -> Versioned[Model] | None:
        """Return a model of the catalogue."""
        return self._read(model_key(kind, model), Model) if names_model(model) else None

    def relations(self, kind: Kind, element_id: str) -> Versioned[Relations] | None:
        """Return who has an element since when."""
        return self.relations_of(kind, [element_id]).get(element_id)

    def relations_of(self, kind: Kind, element_ids: Iterable[str]) -> dict[str, Versioned[Relations]]:
        """Return who has elements since when, without those that nobody ever had."""
        keys = {relations_key(kind, one): one for one in element_ids}
        stored = {keys[key]: found for key, found in self.documents.get_many(keys).items()}
        written = {one: decoded_relations(kind, found.content) for one, found in stored.items()}
        settled = settle(self.documents, kind, written, lambda _key, stored: decoded_relations(kind, stored.content))
        return {
            one: dataclasses.replace(_versioned(settled[one], found), derived=settled[one] is not written[one])
            for one, found in stored.items()
        }

    def ids(self, family: str) -> list[str]:
        """Return the ids of a document family (`client`, `panel`, `model::panel`…)."""
        return IdList(self.documents, family).all()

    def elements_of(self, client_id: str) -> list[tuple[Kind, str]]:
        """Return the elements that a client has, had, or was about to get."""
        listed = IdList(self.documents, f"elements::{client_id}").all()
        parted = (one.partition("::") for one in listed)
        return [(cast(Kind, kind), element_id) for kind, _, element_id in parted]

    def history(self, keys: Iterable[str]) -> list[Change]:
        """Return every change of some documents, oldest first; those of one document in the order they were made.

        Clocks of installers differ: a change counts as made no later than the one after it.
        """
        changes: list[tuple[datetime, Change]] = []
        heads = [msgspec.json.decode(stored.content, type=_Head) for stored in self.documents.get_many(keys).values()]
        before = {head.last_change: datetime.max.replace(tzinfo=UTC) for head in heads if head.last_change}
        while before:  # all chains at once, one step back each time
            entries = self.documents.get_many(_change_key(change_id) for change_id in before)
            step = [msgspec.json.decode(entry.content, type=Change) for entry in entries.values()]
            dated = [(min(change.at, before[change.change_id]), change) for change in step]
            changes += dated
            before = {change.previous: at for at, change in dated if change.previous}
        return [change for _, change in sorted(reversed(changes), key=lambda dated: dated[0])]

    # writing

    def add(self, document: Document, action: str) -> bool:
        """Write a new document; False where it stands there already, `Refused` where another does."""
        document = normalised(document)
        key = key_of(document)
        if self.documents.get(key) is None:
            self.list_ids([document])
            try:
                self.commit(None, document, action)
            except Conflict:
                pass  # somebody was quicker: the same, or another?
            else:
                return True
        stored = self.documents.get(key)
        if stored is not None and same(stored.content, document):
            return False
        family, _, name = key.partition("::")
        raise Refused(f"{family} {name} exists already, with other data: choose another id, or edit it.")

    def list_ids(self, documents: Sequence[Document]) -> None:
        """Enter documents in the lists of ids; before they are written."""
        families: dict[str, list[str]] = {}
        for document in documents:
            family, _, one = listed_as(document)
            families.setdefault(family, []).append(one)
        for family, ids in families.items():
            IdList(self.documents, family).add(ids)

    def list_elements(self, client_id: str, elements: Sequence[tuple[Kind, str]]) -> None:
        """Enter elements among those of a client; before it gets them."""
        IdList(self.documents, f"elements::{client_id}").add([f"{kind}::{one}" for kind, one in elements])

    def commit(
        self,
        before: Versioned[Any] | None,
        after: Document,
        action: str,
        topic: str | None = None,
        spans: Sequence[Span] = (),
    ) -> None:
        """Make one change, with its history; `spans` of the past of a topic are marked dirty.

        Raises
        ------
        Conflict
            Where the document is no longer what it was when it was read.
        """
        change = self.change_of(before, after, action)
        self.documents.insert(_change_key(change.change_id), msgspec.json.encode(change))
        noted = topic is not None and self.note_hours(change.change_id, topic, spans, action)
        write = committing(before, after, change)
        refused = self.documents.write_many([write])
        if refused:
            self.documents.remove(_change_key(change.change_id))
            raise Conflict(f"{write.key} was changed by somebody else in the meantime.")
        if noted:
            self._hand_over({change.change_id})

    def commit_many(
        self,
        changes: Sequence[tuple[Versioned[Any] | None, Document]],
        action: str,
        spans: Mapping[str, Sequence[Span]],
    ) -> set[str]:
        """Make changes of different documents side by side; return the keys of those that somebody else changed.

        `spans` of the past are marked dirty, by topic.
        """
        entries = [(self.change_of(before, after, action), before, after) for before, after in changes]
        history = [Write(_change_key(change.change_id), msgspec.json.encode(change)) for change, _, _ in entries]
        self.documents.write_many(history)
        noted = {
            change_id
            for topic, affected in spans.items()
            if self.note_hours(change_id := uuid.uuid4().hex, topic, affected, action)
        }
        refused = self.documents.write_many([committing(before, after, change) for change, before, after in entries])
        for change, _, _ in entries:
            if change.key in refused:
                self.documents.remove(_change_key(change.change_id))
        if noted:
            self._hand_over(noted)
        return set(refused)

    def change_of(self, before: Versioned[Any] | None, after: Document, action: str) -> Change:
        """Return the history's entry of a change."""
        return Change(
            change_id=uuid.uuid4().hex,
            key=key_of(after),
            action=action,
            at=self.clock(),
            by=self.operator,
            after=Raw(encoded(after)),
            previous=None if before is None else before.last_change,
        )

    def touch(self, before: Versioned[Any]) -> None:
        """Write a document as it is, so that who read it before cannot change it; `Conflict` as `commit`."""
        try:
            self.documents.replace(key_of(before.value), sealed(before.value, before.last_change), before.cas)
        except CasMismatch as error:
            raise Conflict(f"{key_of(before.value)} was changed by somebody else in the meantime.") from error

    # hours to recompute

    def note_hours(self, change_id: str, topic: str, spans: Sequence[Span], reason: str) -> bool:
        """Note the past of some spans for recomputation; False where they have none."""
        now = self.clock()
        past = [(start, min(end or now, now)) for start, end in spans if start < now]
        if not past:
            return False
        item = PendingHours(change_id=change_id, topic=topic, spans=list(past), reason=reason, at=now)
        self._update_pending(lambda items: [*items, item])
        return True

    def mark_pending_hours(self) -> int:
        """Mark noted hours dirty; return how many. Done after each change, and by the batch jobs before they read.

        What another command noted is marked at once, and stays until that is surely over: its change may come after
        this, so it is marked once more then.
        """
        if self.mark_dirty is None:
            return 0
        stored = self.documents.get(PENDING_KEY)
        items = [] if stored is None else msgspec.json.decode(stored.content, type=_Pending).items
        abandoned = self.clock() - ABANDONED
        over = {item.change_id for item in items if item.written or item.at < abandoned}
        due = {item.change_id: item for item in items if item.change_id in over or not item.marked}
        marked = 0
        for item in due.values():
            hours = hours_of(item.spans)
            self.mark_dirty(item.topic, hours, item.reason)
            marked += len(hours)
        if due:
            self._update_pending(
                lambda items: [
                    structs.replace(item, marked=item.marked or item.change_id in due)
                    for item in items
                    if item.change_id not in over
                ]
            )
        return marked

    def _hand_over(self, change_ids: Collection[str]) -> None:
        """Mark the hours of changes that are in the registry now; where that cannot be done, the batch jobs will."""
        with suppress(Unavailable):
            self._update_pending(
                lambda items: [
                    structs.replace(item, written=item.written or item.change_id in change_ids) for item in items
                ]
            )
            self.mark_pending_hours()

    def _update_pending(self, change: Callable[[list[PendingHours]], list[PendingHours]]) -> None:
        while True:
            stored = self.documents.get(PENDING_KEY)
            items = [] if stored is None else msgspec.json.decode(stored.content, type=_Pending).items
            content = msgspec.json.encode(_Pending(change(items)))
            try:
                if stored is None:
                    self.documents.insert(PENDING_KEY, content)
                else:
                    self.documents.replace(PENDING_KEY, content, stored.cas)
            except (KeyExists, CasMismatch):
                continue
            return

    def _read(self, key: str, document_type: type[Any]) -> Versioned[Any] | None:
        stored = self.documents.get(key)
        return None if stored is None else _versioned(msgspec.json.decode(stored.content, type=document_type), stored)


def settle(
    documents: Documents,
    kind: Kind,
    written: Mapping[str, Relations],
    decode: Callable[[str, Stored], Relations | None],
) -> dict[str, Relations]:
    """Return relations by element, a replacement's with its place where its own document does not have it yet.

    `decode` returns the relations of a key's document; None to take it for missing.
    """
    waiting = {one: each.replaces for one, each in written.items() if each.replaces and not each.periods}
    replaced = documents.get_many(relations_key(kind, old) for old in waiting.values())
    settled = dict(written)
    for one, old in waiting.items():
        key = relations_key(kind, old)
        if key in replaced and (relations := decode(key, replaced[key])) is not None:
            settled[one] = succeeded(written[one], relations)
    return settled


def committing(before: Versioned[Any] | None, after: Document, change: Change) -> Write:
    """Return the write that makes a change real."""
    return Write(change.key, sealed(after, change.change_id), None if before is None else before.cas)


def sealed(document: Document, last_change: str | None) -> bytes:
    """Return a document as it is stored, with the id of its last change."""
    return encoded(document)[:-1] + b',"last_change":' + msgspec.json.encode(last_change) + b"}"


def same(content: bytes, document: Document) -> bool:
    """Tell whether a stored document is this one."""
    stored = msgspec.json.decode(content)
    stored.pop("last_change", None)
    return bool(stored == msgspec.json.decode(encoded(document)))


def listed_as(document: Document) -> tuple[str, str, str]:
    """Return the list of ids a document is entered in, a separator, and its id."""
    if isinstance(document, Model):
        return f"model::{document.kind}", "::", document.model
    return key_of(document).partition("::")


def hours_of(spans: Sequence[tuple[datetime, datetime]]) -> list[int]:
    """Return the hours that spans touch: their starts, epoch ms."""
    hours: set[int] = set()
    for start, end in spans:
        first = int(start.timestamp() * 1000) // HOUR_MS * HOUR_MS
        hours.update(range(first, int(end.timestamp() * 1000), HOUR_MS))
    return sorted(hours)


def families() -> list[str]:
    """Return the document families that have a list of ids."""
    return ["client", *DOCUMENT.values(), *(f"model::{kind}" for kind in DOCUMENT)]


def _versioned(value: Any, stored: Stored) -> Versioned[Any]:
    return Versioned(value, stored.cas, msgspec.json.decode(stored.content, type=_Head).last_change)


def _change_key(change_id: str) -> str:
    return f"change::{change_id}"
