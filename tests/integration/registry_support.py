"""The registry under test: a namespace of its own in the bucket, writers that are stopped or interrupted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec

from couchbase_admin.store import Change, RegistryStore, Versioned, families
from selfgen.clients.couchbase import CasMismatch, Documents, KeyExists, Stored, Write, connect
from selfgen.registry import KINDS, Client, relations_key
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
    found = []
    for kind in KINDS:
        ids = store.ids({"panel": "panel", "light": "sensor_light", "wind": "sensor_wind"}[kind])
        for one, read in store.relations_of(kind, ids).items():
            found += _broken_relations(store, kind, one, read)
    for family in families():
        for one in store.ids(family):
            key = f"{family}::{one}"
            found += _broken_history(store, key)
    return found


def _broken_relations(store: RegistryStore, kind, one: str, read: Versioned) -> list[str]:
    found = []
    if store.element(kind, one) is None and read.value.periods:
        found.append(f"{kind} {one} has relations, but does not exist")
    end = None
    for position, period in enumerate(read.value.periods):
        if store.client(period.client_id) is None:
            found.append(f"{kind} {one}: client {period.client_id} does not exist")
        if (kind, one) not in store.elements_of(period.client_id):
            found.append(f"{kind} {one} is not listed with client {period.client_id}")
        if position and (end is None or period.init_date < end):
            found.append(f"{kind} {one}: periods overlap at {period.init_date}")
        if period.end_date is not None and period.end_date <= period.init_date:
            found.append(f"{kind} {one}: a period ends before it begins")
        end = period.end_date
    if read.value.retired and read.value.periods and (end is None or end > read.value.retired):
        found.append(f"{kind} {one} is retired, but somebody has it")
    if not read.derived:
        found += _broken_history(store, relations_key(kind, one))
    return found


def _broken_history(store: RegistryStore, key: str) -> list[str]:
    stored = store.documents.get(key)
    if stored is None:
        return []
    changes: list[Change] = store.history([key])
    if not changes:
        return [f"{key} has no history"]
    found = []
    if changes[0].previous is not None:
        found.append(f"{key}: the history does not begin")
    for earlier, later in pairwise(changes):
        if later.previous != earlier.change_id:
            found.append(f"{key}: the history has a gap")
    last = msgspec.json.decode(changes[-1].after)
    now = msgspec.json.decode(stored.content)
    now.pop("last_change")
    if last != now:
        found.append(f"{key}: the history ends with {last}, the document is {now}")
    return found
