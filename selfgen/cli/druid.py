"""Commands: Druid's specifications, and how its ingestion is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.markup import escape

from selfgen.cli.console import CommandError, out, print_json, reported
from selfgen.cli.jobs import From, Hour, To, add_up_days, hours_of

druid = typer.Typer(
    help="Druid: supervisors, compaction and retention of druid_specs/, and how they are.", no_args_is_help=True
)

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
    """Make Druid's supervisors, compaction and retention those of druid_specs/; what is so already is left alone."""
    from selfgen.clients import druid_storage
    from selfgen.clients.druid import apply_supervisors
    from selfgen.settings import get_settings

    settings = get_settings()
    with _reported():
        done = {"supervisor": apply_supervisors(settings), **druid_storage.apply(settings)}
    if as_json:
        print_json(done)
        return
    for kind, outcomes in done.items():
        for datasource, change in outcomes.items():
            out.print(f"{kind:<12} {datasource:<20} {change}", highlight=False)


@druid.command()
def diff(as_json: AsJson = False) -> None:
    """Show what `apply` would change; exit code 1 if anything."""
    from selfgen.clients import druid_storage
    from selfgen.clients.druid import diff_supervisors
    from selfgen.settings import get_settings

    settings = get_settings()
    with _reported():
        changes = {"supervisor": diff_supervisors(settings), **druid_storage.diff(settings)}
    if as_json:
        print_json(changes)
    else:
        for kind, by_datasource in changes.items():
            for datasource, lines in by_datasource.items():
                out.print(f"[bold]{kind} {datasource}[/] {'' if lines else 'as stated'}", highlight=False)
                for line in lines:
                    out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if any(lines for by_datasource in changes.values() for lines in by_datasource.values()):
        raise typer.Exit(1)


@druid.command("roll-up")
def roll_up(hour: Hour = None, start: From = None, end: To = None) -> None:
    """Sum a range's rows up by day again, where Druid has them since before there were such sums.

    The hourly jobs do so themselves for what they replace.
    """
    from flink_jobs import pending
    from flink_jobs.slots import milliseconds
    from selfgen import lake
    from selfgen.columns import ROLLED_UP
    from selfgen.settings import get_settings

    settings = get_settings()
    with _reported():
        first, last = map(milliseconds, hours_of(hour, start, end))
        with lake.exclusive(settings.lake_dir, "panel"):
            for source in ROLLED_UP.values():
                pending.note_days(settings, source, first, last)
        rows = add_up_days(settings, "panel")
    out.print(f"{rows:,} rows were added up", highlight=False)


@druid.command()
def status(as_json: AsJson = False) -> None:
    """Show how each supervisor is and what each data source holds; exit code 1 if a supervisor is not well."""
    from rich.table import Table

    from selfgen.clients import druid_storage
    from selfgen.clients.druid import supervisor_status
    from selfgen.settings import get_settings

    settings = get_settings()
    with _reported():
        found, held = supervisor_status(settings), druid_storage.status(settings)
    if as_json:
        print_json({"supervisors": found, "datasources": held})
    else:
        table = Table("supervisor", "state", "lag", "read", "with errors", "unreadable", "last error")
        for datasource, one in found.items():
            keys = ("state", "lag", "processed", "processed_with_error", "unparseable")
            cells = ["–" if one.get(key) is None else str(one[key]) for key in keys]
            table.add_row(datasource, *cells, escape(next(iter(one.get("errors", [])), "")))
        out.print(table)
        table = Table("data source", "segments", "rows", "bytes", "bytes to compact")
        for datasource, one in held.items():
            table.add_row(datasource, *("–" if value is None else f"{value:,}" for value in one.values()))
        out.print(table)
    if not all(one["healthy"] for one in found.values()):
        raise typer.Exit(1)
