"""Process `add_new_install`: register which client has which element since when.

    python -m couchbase_admin.add_new_install panel P-17 C-3 --since 2026-05-31

The same as `selfgen install add …`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from couchbase_admin.clients import add_client, known_client
from couchbase_admin.installations import add_install, end_install, move_install
from couchbase_admin.store import Versioned
from couchbase_admin.terminal import (
    AsJson,
    DryRun,
    Operator,
    asked_moment,
    complete_client,
    complete_element,
    fields_of,
    given_moment,
    registry,
    said,
)
from selfgen.registry import KINDS, Period, Relations, kind_named, moment, shown

__all__ = ["add", "add_client", "add_install", "end_install", "move_install"]

KindName = Annotated[
    str, typer.Argument(metavar="KIND", help="panel, light or wind.", autocompletion=lambda: list(KINDS))
]
ElementId = Annotated[str, typer.Argument(metavar="ELEMENT", help="The element's id.", autocompletion=complete_element)]
ClientId = Annotated[str, typer.Argument(metavar="CLIENT", help="The client's id.", autocompletion=complete_client)]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="now, a date, or a date and time; by the client's clock unless it has an offset."
    ),
]
Address = Annotated[str | None, typer.Option(help="The site's address, where it is not the client's.")]
PostalCode = Annotated[str | None, typer.Option(help="The site's postal code, the same.")]
Latitude = Annotated[str | None, typer.Option(metavar="DEGREES", help="The site's latitude, the same.")]
Longitude = Annotated[str | None, typer.Option(metavar="DEGREES", help="The site's longitude, the same.")]
VariableData = Annotated[str | None, typer.Option(metavar="JSON", help="Anything else, as a JSON object.")]


def site_of(
    address: str | None, postal_code: str | None, latitude: str | None, longitude: str | None, variable_data: str | None
) -> dict[str, Any]:
    """Return a relation's own site from the options given."""
    texts = {
        "address": address,
        "postal_code": postal_code,
        "latitude": latitude,
        "longitude": longitude,
        "variable_data": variable_data,
    }
    return fields_of(Period, texts, [])


def start_of(relations: Versioned[Relations] | None, client_id: str) -> str:
    """Return when a client's last period began, to be shown."""
    periods = [] if relations is None else relations.value.periods
    return next(shown(period.init_date) for period in reversed(periods) if period.client_id == client_id)


def add(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="panel, light or wind.", autocompletion=lambda: list(KINDS))
    ] = None,
    element_id: Annotated[
        str | None, typer.Argument(metavar="ELEMENT", help="The element's id.", autocompletion=complete_element)
    ] = None,
    client_id: Annotated[
        str | None, typer.Argument(metavar="CLIENT", help="The client's id.", autocompletion=complete_client)
    ] = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End, excluded; without it, open.")] = None,
    address: Address = None,
    postal_code: PostalCode = None,
    latitude: Latitude = None,
    longitude: Longitude = None,
    variable_data: VariableData = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register that a client has an element since a time."""
    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = fields_of(
            Relations, {"kind": kind, "element_id": element_id}, ["kind", "element_id"], {"kind": lambda: KINDS}
        )
        element_kind = kind_named(named["kind"])
        owner = fields_of(Period, {"client_id": client_id}, ["client_id"], {"client_id": lambda: store.ids("client")})
        client = known_client(store, owner["client_id"]).value
        site = site_of(address, postal_code, latitude, longitude, variable_data)
        start = (
            asked_moment("since", since, client.time_zone) if kind is None else given_moment(since, client.time_zone)
        )
        changed = add_install(
            store,
            element_kind,
            named["element_id"],
            client.client_id,
            start,
            until=None if until is None else moment(until, client.time_zone),
            site=site,
        )
        after = store.relations(element_kind, named["element_id"])
        since_then = start_of(after, client.client_id) if start is None else shown(start)
        sentence = f"client {client.client_id} has {element_kind} {named['element_id']} since {since_then}"
        said(changed, sentence, after, dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    typer.run(add)
