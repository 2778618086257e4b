"""Commands for the Flink jobs: wind in near real time, panels and light sensors by the hour."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import requests
import typer

from selfgen.cli.console import CommandError, err, fail, out, print_json, reported, servers
from selfgen.cli.explained import show
from selfgen.registry import RegistryError

if TYPE_CHECKING:
    from selfgen.settings import Settings

wind = typer.Typer(help="Wind: one-second windows and alarms.", no_args_is_help=True)
panels = typer.Typer(help="Panels: energy by the hour.", no_args_is_help=True)
light = typer.Typer(help="Light sensors: irradiation by the hour, and where to point panels.", no_args_is_help=True)

Hour = Annotated[str | None, typer.Option(help="The UTC hour to run for, such as 2026-11-22T07")]
From = Annotated[str | None, typer.Option("--from", help="First UTC hour of a range")]
To = Annotated[str | None, typer.Option("--to", help="UTC hour after the last of a range")]
Again = Annotated[bool, typer.Option(help="Do all parts, also those that a stopped run of this range has done")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for scripts")]


def hours_of(hour: str | None, start: str | None, end: str | None) -> tuple[datetime, datetime]:
    """Return the range that a command was given, an hour or the hours from one to another."""
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
        first, last = hours_of(hour, start, end)
        over = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        if last > over:  # silence would be told of hours that are to come
            wanted = f"{last:%Y-%m-%dT%H}"
            raise CommandError(f"the hours to {wanted} UTC are not over yet: give --to {over:%Y-%m-%dT%H} at most")
        settings = get_settings()
        from flink_jobs import backfill

        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def progress(done: int, steps: int, text: str) -> None:
                bar.update(task, completed=done, total=steps, description=text)
                if not err.is_terminal and done < steps:
                    err.print(text, highlight=False, markup=False)

            try:
                done = backfill.run_and_unmark(settings, kind, first, last, again=again, progress=progress)
            except Exception as error:
                raise CommandError(flink_reason(settings, error)) from error
        _print_done(first, last, done, json)
        add_up_days(settings, kind)


def add_up_days(settings: Settings, kind: str) -> int:
    """Have Druid make the sums of all noted days of a kind of element, and show which; return the rows added up."""
    from flink_jobs import day_sums
    from selfgen.clients.druid import DruidError

    with err.status("") as shown:

        def say(text: str) -> None:
            shown.update(text)
            if not err.is_terminal:
                err.print(text, highlight=False, markup=False)

        try:
            return day_sums.make(settings, kind, say=say)
        except DruidError as error:
            raise CommandError(f"sums of days are left to 'selfgen batch watch': {error}") from error


def _print_done(first: datetime, last: datetime, done: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"from": first, "to": last, **done})
        return
    if done["resumed"]:
        out.print(f"  {done['resumed']} of {done['parts']} parts were done by a run that was stopped before")
    for datasource, rows in done["rows"].items():
        out.print(f"  {datasource}: {rows} rows")
    if done["mended"]:
        out.print(f"  of other hours that depend on what changed, {done['mended']} were replaced too")


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

    Hours after it that depend on what changed (differences, running sums, alarms) are replaced too. A range is done in
    parts of 31 days; stopped or killed, the same command goes on with the part at hand.
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
    _explain("panel", panel_id, hour, json)


def _explain(kind: str, element_id: str, hour: str, json: bool) -> None:
    from flink_jobs import slots
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
                told = explain_hour(get_settings(), element_id, moment, slots.LIGHT if kind == "light" else slots.PANEL)
        except (DruidError, RegistryError) as error:
            raise CommandError(str(error)) from error
        if not told:
            raise CommandError(f"{element_id} has neither readings nor a report in {moment:%Y-%m-%dT%H} UTC")
    if json:
        print_json(told)
        return
    for slot in told:
        show(slot, out)


@light.command("run")
def run_light(hour: Hour = None, start: From = None, end: To = None, again: Again = False, json: Json = False) -> None:
    """Compute sensor_report, sensor_alarm and light_surface for an hour or a range, and replace them in Druid.

    Hours after it that depend on what changed (best orientation, alarms) are replaced too. A range is done in
    parts of 31 days; stopped or killed, the same command goes on with the part at hand.
    """
    _run("light", hour, start, end, again, json)


@light.command("explain")
def explain_light(
    light_id: Annotated[str, typer.Argument(metavar="SENSOR", help="The light sensor.")],
    hour: Annotated[str, typer.Argument(help="The UTC hour in which the slot starts, such as 2026-11-22T07")],
    json: Json = False,
) -> None:
    """Show how a light sensor's figures of an hour came about: samples, gaps, and the best orientation to that day.

    They are computed from the readings and the lake once more, and compared with what Druid has.
    """
    _explain("light", light_id, hour, json)


@light.command("advise")
def advise_light(
    light_id: Annotated[str, typer.Argument(metavar="SENSOR", help="The light sensor.")],
    roof_tilt: Annotated[str | None, typer.Option(help="The roof's tilt, °: 30, or a range, 20-35")] = None,
    roof_azimuth: Annotated[
        str | None, typer.Option(help="Its azimuth, ° clockwise from north (180 = south): 180, or a range, 150-210")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write the map of all planes' energy into this file")] = None,
    json: Json = False,
) -> None:
    """Say where to point panels at a light sensor's place, and what a year gives there, by what it measured so far."""
    from flink_jobs.advice import advice_of
    from selfgen.advice import roof
    from selfgen.cli.advised import picture
    from selfgen.cli.advised import show as show_advice
    from selfgen.settings import get_settings

    with reported():
        try:
            with err.status("reading what was measured"):
                found = advice_of(get_settings(), light_id, roof(roof_tilt, roof_azimuth))
            if png:
                picture(found.surface, found.told, png)
        except (ValueError, RegistryError, OSError) as error:
            raise CommandError(str(error)) from error
    if json:
        print_json(found.told)
    else:
        show_advice(found.told, found.surface, out)


Cluster = Annotated[bool, typer.Option("--cluster", help="On the stack's Flink cluster, under its supervisor")]


@wind.command("run")
def run_wind(cluster: Cluster = False) -> None:
    """Run both wind jobs, here until Ctrl-C, or on the cluster and return; they go on where they stopped."""
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.programs import WIND

    settings = get_settings()
    with _stack_errors():
        if cluster:
            lifecycle.up(settings, [program.name for program in WIND], _say)
        else:
            _run_here(settings)


def _run_here(settings: Settings) -> None:
    """Run the keepers of both jobs, each with a cluster of its own, until Ctrl-C or SIGTERM, or until one ends."""
    from flink_jobs.keeper import jobs, local
    from selfgen.stopping import stop_event
    from stack import lifecycle
    from stack.programs import WIND_JOBS
    from stack.servers import JOBMANAGER

    for job in WIND_JOBS:
        if _on_cluster(settings, job.name):
            raise CommandError(f"{job.name} runs on the cluster: selfgen wind stop first")
    lifecycle.prepare(settings, JOBMANAGER)  # the clients' configuration
    stop = stop_event()
    keepers = {
        job.name: subprocess.Popen(
            [sys.executable, "-m", f"flink_jobs.{job.name}", "--local"],
            env=settings.environment(),
            start_new_session=True,
        )
        for job in WIND_JOBS
    }
    said: set[str] = set()
    while not stop.wait(0.5) and all(keeper.poll() is None for keeper in keepers.values()):
        for name in keepers.keys() - said:
            where = local(settings, name)
            with suppress(requests.RequestException):
                if any(job["state"] == "RUNNING" for job in jobs(where, name)):
                    said.add(name)
                    _say(name, f"runs, its page: http://{where.flink}; Ctrl-C stops it with a savepoint")
    for keeper in keepers.values():
        keeper.terminate()
    for name, keeper in keepers.items():
        code = keeper.wait()
        _say(name, "stopped" if code == 0 else f"ended with code {code}")
    if not stop.is_set():
        raise CommandError("a job's keeper ended by itself; what it said stands above")


def _on_cluster(settings: Settings, name: str) -> bool:
    from flink_jobs.keeper import jobs

    try:
        return bool(jobs(settings, name))
    except requests.RequestException:
        return False


@wind.command("stop")
def stop_wind() -> None:
    """Stop both wind jobs on the cluster, with savepoints; `selfgen wind run --cluster` goes on from them."""
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.programs import WIND

    with _stack_errors():
        lifecycle.down(get_settings(), [program.name for program in WIND], _say)


@wind.command("upgrade")
def upgrade_wind(json: Json = False) -> None:
    """Stop both wind jobs with savepoints, and start them again, as they are now, from these."""
    from flink_jobs.keeper import last_checkpoint
    from flink_jobs.status import job_status
    from selfgen.settings import get_settings
    from stack import lifecycle
    from stack.programs import WIND, WIND_JOBS

    settings = get_settings()
    names = [program.name for program in WIND]
    say: Callable[[str, str], None] = (lambda _name, _text: None) if json else _say
    with _stack_errors():
        if missing := [job.name for job in WIND_JOBS if not _on_cluster(settings, job.name)]:
            raise CommandError(f"not on the cluster: {', '.join(missing)}; selfgen wind run --cluster starts them")
        lifecycle.down(settings, names, say)
        saved = {job.name: str(last_checkpoint(settings, job.name)) for job in WIND_JOBS}
        lifecycle.up(settings, names, say)
        done = [job_status(settings, job.name) for job in WIND_JOBS]
        for one in done:
            if str(one.get("restored_from")).removeprefix("file:").replace("//", "/") != saved[one["job"]]:
                raise CommandError(f"{one['job']} did not go on from {saved[one['job']]}, but {one}")
    if json:
        print_json(done)
    else:
        for one in done:
            _say(one["job"], f"goes on from {saved[one['job']]}")


@wind.command("status")
def status_wind(json: Json = False) -> None:
    """Show how both wind jobs are; exit code 3 unless both run."""
    from flink_jobs.status import job_status
    from selfgen.settings import get_settings
    from stack.programs import WIND_JOBS

    found = [job_status(get_settings(), job.name) for job in WIND_JOBS]
    if json:
        print_json({"jobs": found})
    else:
        for one in found:
            for line in _lines(one):
                out.print(line, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if all(one["state"] == "RUNNING" for one in found) else 3)


def _lines(one: dict[str, Any]) -> Iterator[str]:
    colour = {"RUNNING": "green", "MISSING": "red"}.get(one["state"], "yellow")
    state = f"{one['job']:18} [{colour}]{one['state']}[/]"
    if one["state"] == "MISSING":
        yield f"{state}: selfgen wind run starts it"
        return
    restarts = "" if one["restarts"] is None else f", restarted {one['restarts']} times"
    yield f"{state} since {one['since']}{restarts}"
    if one["checkpoint_age_s"] is None:
        yield "  no checkpoint yet"
    else:
        yield (
            f"  last checkpoint {one['checkpoint_age_s']:.0f} s ago: {one['checkpoint_s']:.2f} s, "
            f"{one['checkpoint_bytes']:,} bytes; {one['checkpoints_failed']} failed"
        )
    for key in ("read", "written"):
        yield f"  {key}: {', '.join(f'{topic} {count:,}' for topic, count in one[key].items()) or 'not told yet'}"
    yield f"  {one['page']}"


def _say(name: str, text: str) -> None:
    out.print(f"  {name:18} {text}", highlight=False, soft_wrap=True)


@contextmanager
def _stack_errors() -> Iterator[None]:
    from stack.errors import StackError

    with reported():
        try:
            yield
        except StackError as error:
            fail(str(error))


def register(app: typer.Typer) -> None:
    """Add `selfgen wind`, `selfgen panels`, `selfgen light`."""
    app.add_typer(wind, name="wind")
    app.add_typer(panels, name="panels")
    app.add_typer(light, name="light")
