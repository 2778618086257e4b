"""Commands: landing the devices' messages, and what operators and device makers need around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from selfgen.cli.console import CommandError, fail, out, print_json, reported, servers, utc_time

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


class Topic(StrEnum):
    """The devices' topics."""

    WIND = "wind"
    LIGHT = "light"
    PANEL = "panel"


class LandTopic(StrEnum):
    """What can be landed at once."""

    WIND = "wind"
    LIGHT = "light"
    PANEL = "panel"
    ALL = "all"


OneTopic = Annotated[Topic, typer.Argument(help="The topic.")]
ChosenTopic = Annotated[Topic | None, typer.Option("--topic", help="Of this topic only.")]
ChosenReason = Annotated[str | None, typer.Option("--reason", help="Refused for this reason only.")]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=utc_time, metavar="TIME", help="Received since; UTC, or with an offset."),
]


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    app.command("land")(land)
    subjects: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
        "topics": ("Kafka's topics, as they are declared.", {"apply": apply_topics, "show": show_topics}),
        "contract": (
            "What devices send: schemas, the page for their makers, a check of their output.",
            {"schema": print_schema, "page": print_page, "check": check_file},
        ),
        "rejected": (
            "Messages that were refused: which, why, and landing them after all.",
            {"list": list_rejected, "show": show_rejected, "replay": replay_rejected},
        ),
        "ops": ("The entrance of the topics, for operators.", {"topics": watch_topics}),
    }
    for name, (help_text, commands) in subjects.items():
        group = typer.Typer(help=help_text, no_args_is_help=True)
        for command, function in commands.items():
            group.command(command)(function)
        app.add_typer(group, name=name)


def land(
    topic: Annotated[LandTopic, typer.Argument(help="What to land.")],
    processes: Annotated[int, typer.Option(min=1, help="Processes for each topic.")] = 1,
    http_port: Annotated[
        int, typer.Option(help="The first process's port of /health, /ready, /metrics; the others' follow it.")
    ] = 0,
) -> None:
    """Land messages in MongoDB until Ctrl-C; start it on several machines to share the partitions."""
    from kafka_consumers.landing import PROCESSES
    from kafka_consumers.supervision import supervise

    names = list(PROCESSES.values()) if topic is LandTopic.ALL else [PROCESSES[topic]]
    with reported():
        if code := supervise(names * processes, http_port):
            fail("a landing process ended by itself; its log says why", code)


# topics


def apply_topics(as_json: Json = False) -> None:
    """Create the topics, or change them to what is declared; removes nothing."""
    from selfgen.clients.kafka import ensure_topics
    from selfgen.settings import get_settings

    with servers():
        done = ensure_topics(get_settings())
    if as_json:
        print_json(done)
        return
    for name, change in done.items():
        out.print(f"{name:20} {change}")


def show_topics(as_json: Json = False) -> None:
    """Show the declared topics and how they are."""
    from rich.table import Table

    from selfgen.clients.kafka import TOPICS, describe_topics
    from selfgen.settings import get_settings

    settings = get_settings()
    with servers():
        states = describe_topics(settings)
    declared: dict[str, dict[str, Any]] = {
        name: {"partitions": spec.partitions or settings.partitions, **spec.config()} for name, spec in TOPICS.items()
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


# the contract


def print_schema(topic: OneTopic) -> None:
    """Print the JSON Schema of a topic's messages."""
    from selfgen.contract import schema

    print_json(schema(topic))


def print_page() -> None:
    """Print the page for device makers (Markdown)."""
    from selfgen.contract import page

    typer.echo(page(), nl=False)


def check_file(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="Messages, one a line; - for standard input.")],
    topic: Annotated[Topic, typer.Option(help="Where they would be sent.")],
    as_json: Json = False,
) -> None:
    """Judge a device's messages as landing does; exit with 1 if one would be refused."""
    from selfgen.contract import check

    lines = (line.rstrip(b"\r\n") for line in file)
    total, refused = 0, list[dict[str, Any]]()
    for verdict in check(topic, (line for line in lines if line), time.time_ns() // 1_000_000):
        total += 1
        if verdict.reason:
            refused.append(verdict._asdict())
            if not as_json:
                out.print(f"message {verdict.line}: [bold]{verdict.reason}[/]: ", end="", highlight=False)
                out.print(verdict.text, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"messages": total, "accepted": total - len(refused), "refused": refused})
    else:
        out.print(f"{total} messages, {total - len(refused)} accepted, {len(refused)} refused")
    if refused or not total:
        raise typer.Exit(1)


# refused messages


def list_rejected(
    topic: ChosenTopic = None, reason: ChosenReason = None, since: Since = None, as_json: Json = False
) -> None:
    """List what was refused, by topic and reason, with the newest one's sentence."""
    from rich.table import Table

    from kafka_consumers import rejected
    from selfgen.clients.mongo import database
    from selfgen.settings import get_settings

    with servers():
        groups = rejected.groups(database(get_settings()), _choice(topic, reason, since))
    if as_json:
        print_json(groups)
        return
    table = Table("topic", "reason", "count", "first", "last", "the newest one")
    for group in groups:
        table.add_row(
            group["topic"],
            group["reason"],
            f"{group['count']:,}",
            _short(group["first"]),
            _short(group["last"]),
            f"{escape(group['text'])}\n[dim]{escape(group['example'])}[/]",
        )
    out.print(table if groups else "nothing was refused")


def show_rejected(
    identity: Annotated[str | None, typer.Argument(help="One alarm's _id; without it, the newest.")] = None,
    topic: ChosenTopic = None,
    reason: ChosenReason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 10,
    as_json: Json = False,
) -> None:
    """Show refused messages with their bytes."""
    from kafka_consumers import rejected
    from selfgen.clients.mongo import database
    from selfgen.settings import get_settings

    with servers():
        store = database(get_settings())
        if identity is None:
            found = list(rejected.alarms(store, _choice(topic, reason, since), limit))
        else:
            one = rejected.alarm(store, identity)
            if one is None:
                raise CommandError(f"there is no alarm {identity}; 'selfgen rejected list' names one of each kind")
            found = [one]
    shown = [{**alarm, "msg_value": _text(alarm["msg_value"]), "key": _text(alarm.get("key"))} for alarm in found]
    if as_json:
        print_json(shown)
        return
    for alarm in shown:
        identity = escape(alarm["_id"])
        out.print(f"[bold]{identity}[/]  {alarm['reason']}  {_short(alarm['received_at'])}", highlight=False)
        for line in (alarm["text_alarm"], alarm["msg_value"]):
            out.print("  ", line, markup=False, highlight=False, soft_wrap=True)


def replay_rejected(
    topic: ChosenTopic = None, reason: ChosenReason = None, since: Since = None, as_json: Json = False
) -> None:
    """Judge refused messages again, and land those that are accepted now, each once."""
    from contextlib import closing

    from couchbase_admin.registry import Registry
    from kafka_consumers import rejected
    from kafka_consumers.process import lookup_in
    from selfgen.settings import get_settings

    settings = get_settings()
    with servers(), closing(Registry(settings)) as registry:
        tallies, still_refused = rejected.replay(
            settings, _choice(topic, reason, since), lambda name: lookup_in(registry, name)
        )
    done = {
        name: {"landed": tally.landed, "duplicates": tally.duplicates, "replaced": tally.replaced}
        for name, tally in tallies.items()
    }
    if as_json:
        print_json({"accepted": done, "still_refused": dict(still_refused)})
        return
    for name, counts in done.items():
        out.print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    reasons = ", ".join(f"{count} {reason}" for reason, count in still_refused.most_common())
    out.print(f"still refused: {reasons or 'none'}")


def _choice(topic: Topic | None, reason: str | None, since: datetime | None) -> Any:
    from kafka_consumers.rejected import Choice
    from selfgen.messages import SET_ASIDE

    if reason is not None and reason not in SET_ASIDE:
        raise CommandError(f"nothing is refused for {reason!r}; the reasons are: {', '.join(SET_ASIDE)}")
    return Choice(topic and topic.value, reason, since)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _short(time_: datetime) -> str:
    return f"{time_:%Y-%m-%d %H:%M:%S}"


# operators


def watch_topics(
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two pictures.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Watch the entrance of the topics: rates, lag, delay, refusals, consumers, alarms; Ctrl-C ends it."""
    from rich.live import Live

    from kafka_consumers.operations import Watch
    from selfgen.cli.entrance import picture
    from selfgen.settings import get_settings

    with servers():
        watch = Watch(get_settings())
        watch.look()
        time.sleep(min(every, 1.0))
        if as_json:
            print_json(watch.look())
            return
        if once:
            out.print(picture(watch.look(), watch.history, out.width))
            return
        with Live(picture(watch.look(), watch.history, out.width), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(picture(watch.look(), watch.history, out.width), refresh=True)
