"""`selfgen superset`: dashboards, roles and users as code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from selfgen.cli.console import CommandError, out, print_json, reported

if TYPE_CHECKING:
    from selfgen.clients.superset_access import User

superset_app = typer.Typer(no_args_is_help=True, help="Superset: dashboards, roles and users as code.")
users_app = typer.Typer(no_args_is_help=True, help="Superset's users, each with a role, a client's with its client.")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    superset_app.add_typer(users_app, name="users")
    app.add_typer(superset_app, name="superset")


@contextmanager
def _reported() -> Iterator[None]:
    from selfgen.clients.superset import SupersetError

    with reported():
        try:
            yield
        except SupersetError as error:
            raise CommandError(str(error)) from error


@superset_app.command()
def apply(as_json: AsJson = False) -> None:
    """Make Superset's datasets, charts, dashboards and roles those of superset/; update what exists."""
    from selfgen.clients import superset
    from selfgen.settings import get_settings

    settings = get_settings()
    with _reported():
        applied = superset.apply(settings)
    url = superset.dashboard_url(settings)
    if as_json:
        print_json({**applied._asdict(), "url": url})
        return
    out.print(", ".join(f"{count} {kind}" for kind, count in applied.assets.items()))
    for name in applied.created:
        out.print(f"  [green]created[/] {name}", highlight=False)
    for name in applied.changed:
        out.print(f"  [yellow]changed[/] {name}", highlight=False)
    if not applied.created and not applied.changed:
        out.print("  nothing to change")
    out.print(url)


@superset_app.command()
def export(
    dashboards: Annotated[
        list[str] | None, typer.Argument(help="Slugs of dashboards that are to be added, with what they show.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what was changed in Superset's pages back into superset/assets; nothing else in the files changes."""
    from selfgen.clients import superset_export
    from selfgen.settings import get_settings

    with _reported():
        done = superset_export.export(get_settings(), dashboards or ())
    if as_json:
        print_json(done._asdict())
        return
    for what, style, names in (("changed", "yellow", done.changed), ("created", "green", done.created)):
        for name in names:
            out.print(f"  [{style}]{what}[/] {name}", highlight=False)
    for name in done.missing:
        out.print(f"  [red]not in Superset[/] {name}", highlight=False)
    if not any(done):
        out.print("  the files say what Superset has")


@users_app.command("list")
def users_list(as_json: AsJson = False) -> None:
    """List the users: role, client, e-mail, whether they may log in."""
    from rich.table import Table

    from selfgen.clients import superset_access
    from selfgen.settings import get_settings

    with _reported():
        users = superset_access.list_users(get_settings())
    if as_json:
        print_json(users)
        return
    table = Table("user", "role", "client", "name", "e-mail", "active")
    for user in users:
        table.add_row(*(escape(str(user[key])) for key in ("username", "role", "client_id", "name", "email", "active")))
    out.print(table)


@users_app.command("apply")
def users_apply(
    file: Annotated[
        Path | None,
        typer.Argument(help="YAML: users: [{username, role, client_id, name, email, active, password_env|_file}, …]"),
    ] = None,
    registry: Annotated[
        bool, typer.Option("--registry", help="A user for each client of the registry, named by its id; closed: none.")
    ] = False,
    passwords: Annotated[
        Path | None,
        typer.Option(help="File that passwords which are made up are added to; else one beside Superset's own."),
    ] = None,
    show_passwords: Annotated[bool, typer.Option("--show-passwords", help="Print the passwords made up, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make users those of a file or of the registry; others stay, and everyone keeps the password they have."""
    from selfgen.clients import superset_access
    from selfgen.settings import get_settings

    settings = get_settings()
    kept = passwords or settings.stack_dir / "superset" / "users-passwords.yaml"
    with _reported():
        if file is None and not registry:
            raise CommandError("give a file of users, or --registry")
        users = superset_access.read_users(file) if file else []
        clients = _of_registry({user.client_id for user in users}) if registry else []
        before = superset_access.read_passwords(kept)
        done = superset_access.apply_users(settings, users, kept, file.parent if file else Path(), clients)
        made = {name: one for name, one in superset_access.read_passwords(kept).items() if name not in before}
    if as_json:
        print_json(
            {"users": done, "passwords_file": str(kept) if made else None}
            | ({"passwords": made} if show_passwords else {})
        )
        return
    for name, outcome in done.items():
        password = f"  {made[name]}" if show_passwords and name in made else ""
        out.print(f"{name:<24} {outcome}{password}", highlight=False, markup=False, soft_wrap=True)
    if made:
        out.print(f"{len(made)} passwords were made up: {kept} (only you can read it)", highlight=False, soft_wrap=True)


def _of_registry(served: set[str | None]) -> list[User]:
    """Return a user for each open client of the registry that has none among those given."""
    from couchbase_admin.clients import all_clients
    from couchbase_admin.terminal import registry
    from selfgen.clients.superset_access import User

    with registry(show_writes=False) as store:
        clients = all_clients(store)
    return [
        User(username=one.client_id, role="client", client_id=one.client_id, name=one.name)
        for one in clients
        if one.end_date is None and one.client_id not in served
    ]
