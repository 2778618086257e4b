"""What every command shares: the console, how errors end a command, JSON output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)


class CommandError(Exception):
    """What was wrong, where, and what to do, in a sentence; the command ends with exit code 1."""


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one error line and end the command."""
    err.print(f"[bold red]error:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """Turn a `CommandError` into its line, Ctrl-C into exit code 130."""
    try:
        yield
    except CommandError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped", 130)


def print_json(value: Any) -> None:
    """Print a value as JSON for scripts: plain, one document."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
