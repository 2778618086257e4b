"""Commands: Druid's specifications, and how its ingestion is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from selfgen.cli.console import CommandError, out, print_json, reported

druid = typer.Typer(help="Druid: the supervisors of druid_specs/, and how they are.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    app.add_typer(druid, name="druid")


@contextmanager
def _reported() -> Iterator[None]:
    from selfgen.clients.druid import DruidError

    with reported():
        try:
            yield
        except DruidError as error:
            raise CommandError(str(error)) from error


@druid.command()
def apply(as_json: AsJson = False) -> None:
    """Make Druid's supervisors those of druid_specs/; one that is as stated goes on undisturbed."""
    from selfgen.clients.druid import apply_supervisors
    from selfgen.settings import get_settings

    with _reported():
        done = apply_supervisors(get_settings())
    if as_json:
        print_json(done)
        return
    for datasource, change in done.items():
        out.print(f"{datasource:<20} {change}", highlight=False)


@druid.command()
def diff(as_json: AsJson = False) -> None:
    """Show what `apply` would change; exit code 1 if anything."""
    from selfgen.clients.druid import diff_supervisors
    from selfgen.settings import get_settings

    with _reported():
        changes = diff_supervisors(get_settings())
    if as_json:
        print_json(changes)
    else:
        for datasource, lines in changes.items():
            out.print(f"[bold]{datasource}[/] {'' if lines else 'as stated'}", highlight=False)
            for line in lines:
                out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if any(changes.values()):
        raise typer.Exit(1)


@druid.command()
def status(as_json: AsJson = False) -> None:
    """Show each supervisor's state, lag and unreadable messages; exit code 1 if one is not well."""
    from rich.table import Table

    from selfgen.clients.druid import supervisor_status
    from selfgen.settings import get_settings

    with _reported():
        found = supervisor_status(get_settings())
    if as_json:
        print_json(found)
    else:
        table = Table("data source", "state", "lag", "read", "with errors", "unreadable", "last error")
        for datasource, one in found.items():
            keys = ("state", "lag", "processed", "processed_with_error", "unparseable")
            cells = ["–" if one.get(key) is None else str(one[key]) for key in keys]
            table.add_row(datasource, *cells, next(iter(one.get("errors", [])), ""))
        out.print(table)
    if not all(one["healthy"] for one in found.values()):
        raise typer.Exit(1)
