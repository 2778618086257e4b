"""Commands for the Flink jobs: wind in near real time, panels and light sensors by the hour."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfgen.cli.console import CommandError, err, fail, out, print_json, reported

if TYPE_CHECKING:
    from selfgen.settings import Settings

wind = typer.Typer(help="Wind: one-second windows and alarms.", no_args_is_help=True)
panels = typer.Typer(help="Panels: energy by the hour.", no_args_is_help=True)
light = typer.Typer(help="Light sensors: irradiation by the hour.", no_args_is_help=True)

Hour = Annotated[str | None, typer.Option(help="The UTC hour to run for, such as 2026-11-22T07")]
From = Annotated[str | None, typer.Option("--from", help="First UTC hour of a range")]
To = Annotated[str | None, typer.Option("--to", help="UTC hour after the last of a range")]
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


def _run(rich: str, write: str, hour: str | None, start: str | None, end: str | None, json: bool) -> None:
    import importlib

    from selfgen.settings import get_settings

    with reported():
        first, last = _range(hour, start, end)
        settings = get_settings()
        say: Callable[[str], object] = err.print if json else out.print
        say(f"{rich}: {first:%Y-%m-%dT%H} to {last:%Y-%m-%dT%H} UTC")
        try:
            importlib.import_module(f"flink_jobs.{rich}").run(settings, [(first, last)])
            say(f"{write}: into Druid")
            written: dict[str, int] = importlib.import_module(f"flink_jobs.{write}").run(settings, first, last)
        except Exception as error:
            raise CommandError(flink_reason(settings, error)) from error
    if json:
        print_json({"from": first, "to": last, "rows": written})
    else:
        for datasource, rows in written.items():
            out.print(f"  {datasource}: {rows} rows")


def flink_reason(settings: Settings, error: Exception) -> str:
    """Return the line that says what happened; a Flink error is a page of Java, with a page of Python in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Unavailable): ", line)]
    java = [line for line in lines if line.startswith("Caused by:")]
    told = (python or java or lines or [repr(error)])[-1]
    return f"{told} (more: selfgen stack logs taskmanager, http://{settings.flink})"


@panels.command("run")
def run_panels(hour: Hour = None, start: From = None, end: To = None, json: Json = False) -> None:
    """Compute panel_report and panel_alarm for an hour or a range, and replace them in Druid."""
    _run("rich_panel", "write_panel", hour, start, end, json)


@light.command("run")
def run_light(hour: Hour = None, start: From = None, end: To = None, json: Json = False) -> None:
    """Compute sensor_report and sensor_alarm for an hour or a range, and replace them in Druid."""
    _run("rich_sensor_light", "write_sensor_light", hour, start, end, json)


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
