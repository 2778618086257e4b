"""Commands for the Flink jobs: wind in near real time, panels and light sensors by the hour."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfgen.cli.console import CommandError, err, fail, out, print_json, reported, servers
from selfgen.cli.explained import show
from selfgen.registry import RegistryError

if TYPE_CHECKING:
    from selfgen.settings import Settings

wind = typer.Typer(help="Wind: one-second windows and alarms.", no_args_is_help=True)
panels = typer.Typer(help="Panels: energy by the hour.", no_args_is_help=True)
light = typer.Typer(help="Light sensors: irradiation by the hour.", no_args_is_help=True)

Hour = Annotated[str | None, typer.Option(help="The UTC hour to run for, such as 2026-11-22T07")]
From = Annotated[str | None, typer.Option("--from", help="First UTC hour of a range")]
To = Annotated[str | None, typer.Option("--to", help="UTC hour after the last of a range")]
Again = Annotated[bool, typer.Option(help="Do all parts, also those that a stopped run of this range has done")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for scripts")]


def _range(hour: str | None, start: str | None, end: str | None) -> tuple[datetime, datetime]:
    from selfgen.calendar import parse_hour

    try:
        if hour and not (start or end):
            return parse_hour(hour), parse_hour(hour) + timedelta(hours=1)
        if start and end and not hour:
            first, last = parse_hour(start), parse_hour(end)
            if first < last:
                return first, last
    except ValueError as error:
        raise CommandError(f"{error}; write an hour as 2026-11-22T07") from error
    raise CommandError("give --hour, or --from and a later --to")


def _run(kind: str, hour: str | None, start: str | None, end: str | None, again: bool, json: bool) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from selfgen.settings import get_settings

    with reported():
        first, last = _range(hour, start, end)
        settings = get_settings()
        from flink_jobs import backfill, runner

        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def progress(done: int, steps: int, text: str) -> None:
                bar.update(task, completed=done, total=steps, description=text)
                if not err.is_terminal and done < steps:
                    err.print(text, highlight=False)

            try:
                done = backfill.run(settings, kind, runner.SUBJECTS[kind], first, last, again=again, progress=progress)
            except Exception as error:
                raise CommandError(flink_reason(settings, error)) from error
    if json:
        print_json({"from": first, "to": last, **done})
        return
    if done["resumed"]:
        out.print(f"  {done['resumed']} of {done['parts']} parts were done by a run that was stopped before")
    for datasource, rows in done["rows"].items():
        out.print(f"  {datasource}: {rows} rows")


def flink_reason(settings: Settings, error: Exception) -> str:
    """Return the line that says what happened; a Flink error is a page of Java, with a page of Python in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Unavailable): ", line)]
    java = [line for line in lines if line.startswith("Caused by:")]
    told = (python or java or lines or [repr(error)])[-1]
    return f"{told} (more: selfgen stack logs taskmanager, http://{settings.flink})"


@panels.command("run")
def run_panels(hour: Hour = None, start: From = None, end: To = None, again: Again = False, json: Json = False) -> None:
    """Compute panel_report and panel_alarm for an hour or a range, and replace them in Druid.

    A range is done in parts of 31 days; stopped or killed, the same command goes on with the part at hand.
    """
    _run("panel", hour, start, end, again, json)


@panels.command("explain")
def explain_panel(
    panel_id: Annotated[str, typer.Argument(metavar="PANEL", help="The panel.")],
    hour: Annotated[str, typer.Argument(help="The UTC hour in which the slot starts, such as 2026-11-22T07")],
    json: Json = False,
) -> None:
    """Show how a panel's figures of an hour came about: samples, gaps, meter, what they are compared with and added to.

    They are computed from the readings once more, and compared with what the lake and Druid have.
    """
    from flink_jobs.explanation import explain_hour
    from selfgen.calendar import parse_hour
    from selfgen.clients.druid import DruidError
    from selfgen.settings import get_settings

    with servers():
        try:
            moment = parse_hour(hour)
        except ValueError as error:
            raise CommandError(f"{error}; write an hour as 2026-11-22T07") from error
        try:
            with err.status("reading the lake"):
                told = explain_hour(get_settings(), panel_id, moment)
        except (DruidError, RegistryError) as error:
            raise CommandError(str(error)) from error
        if not told:
            raise CommandError(f"{panel_id} has neither readings nor a report in {moment:%Y-%m-%dT%H} UTC")
    if json:
        print_json(told)
        return
    for slot in told:
        show(slot, out)


@light.command("run")
def run_light(hour: Hour = None, start: From = None, end: To = None, again: Again = False, json: Json = False) -> None:
    """Compute sensor_report and sensor_alarm for an hour or a range, and replace them in Druid.

    A range is done in parts of 31 days; stopped or killed, the same command goes on with the part at hand.
    """
    _run("light", hour, start, end, again, json)


@wind.command("run")
def run_wind() -> None:
    """Run both wind jobs on the cluster, under the stack's supervisor; they go on from their last checkpoints."""
    _programs(True)


@wind.command("stop")
def stop_wind() -> None:
    """Stop both wind jobs; `selfgen wind run` goes on where they stopped."""
    _programs(False)


def _programs(start: bool) -> None:
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.errors import StackError
    from stack.programs import WIND

    names = [program.name for program in WIND]
    change: Any = lifecycle.up if start else lifecycle.down
    with reported():
        try:
            change(get_settings(), names, lambda name, text: out.print(f"  {name:18} {text}", highlight=False))
        except StackError as error:
            fail(str(error))


def register(app: typer.Typer) -> None:
    """Add `selfgen wind`, `selfgen panels`, `selfgen light`."""
    app.add_typer(wind, name="wind")
    app.add_typer(panels, name="panels")
    app.add_typer(light, name="light")
