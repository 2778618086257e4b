"""`selfgen batch`: the hourly jobs by themselves, hour after hour, and again where the past changed."""

from __future__ import annotations

import json as jsonlib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from selfgen.cli.console import CommandError, err, fail, out, reported
from selfgen.cli.jobs import flink_reason

if TYPE_CHECKING:
    from threading import Event

    from selfgen.settings import Settings

batch = typer.Typer(help="The hours of panels, light sensors and wind, computed by themselves.", no_args_is_help=True)


class Kind(StrEnum):
    """What to compute."""

    ALL = "all"
    LIGHT = "light"  # before panels, which are judged by it
    PANEL = "panel"
    WIND = "wind"


@batch.command("watch")
def watch(
    kind: Annotated[Kind, typer.Argument(help="What to compute.")] = Kind.ALL,
    once: Annotated[bool, typer.Option(help="Do what is to be done now, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each pass, for scripts.")] = False,
) -> None:
    """Compute each hour soon after it ended, and again what changed, with all that depends on it.

    Of wind, late readings come into their hours, and old ones are kept by the minute, then by the hour.

    After having been down it catches up. Several may run: one works on a kind at a time. SIGTERM or Ctrl-C ends it
    after the job at hand; nothing is lost by killing it.
    """
    from selfgen.schedule import repeat
    from selfgen.settings import get_settings
    from selfgen.stopping import stop_event

    settings = get_settings()
    stop = stop_event()
    kinds = [one.value for one in Kind if one is not Kind.ALL and kind in (one, Kind.ALL)]
    with reported():
        if not once:
            repeat(lambda: _pass(settings, kinds, stop, json), settings.batch_poll_s, stop)
            return
        failed = _pass(settings, kinds, stop, json)
        if stop.is_set():
            fail("stopped; the next run does what is left", 143)
        if failed:
            fail(f"not done: {', '.join(failed)}; the next run does it")


def _pass(settings: Settings, kinds: list[str], stop: Event, json: bool) -> list[str]:
    """Do all that is to be done now; return the kinds of which it was not done."""
    return [kind for kind in kinds if not _catch_up(settings, kind, stop, json)]


def _catch_up(settings: Settings, kind: str, stop: Event, json: bool) -> bool:
    """Do all that is to be done now for a kind; tell whether it was done."""
    from flink_jobs import day_sums, runner, wind_history

    say: Any = err.print if json else out.print

    def told(text: str) -> None:
        say(text, highlight=False, markup=False)

    while True:
        try:
            if kind == Kind.WIND:
                done = wind_history.run_pass(settings, stop, told)
            else:
                done = runner.run_pass(settings, kind, stop, told)
                if done is None:
                    day_sums.make(settings, kind, stop, told)
        except runner.Stopped:
            return True
        except (CommandError, KeyboardInterrupt):
            raise
        except Exception as error:
            # whatever is away comes back, or an operator reads this; the marks stay
            reason = escape(flink_reason(settings, error))
            err.print(f"[bold red]error:[/] {kind}: {reason}", highlight=False, soft_wrap=True)
            return False
        if done is None:
            return True
        if json:
            typer.echo(jsonlib.dumps(done, default=str))
        else:
            rows = ", ".join(f"{name} {count}" for name, count in done["rows"].items())
            out.print(
                f"{kind}: done to {done['computed_to']:%Y-%m-%dT%H} UTC in {done['seconds']} s: {rows} rows",
                highlight=False,
            )


def register(app: typer.Typer) -> None:
    """Add `selfgen batch`."""
    app.add_typer(batch, name="batch")
