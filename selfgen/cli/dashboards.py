"""`selfgen superset`: dashboards as code."""

from __future__ import annotations

from typing import Annotated

import typer

from selfgen.cli.console import CommandError, out, print_json, reported


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    superset = typer.Typer(no_args_is_help=True, help="Superset: dashboards as code.")
    superset.command()(apply)
    superset.callback()(lambda: None)
    app.add_typer(superset, name="superset")


def apply(as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False) -> None:
    """Make Superset's datasets, charts and dashboards those of superset/assets; update what exists."""
    from selfgen.clients import superset
    from selfgen.settings import get_settings

    settings = get_settings()
    with reported():
        try:
            applied = superset.apply(settings)
        except superset.SupersetError as error:
            raise CommandError(str(error)) from error
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
