"""Command: the demonstration."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from selfgen.cli.console import err, fail, out


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack and the live feed running")] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write the report; default: build/demo.json")] = None,
    days: Annotated[int, typer.Option(min=1, max=28, help="Days of measurements to replay")] = 3,
) -> None:
    """Take real measurements through every process, on real servers, and check the answers.

    Exit code 0 only if everything that was produced is accounted for and the energy is right.
    """
    from selfgen.demo import run as stages
    from selfgen.demo import summary
    from selfgen.settings import get_settings
    from stack.errors import StackError

    settings = get_settings()
    begun = time.monotonic()

    def stage_seen(name: str, seconds: float | None) -> None:
        elapsed = f"[dim]{time.monotonic() - begun:5.0f} s[/]"
        out.print(f"{elapsed}  [bold]{name}[/]" if seconds is None else f"{elapsed}  [green]✓[/] {name}, {seconds} s")

    def say(text: str) -> None:
        out.print(f"[dim]{time.monotonic() - begun:5.0f} s    {text}[/]", highlight=False, soft_wrap=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    demonstration = stages.Demo(settings, days, say, stage_seen)
    try:
        result = stages.run(demonstration, keep)
    except (StackError, stages.DemoError, stages.NotYet) as error:
        details = getattr(error, "details", "")
        if details:
            err.print(details, style="dim", highlight=False, markup=False)
        fail(f"{error}")
    except KeyboardInterrupt:
        fail("stopped; the stack is down", 130)
    except Exception as error:  # a server's client has errors of its own; a newcomer needs the sentence
        fail(f"{type(error).__name__}: {str(error)[:600]}; servers' logs: {settings.stack_dir / 'logs'}")
    result["seconds"] = round(time.monotonic() - begun, 1)
    path = report or settings.build_dir / "demo.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, default=str) + "\n")
    summary.show(out, result, demonstration.figures, result["seconds"])
    out.print(f"report: {path}", highlight=False)
    raise typer.Exit(0 if result["ok"] else 1)


def register(app: typer.Typer) -> None:
    """Add `selfgen demo`."""
    app.command()(demo)
