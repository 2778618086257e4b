"""Installations: which client has which element since when: add, move, end, correct."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from couchbase_admin.clients import known_client
from couchbase_admin.elements import known_element
from couchbase_admin.store import RegistryStore, Versioned
from selfgen.registry import (
    Client,
    Conflict,
    Kind,
    Period,
    Refused,
    Relations,
    changed_spans,
    checked,
    corrected,
    described,
    ended,
    instant,
    local_date,
    moved,
    opened,
    shown,
    valid_at,
)

#: Nothing was measured before; an earlier start is a slip of the pen.
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)


def add_install(
    store: RegistryStore,
    kind: Kind,
    element_id: str,
    client_id: str,
    since: datetime | None = None,
    *,
    until: datetime | None = None,
    site: Mapping[str, Any] | None = None,
) -> bool:
    """Relate an element to a client from an instant on; False where it is so already.

    Parameters
    ----------
    since, until
        The period, `until` excluded; open where that is None. Without a start: now, or since when it is so already.
    site
        The relation's own address, postal_code, latitude, longitude and variable_data.

    Raises
    ------
    Refused
        Where the client or the element is unknown, closed or retired, or the element has a client then.
    Conflict
        Where another installer was quicker; says who has the element since when.
    """
    period = Period(
        client_id=client_id,
        init_date=instant(since or store.clock()),
        end_date=None if until is None else instant(until),
        **(site or {}),
    )

    def install(relations: Relations) -> Relations:
        current = valid_at(relations.periods, period.init_date)
        if since is None and current == replace(period, init_date=current.init_date if current else period.init_date):
            return relations
        return opened(relations, period)

    return _change(store, kind, element_id, f"installed at {client_id}", install, client_id=client_id)


def move_install(
    store: RegistryStore,
    kind: Kind,
    element_id: str,
    client_id: str,
    since: datetime | None = None,
    *,
    site: Mapping[str, Any] | None = None,
    from_client: str | None = None,
) -> bool:
    """Give an element to another client from an instant on; False where it is so already.

    One write closes a period and opens the next. `from_client`, where given, is who must have it until then. Without
    an instant: now, or since when it is so already.
    """
    start = instant(since or store.clock())

    def move(relations: Relations) -> Relations:
        current = valid_at(relations.periods, start)
        if since is None and current and current.client_id == client_id and not site:
            return relations
        if from_client and current and current.client_id not in {from_client, client_id}:
            raise Refused(f"{described(relations, current)}, not {from_client}: look before you move it.")
        return moved(relations, client_id, start, site)

    return _change(store, kind, element_id, f"moved to {client_id}", move, client_id=client_id)


def end_install(store: RegistryStore, kind: Kind, element_id: str, at: datetime | None = None) -> bool:
    """End the period that holds at an instant; False where it ends then already.

    Without an instant: now, or when the last one ended.
    """
    end = instant(at or store.clock())

    def finish(relations: Relations) -> Relations:
        last = last_end(relations.periods, end)
        return relations if at is None and last else ended(relations, end)

    return _change(store, kind, element_id, "ended", finish)


def last_end(periods: Sequence[Period], at: datetime) -> datetime | None:
    """Return when the last period before an instant ended; None where there is none, or somebody has it then."""
    over = [period.end_date for period in periods if period.end_date and period.end_date <= at]
    return max(over) if over and valid_at(periods, at) is None else None


def correct_install(
    store: RegistryStore, kind: Kind, element_id: str, at: datetime, changes: Mapping[str, Any]
) -> bool:
    """Correct the period that holds at an instant: its client, dates or site; False where it is so already.

    The hours of the past that this changes are computed again.
    """
    at = instant(at)
    client_id = changes.get("client_id")

    def correct(relations: Relations) -> Relations:
        current = valid_at(relations.periods, at)
        if current is None:
            raise Refused(f"nobody has {kind} {element_id} at {shown(at)}: use selfgen install add.")
        fields = {name: getattr(current, name) for name in current.__struct_fields__}
        return corrected(relations, at, Period(**{**fields, **changes}))

    return _change(store, kind, element_id, "corrected", correct, client_id=client_id)


def _change(
    store: RegistryStore,
    kind: Kind,
    element_id: str,
    action: str,
    change: Callable[[Relations], Relations],
    *,
    client_id: str | None = None,
) -> bool:
    known_element(store, kind, element_id)
    # read before the client is looked at: closing a client touches what was read before (close_client)
    before = store.relations(kind, element_id)
    relations = Relations(kind=kind, element_id=element_id) if before is None else before.value
    after = change(relations)
    if after == relations:
        return False
    if client_id is not None:
        known_client(store, client_id)
        store.list_elements(client_id, [(kind, element_id)])
        check_client(known_client(store, client_id).value, after)
    after = checked(after, store.clock())
    check_dates(after)
    spans = changed_spans(relations.periods, after.periods)
    try:
        store.commit(before, after, f"{kind} {action}", kind, spans)
    except Conflict as error:
        raise Conflict(f"somebody else was quicker: {_now(store, kind, element_id)}.") from error
    return True


def check_client(client: Client, relations: Relations) -> None:
    """Raise `Refused` where a client was not open in one of its periods."""
    for period in relations.periods:
        if period.client_id != client.client_id:
            continue
        # on its own clock, or on that of UTC: a date without its place may be either
        begins = max(local_date(period.init_date, client.time_zone), period.init_date.date())
        if client.open_date and begins < client.open_date:
            raise Refused(
                f"client {client.client_id} is a client since {client.open_date}: give a later start, "
                "or correct its open_date."
            )
        closed = client.end_date
        if closed and (period.end_date is None or period.end_date > closed):
            raise Refused(f"client {client.client_id} is closed since {shown(closed)}: choose another client.")


def check_dates(relations: Relations) -> None:
    """Raise `Refused` where a period begins before anything was measured."""
    for period in relations.periods:
        if period.init_date < EARLIEST:
            raise Refused(f"the start {shown(period.init_date)} is before {EARLIEST.date()}: correct it.")


def _now(store: RegistryStore, kind: Kind, element_id: str) -> str:
    found: Versioned[Relations] | None = store.relations(kind, element_id)
    if found is None or not found.value.periods:
        return f"nobody has {kind} {element_id}"
    return described(found.value, found.value.periods[-1])
