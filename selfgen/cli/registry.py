"""`selfgen client | element | model | install | registry`: the installers' commands."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from couchbase_admin import add_new_element, add_new_install
from couchbase_admin.add_new_install import (
    Address,
    ClientId,
    ElementId,
    KindName,
    Latitude,
    Longitude,
    PostalCode,
    Since,
    VariableData,
    site_of,
    start_of,
)
from couchbase_admin.terminal import (
    AsJson,
    DryRun,
    Operator,
    as_builtin,
    assignments,
    card,
    complete_client,
    complete_id,
    fields_of,
    given_moment,
    out,
    print_json,
    registry,
    said,
    table,
)
from selfgen.registry import (
    DOCUMENT,
    ELEMENT_TYPES,
    ID_FIELD,
    KINDS,
    Client,
    Kind,
    Model,
    Period,
    Refused,
    Relations,
    client_key,
    element_key,
    kind_named,
    local_date,
    model_key,
    moment,
    relations_key,
    shown,
)

if TYPE_CHECKING:
    from couchbase_admin.store import Change, RegistryStore

client = typer.Typer(no_args_is_help=True, help="Clients: companies and people that have installations.")
element = typer.Typer(no_args_is_help=True, help="Elements: panels, light sensors, anemometers.")
model = typer.Typer(no_args_is_help=True, help="The catalogue: what the elements of one model have in common.")
install = typer.Typer(no_args_is_help=True, help="Installations: which client has which element since when.")
whole = typer.Typer(no_args_is_help=True, help="The registry as a whole.")

Pairs = Annotated[list[str], typer.Argument(metavar="FIELD=VALUE…", help="Fields and their new values.")]
At = Annotated[str, typer.Option(metavar="TIME", help="now, a date, or a date and time; by the client's clock.")]


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    element.add_typer(add_new_element.app, name="add")
    install.command("add")(add_new_install.add)
    app.add_typer(client, name="client")
    app.add_typer(element, name="element")
    app.add_typer(model, name="model")
    app.add_typer(install, name="install")
    app.add_typer(whole, name="registry")


# clients


@client.command("add")
def client_add(
    client_id: Annotated[str | None, typer.Argument(metavar="CLIENT", help="The client's id.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the company or person.")] = None,
    latitude: Annotated[str | None, typer.Option(metavar="DEGREES", help="North is positive.")] = None,
    longitude: Annotated[str | None, typer.Option(metavar="DEGREES", help="East is positive.")] = None,
    apell_1: Annotated[str | None, typer.Option(help="First surname.")] = None,
    apell_2: Annotated[str | None, typer.Option(help="Second surname.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of the site.")] = None,
    postal_code: Annotated[str | None, typer.Option(help="Postal code; kept as it is written.")] = None,
    client_type: Annotated[str | None, typer.Option(help="Type of client.")] = None,
    client_signature: Annotated[str | None, typer.Option(help="The client's own identification.")] = None,
    open_date: Annotated[str | None, typer.Option(metavar="DATE", help="Client since.")] = None,
    time_zone: Annotated[str | None, typer.Option(metavar="ZONE", help="IANA zone; else that of the place.")] = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register a client."""
    from couchbase_admin.clients import add_client

    texts = {
        "client_id": client_id,
        "name": name,
        "apell_1": apell_1,
        "apell_2": apell_2,
        "address": address,
        "postal_code": postal_code,
        "latitude": latitude,
        "longitude": longitude,
        "client_type": client_type,
        "client_signature": client_signature,
        "open_date": open_date,
        "time_zone": time_zone,
    }
    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        new = Client(**fields_of(Client, texts, ["client_id", "name", "latitude", "longitude"]))
        changed = add_client(store, new)
        stored = store.client(new.client_id)
        said(
            changed,
            f"client {new.client_id} is registered",
            stored,
            dry_run=dry_run,
            as_json=as_json,
        )


@client.command("show")
def client_show(client_id: ClientId, as_json: AsJson = False) -> None:
    """Show a client, and the elements it has and had."""
    from couchbase_admin.clients import known_client

    with registry() as store:
        found = known_client(store, client_id).value
        periods = [
            (kind, element_id, period)
            for kind, element_id in store.elements_of(client_id)
            for period in _periods(store, kind, element_id)
            if period.client_id == client_id
        ]
    if as_json:
        elements = [
            {"kind": kind, ID_FIELD[kind]: element_id, "since": period.init_date, "until": period.end_date}
            for kind, element_id, period in periods
        ]
        print_json({**as_builtin(found), "elements": elements})
        return
    card(f"client {client_id}", as_builtin(found))
    _period_table(periods, "element")


@client.command("list")
def client_list(as_json: AsJson = False) -> None:
    """List the clients."""
    from couchbase_admin.clients import all_clients

    with registry() as store:
        found = [as_builtin(one) for one in all_clients(store)]
    columns = ["client_id", "name", "apell_1", "postal_code", "time_zone", "end_date"]
    _list(columns, found, as_json=as_json)


@client.command("edit")
def client_edit(
    client_id: ClientId,
    pairs: Pairs,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Change a client's fields: `selfgen client edit C-3 postal_code=08002`."""
    from couchbase_admin.clients import edit_client

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        changes = _changes(Client, pairs, fixed=("client_id", "end_date"))
        changed = edit_client(store, client_id, changes)
        stored = store.client(client_id)
        said(changed, f"client {client_id} is so", stored, dry_run=dry_run, as_json=as_json)


@client.command("close")
def client_close(
    client_id: ClientId,
    at: At = "now",
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Close a client; its elements must have been ended or moved before."""
    from couchbase_admin.clients import close_client, known_client

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        zone = known_client(store, client_id).value.time_zone
        changed = close_client(store, client_id, given_moment(at, zone))
        stored = store.client(client_id)
        said(changed, f"client {client_id} is closed", stored, dry_run=dry_run, as_json=as_json)


# elements


@element.command("show")
def element_show(kind: KindName, element_id: ElementId, as_json: AsJson = False) -> None:
    """Show an element, and who has and had it."""
    from couchbase_admin.elements import known_element

    with registry() as store:
        named = kind_named(kind)
        found = known_element(store, named, element_id).value
        read = store.relations(named, element_id)
    relations = Relations(kind=named, element_id=element_id) if read is None else read.value
    if as_json:
        print_json({**as_builtin(found), "relations": as_builtin(relations)})
        return
    fields = as_builtin(found)
    if relations.replaced_by:
        fields["replaced_by"] = relations.replaced_by
    if relations.replaces:
        fields["replaces"] = relations.replaces
    card(f"{kind} {element_id}", fields)
    _period_table([(named, element_id, period) for period in relations.periods], "client")


@element.command("list")
def element_list(kind: KindName, as_json: AsJson = False) -> None:
    """List the elements of a kind."""
    with registry() as store:
        named = kind_named(kind)
        found = _documents(store, DOCUMENT[named], lambda one: element_key(named, one), ELEMENT_TYPES[named])
    columns = [ID_FIELD[named], "model", "power_cap", "install_date", "end_date"]
    _list(columns, found, as_json=as_json)


@element.command("edit")
def element_edit(
    kind: KindName,
    element_id: ElementId,
    pairs: Pairs,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Change an element's fields: `selfgen element edit panel P-17 tilt=35`."""
    from couchbase_admin.elements import edit_element

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        changes = _changes(ELEMENT_TYPES[named], pairs, fixed=(ID_FIELD[named], "end_date"))
        changed = edit_element(store, named, element_id, changes)
        stored = store.element(named, element_id)
        said(changed, f"{kind} {element_id} is so", stored, dry_run=dry_run, as_json=as_json)


@element.command("horizon")
def element_horizon(
    kind: KindName,
    element_id: ElementId,
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AZIMUTH:ELEVATION]…", help="Degrees clockwise from north, and above the level; none: free"
        ),
    ] = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Enter what hides the sun from an element: `selfgen element horizon light L-17 90:10 150:25 180:0`.

    Between the pairs the horizon goes straight. Hours that were computed before stay as they are until they are
    computed again (`selfgen light run`).
    """
    from couchbase_admin.elements import edit_element, known_element
    from selfgen import horizon

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        try:
            profile = horizon.typed(pairs or [])
        except ValueError as error:
            raise Refused(f"{error}.") from error
        data = dict(known_element(store, named, element_id).value.variable_data)
        data.pop(horizon.NAME, None)
        if profile:
            data[horizon.NAME] = [list(pair) for pair in profile]
        changed = edit_element(store, named, element_id, {"variable_data": data})
        told = "has the whole sky" if not profile else f"has a horizon of {len(profile)} pairs"
        said(changed, f"{kind} {element_id} {told}", store.element(named, element_id), dry_run=dry_run, as_json=as_json)


@element.command("retire")
def element_retire(
    kind: KindName,
    element_id: ElementId,
    at: At = "now",
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take an element out of service: nobody has it from then on."""
    from couchbase_admin.elements import known_element, retire_element

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        changed = retire_element(store, named, element_id, given_moment(at, _zone(store, named, element_id)))
        stored = known_element(store, named, element_id)
        sentence = f"{kind} {element_id} is retired since {_told(stored.value.end_date)}"
        said(changed, sentence, stored, dry_run=dry_run, as_json=as_json)


@element.command("replace")
def element_replace(
    kind: KindName,
    old_id: ElementId,
    new_id: Annotated[str, typer.Argument(metavar="NEW", help="The new element's id.")],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]…", help="What is not as in the old one.")
    ] = None,
    at: At = "now",
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put a new element in the place of a broken one, with the same client and site.

    The new one is of the old one's model, tilt and azimuth, unless fields say otherwise; with another model, what the
    catalogue knows of that.
    """
    from couchbase_admin.elements import known_element, replace_element, successor_of

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        zone = _zone(store, named, old_id)
        changes = _changes(ELEMENT_TYPES[named], pairs or [], fixed=(ID_FIELD[named], "end_date"))
        old = known_element(store, named, old_id).value
        registered = store.element(named, new_id)
        if registered is None:
            new = successor_of(store, old, new_id, changes, local_date(moment(at, zone), zone))
        elif any(getattr(registered.value, name) != value for name, value in changes.items()):
            raise Refused(f"{kind} {new_id} is registered already: edit it, or leave the fields out.")
        else:
            new = registered.value
        changed = replace_element(store, old_id, new, given_moment(at, zone))
        since = known_element(store, named, old_id).value.end_date
        sentence = f"{kind} {new_id} is in the place of {old_id} since {_told(since)}"
        said(changed, sentence, new, dry_run=dry_run, as_json=as_json)


# the catalogue


@model.command("add")
def model_add(
    kind: KindName,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]…", help="What its elements have in common.")
    ] = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Enter a model: `selfgen model add panel "Solaria 400" power_cap=400 live_cicle=25`."""
    from couchbase_admin.elements import add_model

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        fields = _changes(Model, pairs or [], fixed=("kind", "model"))
        new = Model(kind=kind_named(kind), model=name, **fields)
        changed = add_model(store, new)
        said(changed, f"{kind} model {name} is in the catalogue", new, dry_run=dry_run, as_json=as_json)


@model.command("show")
def model_show(
    kind: KindName,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    as_json: AsJson = False,
) -> None:
    """Show a model."""
    with registry() as store:
        found = store.model(kind_named(kind), name)
        if found is None:
            raise Refused(f"{kind} model {name} is not in the catalogue: enter it (selfgen model add).")
    fields = as_builtin(found.value)
    if as_json:
        print_json(fields)
        return
    card(f"{kind} model {name}", fields)


@model.command("list")
def model_list(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="panel, light or wind; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the catalogue."""
    with registry() as store:
        kinds: Iterable[Kind] = KINDS if kind is None else [kind_named(kind)]
        found = [
            each
            for one in kinds
            for each in _documents(store, f"model::{one}", lambda name, one=one: model_key(one, name), Model)
        ]
    _list(["kind", "model", "power_cap", "live_cicle", "panel_price", "sensor_price"], found, as_json=as_json)


# installations


@install.command("move")
def install_move(
    kind: KindName,
    element_id: ElementId,
    client_id: ClientId,
    since: Since = None,
    from_client: Annotated[
        str | None,
        typer.Option("--from", metavar="CLIENT", help="Who has it until then.", autocompletion=complete_client),
    ] = None,
    address: Address = None,
    postal_code: PostalCode = None,
    latitude: Latitude = None,
    longitude: Longitude = None,
    variable_data: VariableData = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give an element to another client: one period ends, the next begins, in one step."""
    from couchbase_admin.clients import known_client
    from couchbase_admin.installations import move_install

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        instant = given_moment(since, known_client(store, client_id).value.time_zone)
        site = site_of(address, postal_code, latitude, longitude, variable_data)
        changed = move_install(store, named, element_id, client_id, instant, site=site, from_client=from_client)
        since_then = start_of(store.relations(named, element_id), client_id) if instant is None else shown(instant)
        sentence = f"client {client_id} has {kind} {element_id} since {since_then}"
        _said_relations(store, named, element_id, changed, sentence, dry_run=dry_run, as_json=as_json)


@install.command("end")
def install_end(
    kind: KindName,
    element_id: ElementId,
    at: At = "now",
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """End an installation: from then on nobody has the element."""
    from couchbase_admin.installations import end_install, last_end

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        instant = given_moment(at, _zone(store, named, element_id))
        changed = end_install(store, named, element_id, instant)
        end = instant or last_end(_periods(store, named, element_id), store.clock())
        sentence = f"nobody has {kind} {element_id} since {_told(end)}"
        _said_relations(store, named, element_id, changed, sentence, dry_run=dry_run, as_json=as_json)


@install.command("correct")
def install_correct(
    kind: KindName,
    element_id: ElementId,
    at: Annotated[str, typer.Option(metavar="TIME", help="Any time within the period to correct.")] = "now",
    client_id: Annotated[
        str | None, typer.Option("--client", help="Who had it really.", autocompletion=complete_client)
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="When it really began.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="When it really ended; `open`: not yet.")] = None,
    address: Address = None,
    postal_code: PostalCode = None,
    latitude: Latitude = None,
    longitude: Longitude = None,
    variable_data: VariableData = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Correct a period after the fact; the hours of the past that this changes are computed again."""
    from couchbase_admin.installations import correct_install

    with registry(operator, dry_run=dry_run, as_json=as_json) as store:
        named = kind_named(kind)
        zone = _zone(store, named, element_id)
        changes: dict[str, Any] = site_of(address, postal_code, latitude, longitude, variable_data)
        if client_id is not None:
            changes["client_id"] = client_id
        if since is not None:
            changes["init_date"] = moment(since, zone)
        if until is not None:
            changes["end_date"] = None if until == "open" else moment(until, zone)
        changed = correct_install(store, named, element_id, moment(at, zone), changes)
        sentence = f"the period of {kind} {element_id} is so"
        _said_relations(store, named, element_id, changed, sentence, dry_run=dry_run, as_json=as_json)


# the whole


@whole.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .csv or .jsonl file.")],
    rejects: Annotated[
        Path | None, typer.Option(help="Where rows that were refused go; by default FILE.rejects.csv.")
    ] = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register everything in a file; safe to run again, and to stop. Exit code 2 where rows were refused."""
    from couchbase_admin import bulk
    from couchbase_admin.terminal import progress

    with registry(operator, dry_run=dry_run, as_json=as_json, show_writes=False) as store, progress(file) as advance:
        result = bulk.import_file(store, file, rejects or file.with_name(f"{file.name}.rejects.csv"), advance)
    if as_json:
        print_json({**msgspec.to_builtins(result), "dry_run": dry_run})
    else:
        would = " would be" if dry_run else ""
        out.print(
            f"{result.rows} rows: {result.written}{would} written, {result.unchanged} as they were, "
            f"{result.rejected} refused ({result.seconds:.1f} s)",
            highlight=False,
        )
        if result.rejected:
            out.print(f"what is wrong with each: {result.rejects}", highlight=False, markup=False, soft_wrap=True)
    if result.rejected:
        raise typer.Exit(2)


@whole.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="A .csv or .jsonl file.")],
    as_json: AsJson = False,
) -> None:
    """Write the whole registry to one file, from which `import` makes the same registry."""
    from couchbase_admin import bulk

    with registry() as store:
        rows = bulk.export_file(store, file)
    if as_json:
        print_json({"rows": rows, "file": str(file)})
        return
    out.print(f"{rows} rows in {file}", highlight=False, markup=False, soft_wrap=True)


@whole.command("history")
def history(
    one: Annotated[str, typer.Argument(metavar="ID", help="A client or an element.", autocompletion=complete_id)],
    as_json: AsJson = False,
) -> None:
    """Show every change of a client or an element: what, when, by whom, before and after."""
    with registry() as store:
        keys = [client_key(one)]
        for kind in KINDS:
            keys += [element_key(kind, one), relations_key(kind, one), model_key(kind, one)]
        changes = store.history(keys)
        if not changes:
            raise Refused(
                f"{one} is not in the registry: look for it (selfgen client list, selfgen element list KIND)."
            )
    entries = _with_before(changes)
    if as_json:
        print_json(entries)
        return
    table(
        ["when", "who", "what", "changed"],
        [[shown(each["at"]), each["by"], each["action"], _difference(each)] for each in entries],
    )


# what they share


def _with_before(changes: Iterable[Change]) -> list[dict[str, Any]]:
    last: dict[str, Any] = {}
    entries = []
    for change in changes:
        after = msgspec.json.decode(change.after)
        entries.append(
            {
                "at": change.at,
                "by": change.by,
                "action": change.action,
                "key": change.key,
                "before": last.get(change.key),
                "after": after,
            }
        )
        last[change.key] = after
    return entries


def _difference(entry: dict[str, Any]) -> str:
    before, after = entry["before"] or {}, entry["after"]
    lines = []
    for name in sorted({*before, *after} - {"periods"}):
        if before.get(name) != after.get(name):
            old = "" if name not in before else f"{_text(before[name])} → "
            lines.append(f"{name}: {old}{_text(after.get(name))}")
    had, has = ([_period_text(period) for period in one.get("periods", [])] for one in (before, after))
    lines += [f"- {period}" for period in had if period not in has]
    lines += [f"+ {period}" for period in has if period not in had]
    return "\n".join(lines)


def _period_text(period: dict[str, Any]) -> str:
    start, end = (
        next((value for name, value in period.items() if name.startswith(each)), "") for each in ("init_", "end_")
    )
    site = [
        _text(period[name])
        for name in ("address", "postal_code", "latitude", "longitude", "variable_data")
        if name in period
    ]
    return " ".join([f"{period['client_id']} from {start}", *([f"to {end}"] if end else []), *site])


def _told(at: datetime | None) -> str:
    return "" if at is None else shown(at)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _changes(struct_type: type[msgspec.Struct], pairs: list[str], fixed: tuple[str, ...]) -> dict[str, Any]:
    changes = assignments(struct_type, pairs)
    for name in fixed:
        if name in changes:
            raise Refused(f"{name} cannot be given here: there is a command of its own for that.")
    return changes


def _documents(store: RegistryStore, family: str, key: Any, document_type: Any) -> list[dict[str, Any]]:
    keys = [key(one) for one in store.ids(family)]
    stored = store.documents.get_many(keys)
    return [as_builtin(msgspec.json.decode(stored[one].content, type=document_type)) for one in keys if one in stored]


def _list(columns: list[str], documents: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(documents)
        return
    table(columns, [[document.get(name) for name in columns] for document in documents])


def _periods(store: RegistryStore, kind: Kind, element_id: str) -> list[Period]:
    read = store.relations(kind, element_id)
    return [] if read is None else read.value.periods


def _period_table(periods: list[tuple[Kind, str, Period]], other: str) -> None:
    rows = []
    for kind, element_id, period in sorted(periods, key=lambda each: each[2].init_date):
        who = f"{kind} {element_id}" if other == "element" else period.client_id
        until = shown(period.end_date) if period.end_date else ""
        rows.append([who, shown(period.init_date), until, period.address, period.postal_code])
    if rows:
        table([other, "since", "until", "address", "postal_code"], rows)


def _zone(store: RegistryStore, kind: Kind, element_id: str) -> str | None:
    """Return the time zone of the client that has an element, or had it last."""
    for period in reversed(_periods(store, kind, element_id)):
        owner = store.client(period.client_id)
        if owner is not None:
            return owner.value.time_zone
    return None


def _said_relations(
    store: RegistryStore, kind: Kind, element_id: str, changed: bool, sentence: str, *, dry_run: bool, as_json: bool
) -> None:
    read = store.relations(kind, element_id)
    said(changed, sentence, read, dry_run=dry_run, as_json=as_json)
