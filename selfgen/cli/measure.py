"""Commands that measure: `selfgen bench` against peers, `selfgen chaos` against failure."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from selfgen.cli.console import CommandError, out, reported

if TYPE_CHECKING:
    from benchmarks.form import Figure, Sort

_VERDICT = {True: "[green]holds[/]", False: "[bold red]missed[/]", None: ""}

Seed = Annotated[int | None, typer.Option(help="Draw otherwise at random, where it does", show_default=False)]
Name = Annotated[str | None, typer.Argument(help="Which one, or all; without it, the list.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    app.command("bench")(bench)
    app.command("chaos")(chaos)


def bench(name: Name = None, seed: Seed = None) -> None:
    """Measure against peers in one run; print a table, write build/bench/NAME.json."""
    _run("bench", name, seed)


def chaos(name: Name = None, seed: Seed = None) -> None:
    """Break servers and processes, and count what is left; print a table, write build/chaos/NAME.json."""
    _run("chaos", name, seed)


def _run(sort: Sort, name: str | None, seed: int | None) -> None:
    """Run one or all; exit with 1 if a bar does not hold."""
    from benchmarks.form import measure, names, report_path
    from selfgen.settings import get_settings

    with reported():
        known = names(sort)
        if name is None:
            _list(sort, known)
            return
        if name != "all" and name not in known:
            raise CommandError(f"there is no {sort} {name}; there are: {', '.join([*known, 'all'])}")
        settings, missed = get_settings(), []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a measurement's own servers are stopped
        for each in known if name == "all" else [name]:
            out.print(f"[dim]{sort} {each} …[/]")
            try:
                figures = measure(sort, each, settings, seed)
            except TypeError as error:
                if seed is None or "'seed'" not in str(error):
                    raise
                raise CommandError(f"{sort} {each} draws nothing at random: leave out --seed") from error
            out.print(_table(f"{sort} {each}", figures))
            out.print(f"[dim]{report_path(sort, each, settings)}[/]", soft_wrap=True)
            missed += [f"{each}: {figure.name}" for figure in figures if figure.holds is False]
        if missed:
            raise CommandError(f"below the bar: {'; '.join(missed)}")


def _list(sort: Sort, known: dict[str, str]) -> None:
    from benchmarks.form import summary

    table = Table(title=f"selfgen {sort} NAME", title_justify="left", show_header=False, box=None)
    for name, module in known.items():
        table.add_row(f"[bold]{name}[/]", summary(module))
    table.add_row("[bold]all[/]", "all of them, one after the other")
    out.print(table)


def _table(title: str, figures: list[Figure]) -> Table:
    table = Table("figure", title=title, title_justify="left")
    for heading in ("value", "unit", "peer", "bar", ""):
        table.add_column(heading, justify="left" if heading in {"unit", ""} else "right")
    for figure in figures:
        peer = "" if figure.peer is None else f"{figure.peer:,}"
        bar = "" if figure.bar is None else f"{figure.bar[0]} {figure.bar[1]:,}"
        table.add_row(figure.name, f"{figure.value:,}", figure.unit, peer, bar, _VERDICT[figure.holds])
    return table
