"""Commands: landing the devices' messages, and what operators and device makers need around it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from selfgen.cli.console import CommandError, fail, out, print_json, reported

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


class Topic(StrEnum):
    """The devices' topics."""

    WIND = "wind"
    LIGHT = "light"
    PANEL = "panel"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    topics = typer.Typer(help="Kafka's topics, as they are declared.", no_args_is_help=True)
    topics.command("apply")(apply_topics)
    topics.command("show")(show_topics)
    app.add_typer(topics, name="topics")
    app.command("land")(land)


def land(
    topic: Annotated[Topic, typer.Argument(help="What to land.")],
    processes: Annotated[int, typer.Option(min=1, help="Processes for each topic.")] = 1,
) -> None:
    """Land messages in MongoDB until Ctrl-C; start it on several machines to share the partitions."""
    from kafka_consumers.landing import PROCESSES
    from kafka_consumers.supervision import supervise

    names = list(PROCESSES.values()) if topic is Topic.ALL else [PROCESSES[topic]]
    with reported():
        if code := supervise(names * processes):
            fail("a landing process ended by itself; its log says why", code)


def apply_topics(as_json: Json = False) -> None:
    """Create the topics, or change them to what is declared; removes nothing."""
    from confluent_kafka import KafkaException

    from selfgen.clients.kafka import ensure_topics
    from selfgen.settings import get_settings

    with reported():
        try:
            done = ensure_topics(get_settings())
        except KafkaException as error:
            raise CommandError(_kafka_away(error)) from error
        if as_json:
            print_json(done)
        else:
            for name, change in done.items():
                out.print(f"{name:20} {change}")


def show_topics(as_json: Json = False) -> None:
    """Show the declared topics and how they are."""
    from confluent_kafka import KafkaException
    from rich.table import Table

    from selfgen.clients.kafka import TOPICS, describe_topics
    from selfgen.settings import get_settings

    with reported():
        settings = get_settings()
        try:
            states = describe_topics(settings)
        except KafkaException as error:
            raise CommandError(_kafka_away(error)) from error
        declared = {
            name: {"partitions": spec.partitions or settings.partitions, **spec.config()}
            for name, spec in TOPICS.items()
        }
        found = {name: {"partitions": state.partitions, **state.config} for name, state in states.items()}
        if as_json:
            print_json(
                [
                    {"topic": name, "purpose": spec.purpose, "declared": declared[name], "found": found.get(name)}
                    for name, spec in TOPICS.items()
                ]
            )
            return
        table = Table("topic", "partitions", "kept, GiB a partition", "state", "purpose")
        for name, spec in TOPICS.items():
            state = "as declared" if found.get(name) == declared[name] else "differs" if name in found else "missing"
            kept = f"{spec.retention_bytes / 2**30:g}"
            table.add_row(name, str(declared[name]["partitions"]), kept, state, spec.purpose)
        out.print(table)


def _kafka_away(error: Exception) -> str:
    return f"Kafka does not answer ({error}); start it with 'selfgen stack up kafka', or set SELFGEN_KAFKA_BOOTSTRAP"
