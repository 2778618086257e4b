"""Commands that make messages: `selfgen simulate run | replay | live`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from selfgen.cli.console import CommandError, err, out, print_json, reported

if TYPE_CHECKING:
    from selfgen.registry import Kind
    from selfgen.settings import Settings
    from selfgen.simulation.batch import Batch
    from selfgen.simulation.fleet import Fleet
    from selfgen.simulation.truth import TopicTruth

simulate = typer.Typer(
    name="simulate",
    help="Make messages: simulated, measured, live. A truth tells what became of each.",
    no_args_is_help=True,
)

Installations = Annotated[
    int | None, typer.Option(help="Number of installations; without it, the demo's own.", min=1, show_default=False)
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same messages.", min=0)]
Log = Annotated[Path | None, typer.Option(help="Write every delivered message to this file.", show_default=False)]
TruthFile = Annotated[
    Path | None, typer.Option("--truth", help="Write counts and faults to this file.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")]


@simulate.command("run")
def run(
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="First event time, UTC.")],
    end: Annotated[datetime, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="End of event times, UTC.")],
    output: Annotated[
        Path | None, typer.Option(help="File to write, a message a line; - is standard output.", show_default=False)
    ] = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="Send to Kafka instead.")] = False,
    installations: Installations = None,
    panel_every: Annotated[float, typer.Option(help="Seconds between readings of a panel; 0: none.", min=0)] = 60,
    light_every: Annotated[float, typer.Option(help="Of a light sensor.", min=0)] = 60,
    wind_every: Annotated[float, typer.Option(help="Of a wind sensor.", min=0)] = 1,
    meter: Annotated[bool, typer.Option("--meter", help="Panels send their cumulative meter, too.")] = False,
    faulty: Annotated[float, typer.Option(help="Share of elements with a fault.", min=0, max=1)] = 0.0,
    duplicated: Annotated[float, typer.Option(help="Share of messages sent twice.", min=0, max=1)] = 0.01,
    late: Annotated[float, typer.Option(help="Share of messages 5 to 30 min late.", min=0, max=1)] = 0.01,
    broken: Annotated[float, typer.Option(help="Share of messages that break the contract.", min=0, max=1)] = 0.005,
    rate: Annotated[
        float | None, typer.Option(help="Messages a second, at most; without it, as fast as it goes.", min=1)
    ] = None,
    seed: Seed = 0,
    truth_file: TruthFile = None,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Simulate installations over a span of time, from typical years of weather."""
    from selfgen.settings import get_settings
    from selfgen.simulation.disorder import Disorder
    from selfgen.simulation.generate import generate, random_faults
    from selfgen.simulation.truth import Truth

    with reported():
        if kafka == (output is not None):
            raise CommandError("say where the messages go: --output FILE or --kafka")
        if start >= end:
            raise CommandError(f"--start {start:%Y-%m-%dT%H:%M:%S} is not before --end {end:%Y-%m-%dT%H:%M:%S}")
        begin, finish = start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)
        fleet, truth = _fleet(installations, seed), Truth()
        every: dict[Kind, float] = {"wind": wind_every, "light": light_every, "panel": panel_every}
        batches = generate(
            fleet,
            begin,
            finish,
            seed,
            intervals_ms={kind: round(1000 * seconds) for kind, seconds in every.items() if seconds},
            meter=meter,
            faults=random_faults(fleet, begin, finish, faulty, seed, meter=meter),
            disorder=Disorder(duplicated=duplicated, late=late, broken=broken),
            truth=truth,
        )
        batches = _with_progress(_throttled(batches, rate), "simulating", begin, finish)
        if output is not None:
            _write(batches, output)
        else:
            _send(get_settings(), batches, log)
        if truth_file is not None:
            truth.write(truth_file)
        if str(output) != "-":
            _print_counts(truth.topics, as_json=as_json)


@simulate.command("replay")
def replay(
    days: Annotated[int, typer.Option(help="Days before the last full hour.", min=1)] = 3,
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H"], help="The full hour it ends at, UTC; default: now's.", show_default=False
        ),
    ] = None,
    installations: Installations = None,
    seed: Seed = 0,
    truth_file: TruthFile = None,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Send real measurements to Kafka, as if they had been measured in the last days, as fast as it goes."""
    from selfgen.clients.kafka import ensure_topics
    from selfgen.settings import get_settings
    from selfgen.simulation import measured
    from selfgen.simulation.truth import Truth

    with reported(), _kafka_errors():
        settings, truth = get_settings(), Truth()
        full_hour = (until.replace(tzinfo=UTC) if until else datetime.now(UTC)).replace(
            minute=0, second=0, microsecond=0
        )
        if full_hour > datetime.now(UTC):
            raise CommandError(f"--until {full_hour:%Y-%m-%dT%H} is in the future: nothing was measured then")
        ensure_topics(settings)
        batches = measured.replay(_fleet(installations, seed), full_hour, days, seed, truth=truth)
        _send(settings, _with_progress(batches, "replaying", full_hour - timedelta(days=days), full_hour), log)
        if truth_file is not None:
            truth.write(truth_file)
        _print_counts(truth.topics, as_json=as_json)


@simulate.command("live")
def live(
    seconds: Annotated[
        int | None, typer.Option(help="How long; without it, until Ctrl-C or SIGTERM.", min=1, show_default=False)
    ] = None,
    installations: Installations = None,
    wind_every: Annotated[float, typer.Option(help="Seconds between readings of a wind sensor, at most 1.")] = 1.0,
    seed: Seed = 0,
    log: Log = None,
    counts: Annotated[
        Path | None, typer.Option(help="Write the counts of what was delivered to this file.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send what the installations' devices would send now, at real speed."""
    from selfgen.clients.delivery import send_live
    from selfgen.clients.kafka import ensure_topics
    from selfgen.settings import get_settings
    from selfgen.simulation.live import LiveFeed
    from selfgen.simulation.truth import Truth
    from selfgen.stopping import stop_event

    stop = stop_event()
    with reported(), _kafka_errors():
        settings = get_settings()
        ensure_topics(settings)
        try:
            feed = LiveFeed(_fleet(installations, seed), seed, wind_interval_ms=round(1000 * wind_every))
        except (ValueError, ZeroDivisionError) as error:
            raise CommandError(f"--wind-every {wind_every}: must divide a second into equal parts") from error
        delivered = send_live(settings, feed, stop, seconds=seconds, log=log)
        if counts is not None:
            Truth(topics=delivered).write(counts)
        _print_counts(delivered, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add this subject's commands."""
    app.add_typer(simulate)


def _fleet(installations: int | None, seed: int) -> Fleet:
    from selfgen.simulation.fleet import demo_fleet, make_fleet

    return demo_fleet() if installations is None else make_fleet(installations, seed)


@contextmanager
def _kafka_errors() -> Iterator[None]:
    """Say in a sentence that Kafka does not answer, or did not take messages."""
    from confluent_kafka import KafkaException

    from selfgen.clients.delivery import DeliveryError
    from selfgen.settings import get_settings

    try:
        yield
    except DeliveryError as error:
        raise CommandError(str(error)) from error
    except KafkaException as error:
        where = get_settings().bootstrap_servers
        raise CommandError(
            f"Kafka at {where} does not answer ({error.args[0].str()}); start it with: selfgen stack up kafka"
        ) from error


def _send(settings: Settings, batches: Iterable[Batch], log: Path | None) -> None:
    from selfgen.clients.delivery import send
    from selfgen.clients.kafka import ensure_topics

    with _kafka_errors():
        ensure_topics(settings)
        send(settings, batches, log)


def _write(batches: Iterable[Batch], output: Path) -> None:
    from selfgen.simulation.batch import text_of

    if str(output) == "-":
        for batch in batches:
            sys.stdout.buffer.write(text_of(batch.lines()))
        return
    try:
        with output.open("wb") as file:
            for batch in batches:
                file.write(text_of(batch.lines()))
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from error


def _throttled(batches: Iterable[Batch], rate: float | None) -> Iterator[Batch]:
    """Hand out messages evenly, a tenth of a second's worth at a time, no faster than `rate` a second."""
    import numpy as np

    if rate is None:
        yield from batches
        return
    started, sent = time.monotonic(), 0
    piece = max(1, round(rate / 10))
    for batch in batches:
        for first in range(0, len(batch), piece):
            part = batch.take(np.arange(first, min(first + piece, len(batch))))
            yield part
            sent += len(part)
            time.sleep(max(0.0, started + sent / rate - time.monotonic()))


def _with_progress(batches: Iterable[Batch], verb: str, start: datetime, end: datetime) -> Iterator[Batch]:
    """Show how far a simulation has come, on a terminal, if it takes longer than 2 s."""
    begin, span = start.timestamp(), end.timestamp() - start.timestamp()
    columns = (TextColumn(verb), BarColumn(), TextColumn("{task.fields[count]:,} messages"))
    shown_from = time.monotonic() + 2
    count = 0
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True) as progress:
        task = progress.add_task(verb, total=span, count=0, visible=False)
        for batch in batches:
            count += len(batch)
            done = batch.event_ms.max() / 1000 - begin if len(batch) else None
            progress.update(task, completed=done, count=count, visible=time.monotonic() > shown_from)
            yield batch


def _print_counts(topics: dict[str, TopicTruth], *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print_json(msgspec.to_builtins(topics))
        return
    table = Table("topic", title="messages")
    for name in ("produced", "to land", "late", "duplicates", "refused"):
        table.add_column(name, justify="right")
    for name, topic in topics.items():
        numbers = (topic.produced, topic.landed, topic.late, topic.duplicates, sum(topic.refused.values()))
        table.add_row(name, *(f"{number:,}" for number in numbers))
    out.print(table)
