"""`selfgen raw`: raw readings in MongoDB, found, corrected, deleted and restored, and what was done to them."""

from __future__ import annotations

import csv
import getpass
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from selfgen.cli.console import CommandError, err, out, print_json, servers, utc_time
from selfgen.cli.landing import Json, Topic

if TYPE_CHECKING:
    from kafka_consumers.corrections import Change, Kind

raw = typer.Typer(help="Raw readings in MongoDB: what is there, and mending it.", no_args_is_help=True)


class Mendable(StrEnum):
    """Topics whose reports are computed again when readings change."""

    LIGHT = "light"
    PANEL = "panel"


class Form(StrEnum):
    """How readings are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


ElementId = Annotated[str, typer.Argument(help="The element.")]
Where = Annotated[Mendable | None, typer.Option("--topic", help="Its topic; else the one it has readings in then.")]
At = Annotated[str | None, typer.Option("--at", help="The reading of this time; RFC 3339, UTC without an offset.")]
From = Annotated[str | None, typer.Option("--from", help="All readings since this time; RFC 3339.")]
To = Annotated[str | None, typer.Option("--to", help="And before this one; RFC 3339.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
Operator = Annotated[
    str | None, typer.Option(envvar="SELFGEN_OPERATOR", help="Who does this, for the history; else the user's name.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]

#: Columns that are ours; a message's own fields of these names are printed as `msg_value.time`.
_OWN = ("time", "corrected", "client_id", "received_at")

#: Changes that are listed one by one.
_LISTED = 20


@raw.command("find")
def find_raw(
    element_id: Annotated[str, typer.Argument(help="The element.")],
    topic: Annotated[Topic, typer.Option(help="Its topic.")] = Topic.PANEL,
    start: Annotated[
        datetime | None,
        typer.Option("--from", parser=utc_time, metavar="TIME", help="UTC, or with an offset; default: an hour ago."),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", parser=utc_time, metavar="TIME", help="UTC, or with an offset; default: now."),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How they are printed.")] = Form.TABLE,
) -> None:
    """Print an element's raw readings in order of time.

    A message's own time, corrected, client_id or received_at is printed as msg_value.time and so on.
    """
    from selfgen.clients.mongo import find_readings
    from selfgen.settings import get_settings

    now = datetime.now(UTC)
    from_ms, to_ms = (
        int((given or default).timestamp() * 1000) for given, default in ((start, now - timedelta(hours=1)), (end, now))
    )
    with servers():
        if from_ms >= to_ms:
            raise CommandError("--from must be before --to")
        found = find_readings(get_settings(), topic, element_id, from_ms, to_ms)
        _print_readings((_flat(document) for document in found), form)


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    message = {
        f"msg_value.{name}" if name in _OWN else name: value
        for name, value in document["msg_value"].items()
        if name != "timestamp"
    }
    return {
        "time": document["timestamp"].astimezone(UTC).isoformat(timespec="milliseconds"),
        **message,
        **({"corrected": document["revision"]} if "revision" in document else {}),
        "client_id": document.get("client_id"),
        "received_at": document["received_at"].astimezone(UTC).isoformat(timespec="milliseconds"),
    }


def _print_readings(readings: Iterable[dict[str, Any]], form: Form) -> None:
    from rich.table import Table

    if form is Form.JSONL:
        for reading in readings:
            typer.echo(json.dumps(reading, ensure_ascii=False))
        return
    rows = list(readings)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if form is Form.CSV:
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    table = Table(*map(escape, names))
    for row in rows:
        table.add_row(*("" if row.get(name) is None else escape(str(row[name])) for name in names))
    out.print(table if rows else "no readings")


# what people change


@raw.command("correct")
def correct_raw(
    element_id: ElementId,
    at: Annotated[str, typer.Argument(metavar="TIME", help="The reading's time; RFC 3339, UTC without an offset.")],
    reason: Reason,
    power: Annotated[float | None, typer.Option(help="W, of a panel.")] = None,
    energy: Annotated[float | None, typer.Option(help="The meter, Wh, of a panel.")] = None,
    irradiance: Annotated[float | None, typer.Option(help="W/m², of a light sensor.")] = None,
    temperature: Annotated[float | None, typer.Option(help="°C.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A field that was wrong altogether.")] = None,
    topic: Where = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give a reading other values; its hour, and all that depends on it, is computed again.

    The old values are kept (selfgen raw history), and do not come back when the device sends them again.
    """
    given = {"power": power, "energy": energy, "irradiance": irradiance, "temperature": temperature}
    values = {name: value for name, value in given.items() if value is not None}
    if strange := [name for name, value in values.items() if not math.isfinite(value)]:
        raise typer.BadParameter(f"--{strange[0]} must be a number; --without {strange[0]} takes it away")

    def change(stored: dict[str, Any]) -> Change:
        from kafka_consumers import corrections

        if not values and not without:
            raise corrections.Impossible("nothing to correct: give --power, --energy, ... or --without FIELD")
        return corrections.correct(stored, values, without or [])

    _change("corrected", change, element_id, (at, None, None), topic, reason, operator, dry_run, as_json)


@raw.command("delete")
def delete_raw(
    element_id: ElementId,
    reason: Reason,
    at: At = None,
    start: From = None,
    end: To = None,
    topic: Where = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete a reading, or those of a range; their hours, and all that depends on them, are computed again.

    They are kept (selfgen raw history), can be restored, and do not come back when the device sends them again.
    """
    from kafka_consumers import corrections

    _change("deleted", corrections.delete, element_id, (at, start, end), topic, reason, operator, dry_run, as_json)


@raw.command("restore")
def restore_raw(
    element_id: ElementId,
    reason: Reason,
    at: At = None,
    start: From = None,
    end: To = None,
    topic: Where = None,
    operator: Operator = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put back what the last correction or deletion took away, of one reading or of all in a range."""
    from kafka_consumers import corrections

    _change("restored", corrections.restore, element_id, (at, start, end), topic, reason, operator, dry_run, as_json)


@raw.command("history")
def show_history(
    element_id: ElementId,
    topic: Where = None,
    as_json: Json = False,
) -> None:
    """Show what people changed of an element's readings: the values before and after, why, who, when."""
    from rich.table import Table

    from kafka_consumers import corrections
    from selfgen.clients.mongo import database
    from selfgen.settings import get_settings

    with servers():
        entries = corrections.history(database(get_settings()), element_id, topic and topic.value)
    if as_json:
        print_json([{name: entry[name] for name in entry if name != "_id"} for entry in entries])
        return
    table = Table("reading", "change", "before", "after", "reason", "who", "when, UTC")
    for entry in entries:
        table.add_row(
            _time(entry["timestamp"]),
            entry["change"],
            *(escape(text) for text in (_values(entry["before"]), _values(entry["after"]))),
            *(escape(text) for text in (entry["reason"], entry["operator"])),
            f"{entry['at']:%Y-%m-%d %H:%M:%S}",
        )
    out.print(table if entries else f"nobody changed a reading of {escape(element_id)}")


def _change(
    kind: Kind,
    change: Callable[[dict[str, Any]], Change | None],
    element_id: str,
    times: tuple[str | None, str | None, str | None],
    topic: Mendable | None,
    reason: str,
    operator: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Look readings up, change them, and say what was done."""
    from kafka_consumers import corrections
    from selfgen.clients import mongo
    from selfgen.settings import get_settings

    settings = get_settings()
    with servers():
        if not reason.strip():
            raise CommandError("--reason is empty: say why, for those who look at the figures later")
        start_ms, end_ms = _range_ms(*times)
        database = mongo.database(settings)
        try:
            where = topic.value if topic else corrections.topic_of(database, element_id, start_ms, end_ms)
            found = corrections.find(database, where, element_id, start_ms, end_ms)
            if not found:
                raise corrections.Impossible(
                    f"{element_id} has no readings in {where} then; 'selfgen raw find' lists what is there"
                )
            changes = [one for stored in found if (one := change(stored)) is not None]
            hours = corrections.hours_of(changes)
            if changes and not dry_run:
                mongo.ensure_collections(settings)
                _apply(database, kind, changes, corrections.Author(operator or getpass.getuser(), reason))
        except corrections.Impossible as error:
            raise CommandError(str(error)) from error
        gone = mongo.expired_hours(settings, where, hours[0], hours[-1] + 1) if hours else set()
    _said(kind, element_id, where, changes, hours, sorted(gone & {*hours}), dry_run, as_json)


def _apply(database: Any, kind: Kind, changes: Sequence[Change], author: Any) -> None:
    from rich.progress import Progress

    from kafka_consumers import corrections

    many = len(changes) > corrections.AT_ONCE
    with Progress(console=err, disable=not many, transient=True) as bar:
        task = bar.add_task(f"{kind[:-2]}ing", total=len(changes))
        corrections.apply(database, kind, changes, author, lambda done: bar.update(task, completed=done))


def _said(
    kind: Kind,
    element_id: str,
    topic: str,
    changes: Sequence[Change],
    hours: Sequence[int],
    gone: Sequence[int],
    dry_run: bool,
    as_json: bool,
) -> None:
    named, kept_as_is = (
        [f"{datetime.fromtimestamp(hour / 1000, UTC):%Y-%m-%dT%H}" for hour in of] for of in (hours, gone)
    )
    if as_json:
        listed = [
            {"time": _time(change.stored["timestamp"]), "before": change.before, "after": change.after}
            for change in changes
        ]
        what = {"change": kind, "element_id": element_id, "topic": topic, "dry_run": dry_run}
        print_json({**what, "readings": listed, "hours": named, "hours_not_computed_again": kept_as_is})
        return
    if not changes:
        _print(f"= {element_id}: nothing to do, it is so already")
        return
    for change in changes[:_LISTED]:
        _print(f"  {_time(change.stored['timestamp'])}  {_values(change.before)} → {_values(change.after)}")
    if len(changes) > _LISTED:
        out.print(f"  … and {len(changes) - _LISTED} more")
    done = f"= {len(changes)} readings of {topic} {element_id} would be {kind}"
    if not dry_run:
        done = f"✓ {len(changes)} readings of {topic} {element_id} {kind}"
    _print(
        f"{done}; the next pass of 'selfgen batch watch' computes {len(hours)} hours from {named[0]} to {named[-1]} "
        "UTC again, and what depends on them"
    )
    if gone:
        _print(f"! {len(gone)} of these hours stay as they are: their raw readings are not all kept any more")


def _print(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _range_ms(at: str | None, start: str | None, end: str | None) -> tuple[int, int]:
    if at and not (start or end):
        return _moment_ms(at), _moment_ms(at) + 1
    if start and end and not at:
        first, last = _moment_ms(start), _moment_ms(end)
        if first < last:
            return first, last
    raise CommandError("give --at, or --from and a later --to")


def _moment_ms(text: str) -> int:
    try:
        return round(utc_time(text).timestamp() * 1000)
    except typer.BadParameter as error:
        raise CommandError(str(error)) from None


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _values(message: dict[str, Any] | None) -> str:
    """Return the measured values of a message in a line."""
    if message is None:
        return "deleted"
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in message.items()
        if name != "timestamp" and not name.endswith("_id")
    )


def register(app: typer.Typer) -> None:
    """Add `selfgen raw`."""
    app.add_typer(raw, name="raw")
