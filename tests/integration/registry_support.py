"""The registry under test: a namespace of its own in the bucket, writers that are stopped or interrupted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from couchbase_admin.store import Change, RegistryStore, families
from selfgen.clients.couchbase import CasMismatch, Documents, KeyExists, Stored, Write, connect
from selfgen.registry import DOCUMENT, KINDS, Client, Relations, client_key, element_key, relations_key
from selfgen.settings import Settings

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def couchbase_settings(stack) -> Settings:
    """Settings of the cluster that SELFGEN_COUCHBASE_URL names, else of the stand-in, which is started."""
    if not os.environ.get("SELFGEN_COUCHBASE_URL"):
        stack.up("couchbase")
    return stack.settings


class Namespace(Documents):
    """Documents whose keys begin with a prefix: as good as a bucket of one's own."""

    def __init__(self, inner: Documents, prefix: str | None = None) -> None:
        self._inner = inner
        self._prefix = prefix or f"t{uuid.uuid4().hex[:10]}/"

    def get_many(self, keys: Iterable[str]) -> dict[str, Stored]:
        found = self._inner.get_many(self._prefix + key for key in keys)
        return {key.removeprefix(self._prefix): stored for key, stored in found.items()}

    def write_many(self, writes: Sequence[Write]) -> dict[str, KeyExists | CasMismatch]:
        refused = self._inner.write_many([write._replace(key=self._prefix + write.key) for write in writes])
        return {key.removeprefix(self._prefix): problem for key, problem in refused.items()}

    def remove(self, key: str, cas: int = 0) -> None:
        self._inner.remove(self._prefix + key, cas)


class Stopped(BaseException):
    """The command was killed."""


class Stopping(Documents):
    """Documents of a command that is killed after a number of writes."""

    def __init__(self, inner: Documents, writes: int) -> None:
        self._inner = inner
        self._left = writes

    def get_many(self, keys: Iterable[str]) -> dict[str, Stored]:
        return self._inner.get_many(keys)

    def write_many(self, writes: Sequence[Write]) -> dict[str, KeyExists | CasMismatch]:
        allowed = writes[: self._left]
        self._left -= len(allowed)
        refused = self._inner.write_many(allowed)
        if len(allowed) < len(writes):
            raise Stopped
        return refused

    def remove(self, key: str, cas: int = 0) -> None:
        if self._left == 0:
            raise Stopped
        self._left -= 1
        self._inner.remove(key, cas)


class Interrupted(Documents):
    """Documents of a command to which something happens just before one of its writes."""

    def __init__(self, inner: Documents, before_write: int, happens: Callable[[], object]) -> None:
        self._inner = inner
        self._left = before_write
        self._happens = happens

    def get_many(self, keys: Iterable[str]) -> dict[str, Stored]:
        return self._inner.get_many(keys)

    def write_many(self, writes: Sequence[Write]) -> dict[str, KeyExists | CasMismatch]:
        if self._left == 0:
            self._happens()
        self._left -= 1
        return self._inner.write_many(writes)

    def remove(self, key: str, cas: int = 0) -> None:
        self._inner.remove(key, cas)


def open_documents(settings: Settings) -> Documents:
    return Documents(connect(settings, 10), settings.couchbase_durability)


def store_on(documents: Documents, operator: str = "ana", mark_dirty=None) -> RegistryStore:
    return RegistryStore(documents, operator, mark_dirty=mark_dirty)


def a_client(client_id: str, **fields) -> Client:
    values = {"name": f"Client {client_id}", "latitude": 40.4, "longitude": -3.7, "time_zone": "Europe/Madrid"}
    return Client(client_id=client_id, **{**values, **fields})


def broken_rules(store: RegistryStore) -> list[str]:
    """Return every rule of the registry that does not hold."""
    found: list[str] = []
    listed = {family: store.ids(family) for family in families()}
    keys = [f"{family}::{one}" for family, ids in listed.items() for one in ids]
    stored = store.documents.get_many(keys)
    of_client = {one: set(store.elements_of(one)) for one in listed["client"] if client_key(one) in stored}
    for kind in KINDS:
        for one, read in store.relations_of(kind, listed[DOCUMENT[kind]]).items():
            if element_key(kind, one) not in stored and read.value.periods:
                found.append(f"{kind} {one} has relations, but does not exist")
            found += _broken_periods(read.value, of_client)
            if not read.derived:
                keys.append(relations_key(kind, one))
    return found + _broken_histories(store, keys)


def _broken_periods(relations: Relations, of_client: dict[str, set[tuple[str, str]]]) -> list[str]:
    name = f"{relations.kind} {relations.element_id}"
    found = []
    end = None
    for position, period in enumerate(relations.periods):
        if (relations.kind, relations.element_id) not in of_client.get(period.client_id, ()):
            found.append(f"{name} is not listed with client {period.client_id}, or that does not exist")
        if position and (end is None or period.init_date < end):
            found.append(f"{name}: periods overlap at {period.init_date}")
        if period.end_date is not None and period.end_date <= period.init_date:
            found.append(f"{name}: a period ends before it begins")
        end = period.end_date
    if relations.retired and relations.periods and (end is None or end > relations.retired):
        found.append(f"{name} is retired, but somebody has it")
    return found


def _broken_histories(store: RegistryStore, keys: list[str]) -> list[str]:
    found = []
    stored = store.documents.get_many(keys)
    changes: dict[str, list[Change]] = {key: [] for key in stored}
    for change in store.history(keys):
        changes[change.key].append(change)
    for key, chain in changes.items():
        if [change.previous for change in chain] != [None, *(change.change_id for change in chain[:-1])]:
            found.append(f"{key}: the history has a gap")
        now = msgspec.json.decode(stored[key].content)
        now.pop("last_change")
        if not chain or msgspec.json.decode(chain[-1].after) != now:
            found.append(f"{key}: the history does not end with {now}")
    return found
