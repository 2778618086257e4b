"""Elements and their models: add, edit, retire, replace."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from msgspec.structs import replace

from couchbase_admin.store import RegistryStore, Versioned
from selfgen.registry import (
    ID_FIELD,
    AnyElement,
    Conflict,
    Kind,
    Model,
    Refused,
    Relations,
    changed_spans,
    checked,
    id_of,
    instant,
    kind_of,
    retired,
    shown,
    with_model,
)


def add_model(store: RegistryStore, model: Model) -> bool:
    """Enter a model in the catalogue; False where it is there already, just so."""
    return store.add(checked(model, store.clock()), "model added")


def element_of(store: RegistryStore, kind: Kind, fields: Mapping[str, Any]) -> AnyElement:
    """Return an element from its fields, the missing ones from the catalogue's entry of its model."""
    name = fields.get("model")
    found = store.model(kind, name) if name else None
    return with_model(kind, fields, None if found is None else found.value)


def add_element(store: RegistryStore, element: AnyElement) -> bool:
    """Register an element; False where it is there already, just so.

    Raises
    ------
    Refused
        Where a field is not what it must be, or another element has the id.
    """
    return store.add(checked(element, store.clock()), f"{kind_of(element)} added")


def edit_element(store: RegistryStore, kind: Kind, element_id: str, changes: Mapping[str, Any]) -> bool:
    """Change an element's fields; False where they are so already."""
    before = known_element(store, kind, element_id)
    after = checked(replace(before.value, **changes), store.clock())
    if after == before.value:
        return False
    store.commit(before, after, f"{kind} edited")
    return True


def retire_element(store: RegistryStore, kind: Kind, element_id: str, at: datetime | None = None) -> bool:
    """Take an element out of service: nobody has it from then on; False where it is so already.

    Without an instant: now, or since when it is so already.
    """
    known_element(store, kind, element_id)
    before = store.relations(kind, element_id)
    relations = Relations(kind=kind, element_id=element_id) if before is None else before.value
    at = _past(store, at or _retired_for(relations, None) or store.clock())
    after = retired(relations, at)
    if after is not relations:
        spans = changed_spans(relations.periods, after.periods)
        store.commit(before, after, f"{kind} retired", kind, spans)
    ended = _end_element(store, kind, element_id, at)
    return after is not relations or ended


def replace_element(store: RegistryStore, old_id: str, new: AnyElement, at: datetime | None = None) -> bool:
    """Put a new element in the place of a broken one; False where it is there already.

    Without an instant: now, or since when it is there already.

    First the new element's document names the one it replaces. Then the old one's says, in one write, that it
    is retired and by what it is replaced: from then on its place is the new one's, whether or not this command
    lives to write that down there as well.
    """
    kind, new_id = kind_of(new), id_of(new)
    if old_id == new_id:
        raise Refused(f"{kind} {old_id} cannot replace itself: give the new one its own id.")
    known_element(store, kind, old_id)
    before = store.relations(kind, old_id)
    relations = Relations(kind=kind, element_id=old_id) if before is None else before.value
    at = _past(store, at or _retired_for(relations, new_id) or store.clock())
    after = retired(relations, at, new_id)
    if after is not relations:
        add_element(store, new)
        _choose_successor(store, kind, new_id, old_id)
        for period in after.periods:
            if period.end_date == at:
                store.list_elements(period.client_id, [(kind, new_id)])
        spans = changed_spans(relations.periods, after.periods)
        store.commit(before, after, f"{kind} replaced by {new_id}", kind, spans)
    settled = _settle_successor(store, kind, new_id, old_id, fresh=after is not relations)
    ended = _end_element(store, kind, old_id, at)
    return after is not relations or settled or ended


def successor_of(
    store: RegistryStore, old: AnyElement, new_id: str, changes: Mapping[str, Any], install_date: date
) -> AnyElement:
    """Return the element that takes another's place: as the old one is, but for what belongs to that piece alone."""
    kind = kind_of(old)
    own = {"manufacture_date", "panel_price", "panel_sold", "sensor_price", "variable_data", "end_date"}
    kept = ("tilt", "azimuth") if "model" in changes else old.__struct_fields__
    fields = {name: getattr(old, name, None) for name in kept if name not in own}
    fields |= {ID_FIELD[kind]: new_id, "install_date": install_date}
    return element_of(store, kind, {**fields, **changes})


def _choose_successor(store: RegistryStore, kind: Kind, element_id: str, replaces: str) -> None:
    before = store.relations(kind, element_id)
    relations = Relations(kind=kind, element_id=element_id) if before is None else before.value
    if relations.periods or relations.retired:
        raise Refused(f"{kind} {element_id} has a place already, or is retired: choose another.")
    if relations.replaces != replaces:
        chosen = replace(relations, replaces=replaces)
        store.commit(before, chosen, f"{kind} chosen to replace {replaces}")


def _settle_successor(store: RegistryStore, kind: Kind, element_id: str, replaces: str, *, fresh: bool) -> bool:
    successor = store.relations(kind, element_id)
    taken = successor is not None and bool(successor.value.periods) and not successor.derived
    if successor is None or successor.value.replaces != replaces or (fresh and taken):
        raise Conflict(
            f"{kind} {replaces} is retired, but {kind} {element_id} was given another place in the meantime: "
            "put another element in its place (selfgen install add)."
        )
    if not successor.derived:
        return False
    store.commit(successor, successor.value, f"{kind} replaces {replaces}")
    return True


def known_element(store: RegistryStore, kind: Kind, element_id: str) -> Versioned[AnyElement]:
    """Return an element, or raise `Refused`."""
    element = store.element(kind, element_id)
    if element is None:
        raise Refused(f"{kind} {element_id} is not registered: add it first (selfgen element add {kind}).")
    return element


def _retired_for(relations: Relations, replaced_by: str | None) -> datetime | None:
    """Return when an element went out of service, where that was for this successor (or for none)."""
    return relations.retired if relations.replaced_by == replaced_by else None


def _past(store: RegistryStore, at: datetime) -> datetime:
    at = instant(at)
    if at > store.clock():
        raise Refused(f"{shown(at)} is in the future: give the time it went out of service.")
    return at


def _end_element(store: RegistryStore, kind: Kind, element_id: str, at: datetime) -> bool:
    before = known_element(store, kind, element_id)
    if before.value.end_date == at:
        return False
    store.commit(before, replace(before.value, end_date=at), f"{kind} out of service")
    return True
