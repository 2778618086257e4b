"""Commands for the local stack: up, down, status, logs."""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from selfgen.cli.console import err, fail, out, print_json, reported

stack = typer.Typer(help="The local stack: real servers on this machine.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="Servers or groups (druid, flink); none: all of them")]


def _complete(incomplete: str) -> list[str]:
    from stack.servers import GROUPS, SERVERS

    return [name for name in [*SERVERS, *GROUPS] if name.startswith(incomplete)]


def _say(name: str, text: str) -> None:
    out.print(f"  [cyan]{name:12}[/] {escape(text)}", highlight=False)


@stack.command()
def install() -> None:
    """Bring the servers' jars by Maven; nothing is done where they are there."""
    from selfgen.settings import get_settings
    from stack.errors import StackError
    from stack.install import install as bring

    with reported():
        try:
            brought = bring(get_settings(), lambda text: _say("jars", text))
        except StackError as error:
            _explain(error)
        out.print(f"{len(brought)} sets of jars brought" if brought else "all jars are there")


@stack.command()
def up(names: Names = None) -> None:
    """Start servers, in order of need, and wait until each says that it is ready."""
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.errors import StackError

    with reported():
        try:
            ready = lifecycle.up(get_settings(), names or (), _say)
        except StackError as error:
            _explain(error)
    out.print(f"[green]{len(ready)} servers are ready[/]")


@stack.command()
def down(names: Names = None) -> None:
    """Stop servers, and those that need them; without names all, and no process is left."""
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.errors import StackError

    with reported():
        try:
            stopped = lifecycle.down(get_settings(), names or (), _say)
        except StackError as error:
            _explain(error)
    out.print(f"{len(stopped)} stopped" if stopped else "nothing was running")


@stack.command()
def status(json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts")] = False) -> None:
    """Ask every server how it is; exit code 3 unless all are ready."""
    from selfgen.settings import get_settings
    from stack import lifecycle

    states = lifecycle.status(get_settings())
    if json:
        print_json({"servers": [lifecycle.as_dict(state) for state in states]})
    else:
        table = Table(box=None, header_style="bold")
        for column in ("server", "state", "memory", "address", "what it is"):
            table.add_column(column, justify="right" if column == "memory" else "left")
        colours = {"ready": "green", "starting": "yellow", "stopped": "red"}
        for state in states:
            what = state.description if state.state != "starting" else state.reason
            memory = f"{state.memory_mib} MiB" if state.pid else ""
            table.add_row(state.name, f"[{colours[state.state]}]{state.state}[/]", memory, state.address, what)
        out.print(table)
        out.print(f"together {sum(state.memory_mib for state in states)} MiB resident")
        if any(state.name == "jobmanager" and state.state == "ready" for state in states):
            out.print(f"Flink's page: http://{get_settings().flink}")
    raise typer.Exit(0 if all(state.state == "ready" for state in states) else 3)


@stack.command()
def logs(
    name: Annotated[str, typer.Argument(help="The server", autocompletion=_complete)],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come")] = False,
) -> None:
    """Show a server's last log lines."""
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.errors import StackError

    with reported():
        try:
            path = lifecycle.log_file(get_settings(), name)
        except StackError as error:
            _explain(error)
        if not path.exists():
            fail(f"{name} has not run yet: there is no {path}")
        command = ["/usr/bin/env", "tail", "-n", str(lines), *(["-F"] if follow else []), str(path)]
        raise typer.Exit(subprocess.run(command, check=False).returncode)


def _explain(error: Exception) -> None:
    details = getattr(error, "details", "")
    if details:
        err.print(escape(details), highlight=False, style="dim", soft_wrap=True)
    fail(str(error))


def register(app: typer.Typer) -> None:
    """Add `selfgen stack`."""
    app.add_typer(stack, name="stack")
