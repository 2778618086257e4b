"""What every command shares: the console, how errors end a command, JSON output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

out = Console()
err = Console(stderr=True)


class CommandError(Exception):
    """What was wrong, where, and what to do, in a sentence; the command ends with exit code 1."""


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one error line and end the command."""
    err.print("[bold red]error:[/]", escape(message), highlight=False, soft_wrap=True)
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


@contextmanager
def servers() -> Iterator[None]:
    """Say in one line which server does not answer."""
    from confluent_kafka import KafkaException
    from pymongo.errors import PyMongoError

    with reported():
        try:
            yield
        except KafkaException as error:
            raise CommandError(
                f"Kafka does not answer ({error.args[0].str()}); start it with 'selfgen stack up kafka', "
                "or set SELFGEN_KAFKA_BOOTSTRAP"
            ) from error
        except PyMongoError as error:
            raise CommandError(
                f"MongoDB does not answer ({str(error).partition(' (configured')[0]}); start it with "
                "'selfgen stack up mongodb', or set SELFGEN_MONGODB_URL"
            ) from error


def utc_time(text: str) -> datetime:
    """Return an instant from what is typed for an option: RFC 3339, or a date or time of UTC."""
    from selfgen.registry import Refused, moment

    try:
        return moment(text, "UTC")
    except Refused as refused:
        raise typer.BadParameter(str(refused)) from None


def print_json(value: Any) -> None:
    """Print a value as JSON for scripts: plain, one document."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
