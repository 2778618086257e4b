"""Clients: add, edit, close."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from couchbase_admin.store import RegistryStore, Versioned
from selfgen.registry import (
    Client,
    Conflict,
    Refused,
    Relations,
    Span,
    checked,
    client_key,
    described,
    instant,
    shown,
)


def with_time_zone(client: Client) -> Client:
    """Return a client with the time zone of its place, where it has none of its own."""
    if client.time_zone:
        return client
    from timezonefinder import timezone_at

    time_zone = timezone_at(lng=client.longitude, lat=client.latitude)
    if time_zone is None:
        raise Refused(
            f"no time zone is known at {client.latitude}, {client.longitude}: give one, such as Europe/Madrid."
        )
    return replace(client, time_zone=time_zone)


def add_client(store: RegistryStore, client: Client) -> bool:
    """Register a client; False where it is there already, just so.

    Raises
    ------
    Refused
        Where a field is not what it must be, or another client has the id.
    """
    client = checked(client, store.clock())
    return store.add(with_time_zone(client), "client added")


def edit_client(store: RegistryStore, client_id: str, changes: Mapping[str, Any]) -> bool:
    """Change a client's fields; False where they are so already.

    Reports written before keep what they say; but of another time zone the hours are other ones, so all that its
    elements ever gave it is computed again.
    """
    before = known_client(store, client_id)
    moved = {"latitude", "longitude"} & changes.keys() and "time_zone" not in changes
    after = replace(before.value, **({"time_zone": ""} if moved else {}), **changes)
    after = with_time_zone(checked(after, store.clock()))
    if after == before.value:
        return False
    spans = _periods_of(store, client_id) if after.time_zone != before.value.time_zone else {}
    if store.commit_many([(before, after)], "client edited", spans):
        raise Conflict(f"client {client_id} was changed by somebody else in the meantime.")
    return True


def _periods_of(store: RegistryStore, client_id: str) -> dict[str, list[Span]]:
    """Return when a client had its elements, by their kind."""
    spans: dict[str, list[Span]] = {}
    for kind, element_id in store.elements_of(client_id):
        found = store.relations(kind, element_id)
        for period in found.value.periods if found else ():
            if period.client_id == client_id:
                spans.setdefault(kind, []).append((period.init_date, period.end_date))
    return spans


def close_client(store: RegistryStore, client_id: str, at: datetime | None = None) -> bool:
    """Close a client that has no elements any more; False where it is closed already.

    Without an instant: now, or since when it is closed already.

    An installer may be giving it an element at this moment. So the client is closed first, then every element
    that is listed with it is touched: who read it before can no longer write it, who reads it now sees the
    client closed.
    """
    before = known_client(store, client_id)
    at = instant(at or before.value.end_date or store.clock())
    if before.value.end_date is not None and before.value.end_date != at:
        raise Refused(f"client {client_id} is closed since {shown(before.value.end_date)}: there is nothing to do.")
    _refuse_installed(store, client_id, at)
    fresh = before.value.end_date is None
    if fresh:
        store.commit(before, checked(replace(before.value, end_date=at), store.clock()), "client closed")
    try:
        for kind, element_id in store.elements_of(client_id):
            _fence(store, store.relations(kind, element_id) or _nothing(store, kind, element_id))
        _refuse_installed(store, client_id, at)
    except Refused:
        closed = known_client(store, client_id)
        store.commit(closed, replace(closed.value, end_date=None), "client not closed: it got an element")
        raise
    return fresh


def known_client(store: RegistryStore, client_id: str) -> Versioned[Client]:
    """Return a client, or raise `Refused`."""
    client = store.client(client_id)
    if client is None:
        raise Refused(f"client {client_id} is not registered: add it first (selfgen client add).")
    return client


def all_clients(store: RegistryStore) -> list[Client]:
    """Return all clients, closed ones too, in the order in which they were registered."""
    keys = [client_key(one) for one in store.ids("client")]
    stored = store.documents.get_many(keys)
    return [msgspec.json.decode(stored[key].content, type=Client) for key in keys if key in stored]


def _refuse_installed(store: RegistryStore, client_id: str, at: datetime) -> None:
    for kind, element_id in store.elements_of(client_id):
        read = store.relations(kind, element_id)
        relations = Relations(kind=kind, element_id=element_id) if read is None else read.value
        for period in relations.periods:
            if period.client_id == client_id and (period.end_date is None or period.end_date > at):
                raise Refused(f"{described(relations, period)}: end or move that first.")


def _fence(store: RegistryStore, relations: Versioned[Relations]) -> None:
    with suppress(Conflict):  # whoever wrote it did so before it is looked at again
        store.touch(relations)


def _nothing(store: RegistryStore, kind: Any, element_id: str) -> Versioned[Relations]:
    with suppress(Conflict):
        store.commit(None, Relations(kind=kind, element_id=element_id), "nobody has it")
    return cast(Versioned[Relations], store.relations(kind, element_id))  # relations are never removed
